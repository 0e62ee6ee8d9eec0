//! What a step of a [`CoordinatorShard`](crate::CoordinatorShard) leads to.

use bytes::Bytes;
use ottla_model::{ProducerEpoch, ProducerId, TimestampMs};

/// Distinguishes the requests of one partition. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Distinguishes the batches of one shard; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchNumber(pub u64);

/// One record of the partition. A value of none is a tombstone.
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

/// At most so many bytes of a record batch besides keys and values: the header, and each record's lengths and deltas.
pub const BATCH_OVERHEAD_BYTES: usize = 128;
pub const RECORD_OVERHEAD_BYTES: usize = 32;

impl RawRecord {
    /// At most so many bytes in a batch.
    pub fn size_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Batch {
    /// At most so many bytes in the log.
    pub fn size_bytes(&self) -> usize {
        self.records.iter().fold(BATCH_OVERHEAD_BYTES, |sum, record| sum.saturating_add(record.size_bytes()))
    }
}

/// What the partition executes, in this order. `A` is an answer, `M` a message to another broker.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub struct Effects<A, M> {
    /// Append these in order, and report each with `appended` or `append_refused` before any other input. Once a report
    /// led to `reload`, the rest is dropped: it would be written without what it follows from.
    pub batches: Vec<Batch>,
    /// Answers that may leave now.
    pub answers: Vec<(RequestId, A)>,
    /// Send these, and report what became of each as a notice.
    pub messages: Vec<M>,
    /// The state is ahead of a log that refused a batch: drop the shard and load it again.
    pub reload: bool,
}

impl<A, M> Default for Effects<A, M> {
    fn default() -> Self {
        Self { batches: Vec::new(), answers: Vec::new(), messages: Vec::new(), reload: false }
    }
}

impl<A, M> Effects<A, M> {
    pub fn answer(id: RequestId, answer: A) -> Self {
        Self { answers: vec![(id, answer)], ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.answers.is_empty() && self.messages.is_empty() && !self.reload
    }

    /// Adds what a further step led to.
    pub fn extend(&mut self, further: Self) {
        self.batches.extend(further.batches);
        self.answers.extend(further.answers);
        self.messages.extend(further.messages);
        self.reload |= further.reload;
    }
}
