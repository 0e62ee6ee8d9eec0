//! Reading a partition of `__consumer_offsets` into its groups, as its leader and before anybody is served.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ottla_group_coordinator::GroupConfig;
use ottla_group_coordinator::shard::Shard;
use ottla_model::{ErrorCode, LeaderEpoch, Offset, ProducerId};
use ottla_protocol::record_batch::{Batch, Batches, HeaderError, Record, Records, RecordsError};

use crate::partition::Partition;

/// A packed batch may unpack to this many times `max.message.bytes`: groups' records hold much that repeats.
const UNPACKED_PER_MESSAGE_BYTES: u64 = 100;

/// The key of a control record that commits a transaction: version and type.
const COMMIT_TYPE: [u8; 2] = [0, 1];

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    /// This broker leads it no longer, or its disk failed.
    #[error("the log cannot be read: {0:?}")]
    Refused(ErrorCode),
    #[error("the log cannot be read at offset {at}: {source}")]
    Io { at: Offset, source: std::io::Error },
    #[error("a batch at offset {at} cannot be read: {source}")]
    Header { at: Offset, source: HeaderError },
    #[error("the batch at offset {at} cannot be read: {source}")]
    Records { at: Offset, source: RecordsError },
    #[error("no whole batch at offset {at}")]
    Cut { at: Offset },
}

/// What a log came to.
pub(super) struct Replayed {
    pub shard: Shard,
    /// Where the log ended.
    pub end: Offset,
    pub records: u64,
    /// Records that were passed over because they are not what their version says.
    pub unreadable: u64,
}

/// Replays the whole log of `partition`, which this broker leads in `epoch`. Waits for the disk; holds `buffer_bytes` of it at a time.
pub(super) fn replay(
    partition: &Partition,
    epoch: LeaderEpoch,
    config: Arc<GroupConfig>,
    buffer_bytes: usize,
) -> Result<Replayed, ReplayError> {
    let unpacked_max_bytes = partition.settings().max_message_bytes() as u64 * UNPACKED_PER_MESSAGE_BYTES;
    let mut reader = Reader {
        replayed: Replayed { shard: Shard::new(config), end: Offset::ZERO, records: 0, unreadable: 0 },
        partition: partition.name(),
        unpacked_max_bytes,
        open: BTreeMap::new(),
    };
    let mut from = None;
    loop {
        let piece = partition.read_own(from, buffer_bytes, epoch).map_err(ReplayError::Refused)?;
        reader.replayed.end = piece.end;
        let Some(records) = piece.records else { return Ok(reader.replayed) };
        let at = piece.from;
        let bytes = records.read().map_err(|source| ReplayError::Io { at, source })?;
        let next = reader.take(at, &bytes)?;
        if next <= at {
            return Err(ReplayError::Cut { at });
        }
        from = Some(next);
    }
}

struct Reader {
    replayed: Replayed,
    partition: String,
    unpacked_max_bytes: u64,
    /// Records of transactions that have not ended: directories of a Kafka cluster may hold such.
    open: BTreeMap<ProducerId, Vec<Record>>,
}

impl Reader {
    /// Takes the whole batches of a piece; returns the offset after the last of them.
    fn take(&mut self, at: Offset, bytes: &Bytes) -> Result<Offset, ReplayError> {
        let mut next = at;
        for batch in Batches::new(bytes) {
            let batch = batch.map_err(|source| ReplayError::Header { at: next, source })?;
            let after = batch.header.last_offset().next();
            // The first batch of a piece may begin before what was asked for.
            if after > next {
                self.take_batch(&batch, &bytes.slice_ref(batch.bytes))?;
                next = after;
            }
        }
        Ok(next)
    }

    fn take_batch(&mut self, batch: &Batch<'_>, bytes: &Bytes) -> Result<(), ReplayError> {
        let header = &batch.header;
        let failed = |source| ReplayError::Records { at: header.base_offset, source };
        for record in Records::new(bytes, self.unpacked_max_bytes).map_err(failed)? {
            let record = record.map_err(failed)?;
            if header.is_control() {
                let held = self.open.remove(&header.producer_id).unwrap_or_default();
                if record.key.as_ref().and_then(|key| key.get(2..4)) == Some(&COMMIT_TYPE) {
                    held.iter().for_each(|record| self.apply(record));
                }
            } else if header.is_transactional() {
                self.open.entry(header.producer_id).or_default().push(record);
            } else {
                self.apply(&record);
            }
        }
        Ok(())
    }

    fn apply(&mut self, record: &Record) {
        let Some(key) = &record.key else { return };
        self.replayed.records += 1;
        if let Err(error) = self.replayed.shard.apply(record.timestamp, key, record.value.as_deref()) {
            // One group's record must not keep the others from being served.
            self.replayed.unreadable += 1;
            if self.replayed.unreadable == 1 {
                tracing::error!(partition = %self.partition, offset = %record.offset, %error, "a group's record is passed over");
            }
        }
    }
}
