//! FindCoordinator (10): no broker hosts groups or transactions yet; clients are told to ask again, which is what they do while
//! a coordinator moves.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::{BrokerId, ErrorCode};
use ottla_protocol::kafka_protocol::messages::find_coordinator_response::Coordinator;
use ottla_protocol::kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use ottla_protocol::{RequestHeader, decode_request};

use super::wire;
use crate::broker::Broker;
use crate::request_context::RequestContext;
use crate::response::Answer;

/// The first version that asks for several keys.
const BATCHED_FROM: i16 = 4;
/// The first version that knows share groups.
const SHARE_FROM: i16 = 6;

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    match decode_request::<FindCoordinatorRequest>(header.api_version, body.freeze()) {
        Ok(request) => Answer::encode::<FindCoordinatorRequest>(&header, &answer(header.api_version, &request)),
        Err(error) => Answer::close(error),
    }
}

fn answer(version: i16, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (error, message) = match request.key_type {
        0 | 1 => (ErrorCode::CoordinatorNotAvailable, "The coordinator is not available."),
        2 if version >= SHARE_FROM => (ErrorCode::CoordinatorNotAvailable, "The coordinator is not available."),
        _ => (ErrorCode::InvalidRequest, "The key type is not known."),
    };
    let nobody = wire::broker_id(BrokerId::NONE);
    if version < BATCHED_FROM {
        return FindCoordinatorResponse::default()
            .with_error_code(error.code())
            .with_error_message((version >= 1).then(|| wire::text(message)))
            .with_node_id(nobody)
            .with_port(-1);
    }
    let coordinators = request
        .coordinator_keys
        .iter()
        .map(|key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(nobody)
                .with_port(-1)
                .with_error_code(error.code())
                .with_error_message(Some(wire::text(message)))
        })
        .collect();
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_told_to_wait() {
        let single = answer(0, &FindCoordinatorRequest::default().with_key(wire::text("g")));
        assert_eq!(single.error_code, ErrorCode::CoordinatorNotAvailable.code());
        let keys = vec![wire::text("a"), wire::text("b")];
        let many = answer(4, &FindCoordinatorRequest::default().with_coordinator_keys(keys));
        assert_eq!(many.coordinators.len(), 2);
        assert!(many.coordinators.iter().all(|one| one.error_code == ErrorCode::CoordinatorNotAvailable.code()));
        let share = FindCoordinatorRequest::default().with_key_type(2).with_coordinator_keys(vec![wire::text("s")]);
        assert_eq!(answer(5, &share).coordinators[0].error_code, ErrorCode::InvalidRequest.code());
        assert_eq!(answer(6, &share).coordinators[0].error_code, ErrorCode::CoordinatorNotAvailable.code());
    }
}
