//! Records of single replicas, leaders or not, for comparing them.

use bytes::Bytes;
use ottla_model::{BrokerId, Offset, PartitionId};
use ottla_protocol::Api;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{FetchPartition, FetchPartitionResponse, FetchRequest, FetchTopic};

use crate::cluster::Client;
use crate::convert::millis;
use crate::data::FetchOptions;
use crate::error::ClientError;

/// What is wanted of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaPosition {
    pub topic: String,
    pub partition: PartitionId,
    pub offset: Offset,
}

/// Kafka's `FetchRequest.DEBUGGING_CONSUMER_ID`: brokers answer it from any replica.
const DEBUGGING_CONSUMER: BrokerId = BrokerId(-2);
/// Topics are named by name up to here.
const TOPIC_NAMES_UP_TO: i16 = 12;
/// From here on topics are named by id.
const TOPIC_IDS_FROM: i16 = 13;
/// What all partitions of an answer may take together.
const ANSWER_MAX_BYTES: i32 = 64 * 1024 * 1024;

/// A position, and what the replica has there.
pub type ReplicaRecords = (ReplicaPosition, FetchPartitionResponse<Bytes>);

impl Client {
    /// Reads from the replicas of one broker, up to the high watermarks that it knows; once, without a retry.
    /// `options.max_bytes` is of each partition.
    pub async fn fetch_replicas(
        &self,
        broker: BrokerId,
        wanted: &[ReplicaPosition],
        options: &FetchOptions,
    ) -> Result<Vec<ReplicaRecords>, ClientError> {
        let link = self.link_to(broker).await?;
        let view = self.view();
        let ids = wanted.iter().map(|position| view.topics.get(&position.topic).map(|topic| topic.id));
        let ids: Option<Vec<_>> = ids.map(|id| id.filter(|id| !id.is_zero())).collect();
        let mut version = link.version(Api::Fetch)?;
        let topic_refs: Vec<TopicRef> = match ids.filter(|_| version >= TOPIC_IDS_FROM) {
            Some(ids) => ids.into_iter().map(TopicRef::Id).collect(),
            None => {
                version = version.min(TOPIC_NAMES_UP_TO);
                wanted.iter().map(|position| TopicRef::Name(position.topic.clone())).collect()
            }
        };
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (topic, position) in topic_refs.iter().zip(wanted) {
            let partition = FetchPartition::of_consumer(position.partition, position.offset, options.max_bytes);
            match topics.last_mut() {
                Some(last) if last.topic == *topic => last.partitions.push(partition),
                _ => topics.push(FetchTopic { topic: topic.clone(), partitions: vec![partition] }),
            }
        }
        let request = FetchRequest {
            replica_id: DEBUGGING_CONSUMER,
            max_wait_ms: millis(options.max_wait),
            min_bytes: options.min_bytes,
            max_bytes: ANSWER_MAX_BYTES,
            isolation_level: options.isolation_level,
            topics,
            ..FetchRequest::default()
        };
        let response = link.connection.fetch(version, &request).await?;
        if !response.error.is_ok() {
            return Err(ClientError::refused(response.error));
        }
        let mut found = Vec::with_capacity(wanted.len());
        for topic in response.topics {
            for partition in topic.partitions {
                let is_it = |(named, position): &(&TopicRef, &ReplicaPosition)| {
                    **named == topic.topic && position.partition == partition.partition
                };
                if let Some((_, position)) = topic_refs.iter().zip(wanted).find(is_it) {
                    found.push((position.clone(), partition));
                }
            }
        }
        Ok(found)
    }
}
