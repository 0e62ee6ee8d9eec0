//! Acknowledgements: when they come, when they do not, and what they say.

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};

use super::harness::{Cluster, batch, eventually, fetch_of, idempotent, only, topic_id, wanted};

const NEVER_MS: i32 = 60_000;

#[test]
fn records_are_acknowledged_replicated_and_read() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1, 2, 3], &[("min.insync.replicas", "2")]);
    let by_name = TopicRef::Name("t".to_owned());
    for round in 0..20_i64 {
        let produced = brokers[0].produce(by_name.clone(), 1, &batch(&["a", "b"]), -1, NEVER_MS);
        assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(round * 2)));
    }
    let read = brokers[0].fetch(&fetch_of(id, vec![wanted(1, 0)]));
    assert_eq!(only(&read).high_watermark, Offset(40));
    assert_eq!(only(&read).records.as_deref(), Some(&brokers[0].log_bytes(id, 1)[..]));
    for follower in &brokers[1..] {
        assert_eq!(follower.log_bytes(id, 1), brokers[0].log_bytes(id, 1));
        eventually("followers hear of the high watermark without further records", || {
            follower.partition(id, 1).high_watermark() == Offset(40)
        });
        let refused = follower.produce(TopicRef::Id(id), 1, &batch(&["x"]), 1, NEVER_MS);
        assert_eq!(refused.error, ErrorCode::NotLeaderOrFollower);
        assert_eq!(refused.current_leader.map(|leader| leader.leader_id), Some(BrokerId(1)));
    }
    assert_eq!(cluster.quorum.isr("t", 1), [1, 2, 3]);
}

#[test]
fn what_cannot_be_appended_is_refused_with_kafkas_codes() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    let produce =
        |topic: TopicRef, partition, bytes: &[u8], acks| broker.produce(topic, partition, bytes, acks, 100).error;
    let (by_name, by_id) = (TopicRef::Name("t".to_owned()), TopicRef::Id(id));
    assert_eq!(produce(by_id.clone(), 0, &batch(&["a"]), 7), ErrorCode::InvalidRequiredAcks);
    assert_eq!(produce(by_id.clone(), 9, &batch(&["a"]), 1), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(produce(TopicRef::Id(topic_id(2)), 0, &batch(&["a"]), 1), ErrorCode::UnknownTopicId);
    assert_eq!(produce(TopicRef::Name("x".to_owned()), 0, &batch(&["a"]), 1), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(produce(by_name.clone(), 0, b"", 1), ErrorCode::InvalidRecord);
    let mut damaged = batch(&["a"]);
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(produce(by_id.clone(), 0, &damaged, 1), ErrorCode::CorruptMessage);
    let two = [&batch(&["a"])[..], &batch(&["b"])[..]].concat();
    assert_eq!(produce(by_id.clone(), 0, &two, 1), ErrorCode::InvalidRecord);
    assert_eq!(broker.log_end(id, 0), Offset(0));
    // Without replicas to wait for, the answer is there at once.
    assert!(broker.begin_produce(by_id.clone(), 0, &batch(&["a"]), -1, 100).is_ready());
    assert!(broker.begin_produce(by_id.clone(), 0, &batch(&["a"]), 0, 100).has_no_answer());
    assert!(broker.begin_produce(by_id, 0, &damaged, 0, 100).closes());
    assert_eq!(broker.log_end(id, 0), Offset(2));
}

#[test]
fn without_its_followers_an_acknowledgement_never_comes() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2, 3], &[("min.insync.replicas", "2")]);
    assert_eq!(brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS).error, ErrorCode::None);
    brokers.drain(1..).for_each(|follower| follower.kill());
    let leader = &brokers[0];

    let timed_out = leader.produce(TopicRef::Id(id), 0, &batch(&["b"]), -1, 50);
    assert_eq!((timed_out.error, timed_out.base_offset), (ErrorCode::RequestTimedOut, Offset::UNKNOWN));
    let read = leader.fetch(&fetch_of(id, vec![wanted(0, 1)]));
    assert!(only(&read).records.is_none(), "nobody sees what may disappear");
    assert_eq!(only(&read).high_watermark, Offset(1));

    let mut waits = leader.begin_produce(TopicRef::Id(id), 0, &batch(&["c"]), -1, NEVER_MS);
    assert!(!waits.is_ready());
    cluster.quorum.fence(2);
    cluster.quorum.fence(3);
    cluster.quorum.set_isr("t", 0, &[1]);
    assert_eq!(waits.produced().error, ErrorCode::NotEnoughReplicasAfterAppend);
    let refused = leader.produce(TopicRef::Id(id), 0, &batch(&["d"]), -1, NEVER_MS);
    assert_eq!(refused.error, ErrorCode::NotEnoughReplicas);
    assert_eq!(leader.partition(id, 0).high_watermark(), Offset(1), "below min ISR it does not move");
    assert_eq!(leader.produce(TopicRef::Id(id), 0, &batch(&["e"]), 1, NEVER_MS).error, ErrorCode::None);
}

#[test]
fn a_deposed_leader_answers_who_leads_now() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2, 3], &[]);
    brokers.remove(2).kill();
    let mut waits = brokers[0].begin_produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
    assert!(!waits.is_ready());
    // A follower serves consumers, too: one that names the leader epoch learns that it has ended.
    let first_epoch = || FetchPartition { current_leader_epoch: LeaderEpoch(0), ..wanted(0, 0) };
    let mut parked = brokers[0].begin_fetch(
        super::harness::CLIENT,
        &FetchRequest { max_wait_ms: NEVER_MS, ..fetch_of(id, vec![first_epoch()]) },
    );
    assert!(!parked.is_ready());
    cluster.quorum.elect("t", 0, 2, &[2]);
    let produced = waits.produced();
    assert_eq!(produced.error, ErrorCode::NotLeaderOrFollower);
    let leader = produced.current_leader.unwrap();
    assert_eq!((leader.leader_id, leader.leader_epoch.0), (BrokerId(2), 1));
    let fetched = parked.fetched();
    assert_eq!(only(&fetched).error, ErrorCode::FencedLeaderEpoch);
    assert_eq!(only(&fetched).current_leader.map(|leader| leader.leader_id), Some(BrokerId(2)));
    assert_eq!(fetched.node_endpoints.len(), 1);
    // Without where it listens, a client that has not heard of that broker cannot go there (kafka-python, for ever).
    let fenced = |version, topic: TopicRef| {
        let topics = vec![FetchTopic { topic, partitions: vec![first_epoch()] }];
        let fetched = brokers[0].fetch_at_version(version, &FetchRequest { topics, ..fetch_of(id, Vec::new()) });
        assert_eq!(only(&fetched).error, ErrorCode::FencedLeaderEpoch);
        only(&fetched).current_leader.map(|leader| leader.leader_id)
    };
    assert_eq!(fenced(12, TopicRef::Name("t".to_owned())), None);
    assert_eq!(fenced(16, TopicRef::Id(id)), Some(BrokerId(2)));
}

/// Scenario 15: also right after a failover.
#[test]
fn a_retry_gets_the_first_answer_wherever_it_goes() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2, 3], &[]);
    let topic = || TopicRef::Id(id);
    let first = idempotent(70, 0, 0, &["a", "b"]);
    assert_eq!(brokers[0].produce(topic(), 0, &first, -1, NEVER_MS).base_offset, Offset(0));
    assert_eq!(brokers[0].produce(topic(), 0, &first, -1, NEVER_MS).base_offset, Offset(0), "not appended again");
    let gap = brokers[0].produce(topic(), 0, &idempotent(70, 0, 5, &["x"]), -1, NEVER_MS);
    assert_eq!(gap.error, ErrorCode::OutOfOrderSequenceNumber);
    let second = idempotent(70, 0, 2, &["c"]);
    assert_eq!(brokers[0].produce(topic(), 0, &second, -1, NEVER_MS).base_offset, Offset(2));

    brokers.remove(0).kill();
    cluster.quorum.elect("t", 0, 2, &[2, 3]);
    let leader = &brokers[0];
    assert_eq!(leader.produce(topic(), 0, &second, -1, NEVER_MS).base_offset, Offset(2));
    assert_eq!(leader.produce(topic(), 0, &idempotent(70, 0, 3, &["d"]), -1, NEVER_MS).base_offset, Offset(3));
    let stale = leader.produce(topic(), 0, &idempotent(70, 1, 0, &["e"]), -1, NEVER_MS);
    assert_eq!(stale.error, ErrorCode::None);
    let fenced = leader.produce(topic(), 0, &idempotent(70, 0, 4, &["f"]), -1, NEVER_MS);
    assert_eq!(fenced.error, ErrorCode::InvalidProducerEpoch);
    assert_eq!(leader.log_end(id, 0), Offset(5));
}

/// Scenario 15: a retry of what is not replicated yet waits as the original does.
#[test]
fn a_retry_above_the_high_watermark_waits() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers.remove(1).kill();
    let first = idempotent(9, 0, 0, &["a"]);
    assert_eq!(brokers[0].produce(TopicRef::Id(id), 0, &first, -1, 20).error, ErrorCode::RequestTimedOut);
    let mut retry = brokers[0].begin_produce(TopicRef::Id(id), 0, &first, -1, NEVER_MS);
    assert!(!retry.is_ready());
    let _back = cluster.start(2);
    cluster.quorum.set_isr("t", 0, &[1, 2]);
    let answered = retry.produced();
    assert_eq!((answered.error, answered.base_offset), (ErrorCode::None, Offset(0)));
    assert_eq!(brokers[0].log_end(id, 0), Offset(1));
}
