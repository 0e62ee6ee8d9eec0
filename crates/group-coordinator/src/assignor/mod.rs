//! Server-side assignors (KIP-848): who of a group's members shall own which partition.
//!
//! An assignor is a pure function of the members' subscriptions, what they are to own now, and the topics. Invariants
//! of every one: each partition of a topic that somebody reads goes to exactly one of its readers; nobody gets a topic
//! that it does not read. As in Kafka 4, racks do not weigh in: they only make a group look again when they change.

mod heterogeneous;
mod homogeneous;
mod range;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{InstanceId, MemberId, PartitionId, TopicId};

/// Partitions by topic; no topic without a partition.
pub type Partitions = BTreeMap<TopicId, BTreeSet<PartitionId>>;

/// One member, as assignors see it.
#[derive(Clone, Debug)]
pub struct MemberSpec<'a> {
    pub member: &'a MemberId,
    pub instance: Option<&'a InstanceId>,
    /// The topics that it reads and that exist; members that read the same may share the set.
    pub subscribed: Arc<BTreeSet<TopicId>>,
    /// What it was to own before. No partition is in two members' sets.
    pub current: &'a Partitions,
}

/// What an assignor works on.
#[derive(Clone, Debug)]
pub struct GroupSpec<'a> {
    /// In the order of their ids.
    pub members: Vec<MemberSpec<'a>>,
    /// The number of partitions of every topic that a member reads.
    pub topics: &'a BTreeMap<TopicId, i32>,
}

/// An assignor that runs here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assignor {
    /// Balanced over all topics, and each member keeps what it need not give up.
    Uniform,
    /// Contiguous ranges of each topic, the same for topics with as many partitions.
    Range,
}

impl Assignor {
    /// By its name in `group.consumer.assignors` and in requests; Kafka's class names are taken too.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "uniform" | "org.apache.kafka.coordinator.group.assignor.UniformAssignor" => Some(Self::Uniform),
            "range" | "org.apache.kafka.coordinator.group.assignor.RangeAssignor" => Some(Self::Range),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// What each member shall own, in the members' order.
    pub fn assign(self, spec: &GroupSpec<'_>) -> Vec<Partitions> {
        match self {
            Self::Range => range::assign(spec),
            Self::Uniform if spec.is_homogeneous() => homogeneous::assign(spec),
            Self::Uniform => heterogeneous::assign(spec),
        }
    }
}

impl GroupSpec<'_> {
    /// All members read the same topics.
    fn is_homogeneous(&self) -> bool {
        self.members.windows(2).all(|pair| match pair {
            [a, b] => Arc::ptr_eq(&a.subscribed, &b.subscribed) || a.subscribed == b.subscribed,
            _ => true,
        })
    }

    /// The number of partitions of a topic; a topic that is not known has none.
    fn partitions_of(&self, topic: TopicId) -> usize {
        self.topics.get(&topic).map_or(0, |count| usize::try_from(*count).unwrap_or(0))
    }
}

fn index_of(partition: PartitionId) -> usize {
    usize::try_from(partition.0).unwrap_or(usize::MAX)
}

fn partition_at(index: usize) -> PartitionId {
    PartitionId(i32::try_from(index).unwrap_or(i32::MAX))
}
