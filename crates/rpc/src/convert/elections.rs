//! Elections on demand, and reassignments.

use ottla_metadata::controller::{AlterReassignments, ElectLeaders, ElectionType, PartitionOutcome, PartitionOutcomes};
use ottla_model::{BrokerId, PartitionId, Revision};

use super::{InvalidField, Wire, refusal_from_proto, refusal_to_proto};
use crate::cluster;

impl Wire for ElectLeaders {
    type Message = cluster::ElectLeadersRequest;

    fn into_proto(self) -> Self::Message {
        let election_type = match self.election {
            ElectionType::Preferred => cluster::ElectionType::Preferred,
            ElectionType::Unclean => cluster::ElectionType::Unclean,
        };
        let all_partitions = self.topics.is_none();
        let partitions = |(topic, partitions): (String, Vec<PartitionId>)| cluster::TopicPartitions {
            topic,
            partitions: partitions.into_iter().map(|partition| partition.0).collect(),
        };
        let topics = self.topics.into_iter().flatten().map(partitions).collect();
        cluster::ElectLeadersRequest { election_type: election_type.into(), all_partitions, topics }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let election = match cluster::ElectionType::try_from(message.election_type) {
            Ok(cluster::ElectionType::Preferred) => ElectionType::Preferred,
            Ok(cluster::ElectionType::Unclean) => ElectionType::Unclean,
            Err(_) => return Err(InvalidField::new("election_type", message.election_type.to_string())),
        };
        let partitions = |named: cluster::TopicPartitions| {
            (named.topic, named.partitions.into_iter().map(PartitionId).collect::<Vec<_>>())
        };
        let topics = (!message.all_partitions).then(|| message.topics.into_iter().map(partitions).collect());
        Ok(Self { election, topics })
    }
}

impl Wire for AlterReassignments {
    type Message = cluster::AlterReassignmentsRequest;

    fn into_proto(self) -> Self::Message {
        let target = |(partition, target): (PartitionId, Option<Vec<BrokerId>>)| cluster::ReplicaTarget {
            partition: partition.0,
            cancel: target.is_none(),
            broker_ids: target.into_iter().flatten().map(|broker| broker.0).collect(),
        };
        let topic = |(topic, partitions): (String, Vec<_>)| cluster::TopicReassignment {
            topic,
            partitions: partitions.into_iter().map(target).collect(),
        };
        cluster::AlterReassignmentsRequest {
            topics: self.topics.into_iter().map(topic).collect(),
            allow_replication_factor_change: self.allow_replication_factor_change,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let target = |target: cluster::ReplicaTarget| {
            let brokers = target.broker_ids.into_iter().map(BrokerId).collect();
            (PartitionId(target.partition), (!target.cancel).then_some(brokers))
        };
        let topic =
            |topic: cluster::TopicReassignment| (topic.topic, topic.partitions.into_iter().map(target).collect());
        Ok(Self {
            topics: message.topics.into_iter().map(topic).collect(),
            allow_replication_factor_change: message.allow_replication_factor_change,
        })
    }
}

impl Wire for PartitionOutcomes {
    type Message = cluster::PartitionResults;

    fn into_proto(self) -> Self::Message {
        let result = |topic: &str, outcome: PartitionOutcome| {
            let (error_code, error_message) = refusal_to_proto(outcome.refusal);
            let topic = topic.to_owned();
            cluster::PartitionResult { topic, partition: outcome.partition.0, error_code, error_message }
        };
        let results = self.topics.into_iter().flat_map(|(topic, outcomes)| {
            outcomes.into_iter().map(|outcome| result(&topic, outcome)).collect::<Vec<_>>()
        });
        cluster::PartitionResults { results: results.collect(), revision: self.revision.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let mut topics: Vec<(String, Vec<PartitionOutcome>)> = Vec::new();
        for result in message.results {
            let refusal = refusal_from_proto(result.error_code, result.error_message);
            let outcome = PartitionOutcome { partition: PartitionId(result.partition), refusal };
            match topics.last_mut() {
                Some((topic, outcomes)) if *topic == result.topic => outcomes.push(outcome),
                _ => topics.push((result.topic, vec![outcome])),
            }
        }
        Ok(Self { topics, revision: Revision(message.revision) })
    }
}
