//! Scenario 29: a partition goes to its next owner only after the former has confirmed that it let go, or was put out.

use super::stage::{SESSION_MS, Stage};

const REVOCATION_MS: u64 = 400;

#[test]
fn scenario_29_a_partition_is_handed_over_after_it_was_let_go() {
    let mut stage = Stage::new(29);
    let all = stage.all();
    let first = stage.add_consumer("a", REVOCATION_MS);
    stage.wait("the first to own all", |stage| stage.owned(first) == all);
    let second = stage.add_consumer("b", 0);
    let begun = stage.world.now;
    stage.wait("the second to own something", |stage| !stage.owned(second).is_empty());
    // The invariants have seen at every step that nobody owned what the other believed to own.
    assert!(stage.world.now >= begun.plus_ms(REVOCATION_MS), "not before the first had let go");
    let (one, two) = (stage.owned(first), stage.owned(second));
    assert!(one.is_disjoint(&two), "{one:?} {two:?}");
    stage.wait("both to own their halves", |stage| {
        (stage.owned(first).len(), stage.owned(second).len()) == (all.len() / 2, all.len() / 2)
    });
    assert!(one.is_superset(&stage.owned(first)), "what the first need not give up it kept");
}

#[test]
fn scenario_29_the_confirmation_survives_a_fail_over() {
    ottla_test_support::each_seed(0..10, |seed| {
        let mut stage = Stage::new(seed);
        let all = stage.all();
        let first = stage.add_consumer("a", REVOCATION_MS);
        stage.wait("the first to own all", |stage| stage.owned(first) == all);
        let second = stage.add_consumer("b", 0);
        // Somewhere between the first heartbeat of the second and the end of the handing over.
        stage.run_ms(seed * 60);
        let leader = stage.leader();
        stage.world.kill_broker(leader);
        stage.world.start_broker_after_ms(leader, 100);
        stage.wait("both to own their halves", |stage| {
            let (one, two) = (stage.owned(first), stage.owned(second));
            one.len() == 2 && two.len() == 2 && one.is_disjoint(&two)
        });
    });
}

#[test]
fn scenario_29_or_after_its_owner_was_put_out() {
    let mut stage = Stage::new(29);
    let all = stage.all();
    let first = stage.add_consumer("a", 0);
    stage.wait("the first to own all", |stage| stage.owned(first) == all);
    stage.run_ms(200);
    let stopped = stage.world.now;
    stage.world.pause_client(first, 5 * SESSION_MS);
    let second = stage.add_consumer("b", 0);
    stage.wait("the second to own something", |stage| !stage.owned(second).is_empty());
    // It was heard of a heartbeat before it stopped, at the earliest.
    assert!(stage.world.now >= stopped.plus_ms(SESSION_MS - 300), "{} {}", stopped, stage.world.now);
    stage.wait("the second to own all", |stage| stage.owned(second) == all);
    let view = stage.world.invariants.view(&Stage::group()).cloned().unwrap_or_default();
    assert_eq!(view.members.len(), 1, "{view:?}");
}
