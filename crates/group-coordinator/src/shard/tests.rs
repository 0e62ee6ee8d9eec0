//! Random groups: members of the classic protocol that join, commit, fall silent, leave and come back, over a log that
//! stalls and refuses, under coordinators that change. What must hold is checked at every step, and that the group
//! settles when all that ends.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ottla_model::{ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, TopicId};
use proptest::prelude::*;

use super::testing::Host;
use crate::answer::{GroupAnswer, Joined};
use crate::config::GroupConfig;
use crate::effects::RequestId;
use crate::group::Group;
use crate::request::{
    ClientInfo, CommitOffsets, CommitPartition, FetchOffsets, GroupTopic, Heartbeat, JoinGroup, LeaveGroup,
    LeavingMember, Request, SyncGroup,
};

const CLIENTS: usize = 5;
const PARTITIONS: i32 = 7;

#[derive(Clone, Debug)]
enum Act {
    /// The client does what comes next: joins, syncs, or looks whether it was answered.
    Go(usize),
    /// Everybody does what comes next.
    All,
    /// The client's clock stands still (SIGSTOP), until another's does.
    Stop(usize),
    Beat(usize),
    Commit(usize),
    /// Joins although it need not: new topics, or an impatient user.
    Rejoin(usize),
    Leave(usize),
    /// Stops without a word; what it waits for is answered to nobody.
    Crash(usize),
    Start(usize),
    Pass(u64),
    Stall,
    Replicate,
    Refuse,
    /// The host knows that the log refuses.
    Foresee(bool),
    Accept,
    /// Another coordinator, with so many of the records that are not replicated.
    FailOver(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => client.clone().prop_map(Act::Go),
        16 => Just(Act::All),
        3 => client.clone().prop_map(Act::Stop),
        6 => client.clone().prop_map(Act::Beat),
        3 => client.clone().prop_map(Act::Commit),
        1 => client.clone().prop_map(Act::Rejoin),
        1 => client.clone().prop_map(Act::Leave),
        1 => client.clone().prop_map(Act::Crash),
        3 => client.prop_map(Act::Start),
        14 => (0..4_000_u64).prop_map(Act::Pass),
        1 => Just(Act::Stall),
        4 => Just(Act::Replicate),
        1 => Just(Act::Refuse),
        1 => any::<bool>().prop_map(Act::Foresee),
        6 => Just(Act::Accept),
        1 => (0..4_usize).prop_map(Act::FailOver),
    ]
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Stopped,
    Idle,
    Joining(RequestId),
    Joined(Joined),
    Syncing(RequestId),
    Steady,
}

#[derive(Debug, Default)]
struct Client {
    /// Every other client is a static member.
    instance: Option<InstanceId>,
    member: String,
    generation: i32,
    owned: BTreeSet<i32>,
    phase: Phase,
    commits: Vec<SentCommit>,
}

#[derive(Debug)]
struct SentCommit {
    id: RequestId,
    partition: i32,
    offset: i64,
    /// The sender was of a generation that had been replaced when it was sent.
    is_stale: bool,
}

struct World {
    host: Host,
    clients: Vec<Client>,
    lives: u64,
    stopped: Option<usize>,
    next_offset: i64,
    /// The last acknowledged commit by partition.
    acknowledged: BTreeMap<i32, i64>,
    /// The last one whose assignment was replicated.
    generation: i32,
    /// What each generation's members were given.
    shares: BTreeMap<i32, BTreeMap<i32, String>>,
}

fn group() -> GroupId {
    GroupId::new("g")
}

impl World {
    fn new() -> Self {
        let clients = (0..CLIENTS)
            .map(|n| Client { instance: (n % 2 == 1).then(|| InstanceId::new(format!("i{n}"))), ..Client::default() })
            .collect();
        Self {
            host: Host::new(GroupConfig::default()),
            clients,
            lives: 0,
            stopped: None,
            next_offset: 0,
            acknowledged: BTreeMap::new(),
            generation: 0,
            shares: BTreeMap::new(),
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Go(n) => self.go(n),
            Act::All => {
                for n in 0..CLIENTS {
                    self.go(n);
                    self.beat(n);
                }
            }
            Act::Stop(n) => {
                // Whoever wakes goes on where it was.
                let woken = self.stopped.replace(n).filter(|woken| *woken != n);
                if let Some(woken) = woken {
                    self.commit(woken);
                    self.beat(woken);
                }
            }
            Act::Beat(n) => self.beat(n),
            Act::Commit(n) => self.commit(n),
            Act::Rejoin(n) => {
                if matches!(self.clients[n].phase, Phase::Steady | Phase::Syncing(_)) {
                    self.rejoin(n);
                    self.go(n);
                }
            }
            Act::Leave(n) => self.leave(n),
            Act::Crash(n) => self.end(n),
            Act::Start(n) => {
                if matches!(self.clients[n].phase, Phase::Stopped) {
                    self.clients[n].phase = Phase::Idle;
                }
            }
            Act::Pass(ms) => self.host.pass(ms),
            Act::Stall => self.host.stalled = true,
            Act::Replicate => {
                self.host.stalled = false;
                self.host.replicate();
            }
            Act::Refuse => self.host.refusing = Some(ErrorCode::NotEnoughReplicas),
            Act::Foresee(foresees) => self.host.foresees = foresees,
            Act::Accept => self.host.refusing = None,
            Act::FailOver(more) => {
                let keeps = self.host.high_watermark + more;
                self.host.fail_over(keeps.min(self.host.log.len()));
            }
        }
        self.check();
    }

    fn end(&mut self, n: usize) {
        let client = &mut self.clients[n];
        *client = Client { instance: client.instance.take(), ..Client::default() };
    }

    fn rejoin(&mut self, n: usize) {
        // An eager client gives up what it owns before it joins.
        self.clients[n].owned.clear();
        self.clients[n].phase = Phase::Idle;
    }

    fn error(&mut self, n: usize, error: ErrorCode) {
        match error {
            ErrorCode::UnknownMemberId => {
                self.clients[n].member.clear();
                self.rejoin(n);
            }
            ErrorCode::FencedInstanceId => self.end(n),
            _ => self.rejoin(n),
        }
    }

    fn go(&mut self, n: usize) {
        if self.stopped == Some(n) {
            return;
        }
        match std::mem::take(&mut self.clients[n].phase) {
            Phase::Stopped => {}
            Phase::Steady => self.clients[n].phase = Phase::Steady,
            Phase::Idle => self.join(n),
            Phase::Joining(id) => match self.host.answer(id) {
                None => self.clients[n].phase = Phase::Joining(id),
                Some(GroupAnswer::JoinGroup(joined)) => match joined.error {
                    ErrorCode::None => {
                        self.clients[n].member = joined.member.as_str().to_owned();
                        self.clients[n].generation = joined.generation;
                        self.clients[n].phase = Phase::Joined(joined);
                    }
                    ErrorCode::MemberIdRequired => {
                        self.clients[n].member = joined.member.as_str().to_owned();
                        self.clients[n].phase = Phase::Idle;
                    }
                    error => self.error(n, error),
                },
                Some(GroupAnswer::Failed(error)) => self.error(n, error),
                Some(other) => panic!("{other:?}"),
            },
            Phase::Joined(joined) => self.sync(n, &joined),
            Phase::Syncing(id) => match self.host.answer(id) {
                None => self.clients[n].phase = Phase::Syncing(id),
                Some(GroupAnswer::SyncGroup(synced)) if synced.error.is_ok() => self.synced(n, &synced.assignment),
                Some(GroupAnswer::SyncGroup(synced)) => self.error(n, synced.error),
                Some(GroupAnswer::Failed(error)) => self.error(n, error),
                Some(other) => panic!("{other:?}"),
            },
        }
    }

    fn join(&mut self, n: usize) {
        self.lives += 1;
        let client = &self.clients[n];
        let request = JoinGroup {
            group: group(),
            member: MemberId::new(client.member.as_str()),
            instance: client.instance.clone(),
            client: ClientInfo { client_id: format!("c{n}"), client_host: "/127.0.0.1".to_owned() },
            fresh_id: self.lives.to_string(),
            // Static members may be silent for longer than a round takes.
            session_timeout_ms: if n % 2 == 1 { 45_000 } else { 7_000 },
            rebalance_timeout_ms: 12_000,
            protocol_type: "consumer".to_owned(),
            protocols: vec![
                ("range".to_owned(), Bytes::from_static(b"\0\0\0\0\0\0")),
                ("own".to_owned(), Bytes::new()),
            ],
            requires_known_member_id: n % 3 != 2,
            supports_skip_assignment: n == 3,
            reason: None,
        };
        let id = self.host.ask(Request::JoinGroup(request));
        self.clients[n].phase = Phase::Joining(id);
    }

    fn sync(&mut self, n: usize, joined: &Joined) {
        // The leader deals the partitions out.
        let mut shares: Vec<(MemberId, Vec<u8>)> =
            joined.members.iter().map(|member| (member.member.clone(), Vec::new())).collect();
        let count = if joined.skip_assignment { 0 } else { shares.len() };
        for partition in 0..PARTITIONS {
            if count > 0 {
                shares[usize::try_from(partition).unwrap() % count].1.push(u8::try_from(partition).unwrap());
            }
        }
        let request = SyncGroup {
            group: group(),
            generation: joined.generation,
            member: joined.member.clone(),
            instance: self.clients[n].instance.clone(),
            protocol_type: joined.protocol_type.clone(),
            protocol_name: joined.protocol_name.clone(),
            assignments: shares.into_iter().map(|(id, share)| (id, Bytes::from(share))).collect(),
        };
        let id = self.host.ask(Request::SyncGroup(request));
        self.clients[n].phase = Phase::Syncing(id);
    }

    fn synced(&mut self, n: usize, share: &Bytes) {
        let client = &mut self.clients[n];
        client.owned = share.iter().map(|partition| i32::from(*partition)).collect();
        client.phase = Phase::Steady;
        // A partition has one owner in a generation: a client, in whichever life.
        let owners = self.shares.entry(client.generation).or_default();
        let me = client.instance.as_ref().map_or(client.member.clone(), |instance| instance.as_str().to_owned());
        for partition in &client.owned {
            let owner = owners.entry(*partition).or_insert_with(|| me.clone());
            assert_eq!(*owner, me, "two owners of {partition} in generation {}", client.generation);
        }
    }

    fn beat(&mut self, n: usize) {
        let client = &self.clients[n];
        if !matches!(client.phase, Phase::Steady) || self.stopped == Some(n) {
            return;
        }
        let request = Heartbeat {
            group: group(),
            generation: client.generation,
            member: MemberId::new(client.member.as_str()),
            instance: client.instance.clone(),
        };
        match self.host.call(Request::Heartbeat(request)) {
            GroupAnswer::Heartbeat(ErrorCode::None) => assert!(!self.is_stale(n), "a former generation is not told"),
            GroupAnswer::Heartbeat(error) => self.error(n, error),
            other => panic!("{other:?}"),
        }
    }

    /// Others were given shares in a later generation.
    fn is_stale(&self, n: usize) -> bool {
        self.shares.last_key_value().is_some_and(|(latest, _)| *latest > self.clients[n].generation)
    }

    fn commit(&mut self, n: usize) {
        let is_stale = self.is_stale(n);
        let client = &mut self.clients[n];
        let Some(partition) = client.owned.first().copied() else { return };
        self.next_offset += 1;
        let request = CommitOffsets {
            group: group(),
            member: MemberId::new(client.member.as_str()),
            instance: client.instance.clone(),
            generation_or_epoch: client.generation,
            knows_member_epochs: true,
            retention_ms: None,
            topics: vec![(
                GroupTopic { name: "t".to_owned(), id: TopicId::ZERO },
                vec![CommitPartition {
                    partition: PartitionId(partition),
                    offset: Offset(self.next_offset),
                    leader_epoch: LeaderEpoch(-1),
                    metadata: None,
                    timestamp: None,
                    refused: None,
                }],
            )],
        };
        let id = self.host.ask(Request::CommitOffsets(request));
        client.commits.push(SentCommit { id, partition, offset: self.next_offset, is_stale });
    }

    fn leave(&mut self, n: usize) {
        let client = &self.clients[n];
        if client.member.is_empty() {
            return;
        }
        let member = MemberId::new(client.member.as_str());
        let leaving = LeavingMember { member, instance: client.instance.clone(), reason: None };
        self.host.ask(Request::LeaveGroup(LeaveGroup { group: group(), members: vec![leaving] }));
        self.end(n);
    }

    fn fetched(&mut self, partition: i32) -> i64 {
        let topic = GroupTopic { name: "t".to_owned(), id: TopicId::ZERO };
        let request = FetchOffsets {
            group: group(),
            member: None,
            member_epoch: -1,
            require_stable: false,
            topics: Some(vec![(topic, vec![PartitionId(partition)])]),
        };
        match self.host.call(Request::FetchOffsets(request)) {
            GroupAnswer::FetchOffsets(fetched) => fetched.topics[0].1[0].offset.0,
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self) {
        if let Some(Group::Classic(classic)) = self.host.shard.groups.get(&group()) {
            classic.assert_sound(&group(), &self.host.shard.timers);
        }
        for client in &mut self.clients {
            client.commits.retain(|commit| match self.host.answers.remove(&commit.id) {
                None => true,
                Some(GroupAnswer::CommitOffsets(_)) => {
                    assert!(!commit.is_stale, "{commit:?} of generation {}", client.generation);
                    let latest = self.acknowledged.entry(commit.partition).or_default();
                    *latest = commit.offset.max(*latest);
                    false
                }
                Some(GroupAnswer::Failed(_)) => false,
                Some(other) => panic!("{other:?}"),
            });
        }
        for (partition, offset) in self.acknowledged.clone() {
            assert!(self.fetched(partition) >= offset, "an acknowledged commit of {partition} is gone");
        }
        // What the log says of generations never falls.
        let replicated = self.replicated_generation();
        assert!(replicated >= self.generation, "{replicated} after {}", self.generation);
        self.generation = replicated;
    }

    /// The last generation whose assignment is replicated.
    fn replicated_generation(&self) -> i32 {
        let replicated = &self.host.log[..self.host.high_watermark];
        let generations = replicated.iter().filter_map(|raw| {
            match crate::record::Record::decode(&raw.key, raw.value.as_deref()).unwrap() {
                Some(crate::record::Record::ClassicGroup { value, .. }) => value.map(|value| value.generation),
                _ => None,
            }
        });
        generations.last().unwrap_or(0)
    }

    /// Faults stop: within two minutes everybody who lives has a share, all partitions have an owner, and nobody waits.
    fn settle(&mut self) {
        self.stopped = None;
        self.act(Act::Accept);
        self.act(Act::Replicate);
        for _ in 0..120 {
            for n in 0..CLIENTS {
                self.act(Act::Go(n));
                self.act(Act::Beat(n));
            }
            self.act(Act::Pass(1_000));
        }
        let living = self.clients.iter().filter(|client| !matches!(client.phase, Phase::Stopped));
        let mut owned = Vec::new();
        for client in living.clone() {
            assert!(matches!(client.phase, Phase::Steady), "{client:?}");
            owned.extend(client.owned.iter().copied());
        }
        owned.sort_unstable();
        if living.count() > 0 {
            assert_eq!(owned, (0..PARTITIONS).collect::<Vec<_>>());
        }
        self.host.fail_over(usize::MAX);
        // What clients have abandoned, too.
        assert_eq!(self.host.waiting(), 0, "every request is answered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn random_groups_keep_their_promises_and_settle(acts in proptest::collection::vec(act(), 1..250)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.settle();
    }
}
