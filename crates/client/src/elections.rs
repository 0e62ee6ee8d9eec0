//! Elections of partition leaders on demand.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::ElectLeadersRequest;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use ottla_model::{ErrorCode, PartitionId};

use crate::cluster::Client;
use crate::convert::{error_of, millis, topic_name};
use crate::error::ClientError;

/// Which replica an election may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectionType {
    /// The first replica, if it is in the ISR.
    Preferred,
    /// Any live replica, where there is no leader.
    Unclean,
}

/// How the election of one partition's leader went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ElectionOutcome {
    pub topic: String,
    pub partition: PartitionId,
    pub error: ErrorCode,
    pub message: Option<String>,
}

impl Client {
    /// Elects leaders of the partitions, by topic; none: of every partition that needs such an election. An election
    /// that was done already is not needed: the request may be repeated.
    pub async fn elect_leaders(
        &self,
        election: ElectionType,
        partitions: Option<&BTreeMap<String, Vec<PartitionId>>>,
        timeout: Duration,
    ) -> Result<Vec<ElectionOutcome>, ClientError> {
        let topic = |(topic, partitions): (&String, &Vec<PartitionId>)| {
            let partitions = partitions.iter().map(|partition| partition.0).collect();
            TopicPartitions::default().with_topic(topic_name(topic)).with_partitions(partitions)
        };
        let request = ElectLeadersRequest::default()
            .with_election_type(match election {
                ElectionType::Preferred => 0,
                ElectionType::Unclean => 1,
            })
            .with_topic_partitions(partitions.map(|partitions| partitions.iter().map(topic).collect()))
            .with_timeout_ms(millis(timeout));
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response),
                code => Err(ClientError::Refused { code, message: None }),
            }
        };
        let response = self.retry(None, |_| true, attempt).await?;
        let outcomes = response.replica_election_results.into_iter().flat_map(|topic| {
            let name = topic.topic.0.to_string();
            topic.partition_result.into_iter().map(move |result| ElectionOutcome {
                topic: name.clone(),
                partition: PartitionId(result.partition_id),
                error: error_of(result.error_code),
                message: result.error_message.map(|message| message.to_string()),
            })
        });
        Ok(outcomes.collect())
    }
}
