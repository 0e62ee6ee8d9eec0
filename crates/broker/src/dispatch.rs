//! From a frame to the handler of its API.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use ottla_protocol::{api, bounds, frame};

use crate::broker::Broker;
use crate::handlers;
use crate::request_context::RequestContext;
use crate::response::Answer;

/// Handles one frame (without its length prefix). Synchronous: what can be done at once (an append) is done when this returns,
/// in the order of the frames of a connection; what has to wait is the answer's future.
pub fn dispatch(broker: &Arc<Broker>, context: &RequestContext, mut frame: BytesMut) -> Answer {
    let Ok((header, body_start)) = frame::parse_header(&frame) else {
        return Answer::Close("a request header that cannot be read");
    };
    let Some(api) = api::find(header.api_key) else {
        return Answer::Close("an API that this broker does not have");
    };
    if !api.serves(header.api_version) {
        return if header.api_key == api::API_VERSIONS {
            handlers::api_versions::unsupported_version(broker, &header)
        } else {
            Answer::Close("a version of an API that this broker does not serve")
        };
    }
    frame.advance(body_start);
    if bounds::check(header.api_key, header.api_version, &frame).is_err() {
        return Answer::Close("a request whose counts or lengths cannot be true");
    }
    broker.telemetry.requests.count(header.api_key);
    let handle = match header.api_key {
        api::PRODUCE => handlers::produce::handle,
        api::FETCH => handlers::fetch::handle,
        api::LIST_OFFSETS => handlers::list_offsets::handle,
        api::OFFSET_FOR_LEADER_EPOCH => handlers::offset_for_leader_epoch::handle,
        api::INIT_PRODUCER_ID => handlers::init_producer_id::handle,
        api::API_VERSIONS => handlers::api_versions::handle,
        api::METADATA => handlers::metadata::handle,
        api::FIND_COORDINATOR => handlers::find_coordinator::handle,
        api::CREATE_TOPICS => handlers::create_topics::handle,
        api::DELETE_TOPICS => handlers::delete_topics::handle,
        api::CREATE_PARTITIONS => handlers::create_partitions::handle,
        api::DESCRIBE_CONFIGS => handlers::describe_configs::handle,
        api::DESCRIBE_CLUSTER => handlers::describe_cluster::handle,
        api::DESCRIBE_TOPIC_PARTITIONS => handlers::describe_topic_partitions::handle,
        _ => return Answer::Close("an API that this broker does not have"),
    };
    handle(broker, context, header, frame)
}
