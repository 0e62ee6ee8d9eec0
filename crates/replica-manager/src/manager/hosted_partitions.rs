//! The partitions that have a place here, by id, and the ids of their topics by name.

use std::sync::Arc;

use imbl::HashMap as SharedMap;
use ottla_model::{TopicId, TopicIdPartition, TopicName};

use crate::partition::Partition;

/// The partitions that have a place here, in maps that share structure: a change copies a path, not a map.
#[derive(Clone, Default)]
pub(super) struct HostedPartitions {
    /// The image has been loaded: all that have a place are here.
    pub is_loaded: bool,
    pub partitions: SharedMap<TopicIdPartition, Arc<Partition>>,
    pub topics: SharedMap<TopicName, TopicId>,
}

impl HostedPartitions {
    pub fn insert(&mut self, partition: Arc<Partition>) {
        let id = partition.id();
        self.topics.insert(partition.topic.clone(), id.topic_id);
        self.partitions.insert(id, partition);
    }
}
