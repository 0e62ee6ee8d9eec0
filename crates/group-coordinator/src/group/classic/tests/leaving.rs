//! Members that leave, and static members that come back.

use super::*;

#[test]
fn members_leave_one_by_one_or_together() {
    let mut host = stable(3);
    let left = host.leave(vec![leaving("c-3", None), leaving("stranger", None), leaving("", Some("nobody"))]);
    let errors: Vec<ErrorCode> = left.members.iter().map(|(_, _, error)| *error).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::UnknownMemberId, ErrorCode::UnknownMemberId]);
    assert_eq!(host.state(), "PreparingRebalance");
    host.leave(vec![leaving("c-1", None), leaving("c-2", None)]);
    assert_eq!(host.state(), "Empty");
    assert_eq!(host.stored().last().unwrap(), &Some((2, 0, None)));
    let left = match host
        .call(Request::LeaveGroup(LeaveGroup { group: GroupId::new("o"), members: vec![leaving("m", None)] }))
    {
        GroupAnswer::LeaveGroup(left) => left,
        other => panic!("{other:?}"),
    };
    assert_eq!((left.error, left.members[0].2), (ErrorCode::None, ErrorCode::UnknownMemberId));
    // A member that leaves while it waits is answered.
    let mut host = stable(2);
    let waiting = host.join(join_as("c-1"));
    host.leave(vec![leaving("c-1", None)]);
    assert_eq!(host.take_joined(waiting).error, ErrorCode::UnknownMemberId);
    // An id that was given out may be given back.
    let pending = host.join(JoinGroup { requires_known_member_id: true, ..join_new("9") });
    assert_eq!(host.take_joined(pending).member.as_str(), "c-9");
    assert_eq!(host.leave(vec![leaving("c-9", None)]).members[0].2, ErrorCode::None);
}

#[test]
fn a_static_member_comes_back_without_a_round() {
    let mut host = host();
    let ids = [host.join(join_static("i", "1")), host.join(join_static("j", "2"))];
    settle(&mut host, &ids);
    // The leader, as an older client: it is told its former id as the leader's, so that it does not assign.
    let id = host.join(join_static("i", "3"));
    let answer = host.take_joined(id);
    assert_eq!((answer.member.as_str(), answer.leader.as_str(), answer.generation), ("i-3", "i-1", 1));
    assert_eq!((host.state(), answer.skip_assignment), ("Stable", false));
    let id = host.sync(sync_as("i-3", 1, &[]));
    assert_eq!(synced(host.answer(id)).assignment, "share");
    // As a newer client it is told to skip the assignment, and who the members are.
    let id = host.join(JoinGroup { supports_skip_assignment: true, ..join_static("i", "4") });
    let answer = host.take_joined(id);
    assert_eq!((answer.leader.as_str(), answer.skip_assignment, answer.members.len()), ("i-4", true, 2));
    let id = host.join(JoinGroup { supports_skip_assignment: true, ..join_static("j", "5") });
    let answer = host.take_joined(id);
    assert_eq!((answer.leader.as_str(), answer.skip_assignment, answer.members.len()), ("i-4", false, 0));
    // Its former lives are fenced.
    let former = |member: &str| Heartbeat { instance: Some(InstanceId::new("i")), ..heartbeat_as(member, 1) };
    assert_eq!(host.call(Request::Heartbeat(former("i-3"))), GroupAnswer::Heartbeat(ErrorCode::FencedInstanceId));
    assert_eq!(host.call(Request::Heartbeat(former("i-4"))), GroupAnswer::Heartbeat(ErrorCode::None));
    let join = JoinGroup { instance: Some(InstanceId::new("i")), ..join_as("i-1") };
    assert_eq!(host.join_error(join), ErrorCode::FencedInstanceId);
    // The new id has reached the log.
    host.fail_over(usize::MAX);
    assert_eq!(host.call(Request::Heartbeat(former("i-4"))), GroupAnswer::Heartbeat(ErrorCode::None));
}

#[test]
fn a_static_member_with_news_begins_a_round() {
    let mut host = host();
    let ids = ["i", "j"].map(|name| host.join(with_protocols(join_static(name, name), &["range", "sticky"])));
    settle(&mut host, &ids);
    host.join(with_protocols(join_static("j", "2"), &["sticky"]));
    assert_eq!(host.state(), "PreparingRebalance");
    // Between join and sync: the leader may have been told of the former id.
    let mut host = self::host();
    let ids = [host.join(join_static("i", "1")), host.join(join_static("j", "2"))];
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(ids[0]).members.len(), 2);
    let waiting = host.sync(sync_as("j-2", 1, &[]));
    host.join(join_static("j", "3"));
    assert_eq!(synced(host.answer(waiting)).error, ErrorCode::FencedInstanceId);
    assert_eq!(host.state(), "PreparingRebalance");
}

#[test]
fn a_waiting_life_of_a_static_member_is_fenced() {
    let mut host = host();
    let former = host.join(join_static("i", "1"));
    let latter = host.join(join_static("i", "2"));
    assert_eq!(host.take_joined(former).error, ErrorCode::FencedInstanceId);
    host.pass(2 * DELAY_MS);
    assert_eq!(host.take_joined(latter).leader.as_str(), "i-2");
}

#[test]
fn silent_static_members_keep_their_place_until_their_session_ends() {
    let mut host = host();
    let long = |name: &str, id: &str| JoinGroup { session_timeout_ms: 300_000, ..join_static(name, id) };
    let ids = [host.join(long("i", "1")), host.join(long("j", "2"))];
    settle(&mut host, &ids);
    let third = host.join(join_new("3"));
    host.pass(REBALANCE_MS);
    let answer = host.take_joined(third);
    assert_eq!((answer.leader.as_str(), answer.members.len()), ("c-3", 3), "they do not lead, and are assigned to");
    // A round of nobody but them waits.
    let ids = [answer];
    sync_all(&mut host, &ids);
    host.leave(vec![leaving("c-3", None)]);
    host.pass(REBALANCE_MS + 1);
    assert_eq!(host.state(), "PreparingRebalance");
    host.pass(300_000);
    assert_eq!(host.state(), "Empty");
}

#[test]
fn an_administrator_removes_static_members() {
    let mut host = host();
    let ids = [host.join(join_static("i", "1")), host.join(join_static("j", "2"))];
    settle(&mut host, &ids);
    let left = host.leave(vec![leaving("", Some("i")), leaving("wrong", Some("j")), leaving("i-1", None)]);
    let errors: Vec<ErrorCode> = left.members.iter().map(|(_, _, error)| *error).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::FencedInstanceId, ErrorCode::UnknownMemberId]);
    assert_eq!(host.state(), "PreparingRebalance");
}
