//! EndTxn (26), versions 0 to 5: a transaction is committed or aborted. From version 5 on the answer names the epoch
//! with which the producer goes on (KIP-890). It leaves when the decision is replicated; markers follow.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{EndTxnRequest, EndTxnResponse};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_transaction_coordinator::request::EndTransaction;
use ottla_transaction_coordinator::{Producer, Request, TransactionAnswer, TransactionVersion};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::transaction::{self, fenced_for, wire_producer_id};

/// From here on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;
/// From here on every end gives the producer a new epoch.
const BUMPS_FROM: i16 = 5;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<EndTxnRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).transactional_id(Operation::Write, request.transactional_id.as_str()) {
        let denied = EndTxnResponse::default()
            .with_error_code(ErrorCode::TransactionalIdAuthorizationFailed.code())
            .with_producer_id(wire_producer_id(Producer::NONE.id))
            .with_producer_epoch(Producer::NONE.epoch.0);
        return Reply::encode::<EndTxnRequest>(&header, &denied);
    }
    let version = header.api_version;
    let id = transaction::transactional_id(&request.transactional_id);
    let end = Request::End(EndTransaction {
        id: id.clone(),
        producer: transaction::producer(request.producer_id, request.producer_epoch),
        commit: request.committed,
        version: if version >= BUMPS_FROM { TransactionVersion::V2 } else { TransactionVersion::V0 },
    });
    transaction::respond::<EndTxnRequest>(header, transaction::submit(broker, &id, end), move |answer| {
        let producer = match answer {
            TransactionAnswer::Ended(producer) if version >= BUMPS_FROM => producer,
            _ => Producer::NONE,
        };
        EndTxnResponse::default()
            .with_error_code(fenced_for(version, FENCED_FROM, answer.error()).code())
            .with_producer_id(wire_producer_id(producer.id))
            .with_producer_epoch(producer.epoch.0)
    })
}
