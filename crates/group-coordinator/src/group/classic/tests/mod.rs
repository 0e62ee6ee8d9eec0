//! The rules of the classic protocol, through a shard with a log in memory: what a member says and is told, in short
//! words.

mod joining;
mod leaving;
mod reporting;
mod rounds;
mod syncing;

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, TopicId};

use super::{ClassicGroup, State};
use crate::answer::{GroupAnswer, Joined, Left, Synced};
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

fn joined(answer: Option<GroupAnswer>) -> Joined {
    match answer {
        Some(GroupAnswer::JoinGroup(joined)) => joined,
        other => panic!("{other:?}"),
    }
}

fn synced(answer: Option<GroupAnswer>) -> Synced {
    match answer {
        Some(GroupAnswer::SyncGroup(synced)) => synced,
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
            GroupAnswer::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, members: Vec<LeavingMember>) -> Left {
        match self.call(Request::LeaveGroup(LeaveGroup { group: group(), members })) {
            GroupAnswer::LeaveGroup(left) => left,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> &'static str {
        match self.call(Request::DescribeGroup(group())) {
            GroupAnswer::DescribeGroup(described) => described.state,
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
            GroupAnswer::CommitOffsets(topics) => topics[0].1[0].1,
            GroupAnswer::Failed(error) => error,
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
