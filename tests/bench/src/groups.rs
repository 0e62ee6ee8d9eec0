//! Groups at the level of their core: how long a coordinator computes until a group of 500 has settled, beside a round
//! of heartbeats of the settled group; and how fast committed offsets are loaded, beside an ordered map of the same
//! entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use ottla_group_coordinator::answer::ConsumerHeartbeatAnswer;
use ottla_group_coordinator::effects::RawRecord;
use ottla_group_coordinator::record::{OffsetKey, OffsetValue};
use ottla_group_coordinator::request::{ClientInfo, ConsumerGroupHeartbeat, Heartbeat, JoinGroup, SyncGroup};
use ottla_group_coordinator::{
    Effects, GroupAnswer, GroupConfig, Now, Record, Request, RequestId, Shard, TopicView, Topics,
};
use ottla_model::{
    BrokerId, ErrorCode, GroupId, LeaderEpoch, MemberId, MonotonicMs, Offset, PartitionId, TimestampMs, TopicId,
    TopicName,
};
use ottla_protocol::wire;

use crate::report::{self, Round};

const MEMBERS: usize = 500;
const OFFSETS: i32 = 100_000;
/// As many groups as share them, and partitions of each topic.
const GROUPS: i32 = 100;
const PARTITIONS: i32 = 100;
/// Heartbeats of one member are this far apart.
const INTERVAL_MS: u64 = 500;
const ROUNDS_MAX: usize = 100;

pub fn run(rounds: usize) -> Result<()> {
    settling("classic group of 500 settles", rounds, classic)?;
    settling("consumer group of 500 settles", rounds, consumer)?;
    loading(rounds)
}

fn settling(what: &str, rounds: usize, run: fn() -> Result<(Duration, Duration)>) -> Result<()> {
    let mut figures = Vec::new();
    for _ in 0..rounds {
        let (settled, beaten) = run()?;
        figures.push(Round { ours: settled.as_secs_f64() * 1e6, machine: beaten.as_secs_f64() * 1e6 });
    }
    report::row(what, "500 heartbeats of a settled group", "us", &figures);
    Ok(())
}

struct OneTopic(TopicView);

impl OneTopic {
    fn new() -> Result<Self> {
        let partitions = i32::try_from(2 * MEMBERS)?;
        Ok(Self(TopicView { id: TopicId([1; 16]), name: TopicName::new("topic")?, partitions }))
    }
}

impl Topics for OneTopic {
    fn by_name(&self, name: &str) -> Option<TopicView> {
        (name == self.0.name.as_str()).then(|| self.0.clone())
    }
    fn by_id(&self, id: TopicId) -> Option<TopicView> {
        (id == self.0.id).then(|| self.0.clone())
    }
    fn names(&self, each: &mut dyn FnMut(&TopicName)) {
        each(&self.0.name);
    }
    fn version(&self) -> u64 {
        1
    }
    fn racks(&self, _: TopicId, _: PartitionId) -> Vec<String> {
        Vec::new()
    }
    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}

/// A shard over a log that is replicated at once.
struct Host {
    shard: Shard,
    topics: OneTopic,
    now_ms: u64,
    end: i64,
    next: u64,
    answers: BTreeMap<RequestId, GroupAnswer>,
}

impl Host {
    fn new() -> Result<Self> {
        let config = GroupConfig { max_batch_bytes: 16 << 20, ..GroupConfig::default() };
        let mut host = Self {
            shard: Shard::new(Arc::new(config)),
            topics: OneTopic::new()?,
            now_ms: 0,
            end: 0,
            next: 0,
            answers: BTreeMap::new(),
        };
        let effects = host.shard.loaded(host.now(), &host.topics);
        host.carry_out(effects);
        Ok(host)
    }

    fn now(&self) -> Now {
        Now { monotonic: MonotonicMs(self.now_ms), wall: TimestampMs(1_700_000_000_000) }
    }

    fn ask(&mut self, request: Request) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        let effects = self.shard.step(self.now(), &self.topics, id, request);
        self.carry_out(effects);
        id
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let effects = self.shard.tick(self.now(), &self.topics);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, mut effects: Effects) {
        loop {
            self.answers.extend(std::mem::take(&mut effects.answers));
            if effects.batches.is_empty() {
                return;
            }
            let mut further = Effects::default();
            for batch in effects.batches {
                self.end += batch.records.len() as i64;
                further.extend(self.shard.appended(batch.number, Offset(self.end)));
            }
            further.extend(self.shard.committed_up_to(self.now(), Offset(self.end)));
            effects = further;
        }
    }

    fn answer(&mut self, id: RequestId) -> Result<GroupAnswer> {
        self.answers.remove(&id).with_context(|| format!("{id:?} has no answer"))
    }
}

fn client() -> ClientInfo {
    ClientInfo { client_id: "bench".to_owned(), client_host: "/127.0.0.1".to_owned() }
}

fn group() -> GroupId {
    GroupId::new("bench")
}

/// The subscription that a consumer of the topic embeds in the classic protocol.
fn subscription() -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    wire::put_array(&mut out, false, 1);
    wire::put_string(&mut out, false, "topic");
    out.put_i32(-1);
    out.freeze()
}

/// From the first JoinGroup to the last SyncGroup's answer; and a round of heartbeats.
fn classic() -> Result<(Duration, Duration)> {
    let mut host = Host::new()?;
    let join = |at: usize| {
        Request::JoinGroup(JoinGroup {
            group: group(),
            member: MemberId::new(""),
            instance: None,
            client: client(),
            fresh_id: format!("{at:036}"),
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), subscription())],
            requires_known_member_id: false,
            supports_skip_assignment: true,
            reason: None,
        })
    };
    let begun = Instant::now();
    let joins: Vec<RequestId> = (0..MEMBERS).map(|at| host.ask(join(at))).collect();
    // The initial delay passes at once here: the measurement covers the coordinator's computation.
    for _ in 0..ROUNDS_MAX {
        if joins.first().is_some_and(|first| host.answers.contains_key(first)) {
            break;
        }
        host.pass(1_000);
    }
    let mut syncs = Vec::new();
    let mut members = Vec::new();
    let mut leader_last = Vec::new();
    for id in joins {
        let GroupAnswer::JoinGroup(joined) = host.answer(id)? else { anyhow::bail!("not a join") };
        ensure!(joined.error == ErrorCode::None, "{joined:?}");
        members.push((joined.member.clone(), joined.generation));
        let assignments: Vec<_> =
            joined.members.iter().map(|member| (member.member.clone(), Bytes::from_static(&[0; 64]))).collect();
        let sync = Request::SyncGroup(SyncGroup {
            group: group(),
            generation: joined.generation,
            member: joined.member,
            instance: None,
            protocol_type: None,
            protocol_name: None,
            assignments,
        });
        if joined.members.is_empty() { syncs.push(host.ask(sync)) } else { leader_last.push(sync) }
    }
    for sync in leader_last {
        syncs.push(host.ask(sync));
    }
    for id in syncs {
        let GroupAnswer::SyncGroup(synced) = host.answer(id)? else { anyhow::bail!("not a sync") };
        ensure!(synced.error == ErrorCode::None && !synced.assignment.is_empty(), "{synced:?}");
    }
    let settled = begun.elapsed();
    let begun = Instant::now();
    for (member, generation) in members {
        let id = host.ask(Request::Heartbeat(Heartbeat { group: group(), generation, member, instance: None }));
        let answer = host.answer(id)?;
        ensure!(answer == GroupAnswer::Heartbeat(ErrorCode::None), "{answer:?}");
    }
    Ok((settled, begun.elapsed()))
}

/// A member of a consumer group that follows every assignment at once.
#[derive(Default)]
struct Member {
    epoch: i32,
    owned: Vec<(TopicId, Vec<PartitionId>)>,
    must_tell: bool,
}

impl Member {
    fn heartbeat(&mut self, at: usize) -> Request {
        let first = self.epoch == 0;
        Request::ConsumerGroupHeartbeat(ConsumerGroupHeartbeat {
            group: group(),
            member: MemberId::new(format!("{at:036}")),
            fresh_id: String::new(),
            member_epoch: self.epoch,
            instance: None,
            rack: None,
            rebalance_timeout_ms: if first { 60_000 } else { -1 },
            client: client(),
            subscribed_topics: first.then(|| vec!["topic".to_owned()]),
            subscribed_regex: None,
            visible_topics: ottla_group_coordinator::VisibleTopics::default(),
            server_assignor: None,
            owned: if first {
                Some(Vec::new())
            } else {
                std::mem::take(&mut self.must_tell).then(|| self.owned.clone())
            },
        })
    }

    fn told(&mut self, answer: ConsumerHeartbeatAnswer) {
        self.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            self.owned = assignment;
            self.must_tell = true;
        }
    }
}

/// From the first heartbeat until nothing changes any more and every partition has its owner; and the round of
/// heartbeats after that.
fn consumer() -> Result<(Duration, Duration)> {
    let mut host = Host::new()?;
    let mut members: Vec<Member> = (0..MEMBERS).map(|_| Member::default()).collect();
    let begun = Instant::now();
    let mut last_round = Duration::ZERO;
    for _ in 0..ROUNDS_MAX {
        let round = Instant::now();
        let mut changed = false;
        for (at, member) in members.iter_mut().enumerate() {
            let (epoch, must_tell) = (member.epoch, member.must_tell);
            let id = host.ask(member.heartbeat(at));
            let GroupAnswer::ConsumerGroupHeartbeat(answer) = host.answer(id)? else {
                anyhow::bail!("not a heartbeat")
            };
            ensure!(answer.error == ErrorCode::None, "{answer:?}");
            member.told(answer);
            changed |= must_tell || member.must_tell || member.epoch != epoch;
        }
        last_round = round.elapsed();
        if !changed {
            let owned: usize =
                members.iter().flat_map(|member| &member.owned).map(|(_, partitions)| partitions.len()).sum();
            ensure!(owned == 2 * MEMBERS, "{owned} partitions have an owner");
            return Ok((begun.elapsed() - last_round, last_round));
        }
        host.pass(INTERVAL_MS);
    }
    anyhow::bail!("the group does not settle; the last round took {last_round:?}")
}

fn loading(rounds: usize) -> Result<()> {
    let records = offsets();
    let mut figures = Vec::new();
    let mut grown = 0;
    for _ in 0..rounds {
        let begun = Instant::now();
        let plain: BTreeMap<&[u8], Option<&[u8]>> =
            records.iter().map(|record| (&record.key[..], record.value.as_deref())).collect();
        let machine = begun.elapsed();
        drop(plain);
        let mut shard = Shard::new(Arc::new(GroupConfig::default()));
        let topics = OneTopic::new()?;
        let before = resident_bytes()?;
        let begun = Instant::now();
        for record in &records {
            shard.apply(TimestampMs(0), &record.key, record.value.as_deref())?;
        }
        let now = Now { monotonic: MonotonicMs(0), wall: TimestampMs(0) };
        let effects = shard.loaded(now, &topics);
        let ours = begun.elapsed();
        ensure!(effects.batches.is_empty(), "loading writes nothing");
        grown = resident_bytes()?.saturating_sub(before).max(grown);
        let per_s = |elapsed: Duration| f64::from(OFFSETS) / elapsed.as_secs_f64();
        figures.push(Round { ours: per_s(ours), machine: per_s(machine) });
    }
    report::row("committed offsets loaded", "an ordered map of the same entries", "/s", &figures);
    println!("{:<44} {:>10} bytes", "memory of a committed offset", grown / OFFSETS as u64);
    Ok(())
}

/// As a log holds them: each group's partitions one after the other, the groups in turn.
fn offsets() -> Vec<RawRecord> {
    (0..OFFSETS)
        .map(|at| {
            let (group, of_group) = (at % GROUPS, at / GROUPS);
            Record::Offset {
                key: OffsetKey {
                    group: GroupId::new(format!("group-{group:04}")),
                    topic: format!("a-topic-with-a-usual-name-{}", of_group / PARTITIONS),
                    partition: PartitionId(of_group % PARTITIONS),
                },
                value: Some(OffsetValue {
                    offset: Offset(i64::from(at)),
                    leader_epoch: LeaderEpoch(3),
                    metadata: String::new(),
                    commit_timestamp: TimestampMs(1_700_000_000_000),
                    expire_timestamp: None,
                    topic_id: TopicId([7; 16]),
                }),
            }
            .encode()
        })
        .collect()
}

fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
