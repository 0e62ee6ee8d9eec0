//! Topics: create, delete, grow.

use ottla_metadata::controller::{
    CreatePartitions, CreateTopics, DeleteTopics, NewPartitions, NewTopic, TopicOutcome, TopicOutcomes, TopicRef,
};
use ottla_model::{BrokerId, PartitionId, Revision};

use super::{InvalidField, Wire, refusal_from_proto, refusal_to_proto, topic_id, topic_id_to_proto};
use crate::cluster;

fn brokers(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn assignment(partition: i32, brokers: Vec<BrokerId>) -> cluster::ReplicaAssignment {
    cluster::ReplicaAssignment { partition, broker_ids: brokers.into_iter().map(|id| id.0).collect() }
}

impl Wire for NewTopic {
    type Message = cluster::NewTopic;

    fn into_proto(self) -> Self::Message {
        let assignments = self.assignments.into_iter().map(|(partition, brokers)| assignment(partition.0, brokers));
        cluster::NewTopic {
            name: self.name,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            assignments: assignments.collect(),
            configs: self.configs.into_iter().map(|(name, value)| cluster::ConfigEntry { name, value }).collect(),
            grows_to: self.grows_to,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let assignment = |assignment: cluster::ReplicaAssignment| {
            (PartitionId(assignment.partition), brokers(assignment.broker_ids))
        };
        Ok(Self {
            name: message.name,
            partitions: message.partitions,
            replication_factor: message.replication_factor,
            grows_to: message.grows_to,
            assignments: message.assignments.into_iter().map(assignment).collect(),
            configs: message.configs.into_iter().map(|entry| (entry.name, entry.value)).collect(),
        })
    }
}

impl Wire for CreateTopics {
    type Message = cluster::CreateTopicsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::CreateTopicsRequest {
            topics: self.topics.into_iter().map(Wire::into_proto).collect(),
            validate_only: self.validate_only,
            default_partitions: self.default_partitions,
            default_replication_factor: self.default_replication_factor,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            topics: message.topics.into_iter().map(Wire::from_proto).collect::<Result<_, _>>()?,
            validate_only: message.validate_only,
            default_partitions: message.default_partitions,
            default_replication_factor: message.default_replication_factor,
        })
    }
}

impl Wire for TopicRef {
    type Message = cluster::TopicRef;

    fn into_proto(self) -> Self::Message {
        let topic = match self {
            Self::Name(name) => cluster::topic_ref::Topic::Name(name),
            Self::Id(id) => cluster::topic_ref::Topic::TopicId(topic_id_to_proto(id)),
        };
        cluster::TopicRef { topic: Some(topic) }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        match message.topic {
            Some(cluster::topic_ref::Topic::Name(name)) => Ok(Self::Name(name)),
            Some(cluster::topic_ref::Topic::TopicId(id)) => Ok(Self::Id(topic_id(&id)?)),
            None => Err(InvalidField::new("topics", "a topic without name and id")),
        }
    }
}

impl Wire for DeleteTopics {
    type Message = cluster::DeleteTopicsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::DeleteTopicsRequest { topics: self.topics.into_iter().map(Wire::into_proto).collect() }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self { topics: message.topics.into_iter().map(Wire::from_proto).collect::<Result<_, _>>()? })
    }
}

impl Wire for NewPartitions {
    type Message = cluster::NewPartitions;

    fn into_proto(self) -> Self::Message {
        // Added partitions have no numbers yet: their order counts.
        let assigned = self.assignments.is_some();
        let assignments = self.assignments.into_iter().flatten().map(|brokers| assignment(-1, brokers)).collect();
        cluster::NewPartitions { topic: self.topic, total: self.total, assignments, assigned }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let assignments: Vec<_> =
            message.assignments.into_iter().map(|assignment| brokers(assignment.broker_ids)).collect();
        // A broker of 0.1 does not say it.
        let assigned = message.assigned || !assignments.is_empty();
        Ok(Self { topic: message.topic, total: message.total, assignments: assigned.then_some(assignments) })
    }
}

impl Wire for CreatePartitions {
    type Message = cluster::CreatePartitionsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::CreatePartitionsRequest {
            topics: self.topics.into_iter().map(Wire::into_proto).collect(),
            validate_only: self.validate_only,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            topics: message.topics.into_iter().map(Wire::from_proto).collect::<Result<_, _>>()?,
            validate_only: message.validate_only,
        })
    }
}

impl Wire for TopicOutcome {
    type Message = cluster::TopicResult;

    fn into_proto(self) -> Self::Message {
        let (error_code, error_message) = refusal_to_proto(self.refusal);
        cluster::TopicResult {
            name: self.name,
            topic_id: topic_id_to_proto(self.id),
            error_code,
            error_message,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            name: message.name,
            id: topic_id(&message.topic_id)?,
            refusal: refusal_from_proto(message.error_code, message.error_message),
            partitions: message.partitions,
            replication_factor: message.replication_factor,
        })
    }
}

impl Wire for TopicOutcomes {
    type Message = cluster::TopicResults;

    fn into_proto(self) -> Self::Message {
        cluster::TopicResults {
            topics: self.topics.into_iter().map(Wire::into_proto).collect(),
            revision: self.revision.0,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            topics: message.topics.into_iter().map(Wire::from_proto).collect::<Result<_, _>>()?,
            revision: Revision(message.revision),
        })
    }
}
