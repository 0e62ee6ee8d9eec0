//! What a step of a [`Shard`](crate::Shard) leads to.

pub use ottla_coordinator_partition::effects::{
    BATCH_OVERHEAD_BYTES, Batch, BatchKind, BatchNumber, RECORD_OVERHEAD_BYTES, RawRecord, RequestId,
};
use ottla_model::{BrokerId, LeaderEpoch, ProducerEpoch, ProducerId, TopicPartition};

use crate::answer::TransactionAnswer;
use crate::transaction::TransactionVersion;

pub type Effects = ottla_coordinator_partition::Effects<TransactionAnswer, Marker>;

/// Distinguishes the markers of one shard; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MarkerNumber(pub u64);

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
