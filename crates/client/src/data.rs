//! Records in and out: produce, fetch, and finding offsets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId as WireBrokerId, InitProducerIdRequest, ListOffsetsRequest, TransactionalId};
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::Api;
use ottla_protocol::messages::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchTopic, IsolationLevel,
};
use ottla_protocol::messages::produce::ProduceCall;
use ottla_protocol::messages::{CurrentLeader, NodeEndpoint, TopicRef};
use ottla_protocol::record_batch::BatchHeader;

use crate::cluster::{Client, Link};
use crate::convert::{checked, millis, text, topic_name};
use crate::coordinator::CoordinatorKey;
use crate::error::{ClientError, Outcome};
use crate::metadata::TopicView;

/// From here on Produce and Fetch name topics by id.
const TOPIC_IDS_FROM: i16 = 13;

/// The outcome of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Produced {
    /// The first record's offset; [`Offset::UNKNOWN`] with acks 0.
    pub base_offset: Offset,
    /// [`TimestampMs::NONE`] unless the broker stamps the topic.
    pub log_append_time: TimestampMs,
    pub log_start_offset: Offset,
}

/// The size and wait time of a fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    pub max_wait: Duration,
    /// The broker waits until this number of bytes is available.
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub isolation_level: IsolationLevel,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 * 1024 * 1024,
            isolation_level: IsolationLevel::ReadUncommitted,
        }
    }
}

/// The result of a look-up of an offset by time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    /// [`Offset::UNKNOWN`] if no record is that late.
    pub offset: Offset,
    /// The record's timestamp; [`TimestampMs::NONE`] for the start and the end of the log.
    pub timestamp: TimestampMs,
    pub leader_epoch: LeaderEpoch,
}

/// The request version for a topic: without a topic id it is a version that uses names.
fn with_topic(version: i16, topic: &TopicView) -> (i16, TopicRef) {
    if version < TOPIC_IDS_FROM || topic.id.is_zero() {
        (version.min(TOPIC_IDS_FROM - 1), TopicRef::Name(topic.name.clone()))
    } else {
        (version, TopicRef::Id(topic.id))
    }
}

impl Client {
    /// Appends one batch to a partition. `acks` is −1, 0 or 1; `timeout` is how long the leader may wait for replicas.
    /// Tries again after errors that pass; after an unknown outcome only if the batch is a producer's with sequence
    /// numbers, which brokers do not append twice.
    pub async fn produce(
        &self,
        topic: &str,
        partition: PartitionId,
        batch: Bytes,
        acks: i16,
        timeout: Duration,
    ) -> Result<Produced, ClientError> {
        let is_idempotent = BatchHeader::parse(&batch).is_ok_and(|header| header.has_producer_id());
        let may_repeat = |error: &ClientError| is_idempotent || error.outcome() != Outcome::Unknown;
        self.retry(Some(topic), may_repeat, || self.produce_once(topic, partition, batch.clone(), acks, timeout)).await
    }

    async fn produce_once(
        &self,
        topic: &str,
        partition: PartitionId,
        batch: Bytes,
        acks: i16,
        timeout: Duration,
    ) -> Result<Produced, ClientError> {
        let view = self.topic(topic).await?;
        let link = self.link_to(self.leader(topic, partition).await?).await?;
        let (version, topic_ref) = with_topic(link.version(Api::Produce)?, &view);
        let call = ProduceCall {
            transactional_id: None,
            acks,
            timeout_ms: millis(timeout),
            topics: vec![(topic_ref, vec![(partition, batch)])],
        };
        let Some(response) = link.connection.produce(version, &call).await? else {
            return Ok(Produced {
                base_offset: Offset::UNKNOWN,
                log_append_time: TimestampMs::NONE,
                log_start_offset: Offset::UNKNOWN,
            });
        };
        let answers = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let answer = answers.into_iter().find(|answer| answer.partition == partition);
        let answer = answer.ok_or(ClientError::Incomplete(Api::Produce))?;
        if answer.error.is_ok() {
            return Ok(Produced {
                base_offset: answer.base_offset,
                log_append_time: answer.log_append_time,
                log_start_offset: answer.log_start_offset,
            });
        }
        self.learn(topic, partition, answer.current_leader, &response.node_endpoints);
        // What is wrong with a record says more than that something is wrong with the batch.
        let first_fault = answer.record_errors.iter().find_map(|error| error.message.clone());
        let message = first_fault.or(answer.error_message);
        Err(ClientError::Refused { code: answer.error, message })
    }

    fn learn(&self, topic: &str, partition: PartitionId, leader: Option<CurrentLeader>, endpoints: &[NodeEndpoint]) {
        if let Some(leader) = leader {
            self.learn_leader(topic, partition, leader, endpoints);
        }
    }

    /// Reads records from `offset` on. No records is an answer too: nothing came within `max_wait`. The first batch may
    /// begin before `offset`.
    pub async fn fetch(
        &self,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
        options: &FetchOptions,
    ) -> Result<FetchPartitionResponse<Bytes>, ClientError> {
        self.retry(Some(topic), |_| true, || self.fetch_once(topic, partition, offset, options)).await
    }

    async fn fetch_once(
        &self,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
        options: &FetchOptions,
    ) -> Result<FetchPartitionResponse<Bytes>, ClientError> {
        let view = self.topic(topic).await?;
        let leader = self.leader(topic, partition).await?;
        let link = self.link_to(leader).await?;
        let (version, topic_ref) = with_topic(link.version(Api::Fetch)?, &view);
        let current_leader_epoch =
            view.partitions.get(&partition).map_or(LeaderEpoch::NONE, |partition| partition.leader_epoch);
        let request = FetchRequest {
            max_wait_ms: millis(options.max_wait),
            min_bytes: options.min_bytes,
            max_bytes: options.max_bytes,
            isolation_level: options.isolation_level,
            topics: vec![FetchTopic {
                topic: topic_ref,
                partitions: vec![FetchPartition {
                    current_leader_epoch,
                    ..FetchPartition::of_consumer(partition, offset, options.max_bytes)
                }],
            }],
            ..FetchRequest::default()
        };
        let response = link.connection.fetch(version, &request).await?;
        if !response.error.is_ok() {
            return Err(ClientError::refused(response.error));
        }
        let answers = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let answer = answers.into_iter().find(|answer| answer.partition == partition);
        let answer = answer.ok_or(ClientError::Incomplete(Api::Fetch))?;
        if answer.error.is_ok() {
            return Ok(answer);
        }
        self.learn(topic, partition, answer.current_leader, &response.node_endpoints);
        Err(ClientError::refused(answer.error))
    }

    /// The first offset at or after a time. Kafka's special times: −1 the end (high watermark), −2 the start, −3 the
    /// largest timestamp.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partition: PartitionId,
        timestamp: TimestampMs,
    ) -> Result<FoundOffset, ClientError> {
        self.retry(Some(topic), |_| true, || self.list_offsets_once(topic, partition, timestamp)).await
    }

    async fn list_offsets_once(
        &self,
        topic: &str,
        partition: PartitionId,
        timestamp: TimestampMs,
    ) -> Result<FoundOffset, ClientError> {
        let link = self.link_to(self.leader(topic, partition).await?).await?;
        let asked = ListOffsetsPartition::default().with_partition_index(partition.0).with_timestamp(timestamp.0);
        let asked = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request =
            ListOffsetsRequest::default().with_replica_id(WireBrokerId(BrokerId::NONE.0)).with_topics(vec![asked]);
        let response = link.call(&request).await?;
        let mut answers = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let answer = answers.find(|answer| answer.partition_index == partition.0);
        let answer = answer.ok_or(ClientError::Incomplete(Api::ListOffsets))?;
        match ErrorCode::from_code(answer.error_code) {
            Some(ErrorCode::None) => Ok(FoundOffset {
                offset: Offset(answer.offset),
                timestamp: TimestampMs(answer.timestamp),
                leader_epoch: LeaderEpoch(answer.leader_epoch),
            }),
            code => Err(ClientError::refused(code.unwrap_or(ErrorCode::UnknownServerError))),
        }
    }

    /// A producer id for idempotent batches, or for the transactional id. A transactional id's transaction is aborted,
    /// and its producer fenced.
    pub async fn init_producer_id(
        &self,
        transactional_id: Option<&str>,
        transaction_timeout: Duration,
    ) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        let id = transactional_id.map(|id| TransactionalId(text(id)));
        let request = &InitProducerIdRequest::default()
            .with_transactional_id(id)
            .with_transaction_timeout_ms(millis(transaction_timeout));
        let attempt = |link: Arc<Link>| async move {
            let response = link.call(request).await?;
            checked(response.error_code)?;
            Ok((ProducerId(response.producer_id.0), ProducerEpoch(response.producer_epoch)))
        };
        // An id that was given out and never used does no harm.
        match transactional_id {
            Some(id) => self.at_coordinator(&CoordinatorKey::TransactionalId(id.to_owned()), |_| true, attempt).await,
            None => self.retry(None, |_| true, || async { attempt(self.any_link().await?).await }).await,
        }
    }
}
