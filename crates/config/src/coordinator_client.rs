//! How brokers and tools reach coordinators: by TLS, with the names that Kafka has for ZooKeeper's client. A broker
//! that knows them as Kafka's controllers has the settings of their listener.

use ottla_tls::{TlsError, TlsSettings};

use crate::error::ConfigError;
use crate::listeners::controller_security;
use crate::properties::{Origin, Properties, Property};
use crate::security::listener_tls;

const ENABLE: &str = "zookeeper.ssl.client.enable";
const PROTOCOL: &str = "zookeeper.ssl.protocol";
const ACCEPTED: &str = "Kafka's zookeeper.ssl.* settings";
/// Checks of revoked certificates, which are not made: whoever asks for them must not believe otherwise.
const CHECKS: [&str; 2] = ["zookeeper.ssl.crl.enable", "zookeeper.ssl.ocsp.enable"];
/// The names behind `ssl.*`.
const NAMES: &[(&str, &str)] = &[
    ("ssl.cipher.suites", "zookeeper.ssl.cipher.suites"),
    ("ssl.enabled.protocols", "zookeeper.ssl.enabled.protocols"),
    ("ssl.endpoint.identification.algorithm", "zookeeper.ssl.endpoint.identification.algorithm"),
    ("ssl.keystore.location", "zookeeper.ssl.keystore.location"),
    ("ssl.keystore.password", "zookeeper.ssl.keystore.password"),
    ("ssl.keystore.type", "zookeeper.ssl.keystore.type"),
    ("ssl.truststore.location", "zookeeper.ssl.truststore.location"),
    ("ssl.truststore.password", "zookeeper.ssl.truststore.password"),
    ("ssl.truststore.type", "zookeeper.ssl.truststore.type"),
];

fn name_of(ssl: &str) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == ssl).map(|(_, name)| *name)
}

/// None where coordinators are reached in plaintext. `get` returns the text of a setting that is set.
///
/// # Errors
/// Names the setting of these whose value cannot be used, its value and why.
pub fn coordinator_tls<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<TlsSettings>, CoordinatorTlsError> {
    let filled = |name: &str| get(name).filter(|text| !text.is_empty());
    let is_on = |name: &'static str| match filled(name).unwrap_or("false").to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(CoordinatorTlsError { name, problem: "is neither true nor false".to_owned() }),
    };
    for name in CHECKS {
        if is_on(name)? {
            let problem = "revoked certificates are not looked for".to_owned();
            return Err(CoordinatorTlsError { name, problem });
        }
    }
    if !is_on(ENABLE)? {
        return Ok(None);
    }
    // As ZooKeeper: the type of a store that has none is that of its file's ending.
    let kind = |location: &str| filled(location).filter(|path| path.ends_with(".pem")).map(|_| "PEM");
    let settings = TlsSettings::read(|ssl| match (ssl, name_of(ssl).and_then(&get)) {
        (_, Some(text)) if !text.is_empty() || ssl == "ssl.endpoint.identification.algorithm" => Some(text),
        ("ssl.keystore.type", _) => kind("zookeeper.ssl.keystore.location"),
        ("ssl.truststore.type", _) => kind("zookeeper.ssl.truststore.location"),
        // `TLS` is Java's word for any version.
        ("ssl.enabled.protocols", _) => filled(PROTOCOL).filter(|version| *version != "TLS"),
        _ => None,
    });
    settings.map(Some).map_err(|error| match error {
        TlsError::Setting { name, problem } => CoordinatorTlsError { name: name_of(name).unwrap_or(ENABLE), problem },
        other => CoordinatorTlsError { name: ENABLE, problem: other.to_string() },
    })
}

/// A setting of the connections to coordinators that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct CoordinatorTlsError {
    pub name: &'static str,
    pub problem: String,
}

/// As [`coordinator_tls`], of a broker's properties. `knows_controllers`: it has the coordinators' addresses from
/// `controller.quorum.*`, and speaks what their listener does, unless it is told otherwise.
pub(crate) fn read(properties: &Properties, knows_controllers: bool) -> Result<Option<TlsSettings>, ConfigError> {
    if knows_controllers
        && properties.explicit(ENABLE).is_none()
        && let Some((listener, has_tls)) = controller_security(properties)?
    {
        return has_tls.then(|| listener_tls(properties, &listener)).transpose();
    }
    let tls = coordinator_tls(|name| properties.get(name).map(|property| property.value.as_str()));
    tls.map_err(|error| {
        let unset = Property { value: String::new(), origin: Origin::Default };
        ConfigError::invalid(error.name, properties.get(error.name).unwrap_or(&unset), error.problem, ACCEPTED)
    })
}

#[cfg(test)]
mod tests {
    use ottla_tls::settings::Source;

    use super::*;

    fn read(text: &str) -> Result<Option<TlsSettings>, CoordinatorTlsError> {
        let properties = crate::parse_properties(text);
        let get = |name: &str| properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        coordinator_tls(get)
    }

    #[test]
    fn kafkas_names_for_zookeepers_client_are_understood() {
        assert_eq!(read("zookeeper.ssl.keystore.location=/k.pem"), Ok(None));
        let settings = read(
            "zookeeper.ssl.client.enable=true\nzookeeper.clientCnxnSocket=org.apache.zookeeper.ClientCnxnSocketNetty\n\
             zookeeper.ssl.keystore.location=/k.pem\nzookeeper.ssl.truststore.location=/t.p12\n\
             zookeeper.ssl.truststore.password=x\nzookeeper.ssl.protocol=TLSv1.3\n\
             zookeeper.ssl.endpoint.identification.algorithm=\n",
        );
        let settings = settings.expect("usable").expect("TLS");
        assert_eq!(settings.key, Some(Source::PemFile("/k.pem".into())));
        assert!(matches!(settings.trust, Some(Source::Store { .. })));
        assert_eq!((settings.versions.len(), settings.verifies_host), (1, false));
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_own_name() {
        let of = |line: &str| read(&format!("zookeeper.ssl.client.enable=true\n{line}")).map(drop);
        for (line, name) in [
            ("zookeeper.ssl.keystore.type=BKS", "zookeeper.ssl.keystore.type"),
            ("zookeeper.ssl.enabled.protocols=SSLv3", "zookeeper.ssl.enabled.protocols"),
            ("zookeeper.ssl.ocsp.enable=true", "zookeeper.ssl.ocsp.enable"),
            ("zookeeper.ssl.crl.enable=perhaps", "zookeeper.ssl.crl.enable"),
        ] {
            assert_eq!(of(line).expect_err("refused").name, name);
        }
        assert_eq!(of("zookeeper.ssl.crl.enable=false"), Ok(()));
    }
}
