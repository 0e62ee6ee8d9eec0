//! LeaveGroup (13), versions 0 to 5: members go; several, and static ones by name, from version 3 on.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::request::{LeaveGroup, LeavingMember};
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::leave_group_response::MemberResponse;
use ottla_protocol::kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// The first version with a list of members; before it there is one, whose error is the answer's.
const MEMBERS_FROM: i16 = 3;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let version = header.api_version;
    let request = match decode_request::<LeaveGroupRequest>(version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).group(Operation::Read, request.group_id.as_str()) {
        let denied = GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed);
        return Reply::encode::<LeaveGroupRequest>(&header, &response(version, denied));
    }
    let members = match version {
        MEMBERS_FROM.. => request
            .members
            .iter()
            .map(|one| LeavingMember {
                member: group::member_id(&one.member_id),
                instance: group::instance_id(one.group_instance_id.as_ref()),
                reason: one.reason.as_ref().map(group::owned),
            })
            .collect(),
        _ => vec![LeavingMember { member: group::member_id(&request.member_id), instance: None, reason: None }],
    };
    let group_id = group::group_id(&request.group_id);
    let leave = LeaveGroup { group: group_id.clone(), members };
    let asked = group::submit(broker, &group_id, GroupRequest::LeaveGroup(leave));
    let patience = Some(broker.groups.commit_timeout());
    group::respond::<LeaveGroupRequest>(header, asked, patience, move |answer| response(version, answer))
}

fn response(version: i16, answer: GroupAnswer) -> LeaveGroupResponse {
    let response = LeaveGroupResponse::default();
    let left = match answer {
        GroupAnswer::LeaveGroup(left) => left,
        other => return response.with_error_code(group::failure(&other).code()),
    };
    if version < MEMBERS_FROM {
        let member = left.members.first().map_or(ErrorCode::None, |(_, _, error)| *error);
        let error = if left.error.is_ok() { member } else { left.error };
        return response.with_error_code(error.code());
    }
    let members = left.members.iter().map(|(member, instance, error)| {
        MemberResponse::default()
            .with_member_id(wire::text(member.as_str()))
            .with_group_instance_id(group::wire_instance_id(instance.as_ref()))
            .with_error_code(error.code())
    });
    response.with_error_code(left.error.code()).with_members(members.collect())
}

#[cfg(test)]
mod tests {
    use ottla_group_coordinator::answer::Left;
    use ottla_model::MemberId;

    use super::*;

    #[test]
    fn one_members_error_is_the_answers_before_version_3() {
        let left =
            Left { error: ErrorCode::None, members: vec![(MemberId::new("m"), None, ErrorCode::UnknownMemberId)] };
        let old = response(2, GroupAnswer::LeaveGroup(left.clone()));
        assert_eq!((old.error_code, old.members.len()), (ErrorCode::UnknownMemberId.code(), 0));
        let new = response(3, GroupAnswer::LeaveGroup(left));
        assert_eq!((new.error_code, new.members[0].error_code), (0, ErrorCode::UnknownMemberId.code()));
    }
}
