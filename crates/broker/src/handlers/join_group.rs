//! JoinGroup (11), versions 0 to 9: a member comes; the answer waits until the group knows who is in it.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::answer::Joined;
use ottla_group_coordinator::request::JoinGroup;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::{ErrorCode, MemberId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use ottla_protocol::kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// Before it the rebalance timeout is the session timeout.
const REBALANCE_TIMEOUT_FROM: i16 = 1;
/// A member without an id is given one first (KIP-394).
const MEMBER_ID_REQUIRED_FROM: i16 = 4;
/// The protocol's name may be null.
const NULLABLE_PROTOCOL_FROM: i16 = 7;
/// A leader may be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let version = header.api_version;
    let request = match decode_request::<JoinGroupRequest>(version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).group(Operation::Read, request.group_id.as_str()) {
        let denied = GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed);
        return Reply::encode::<JoinGroupRequest>(
            &header,
            &response(version, &group::member_id(&request.member_id), denied),
        );
    }
    let group_id = group::group_id(&request.group_id);
    let member = group::member_id(&request.member_id);
    let join = JoinGroup {
        group: group_id.clone(),
        member: member.clone(),
        instance: group::instance_id(request.group_instance_id.as_ref()),
        client: group::client(context, &header),
        fresh_id: group::fresh_id(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match version {
            REBALANCE_TIMEOUT_FROM.. => request.rebalance_timeout_ms,
            _ => request.session_timeout_ms,
        },
        protocol_type: group::owned(&request.protocol_type),
        protocols: request.protocols.into_iter().map(|one| (group::owned(&one.name), one.metadata)).collect(),
        requires_known_member_id: version >= MEMBER_ID_REQUIRED_FROM,
        supports_skip_assignment: version >= SKIP_ASSIGNMENT_FROM,
        reason: request.reason.as_ref().map(group::owned),
    };
    let asked = group::submit(broker, &group_id, GroupRequest::JoinGroup(join));
    let telemetry = Arc::clone(&broker.telemetry);
    group::respond::<JoinGroupRequest>(header, asked, None, move |answer| {
        if let GroupAnswer::JoinGroup(joined) = &answer
            && !joined.members.is_empty()
        {
            // A round has one leader.
            telemetry.groups.rebalances.add(1);
        }
        response(version, &member, answer)
    })
}

fn response(version: i16, member: &MemberId, answer: GroupAnswer) -> JoinGroupResponse {
    let response = JoinGroupResponse::default();
    let protocol = |name: Option<&str>| match name.filter(|name| !name.is_empty()) {
        None if version >= NULLABLE_PROTOCOL_FROM => None,
        name => Some(wire::text(name.unwrap_or_default())),
    };
    match answer {
        GroupAnswer::JoinGroup(joined) => {
            let Joined { error, generation, protocol_type, protocol_name, leader, skip_assignment, member, members } =
                joined;
            let members = members.into_iter().map(|one| {
                JoinGroupResponseMember::default()
                    .with_member_id(wire::text(one.member.as_str()))
                    .with_group_instance_id(group::wire_instance_id(one.instance.as_ref()))
                    .with_metadata(one.metadata)
            });
            response
                .with_error_code(error.code())
                .with_generation_id(generation)
                .with_protocol_type(protocol_type.as_deref().map(wire::text))
                .with_protocol_name(protocol(protocol_name.as_deref()))
                .with_leader(wire::text(leader.as_str()))
                .with_skip_assignment(skip_assignment && version >= SKIP_ASSIGNMENT_FROM)
                .with_member_id(wire::text(member.as_str()))
                .with_members(members.collect())
        }
        other => response
            .with_error_code(group::failure(&other).code())
            .with_generation_id(-1)
            .with_protocol_name(protocol(None))
            .with_member_id(wire::text(member.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_can_be_said_in_every_version() {
        for version in 0..=9 {
            let answer = GroupAnswer::Failed(ErrorCode::NotCoordinator);
            let failed = response(version, &MemberId::new("m"), answer);
            assert_eq!((failed.error_code, failed.generation_id), (ErrorCode::NotCoordinator.code(), -1));
            assert_eq!(failed.protocol_name.is_none(), version >= 7, "{version}");
            assert_eq!(failed.member_id.as_str(), "m");
            ottla_protocol::encode_response::<JoinGroupRequest>(version, 1, &failed).expect("encodes");
        }
    }
}
