//! What the data side asks of the quorum. The calls run on the control runtime, by one client that follows leader hints and
//! retries within the call's deadline; the futures may be awaited anywhere, and dropping one does not take the call back.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ottla_metadata::controller::{
    AlterConfigs, ConfigOutcomes, CreatePartitions, CreateTopics, DeleteTopics, ResignReason, TopicOutcomes,
};
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionId, ProducerId, Revision, TopicId,
    TopicIdPartition,
};

pub type QuorumFuture<T> = Pin<Box<dyn Future<Output = Result<T, QuorumError>> + Send>>;

/// Why the quorum gave no answer. What it refused is an answer: an error code inside of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuorumError {
    /// No coordinator that can decide was reached in time: nothing was changed.
    #[error("no coordinator can decide at the moment: {0}")]
    Unavailable(String),
    /// The request may have been decided: only the image will tell.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// This broker has not registered yet, or stops.
    #[error("this broker is not part of the cluster at the moment")]
    NotRegistered,
}

/// One ISR change, made from `partition_epoch`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterPartition {
    pub topic_id: TopicId,
    pub partition: PartitionId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// The wanted ISR with the broker epochs that the followers' fetches carried.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlteredPartition {
    pub topic_id: TopicId,
    pub partition: PartitionId,
    /// `None`, or why it was refused: INVALID_UPDATE_VERSION, FENCED_LEADER_EPOCH, INELIGIBLE_REPLICA, …
    pub error: ErrorCode,
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterPartitionsAnswer {
    /// Of the request as a whole: STALE_BROKER_EPOCH when this broker was fenced meanwhile.
    pub error: ErrorCode,
    pub partitions: Vec<AlteredPartition>,
    pub revision: Revision,
}

/// `count` producer ids from `first`, this broker's alone for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerIdBlock {
    pub first: ProducerId,
    pub count: i32,
}

/// The quorum as the data side sees it.
pub trait QuorumHandle: Send + Sync + 'static {
    /// Asks for ISR changes; they are compare-and-set, so asking again is safe.
    fn alter_partitions(&self, changes: Vec<AlterPartition>) -> QuorumFuture<AlterPartitionsAnswer>;
    /// Gives up the leadership of some partitions, and the places in their ISRs (their directory stalls, is full or failed).
    fn resign_leadership(&self, partitions: Vec<TopicIdPartition>, reason: ResignReason) -> QuorumFuture<Revision>;
    fn allocate_producer_ids(&self) -> QuorumFuture<ProducerIdBlock>;
    /// What clients ask for; the outcomes are in the order of the request. Handles that only serve partitions have none of these.
    fn create_topics(&self, _command: CreateTopics, _timeout: Duration) -> QuorumFuture<TopicOutcomes> {
        not_here()
    }
    fn delete_topics(&self, _command: DeleteTopics, _timeout: Duration) -> QuorumFuture<TopicOutcomes> {
        not_here()
    }
    fn alter_configs(&self, _command: AlterConfigs, _timeout: Duration) -> QuorumFuture<ConfigOutcomes> {
        not_here()
    }
    fn create_partitions(&self, _command: CreatePartitions, _timeout: Duration) -> QuorumFuture<TopicOutcomes> {
        not_here()
    }
}

fn not_here<T: Send + 'static>() -> QuorumFuture<T> {
    Box::pin(std::future::ready(Err(QuorumError::NotRegistered)))
}

/// How long one call may take by default, retries included. An ISR change that takes longer is sent again by the partition.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
