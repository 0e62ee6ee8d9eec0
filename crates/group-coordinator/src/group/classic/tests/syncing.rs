//! Assignments on their way to the members; heartbeats and commits.

use super::*;

#[test]
fn shares_reach_members_only_from_below_the_high_watermark() {
    let mut host = host();
    let ids: Vec<RequestId> = (1..=3).map(|n| host.join(join_new(&n.to_string()))).collect();
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(ids[0]).members.len(), 3);
    host.stalled = true;
    let early = host.sync(sync_as("c-2", 1, &[]));
    let leader = host.sync(sync_as("c-1", 1, &[("c-1", "a"), ("c-2", "b"), ("stranger", "x")]));
    let late = host.sync(sync_as("c-3", 1, &[]));
    assert!([early, leader, late].iter().all(|id| !host.answers.contains_key(id)));
    // Nobody's session ends while the log stands.
    host.pass(3 * SESSION_MS);
    assert_eq!(host.state(), "Stable");
    host.stalled = false;
    host.replicate();
    let shares = [leader, early, late].map(|id| synced(host.answer(id)).assignment);
    assert_eq!(shares, ["a", "b", ""]);
    assert_eq!(host.stored().last().unwrap(), &Some((1, 3, Some("range".to_owned()))));
    assert_eq!(host.beat("c-3", 1), ErrorCode::None);
}

#[test]
fn syncs_that_are_refused() {
    let mut host = stable(2);
    let cases = [
        (SyncGroup { group: GroupId::new(""), ..sync_as("c-1", 1, &[]) }, None),
        (SyncGroup { group: GroupId::new("other"), ..sync_as("c-1", 1, &[]) }, Some(ErrorCode::UnknownMemberId)),
        (sync_as("stranger", 1, &[]), Some(ErrorCode::UnknownMemberId)),
        (sync_as("c-1", 0, &[]), Some(ErrorCode::IllegalGeneration)),
        (sync_as("c-1", 2, &[]), Some(ErrorCode::IllegalGeneration)),
        (
            SyncGroup { protocol_name: Some("sticky".to_owned()), ..sync_as("c-1", 1, &[]) },
            Some(ErrorCode::InconsistentGroupProtocol),
        ),
        (
            SyncGroup { protocol_type: Some("connect".to_owned()), ..sync_as("c-1", 1, &[]) },
            Some(ErrorCode::InconsistentGroupProtocol),
        ),
        (SyncGroup { protocol_type: None, protocol_name: None, ..sync_as("c-1", 1, &[]) }, Some(ErrorCode::None)),
    ];
    for (request, error) in cases {
        let id = host.sync(request.clone());
        match error {
            None => assert_eq!(host.answer(id), Some(GroupAnswer::Failed(ErrorCode::InvalidGroupId))),
            Some(error) => assert_eq!(synced(host.answer(id)).error, error, "{request:?}"),
        }
    }
    host.join(join_as("c-1"));
    assert_eq!(host.sync_error(sync_as("c-2", 1, &[])), ErrorCode::RebalanceInProgress);
}

#[test]
fn an_assignment_that_no_batch_can_hold_is_refused_to_all() {
    let mut host = Host::new(GroupConfig { max_batch_bytes: 1_000, ..GroupConfig::default() });
    let ids: Vec<RequestId> = (1..=2).map(|n| host.join(join_new(&n.to_string()))).collect();
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(ids[0]).members.len(), 2);
    let follower = host.sync(sync_as("c-2", 1, &[]));
    let huge =
        SyncGroup { assignments: vec![(MemberId::new("c-2"), Bytes::from(vec![0; 1_000]))], ..sync_as("c-1", 1, &[]) };
    assert_eq!(host.sync_error(huge), ErrorCode::UnknownServerError);
    assert_eq!(synced(host.answer(follower)).error, ErrorCode::UnknownServerError);
    assert_eq!(host.state(), "PreparingRebalance");
    assert_eq!(host.reloads, 0);
}

#[test]
fn a_refused_assignment_loads_the_shard_again() {
    let mut host = host();
    let first = host.join(join_new("1"));
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(first).generation, 1);
    host.refusing = Some(ErrorCode::NotEnoughReplicas);
    let id = host.sync(sync_as("c-1", 1, &[("c-1", "a")]));
    assert_eq!(host.answer(id), Some(GroupAnswer::Failed(ErrorCode::CoordinatorNotAvailable)));
    assert_eq!((host.reloads, host.state()), (1, "Empty"));
    assert_eq!(host.beat("c-1", 1), ErrorCode::UnknownMemberId);
    // Commits that are refused take nothing else along.
    host.refusing = None;
    let mut host = stable(1);
    host.refusing = Some(ErrorCode::MessageTooLarge);
    assert_eq!(host.commit_error("c-1", 1), ErrorCode::InvalidCommitOffsetSize);
    assert_eq!((host.reloads, host.state()), (0, "Stable"));
}

#[test]
fn heartbeats_and_commits_that_are_refused() {
    let mut host = stable(2);
    assert_eq!(host.beat("c-1", 0), ErrorCode::IllegalGeneration);
    assert_eq!(host.beat("stranger", 1), ErrorCode::UnknownMemberId);
    let unknown = Heartbeat { group: GroupId::new("other"), ..heartbeat_as("c-1", 1) };
    assert_eq!(host.call(Request::Heartbeat(unknown)), GroupAnswer::Heartbeat(ErrorCode::UnknownMemberId));
    assert_eq!(host.commit_error("c-1", 1), ErrorCode::None);
    assert_eq!(host.commit_error("c-1", 0), ErrorCode::IllegalGeneration);
    assert_eq!(host.commit_error("stranger", 1), ErrorCode::UnknownMemberId);
    assert_eq!(host.commit_error("", -1), ErrorCode::UnknownMemberId, "a group with members takes no simple commits");
    host.join(join_as("c-1"));
    assert_eq!(host.commit_error("c-2", 1), ErrorCode::None, "what it owned until now is its own to commit");
    host.join(join_as("c-2"));
    assert_eq!(host.state(), "CompletingRebalance");
    assert_eq!(host.commit_error("c-2", 2), ErrorCode::RebalanceInProgress);
    assert_eq!(host.commit_error("c-2", 1), ErrorCode::IllegalGeneration);
    // Nobody's group.
    let mut host = self::host();
    assert_eq!(host.commit_error("c-1", 3), ErrorCode::IllegalGeneration);
    assert_eq!(host.commit_error("", -1), ErrorCode::None);
    assert_eq!(host.state(), "Empty");
}
