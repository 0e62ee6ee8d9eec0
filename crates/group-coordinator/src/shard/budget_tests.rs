//! Ceilings over all groups, from requests to the budget.

use std::sync::Arc;

use ottla_model::{ErrorCode, GroupId, LeaderEpoch, MemberId, Offset, PartitionId, TopicId};

use super::testing::Host;
use super::{Budget, BudgetLimits, Usage};
use crate::answer::GroupAnswer;
use crate::config::GroupConfig;
use crate::request::{
    ClientInfo, CommitOffsets, CommitPartition, GroupTopic, JoinGroup, LeaveGroup, LeavingMember, Request,
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
    let (mut host, budget) = host(BudgetLimits { bytes: 128 * 100, ..PLENTY });
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
