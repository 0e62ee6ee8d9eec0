//! InitProducerId, versions 0 to 5: gives an idempotent producer its id. Transactional ids have no coordinator yet, and are
//! answered so: their producers keep asking rather than lose atomicity without a word.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::{ErrorCode, ProducerId};
use ottla_protocol::kafka_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProducerId as WireProducerId,
};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::response::{Answer, Response};

pub fn handle(broker: &Arc<Broker>, _context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let request = match decode_request::<InitProducerIdRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Answer::close(error),
    };
    if let Some(transactional_id) = &request.transactional_id {
        let error =
            if transactional_id.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::CoordinatorNotAvailable };
        return Answer::encode::<InitProducerIdRequest>(&header, &answer(Err(error)));
    }
    match broker.producer_ids.take() {
        Ok(id) => Answer::encode::<InitProducerIdRequest>(&header, &answer(Ok(id))),
        Err(receiver) => Answer::later(async move {
            // Without a block from the quorum the producer asks again.
            let id = receiver.await.map_err(|_| ErrorCode::CoordinatorLoadInProgress);
            Response::encode_or_close::<InitProducerIdRequest>(&header, &answer(id))
        }),
    }
}

/// A new id begins with epoch 0.
fn answer(id: Result<ProducerId, ErrorCode>) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default();
    match id {
        Ok(id) => response.with_producer_id(WireProducerId(id.0)).with_producer_epoch(0),
        Err(error) => response
            .with_error_code(error.code())
            .with_producer_id(WireProducerId(ProducerId::NONE.0))
            .with_producer_epoch(-1),
    }
}
