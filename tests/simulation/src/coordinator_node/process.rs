//! The process of a coordinator: the node, and its connections to the other processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ottla_consensus::Outgoing;
use ottla_metadata::controller::{Beat, ChangeQuorum, Refusal, StreamId};
use ottla_metadata::{Answer as ClusterAnswer, Now, Request, Tree};
use ottla_model::{CoordinatorId, ErrorCode, FeatureLevels, IncarnationId, Revision};
use ottla_quorum_node::identity::{Conflict, Identified, OwnIdentity};
use ottla_quorum_node::opinions::Opinions;
use ottla_quorum_node::{
    Admission, AdmissionStep, BrokenRules, CallId, Event, Node, NodeError, Output, ReadId, RequestError, Sink,
    WatchUpdate, WatcherId,
};

use super::peers::{Answer, NoAnswer, Peers, QUEUED_MESSAGES_MAX, Questions};
use super::store::SimulatedStore;
use super::{CLUSTER, DiskLabel, Observed};
use crate::message::{self, Message, WatchEvent};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// A broker's heartbeat stream.
type Connection = (NodeId, u64);

pub(super) struct Process {
    pub(super) node: Node<SimulatedStore>,
    pub(super) label: DiskLabel,
    levels: FeatureLevels,
    broken_rules: BrokenRules,
    connections: Connections,
    peers: Peers,
    /// What the other members say of this disk.
    opinions: Opinions,
    questions: Questions<About>,
    /// The stream of each sender whose messages are taken.
    taken: BTreeMap<CoordinatorId, u64>,
    admissions: BTreeMap<StreamKey, Admitting>,
    /// What the transport has to tell the node with its next turn.
    pending: Vec<Event>,
}

/// Why a coordinator is asked for its identity.
enum About {
    /// A stream is to be opened.
    Stream(CoordinatorId),
    /// What it knows of the sender of a stream.
    Sender(StreamKey),
    /// Whether it has opened the stream.
    Confirmation(StreamKey),
    /// It is to be added to the quorum.
    Addition { asked_by: NodeId, call: message::CallId, added: (CoordinatorId, IncarnationId, String) },
}

/// A stream of another coordinator, by the sender and its name of the stream.
type StreamKey = (CoordinatorId, u64);

/// A stream that is not taken yet.
struct Admitting {
    admission: Admission,
    disk: IncarnationId,
    /// What has come of it.
    messages: Vec<Bytes>,
    /// Members that have not answered.
    asked: usize,
    answers: Vec<Identified>,
}

/// A broker that follows the tree.
struct Watcher {
    node: NodeId,
    stream: u64,
    /// The revision that it has.
    reached: Revision,
}

/// Who is behind the names that the node knows.
#[derive(Default)]
struct Connections {
    last_name: u64,
    calls: BTreeMap<CallId, (NodeId, message::CallId)>,
    streams: BTreeMap<StreamId, Connection>,
    watchers: BTreeMap<WatcherId, Watcher>,
    /// The newest revision when each read was asked.
    reads: BTreeMap<ReadId, Revision>,
}

impl Connections {
    fn name(&mut self) -> u64 {
        self.last_name += 1;
        self.last_name
    }

    fn call(&mut self, from: NodeId, call: message::CallId) -> CallId {
        let name = CallId(self.name());
        self.calls.insert(name, (from, call));
        name
    }

    fn stream_of(&self, connection: Connection) -> Option<StreamId> {
        self.streams.iter().find(|(_, known)| **known == connection).map(|(stream, _)| *stream)
    }
}

/// Turns what the node wants into messages and notes.
struct Wire<'a> {
    now: Now,
    id: CoordinatorId,
    disk: IncarnationId,
    connections: &'a mut Connections,
    peers: &'a mut Peers,
    pending: &'a mut Vec<Event>,
    published: Revision,
    observed: Vec<Observed>,
    wants_snapshot: bool,
    out: &'a mut Outbox,
}

impl Sink for Wire<'_> {
    fn send(&mut self, message: Outgoing) -> bool {
        self.peers.send(self.disk, message, self.pending, self.out)
    }

    fn put(&mut self, output: Output) {
        match output {
            Output::Respond { call, outcome } => {
                let Some((to, call)) = self.connections.calls.remove(&call) else { return };
                let (answer, leader) = match outcome {
                    Ok(answer) => (Some(Box::new(answer)), None),
                    Err(RequestError::NotLeader { leader }) => (None, leader),
                    Err(RequestError::Refused(why)) => {
                        self.out.note(format_args!("a request is refused: {why}"));
                        (None, None)
                    }
                };
                self.out.send(to, Message::ClusterAnswer { call, answer, leader });
            }
            Output::Beat { stream, response } => {
                if let Some(&(to, connection)) = self.connections.streams.get(&stream) {
                    self.out.send(to, Message::BeatAnswer { connection, answer: Some(response), leader: None });
                }
            }
            Output::EndStream { stream, leader } => {
                if let Some((to, connection)) = self.connections.streams.remove(&stream) {
                    self.out.send(to, Message::BeatAnswer { connection, answer: None, leader });
                }
            }
            Output::Read(read) => {
                if let Some(asked_at) = self.connections.reads.remove(&read) {
                    self.observed.push(Observed::Read { asked_at, revision: self.published });
                }
            }
            Output::Probe(probe) => self.out.probes.push(probe),
            Output::Applied(entry) => self.observed.push(Observed::Applied {
                revision: entry.revision,
                digest: digest(&entry.tree),
                tree: entry.tree,
                problem: entry.problem,
            }),
            Output::Published(view) => self.published = view.revision,
            Output::Watch { watcher, update } => {
                let Some(watcher) = self.connections.watchers.get_mut(&watcher) else { return };
                let revision = match &update {
                    WatchUpdate::Snapshot(view) => view.revision,
                    WatchUpdate::Changes(item) => item.revision,
                };
                let reached = std::mem::replace(&mut watcher.reached, revision);
                self.observed.push(Observed::Watched { reached, revision });
                let event = watch_event(update);
                self.out.send(watcher.node, Message::WatchEvent { stream: watcher.stream, event });
            }
            Output::MakeSnapshot => self.wants_snapshot = true,
            Output::BrokersAsked { leader, brokers } => {
                self.peers.tell_of_brokers(leader, self.disk, brokers, self.out)
            }
            Output::Members(members) => self.peers.follow(self.id, &members, self.now.monotonic),
            Output::Role(_) | Output::UncleanElections(_) => {}
            Output::Removed => self.out.dies = true,
            Output::Note(note) => self.out.note(format_args!("{}", note.text)),
        }
    }
}

fn watch_event(update: WatchUpdate) -> WatchEvent {
    match update {
        WatchUpdate::Snapshot(view) => {
            let nodes = view.tree.iter().map(|(path, node)| (path.clone(), node.clone())).collect();
            WatchEvent::Snapshot { revision: view.revision, nodes: Arc::new(nodes) }
        }
        WatchUpdate::Changes(item) => WatchEvent::Changes { revision: item.revision, changes: item.changes },
    }
}

impl Process {
    pub(super) fn new(
        node: Node<SimulatedStore>,
        label: DiskLabel,
        (levels, broken_rules): (FeatureLevels, BrokenRules),
        unused_stream: u64,
        now: Now,
    ) -> Self {
        let mut peers = Peers::new(unused_stream);
        peers.follow(node.id(), node.members(), now.monotonic);
        Self {
            node,
            label,
            levels,
            broken_rules,
            connections: Connections::default(),
            peers,
            opinions: Opinions::default(),
            questions: Questions::default(),
            taken: BTreeMap::new(),
            admissions: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    fn own(&self) -> OwnIdentity {
        let image = &self.node.view().image;
        OwnIdentity {
            id: self.node.id(),
            disk: self.label.id,
            cluster_id: Some(image.cluster_id().map_or_else(|| CLUSTER.to_owned(), ToString::to_string)),
            listed: BTreeMap::new(),
            members: Some(self.node.members().clone()),
            levels: self.levels,
            broken_rules: self.broken_rules,
        }
    }

    /// One turn of the driver: what the transport knows, what happened, a tick if it is time, and everything that
    /// follows.
    pub(super) fn turn(&mut self, now: Now, events: Vec<Event>, ticks: u32, out: &mut Outbox) -> Vec<Observed> {
        let mut told = std::mem::take(&mut self.pending);
        told.extend(events);
        let mut wire = Wire {
            now,
            id: self.node.id(),
            disk: self.label.id,
            published: self.node.view().revision,
            connections: &mut self.connections,
            peers: &mut self.peers,
            pending: &mut self.pending,
            observed: Vec::new(),
            wants_snapshot: false,
            out,
        };
        let result = take_turn(&mut self.node, now, told, ticks, &mut wire);
        if let Err(error) = result {
            wire.out.note(format_args!("ends: {error}"));
            wire.out.dies = true;
        }
        let Wire { observed, wants_snapshot, .. } = wire;
        if wants_snapshot {
            self.pending.push(Event::SnapshotMade(self.node.store().make_snapshot()));
        }
        observed
    }

    // ---- other coordinators

    /// Questions without an answer end, and streams are dialled. A conflict ends this coordinator.
    pub(super) fn tick_peers(&mut self, now: Now, out: &mut Outbox) -> Result<(), Conflict> {
        for about in self.questions.expired(now.monotonic) {
            self.answered(now, about, Err(NoAnswer::Silent), out)?;
        }
        for (id, address) in self.peers.tick(now.monotonic) {
            self.ask(now, (&address, None), About::Stream(id), out)?;
        }
        Ok(())
    }

    fn ask(&mut self, now: Now, of: (&str, Option<u64>), about: About, out: &mut Outbox) -> Result<(), Conflict> {
        let own = self.own();
        match self.questions.ask(now.monotonic, &own, of, about, out) {
            Ok(()) => Ok(()),
            Err(about) => self.answered(now, about, Err(NoAnswer::NoAddress), out),
        }
    }

    fn answered(&mut self, now: Now, about: About, answer: Answer, out: &mut Outbox) -> Result<(), Conflict> {
        self.answered_of_stream(now, about, answer, false, out)
    }

    /// `is_confirmed`: the one that was asked says that it has opened the stream.
    fn answered_of_stream(
        &mut self,
        now: Now,
        about: About,
        answer: Answer,
        is_confirmed: bool,
        out: &mut Outbox,
    ) -> Result<(), Conflict> {
        let own = self.own();
        match about {
            About::Stream(id) => {
                let effects = (&mut self.pending, out);
                self.peers.identified(now.monotonic, &own, &mut self.opinions, (id, answer), effects)?;
            }
            About::Sender(key) => {
                let Some(admitting) = self.admissions.get_mut(&key) else { return Ok(()) };
                admitting.asked -= 1;
                admitting.answers.extend(answer);
                if admitting.asked == 0 {
                    self.members_answered(now, key, out)?;
                }
            }
            About::Confirmation(key) => {
                let Some(admitting) = self.admissions.get(&key) else { return Ok(()) };
                let step = admitting.admission.confirmed(answer.as_ref().ok().map(|found| (found, is_confirmed)));
                self.admit(now, key, step, out)?;
            }
            About::Addition { asked_by, call, added } => {
                let checked = match answer {
                    Ok(found) => own.check_addition(added, &found),
                    Err(why) => Err(Refusal::new(ErrorCode::InvalidRequest, why.to_string())),
                };
                match checked {
                    Ok(change) => {
                        let request = Request::ChangeQuorum(change);
                        let call = self.connections.call(asked_by, call);
                        // Nothing in a change of the quorum is left to chance.
                        self.pending.push(Event::Request { call, request, entropy: [0; 16] });
                    }
                    Err(refusal) => {
                        let answer = Some(Box::new(ClusterAnswer::ChangeQuorum(Err(refusal))));
                        out.send(asked_by, Message::ClusterAnswer { call, answer, leader: None });
                    }
                }
            }
        }
        Ok(())
    }

    /// A message of another coordinator, or of somebody who says so.
    fn raft(
        &mut self,
        now: Now,
        key: StreamKey,
        (disk, message): (IncarnationId, Bytes),
        out: &mut Outbox,
    ) -> Result<Vec<Event>, Conflict> {
        let (sender, stream) = key;
        let members = self.node.members().clone();
        if self.taken.get(&sender) == Some(&stream) {
            if !members.was_removed(sender, disk) {
                return Ok(vec![Event::Raft { sender, disk, message }]);
            }
            // Its stream ends; then it asks who it is, and is told.
            self.taken.remove(&sender);
            out.send(NodeId::Coordinator(sender.0), Message::RaftRefused { stream });
            return Ok(Vec::new());
        }
        if let Some(admitting) = self.admissions.get_mut(&key) {
            if admitting.messages.len() < QUEUED_MESSAGES_MAX {
                admitting.messages.push(message);
            }
            return Ok(Vec::new());
        }
        let (admission, step) = Admission::begin(&members, self.node.id(), (sender, disk), self.broken_rules);
        let admitting = Admitting { admission, disk, messages: vec![message], asked: 0, answers: Vec::new() };
        self.admissions.insert(key, admitting);
        self.admit(now, key, step, out)?;
        Ok(Vec::new())
    }

    /// Does what comes next for a stream that is to be admitted.
    fn admit(&mut self, now: Now, key: StreamKey, step: AdmissionStep, out: &mut Outbox) -> Result<(), Conflict> {
        let (sender, stream) = key;
        match step {
            AdmissionStep::AskMembers(addresses) => {
                let Some(admitting) = self.admissions.get_mut(&key) else { return Ok(()) };
                admitting.asked = addresses.len();
                for address in &addresses {
                    self.ask(now, (address, None), About::Sender(key), out)?;
                }
                if addresses.is_empty() { self.members_answered(now, key, out) } else { Ok(()) }
            }
            AdmissionStep::Confirm(address) => self.ask(now, (&address, Some(stream)), About::Confirmation(key), out),
            AdmissionStep::Admitted => {
                let Some(Admitting { admission, disk, messages, .. }) = self.admissions.remove(&key) else {
                    return Ok(());
                };
                self.taken.insert(sender, stream);
                self.pending.extend(admission.vouched());
                let messages = messages.into_iter().map(|message| Event::Raft { sender, disk, message });
                self.pending.extend(messages);
                Ok(())
            }
            AdmissionStep::Refused(_) => {
                self.admissions.remove(&key);
                out.send(NodeId::Coordinator(sender.0), Message::RaftRefused { stream });
                Ok(())
            }
        }
    }

    fn members_answered(&mut self, now: Now, key: StreamKey, out: &mut Outbox) -> Result<(), Conflict> {
        let members = self.node.members().clone();
        let Some(admitting) = self.admissions.get_mut(&key) else { return Ok(()) };
        let answers = std::mem::take(&mut admitting.answers);
        let step = admitting.admission.members_answered(&members, answers);
        self.admit(now, key, step, out)
    }

    /// The streams of other coordinators whose messages are taken.
    pub(super) fn taken_streams(&self) -> impl Iterator<Item = StreamKey> + '_ {
        self.taken.iter().map(|(sender, stream)| (*sender, *stream))
    }

    // ---- messages

    /// A linearizable read, asked when `newest` was the newest revision that was applied anywhere.
    pub(super) fn read(&mut self, newest: Revision) -> Event {
        let read = ReadId(self.connections.name());
        self.connections.reads.insert(read, newest);
        Event::Read(read)
    }

    /// What a message of another process is to the node. A conflict ends this coordinator.
    pub(super) fn received(
        &mut self,
        now: Now,
        from: NodeId,
        message: Message,
        entropy: [u8; 16],
        out: &mut Outbox,
    ) -> Result<Vec<Event>, Conflict> {
        let events = match (message, from) {
            (Message::Raft { stream, disk, bytes }, NodeId::Coordinator(sender)) => {
                return self.raft(now, (CoordinatorId(sender), stream), (disk, bytes), out);
            }
            (Message::BrokersAsked { stream, disk, brokers }, NodeId::Coordinator(sender)) => {
                let sender = CoordinatorId(sender);
                match self.taken.get(&sender) == Some(&stream) {
                    true => vec![Event::PeerWasAsked { sender, disk, brokers }],
                    false => Vec::new(),
                }
            }
            (Message::RaftRefused { stream }, NodeId::Coordinator(peer)) => {
                self.peers.broken(now.monotonic, CoordinatorId(peer), Some(stream), &mut self.pending);
                Vec::new()
            }
            (Message::Identify { call, asker, disk, stream, .. }, from) => {
                let identity = Box::new(self.own().answer(asker, Some(disk)));
                let stream_confirmed = stream.is_some_and(|stream| self.peers.has_stream(asker, stream));
                out.send(from, Message::IdentifyAnswer { call, identity, stream_confirmed });
                Vec::new()
            }
            (Message::IdentifyAnswer { call, identity, stream_confirmed }, _) => {
                if let Some(about) = self.questions.answered(call) {
                    self.answered_of_stream(now, about, Ok(*identity), stream_confirmed, out)?;
                }
                Vec::new()
            }
            (Message::Cluster { call, request }, _) => match &*request {
                // A coordinator that is to be added must answer at its address.
                Request::ChangeQuorum(ChangeQuorum::Add { coordinator, disk, address }) if self.node.is_leader() => {
                    let added = (*coordinator, *disk, address.clone());
                    self.ask(now, (address, None), About::Addition { asked_by: from, call, added }, out)?;
                    Vec::new()
                }
                request => {
                    let call = self.connections.call(from, call);
                    vec![Event::Request { call, request: request.clone(), entropy }]
                }
            },
            (Message::BeatOpen { connection, beat }, _) => self.beat((from, connection), beat, true, out),
            (Message::Beat { connection, beat }, _) => self.beat((from, connection), beat, false, out),
            (Message::Watch { stream, from: revision }, _) => {
                // A broker has one watch at a time: it closed the former one.
                let mut events = self.close_watch(from);
                let watcher = WatcherId(self.connections.name());
                self.connections.watchers.insert(watcher, Watcher { node: from, stream, reached: revision });
                events.push(Event::WatchOpened { watcher, from: revision });
                events
            }
            // Of a watch that has ended here, there is no answer: the connection is gone.
            (Message::WatchPing { stream }, _) => {
                if self.connections.watchers.values().any(|watcher| watcher.node == from && watcher.stream == stream) {
                    out.send(from, Message::WatchPong { stream });
                }
                Vec::new()
            }
            (Message::ConnectionLost, NodeId::Coordinator(id)) => {
                self.peers.broken(now.monotonic, CoordinatorId(id), None, &mut self.pending);
                self.taken.remove(&CoordinatorId(id));
                for about in self.questions.refused(from) {
                    self.answered(now, about, Err(NoAnswer::Refused), out)?;
                }
                Vec::new()
            }
            (Message::ConnectionLost, _) => {
                let mut events = self.close_watch(from);
                events.extend(self.close_streams(from));
                events
            }
            _ => Vec::new(),
        };
        Ok(events)
    }

    fn beat(&mut self, connection: Connection, beat: Beat, opens: bool, out: &mut Outbox) -> Vec<Event> {
        match self.connections.stream_of(connection) {
            Some(stream) => vec![Event::StreamBeat { stream, beat }],
            None if opens => {
                // A broker has one stream at a time: it closed the former one.
                let mut events = self.close_streams(connection.0);
                let stream = StreamId(self.connections.name());
                self.connections.streams.insert(stream, connection);
                events.push(Event::StreamOpened { stream, beat });
                events
            }
            // Of a stream that has ended here.
            None => {
                let (to, connection) = connection;
                out.send(to, Message::BeatAnswer { connection, answer: None, leader: None });
                Vec::new()
            }
        }
    }

    fn close_streams(&mut self, of: NodeId) -> Vec<Event> {
        let closed = self.connections.streams.extract_if(.., |_, (node, _)| *node == of);
        closed.map(|(stream, _)| Event::StreamClosed { stream }).collect()
    }

    fn close_watch(&mut self, of: NodeId) -> Vec<Event> {
        let closed = self.connections.watchers.extract_if(.., |_, watcher| watcher.node == of);
        closed.map(|(watcher, _)| Event::WatchClosed(watcher)).collect()
    }

    pub(super) fn watch_broken(&mut self, watcher: NodeId) {
        let events = self.close_watch(watcher);
        self.pending.extend(events);
    }
}

fn take_turn(
    node: &mut Node<SimulatedStore>,
    now: Now,
    events: Vec<Event>,
    ticks: u32,
    wire: &mut Wire<'_>,
) -> Result<(), NodeError> {
    for event in events {
        node.step(now, event, wire)?;
    }
    if ticks > 0 {
        node.tick(now, ticks, wire);
    }
    node.flush(now, wire)
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
