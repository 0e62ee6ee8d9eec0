//! Brokers that reach other coordinators.

use ottla_model::{BrokerId, CoordinatorId};

use super::harness::Cluster;
use crate::controller::{Candidate, Input};

/// Longer than the pause after the controller's start.
const SETTLED_MS: u64 = 4_000;
const OTHER: CoordinatorId = CoordinatorId(2);

fn settled(brokers: i32) -> Cluster {
    let mut cluster = Cluster::of(brokers);
    cluster.run(SETTLED_MS);
    cluster
}

/// These brokers' heartbeats are lost from now on; nothing tells of it.
fn lose(cluster: &mut Cluster, brokers: &[i32], is_lost: bool) {
    for id in brokers {
        cluster.brokers.get_mut(id).expect("is there").runs = !is_lost;
    }
}

fn asks(cluster: &mut Cluster, coordinator: CoordinatorId, brokers: &[i32]) {
    let brokers = brokers.iter().map(|id| BrokerId(*id)).collect();
    cluster.step(Input::BrokersAsked { coordinator, brokers });
}

fn candidates(cluster: &Cluster) -> Vec<(CoordinatorId, usize, usize)> {
    let shown = |one: Candidate| (one.coordinator, one.brokers.len(), one.reached_here);
    cluster.controller.better_reached().into_iter().map(shown).collect()
}

#[test]
fn a_voter_that_more_brokers_reach_is_better_and_before_they_are_fenced() {
    let mut cluster = settled(3);
    lose(&mut cluster, &[1, 2], true);
    cluster.run(2_000);
    asks(&mut cluster, OTHER, &[1, 2]);
    assert_eq!(candidates(&cluster), [], "they may be about to be heard here");
    cluster.run(500);
    assert_eq!(candidates(&cluster), [(OTHER, 2, 1)]);
    assert_eq!(cluster.image.broker_count(), 3);
    // As many as are heard here are no reason, and one that is heard again does not count.
    lose(&mut cluster, &[1], false);
    cluster.run(500);
    assert_eq!(candidates(&cluster), []);
}

#[test]
fn brokers_that_are_fenced_count_and_those_that_are_not_known_do_not() {
    let mut cluster = settled(2);
    lose(&mut cluster, &[1, 2], true);
    cluster.run(5_000);
    assert_eq!(cluster.image.broker_count(), 0);
    asks(&mut cluster, OTHER, &[1, 7, 8, 9]);
    asks(&mut cluster, CoordinatorId(3), &[1, 2]);
    cluster.run(500);
    assert_eq!(candidates(&cluster), [(CoordinatorId(3), 2, 0), (OTHER, 1, 0)]);
    // What was asked long ago says nothing: the brokers may have ended since.
    cluster.run(6_000);
    assert_eq!(candidates(&cluster), []);
}

/// A broker asks the first coordinator of its list when it starts, or when a stream breaks.
#[test]
fn a_broker_that_is_heard_here_after_it_asked_elsewhere_is_not_lost() {
    let mut cluster = settled(1);
    asks(&mut cluster, OTHER, &[1]);
    cluster.run(3_000);
    assert_eq!(candidates(&cluster), []);
    cluster.kill(1);
    cluster.run(1_000);
    asks(&mut cluster, OTHER, &[1]);
    cluster.start(1);
    cluster.run(1_000);
    assert_eq!(candidates(&cluster), []);
}

/// It has not asked since: where it went is not known.
#[test]
fn a_question_from_before_a_broker_was_heard_here_says_nothing_once_it_is_lost() {
    let mut cluster = settled(1);
    asks(&mut cluster, OTHER, &[1]);
    cluster.beat(1);
    lose(&mut cluster, &[1], true);
    cluster.run(2_500);
    assert_eq!(candidates(&cluster), []);
    asks(&mut cluster, OTHER, &[1]);
    cluster.run(500);
    assert_eq!(candidates(&cluster), [(OTHER, 1, 0)]);
}

#[test]
fn nothing_is_handed_over_soon_after_a_change_or_an_attempt() {
    let mut cluster = settled(3);
    cluster.change_leader();
    lose(&mut cluster, &[1, 2, 3], true);
    for _ in 0..29 {
        asks(&mut cluster, OTHER, &[1, 2, 3]);
        cluster.run(100);
        assert_eq!(candidates(&cluster), []);
    }
    asks(&mut cluster, OTHER, &[1, 2, 3]);
    cluster.run(100);
    assert_eq!(candidates(&cluster), [(OTHER, 3, 0)]);
    cluster.controller.tried_to_hand_over();
    cluster.run(2_900);
    assert_eq!(candidates(&cluster), []);
    cluster.run(100);
    assert_eq!(candidates(&cluster), [(OTHER, 3, 0)]);
}

#[test]
fn a_voter_that_as_many_brokers_reach_is_no_better() {
    let mut cluster = settled(4);
    lose(&mut cluster, &[1, 2], true);
    cluster.run(2_000);
    asks(&mut cluster, OTHER, &[1, 2]);
    cluster.run(500);
    assert_eq!(candidates(&cluster), [], "two are heard here");
    cluster.kill(3);
    assert_eq!(candidates(&cluster), [(OTHER, 2, 1)]);
}

/// Within that time a broker that nobody answers asks again at each coordinator.
#[test]
fn a_question_counts_for_the_length_of_two_sessions() {
    let lost = || {
        let mut cluster = settled(1);
        lose(&mut cluster, &[1], true);
        asks(&mut cluster, OTHER, &[1]);
        cluster
    };
    let mut cluster = lost();
    cluster.run(5_950);
    assert_eq!(candidates(&cluster), [(OTHER, 1, 0)]);
    asks(&mut cluster, OTHER, &[1]);
    cluster.run(50);
    assert_eq!(candidates(&cluster), [(OTHER, 1, 0)], "it has asked again, and is not heard for long");

    let mut cluster = lost();
    cluster.run(6_000);
    assert_eq!(candidates(&cluster), []);
    asks(&mut cluster, OTHER, &[1]);
    assert_eq!(candidates(&cluster), [], "as after the first question");
    cluster.run(500);
    assert_eq!(candidates(&cluster), [(OTHER, 1, 0)]);
}

#[test]
fn a_broker_is_heard_here_for_half_a_session_after_its_last_heartbeat() {
    let mut cluster = settled(1);
    cluster.beat(1);
    lose(&mut cluster, &[1], true);
    asks(&mut cluster, OTHER, &[1]);
    cluster.run(1_450);
    assert_eq!(candidates(&cluster), []);
    cluster.run(50);
    assert_eq!(candidates(&cluster), [(OTHER, 1, 0)]);
}
