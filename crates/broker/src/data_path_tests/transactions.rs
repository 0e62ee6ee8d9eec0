//! Transactions in the partitions: verification before the first batch, markers, and what readers of committed records
//! get.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use ottla_model::{ErrorCode, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId, TransactionResult};
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::{
    DescribeProducersRequest, ListOffsetsRequest, TopicName as WireName, describe_producers_request,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{AbortedTransaction, FetchPartitionResponse, FetchRequest, IsolationLevel};
use ottla_protocol::messages::write_txn_markers::{self, TxnMarker};
use ottla_protocol::record_batch::Batches;
use ottla_protocol::{decode_response, encode_request};
use ottla_replica_manager::clock;
use ottla_replica_manager::partition::waiters::Wakes;
use ottla_replication::EndMarker;
use parking_lot::Mutex;

use super::harness::{CLIENT, Cluster, TestBroker, builder, eventually, fetch_of, only, topic_id, wanted};
use crate::handlers;
use crate::transaction_verifier::{TransactionVerifier, VerificationAnswer, VerificationQuestion};

const NEVER_MS: i32 = 60_000;
const TRANSACTIONAL_ID: &str = "payments";

/// A transaction coordinator that gives these answers, and then confirms everything.
#[derive(Default)]
pub struct Verifier {
    /// What happens while the next question is on its way.
    pub meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    pub answers: Mutex<VecDeque<ErrorCode>>,
    pub questions: Mutex<Vec<VerificationQuestion>>,
}

impl TransactionVerifier for Verifier {
    fn verify(&self, question: VerificationQuestion) -> VerificationAnswer {
        let code = self.answers.lock().pop_front().unwrap_or(ErrorCode::None);
        let codes = vec![code; question.partitions.len()];
        self.questions.lock().push(question);
        if let Some(happens) = self.meanwhile.lock().take() {
            happens();
        }
        Box::pin(async move {
            tokio::task::yield_now().await;
            codes
        })
    }
}

fn transactional(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> BytesMut {
    let batch = builder(values).producer(ProducerId(producer), ProducerEpoch(epoch), sequence);
    batch.transactional().build().expect("a batch")
}

fn produce(broker: &TestBroker, version: i16, batch: &[u8]) -> (ErrorCode, Offset) {
    let topic = if version >= 13 { TopicRef::Id(topic_id(1)) } else { TopicRef::Name("t".to_owned()) };
    let asked = broker.begin_produce_in(version, Some(TRANSACTIONAL_ID), topic, 0, batch, -1, NEVER_MS);
    let produced = asked.produced();
    (produced.error, produced.base_offset)
}

/// Ends a producer's transaction in partition 0 of `t`.
fn end(broker: &TestBroker, producer: i64, epoch: i16, is_commit: bool, coordinator_epoch: i32) -> ErrorCode {
    let marker = TxnMarker {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        is_commit,
        topics: vec![("t".to_owned(), vec![PartitionId(0)])],
        coordinator_epoch,
        transaction_version: 2,
    };
    let frame = write_txn_markers::encode_request(2, 7, None, &[marker]).expect("encodes");
    let answer = broker.ask(CLIENT, handlers::write_txn_markers::handle, 2, &frame).frame();
    let results = write_txn_markers::parse_response(2, &answer).expect("a response");
    assert_eq!((results[0].producer_id, results[0].topics[0].1[0].0), (ProducerId(producer), PartitionId(0)));
    results[0].topics[0].1[0].1
}

fn committed(id: TopicId, from: i64) -> FetchRequest {
    FetchRequest { isolation_level: IsolationLevel::ReadCommitted, ..fetch_of(id, vec![wanted(0, from)]) }
}

fn offsets(partition: &FetchPartitionResponse<Bytes>) -> Vec<i64> {
    let batches = Batches::new(partition.records.as_deref().unwrap_or_default());
    batches.map(|batch| batch.expect("whole").header.base_offset.0).collect()
}

fn latest(broker: &TestBroker, isolation_level: i8) -> i64 {
    let partition = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(WireName("t".to_owned().into())).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(isolation_level)
        .with_topics(vec![topic]);
    let frame = encode_request(9, 7, None, &request).expect("encodes");
    let answer = broker.ask(CLIENT, handlers::list_offsets::handle, 9, &frame).frame();
    let (_, response) = decode_response::<ListOffsetsRequest>(9, answer).expect("decodes");
    response.topics[0].partitions[0].offset
}

#[test]
fn readers_of_committed_records_wait_for_markers_and_skip_what_was_aborted() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[("min.insync.replicas", "2")]);
    let leader = &brokers[0];
    assert_eq!(produce(leader, 12, &transactional(7, 3, 0, &["a"])), (ErrorCode::None, Offset(0)));
    assert_eq!(produce(leader, 13, &transactional(8, 0, 0, &["b"])), (ErrorCode::None, Offset(1)));
    let open = leader.fetch(&committed(id, 0));
    assert!(only(&open).records.is_none());
    assert_eq!((only(&open).high_watermark, only(&open).last_stable_offset), (Offset(2), Offset(0)));
    assert_eq!(only(&open).aborted_transactions, Some(Vec::new()));
    assert_eq!((latest(leader, 0), latest(leader, 1)), (2, 0));
    assert_eq!(offsets(only(&leader.fetch(&fetch_of(id, vec![wanted(0, 0)])))), [0, 1]);

    // The first transaction is aborted, the second one stays open.
    assert_eq!(end(leader, 7, 4, false, 1), ErrorCode::None);
    let read = leader.fetch(&committed(id, 0));
    assert_eq!((offsets(only(&read)), only(&read).last_stable_offset), (vec![0], Offset(1)));
    let aborted = AbortedTransaction { producer_id: ProducerId(7), first_offset: Offset(0) };
    assert_eq!(only(&read).aborted_transactions.as_deref(), Some(&[aborted][..]));
    assert_eq!((latest(leader, 0), latest(leader, 1)), (3, 1));

    // A parked fetch wakes up when the last transaction ends.
    let request = FetchRequest { max_wait_ms: NEVER_MS, ..committed(id, 1) };
    let mut parked = leader.begin_fetch(CLIENT, &request);
    assert!(!parked.is_ready());
    assert_eq!(end(leader, 8, 1, true, 1), ErrorCode::None);
    let woken = parked.fetched();
    assert_eq!((offsets(only(&woken)), only(&woken).last_stable_offset), (vec![1, 2, 3], Offset(4)));
    assert_eq!(latest(leader, 1), 4);
    eventually("the follower has the markers", || brokers[1].log_bytes(id, 0) == leader.log_bytes(id, 0));
}

#[test]
fn the_coordinator_is_asked_once_for_each_transaction_and_its_refusals_reach_the_producer() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    for (version, answer, expected) in [
        (11, ErrorCode::InvalidTxnState, ErrorCode::InvalidTxnState),
        (11, ErrorCode::NotCoordinator, ErrorCode::NotEnoughReplicas),
        (11, ErrorCode::ConcurrentTransactions, ErrorCode::NotEnoughReplicas),
        (12, ErrorCode::TransactionAbortable, ErrorCode::TransactionAbortable),
        (12, ErrorCode::InvalidProducerEpoch, ErrorCode::InvalidProducerEpoch),
    ] {
        broker.verifier.answers.lock().push_back(answer);
        let produced = produce(&broker, version, &transactional(7, 0, 0, &["a"]));
        assert_eq!(produced.0, expected, "{answer:?} for version {version}");
    }
    assert_eq!(broker.log_end(topic_id(1), 0), Offset(0));
    // A former transaction is ending: the question is put again for a while, and at last the producer has to.
    broker.verifier.answers.lock().extend([ErrorCode::ConcurrentTransactions; 200]);
    let refused = produce(&broker, 12, &transactional(7, 0, 0, &["a"]));
    assert_eq!(refused.0, ErrorCode::ConcurrentTransactions);
    {
        let mut answers = broker.verifier.answers.lock();
        assert!(answers.len() < 199, "the question was put once");
        answers.clear();
        answers.push_back(ErrorCode::ConcurrentTransactions);
    }
    assert_eq!(produce(&broker, 12, &transactional(7, 0, 0, &["a"])), (ErrorCode::None, Offset(0)));
    let asked = broker.verifier.questions.lock().len();
    assert_eq!(produce(&broker, 12, &transactional(7, 0, 1, &["b"])), (ErrorCode::None, Offset(1)));
    assert_eq!(produce(&broker, 12, &transactional(7, 0, 1, &["b"])), (ErrorCode::None, Offset(1)), "a retry");
    let questions = broker.verifier.questions.lock();
    assert_eq!(questions.len(), asked, "the open transaction is the proof");
    let adds: Vec<bool> = questions.iter().map(|question| question.adds).collect();
    assert_eq!(adds[..5], [false, false, false, true, true]);
    assert!(adds[5..].iter().all(|adds| *adds));
    let last = questions.last().unwrap();
    assert_eq!((last.transactional_id.as_str(), last.producer_id), (TRANSACTIONAL_ID, ProducerId(7)));
    assert_eq!(last.partitions[0].to_string(), "t-0");
}

/// A marker is written, in partition 0 of the first topic, while the next question to the coordinator is on its way.
pub fn mark_meanwhile(broker: &TestBroker, producer: i64, epoch: i16, result: TransactionResult) {
    let partition = broker.broker.replicas.find(&TopicRef::Id(topic_id(1)), PartitionId(0)).unwrap();
    let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(epoch));
    let marker = EndMarker { producer_id, producer_epoch, result, coordinator_epoch: 1 };
    *broker.verifier.meanwhile.lock() = Some(Box::new(move || {
        let (epoch, now, wall) = (partition.leading_epoch(), clock::monotonic(), clock::wall());
        partition.append_own_marker(marker, 2, epoch, now, wall, &mut Wakes::default()).unwrap();
    }));
}

/// The coordinator answers that the partition has joined the next transaction, and the marker of the former one came
/// while the question was on its way: the batch was refused, and the producer had to abort.
#[test]
fn a_marker_that_comes_while_the_next_transaction_begins_does_not_end_it() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    assert_eq!(produce(&broker, 12, &transactional(7, 0, 0, &["a"])), (ErrorCode::None, Offset(0)));
    mark_meanwhile(&broker, 7, 1, TransactionResult::Commit);
    assert_eq!(produce(&broker, 12, &transactional(7, 1, 0, &["b"])), (ErrorCode::None, Offset(2)));
    assert_eq!(broker.verifier.questions.lock().len(), 3, "the second one was put again");
    // A producer that is fenced meanwhile is told so.
    assert_eq!(end(&broker, 7, 2, true, 1), ErrorCode::None);
    mark_meanwhile(&broker, 7, 4, TransactionResult::Abort);
    assert_eq!(produce(&broker, 12, &transactional(7, 2, 0, &["c"])).0, ErrorCode::InvalidProducerEpoch);
}

#[test]
fn batches_and_markers_are_fenced() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    assert_eq!(produce(&broker, 12, &transactional(7, 3, 0, &["a"])).0, ErrorCode::None);
    let outside = builder(&["b"]).producer(ProducerId(7), ProducerEpoch(3), 1).build().expect("a batch");
    assert_eq!(produce(&broker, 12, &outside).0, ErrorCode::InvalidTxnState);
    let anonymous = broker.produce(TopicRef::Id(id), 0, &transactional(9, 0, 0, &["c"]), 1, NEVER_MS);
    assert_eq!(anonymous.error, ErrorCode::TransactionalIdAuthorizationFailed);
    assert_eq!(end(&broker, 7, 3, true, 5), ErrorCode::InvalidProducerEpoch, "the epoch is bumped with the end");
    assert_eq!(end(&broker, 7, 4, true, 5), ErrorCode::None);
    assert_eq!(end(&broker, 7, 4, true, 5), ErrorCode::None, "the coordinator repeats a marker");
    assert_eq!(end(&broker, 7, 5, true, 4), ErrorCode::TransactionCoordinatorFenced);
    assert_eq!(produce(&broker, 12, &transactional(7, 3, 1, &["late"])).0, ErrorCode::InvalidProducerEpoch);
    assert_eq!(produce(&broker, 12, &transactional(7, 4, 2, &["skips"])).0, ErrorCode::OutOfOrderSequenceNumber);
    let marker = TxnMarker {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(6),
        is_commit: true,
        topics: vec![("unknown".to_owned(), vec![PartitionId(0)]), ("t".to_owned(), vec![PartitionId(4)])],
        coordinator_epoch: 5,
        transaction_version: 2,
    };
    let frame = write_txn_markers::encode_request(1, 7, None, &[marker]).expect("encodes");
    let answer = broker.ask(CLIENT, handlers::write_txn_markers::handle, 1, &frame).frame();
    let results = write_txn_markers::parse_response(1, &answer).expect("a response");
    let codes: Vec<ErrorCode> = results[0].topics.iter().map(|(_, partitions)| partitions[0].1).collect();
    assert_eq!(codes, [ErrorCode::UnknownTopicOrPartition; 2]);
}

#[test]
fn describe_producers_tells_of_the_open_transaction() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    produce(&broker, 12, &transactional(7, 3, 0, &["a", "b"]));
    let describe = || {
        let topic = describe_producers_request::TopicRequest::default()
            .with_name(WireName("t".to_owned().into()))
            .with_partition_indexes(vec![0]);
        let request = DescribeProducersRequest::default().with_topics(vec![topic]);
        let frame = encode_request(0, 7, None, &request).expect("encodes");
        let answer = broker.ask(CLIENT, handlers::describe_producers::handle, 0, &frame).frame();
        let (_, response) = decode_response::<DescribeProducersRequest>(0, answer).expect("decodes");
        response.topics[0].partitions[0].active_producers[0].clone()
    };
    let open = describe();
    assert_eq!((open.producer_id.0, open.producer_epoch, open.last_sequence), (7, 3, 1));
    assert_eq!((open.current_txn_start_offset, open.coordinator_epoch), (0, -1));
    assert_eq!(end(&broker, 7, 4, false, 11), ErrorCode::None);
    let ended = describe();
    assert_eq!((ended.producer_epoch, ended.last_sequence), (4, -1));
    assert_eq!((ended.current_txn_start_offset, ended.coordinator_epoch), (-1, 11));
}
