//! OffsetFetch requests, versions 1 to 10, in one form: one group below version 8 is a list of one. `kafka_protocol`
//! does not know how version 10 names topics (KIP-848).

use ottla_model::PartitionId;
use std::borrow::Cow;

use super::TopicRef;
use crate::bounds::elements_max;
use crate::wire::{Reader, WireError};

const FLEXIBLE_FROM: i16 = 6;
/// Topics are named by id from here on.
pub const TOPIC_IDS_FROM: i16 = 10;
/// The first version that can fetch several groups.
pub const GROUPS_FROM: i16 = 8;
const MEMBER_FROM: i16 = 9;
const REQUIRE_STABLE_FROM: i16 = 7;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetFetchRequest {
    pub groups: Vec<OffsetFetchGroup>,
    pub require_stable: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetFetchGroup {
    pub group: String,
    pub member: Option<String>,
    /// −1: not a member.
    pub member_epoch: i32,
    /// None: every topic.
    pub topics: Option<Vec<(TopicRef, Vec<PartitionId>)>>,
}

/// Parses the request whose body begins at `start` of `frame`. At most [`elements_max`] groups, topics and partitions.
pub fn parse(version: i16, frame: &[u8], start: usize) -> Result<OffsetFetchRequest, WireError> {
    let flexible = version >= FLEXIBLE_FROM;
    let mut reader = Reader::new(frame, start);
    let mut left = elements_max() as usize;
    let mut groups = Vec::new();
    if version >= GROUPS_FROM {
        let count = reader.array_length(flexible, 3, left)?;
        left -= count;
        groups.reserve(count);
        for _ in 0..count {
            let group = reader.string(flexible)?.into_owned();
            let (member, member_epoch) = if version >= MEMBER_FROM {
                (reader.nullable_string(flexible)?.map(Cow::into_owned), reader.i32()?)
            } else {
                (None, -1)
            };
            let topics = topics(&mut reader, version, &mut left)?;
            reader.skip_tagged_fields()?;
            groups.push(OffsetFetchGroup { group, member, member_epoch, topics });
        }
    } else {
        let group = reader.string(flexible)?.into_owned();
        let topics = topics(&mut reader, version, &mut left)?;
        groups.push(OffsetFetchGroup { group, member: None, member_epoch: -1, topics });
    }
    let require_stable = version >= REQUIRE_STABLE_FROM && reader.bool()?;
    if flexible {
        reader.skip_tagged_fields()?;
    }
    Ok(OffsetFetchRequest { groups, require_stable })
}

type Topics = Option<Vec<(TopicRef, Vec<PartitionId>)>>;

fn topics(reader: &mut Reader<'_>, version: i16, left: &mut usize) -> Result<Topics, WireError> {
    let flexible = version >= FLEXIBLE_FROM;
    // Null (every topic) came with version 2.
    let Some(count) = reader.nullable_array(flexible, 3, *left)? else {
        return if version >= 2 { Ok(None) } else { Err(WireError::InvalidLength(-1)) };
    };
    *left -= count;
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let topic = TopicRef::parse(reader, flexible, version >= TOPIC_IDS_FROM)?;
        let count = reader.array_length(flexible, 4, *left)?;
        *left -= count;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(PartitionId(reader.i32()?));
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        topics.push((topic, partitions));
    }
    Ok(Some(topics))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::offset_fetch_request::{
        OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
    };
    use kafka_protocol::messages::{GroupId, OffsetFetchRequest as Theirs, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use ottla_model::TopicId;

    use super::*;

    fn text(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    #[test]
    fn it_reads_what_kafkas_schema_writes() {
        for version in 1..=9 {
            let name = TopicName(text("logs"));
            let theirs = if version >= 8 {
                let topics = OffsetFetchRequestTopics::default().with_name(name).with_partition_indexes(vec![1, 2]);
                let group = OffsetFetchRequestGroup::default()
                    .with_group_id(GroupId(text("g")))
                    .with_member_id((version >= 9).then(|| text("m")))
                    .with_member_epoch(if version >= 9 { 5 } else { -1 });
                let all = group.clone().with_topics(None);
                Theirs::default()
                    .with_groups(vec![group.with_topics(Some(vec![topics])), all])
                    .with_require_stable(true)
            } else {
                let topics = OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(vec![1, 2]);
                Theirs::default()
                    .with_group_id(GroupId(text("g")))
                    .with_topics(Some(vec![topics]))
                    .with_require_stable(version >= 7)
            };
            let mut body = BytesMut::new();
            theirs.encode(&mut body, version).unwrap();
            let read = parse(version, &body, 0).unwrap();
            assert_eq!(read.require_stable, version >= 7);
            assert_eq!(read.groups.len(), if version >= 8 { 2 } else { 1 });
            let topics = vec![(TopicRef::Name("logs".to_owned()), vec![PartitionId(1), PartitionId(2)])];
            let expected = OffsetFetchGroup {
                group: "g".to_owned(),
                member: (version >= 9).then(|| "m".to_owned()),
                member_epoch: if version >= 9 { 5 } else { -1 },
                topics: Some(topics),
            };
            assert_eq!(read.groups[0], expected);
            assert!(version < 8 || read.groups[1].topics.is_none());
            for end in 0..body.len() {
                assert!(parse(version, &body[..end], 0).is_err(), "{version} cut at {end}");
            }
        }
    }

    #[test]
    fn version_10_names_topics_by_id() {
        let mut body = vec![2, 2, b'g', 0, 255, 255, 255, 255, 2];
        body.extend_from_slice(&[7; 16]);
        body.extend_from_slice(&[2, 0, 0, 0, 3, 0, 0, 1, 0]);
        let read = parse(10, &body, 0).unwrap();
        assert_eq!(read.groups[0].topics, Some(vec![(TopicRef::Id(TopicId([7; 16])), vec![PartitionId(3)])]));
        assert!(read.require_stable);
    }
}
