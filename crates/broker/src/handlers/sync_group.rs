//! SyncGroup (14), versions 0 to 5: the leader brings the assignment, everybody gets a share.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::request::SyncGroup;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// From here on the request has to say which protocol it is about.
const PROTOCOL_FROM: i16 = 5;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<SyncGroupRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let lacks_protocol = request.protocol_type.is_none() || request.protocol_name.is_none();
    let asked = if header.api_version >= PROTOCOL_FROM && lacks_protocol {
        PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::InconsistentGroupProtocol))
    } else if !broker.access(context).group(Operation::Read, request.group_id.as_str()) {
        PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed))
    } else {
        let group_id = group::group_id(&request.group_id);
        let sync = SyncGroup {
            group: group_id.clone(),
            generation: request.generation_id,
            member: group::member_id(&request.member_id),
            instance: group::instance_id(request.group_instance_id.as_ref()),
            protocol_type: request.protocol_type.as_ref().map(group::owned),
            protocol_name: request.protocol_name.as_ref().map(group::owned),
            assignments: request
                .assignments
                .into_iter()
                .map(|one| (group::member_id(&one.member_id), one.assignment))
                .collect(),
        };
        group::submit(broker, &group_id, GroupRequest::SyncGroup(sync))
    };
    group::respond::<SyncGroupRequest>(header, asked, None, |answer| match answer {
        GroupAnswer::SyncGroup(synced) => SyncGroupResponse::default()
            .with_error_code(synced.error.code())
            .with_protocol_type(synced.protocol_type.as_deref().map(wire::text))
            .with_protocol_name(synced.protocol_name.as_deref().map(wire::text))
            .with_assignment(synced.assignment),
        other => SyncGroupResponse::default().with_error_code(group::failure(&other).code()),
    })
}
