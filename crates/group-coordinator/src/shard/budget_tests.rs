//! Ceilings over all groups, from requests to the budget.

use std::sync::Arc;

use bytes::Bytes;
use ottla_model::{
    ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId,
};

use super::testing::Host;
use super::{Budget, BudgetLimits, Usage};
use crate::answer::GroupAnswer;
use crate::config::GroupConfig;
use crate::group::Group;
use crate::request::{
    ClientInfo, CommitInTransaction, CommitOffsets, CommitPartition, ConsumerGroupHeartbeat, GroupTopic, JoinGroup,
    LeaveGroup, LeavingMember, Request, SyncGroup,
};

fn host(limits: BudgetLimits) -> (Host, Arc<Budget>) {
    let budget = Arc::new(Budget::new(limits));
    let config = GroupConfig { budget: Arc::clone(&budget), ..GroupConfig::default() };
    (Host::new(config), budget)
}

const PLENTY: BudgetLimits = BudgetLimits { groups: 100, members: 100, bytes: 1 << 20 };

fn join(group: &str, metadata_bytes: usize) -> Request {
    Request::JoinGroup(JoinGroup {
        group: GroupId::new(group),
        member: MemberId::new(""),
        instance: None,
        client: ClientInfo { client_id: "c".to_owned(), client_host: "/127.0.0.1".to_owned() },
        fresh_id: "fresh".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), vec![0; metadata_bytes].into())],
        requires_known_member_id: false,
        supports_skip_assignment: true,
        reason: None,
    })
}

fn commit(group: &str, partitions: std::ops::Range<i32>) -> Request {
    let partitions = partitions.map(|partition| CommitPartition {
        partition: PartitionId(partition),
        offset: Offset(1),
        leader_epoch: LeaderEpoch(0),
        metadata: None,
        timestamp: None,
        refused: None,
    });
    Request::CommitOffsets(CommitOffsets {
        group: GroupId::new(group),
        member: MemberId::new(""),
        instance: None,
        generation_or_epoch: -1,
        knows_member_epochs: true,
        retention_ms: None,
        topics: vec![(GroupTopic { name: "t".to_owned(), id: TopicId::ZERO }, partitions.collect())],
    })
}

/// The error of a request that is refused before any group sees it.
fn refusal(host: &mut Host, request: Request) -> Option<ErrorCode> {
    let id = host.ask(request);
    match host.answer(id) {
        Some(GroupAnswer::Failed(error)) => Some(error),
        _ => None,
    }
}

#[test]
fn groups_and_members_have_a_ceiling() {
    let (mut host, budget) = host(BudgetLimits { groups: 2, ..PLENTY });
    assert_eq!(refusal(&mut host, join("a", 10)), None);
    assert_eq!(refusal(&mut host, commit("b", 0..1)), None);
    assert_eq!(refusal(&mut host, join("c", 10)), Some(ErrorCode::GroupMaxSizeReached));
    assert_eq!(refusal(&mut host, commit("c", 0..1)), Some(ErrorCode::InvalidCommitOffsetSize));
    assert_eq!(refusal(&mut host, commit("b", 1..2)), None, "a group that is there goes on");
    assert_eq!((budget.used().groups, budget.used().members), (2, 1));
}

#[test]
fn what_members_say_has_a_ceiling_and_goes_with_them() {
    let (mut host, budget) = host(BudgetLimits { members: 3, bytes: 500_000, ..PLENTY });
    assert_eq!(refusal(&mut host, join("a", 400_000)), None);
    assert_eq!(refusal(&mut host, join("b", 400_000)), Some(ErrorCode::GroupMaxSizeReached));
    assert_eq!(refusal(&mut host, join("b", 10)), None);
    host.pass(11_000);
    assert!(budget.used().bytes > 400_000);
    let members = vec![LeavingMember { member: MemberId::new("c-fresh"), instance: None, reason: None }];
    host.ask(Request::LeaveGroup(LeaveGroup { group: GroupId::new("a"), members }));
    assert!(budget.used().bytes < 10_000, "{:?}", budget.used());
    assert_eq!(refusal(&mut host, join("c", 400_000)), None);
    assert_eq!(budget.used().members, 2);
}

#[test]
fn offsets_have_a_ceiling_and_a_shard_that_goes_gives_everything_back() {
    // A quarter is kept for groups with members.
    let (mut host, budget) = host(BudgetLimits { bytes: 128 * 100 / 3 * 4 + 4, ..PLENTY });
    assert_eq!(refusal(&mut host, commit("a", 0..100)), None);
    assert_eq!(budget.used().bytes, 128 * 100);
    assert_eq!(refusal(&mut host, commit("a", 100..101)), Some(ErrorCode::InvalidCommitOffsetSize));
    assert_eq!(refusal(&mut host, commit("a", 0..100)), None, "what is there may change");
    // The next coordinator counts what it finds.
    host.fail_over(usize::MAX);
    assert_eq!(budget.used().bytes, 128 * 100);
    drop(host);
    assert_eq!(budget.used(), Usage::default());
}

/// G10: what a member that is there says and assigns later was not looked at.
#[test]
fn g10_members_that_are_there_cannot_grow_past_the_ceiling() {
    let (mut host, budget) = host(BudgetLimits { bytes: 300_000, ..PLENTY });
    assert_eq!(refusal(&mut host, join("a", 10)), None);
    host.pass(4_000);
    let sync = |bytes: usize| {
        Request::SyncGroup(SyncGroup {
            group: GroupId::new("a"),
            generation: 1,
            member: MemberId::new("c-fresh"),
            instance: None,
            protocol_type: None,
            protocol_name: None,
            assignments: vec![(MemberId::new("c-fresh"), vec![0; bytes].into())],
        })
    };
    assert_eq!(refusal(&mut host, sync(400_000)), Some(ErrorCode::GroupMaxSizeReached));
    assert_eq!(refusal(&mut host, sync(100_000)), None);
    let Request::JoinGroup(again) = join("a", 400_000) else { unreachable!("a join") };
    let again = JoinGroup { member: MemberId::new("c-fresh"), ..again };
    assert_eq!(refusal(&mut host, Request::JoinGroup(again.clone())), Some(ErrorCode::GroupMaxSizeReached));
    let protocols = vec![("range".to_owned(), vec![0; 100_000].into())];
    assert_eq!(refusal(&mut host, Request::JoinGroup(JoinGroup { protocols, ..again })), None);

    let beat = |member: &str, epoch: i32, names: usize| {
        Request::ConsumerGroupHeartbeat(ConsumerGroupHeartbeat {
            group: GroupId::new("b"),
            member: MemberId::new(member),
            fresh_id: "fresh".to_owned(),
            member_epoch: epoch,
            instance: None,
            rack: None,
            rebalance_timeout_ms: if epoch == 0 { 10_000 } else { -1 },
            client: ClientInfo { client_id: "c".to_owned(), client_host: "/127.0.0.1".to_owned() },
            subscribed_topics: Some((0..names).map(|at| format!("{at:0>200}")).collect()),
            subscribed_regex: None,
            visible_topics: crate::topics::VisibleTopics::default(),
            server_assignor: None,
            owned: (epoch == 0).then(Vec::new),
        })
    };
    assert_eq!(refusal(&mut host, beat("m", 0, 1)), None);
    assert_eq!(refusal(&mut host, beat("m", 1, 1_000)), Some(ErrorCode::GroupMaxSizeReached));
    assert_eq!(refusal(&mut host, beat("m", 1, 100)), None);
    assert!(budget.used().bytes < 300_000, "{:?}", budget.used());
}

/// G10: groups without members, which nobody ends, filled the ceiling for all; commits of nothing made such groups.
#[test]
fn g10_commits_from_outside_leave_room_for_groups_with_members() {
    let (mut host, budget) = host(BudgetLimits { groups: 8, ..PLENTY });
    for group in 0..100 {
        assert_eq!(refusal(&mut host, commit(&format!("nothing-{group}"), 0..0)), None);
    }
    assert_eq!(budget.used().groups, 0);
    let taken = (0..100).filter(|group| refusal(&mut host, commit(&format!("g-{group}"), 0..1)).is_none()).count();
    assert_eq!(taken, 6);
    assert_eq!(refusal(&mut host, join("consumers", 10)), None);
    assert_eq!(refusal(&mut host, commit("late", 0..1)), Some(ErrorCode::InvalidCommitOffsetSize));
}

/// G10: offsets of transactions that never end were not counted.
#[test]
fn g10_offsets_of_open_transactions_have_a_ceiling() {
    let (mut host, budget) = host(BudgetLimits { bytes: 100_000, ..PLENTY });
    let in_transaction = |producer: i64| {
        let Request::CommitOffsets(mut commit) = commit("g", 0..6) else { unreachable!("a commit") };
        for partition in &mut commit.topics[0].1 {
            partition.metadata = Some("m".repeat(4_000));
        }
        let producer_id = ProducerId(producer);
        Request::CommitInTransaction(CommitInTransaction { producer_id, producer_epoch: ProducerEpoch(0), commit })
    };
    let taken = (0..100).filter(|producer| refusal(&mut host, in_transaction(*producer)).is_none()).count();
    assert!((1..=3).contains(&taken), "{taken}");
    assert!(budget.used().bytes <= 75_000 && budget.used().bytes > 24_000, "{:?}", budget.used());
}

/// G10: ids that are given out before a member joins with them are kept for a session, up to half an hour, and were not
/// counted.
#[test]
fn g10_ids_that_were_given_out_count_as_members() {
    let (mut host, budget) = host(BudgetLimits { members: 3, ..PLENTY });
    let joins = |member: &str, fresh: usize| {
        let Request::JoinGroup(join) = join("a", 10) else { unreachable!("a join") };
        let (member, fresh_id) = (MemberId::new(member), fresh.to_string());
        Request::JoinGroup(JoinGroup { member, fresh_id, requires_known_member_id: true, ..join })
    };
    let taken = (0..10).filter(|fresh| refusal(&mut host, joins("", *fresh)).is_none()).count();
    assert_eq!((taken, budget.used().members), (3, 3));
    assert_eq!(refusal(&mut host, joins("c-0", 0)), None, "it was counted before");
    host.pass(11_000);
    assert_eq!(budget.used().members, 1);
}

/// G10: an empty group went with the ids that it had given out, and these were counted for ever: no member found room.
#[test]
fn g10_ids_that_go_with_an_empty_group_are_counted_no_more() {
    let budget = Arc::new(Budget::new(PLENTY));
    let config = GroupConfig { budget: Arc::clone(&budget), ..GroupConfig::default() };
    let mut host = Host::new(GroupConfig { offsets_retention_check_interval_ms: 5_000, ..config });
    let Request::JoinGroup(join) = join("a", 10) else { unreachable!("a join") };
    host.ask(Request::JoinGroup(JoinGroup { requires_known_member_id: true, ..join }));
    assert_eq!(budget.used().members, 1);
    host.pass(6_000);
    assert_eq!(budget.used(), Usage::default());
}

/// G10: a member kept the whole frame of its JoinGroup, with fields that nobody knows: four MiB, counted as one KiB.
#[test]
fn g10_members_keep_no_frames() {
    let (mut host, _) = host(PLENTY);
    let frame = Bytes::from(vec![0; 1_000]);
    let Request::JoinGroup(join) = join("a", 0) else { unreachable!("a join") };
    let protocols = vec![("range".to_owned(), frame.slice(..10))];
    assert_eq!(refusal(&mut host, Request::JoinGroup(JoinGroup { protocols, ..join })), None);
    host.pass(4_000);
    let sync = SyncGroup {
        group: GroupId::new("a"),
        generation: 1,
        member: MemberId::new("c-fresh"),
        instance: None,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![(MemberId::new("c-fresh"), frame.slice(..10))],
    };
    assert_eq!(refusal(&mut host, Request::SyncGroup(sync)), None);
    host.answers.clear();
    let Some(Group::Classic(found)) = host.shard.group(&GroupId::new("a")) else { panic!("a classic group") };
    assert_eq!(found.members().values().map(|member| member.assignment.len()).sum::<usize>(), 10);
    assert!(frame.is_unique());
}

/// G10: a protocol with a name of a few letters counted as these, and took forty times as much.
#[test]
fn g10_protocols_count_whatever_they_are_called() {
    let (mut host, budget) = host(BudgetLimits { bytes: 100_000, ..PLENTY });
    let joins = |group: usize, protocols: usize| {
        let Request::JoinGroup(join) = join(&format!("g-{group}"), 0) else { unreachable!("a join") };
        let protocols = (0..protocols).map(|number| (number.to_string(), Bytes::new())).collect();
        Request::JoinGroup(JoinGroup { protocols, ..join })
    };
    let Request::JoinGroup(of_long_type) = join("a", 0) else { unreachable!("a join") };
    let of_long_type = Request::JoinGroup(JoinGroup { protocol_type: "t".repeat(257), ..of_long_type });
    // The type stays with the group when they have gone.
    for too_much in [of_long_type, joins(0, 257)] {
        let answer = host.call(too_much);
        let GroupAnswer::JoinGroup(joined) = answer else { panic!("{answer:?}") };
        assert_eq!(joined.error, ErrorCode::InconsistentGroupProtocol);
    }
    let taken = (0..10).filter(|group| refusal(&mut host, joins(*group, 200)).is_none()).count();
    assert_eq!(taken, 3);
    assert!(budget.used().bytes > 3 * 200 * 128, "{:?}", budget.used());
}

/// G10: instance ids, racks, and the ids of members and groups were not counted: each may have 32 KiB.
#[test]
fn g10_what_members_and_groups_are_called_has_a_ceiling() {
    let (mut host, budget) = host(BudgetLimits { bytes: 200_000, ..PLENTY });
    let joins = |number: usize| {
        let Request::JoinGroup(join) = join(&format!("g-{number}"), 10) else { unreachable!("a join") };
        Request::JoinGroup(JoinGroup { instance: Some(InstanceId::new("i".repeat(30_000))), ..join })
    };
    let taken = (0..50).filter(|number| refusal(&mut host, joins(*number)).is_none()).count();
    assert!((1..=3).contains(&taken), "{taken}: {:?}", budget.used());
    let named = |bytes: usize| join(&"g".repeat(bytes), 0);
    assert_eq!(refusal(&mut host, named(2_049)), Some(ErrorCode::InvalidGroupId));
}
