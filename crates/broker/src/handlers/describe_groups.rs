//! DescribeGroups (15), versions 0 to 6: classic groups with their members.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_authorizer::{Operation, ResourceType};
use ottla_group_coordinator::answer::Described;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::{ErrorCode, GroupId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use ottla_protocol::kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// The first version that tells a group that is not there from one without members.
const NOT_FOUND_FROM: i16 = 6;

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
    let request = match decode_request::<DescribeGroupsRequest>(version, body) {
        Ok(request) => request,
        Err(error) => return Some(Reply::close(error)),
    };
    let with_operations = request.include_authorized_operations;
    let access = broker.access(context);
    let mut seen = BTreeSet::new();
    let of_groups = access.clone();
    let asked = request.groups.iter().map(group::group_id).filter(|id| seen.insert(id.clone())).map(|id| {
        let asked = match of_groups.group(Operation::Describe, id.as_str()) {
            true => group::submit(broker, &id, GroupRequest::DescribeGroup(id.clone())),
            false => PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed)),
        };
        (id, asked)
    });
    group::respond_all::<DescribeGroupsRequest, _>(broker, header, max_bytes, asked, move |answers| {
        let groups = answers.into_iter().map(|(id, answer)| described(version, &id, with_operations, &access, answer));
        DescribeGroupsResponse::default().with_groups(groups.collect())
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
    let Described { error, message, group: _, state, protocol_type, protocol, members } = match answer {
        GroupAnswer::DescribeGroup(described) => described,
        other => return response.with_error_code(group::failure(&other).code()),
    };
    let error = if error == ErrorCode::GroupIdNotFound && version < NOT_FOUND_FROM { ErrorCode::None } else { error };
    let members = members.into_iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(wire::text(member.member.as_str()))
            .with_group_instance_id(group::wire_instance_id(member.instance.as_ref()))
            .with_client_id(wire::text(&member.client_id))
            .with_client_host(wire::text(&member.client_host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    let response = response
        .with_error_code(error.code())
        .with_error_message(message.filter(|_| version >= NOT_FOUND_FROM).as_deref().map(wire::text))
        .with_group_state(wire::text(state))
        .with_protocol_type(wire::text(&protocol_type))
        .with_protocol_data(wire::text(&protocol))
        .with_members(members.collect());
    match with_operations && error.is_ok() {
        true => response.with_authorized_operations(access.operations(ResourceType::Group, id.as_str())),
        false => response,
    }
}
