//! Offsets of many partitions by time: one request to each leader, instead of one for each partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId as WireBrokerId, ListOffsetsRequest};
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset, TimestampMs, TopicPartition};
use ottla_protocol::Api;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::Client;
use crate::convert::{by_topic, error_of, partition, topic_name};
use crate::data::FoundOffset;
use crate::error::ClientError;

/// Partitions of one request at most: its answer is then some hundred kilobytes.
const PARTITIONS_MAX: usize = 5_000;

/// What became of each partition that was asked for.
pub type FoundOffsets = BTreeMap<TopicPartition, Result<FoundOffset, ClientError>>;

impl Client {
    /// As [`Client::list_offsets`] of each partition. Those whose leaders cannot answer yet are asked again together,
    /// within one retry timeout.
    pub async fn list_offsets_of(&self, partitions: &[TopicPartition], timestamp: TimestampMs) -> FoundOffsets {
        let began = Instant::now();
        let mut pause = self.config().backoff;
        let mut found = FoundOffsets::new();
        let mut open: Vec<TopicPartition> = partitions.to_vec();
        let mut retries = 0;
        loop {
            let mut left = Vec::new();
            for (at, answer) in self.ask_leaders(open, timestamp).await {
                match answer {
                    Err(error) if error.is_retriable() => left.push((at, error)),
                    answer => {
                        found.insert(at, answer);
                    }
                }
            }
            let waited = began.elapsed();
            let is_last = self.config().retries_max.is_some_and(|most| retries >= most);
            if left.is_empty() {
                return found;
            }
            if is_last || waited + pause > self.config().retry_timeout {
                let gave_up = |(at, last)| (at, Err(ClientError::GaveUp { waited, last: Arc::new(last) }));
                found.extend(left.into_iter().map(gave_up));
                return found;
            }
            retries += 1;
            left.iter().for_each(|(at, _)| self.forget(at.topic.as_str()));
            open = left.into_iter().map(|(at, _)| at).collect();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.config().backoff_max);
        }
    }

    /// One try.
    async fn ask_leaders(&self, partitions: Vec<TopicPartition>, timestamp: TimestampMs) -> FoundOffsets {
        let mut unknown: Vec<&str> = partitions.iter().map(|at| at.topic.as_str()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|topic| !self.knows_topic(topic));
        if !unknown.is_empty() {
            // One request for all topics. Where it fails, so does the one for the leader, whose error counts.
            let _ = self.metadata(Some(&unknown)).await;
        }
        let mut found = FoundOffsets::new();
        let mut of_leaders: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
        for at in partitions {
            match self.leader(at.topic.as_str(), at.partition).await {
                Ok(leader) => of_leaders.entry(leader).or_default().push(at),
                Err(error) => {
                    found.insert(at, Err(error));
                }
            }
        }
        let mut asking = JoinSet::new();
        for (leader, partitions) in of_leaders {
            for some in partitions.chunks(PARTITIONS_MAX) {
                let (client, some) = (self.clone(), some.to_vec());
                asking.spawn(async move {
                    let answers = client.ask_leader(leader, &some, timestamp).await;
                    (some, answers)
                });
            }
        }
        // The tasks end by themselves, and none panics on what a broker sends.
        while let Some(Ok((asked, answers))) = asking.join_next().await {
            match answers {
                Ok(mut answers) => {
                    let missing = || Err(ClientError::Incomplete(Api::ListOffsets));
                    found.extend(asked.into_iter().map(|at| {
                        let answer = answers.remove(&at).unwrap_or_else(missing);
                        (at, answer)
                    }));
                }
                Err(error) => found.extend(asked.into_iter().map(|at| (at, Err(error.clone())))),
            }
        }
        found
    }

    async fn ask_leader(
        &self,
        leader: BrokerId,
        partitions: &[TopicPartition],
        timestamp: TimestampMs,
    ) -> Result<FoundOffsets, ClientError> {
        let topics = by_topic(partitions.iter().map(|at| (at, ()))).into_iter().map(|(topic, partitions)| {
            let partitions = partitions
                .into_iter()
                .map(|(at, ())| ListOffsetsPartition::default().with_partition_index(at.0).with_timestamp(timestamp.0));
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect())
        });
        let request =
            ListOffsetsRequest::default().with_replica_id(WireBrokerId(BrokerId::NONE.0)).with_topics(topics.collect());
        let response = self.link_to(leader).await?.call(&request).await?;
        let mut found = FoundOffsets::new();
        for topic in response.topics {
            for answer in topic.partitions {
                let at = partition(Api::ListOffsets, &topic.name.0, answer.partition_index)?;
                let outcome = match error_of(answer.error_code) {
                    ErrorCode::None => Ok(FoundOffset {
                        offset: Offset(answer.offset),
                        timestamp: TimestampMs(answer.timestamp),
                        leader_epoch: LeaderEpoch(answer.leader_epoch),
                    }),
                    code => Err(ClientError::refused(code)),
                };
                found.insert(at, outcome);
            }
        }
        Ok(found)
    }
}
