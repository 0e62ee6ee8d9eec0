//! `kafka-configs --zookeeper`: configurations of topics and brokers, credentials of users, quotas of users and
//! clients. Scripts create the first users this way, before any broker runs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ottla_client::{ConfigChange, ScramChange};
use ottla_metadata::controller::ConfigOp;
use ottla_metadata::nodes::config::DEFAULT_ENTITY;
use ottla_metadata::{ConfigEntity, ConfigKind};
use ottla_sasl::{ScramCredential, ScramHash};

use super::Quorum;
use crate::kafka_tools::options::Options;
use crate::kafka_tools::{ToolError, client_quotas, configs, exceptions, users};
use crate::{err, out};

const ENTITY_OPTIONS: [&str; 5] = ["client", "client-defaults", "ip", "ip-defaults", "user-defaults"];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Plan {
    DescribeAll(ConfigKind),
    Describe(ConfigEntity),
    Alter(ConfigEntity, Vec<(String, ConfigOp)>),
}

pub async fn run(options: &Options, arguments: &[String]) -> ExitCode {
    let done = match plan(options).and_then(|plan| Ok((plan, Quorum::of(options)?))) {
        Ok((plan, Some(quorum))) => execute(&quorum, plan).await,
        Ok((_, None)) => Ok(()),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(ToolError::Kafka(error)) => {
            err!("Error while executing config command with args '{}'", arguments.join(" "));
            err!("{}", exceptions::shown(&error));
            ExitCode::FAILURE
        }
        Err(error @ ToolError::Quorum(_)) => {
            err!("Error while executing config command with args '{}'", arguments.join(" "));
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        }
        Err(error) => {
            err!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let argument = |text: String| Err(ToolError::Argument(text));
    if options.has("alter") == options.has("describe") {
        return argument("Command must include exactly one action: --describe, --alter".to_owned());
    }
    if options.has("all") {
        return argument("--all needs --bootstrap-server: static configurations are the brokers'".to_owned());
    }
    let (kind, entity) = entity(options)?;
    if options.has("describe") {
        return Ok(entity.map_or(Plan::DescribeAll(kind), Plan::Describe));
    }
    let Some(entity) = entity else {
        return argument(format!(
            "--entity-name or --entity-default must be specified with --alter of {}",
            kind.as_str()
        ));
    };
    let changes = configs::changes(options)?.iter().map(|change| operation(kind, change)).collect::<Result<_, _>>()?;
    Ok(Plan::Alter(entity, changes))
}

/// The kind, and none for every entity of it.
fn entity(options: &Options) -> Result<(ConfigKind, Option<ConfigEntity>), ToolError> {
    let types = options.all("entity-type");
    let is_client = |of_type: &String| matches!(of_type.as_str(), "users" | "clients" | "ips");
    let are_clients = types.iter().any(is_client) || options.has("user");
    if !are_clients && !ENTITY_OPTIONS.iter().any(|name| options.has(name)) {
        let (kind, name) = configs::entity(options)?;
        let is_old = |kind: &ConfigKind| !matches!(kind, ConfigKind::Groups | ConfigKind::ClientMetrics);
        let known = ConfigKind::parse(kind.plural()).filter(is_old);
        let Some(kind) = known else {
            return Err(ToolError::Argument(format!("ZooKeeper has no configurations of {}", kind.plural())));
        };
        return Ok((kind, name.map(|name| named(kind, &name))));
    }
    let entities = client_quotas::entities(options)?;
    let kind = |plural: &str| {
        ConfigKind::parse(plural).ok_or_else(|| ToolError::Argument(format!("Invalid entity type {plural}")))
    };
    match entities.as_slice() {
        [(of_type, name)] => {
            let kind = kind(of_type.plural)?;
            Ok((kind, name.as_deref().map(|name| named(kind, name))))
        }
        [(first, Some(user)), (second, Some(client))] if (first.plural, second.plural) == ("users", "clients") => {
            let or_default = |name: &str| if name.is_empty() { DEFAULT_ENTITY.to_owned() } else { name.to_owned() };
            let entity = ConfigEntity::user_client(&or_default(user), &or_default(client));
            Ok((ConfigKind::UserClients, Some(entity)))
        }
        _ => Err(ToolError::Argument(
            "Name one entity, or a user and a client: --entity-type users --entity-name U --entity-type clients \
             --entity-name C"
                .to_owned(),
        )),
    }
}

/// The empty name is the default of all.
fn named(kind: ConfigKind, name: &str) -> ConfigEntity {
    let name = if name.is_empty() { DEFAULT_ENTITY } else { name };
    ConfigEntity { kind, name: name.to_owned() }
}

/// Passwords end here: the quorum gets the keys that are made from them.
fn operation(kind: ConfigKind, change: &ConfigChange) -> Result<(String, ConfigOp), ToolError> {
    let (name, value) = match change {
        ConfigChange::Set { name, value } => (name, Some(value)),
        ConfigChange::Delete { name } => (name, None),
    };
    let hash = ScramHash::from_name(name).filter(|_| kind == ConfigKind::Users);
    let (Some(value), Some(hash)) = (value, hash) else {
        return Ok((name.clone(), value.cloned().into()));
    };
    let changes = users::changes(std::slice::from_ref(change))?;
    let credential = changes.into_iter().find_map(|change| match change {
        ScramChange::Set { iterations, salt, salted_password, .. } => {
            Some(ScramCredential::of_salted_password(hash, &salted_password, salt, iterations))
        }
        ScramChange::Delete { .. } => None,
    });
    match credential {
        Some(credential) => Ok((name.clone(), ConfigOp::Set(credential.to_text()))),
        None => Err(ToolError::Argument(format!("{value} is no credential of {name}"))),
    }
}

async fn execute(quorum: &Quorum, plan: Plan) -> Result<(), ToolError> {
    match plan {
        Plan::DescribeAll(kind) => {
            for entity in quorum.entities(kind).await? {
                let entries = quorum.config(&entity).await?.unwrap_or_default();
                if !entries.is_empty() {
                    out!("{}", described(&entity, &entries));
                }
            }
            Ok(())
        }
        Plan::Describe(entity) => {
            out!("{}", described(&entity, &quorum.config(&entity).await?.unwrap_or_default()));
            Ok(())
        }
        Plan::Alter(entity, changes) => {
            let known = quorum.config(&entity).await?.unwrap_or_default();
            let missing: Vec<&str> = changes
                .iter()
                .filter(|(name, change)| *change == ConfigOp::Delete && !known.contains_key(name))
                .map(|(name, _)| name.as_str())
                .collect();
            if !missing.is_empty() {
                return Err(ToolError::Argument(format!("Invalid config(s): {}", missing.join(","))));
            }
            quorum.alter_config(entity.clone(), changes).await?;
            out!("Completed updating config for entity: {}.", shown(&entity));
            Ok(())
        }
    }
}

fn described(entity: &ConfigEntity, entries: &BTreeMap<String, String>) -> String {
    let entries: Vec<String> = entries.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("Configs for {} are {}", shown(entity), entries.join(","))
}

fn shown(entity: &ConfigEntity) -> String {
    let one = |kind: &str, name: &str| match name {
        DEFAULT_ENTITY => format!("default {kind}"),
        name => format!("{kind} '{name}'"),
    };
    match (entity.kind, entity.as_user_client()) {
        (_, Some((user, client))) => format!("{}, {}", one("user-principal", &user), one("client-id", &client)),
        (ConfigKind::Users, _) => one("user-principal", &entity.name),
        (ConfigKind::Clients, _) => one("client-id", &entity.name),
        (ConfigKind::Topics, _) => one("topic", &entity.name),
        (kind, _) => one(kind.as_str(), &entity.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(configs::SPECS, &format!("--zookeeper z:2181 {line}"), plan)
    }

    fn altered(text: &str) -> (ConfigEntity, Vec<(String, ConfigOp)>) {
        match line(text) {
            Ok(Plan::Alter(entity, changes)) => (entity, changes),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn entity(kind: ConfigKind, name: &str) -> ConfigEntity {
        ConfigEntity { kind, name: name.to_owned() }
    }

    #[test]
    fn a_password_becomes_keys() {
        let (of, changes) = altered(
            "--alter --entity-type users --entity-name test --add-config \
             SCRAM-SHA-256=[iterations=8192,password=secret],SCRAM-SHA-512=[password=secret]",
        );
        assert_eq!(of, entity(ConfigKind::Users, "test"));
        let [(first, ConfigOp::Set(keys)), (second, ConfigOp::Set(_))] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!((first.as_str(), second.as_str()), ("SCRAM-SHA-256", "SCRAM-SHA-512"));
        let credential = ScramCredential::from_text(ScramHash::Sha256, keys).expect("Kafka's text");
        assert_eq!(credential.iterations, 8192);
        assert!(!keys.contains("secret"));
        assert!(line("--alter --user test --add-config SCRAM-SHA-256=secret").is_err());
    }

    #[test]
    fn entities_are_named_as_in_the_tree() {
        let quota = "--alter --add-config producer_byte_rate=1024";
        let set = vec![("producer_byte_rate".to_owned(), ConfigOp::Set("1024".to_owned()))];
        for (text, expected) in [
            ("--entity-type users --entity-default", entity(ConfigKind::Users, "<default>")),
            ("--entity-type clients --entity-name a/b", entity(ConfigKind::Clients, "a/b")),
            (
                "--entity-type clients --entity-name c --entity-type users --entity-name u",
                ConfigEntity::user_client("u", "c"),
            ),
            ("--user u --client-defaults", ConfigEntity::user_client("u", "<default>")),
            ("--entity-type topics --entity-name t", ConfigEntity::topic("t")),
            ("--entity-type brokers --entity-default", ConfigEntity::default_broker()),
        ] {
            assert_eq!(altered(&format!("{quota} {text}")), (expected, set.clone()), "{text}");
        }
        assert_eq!(line("--describe --entity-type users"), Ok(Plan::DescribeAll(ConfigKind::Users)));
        assert_eq!(line("--describe --topic t"), Ok(Plan::Describe(ConfigEntity::topic("t"))));
        let removed = altered("--alter --entity-type topics --entity-name t --delete-config retention.ms --force");
        assert_eq!(removed.1, [("retention.ms".to_owned(), ConfigOp::Delete)]);
        for wrong in
            ["--describe --entity-type groups", "--alter --entity-type users --add-config a=1", "--describe --alter"]
        {
            assert!(line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_those_of_kafkas_tool() {
        let entries = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
        for (of, expected) in [
            (entity(ConfigKind::Users, "test"), "user-principal 'test'"),
            (ConfigEntity::user_client("u", "<default>"), "user-principal 'u', default client-id"),
            (ConfigEntity::topic("t"), "topic 't'"),
            (ConfigEntity::default_broker(), "default brokers"),
        ] {
            assert_eq!(described(&of, &entries), format!("Configs for {expected} are a=1,b=2"));
        }
    }
}
