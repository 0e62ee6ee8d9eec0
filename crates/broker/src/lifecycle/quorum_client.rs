//! [`QuorumHandle`] over the rpc client: calls run on the control runtime, whoever waits for them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::controller::{
    AlterConfigs, ConfigOutcomes, CreatePartitions, CreateTopics, DeleteTopics, Refusal, ResignReason, TopicOutcome,
    TopicOutcomes, TopicRef,
};
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionId, ProducerId, Revision, TopicId,
    TopicIdPartition,
};
use ottla_rpc::{CallError, ClusterClient, cluster, convert};
use tokio::runtime::Handle;

use crate::broker::Identity;
use crate::quorum_handle::{
    AlterPartition, AlterPartitionsAnswer, AlteredPartition, CALL_TIMEOUT, ProducerIdBlock, QuorumError, QuorumFuture,
    QuorumHandle,
};

pub struct QuorumClient {
    client: ClusterClient,
    control: Handle,
    identity: Arc<Identity>,
}

impl QuorumClient {
    pub fn new(client: ClusterClient, control: Handle, identity: Arc<Identity>) -> Self {
        Self { client, control, identity }
    }

    /// Runs on the control runtime to its end, also when nobody waits for it any more.
    fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, QuorumError>> + Send + 'static,
    ) -> QuorumFuture<T> {
        let task = self.control.spawn(call);
        Box::pin(async move { task.await.unwrap_or_else(|_stopped| Err(QuorumError::NotRegistered)) })
    }

    fn registered(&self) -> Result<(i32, i64), QuorumError> {
        let (id, epoch) = (self.identity.id(), self.identity.epoch());
        if id == BrokerId::NONE || epoch == BrokerEpoch::NONE {
            return Err(QuorumError::NotRegistered);
        }
        Ok((id.0, epoch.0))
    }
}

pub fn error_of(error: CallError) -> QuorumError {
    match error {
        CallError::Deadline { maybe_done: true, .. } | CallError::StreamEnded { .. } | CallError::Malformed { .. } => {
            QuorumError::Unknown(error.to_string())
        }
        CallError::Deadline { .. }
        | CallError::Address { .. }
        | CallError::NoCoordinator
        | CallError::Refused { .. } => QuorumError::Unavailable(error.to_string()),
    }
}

fn code(error: i32) -> ErrorCode {
    i16::try_from(error).ok().and_then(ErrorCode::from_code).unwrap_or(ErrorCode::UnknownServerError)
}

fn topic_id(bytes: &[u8]) -> TopicId {
    TopicId::from_slice(bytes).unwrap_or(TopicId::ZERO)
}

fn id_bytes(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn ids(brokers: Vec<BrokerId>) -> Vec<i32> {
    brokers.into_iter().map(|id| id.0).collect()
}

impl QuorumHandle for QuorumClient {
    fn alter_partitions(&self, changes: Vec<AlterPartition>) -> QuorumFuture<AlterPartitionsAnswer> {
        let (broker_id, broker_epoch) = match self.registered() {
            Ok(registered) => registered,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let partitions = changes
            .into_iter()
            .map(|change| cluster::AlterPartition {
                topic_id: id_bytes(change.topic_id),
                partition: change.partition.0,
                leader_epoch: change.leader_epoch.0,
                partition_epoch: change.partition_epoch.0,
                isr: change
                    .isr
                    .into_iter()
                    .map(|(broker, epoch)| cluster::IsrMember { broker_id: broker.0, broker_epoch: epoch.0 })
                    .collect(),
            })
            .collect();
        let request = cluster::AlterPartitionsRequest { broker_id, broker_epoch, partitions };
        let client = self.client.clone();
        self.run(async move {
            let response = client.alter_partitions(request, CALL_TIMEOUT).await.map_err(error_of)?;
            let partitions = response
                .partitions
                .into_iter()
                .map(|result| AlteredPartition {
                    topic_id: topic_id(&result.topic_id),
                    partition: PartitionId(result.partition),
                    error: code(result.error_code),
                    leader: BrokerId(result.leader),
                    leader_epoch: LeaderEpoch(result.leader_epoch),
                    partition_epoch: PartitionEpoch(result.partition_epoch),
                    isr: result.isr.into_iter().map(BrokerId).collect(),
                })
                .collect();
            let revision = Revision(response.revision);
            Ok(AlterPartitionsAnswer { error: code(response.error_code), partitions, revision })
        })
    }

    fn resign_leadership(&self, partitions: Vec<TopicIdPartition>, reason: ResignReason) -> QuorumFuture<Revision> {
        let (broker_id, broker_epoch) = match self.registered() {
            Ok(registered) => registered,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let partitions = partitions
            .into_iter()
            .map(|partition| cluster::TopicIdPartition {
                topic_id: id_bytes(partition.topic_id),
                partition: partition.partition.0,
            })
            .collect();
        let reason = convert::resign_reason_to_proto(reason).into();
        let request = cluster::ResignLeadershipRequest { broker_id, broker_epoch, partitions, reason };
        let client = self.client.clone();
        self.run(async move {
            let response = client.resign_leadership(request, CALL_TIMEOUT).await.map_err(error_of)?;
            match code(response.error_code) {
                ErrorCode::None => Ok(Revision(response.revision)),
                ErrorCode::StaleBrokerEpoch => Err(QuorumError::NotRegistered),
                other => Err(QuorumError::Unavailable(format!("{other:?}"))),
            }
        })
    }

    fn allocate_producer_ids(&self) -> QuorumFuture<ProducerIdBlock> {
        let (broker_id, broker_epoch) = match self.registered() {
            Ok(registered) => registered,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let request = cluster::AllocateProducerIdsRequest { broker_id, broker_epoch };
        let client = self.client.clone();
        self.run(async move {
            let response = client.allocate_producer_ids(request, CALL_TIMEOUT).await.map_err(error_of)?;
            match code(response.error_code) {
                ErrorCode::None => {
                    Ok(ProducerIdBlock { first: ProducerId(response.first_producer_id), count: response.count })
                }
                ErrorCode::StaleBrokerEpoch => Err(QuorumError::NotRegistered),
                other => Err(QuorumError::Unavailable(format!("{other:?}"))),
            }
        })
    }

    fn create_topics(&self, command: CreateTopics, timeout: Duration) -> QuorumFuture<TopicOutcomes> {
        let topics = command
            .topics
            .into_iter()
            .map(|topic| cluster::NewTopic {
                name: topic.name,
                partitions: topic.partitions,
                replication_factor: topic.replication_factor,
                grows_to: topic.grows_to,
                assignments: topic
                    .assignments
                    .into_iter()
                    .map(|(partition, brokers)| cluster::ReplicaAssignment {
                        partition: partition.0,
                        broker_ids: ids(brokers),
                    })
                    .collect(),
                configs: topic.configs.into_iter().map(|(name, value)| cluster::ConfigEntry { name, value }).collect(),
            })
            .collect();
        let request = cluster::CreateTopicsRequest {
            topics,
            validate_only: command.validate_only,
            default_partitions: command.default_partitions,
            default_replication_factor: command.default_replication_factor,
        };
        let client = self.client.clone();
        self.run(async move {
            let response = client.create_topics(request, timeout).await.map_err(error_of)?;
            Ok(outcomes(response.topics, response.revision))
        })
    }

    fn delete_topics(&self, command: DeleteTopics, timeout: Duration) -> QuorumFuture<TopicOutcomes> {
        let topics = command
            .topics
            .into_iter()
            .map(|topic| cluster::TopicRef {
                topic: Some(match topic {
                    TopicRef::Name(name) => cluster::topic_ref::Topic::Name(name),
                    TopicRef::Id(id) => cluster::topic_ref::Topic::TopicId(id_bytes(id)),
                }),
            })
            .collect();
        let request = cluster::DeleteTopicsRequest { topics };
        let client = self.client.clone();
        self.run(async move {
            let response = client.delete_topics(request, timeout).await.map_err(error_of)?;
            Ok(outcomes(response.topics, response.revision))
        })
    }

    fn alter_configs(&self, command: AlterConfigs, timeout: Duration) -> QuorumFuture<ConfigOutcomes> {
        let request = convert::alter_configs_to_proto(command);
        let client = self.client.clone();
        self.run(async move {
            let response = client.alter_configs(request, timeout).await.map_err(error_of)?;
            convert::config_outcomes_from_proto(response).map_err(|error| QuorumError::Unknown(error.to_string()))
        })
    }

    fn create_partitions(&self, command: CreatePartitions, timeout: Duration) -> QuorumFuture<TopicOutcomes> {
        let topics = command
            .topics
            .into_iter()
            .map(|topic| cluster::NewPartitions {
                topic: topic.topic,
                total: topic.total,
                assignments: topic
                    .assignments
                    .into_iter()
                    .map(|brokers| cluster::ReplicaAssignment { partition: -1, broker_ids: ids(brokers) })
                    .collect(),
            })
            .collect();
        let request = cluster::CreatePartitionsRequest { topics, validate_only: command.validate_only };
        let client = self.client.clone();
        self.run(async move {
            let response = client.create_partitions(request, timeout).await.map_err(error_of)?;
            Ok(outcomes(response.topics, response.revision))
        })
    }
}

fn outcomes(topics: Vec<cluster::TopicResult>, revision: u64) -> TopicOutcomes {
    let topics = topics
        .into_iter()
        .map(|result| {
            let error = code(result.error_code);
            TopicOutcome {
                name: result.name,
                id: topic_id(&result.topic_id),
                refusal: (!error.is_ok()).then(|| Refusal::new(error, result.error_message)),
                partitions: result.partitions,
                replication_factor: result.replication_factor,
            }
        })
        .collect();
    TopicOutcomes { topics, revision: Revision(revision) }
}
