//! The topics that members read. Clients see a change at once, each broker when its image has it.

use std::collections::{BTreeMap, BTreeSet};

use ottla_group_coordinator::{TopicView, Topics};
use ottla_model::{BrokerId, PartitionId, TopicId, TopicName};

/// A partition by its topic's name.
pub type Tp = (String, i32);
/// A partition by its topic's id: a topic that is created again is another one.
pub type IdTp = (TopicId, i32);
/// The ids under which a client knows topics.
pub type TopicIds = BTreeMap<String, TopicId>;

pub fn by_id(partitions: &BTreeSet<Tp>, ids: &TopicIds) -> BTreeSet<IdTp> {
    partitions.iter().filter_map(|(topic, partition)| Some((*ids.get(topic)?, *partition))).collect()
}

/// Expressions that members subscribe by, with the topics that they match.
pub const EXPRESSIONS: &[(&str, &[&str])] = &[
    ("topic-.*", &["topic-0", "topic-1", "topic-2"]),
    ("topic-[01]", &["topic-0", "topic-1"]),
    ("(.*-0|topic-2)", &["topic-0", "topic-2"]),
];

/// The topics that one of [`EXPRESSIONS`] matches, whether they exist or not.
pub fn matched(expression: &str) -> BTreeSet<String> {
    let found = EXPRESSIONS.iter().find(|(known, _)| *known == expression);
    found.into_iter().flat_map(|(_, topics)| *topics).map(|topic| (*topic).to_owned()).collect()
}

#[derive(Clone, Debug, Default)]
pub struct SimTopics {
    topics: BTreeMap<String, TopicView>,
    version: u64,
    /// Moves all replicas to other racks.
    rack_shift: i32,
}

impl SimTopics {
    pub fn create(&mut self, name: &str, partitions: i32) {
        let Ok(topic) = TopicName::new(name) else { return };
        self.version += 1;
        let mut id = [7_u8; 16];
        id[8..].copy_from_slice(&self.version.to_be_bytes());
        self.topics.insert(name.to_owned(), TopicView { id: TopicId(id), name: topic, partitions });
    }

    pub fn add_partition(&mut self, name: &str) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.partitions += 1;
            self.version += 1;
        }
    }

    pub fn delete(&mut self, name: &str) {
        if self.topics.remove(name).is_some() {
            self.version += 1;
        }
    }

    pub fn move_racks(&mut self) {
        self.rack_shift = (self.rack_shift + 1) % 3;
    }

    /// The topics that were deleted on the way to `next`, those that were created again included.
    pub fn deleted_until(&self, next: &Self) -> Vec<TopicName> {
        let gone = self.topics.values().filter(|topic| next.by_id(topic.id).is_none());
        gone.map(|topic| topic.name.clone()).collect()
    }

    pub fn ids(&self) -> TopicIds {
        self.topics.iter().map(|(name, topic)| (name.clone(), topic.id)).collect()
    }

    pub fn all_names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    pub fn partitions_of<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> BTreeSet<Tp> {
        let views = names.into_iter().filter_map(|name| self.topics.get(name));
        views.flat_map(|view| (0..view.partitions).map(|partition| (view.name.to_string(), partition))).collect()
    }

    pub fn id(&self, name: &str) -> TopicId {
        self.topics.get(name).map_or(TopicId::ZERO, |view| view.id)
    }

    pub fn name(&self, id: TopicId) -> Option<String> {
        self.by_id(id).map(|view| view.name.to_string())
    }
}

impl Topics for SimTopics {
    fn by_name(&self, name: &str) -> Option<TopicView> {
        self.topics.get(name).cloned()
    }

    fn by_id(&self, id: TopicId) -> Option<TopicView> {
        self.topics.values().find(|view| view.id == id).cloned()
    }

    fn names(&self, each: &mut dyn FnMut(&TopicName)) {
        self.topics.values().for_each(|view| each(&view.name));
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn racks(&self, _: TopicId, partition: PartitionId) -> Vec<String> {
        (0..2).map(|replica| format!("rack-{}", (partition.0 + replica + self.rack_shift) % 3)).collect()
    }

    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}
