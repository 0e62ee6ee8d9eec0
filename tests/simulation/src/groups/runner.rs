//! A run: a seed's groups and faults, then healing, then the demand that every group settles and stays so.

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ottla_coordinator_partition::BrokenRules;
use ottla_group_coordinator::GroupConfig;
use ottla_model::{GroupId, InstanceId, MemberId};

use faults::{FAULTS, Fault};

use super::admin::Admin;
use super::classic_member::ClassicMember;
use super::client::Behaviour;
use super::consumer_member::ConsumerMember;
use super::topics::{EXPRESSIONS, IdTp, by_id};
use super::world::{Kind, World};
use crate::clock::SimTime;
use crate::coordinator_log::LogWorld as _;
use crate::invariants::Violation;
use crate::random::Random;
use crate::runner::Failure;

/// How long faults last, in simulated seconds.
const FAULTS_SECS: (u64, u64) = (10, 40);
/// Every group has settled by then.
const SETTLING_MS: u64 = 60_000;
/// And does nothing but heartbeats for so long.
const CALM_MS: u64 = 8_000;
/// Once faults have stopped, a partition that live members of a group subscribe to is not without a reader for longer:
/// sessions and rebalances end within a few seconds each, a log that could not be read is read again within ten.
const UNREAD_MAX_MS: u64 = 30_000;

const BROKERS: i32 = 3;

/// How long a member may take to begin to read what it was given. One that takes longer than the coordinator believes a
/// silent member to take (a second) may read a partition together with its next owner (docs/adr/0012).
const TAKING_MAX_MS: u64 = 900;

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub seed: u64,
    pub trace_hash: u64,
    pub events: u64,
    pub acknowledged: u64,
    pub fetches: u64,
    pub refused_commits: u64,
    pub failure: Option<Failure>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(
                f,
                "groups, seed {}: {} events, {} commits acknowledged and {} refused, {} fetches, trace {:016x}",
                self.seed, self.events, self.acknowledged, self.refused_commits, self.fetches, self.trace_hash
            ),
            Some(failure) => {
                for line in &failure.tail {
                    writeln!(f, "{line}")?;
                }
                writeln!(f, "groups, seed {}: at {}: {}", self.seed, failure.at, failure.what)?;
                write!(f, "replay: make sim SEED={}", self.seed)
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Classic,
    Consumer,
    /// Members of both: the group moves online from one to the other.
    Mixed,
}

/// Where each group stands; none for one that is gone.
type Generations = Vec<(GroupId, Option<i32>)>;

/// One seed's group.
#[derive(Clone, Debug)]
struct GroupPlan {
    id: GroupId,
    protocol: Protocol,
    session_timeout_ms: u64,
    rebalance_timeout_ms: u64,
    /// Its classic members are.
    is_cooperative: bool,
}

pub fn run(seed: u64, prints: bool) -> Report {
    run_with(seed, BrokenRules::default(), prints)
}

/// As [`run`], with rules switched off.
pub fn run_with(seed: u64, rules: BrokenRules, prints: bool) -> Report {
    let mut random = Random::new(seed ^ 0x6A09_E667_F3BC_C908);
    let config = draw_config(&mut random);
    let partitions = i32::try_from(random.between(1, 2)).unwrap_or(1);
    let mut world = World::new(seed, BROKERS, partitions, config.clone(), rules, prints);
    let result = Run::new(&mut world, &mut random, config).all();
    Report {
        seed,
        trace_hash: world.trace.hash(),
        events: world.events,
        acknowledged: world.invariants.acknowledged,
        fetches: world.invariants.fetches,
        refused_commits: world.invariants.refused_commits,
        failure: result.err().map(|violation| Failure { what: violation.0, at: world.now, tail: world.trace.tail() }),
    }
}

fn draw_config(random: &mut Random) -> GroupConfig {
    let session = i32::try_from(random.between(600, 3_000)).unwrap_or(1_000);
    GroupConfig {
        group_min_session_timeout_ms: 100,
        group_initial_rebalance_delay_ms: i32::try_from(random.between(0, 500)).unwrap_or(0),
        consumer_session_timeout_ms: session,
        consumer_min_session_timeout_ms: 100,
        consumer_heartbeat_interval_ms: session / 4,
        offsets_retention_ms: if random.percent(30) { 5_000 } else { 600_000 },
        offsets_retention_check_interval_ms: 1_000,
        ..GroupConfig::default()
    }
}

struct Run<'a> {
    world: &'a mut World,
    random: &'a mut Random,
    /// What is configured when no fault changes it.
    config: GroupConfig,
    groups: Vec<GroupPlan>,
    topic_names: Vec<String>,
    faults: Vec<Fault>,
    outage_ms: (u64, u64),
}

impl<'a> Run<'a> {
    fn new(world: &'a mut World, random: &'a mut Random, config: GroupConfig) -> Self {
        let faults = FAULTS.iter().copied().filter(|_| random.percent(60)).collect();
        let outage_ms = (20, random.between(300, 5_000));
        let count = random.between(1, 3);
        let groups = (0..count)
            .map(|at| {
                let protocol = match random.below(5) {
                    0 | 1 => Protocol::Classic,
                    2 | 3 => Protocol::Consumer,
                    _ => Protocol::Mixed,
                };
                GroupPlan {
                    id: GroupId::new(format!("group-{at}")),
                    protocol,
                    session_timeout_ms: random.between(600, 3_000),
                    rebalance_timeout_ms: random.between(500, 3_000),
                    is_cooperative: random.percent(40),
                }
            })
            .collect();
        Self { world, random, config, groups, topic_names: Vec::new(), faults, outage_ms }
    }

    fn all(&mut self) -> Result<(), Violation> {
        let plan = format!("{:?} {:?} {:?}", self.groups, self.faults, self.outage_ms);
        self.world.note(format_args!("{plan}"));
        for at in 0..self.random.between(1, 3) {
            let partitions = i32::try_from(self.random.between(1, 6)).unwrap_or(1);
            self.topic_names.push(format!("topic-{at}"));
            self.world.create_topic(&format!("topic-{at}"), partitions);
        }
        for plan in self.groups.clone() {
            for _ in 0..self.random.between(1, 6) {
                self.add_member(&plan, None, None);
            }
            self.world.add_client(Kind::Admin(Admin::new(plan.id)));
        }
        let end = self.world.now.plus_ms(self.random.between(FAULTS_SECS.0, FAULTS_SECS.1) * 1_000);
        let gap = self.random.between(50, 1_500);
        while self.world.now < end {
            let pause = self.random.between(gap / 2, gap * 2);
            self.world.run_for_ms(pause)?;
            if let Some(fault) = self.random.pick(&self.faults).copied() {
                self.strike(fault)?;
            }
        }
        self.heal();
        self.settle()
    }

    /// A new member; one that takes a static member's place reads what that one read, for nobody is asked to assign
    /// anew.
    fn add_member(&mut self, plan: &GroupPlan, former: Option<&Behaviour>, id: Option<MemberId>) {
        // A topic that is deleted at the moment may be created again.
        let all = self.topic_names.clone();
        let mut topics: BTreeSet<String> =
            if self.random.percent(60) { all.iter().cloned().collect() } else { BTreeSet::new() };
        while topics.is_empty() {
            topics.extend(all.iter().filter(|_| self.random.percent(50)).cloned());
        }
        let is_static = self.random.percent(20);
        let consumer = match plan.protocol {
            Protocol::Classic => false,
            Protocol::Consumer => true,
            // The classic protocol knows no expressions, and nobody is asked to assign anew.
            Protocol::Mixed => self.random.percent(50) || former.is_some_and(|former| former.regex.is_some()),
        };
        let regex = self.random.percent(20).then(|| self.random.pick(EXPRESSIONS).map(|(expression, _)| *expression));
        let regex = regex.flatten().map(str::to_owned);
        // A static member that misses a round stays in the group with what it said before. A leader that trusts that
        // gives what a cooperative one still reads to another one, with Kafka too.
        let is_static = is_static && (consumer || !plan.is_cooperative);
        let (instance, topics, regex) =
            match former.filter(|former| former.instance.is_some() && (consumer || !plan.is_cooperative)) {
                Some(former) => (former.instance.clone(), former.topics.clone(), former.regex.clone()),
                None => {
                    let name = format!("instance-{}", self.random.below(1_000_000));
                    (is_static.then(|| InstanceId::new(name)), topics, regex)
                }
            };
        let slow = self.random.percent(20);
        let takes_ms = if self.random.percent(20) { TAKING_MAX_MS } else { 0 };
        let assignors = ["uniform", "range"];
        let assignor = self.random.percent(20).then(|| self.random.pick(&assignors).copied()).flatten();
        let behaviour = Behaviour {
            taking_ms: (0, takes_ms),
            rack: self.random.percent(30).then(|| format!("rack-{}", self.random.below(3))),
            assignor: assignor.map(str::to_owned),
            says_all: self.random.percent(15),
            is_cooperative: plan.is_cooperative,
            instance,
            regex,
            topics,
            session_timeout_ms: plan.session_timeout_ms,
            rebalance_timeout_ms: plan.rebalance_timeout_ms,
            revocation_ms: if slow { (0, plan.rebalance_timeout_ms * 3 / 2) } else { (0, 30) },
            commit_every_ms: (20, self.random.between(50, 800)),
        };
        let name = format!("client-{:04x}", self.random.below(1 << 16));
        let fresh = MemberId::new(format!("{:016x}", self.random.next_u64()));
        let member = id.unwrap_or(fresh);
        let kind = if consumer {
            Kind::Consumer(ConsumerMember::new(plan.id.clone(), name, member, behaviour))
        } else {
            Kind::Classic(ClassicMember::new(plan.id.clone(), name, behaviour))
        };
        self.world.add_client(kind);
    }

    /// Every group settles, and then does nothing but heartbeats for a while.
    fn settle(&mut self) -> Result<(), Violation> {
        let end = self.world.now.plus_ms(SETTLING_MS);
        let mut settled: Option<(SimTime, Generations)> = None;
        let mut unread = BTreeMap::new();
        loop {
            self.world.run_for_ms(250)?;
            self.check_unread(&mut unread)?;
            let (now, generations) = (self.world.now, self.generations());
            let unsettled = self.unsettled();
            match &settled {
                _ if unsettled.is_some() => settled = None,
                Some((since, then)) if *then == generations => {
                    if now >= since.plus_ms(CALM_MS) {
                        return Ok(());
                    }
                }
                _ => settled = Some((now, generations)),
            }
            if now >= end {
                let what = unsettled.unwrap_or_else(|| format!("groups do not come to rest: {settled:?}"));
                return Err(Violation(format!("{} s after the last fault {what}", SETTLING_MS / 1_000)));
            }
        }
    }

    /// Which partitions have had no reader since when, and that none of them has had none for too long.
    fn check_unread(&self, since: &mut BTreeMap<(GroupId, IdTp), SimTime>) -> Result<(), Violation> {
        let now = self.world.now;
        let unread: BTreeSet<(GroupId, IdTp)> = self
            .groups
            .iter()
            .flat_map(|plan| {
                let (wanted, owned) = self.wanted_and_owned(&plan.id);
                wanted.into_iter().filter(move |tp| !owned.contains(tp)).map(|tp| (plan.id.clone(), tp))
            })
            .collect();
        since.retain(|at, _| unread.contains(at));
        for at in unread {
            let begun = *since.entry(at.clone()).or_insert(now);
            if now >= begun.plus_ms(UNREAD_MAX_MS) {
                let (group, tp) = at;
                return Err(Violation(format!(
                    "{tp:?} of {group} is unread since {begun} though the group has members"
                )));
            }
        }
        Ok(())
    }

    /// What the live members of a group subscribe to, and what they own.
    fn wanted_and_owned(&self, group: &GroupId) -> (BTreeSet<IdTp>, BTreeSet<IdTp>) {
        let topic_ids = self.world.topics.ids();
        let (mut wanted, mut owned) = (BTreeSet::new(), BTreeSet::new());
        for client in self.world.clients.values().filter(|client| client.group() == group && client.is_member()) {
            wanted.extend(by_id(&self.world.subscription_of(client), &topic_ids));
            owned.extend(client.owned_by_id());
        }
        (wanted, owned)
    }

    fn generations(&self) -> Generations {
        let one = |plan: &GroupPlan| {
            let view = self.world.invariants.view(&plan.id)?;
            view.epoch.or(view.classic.as_ref().map(|(generation, _)| *generation))
        };
        self.groups.iter().map(|plan| (plan.id.clone(), one(plan))).collect()
    }

    /// What keeps a group from being settled: somebody is not stable, partitions without or with two owners, members
    /// that are gone.
    fn unsettled(&self) -> Option<String> {
        let topic_ids = self.world.topics.ids();
        for plan in &self.groups {
            let id = &plan.id;
            let mut owned = BTreeSet::new();
            let mut wanted = BTreeSet::new();
            let mut ids = BTreeSet::new();
            for (number, client) in &self.world.clients {
                if client.group() != id || !client.is_member() {
                    continue;
                }
                if self.world.is_client_paused(*number) {
                    return Some(format!("client {number} stands still"));
                }
                let (is_stable, member) = match &client.kind {
                    Kind::Classic(member) => (member.is_stable(), &member.member),
                    Kind::Consumer(member) => (member.is_stable(), &member.member),
                    Kind::Admin(_) | Kind::Script { .. } => continue,
                };
                if !is_stable {
                    return Some(format!("client {number} is not stable: {:?}", client.kind));
                }
                ids.insert(member.clone());
                wanted.extend(by_id(&self.world.subscription_of(client), &topic_ids));
                for tp in client.owned_by_id() {
                    if !owned.insert(tp) {
                        return Some(format!("{tp:?} of {id} has two owners"));
                    }
                }
            }
            if owned != wanted {
                let missing: Vec<_> = wanted.symmetric_difference(&owned).collect();
                return Some(format!("{id} does not own exactly what it reads: {missing:?}"));
            }
            let view = self.world.invariants.view(id).cloned().unwrap_or_default();
            let known: BTreeSet<MemberId> = match view.classic {
                Some((_, members)) => members,
                None => view.members.into_keys().collect(),
            };
            if known != ids {
                return Some(format!("{id} has the members {known:?}, and {ids:?} are there"));
            }
        }
        None
    }
}
