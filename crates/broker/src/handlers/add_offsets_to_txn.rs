//! AddOffsetsToTxn (25), versions 0 to 4: the partition that keeps a group's offsets joins a transaction.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, TopicName, TopicPartition};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_transaction_coordinator::request::AddPartitions;
use ottla_transaction_coordinator::{Request, TransactionVersion};

use crate::broker::Broker;
use crate::groups::{OFFSETS_TOPIC, coordinator_partition};
use crate::request::RequestContext;
use crate::request::transaction::{self, fenced_for};

/// From here on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AddOffsetsToTxnRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    let denied = if !access.transactional_id(Operation::Write, request.transactional_id.as_str()) {
        Some(ErrorCode::TransactionalIdAuthorizationFailed)
    } else if !access.group(Operation::Read, request.group_id.as_str()) {
        Some(ErrorCode::GroupAuthorizationFailed)
    } else {
        None
    };
    if let Some(error) = denied {
        return Reply::encode::<AddOffsetsToTxnRequest>(&header, &response(error));
    }
    let partition = coordinator_partition(&broker.metadata.peek(), request.group_id.as_str());
    let (Some(partition), Ok(topic)) = (partition, TopicName::new(OFFSETS_TOPIC)) else {
        // The group's coordinator is asked next: it comes into being meanwhile.
        broker.internal_topics.offsets.create(broker);
        let response = response(ErrorCode::CoordinatorNotAvailable);
        return Reply::encode::<AddOffsetsToTxnRequest>(&header, &response);
    };
    let id = transaction::transactional_id(&request.transactional_id);
    let add = Request::AddPartitions(AddPartitions {
        id: id.clone(),
        producer: transaction::producer(request.producer_id, request.producer_epoch),
        partitions: vec![TopicPartition::new(topic, partition)],
        version: TransactionVersion::V0,
    });
    let version = header.api_version;
    transaction::respond::<AddOffsetsToTxnRequest>(header, transaction::submit(broker, &id, add), move |answer| {
        response(fenced_for(version, FENCED_FROM, answer.error()))
    })
}

fn response(error: ErrorCode) -> AddOffsetsToTxnResponse {
    AddOffsetsToTxnResponse::default().with_error_code(error.code())
}
