//! The cluster's topics, as groups see them: an image, and a number that grows when its topics change.

use std::sync::Arc;

use ottla_group_coordinator::{TopicView, Topics};
use ottla_metadata::{Delta, Image, TopicImage};
use ottla_model::{BrokerId, PartitionId, TopicId, TopicIdPartition, TopicName};

use ottla_replica_manager::identity::Identity;

pub(super) struct ImageTopics {
    image: Arc<Image>,
    version: u64,
    identity: Arc<Identity>,
}

impl ImageTopics {
    /// No topics.
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { image: Arc::new(Image::empty()), version: 0, identity }
    }

    /// The topics of a newer image.
    pub fn next(&self, image: &Arc<Image>, delta: &Delta) -> Self {
        let grew = || delta.partitions.iter().any(|change| change.old.is_none() != change.new.is_none());
        let changed = !delta.topics_created.is_empty() || !delta.topics_deleted.is_empty() || grew();
        Self {
            image: Arc::clone(image),
            version: self.version + u64::from(changed),
            identity: Arc::clone(&self.identity),
        }
    }
}

fn view(topic: &TopicImage) -> TopicView {
    let partitions = i32::try_from(topic.partition_count()).unwrap_or(i32::MAX);
    TopicView { id: topic.id, name: topic.name.clone(), partitions }
}

impl Topics for ImageTopics {
    fn by_name(&self, name: &str) -> Option<TopicView> {
        self.image.topic(name).map(|topic| view(topic))
    }

    fn by_id(&self, id: TopicId) -> Option<TopicView> {
        self.image.topic_by_id(id).map(|topic| view(topic))
    }

    fn is_unreadable(&self, name: &str) -> bool {
        self.image.is_unreadable_topic(name)
    }

    fn names(&self, each: &mut dyn FnMut(&TopicName)) {
        self.image.topics().for_each(|topic| each(&topic.name));
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn racks(&self, id: TopicId, partition: PartitionId) -> Vec<String> {
        let state = self.image.partition(TopicIdPartition { topic_id: id, partition });
        let replicas = state.map(|state| state.replicas.as_slice()).unwrap_or_default();
        replicas.iter().filter_map(|broker| self.image.broker(*broker)?.rack.clone()).collect()
    }

    fn here(&self) -> BrokerId {
        self.identity.id()
    }
}
