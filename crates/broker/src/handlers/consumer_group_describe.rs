//! ConsumerGroupDescribe (69), versions 0 and 1: consumer groups (KIP-848) with their members.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_authorizer::{Operation, ResourceType};
use ottla_group_coordinator::answer::{ConsumerGroupDescribed, ConsumerGroupMember};
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::{ErrorCode, GroupId, PartitionId, TopicId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use ottla_protocol::kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, TopicName as WireTopicName,
};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// The first version that tells members of the classic protocol from the others.
const MEMBER_TYPE_FROM: i16 = 1;
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;
/// Kafka's text.
const HIDDEN_TOPICS: &str = "The group has described topic(s) that the client is not authorized to describe.";

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
    let request = match decode_request::<ConsumerGroupDescribeRequest>(version, body) {
        Ok(request) => request,
        Err(error) => return Some(Reply::close(error)),
    };
    let with_operations = request.include_authorized_operations;
    let access = broker.access(context);
    let mut seen = BTreeSet::new();
    let of_groups = access.clone();
    let asked = request.group_ids.iter().map(group::group_id).filter(|id| seen.insert(id.clone())).map(|id| {
        let asked = match id.as_str() {
            _ if !of_groups.group(Operation::Describe, id.as_str()) => {
                PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed))
            }
            "" => PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::InvalidGroupId)),
            _ => group::submit(broker, &id, GroupRequest::ConsumerGroupDescribe(id.clone())),
        };
        (id, asked)
    });
    group::respond_all::<ConsumerGroupDescribeRequest, _>(broker, header, max_bytes, asked, move |answers| {
        let groups = answers.into_iter().map(|(id, answer)| described(version, &id, with_operations, &access, answer));
        ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
    })
}

fn described(
    version: i16,
    id: &GroupId,
    with_operations: bool,
    access: &Access,
    answer: GroupAnswer,
) -> DescribedGroup {
    let response = DescribedGroup::default()
        .with_group_id(group::wire_group_id(id))
        .with_authorized_operations(wire::OPERATIONS_NOT_ASKED);
    let ConsumerGroupDescribed { error, message, group: _, state, group_epoch, assignment_epoch, assignor, members } =
        match answer {
            GroupAnswer::ConsumerGroupDescribe(described) => described,
            other => return response.with_error_code(group::failure(&other).code()),
        };
    // A member's assignment names topics: describing a group needs DESCRIBE on all of them.
    if !members.iter().flat_map(topics_of).all(|topic| access.topic(Operation::Describe, topic)) {
        return response
            .with_error_code(ErrorCode::TopicAuthorizationFailed.code())
            .with_error_message(Some(wire::text(HIDDEN_TOPICS)));
    }
    let response = response
        .with_error_code(error.code())
        .with_error_message(message.as_deref().map(wire::text))
        .with_group_state(wire::text(state))
        .with_group_epoch(group_epoch)
        .with_assignment_epoch(assignment_epoch)
        .with_assignor_name(wire::text(&assignor))
        .with_members(members.into_iter().map(|one| member(version, one)).collect());
    match with_operations && error.is_ok() {
        true => response.with_authorized_operations(access.operations(ResourceType::Group, id.as_str())),
        false => response,
    }
}

/// The topics that the description of a member names.
fn topics_of(member: &ConsumerGroupMember) -> impl Iterator<Item = &str> {
    let assigned = member.assignment.iter().chain(&member.target_assignment).map(|(_, name, _)| name.as_str());
    member.subscribed_topics.iter().map(String::as_str).chain(assigned)
}

fn member(version: i16, member: ConsumerGroupMember) -> Member {
    let names = member.subscribed_topics.iter().map(|name| WireTopicName(wire::text(name)));
    let response = Member::default()
        .with_member_id(wire::text(member.member.as_str()))
        .with_instance_id(group::wire_instance_id(member.instance.as_ref()))
        .with_rack_id(member.rack.as_deref().map(wire::text))
        .with_member_epoch(member.member_epoch)
        .with_client_id(wire::text(&member.client_id))
        .with_client_host(wire::text(&member.client_host))
        .with_subscribed_topic_names(names.collect())
        .with_subscribed_topic_regex(member.subscribed_regex.as_deref().map(wire::text))
        .with_assignment(assignment(member.assignment))
        .with_target_assignment(assignment(member.target_assignment));
    match version {
        MEMBER_TYPE_FROM.. => {
            response.with_member_type(if member.is_classic { CLASSIC_MEMBER } else { CONSUMER_MEMBER })
        }
        _ => response,
    }
}

fn assignment(topics: Vec<(TopicId, String, Vec<PartitionId>)>) -> Assignment {
    let topics = topics.into_iter().map(|(id, name, partitions)| {
        TopicPartitions::default()
            .with_topic_id(wire::uuid(id))
            .with_topic_name(WireTopicName(wire::text(&name)))
            .with_partitions(partitions.into_iter().map(|partition| partition.0).collect())
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
