//! One coordinator: a host with a disk, and the process on it, which runs the node that ships. Everything is decided
//! there; this is what a driver thread, RocksDB and gRPC do around it.

mod peers;
mod process;
mod starting;
mod store;

use ottla_consensus::{LogStore as _, Member, MemberConfig, Membership, Role};
use ottla_metadata::controller::{BrokenRules as ControllerRules, ProbeResult};
use ottla_metadata::{ControllerConfig, Image, Now, Tree};
use ottla_model::{BrokerId, ClusterId, CoordinatorId, FeatureLevel, FeatureLevels, IncarnationId, Revision};
use ottla_quorum_node::first_start::{Formed, Voters, Way};
use ottla_quorum_node::identity::{Addresses, Conflict, OwnIdentity};
use ottla_quorum_node::{BrokenRules, Event, HistoryLimits, Node, NodeConfig, QuorumStore as _};

use crate::clock::{HostClock, SimTime};
use crate::message::Message;
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;
pub use peers::address_of;
use process::Process;
use starting::{Start, Starting};
use store::SimulatedStore;

/// The driver's clock: one Raft tick.
pub const TICK_MS: u64 = 50;

/// Bytes of log before its beginning is dropped: few, so that snapshots are sent often.
const COMPACT_BYTES: u64 = 12 * 1024;

/// Changes that a watcher may be behind before it gets a snapshot.
pub const HISTORY_LIMITS: HistoryLimits = HistoryLimits { revisions: 40, bytes: 1024 * 1024 };

/// Of a hundred ticks, how many bring a linearizable read.
const READS_PERCENT: u32 = 5;

/// The cluster's id, which every coordinator is configured with.
const CLUSTER: &str = "simulation";

/// What a disk says of itself.
#[derive(Clone, Default, Debug)]
struct DiskLabel {
    id: IncarnationId,
    /// The members of the first quorum, or those that it joined; none before the first start is done.
    voters: Voters,
}

/// What survives a process, and in part a loss of power.
struct CoordinatorDisk {
    label: DiskLabel,
    store: SimulatedStore,
}

impl CoordinatorDisk {
    fn empty(random: &mut Random) -> Self {
        let label = DiskLabel { id: IncarnationId(random.bytes_16()), voters: Voters::new() };
        Self { label, store: SimulatedStore::default() }
    }
}

/// What a coordinator is configured with.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// Its list of servers; none: it waits for the list of a broker.
    pub listed: Addresses,
    /// The coordinators that brokers are configured with, which their requests bring.
    pub connect: Vec<String>,
    /// The levels of `ottla.version` that its release works at.
    pub levels: FeatureLevels,
    pub rules: ControllerRules,
    pub reassignments_per_broker_max: usize,
    pub node_rules: BrokenRules,
}

/// A process.
enum Life {
    /// Its disk is empty.
    Starting(Box<Starting>, Box<CoordinatorDisk>),
    Member(Box<Process>),
}

/// A host of the quorum.
pub struct CoordinatorNode {
    pub id: CoordinatorId,
    pub settings: CoordinatorSettings,
    pub clock: HostClock,
    random: Random,
    /// Taken by the process while one runs.
    disk: Option<CoordinatorDisk>,
    life: Option<Life>,
    /// A disk that had a place in a quorum was lost, and the one in its place has none yet.
    replaces_member: bool,
}

/// What a coordinator did in a turn, for the invariants.
#[derive(Clone, Debug)]
pub enum Observed {
    Applied {
        revision: Revision,
        digest: u64,
        tree: Tree,
        /// Why the entry changed nothing, though it was to.
        problem: Option<String>,
    },
    /// A linearizable read was answered with `revision`; when it was asked, `asked_at` was applied somewhere.
    Read { asked_at: Revision, revision: Revision },
    /// A watcher that had `reached` was told of `revision`.
    Watched { reached: Revision, revision: Revision },
    /// A disk votes in a first quorum. `replaces_member`: the host had another one before, which had a vote.
    VotesFirst { replaces_member: bool },
    /// The process ends because of what others say of it.
    Ended(Conflict),
}

impl CoordinatorNode {
    pub fn new(id: CoordinatorId, settings: CoordinatorSettings, mut random: Random) -> Self {
        let disk = Some(CoordinatorDisk::empty(&mut random));
        Self { id, settings, clock: HostClock::default(), random, disk, life: None, replaces_member: false }
    }

    fn member(&self) -> Option<&Process> {
        match self.life.as_ref()? {
            Life::Member(process) => Some(process),
            Life::Starting(..) => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.life.is_some()
    }

    /// Whether it has a place in a quorum, while it runs.
    pub fn is_member(&self) -> bool {
        self.member().is_some()
    }

    /// Whether its disk has a place in a quorum, while it does not run.
    pub fn has_place(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.label.voters.is_empty())
    }

    /// Whether it has an empty disk in the place of one that had a vote.
    pub fn replaces_member(&self) -> bool {
        self.replaces_member
    }

    pub fn disk_id(&self) -> Option<IncarnationId> {
        match (&self.life, &self.disk) {
            (Some(Life::Member(process)), _) => Some(process.label.id),
            (Some(Life::Starting(_, disk)), _) => Some(disk.label.id),
            (None, Some(disk)) => Some(disk.label.id),
            (None, None) => None,
        }
    }

    /// Starts the process. One whose disk is empty asks the others first.
    pub fn start(&mut self, at: SimTime, out: &mut Outbox) -> anyhow::Result<Vec<Observed>> {
        let Some(disk) = self.disk.take().filter(|_| self.life.is_none()) else { return Ok(Vec::new()) };
        if !disk.label.voters.is_empty() {
            if let Some(level) = self.unknown_level(&disk)? {
                out.note(format_args!("ends: the cluster is at level {level}, it works at {}", self.settings.levels));
                out.dies = true;
                self.disk = Some(disk);
                return Ok(Vec::new());
            }
            self.run_member(at, disk)?;
            return Ok(Vec::new());
        }
        let way = if self.settings.listed.is_empty() { Way::Told } else { Way::Listed { bootstrap: false } };
        let own = OwnIdentity {
            id: self.id,
            disk: disk.label.id,
            cluster_id: Some(CLUSTER.to_owned()),
            listed: self.settings.listed.clone(),
            members: None,
            levels: self.settings.levels,
            broken_rules: self.settings.node_rules,
        };
        match Starting::begin(way, own) {
            Start::Votes(voters) => self.formed(at, disk, Formed::First(voters), out),
            Start::Asks(starting) => {
                self.life = Some(Life::Starting(starting, Box::new(disk)));
                Ok(Vec::new())
            }
        }
    }

    /// The level of the disk's tree, if the release does not work at it: then its node does not start, and the store
    /// stays here.
    fn unknown_level(&self, disk: &CoordinatorDisk) -> anyhow::Result<Option<FeatureLevel>> {
        let level = Image::from_tree(&disk.store.tree()?).finalized().level;
        let is_known = self.settings.levels.includes(level) || self.settings.node_rules.levels_are_not_compared;
        Ok((!is_known).then_some(level))
    }

    /// As the service: the membership reaches the disk before the list of voters.
    fn formed(
        &mut self,
        at: SimTime,
        mut disk: CoordinatorDisk,
        formed: Formed,
        out: &mut Outbox,
    ) -> anyhow::Result<Vec<Observed>> {
        let mut observed = Vec::new();
        disk.label.voters = match formed {
            Formed::First(voters) => {
                out.note(format_args!("votes in the first quorum"));
                observed.push(Observed::VotesFirst { replaces_member: self.replaces_member });
                disk.store.bootstrap(Membership::new(voters.keys().copied())?.to_conf_state())?;
                voters
            }
            Formed::Joins(members) => {
                out.note(format_args!("joins the quorum"));
                members
            }
        };
        self.replaces_member = false;
        self.run_member(at, disk)?;
        Ok(observed)
    }

    fn run_member(&mut self, at: SimTime, disk: CoordinatorDisk) -> anyhow::Result<()> {
        let CoordinatorDisk { label, store } = disk;
        let mut member_config = MemberConfig::new(self.id, self.random.next_u64());
        // It was told to join, and has not received the quorum's state yet.
        member_config.joins = store.conf_state().voters.is_empty();
        member_config.applied = store.applied()?.revision;
        let CoordinatorSettings { rules, levels, reassignments_per_broker_max, .. } = self.settings;
        let config = NodeConfig {
            voters: label.voters.clone(),
            controller: ControllerConfig {
                rules,
                levels,
                reassignments_per_broker_max,
                ..ControllerConfig::new(ClusterId::new(CLUSTER))
            },
            compact_bytes: COMPACT_BYTES,
            history: HISTORY_LIMITS,
            nonce: self.random.next_u64(),
            broken_rules: self.settings.node_rules,
        };
        let mut node = Node::new(config, Member::new(&member_config, store)?)?;
        node.start()?;
        let of_release = (levels, self.settings.node_rules);
        let process = Process::new(node, label, of_release, self.random.next_u64() >> 1, self.now(at));
        self.life = Some(Life::Member(Box::new(process)));
        Ok(())
    }

    /// `kill -9`: what was written stays.
    pub fn kill(&mut self) {
        match self.life.take() {
            Some(Life::Member(process)) => {
                let Process { node, label, .. } = *process;
                let mut store = node.into_store();
                store.disarm();
                self.disk = Some(CoordinatorDisk { label, store });
            }
            Some(Life::Starting(_, disk)) => self.disk = Some(*disk),
            None => {}
        }
    }

    /// The loss of power: what was not synced is gone.
    pub fn lose_power(&mut self) {
        self.kill();
        if let Some(disk) = &mut self.disk {
            disk.store.lose_power();
        }
    }

    pub fn lose_disk(&mut self) {
        self.kill();
        self.replaces_member |= self.disk.as_ref().is_some_and(|disk| !disk.label.voters.is_empty());
        self.disk = Some(CoordinatorDisk::empty(&mut self.random));
    }

    /// The process dies at one of its next writes.
    pub fn arm_crash(&mut self, after_steps: u32) {
        if let Some(Life::Member(process)) = &mut self.life {
            process.node.store_mut().arm_crash(after_steps + 1);
        }
    }

    /// The streams of others whose messages it takes: who is said to have opened each, and its name.
    pub fn taken_streams(&self) -> impl Iterator<Item = (CoordinatorId, u64)> + '_ {
        self.member().into_iter().flat_map(Process::taken_streams)
    }

    pub fn is_leading(&self) -> bool {
        self.member().is_some_and(|process| process.node.is_deciding())
    }

    pub fn term_if_leader(&self) -> Option<u64> {
        let role = self.member()?.node.role();
        (role.role == Role::Leader).then_some(role.term)
    }

    /// Where its log ends, while it runs.
    pub fn log_end(&self) -> Option<Revision> {
        Some(Revision(self.member()?.node.store().last_index()))
    }

    pub fn tree(&self) -> Option<&Tree> {
        self.member().map(|process| &process.node.view().tree)
    }

    pub fn image(&self) -> Option<&Image> {
        self.member().map(|process| &process.node.view().image)
    }

    fn now(&self, at: SimTime) -> Now {
        Now { monotonic: self.clock.monotonic(at), wall: self.clock.wall(at) }
    }

    /// `newest` is the newest revision that was applied anywhere.
    pub fn tick(&mut self, at: SimTime, newest: Revision, out: &mut Outbox) -> anyhow::Result<Vec<Observed>> {
        let now = self.now(at);
        let reads = self.random.percent(READS_PERCENT);
        match &mut self.life {
            Some(Life::Starting(starting, _)) => {
                let started = starting.tick(now.monotonic, out);
                self.started(at, started, out)
            }
            Some(Life::Member(process)) => {
                if let Err(conflict) = process.tick_peers(now, out) {
                    return Ok(ended(conflict, out));
                }
                let events = if reads { vec![process.read(newest)] } else { Vec::new() };
                Ok(process.turn(now, events, 1, out))
            }
            None => Ok(Vec::new()),
        }
    }

    pub fn receive(
        &mut self,
        at: SimTime,
        from: NodeId,
        message: Message,
        out: &mut Outbox,
    ) -> anyhow::Result<Vec<Observed>> {
        let now = self.now(at);
        let entropy = self.random.bytes_16();
        match &mut self.life {
            Some(Life::Starting(starting, _)) => {
                let started = starting.receive(now.monotonic, from, message, &self.settings.connect, out);
                self.started(at, started, out)
            }
            Some(Life::Member(process)) => {
                let received = process.received(now, from, message, entropy, out);
                // A stream that broke is dialled again at once.
                match received.and_then(|events| process.tick_peers(now, out).map(|()| events)) {
                    Ok(events) => Ok(process.turn(now, events, 0, out)),
                    Err(conflict) => Ok(ended(conflict, out)),
                }
            }
            None => Ok(Vec::new()),
        }
    }

    /// How far the first start has come.
    fn started(
        &mut self,
        at: SimTime,
        started: Result<Option<Formed>, Conflict>,
        out: &mut Outbox,
    ) -> anyhow::Result<Vec<Observed>> {
        match started {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(formed)) => match self.life.take() {
                Some(Life::Starting(_, disk)) => self.formed(at, *disk, formed, out),
                other => {
                    self.life = other;
                    Ok(Vec::new())
                }
            },
            Err(conflict) => Ok(ended(conflict, out)),
        }
    }

    /// The end of a dial.
    pub fn probed(
        &mut self,
        at: SimTime,
        broker: BrokerId,
        incarnation: IncarnationId,
        result: ProbeResult,
        out: &mut Outbox,
    ) -> Vec<Observed> {
        let now = self.now(at);
        let Some(Life::Member(process)) = &mut self.life else { return Vec::new() };
        process.turn(now, vec![Event::Probed { broker, incarnation, result }], 0, out)
    }

    /// A message of a watch could not be sent: the stream is over.
    pub fn watch_broken(&mut self, watcher: NodeId) {
        if let Some(Life::Member(process)) = &mut self.life {
            process.watch_broken(watcher);
        }
    }
}

fn ended(conflict: Conflict, out: &mut Outbox) -> Vec<Observed> {
    out.note(format_args!("ends: {conflict}"));
    out.dies = true;
    vec![Observed::Ended(conflict)]
}
