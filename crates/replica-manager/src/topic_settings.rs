//! What a topic's configuration means for its partitions, worked out once per change and shared by all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_metadata::topic_config::{CompressionType, TimestampType as ConfiguredTimestampType, TopicConfig};
use ottla_model::{ErrorCode, TimestampMs};
use ottla_protocol::record_batch::{
    self, Compression, Limits, Packing, RecompressError, TimestampType, ValidatedBatch,
};
use ottla_storage::LogConfig;

use crate::partition::append_refused::AppendRefused;
use crate::replication_throttles::ThrottledReplicas;

/// The part of a topic's configuration that its replicas act by.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// `min.insync.replicas`, at least 1.
    pub min_insync_replicas: usize,
    pub log: Arc<LogConfig>,
    /// `leader.replication.throttled.replicas`
    pub leader_throttled: ThrottledReplicas,
    /// `follower.replication.throttled.replicas`
    pub follower_throttled: ThrottledReplicas,
    limits: Limits,
    /// How batches are kept; none: as they come.
    packing: Option<Packing>,
}

impl TopicSettings {
    /// From what is set on the topic and what the broker has for the rest.
    pub fn new(
        overrides: &BTreeMap<String, String>,
        broker_defaults: &BTreeMap<String, String>,
        producer_id_expiration_ms: i64,
    ) -> Self {
        let config = TopicConfig::resolve(overrides, broker_defaults);
        let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
        let bytes = |bytes: i32| u32::try_from(bytes).unwrap_or(0);
        let limits = Limits {
            max_message_bytes: size(config.max_message_bytes),
            timestamp_type: match config.message_timestamp_type {
                ConfiguredTimestampType::CreateTime => TimestampType::CreateTime,
                ConfiguredTimestampType::LogAppendTime => TimestampType::LogAppendTime,
            },
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            is_compacted: config.compact,
            unpacked_max_bytes: Limits::unpacked_max_bytes_for(size(config.max_message_bytes)),
            ..Limits::new(TimestampMs::NONE)
        };
        let log = LogConfig {
            segment_bytes: bytes(config.segment_bytes),
            // A record must not wait in the active segment for longer than it may wait for compaction.
            segment_ms: if config.compact {
                config.segment_ms.min(config.max_compaction_lag_ms)
            } else {
                config.segment_ms
            },
            segment_jitter_ms: config.segment_jitter_ms,
            index_interval_bytes: bytes(config.index_interval_bytes),
            index_size_max_bytes: bytes(config.segment_index_bytes),
            flush_messages: config.flush_messages,
            flush_ms: config.flush_ms,
            producer_id_expiration_ms,
            deletes: config.delete,
            retention_ms: config.retention_ms,
            retention_bytes: config.retention_bytes,
            file_delete_delay_ms: config.file_delete_delay_ms,
            compact: config.compact,
            delete_retention_ms: config.delete_retention_ms,
            min_cleanable_dirty_ppm: (config.min_cleanable_dirty_ratio.clamp(0.0, 1.0) * 1e6) as u32,
            min_compaction_lag_ms: config.min_compaction_lag_ms,
            max_compaction_lag_ms: config.max_compaction_lag_ms,
            may_have_gaps: config.compact,
        };
        Self {
            min_insync_replicas: config.min_isr(),
            log: Arc::new(log),
            leader_throttled: ThrottledReplicas::parse(&config.leader_throttled_replicas),
            follower_throttled: ThrottledReplicas::parse(&config.follower_throttled_replicas),
            limits,
            packing: match config.compression_type {
                CompressionType::Producer => None,
                CompressionType::Uncompressed => Some(Compression::None.into()),
                CompressionType::Gzip => {
                    Some(Packing { compression: Compression::Gzip, level: Some(config.compression_gzip_level) })
                }
                CompressionType::Snappy => Some(Compression::Snappy.into()),
                CompressionType::Lz4 => Some(Compression::Lz4.into()),
                CompressionType::Zstd => {
                    Some(Packing { compression: Compression::Zstd, level: Some(config.compression_zstd_level) })
                }
            },
        }
    }

    /// `max.message.bytes`: the largest batch.
    pub fn max_message_bytes(&self) -> usize {
        self.limits.max_message_bytes
    }

    /// `message.timestamp.type`.
    pub fn timestamp_type(&self) -> TimestampType {
        self.limits.timestamp_type
    }

    /// What a batch is held to now.
    pub fn limits(&self, produce_version: i16, now: TimestampMs) -> Limits {
        Limits { produce_version, now, ..self.limits }
    }

    /// The batch in the form in which the topic keeps it; none if it is in that form.
    pub fn recompress(&self, batch: &[u8], validated: &ValidatedBatch) -> Result<Option<BytesMut>, AppendRefused> {
        let Some(target) = self.packing else { return Ok(None) };
        if validated.header.compression() == Ok(target.compression) {
            return Ok(None);
        }
        let max = self.limits.max_message_bytes;
        // It passed as it came; what is kept counts as well.
        record_batch::recompress(batch, target, self.limits.unpacked_max_bytes, max).map(Some).map_err(|error| {
            let code = match error {
                RecompressError::TooLarge { .. } => ErrorCode::MessageTooLarge,
                RecompressError::Unpack(_) => ErrorCode::InvalidRecord,
            };
            AppendRefused { message: Some(error.to_string()), ..code.into() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_own_values_win_over_the_brokers() {
        let entry = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let defaults = BTreeMap::from([entry("min.insync.replicas", "2"), entry("segment.bytes", "1048576")]);
        let rules = TopicSettings::new(&BTreeMap::from([entry("min.insync.replicas", "3")]), &defaults, 1_000);
        assert_eq!((rules.min_insync_replicas, rules.log.segment_bytes), (3, 1_048_576));
        assert_eq!(TopicSettings::new(&BTreeMap::new(), &defaults, 1_000).min_insync_replicas, 2);
    }
}
