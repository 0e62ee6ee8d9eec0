//! One partition's replica on this broker: the handle around [`Replica`], which decides everything.
//!
//! A partition is state behind one lock, not a task: a connection's task, a fetcher or an I/O thread takes the lock,
//! lets the replica take a step, carries out its effects and goes. What waits is kept in [`waiters`] and is woken when
//! the lock is free again.
//!
//! Invariants:
//! - the published high watermark never passes the log's end and falls only with a truncation of a follower;
//! - a closed partition (deleted, or replaced by a topic of the same name) serves nothing any more.
//!
//! Lock order: fetch session, partition, leaves (wait lists, ISR proposals).

pub mod append_refused;
mod context;
mod follower_side;
mod leader_side;
mod retention_side;
mod throttling;
pub mod touched;
pub mod waiters;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_metadata::PartitionState;
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TopicIdPartition, TopicName, TopicPartition};
use ottla_partition::{BrokenRules, Effects, Errand, ReplicaConfig, Truncated, WhenHeld, open_in};
use ottla_replication::{EpochEnd, Following};
use ottla_storage::env::RealEnv;
use ottla_storage::slice::RecordSlice;
use ottla_storage::{AbortedTransaction, CheckpointKind, DiskFault};
use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::log_dirs::{Log, LogDir};
use crate::log_io::{self, Urgency};
use crate::topic_settings::TopicSettings;

pub use append_refused::{AppendRefused, Crowded};
pub use context::PartitionContext;
pub use leader_side::{AckWait, Appended, OwnRecords, ProducedBatch};
pub use ottla_partition::{ConsumerTerms, Fetch, FoundOffset, IsNear, OffsetQuery, Reader, Visible};
pub use ottla_replication::FollowerStep;
pub use throttling::LeaderThrottle;
use touched::{Marks, Pass};
use waiters::{PendingAck, Subscribers, Subscription, Wakes, Watcher};

type Replica = ottla_partition::Replica<RealEnv, PendingAck>;

/// Far longer than a partition's lock is held while its disk answers.
const LOCK_PATIENCE: Duration = Duration::from_millis(2);
/// How long one partition may hold up a request that asks for others too.
const STALL_PATIENCE: Duration = Duration::from_millis(250);

/// What a look at a partition gives one fetch.
#[derive(Debug)]
pub struct FetchRead {
    pub error: ErrorCode,
    pub high_watermark: Offset,
    pub last_stable: Offset,
    pub log_start: Offset,
    /// Where the fetcher's log leaves this one.
    pub diverging: Option<EpochEnd>,
    /// The follower that the consumer is to read from.
    pub preferred_read_replica: Option<BrokerId>,
    /// A follower has read it.
    pub is_followers: bool,
    pub records: Option<RecordSlice>,
    /// For a reader of committed records: the aborted transactions that have records there.
    pub aborted: Vec<AbortedTransaction>,
    /// About how much there is that found no room in the answer; 0 where `records` has some of it.
    pub left_out_bytes: usize,
    /// There is more, which the leader's throttle does not let go now, or for which too many wait.
    pub is_held_back: bool,
    /// Its bytes count for the leader's throttle.
    pub is_throttled: bool,
}

impl FetchRead {
    pub fn error(error: ErrorCode) -> Self {
        Self {
            error,
            high_watermark: Offset::UNKNOWN,
            last_stable: Offset::UNKNOWN,
            log_start: Offset::UNKNOWN,
            diverging: None,
            preferred_read_replica: None,
            is_followers: false,
            records: None,
            aborted: Vec::new(),
            left_out_bytes: 0,
            is_held_back: false,
            is_throttled: false,
        }
    }

    pub fn records_bytes(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.len)
    }
}

struct State {
    replica: Replica,
    subscribers: Subscribers,
    counted: CountedIsr,
}

/// What the metrics say of this partition.
#[derive(Clone, Copy, Default)]
struct CountedIsr {
    /// 0 while it does not lead here.
    members: usize,
    is_under_replicated: bool,
    is_at_min: bool,
    is_under_min: bool,
}

/// Where a log ends, and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFigures {
    pub end: Offset,
    pub bytes: u64,
}

/// A round over many logs did not wait for this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassedBy;

/// Whether figures are of now; else they may be older.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreCurrent(pub bool);

pub struct Partition {
    pub topic: TopicName,
    id: TopicIdPartition,
    context: Arc<PartitionContext>,
    /// Changes when the replica has moved to another.
    directory: ArcSwap<LogDir>,
    /// A copy of its log grows in another directory.
    moving: AtomicBool,
    settings: ArcSwap<TopicSettings>,
    /// The last append, or the creation of the log, found no room on the disk.
    out_of_room: AtomicBool,
    closed: AtomicBool,
    /// The leader epoch in which it leads, or none. For looks that must not wait for the lock: a stalled disk holds it.
    leading: AtomicI32,
    /// The leader that it follows, or none. Likewise.
    followed: AtomicI32,
    published_high_watermark: AtomicI64,
    /// What [`Self::log_figures`] last saw.
    shown_end: AtomicI64,
    shown_bytes: AtomicU64,
    /// A flush waits for its I/O thread.
    flushing: AtomicBool,
    /// A flush waits for `flush.ms`.
    flush_timer: AtomicBool,
    marks: Marks,
    watcher: OnceLock<Weak<dyn Watcher>>,
    state: Mutex<State>,
}

impl Partition {
    /// A partition whose log is being opened; `high_watermark` is what the checkpoint says.
    pub fn new(
        topic: TopicName,
        id: TopicIdPartition,
        context: Arc<PartitionContext>,
        directory: Arc<LogDir>,
        settings: Arc<TopicSettings>,
        high_watermark: Offset,
    ) -> Arc<Self> {
        Arc::new(Self {
            topic,
            id,
            context,
            directory: ArcSwap::new(directory),
            moving: AtomicBool::new(false),
            settings: ArcSwap::new(settings),
            out_of_room: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            leading: AtomicI32::new(LeaderEpoch::NONE.0),
            followed: AtomicI32::new(BrokerId::NONE.0),
            published_high_watermark: AtomicI64::new(high_watermark.0),
            shown_end: AtomicI64::new(high_watermark.0),
            shown_bytes: AtomicU64::new(0),
            flushing: AtomicBool::new(false),
            flush_timer: AtomicBool::new(false),
            marks: Marks::default(),
            watcher: OnceLock::new(),
            state: Mutex::new(State {
                replica: Replica::new(high_watermark),
                subscribers: Subscribers::default(),
                counted: CountedIsr::default(),
            }),
        })
    }

    pub fn id(&self) -> TopicIdPartition {
        self.id
    }

    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.id.partition)
    }

    pub fn directory(&self) -> Arc<LogDir> {
        self.directory.load_full()
    }

    /// Whether its log is, or would be, in this directory.
    pub fn is_in(&self, directory: &Arc<LogDir>) -> bool {
        Arc::ptr_eq(&self.directory.load(), directory)
    }

    /// A copy of its log begins to grow in another directory, or does not grow any more. The log is not cleaned
    /// meanwhile: the copy may have a record that was cleaned away since, and would not get the tombstone that went
    /// after it.
    pub fn set_moving(self: &Arc<Self>, moving: bool) {
        self.moving.store(moving, Ordering::Release);
        if !moving && !self.is_closed() {
            self.may_be_cleaned();
        }
    }

    pub fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Acquire)
    }

    /// Whether the last append, or the creation of the log, found no room on the disk.
    pub fn is_out_of_room(&self) -> bool {
        self.out_of_room.load(Ordering::Acquire)
    }

    pub fn settings(&self) -> Arc<TopicSettings> {
        self.settings.load_full()
    }

    /// The high watermark as last published; without the lock.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.published_high_watermark.load(Ordering::Acquire))
    }

    /// Whether it led at the last change; without the lock.
    pub fn leads(&self) -> bool {
        self.leading_epoch() != LeaderEpoch::NONE
    }

    /// The leader epoch in which it led at the last change, else none; without the lock. A high watermark that was
    /// looked up before belongs to this leadership or an earlier time, never to a later one.
    pub fn leading_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leading.load(Ordering::Acquire))
    }

    /// The leader that it followed at the last change; without the lock.
    pub fn followed(&self) -> Option<BrokerId> {
        let leader = BrokerId(self.followed.load(Ordering::Acquire));
        (leader != BrokerId::NONE).then_some(leader)
    }

    /// From now on `watcher` is told of every change of the role and the high watermark. Once for each partition.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        // A second watcher would be a mistake of the caller; the first one stays.
        let _ = self.watcher.set(watcher);
    }

    fn notify_watcher(&self, wakes: &mut Wakes) {
        if let Some(watcher) = self.watcher.get().and_then(Weak::upgrade) {
            wakes.tell(watcher);
        }
    }

    /// The partition was deleted or replaced: the holder of this handle must look it up again.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The lock. A caller that does not get it within 2 ms waits on a blocking thread: a disk that stalls while the
    /// lock is held delays only the callers of this partition. The timers look at the partition afterwards.
    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.lock_quietly();
        self.touch();
        state
    }

    /// As [`Self::lock`], for a client: a bounded number of them waits.
    fn lock_for_client(&self) -> Result<MutexGuard<'_, State>, Crowded> {
        let state = match self.state.try_lock_for(LOCK_PATIENCE) {
            Some(state) => state,
            None => log_io::waiting(self.directory.load().health(), || self.state.lock()).ok_or(Crowded)?,
        };
        self.touch();
        Ok(state)
    }

    /// As [`Self::lock`], for timers, which change nothing that another timer would have to see.
    fn lock_quietly(&self) -> MutexGuard<'_, State> {
        match self.state.try_lock_for(LOCK_PATIENCE) {
            Some(state) => state,
            None => log_io::run_blocking(|| self.state.lock()),
        }
    }

    /// The lock, for this errand; none if the errand passes this partition by, whose holder seems to wait for a disk.
    fn lock_for(&self, errand: Errand) -> Option<MutexGuard<'_, State>> {
        let state = self.lock_quietly_for(errand)?;
        self.touch();
        Some(state)
    }

    /// As [`Self::lock_for`], for timers.
    fn lock_quietly_for(&self, errand: Errand) -> Option<MutexGuard<'_, State>> {
        if let Some(state) = self.state.try_lock_for(LOCK_PATIENCE) {
            return Some(state);
        }
        let directory = self.directory.load();
        match errand.when_held(directory.health()) {
            WhenHeld::PassesBy => None,
            WhenHeld::WaitsBriefly => {
                log_io::waiting(directory.health(), || self.state.try_lock_for(STALL_PATIENCE)).flatten()
            }
            WhenHeld::Waits | WhenHeld::Later => Some(log_io::run_blocking(|| self.state.lock())),
        }
    }

    fn touch(&self) {
        self.context.touched.touch(self.id, &self.marks);
    }

    /// The partition has a place here from now on, where timers find it. One that took it before did not find it, and
    /// would not look at it ever again.
    pub fn can_be_found(&self) {
        self.marks.forget();
        self.touch();
    }

    /// This pass looks at the partition now, which it took from [`touched::Touched::take`].
    pub fn looked_at(&self, pass: Pass) {
        self.marks.clear(pass);
    }

    /// This pass looks at the partition again the next time, whatever happens to it.
    pub fn look_again(&self, pass: Pass) {
        self.context.touched.mark(pass, self.id, &self.marks);
    }

    /// What the errand has to do if the lock is not free within 2 ms, presumably because its holder waits for a disk.
    /// If the disk is known to be stalled, the lock is tried once: 2 ms for each of thousands of partitions would take
    /// seconds.
    pub fn when_held(&self, errand: Errand) -> Option<WhenHeld> {
        let directory = self.directory.load();
        let health = directory.health();
        let patience = if health.is_stalled() { Duration::ZERO } else { LOCK_PATIENCE };
        let is_held = self.state.try_lock_for(patience).is_none();
        is_held.then(|| errand.when_held(health))
    }

    /// Whether a thread of the directory must do the errand, which may wait for the lock.
    pub fn goes_later(&self, errand: Errand) -> bool {
        self.when_held(errand) == Some(WhenHeld::Later)
    }

    /// Whether the subscription holds from now on. A fetch of many partitions does not wait for the disk of one.
    #[must_use = "who is not told of the partition's news has to look again by itself"]
    pub fn subscribe(&self, subscription: Arc<Subscription>) -> bool {
        let state = self.lock_for(Errand::Fetch);
        state.map(|mut state| state.subscribers.add(subscription)).is_some()
    }

    pub fn unsubscribe(self: &Arc<Self>, subscription: &Arc<Subscription>) {
        match self.lock_for(Errand::Fetch) {
            Some(mut state) => state.subscribers.remove(subscription),
            None => {
                let (partition, subscription) = (self.clone(), subscription.clone());
                self.directory().run(Urgency::Background, move || partition.lock().subscribers.remove(&subscription));
            }
        }
    }

    fn replica_config(&self) -> ReplicaConfig {
        ReplicaConfig {
            local: self.context.identity.id(),
            local_epoch: self.context.identity.epoch(),
            replica_lag_time_max: self.context.replica_lag_time_max,
            min_insync_replicas: self.settings.load().min_insync_replicas,
            rules: BrokenRules::default(),
        }
    }

    /// Opens the log that was found, or the one that waits for room on the disk, or creates a new one; then the role
    /// begins that the tree named. Returns whether the disk had room. Waits for the disk, without the lock.
    pub fn open_log(self: &Arc<Self>, found: Option<Box<Log>>, now: MonotonicMs) -> bool {
        let found = found.or_else(|| self.lock().replica.take_waiting_log());
        let (name, config) = (self.topic_partition(), self.settings.load().log.clone());
        let mut opened = open_in(&self.directory.load(), name, self.id.topic_id, config, found, clock::wall());
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        if self.is_closed() {
            return true;
        }
        if let Ok(log) = &mut opened {
            // They may have changed meanwhile.
            log.set_config(self.settings.load().log.clone());
            self.out_of_room.store(false, Ordering::Release);
        }
        let brokers = |broker| self.context.eligible_epoch(broker);
        let effects = state.replica.log_opened(opened, now, clock::wall(), &self.replica_config(), &brokers);
        self.execute(&mut state, effects, &mut wakes);
        let awaits_log = state.replica.awaits_log();
        drop(state);
        self.may_be_cleaned();
        !awaits_log
    }

    /// The log may be worth cleaning, whatever was known of it.
    pub fn may_be_cleaned(self: &Arc<Self>) {
        if self.settings.load().log.compact {
            self.context.cleaner.may_be_cleanable_again(self.id);
            self.context.cleaner.may_be_dirty(self);
        }
    }

    /// The log cannot be opened or written: the partition answers KAFKA_STORAGE_ERROR from now on.
    pub fn log_failed(&self) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let effects = state.replica.log_failed();
        self.execute(&mut state, effects, &mut wakes);
    }

    /// Its directory failed. Returns whether the log was open.
    pub fn directory_failed(&self) -> bool {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let effects = state.replica.directory_failed();
        let was_open = effects.is_some();
        if let Some(effects) = effects {
            self.execute(&mut state, effects, &mut wakes);
        }
        was_open
    }

    /// Its offset for a checkpoint file; none if its log cannot be read now.
    pub fn checkpointed(&self, kind: CheckpointKind) -> Option<Offset> {
        match kind {
            // Without the lock: it moves with every fetch.
            CheckpointKind::HighWatermark => Some(self.high_watermark()),
            kind => self.lock_quietly().replica.checkpointed(kind),
        }
    }

    /// A new log is going to be made in the place of one that could not be read.
    pub fn begin_opening(&self) {
        self.lock().replica.begin_opening();
    }

    /// Ends the partition here. Gives the log back for whatever comes next (a rename, a removal).
    pub fn close(&self, outcome: ErrorCode) -> Option<Box<Log>> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        self.closed.store(true, Ordering::Release);
        let (log, effects) = state.replica.close(outcome);
        self.execute(&mut state, effects, &mut wakes);
        log
    }

    /// The tree has a state for this partition: the role follows.
    pub fn assume(&self, assigned: &Arc<PartitionState>, now: MonotonicMs, wakes: &mut Wakes) {
        let mut state = self.lock();
        if self.is_closed() {
            return;
        }
        let brokers = |broker| self.context.eligible_epoch(broker);
        let effects = state.replica.assume(assigned, now, clock::wall(), &self.replica_config(), &brokers);
        self.execute(&mut state, effects, wakes);
    }

    /// Carries out what a step of the replica led to.
    fn execute(&self, state: &mut State, effects: Effects<PendingAck>, wakes: &mut Wakes) {
        if effects.role_changed {
            self.leading.store(state.replica.leading_epoch().0, Ordering::Release);
            let followed = state.replica.following().map_or(BrokerId::NONE, |following| following.leader);
            self.followed.store(followed.0, Ordering::Release);
        }
        if let Some(high_watermark) = effects.high_watermark {
            self.publish(high_watermark);
            state.subscribers.high_watermark_moved(wakes);
        }
        if effects.role_changed || effects.high_watermark.is_some() {
            self.notify_watcher(wakes);
        }
        if effects.appended {
            state.subscribers.appended(wakes);
        }
        if effects.changed {
            state.subscribers.changed(wakes);
        }
        for ack in effects.acknowledged {
            ack.complete(ErrorCode::None, wakes);
        }
        for (ack, error) in effects.failed {
            ack.complete(error, wakes);
        }
        if effects.role_changed || effects.isr_changed {
            self.count_isr(state);
        }
        if let Some(proposal) = effects.proposal {
            self.context.alter_partition.submit(self.id, proposal);
        }
        if let Some(truncated) = effects.truncated {
            self.log_was_cut(&truncated);
        }
        if let Some(error) = effects.disk_error {
            self.disk_refused(&state.replica, &error, Some(&error));
        }
    }

    /// Updates the metrics that count ISRs.
    fn count_isr(&self, state: &mut State) {
        let before = state.counted;
        let now = match state.replica.leader() {
            Some(leader) => {
                let members = leader.isr().committed().len();
                // The ISR of a topic with fewer replicas than that can never be larger.
                let replicas = leader.followers().len() + 1;
                let min = self.settings.load().min_insync_replicas.min(replicas);
                CountedIsr {
                    members,
                    is_under_replicated: members < replicas,
                    is_at_min: members == min,
                    is_under_min: members < min,
                }
            }
            None => CountedIsr::default(),
        };
        state.counted = now;
        let metrics = &self.context.metrics;
        let counts = [
            (&metrics.under_replicated_partitions, before.is_under_replicated, now.is_under_replicated),
            (&metrics.at_min_isr_partitions, before.is_at_min, now.is_at_min),
            (&metrics.under_min_isr_partitions, before.is_under_min, now.is_under_min),
        ];
        for (gauge, before, now) in counts.into_iter().filter(|(_, before, now)| before != now) {
            gauge.add(i64::from(now) - i64::from(before));
        }
        if before.members > 0 && now.members > before.members {
            metrics.isr_expansions.add(1);
        }
        if before.members > now.members && now.members > 0 {
            metrics.isr_shrinks.add(1);
        }
    }

    /// The topic's configuration changed: [`Self::apply_settings`] has to follow.
    pub fn set_settings(&self, settings: Arc<TopicSettings>) {
        self.settings.store(settings);
    }

    /// Tells the replica what the settings are now, whichever call has set them.
    pub fn apply_settings(self: &Arc<Self>, now: MonotonicMs, wakes: &mut Wakes) {
        let mut state = self.lock();
        let settings = self.settings.load_full();
        let brokers = |broker| self.context.eligible_epoch(broker);
        let effects = state.replica.set_config(now, &settings.log, settings.min_insync_replicas, &brokers);
        self.execute(&mut state, effects, wakes);
        self.count_isr(&mut state);
        drop(state);
        self.may_be_cleaned();
    }

    /// The log's end and size, for metrics. While the lock is held, perhaps until a disk answers, these are the figures
    /// of the last call; it then says so.
    pub fn log_figures(&self) -> (LogFigures, AreCurrent) {
        let state = self.state.try_lock();
        if let Some(state) = &state
            && let Some(log) = state.replica.log()
        {
            self.shown_end.store(log.log_end_offset().0, Ordering::Relaxed);
            self.shown_bytes.store(log.size_bytes(), Ordering::Relaxed);
        }
        let figures = LogFigures {
            end: Offset(self.shown_end.load(Ordering::Relaxed)),
            bytes: self.shown_bytes.load(Ordering::Relaxed),
        };
        (figures, AreCurrent(state.is_some()))
    }

    fn publish(&self, high_watermark: Offset) {
        self.published_high_watermark.store(high_watermark.0, Ordering::Release);
        // A load first: the flag is set already nearly always, and a store would take the cache line from the other
        // core.
        if !self.context.high_watermarks_moved.load(Ordering::Relaxed) {
            self.context.high_watermarks_moved.store(true, Ordering::Release);
        }
    }

    /// The checkpoint on disk may name more than is left: that must not be believed after a loss of power, once other
    /// records have been written in the place of those that were cut.
    fn log_was_cut(&self, truncated: &Truncated) {
        tracing::info!(
            partition = %self.name(), from = %truncated.from, to = %truncated.to, start = %truncated.log_start,
            "truncated to what the leader has"
        );
        if let Err(error) = self.directory.load().log_was_cut(&self.topic_partition(), truncated.left()) {
            self.disk_failed(&error);
        }
    }

    /// Whom this replica follows, and what comes next; none if it does something else.
    pub fn following(&self) -> Option<Following> {
        self.lock().replica.following()
    }

    /// The leader of the last state that the tree had for this partition.
    pub fn assigned_leader(&self) -> BrokerId {
        self.lock().replica.assigned().map_or(BrokerId::NONE, |assigned| assigned.leader)
    }

    /// A look at the open log.
    pub fn with_log<T>(&self, look: impl FnOnce(&mut Log) -> T) -> Option<T> {
        self.lock().replica.log_mut().map(look)
    }

    /// As [`Self::with_log`], in a round over many logs.
    ///
    /// # Errors
    /// Somebody holds the lock, who seems to wait for a disk.
    pub fn look_in_passing<T>(&self, look: impl FnOnce(&mut Log) -> T) -> Result<Option<T>, PassedBy> {
        // Not quietly: a look may open files, which a timer closes.
        let mut state = self.lock_for(Errand::Tick).ok_or(PassedBy)?;
        Ok(state.replica.log_mut().map(look))
    }

    /// As [`Self::with_log`], for a client.
    ///
    /// # Errors
    /// There is no open log, or too many wait for its disk.
    pub fn look_for_client<T>(&self, look: impl FnOnce(&mut Log) -> T) -> Result<T, ErrorCode> {
        let mut state = self.lock_for_client()?;
        state.replica.log_mut().map(look).ok_or(ErrorCode::KafkaStorageError)
    }

    /// Closes the files that were not used since the last call. Those that stay open are looked at again.
    pub fn close_idle_files(&self) {
        let mut state = self.lock_quietly();
        let Some(log) = state.replica.log_mut() else { return };
        log.close_idle_files();
        if log.open_files() > 0 {
            self.look_again(Pass::Files);
        }
    }

    /// Puts another log, in another directory, in the place of this one, as `finish` makes it. Nothing else happens to
    /// the partition meanwhile; its role goes on, because the new log has what the old one had. None if there is no
    /// open log.
    pub fn replace_log<E>(
        &self,
        to: &Arc<LogDir>,
        finish: impl FnOnce(&mut Log) -> Result<Option<Box<Log>>, E>,
    ) -> Option<Result<bool, E>> {
        let mut state = self.lock();
        if self.is_closed() {
            return None;
        }
        let log = state.replica.log_mut()?;
        Some(finish(log).map(|made| match made {
            Some(made) => {
                *log = *made;
                self.directory.store(to.clone());
                // One that waits for a thread of the former directory may wait for its disk.
                self.flushing.store(false, Ordering::Release);
                true
            }
            None => false,
        }))
    }

    /// An I/O error of this partition's directory: the first one takes the whole directory out of use.
    pub fn disk_failed(&self, error: &dyn std::fmt::Display) {
        self.context.directory_failed(&self.directory.load(), &format_args!("{}: {error}", self.name()));
    }

    /// The disk refused a change of `log` for `cause`. Out of room or of descriptors, nothing is lost and nothing was
    /// changed: the next one tries again. With every other error the directory is out of use. Says which it was.
    fn disk_refused(
        &self,
        replica: &Replica,
        error: &dyn std::fmt::Display,
        cause: Option<&std::io::Error>,
    ) -> DiskFault {
        let fault = replica.disk_fault(cause);
        let error = format_args!("{}: {error}", self.name());
        self.context.directory_fault(&self.directory.load(), &error, fault);
        if fault == DiskFault::Full {
            self.out_of_room.store(true, Ordering::Release);
        }
        fault
    }

    /// As [`Self::disk_refused`], of a log that was in `directory`: the replica may have left a disk that fails.
    pub fn disk_error(&self, directory: &LogDir, error: &std::io::Error) -> DiskFault {
        let text = format_args!("{}: {error}", self.name());
        self.context.directory_refused(directory, &text, Some(error))
    }

    /// An append succeeded.
    fn append_succeeded(&self) {
        if self.out_of_room.load(Ordering::Relaxed) {
            self.out_of_room.store(false, Ordering::Release);
        }
        if self.directory.load().health().has_room() {
            tracing::info!(directory = %self.directory.load().path().display(), "the log directory has room again");
        }
    }

    /// `topic-partition`, for people.
    pub fn name(&self) -> String {
        format!("{}-{}", self.topic, self.id.partition)
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("name", &self.name()).field("leads", &self.leads()).finish_non_exhaustive()
    }
}
