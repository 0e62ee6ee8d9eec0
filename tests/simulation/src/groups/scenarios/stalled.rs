//! A disk of the coordinator that does not answer for a while.

use ottla_coordinator_partition::BrokenRules;
use ottla_model::MemberId;

use super::stage::{SESSION_MS, Stage};

/// Longer than a session, and late by less than the coordinator forgives (500 ms) for the member's session, which began
/// with the heartbeat before.
const STALL_MS: u64 = SESSION_MS + 100;

/// Who a member is before and after its coordinator's disk did not answer for [`STALL_MS`].
fn identities(rules: BrokenRules, is_classic: bool) -> [(MemberId, i32); 2] {
    let mut stage = Stage::with_rules(53, rules);
    let member = if is_classic { stage.add_classic("a") } else { stage.add_consumer("a", 0) };
    stage.wait("all to be read", |stage| stage.owned(member) == stage.all());
    stage.run_ms(SESSION_MS);
    let before = stage.identity(member);
    let leader = stage.leader();
    // The health check does not notice it.
    stage.world.hold_partition(leader, 0, STALL_MS, STALL_MS);
    stage.run_ms(STALL_MS + SESSION_MS);
    assert_eq!(stage.leader(), leader);
    stage.wait("all to be read again", |stage| stage.owned(member) == stage.all());
    [before, stage.identity(member)]
}

/// Scenario 53.
#[test]
fn scenario_53_a_heartbeat_that_waits_for_a_disk_has_been_heard() {
    for is_classic in [false, true] {
        let [before, after] = identities(BrokenRules::default(), is_classic);
        assert_eq!(before, after, "is classic: {is_classic}");
    }
}

#[test]
fn a_tick_that_overtakes_heartbeats_is_noticed() {
    let rules = BrokenRules { ticks_overtake: true, ..BrokenRules::default() };
    for is_classic in [false, true] {
        let [before, after] = identities(rules, is_classic);
        assert_ne!(before, after, "is classic: {is_classic}");
    }
}
