//! One coordinator: a host with a disk, and the process on it, which drives a [`Member`], the tree and, while it leads, the
//! controller. Carries out effects in the order that `ottla_consensus::effects` prescribes, and may die between any two steps.

mod process;

use std::collections::{BTreeMap, VecDeque};

use ottla_consensus::{LogStore, Member, MemberConfig, Membership, MemoryStore, Role};
use ottla_metadata::controller::{AdmitCoordinator, BrokenRules as Rules, ProbeResult};
use ottla_metadata::liveness::Reached;
use ottla_metadata::{Image, Input, Now, Tree};
use ottla_model::{BrokerId, CoordinatorId, IncarnationId, Revision};

use crate::clock::{HostClock, SimTime};
use crate::message::Message;
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;
use process::Process;

/// The driver's clock: one Raft tick.
pub const TICK_MS: u64 = 50;

/// Entries that stay in the log before a snapshot takes their place: few, so that snapshots are sent often.
const LOG_ENTRIES_MAX: u64 = 120;

/// Changes that a watcher may be behind before it gets a snapshot.
const HISTORY_REVISIONS: usize = 40;

/// What survives a process, and in part a loss of power.
pub struct CoordinatorDisk {
    pub id: IncarnationId,
    store: MemoryStore,
    /// As written; lost back to `durable_tree` with the power.
    tree: Tree,
    durable_tree: Tree,
}

impl CoordinatorDisk {
    fn empty(random: &mut Random) -> Self {
        Self {
            id: IncarnationId(random.bytes_16()),
            store: MemoryStore::new(),
            tree: Tree::default(),
            durable_tree: Tree::default(),
        }
    }
}

/// A host of the quorum.
pub struct CoordinatorNode {
    pub id: CoordinatorId,
    rules: Rules,
    pub clock: HostClock,
    random: Random,
    /// Taken by the process while one runs.
    disk: Option<CoordinatorDisk>,
    process: Option<Process>,
    /// Has held a membership: an empty disk now is a lost one.
    was_member: bool,
    /// The members' disks at the first start.
    disks: Vec<AdmitCoordinator>,
}

/// What a coordinator applied in a turn, for the invariants.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    pub revision: Revision,
    pub digest: u64,
}

impl CoordinatorNode {
    pub fn new(id: CoordinatorId, rules: Rules, mut random: Random) -> Self {
        let disk = CoordinatorDisk::empty(&mut random);
        Self {
            id,
            rules,
            clock: HostClock::default(),
            random,
            disk: Some(disk),
            process: None,
            was_member: false,
            disks: Vec::new(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn lost_its_disk(&self) -> bool {
        self.was_member && self.disk.as_ref().is_some_and(|disk| disk.store.conf_state().voters.is_empty())
    }

    pub fn disk_id(&self) -> Option<IncarnationId> {
        self.process.as_ref().map(|process| process.disk_id).or_else(|| self.disk.as_ref().map(|disk| disk.id))
    }

    /// The first start of a quorum: every disk is empty, and every member says so.
    pub fn bootstrap(&mut self, disks: &[AdmitCoordinator]) -> anyhow::Result<()> {
        self.disks = disks.to_vec();
        let voters = disks.iter().map(|disk| disk.coordinator);
        if let Some(disk) = &mut self.disk {
            disk.store.bootstrap(Membership::new(voters)?.to_conf_state())?;
            self.was_member = true;
        }
        Ok(())
    }

    /// Starts the process. One whose disk holds no membership, though the quorum has been formed, stays out (scenario 20).
    pub fn start(&mut self) -> anyhow::Result<()> {
        let Some(disk) = self.disk.take() else { return Ok(()) };
        if disk.store.conf_state().voters.is_empty() {
            self.disk = Some(disk);
            return Ok(());
        }
        let mut config = MemberConfig::new(self.id, self.random.next_u64());
        config.applied = disk.tree.revision();
        let CoordinatorDisk { id: disk_id, store, tree, durable_tree } = disk;
        let member = Member::new(&config, store)?;
        let image = Image::from_tree(&tree);
        self.process = Some(Process {
            rules: self.rules,
            disks: self.disks.clone(),
            member,
            disk_id,
            tree,
            durable_tree,
            image,
            controller: None,
            reached: Reached::new(),
            proposed: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            beats: BTreeMap::new(),
            next_stream: 0,
            watchers: BTreeMap::new(),
            history: VecDeque::new(),
            dies_after: None,
        });
        Ok(())
    }

    /// `kill -9`: what was written stays.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            let Process { member, disk_id, tree, durable_tree, .. } = process;
            self.disk = Some(CoordinatorDisk { id: disk_id, store: member.into_store(), tree, durable_tree });
        }
    }

    /// The loss of power: what was not synced is gone.
    pub fn lose_power(&mut self) {
        self.kill();
        if let Some(disk) = &mut self.disk {
            disk.store.crash();
            disk.tree = disk.durable_tree.clone();
        }
    }

    pub fn lose_disk(&mut self) {
        self.kill();
        self.disk = Some(CoordinatorDisk::empty(&mut self.random));
    }

    /// The next effects are carried out only in part.
    pub fn arm_crash(&mut self, after_steps: u32) {
        if let Some(process) = &mut self.process {
            process.dies_after = Some(after_steps);
        }
    }

    pub fn is_leading(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.controller.is_some())
    }

    pub fn term_if_leader(&self) -> Option<u64> {
        let role = self.process.as_ref()?.member.role();
        (role.role == Role::Leader).then_some(role.term)
    }

    pub fn tree(&self) -> Option<&Tree> {
        self.process.as_ref().map(|process| &process.tree)
    }

    pub fn image(&self) -> Option<&Image> {
        self.process.as_ref().map(|process| &process.image)
    }

    fn now(&self, at: SimTime) -> Now {
        Now { monotonic: self.clock.monotonic(at), wall: self.clock.wall(at) }
    }

    pub fn tick(&mut self, at: SimTime, out: &mut Outbox) -> Vec<AppliedEntry> {
        let now = self.now(at);
        let Some(process) = &mut self.process else { return Vec::new() };
        process.member.tick();
        if let Some(controller) = &mut process.controller {
            let effects = controller.tick(now);
            process.carry_out(effects, now, out);
        }
        process.settle(now, self.id, out)
    }

    pub fn receive(&mut self, at: SimTime, from: NodeId, message: Message, out: &mut Outbox) -> Vec<AppliedEntry> {
        let now = self.now(at);
        let entropy = self.random.bytes_16();
        let Some(process) = &mut self.process else { return Vec::new() };
        match message {
            Message::Raft { disk, bytes } => process.raft(from, disk, &bytes, out),
            Message::Cluster { call, request } => process.request(now, from, call, &request, entropy, out),
            Message::BeatOpen { connection, beat } => process.beat(now, from, connection, beat, true, out),
            Message::Beat { connection, beat } => process.beat(now, from, connection, beat, false, out),
            Message::Watch { stream, from: revision } => process.watch(from, stream, revision, out),
            Message::ConnectionLost => process.connection_lost(now, from, out),
            _ => {}
        }
        process.settle(now, self.id, out)
    }

    /// The end of a dial.
    pub fn probed(
        &mut self,
        at: SimTime,
        broker: BrokerId,
        incarnation: IncarnationId,
        result: ProbeResult,
        out: &mut Outbox,
    ) -> Vec<AppliedEntry> {
        let now = self.now(at);
        let Some(process) = &mut self.process else { return Vec::new() };
        process.reached.note(broker, incarnation, result);
        process.input(now, Input::Probed { broker, incarnation, result }, out);
        process.settle(now, self.id, out)
    }
}

impl CoordinatorNode {
    /// A message of a watch could not be sent: the stream is over.
    pub fn watch_broken(&mut self, watcher: NodeId) {
        if let Some(process) = &mut self.process {
            process.watchers.remove(&watcher);
        }
    }
}
