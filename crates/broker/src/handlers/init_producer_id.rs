//! InitProducerId (22), versions 0 to 5: gives an idempotent producer its id, and a transactional one the next epoch of
//! its transactional id, after the transaction of its predecessor has ended.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_transaction_coordinator::request::InitProducer;
use ottla_transaction_coordinator::{Producer, Request, TransactionAnswer};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::transaction::{self, fenced_for, wire_producer_id};

/// From here on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 4;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<InitProducerIdRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let expected = transaction::producer(request.producer_id, request.producer_epoch);
    // One without the other means nothing.
    if (expected.id == Producer::NONE.id) != (expected.epoch == Producer::NONE.epoch) {
        return Reply::encode::<InitProducerIdRequest>(&header, &response(Err(ErrorCode::InvalidRequest)));
    }
    let access = broker.access(context);
    let denied = match request.transactional_id.as_ref().map(|id| id.as_str()) {
        Some(id) => {
            let may_prepare = !request.enable_2_pc || access.transactional_id(Operation::TwoPhaseCommit, id);
            let is_allowed = access.transactional_id(Operation::Write, id) && may_prepare;
            (!is_allowed).then_some(ErrorCode::TransactionalIdAuthorizationFailed)
        }
        None => (!access.idempotent_write()).then_some(ErrorCode::ClusterAuthorizationFailed),
    };
    if let Some(error) = denied {
        return Reply::encode::<InitProducerIdRequest>(&header, &response(Err(error)));
    }
    let Some(id) = &request.transactional_id else { return without_transactions(broker, header) };
    let id = transaction::transactional_id(id);
    let init = Request::InitProducer(InitProducer {
        id: id.clone(),
        timeout_ms: request.transaction_timeout_ms,
        expected: Some(expected).filter(|expected| *expected != Producer::NONE),
        enable_two_phase_commit: request.enable_2_pc,
        keep_prepared: request.keep_prepared_txn,
    });
    let version = header.api_version;
    transaction::respond::<InitProducerIdRequest>(header, transaction::submit(broker, &id, init), move |answer| {
        response(match answer {
            TransactionAnswer::Initialized(producer) => Ok(producer),
            other => Err(fenced_for(version, FENCED_FROM, other.error())),
        })
    })
}

/// A new id begins with epoch 0.
fn without_transactions(broker: &Arc<Broker>, header: RequestHeader) -> Reply {
    let first = |id| Producer { id, epoch: ottla_model::ProducerEpoch(0) };
    match broker.producer_ids.take() {
        Ok(id) => Reply::encode::<InitProducerIdRequest>(&header, &response(Ok(first(id)))),
        Err(receiver) => Reply::later(async move {
            // Without a block from the quorum the producer asks again.
            let id = receiver.await.map_err(|_| ErrorCode::CoordinatorLoadInProgress);
            Response::encode_or_close::<InitProducerIdRequest>(&header, &response(id.map(first)))
        }),
    }
}

fn response(producer: Result<Producer, ErrorCode>) -> InitProducerIdResponse {
    let error = producer.err().unwrap_or(ErrorCode::None);
    let producer = producer.unwrap_or(Producer::NONE);
    InitProducerIdResponse::default()
        .with_error_code(error.code())
        .with_producer_id(wire_producer_id(producer.id))
        .with_producer_epoch(producer.epoch.0)
}
