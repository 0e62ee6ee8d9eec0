//! When a controlled shutdown is done, and who waits for whom.

use ottla_model::{BrokerId, ErrorCode};

use super::harness::*;
use crate::controller::*;
use crate::leader_search::ATTEMPT_TIMEOUT;

fn shut_down(cluster: &mut Cluster, id: i32) -> RequestId {
    let (epoch, incarnation) = (cluster.brokers[&id].epoch, cluster.brokers[&id].incarnation);
    let id = cluster.send(Request::ControlledShutdown(ControlledShutdown { broker: BrokerId(id), epoch, incarnation }));
    cluster.commit_all();
    id
}

/// Error, leaderships that remain, whether it is done.
fn progress(cluster: &mut Cluster, id: RequestId) -> Option<(ErrorCode, u32, bool)> {
    match cluster.answers.remove(&id)? {
        Answer::ControlledShutdown(progress) => Some((progress.error, progress.remaining_leaderships, progress.done)),
        other => panic!("not the answer: {other:?}"),
    }
}

#[test]
fn a_shutdown_waits_for_the_images_of_brokers_that_have_a_stream_and_stay() {
    let mut cluster = Cluster::of(4);
    cluster.create("t", &[&[1, 2, 3, 4]], &[]);
    // One has lost its stream, one shuts down too: neither sends clients to the leaving broker.
    cluster.reachable = false;
    cluster.stop_running(3);
    shut_down(&mut cluster, 4);
    let id = shut_down(&mut cluster, 1);
    assert_eq!(progress(&mut cluster, id), None, "broker 2 does not know");
    cluster.beat(2);
    assert_eq!(progress(&mut cluster, id), Some((ErrorCode::None, 0, true)));
}

/// A broker that lags held the answer back until the caller had given it up, and the shutdown ended as if there were no
/// quorum.
#[test]
fn a_shutdown_that_is_not_done_is_answered_while_its_caller_waits() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.brokers.get_mut(&3).expect("is there").follows = false;
    let id = shut_down(&mut cluster, 1);
    let patience_ms = u64::try_from(ATTEMPT_TIMEOUT.as_millis()).expect("small");
    cluster.run(patience_ms - 100);
    assert_eq!(progress(&mut cluster, id), Some((ErrorCode::None, 0, false)));
}

#[test]
fn leaderships_that_another_replica_may_take_later_are_told_at_once() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    let one = vec![cluster.member(1)];
    assert_eq!(cluster.alter_isr("t", one), ErrorCode::None);
    let id = shut_down(&mut cluster, 1);
    cluster.beat(2);
    assert_eq!(progress(&mut cluster, id), Some((ErrorCode::None, 1, false)), "no time has passed");
}

#[test]
fn what_only_dead_brokers_could_take_does_not_hold_up_a_shutdown() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.kill(2);
    let id = shut_down(&mut cluster, 1);
    cluster.beat(3);
    assert_eq!(progress(&mut cluster, id), Some((ErrorCode::None, 1, true)));
}

#[test]
fn a_shutdown_ends_with_its_broker_and_no_other() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2, 3], &[2, 1, 3]], &[]);
    let ids = [shut_down(&mut cluster, 1), shut_down(&mut cluster, 2)];
    assert_eq!(ids.map(|id| progress(&mut cluster, id)), [None, None]);
    cluster.kill(1);
    assert_eq!(progress(&mut cluster, ids[0]), Some((ErrorCode::StaleBrokerEpoch, 0, false)));
    assert_eq!(progress(&mut cluster, ids[1]), None);
    cluster.beat(3);
    assert_eq!(progress(&mut cluster, ids[1]), Some((ErrorCode::None, 0, true)));
}

/// Nothing is written for a broker that only sends heartbeats, however long.
#[test]
fn a_broker_that_stays_is_left_alone() {
    let mut cluster = Cluster::of(1);
    cluster.create("t", &[&[1]], &[]);
    let before = cluster.image.revision();
    cluster.run(121_000);
    assert_eq!(cluster.image.revision(), before);
}

#[test]
fn a_broker_that_stays_for_a_minute_after_it_asked_for_a_shutdown_counts_again() {
    let mut cluster = Cluster::of(2);
    shut_down(&mut cluster, 1);
    let after = |cluster: &mut Cluster, ms: u64| {
        cluster.now.monotonic.0 += ms;
        cluster.beat(1);
        cluster.image.broker(BrokerId(1)).is_some_and(|broker| broker.is_active())
    };
    assert!(!after(&mut cluster, 59_999));
    assert!(after(&mut cluster, 1));
    // The next request has its own minute.
    shut_down(&mut cluster, 1);
    assert!(!after(&mut cluster, 59_999));
    assert!(after(&mut cluster, 1));
}

#[test]
fn a_shutdown_waits_for_its_own_changes_and_for_no_later_ones() {
    let mut cluster = Cluster::of(1);
    let (broker, epoch, incarnation) = (BrokerId(1), cluster.brokers[&1].epoch, cluster.brokers[&1].incarnation);
    let id = cluster.send(Request::ControlledShutdown(ControlledShutdown { broker, epoch, incarnation }));
    cluster.send(Request::AllocateProducerIds(AllocateProducerIds { broker, epoch }));
    assert_eq!((cluster.proposals.len(), progress(&mut cluster, id)), (2, None));
    cluster.commit_one();
    assert_eq!(progress(&mut cluster, id), Some((ErrorCode::None, 0, true)), "the ids are in flight");
}
