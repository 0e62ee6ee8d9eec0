//! The rules of the classic protocol, through a shard with a log in memory.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, TopicId};

use super::{ClassicGroup, State};
use crate::answer::{Answer, Joined, Left, Synced};
use crate::config::GroupConfig;
use crate::effects::RequestId;
use crate::record::Record;
use crate::request::{
    ClientInfo, CommitOffsets, CommitPartition, DeleteOffsets, GroupTopic, Heartbeat, JoinGroup, LeaveGroup,
    LeavingMember, ListGroups, Request, SyncGroup,
};
use crate::shard::testing::Host;
use crate::timer::{Timer, Timers};

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 60_000;
const DELAY_MS: u64 = 3_000;

fn group() -> GroupId {
    GroupId::new("g")
}

fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i32(i32::try_from(topics.len()).unwrap());
    for topic in topics {
        out.put_i16(i16::try_from(topic.len()).unwrap());
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.freeze()
}

fn join_as(member: &str) -> JoinGroup {
    JoinGroup {
        group: group(),
        member: MemberId::new(member),
        instance: None,
        client: ClientInfo { client_id: "c".to_owned(), client_host: "/127.0.0.1".to_owned() },
        fresh_id: "1".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription(&["t"]))],
        requires_known_member_id: false,
        supports_skip_assignment: false,
        reason: None,
    }
}

fn join_new(fresh_id: &str) -> JoinGroup {
    JoinGroup { fresh_id: fresh_id.to_owned(), ..join_as("") }
}

fn join_static(instance: &str, fresh_id: &str) -> JoinGroup {
    JoinGroup { instance: Some(InstanceId::new(instance)), ..join_new(fresh_id) }
}

fn with_protocols(request: JoinGroup, names: &[&str]) -> JoinGroup {
    let protocols = names.iter().map(|name| ((*name).to_owned(), subscription(&["t"]))).collect();
    JoinGroup { protocols, ..request }
}

fn sync_as(member: &str, generation: i32, assignments: &[(&str, &'static str)]) -> SyncGroup {
    SyncGroup {
        group: group(),
        generation,
        member: MemberId::new(member),
        instance: None,
        protocol_type: Some("consumer".to_owned()),
        protocol_name: Some("range".to_owned()),
        assignments: assignments
            .iter()
            .map(|(id, share)| (MemberId::new(*id), Bytes::from_static(share.as_bytes())))
            .collect(),
    }
}

fn leaving(member: &str, instance: Option<&str>) -> LeavingMember {
    LeavingMember { member: MemberId::new(member), instance: instance.map(InstanceId::new), reason: None }
}

fn heartbeat_as(member: &str, generation: i32) -> Heartbeat {
    Heartbeat { group: group(), generation, member: MemberId::new(member), instance: None }
}

fn joined(answer: Option<Answer>) -> Joined {
    match answer {
        Some(Answer::JoinGroup(joined)) => joined,
        other => panic!("{other:?}"),
    }
}

fn synced(answer: Option<Answer>) -> Synced {
    match answer {
        Some(Answer::SyncGroup(synced)) => synced,
        other => panic!("{other:?}"),
    }
}

/// What a test does, in a member's words.
impl Host {
    fn join(&mut self, request: JoinGroup) -> RequestId {
        self.ask(Request::JoinGroup(request))
    }

    fn join_error(&mut self, request: JoinGroup) -> ErrorCode {
        let id = self.join(request);
        joined(self.answer(id)).error
    }

    fn take_joined(&mut self, id: RequestId) -> Joined {
        joined(self.answer(id))
    }

    fn sync(&mut self, request: SyncGroup) -> RequestId {
        self.ask(Request::SyncGroup(request))
    }

    fn sync_error(&mut self, request: SyncGroup) -> ErrorCode {
        let id = self.sync(request);
        synced(self.answer(id)).error
    }

    fn beat(&mut self, member: &str, generation: i32) -> ErrorCode {
        match self.call(Request::Heartbeat(heartbeat_as(member, generation))) {
            Answer::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, members: Vec<LeavingMember>) -> Left {
        match self.call(Request::LeaveGroup(LeaveGroup { group: group(), members })) {
            Answer::LeaveGroup(left) => left,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> &'static str {
        match self.call(Request::DescribeGroup(group())) {
            Answer::DescribeGroup(described) => described.state,
            other => panic!("{other:?}"),
        }
    }

    fn commit_error(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = CommitOffsets {
            group: group(),
            member: MemberId::new(member),
            instance: None,
            generation_or_epoch: generation,
            knows_member_epochs: false,
            retention_ms: None,
            topics: vec![(
                GroupTopic { name: "t".to_owned(), id: TopicId::ZERO },
                vec![CommitPartition {
                    partition: PartitionId(0),
                    offset: Offset(1),
                    leader_epoch: LeaderEpoch(-1),
                    metadata: None,
                    timestamp: None,
                    refused: None,
                }],
            )],
        };
        match self.call(Request::CommitOffsets(request)) {
            Answer::CommitOffsets(topics) => topics[0].1[0].1,
            Answer::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The group records of the log: generation, members, protocol; none for a tombstone.
    fn stored(&self) -> Vec<Option<(i32, usize, Option<String>)>> {
        let records = self.log.iter().filter_map(|raw| Record::decode(&raw.key, raw.value.as_deref()).unwrap());
        records
            .filter_map(|record| match record {
                Record::ClassicGroup { value, .. } => {
                    Some(value.map(|value| (value.generation, value.members.len(), value.protocol)))
                }
                _ => None,
            })
            .collect()
    }
}

fn host() -> Host {
    Host::new(GroupConfig::default())
}

/// A stable group of dynamic members `c-1`, `c-2`, …, the first of which leads; the generation is 1.
fn stable(members: usize) -> Host {
    stable_with(GroupConfig::default(), members)
}

fn stable_with(config: GroupConfig, members: usize) -> Host {
    let mut host = Host::new(config);
    let ids: Vec<RequestId> = (1..=members).map(|n| host.join(join_new(&n.to_string()))).collect();
    settle(&mut host, &ids);
    host
}

fn settle(host: &mut Host, ids: &[RequestId]) {
    host.pass(2 * DELAY_MS);
    let members: Vec<Joined> = ids.iter().map(|id| host.take_joined(*id)).collect();
    sync_all(host, &members);
}

fn sync_all(host: &mut Host, members: &[Joined]) {
    for member in members {
        let request = SyncGroup {
            assignments: member
                .members
                .iter()
                .map(|each| (each.member.clone(), Bytes::from_static(b"share")))
                .collect(),
            ..sync_as(member.member.as_str(), member.generation, &[])
        };
        host.sync(request);
    }
    assert_eq!(host.state(), "Stable");
    host.answers.clear();
}

impl ClassicGroup {
    /// The invariants of the module, and that whatever the group waits for has an end.
    pub(crate) fn assert_sound(&self, group: &GroupId, timers: &Timers) {
        let joined = self.members.values().filter(|member| member.awaiting_join.is_some()).count();
        assert_eq!(self.joined, joined, "{self:?}");
        assert!(joined == 0 || self.state == State::PreparingRebalance, "{self:?}");
        let syncing = self.members.values().any(|member| member.awaiting_sync.is_some());
        assert!(!syncing || self.state == State::CompletingRebalance, "{self:?}");
        let mut votes = BTreeMap::new();
        for (name, _) in self.members.values().flat_map(|member| &member.protocols) {
            *votes.entry(name.clone()).or_insert(0) += 1;
        }
        assert_eq!(self.votes, votes);
        let statics = self.members.iter().filter_map(|(id, member)| Some((member.instance.clone()?, id.clone())));
        assert_eq!(self.statics, statics.collect());
        assert!(self.pending_join.iter().all(|id| !self.members.contains_key(id)));
        assert!(self.pending_sync.iter().all(|id| self.members.contains_key(id)), "{self:?}");
        assert_eq!(self.leader.is_some(), !self.members.is_empty(), "{self:?}");
        assert!(self.leader.iter().all(|leader| self.members.contains_key(leader)));
        let runs = |timer: Timer| timers.deadline(group, timer).is_some();
        let judged = self.members.iter().filter(|(_, member)| !member.is_excused()).map(|(id, _)| id);
        assert!(judged.chain(&self.pending_join).all(|id| runs(Timer::Session(id.clone()))), "{self:?}");
        assert_eq!(runs(Timer::Join), self.state == State::PreparingRebalance, "{self:?}");
        match self.state {
            State::Empty => assert!(self.members.is_empty()),
            State::PreparingRebalance => assert!(self.pending_sync.is_empty()),
            State::CompletingRebalance | State::Stable => {
                assert!(!self.members.is_empty() && self.protocol.is_some(), "{self:?}");
                assert_eq!(runs(Timer::PendingSync), !self.pending_sync.is_empty(), "{self:?}");
            }
        }
    }
}

// Joining

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
    assert!(
        matches!(host.call(Request::ListGroups(ListGroups::default())), Answer::ListGroups(groups) if groups.len() == 1)
    );
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

// Rounds

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

// Sync

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
            None => assert_eq!(host.answer(id), Some(Answer::Failed(ErrorCode::InvalidGroupId))),
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
    assert_eq!(host.answer(id), Some(Answer::Failed(ErrorCode::CoordinatorNotAvailable)));
    assert_eq!((host.reloads, host.state()), (1, "Empty"));
    assert_eq!(host.beat("c-1", 1), ErrorCode::UnknownMemberId);
    // Commits that are refused take nothing else along.
    host.refusing = None;
    let mut host = stable(1);
    host.refusing = Some(ErrorCode::MessageTooLarge);
    assert_eq!(host.commit_error("c-1", 1), ErrorCode::InvalidCommitOffsetSize);
    assert_eq!((host.reloads, host.state()), (0, "Stable"));
}

// Heartbeats and commits

#[test]
fn heartbeats_and_commits_that_are_refused() {
    let mut host = stable(2);
    assert_eq!(host.beat("c-1", 0), ErrorCode::IllegalGeneration);
    assert_eq!(host.beat("stranger", 1), ErrorCode::UnknownMemberId);
    let unknown = Heartbeat { group: GroupId::new("other"), ..heartbeat_as("c-1", 1) };
    assert_eq!(host.call(Request::Heartbeat(unknown)), Answer::Heartbeat(ErrorCode::UnknownMemberId));
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

// Leaving

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
        Answer::LeaveGroup(left) => left,
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

// Static members

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
    assert_eq!(host.call(Request::Heartbeat(former("i-3"))), Answer::Heartbeat(ErrorCode::FencedInstanceId));
    assert_eq!(host.call(Request::Heartbeat(former("i-4"))), Answer::Heartbeat(ErrorCode::None));
    let join = JoinGroup { instance: Some(InstanceId::new("i")), ..join_as("i-1") };
    assert_eq!(host.join_error(join), ErrorCode::FencedInstanceId);
    // The new id has reached the log.
    host.fail_over(usize::MAX);
    assert_eq!(host.call(Request::Heartbeat(former("i-4"))), Answer::Heartbeat(ErrorCode::None));
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

// The coordinator moves

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
    assert_eq!(host.answer(waiting), Some(Answer::Failed(ErrorCode::NotCoordinator)));
    // An assignment that was not replicated is gone with it.
    let mut host = stable(1);
    let again = host.join(join_as("c-1"));
    assert_eq!(host.take_joined(again).generation, 2);
    host.stalled = true;
    let id = host.sync(sync_as("c-1", 2, &[("c-1", "new")]));
    let replicated = host.high_watermark;
    host.fail_over(replicated);
    assert_eq!(host.answer(id), Some(Answer::Failed(ErrorCode::NotCoordinator)));
    assert_eq!((host.beat("c-1", 2), host.beat("c-1", 1)), (ErrorCode::IllegalGeneration, ErrorCode::None));
}

// What others are told

#[test]
fn groups_are_described_and_listed() {
    let mut host = stable(1);
    let Answer::DescribeGroup(described) = host.call(Request::DescribeGroup(group())) else { panic!() };
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
        topics: Vec::new(),
    }));
    let list = |host: &mut Host, states: &[&str], types: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match host.call(Request::ListGroups(ListGroups { states: owned(states), types: owned(types) })) {
            Answer::ListGroups(groups) => groups
                .into_iter()
                .map(|group| format!("{} {} {}", group.group, group.state, group.protocol_type))
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(&mut host, &[], &[]), ["g Stable consumer", "simple Empty "]);
    assert_eq!(list(&mut host, &["stable", "Dead"], &["Classic"]), ["g Stable consumer"]);
    assert!(list(&mut host, &["preparingrebalance"], &[]).is_empty() && list(&mut host, &[], &["consumer"]).is_empty());
    host.join(join_as("c-1"));
    let Answer::DescribeGroup(described) = host.call(Request::DescribeGroup(group())) else { panic!() };
    assert_eq!((described.state, described.protocol.as_str()), ("CompletingRebalance", ""));
    assert!(described.members[0].metadata.is_empty());
    let Answer::DescribeGroup(described) = host.call(Request::DescribeGroup(GroupId::new("none"))) else { panic!() };
    assert_eq!((described.error, described.state), (ErrorCode::GroupIdNotFound, "Dead"));
    assert_eq!(described.message.as_deref(), Some("Group none not found."));
}

#[test]
fn only_empty_groups_are_deleted_and_their_offsets_with_them() {
    let mut host = stable(1);
    host.commit_error("c-1", 1);
    let delete = |host: &mut Host| match host.call(Request::DeleteGroup(group())) {
        Answer::DeleteGroup(error) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(delete(&mut host), ErrorCode::NonEmptyGroup);
    host.leave(vec![leaving("c-1", None)]);
    assert_eq!(delete(&mut host), ErrorCode::None);
    assert_eq!(delete(&mut host), ErrorCode::GroupIdNotFound);
    host.fail_over(usize::MAX);
    assert!(
        matches!(host.call(Request::ListGroups(ListGroups::default())), Answer::ListGroups(groups) if groups.is_empty())
    );
    assert_eq!(host.state(), "Dead");
}

#[test]
fn offsets_of_topics_that_are_read_are_not_deleted() {
    let mut host = stable(1);
    host.commit_error("c-1", 1);
    let request = |topic: &str| {
        Request::DeleteOffsets(DeleteOffsets { group: group(), topics: vec![(topic.to_owned(), vec![PartitionId(0)])] })
    };
    let Answer::DeleteOffsets(deleted) = host.call(request("t")) else { panic!() };
    assert_eq!((deleted.error, deleted.topics[0].1[0].1), (ErrorCode::None, ErrorCode::GroupSubscribedToTopic));
    let mut host = self::host();
    let Answer::DeleteOffsets(deleted) = host.call(request("t")) else { panic!() };
    assert_eq!(deleted.error, ErrorCode::GroupIdNotFound);
    // Connect's groups do not say what they read.
    let id = host.join(JoinGroup { protocol_type: "connect".to_owned(), ..join_new("1") });
    host.pass(DELAY_MS);
    assert_eq!(host.take_joined(id).protocol_type.as_deref(), Some("connect"));
    let Answer::DeleteOffsets(deleted) = host.call(request("t")) else { panic!() };
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
