//! Reassignments: partitions get other replicas, and which are under way.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, ListPartitionReassignmentsRequest};
use ottla_model::{BrokerId, ErrorCode, TopicPartition};
use ottla_protocol::Api;

use crate::cluster::Client;
use crate::convert::{error_of, from_wire, millis, partition, to_wire, topic_name};
use crate::error::{ClientError, Outcome};

/// The first version that can forbid another number of replicas.
const FACTOR_FROM: i16 = 1;

/// A reassignment under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reassignment {
    pub at: TopicPartition,
    pub replicas: Vec<BrokerId>,
    pub adding: Vec<BrokerId>,
    pub removing: Vec<BrokerId>,
}

/// A partition whose replicas were not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReassignmentRefused {
    pub at: TopicPartition,
    pub error: ErrorCode,
    pub message: Option<String>,
}

impl Client {
    /// Begins to give partitions these replicas, in order of preference; none goes back to those before the
    /// reassignment. Returns the partitions for which it was refused.
    pub async fn alter_partition_reassignments(
        &self,
        targets: &BTreeMap<TopicPartition, Option<Vec<BrokerId>>>,
        allow_replication_factor_change: bool,
        timeout: Duration,
    ) -> Result<Vec<ReassignmentRefused>, ClientError> {
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for (at, target) in targets {
            let asked = ReassignablePartition::default()
                .with_partition_index(at.partition.0)
                .with_replicas(target.as_deref().map(to_wire));
            topics.entry(at.topic.as_str()).or_default().push(asked);
        }
        let topic =
            |(topic, partitions)| ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(partitions);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_topics(topics.into_iter().map(topic).collect())
            .with_allow_replication_factor_change(allow_replication_factor_change)
            .with_timeout_ms(millis(timeout));
        let attempt = || async {
            let link = self.admin_link().await?;
            let api = Api::AlterPartitionReassignments;
            if !allow_replication_factor_change && link.version(api)? < FACTOR_FROM {
                return Err(ClientError::Refused { code: ErrorCode::UnsupportedVersion, message: None });
            }
            let response = link.call(&request).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response),
                code => {
                    let message = response.error_message.map(|message| message.to_string());
                    Err(ClientError::Refused { code, message })
                }
            }
        };
        // A request that may have been carried out is not repeated: the partitions may have other targets since.
        let response = self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await?;
        let mut refused = Vec::new();
        for topic in response.responses {
            for result in topic.partitions.iter().filter(|result| result.error_code != 0) {
                refused.push(ReassignmentRefused {
                    at: partition(Api::AlterPartitionReassignments, &topic.name.0, result.partition_index)?,
                    error: error_of(result.error_code),
                    message: result.error_message.as_ref().map(ToString::to_string),
                });
            }
        }
        Ok(refused)
    }

    /// The reassignments under way, of these partitions or of all.
    pub async fn list_partition_reassignments(
        &self,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Vec<Reassignment>, ClientError> {
        let named = partitions.map(|partitions| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for at in partitions {
                topics.entry(at.topic.as_str()).or_default().push(at.partition.0);
            }
            let topic = |(topic, indexes)| {
                ListPartitionReassignmentsTopics::default().with_name(topic_name(topic)).with_partition_indexes(indexes)
            };
            topics.into_iter().map(topic).collect()
        });
        let request = ListPartitionReassignmentsRequest::default().with_topics(named);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response),
                code => {
                    let message = response.error_message.map(|message| message.to_string());
                    Err(ClientError::Refused { code, message })
                }
            }
        };
        let response = self.retry(None, |_| true, attempt).await?;
        let mut under_way = Vec::new();
        for topic in response.topics {
            for one in topic.partitions {
                under_way.push(Reassignment {
                    at: partition(Api::ListPartitionReassignments, &topic.name.0, one.partition_index)?,
                    replicas: from_wire(&one.replicas),
                    adding: from_wire(&one.adding_replicas),
                    removing: from_wire(&one.removing_replicas),
                });
            }
        }
        under_way.sort_by(|one, other| one.at.cmp(&other.at));
        Ok(under_way)
    }
}
