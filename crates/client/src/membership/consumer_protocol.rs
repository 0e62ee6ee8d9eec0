//! The data that members of a classic consumer group exchange through the group coordinator: subscriptions and
//! assignments, each after a version of two bytes. Every version begins with the fields of the one before, so that old
//! members can read new versions.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as WireAssigned;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use kafka_protocol::protocol::{Decodable, Encodable};
use ottla_model::TopicPartition;
use ottla_protocol::{Api, CodecError};

use crate::convert::{by_topic, partition, text, topic_name};
use crate::error::ClientError;

/// The version that is written: this member gives everything up before it joins again, so it names nothing that it
/// owns.
const WRITTEN: i16 = 0;
/// The newest version that is understood as a whole.
const READ_UP_TO: i16 = 3;

fn encode_error(reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::Encode(CodecError::Encode { api: Api::JoinGroup, version: WRITTEN, reason: reason.to_string() })
}

fn decode<M: Decodable>(mut bytes: Bytes) -> Result<M, ClientError> {
    let failed =
        |reason: String| ClientError::Decode(CodecError::Decode { api: Api::SyncGroup, version: READ_UP_TO, reason });
    if bytes.len() < 2 {
        return Err(failed("no version".to_owned()));
    }
    let version = bytes.get_i16().clamp(0, READ_UP_TO);
    M::decode(&mut bytes, version).map_err(|error| failed(error.to_string()))
}

/// A member's subscription, for its JoinGroup.
pub(super) fn subscription(topics: &[String]) -> Result<Bytes, ClientError> {
    let message = ConsumerProtocolSubscription::default().with_topics(topics.iter().map(|topic| text(topic)).collect());
    let mut out = BytesMut::new();
    out.put_i16(WRITTEN);
    message.encode(&mut out, WRITTEN).map_err(|error| encode_error(&error))?;
    Ok(out.freeze())
}

/// The topics of a member's subscription.
pub(super) fn subscribed(bytes: &Bytes) -> Result<Vec<String>, ClientError> {
    let message: ConsumerProtocolSubscription = decode(bytes.clone())?;
    Ok(message.topics.iter().map(ToString::to_string).collect())
}

/// A member's share, for the leader's SyncGroup.
pub(super) fn assignment(partitions: &[TopicPartition]) -> Result<Bytes, ClientError> {
    let topics = by_topic(partitions.iter().map(|at| (at, ()))).into_iter().map(|(topic, partitions)| {
        WireAssigned::default()
            .with_topic(topic_name(topic))
            .with_partitions(partitions.into_iter().map(|(at, ())| at.0).collect())
    });
    let message = ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
    let mut out = BytesMut::new();
    out.put_i16(WRITTEN);
    message.encode(&mut out, WRITTEN).map_err(|error| encode_error(&error))?;
    Ok(out.freeze())
}

/// The partitions of a share. No bytes at all are no partitions: so coordinators answer a member that the leader passed
/// over.
pub(crate) fn assigned(bytes: &Bytes) -> Result<Vec<TopicPartition>, ClientError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let message: ConsumerProtocolAssignment = decode(bytes.clone())?;
    let topics = message.assigned_partitions.iter();
    topics.flat_map(|topic| topic.partitions.iter().map(|at| partition(Api::SyncGroup, &topic.topic.0, *at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::{PartitionId, TopicName};

    #[test]
    fn what_is_written_is_read() {
        let topics = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(subscribed(&subscription(&topics).unwrap()).unwrap(), topics);
        let at = |topic, partition| TopicPartition::new(TopicName::new(topic).unwrap(), PartitionId(partition));
        let share = vec![at("a", 0), at("a", 2), at("b", 1)];
        assert_eq!(assigned(&assignment(&share).unwrap()).unwrap(), share);
        assert_eq!(assigned(&Bytes::new()).unwrap(), []);
        assert!(assigned(&Bytes::from_static(b"\0")).is_err());
        assert!(subscribed(&Bytes::from_static(b"\0\0\0\0\0\x09")).is_err());
    }

    #[test]
    fn a_newer_version_is_read_by_its_beginning() {
        let mut newer = BytesMut::new();
        newer.put_i16(9);
        let message = ConsumerProtocolSubscription::default().with_topics(vec![text("a")]).with_generation_id(4);
        message.encode(&mut newer, READ_UP_TO).unwrap();
        newer.put_slice(b"and more");
        assert_eq!(subscribed(&newer.freeze()).unwrap(), ["a"]);
    }
}
