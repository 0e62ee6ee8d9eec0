//! DescribeTransactions (65): what the coordinator knows of transactional ids.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{Operation, ResourceType};
use ottla_model::{ErrorCode, TopicName};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use ottla_protocol::kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TransactionalId as WireId,
};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_transaction_coordinator::answer::Described;
use ottla_transaction_coordinator::{Request, TransactionAnswer};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::transaction::{self, wire_producer_id};
use crate::request::wire;
use crate::transactions::PendingAnswer;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DescribeTransactionsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    let of_ids = access.clone();
    // Each id is answered once, however often it is named.
    let mut seen = BTreeSet::new();
    let ids = request.transactional_ids.into_iter().filter(|id| seen.insert(id.clone()));
    let pending = ids.map(|wire_id| {
        let id = transaction::transactional_id(&wire_id);
        let pending = match of_ids.transactional_id(Operation::Describe, id.as_str()) {
            true => transaction::submit(broker, &id, Request::Describe(id.clone())),
            false => PendingAnswer::Ready(TransactionAnswer::Failed(ErrorCode::TransactionalIdAuthorizationFailed)),
        };
        (wire_id, pending)
    });
    transaction::respond_all::<DescribeTransactionsRequest, _>(header, pending.collect(), move |answers| {
        let states = answers.into_iter().map(|(id, answer)| state(&access, id, answer));
        DescribeTransactionsResponse::default().with_transaction_states(states.collect())
    })
}

fn state(access: &Access, id: WireId, answer: TransactionAnswer) -> TransactionState {
    let state = TransactionState::default().with_transactional_id(id);
    match answer {
        TransactionAnswer::Described(described) => {
            let Described { state: name, timeout_ms, start, producer, partitions } = described;
            let mut topics: BTreeMap<TopicName, Vec<i32>> = BTreeMap::new();
            for partition in partitions {
                topics.entry(partition.topic).or_default().push(partition.partition.0);
            }
            topics.retain(|name, _| access.shows(Operation::Describe, ResourceType::Topic, name.as_str()));
            let topics = topics.into_iter().map(|(name, partitions)| {
                TopicData::default().with_topic(wire::topic_name(&name)).with_partitions(partitions)
            });
            state
                .with_transaction_state(wire::text(name.name()))
                .with_transaction_timeout_ms(timeout_ms)
                .with_transaction_start_time_ms(start.0)
                .with_producer_id(wire_producer_id(producer.id))
                .with_producer_epoch(producer.epoch.0)
                .with_topics(topics.collect())
        }
        TransactionAnswer::Failed(error) => state.with_error_code(error.code()),
        _ => state.with_error_code(ErrorCode::UnknownServerError.code()),
    }
}
