//! Reading a partition's log into its state, before any of it is served.

use std::sync::Arc;

use bytes::Bytes;
use ottla_model::{ErrorCode, LeaderEpoch, Offset, ProducerId};
use ottla_protocol::record_batch::{Batch, Batches, HeaderError, Record, Records, RecordsError};

use crate::shard::{CoordinatorShard, Replayed};

/// A packed batch may unpack to this many times `max.message.bytes`: the records of coordinators repeat themselves
/// much.
const UNPACKED_PER_MESSAGE_BYTES: u64 = 100;

/// The key of a control record that commits a transaction: version and type.
const COMMIT_TYPE: [u8; 2] = [0, 1];

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// This broker leads the partition no longer, or its disk failed.
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

/// The state of a log that was read up to `end`.
#[derive(Debug)]
pub struct Loaded<S: CoordinatorShard> {
    pub(crate) shard: S,
    pub(crate) end: Offset,
    pub(crate) records: u64,
    pub(crate) unreadable: Unreadable<S::RecordError>,
}

/// Records that were skipped because they are not what their version says. The record of one group or id must not keep
/// the others from being served.
#[derive(Debug)]
pub struct Unreadable<E> {
    pub count: u64,
    pub first: Option<(Offset, E)>,
}

/// Takes the log in pieces, from its start to its end.
#[derive(Debug)]
pub struct Loader<S: CoordinatorShard> {
    shard: S,
    unpacked_max_bytes: u64,
    next: Option<Offset>,
    records: u64,
    unreadable: Unreadable<S::RecordError>,
}

impl<S: CoordinatorShard> Loader<S> {
    /// For the leadership of `epoch`.
    pub fn new(config: Arc<S::Config>, epoch: LeaderEpoch, max_message_bytes: usize) -> Self {
        Self {
            shard: S::new(config, epoch),
            unpacked_max_bytes: (max_message_bytes as u64).saturating_mul(UNPACKED_PER_MESSAGE_BYTES),
            next: None,
            records: 0,
            unreadable: Unreadable { count: 0, first: None },
        }
    }

    /// The offset from which the next piece has to be read; none: from the start of the log.
    pub fn next(&self) -> Option<Offset> {
        self.next
    }

    /// Takes the whole batches of a piece that begins at `from`.
    ///
    /// # Errors
    /// The piece holds no whole batch, or one that cannot be read.
    pub fn take(&mut self, from: Offset, piece: &Bytes) -> Result<(), LoadError> {
        let mut next = from;
        for batch in Batches::new(piece) {
            let batch = batch.map_err(|source| LoadError::Header { at: next, source })?;
            let after = batch.header.last_offset().next();
            // The first batch of a piece may begin before the requested offset.
            if after > next {
                self.take_batch(&batch, &piece.slice_ref(batch.bytes))?;
                next = after;
            }
        }
        if next <= from {
            return Err(LoadError::Cut { at: from });
        }
        self.next = Some(next);
        Ok(())
    }

    /// The log ends at `end`, and everything before was taken.
    pub fn finish(self, end: Offset) -> Loaded<S> {
        Loaded { shard: self.shard, end, records: self.records, unreadable: self.unreadable }
    }

    fn take_batch(&mut self, batch: &Batch<'_>, bytes: &Bytes) -> Result<(), LoadError> {
        let header = &batch.header;
        let failed = |source| LoadError::Records { at: header.base_offset, source };
        for record in Records::new(bytes, self.unpacked_max_bytes).map_err(failed)? {
            let record = record.map_err(failed)?;
            if header.is_control() {
                let is_commit = record.key.as_ref().and_then(|key| key.get(2..4)) == Some(&COMMIT_TYPE);
                self.shard.replay_end_of_transaction(header.producer_id, is_commit);
            } else {
                self.replay(&record, header.is_transactional().then_some(header.producer_id));
            }
        }
        Ok(())
    }

    fn replay(&mut self, record: &Record, producer: Option<ProducerId>) {
        let Some(key) = &record.key else { return };
        self.records += 1;
        let replayed = Replayed { timestamp: record.timestamp, key, value: record.value.as_deref(), producer };
        if let Err(error) = self.shard.replay(replayed) {
            self.unreadable.count += 1;
            self.unreadable.first.get_or_insert((record.offset, error));
        }
    }
}
