//! Between the project's types and those of the wire, as every request needs them.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::{BrokerId as WireBrokerId, GroupId, TopicName as WireTopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_model::{BrokerId, ErrorCode, PartitionId, TopicName, TopicPartition};
use ottla_protocol::Api;

use crate::error::ClientError;

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn topic_name(name: &str) -> WireTopicName {
    WireTopicName(text(name))
}

pub(crate) fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// A code that this release does not know is an unknown error.
pub(crate) fn error_of(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError)
}

/// The error of an answer as a result.
pub(crate) fn checked(code: i16) -> Result<(), ClientError> {
    match error_of(code) {
        ErrorCode::None => Ok(()),
        code => Err(ClientError::refused(code)),
    }
}

pub(crate) fn to_wire(ids: &[BrokerId]) -> Vec<WireBrokerId> {
    ids.iter().map(|id| WireBrokerId(id.0)).collect()
}

pub(crate) fn from_wire(ids: &[WireBrokerId]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(id.0)).collect()
}

/// Milliseconds as a wire integer; durations above 24 days become 24 days.
pub(crate) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// A partition that an answer of `api` names.
pub(crate) fn partition(api: Api, topic: &str, partition: i32) -> Result<TopicPartition, ClientError> {
    let topic = TopicName::new(topic).map_err(|_| ClientError::Incomplete(api))?;
    Ok(TopicPartition::new(topic, PartitionId(partition)))
}

/// Partitions by their topics, as most requests list them.
pub(crate) fn by_topic<'a, V>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, V)>,
) -> BTreeMap<&'a str, Vec<(PartitionId, V)>> {
    let mut topics: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (at, value) in partitions {
        topics.entry(at.topic.as_str()).or_default().push((at.partition, value));
    }
    topics
}
