//! How a log rolls, indexes and flushes: the topic configuration that the log itself needs, with Kafka's defaults.

/// The configuration of one log. Shared by all logs of a topic; a change replaces it ([`crate::Log::set_config`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// `segment.bytes`: a segment that an append would make larger is rolled. At most 2 GiB − 1.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment whose first batch is older than the appended one by more than this is rolled.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: up to this much is taken off `segment_ms`, per segment, so that not all roll at once.
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`: how far apart indexed batches are.
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`: a segment whose index has this size is rolled.
    pub index_size_max_bytes: u32,
    /// `flush.messages`: [`crate::Log::flush_due`] after this many records. `i64::MAX` leaves it to the system.
    pub flush_messages: i64,
    /// `flush.ms`: [`crate::Log::flush_due`] returns true after this time. `i64::MAX` leaves flushing to the system.
    pub flush_ms: i64,
    /// `producer.id.expiration.ms`: producers that were idle for this time are not loaded from a snapshot.
    pub producer_id_expiration_ms: i64,
    /// `cleanup.policy` has `delete`: `retention_ms` and `retention_bytes` count.
    pub deletes: bool,
    /// `retention.ms`: a segment whose newest record is older goes; −1: never.
    pub retention_ms: i64,
    /// `retention.bytes`: the oldest segments go while the rest is at least this large; −1: never.
    pub retention_bytes: i64,
    /// `file.delete.delay.ms`: how long the files of a segment that was taken out are kept.
    pub file_delete_delay_ms: i64,
    /// `cleanup.policy` has `compact`.
    pub compact: bool,
    /// `delete.retention.ms`: how long a tombstone stays readable after it was first cleaned.
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub min_cleanable_dirty_ppm: u32,
    /// `min.compaction.lag.ms`: segments with younger records are not cleaned. 0 is no lag.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: a log with a record that has waited longer is cleaned at any dirty ratio. `i64::MAX` is
    /// no bound.
    pub max_compaction_lag_ms: i64,
    /// Whether compaction may have left gaps between the offsets of neighbouring segments. Where it cannot have,
    /// recovery takes a gap for lost records and refuses the log.
    pub may_have_gaps: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            index_size_max_bytes: 10 << 20,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            producer_id_expiration_ms: 86_400_000,
            deletes: true,
            retention_ms: 7 * 24 * 3_600_000,
            retention_bytes: -1,
            file_delete_delay_ms: 60_000,
            compact: false,
            delete_retention_ms: 86_400_000,
            min_cleanable_dirty_ppm: 500_000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            may_have_gaps: false,
        }
    }
}
