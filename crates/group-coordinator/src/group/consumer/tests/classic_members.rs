//! Members of the classic protocol in a consumer group.

use bytes::Bytes;
use ottla_model::ErrorCode;

use super::*;
use crate::answer::{Joined, Left, Synced};
use crate::group::embedded::{self, NamedPartitions, Subscription};
use crate::request::{Heartbeat, JoinGroup, LeaveGroup, LeavingMember, SyncGroup};

pub(super) fn subscription(owned: NamedPartitions) -> Bytes {
    embedded::write_subscription(&Subscription { version: 1, topics: vec!["t".into()], owned, rack: None })
}

pub(super) fn classic_join(member: &str, owned: &[i32]) -> JoinGroup {
    let owned = vec![("t".to_owned(), owned.iter().map(|partition| PartitionId(*partition)).collect())];
    JoinGroup {
        group: group(),
        member: MemberId::new(member),
        instance: None,
        client: ClientInfo { client_id: "old".into(), client_host: "/127.0.0.1".into() },
        fresh_id: "fresh".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        protocol_type: "consumer".into(),
        protocols: vec![("cooperative-sticky".into(), subscription(owned))],
        requires_known_member_id: true,
        supports_skip_assignment: true,
        reason: None,
    }
}

impl World {
    pub(super) fn classic_join(&mut self, request: JoinGroup) -> Joined {
        match self.host.call(Request::JoinGroup(request)) {
            GroupAnswer::JoinGroup(joined) => joined,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn sync(&mut self, member: &str, generation: i32) -> Result<Vec<i32>, ErrorCode> {
        let request = sync(member, generation);
        match self.host.call(Request::SyncGroup(request)) {
            GroupAnswer::SyncGroup(synced) => assigned(&synced),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn classic_beat(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = Heartbeat { group: group(), generation, member: MemberId::new(member), instance: None };
        match self.host.call(Request::Heartbeat(request)) {
            GroupAnswer::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn classic_leave(&mut self, member: &str, instance: Option<&str>) -> ErrorCode {
        let leaving =
            LeavingMember { member: MemberId::new(member), instance: instance.map(InstanceId::new), reason: None };
        match self.host.call(Request::LeaveGroup(LeaveGroup { group: group(), members: vec![leaving] })) {
            GroupAnswer::LeaveGroup(Left { error: ErrorCode::None, members }) => members[0].2,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn sync(member: &str, generation: i32) -> SyncGroup {
    SyncGroup {
        group: group(),
        generation,
        member: MemberId::new(member),
        instance: None,
        protocol_type: Some("consumer".into()),
        protocol_name: Some("cooperative-sticky".into()),
        assignments: vec![],
    }
}

/// The partitions of topic `t` in an assignment.
pub(super) fn assigned(synced: &Synced) -> Result<Vec<i32>, ErrorCode> {
    if synced.error != ErrorCode::None {
        return Err(synced.error);
    }
    let read = embedded::Assignment::read(&synced.assignment).unwrap().partitions;
    Ok(read.into_iter().flat_map(|(_, of)| of).map(|partition| partition.0).collect())
}

/// Found by the simulation (group seeds 146 and 150): let in, it would read until it has its next assignment what
/// others were given when it was fenced.
#[test]
fn a_fenced_cooperative_member_that_still_reads_is_told_so() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    let fenced = world.classic_join(classic_join("b", &[1]));
    assert_eq!((fenced.error, fenced.member.as_str()), (ErrorCode::UnknownMemberId, "b"));
    assert_eq!(world.classic_join(classic_join("b", &[])).error, ErrorCode::None);
    assert_eq!(world.classic_join(classic_join("b", &[1])).error, ErrorCode::None, "one that is known may read");
}

#[test]
fn a_classic_member_joins_gives_up_and_takes() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    let told = world.classic_join(classic_join("", &[]));
    assert_eq!((told.error, told.member.as_str()), (ErrorCode::MemberIdRequired, "fresh"));
    let joined = world.classic_join(classic_join("b", &[]));
    assert_eq!((joined.error, joined.generation), (ErrorCode::None, 2));
    assert_eq!(joined.protocol_name.as_deref(), Some("cooperative-sticky"));
    assert_eq!((joined.leader.as_str(), joined.members.len()), ("", 0), "the coordinator assigns");
    assert_eq!(world.sync("b", 2), Ok(vec![]));
    assert_eq!(world.classic_beat("b", 2), ErrorCode::None, "what it waits for is not free yet");
    world.beat(beat("a", 1));
    assert_eq!(world.classic_beat("b", 2), ErrorCode::None);
    world.beat(owns("a", 1, &[(t, &[0])]));
    assert_eq!(world.classic_beat("b", 2), ErrorCode::RebalanceInProgress, "now it is");
    assert_eq!(world.classic_join(classic_join("b", &[])).generation, 2);
    assert_eq!(world.sync("b", 2), Ok(vec![1]));
    assert_eq!(world.classic_beat("b", 2), ErrorCode::None);
    let described = world.describe();
    assert_eq!(described.state, "Stable");
    assert_eq!(described.members.iter().map(|member| member.is_classic).collect::<Vec<_>>(), [false, true]);

    // The other way: a third member; the classic one is asked to join, told to give up, and joins without it.
    world.change(|cluster| cluster.set("t", 3));
    world.beat(owns("a", 2, &[(t, &[0])]));
    assert_eq!(world.classic_beat("b", 2), ErrorCode::RebalanceInProgress);
    assert_eq!(world.classic_join(classic_join("b", &[1])).generation, 3);
    assert_eq!(world.sync("b", 3), Ok(vec![1]));
    world.change(|cluster| cluster.set("t", 4));
    world.beat(beat("a", 3));
    assert_eq!(world.classic_beat("b", 3), ErrorCode::RebalanceInProgress);
    assert_eq!(world.sync("b", 3), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(world.classic_join(classic_join("b", &[1])).generation, 4);
    assert_eq!(world.sync("b", 4).unwrap().len(), 2);
    world.beat(join("c", &["t"]));
    assert_eq!(world.classic_beat("b", 4), ErrorCode::RebalanceInProgress);
    let joined = world.classic_join(classic_join("b", &[1, 3]));
    assert_eq!(joined.generation, 4, "it stays in its generation until it has given up");
    let left = world.sync("b", 4).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(world.classic_beat("b", 4), ErrorCode::RebalanceInProgress, "it confirms by joining again");
    assert_eq!(world.classic_join(classic_join("b", &left)).generation, 5);
    assert_eq!(world.sync("b", 5), Ok(left));
    world.check_replay();
}

#[test]
fn classic_members_are_checked() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    let error = |joined: Joined| joined.error;
    let other = JoinGroup { protocol_type: "connect".into(), ..classic_join("b", &[]) };
    assert_eq!(error(world.classic_join(other)), ErrorCode::InconsistentGroupProtocol);
    let garbage = JoinGroup { protocols: vec![("range".into(), Bytes::from_static(b"\0"))], ..classic_join("b", &[]) };
    assert_eq!(error(world.classic_join(garbage)), ErrorCode::UnknownServerError);
    assert_eq!(error(world.classic_join(classic_join("b", &[]))), ErrorCode::None);
    let range = JoinGroup { protocols: vec![("range".into(), subscription(vec![]))], ..classic_join("c", &[]) };
    assert_eq!(error(world.classic_join(range)), ErrorCode::InconsistentGroupProtocol, "b does not know range");
    assert_eq!(world.sync("a", 1), Err(ErrorCode::UnknownMemberId), "not of the classic protocol");
    assert_eq!(world.sync("b", 1), Err(ErrorCode::IllegalGeneration));
    assert_eq!(world.sync("nobody", 2), Err(ErrorCode::UnknownMemberId));
    let request = SyncGroup { protocol_name: Some("range".into()), ..sync("b", 2) };
    let answer = world.host.call(Request::SyncGroup(request));
    assert_eq!(answer, GroupAnswer::SyncGroup(Synced::refused(ErrorCode::InconsistentGroupProtocol)));
    assert_eq!(world.classic_beat("b", 1), ErrorCode::IllegalGeneration);
    assert_eq!(world.classic_beat("a", 1), ErrorCode::UnknownMemberId);
    assert_eq!(world.classic_leave("nobody", None), ErrorCode::UnknownMemberId);
    assert_eq!(world.classic_leave("b", None), ErrorCode::None);
    assert_eq!(world.describe().members.len(), 1);
    world.check_replay();
}

#[test]
fn administrators_remove_members_of_either_protocol() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join_static("a", "i", &["t"]));
    world.beat(join("b", &["t"]));
    assert_eq!(world.classic_leave("", Some("nobody")), ErrorCode::UnknownMemberId);
    assert_eq!(world.classic_leave("b", Some("i")), ErrorCode::FencedInstanceId);
    assert_eq!(world.classic_leave("", Some("i")), ErrorCode::None);
    assert_eq!(world.describe().members.len(), 1);
    assert_eq!(world.classic_leave("b", None), ErrorCode::None);
    assert_eq!(world.state(), "Empty");
}

#[test]
fn classic_members_keep_their_own_times() {
    // Told to join again, and silent about it but for heartbeats.
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.classic_join(classic_join("b", &[]));
    assert_eq!(world.sync("b", 2), Ok(vec![]));
    world.change(|cluster| cluster.set("t", 3));
    world.beat(beat("a", 1));
    for _ in 0..3 {
        assert_eq!(world.classic_beat("b", 2), ErrorCode::RebalanceInProgress);
        world.host.pass(6_000);
        assert_eq!(world.beat(beat("a", 1)).error, ErrorCode::None);
    }
    assert_eq!(world.classic_beat("b", 2), ErrorCode::RebalanceInProgress);
    world.host.pass(2_000);
    assert_eq!(world.classic_beat("b", 2), ErrorCode::UnknownMemberId, "20 s after it was first told");

    // Joined, and does not ask for its assignment.
    world.classic_join(classic_join("c", &[]));
    let generation = world.describe().group_epoch;
    for _ in 0..3 {
        world.host.pass(5_000);
        assert_eq!(world.beat(beat("a", 1)).error, ErrorCode::None);
        assert_eq!(world.classic_beat("c", generation), ErrorCode::None);
    }
    world.host.pass(5_000);
    assert_eq!(world.classic_beat("c", generation), ErrorCode::UnknownMemberId);

    // Silent.
    world.classic_join(classic_join("d", &[]));
    let generation = world.describe().group_epoch;
    assert!(world.sync("d", generation).is_ok());
    world.host.pass(9_999);
    assert_eq!(world.classic_beat("d", generation), ErrorCode::None);
    world.host.pass(10_000);
    assert_eq!(world.classic_beat("d", generation), ErrorCode::UnknownMemberId);
}
