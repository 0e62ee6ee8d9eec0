//! One partition of `__transaction_state` with its transactional ids: the lock, the threads and the metrics around
//! [`StatePartition`], which decides.
//!
//! A request, a moved high watermark, the answer to a marker or the timer takes the lock, lets the core take the step
//! (which appends at once, in order) and releases the lock; answers, markers and wake-ups leave after that. Notifiers
//! never wait for the lock: its holder checks for notifications after it has released it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicPartition};
use ottla_replica_manager::clock;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::partition::waiters::{Wakes, Watcher};
use ottla_transaction_coordinator::state_partition::{
    Environment, Event, LoadError, Loaded, Loader, Outputs, StateLog, StatePartition, Waiter,
};
use ottla_transaction_coordinator::{Answer, Batch, Marker, MarkerNumber, Now, Request};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::cluster::ImageCluster;
use super::metrics::States;
use super::{Common, PendingAnswer};
use crate::timer::Ticks;

/// A handler that waits for the answer to its request.
#[derive(Debug)]
pub(super) struct Handler(oneshot::Sender<Answer>);

impl Waiter for Handler {
    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

type Core = StatePartition<Handler>;

/// What leaves when the lock is free: answers, markers, then, on drop, the wake-ups of followers that fetch what was
/// appended.
#[derive(Default)]
struct Outbox {
    answers: Vec<(Handler, Answer)>,
    markers: Vec<Marker>,
    wakes: Wakes,
}

pub(super) struct TransactionPartition {
    common: Arc<Common>,
    partition: Arc<Partition>,
    /// The partition's role or high watermark, or the configuration, changed since the last [`Self::poll`].
    has_news: AtomicBool,
    /// The core has an older configuration.
    config_changed: AtomicBool,
    core: Mutex<Core>,
    /// The ids by state when they were last counted.
    last_states: Mutex<States>,
}

impl Watcher for TransactionPartition {
    fn partition_changed(self: Arc<Self>) {
        self.notify();
    }
}

impl Ticks for TransactionPartition {
    fn number(&self) -> PartitionId {
        self.partition.id().partition
    }

    fn tick(self: &Arc<Self>) {
        self.locked(|core, environment| ((), core.tick(environment)));
    }
}

impl TransactionPartition {
    pub fn new(common: Arc<Common>, partition: Arc<Partition>) -> Arc<Self> {
        let core = StatePartition::new(common.config.load_full());
        Arc::new(Self {
            common,
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

    /// Whether this broker is the coordinator of the partition's ids, or is about to be.
    pub fn leads(&self) -> bool {
        self.partition.leads()
    }

    /// Processes a request.
    pub fn submit(self: &Arc<Self>, request: Request) -> PendingAnswer {
        let mut receiver = None;
        let answer = self.locked(|core, environment| {
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
            (None, None) => PendingAnswer::Ready(Answer::Failed(ErrorCode::UnknownServerError)),
        }
    }

    /// A leader has answered a marker of this leader epoch (none: it did not).
    pub fn marker_answered(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        number: MarkerNumber,
        results: Option<&BTreeMap<TopicPartition, ErrorCode>>,
    ) {
        self.locked(|core, environment| ((), core.marker_answered(environment, epoch, number, results)));
    }

    /// Adds the number of ids in each state. While a step holds the lock these are the numbers of the last call: a
    /// scrape waits for no disk.
    pub fn count_states(self: &Arc<Self>, into: &mut States) {
        let mut last = self.last_states.lock();
        if let Some(core) = self.core.try_lock() {
            *last = core.shard().map(|shard| shard.states()).unwrap_or_default();
        }
        for (state, count) in &*last {
            *into.entry(*state).or_default() += count;
        }
        drop(last);
        // A notification that came while this call held the lock is this call's to process.
        self.poll();
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
    fn locked<T>(self: &Arc<Self>, step: impl FnOnce(&mut Core, &mut Environment<'_>) -> (T, Outputs<Handler>)) -> T {
        let mut outbox = Outbox::default();
        let result = self.step(&mut self.core.lock(), &mut outbox, step);
        self.deliver(outbox);
        self.poll();
        result
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
                    self.step(&mut core, &mut outbox, |core, environment| ((), core.poll(environment)));
                }
            }
            self.deliver(outbox);
        }
    }

    fn deliver(self: &Arc<Self>, outbox: Outbox) {
        for (handler, answer) in outbox.answers {
            // The client may have gone.
            let _ = handler.0.send(answer);
        }
        for marker in outbox.markers {
            self.common.markers.send(self, marker);
        }
    }

    /// One step of the core, and its outputs but for what has to wait until the lock is free.
    fn step<T>(
        self: &Arc<Self>,
        core: &mut Core,
        outbox: &mut Outbox,
        step: impl FnOnce(&mut Core, &mut Environment<'_>) -> (T, Outputs<Handler>),
    ) -> T {
        if self.config_changed.swap(false, Ordering::SeqCst) {
            core.set_config(self.common.config.load_full());
        }
        let image = self.common.image.load();
        let mut cluster = ImageCluster {
            image: &image,
            inter_broker: &self.common.inter_broker,
            producer_ids: &self.common.producer_ids,
        };
        let mut log = ReplicaLog { of: self, wakes: &mut outbox.wakes };
        let now = Now { monotonic: clock::monotonic(), wall: clock::wall() };
        let mut environment = Environment { now, cluster: &mut cluster, log: &mut log };
        let (result, outputs) = step(core, &mut environment);
        outputs.events.into_iter().for_each(|event| self.record(event, core.epoch()));
        outbox.answers.extend(outputs.answers);
        outbox.markers.extend(outputs.markers);
        if let Some(epoch) = outputs.load {
            self.start_loading(epoch);
        }
        if let Some(change) = outputs.timer {
            self.common.timer.set(self, change.at, change.instead_of);
        }
        result
    }

    /// Reads the log on a thread that may wait for the disk.
    fn start_loading(self: &Arc<Self>, epoch: LeaderEpoch) {
        let (permits, state_partition) =
            (self.common.load_permits.of(self.partition.directory().path()), Arc::clone(self));
        self.common.data.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let loading = tokio::task::spawn_blocking(move || {
                let result = state_partition.read_log(epoch);
                state_partition.locked(|core, environment| ((), core.loaded(environment, epoch, result)));
            });
            if let Err(error) = loading.await {
                tracing::error!(%error, "the transactional ids of a partition cannot be loaded");
            }
        });
    }

    fn read_log(&self, epoch: LeaderEpoch) -> Result<Loaded, LoadError> {
        let max_message_bytes = self.partition.settings().max_message_bytes();
        let mut loader = Loader::new(self.common.config.load_full(), epoch, max_message_bytes);
        loop {
            let piece = self
                .partition
                .read_own(loader.next(), self.common.load_buffer_bytes, epoch)
                .map_err(LoadError::Refused)?;
            let Some(records) = piece.records else { return Ok(loader.finish(piece.end)) };
            let bytes = records.read().map_err(|source| LoadError::Io { at: piece.from, source })?;
            loader.take(piece.from, &bytes)?;
        }
    }

    /// Metrics and log lines.
    fn record(&self, event: Event, epoch: LeaderEpoch) {
        let (partition, metrics) = (self.partition.name(), &self.common.telemetry.transactions);
        match event {
            Event::Loaded { records, unreadable, took_ms } => {
                if let Some((offset, error)) = &unreadable.first {
                    tracing::error!(%partition, %offset, %error, "a record of a transactional id cannot be read and is skipped");
                }
                if records > 0 {
                    let unreadable = unreadable.count;
                    tracing::info!(%partition, %epoch, records, unreadable, took_ms, "transactional ids loaded");
                }
            }
            // The notification that this leadership has ended is on its way.
            Event::LoadFailed { error: LoadError::Refused(error), .. } => {
                tracing::debug!(%partition, ?error, "the transactional ids of a partition are not loaded");
            }
            Event::LoadFailed { error, retry_ms } => {
                tracing::error!(%partition, %error, retry_ms, "transactional ids cannot be loaded, retrying");
            }
            Event::Serving { took_ms } => {
                metrics.partitions.add(1);
                metrics.loads.add(1);
                metrics.load_ms.add(took_ms);
            }
            Event::Left => metrics.partitions.add(-1),
            Event::Forgotten(requests) => {
                tracing::warn!(%partition, requests, "requests of transactional ids were not answered in their leadership");
            }
            Event::NobodyWaits => {}
        }
    }
}

/// The partition's replica, as its ids see it. Locks: [`TransactionPartition`], then [`Partition`].
struct ReplicaLog<'a> {
    of: &'a TransactionPartition,
    wakes: &'a mut Wakes,
}

impl StateLog for ReplicaLog<'_> {
    fn leading_epoch(&self) -> LeaderEpoch {
        self.of.partition.leading_epoch()
    }

    fn high_watermark(&self) -> Offset {
        self.of.partition.high_watermark()
    }

    fn end_if_empty(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let piece = self.of.partition.read_own(None, 1, epoch).ok()?;
        piece.records.is_none().then_some(piece.end)
    }

    fn append(&mut self, epoch: LeaderEpoch, batch: &Batch) -> Result<Offset, ErrorCode> {
        let partition = &self.of.partition;
        let mut bytes = batch.encode().map_err(|error| {
            tracing::error!(partition = %partition.name(), %error, "a batch of transaction records cannot be built");
            ErrorCode::UnknownServerError
        })?;
        let appended = partition.append_own(&mut bytes, None, epoch, clock::monotonic(), batch.timestamp, self.wakes);
        match &appended {
            Ok(_) => self.of.common.telemetry.transactions.records.add(batch.records.len() as u64),
            Err(error) => {
                tracing::debug!(partition = %partition.name(), ?error, "a batch of transaction records is not appended");
            }
        }
        appended
    }
}
