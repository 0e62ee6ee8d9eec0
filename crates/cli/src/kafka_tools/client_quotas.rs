//! The part of `kafka-configs` that is about quotas: of users, clients, both, and addresses.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ottla_client::{ConfigChange, QuotaMatch, QuotaPart};

use super::options::Options;
use super::{ToolError, bootstrap, exceptions, users};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

/// Kafka's names of the quotas that users and clients may have, and of those of addresses.
const OF_CLIENTS: &[&str] =
    &["consumer_byte_rate", "controller_mutation_rate", "producer_byte_rate", "request_percentage"];
const OF_ADDRESSES: &[&str] = &["connection_creation_rate"];

/// A type of entity: its plural on the command line, its name in requests, and how it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Type {
    pub plural: &'static str,
    wire: &'static str,
    shown: &'static str,
}

const USERS: Type = Type { plural: "users", wire: "user", shown: "user-principal" };
const CLIENTS: Type = Type { plural: "clients", wire: "client-id", shown: "client-id" };
const IPS: Type = Type { plural: "ips", wire: "ip", shown: "ip" };

#[derive(Clone, PartialEq, Debug)]
struct Plan {
    bootstrap: String,
    /// Each with its name; the empty name is the default, none is every entity.
    entities: Vec<(Type, Option<String>)>,
    /// None: describe.
    changes: Option<Vec<(String, Option<f64>)>>,
}

/// Whether the line is about quotas: a user may have credentials as well, which have other names.
pub fn are_asked_for(options: &Options) -> bool {
    let named = |plural: &str| options.all("entity-type").iter().any(|of_type| of_type == plural);
    let others = ["client", "client-defaults", "ip", "ip-defaults", "user-defaults"];
    if others.iter().any(|name| options.has(name)) || named(CLIENTS.plural) || named(IPS.plural) {
        return true;
    }
    let lists = ["add-config", "delete-config"].iter().flat_map(|name| options.all(name));
    let names_quota = lists.into_iter().any(|list| OF_CLIENTS.iter().any(|quota| list.contains(quota)));
    (named(USERS.plural) || options.has("user")) && (options.has("describe") || names_quota)
}

pub async fn run(options: &Options, changes: Vec<ConfigChange>, arguments: &[String]) -> ExitCode {
    let done = match plan(options, changes) {
        Ok(plan) => execute(&plan).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(ToolError::Kafka(error)) => {
            let shown = exceptions::shown(&error);
            err!("Error while executing config command with args '{}'", arguments.join(" "));
            err!("java.util.concurrent.ExecutionException: {shown}\nCaused by: {shown}");
            ExitCode::FAILURE
        }
        Err(error) => {
            err!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(options: &Options, changes: Vec<ConfigChange>) -> Result<Plan, ToolError> {
    let argument = |text: String| Err(ToolError::Argument(text));
    let entities = entities(options)?;
    let types: Vec<Type> = entities.iter().map(|(of_type, _)| *of_type).collect();
    if types.contains(&IPS) && types.len() > 1 || types.windows(2).any(|pair| pair[0] == pair[1]) {
        let text = "Only one entity type may be specified, or --entity-type users with --entity-type clients";
        return argument(text.to_owned());
    }
    let bootstrap = bootstrap(options)?.to_owned();
    if options.has("describe") {
        return Ok(Plan { bootstrap, entities, changes: None });
    }
    if entities.iter().any(|(_, name)| name.is_none()) {
        return argument("An entity name or default entity must be specified with --alter of quotas".to_owned());
    }
    let allowed = if types.contains(&IPS) { OF_ADDRESSES } else { OF_CLIENTS };
    let mut quotas = Vec::new();
    for change in changes {
        let (name, value) = match change {
            ConfigChange::Set { name, value } => match value.parse::<f64>() {
                Ok(number) => (name, Some(number)),
                Err(_) => return argument(format!("Cannot parse quota configuration value for {name}: {value}")),
            },
            ConfigChange::Delete { name } => (name, None),
        };
        if !allowed.contains(&name.as_str()) {
            let (verb, plural) = (if value.is_some() { "added" } else { "deleted" }, types[0].plural);
            let kind = if types.contains(&IPS) { "connection quota" } else { "quota" };
            return argument(format!(
                "Only {kind} configs can be {verb} for '{plural}' using --bootstrap-server. Unexpected config names: {name}"
            ));
        }
        quotas.push((name, value));
    }
    Ok(Plan { bootstrap, entities, changes: Some(quotas) })
}

/// The entities that flags name, or types with their names in order.
pub fn entities(options: &Options) -> Result<Vec<(Type, Option<String>)>, ToolError> {
    let mut entities = Vec::new();
    for (of_type, flag, default) in
        [(USERS, "user", "user-defaults"), (CLIENTS, "client", "client-defaults"), (IPS, "ip", "ip-defaults")]
    {
        entities.extend(options.all(flag).iter().map(|name| (of_type, Some(name.clone()))));
        if options.has(default) {
            entities.push((of_type, Some(String::new())));
        }
    }
    if !entities.is_empty() {
        return Ok(entities);
    }
    // Names belong to the types in the order of the line; defaults are the types that are left.
    let mut names = options.all("entity-name").iter();
    for plural in options.all("entity-type") {
        let found = [USERS, CLIENTS, IPS].into_iter().find(|of_type| of_type.plural == plural);
        let Some(of_type) = found else {
            return Err(ToolError::Argument("Only users and clients can be named together".to_owned()));
        };
        let default = options.has("entity-default").then(String::new);
        entities.push((of_type, names.next().cloned().or(default)));
    }
    // As Kafka: users come first in the answer.
    entities.sort_by_key(|(of_type, _)| *of_type != USERS);
    Ok(entities)
}

/// That a name is an address, or the name of a host.
async fn check_address(name: &str) -> Result<(), ToolError> {
    let is_known = name.is_empty()
        || name.parse::<std::net::IpAddr>().is_ok()
        || tokio::net::lookup_host((name, 0)).await.is_ok_and(|mut found| found.next().is_some());
    match is_known {
        true => Ok(()),
        false => Err(ToolError::Argument(format!(
            "The entity name for ips must be a valid IP or resolvable host, but it is: {name}"
        ))),
    }
}

async fn execute(plan: &Plan) -> Result<(), ToolError> {
    for (_, name) in plan.entities.iter().filter(|(of_type, _)| *of_type == IPS) {
        check_address(name.as_deref().unwrap_or_default()).await?;
    }
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    let filter: Vec<(String, QuotaMatch)> = plan
        .entities
        .iter()
        .map(|(of_type, name)| {
            let matched = match name.as_deref() {
                None => QuotaMatch::Any,
                Some("") => QuotaMatch::Default,
                Some(name) => QuotaMatch::Exactly(name.to_owned()),
            };
            (of_type.wire.to_owned(), matched)
        })
        .collect();
    let described = kafka.client().describe_client_quotas(&filter).await.map_err(KafkaError::from)?;
    let Some(changes) = &plan.changes else {
        for quota in described {
            let entity = shown_entity(&quota.entity);
            let values: Vec<String> =
                quota.values.iter().map(|(name, value)| format!("{name}={}", java_double(*value))).collect();
            out!("Quota configs for {entity} are {}", values.join(", "));
        }
        // Users have credentials as well.
        return match plan.entities.as_slice() {
            [(USERS, name)] if name.as_deref() != Some("") => users::describe(&kafka, name.as_deref()).await,
            _ => Ok(()),
        };
    };
    let known = described.first().map(|quota| &quota.values);
    let missing: Vec<&str> = changes
        .iter()
        .filter(|(name, value)| value.is_none() && !known.is_some_and(|known| known.contains_key(name)))
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        return Err(ToolError::Argument(format!("Invalid config(s): {}", missing.join(","))));
    }
    let part = |(of_type, name): &(Type, Option<String>)| -> QuotaPart {
        (of_type.wire.to_owned(), name.clone().filter(|name| !name.is_empty()))
    };
    let entity: Vec<QuotaPart> = plan.entities.iter().map(part).collect();
    kafka.client().alter_client_quotas(&entity, changes).await.map_err(KafkaError::from)?;
    if let Some((of_type, name)) = plan.entities.first() {
        match name.as_deref().unwrap_or_default() {
            "" => out!("Completed updating default config for {} in the cluster.", of_type.plural),
            name => out!("Completed updating config for {} {name}.", of_type.plural.trim_end_matches('s')),
        }
    }
    Ok(())
}

fn shown_entity(entity: &BTreeMap<String, Option<String>>) -> String {
    let shown = |of_type: Type| match entity.get(of_type.wire) {
        None => None,
        Some(Some(name)) => Some(format!("{} '{name}'", of_type.shown)),
        Some(None) => Some(format!("the default {}", of_type.shown)),
    };
    [USERS, CLIENTS, IPS].into_iter().filter_map(shown).collect::<Vec<_>>().join(", ")
}

/// As Java writes a double.
fn java_double(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-3..1e7).contains(&magnitude) {
        let text = format!("{value:E}");
        return match text.split_once('E') {
            Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
            _ => text,
        };
    }
    if value.fract() == 0.0 { format!("{value:.1}") } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(super::super::configs::SPECS, &format!("--bootstrap-server k {line}"), |options| {
            assert!(are_asked_for(options), "{line}");
            let changes = if options.has("alter") { super::super::configs::changes(options)? } else { Vec::new() };
            plan(options, changes)
        })
    }

    fn named(plan: &Plan) -> Vec<(&str, Option<&str>)> {
        plan.entities.iter().map(|(of_type, name)| (of_type.plural, name.as_deref())).collect()
    }

    #[test]
    fn entities_are_named_in_kafkas_ways() {
        let entities = |text: &str| line(&format!("--describe {text}")).map(|plan| format!("{:?}", named(&plan)));
        let expect = |entities: &[(&str, Option<&str>)]| Ok(format!("{entities:?}"));
        assert_eq!(
            entities("--user alice --client app"),
            expect(&[("users", Some("alice")), ("clients", Some("app"))])
        );
        let both = "--entity-type clients --entity-name app --entity-type users --entity-name alice";
        assert_eq!(entities(both), expect(&[("users", Some("alice")), ("clients", Some("app"))]));
        let default = "--entity-type users --entity-name alice --entity-type clients --entity-default";
        assert_eq!(entities(default), expect(&[("users", Some("alice")), ("clients", Some(""))]));
        assert_eq!(entities("--user-defaults"), expect(&[("users", Some(""))]));
        assert_eq!(entities("--entity-type ips"), expect(&[("ips", None)]));
        assert!(entities("--ip 10.0.0.1 --user alice").is_err());
    }

    #[test]
    fn quotas_are_numbers_and_have_kafkas_names() {
        let changed = line("--alter --user alice --add-config producer_byte_rate=1024,request_percentage=12.5");
        let expected =
            vec![("producer_byte_rate".to_owned(), Some(1_024.0)), ("request_percentage".to_owned(), Some(12.5))];
        assert_eq!(changed.map(|plan| plan.changes), Ok(Some(expected)));
        let removed = line("--alter --client-defaults --delete-config consumer_byte_rate");
        assert_eq!(removed.map(|plan| plan.changes), Ok(Some(vec![("consumer_byte_rate".to_owned(), None)])));
        let wrong = |text: &str| line(text).expect_err("wrong");
        assert!(
            wrong("--alter --client app --add-config retention.ms=1").starts_with("Only quota configs can be added")
        );
        assert!(wrong("--alter --ip-defaults --add-config producer_byte_rate=1").contains("connection quota"));
        assert!(wrong("--alter --client app --add-config producer_byte_rate=many").starts_with("Cannot parse quota"));
        assert!(line("--alter --entity-type clients --add-config producer_byte_rate=1").is_err());
    }

    #[test]
    fn numbers_look_as_in_java() {
        for (value, shown) in
            [(1_024.0, "1024.0"), (12.5, "12.5"), (10_485_760.0, "1.048576E7"), (1e7, "1.0E7"), (0.0, "0.0")]
        {
            assert_eq!(java_double(value), shown);
        }
        let entity = BTreeMap::from([("client-id".to_owned(), None), ("user".to_owned(), Some("alice".to_owned()))]);
        assert_eq!(shown_entity(&entity), "user-principal 'alice', the default client-id");
    }
}
