//! Groups on real logs: offsets and members survive their coordinator, leaderships begin and end, clocks run.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::Scope;

use bytes::{Bytes, BytesMut};
use ottla_model::{ErrorCode, PartitionId, TopicId, TransactionResult};
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use ottla_protocol::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use ottla_protocol::kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use ottla_protocol::kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, ListGroupsRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest, TopicName, TransactionalId, TxnOffsetCommitRequest,
};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_replica_manager::partition::Partition;

use super::harness::{Asked, CLIENT, Cluster, TestBroker, batch, eventually, topic_id};
use super::transactions::mark_meanwhile;
use crate::broker::Broker;
use crate::groups::OFFSETS_TOPIC;
use crate::handlers;
use crate::request::RequestContext;

/// `__consumer_offsets`, and a topic whose offsets are committed.
const OFFSETS: u8 = 1;
const LOGS: u8 = 2;

type Handler = fn(&Arc<Broker>, &RequestContext, RequestHeader, BytesMut) -> Reply;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn begin<'b, R: Request>(broker: &'b TestBroker, handle: Handler, version: i16, request: &R) -> Asked<'b> {
    let frame = ottla_protocol::encode_request(version, 7, Some("me"), request).expect("encodes");
    broker.ask(CLIENT, handle, version, &frame)
}

fn end<R: Request>(asked: Asked<'_>, version: i16) -> R::Response {
    ottla_protocol::decode_response::<R>(version, asked.frame()).expect("decodes").1
}

fn cluster_with(flags: &[(&str, &str)], replicas: &[i32], config: &[(&str, &str)]) -> (Cluster, Vec<TestBroker>) {
    let cluster = Cluster::new(flags);
    let brokers = cluster.start_all(replicas);
    let mut config = config.to_vec();
    config.push(("cleanup.policy", "compact"));
    cluster.quorum.create_topic(OFFSETS_TOPIC, topic_id(OFFSETS), 1, replicas, &config);
    cluster.quorum.create_topic("logs", topic_id(LOGS), 2, replicas, &[]);
    eventually("groups are served", || fetch(&brokers[0], "any").0 == ErrorCode::None.code());
    (cluster, brokers)
}

fn commit_request(group: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(1)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text("logs"))).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

const COMMIT_VERSION: i16 = 8;

pub(super) fn begin_commit<'b>(broker: &'b TestBroker, group: &str, offset: i64) -> Asked<'b> {
    begin(broker, handlers::offset_commit::handle, COMMIT_VERSION, &commit_request(group, offset))
}

pub(super) fn committed(asked: Asked<'_>) -> i16 {
    end::<OffsetCommitRequest>(asked, COMMIT_VERSION).topics[0].partitions[0].error_code
}

/// The group's error, and the offset of `logs`, partition 1.
pub(super) fn fetch(broker: &TestBroker, group: &str) -> (i16, i64) {
    let topics = OffsetFetchRequestTopics::default().with_name(TopicName(text("logs"))).with_partition_indexes(vec![1]);
    let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(Some(vec![topics]));
    let request = OffsetFetchRequest::default().with_groups(vec![group]);
    let response = end::<OffsetFetchRequest>(begin(broker, handlers::offset_fetch::handle, 8, &request), 8);
    let group = &response.groups[0];
    let offset = group.topics.first().map_or(-2, |topic| topic.partitions[0].committed_offset);
    (group.error_code, offset)
}

pub(super) fn begin_join<'b>(broker: &'b TestBroker, group: &str, member: &str) -> Asked<'b> {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"topics"));
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(text(member))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    begin(broker, handlers::join_group::handle, 3, &request)
}

pub(super) fn joined(asked: Asked<'_>) -> JoinGroupResponse {
    end::<JoinGroupRequest>(asked, 3)
}

fn heartbeat(broker: &TestBroker, group: &str, member: &str, generation: i32) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(text(member))
        .with_generation_id(generation);
    end::<HeartbeatRequest>(begin(broker, handlers::heartbeat::handle, 4, &request), 4).error_code
}

/// An answer of up to 100 MB was made by the worker that had read the request, and its other connections waited.
#[test]
fn a_worker_tells_little_and_leaves_the_rest() {
    let (_cluster, brokers) = cluster_with(&[], &[1], &[]);
    let broker = &brokers[0];
    let name = |number: usize| format!("group-{number}");
    for number in 0..20 {
        let mut request = commit_request(&name(number), 7);
        request.topics[0].partitions[0].committed_metadata = Some(text(&"x".repeat(4_000)));
        let asked = begin(broker, handlers::offset_commit::handle, COMMIT_VERSION, &request);
        assert_eq!(committed(asked), 0);
    }
    let request = |groups: usize| {
        let topics =
            OffsetFetchRequestTopics::default().with_name(TopicName(text("logs"))).with_partition_indexes(vec![1]);
        let group = |number| {
            let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(&name(number))));
            group.with_topics(Some(vec![topics.clone()]))
        };
        OffsetFetchRequest::default().with_groups((0..groups).map(group).collect())
    };
    let waits = |groups: usize| {
        let frame = ottla_protocol::encode_request(8, 7, None, &request(groups)).expect("encodes");
        let (header, start) = ottla_protocol::parse_header(&frame[4..]).expect("a valid header");
        let body = BytesMut::from(&frame[4 + start..]);
        let context = broker.context(CLIENT);
        let handled = broker.block_on(async { handlers::offset_fetch::handle(&broker.broker, &context, header, body) });
        matches!(handled, Reply::Held(_))
    };
    assert!(!waits(2));
    assert!(waits(20));
    let whole = end::<OffsetFetchRequest>(begin(broker, handlers::offset_fetch::handle, 8, &request(20)), 8);
    let offsets = whole.groups.iter().map(|group| group.topics[0].partitions[0].committed_offset);
    assert_eq!(offsets.collect::<Vec<_>>(), [7; 20]);
}

#[test]
fn what_was_committed_survives_the_coordinator() {
    // A buffer smaller than the log: it is read in pieces.
    let (cluster, mut brokers) = cluster_with(&[("offsets.load.buffer.size", "1000")], &[1, 2, 3], &[]);
    for number in 0..300 {
        assert_eq!(committed(begin_commit(&brokers[0], &format!("group-{}", number % 100), number)), 0);
    }
    assert_eq!(fetch(&brokers[0], "group-7"), (0, 207));
    assert_eq!(fetch(&brokers[1], "group-7").0, ErrorCode::NotCoordinator.code());
    brokers.remove(0).kill();
    cluster.quorum.elect(OFFSETS_TOPIC, 0, 2, &[2, 3]);
    eventually("the next coordinator serves", || fetch(&brokers[0], "group-7").0 == 0);
    for number in 0..100 {
        assert_eq!(fetch(&brokers[0], &format!("group-{number}")), (0, 200 + number));
    }
    assert_eq!(committed(begin_commit(&brokers[0], "group-7", 1_000)), 0);
    // And the whole cluster's restart.
    brokers.drain(..).for_each(TestBroker::shut_down);
    let back = cluster.start(2);
    cluster.quorum.elect(OFFSETS_TOPIC, 0, 2, &[2]);
    eventually("it serves again", || fetch(&back, "group-7") == (0, 1_000));
    let listed =
        end::<ListGroupsRequest>(begin(&back, handlers::list_groups::handle, 4, &ListGroupsRequest::default()), 4);
    assert_eq!((listed.error_code, listed.groups.len()), (0, 100));
}

/// As with the records of a transaction: the marker of the former one comes while the coordinator is asked whether the
/// next one has begun here.
#[test]
fn offsets_of_the_next_transaction_bear_the_marker_of_the_former_one() {
    let (_cluster, brokers) = cluster_with(&[], &[1], &[]);
    let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(5);
    let topic =
        TxnOffsetCommitRequestTopic::default().with_name(TopicName(text("logs"))).with_partitions(vec![partition]);
    let commit = |epoch| {
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text("payments")))
            .with_group_id(GroupId(text("g")))
            .with_producer_id(7_i64.into())
            .with_producer_epoch(epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic.clone()]);
        let asked = begin(&brokers[0], handlers::txn_offset_commit::handle, 5, &request);
        end::<TxnOffsetCommitRequest>(asked, 5).topics[0].partitions[0].error_code
    };
    assert_eq!(commit(0), ErrorCode::None.code());
    mark_meanwhile(&brokers[0], 7, 1, TransactionResult::Commit);
    assert_eq!(commit(1), ErrorCode::None.code());
    assert_eq!(brokers[0].verifier.questions.lock().len(), 3, "the second one was put again");
}

#[test]
fn a_commit_is_answered_when_it_is_replicated_and_not_before() {
    let flags = [("replica.lag.time.max.ms", "3600000"), ("offsets.commit.timeout.ms", "60000")];
    let (cluster, mut brokers) = cluster_with(&flags, &[1, 2], &[]);
    brokers.remove(1).kill();
    let mut waiting = begin_commit(&brokers[0], "g", 5);
    assert!(!waiting.is_ready());
    assert_eq!(fetch(&brokers[0], "g"), (0, -1), "what may be lost is not told");
    cluster.quorum.fence(2);
    cluster.quorum.set_isr(OFFSETS_TOPIC, 0, &[1]);
    assert_eq!(committed(waiting), 0);
    assert_eq!(fetch(&brokers[0], "g"), (0, 5));
}

#[test]
fn commits_without_enough_replicas_are_refused_and_leave_nothing() {
    let (cluster, mut brokers) = cluster_with(&[], &[1, 2], &[("min.insync.replicas", "2")]);
    brokers.remove(1).kill();
    // While it counts as registered, a leader may propose it for the ISR again: it has everything.
    cluster.quorum.fence(2);
    cluster.quorum.set_isr(OFFSETS_TOPIC, 0, &[1]);
    assert_eq!(committed(begin_commit(&brokers[0], "g", 5)), ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(fetch(&brokers[0], "g"), (0, -1));
    // Nor can anybody join; the groups that are there are served all the same.
    let loads = brokers[0].broker.telemetry.groups.loads.get();
    assert_eq!(joined(begin_join(&brokers[0], "g", "")).error_code, ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(fetch(&brokers[0], "g").0, 0);
    assert_eq!(brokers[0].broker.telemetry.groups.loads.get(), loads);
}

#[test]
fn members_come_by_the_clock_and_go_with_the_leadership() {
    let (cluster, brokers) = cluster_with(&[("group.initial.rebalance.delay.ms", "50")], &[1, 2], &[]);
    // Nothing happens but time: the first round ends by itself.
    let first = joined(begin_join(&brokers[0], "g", ""));
    assert_eq!((first.error_code, first.generation_id, first.members.len()), (0, 1, 1));
    let sync = SyncGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id(1)
        .with_member_id(first.member_id.clone());
    let synced = end::<SyncGroupRequest>(begin(&brokers[0], handlers::sync_group::handle, 4, &sync), 4);
    assert_eq!(synced.error_code, 0);
    assert_eq!(heartbeat(&brokers[0], "g", &first.member_id, 1), 0);
    let page = brokers[0].broker.telemetry.render();
    assert!(page.contains("ottla_broker_groups{state=\"Stable\",type=\"classic\"} 1"), "{page}");
    // A second member waits for the first one, which does not come again.
    let mut second = begin_join(&brokers[0], "g", "");
    assert!(!second.is_ready());
    assert_eq!(heartbeat(&brokers[0], "g", &first.member_id, 1), ErrorCode::RebalanceInProgress.code());
    cluster.quorum.elect(OFFSETS_TOPIC, 0, 2, &[1, 2]);
    assert_eq!(joined(second).error_code, ErrorCode::NotCoordinator.code());
    // The next coordinator knows the generation that was settled.
    eventually("it serves", || fetch(&brokers[1], "g").0 == 0);
    assert_eq!(heartbeat(&brokers[1], "g", &first.member_id, 1), 0);
    assert_eq!(heartbeat(&brokers[1], "g", "nobody", 1), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_leadership_that_comes_back_starts_from_the_log() {
    let (cluster, brokers) = cluster_with(&[], &[1, 2], &[]);
    for round in 0..10 {
        let (leader, follower) = ((round % 2) as usize, ((round + 1) % 2) as usize);
        assert_eq!(committed(begin_commit(&brokers[leader], "g", round)), 0);
        cluster.quorum.elect(OFFSETS_TOPIC, 0, brokers[follower].id, &[1, 2]);
        eventually("the other serves", || fetch(&brokers[follower], "g").0 == 0);
        assert_eq!(fetch(&brokers[follower], "g"), (0, round));
    }
}

#[test]
fn offsets_of_a_deleted_topic_go() {
    let (cluster, brokers) = cluster_with(&[], &[1], &[]);
    assert_eq!(committed(begin_commit(&brokers[0], "g", 5)), 0);
    cluster.quorum.delete_topic("logs", 2);
    eventually("they are gone", || fetch(&brokers[0], "g") == (0, -1));
    assert_eq!(committed(begin_commit(&brokers[0], "g", 5)), ErrorCode::UnknownTopicOrPartition.code());
}

#[test]
fn a_topic_that_is_made_anew_has_other_groups() {
    let (cluster, brokers) = cluster_with(&[], &[1], &[]);
    assert_eq!(committed(begin_commit(&brokers[0], "g", 5)), 0);
    cluster.quorum.delete_topic(OFFSETS_TOPIC, 1);
    assert_eq!(fetch(&brokers[0], "g").0, ErrorCode::CoordinatorLoadInProgress.code());
    cluster.quorum.create_topic(OFFSETS_TOPIC, TopicId([9; 16]), 1, &[1], &[]);
    eventually("it serves", || fetch(&brokers[0], "g") == (0, -1));
}

/// B19: librdkafka takes NOT_COORDINATOR for the end of its only question for stored offsets, and reads nothing.
#[test]
fn the_first_requests_of_a_fresh_cluster_are_told_to_wait() {
    for _ in 0..10 {
        let cluster = Cluster::new(&[]);
        let brokers = cluster.start_all(&[1, 2]);
        let waits = ErrorCode::CoordinatorLoadInProgress.code();
        assert_eq!(fetch(&brokers[0], "g").0, waits, "there is no topic yet");
        cluster.quorum.create_topic(OFFSETS_TOPIC, topic_id(OFFSETS), 1, &[1, 2], &[("cleanup.policy", "compact")]);
        eventually("the coordinator serves", || {
            let error = fetch(&brokers[0], "g").0;
            assert!(error == 0 || error == waits, "{error}");
            error == 0
        });
        eventually("the other broker names another", || {
            let error = fetch(&brokers[1], "g").0;
            assert!(error == waits || error == ErrorCode::NotCoordinator.code(), "{error}");
            error != waits
        });
    }
}

#[test]
fn clients_do_not_write_to_the_internal_topic() {
    let (_cluster, brokers) = cluster_with(&[], &[1], &[]);
    let end = brokers[0].log_end(topic_id(OFFSETS), 0);
    for topic in [TopicRef::Name(OFFSETS_TOPIC.to_owned()), TopicRef::Id(topic_id(OFFSETS))] {
        let refused = brokers[0].produce(topic, 0, &batch(&["mine"]), -1, 1_000);
        assert_eq!(refused.error, ErrorCode::InvalidTopicException);
    }
    assert_eq!(brokers[0].log_end(topic_id(OFFSETS), 0), end);
}

/// Whatever writes to the log waits until what is returned is dropped.
fn hold_log<'scope>(scope: &'scope Scope<'scope, '_>, log: Arc<Partition>) -> Sender<()> {
    let (held, is_held) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    scope.spawn(move || {
        log.with_log(|_| {
            held.send(()).expect("the test waits");
            let _ = released.recv();
        })
    });
    is_held.recv().expect("the lock is taken");
    release
}

/// F3, A7: a commit that writes to a stalled disk holds its group partition. Scrapes and changes of the metadata must
/// not wait for it.
#[test]
fn a_commit_that_waits_for_its_disk_holds_up_neither_scrapes_nor_changes_of_topics() {
    let (cluster, brokers) = cluster_with(&[], &[1], &[]);
    cluster.quorum.create_topic("gone", topic_id(8), 2, &[1], &[]);
    let broker = &brokers[0];
    let log = broker.partition(topic_id(OFFSETS), 0);
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let release = hold_log(scope, log);
        let commit = scope.spawn(|| committed(begin_commit(broker, "g", 7)));
        eventually("it has the group partition", || broker.broker.groups.is_held(PartitionId(0)));
        scope.spawn(|| {
            let states = broker.broker.groups.states();
            cluster.quorum.create_topic("more", topic_id(9), 1, &[1], &[]);
            cluster.quorum.delete_topic("gone", 2);
            let _ = done.send(states);
        });
        let in_time = is_done.recv_timeout(super::harness::PATIENCE);
        assert!(!commit.is_finished(), "it waits for the log");
        drop(release);
        assert!(in_time.is_ok(), "they waited for the commit");
        assert_eq!(commit.join().expect("answered"), 0);
    });
}

/// F3, A7: requests to a group partition that waits for its disk held the threads that serve all other partitions. They
/// are queued, and are processed in order when the disk answers.
#[test]
fn requests_behind_a_commit_that_waits_for_its_disk_are_queued() {
    let (_cluster, brokers) = cluster_with(&[], &[1], &[]);
    let broker = &brokers[0];
    let log = broker.partition(topic_id(OFFSETS), 0);
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let release = hold_log(scope, log);
        let first = scope.spawn(|| committed(begin_commit(broker, "first", 7)));
        eventually("it has the group partition", || broker.broker.groups.is_held(PartitionId(0)));
        scope.spawn(move || {
            let later = [8, 9].map(|offset| begin_commit(broker, "g", offset));
            let _ = done.send(later);
        });
        let later = is_done.recv_timeout(super::harness::PATIENCE);
        assert!(!first.is_finished(), "it waits for the log");
        drop(release);
        assert_eq!(first.join().expect("answered"), 0);
        let later = later.expect("nobody waited for the lock");
        assert_eq!(later.map(committed), [0, 0]);
    });
    eventually("the last commit counts", || fetch(broker, "g") == (0, 9));
}

/// Case 19: metadata that is no text, or has a NUL, closed the connection. Kafka reads such bytes as text with
/// replacements.
#[test]
fn odd_metadata_of_commits_is_taken() {
    let (_cluster, brokers) = cluster_with(&[], &[1], &[]);
    for (offset, odd) in [(1, b"\x00\x01"), (2, b"\xff\xfe"), (3, b"\x80a")] {
        let mut request = commit_request("g", offset);
        request.topics[0].partitions[0].committed_metadata = Some(text("no"));
        let encoded = ottla_protocol::encode_request(COMMIT_VERSION, 7, Some("me"), &request).expect("encodes");
        let mut frame = BytesMut::from(&encoded[..]);
        let at = frame.windows(2).rposition(|bytes| bytes == b"no").expect("the metadata");
        frame[at..at + 2].copy_from_slice(odd);
        assert_eq!(committed(brokers[0].dispatch(CLIENT, &frame)), 0, "{odd:?}");
        assert_eq!(fetch(&brokers[0], "g"), (0, offset));
    }
}
