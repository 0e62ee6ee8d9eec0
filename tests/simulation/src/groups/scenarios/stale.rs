//! Scenario 28: commits of a generation or an epoch that has passed.

use super::stage::{SESSION_MS, Stage};

/// Two members share the partitions; one stands still for longer than its session and then goes on where it was.
fn stopped_member(mut stage: Stage, stopped: u32, other: u32) {
    let all = stage.all();
    stage.wait("both to own something", |stage| {
        let (one, two) = (stage.owned(stopped), stage.owned(other));
        !one.is_empty() && !two.is_empty() && one.union(&two).count() == all.len()
    });
    stage.run_ms(100);
    let (member, generation) = stage.identity(stopped);
    stage.world.pause_client(stopped, 4 * SESSION_MS);
    stage.run_ms(3 * SESSION_MS);
    assert_eq!(stage.owned(other), all, "the other has taken over");
    assert!(!stage.owned(stopped).is_empty(), "it does not know that it is nobody any more");
    let (sent, counted) = stage.world.invariants.commits_of(&member, generation);
    let offsets = stage.fetch();
    stage.run_ms(SESSION_MS + 200);
    let (sent_now, counted_now) = stage.world.invariants.commits_of(&member, generation);
    assert!(sent_now > sent, "it went on with a commit, before it heard anything");
    assert_eq!(counted_now, counted, "which does not count");
    assert!(stage.world.invariants.refused_commits > 0);
    // The other's commits have gone on, and nothing fell back.
    let now = stage.fetch();
    assert!(now.iter().zip(&offsets).all(|(now, before)| now >= before), "{offsets:?} {now:?}");
    stage.wait("it to come back", |stage| {
        let (one, two) = (stage.owned(stopped), stage.owned(other));
        !one.is_empty() && one.is_disjoint(&two) && one.union(&two).count() == all.len()
    });
    assert_ne!(stage.identity(stopped).1, generation);
}

#[test]
fn scenario_28_a_classic_member_that_stood_still_commits_nothing() {
    let mut stage = Stage::new(28);
    let (stopped, other) = (stage.add_classic("a"), stage.add_classic("b"));
    stopped_member(stage, stopped, other);
}

#[test]
fn scenario_28_a_consumer_member_that_stood_still_commits_nothing() {
    let mut stage = Stage::new(28);
    let (stopped, other) = (stage.add_consumer("a", 0), stage.add_consumer("b", 0));
    stopped_member(stage, stopped, other);
}

#[test]
fn scenario_28_neither_do_they_after_a_fail_over() {
    ottla_test_support::each_seed(0..4, |seed| {
        let mut stage = Stage::new(seed);
        let (stopped, other) = if seed % 2 == 0 {
            (stage.add_classic("a"), stage.add_classic("b"))
        } else {
            (stage.add_consumer("a", 0), stage.add_consumer("b", 0))
        };
        stage.wait("both to own something", |stage| !stage.owned(stopped).is_empty() && !stage.owned(other).is_empty());
        stage.run_ms(100);
        let leader = stage.leader();
        stage.world.kill_broker(leader);
        stage.world.start_broker_after_ms(leader, 100);
        stopped_member(stage, stopped, other);
    });
}
