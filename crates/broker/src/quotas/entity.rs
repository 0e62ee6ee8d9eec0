//! The entities of quotas as requests name them: a user, a client, both, or an address; each may be the default.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ottla_metadata::nodes::config::DEFAULT_ENTITY;
use ottla_metadata::{ConfigEntity, ConfigKind};

pub const USER: &str = "user";
pub const CLIENT_ID: &str = "client-id";
pub const IP: &str = "ip";

/// The parts of an entity: type and name; none is the default.
pub type Parts = BTreeMap<String, Option<String>>;

/// The configuration that holds the quotas of an entity, or what is wrong with the entity.
pub fn of_parts(parts: &[(&str, Option<&str>)]) -> Result<ConfigEntity, String> {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    for (of_type, name) in parts {
        if ![USER, CLIENT_ID, IP].contains(of_type) {
            return Err(format!("Unhandled client quota entity type: {of_type}"));
        }
        if name.is_some_and(str::is_empty) {
            return Err(format!("Empty {of_type} not supported"));
        }
        let name = name.unwrap_or(DEFAULT_ENTITY).to_owned();
        if known.insert(of_type, name).is_some() {
            return Err(format!("Duplicate {of_type} in the entity"));
        }
    }
    let entity = |kind, name| ConfigEntity { kind, name };
    match (known.remove(USER), known.remove(CLIENT_ID), known.remove(IP)) {
        (None, None, None) => Err("Invalid empty client quota entity".to_owned()),
        (Some(user), None, None) => Ok(entity(ConfigKind::Users, user)),
        (None, Some(client), None) => Ok(entity(ConfigKind::Clients, client)),
        (Some(user), Some(client), None) => Ok(ConfigEntity::user_client(&user, &client)),
        (None, None, Some(address)) => Ok(entity(ConfigKind::Ips, canonical(address)?)),
        (_, _, Some(_)) => Err("Invalid quota entity combination: ip with another type".to_owned()),
    }
}

fn canonical(address: String) -> Result<String, String> {
    if address == DEFAULT_ENTITY {
        return Ok(address);
    }
    match address.parse::<IpAddr>() {
        Ok(parsed) => Ok(parsed.to_canonical().to_string()),
        Err(_) => Err(format!("{address} is not a valid IP address.")),
    }
}

/// The parts of the entity of a configuration; none if it is of another kind.
pub fn parts(entity: &ConfigEntity) -> Option<Parts> {
    let name = |text: &str| (text != DEFAULT_ENTITY).then(|| text.to_owned());
    let parts: &[(&str, Option<String>)] = match entity.kind {
        ConfigKind::Users => &[(USER, name(&entity.name))],
        ConfigKind::Clients => &[(CLIENT_ID, name(&entity.name))],
        ConfigKind::Ips => &[(IP, name(&entity.name))],
        ConfigKind::UserClients => {
            let (user, client) = entity.as_user_client()?;
            &[(USER, name(&user)), (CLIENT_ID, name(&client))]
        }
        ConfigKind::Topics | ConfigKind::Brokers | ConfigKind::Groups | ConfigKind::ClientMetrics => return None,
    };
    Some(parts.iter().map(|(of_type, name)| ((*of_type).to_owned(), name.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_come_back_as_they_were_named() {
        for named in [
            vec![(USER, Some("alice"))],
            vec![(USER, None)],
            vec![(CLIENT_ID, Some("app/1"))],
            vec![(CLIENT_ID, None)],
            vec![(USER, Some("CN=a,O=b")), (CLIENT_ID, None)],
            vec![(USER, None), (CLIENT_ID, Some("x"))],
            vec![(IP, Some("10.0.0.1"))],
            vec![(IP, None)],
        ] {
            let entity = of_parts(&named).expect("valid");
            let expected: Parts =
                named.iter().map(|(of_type, name)| ((*of_type).to_owned(), name.map(str::to_owned))).collect();
            assert_eq!(parts(&entity), Some(expected));
        }
        assert_eq!(of_parts(&[(IP, Some("::ffff:10.0.0.1"))]).map(|one| one.name).as_deref(), Ok("10.0.0.1"));
        for wrong in [
            vec![],
            vec![("group", None)],
            vec![(USER, Some(""))],
            vec![(USER, None), (USER, None)],
            vec![(USER, None), (IP, None)],
            vec![(IP, Some("host"))],
        ] {
            assert!(of_parts(&wrong).is_err(), "{wrong:?}");
        }
    }
}
