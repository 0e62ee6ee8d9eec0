//! One topic of the image.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use ottla_model::{BrokerId, PartitionId, Revision, TopicId, TopicName};

use super::{Assignment, PartitionState, Reassignment};
use crate::nodes::topic::TopicNode;

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
    /// The replicas of partitions whose reassignment waits for its turn.
    pub(crate) queued: Arc<BTreeMap<PartitionId, Vec<BrokerId>>>,
}

impl Eq for TopicImage {}

impl TopicImage {
    /// What its node in the tree has: a change of the topic begins with it.
    pub(crate) fn node(&self) -> TopicNode {
        TopicNode {
            id: self.id,
            assignment: (*self.assignment).clone(),
            grows_to: self.grows_to,
            queued: (*self.queued).clone(),
        }
    }

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

    /// The replicas that a partition is to get when it is its turn.
    pub fn queued(&self, partition: PartitionId) -> Option<&Vec<BrokerId>> {
        self.queued.get(&partition)
    }

    /// The reassignment of a partition, whether it is under way or waits for its turn.
    pub fn reassignment(&self, partition: PartitionId) -> Option<Assignment> {
        let state = self.partition(partition)?;
        let Some(target) = self.queued(partition) else {
            return state.is_reassigning().then(|| state.assignment());
        };
        let original = state.assignment().original();
        let without = |all: &[BrokerId], some: &[BrokerId]| -> Vec<BrokerId> {
            all.iter().copied().filter(|broker| !some.contains(broker)).collect()
        };
        let (adding, removing) = (without(target, &original), without(&original, target));
        let replicas = target.iter().chain(&removing).copied().collect();
        Some(Assignment { replicas, reassignment: Some(Box::new(Reassignment { adding, removing })) })
    }

    pub(crate) fn assigned(&self, partition: PartitionId) -> Option<&Assignment> {
        let at = self.assignment.binary_search_by_key(&partition, |(id, _)| *id).ok()?;
        self.assignment.get(at).map(|(_, assignment)| assignment)
    }
}
