//! ListGroups (16), versions 0 to 5: the groups that this broker coordinates.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_group_coordinator::request::ListGroups;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::list_groups_response::ListedGroup;
use ottla_protocol::kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// The first version with states.
const STATES_FROM: i16 = 4;
/// The first version with types.
const TYPES_FROM: i16 = 5;

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
    let request = match decode_request::<ListGroupsRequest>(version, body) {
        Ok(request) => request,
        Err(error) => return Some(Reply::close(error)),
    };
    let access = broker.access(context);
    let list = ListGroups::new(
        request.states_filter.iter().map(|name| name.as_str()),
        request.types_filter.iter().map(|name| name.as_str()),
    );
    let list = GroupRequest::ListGroups(list);
    let asked = broker.groups.submit_all(&list).map(|asked| ((), asked));
    group::respond_all::<ListGroupsRequest, _>(broker, header, max_bytes, asked, move |answers| {
        response(version, &access, answers.into_iter().map(|((), answer)| answer))
    })
}

fn response(version: i16, access: &Access, answers: impl Iterator<Item = GroupAnswer>) -> ListGroupsResponse {
    let shows_all = access.shows(Operation::Describe, ResourceType::Cluster, CLUSTER);
    let is_shown = |group: &str| shows_all || access.shows(Operation::Describe, ResourceType::Group, group);
    let mut listed = Vec::new();
    for answer in answers {
        match answer {
            GroupAnswer::ListGroups(groups) => {
                listed.extend(groups.into_iter().filter(|one| is_shown(one.group.as_str())).map(|one| {
                    let mut group = ListedGroup::default()
                        .with_group_id(group::wire_group_id(&one.group))
                        .with_protocol_type(wire::text(&one.protocol_type));
                    if version >= STATES_FROM {
                        group = group.with_group_state(wire::text(one.state));
                    }
                    if version >= TYPES_FROM {
                        group = group.with_group_type(wire::text(one.group_type));
                    }
                    group
                }))
            }
            // Another broker lists them.
            GroupAnswer::Failed(ErrorCode::NotCoordinator) => {}
            other => return ListGroupsResponse::default().with_error_code(group::failure(&other).code()),
        }
    }
    ListGroupsResponse::default().with_groups(listed)
}
