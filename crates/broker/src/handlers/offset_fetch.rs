//! OffsetFetch (9), versions 1 to 10: what groups have committed; several groups from version 8 on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_authorizer::{Operation, ResourceType};
use ottla_group_coordinator::answer::{FetchedOffset, FetchedOffsets};
use ottla_group_coordinator::request::{FetchOffsets, GroupTopic};
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_metadata::Image;
use ottla_model::{ErrorCode, GroupId, LeaderEpoch, MemberId, Offset, PartitionId, TopicId};
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use ottla_protocol::kafka_protocol::messages::{
    OffsetFetchRequest as WireRequest, OffsetFetchResponse, TopicName as WireTopicName,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::offset_fetch::{self, GROUPS_FROM, OffsetFetchGroup, TOPIC_IDS_FROM};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// From here on an answer has an error of its own.
const TOP_LEVEL_ERROR_FROM: i16 = 2;

/// Where the groups hold more together, all offsets of one are not looked for by a worker: some ten thousand of them
/// take milliseconds.
const INLINE_HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

type Topics = Vec<(GroupTopic, Vec<FetchedOffset>)>;

/// What is to be known of a group's question when its answer comes.
struct Question {
    group: GroupId,
    /// What was asked for, where an error has to be said of each partition.
    asked: Vec<(GroupTopic, Vec<PartitionId>)>,
    /// Topic ids that nobody knows.
    refused: Topics,
}

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    group::tell(broker, context, header, body, tell)
}

fn tell(
    broker: &Arc<Broker>,
    context: &RequestContext,
    header: RequestHeader,
    body: Bytes,
    max_bytes: usize,
) -> Option<Reply> {
    let version = header.api_version;
    let request = match offset_fetch::parse(version, &body, 0) {
        Ok(request) => request,
        Err(error) => return Some(Reply::close(format_args!("OffsetFetch: {error}"))),
    };
    // How much one group has nobody knows before.
    let asks_for_all = request.groups.iter().any(|group| group.topics.is_none());
    if asks_for_all && max_bytes < usize::MAX && broker.groups.held_bytes() > INLINE_HELD_BYTES_MAX {
        return None;
    }
    let image = broker.metadata.current();
    let groups = &broker.groups;
    let access = broker.access(context);
    let distinct = distinct(request.groups);
    let asked = distinct.into_iter().map(|one| {
        let (question, fetch) = question(&image, &access, version, request.require_stable, one);
        let asked = match access.group(Operation::Describe, question.group.as_str()) {
            true => groups.submit(&image, &question.group, GroupRequest::FetchOffsets(fetch)),
            false => PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed)),
        };
        (question, asked)
    });
    let (image, shown) = (Arc::clone(&image), access.clone());
    group::respond_all::<WireRequest, _>(broker, header, max_bytes, asked, move |answers| {
        let fetched = answers.into_iter().map(|(question, answer)| {
            let (error, topics) = outcome(version, &image, &shown, question.asked, question.refused, answer);
            (question.group, error, topics)
        });
        response(version, fetched.collect())
    })
}

/// Each group once, and of each group every topic and partition once: a key that is repeated in a small request would
/// repeat its offsets and their metadata in the response.
fn distinct(groups: Vec<OffsetFetchGroup>) -> Vec<OffsetFetchGroup> {
    let mut places = BTreeMap::new();
    let mut distinct: Vec<OffsetFetchGroup> = Vec::new();
    for one in groups {
        let place = *places.entry(one.group.clone()).or_insert(distinct.len());
        match distinct.get_mut(place) {
            None => distinct.push(one),
            Some(first) => match (&mut first.topics, one.topics) {
                (Some(topics), Some(more)) => topics.extend(more),
                (topics, _) => *topics = None,
            },
        }
    }
    for group in &mut distinct {
        group.topics = group.topics.take().map(distinct_topics);
    }
    distinct
}

fn distinct_topics(topics: Vec<(TopicRef, Vec<PartitionId>)>) -> Vec<(TopicRef, Vec<PartitionId>)> {
    let mut places = BTreeMap::new();
    let mut distinct: Vec<(TopicRef, Vec<PartitionId>)> = Vec::new();
    let mut seen: Vec<BTreeSet<PartitionId>> = Vec::new();
    for (topic, partitions) in topics {
        let place = *places.entry(topic.clone()).or_insert(distinct.len());
        if place == distinct.len() {
            distinct.push((topic, Vec::new()));
            seen.push(BTreeSet::new());
        }
        if let (Some((_, known)), Some(seen)) = (distinct.get_mut(place), seen.get_mut(place)) {
            known.extend(partitions.into_iter().filter(|partition| seen.insert(*partition)));
        }
    }
    distinct
}

fn question(
    image: &Image,
    access: &Access,
    version: i16,
    require_stable: bool,
    one: OffsetFetchGroup,
) -> (Question, FetchOffsets) {
    let mut refused = Topics::new();
    let mut known = |(topic, partitions): (TopicRef, Vec<PartitionId>)| {
        if let Err(error) = access.topic_ref(Operation::Describe, &topic) {
            let named = match topic {
                TopicRef::Name(name) => GroupTopic { name, id: TopicId::ZERO },
                TopicRef::Id(id) => GroupTopic { name: String::new(), id },
            };
            refused.push((named, failed(&partitions, error)));
            return None;
        }
        let found = group::topic(image, &topic);
        if found.is_none() {
            let id = if let TopicRef::Id(id) = topic { id } else { TopicId::ZERO };
            refused.push((GroupTopic { name: String::new(), id }, failed(&partitions, ErrorCode::UnknownTopicId)));
        }
        found.map(|topic| (topic, partitions))
    };
    let topics: Option<Vec<_>> = one.topics.map(|topics| topics.into_iter().filter_map(&mut known).collect());
    let group = GroupId::new(one.group);
    // Only the oldest version has to say an error of each partition.
    let asked = if version < TOP_LEVEL_ERROR_FROM { topics.clone().unwrap_or_default() } else { Vec::new() };
    let fetch = FetchOffsets {
        group: group.clone(),
        member: one.member.map(MemberId::new),
        member_epoch: one.member_epoch,
        require_stable,
        topics,
    };
    (Question { group, asked, refused }, fetch)
}

fn failed(partitions: &[PartitionId], error: ErrorCode) -> Vec<FetchedOffset> {
    let one = |partition: &PartitionId| FetchedOffset {
        partition: *partition,
        offset: Offset::UNKNOWN,
        leader_epoch: LeaderEpoch::NONE,
        metadata: String::new(),
        error,
    };
    partitions.iter().map(one).collect()
}

fn outcome(
    version: i16,
    image: &Image,
    access: &Access,
    asked: Vec<(GroupTopic, Vec<PartitionId>)>,
    refused: Topics,
    answer: GroupAnswer,
) -> (ErrorCode, Topics) {
    let fetched = match answer {
        GroupAnswer::FetchOffsets(fetched) => fetched,
        other => FetchedOffsets { error: group::failure(&other), topics: Vec::new() },
    };
    if !fetched.error.is_ok() {
        let topics = asked.into_iter().map(|(topic, partitions)| (topic, failed(&partitions, fetched.error)));
        return (fetched.error, topics.collect());
    }
    let mut topics = fetched.topics;
    // A request for all topics is answered with those that may be described.
    topics.retain(|(topic, _)| access.shows(Operation::Describe, ResourceType::Topic, &topic.name));
    if version >= TOPIC_IDS_FROM {
        // Offsets of a topic that is gone cannot be told of any more.
        topics.retain_mut(|(topic, _)| {
            if topic.id.is_zero() {
                topic.id = image.topic(&topic.name).map_or(TopicId::ZERO, |topic| topic.id);
            }
            !topic.id.is_zero()
        });
    }
    topics.extend(refused);
    (ErrorCode::None, topics)
}

fn response(version: i16, groups: Vec<(GroupId, ErrorCode, Topics)>) -> OffsetFetchResponse {
    if version >= GROUPS_FROM {
        let groups = groups.into_iter().map(|(group, error, topics)| {
            let topics = topics.into_iter().map(|(topic, offsets)| batched_topic(version, &topic, offsets));
            OffsetFetchResponseGroup::default()
                .with_group_id(group::wire_group_id(&group))
                .with_error_code(error.code())
                .with_topics(topics.collect())
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let Some((_, error, topics)) = groups.into_iter().next() else { return OffsetFetchResponse::default() };
    let topics = topics.into_iter().map(|(topic, offsets)| {
        let offsets = offsets.into_iter().map(|one| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(one.partition.0)
                .with_committed_offset(one.offset.0)
                .with_committed_leader_epoch(one.leader_epoch.0)
                .with_metadata(Some(wire::text(&one.metadata)))
                .with_error_code(one.error.code())
        });
        OffsetFetchResponseTopic::default()
            .with_name(WireTopicName(wire::text(&topic.name)))
            .with_partitions(offsets.collect())
    });
    let response = OffsetFetchResponse::default().with_topics(topics.collect());
    if version >= TOP_LEVEL_ERROR_FROM { response.with_error_code(error.code()) } else { response }
}

fn batched_topic(version: i16, topic: &GroupTopic, offsets: Vec<FetchedOffset>) -> OffsetFetchResponseTopics {
    let offsets = offsets.into_iter().map(|one| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(one.partition.0)
            .with_committed_offset(one.offset.0)
            .with_committed_leader_epoch(one.leader_epoch.0)
            .with_metadata(Some(wire::text(&one.metadata)))
            .with_error_code(one.error.code())
    });
    let response = OffsetFetchResponseTopics::default().with_partitions(offsets.collect());
    match version {
        TOPIC_IDS_FROM.. => response.with_topic_id(wire::uuid(topic.id)),
        _ => response.with_name(WireTopicName(wire::text(&topic.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_twice_is_asked_once() {
        let topic = |name: &str, partitions: &[i32]| {
            (TopicRef::Name(name.to_owned()), partitions.iter().map(|number| PartitionId(*number)).collect::<Vec<_>>())
        };
        let group = |name: &str, topics: Option<Vec<_>>| OffsetFetchGroup {
            group: name.to_owned(),
            member: None,
            member_epoch: -1,
            topics,
        };
        let asked = vec![
            group("g", Some(vec![topic("b", &[1, 1, 0]), topic("a", &[0])])),
            group("h", Some(vec![topic("a", &[0])])),
            group("g", Some(vec![topic("b", &[2, 1])])),
            group("h", None),
            group("h", Some(vec![topic("a", &[1])])),
        ];
        let expected = [group("g", Some(vec![topic("b", &[1, 0, 2]), topic("a", &[0])])), group("h", None)];
        assert_eq!(distinct(asked), expected);
    }

    #[test]
    fn every_version_can_say_an_error() {
        let topic = GroupTopic { name: "logs".to_owned(), id: TopicId([7; 16]) };
        let asked = vec![(topic, vec![PartitionId(0)])];
        for version in 1..=10 {
            let asked = if version < TOP_LEVEL_ERROR_FROM { asked.clone() } else { Vec::new() };
            let answer = GroupAnswer::Failed(ErrorCode::CoordinatorLoadInProgress);
            let (error, topics) = outcome(version, &Image::empty(), &Access::unlimited(), asked, Vec::new(), answer);
            let response = response(version, vec![(GroupId::new("g"), error, topics)]);
            let code = match version {
                1 => response.topics[0].partitions[0].error_code,
                2..=7 => response.error_code,
                _ => response.groups[0].error_code,
            };
            assert_eq!(code, ErrorCode::CoordinatorLoadInProgress.code(), "{version}");
            ottla_protocol::encode_response::<WireRequest>(version, 1, &response).expect("encodes");
        }
    }
}
