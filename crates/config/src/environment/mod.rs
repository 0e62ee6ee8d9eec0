//! Environment variables as properties, by the rules of other images ([`tables`]).
//!
//! `KAFKA_FOO_BAR` is `foo.bar`: `___` is `-`, `__` is `_`, `_` is `.` (as in the code of apache/kafka and cp-kafka;
//! the latter's documents differ). `NAME_FILE` names a file that holds the value of `NAME`.

mod commands;
mod secrets;
mod tables;

pub use tables::{BROKER_FAMILIES, COORDINATOR_FAMILIES, Effect, Family, Row};

use std::path::Path;

use crate::error::ConfigError;
use crate::nearest::nearest;

/// The property that the rest of a variable's name (after its prefix) stands for.
///
/// ```
/// assert_eq!(ottla_config::property_name("LOG_RETENTION_MS"), "log.retention.ms");
/// assert_eq!(ottla_config::property_name("A__B___C"), "a_b-c");
/// ```
pub fn property_name(rest: &str) -> String {
    // Kafka's wrapper replaces in this order; the dots of the first step are what the next two see.
    rest.to_lowercase().replace('_', ".").replace("...", "-").replace("..", "_")
}

/// One property out of the environment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub property: String,
    pub value: String,
    pub variable: String,
}

/// What the environment says; later entries win.
#[derive(Default, Debug)]
pub(crate) struct Environment {
    pub entries: Vec<Entry>,
    pub warnings: Vec<String>,
}

/// How one binary reads its environment.
pub(crate) type ReadEnvironment = fn(&[(String, String)]) -> Result<Environment, ConfigError>;

/// A broker's properties out of the environment.
pub(crate) fn of_broker(variables: &[(String, String)]) -> Result<Environment, ConfigError> {
    let mut warnings = Vec::new();
    let variables = commands::resolve(with_files(&own(variables), &["KAFKA_"], BROKER_FAMILIES)?, &mut warnings)?;
    let mut environment = read(&variables, BROKER_FAMILIES)?;
    environment.warnings.extend(warnings);
    environment.entries.splice(0..0, secrets::entries(&variables, Path::new(secrets::DIRECTORY))?);
    environment.entries.splice(0..0, roles(&variables));
    separate_topics(&mut environment.entries, &variables);
    Ok(environment)
}

/// A coordinator's properties out of the environment.
pub(crate) fn of_coordinator(variables: &[(String, String)]) -> Result<Environment, ConfigError> {
    let prefixes = ["COORDINATOR_", "ZOOKEEPER_", "ZOO_"];
    let variables = with_files(&own(variables), &prefixes, COORDINATOR_FAMILIES)?;
    let mut environment = read(&variables, COORDINATOR_FAMILIES)?;
    let rows = || COORDINATOR_FAMILIES.iter().flat_map(|family| family.rows);
    for (name, _) in &variables {
        if !["ZOOKEEPER_", "ZOO_"].iter().any(|prefix| name.starts_with(prefix)) || rows().any(|row| row.fits(name)) {
            continue;
        }
        let hint = match nearest(name, rows().map(|row| row.variable)) {
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        };
        environment.warnings.push(format!("{name} is unknown and not used{hint}"));
    }
    Ok(environment)
}

fn read(variables: &[(String, String)], families: &[Family]) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    let spelled_out = |name: &str| families.iter().flat_map(|family| family.rows).any(|row| row.fits(name));
    // Longer prefixes are other families': KAFKA_CFG_X is not Kafka's `cfg.x`.
    let longest = |name: &str| {
        let prefixes = families.iter().flat_map(|family| family.prefixes);
        prefixes
            .filter(|prefix| name.len() > prefix.len() && name.starts_with(**prefix))
            .max_by_key(|p| p.len())
            .copied()
    };
    for family in families {
        for (name, value) in variables {
            let row = family.rows.iter().find(|row| row.fits(name));
            let property = match row.map(|row| row.effect) {
                Some(Effect::Property(property)) => property.to_owned(),
                Some(Effect::Warned(why)) if is_on(value) => {
                    environment.warnings.push(format!("{name} is not used: {why}"));
                    continue;
                }
                Some(Effect::Refused(what)) if is_on(value) => {
                    return Err(ConfigError::Variable {
                        variable: name.clone(),
                        problem: what.to_owned(),
                        accepted: "a start without it".to_owned(),
                    });
                }
                Some(_) => continue,
                None => match longest(name).filter(|prefix| family.prefixes.contains(prefix)) {
                    Some(prefix) if !spelled_out(name) => property_name(&name[prefix.len()..]),
                    _ => continue,
                },
            };
            environment.entries.push(Entry { property, value: value.clone(), variable: name.clone() });
        }
    }
    Ok(environment)
}

/// Those that are not Kubernetes': beside a service `kafka` every container has `KAFKA_PORT=tcp://10.0.0.1:9092`,
/// `KAFKA_SERVICE_HOST`, and the like.
fn own(variables: &[(String, String)]) -> Vec<(String, String)> {
    let is_link = |value: &str| value.starts_with("tcp://");
    let services: Vec<&str> = variables
        .iter()
        .filter(|(_, value)| is_link(value))
        .filter_map(|(name, _)| name.strip_suffix("_PORT"))
        .collect();
    let is_of_service = |name: &str| {
        services
            .iter()
            .filter_map(|service| name.strip_prefix(service))
            .any(|rest| rest == "_SERVICE_HOST" || rest.starts_with("_SERVICE_PORT") || rest.starts_with("_PORT_"))
    };
    variables.iter().filter(|(name, value)| !is_link(value) && !is_of_service(name)).cloned().collect()
}

/// What is switched off asks for nothing.
fn is_on(value: &str) -> bool {
    !matches!(value, "" | "no" | "false")
}

/// Whether variables say of a process what it is to be.
pub(crate) fn names_roles(variables: &[(String, String)]) -> bool {
    let is_of_roles = |name: &str| {
        let name = name.strip_suffix("_FILE").unwrap_or(name);
        ["KAFKA_PROCESS_ROLES", "KAFKA_CFG_PROCESS_ROLES", "NODE_ROLE"].contains(&name)
    };
    variables.iter().any(|(name, value)| is_of_roles(name) && !value.is_empty())
}

/// Those that are known to `families` and have no effect, with the reason.
pub fn unused_variables(variables: &[(String, String)], families: &[Family]) -> Vec<(String, &'static str)> {
    let why = |name: &str| {
        let effects = families.iter().filter_map(|family| family.rows.iter().find(|row| row.fits(name)));
        let reasons = effects.map(|row| match row.effect {
            Effect::Unused(why) | Effect::Warned(why) => Some(why),
            Effect::Property(_) | Effect::Acts(_) | Effect::Refused(_) => None,
        });
        // Another family may use it.
        reasons.reduce(Option::and).flatten()
    };
    let mut unused: Vec<_> = variables.iter().filter_map(|(name, _)| Some((name.clone(), why(name)?))).collect();
    unused.sort();
    unused
}

/// The variables, with those that name a file (`NAME_FILE`) replaced by what it holds.
fn with_files(
    variables: &[(String, String)],
    prefixes: &[&str],
    families: &[Family],
) -> Result<Vec<(String, String)>, ConfigError> {
    let is_row = |name: &str| families.iter().flat_map(|family| family.rows).any(|row| row.fits(name));
    variables
        .iter()
        .map(|(name, value)| {
            let meant = name.strip_suffix("_FILE").filter(|_| {
                prefixes.iter().any(|prefix| name.starts_with(prefix)) && !value.is_empty() && !is_row(name)
            });
            let Some(meant) = meant else { return Ok((name.clone(), value.clone())) };
            let text = std::fs::read_to_string(value).map_err(|error| ConfigError::Variable {
                variable: name.clone(),
                problem: format!("{value}: {error}"),
                accepted: format!("a readable file that holds the value of {meant}"),
            })?;
            Ok((meant.to_owned(), text.trim_end_matches(['\n', '\r']).to_owned()))
        })
        .collect()
}

/// wurstmeister's separator for KAFKA_CREATE_TOPICS, which may be a line break.
fn separate_topics(entries: &mut [Entry], variables: &[(String, String)]) {
    let separator = variables.iter().find(|(name, value)| name == "KAFKA_CREATE_TOPICS_SEPARATOR" && !value.is_empty());
    let Some((_, separator)) = separator else { return };
    let separator = separator.replace("$'\\n'", "\n").replace("\\n", "\n");
    for entry in entries.iter_mut().filter(|entry| entry.property == "create.topics") {
        entry.value = entry.value.replace(&separator, ",");
    }
}

/// debezium's `NODE_ROLE`, which has a word of its own for both roles.
fn roles(variables: &[(String, String)]) -> Option<Entry> {
    let (variable, value) = variables.iter().find(|(name, _)| name == "NODE_ROLE")?;
    let value = if value == "combined" { "broker,controller" } else { value };
    Some(Entry { property: "process.roles".to_owned(), value: value.to_owned(), variable: variable.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn flat(environment: &Environment) -> Vec<String> {
        environment.entries.iter().map(|entry| format!("{}={}", entry.property, entry.value)).collect()
    }

    #[test]
    fn variables_become_properties() {
        let environment = of_broker(&owned(&[
            ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://a:1"),
            ("KAFKA_HEAP_OPTS", "-Xmx1G"),
            ("KAFKA_CLUSTERS_0_NAME", "local"),
            ("KAFKA_CREATE_TOPICS_SEPARATOR", "\\n"),
            ("KAFKA_CREATE_TOPICS", "a:1:1\nb:2:1"),
            ("PATH", "/bin"),
            ("CLUSTER_ID", "x"),
            ("KAFKA_CFG_NODE_ID", "3"),
            ("KAFKA_CFG_", "nothing"),
            ("ZOOKEEPER_CONNECT", "z:2181"),
        ]))
        .expect("usable");
        assert_eq!(
            flat(&environment),
            [
                "zookeeper.connect=z:2181",
                "advertised.listeners=PLAINTEXT://a:1",
                "create.topics=a:1:1,b:2:1",
                "cluster.id=x",
                "cfg.=nothing",
                "node.id=3",
            ]
        );
    }

    #[test]
    fn zookeepers_variables_are_aliases_and_lose() {
        let environment = of_coordinator(&owned(&[
            ("COORDINATOR_CLIENT_PORT", "2182"),
            ("ZOOKEEPER_CLIENT_PORT", "2181"),
            ("ZOOKEEPER_MAX_CLIENT_CNXNS", "60"),
            ("ZOO_MY_ID", "2"),
            ("ZOOKEEPER_CLIENT_PROT", "1"),
        ]))
        .expect("usable");
        let expected = ["client.port=2181", "max.client.cnxns=60", "id=2", "client.port=2182"];
        assert_eq!(flat(&environment), expected);
        let warning = "ZOOKEEPER_CLIENT_PROT is unknown and not used; did you mean ZOOKEEPER_CLIENT_PORT?";
        assert_eq!(environment.warnings, [warning]);
    }

    #[test]
    fn a_file_holds_a_value() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("id");
        std::fs::write(&path, "7\n").expect("written");
        let path = path.display().to_string();
        let environment = of_broker(&owned(&[("KAFKA_BROKER_ID_FILE", &path)])).expect("usable");
        assert_eq!(flat(&environment), ["broker.id=7"]);
        let error = of_broker(&owned(&[("KAFKA_BROKER_ID_FILE", "/no/such")])).expect_err("no file").to_string();
        assert!(error.starts_with("KAFKA_BROKER_ID_FILE: /no/such: ") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn kubernetes_variables_of_services_are_no_settings() {
        let broker = of_broker(&owned(&[
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
            ("KAFKA_SERVICE_PORT_CLIENTS", "9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("KAFKA_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
            ("ADVERTISED_PORT", "tcp://10.0.0.2:1"),
            ("KAFKA_BROKER_ID", "1"),
        ]))
        .expect("usable");
        assert_eq!(flat(&broker), ["broker.id=1"]);
        let coordinator = of_coordinator(&owned(&[
            ("ZOO_PORT", "tcp://10.0.0.1:2181"),
            ("ZOOKEEPER_PORT", "tcp://10.0.0.1:2181"),
            ("ZOOKEEPER_SERVICE_HOST", "10.0.0.1"),
            ("ZOO_MY_ID", "1"),
        ]))
        .expect("usable");
        assert_eq!((flat(&coordinator), coordinator.warnings), (vec!["id=1".to_owned()], Vec::new()));
        // Without a link they are what somebody set.
        let set = of_broker(&owned(&[("KAFKA_PORT", "9092")])).expect("usable");
        assert_eq!(flat(&set), ["port=9092"]);
    }

    #[test]
    fn what_guards_is_refused_where_it_is_not_there() {
        assert!(of_coordinator(&owned(&[("ZOO_ENABLE_AUTH", "no")])).is_ok());
        for guard in ["ZOO_ENABLE_AUTH", "ZOO_TLS_CLIENT_ENABLE", "ZOO_TLS_QUORUM_ENABLE"] {
            let error = of_coordinator(&owned(&[(guard, "yes")])).expect_err("refused").to_string();
            assert!(error.starts_with(guard), "{error}");
        }
        let keys = [("ZOOKEEPER_SSL_QUORUM_KEYSTORE_LOCATION", "/k"), ("ZOO_TLS_CLIENT_ENABLE", "no")];
        let keys = of_coordinator(&owned(&keys)).expect("usable");
        let expected = "ZOOKEEPER_SSL_QUORUM_KEYSTORE_LOCATION is not used: give COORDINATOR_SECURE_CLIENT_PORT";
        assert!(matches!(&keys.warnings[..], [only] if only.starts_with(expected)), "{:?}", keys.warnings);
    }

    #[test]
    fn what_is_not_used_can_be_told() {
        let variables =
            [("KAFKA_HEAP_OPTS", "-Xmx1G"), ("KAFKA_JMX_PORT", "1"), ("KAFKA_BROKER_ID", "1"), ("PATH", "")];
        let unused = unused_variables(&owned(&variables), BROKER_FAMILIES);
        let names: Vec<_> = unused.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        assert_eq!(names[0], "KAFKA_HEAP_OPTS: for a Java process");
        assert!(names.len() == 2 && names[1].starts_with("KAFKA_JMX_PORT: "), "{names:?}");
        assert_eq!(unused_variables(&owned(&[("ADVERTISED_PORT", "1")]), BROKER_FAMILIES), []);
    }

    #[test]
    fn commands_are_run_and_their_words_filled_in() {
        let environment = of_broker(&owned(&[
            ("HOSTNAME_COMMAND", "echo here"),
            ("PORT_COMMAND", "echo 9094"),
            ("BROKER_ID_COMMAND", "echo 5"),
            ("RACK_COMMAND", "echo r1"),
            ("KAFKA_ADVERTISED_LISTENERS", "OUT://_{HOSTNAME_COMMAND}:_{PORT_COMMAND}"),
        ]))
        .expect("usable");
        assert_eq!(flat(&environment), ["advertised.listeners=OUT://here:9094", "broker.id=5", "broker.rack=r1"]);
        let alone = of_broker(&owned(&[("HOSTNAME_COMMAND", "echo here")])).expect("usable");
        assert_eq!(flat(&alone), ["advertised.host.name=here"]);
        let empty = of_broker(&owned(&[("RACK_COMMAND", "grep rack /dev/null || true")])).expect("usable");
        let warning = "RACK_COMMAND: `grep rack /dev/null || true` prints nothing: \
                       _{RACK_COMMAND} and KAFKA_BROKER_RACK stay empty";
        assert_eq!(empty.warnings, [warning]);
        let error = of_broker(&owned(&[("RACK_COMMAND", "false")])).expect_err("failed").to_string();
        assert!(error.starts_with("RACK_COMMAND: ") && !error.contains('\n'), "{error}");
    }
}
