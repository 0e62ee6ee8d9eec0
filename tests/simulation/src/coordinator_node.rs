//! One coordinator: a host with a disk, and the process on it, which drives a [`Member`], the tree and, while it leads, the
//! controller. Carries out effects in the order that `ottla_consensus::effects` prescribes, and may die between any two steps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ottla_consensus::snapshot::{Encoder, Pairs};
use ottla_consensus::{
    Committed, LogStore, Member, MemberConfig, Membership, MemoryStore, Outgoing, Role, Snapshot, SnapshotMetadata,
};
use ottla_metadata::controller::{AdmitCoordinator, Beat, Probe, ProbeResult, Rules, StreamId};
use ottla_metadata::liveness::Reached;
use ottla_metadata::{
    Controller, ControllerConfig, Effects, EntryId, Image, Input, Node, NodeChange, Now, Path, Request, RequestId,
    Transaction, TransactionRefused, Tree,
};
use ottla_model::{BrokerId, ClusterId, CoordinatorId, IncarnationId, Revision};

use crate::clock::{HostClock, SimTime};
use crate::message::{CallId, Message, WatchEvent};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

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

struct Process {
    rules: Rules,
    /// What the tree shall remember of the members' disks, if it does not yet.
    disks: Vec<AdmitCoordinator>,
    member: Member<MemoryStore>,
    disk_id: IncarnationId,
    tree: Tree,
    durable_tree: Tree,
    image: Image,
    controller: Option<Controller>,
    /// What dialling has taught this process.
    reached: Reached,
    /// Proposed under the current leadership: revision → entry.
    proposed: BTreeMap<Revision, EntryId>,
    requests: BTreeMap<RequestId, (NodeId, CallId)>,
    next_request: u64,
    beats: BTreeMap<(NodeId, u64), StreamId>,
    next_stream: u64,
    watchers: BTreeMap<NodeId, u64>,
    history: VecDeque<(Revision, Arc<[NodeChange]>)>,
    /// Dies after this many steps of carrying out effects.
    dies_after: Option<u32>,
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

impl Process {
    fn input(&mut self, now: Now, input: Input, out: &mut Outbox) {
        if let Some(controller) = &mut self.controller {
            let effects = controller.step(now, input);
            self.carry_out(effects, now, out);
        }
    }

    fn leader_hint(&self) -> Option<CoordinatorId> {
        self.member.role().leader
    }

    fn raft(&mut self, from: NodeId, disk: IncarnationId, bytes: &Bytes, out: &mut Outbox) {
        let NodeId::Coordinator(sender) = from else { return };
        // An old id on a new disk has forgotten its votes: not listened to.
        if self.image.coordinator_disk(CoordinatorId(sender)).is_some_and(|known| known != disk) {
            return;
        }
        if let Err(error) = self.member.step(bytes) {
            out.note(format_args!("raft message refused: {error}"));
        }
    }

    fn request(
        &mut self,
        now: Now,
        from: NodeId,
        call: CallId,
        request: &Request,
        entropy: [u8; 16],
        out: &mut Outbox,
    ) {
        if self.controller.is_none() {
            let leader = self.leader_hint();
            out.send(from, Message::ClusterAnswer { call, answer: None, leader });
            return;
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, (from, call));
        self.input(now, Input::Request { id, request: request.clone(), entropy }, out);
    }

    fn beat(&mut self, now: Now, from: NodeId, connection: u64, beat: Beat, opens: bool, out: &mut Outbox) {
        if self.controller.is_none() {
            let leader = self.leader_hint();
            out.send(from, Message::BeatAnswer { connection, answer: None, leader });
            return;
        }
        let input = match self.beats.get(&(from, connection)) {
            Some(&stream) => Input::StreamBeat { stream, beat },
            None if opens => {
                // A broker has one stream at a time: it closed the former one.
                let former: Vec<_> = self.beats.keys().filter(|(node, _)| *node == from).copied().collect();
                for key in former {
                    if let Some(stream) = self.beats.remove(&key) {
                        self.input(now, Input::StreamClosed { stream }, out);
                    }
                }
                let stream = StreamId(self.next_stream);
                self.next_stream += 1;
                self.beats.insert((from, connection), stream);
                Input::StreamOpened { stream, beat }
            }
            // Of a stream to a former leadership of this process.
            None => {
                out.send(from, Message::BeatAnswer { connection, answer: None, leader: None });
                return;
            }
        };
        self.input(now, input, out);
    }

    fn connection_lost(&mut self, now: Now, from: NodeId, out: &mut Outbox) {
        if let NodeId::Coordinator(id) = from {
            self.member.leader_gone(CoordinatorId(id));
            return;
        }
        self.watchers.remove(&from);
        let lost: Vec<_> = self.beats.keys().filter(|(node, _)| *node == from).copied().collect();
        for key in lost {
            if let Some(stream) = self.beats.remove(&key) {
                self.input(now, Input::StreamClosed { stream }, out);
            }
        }
    }

    fn watch(&mut self, from: NodeId, stream: u64, revision: Revision, out: &mut Outbox) {
        self.watchers.insert(from, stream);
        let current = self.tree.revision();
        if revision >= current {
            return; // a watcher that is ahead waits: its image never goes back (scenario 22)
        }
        let goes_on = revision.0 > 0 && self.history.front().is_some_and(|(oldest, _)| oldest.0 <= revision.0 + 1);
        if goes_on {
            for (revision, changes) in self.history.iter().filter(|(at, _)| *at > revision) {
                let event = WatchEvent::Changes { revision: *revision, changes: changes.clone() };
                out.send(from, Message::WatchEvent { stream, event });
            }
        } else {
            let nodes = self.tree.iter().map(|(path, node)| (path.clone(), node.clone())).collect();
            let event = WatchEvent::Snapshot { revision: current, nodes: Arc::new(nodes) };
            out.send(from, Message::WatchEvent { stream, event });
        }
    }

    fn carry_out(&mut self, effects: Effects, now: Now, out: &mut Outbox) {
        let mut dropped = Vec::new();
        for (entry, transaction) in effects.proposals {
            match self.member.propose(vec![transaction.encode().into()]) {
                Ok(proposed) => {
                    self.proposed.insert(proposed.first, entry);
                }
                Err(_) => dropped.push(entry),
            }
        }
        for (request, answer) in effects.answers {
            if let Some((to, call)) = self.requests.remove(&request) {
                let leader = self.leader_hint();
                out.send(to, Message::ClusterAnswer { call, answer: Some(Box::new(answer)), leader });
            }
        }
        for (stream, answer) in effects.heartbeats {
            if let Some(&(to, connection)) = self.beats.iter().find(|(_, known)| **known == stream).map(|(key, _)| key)
            {
                out.send(to, Message::BeatAnswer { connection, answer: Some(answer), leader: None });
            }
        }
        out.probes.extend(effects.probes);
        for note in effects.notes {
            out.note(format_args!("{}", note.text));
        }
        for entry in dropped {
            self.input(now, Input::Dropped { entry }, out);
        }
    }

    /// One step further towards an armed crash.
    fn dies_here(&mut self, out: &mut Outbox) -> bool {
        match &mut self.dies_after {
            Some(0) => {
                out.dies = true;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Carries out Raft's effects until there are none.
    fn settle(&mut self, now: Now, me: CoordinatorId, out: &mut Outbox) -> Vec<AppliedEntry> {
        let mut applied = Vec::new();
        while let Some(effects) = self.member.effects() {
            if self.dies_here(out) {
                return applied;
            }
            self.send_all(effects.messages, out);
            if self.dies_here(out) {
                return applied;
            }
            if let Some(snapshot) = &effects.persist.snapshot {
                self.restore(snapshot, out);
                applied.push(AppliedEntry { revision: self.tree.revision(), digest: digest(&self.tree) });
            }
            let mut persist = effects.persist;
            // The tree of a snapshot and the log that begins behind it are one batch.
            persist.must_sync |= persist.snapshot.is_some();
            if let Err(error) = self.member.store_mut().persist(&persist) {
                out.note(format_args!("the log store failed: {error}"));
                out.dies = true;
                return applied;
            }
            let after = self.member.persisted();
            if self.dies_here(out) {
                return applied;
            }
            self.send_all(after.messages, out);
            self.send_all(effects.messages_after_persist, out);
            for committed in effects.committed.iter().chain(&after.committed) {
                self.apply(now, committed, &mut applied, out);
                self.member.applied(committed.revision);
                if self.dies_here(out) {
                    return applied;
                }
            }
            self.check_leadership(me, out);
            self.compact(out);
        }
        applied
    }

    fn send_all(&self, messages: Vec<Outgoing>, out: &mut Outbox) {
        for message in messages {
            out.send(NodeId::Coordinator(message.to.0), Message::Raft { disk: self.disk_id, bytes: message.bytes });
        }
    }

    /// A controller lives as long as its leadership.
    fn check_leadership(&mut self, me: CoordinatorId, out: &mut Outbox) {
        if self.controller.is_some() && !self.member.is_leader() {
            out.note(format_args!("leads no more"));
            if let Some(controller) = self.controller.take() {
                self.reached = controller.into_reached();
            }
            self.proposed.clear();
            // Whoever waits for an answer will not get one: what was asked may have been decided, or not.
            self.requests.clear();
            for (to, connection) in std::mem::take(&mut self.beats).into_keys() {
                let leader = self.leader_hint().filter(|leader| *leader != me);
                out.send(to, Message::BeatAnswer { connection, answer: None, leader });
            }
        }
    }

    fn apply(&mut self, now: Now, committed: &Committed, applied: &mut Vec<AppliedEntry>, out: &mut Outbox) {
        let revision = committed.revision;
        if revision <= self.tree.revision() {
            return; // applied before a crash that lost only Raft's note of it
        }
        let outcome = if committed.data.is_empty() {
            self.tree.advance(revision);
            Ok(Vec::new())
        } else {
            match Transaction::decode(&committed.data) {
                Ok(transaction) => self.tree.apply(revision, &transaction),
                Err(error) => {
                    out.note(format_args!("an entry that cannot be read: {error}"));
                    self.tree.advance(revision);
                    Ok(Vec::new())
                }
            }
        };
        applied.push(AppliedEntry { revision, digest: digest(&self.tree) });
        let (result, changes): (Result<(), TransactionRefused>, Arc<[NodeChange]>) = match outcome {
            Ok(changes) => (Ok(()), changes.into()),
            Err(refused) => (Err(refused), Arc::from([])),
        };
        let (image, delta) = self.image.apply(revision, &changes);
        self.image = image;
        // Every member learns where brokers listen, not only the leader.
        for broker in delta.brokers.iter().filter_map(|change| change.new.as_ref()) {
            if !self.reached.has(broker.id, broker.incarnation)
                && let Some(endpoint) = broker.inter_broker_endpoint()
            {
                let (broker, incarnation, endpoint) = (broker.id, broker.incarnation, endpoint.clone());
                out.probes.push(Probe { broker, incarnation, endpoint });
            }
        }
        self.history.push_back((revision, changes.clone()));
        if self.history.len() > HISTORY_REVISIONS {
            self.history.pop_front();
        }
        for (&watcher, &stream) in &self.watchers {
            let event = WatchEvent::Changes { revision, changes: changes.clone() };
            out.send(watcher, Message::WatchEvent { stream, event });
        }
        let role = self.member.role();
        let leads = role.role == Role::Leader && role.term == committed.term;
        if self.controller.is_some() {
            let entry = self.proposed.remove(&revision).filter(|_| leads);
            self.input(now, Input::Applied { entry, revision, result, changes }, out);
        } else if leads && committed.data.is_empty() {
            out.note(format_args!("decides from revision {revision} on, in term {}", role.term));
            let config = ControllerConfig {
                rules: self.rules,
                coordinators: self.disks.clone(),
                ..ControllerConfig::new(ClusterId::new("simulation"))
            };
            let (controller, effects) =
                Controller::new(now, config, self.tree.clone(), self.image.clone(), self.reached.clone());
            self.controller = Some(controller);
            self.carry_out(effects, now, out);
        }
    }

    fn restore(&mut self, snapshot: &Snapshot, out: &mut Outbox) {
        let revision = Revision(snapshot.get_metadata().index);
        match decode_tree(revision, snapshot.data.clone()) {
            Ok(tree) => {
                out.note(format_args!("installs a snapshot at revision {revision}"));
                self.image = Image::from_tree(&tree);
                self.durable_tree = tree.clone();
                self.tree = tree;
                self.history.clear();
                let nodes: Arc<Vec<(Path, Node)>> =
                    Arc::new(self.tree.iter().map(|(path, node)| (path.clone(), node.clone())).collect());
                for (&watcher, &stream) in &self.watchers {
                    let event = WatchEvent::Snapshot { revision, nodes: nodes.clone() };
                    out.send(watcher, Message::WatchEvent { stream, event });
                }
            }
            Err(error) => out.note(format_args!("a snapshot that cannot be read: {error}")),
        }
    }

    fn compact(&mut self, out: &mut Outbox) {
        let applied = self.tree.revision().0;
        let wanted = self.member.take_snapshot_wanted();
        let first = self.member.store().first_index();
        if !wanted && applied < first + LOG_ENTRIES_MAX {
            return;
        }
        let Ok(term) = self.member.store().term(applied) else { return };
        let metadata = SnapshotMetadata {
            index: applied,
            term,
            conf_state: Some(self.member.store().conf_state().clone()).into(),
            ..SnapshotMetadata::default()
        };
        let snapshot =
            Snapshot { data: encode_tree(&self.tree), metadata: Some(metadata).into(), ..Snapshot::default() };
        self.durable_tree = self.tree.clone();
        self.member.store_mut().set_snapshot(snapshot);
        // Some entries stay for members that are only a little behind.
        let through = applied.saturating_sub(LOG_ENTRIES_MAX / 4);
        if through >= first
            && let Err(error) = self.member.store_mut().compact(through)
        {
            out.note(format_args!("compaction failed: {error}"));
        }
    }
}

fn encode_tree(tree: &Tree) -> Bytes {
    let mut encoder = Encoder::new();
    for (path, node) in tree.iter() {
        encoder.pair(path.as_str().as_bytes(), &node.encode());
    }
    encoder.finish()
}

fn decode_tree(revision: Revision, data: Bytes) -> anyhow::Result<Tree> {
    let mut nodes = Vec::new();
    for pair in Pairs::new(data)? {
        let (path, node) = pair?;
        nodes.push((Path::new(std::str::from_utf8(&path)?)?, Node::decode(&node)?));
    }
    Ok(Tree::restore(revision, nodes))
}

/// Of everything the tree holds: equal trees have equal digests.
fn digest(tree: &Tree) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    };
    for (path, node) in tree.iter() {
        mix(path.as_str().as_bytes());
        mix(&node.payload);
        mix(&node.created.0.to_be_bytes());
        mix(&node.modified.0.to_be_bytes());
        mix(&node.version.to_be_bytes());
    }
    hash
}
