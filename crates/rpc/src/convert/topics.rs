//! Topics: create, delete, grow.

use ottla_metadata::controller::{
    CreatePartitions, CreateTopics, DeleteTopics, NewPartitions, NewTopic, TopicOutcome, TopicOutcomes, TopicRef,
};
use ottla_model::{BrokerId, PartitionId};

use super::{InvalidField, refusal_parts, topic_id};
use crate::cluster;

fn brokers(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

pub fn create_topics_from_proto(wire: cluster::CreateTopicsRequest) -> CreateTopics {
    let topic = |topic: cluster::NewTopic| NewTopic {
        name: topic.name,
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        grows_to: topic.grows_to,
        assignments: topic
            .assignments
            .into_iter()
            .map(|assignment| (PartitionId(assignment.partition), brokers(assignment.broker_ids)))
            .collect(),
        configs: topic.configs.into_iter().map(|entry| (entry.name, entry.value)).collect(),
    };
    CreateTopics {
        topics: wire.topics.into_iter().map(topic).collect(),
        validate_only: wire.validate_only,
        default_partitions: wire.default_partitions,
        default_replication_factor: wire.default_replication_factor,
    }
}

pub fn delete_topics_from_proto(wire: cluster::DeleteTopicsRequest) -> Result<DeleteTopics, InvalidField> {
    use cluster::topic_ref::Topic;
    let topics = wire.topics.into_iter().map(|topic| match topic.topic {
        Some(Topic::Name(name)) => Ok(TopicRef::Name(name)),
        Some(Topic::TopicId(id)) => Ok(TopicRef::Id(topic_id(&id)?)),
        None => Err(InvalidField::new("topics", "a topic without name and id")),
    });
    Ok(DeleteTopics { topics: topics.collect::<Result<_, _>>()? })
}

pub fn create_partitions_from_proto(wire: cluster::CreatePartitionsRequest) -> CreatePartitions {
    let topic = |topic: cluster::NewPartitions| NewPartitions {
        topic: topic.topic,
        total: topic.total,
        assignments: topic.assignments.into_iter().map(|assignment| brokers(assignment.broker_ids)).collect(),
    };
    CreatePartitions { topics: wire.topics.into_iter().map(topic).collect(), validate_only: wire.validate_only }
}

fn result(outcome: TopicOutcome) -> cluster::TopicResult {
    let (error_code, error_message) = refusal_parts(outcome.refusal.as_ref());
    cluster::TopicResult {
        name: outcome.name,
        topic_id: outcome.id.0.to_vec().into(),
        error_code,
        error_message,
        partitions: outcome.partitions,
        replication_factor: outcome.replication_factor,
    }
}

fn results(outcomes: TopicOutcomes) -> (Vec<cluster::TopicResult>, u64) {
    (outcomes.topics.into_iter().map(result).collect(), outcomes.revision.0)
}

pub fn topics_created_to_proto(outcomes: TopicOutcomes) -> cluster::CreateTopicsResponse {
    let (topics, revision) = results(outcomes);
    cluster::CreateTopicsResponse { topics, revision }
}

pub fn topics_deleted_to_proto(outcomes: TopicOutcomes) -> cluster::DeleteTopicsResponse {
    let (topics, revision) = results(outcomes);
    cluster::DeleteTopicsResponse { topics, revision }
}

pub fn partitions_outcomes_to_proto(outcomes: TopicOutcomes) -> cluster::CreatePartitionsResponse {
    let (topics, revision) = results(outcomes);
    cluster::CreatePartitionsResponse { topics, revision }
}
