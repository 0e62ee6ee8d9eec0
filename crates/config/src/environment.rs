//! Environment variables as properties, by the rules of the images that people come from.
//!
//! `KAFKA_FOO_BAR` is `foo.bar`: `___` is `-`, `__` is `_`, `_` is `.` (apache/kafka and cp-kafka agree in code, whatever
//! the latter's documents say). Coordinators take `COORDINATOR_*` by the same rule and, as aliases, cp-zookeeper's `ZOOKEEPER_*`.

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

/// Variables of the JVM images that configure the JVM, its logging or the start script: nothing here needs them, and
/// nobody should be warned of them.
const QUIET: &[&str] = &[
    "KAFKA_VERSION",
    "KAFKA_HOME",
    "KAFKA_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_LOG4J_OPTS",
    "KAFKA_JMX_OPTS",
    "KAFKA_JMX_PORT",
    "KAFKA_JMX_HOSTNAME",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_LOG4J_ROOT_LOGLEVEL",
    "KAFKA_LOG4J_LOGGERS",
    "KAFKA_LOG4J_CONFIGURATION",
    "KAFKA_TOOLS_LOG4J_LOGLEVEL",
    "KAFKA_CUB_ZK_TIMEOUT",
    "KAFKA_DATA_DIRS",
    "KAFKA_ZOOKEEPER_CLIENT_CNXN_SOCKET",
    "KAFKA_CREATE_TOPICS_SEPARATOR",
];

/// Prefixes of variables that belong to another program (kafka-ui's clusters).
const QUIET_PREFIXES: &[&str] = &["KAFKA_CLUSTERS_", "KAFKA_CONFLUENT_"];

/// Broker properties out of the environment: (property, value, variable).
pub fn broker_entries<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<(String, String, String)> {
    let mut entries = Vec::new();
    let mut separator = None;
    for (name, value) in variables {
        if name == "KAFKA_CREATE_TOPICS_SEPARATOR" {
            separator = Some(value);
        }
        if name == "CLUSTER_ID" {
            entries.push(("cluster.id".to_owned(), value.to_owned(), name.to_owned()));
        }
        let Some(rest) = name.strip_prefix("KAFKA_") else { continue };
        if rest.is_empty() || QUIET.contains(&name) || QUIET_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        entries.push((property_name(rest), value.to_owned(), name.to_owned()));
    }
    // wurstmeister's separator for KAFKA_CREATE_TOPICS, which may be a line break.
    if let Some(separator) = separator.filter(|s| !s.is_empty()) {
        let separator = separator.replace("$'\\n'", "\n").replace("\\n", "\n");
        for entry in entries.iter_mut().filter(|entry| entry.0 == "create.topics") {
            entry.1 = entry.1.replace(&separator, ",");
        }
    }
    entries
}

/// cp-zookeeper's variables that mean something here, and the coordinator's property. The rest is quiet.
const ZOOKEEPER: &[(&str, &str)] = &[
    ("ZOOKEEPER_SERVER_ID", "id"),
    ("ZOOKEEPER_CLIENT_PORT", "client.port"),
    ("ZOOKEEPER_TICK_TIME", "tick.time"),
    ("ZOOKEEPER_INIT_LIMIT", "init.limit"),
    ("ZOOKEEPER_SYNC_LIMIT", "sync.limit"),
    ("ZOOKEEPER_SERVERS", "zookeeper.servers"),
    ("ZOOKEEPER_DATA_DIR", "data.dir"),
];

/// Coordinator properties out of the environment: (property, value, variable). `COORDINATOR_*` wins over `ZOOKEEPER_*`.
pub fn coordinator_entries<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<(String, String, String)> {
    let mut aliased = Vec::new();
    let mut own = Vec::new();
    for (name, value) in variables {
        if name == "CLUSTER_ID" {
            aliased.push(("cluster.id".to_owned(), value.to_owned(), name.to_owned()));
        } else if let Some((_, property)) = ZOOKEEPER.iter().find(|(variable, _)| *variable == name) {
            aliased.push(((*property).to_owned(), value.to_owned(), name.to_owned()));
        } else if let Some(rest) = name.strip_prefix("COORDINATOR_").filter(|rest| !rest.is_empty()) {
            own.push((property_name(rest), value.to_owned(), name.to_owned()));
        }
    }
    aliased.extend(own);
    aliased
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_properties() {
        let entries = broker_entries([
            ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://a:1"),
            ("KAFKA_HEAP_OPTS", "-Xmx1G"),
            ("KAFKA_CLUSTERS_0_NAME", "local"),
            ("KAFKA_CREATE_TOPICS_SEPARATOR", "\\n"),
            ("KAFKA_CREATE_TOPICS", "a:1:1\nb:2:1"),
            ("PATH", "/bin"),
            ("CLUSTER_ID", "x"),
        ]);
        let flat: Vec<_> = entries.iter().map(|(k, v, _)| format!("{k}={v}")).collect();
        assert_eq!(flat, ["advertised.listeners=PLAINTEXT://a:1", "create.topics=a:1:1,b:2:1", "cluster.id=x"]);
    }

    #[test]
    fn zookeepers_variables_are_aliases_and_lose() {
        let entries = coordinator_entries([
            ("COORDINATOR_CLIENT_PORT", "2182"),
            ("ZOOKEEPER_CLIENT_PORT", "2181"),
            ("ZOOKEEPER_MAX_CLIENT_CNXNS", "60"),
        ]);
        let flat: Vec<_> = entries.iter().map(|(k, v, _)| format!("{k}={v}")).collect();
        assert_eq!(flat, ["client.port=2181", "client.port=2182"]);
    }
}
