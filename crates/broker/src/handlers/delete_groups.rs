//! DeleteGroups (42), versions 0 to 2: groups without members go, and what they committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use ottla_protocol::kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;
use crate::request::group;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DeleteGroupsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    let mut seen = BTreeSet::new();
    let asked = request.groups_names.iter().map(group::group_id).filter(|id| seen.insert(id.clone())).map(|id| {
        let asked = match access.group(Operation::Delete, id.as_str()) {
            true => group::submit(broker, &id, GroupRequest::DeleteGroup(id.clone())),
            false => PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::GroupAuthorizationFailed)),
        };
        (id, asked)
    });
    let answer = group::respond_all::<DeleteGroupsRequest, _>(broker, header, usize::MAX, asked, |answers| {
        let results = answers.into_iter().map(|(id, answer)| {
            let error = match answer {
                GroupAnswer::DeleteGroup(error) => error,
                other => group::failure(&other),
            };
            DeletableGroupResult::default().with_group_id(group::wire_group_id(&id)).with_error_code(error.code())
        });
        DeleteGroupsResponse::default().with_results(results.collect())
    });
    group::of_any_size(answer)
}
