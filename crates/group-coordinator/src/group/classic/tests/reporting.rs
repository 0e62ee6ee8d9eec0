//! Coordinators that change, and what others are told.

use super::*;

#[test]
fn a_group_goes_on_under_another_coordinator() {
    let mut host = stable(2);
    host.pass(SESSION_MS - 1);
    host.fail_over(usize::MAX);
    host.pass(SESSION_MS - 1);
    assert_eq!((host.beat("c-1", 1), host.beat("c-2", 1)), (ErrorCode::None, ErrorCode::None), "a fresh session each");
    let id = host.sync(sync_as("c-2", 1, &[]));
    assert_eq!(synced(host.answer(id)).assignment, "share");
    host.pass(SESSION_MS);
    assert_eq!(host.state(), "Empty");
}

#[test]
fn whoever_waits_is_told_that_the_coordinator_moved() {
    let mut host = stable(2);
    let waiting = host.join(join_as("c-1"));
    host.fail_over(usize::MAX);
    assert_eq!(host.answer(waiting), Some(GroupAnswer::Failed(ErrorCode::NotCoordinator)));
    // An assignment that was not replicated is gone with it.
    let mut host = stable(1);
    let again = host.join(join_as("c-1"));
    assert_eq!(host.take_joined(again).generation, 2);
    host.stalled = true;
    let id = host.sync(sync_as("c-1", 2, &[("c-1", "new")]));
    let replicated = host.high_watermark;
    host.fail_over(replicated);
    assert_eq!(host.answer(id), Some(GroupAnswer::Failed(ErrorCode::NotCoordinator)));
    assert_eq!((host.beat("c-1", 2), host.beat("c-1", 1)), (ErrorCode::IllegalGeneration, ErrorCode::None));
}

#[test]
fn groups_are_described_and_listed() {
    let mut host = stable(1);
    let GroupAnswer::DescribeGroup(described) = host.call(Request::DescribeGroup(group())) else { panic!() };
    assert_eq!((described.error, described.state, described.protocol.as_str()), (ErrorCode::None, "Stable", "range"));
    let member = &described.members[0];
    assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("c", "/127.0.0.1"));
    assert_eq!((member.metadata.clone(), member.assignment.as_ref()), (subscription(&["t"]), b"share".as_slice()));
    host.commit_error("", -1);
    host.ask(Request::CommitOffsets(CommitOffsets {
        group: GroupId::new("simple"),
        member: MemberId::new(""),
        instance: None,
        generation_or_epoch: -1,
        knows_member_epochs: true,
        retention_ms: None,
        topics: vec![crate::shard::testing::one_offset()],
    }));
    let list = |host: &mut Host, states: &[&str], types: &[&str]| {
        let filters = ListGroups::new(states.iter().copied(), types.iter().copied());
        match host.call(Request::ListGroups(filters)) {
            GroupAnswer::ListGroups(groups) => groups
                .into_iter()
                .map(|group| format!("{} {} {}", group.group, group.state, group.protocol_type))
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(&mut host, &[], &[]), ["g Stable consumer", "simple Empty "]);
    assert_eq!(list(&mut host, &["stable", "Dead"], &["Classic"]), ["g Stable consumer"]);
    assert_eq!(list(&mut host, &[" empty "], &[]), ["simple Empty "]);
    assert!(list(&mut host, &["Dead"], &[]).is_empty(), "a filter of unknown names takes nothing");
    assert!(list(&mut host, &["preparingrebalance"], &[]).is_empty() && list(&mut host, &[], &["consumer"]).is_empty());
    host.join(join_as("c-1"));
    let GroupAnswer::DescribeGroup(described) = host.call(Request::DescribeGroup(group())) else { panic!() };
    assert_eq!((described.state, described.protocol.as_str()), ("CompletingRebalance", ""));
    assert!(described.members[0].metadata.is_empty());
    let GroupAnswer::DescribeGroup(described) = host.call(Request::DescribeGroup(GroupId::new("none"))) else {
        panic!()
    };
    assert_eq!((described.error, described.state), (ErrorCode::GroupIdNotFound, "Dead"));
    assert_eq!(described.message.as_deref(), Some("Group none not found."));
}

#[test]
fn only_empty_groups_are_deleted_and_their_offsets_with_them() {
    let mut host = stable(1);
    host.commit_error("c-1", 1);
    let delete = |host: &mut Host| match host.call(Request::DeleteGroup(group())) {
        GroupAnswer::DeleteGroup(error) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(delete(&mut host), ErrorCode::NonEmptyGroup);
    host.leave(vec![leaving("c-1", None)]);
    assert_eq!(delete(&mut host), ErrorCode::None);
    assert_eq!(delete(&mut host), ErrorCode::GroupIdNotFound);
    host.fail_over(usize::MAX);
    let listed = host.call(Request::ListGroups(ListGroups::default()));
    assert!(matches!(listed, GroupAnswer::ListGroups(groups) if groups.is_empty()));
    assert_eq!(host.state(), "Dead");
}

#[test]
fn offsets_of_topics_that_are_read_are_not_deleted() {
    let mut host = stable(1);
    host.commit_error("c-1", 1);
    let request = |topic: &str| {
        Request::DeleteOffsets(DeleteOffsets { group: group(), topics: vec![(topic.to_owned(), vec![PartitionId(0)])] })
    };
    let GroupAnswer::DeleteOffsets(deleted) = host.call(request("t")) else { panic!() };
    assert_eq!((deleted.error, deleted.topics[0].1[0].1), (ErrorCode::None, ErrorCode::GroupSubscribedToTopic));
    let mut host = self::host();
    let GroupAnswer::DeleteOffsets(deleted) = host.call(request("t")) else { panic!() };
    assert_eq!(deleted.error, ErrorCode::GroupIdNotFound);
    // Connect's groups do not say what they read.
    let id = host.join(JoinGroup { protocol_type: "connect".to_owned(), ..join_new("1") });
    host.pass(DELAY_MS);
    assert_eq!(host.take_joined(id).protocol_type.as_deref(), Some("connect"));
    let GroupAnswer::DeleteOffsets(deleted) = host.call(request("t")) else { panic!() };
    assert_eq!(deleted.error, ErrorCode::NonEmptyGroup);
}

#[test]
fn an_empty_group_goes_when_its_offsets_have_expired() {
    let mut host = stable(1);
    host.commit_error("c-1", 1);
    let retention = u64::try_from(GroupConfig::default().offsets_retention_ms).unwrap();
    for _ in 0..retention / 9_000 / 100 {
        host.pass(9_000);
        assert_eq!(host.beat("c-1", 1), ErrorCode::None);
    }
    host.leave(vec![leaving("c-1", None)]);
    host.pass(retention - 600_001);
    assert_eq!(host.state(), "Empty");
    host.pass(1_300_000);
    assert_eq!(host.state(), "Dead");
    assert_eq!(host.stored().last(), Some(&None));
}

/// A MiB of names was copied for each partition, and compared with each of its groups.
#[test]
fn of_filters_only_the_names_that_groups_have_are_kept() {
    let unknown: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let of_all = ["EMPTY", "preparingrebalance", "CompletingRebalance", "assigning", "Reconciling", "Stable"];
    let many = ListGroups::new(of_all.into_iter().chain(unknown.iter().map(String::as_str)), std::iter::empty());
    assert_eq!(many, ListGroups::new(of_all.into_iter(), std::iter::empty()));
    assert_ne!(many, ListGroups::default());
}
