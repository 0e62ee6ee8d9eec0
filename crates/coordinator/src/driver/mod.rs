//! The one thread that runs the node ([`ottla_quorum_node`]) over the disk.
//!
//! All inputs come through one bounded queue ([`handle`]). The driver takes all that have arrived before it reads the
//! clock: after a stall a coordinator must not time out others whose messages it has not read yet. The node's outputs
//! go to [`shell`], which never waits.
//!
//! A disk error ends the process: a member that continues after a lost write may break its promises.

pub mod handle;
mod peer_queue;
pub(crate) mod queue;
mod shell;
pub mod watch;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ottla_consensus::{Member, RoleChange};
use ottla_metadata::controller::Now;
use ottla_model::CoordinatorId;
use ottla_quorum_node::{Event, Members, Node, NodeConfig, NodeError, View};
use ottla_tls::ClientTls;
use tokio::sync::{mpsc, oneshot, watch as state};

pub use handle::{DriverHandle, Input, Outcome, RequestError, Stopped};
pub use peer_queue::{Peer, PeerMessage};
use queue::{Receiver, queue};
pub use shell::Change;
use shell::Shell;
pub use watch::Watching;

use crate::clock::Clock;
use crate::rocksdb_store::{DiskError, RocksDbStore};
use crate::telemetry::Metrics;

/// How long a stopping leader waits for another to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(300);
/// Inputs that are accepted before Raft runs: bounds how long a flood delays a heartbeat.
const INPUTS_AT_ONCE_MAX: usize = 1_024;
/// A tick that comes this late is worth a line in the log.
const STALL_WORTH_TELLING: Duration = Duration::from_secs(1);

/// The parts of a driver.
pub struct DriverConfig {
    pub id: CoordinatorId,
    pub node: NodeConfig,
    pub tick: Duration,
    /// While it leads nothing happens in between, so the driver sleeps for this many ticks at once.
    pub heartbeat_ticks: u32,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Receives the peers that are to be dialled.
    pub changes: mpsc::UnboundedSender<Change>,
    /// Where probes are dialled.
    pub runtime: tokio::runtime::Handle,
    /// Of probes; none: brokers behind TLS are only seen to be there.
    pub broker_tls: Option<Arc<ClientTls>>,
}

/// The state as last applied, for readers.
#[derive(Clone)]
pub struct CurrentView(Arc<state::Sender<Arc<View>>>);

impl CurrentView {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self(Arc::new(state::Sender::new(view)))
    }

    pub fn get(&self) -> Arc<View> {
        self.0.borrow().clone()
    }

    /// Also hears of later ones, though perhaps not of each.
    pub fn subscribe(&self) -> state::Receiver<Arc<View>> {
        self.0.subscribe()
    }

    fn set(&self, view: Arc<View>) {
        self.0.send_replace(view);
    }
}

/// Everything that the rest of the process needs of a running driver.
pub struct Running {
    pub handle: DriverHandle,
    pub view: CurrentView,
    /// Role, leader and term, as they change.
    pub role: state::Receiver<RoleChange>,
    pub members: state::Receiver<Arc<Members>>,
    /// Resolves when the thread has ended, and nothing uses the disk any more.
    pub ended: oneshot::Receiver<()>,
    pub thread: JoinHandle<()>,
}

/// Why the driver must stop.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("the disk failed: {0}")]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

struct Driver {
    node: Node<RocksDbStore>,
    shell: Shell,
    tick: Duration,
    heartbeat_ticks: u32,
    clock: Clock,
    handle: DriverHandle,
    metrics: Arc<Metrics>,
    halted: bool,
    /// Set by [`Input::Stop`]: when to stop waiting for an heir.
    stop_at: Option<Instant>,
}

/// Starts the thread.
pub fn start(config: DriverConfig, member: Member<RocksDbStore>) -> Result<Running, NodeError> {
    let disk = member.store().disk().clone();
    let node = Node::new(config.node.clone(), member)?;
    let view = CurrentView::new(node.view().clone());
    let (sender, inputs) = queue(handle::QUEUED_INPUTS_MAX);
    let handle = DriverHandle::new(sender);
    let (role, role_receiver) = tokio::sync::watch::channel(node.role());
    let (members, members_receiver) = tokio::sync::watch::channel(node.members().clone());
    let (ended_sender, ended) = oneshot::channel();
    let driver = Driver {
        node,
        tick: config.tick,
        heartbeat_ticks: config.heartbeat_ticks,
        clock: config.clock,
        handle: handle.clone(),
        metrics: config.metrics.clone(),
        shell: Shell::new(config, handle.clone(), disk, view.clone(), role, members),
        halted: false,
        stop_at: None,
    };
    let thread = std::thread::Builder::new().name("driver".to_owned());
    let spawned = thread.spawn(move || {
        match driver.run(&inputs) {
            Ok(snapshot) => {
                // Without the queue: a thread that waits for room in it ends.
                drop(inputs);
                // It reads the database, which must be closed before the process's static data goes.
                if snapshot.is_some_and(|thread| thread.join().is_err()) {
                    tracing::error!("the thread of a snapshot ended by a panic");
                }
            }
            Err(error) => {
                tracing::error!("{error}: this coordinator stops");
                // Not an exit: nothing may be written any more, not even on the way out.
                std::process::abort();
            }
        }
        let _ = ended_sender.send(());
    });
    let thread = spawned.map_err(|error| NodeError::Store(ottla_consensus::StoreError::failed(error)))?;
    Ok(Running { handle, view, role: role_receiver, members: members_receiver, ended, thread })
}

impl Driver {
    /// Runs until it is stopped. Returns the thread that may still make a snapshot.
    fn run(mut self, inputs: &Receiver<Input>) -> Result<Option<JoinHandle<()>>, Fatal> {
        self.serve(inputs)?;
        Ok(self.shell.take_snapshot_thread())
    }

    fn serve(&mut self, inputs: &Receiver<Input>) -> Result<(), Fatal> {
        self.node.start()?;
        self.flush()?;
        // The ticks up to `counted` have been counted; `ticks` more are slept through at once.
        let mut counted = Instant::now();
        let mut ticks = 1;
        loop {
            let mut taken = 0;
            let next_tick = counted + self.tick * ticks;
            let mut next = inputs.recv_until(next_tick);
            if next.is_some() && self.node.follows() {
                // Before the input: what is counted late would count against a leader that has just been heard. None of
                // these ticks makes this member campaign, so that no input need come before them.
                let passed = self.ticks_since(counted).min(ticks - 1);
                if passed > 0 {
                    self.tick(passed)?;
                    counted += self.tick * passed;
                    ticks -= passed;
                }
            }
            while let Some(input) = next {
                self.handle(input)?;
                taken += 1;
                next = if taken < INPUTS_AT_ONCE_MAX { inputs.try_recv() } else { None };
            }
            if self.halted {
                return Ok(());
            }
            let now = Instant::now();
            // Not while inputs wait: one of them may be the message whose absence the tick would detect.
            if now >= next_tick && taken < INPUTS_AT_ONCE_MAX {
                let late = now.duration_since(next_tick);
                if late >= STALL_WORTH_TELLING {
                    tracing::warn!("stalled for {} ms", late.as_millis());
                }
                // Exactly the ticks of the planned sleep, even if it took longer: time in which this coordinator did
                // not run is not silence of the others.
                self.tick(ticks)?;
                counted = if late < self.tick { next_tick } else { now };
                ticks = self.ticks_at_once();
            }
            self.flush()?;
            let at_once = self.ticks_at_once();
            if self.node.follows() {
                // Its leader was heard perhaps: then all of its time-out is left.
                ticks = at_once;
            } else if ticks > at_once {
                // The leader was lost in the meantime: the next tick matters.
                let next_tick = (counted + self.tick * ticks).min(now + self.tick * at_once);
                ticks = at_once;
                counted = next_tick - self.tick * ticks;
            }
            if self.stop_at.is_some_and(|deadline| !self.node.is_leader() || now >= deadline) {
                self.node.end_leadership(&mut self.shell);
                return Ok(());
            }
        }
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    /// A follower is woken by its leader's heartbeats. It sleeps through two of them at most: a longer sleep would
    /// count against the leader as a whole, although this process stood still.
    fn ticks_at_once(&self) -> u32 {
        let heartbeat_ticks = self.heartbeat_ticks.max(1);
        match self.node.may_sleep() {
            true if self.node.follows() => self.node.ticks_to_campaign().clamp(1, heartbeat_ticks * 2),
            true => heartbeat_ticks,
            false => 1,
        }
    }

    fn ticks_since(&self, counted: Instant) -> u32 {
        let tick_ms = self.tick.as_millis().max(1);
        u32::try_from(counted.elapsed().as_millis() / tick_ms).unwrap_or(u32::MAX)
    }

    fn tick(&mut self, ticks: u32) -> Result<(), Fatal> {
        for event in self.shell.gone() {
            self.step(event)?;
        }
        self.node.tick(self.now(), ticks, &mut self.shell);
        self.metrics.tick(self.clock.monotonic());
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), Fatal> {
        Ok(self.node.step(self.now(), event, &mut self.shell)?)
    }

    fn handle(&mut self, input: Input) -> Result<(), Fatal> {
        match input {
            Input::Event(event) => {
                if let Event::StreamClosed { stream } = &event {
                    self.shell.forget_stream(*stream);
                }
                self.step(event)
            }
            Input::Request { request, reply } => {
                let call = self.shell.call(reply);
                self.step(Event::Request { call, request, entropy: rand::random() })
            }
            Input::OpenStream { stream, beat, responses } => {
                self.shell.stream(stream, responses);
                self.step(Event::StreamOpened { stream, beat })
            }
            Input::Read(reply) => {
                let read = self.shell.read(reply);
                self.step(Event::Read(read))
            }
            Input::Watch { from, updates } => {
                let watcher = self.shell.watcher(updates);
                self.step(Event::WatchOpened { watcher, from })
            }
            Input::Status(reply) => {
                let _ = reply.send(self.node.status());
                Ok(())
            }
            Input::Progress(reply) => {
                let _ = reply.send(self.node.progress(self.now()));
                Ok(())
            }
            Input::SnapshotMade(made) => self.step(Event::SnapshotMade(made?)),
            Input::Halt => {
                self.halted = true;
                Ok(())
            }
            Input::Stop => {
                self.stop_at = Some(Instant::now() + HAND_OVER_TIMEOUT);
                match self.node.hand_over() {
                    Some(heir) => tracing::info!("stopping: coordinator {heir} takes over the quorum"),
                    // There is no other member, or no leadership, to transfer.
                    None => self.stop_at = Some(Instant::now()),
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), Fatal> {
        self.node.flush(self.now(), &mut self.shell)?;
        for event in self.shell.take_events() {
            self.step(event)?;
        }
        self.metrics.progress(self.node.view().revision, self.node.committed());
        self.metrics.proposed(self.node.take_proposals());
        self.handle.let_answers_wait(self.node.answers_may_wait());
        Ok(())
    }
}
