//! ConsumerGroupHeartbeat (68), versions 0 and 1: all that a member of a consumer group (KIP-848) says and is told.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{Operation, ResourceType};
use ottla_group_coordinator::answer::ConsumerHeartbeatAnswer;
use ottla_group_coordinator::request::ConsumerGroupHeartbeat;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest, VisibleTopics};
use ottla_model::{ErrorCode, PartitionId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use ottla_protocol::kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// From here on members choose their own ids (KIP-1082).
const OWN_MEMBER_ID_FROM: i16 = 1;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<ConsumerGroupHeartbeatRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    if !access.group(Operation::Read, request.group_id.as_str()) {
        let denied = GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed);
        return Reply::encode::<ConsumerGroupHeartbeatRequest>(&header, &response(denied));
    }
    if header.api_version >= OWN_MEMBER_ID_FROM && request.member_id.is_empty() {
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_error_code(ErrorCode::InvalidRequest.code())
            .with_error_message(Some(wire::text("MemberId can't be empty.")));
        return Reply::encode::<ConsumerGroupHeartbeatRequest>(&header, &response);
    }
    let subscribed = request.subscribed_topic_names.iter().flatten();
    if !subscribed.into_iter().all(|name| access.topic(Operation::Describe, name.as_str())) {
        let denied = GroupAnswer::Failed(ErrorCode::TopicAuthorizationFailed);
        return Reply::encode::<ConsumerGroupHeartbeatRequest>(&header, &response(denied));
    }
    let group_id = group::group_id(&request.group_id);
    let numbers = |partitions: &[i32]| partitions.iter().copied().map(PartitionId).collect();
    let heartbeat = ConsumerGroupHeartbeat {
        group: group_id.clone(),
        member: group::member_id(&request.member_id),
        fresh_id: if request.member_id.is_empty() { group::fresh_id() } else { String::new() },
        member_epoch: request.member_epoch,
        instance: group::instance_id(request.instance_id.as_ref()),
        rack: request.rack_id.as_ref().map(group::owned),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        client: group::client(context, &header),
        subscribed_topics: request
            .subscribed_topic_names
            .as_ref()
            .map(|names| names.iter().map(|name| name.as_str().to_owned()).collect()),
        subscribed_regex: request.subscribed_topic_regex.as_ref().map(group::owned),
        visible_topics: visible_topics(access),
        server_assignor: request.server_assignor.as_ref().map(group::owned),
        owned: request
            .topic_partitions
            .as_ref()
            .map(|owned| owned.iter().map(|one| (wire::topic_id(one.topic_id), numbers(&one.partitions))).collect()),
    };
    let asked = group::submit(broker, &group_id, GroupRequest::ConsumerGroupHeartbeat(heartbeat));
    let patience = Some(broker.groups.commit_timeout());
    group::respond::<ConsumerGroupHeartbeatRequest>(header, asked, patience, response)
}

fn visible_topics(access: Access) -> VisibleTopics {
    match access.is_unlimited() {
        true => VisibleTopics::default(),
        false => VisibleTopics::only(move |topic| access.shows(Operation::Describe, ResourceType::Topic, topic)),
    }
}

fn response(answer: GroupAnswer) -> ConsumerGroupHeartbeatResponse {
    let response = ConsumerGroupHeartbeatResponse::default();
    let ConsumerHeartbeatAnswer { error, message, member, member_epoch, heartbeat_interval_ms, assignment } =
        match answer {
            GroupAnswer::ConsumerGroupHeartbeat(answer) => answer,
            other => return response.with_error_code(group::failure(&other).code()),
        };
    let assignment = assignment.map(|topics| {
        let topics = topics.into_iter().map(|(id, partitions)| {
            TopicPartitions::default()
                .with_topic_id(wire::uuid(id))
                .with_partitions(partitions.into_iter().map(|partition| partition.0).collect())
        });
        Assignment::default().with_topic_partitions(topics.collect())
    });
    response
        .with_error_code(error.code())
        .with_error_message(message.as_deref().map(wire::text))
        .with_member_id(member.map(|member| wire::text(member.as_str())))
        .with_member_epoch(member_epoch)
        .with_heartbeat_interval_ms(heartbeat_interval_ms)
        .with_assignment(assignment)
}
