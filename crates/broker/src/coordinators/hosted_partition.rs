//! One partition of an internal topic with its state: the lock, the threads and the metrics around
//! [`CoordinatorPartition`], which decides.
//!
//! A request, a moved high watermark, a notice or the timer takes the lock, lets the core take the step (which appends
//! at once, in order) and releases the lock; answers, messages and wake-ups leave after that. Notifiers never wait for
//! the lock: its holder checks for notifications after it has released it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use ottla_coordinator_partition::{
    Batch, BatchKind, BrokenRules, CoordinatorPartition, CoordinatorShard, Environment, Event, LoadError, Loaded,
    Loader, Now, Outputs, PartitionLog, Waiter,
};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionId, TransactionResult};
use ottla_replica_manager::clock;
use ottla_replica_manager::log_io::Urgency;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::partition::waiters::{Wakes, Watcher};
use ottla_replication::{EndMarker, VerificationGuard, VerificationRequest};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::load_permits::LoadPermits;
use super::pending_answer::PendingAnswer;
use super::timer::{Ticks, Timer};
use super::{Coordinator, States};

/// What all partitions of a topic share.
pub struct Shared<C: Coordinator> {
    pub coordinator: C,
    /// Bytes of a log that are read at a time while loading.
    pub load_buffer_bytes: usize,
    pub load_permits: LoadPermits,
    pub data: Handle,
    pub timer: Timer<HostedPartition<C>>,
}

type Answer<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Answer;
type Message<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Message;
type Request<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Request;
type Notice<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Notice;
type RecordError<C> = <<C as Coordinator>::Shard as CoordinatorShard>::RecordError;
type Core<C> = CoordinatorPartition<<C as Coordinator>::Shard, Handler<Answer<C>>>;
type CoreOutputs<C> = Outputs<<C as Coordinator>::Shard, Handler<Answer<C>>>;
type CoreEnvironment<'a, 'v, C> = Environment<'a, 'v, <C as Coordinator>::Shard>;

/// A handler that waits for the answer to its request.
#[derive(Debug)]
struct Handler<A>(oneshot::Sender<A>);

impl<A> Waiter for Handler<A> {
    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// What leaves when the lock is free: answers, messages, then, on drop, the wake-ups of followers that fetch what was
/// appended.
struct Outbox<C: Coordinator> {
    answers: Vec<(Handler<Answer<C>>, Answer<C>)>,
    messages: Vec<Message<C>>,
    wakes: Wakes,
}

impl<C: Coordinator> Default for Outbox<C> {
    fn default() -> Self {
        Self { answers: Vec::new(), messages: Vec::new(), wakes: Wakes::default() }
    }
}

pub struct HostedPartition<C: Coordinator> {
    shared: Arc<Shared<C>>,
    partition: Arc<Partition>,
    /// The partition's role or high watermark, or the configuration, changed since the last [`Self::poll`].
    has_news: AtomicBool,
    /// The core has an older configuration.
    config_changed: AtomicBool,
    core: Mutex<Core<C>>,
    /// The groups or ids by state when they were last counted.
    last_states: Mutex<States<C>>,
}

impl<C: Coordinator> Watcher for HostedPartition<C> {
    fn partition_changed(self: Arc<Self>) {
        self.notify();
    }
}

impl<C: Coordinator> Ticks for HostedPartition<C> {
    fn number(&self) -> PartitionId {
        self.partition.id().partition
    }

    fn tick(self: &Arc<Self>) {
        self.locked(|core, environment| ((), core.tick(environment)));
    }
}

impl<C: Coordinator> HostedPartition<C> {
    pub fn new(shared: Arc<Shared<C>>, partition: Arc<Partition>) -> Arc<Self> {
        let core = CoordinatorPartition::new(shared.coordinator.config(), BrokenRules::default());
        Arc::new(Self {
            shared,
            partition,
            has_news: AtomicBool::new(false),
            // The configuration may change before the owner knows of this partition.
            config_changed: AtomicBool::new(true),
            core: Mutex::new(core),
            last_states: Mutex::default(),
        })
    }

    pub fn is_of(&self, partition: &Arc<Partition>) -> bool {
        Arc::ptr_eq(&self.partition, partition)
    }

    /// Whether this broker is the coordinator of the partition's state, or is about to be.
    pub fn leads(&self) -> bool {
        self.partition.leads()
    }

    /// Whether a transactional batch with these records needs the transaction coordinator's word.
    pub fn begin_verification(&self, request: &VerificationRequest) -> Result<Option<VerificationGuard>, ErrorCode> {
        self.partition.begin_verification(request, clock::wall()).map_err(|error| match error {
            // The partition's leader is the coordinator.
            ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
            error => error,
        })
    }

    /// Processes a request. `guard` proves that the partition is part of the request's transaction, if it has one.
    pub fn submit(self: &Arc<Self>, request: Request<C>, guard: Option<&VerificationGuard>) -> PendingAnswer<C::Shard> {
        let mut receiver = None;
        let answer = self.locked_with(guard, |core, environment| {
            // The waiter is there before anybody can answer: the lock is held.
            core.request(environment, request, || {
                let (sender, waiting) = oneshot::channel();
                receiver = Some(waiting);
                Handler(sender)
            })
        });
        match (answer, receiver) {
            (Some(answer), _) => PendingAnswer::Ready(answer),
            (None, Some(receiver)) => PendingAnswer::Waiting(receiver),
            (None, None) => PendingAnswer::failed(ErrorCode::UnknownServerError),
        }
    }

    /// Something happened that concerns the state.
    pub fn notice(self: &Arc<Self>, notice: Notice<C>) {
        self.locked(|core, environment| ((), core.notice(environment, notice)));
    }

    /// As [`Self::notice`], on an I/O thread of the log's directory: the step may write, and the disk may stall, while
    /// the caller applies metadata and must not wait for a disk.
    pub fn notice_later(self: &Arc<Self>, notice: Notice<C>) {
        if !self.leads() {
            return;
        }
        let hosted = Arc::clone(self);
        self.partition.directory().run(Urgency::Urgent, move || hosted.notice(notice));
    }

    /// Adds the number of groups or ids in each state. While a step holds the lock, perhaps until a disk answers, these
    /// are the numbers of the last call: a scrape waits for no disk.
    pub fn count_states(self: &Arc<Self>, into: &mut States<C>) {
        let mut last = self.last_states.lock();
        if let Some(core) = self.core.try_lock() {
            *last = core.shard().map(C::count_states).unwrap_or_default();
        }
        for (state, count) in &*last {
            *into.entry(*state).or_default() += count;
        }
        drop(last);
        // A notification that came while this call held the lock is this call's to process.
        self.poll();
    }

    /// A look at the state; none while a step holds the lock, or nothing is loaded.
    pub fn look<T>(self: &Arc<Self>, look: impl FnOnce(&C::Shard) -> T) -> Option<T> {
        let seen = self.core.try_lock().and_then(|core| core.shard().map(look));
        // As above.
        self.poll();
        seen
    }

    /// The configuration has changed.
    pub fn config_changed(self: &Arc<Self>) {
        self.config_changed.store(true, Ordering::SeqCst);
        self.notify();
    }

    fn notify(self: &Arc<Self>) {
        self.has_news.store(true, Ordering::SeqCst);
        self.poll();
    }

    /// Takes a step under the lock; what follows from it leaves when the lock is free again.
    fn locked<T>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut Core<C>, &mut CoreEnvironment<'_, '_, C>) -> (T, CoreOutputs<C>),
    ) -> T {
        self.locked_with(None, step)
    }

    fn locked_with<T>(
        self: &Arc<Self>,
        guard: Option<&VerificationGuard>,
        step: impl FnOnce(&mut Core<C>, &mut CoreEnvironment<'_, '_, C>) -> (T, CoreOutputs<C>),
    ) -> T {
        let mut outbox = Outbox::default();
        let result = self.step(&mut self.core.lock(), &mut outbox, guard, step);
        self.deliver(outbox);
        self.poll();
        result
    }

    fn deliver(self: &Arc<Self>, outbox: Outbox<C>) {
        for (handler, answer) in outbox.answers {
            // The client may have gone.
            let _ = handler.0.send(answer);
        }
        for message in outbox.messages {
            self.shared.coordinator.send(self, message);
        }
    }

    /// Lets the core look at the partition if something changed there. Never waits: the lock's holder calls this when
    /// it has released the lock.
    fn poll(self: &Arc<Self>) {
        loop {
            // Between the release of the lock (or the notification) and this load: either this call sees the
            // notification, or the notifier gets the lock.
            fence(Ordering::SeqCst);
            if !self.has_news.load(Ordering::Relaxed) {
                return;
            }
            let mut outbox = Outbox::default();
            {
                let Some(mut core) = self.core.try_lock() else { return };
                if self.has_news.swap(false, Ordering::SeqCst) {
                    self.step(&mut core, &mut outbox, None, |core, environment| ((), core.poll(environment)));
                }
            }
            self.deliver(outbox);
        }
    }

    /// One step of the core, and its outputs but for what has to wait until the lock is free.
    fn step<T>(
        self: &Arc<Self>,
        core: &mut Core<C>,
        outbox: &mut Outbox<C>,
        guard: Option<&VerificationGuard>,
        step: impl FnOnce(&mut Core<C>, &mut CoreEnvironment<'_, '_, C>) -> (T, CoreOutputs<C>),
    ) -> T {
        let coordinator = &self.shared.coordinator;
        if self.config_changed.swap(false, Ordering::SeqCst) {
            core.set_config(coordinator.config());
        }
        let (result, outputs) = coordinator.view(|view| {
            let mut log = ReplicaLog { of: self, guard, wakes: &mut outbox.wakes };
            let now = Now { monotonic: clock::monotonic(), wall: clock::wall() };
            step(core, &mut Environment { now, view, log: &mut log })
        });
        outputs.events.into_iter().for_each(|event| self.record(event, core.epoch()));
        outbox.answers.extend(outputs.answers);
        outbox.messages.extend(outputs.messages);
        if let Some(epoch) = outputs.load {
            self.start_loading(epoch);
        }
        if let Some(change) = outputs.timer {
            self.shared.timer.set(self, change.at, change.instead_of);
        }
        result
    }

    /// Reads the log on a thread that may wait for the disk.
    fn start_loading(self: &Arc<Self>, epoch: LeaderEpoch) {
        let (permits, hosted) = (self.shared.load_permits.of(self.partition.directory().path()), Arc::clone(self));
        self.shared.data.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let loading = tokio::task::spawn_blocking(move || {
                let result = hosted.read_log(epoch);
                hosted.locked(|core, environment| ((), core.loaded(environment, epoch, result)));
            });
            if let Err(error) = loading.await {
                tracing::error!(%error, "the {} of a partition cannot be loaded", C::STATE);
            }
        });
    }

    fn read_log(&self, epoch: LeaderEpoch) -> Result<Loaded<C::Shard>, LoadError> {
        let max_message_bytes = self.partition.settings().max_message_bytes();
        let mut loader = Loader::new(self.shared.coordinator.config(), epoch, max_message_bytes);
        loop {
            let piece = self
                .partition
                .read_own(loader.next(), self.shared.load_buffer_bytes, epoch)
                .map_err(LoadError::Refused)?;
            let Some(records) = piece.records else { return Ok(loader.finish(piece.end)) };
            let bytes = records.read().map_err(|source| LoadError::Io { at: piece.from, source })?;
            loader.take(piece.from, &bytes)?;
        }
    }

    /// Metrics and log lines.
    fn record(&self, event: Event<RecordError<C>>, epoch: LeaderEpoch) {
        let (partition, metrics) = (self.partition.name(), self.shared.coordinator.metrics());
        match event {
            Event::Loaded { records, unreadable, took_ms } => {
                if let Some((offset, error)) = &unreadable.first {
                    tracing::error!(
                        %partition, %offset, %error,
                        "a record of {} cannot be read and is skipped", C::STATE
                    );
                }
                if records > 0 {
                    let unreadable = unreadable.count;
                    tracing::info!(
                        %partition, %epoch, records, unreadable, took_ms,
                        "{} of a partition loaded", C::STATE
                    );
                }
            }
            // The notification that this leadership has ended is on its way.
            Event::LoadFailed { error: LoadError::Refused(error), .. } => {
                tracing::debug!(%partition, ?error, "the {} of a partition are not loaded", C::STATE);
            }
            Event::LoadFailed { error, retry_ms } => {
                tracing::error!(
                    %partition, %error, retry_ms, "the {} of a partition cannot be loaded, retrying", C::STATE
                );
            }
            Event::Serving { took_ms } => {
                metrics.partitions.add(1);
                metrics.loads.add(1);
                metrics.load_ms.add(took_ms);
            }
            Event::Left => metrics.partitions.add(-1),
            Event::Reloading => {
                tracing::warn!(
                    %partition,
                    "the log refused a change: the {} of the partition are loaded again", C::STATE
                );
            }
            Event::Forgotten(requests) => {
                tracing::warn!(%partition, requests, "requests were not answered before the leadership ended");
            }
            Event::NobodyWaits => {}
        }
    }
}

/// The partition's replica, as its state sees it. Locks: [`HostedPartition`], then [`Partition`].
struct ReplicaLog<'a, C: Coordinator> {
    of: &'a HostedPartition<C>,
    /// Of the step's request.
    guard: Option<&'a VerificationGuard>,
    wakes: &'a mut Wakes,
}

impl<C: Coordinator> PartitionLog for ReplicaLog<'_, C> {
    fn leading_epoch(&self) -> LeaderEpoch {
        self.of.partition.leading_epoch()
    }

    fn high_watermark(&self) -> Offset {
        self.of.partition.high_watermark()
    }

    fn end_if_empty(&self, epoch: LeaderEpoch) -> Option<Offset> {
        self.of.partition.end_if_empty(epoch)
    }

    fn check_append(&self, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        self.of.partition.takes_own(epoch)
    }

    fn append(&mut self, epoch: LeaderEpoch, batch: &Batch) -> Result<Offset, ErrorCode> {
        let partition = &self.of.partition;
        if let BatchKind::Marker(end) = batch.kind {
            let marker = EndMarker {
                producer_id: end.producer_id,
                producer_epoch: end.producer_epoch,
                result: if end.is_commit { TransactionResult::Commit } else { TransactionResult::Abort },
                coordinator_epoch: end.coordinator_epoch,
            };
            let (now, version) = (clock::monotonic(), end.transaction_version);
            return partition.append_own_marker(marker, version, epoch, now, batch.timestamp, self.wakes);
        }
        let mut bytes = batch.encode().map_err(|error| {
            tracing::error!(
                partition = %partition.name(), %error,
                "a batch of records of {} cannot be built", C::STATE
            );
            ErrorCode::UnknownServerError
        })?;
        let appended =
            partition.append_own(&mut bytes, self.guard, epoch, clock::monotonic(), batch.timestamp, self.wakes);
        match &appended {
            Ok(_) => self.of.shared.coordinator.metrics().records.add(batch.records.len() as u64),
            Err(error) => {
                tracing::debug!(
                    partition = %partition.name(), ?error,
                    "a batch of records of {} is not appended", C::STATE
                );
            }
        }
        appended
    }
}
