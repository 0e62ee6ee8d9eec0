//! Leaders that go, come back and find others; logs that parted and meet again.

use ottla_model::{ErrorCode, Offset};
use ottla_protocol::messages::TopicRef;

use super::harness::{Cluster, batch, eventually, topic_id};

const NEVER_MS: i32 = 60_000;

#[test]
fn a_killed_leader_comes_back_as_a_follower_and_joins_the_isr() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 3, &[1, 2, 3], &[("min.insync.replicas", "2")]);
    for partition in 0..3 {
        let produced = brokers[0].produce(TopicRef::Id(id), partition, &batch(&["a"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
    let killed = brokers.remove(0);
    let epoch = killed.broker.identity.epoch();
    killed.kill();
    for partition in 0..3 {
        cluster.quorum.elect("t", partition, 2, &[2, 3]);
        let produced = brokers[0].produce(TopicRef::Id(id), partition, &batch(&["b", "c"]), -1, NEVER_MS);
        assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(1)));
    }
    let back = cluster.start(1);
    assert_eq!(back.opened.clean_shutdown_epoch, epoch, "the machine has been running since");
    for partition in 0..3 {
        eventually("it is back in the ISR", || cluster.quorum.isr("t", partition) == [1, 2, 3]);
        assert_eq!(back.log_bytes(id, partition), brokers[0].log_bytes(id, partition));
    }
    let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["d"]), -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(3)));
    eventually("it goes on fetching", || back.log_end(id, 0) == Offset(4));
}

/// Scenarios 1 and 2: records that nobody acknowledged, at offsets that another leader has filled with others.
#[test]
fn a_log_that_parted_is_cut_by_leader_epoch() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    let acknowledged = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["both"]), -1, NEVER_MS);
    assert_eq!(acknowledged.error, ErrorCode::None);
    brokers.remove(1).kill();
    for value in ["mine", "mine too", "and this"] {
        brokers[0].produce(TopicRef::Id(id), 0, &batch(&[value]), 1, NEVER_MS);
    }
    assert_eq!(brokers[0].log_end(id, 0), Offset(4));
    brokers.remove(0).kill();

    let second = cluster.start(2);
    cluster.quorum.elect("t", 0, 2, &[2]);
    let other = second.produce(TopicRef::Id(id), 0, &batch(&["other", "records"]), 1, NEVER_MS);
    assert_eq!((other.error, other.base_offset), (ErrorCode::None, Offset(1)));
    let first = cluster.start(1);
    eventually("the logs are the same", || first.log_bytes(id, 0) == second.log_bytes(id, 0));
    eventually("and it is in the ISR", || cluster.quorum.isr("t", 0) == [1, 2]);
    assert_eq!(first.log_end(id, 0), Offset(3));
}

/// Scenario 3: each leads for a moment, and what they wrote differs in the middle.
#[test]
fn scenario_03_two_quick_leader_changes_leave_one_history() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["both"]), -1, NEVER_MS);
    brokers.remove(1).kill();
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["first"]), 1, NEVER_MS);
    brokers.remove(0).kill();
    let second = cluster.start(2);
    cluster.quorum.elect("t", 0, 2, &[2]);
    second.produce(TopicRef::Id(id), 0, &batch(&["second", "second too"]), 1, NEVER_MS);
    second.kill();
    let first = cluster.start(1);
    cluster.quorum.elect("t", 0, 1, &[1]);
    first.produce(TopicRef::Id(id), 0, &batch(&["first again"]), 1, NEVER_MS);
    let second = cluster.start(2);
    eventually("the logs are the same", || second.log_bytes(id, 0) == first.log_bytes(id, 0));
    eventually("and it is in the ISR", || cluster.quorum.isr("t", 0) == [1, 2]);
    assert_eq!(second.log_end(id, 0), Offset(3));
}

/// One change is under way at a time; a follower that has caught up meanwhile has nothing more to say.
#[test]
fn two_followers_that_come_together_both_join_at_once() {
    let cluster = Cluster::new(&[("replica.lag.time.max.ms", "3600000")]);
    let brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 40, &[1, 2, 3], &[]);
    eventually("every log is open", || (0..40).all(|p| brokers[0].partition(id, p).with_log(|_| ()).is_some()));
    for partition in 0..40 {
        cluster.quorum.elect("t", partition, 1, &[1]);
    }
    eventually("all are in sync", || (0..40).all(|partition| cluster.quorum.isr("t", partition) == [1, 2, 3]));
}

#[test]
fn an_isr_change_that_nobody_answers_is_asked_for_again() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.silent.store(true, std::sync::atomic::Ordering::Release);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    cluster.quorum.elect("t", 0, 1, &[1]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), 1, NEVER_MS);
    eventually("the follower has it", || brokers[1].log_end(id, 0) == Offset(1));
    assert_eq!(cluster.quorum.isr("t", 0), [1]);
    cluster.quorum.silent.store(false, std::sync::atomic::Ordering::Release);
    eventually("it joins", || cluster.quorum.isr("t", 0) == [1, 2]);
}

#[test]
fn a_follower_that_lags_leaves_the_isr() {
    let cluster = Cluster::new(&[("replica.lag.time.max.ms", "500"), ("replica.fetch.wait.max.ms", "100")]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
    brokers.remove(1).kill();
    let waits = brokers[0].begin_produce(TopicRef::Id(id), 0, &batch(&["b"]), -1, NEVER_MS);
    eventually("the ISR shrinks", || cluster.quorum.isr("t", 0) == [1]);
    assert_eq!(waits.produced().error, ErrorCode::None, "and the acknowledgement need not wait for it any more");
}

#[test]
fn hundreds_of_partitions_are_soon_in_sync() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 300, &[1, 2], &[("min.insync.replicas", "2")]);
    eventually("every log is open", || (0..300).all(|p| brokers[0].partition(id, p).with_log(|_| ()).is_some()));
    for partition in [0, 150, 299] {
        let produced = brokers[0].produce(TopicRef::Id(id), partition, &batch(&["a"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
    // One more topic, while the fetchers hold hundreds of quiet partitions.
    let other = topic_id(2);
    cluster.quorum.create_topic("u", other, 1, &[2, 1], &[("min.insync.replicas", "2")]);
    let produced = brokers[1].produce(TopicRef::Id(other), 0, &batch(&["a"]), -1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
}

/// Scenario 12: the leader no longer has what the follower would need next.
#[test]
fn scenario_12_a_follower_behind_the_leaders_log_start_starts_over() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["both"]), -1, NEVER_MS);
    brokers.remove(1).kill();
    cluster.quorum.fence(2);
    cluster.quorum.set_isr("t", 0, &[1]);
    for value in ["one", "two", "three"] {
        brokers[0].produce(TopicRef::Id(id), 0, &batch(&[value]), -1, NEVER_MS);
    }
    brokers[0].partition(id, 0).with_log(|log| log.advance_log_start(Offset(3)));
    let back = cluster.start(2);
    eventually("it has what the leader has", || {
        back.partition(id, 0).with_log(|log| (log.log_start_offset(), log.log_end_offset()))
            == Some((Offset(3), Offset(4)))
    });
    assert_eq!(back.log_bytes(id, 0), brokers[0].log_bytes(id, 0));
    eventually("and it is in the ISR", || cluster.quorum.isr("t", 0) == [1, 2]);
}

/// Scenario 18: the partition resigns, and says what is wrong meanwhile.
#[test]
fn a_directory_whose_disk_failed_leads_nothing() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
    brokers[0].partition(id, 0).disk_failed(&"no such luck");
    let refused = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["b"]), -1, NEVER_MS);
    assert_eq!(refused.error, ErrorCode::KafkaStorageError);
    eventually("another broker leads", || cluster.quorum.state("t", 0).leader.0 == 2);
    let produced = brokers[1].produce(TopicRef::Id(id), 0, &batch(&["b"]), -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(1)));
    let moved = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["c"]), -1, NEVER_MS);
    assert_eq!(moved.error, ErrorCode::KafkaStorageError);
}

#[test]
fn metrics_follow_the_isr() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1, 2], &[]);
    let counts = |brokers: &[super::harness::TestBroker]| {
        let telemetry = &brokers[0].broker.telemetry;
        (
            telemetry.replicas.under_replicated_partitions.get(),
            telemetry.replicas.isr_shrinks.get(),
            telemetry.replicas.isr_expansions.get(),
        )
    };
    eventually("both lead", || brokers[0].broker.telemetry.replicas.leader_partitions.get() == 2);
    assert_eq!(counts(&brokers), (0, 0, 0));
    brokers.remove(1).kill();
    // While it counts as registered, a leader may propose it for the ISR again: it has everything.
    cluster.quorum.fence(2);
    for partition in 0..2 {
        cluster.quorum.set_isr("t", partition, &[1]);
    }
    assert_eq!(counts(&brokers), (2, 2, 0));
    let back = cluster.start(2);
    eventually("both followers are back", || counts(&brokers) == (0, 2, 2));
    cluster.quorum.set_isr("t", 0, &[1]);
    cluster.quorum.delete_topic("t", 2);
    assert_eq!(counts(&brokers).0, 0, "what is gone is not under-replicated");
    drop(back);
}
