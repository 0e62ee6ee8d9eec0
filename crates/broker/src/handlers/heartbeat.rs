//! Heartbeat (12), versions 0 to 4: a member of a classic group is there, and learns of a rebalance.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::request::Heartbeat;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::group;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<HeartbeatRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).group(Operation::Read, request.group_id.as_str()) {
        let denied = HeartbeatResponse::default().with_error_code(ErrorCode::GroupAuthorizationFailed.code());
        return Reply::encode::<HeartbeatRequest>(&header, &denied);
    }
    let group_id = group::group_id(&request.group_id);
    let heartbeat = Heartbeat {
        group: group_id.clone(),
        generation: request.generation_id,
        member: group::member_id(&request.member_id),
        instance: group::instance_id(request.group_instance_id.as_ref()),
    };
    let asked = group::submit(broker, &group_id, GroupRequest::Heartbeat(heartbeat));
    let patience = Some(broker.groups.commit_timeout());
    group::respond::<HeartbeatRequest>(header, asked, patience, |answer| {
        let error = match answer {
            GroupAnswer::Heartbeat(error) => error,
            // As Kafka: a member that was there before has its session from the end of loading on.
            GroupAnswer::Failed(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
            other => group::failure(&other),
        };
        HeartbeatResponse::default().with_error_code(error.code())
    })
}
