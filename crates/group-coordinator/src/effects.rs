//! What a step of a [`Shard`](crate::Shard) leads to.

use bytes::Bytes;
use ottla_model::{ProducerEpoch, ProducerId, TimestampMs};

use crate::Answer;

/// Tells the requests of one shard's host apart. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Tells the batches of one shard apart; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchNumber(pub u64);

/// One record of `__consumer_offsets`. A value of none is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// Records to append as one record batch: all of them or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub number: BatchNumber,
    /// The timestamp of every record.
    pub timestamp: TimestampMs,
    pub records: Vec<RawRecord>,
    pub kind: BatchKind,
}

/// What a batch is to transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchKind {
    Plain,
    /// The records count when the producer's transaction is committed.
    Transactional {
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
    },
    /// A control batch without records of its own.
    Marker(TransactionEnd),
}

/// The end of a producer's transaction, as its coordinator tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub is_commit: bool,
    /// The leader epoch of the transaction coordinator's partition.
    pub coordinator_epoch: i32,
    pub transaction_version: i8,
}

/// What a batch may need besides its records' keys and values: the header, and per record its length, deltas and
/// lengths.
pub(crate) const BATCH_OVERHEAD_BYTES: usize = 128;
const RECORD_OVERHEAD_BYTES: usize = 32;

impl RawRecord {
    /// At most so many bytes in a batch.
    pub(crate) fn size_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Batch {
    /// At most so many bytes in the log.
    pub(crate) fn size_bytes(&self) -> usize {
        self.records.iter().fold(BATCH_OVERHEAD_BYTES, |sum, record| sum.saturating_add(record.size_bytes()))
    }
}

/// What the host carries out, in this order.
#[derive(Clone, PartialEq, Debug, Default)]
#[must_use]
pub struct Effects {
    /// Append these in order, and report each with `Shard::appended` or `Shard::append_refused` before any other input.
    /// Once a report led to `reload`, the rest is dropped: it would be written without what it follows from.
    pub batches: Vec<Batch>,
    /// Answers that may leave now.
    pub answers: Vec<(RequestId, Answer)>,
    /// The state is ahead of a log that refused a batch: drop the shard and load it again.
    pub reload: bool,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.answers.is_empty() && !self.reload
    }

    /// Adds what a further step led to.
    pub fn extend(&mut self, further: Self) {
        self.batches.extend(further.batches);
        self.answers.extend(further.answers);
        self.reload |= further.reload;
    }
}
