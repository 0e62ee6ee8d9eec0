//! Who may be in the next generation.

use super::*;

#[test]
fn the_first_round_waits_for_others_and_no_longer_than_a_rebalance() {
    let mut host = host();
    let first = host.join(join_new("1"));
    assert_eq!(host.state(), "PreparingRebalance");
    host.pass(DELAY_MS - 1);
    let second = host.join(join_new("2"));
    host.pass(1);
    assert!(host.answer(first).is_none(), "somebody came: the delay is lengthened");
    host.pass(DELAY_MS);
    let (one, two) = (host.take_joined(first), host.take_joined(second));
    assert_eq!((one.error, one.generation, one.protocol_name.as_deref()), (ErrorCode::None, 1, Some("range")));
    assert_eq!((&one.leader, &two.leader, one.members.len(), two.members.len()), (&one.member, &one.member, 2, 0));
    assert_eq!(host.state(), "CompletingRebalance");
    // Members that come without end lengthen it to the rebalance timeout, and no further.
    let mut host = self::host();
    let first = host.join(join_new("0"));
    for n in 1..=20 {
        host.pass(DELAY_MS - 1);
        host.join(join_new(&n.to_string()));
    }
    assert!(host.answer(first).is_none());
    host.pass(REBALANCE_MS - 20 * (DELAY_MS - 1));
    assert_eq!(host.take_joined(first).members.len(), 21);
}

#[test]
fn a_dynamic_member_is_given_an_id_first() {
    let mut host = host();
    let ask = JoinGroup { requires_known_member_id: true, ..join_new("7") };
    let id = host.join(ask.clone());
    let answer = host.take_joined(id);
    assert_eq!((answer.error, answer.member.as_str(), answer.generation), (ErrorCode::MemberIdRequired, "c-7", -1));
    assert_eq!(host.state(), "Empty");
    assert_eq!(host.stored(), [Some((0, 0, None))], "the group outlives its coordinator");
    let id = host.join(JoinGroup { member: answer.member, requires_known_member_id: true, ..join_new("") });
    host.pass(DELAY_MS);
    assert_eq!(host.take_joined(id).error, ErrorCode::None);
    // An id that nobody comes back with is forgotten after a session.
    host.join(JoinGroup { fresh_id: "8".to_owned(), ..ask });
    host.pass(SESSION_MS);
    assert_eq!(host.join_error(join_as("c-8")), ErrorCode::UnknownMemberId);
    // A static member needs none.
    let mut host = self::host();
    let id = host.join(JoinGroup { requires_known_member_id: true, ..join_static("i", "1") });
    host.pass(DELAY_MS);
    assert_eq!(host.take_joined(id).member.as_str(), "i-1");
}

#[test]
fn a_round_waits_for_ids_that_were_given_out() {
    let mut host = stable(1);
    let pending = host.join(JoinGroup { requires_known_member_id: true, ..join_new("2") });
    assert_eq!(host.take_joined(pending).error, ErrorCode::MemberIdRequired);
    let leader = host.join(join_as("c-1"));
    assert!(host.answer(leader).is_none());
    let second = host.join(join_as("c-2"));
    assert_eq!((host.take_joined(leader).generation, host.take_joined(second).generation), (2, 2));
    // If it does not come, its session ends and the round with it.
    let mut host = stable(1);
    host.join(JoinGroup { requires_known_member_id: true, ..join_new("2") });
    let leader = host.join(join_as("c-1"));
    host.pass(SESSION_MS);
    assert_eq!(host.take_joined(leader).members.len(), 1);
}

#[test]
fn joins_that_are_refused() {
    let mut host = stable(2);
    let cases = [
        (JoinGroup { group: GroupId::new(""), ..join_new("3") }, ErrorCode::InvalidGroupId),
        (JoinGroup { session_timeout_ms: 5_999, ..join_new("3") }, ErrorCode::InvalidSessionTimeout),
        (JoinGroup { session_timeout_ms: 1_800_001, ..join_new("3") }, ErrorCode::InvalidSessionTimeout),
        (JoinGroup { protocol_type: "connect".to_owned(), ..join_new("3") }, ErrorCode::InconsistentGroupProtocol),
        (with_protocols(join_new("3"), &["roundrobin"]), ErrorCode::InconsistentGroupProtocol),
        (with_protocols(join_new("3"), &[]), ErrorCode::InconsistentGroupProtocol),
        (join_as("stranger"), ErrorCode::UnknownMemberId),
        (JoinGroup { instance: Some(InstanceId::new("i")), ..join_as("c-1") }, ErrorCode::UnknownMemberId),
        (JoinGroup { group: GroupId::new("other"), ..join_as("c-1") }, ErrorCode::UnknownMemberId),
    ];
    for (request, error) in cases {
        assert_eq!(host.join_error(request.clone()), error, "{request:?}");
        assert_eq!(host.state(), "Stable");
    }
    // No group comes of a first member that was refused.
    let refused = JoinGroup { group: GroupId::new("new"), protocol_type: String::new(), ..join_new("1") };
    assert_eq!(host.join_error(refused), ErrorCode::InconsistentGroupProtocol);
    let listed = host.call(Request::ListGroups(ListGroups::default()));
    assert!(matches!(listed, GroupAnswer::ListGroups(groups) if groups.len() == 1));
}

#[test]
fn members_vote_among_the_protocols_that_all_support() {
    let cases: &[(&[&[&str]], &str)] = &[
        (&[&["range", "sticky"], &["sticky", "range"], &["sticky", "range"]], "sticky"),
        (&[&["range", "sticky", "own"], &["range"]], "range"),
        (&[&["b", "a"], &["a", "b"]], "a"),
        (&[&["range", "range"], &["range"]], "range"),
    ];
    for (members, elected) in cases {
        let mut host = host();
        let ids: Vec<RequestId> = members
            .iter()
            .enumerate()
            .map(|(n, names)| host.join(with_protocols(join_new(&n.to_string()), names)))
            .collect();
        host.pass(2 * DELAY_MS);
        for id in ids {
            assert_eq!(host.take_joined(id).protocol_name.as_deref(), Some(*elected), "{members:?}");
        }
    }
}

#[test]
fn who_may_rejoin_without_a_round() {
    let mut host = stable(2);
    // A follower with nothing new is told what it should know.
    let id = host.join(join_as("c-2"));
    let answer = host.take_joined(id);
    assert_eq!((answer.generation, answer.members.len(), host.state()), (1, 0, "Stable"));
    // New metadata, and the leader in any case, begin a round.
    let id = host.join(with_protocols(join_as("c-2"), &["range", "sticky"]));
    assert!(host.answer(id).is_none());
    assert_eq!(host.state(), "PreparingRebalance");
    let leader = host.join(join_as("c-1"));
    assert_eq!((host.take_joined(id).generation, host.take_joined(leader).generation), (2, 2));
    // Before the leader has assigned: the answer may have been lost, or there is news.
    let id = host.join(join_as("c-1"));
    assert_eq!(host.take_joined(id).members.len(), 2);
    assert_eq!(host.state(), "CompletingRebalance");
    let waiting = host.sync(sync_as("c-1", 2, &[]));
    host.answers.clear();
    assert!(host.answer(waiting).is_none());
    host.join(with_protocols(join_as("c-2"), &["range"]));
    assert_eq!(host.state(), "PreparingRebalance");
}

#[test]
fn a_full_group_takes_nobody_else() {
    let config = GroupConfig { group_max_size: 2, ..GroupConfig::default() };
    let mut host = stable_with(config.clone(), 2);
    let id = host.join(join_new("3"));
    let answer = host.take_joined(id);
    assert_eq!((answer.error, answer.member.as_str()), (ErrorCode::GroupMaxSizeReached, ""));
    assert_eq!(host.beat("c-2", 1), ErrorCode::None);
    // While it waits for others, those count that have joined.
    let mut host = Host::new(config);
    let ids: Vec<RequestId> = (1..=3).map(|n| host.join(join_new(&n.to_string()))).collect();
    assert_eq!(host.take_joined(ids[2]).error, ErrorCode::GroupMaxSizeReached);
    // The limit is lowered: after the change of coordinators the last to come back has to go.
    let mut host = stable(3);
    host.config = std::sync::Arc::new(GroupConfig { group_max_size: 2, ..GroupConfig::default() });
    host.fail_over(usize::MAX);
    assert_eq!(host.beat("c-1", 1), ErrorCode::RebalanceInProgress);
    let ids: Vec<RequestId> = (1..=3).map(|n| host.join(join_as(&format!("c-{n}")))).collect();
    assert_eq!(host.take_joined(ids[2]).error, ErrorCode::GroupMaxSizeReached);
    assert_eq!((host.take_joined(ids[0]).generation, host.take_joined(ids[1]).members.len()), (2, 0));
}
