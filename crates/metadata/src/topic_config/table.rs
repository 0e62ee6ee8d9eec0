//! Every topic configuration of Kafka 4.3, with its default and the broker property behind it.

use crate::config_value::{InvalidValue, Value, ValueKind};

/// One topic configuration.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TopicConfigKey {
    pub name: &'static str,
    pub kind: ValueKind,
    /// Kafka's default, as DescribeConfigs shows it.
    pub default: &'static str,
    /// The broker property that DescribeConfigs shows as its synonym. Others may precede it (`log.retention.hours`).
    pub synonym: Option<&'static str>,
}

impl TopicConfigKey {
    /// The value of a text; surrounding white space does not count.
    pub fn parse(&self, text: &str) -> Result<Value, InvalidValue> {
        self.kind.parse(self.name, text)
    }
}

const fn key(
    name: &'static str,
    kind: ValueKind,
    default: &'static str,
    synonym: Option<&'static str>,
) -> TopicConfigKey {
    TopicConfigKey { name, kind, default, synonym }
}

const fn int(min: i64) -> ValueKind {
    ValueKind::Int { min, max: i32::MAX as i64 }
}

const fn long(min: i64) -> ValueKind {
    ValueKind::Long { min }
}

const COMPRESSIONS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

/// By name.
pub static TOPIC_CONFIGS: &[TopicConfigKey] = &[
    key("cleanup.policy", ValueKind::List(&["compact", "delete"]), "delete", Some("log.cleanup.policy")),
    key("compression.gzip.level", ValueKind::GzipLevel, "-1", Some("compression.gzip.level")),
    key("compression.lz4.level", ValueKind::Int { min: 1, max: 17 }, "9", Some("compression.lz4.level")),
    key("compression.type", ValueKind::Text(COMPRESSIONS), "producer", Some("compression.type")),
    key("compression.zstd.level", ValueKind::Int { min: -131_072, max: 22 }, "3", Some("compression.zstd.level")),
    key("delete.retention.ms", long(0), "86400000", Some("log.cleaner.delete.retention.ms")),
    key("file.delete.delay.ms", long(0), "60000", Some("log.segment.delete.delay.ms")),
    key("flush.messages", long(1), "9223372036854775807", Some("log.flush.interval.messages")),
    key("flush.ms", long(0), "9223372036854775807", Some("log.flush.interval.ms")),
    key("follower.replication.throttled.replicas", ValueKind::ThrottledReplicas, "", None),
    key("index.interval.bytes", int(0), "4096", Some("log.index.interval.bytes")),
    key("leader.replication.throttled.replicas", ValueKind::ThrottledReplicas, "", None),
    key("local.retention.bytes", long(-2), "-2", Some("log.local.retention.bytes")),
    key("local.retention.ms", long(-2), "-2", Some("log.local.retention.ms")),
    key("max.compaction.lag.ms", long(1), "9223372036854775807", Some("log.cleaner.max.compaction.lag.ms")),
    key("max.message.bytes", int(0), "1048588", Some("message.max.bytes")),
    key("message.timestamp.after.max.ms", long(0), "3600000", Some("log.message.timestamp.after.max.ms")),
    key("message.timestamp.before.max.ms", long(0), "9223372036854775807", Some("log.message.timestamp.before.max.ms")),
    key(
        "message.timestamp.type",
        ValueKind::Text(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        Some("log.message.timestamp.type"),
    ),
    key(
        "min.cleanable.dirty.ratio",
        ValueKind::Double { min: 0.0, max: 1.0 },
        "0.5",
        Some("log.cleaner.min.cleanable.ratio"),
    ),
    key("min.compaction.lag.ms", long(0), "0", Some("log.cleaner.min.compaction.lag.ms")),
    key("min.insync.replicas", int(1), "1", Some("min.insync.replicas")),
    key("preallocate", ValueKind::Bool, "false", Some("log.preallocate")),
    key("remote.log.copy.disable", ValueKind::Bool, "false", None),
    key("remote.log.delete.on.disable", ValueKind::Bool, "false", None),
    key("remote.storage.enable", ValueKind::Bool, "false", None),
    key("retention.bytes", long(i64::MIN), "-1", Some("log.retention.bytes")),
    key("retention.ms", long(-1), "604800000", Some("log.retention.ms")),
    // KIP-1030 raised the smallest segment to 1 MiB.
    key("segment.bytes", int(1_048_576), "1073741824", Some("log.segment.bytes")),
    key("segment.index.bytes", int(4), "10485760", Some("log.index.size.max.bytes")),
    key("segment.jitter.ms", long(0), "0", Some("log.roll.jitter.ms")),
    key("segment.ms", long(1), "604800000", Some("log.roll.ms")),
    key("unclean.leader.election.enable", ValueKind::Bool, "false", Some("unclean.leader.election.enable")),
];

/// The configuration with this name.
pub fn find(name: &str) -> Option<&'static TopicConfigKey> {
    TOPIC_CONFIGS.binary_search_by_key(&name, |key| key.name).ok().and_then(|at| TOPIC_CONFIGS.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_defaults_are_valid() {
        assert!(TOPIC_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        // goldens: config-defaults.txt lists as many for Kafka 4.3.
        assert_eq!(TOPIC_CONFIGS.len(), 33);
        for key in TOPIC_CONFIGS {
            assert!(key.parse(key.default).is_ok(), "{}", key.name);
            assert_eq!(find(key.name), Some(key));
        }
        assert_eq!(find("retention"), None);
    }
}
