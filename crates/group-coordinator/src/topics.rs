//! What groups need to know of the cluster's topics, as the host's image has it at the moment of the step.

use std::fmt;
use std::sync::Arc;

use ottla_model::{BrokerId, PartitionId, TopicId, TopicName};

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicView {
    pub id: TopicId,
    pub name: TopicName,
    /// The number of partitions, from 0.
    pub partitions: i32,
}

type IsVisible = dyn Fn(&str) -> bool + Send + Sync;

/// The topics that somebody may know of; the default: all.
#[derive(Clone, Default)]
pub struct VisibleTopics(Option<Arc<IsVisible>>);

impl VisibleTopics {
    pub fn only(is_visible: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_visible)))
    }

    pub(crate) fn contain(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|is_visible| is_visible(name))
    }
}

impl PartialEq for VisibleTopics {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }
}

impl Eq for VisibleTopics {}

impl fmt::Debug for VisibleTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { "all" } else { "some" })
    }
}

/// The topics of one image.
pub trait Topics {
    fn by_name(&self, name: &str) -> Option<TopicView>;
    fn by_id(&self, id: TopicId) -> Option<TopicView>;
    /// Whether there is a topic of this name that this release cannot read: it is not gone, though nothing is known of
    /// it. Only hosts that read what another release may have written have such topics.
    fn is_unreadable(&self, _name: &str) -> bool {
        false
    }
    /// Every topic's name, in order. For regular expressions only: it is as long as the cluster is large.
    fn names(&self, each: &mut dyn FnMut(&TopicName));
    /// Grows whenever a topic was created, deleted or given partitions; equal numbers mean equal topics (on one host).
    fn version(&self) -> u64;
    /// The racks of the brokers that hold a partition's replicas, where they have one.
    fn racks(&self, id: TopicId, partition: PartitionId) -> Vec<String>;
    /// The broker that hosts this shard.
    fn here(&self) -> BrokerId;
}
