//! One coordinator: a host with a disk, and the process on it, which runs the node that ships. Everything is decided
//! there; this is what a driver thread, RocksDB and gRPC do around it.

mod process;
mod store;

use std::collections::BTreeMap;

use ottla_consensus::{LogStore as _, Member, MemberConfig, Membership, Role};
use ottla_metadata::controller::{AdmitCoordinator, BrokenRules as ControllerRules, ProbeResult};
use ottla_metadata::{ControllerConfig, Image, Now, Tree};
use ottla_model::{BrokerId, ClusterId, CoordinatorId, IncarnationId, Revision};
use ottla_quorum_node::{BrokenRules, Event, HistoryLimits, Node, NodeConfig, QuorumStore as _, Voter};

use crate::clock::{HostClock, SimTime};
use crate::message::Message;
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;
use process::Process;
use store::SimulatedStore;

/// The driver's clock: one Raft tick.
pub const TICK_MS: u64 = 50;

/// Bytes of log before its beginning is dropped: few, so that snapshots are sent often.
const COMPACT_BYTES: u64 = 12 * 1024;

/// Changes that a watcher may be behind before it gets a snapshot.
const HISTORY_LIMITS: HistoryLimits = HistoryLimits { revisions: 40, bytes: 1024 * 1024 };

/// Of a hundred ticks, how many bring a linearizable read.
const READS_PERCENT: u32 = 5;

/// What survives a process, and in part a loss of power.
pub struct CoordinatorDisk {
    pub id: IncarnationId,
    store: SimulatedStore,
}

impl CoordinatorDisk {
    fn empty(random: &mut Random) -> Self {
        Self { id: IncarnationId(random.bytes_16()), store: SimulatedStore::default() }
    }
}

/// A host of the quorum.
pub struct CoordinatorNode {
    pub id: CoordinatorId,
    rules: ControllerRules,
    node_rules: BrokenRules,
    pub clock: HostClock,
    random: Random,
    /// Taken by the process while one runs.
    disk: Option<CoordinatorDisk>,
    process: Option<Process>,
    /// Has held a membership: an empty disk now is a lost one.
    was_member: bool,
    /// The members, with their disks at the first start; on one that joins, those that it joins.
    voters: BTreeMap<CoordinatorId, Voter>,
    /// Its empty disk may receive the quorum's state.
    joins: bool,
}

/// What a coordinator did in a turn, for the invariants.
#[derive(Clone, Debug)]
pub enum Observed {
    Applied {
        revision: Revision,
        digest: u64,
        /// Why the entry changed nothing, though it was to.
        problem: Option<String>,
    },
    /// A linearizable read was answered with `revision`; when it was asked, `asked_at` was applied somewhere.
    Read { asked_at: Revision, revision: Revision },
    /// A watcher that had `reached` was told of `revision`.
    Watched { reached: Revision, revision: Revision },
}

impl CoordinatorNode {
    pub fn new(id: CoordinatorId, rules: ControllerRules, node_rules: BrokenRules, mut random: Random) -> Self {
        let disk = CoordinatorDisk::empty(&mut random);
        Self {
            id,
            rules,
            node_rules,
            clock: HostClock::default(),
            random,
            disk: Some(disk),
            process: None,
            was_member: false,
            voters: BTreeMap::new(),
            joins: false,
        }
    }

    /// People start it with an empty disk, to be added to the quorum of these.
    pub fn join(&mut self, members: impl Iterator<Item = CoordinatorId>) {
        // The disks are learnt with the tree: they may be others by then.
        let voter = |id| (id, Voter { address: format!("c{id}"), disk: None });
        self.voters = members.map(voter).collect();
        (self.joins, self.was_member) = (true, false);
    }

    /// Whether this disk belongs to the quorum as this coordinator knows it.
    pub fn knows(&self, id: CoordinatorId, disk: IncarnationId) -> bool {
        let member = self.process.as_ref().and_then(|process| process.node.members().get(id).cloned());
        member.is_some_and(|member| member.disk == Some(disk))
    }

    /// Another member says that the coordinator belongs to the quorum.
    pub fn vouch(&mut self, id: CoordinatorId, disk: IncarnationId) {
        if let Some(process) = self.process.as_mut().filter(|process| process.node.members().get(id).is_none()) {
            process.vouch(id, disk);
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn lost_its_disk(&self) -> bool {
        self.was_member && !self.joins && self.disk.as_ref().is_some_and(|disk| !disk.store.was_bootstrapped())
    }

    pub fn disk_id(&self) -> Option<IncarnationId> {
        self.process.as_ref().map(|process| process.disk_id).or_else(|| self.disk.as_ref().map(|disk| disk.id))
    }

    /// The first start of a quorum: every disk is empty, and every member says so.
    pub fn bootstrap(&mut self, disks: &[AdmitCoordinator]) -> anyhow::Result<()> {
        let voter = |disk: &AdmitCoordinator| {
            (disk.coordinator, Voter { address: disk.address.clone(), disk: Some(disk.disk) })
        };
        self.voters = disks.iter().map(voter).collect();
        if let Some(disk) = &mut self.disk {
            disk.store.bootstrap(Membership::new(self.voters.keys().copied())?.to_conf_state())?;
            self.was_member = true;
        }
        Ok(())
    }

    /// Starts the process. One whose disk holds no membership, though the quorum has been formed, stays out (scenario
    /// 20).
    pub fn start(&mut self) -> anyhow::Result<()> {
        let Some(disk) = self.disk.take() else { return Ok(()) };
        let mut disk = disk;
        let is_empty = !disk.store.was_bootstrapped();
        if is_empty && self.node_rules.emptied_disk_votes && !self.joins {
            disk.store.bootstrap(Membership::new(self.voters.keys().copied())?.to_conf_state())?;
        } else if is_empty && !self.joins {
            self.disk = Some(disk);
            return Ok(());
        }
        if !is_empty {
            (self.was_member, self.joins) = (true, false);
        }
        let mut member_config = MemberConfig::new(self.id, self.random.next_u64());
        member_config.joins = self.joins;
        member_config.applied = disk.store.applied()?.revision;
        let config = NodeConfig {
            voters: self.voters.clone(),
            controller: ControllerConfig { rules: self.rules, ..ControllerConfig::new(ClusterId::new("simulation")) },
            compact_bytes: COMPACT_BYTES,
            history: HISTORY_LIMITS,
            nonce: self.random.next_u64(),
            broken_rules: self.node_rules,
        };
        let mut node = Node::new(config, Member::new(&member_config, disk.store)?)?;
        node.start()?;
        self.process = Some(Process::new(node, disk.id));
        Ok(())
    }

    /// `kill -9`: what was written stays.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            let Process { node, disk_id, .. } = process;
            let mut store = node.into_store();
            store.disarm();
            self.disk = Some(CoordinatorDisk { id: disk_id, store });
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
        self.was_member = true;
        self.joins = false;
        self.disk = Some(CoordinatorDisk::empty(&mut self.random));
    }

    /// The process dies at one of its next writes.
    pub fn arm_crash(&mut self, after_steps: u32) {
        if let Some(process) = &mut self.process {
            process.node.store_mut().arm_crash(after_steps + 1);
        }
    }

    pub fn is_leading(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.node.is_deciding())
    }

    pub fn term_if_leader(&self) -> Option<u64> {
        let role = self.process.as_ref()?.node.role();
        (role.role == Role::Leader).then_some(role.term)
    }

    /// Where its log ends, while it runs.
    pub fn log_end(&self) -> Option<Revision> {
        Some(Revision(self.process.as_ref()?.node.store().last_index()))
    }

    pub fn tree(&self) -> Option<&Tree> {
        self.process.as_ref().map(|process| &process.node.view().tree)
    }

    pub fn image(&self) -> Option<&Image> {
        self.process.as_ref().map(|process| &process.node.view().image)
    }

    fn now(&self, at: SimTime) -> Now {
        Now { monotonic: self.clock.monotonic(at), wall: self.clock.wall(at) }
    }

    /// `newest` is the newest revision that was applied anywhere.
    pub fn tick(&mut self, at: SimTime, newest: Revision, out: &mut Outbox) -> Vec<Observed> {
        let now = self.now(at);
        let reads = self.random.percent(READS_PERCENT);
        let Some(process) = &mut self.process else { return Vec::new() };
        let events = if reads { vec![process.read(newest)] } else { Vec::new() };
        process.turn(now, events, 1, out)
    }

    pub fn receive(&mut self, at: SimTime, from: NodeId, message: Message, out: &mut Outbox) -> Vec<Observed> {
        let now = self.now(at);
        let entropy = self.random.bytes_16();
        let Some(process) = &mut self.process else { return Vec::new() };
        let events = process.received(from, message, entropy, out);
        process.turn(now, events, 0, out)
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
        let Some(process) = &mut self.process else { return Vec::new() };
        process.turn(now, vec![Event::Probed { broker, incarnation, result }], 0, out)
    }

    /// A message of a watch could not be sent: the stream is over.
    pub fn watch_broken(&mut self, watcher: NodeId) {
        if let Some(process) = &mut self.process {
            process.watch_broken(watcher);
        }
    }
}
