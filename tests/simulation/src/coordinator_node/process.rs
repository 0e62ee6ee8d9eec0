//! The process of a coordinator: Raft's effects in their order, the tree, the controller while this member leads, and watchers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ottla_consensus::snapshot::{Encoder, Pairs};
use ottla_consensus::{Committed, LogStore, Member, MemoryStore, Outgoing, Role, Snapshot, SnapshotMetadata};
use ottla_metadata::controller::{AdmitCoordinator, Beat, BrokenRules as Rules, Probe, StreamId};
use ottla_metadata::liveness::Reached;
use ottla_metadata::{
    Controller, ControllerConfig, Effects, EntryId, Image, Input, Node, NodeChange, Now, Path, Request, RequestId,
    Transaction, TransactionRefused, Tree,
};
use ottla_model::{ClusterId, CoordinatorId, IncarnationId, Revision};

use super::{AppliedEntry, HISTORY_REVISIONS, LOG_ENTRIES_MAX};
use crate::message::{CallId, Message, WatchEvent};
use crate::network::NodeId;
use crate::outbox::Outbox;

pub(super) struct Process {
    pub(super) rules: Rules,
    /// What the tree shall remember of the members' disks, if it does not yet.
    pub(super) disks: Vec<AdmitCoordinator>,
    pub(super) member: Member<MemoryStore>,
    pub(super) disk_id: IncarnationId,
    pub(super) tree: Tree,
    pub(super) durable_tree: Tree,
    pub(super) image: Image,
    pub(super) controller: Option<Controller>,
    /// What dialling has taught this process.
    pub(super) reached: Reached,
    /// Proposed under the current leadership: revision → entry.
    pub(super) proposed: BTreeMap<Revision, EntryId>,
    pub(super) requests: BTreeMap<RequestId, (NodeId, CallId)>,
    pub(super) next_request: u64,
    pub(super) beats: BTreeMap<(NodeId, u64), StreamId>,
    pub(super) next_stream: u64,
    pub(super) watchers: BTreeMap<NodeId, u64>,
    pub(super) history: VecDeque<(Revision, Arc<[NodeChange]>)>,
    /// Dies after this many steps of carrying out effects.
    pub(super) dies_after: Option<u32>,
}

impl Process {
    pub(super) fn input(&mut self, now: Now, input: Input, out: &mut Outbox) {
        if let Some(controller) = &mut self.controller {
            let effects = controller.step(now, input);
            self.carry_out(effects, now, out);
        }
    }

    pub(super) fn leader_hint(&self) -> Option<CoordinatorId> {
        self.member.role().leader
    }

    pub(super) fn raft(&mut self, from: NodeId, disk: IncarnationId, bytes: &Bytes, out: &mut Outbox) {
        let NodeId::Coordinator(sender) = from else { return };
        // An old id on a new disk has forgotten its votes: not listened to.
        if self.image.coordinator_disk(CoordinatorId(sender)).is_some_and(|known| known != disk) {
            return;
        }
        if let Err(error) = self.member.step(bytes) {
            out.note(format_args!("raft message refused: {error}"));
        }
    }

    pub(super) fn request(
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

    pub(super) fn beat(&mut self, now: Now, from: NodeId, connection: u64, beat: Beat, opens: bool, out: &mut Outbox) {
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

    pub(super) fn connection_lost(&mut self, now: Now, from: NodeId, out: &mut Outbox) {
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

    pub(super) fn watch(&mut self, from: NodeId, stream: u64, revision: Revision, out: &mut Outbox) {
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

    pub(super) fn carry_out(&mut self, effects: Effects, now: Now, out: &mut Outbox) {
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
    pub(super) fn dies_here(&mut self, out: &mut Outbox) -> bool {
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
    pub(super) fn settle(&mut self, now: Now, me: CoordinatorId, out: &mut Outbox) -> Vec<AppliedEntry> {
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

    pub(super) fn send_all(&self, messages: Vec<Outgoing>, out: &mut Outbox) {
        for message in messages {
            out.send(NodeId::Coordinator(message.to.0), Message::Raft { disk: self.disk_id, bytes: message.bytes });
        }
    }

    /// A controller lives as long as its leadership.
    pub(super) fn check_leadership(&mut self, me: CoordinatorId, out: &mut Outbox) {
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

    pub(super) fn apply(&mut self, now: Now, committed: &Committed, applied: &mut Vec<AppliedEntry>, out: &mut Outbox) {
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

    pub(super) fn restore(&mut self, snapshot: &Snapshot, out: &mut Outbox) {
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

    pub(super) fn compact(&mut self, out: &mut Outbox) {
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
