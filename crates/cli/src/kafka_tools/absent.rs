//! The names of Kafka's tools that are not there: each answers with one line.

const NO_SHARE_GROUPS: &str = "there are no share groups";
const NO_STREAMS: &str = "there are no groups of streams; applications of Kafka Streams use groups of consumers";
const NO_METRICS: &str = "brokers and coordinators serve their metrics at /metrics";
const NO_CONNECT: &str = "Kafka Connect is not a part of Ottla; its own distribution works with it";

/// Names, and why there is no such tool.
const TOOLS: &[(&str, &str)] = &[
    ("connect-distributed", NO_CONNECT),
    ("connect-mirror-maker", NO_CONNECT),
    ("connect-plugin-path", NO_CONNECT),
    ("connect-standalone", NO_CONNECT),
    ("kafka-console-share-consumer", NO_SHARE_GROUPS),
    ("kafka-jmx", NO_METRICS),
    ("kafka-run-class", "there are no classes of Java; each has a tool of its own (GetOffsetShell: kafka-get-offsets)"),
    ("kafka-share-consumer-perf-test", NO_SHARE_GROUPS),
    ("kafka-share-groups", NO_SHARE_GROUPS),
    ("kafka-streams-groups", NO_STREAMS),
    ("kafka-verifiable-share-consumer", NO_SHARE_GROUPS),
    ("trogdor", "it tests Kafka's own processes"),
    ("zookeeper-security-migration", "the metadata of a cluster has no ACLs of ZooKeeper"),
];

/// The line for the name of a tool that is not there (a trailing `.sh` does not matter).
pub fn refusal(name: &str) -> Option<String> {
    let name = name.strip_suffix(".sh").unwrap_or(name);
    let (name, reason) = TOOLS.iter().find(|(absent, _)| *absent == name)?;
    Some(format!("{name} is not available: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn absent_tools_answer_with_one_line() {
        for (name, _) in TOOLS {
            let line = refusal(&format!("{name}.sh")).expect("a line");
            assert!(line.starts_with(name) && line.lines().count() == 1, "{line}");
            assert!(crate::kafka_tools::run(name, &["--help".to_owned()]).await.is_none(), "{name} is there");
        }
        assert_eq!(refusal("kafka-topics"), None);
        assert_eq!(refusal("kafka-frobnicate"), None);
    }
}
