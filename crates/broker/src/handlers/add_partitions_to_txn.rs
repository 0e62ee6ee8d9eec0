//! AddPartitionsToTxn (24): partitions join a transaction before anything is written to them. Clients send versions 0
//! to 3; from version 4 on partition leaders ask for several transactions at once, to let partitions join or to verify
//! that they have (KIP-890).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::Image;
use ottla_model::{ErrorCode, TopicPartition};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use ottla_protocol::kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use ottla_protocol::kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_transaction_coordinator::request::AddPartitions;
use ottla_transaction_coordinator::{Request, TransactionAnswer, TransactionVersion};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::transaction::{self, fenced_for};
use crate::request::{RequestContext, wire};
use crate::transactions::PendingAnswer;

/// The first version that leaders send, for several transactions.
const BATCHED_FROM: i16 = 4;
/// From here on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;

/// The partitions, or what is wrong with them before the transaction is looked at.
type Judged = Vec<(AddPartitionsToTxnTopic, Vec<(i32, Result<TopicPartition, ErrorCode>)>)>;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let version = header.api_version;
    let request = match decode_request::<AddPartitionsToTxnRequest>(version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    if version >= BATCHED_FROM && !access.cluster(Operation::ClusterAction) {
        let code = ErrorCode::ClusterAuthorizationFailed.code();
        let denied = AddPartitionsToTxnResponse::default().with_error_code(code);
        return Reply::encode::<AddPartitionsToTxnRequest>(&header, &denied);
    }
    let transactions = if version >= BATCHED_FROM {
        request.transactions
    } else {
        vec![
            AddPartitionsToTxnTransaction::default()
                .with_transactional_id(request.v3_and_below_transactional_id)
                .with_producer_id(request.v3_and_below_producer_id)
                .with_producer_epoch(request.v3_and_below_producer_epoch)
                .with_topics(request.v3_and_below_topics),
        ]
    };
    // A request of no transaction is answered at once, with no result: there is nothing to wait for. Kafka 4.3 answers
    // when the last transaction has its result, and so never: the requests behind it on that connection hang.
    let pending = transactions.into_iter().map(|transaction| submit(broker, &access, version, transaction)).collect();
    transaction::respond_all::<AddPartitionsToTxnRequest, _>(header, pending, move |answers| response(version, answers))
}

fn submit(
    broker: &Arc<Broker>,
    access: &Access,
    version: i16,
    transaction: AddPartitionsToTxnTransaction,
) -> ((AddPartitionsToTxnTransaction, Judged), PendingAnswer) {
    // Leaders ask for what they have checked themselves.
    let is_clients = version < BATCHED_FROM;
    let transactional_id = transaction.transactional_id.as_str();
    if is_clients && !access.transactional_id(Operation::Write, transactional_id) {
        let checked = check(&broker.metadata.peek(), None, &transaction.topics);
        let refused = refused_as(checked, ErrorCode::TransactionalIdAuthorizationFailed);
        let answer = TransactionAnswer::Failed(ErrorCode::TransactionalIdAuthorizationFailed);
        return ((transaction, refused), PendingAnswer::Ready(answer));
    }
    let checked = check(&broker.metadata.peek(), is_clients.then_some(access), &transaction.topics);
    let partitions = checked.iter().flat_map(|(_, partitions)| partitions);
    let Ok(partitions) = partitions.map(|(_, partition)| partition.clone()).collect::<Result<Vec<_>, _>>() else {
        let refused = TransactionAnswer::Failed(ErrorCode::OperationNotAttempted);
        return ((transaction, checked), PendingAnswer::Ready(refused));
    };
    let id = transaction::transactional_id(&transaction.transactional_id);
    let add = AddPartitions {
        id: id.clone(),
        producer: transaction::producer(transaction.producer_id, transaction.producer_epoch),
        partitions,
        version: if version >= BATCHED_FROM { TransactionVersion::V2 } else { TransactionVersion::V0 },
    };
    let request = if transaction.verify_only { Request::VerifyPartitions(add) } else { Request::AddPartitions(add) };
    let pending = transaction::submit(broker, &id, request);
    ((transaction, checked), pending)
}

/// Finds the partitions in the image. One that is not there lets the whole transaction be refused. Without an access
/// nothing is checked.
fn check(image: &Image, access: Option<&Access>, topics: &[AddPartitionsToTxnTopic]) -> Judged {
    let find = |topic: &AddPartitionsToTxnTopic, partition: i32| {
        let found = transaction::topic_partition(&topic.name, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let exists = image.partition_of(topic.name.as_str(), found.partition).is_some();
        if exists { Ok(found) } else { Err(ErrorCode::UnknownTopicOrPartition) }
    };
    // Each partition is answered once, however often it is named.
    let mut seen = BTreeSet::new();
    let mut checked = Judged::new();
    for topic in topics {
        let is_allowed = access.is_none_or(|access| may_write(access, topic.name.as_str()));
        let find = |topic: &AddPartitionsToTxnTopic, partition| match is_allowed {
            true => find(topic, partition),
            false => Err(ErrorCode::TopicAuthorizationFailed),
        };
        let once = topic.partitions.iter().filter(|partition| seen.insert((topic.name.clone(), **partition)));
        checked.push((topic.clone(), once.map(|partition| (*partition, find(topic, *partition))).collect()));
    }
    checked
}

/// No transaction of a client writes to the topics that brokers keep, whoever the client is.
fn may_write(access: &Access, topic: &str) -> bool {
    !wire::is_internal(topic) && access.topic(Operation::Write, topic)
}

fn refused_as(checked: Judged, error: ErrorCode) -> Judged {
    let refuse = |partitions: Vec<(i32, _)>| partitions.into_iter().map(|(index, _)| (index, Err(error))).collect();
    checked.into_iter().map(|(topic, partitions)| (topic, refuse(partitions))).collect()
}

fn response(
    version: i16,
    answers: Vec<((AddPartitionsToTxnTransaction, Judged), TransactionAnswer)>,
) -> AddPartitionsToTxnResponse {
    let mut results = answers.into_iter().map(|((transaction, checked), answer)| {
        let result = AddPartitionsToTxnResult::default().with_transactional_id(transaction.transactional_id);
        result.with_topic_results(topic_results(version, &checked, answer))
    });
    if version >= BATCHED_FROM {
        return AddPartitionsToTxnResponse::default().with_results_by_transaction(results.collect());
    }
    let only = results.next().map(|result| result.topic_results).unwrap_or_default();
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(only)
}

fn topic_results(version: i16, checked: &Judged, answer: TransactionAnswer) -> Vec<AddPartitionsToTxnTopicResult> {
    let error = fenced_for(version, FENCED_FROM, answer.error());
    let verified: BTreeMap<TopicPartition, ErrorCode> = match answer {
        TransactionAnswer::Verified(verified) => verified.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    let results = checked.iter().map(|(topic, partitions)| {
        let partitions = partitions.iter().map(|(index, partition)| {
            let code = match partition {
                Ok(partition) => verified.get(partition).copied().unwrap_or(error),
                Err(refused) => *refused,
            };
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*index)
                .with_partition_error_code(code.code())
        });
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(partitions.collect())
    });
    results.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_image::image;

    #[test]
    fn a_request_of_no_transaction_has_an_answer() {
        for version in [BATCHED_FROM, 5] {
            let response = response(version, Vec::new());
            assert!(response.results_by_transaction.is_empty() && response.error_code == 0);
            ottla_protocol::encode_response::<AddPartitionsToTxnRequest>(version, 1, &response).expect("encodes");
        }
    }

    #[test]
    fn a_partition_that_is_not_there_refuses_them_all() {
        let image = image();
        let known = image.topics().next().expect("a topic").name.clone();
        let topic = |name: &str, partitions: Vec<i32>| {
            AddPartitionsToTxnTopic::default()
                .with_name(ottla_protocol::kafka_protocol::messages::TopicName(wire::text(name)))
                .with_partitions(partitions)
        };
        let offsets = [topic("__consumer_offsets", vec![0])];
        let of = |access| check(&image, access, &offsets)[0].1[0].1.clone();
        let unlimited = Access::unlimited();
        assert_eq!(of(Some(&unlimited)), Err(ErrorCode::TopicAuthorizationFailed), "of a client");
        assert_eq!(of(None), Err(ErrorCode::UnknownTopicOrPartition), "of a broker");
        let asked = [topic(known.as_str(), vec![0, 99]), topic("not a name", vec![0])];
        let checked = check(&image, Some(&Access::unlimited()), &asked);
        let refused = TransactionAnswer::Failed(ErrorCode::OperationNotAttempted);
        let codes: Vec<i16> = topic_results(3, &checked, refused)
            .iter()
            .flat_map(|topic| topic.results_by_partition.iter().map(|result| result.partition_error_code))
            .collect();
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(codes, [ErrorCode::OperationNotAttempted.code(), unknown, unknown]);
        // Each version in its own form, and old clients with errors that they know.
        let checked = check(&image, Some(&Access::unlimited()), &[topic(known.as_str(), vec![0])]);
        for (version, code) in
            [(1, ErrorCode::InvalidProducerEpoch), (3, ErrorCode::ProducerFenced), (5, ErrorCode::ProducerFenced)]
        {
            let transaction = AddPartitionsToTxnTransaction::default();
            let fenced = TransactionAnswer::Failed(ErrorCode::ProducerFenced);
            let response = response(version, vec![((transaction, checked.clone()), fenced)]);
            let results = match version {
                BATCHED_FROM.. => &response.results_by_transaction[0].topic_results,
                _ => &response.results_by_topic_v3_and_below,
            };
            assert_eq!(results[0].results_by_partition[0].partition_error_code, code.code());
            ottla_protocol::encode_response::<AddPartitionsToTxnRequest>(version, 1, &response).expect("encodes");
        }
    }
}
