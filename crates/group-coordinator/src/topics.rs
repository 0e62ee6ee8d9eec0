//! What groups need to know of the cluster's topics, as the host's image has it at the moment of the step.

use ottla_model::{BrokerId, PartitionId, TopicId, TopicName};

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicView {
    pub id: TopicId,
    pub name: TopicName,
    /// The number of partitions, from 0.
    pub partitions: i32,
}

/// The topics of one image.
pub trait Topics {
    fn by_name(&self, name: &str) -> Option<TopicView>;
    fn by_id(&self, id: TopicId) -> Option<TopicView>;
    /// Every topic's name, in order. For regular expressions only: it is as long as the cluster is large.
    fn names(&self, each: &mut dyn FnMut(&TopicName));
    /// Grows whenever a topic was created, deleted or given partitions; equal numbers mean equal topics (on one host).
    fn version(&self) -> u64;
    /// The racks of the brokers that hold a partition's replicas, where they have one.
    fn racks(&self, id: TopicId, partition: PartitionId) -> Vec<String>;
    /// The broker that hosts this shard.
    fn here(&self) -> BrokerId;
}
