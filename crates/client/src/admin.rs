//! Administration of topics: create, delete, enlarge and describe. Every broker accepts these requests; the controller
//! in Metadata gets them first.
//!
//! They are retried only if nothing was sent: a creation whose response was lost may have happened, and the caller
//! decides what "already exists" then means.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response::{Listener, ReplicaState};
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeQuorumRequest,
    DescribeTopicPartitionsRequest, RemoveRaftVoterRequest, UnregisterBrokerRequest,
};
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, TopicId};
use ottla_protocol::Api;

use crate::cluster::Client;
use crate::convert::{checked, error_of, from_wire, millis, text, to_wire, topic_name};
use crate::error::{ClientError, Outcome};
use crate::metadata::{BrokerAddress, TopicView};

/// The first version of DescribeCluster that can name brokers that are down.
const FENCED_BROKERS_FROM: i16 = 2;

/// A topic to create.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// −1 for the broker's default, and where `assignments` say it.
    pub partition_count: i32,
    /// −1 for the broker's default, and where `assignments` say it.
    pub replication_factor: i16,
    /// Which brokers hold which partition, the preferred leader first; empty for the controller's choice.
    pub assignments: BTreeMap<PartitionId, Vec<BrokerId>>,
    pub configs: BTreeMap<String, String>,
}

/// The metadata quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumDescription {
    pub leader: i32,
    pub leader_epoch: i32,
    pub high_watermark: i64,
    pub voters: Vec<QuorumReplica>,
    pub observers: Vec<QuorumReplica>,
    /// The addresses of each voter.
    pub endpoints: BTreeMap<i32, Vec<String>>,
}

/// A voter or an observer of the metadata quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumReplica {
    pub id: i32,
    /// The id of its disk; zero if it is not known.
    pub directory: TopicId,
    pub log_end_offset: i64,
    /// Wall clock of the leader; −1: never.
    pub last_fetch_ms: i64,
    pub last_caught_up_ms: i64,
}

/// More partitions for a topic.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewPartitions {
    pub topic: String,
    /// How many there shall be in all.
    pub total: i32,
    /// The brokers of each new partition; none for the controller's choice.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// The outcome of one topic of an admin request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicOutcome {
    pub name: String,
    pub error: ErrorCode,
    pub message: Option<String>,
    /// All zero if the response does not contain it.
    pub topic_id: TopicId,
    /// −1 if the response does not contain it.
    pub partition_count: i32,
    /// −1 if the response does not contain it.
    pub replication_factor: i16,
}

impl TopicOutcome {
    /// The outcome as a result.
    pub fn into_result(self) -> Result<Self, ClientError> {
        if self.error.is_ok() {
            Ok(self)
        } else {
            Err(ClientError::Refused { code: self.error, message: self.message })
        }
    }
}

/// A topic with all that DescribeTopicPartitions shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedTopic {
    pub name: String,
    pub id: TopicId,
    pub error: ErrorCode,
    pub is_internal: bool,
    pub partitions: Vec<DescribedPartition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedPartition {
    pub partition: PartitionId,
    pub error: ErrorCode,
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub offline_replicas: Vec<BrokerId>,
    /// None if the broker does not send it.
    pub elr: Option<Vec<BrokerId>>,
    /// None if the broker does not send it.
    pub last_known_elr: Option<Vec<BrokerId>>,
}

/// The cluster as DescribeCluster shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterDescription {
    pub cluster_id: String,
    pub controller: Option<BrokerId>,
    pub brokers: Vec<DescribedBroker>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedBroker {
    pub address: BrokerAddress,
    pub is_fenced: bool,
}

pub(crate) fn only_unsent(error: &ClientError) -> bool {
    error.outcome() == Outcome::NotSent
}

impl Client {
    /// Creates topics; `validate_only` only checks whether they could be created. One outcome for each topic.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        timeout: Duration,
        validate_only: bool,
    ) -> Result<Vec<TopicOutcome>, ClientError> {
        let wire_topics = topics.iter().map(|topic| {
            let assignments = topic.assignments.iter().map(|(partition, brokers)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(partition.0)
                    .with_broker_ids(to_wire(brokers))
            });
            let configs = topic.configs.iter().map(|(name, value)| {
                CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
            });
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partition_count)
                .with_replication_factor(topic.replication_factor)
                .with_assignments(assignments.collect())
                .with_configs(configs.collect())
        });
        let request = CreateTopicsRequest::default()
            .with_topics(wire_topics.collect())
            .with_timeout_ms(millis(timeout))
            .with_validate_only(validate_only);
        let attempt = || async { self.admin_link().await?.call(&request).await };
        let response = self.retry(None, only_unsent, attempt).await?;
        let outcomes = response.topics.into_iter().map(|topic| TopicOutcome {
            name: topic.name.0.to_string(),
            error: error_of(topic.error_code),
            message: topic.error_message.map(|message| message.to_string()),
            topic_id: TopicId(topic.topic_id.into_bytes()),
            partition_count: topic.num_partitions,
            replication_factor: topic.replication_factor,
        });
        Ok(outcomes.collect())
    }

    /// Deletes topics by name. One outcome for each.
    pub async fn delete_topics(&self, topics: &[&str], timeout: Duration) -> Result<Vec<TopicOutcome>, ClientError> {
        let attempt = || async {
            let link = self.admin_link().await?;
            let request = DeleteTopicsRequest::default().with_timeout_ms(millis(timeout));
            // From version 6 on a topic can also be named by its id, in another field.
            let request = if link.version(Api::DeleteTopics)? >= 6 {
                let states = topics.iter().map(|topic| DeleteTopicState::default().with_name(Some(topic_name(topic))));
                request.with_topics(states.collect())
            } else {
                request.with_topic_names(topics.iter().map(|topic| topic_name(topic)).collect())
            };
            link.call(&request).await
        };
        let response = self.retry(None, only_unsent, attempt).await?;
        for topic in topics {
            self.forget(topic);
        }
        let outcomes = response.responses.into_iter().map(|topic| TopicOutcome {
            name: topic.name.map(|name| name.0.to_string()).unwrap_or_default(),
            error: error_of(topic.error_code),
            message: topic.error_message.map(|message| message.to_string()),
            topic_id: TopicId(topic.topic_id.into_bytes()),
            partition_count: -1,
            replication_factor: -1,
        });
        Ok(outcomes.collect())
    }

    /// Adds partitions to topics. One outcome for each topic.
    pub async fn create_partitions(
        &self,
        topics: &[NewPartitions],
        timeout: Duration,
        validate_only: bool,
    ) -> Result<Vec<TopicOutcome>, ClientError> {
        let wire_topics = topics.iter().map(|topic| {
            let wire =
                |brokers: &Vec<BrokerId>| CreatePartitionsAssignment::default().with_broker_ids(to_wire(brokers));
            CreatePartitionsTopic::default()
                .with_name(topic_name(&topic.topic))
                .with_count(topic.total)
                .with_assignments(topic.assignments.as_ref().map(|added| added.iter().map(wire).collect()))
        });
        let request = CreatePartitionsRequest::default()
            .with_topics(wire_topics.collect())
            .with_timeout_ms(millis(timeout))
            .with_validate_only(validate_only);
        let attempt = || async { self.admin_link().await?.call(&request).await };
        let response = self.retry(None, only_unsent, attempt).await?;
        for topic in topics {
            self.forget(&topic.topic);
        }
        let outcomes = response.results.into_iter().map(|topic| TopicOutcome {
            name: topic.name.0.to_string(),
            error: error_of(topic.error_code),
            message: topic.error_message.map(|message| message.to_string()),
            topic_id: TopicId::ZERO,
            partition_count: -1,
            replication_factor: -1,
        });
        Ok(outcomes.collect())
    }

    /// The names of all topics.
    pub async fn list_topics(&self) -> Result<Vec<TopicView>, ClientError> {
        let view = self.retry(None, |_| true, || self.metadata(None)).await?;
        Ok(view.topics.into_values().collect())
    }

    /// Describes topics, or all of them, with their ELRs where the broker knows DescribeTopicPartitions. Topics that do
    /// not exist come back with their error.
    pub async fn describe_topics(&self, topics: Option<&[&str]>) -> Result<Vec<DescribedTopic>, ClientError> {
        let names: Vec<String> = match topics {
            Some(topics) => topics.iter().map(|topic| (*topic).to_owned()).collect(),
            None => self.list_topics().await?.into_iter().map(|topic| topic.name).collect(),
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let attempt = || async {
            let link = self.any_link().await?;
            if link.version(Api::DescribeTopicPartitions).is_err() {
                return self.describe_by_metadata(&names).await;
            }
            self.describe_by_partitions(&names).await
        };
        self.retry(None, |_| true, attempt).await
    }

    /// Page by page: a response contains at most as many partitions as the broker allows, and the position of the next
    /// page.
    async fn describe_by_partitions(&self, names: &[String]) -> Result<Vec<DescribedTopic>, ClientError> {
        /// Bound of the number of pages: a broker whose cursor never moves must not block the client for ever.
        const PAGES_MAX: usize = 10_000;
        let mut described: Vec<DescribedTopic> = Vec::new();
        let mut cursor: Option<Cursor> = None;
        for _ in 0..PAGES_MAX {
            let topics = names.iter().map(|topic| TopicRequest::default().with_name(topic_name(topic)));
            let request = DescribeTopicPartitionsRequest::default()
                .with_topics(topics.collect())
                .with_response_partition_limit(self.config().partitions_per_response)
                .with_cursor(cursor.take());
            let response = self.any_link().await?.call(&request).await?;
            for topic in response.topics {
                let topic_name = topic.name.map(|name| name.0.to_string()).unwrap_or_default();
                let partitions = topic.partitions.into_iter().map(|partition| DescribedPartition {
                    partition: PartitionId(partition.partition_index),
                    error: error_of(partition.error_code),
                    leader: BrokerId(partition.leader_id.0),
                    leader_epoch: LeaderEpoch(partition.leader_epoch),
                    replicas: from_wire(&partition.replica_nodes),
                    isr: from_wire(&partition.isr_nodes),
                    offline_replicas: from_wire(&partition.offline_replicas),
                    elr: partition.eligible_leader_replicas.as_deref().map(from_wire),
                    last_known_elr: partition.last_known_elr.as_deref().map(from_wire),
                });
                let partitions: Vec<_> = partitions.collect();
                match described.last_mut() {
                    // The page before ended within this topic.
                    Some(last) if last.name == topic_name => last.partitions.extend(partitions),
                    _ => described.push(DescribedTopic {
                        name: topic_name,
                        id: TopicId(topic.topic_id.into_bytes()),
                        error: error_of(topic.error_code),
                        is_internal: topic.is_internal,
                        partitions,
                    }),
                }
            }
            match response.next_cursor {
                None => return Ok(described),
                Some(next) => {
                    let next_cursor = Cursor::default();
                    cursor =
                        Some(next_cursor.with_topic_name(next.topic_name).with_partition_index(next.partition_index));
                }
            }
        }
        Err(ClientError::Incomplete(Api::DescribeTopicPartitions))
    }

    async fn describe_by_metadata(&self, names: &[String]) -> Result<Vec<DescribedTopic>, ClientError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let view = self.metadata(Some(&names)).await?;
        let topics = view.topics.into_values().map(|topic| DescribedTopic {
            name: topic.name,
            id: topic.id,
            error: topic.error,
            is_internal: topic.is_internal,
            partitions: topic
                .partitions
                .into_values()
                .map(|partition| DescribedPartition {
                    partition: partition.partition,
                    error: partition.error,
                    leader: partition.leader,
                    leader_epoch: partition.leader_epoch,
                    replicas: partition.replicas,
                    isr: partition.isr,
                    offline_replicas: partition.offline_replicas,
                    elr: None,
                    last_known_elr: None,
                })
                .collect(),
        });
        Ok(topics.collect())
    }

    /// Removes the registration of a broker that will not come back.
    pub async fn unregister_broker(&self, broker: BrokerId) -> Result<(), ClientError> {
        let request = UnregisterBrokerRequest::default().with_broker_id(broker.0.into());
        let attempt = || async { self.admin_link().await?.call(&request).await };
        let response = self.retry(None, only_unsent, attempt).await?;
        match error_of(response.error_code) {
            ErrorCode::None => Ok(()),
            code => {
                Err(ClientError::Refused { code, message: response.error_message.map(|message| message.to_string()) })
            }
        }
    }

    /// Removes a member of the metadata quorum, if it votes with this directory (zero: with whichever).
    pub async fn remove_raft_voter(&self, id: i32, directory: TopicId) -> Result<(), ClientError> {
        let directory = uuid::Uuid::from_bytes(directory.0);
        let request = RemoveRaftVoterRequest::default()
            .with_cluster_id(None)
            .with_voter_id(id)
            .with_voter_directory_id(directory);
        let attempt = || async { self.any_link().await?.call(&request).await };
        let response = self.retry(None, only_unsent, attempt).await?;
        match error_of(response.error_code) {
            ErrorCode::None => Ok(()),
            code => {
                Err(ClientError::Refused { code, message: response.error_message.map(|message| message.to_string()) })
            }
        }
    }

    /// The cluster's id and the brokers that live.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, ClientError> {
        self.describe_cluster_with(false).await
    }

    /// The progress of the metadata quorum's replicas.
    pub async fn describe_quorum(&self) -> Result<QuorumDescription, ClientError> {
        let topic = TopicData::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(vec![PartitionData::default()]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let attempt = || async {
            let response = self.any_link().await?.call(&request).await?;
            let message = response.error_message.as_ref().map(ToString::to_string);
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response),
                code => Err(ClientError::Refused { code, message }),
            }
        };
        let response = self.retry(None, |_| true, attempt).await?;
        let mut partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let partition = partitions.next().ok_or(ClientError::Incomplete(Api::DescribeQuorum))?;
        checked(partition.error_code)?;
        let replica = |state: ReplicaState| QuorumReplica {
            id: state.replica_id.0,
            directory: TopicId(*state.replica_directory_id.as_bytes()),
            log_end_offset: state.log_end_offset,
            last_fetch_ms: state.last_fetch_timestamp,
            last_caught_up_ms: state.last_caught_up_timestamp,
        };
        let nodes = response.nodes.into_iter().map(|node| {
            let endpoint = |at: &Listener| format!("{}://{}:{}", at.name.as_str(), at.host.as_str(), at.port);
            (node.node_id.0, node.listeners.iter().map(endpoint).collect())
        });
        Ok(QuorumDescription {
            leader: partition.leader_id.0,
            leader_epoch: partition.leader_epoch,
            high_watermark: partition.high_watermark,
            voters: partition.current_voters.into_iter().map(replica).collect(),
            observers: partition.observers.into_iter().map(replica).collect(),
            endpoints: nodes.collect(),
        })
    }

    /// The cluster's id and all registered brokers, those that are down included.
    pub async fn describe_cluster_with_fenced(&self) -> Result<ClusterDescription, ClientError> {
        self.describe_cluster_with(true).await
    }

    async fn describe_cluster_with(&self, include_fenced: bool) -> Result<ClusterDescription, ClientError> {
        let attempt = || async {
            let link = self.any_link().await?;
            if include_fenced && link.version(Api::DescribeCluster)? < FENCED_BROKERS_FROM {
                return Err(ClientError::Refused { code: ErrorCode::UnsupportedVersion, message: None });
            }
            let request = DescribeClusterRequest::default().with_include_fenced_brokers(include_fenced);
            let response = link.call(&request).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response),
                code => Err(ClientError::Refused {
                    code,
                    message: response.error_message.map(|message| message.to_string()),
                }),
            }
        };
        let response = self.retry(None, |_| true, attempt).await?;
        let brokers = response.brokers.into_iter().map(|broker| DescribedBroker {
            address: BrokerAddress {
                id: BrokerId(broker.broker_id.0),
                host: broker.host.to_string(),
                port: broker.port,
                rack: broker.rack.map(|rack| rack.to_string()),
            },
            is_fenced: broker.is_fenced,
        });
        Ok(ClusterDescription {
            cluster_id: response.cluster_id.to_string(),
            controller: Some(BrokerId(response.controller_id.0)).filter(|id| *id != BrokerId::NONE),
            brokers: brokers.collect(),
        })
    }
}
