//! DescribeProducers (61): the producers that this broker's replica of a partition remembers, whether it leads or not.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, PartitionId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use ottla_protocol::kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replication::ProducerSnapshot;

use crate::broker::Broker;
use crate::request::RequestContext;

/// A producer in a response.
const PRODUCER_BYTES: usize = 37;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DescribeProducersRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    let mut budget = broker.response_budget();
    let mut seen = BTreeSet::new();
    let topics = request.topics.into_iter().map(|topic| {
        let name = TopicRef::Name(topic.name.0.to_string());
        let is_allowed = access.topic(Operation::Read, topic.name.as_str());
        // A partition may have a hundred thousand producers: it is answered once.
        let indexes = topic.partition_indexes.iter().filter(|index| seen.insert((topic.name.clone(), **index)));
        let partitions = indexes.map(|index| {
            let found = match is_allowed {
                true => broker.replicas.find(&name, PartitionId(*index)),
                false => Err(ErrorCode::TopicAuthorizationFailed),
            };
            let producers =
                found.and_then(|found| found.look_for_client(|log| log.producers().snapshot().collect::<Vec<_>>()));
            let producers = producers.and_then(|producers| match budget.take(producers.len() * PRODUCER_BYTES) {
                true => Ok(producers),
                false => Err(ErrorCode::InvalidRequest),
            });
            partition(*index, producers)
        });
        TopicResponse::default().with_partitions(partitions.collect()).with_name(topic.name.clone())
    });
    let response = DescribeProducersResponse::default().with_topics(topics.collect());
    Reply::encode::<DescribeProducersRequest>(&header, &response)
}

fn partition(index: i32, producers: Result<Vec<ProducerSnapshot>, ErrorCode>) -> PartitionResponse {
    let response = PartitionResponse::default().with_partition_index(index);
    match producers {
        Ok(producers) => response.with_active_producers(producers.iter().map(state).collect()),
        Err(error) => response.with_error_code(error.code()),
    }
}

fn state(producer: &ProducerSnapshot) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer.producer_id.0))
        .with_producer_epoch(i32::from(producer.producer_epoch.0))
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.timestamp.0)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.current_transaction_first_offset.0)
}
