//! What a shard may look at outside itself.

use ottla_model::{BrokerId, ProducerId, TopicPartition};

/// Who leads a partition, as far as the broker's image of the cluster knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leader {
    Broker(BrokerId),
    /// The partition exists and has no live leader at the moment.
    None,
    /// There is no such partition: its topic was deleted. The image is at least as new as the leadership of the shard,
    /// and therefore newer than the creation of every partition that the shard's log names.
    Deleted,
}

/// The cluster, as the host sees it during one step.
pub trait Cluster {
    fn leader(&self, partition: &TopicPartition) -> Leader;

    /// A producer id that nobody had before; none while the quorum has not given this broker any.
    fn new_producer_id(&mut self) -> Option<ProducerId>;
}
