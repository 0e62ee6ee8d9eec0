//! OffsetCommit requests, versions 2 to 10: `kafka_protocol` does not know the topic ids of version 10 (KIP-848), and
//! this is the most frequent request of a consumer that commits each record.

use ottla_model::{LeaderEpoch, Offset, PartitionId};
use std::borrow::Cow;

use super::TopicRef;
use crate::bounds::elements_max;
use crate::wire::{Reader, WireError};

const FLEXIBLE_FROM: i16 = 8;
/// Topics are named by id from here on.
pub const TOPIC_IDS_FROM: i16 = 10;
const INSTANCE_FROM: i16 = 7;
const LEADER_EPOCH_FROM: i16 = 6;
const RETENTION_IN: std::ops::RangeInclusive<i16> = 2..=4;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommitRequest {
    pub group: String,
    /// −1: not a member.
    pub generation_or_epoch: i32,
    pub member: String,
    pub instance: Option<String>,
    /// None: the broker's.
    pub retention_ms: Option<i64>,
    pub topics: Vec<OffsetCommitTopic>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommitTopic {
    pub topic: TopicRef,
    pub partitions: Vec<OffsetCommitPartition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommitPartition {
    pub partition: PartitionId,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: Option<String>,
}

/// Parses the request whose body begins at `start` of `frame`. At most [`elements_max`] topics and partitions.
pub fn parse(version: i16, frame: &[u8], start: usize) -> Result<OffsetCommitRequest, WireError> {
    let flexible = version >= FLEXIBLE_FROM;
    let mut reader = Reader::new(frame, start);
    let group = reader.string(flexible)?.into_owned();
    let generation_or_epoch = reader.i32()?;
    let member = reader.string(flexible)?.into_owned();
    let instance = if version >= INSTANCE_FROM { reader.nullable_string(flexible)?.map(Cow::into_owned) } else { None };
    let retention_ms = if RETENTION_IN.contains(&version) { Some(reader.i64()?).filter(|ms| *ms >= 0) } else { None };
    let mut left = elements_max() as usize;
    let topic_count = reader.array_length(flexible, 3, left)?;
    left -= topic_count;
    let mut topics = Vec::with_capacity(topic_count);
    for _ in 0..topic_count {
        let topic = TopicRef::parse(&mut reader, flexible, version >= TOPIC_IDS_FROM)?;
        let count = reader.array_length(flexible, 13, left)?;
        left -= count;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let partition = PartitionId(reader.i32()?);
            let offset = Offset(reader.i64()?);
            let leader_epoch =
                if version >= LEADER_EPOCH_FROM { LeaderEpoch(reader.i32()?) } else { LeaderEpoch::NONE };
            let metadata = reader.nullable_string(flexible)?.map(Cow::into_owned);
            skip_tags(&mut reader, flexible)?;
            partitions.push(OffsetCommitPartition { partition, offset, leader_epoch, metadata });
        }
        skip_tags(&mut reader, flexible)?;
        topics.push(OffsetCommitTopic { topic, partitions });
    }
    skip_tags(&mut reader, flexible)?;
    Ok(OffsetCommitRequest { group, generation_or_epoch, member, instance, retention_ms, topics })
}

fn skip_tags(reader: &mut Reader<'_>, flexible: bool) -> Result<(), WireError> {
    if flexible {
        reader.skip_tagged_fields()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    use kafka_protocol::messages::{GroupId, OffsetCommitRequest as Theirs, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use ottla_model::TopicId;

    use super::*;

    fn text(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    #[test]
    fn it_reads_what_kafkas_schema_writes() {
        for version in 2..=9 {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(4)
                .with_committed_offset(77)
                .with_committed_leader_epoch(if version >= 6 { 3 } else { -1 })
                .with_committed_metadata(Some(text("note")));
            let bare = OffsetCommitRequestPartition::default().with_committed_metadata(None);
            let topic = OffsetCommitRequestTopic::default()
                .with_name(TopicName(text("logs")))
                .with_partitions(vec![partition, bare]);
            let theirs = Theirs::default()
                .with_group_id(GroupId(text("g")))
                .with_generation_id_or_member_epoch(9)
                .with_member_id(text("m"))
                .with_group_instance_id((version >= 7).then(|| text("i")))
                .with_retention_time_ms(if version <= 4 { 60_000 } else { -1 })
                .with_topics(vec![topic]);
            let mut body = BytesMut::new();
            theirs.encode(&mut body, version).unwrap();
            let read = parse(version, &body, 0).unwrap();
            assert_eq!((read.group.as_str(), read.generation_or_epoch, read.member.as_str()), ("g", 9, "m"));
            assert_eq!(read.instance.as_deref(), (version >= 7).then_some("i"));
            assert_eq!(read.retention_ms, (version <= 4).then_some(60_000));
            assert_eq!(read.topics[0].topic, TopicRef::Name("logs".to_owned()));
            let expected = OffsetCommitPartition {
                partition: PartitionId(4),
                offset: Offset(77),
                leader_epoch: if version >= 6 { LeaderEpoch(3) } else { LeaderEpoch::NONE },
                metadata: Some("note".to_owned()),
            };
            assert_eq!(read.topics[0].partitions[0], expected);
            assert_eq!(read.topics[0].partitions[1].metadata, None);
            for end in 0..body.len() {
                assert!(parse(version, &body[..end], 0).is_err(), "{version} cut at {end}");
            }
        }
    }

    #[test]
    fn version_10_names_topics_by_id() {
        let mut body = vec![2, b'g', 255, 255, 255, 255, 1, 0, 2];
        body.extend_from_slice(&[7; 16]);
        body.extend_from_slice(&[1, 0, 0]);
        let read = parse(10, &body, 0).unwrap();
        assert_eq!(read.generation_or_epoch, -1);
        assert_eq!(read.topics[0].topic, TopicRef::Id(TopicId([7; 16])));
    }
}
