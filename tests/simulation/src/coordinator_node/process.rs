//! The process of a coordinator: the node, and its connections to the other processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_consensus::Outgoing;
use ottla_metadata::controller::{Beat, StreamId};
use ottla_metadata::{Now, Tree};
use ottla_model::{CoordinatorId, IncarnationId, Revision};
use ottla_quorum_node::{
    CallId, Event, Members, Node, NodeError, Output, ReadId, RequestError, Sink, WatchUpdate, WatcherId,
};

use super::Observed;
use super::store::SimulatedStore;
use crate::message::{self, Message, WatchEvent};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// A broker's heartbeat stream.
type Connection = (NodeId, u64);

pub(super) struct Process {
    pub(super) node: Node<SimulatedStore>,
    pub(super) disk_id: IncarnationId,
    connections: Connections,
    /// As the node told them last: whom its messages reach.
    members: Arc<Members>,
    /// What the transport has to tell the node with its next turn.
    pending: Vec<Event>,
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

    fn stream_of(&self, connection: Connection) -> Option<StreamId> {
        self.streams.iter().find(|(_, known)| **known == connection).map(|(stream, _)| *stream)
    }
}

/// Turns what the node wants into messages and notes.
struct Wire<'a> {
    disk_id: IncarnationId,
    connections: &'a mut Connections,
    members: &'a mut Arc<Members>,
    pending: &'a mut Vec<Event>,
    published: Revision,
    observed: Vec<Observed>,
    wants_snapshot: bool,
    out: &'a mut Outbox,
}

impl Sink for Wire<'_> {
    fn send(&mut self, message: Outgoing) -> bool {
        let to = message.to;
        // As the service: there is no connection to one that is neither a member nor vouched for.
        if !self.members.destinations().any(|(id, _)| id == to) {
            return true;
        }
        if message.is_snapshot() {
            self.pending.push(Event::SnapshotSent { to, sent: true });
        }
        self.out.send(NodeId::Coordinator(to.0), Message::Raft { disk: self.disk_id, bytes: message.to_bytes() });
        true
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
            Output::Members(members) => *self.members = members,
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
    pub(super) fn new(node: Node<SimulatedStore>, disk_id: IncarnationId) -> Self {
        let members = node.members().clone();
        Self { node, disk_id, connections: Connections::default(), members, pending: Vec::new() }
    }

    /// One turn of the driver: what the transport knows, what happened, a tick if it is time, and everything that
    /// follows.
    pub(super) fn turn(&mut self, now: Now, events: Vec<Event>, ticks: u32, out: &mut Outbox) -> Vec<Observed> {
        let mut told = std::mem::take(&mut self.pending);
        told.extend(events);
        let mut wire = Wire {
            disk_id: self.disk_id,
            published: self.node.view().revision,
            connections: &mut self.connections,
            members: &mut self.members,
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

    /// A linearizable read, asked when `newest` was the newest revision that was applied anywhere.
    pub(super) fn read(&mut self, newest: Revision) -> Event {
        let read = ReadId(self.connections.name());
        self.connections.reads.insert(read, newest);
        Event::Read(read)
    }

    /// What a message of another process is to the node.
    pub(super) fn received(
        &mut self,
        from: NodeId,
        message: Message,
        entropy: [u8; 16],
        out: &mut Outbox,
    ) -> Vec<Event> {
        let connections = &mut self.connections;
        match (message, from) {
            (Message::Raft { disk, bytes }, NodeId::Coordinator(sender)) => {
                vec![Event::Raft { sender: CoordinatorId(sender), disk, message: bytes }]
            }
            (Message::Cluster { call, request }, _) => {
                let name = CallId(connections.name());
                connections.calls.insert(name, (from, call));
                vec![Event::Request { call: name, request: (*request).clone(), entropy }]
            }
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
            (Message::ConnectionLost, NodeId::Coordinator(id)) => vec![Event::PeerGone(CoordinatorId(id))],
            (Message::ConnectionLost, _) => {
                let mut events = self.close_watch(from);
                events.extend(self.close_streams(from));
                events
            }
            _ => Vec::new(),
        }
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

    pub(super) fn vouch(&mut self, id: CoordinatorId, disk: IncarnationId) {
        self.pending.push(Event::Vouched { id, disk, address: format!("c{id}") });
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
