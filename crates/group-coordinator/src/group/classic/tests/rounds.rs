//! How rounds begin and end, and what becomes of those that are late.

use super::*;

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let mut host = stable(3);
    let second = host.join(with_protocols(join_as("c-2"), &["range", "sticky"]));
    for _ in 0..6 {
        host.pass(REBALANCE_MS / 6 - 1);
        // The heartbeat is heard, and told what is going on; it does not replace the join.
        assert_eq!(host.beat("c-1", 1), ErrorCode::RebalanceInProgress);
    }
    host.pass(6);
    let answer = host.take_joined(second);
    assert_eq!((answer.leader.as_str(), answer.members.len(), answer.generation), ("c-2", 1, 2));
    assert_eq!(host.beat("c-1", 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_new_member_whose_connection_may_be_gone_is_out_after_five_minutes() {
    let mut host = host();
    let first = host.join(JoinGroup { rebalance_timeout_ms: 3_600_000, ..join_new("1") });
    host.pass(2 * DELAY_MS);
    let first = host.take_joined(first);
    sync_all(&mut host, &[first]);
    let waiting = host.join(JoinGroup { rebalance_timeout_ms: 3_600_000, ..join_new("2") });
    for _ in 0..50 {
        assert_eq!(host.beat("c-1", 1), ErrorCode::RebalanceInProgress);
        host.pass(6_000);
    }
    assert_eq!(host.take_joined(waiting).error, ErrorCode::UnknownMemberId);
    // A member that knows its id may wait as long as the round takes.
    let leader = host.join(join_as("c-1"));
    assert_eq!(host.take_joined(leader).members.len(), 1);
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let mut host = stable(2);
    for _ in 0..3 {
        host.pass(SESSION_MS / 2);
        host.beat("c-1", 1);
    }
    assert_eq!(host.beat("c-1", 1), ErrorCode::RebalanceInProgress);
    assert_eq!(host.beat("c-2", 1), ErrorCode::UnknownMemberId);
    let id = host.join(join_as("c-1"));
    assert_eq!(host.take_joined(id).members.len(), 1);
}

#[test]
fn a_coordinator_that_stood_still_hears_its_members_before_it_judges_them() {
    let mut host = stable(2);
    host.stand_still(5 * SESSION_MS);
    host.pass(0);
    assert_eq!(host.beat("c-1", 1), ErrorCode::None);
    host.pass(2_000);
    assert_eq!(
        (host.beat("c-1", 1), host.beat("c-2", 1)),
        (ErrorCode::RebalanceInProgress, ErrorCode::UnknownMemberId)
    );
}

#[test]
fn a_round_of_silent_static_members_costs_little_whatever_its_timeout() {
    let mut host = host();
    let ids = ["i", "j"].map(|name| host.join(JoinGroup { rebalance_timeout_ms: 0, ..join_static(name, name) }));
    host.pass(DELAY_MS);
    let members = ids.map(|id| host.take_joined(id));
    sync_all(&mut host, &members);
    host.leave(vec![leaving("", Some("j"))]);
    assert_eq!(host.state(), "PreparingRebalance");
    host.pass(SESSION_MS - 1);
    assert_eq!(host.state(), "PreparingRebalance");
    host.pass(1);
    assert_eq!(host.state(), "Empty");
}

#[test]
fn a_commit_keeps_a_member_alive() {
    let mut host = stable(1);
    for _ in 0..5 {
        host.pass(SESSION_MS - 1);
        assert_eq!(host.commit_error("c-1", 1), ErrorCode::None);
    }
    assert_eq!(host.beat("c-1", 1), ErrorCode::None);
}

#[test]
fn a_member_that_does_not_fetch_its_share_is_out() {
    let mut host = host();
    let ids: Vec<RequestId> = (1..=2).map(|n| host.join(join_new(&n.to_string()))).collect();
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(ids[0]).leader.as_str(), "c-1");
    let leader = host.sync(sync_as("c-1", 1, &[("c-1", "a"), ("c-2", "b")]));
    assert_eq!(synced(host.answer(leader)).assignment, "a");
    for _ in 0..REBALANCE_MS / 5_000 {
        assert_eq!((host.beat("c-1", 1), host.beat("c-2", 1)), (ErrorCode::None, ErrorCode::None));
        host.pass(5_000);
    }
    assert_eq!(host.beat("c-2", 1), ErrorCode::UnknownMemberId);
    assert_eq!(host.beat("c-1", 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn without_its_leader_a_round_ends_for_all_after_the_rebalance_timeout() {
    let mut host = host();
    let ids: Vec<RequestId> = (1..=2).map(|n| host.join(join_new(&n.to_string()))).collect();
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(ids[1]).generation, 1);
    let follower = host.sync(sync_as("c-2", 1, &[]));
    // The leader's session ends first: the follower is told to join again, and not judged while it waited.
    host.pass(SESSION_MS);
    assert_eq!(synced(host.answer(follower)).error, ErrorCode::RebalanceInProgress);
    let id = host.join(join_as("c-2"));
    assert_eq!(host.take_joined(id).leader.as_str(), "c-2");
}
