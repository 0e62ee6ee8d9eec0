//! Executes the node's outputs: queues to peers, waiting callers, watchers, dials, metrics. Nothing here waits or
//! decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use ottla_consensus::{Outgoing, RoleChange};
use ottla_metadata::controller::StreamId;
use ottla_model::CoordinatorId;
use ottla_quorum_node::{self as quorum_node, CallId, Event, Members, Output, ReadId, Sink, View, WatcherId};
use ottla_rpc::{LeaderHint, NotLeader};
use ottla_tls::ClientTls;
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::{BeatSender, DriverHandle, Input, Outcome, RequestError};
use super::peer_queue::{Peer, PeerMessage, QUEUED_MESSAGES_MAX};
use super::watch::WatchSender;
use super::{CurrentView, DriverConfig};
use crate::probe;
use crate::rocksdb_store::Disk;
use crate::telemetry::Metrics;

/// What the owner of a driver must do because the members changed.
pub enum Change {
    /// A connection to this member is to be kept.
    Peer(Peer),
    /// This coordinator is no member any more.
    Removed,
}

pub(super) struct Shell {
    id: CoordinatorId,
    members: watch::Sender<Arc<Members>>,
    /// Outgoing messages, a bounded queue for each peer, with the address at which it is dialled.
    peers: BTreeMap<CoordinatorId, (String, mpsc::Sender<PeerMessage>)>,
    /// Where new peers are dialled, and where the end of this coordinator's membership is told.
    changes: mpsc::UnboundedSender<Change>,
    /// Where probes are dialled.
    runtime: tokio::runtime::Handle,
    broker_tls: Option<Arc<ClientTls>>,
    metrics: Arc<Metrics>,
    handle: DriverHandle,
    disk: Disk,
    view: CurrentView,
    role: watch::Sender<RoleChange>,
    last_name: u64,
    calls: BTreeMap<CallId, oneshot::Sender<Outcome>>,
    streams: BTreeMap<StreamId, BeatSender>,
    reads: BTreeMap<ReadId, oneshot::Sender<Arc<View>>>,
    watchers: BTreeMap<WatcherId, WatchSender>,
    /// Results that the node must learn.
    events: Vec<Event>,
    /// The last thread that made a snapshot; the node asks for one at a time.
    snapshot: Option<JoinHandle<()>>,
}

impl Shell {
    pub fn new(
        config: DriverConfig,
        handle: DriverHandle,
        disk: Disk,
        view: CurrentView,
        role: watch::Sender<RoleChange>,
        members: watch::Sender<Arc<Members>>,
    ) -> Self {
        let mut shell = Self {
            id: config.id,
            members,
            peers: BTreeMap::new(),
            changes: config.changes,
            runtime: config.runtime,
            broker_tls: config.broker_tls,
            metrics: config.metrics,
            handle,
            disk,
            view,
            role,
            last_name: 0,
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
            reads: BTreeMap::new(),
            watchers: BTreeMap::new(),
            events: Vec::new(),
            snapshot: None,
        };
        shell.follow_members();
        shell
    }

    /// Dials the members that are new or have another address, and drops the connections to those that are none. As
    /// members count those that others vouch for: they may need this one's vote. Both are bounded by the node, and so
    /// are the queues.
    fn follow_members(&mut self) {
        let members = self.members.borrow().clone();
        let destinations: BTreeMap<_, _> = members.destinations().collect();
        self.peers.retain(|id, (address, _)| destinations.get(id) == Some(&address.as_str()));
        for (id, address) in destinations.into_iter().filter(|(id, _)| *id != self.id) {
            if self.peers.contains_key(&id) || address.is_empty() {
                continue;
            }
            let (sender, queue) = mpsc::channel(QUEUED_MESSAGES_MAX);
            let address = address.to_owned();
            self.peers.insert(id, (address.clone(), sender));
            // Nobody listens while this coordinator stops.
            let _ = self.changes.send(Change::Peer(Peer { id, address, queue }));
        }
    }

    fn name(&mut self) -> u64 {
        self.last_name += 1;
        self.last_name
    }

    pub fn call(&mut self, reply: oneshot::Sender<Outcome>) -> CallId {
        let call = CallId(self.name());
        self.calls.insert(call, reply);
        call
    }

    pub fn stream(&mut self, stream: StreamId, responses: BeatSender) {
        self.streams.insert(stream, responses);
    }

    pub fn forget_stream(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    pub fn read(&mut self, reply: oneshot::Sender<Arc<View>>) -> ReadId {
        let read = ReadId(self.name());
        self.reads.insert(read, reply);
        read
    }

    pub fn watcher(&mut self, updates: WatchSender) -> WatcherId {
        let watcher = WatcherId(self.name());
        self.watchers.insert(watcher, updates);
        watcher
    }

    /// The results since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Forgets those that went away without a word.
    pub fn gone(&mut self) -> Vec<Event> {
        let reads = self.reads.extract_if(.., |_, reply| reply.is_closed());
        let reads = reads.map(|(read, _)| Event::ReadClosed(read));
        let watchers = self.watchers.extract_if(.., |_, updates| updates.is_closed());
        reads.chain(watchers.map(|(watcher, _)| Event::WatchClosed(watcher))).collect()
    }

    fn not_leader(&self, leader: Option<CoordinatorId>) -> NotLeader {
        let leader = leader.and_then(|id| {
            let address = self.members.borrow().address(id)?.to_owned();
            Some(LeaderHint { id, address })
        });
        NotLeader { answered_by: self.id, leader }
    }

    fn respond(&mut self, call: CallId, outcome: quorum_node::Outcome) {
        let Some(reply) = self.calls.remove(&call) else { return };
        let outcome = outcome.map_err(|error| match error {
            quorum_node::RequestError::NotLeader { leader } => RequestError::NotLeader(self.not_leader(leader)),
            quorum_node::RequestError::Refused(why) => RequestError::Refused(why),
        });
        // The caller may be gone.
        let _ = reply.send(outcome);
    }

    /// On a separate thread: the tree may be large, and heartbeats must not wait for it.
    fn make_snapshot(&mut self) {
        let (disk, handle) = (self.disk.clone(), self.handle.clone());
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        let spawned = thread.spawn(move || {
            let _ = handle.send_blocking(Input::SnapshotMade(disk.make_snapshot()));
        });
        match spawned {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => {
                tracing::warn!("cannot start a thread for a snapshot: {error}");
                self.events.push(Event::SnapshotFailed);
            }
        }
    }

    pub fn take_snapshot_thread(&mut self) -> Option<JoinHandle<()>> {
        self.snapshot.take()
    }
}

impl Sink for Shell {
    fn send(&mut self, message: Outgoing) -> bool {
        self.peers.get(&message.to).is_none_or(|(_, peer)| peer.try_send(PeerMessage::Raft(message)).is_ok())
    }

    fn put(&mut self, output: Output) {
        match output {
            Output::Respond { call, outcome } => self.respond(call, outcome),
            Output::Beat { stream, response } => {
                if let Some(responses) = self.streams.get(&stream) {
                    // A broker that does not read its answers gets the next one.
                    let _ = responses.try_send(Ok(response));
                }
            }
            Output::EndStream { stream, leader } => {
                if let Some(responses) = self.streams.remove(&stream) {
                    let _ = responses.try_send(Err(self.not_leader(leader)));
                }
            }
            Output::Read(read) => {
                if let Some(reply) = self.reads.remove(&read) {
                    let _ = reply.send(self.view.get());
                }
            }
            Output::Probe(probe) => {
                self.runtime.spawn(probe::run(probe, self.handle.clone(), self.broker_tls.clone()));
            }
            Output::Applied(entry) => {
                tracing::trace!(revision = entry.revision.0, "applied");
            }
            Output::Published(view) => self.view.set(view),
            Output::Watch { watcher, update } => {
                let unsent = self.watchers.get(&watcher).filter(|updates| !updates.send(update));
                if let Some(updates) = unsent {
                    match updates.is_closed() {
                        // A broker that stopped, a tool that ended.
                        true => tracing::debug!("a watcher is gone"),
                        false => tracing::warn!("a watcher is too slow: its stream ends"),
                    }
                    self.watchers.remove(&watcher);
                    self.events.push(Event::WatchClosed(watcher));
                }
            }
            Output::Members(members) => {
                self.members.send_replace(members);
                self.follow_members();
            }
            Output::BrokersAsked { leader, brokers } => {
                if let Some((_, peer)) = self.peers.get(&leader) {
                    // Without room it is lost: the brokers ask again.
                    let _ = peer.try_send(PeerMessage::BrokersAsked(brokers));
                }
            }
            Output::Removed => {
                let _ = self.changes.send(Change::Removed);
            }
            Output::MakeSnapshot => self.make_snapshot(),
            Output::Role(role) => {
                self.role.send_replace(role);
                self.metrics.role(role);
            }
            Output::UncleanElections(elections) => self.metrics.unclean_elections(elections),
            Output::Note(note) if note.is_warning => tracing::warn!("{}", note.text),
            Output::Note(note) => tracing::info!("{}", note.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_consensus::{Membership, Role};
    use ottla_metadata::controller::ControllerConfig;
    use ottla_metadata::image::Image;
    use ottla_metadata::tree::Tree;
    use ottla_model::{ClusterId, IncarnationId};
    use ottla_quorum_node::{BrokenRules, HistoryLimits, NodeConfig, Vouched};

    use super::*;
    use crate::clock::Clock;

    /// The answer to a sender that another member vouched for was dropped: its election could be stuck.
    #[tokio::test]
    async fn answers_reach_a_sender_that_another_member_vouches_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(directory.path()).expect("opens");
        let clock = Clock::default();
        let (changes, mut changed) = mpsc::unbounded_channel();
        let node = NodeConfig {
            voters: BTreeMap::new(),
            controller: ControllerConfig::new(ClusterId::new("test")),
            compact_bytes: 1,
            history: HistoryLimits::default(),
            nonce: 1,
            broken_rules: BrokenRules::default(),
        };
        let config = DriverConfig {
            id: CoordinatorId(1),
            node,
            tick: std::time::Duration::from_millis(50),
            heartbeat_ticks: 1,
            clock,
            metrics: Metrics::new(clock, None),
            changes,
            runtime: tokio::runtime::Handle::current(),
            broker_tls: None,
        };
        let membership = Membership::new([CoordinatorId(1)]).expect("one");
        let mut members = Members::new(&membership, &Image::empty(), &BTreeMap::new());
        let view = CurrentView::new(Arc::new(View::new(Tree::new(), Image::empty())));
        let role = watch::channel(RoleChange { role: Role::Follower, leader: None, term: 1 }).0;
        let handle = DriverHandle::new(crate::driver::queue::queue(1).0);
        let told = watch::channel(Arc::new(members.clone())).0;
        let mut shell = Shell::new(config, handle, disk, view, role, told);
        let message = || Outgoing { to: CoordinatorId(5), head: Bytes::from_static(b"vote"), snapshot_data: None };
        assert!(shell.send(message()), "to nobody");
        let vouched = Vouched { disk: IncarnationId([5; 16]), address: "c5:2181".to_owned() };
        members.vouched.insert(CoordinatorId(5), vouched);
        shell.put(Output::Members(Arc::new(members.clone())));
        assert!(shell.send(message()));
        let Ok(Change::Peer(mut peer)) = changed.try_recv() else { panic!("it is to be dialled") };
        assert_eq!((peer.id, peer.address.as_str()), (CoordinatorId(5), "c5:2181"));
        let Ok(PeerMessage::Raft(answer)) = peer.queue.try_recv() else { panic!("the answer") };
        assert_eq!(answer.head, Bytes::from_static(b"vote"));
        // Until it is known to be none.
        members.vouched.clear();
        shell.put(Output::Members(Arc::new(members)));
        assert!(shell.peers.is_empty());
    }
}
