//! One topic of the image.

use std::sync::Arc;

use imbl::OrdMap;
use ottla_model::{PartitionId, Revision, TopicId, TopicName};

use super::{Assignment, PartitionState};

/// A topic with the states of its partitions.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicImage {
    pub name: TopicName,
    pub id: TopicId,
    /// The revision at which it was created.
    pub created: Revision,
    /// Replicas that its partitions get as brokers join; 0: as many as they have.
    pub grows_to: i32,
    pub(crate) partitions: OrdMap<PartitionId, Arc<PartitionState>>,
    /// From the topic's node: all states of the topic share it.
    pub(crate) assignment: Arc<Vec<(PartitionId, Assignment)>>,
}

impl Eq for TopicImage {}

impl TopicImage {
    pub fn partition(&self, partition: PartitionId) -> Option<&Arc<PartitionState>> {
        self.partitions.get(&partition)
    }

    /// By number.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Arc<PartitionState>)> {
        self.partitions.iter().map(|(id, state)| (*id, state))
    }

    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// The replication factor of the first partition, when its reassignment has completed; 0 if there is none.
    pub fn replication_factor(&self) -> usize {
        self.partitions.get_min().map_or(0, |(_, state)| state.replicas.len().saturating_sub(state.removing().len()))
    }

    pub(crate) fn assigned(&self, partition: PartitionId) -> Option<&Assignment> {
        let at = self.assignment.binary_search_by_key(&partition, |(id, _)| *id).ok()?;
        self.assignment.get(at).map(|(_, assignment)| assignment)
    }
}
