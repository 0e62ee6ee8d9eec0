//! Partitions and brokers of tests, by short names.

use ottla_model::{BrokerId, PartitionId, TopicName, TopicPartition};

pub fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new(topic).expect("a name"), PartitionId(partition))
}

pub fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}
