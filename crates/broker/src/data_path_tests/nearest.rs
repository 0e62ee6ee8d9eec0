//! Consumers that read from followers (KIP-392). Broker n stands in rack-n.

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{FetchPartition, FetchRequest};

use super::harness::{CLIENT, Cluster, batch, eventually, fetch_of, only, topic_id, wanted};

const NEVER_MS: i32 = 60_000;
const RACK_AWARE: (&str, &str) = ("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector");

/// A follower's fetch waits for twenty seconds, a consumer's for ten: what comes to the consumer did not wait for the
/// follower's time.
#[test]
fn a_consumer_at_a_follower_gets_a_record_as_soon_as_it_is_committed() {
    let cluster = Cluster::new(&[("replica.fetch.wait.max.ms", "20000")]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[("min.insync.replicas", "2")]);
    let at = |offset| FetchRequest { max_wait_ms: 10_000, ..fetch_of(id, vec![wanted(0, offset)]) };
    let write = |value| {
        let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&[value]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    };
    write("before");
    let read = brokers[1].fetch(&at(0));
    assert!(only(&read).records.is_some(), "{read:?}");
    assert_eq!((only(&read).high_watermark, only(&read).log_start_offset), (Offset(1), Offset(0)));
    for offset in 1..20 {
        let mut parked = brokers[1].begin_fetch(CLIENT, &at(offset));
        assert!(!parked.is_ready());
        write("while it waits");
        let read = parked.fetched();
        assert!(only(&read).records.is_some(), "{read:?}");
        assert_eq!(only(&read).high_watermark, Offset(offset + 1));
    }
    assert!(brokers[1].broker.telemetry.follower_records_bytes_out.get() > 0);
    assert_eq!(brokers[0].broker.telemetry.follower_records_bytes_out.get(), 0);
}

#[test]
fn a_follower_answers_a_consumer_as_kafkas_does() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a", "b"]), -1, NEVER_MS);
    eventually("the follower has the records", || {
        let read = brokers[1].fetch(&fetch_of(id, vec![wanted(0, 0)]));
        only(&read).records.is_some()
    });
    let error = |partition: FetchPartition| only(&brokers[1].fetch(&fetch_of(id, vec![partition]))).error;
    let epoch = cluster.quorum.state("t", 0).leader_epoch;
    assert_eq!(error(FetchPartition { current_leader_epoch: epoch, ..wanted(0, 0) }), ErrorCode::None);
    let later = FetchPartition { current_leader_epoch: epoch.next(), ..wanted(0, 0) };
    assert_eq!(error(later.clone()), ErrorCode::UnknownLeaderEpoch);
    assert_eq!(error(wanted(0, 3)), ErrorCode::OffsetOutOfRange);
    // Consumers of before Fetch 11 know leaders only.
    let by_name = |version| {
        let mut request = fetch_of(id, vec![wanted(0, 0)]);
        request.topics[0].topic = TopicRef::Name("t".to_owned());
        only(&brokers[1].fetch_at_version(version, &request)).error
    };
    assert_eq!((by_name(10), by_name(11)), (ErrorCode::NotLeaderOrFollower, ErrorCode::None));
    // A fetch that waits at a follower is answered when its leader epoch ends.
    let waits = FetchPartition { current_leader_epoch: epoch, ..wanted(0, 2) };
    let mut parked =
        brokers[1].begin_fetch(CLIENT, &FetchRequest { max_wait_ms: NEVER_MS, ..fetch_of(id, vec![waits]) });
    assert!(!parked.is_ready());
    cluster.quorum.elect("t", 0, 1, &[1, 2]);
    assert_eq!(only(&parked.fetched()).error, ErrorCode::FencedLeaderEpoch);
    assert_eq!(error(later), ErrorCode::None);
    assert_eq!(cluster.quorum.state("t", 0).leader_epoch, LeaderEpoch(epoch.0 + 1));
}

#[test]
fn a_leader_sends_consumers_to_the_follower_in_their_rack() {
    let cluster = Cluster::new(&[RACK_AWARE]);
    let brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    let from = |rack: &str| FetchRequest { rack_id: rack.to_owned(), ..fetch_of(id, vec![wanted(0, 0)]) };
    let sent_to = |request: &FetchRequest| {
        let read = brokers[0].fetch(request);
        let read = only(&read);
        assert_eq!((read.error, read.high_watermark), (ErrorCode::None, Offset(1)));
        let is_sent = read.preferred_read_replica != BrokerId::NONE;
        assert_eq!(read.records.is_none(), is_sent, "records come from one of the two");
        read.preferred_read_replica
    };
    assert_eq!(sent_to(&from("rack-2")), BrokerId(2));
    // It is told at once, also where the consumer would wait, and again in the same session.
    let waits = FetchRequest {
        max_wait_ms: NEVER_MS,
        session_epoch: 0,
        rack_id: "rack-2".to_owned(),
        ..fetch_of(id, vec![wanted(0, 1)])
    };
    let opened = brokers[0].fetch(&waits);
    assert_eq!(only(&opened).preferred_read_replica, BrokerId(2));
    let next = FetchRequest { session_id: opened.session_id, session_epoch: 1, topics: Vec::new(), ..waits };
    assert_eq!(only(&brokers[0].fetch(&next)).preferred_read_replica, BrokerId(2));
    for rack in ["", "rack-1", "rack-3", "rack"] {
        assert_eq!(sent_to(&from(rack)), BrokerId::NONE, "{rack}");
    }
    let mut by_name = from("rack-2");
    by_name.topics[0].topic = TopicRef::Name("t".to_owned());
    assert!(only(&brokers[0].fetch_at_version(10, &by_name)).records.is_some(), "it does not know followers");
    let read = brokers[1].fetch(&FetchRequest { max_wait_ms: NEVER_MS, ..from("rack-2") });
    assert!(only(&read).records.is_some());
    cluster.quorum.fence(2);
    assert_eq!(sent_to(&from("rack-2")), BrokerId::NONE, "the follower has gone");
}
