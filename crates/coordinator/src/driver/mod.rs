//! The one thread that owns the member, the disk, the tree, and, while this coordinator leads, the controller.
//!
//! Everything reaches it through one bounded queue ([`event`]). It takes all that has arrived before it looks at the clock: a
//! coordinator that stalled must not judge others by messages that it merely has not read yet. Requests that arrive together become
//! one proposal, one synced write, one round trip.
//!
//! A disk that fails ends the process: a member that goes on after a lost write may break what it promised.

mod apply;
pub mod event;
pub mod leadership;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use ottla_consensus::{Effects, Member, MemberError, Outgoing, Reads, Role, RoleChange};
use ottla_metadata::controller::{AdmitCoordinator, Input, Now, Probe, Request};
use ottla_metadata::image::{BrokerRegistration, Image};
use ottla_metadata::liveness::{LEARN_INTERVAL, Reached};
use ottla_metadata::tree::Tree;
use ottla_model::{ClusterId, CoordinatorId, IncarnationId};
use ottla_rpc::{LeaderHint, NotLeader};
use tokio::sync::{mpsc, oneshot, watch};

pub use event::{DriverHandle, Event, Outcome, Stopped};
use leadership::Leadership;
pub use leadership::Liveness;

use crate::clock::Clock;
use crate::probe;
use crate::rocksdb_store::raft_state::Voter;
use crate::rocksdb_store::{Disk, DiskError, RocksDbStore};
use crate::telemetry::Metrics;
use crate::view::View;
use crate::watch::Feed;

/// How long a stopping leader waits for another to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(300);
/// Events that are taken before Raft gets its turn: bounds how long a flood delays a heartbeat.
const EVENTS_AT_ONCE_MAX: usize = 1_024;
/// A tick that comes this late is worth a line in the log.
const STALL_WORTH_TELLING: Duration = Duration::from_secs(1);
/// Of the log, what stays after a compaction, as a part of what triggers it: so that a member that was away for a moment need not
/// have a snapshot.
const LOG_TAIL_DIVISOR: u64 = 4;

/// What a driver is made of.
pub struct DriverConfig {
    pub id: CoordinatorId,
    /// Every voter, this one included.
    pub voters: BTreeMap<CoordinatorId, Voter>,
    pub tick: Duration,
    /// While there is a leader nothing happens in between, so the driver sleeps for this many ticks at once.
    pub heartbeat_ticks: u32,
    /// Bytes of log after which its beginning is dropped.
    pub compact_bytes: u64,
    pub liveness: Liveness,
    /// Of a cluster that has no id yet.
    pub cluster_id: ClusterId,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Outgoing messages, a bounded queue for each peer.
    pub peers: BTreeMap<CoordinatorId, mpsc::Sender<Outgoing>>,
    /// Where probes are dialled.
    pub runtime: tokio::runtime::Handle,
}

/// Everything that the rest of the process needs of a running driver.
pub struct Running {
    pub handle: DriverHandle,
    pub feed: Feed,
    /// Role, leader and term, as they change.
    pub role: watch::Receiver<RoleChange>,
    /// Resolves when the thread has ended.
    pub ended: oneshot::Receiver<()>,
}

/// Why the driver cannot go on.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("the disk failed: {0}")]
    Disk(#[from] DiskError),
    #[error("raft: {0}")]
    Raft(#[from] MemberError),
    #[error("entry {revision} cannot be applied by this release: {problem}")]
    Entry { revision: u64, problem: String },
}

impl From<ottla_consensus::StoreError> for Fatal {
    fn from(error: ottla_consensus::StoreError) -> Self {
        Self::Raft(error.into())
    }
}

struct Driver {
    config: DriverConfig,
    member: Member<RocksDbStore>,
    disk: Disk,
    tree: Tree,
    image: Image,
    /// Index and term of the last applied entry.
    applied: (u64, u64),
    leadership: Option<Leadership>,
    /// The brokers that this coordinator has reached; lent to the controller while there is one.
    reached: Reached,
    /// When to dial again those that it has not.
    learn_at: Instant,
    reads: Reads<oneshot::Sender<Arc<View>>>,
    feed: Feed,
    role: watch::Sender<RoleChange>,
    handle: DriverHandle,
    snapshot_in_work: bool,
    halted: bool,
    /// Set by [`Event::Stop`]: when to stop waiting for an heir.
    stop_at: Option<Instant>,
}

/// Starts the thread.
pub fn start(config: DriverConfig, member: Member<RocksDbStore>) -> Result<Running, DiskError> {
    let disk = member.store().disk().clone();
    let tree = disk.tree()?;
    let applied = disk.applied()?;
    let image = Image::from_tree(&tree);
    let feed = Feed::new(View::new(tree.clone(), image.clone()));
    let (sender, events) = sync_channel(event::QUEUED_EVENTS_MAX);
    let handle = DriverHandle::new(sender);
    let (role, role_receiver) = watch::channel(member.role());
    let (ended_sender, ended) = oneshot::channel();
    let reads = Reads::new(config.id, rand::random());
    let driver = Driver {
        config,
        member,
        disk,
        tree,
        image,
        applied,
        leadership: None,
        reached: Reached::new(),
        learn_at: Instant::now(),
        reads,
        feed: feed.clone(),
        role,
        handle: handle.clone(),
        snapshot_in_work: false,
        halted: false,
        stop_at: None,
    };
    let thread = std::thread::Builder::new().name("driver".to_owned());
    let spawned = thread.spawn(move || {
        if let Err(error) = driver.run(&events) {
            tracing::error!("{error}: this coordinator stops here");
            // Not an exit: nothing may be written any more, not even on the way out.
            std::process::abort();
        }
        let _ = ended_sender.send(());
    });
    if let Err(error) = spawned {
        return Err(DiskError::Corrupt { what: "the driver's thread", problem: error.to_string() });
    }
    Ok(Running { handle, feed, role: role_receiver, ended })
}

impl Driver {
    fn run(mut self, events: &Receiver<Event>) -> Result<(), Fatal> {
        // A quorum of one has nobody to wait for.
        if self.member.membership().len() == 1 {
            self.member.campaign()?;
        }
        self.pump()?;
        let mut ticks = 1;
        let mut next_tick = Instant::now() + self.config.tick;
        loop {
            let mut taken = 0;
            let wait = next_tick.saturating_duration_since(Instant::now());
            let mut next = match events.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            while let Some(event) = next {
                self.handle(event)?;
                taken += 1;
                next = if taken < EVENTS_AT_ONCE_MAX { events.try_recv().ok() } else { None };
            }
            if self.halted {
                return Ok(());
            }
            let now = Instant::now();
            // Not while input waits: it may hold the very message whose absence the tick would judge.
            if now >= next_tick && taken < EVENTS_AT_ONCE_MAX {
                let late = now.duration_since(next_tick);
                if late >= STALL_WORTH_TELLING {
                    tracing::warn!("stalled for {} ms", late.as_millis());
                }
                // As many ticks as were slept for, however late: the time in which this coordinator was not there is nobody's silence.
                self.tick(ticks);
                let start = if late < self.config.tick { next_tick } else { now };
                ticks = self.ticks_at_once();
                next_tick = start + self.config.tick * ticks;
            }
            self.pump()?;
            if ticks > self.ticks_at_once() {
                // The leader was lost in the meantime: the next tick matters.
                ticks = self.ticks_at_once();
                next_tick = next_tick.min(now + self.config.tick * ticks);
            }
            if self.stop_at.is_some_and(|deadline| !self.member.is_leader() || now >= deadline) {
                self.end_leadership();
                return Ok(());
            }
        }
    }

    fn now(&self) -> Now {
        self.config.clock.now()
    }

    fn ticks_at_once(&self) -> u32 {
        let may_sleep =
            self.member.role().leader.is_some() && !self.leadership.as_ref().is_some_and(Leadership::is_unsettled);
        if may_sleep { self.config.heartbeat_ticks.max(1) } else { 1 }
    }

    fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.member.tick();
        }
        let now = self.now();
        if let Some(leadership) = &mut self.leadership {
            leadership.tick(now);
        }
        self.reads.retain(|read| !read.is_closed());
        if Instant::now() >= self.learn_at {
            self.learn_at = Instant::now() + LEARN_INTERVAL;
            self.probe_unreached();
        }
        self.config.metrics.tick(self.config.clock.monotonic());
    }

    fn handle(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Raft(message) => match self.member.step(&message) {
                Ok(()) => {}
                Err(error @ (MemberError::Store(_) | MemberError::Raft(_))) => return Err(error.into()),
                Err(refused) => tracing::warn!("a peer's message was not taken: {refused}"),
            },
            Event::PeerUnreachable(peer) => self.member.report_unreachable(peer),
            Event::PeerGone(peer) => {
                if self.member.role().leader == Some(peer) {
                    tracing::info!("the quorum leader, coordinator {peer}, is gone: not waiting for its silence");
                }
                self.member.leader_gone(peer);
            }
            Event::SnapshotSent { to, sent } => {
                self.member.report_snapshot(to, sent);
                if sent {
                    self.member.store_mut().forget_snapshot();
                }
            }
            Event::SnapshotMade(made) => {
                self.snapshot_in_work = false;
                self.member.store_mut().set_snapshot(made?);
            }
            Event::PeerIdentified { id, disk } => self.peer_identified(id, disk),
            Event::Request { request, answer } => self.request(request, answer),
            Event::StreamOpened { stream, beat, answers } => {
                let now = self.now();
                match &mut self.leadership {
                    Some(leadership) => {
                        leadership.stream_opened(stream, answers);
                        leadership.step(now, Input::StreamOpened { stream, beat });
                    }
                    None => {
                        let _ = answers.try_send(Err(self.not_leader()));
                    }
                }
            }
            Event::StreamBeat { stream, beat } => {
                let now = self.now();
                if let Some(leadership) = self.leadership.as_mut().filter(|held| held.has_stream(stream)) {
                    leadership.step(now, Input::StreamBeat { stream, beat });
                }
            }
            Event::StreamClosed { stream } => {
                let now = self.now();
                if let Some(leadership) = self.leadership.as_mut().filter(|held| held.has_stream(stream)) {
                    leadership.stream_closed(stream);
                    leadership.step(now, Input::StreamClosed { stream });
                }
            }
            Event::Probed { broker, incarnation, result } => {
                let now = self.now();
                match self.leadership.as_mut().filter(|held| held.is_deciding()) {
                    Some(leadership) => leadership.step(now, Input::Probed { broker, incarnation, result }),
                    None => self.reached.note(broker, incarnation, result),
                }
            }
            Event::Read(answer) => self.reads.push(answer),
            Event::Status(answer) => {
                let _ = answer.send(self.member.status());
            }
            Event::Halt => self.halted = true,
            Event::Stop => {
                self.stop_at = Some(Instant::now() + HAND_OVER_TIMEOUT);
                match self.member.transfer_leadership() {
                    Some(heir) => tracing::info!("stopping: coordinator {heir} takes over the quorum"),
                    // Nobody to hand over to, or nothing to hand over.
                    None => self.stop_at = Some(Instant::now()),
                }
            }
        }
        Ok(())
    }

    /// A member that does not lead may have to, and must by then know which brokers it can reach.
    fn probe_unreached(&self) {
        if self.leadership.is_some() {
            return;
        }
        for broker in self.image.brokers() {
            if !self.reached.has(broker.id, broker.incarnation) {
                self.probe_broker(broker);
            }
        }
    }

    fn probe_broker(&self, broker: &BrokerRegistration) {
        let Some(endpoint) = broker.inter_broker_endpoint() else { return };
        let probe = Probe { broker: broker.id, incarnation: broker.incarnation, endpoint: endpoint.clone() };
        self.config.runtime.spawn(probe::run(probe, self.handle.clone()));
    }

    fn request(&mut self, request: Request, answer: oneshot::Sender<Outcome>) {
        let now = self.now();
        match &mut self.leadership {
            Some(leadership) => leadership.request(now, request, rand::random(), answer),
            None => {
                let _ = answer.send(Err(self.not_leader()));
            }
        }
    }

    /// The tree remembers every voter's disk, so that one that lost it is known when it comes back.
    fn peer_identified(&mut self, id: CoordinatorId, disk: IncarnationId) {
        let Some(voter) = self.config.voters.get_mut(&id) else { return };
        if voter.disk.is_none() {
            voter.disk = Some(disk);
        }
        let address = voter.address.clone();
        if self.image.coordinator_disk(id).is_none() && self.leadership.is_some() {
            let (answer, _) = oneshot::channel();
            self.request(Request::AdmitCoordinator(AdmitCoordinator { coordinator: id, disk, address }), answer);
        }
    }

    fn not_leader(&self) -> NotLeader {
        let leader = self.member.role().leader.filter(|leader| *leader != self.config.id).and_then(|id| {
            let voter = self.config.voters.get(&id)?;
            Some(LeaderHint { id, address: voter.address.clone() })
        });
        NotLeader { answered_by: self.config.id, leader }
    }

    /// Carries out effects until there are none.
    fn pump(&mut self) -> Result<(), Fatal> {
        loop {
            if let Some(leadership) = &mut self.leadership {
                let proposed = leadership.propose(&mut self.member);
                self.config.metrics.proposed(proposed);
                for probe in std::mem::take(&mut leadership.probes) {
                    let handle = self.handle.clone();
                    self.config.runtime.spawn(probe::run(probe, handle));
                }
            }
            if let Some(question) = self.reads.question(self.config.clock.monotonic()) {
                self.member.read_index(question);
            }
            let Some(effects) = self.member.effects() else { break };
            self.carry_out(effects)?;
        }
        if self.member.take_snapshot_wanted() {
            self.make_snapshot();
        }
        Ok(())
    }

    /// See [`ottla_consensus::effects`] for the order.
    fn carry_out(&mut self, effects: Effects) -> Result<(), Fatal> {
        self.send(effects.messages);
        let started = Instant::now();
        self.member.store_mut().persist_ready(&effects.persist)?;
        if effects.persist.must_sync {
            self.config.metrics.synced(started.elapsed());
        }
        let after = self.member.persisted();
        self.send(after.messages);
        self.send(effects.messages_after_persist);
        if let Some(role) = effects.role {
            self.role_changed(role);
        }
        if let Some(role) = after.role {
            self.role_changed(role);
        }
        if effects.persist.snapshot.is_some() {
            self.reload()?;
        }
        for read in &effects.reads {
            self.reads.confirmed(read);
        }
        let mut committed = effects.committed;
        committed.extend(after.committed);
        self.apply(committed)?;
        for read in self.reads.complete_up_to(self.tree.revision()) {
            let _ = read.send(self.feed.view());
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Outgoing>) {
        for message in messages {
            let Some(peer) = self.config.peers.get(&message.to) else { continue };
            let (to, is_snapshot) = (message.to, message.is_snapshot);
            if peer.try_send(message).is_err() {
                // Raft bears the loss, but must know of it, or it would go on as if the peer had it. Reported as an event: Raft may
                // not be touched while its effects are being carried out. A queue that is full of events may lose even that.
                let lost =
                    if is_snapshot { Event::SnapshotSent { to, sent: false } } else { Event::PeerUnreachable(to) };
                let _ = self.handle.try_send(lost);
            }
        }
    }

    fn role_changed(&mut self, role: RoleChange) {
        let before = self.role.send_replace(role);
        self.config.metrics.role(role);
        if role.role == Role::Leader {
            if self.leadership.as_ref().is_none_or(|leadership| leadership.term != role.term) {
                self.end_leadership();
                tracing::info!("leads the quorum in term {}", role.term);
                self.leadership = Some(Leadership::new(role.term));
            }
            return;
        }
        if self.leadership.is_some() {
            tracing::info!("leads the quorum no more (term {})", role.term);
            self.end_leadership();
        }
        if let Some(leader) = role.leader
            && before.leader != Some(leader)
        {
            tracing::info!("follows coordinator {leader} in term {}", role.term);
        }
    }

    fn end_leadership(&mut self) {
        let not_leader = self.not_leader();
        if let Some(leadership) = self.leadership.take()
            && let Some(reached) = leadership.end(&not_leader)
        {
            self.reached = reached;
        }
    }
}
