//! The typed view of a topic's configuration.

use std::collections::BTreeMap;

use super::table::find;
use crate::config_value::Value;

/// The compression of a topic's batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CompressionType {
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
    /// As the producer sent them.
    #[default]
    Producer,
}

/// Whose clock a record's timestamp is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// Every configuration of a topic, resolved. The names contain the units; −1 means "no bound" for the same
/// configurations as in Kafka.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicConfig {
    pub compact: bool,
    pub delete: bool,
    pub compression_type: CompressionType,
    pub compression_gzip_level: i32,
    pub compression_lz4_level: i32,
    pub compression_zstd_level: i32,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: i64,
    pub flush_messages: i64,
    pub flush_ms: i64,
    pub follower_throttled_replicas: Vec<String>,
    pub index_interval_bytes: i32,
    pub leader_throttled_replicas: Vec<String>,
    /// −2: as `retention_bytes`.
    pub local_retention_bytes: i64,
    /// −2: as `retention_ms`.
    pub local_retention_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: i32,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub message_timestamp_type: TimestampType,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    /// As configured; the effective value of a partition is at most its number of replicas.
    pub min_insync_replicas: i32,
    pub preallocate: bool,
    pub remote_log_copy_disable: bool,
    pub remote_log_delete_on_disable: bool,
    pub remote_storage_enable: bool,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: i32,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
    pub unclean_leader_election_enable: bool,
}

impl Default for TopicConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self::resolve(&BTreeMap::new(), &BTreeMap::new())
    }
}

/// The layers of a topic's configuration, looked up by name.
struct Layers<'a>([&'a BTreeMap<String, String>; 2]);

impl Layers<'_> {
    /// The first valid value of the layers; else Kafka's default. Values are validated before they are written; a value
    /// that a later release wrote must not prevent this one from opening the log.
    fn value(&self, name: &str) -> Option<Value> {
        let key = find(name)?;
        let set = self.0.iter().filter_map(|layer| layer.get(name)).find_map(|text| key.parse(text).ok());
        set.or_else(|| key.parse(key.default).ok())
    }

    fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    fn int(&self, name: &str) -> i32 {
        match self.value(name) {
            Some(Value::Int(value)) => value,
            _ => 0,
        }
    }

    fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Long(value)) => value,
            _ => 0,
        }
    }

    fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(value)) => value,
            _ => 0.0,
        }
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            Some(Value::Text(value)) => value,
            _ => String::new(),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(value)) => value,
            _ => Vec::new(),
        }
    }
}

impl TopicConfig {
    /// `min.insync.replicas` as a number of replicas: at least 1.
    pub fn min_isr(&self) -> usize {
        usize::try_from(self.min_insync_replicas).unwrap_or(0).max(1)
    }

    /// The configuration of a topic with these overrides on a broker with these defaults, both by the topic's names.
    pub fn resolve(overrides: &BTreeMap<String, String>, broker_defaults: &BTreeMap<String, String>) -> Self {
        let layers = Layers([overrides, broker_defaults]);
        let policy = layers.list("cleanup.policy");
        let has = |name: &str| policy.iter().any(|entry| entry.eq_ignore_ascii_case(name));
        Self {
            compact: has("compact"),
            delete: has("delete"),
            compression_type: match layers.text("compression.type").as_str() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            compression_gzip_level: layers.int("compression.gzip.level"),
            compression_lz4_level: layers.int("compression.lz4.level"),
            compression_zstd_level: layers.int("compression.zstd.level"),
            delete_retention_ms: layers.long("delete.retention.ms"),
            file_delete_delay_ms: layers.long("file.delete.delay.ms"),
            flush_messages: layers.long("flush.messages"),
            flush_ms: layers.long("flush.ms"),
            follower_throttled_replicas: layers.list("follower.replication.throttled.replicas"),
            index_interval_bytes: layers.int("index.interval.bytes"),
            leader_throttled_replicas: layers.list("leader.replication.throttled.replicas"),
            local_retention_bytes: layers.long("local.retention.bytes"),
            local_retention_ms: layers.long("local.retention.ms"),
            max_compaction_lag_ms: layers.long("max.compaction.lag.ms"),
            max_message_bytes: layers.int("max.message.bytes"),
            message_timestamp_after_max_ms: layers.long("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: layers.long("message.timestamp.before.max.ms"),
            message_timestamp_type: match layers.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_cleanable_dirty_ratio: layers.double("min.cleanable.dirty.ratio"),
            min_compaction_lag_ms: layers.long("min.compaction.lag.ms"),
            min_insync_replicas: layers.int("min.insync.replicas"),
            preallocate: layers.bool("preallocate"),
            remote_log_copy_disable: layers.bool("remote.log.copy.disable"),
            remote_log_delete_on_disable: layers.bool("remote.log.delete.on.disable"),
            remote_storage_enable: layers.bool("remote.storage.enable"),
            retention_bytes: layers.long("retention.bytes"),
            retention_ms: layers.long("retention.ms"),
            segment_bytes: layers.int("segment.bytes"),
            segment_index_bytes: layers.int("segment.index.bytes"),
            segment_jitter_ms: layers.long("segment.jitter.ms"),
            segment_ms: layers.long("segment.ms"),
            unclean_leader_election_enable: layers.bool("unclean.leader.election.enable"),
        }
    }

    /// Kafka's effective min ISR of a partition with this many replicas.
    pub fn effective_min_insync_replicas(&self, replicas: usize) -> usize {
        usize::try_from(self.min_insync_replicas).unwrap_or(1).max(1).min(replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_valid_layer_wins() {
        let entries = |entries: &[(&str, &str)]| {
            entries.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect::<BTreeMap<_, _>>()
        };
        let overrides = entries(&[("retention.ms", "60000"), ("segment.ms", "rubbish"), ("cleanup.policy", "compact")]);
        let broker = entries(&[("retention.ms", "1"), ("segment.ms", "7"), ("min.insync.replicas", "2")]);
        let config = TopicConfig::resolve(&overrides, &broker);
        assert_eq!((config.retention_ms, config.segment_ms, config.min_insync_replicas), (60000, 7, 2));
        assert!(config.compact && !config.delete);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.effective_min_insync_replicas(1), 1);
        assert_eq!(config.effective_min_insync_replicas(3), 2);
        assert_eq!(TopicConfig::default().segment_bytes, 1_073_741_824);
    }
}
