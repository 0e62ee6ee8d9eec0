//! The topics that members read. All brokers and clients see a change at once: what an image that lags does is the other
//! simulation's matter.

use std::collections::{BTreeMap, BTreeSet};

use ottla_group_coordinator::{TopicView, Topics};
use ottla_model::{BrokerId, PartitionId, TopicId, TopicName};

/// A partition by its topic's name.
pub type Tp = (String, i32);

#[derive(Clone, Debug, Default)]
pub struct SimTopics {
    topics: BTreeMap<String, TopicView>,
    version: u64,
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

    fn racks(&self, _: TopicId, _: PartitionId) -> Vec<String> {
        Vec::new()
    }

    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}
