//! What a step of a [`Shard`](crate::Shard) leads to.

use bytes::Bytes;
use ottla_model::{BrokerId, LeaderEpoch, ProducerEpoch, ProducerId, TimestampMs, TopicPartition};

use crate::answer::Answer;
use crate::transaction::TransactionVersion;

/// Distinguishes the requests of one shard's host. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Distinguishes the batches of one shard; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchNumber(pub u64);

/// Distinguishes the markers of one shard; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MarkerNumber(pub u64);

/// One record of `__transaction_state`. A value of none is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// At most so many bytes of a record batch besides keys and values: the header, and each record's lengths and deltas.
pub(crate) const BATCH_OVERHEAD_BYTES: usize = 128;
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 32;

/// Records to append as one record batch: all of them or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub number: BatchNumber,
    /// The timestamp of every record.
    pub timestamp: TimestampMs,
    pub records: Vec<RawRecord>,
}

/// The outcome of a transaction, for those of its partitions that one broker leads. The host sends it until it has an
/// answer or gives up, and reports one of both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    pub number: MarkerNumber,
    pub broker: BrokerId,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// The leader epoch of the shard's partition: leaders refuse the markers of older ones.
    pub coordinator_epoch: LeaderEpoch,
    pub is_commit: bool,
    pub version: TransactionVersion,
    pub partitions: Vec<TopicPartition>,
}

/// What the host executes, in this order.
#[derive(Clone, PartialEq, Debug, Default)]
#[must_use]
pub struct Effects {
    /// Append these in order, and report each with `Shard::appended` or `Shard::append_refused` before any other input.
    pub batches: Vec<Batch>,
    /// Answers that may leave now.
    pub answers: Vec<(RequestId, Answer)>,
    /// Send these, and report each with `Shard::marker_answered` or `Shard::marker_lost`.
    pub markers: Vec<Marker>,
}

impl Effects {
    pub(crate) fn answer(id: RequestId, answer: Answer) -> Self {
        Self { answers: vec![(id, answer)], ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.answers.is_empty() && self.markers.is_empty()
    }

    /// Adds what a further step led to.
    pub fn extend(&mut self, further: Self) {
        self.batches.extend(further.batches);
        self.answers.extend(further.answers);
        self.markers.extend(further.markers);
    }
}
