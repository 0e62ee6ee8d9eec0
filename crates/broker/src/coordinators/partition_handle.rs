//! One partition of an internal topic with its state: the lock, the threads and the metrics around
//! [`CoordinatorPartition`], which decides.
//!
//! A request, a moved high watermark, a notice or the timer takes the lock, lets the core take the step (which appends
//! at once, in order) and releases the lock; answers, messages and wake-ups leave after that. A step that writes may
//! hold the lock until a disk answers. Nobody waits for it then: what comes meanwhile is queued
//! ([`ottla_coordinator_partition::backlog`]), and the holder does it after it has released the lock.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use ottla_coordinator_partition::{
    Backlog, Batch, BatchKind, BrokenRules, CoordinatorPartition, CoordinatorShard, Environment, Event, Job, LoadError,
    LoadQueue, Loaded, Loader, Now, Outputs, PartitionLog, Turn,
};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionId, TransactionResult};
use ottla_replica_manager::clock;
use ottla_replica_manager::log_io::Urgency;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::partition::waiters::{Wakes, Watcher};
use ottla_replication::{EndMarker, VerificationGuard, VerificationRequest};
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::handler::Handler;
use super::pending_answer::PendingAnswer;
use super::timer::{Ticks, Timer};
use super::{Coordinator, States};

/// Far longer than a step holds the lock while its disk answers.
const LOCK_PATIENCE: Duration = Duration::from_millis(2);

/// What all partitions of a topic share.
pub struct Shared<C: Coordinator> {
    pub coordinator: C,
    /// Bytes of a log that are read at a time while loading.
    pub load_buffer_bytes: usize,
    pub loads: Mutex<LoadQueue<PathBuf, Load<C>>>,
    pub data: Handle,
    pub timer: Timer<PartitionHandle<C>>,
}

/// The log of a partition that is read for the leadership of this epoch.
pub type Load<C> = (Arc<PartitionHandle<C>>, LeaderEpoch);

type ShardAnswer<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Answer;
type Message<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Message;
type Request<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Request;
type Notice<C> = <<C as Coordinator>::Shard as CoordinatorShard>::Notice;
type RecordError<C> = <<C as Coordinator>::Shard as CoordinatorShard>::RecordError;
type Core<C> = CoordinatorPartition<<C as Coordinator>::Shard, Handler<ShardAnswer<C>>>;
type CoreOutputs<C> = Outputs<<C as Coordinator>::Shard, Handler<ShardAnswer<C>>>;
type CoreEnvironment<'a, 'v, C> = Environment<'a, 'v, <C as Coordinator>::Shard>;

/// What leaves when the lock is free: answers, messages, then, on drop, the wake-ups of followers that fetch what was
/// appended.
struct Outbox<C: Coordinator> {
    answers: Vec<(Handler<ShardAnswer<C>>, ShardAnswer<C>)>,
    messages: Vec<Message<C>>,
    wakes: Wakes,
}

impl<C: Coordinator> Default for Outbox<C> {
    fn default() -> Self {
        Self { answers: Vec::new(), messages: Vec::new(), wakes: Wakes::default() }
    }
}

pub struct PartitionHandle<C: Coordinator> {
    shared: Arc<Shared<C>>,
    partition: Arc<Partition>,
    /// The backlog has something for whoever gets the lock of the core next.
    has_work: AtomicBool,
    /// Its lock is a leaf, and is held for moments.
    backlog: Mutex<Backlog<C::Shard, Handler<ShardAnswer<C>>, VerificationGuard>>,
    /// The core has an older configuration.
    config_changed: AtomicBool,
    core: Mutex<Core<C>>,
    /// The groups or ids by state when they were last counted.
    last_states: Mutex<States<C>>,
}

impl<C: Coordinator> Watcher for PartitionHandle<C> {
    fn partition_changed(self: Arc<Self>) {
        self.notify();
    }
}

impl<C: Coordinator> Ticks for PartitionHandle<C> {
    fn number(&self) -> PartitionId {
        self.partition.id().partition
    }

    fn tick(self: &Arc<Self>) {
        self.backlog.lock().push_tick();
        self.has_work.store(true, Ordering::SeqCst);
        self.poll();
    }
}

impl<C: Coordinator> PartitionHandle<C> {
    pub fn new(shared: Arc<Shared<C>>, partition: Arc<Partition>) -> Arc<Self> {
        let core = CoordinatorPartition::new(shared.coordinator.config(), BrokenRules::default());
        Arc::new(Self {
            shared,
            partition,
            has_work: AtomicBool::new(false),
            backlog: Mutex::new(Backlog::new(BrokenRules::default())),
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

    /// Processes a request, or queues it: the steps are taken in the order of the calls. `guard` proves that the
    /// partition is part of the request's transaction, if it has one.
    pub fn submit(self: &Arc<Self>, request: Request<C>, guard: Option<&VerificationGuard>) -> PendingAnswer<C::Shard> {
        let Some(mut core) = self.lock_in_turn() else { return self.submit_later(request, guard) };
        let mut outbox = Outbox::default();
        // What it leaves of the backlog is done below, when this request's answer has left.
        if self.has_work.load(Ordering::Relaxed) && self.backlog.lock().take_poll() {
            self.step(&mut core, &mut outbox, None, |core, environment| ((), core.poll(environment)));
        }
        let mut receiver = None;
        let answer = self.step(&mut core, &mut outbox, guard, |core, environment| {
            // The waiter is there before anybody can answer: the lock is held.
            core.request(environment, request, || {
                let (handler, waiting) = Handler::new();
                receiver = Some(waiting);
                handler
            })
        });
        drop(core);
        self.deliver(outbox);
        self.poll();
        match (answer, receiver) {
            (Some(answer), _) => PendingAnswer::Ready(answer),
            (None, Some(receiver)) => PendingAnswer::Waiting(receiver),
            (None, None) => PendingAnswer::failed(ErrorCode::UnknownServerError),
        }
    }

    /// Queues a request, or refuses it and perhaps others.
    fn submit_later(
        self: &Arc<Self>,
        request: Request<C>,
        guard: Option<&VerificationGuard>,
    ) -> PendingAnswer<C::Shard> {
        let is_stalled = self.partition.directory().health().is_stalled();
        let (handler, receiver) = Handler::new();
        let refused = self.backlog.lock().push_request(is_stalled, request, guard.cloned(), handler);
        refused.into_iter().for_each(|(handler, error)| handler.answer(C::Shard::failed(error)));
        if !is_stalled {
            self.has_work.store(true, Ordering::SeqCst);
            self.poll();
        }
        PendingAnswer::Waiting(receiver)
    }

    /// Something happened that concerns the state.
    pub fn notice(self: &Arc<Self>, notice: Notice<C>) {
        self.backlog.lock().push_notice(notice);
        self.has_work.store(true, Ordering::SeqCst);
        self.poll();
    }

    /// As [`Self::notice`], on an I/O thread of the log's directory: the step may write, and the disk may stall, while
    /// the caller applies metadata and must not wait for a disk.
    pub fn notice_later(self: &Arc<Self>, notice: Notice<C>) {
        if !self.leads() {
            return;
        }
        let handle = Arc::clone(self);
        self.partition.directory().run(Urgency::Urgent, move || handle.notice(notice));
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
        self.poll_elsewhere();
    }

    /// A look at the state; none while a step holds the lock, or nothing is loaded.
    pub fn look<T>(self: &Arc<Self>, look: impl FnOnce(&C::Shard) -> T) -> Option<T> {
        let seen = self.core.try_lock().and_then(|core| core.shard().map(look));
        self.poll_elsewhere();
        seen
    }

    /// Whether a step holds the lock.
    #[cfg(test)]
    pub fn is_held(&self) -> bool {
        self.core.is_locked()
    }

    /// The configuration has changed.
    pub fn config_changed(self: &Arc<Self>) {
        self.config_changed.store(true, Ordering::SeqCst);
        self.notify();
    }

    /// The control thread, which must not wait for a disk, leaves what follows to a thread of the data runtime.
    fn notify(self: &Arc<Self>) {
        self.backlog.lock().push_poll();
        self.has_work.store(true, Ordering::SeqCst);
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::CurrentThread) => self.poll_elsewhere(),
            _ => self.poll(),
        }
    }

    /// What came while this call held the lock is this call's to see to; but the caller must not wait for a disk.
    fn poll_elsewhere(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.has_work.load(Ordering::Relaxed) {
            let handle = Arc::clone(self);
            self.shared.data.spawn(async move { handle.poll() });
        }
    }

    /// The lock, for a request that comes now. None if others wait before it, or its holder seems to wait for a disk:
    /// of one that is known to be stalled, no request takes the time of a thread that serves other disks.
    fn lock_in_turn(&self) -> Option<MutexGuard<'_, Core<C>>> {
        if !self.backlog.lock().is_in_turn() {
            return None;
        }
        match self.partition.directory().health().is_stalled() {
            true => self.core.try_lock(),
            false => self.core.try_lock_for(LOCK_PATIENCE),
        }
    }

    /// Takes a step under the lock, on a thread that may wait for it.
    fn locked<T>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut Core<C>, &mut CoreEnvironment<'_, '_, C>) -> (T, CoreOutputs<C>),
    ) -> T {
        let mut outbox = Outbox::default();
        let result = self.step(&mut self.core.lock(), &mut outbox, None, step);
        self.deliver(outbox);
        self.poll();
        result
    }

    fn deliver(self: &Arc<Self>, outbox: Outbox<C>) {
        for (handler, answer) in outbox.answers {
            handler.answer(answer);
        }
        for message in outbox.messages {
            self.shared.coordinator.send(self, message);
        }
    }

    /// Does what is there to do, unless somebody holds the lock: the holder calls this when it has released it.
    fn poll(self: &Arc<Self>) {
        loop {
            // Between the release of the lock (or the notification) and this load: either this call sees the
            // notification, or the notifier gets the lock.
            fence(Ordering::SeqCst);
            if !self.has_work.load(Ordering::Relaxed) {
                return;
            }
            let mut outbox = Outbox::default();
            {
                let Some(mut core) = self.core.try_lock() else { return };
                self.do_work(&mut core, &mut outbox);
            }
            self.deliver(outbox);
        }
    }

    /// Takes one turn of what came while others held the lock.
    fn do_work(self: &Arc<Self>, core: &mut Core<C>, outbox: &mut Outbox<C>) {
        if !self.has_work.load(Ordering::Relaxed) || !self.has_work.swap(false, Ordering::SeqCst) {
            return;
        }
        let Some(Turn { polls, ticks, job, has_more }) = self.backlog.lock().take() else { return };
        if has_more {
            self.has_work.store(true, Ordering::SeqCst);
        }
        if polls {
            self.step(core, outbox, None, |core, environment| ((), core.poll(environment)));
        }
        if ticks {
            self.step(core, outbox, None, |core, environment| ((), core.tick(environment)));
        }
        match job {
            None => {}
            Some(Job::Notice(notice)) => {
                self.step(core, outbox, None, |core, environment| ((), core.notice(environment, notice)));
            }
            Some(Job::Request { request, proof, waiter }) => {
                let mut waiting = Some(waiter);
                let answer = self.step(core, outbox, proof.as_ref(), |core, environment| {
                    core.request(environment, request, || waiting.take().unwrap_or_else(Handler::gone))
                });
                if let (Some(answer), Some(handler)) = (answer, waiting) {
                    outbox.answers.push((handler, answer));
                }
            }
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
            self.shared.timer.set(self, change);
        }
        result
    }

    /// Reads the log when it is its turn.
    fn start_loading(self: &Arc<Self>, epoch: LeaderEpoch) {
        let directory = self.partition.directory().path().to_owned();
        let begins = self.shared.loads.lock().ask(directory.clone(), (Arc::clone(self), epoch));
        if let Some((handle, epoch)) = begins {
            handle.load(epoch, directory);
        }
    }

    /// Reads the log on a thread that may wait for the disk.
    fn load(self: Arc<Self>, epoch: LeaderEpoch, directory: PathBuf) {
        let shared = Arc::clone(&self.shared);
        shared.data.clone().spawn(async move {
            let loading = tokio::task::spawn_blocking(move || {
                let result = self.read_log(epoch);
                let is_loaded = result.is_ok();
                self.locked(|core, environment| ((), core.loaded(environment, epoch, result)));
                is_loaded
            });
            let is_loaded = loading.await.unwrap_or_else(|error| {
                tracing::error!(%error, "the {} of a partition cannot be loaded", C::STATE);
                false
            });
            let next = shared.loads.lock().ended(&directory, is_loaded);
            if let Some((handle, epoch)) = next {
                handle.load(epoch, directory);
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

/// The partition's replica, as its state sees it. Locks: [`PartitionHandle`], then [`Partition`].
struct ReplicaLog<'a, C: Coordinator> {
    of: &'a PartitionHandle<C>,
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

    fn check_append(&self, epoch: LeaderEpoch) -> Result<usize, ErrorCode> {
        self.of.partition.takes_own(epoch, self.of.shared.coordinator.batch_bytes_max())
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
