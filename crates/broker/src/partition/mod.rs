//! One partition's replica on this broker: its log and its role, behind one lock.
//!
//! A partition is state, not a task: whoever has something to do with it (a connection's task, a fetcher, an I/O thread) takes the
//! lock, does it and goes. What waits hangs in [`waiters`] and is woken when the lock is free again.
//!
//! Invariants:
//! - the role follows the tree: leader and follower exist only for the leader epoch that the tree named last, and only with an
//!   open log; everything that waited in an earlier leader epoch has ended;
//! - the published high watermark never passes the log's end and falls only with a truncation of a follower;
//! - a closed partition (deleted, or replaced by a topic of the same name) answers nobody any more.
//!
//! Lock order: fetch session, partition, leaves (wait lists, ISR proposals).

mod follower_side;
mod leader_side;
mod retention_side;
pub mod waiters;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_metadata::PartitionState;
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TopicIdPartition, TopicName, TopicPartition,
};
use ottla_replication::{
    EpochEnd, Follower, Following, IsrMember, Leader, LeaderConfig, LeaderEffects, LocalLog, PartitionView, Rules,
};
use ottla_storage::DiskFault;
use ottla_storage::env::RealEnv;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::broker::Identity;
use crate::clock;
use crate::isr_updates::IsrUpdates;
use crate::log_cleaner::LogCleaner;
use crate::log_dirs::LogDir;
use crate::log_io::{self, Urgency};
use crate::metadata_cache::MetadataCache;
use crate::response::RecordSlice;
use crate::telemetry::Telemetry;
use crate::topic_rules::TopicRules;

pub use leader_side::{AckWait, AppendRefused, Appended, FoundOffset, OffsetQuery, OwnRecords};
use waiters::{ProduceWaiters, Subscribers, Subscription, Wakes, Watcher};

pub type Log = ottla_storage::Log<RealEnv>;

/// Far longer than a partition's lock is held while its disk answers.
const LOCK_PATIENCE: Duration = Duration::from_millis(2);
/// How long one partition may hold up a request that asks for others too.
const STALL_PATIENCE: Duration = Duration::from_millis(250);

/// What all partitions of a broker share.
pub struct PartitionHost {
    pub identity: Arc<Identity>,
    pub metadata: Arc<MetadataCache>,
    pub isr_updates: Arc<IsrUpdates>,
    pub cleaner: Arc<LogCleaner>,
    pub replica_lag_time_max: Duration,
    pub telemetry: Arc<Telemetry>,
    /// Where what waits for a time runs.
    pub data: Handle,
    /// Some high watermark moved since the last checkpoint.
    pub high_watermarks_moved: AtomicBool,
    /// Somebody deleted records: the log starts want to be written down soon.
    pub log_start_moved: Notify,
    /// A segment was closed and is on the disk: the recovery point wants to be written down soon.
    pub segment_flushed: Notify,
    /// A directory's disk failed.
    pub storage_failed: Notify,
}

impl PartitionHost {
    /// Which brokers may be in an ISR, by the current image; looked up only when asked.
    fn eligible_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        let image = self.metadata.peek();
        image.broker(broker).filter(|broker| broker.is_active()).map(|broker| broker.epoch)
    }
}

impl PartitionHost {
    /// A directory's disk refused: it is out of use until the process starts again.
    pub fn directory_failed(&self, directory: &LogDir, error: &dyn std::fmt::Display) {
        if directory.health().fail() {
            tracing::error!(directory = %directory.path().display(), %error, "the log directory is out of use until a restart");
        }
        self.storage_failed.notify_one();
    }

    /// A directory's disk has no room: it goes on being used.
    pub fn directory_full(&self, directory: &LogDir, error: &dyn std::fmt::Display) {
        if directory.health().filled() {
            tracing::error!(directory = %directory.path().display(), %error, "the log directory is full: writes are refused until there is room");
        }
        self.storage_failed.notify_one();
    }

    /// What the directory did not do because of `cause` is to be tried again, or the directory is out of use. Says which.
    pub fn directory_refused(
        &self,
        directory: &LogDir,
        error: &dyn std::fmt::Display,
        cause: Option<&std::io::Error>,
    ) -> DiskFault {
        let fault = DiskFault::of(cause);
        match fault {
            DiskFault::Full => self.directory_full(directory, error),
            DiskFault::OutOfDescriptors => {
                tracing::warn!(directory = %directory.path().display(), %error, "out of descriptors: it is tried again");
            }
            DiskFault::Failed => self.directory_failed(directory, error),
        }
        fault
    }
}

/// What a look at a partition gives one fetch.
#[derive(Debug)]
pub struct FetchRead {
    pub error: ErrorCode,
    pub high_watermark: Offset,
    pub last_stable: Offset,
    pub log_start: Offset,
    /// Where the fetcher's log leaves this one.
    pub diverging: Option<EpochEnd>,
    pub records: Option<RecordSlice>,
    /// About how much there is that found no room in the answer; 0 where `records` has some of it.
    pub left_out_bytes: usize,
}

impl FetchRead {
    pub fn error(error: ErrorCode) -> Self {
        Self {
            error,
            high_watermark: Offset::UNKNOWN,
            last_stable: Offset::UNKNOWN,
            log_start: Offset::UNKNOWN,
            diverging: None,
            records: None,
            left_out_bytes: 0,
        }
    }

    fn with_records(self, records: RecordSlice) -> Self {
        let left_out_bytes = records.left_out_bytes;
        Self { left_out_bytes, records: Some(records).filter(|records| !records.is_empty()), ..self }
    }

    pub fn records_bytes(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.len)
    }
}

/// Who reads, which decides how far.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    Consumer {
        read_committed: bool,
    },
    /// `progress`: the fetch's offset is news from the follower, not a second look.
    Replica {
        id: BrokerId,
        epoch: BrokerEpoch,
        progress: bool,
    },
}

enum LogState {
    /// An I/O thread opens or creates it.
    Opening,
    Open(Box<Log>),
    /// Its directory failed, or it cannot be read.
    Offline,
}

enum Role {
    Idle,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

struct State {
    log: LogState,
    role: Role,
    /// What the tree said last.
    assigned: Option<Arc<PartitionState>>,
    /// What is known while nobody leads or follows here; the role knows better where there is one.
    high_watermark: Offset,
    subscribers: Subscribers,
    produce: ProduceWaiters,
    /// DeleteRecords that wait for the low watermark.
    deletions: ProduceWaiters,
    counted: CountedIsr,
}

/// What the metrics say of this partition.
#[derive(Clone, Copy, Default)]
struct CountedIsr {
    /// 0 while it does not lead here.
    members: usize,
    is_under_replicated: bool,
}

pub struct Partition {
    pub topic: TopicName,
    id: TopicIdPartition,
    host: Arc<PartitionHost>,
    /// Changes when the replica has moved to another.
    directory: ArcSwap<LogDir>,
    rules: ArcSwap<TopicRules>,
    /// The last append found no room on the disk.
    out_of_room: AtomicBool,
    closed: AtomicBool,
    /// The leader epoch in which it leads, or none. For looks that must not wait for the lock: a stalled disk holds it.
    leading: AtomicI32,
    published_high_watermark: AtomicI64,
    /// A flush waits for its I/O thread.
    flushing: AtomicBool,
    /// A flush waits for `flush.ms`.
    flush_timer: AtomicBool,
    watcher: OnceLock<Weak<dyn Watcher>>,
    state: Mutex<State>,
}

impl Partition {
    /// A partition whose log is being opened; `high_watermark` is what the checkpoint says.
    pub fn new(
        topic: TopicName,
        id: TopicIdPartition,
        host: Arc<PartitionHost>,
        directory: Arc<LogDir>,
        rules: Arc<TopicRules>,
        high_watermark: Offset,
    ) -> Arc<Self> {
        Arc::new(Self {
            topic,
            id,
            host,
            directory: ArcSwap::new(directory),
            rules: ArcSwap::new(rules),
            out_of_room: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            leading: AtomicI32::new(LeaderEpoch::NONE.0),
            published_high_watermark: AtomicI64::new(high_watermark.0),
            flushing: AtomicBool::new(false),
            flush_timer: AtomicBool::new(false),
            watcher: OnceLock::new(),
            state: Mutex::new(State {
                log: LogState::Opening,
                role: Role::Idle,
                assigned: None,
                high_watermark,
                subscribers: Subscribers::default(),
                produce: ProduceWaiters::default(),
                deletions: ProduceWaiters::default(),
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

    /// Whether the last append found no room on the disk.
    pub fn is_out_of_room(&self) -> bool {
        self.out_of_room.load(Ordering::Acquire)
    }

    pub fn rules(&self) -> Arc<TopicRules> {
        self.rules.load_full()
    }

    /// The high watermark as last published; without the lock.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.published_high_watermark.load(Ordering::Acquire))
    }

    /// Whether it led at the last change; without the lock.
    pub fn leads(&self) -> bool {
        self.leading_epoch() != LeaderEpoch::NONE
    }

    /// The leader epoch in which it led at the last change, else none; without the lock. A high watermark that was looked up before
    /// belongs to this leadership or an earlier time, never to a later one.
    pub fn leading_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leading.load(Ordering::Acquire))
    }

    /// From now on `watcher` is told of every change of the role and the high watermark. Once for each partition.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        // A second watcher would be a mistake of the caller; the first one stays.
        let _ = self.watcher.set(watcher);
    }

    fn tell_watcher(&self, wakes: &mut Wakes) {
        if let Some(watcher) = self.watcher.get().and_then(Weak::upgrade) {
            wakes.tell(watcher);
        }
    }

    /// Deleted, or replaced: whoever holds it looks it up again.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The lock. Whoever waits for it longer than a disk that answers takes steps aside, so that a stalled one holds up nobody but
    /// those who want this partition.
    fn lock(&self) -> MutexGuard<'_, State> {
        if !self.directory.load().health().has_siblings() {
            return self.state.lock();
        }
        match self.state.try_lock_for(LOCK_PATIENCE) {
            Some(state) => state,
            None => log_io::aside(|| self.state.lock()),
        }
    }

    /// The lock, for those who have other partitions to look at; none if a stalled disk seems to hold it.
    fn lock_or_pass(&self) -> Option<MutexGuard<'_, State>> {
        if !self.directory.load().health().has_siblings() {
            return Some(self.state.lock());
        }
        match self.state.try_lock_for(LOCK_PATIENCE) {
            Some(state) => Some(state),
            None => log_io::aside(|| self.state.try_lock_for(STALL_PATIENCE)),
        }
    }

    /// Whether a look at it would wait, for a disk presumably.
    pub fn is_held_up(&self) -> bool {
        let directory = self.directory.load();
        directory.health().has_siblings() && self.state.try_lock_for(LOCK_PATIENCE).is_none()
    }

    pub fn subscribe(&self, subscription: Arc<Subscription>) {
        // A fetch of many partitions does not wait for the disk of one. It finds out what is wrong with its next look.
        if let Some(mut state) = self.lock_or_pass() {
            state.subscribers.add(subscription);
        }
    }

    pub fn unsubscribe(self: &Arc<Self>, subscription: &Arc<Subscription>) {
        match self.lock_or_pass() {
            Some(mut state) => state.subscribers.remove(subscription),
            None => {
                let (partition, subscription) = (self.clone(), subscription.clone());
                self.directory().run(Urgency::Background, move || partition.lock().subscribers.remove(&subscription));
            }
        }
    }

    /// The log is there: the role that the tree named meanwhile begins.
    pub fn log_opened(self: &Arc<Self>, log: Box<Log>, now: MonotonicMs) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        if self.is_closed() {
            return;
        }
        state.high_watermark = state.high_watermark.max(log.log_start_offset()).min(log.log_end_offset());
        self.publish(state.high_watermark);
        state.log = LogState::Open(log);
        if let Some(assigned) = state.assigned.clone() {
            self.assume_in(&mut state, &assigned, now, &mut wakes);
        }
        drop(state);
        self.may_be_cleaned();
    }

    /// The log may be worth cleaning, whatever was known of it.
    fn may_be_cleaned(self: &Arc<Self>) {
        if self.rules.load().log.compact {
            self.host.cleaner.may_be_cleanable_again(self.id);
            self.host.cleaner.may_be_dirty(self);
        }
    }

    /// The log cannot be opened or written: the partition answers KAFKA_STORAGE_ERROR from now on.
    pub fn log_failed(&self) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        if let LogState::Open(log) = &mut state.log {
            log.abandon();
        }
        state.log = LogState::Offline;
        self.leave_role(&mut state, ErrorCode::KafkaStorageError, &mut wakes);
    }

    /// [`Self::log_failed`] for a partition that has not failed yet; says whether it was one.
    pub fn fail_if_open(&self) -> bool {
        let is_open = matches!(self.lock().log, LogState::Open(_));
        if is_open {
            self.log_failed();
        }
        is_open
    }

    /// Ends the partition here. Gives the log back for whatever comes next (a rename, a removal).
    pub fn close(&self, outcome: ErrorCode) -> Option<Box<Log>> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        self.closed.store(true, Ordering::Release);
        self.leave_role(&mut state, outcome, &mut wakes);
        match std::mem::replace(&mut state.log, LogState::Offline) {
            LogState::Open(log) => Some(log),
            LogState::Opening | LogState::Offline => None,
        }
    }

    /// The tree has a state for this partition: the role follows.
    pub fn assume(self: &Arc<Self>, assigned: &Arc<PartitionState>, now: MonotonicMs, wakes: &mut Wakes) {
        let mut state = self.lock();
        self.assume_in(&mut state, assigned, now, wakes);
    }

    fn assume_in(
        self: &Arc<Self>,
        state: &mut State,
        assigned: &Arc<PartitionState>,
        now: MonotonicMs,
        wakes: &mut Wakes,
    ) {
        if self.is_closed() {
            return;
        }
        // A state that waited for a stalled disk may come after a newer one.
        if state.assigned.as_ref().is_some_and(|known| known.partition_epoch > assigned.partition_epoch) {
            return;
        }
        state.assigned = Some(assigned.clone());
        let LogState::Open(log) = &mut state.log else { return };
        let local = self.host.identity.id();
        let epoch = assigned.leader_epoch;
        if assigned.leader == local {
            let isr = isr_of(assigned);
            let view = PartitionView {
                leader_epoch: epoch,
                partition_epoch: assigned.partition_epoch,
                replicas: &assigned.replicas,
                isr: &isr,
            };
            let brokers = |broker| self.host.eligible_epoch(broker);
            if let Role::Leader(leader) = &mut state.role
                && leader.leader_epoch() == epoch
            {
                let effects = leader.state_changed(now, view, &brokers);
                self.carry_out(state, effects, wakes);
                self.complete_deletions(state, wakes);
                self.count_isr(state);
                return;
            }
            log.begin_leader_epoch(epoch);
            let (log_start, log_end) = (log.log_start_offset(), log.log_end_offset());
            let high_watermark = state.high_watermark_now();
            let config = LeaderConfig {
                local,
                local_epoch: self.host.identity.epoch(),
                replica_lag_time_max: self.host.replica_lag_time_max,
                min_insync_replicas: self.rules.load().min_insync_replicas,
                rules: Rules::default(),
            };
            let led_before = state.counted.members;
            self.leave_role(state, ErrorCode::NotLeaderOrFollower, wakes);
            // It goes on leading: what the quorum took out of the ISR counts.
            state.counted.members = led_before;
            let (leader, effects) = Leader::new(now, config, view, log_start, log_end, high_watermark, &brokers);
            state.role = Role::Leader(Box::new(leader));
            self.leading.store(epoch.0, Ordering::Release);
            self.tell_watcher(wakes);
            self.carry_out(state, effects, wakes);
            self.count_isr(state);
            return;
        }
        if let Role::Follower(follower) = &state.role
            && follower.leader_epoch() == epoch
            && follower.leader() == assigned.leader
        {
            return;
        }
        let known = LocalLog {
            start: log.log_start_offset(),
            end: log.log_end_offset(),
            latest_epoch: log.epoch_history().latest_epoch(),
        };
        let high_watermark = state.high_watermark_now();
        self.leave_role(state, ErrorCode::NotLeaderOrFollower, wakes);
        if !assigned.has_leader() || !assigned.is_replica(local) {
            return;
        }
        // The correct rules never ask for anything before the first fetch.
        let (follower, _) = Follower::new(assigned.leader, epoch, known, high_watermark, Rules::default());
        state.role = Role::Follower(Box::new(follower));
    }

    /// Ends the role, and everything that waits for it.
    fn leave_role(&self, state: &mut State, outcome: ErrorCode, wakes: &mut Wakes) {
        state.high_watermark = state.high_watermark_now();
        state.role = Role::Idle;
        self.leading.store(LeaderEpoch::NONE.0, Ordering::Release);
        self.tell_watcher(wakes);
        self.count_isr(state);
        state.produce.fail_all(outcome, wakes);
        state.deletions.fail_all(outcome, wakes);
        state.subscribers.changed(wakes);
    }

    /// Tells the metrics what became of the ISR.
    fn count_isr(&self, state: &mut State) {
        let before = state.counted;
        let now = match &state.role {
            Role::Leader(leader) => {
                let members = leader.isr().committed().len();
                CountedIsr { members, is_under_replicated: members <= leader.followers().len() }
            }
            Role::Follower(_) | Role::Idle => CountedIsr::default(),
        };
        state.counted = now;
        let telemetry = &self.host.telemetry;
        let change = i64::from(now.is_under_replicated) - i64::from(before.is_under_replicated);
        if change != 0 {
            telemetry.under_replicated_partitions.add(change);
        }
        if before.members > 0 && now.members > before.members {
            telemetry.isr_expansions.add(1);
        }
        if before.members > now.members && now.members > 0 {
            telemetry.isr_shrinks.add(1);
        }
    }

    /// The topic's configuration changed.
    pub fn set_rules(self: &Arc<Self>, rules: Arc<TopicRules>, now: MonotonicMs, wakes: &mut Wakes) {
        let mut state = self.lock();
        if let LogState::Open(log) = &mut state.log {
            log.set_config(rules.log.clone());
        }
        if let Role::Leader(leader) = &mut state.role {
            let brokers = |broker| self.host.eligible_epoch(broker);
            let effects = leader.set_min_insync_replicas(now, rules.min_insync_replicas, &brokers);
            self.carry_out(&mut state, effects, wakes);
        }
        self.rules.store(rules);
        drop(state);
        self.may_be_cleaned();
    }

    /// Carries out what a step of the leader led to. The log's end has been dealt with.
    fn carry_out(self: &Arc<Self>, state: &mut State, effects: LeaderEffects, wakes: &mut Wakes) {
        if let Some(high_watermark) = effects.high_watermark {
            self.high_watermark_moved(state, high_watermark, wakes);
        }
        let mut alter = effects.alter;
        if effects.isr_changed
            && let Role::Leader(leader) = &mut state.role
        {
            if leader.is_under_min_isr() {
                state.produce.fail_all(ErrorCode::NotEnoughReplicasAfterAppend, wakes);
            }
            // Another follower may have caught up while this change was under way. It has nothing more to fetch, so it will
            // not be heard of again by itself.
            let brokers = |broker| self.host.eligible_epoch(broker);
            let next = leader.tick(clock::monotonic(), &brokers);
            alter = alter.or(next.alter);
            if let Some(high_watermark) = next.high_watermark {
                self.high_watermark_moved(state, high_watermark, wakes);
            }
        }
        if let Some(proposal) = alter {
            self.host.isr_updates.propose(self.clone(), proposal);
        }
    }

    /// Of the leader.
    fn high_watermark_moved(&self, state: &mut State, high_watermark: Offset, wakes: &mut Wakes) {
        self.publish(high_watermark);
        state.produce.complete_up_to(high_watermark, wakes);
        state.subscribers.high_watermark_moved(wakes);
        self.tell_watcher(wakes);
    }

    fn publish(&self, high_watermark: Offset) {
        self.published_high_watermark.store(high_watermark.0, Ordering::Release);
        // A load first: the flag is set already nearly always, and a store would take the cache line from the other core.
        if !self.host.high_watermarks_moved.load(Ordering::Relaxed) {
            self.host.high_watermarks_moved.store(true, Ordering::Release);
        }
    }

    /// Whom this replica follows, and what comes next; none if it does something else.
    pub fn following(&self) -> Option<Following> {
        let state = self.lock();
        match (&state.role, &state.log) {
            (Role::Follower(follower), LogState::Open(_)) => Some(follower.following()),
            _ => None,
        }
    }

    /// The leader of the last state that the tree had for this partition.
    pub fn assigned_leader(&self) -> BrokerId {
        self.lock().assigned.as_ref().map_or(BrokerId::NONE, |assigned| assigned.leader)
    }

    /// A look at the open log.
    pub fn with_log<T>(&self, look: impl FnOnce(&mut Log) -> T) -> Option<T> {
        match &mut self.lock().log {
            LogState::Open(log) => Some(look(log)),
            LogState::Opening | LogState::Offline => None,
        }
    }

    /// Puts another log, in another directory, in the place of this one, as `finish` makes it. Nothing else happens to the partition
    /// meanwhile; its role goes on, because the new log has what the old one had. None if there is no open log.
    pub fn replace_log<E>(
        &self,
        to: &Arc<LogDir>,
        finish: impl FnOnce(&mut Log) -> Result<Option<Box<Log>>, E>,
    ) -> Option<Result<bool, E>> {
        let mut state = self.lock();
        if self.is_closed() {
            return None;
        }
        let LogState::Open(log) = &mut state.log else { return None };
        Some(finish(log).map(|made| match made {
            Some(made) => {
                *log = made;
                self.directory.store(to.clone());
                true
            }
            None => false,
        }))
    }

    /// An I/O error of this partition's directory: the first one takes the whole directory out of use.
    pub fn disk_failed(&self, error: &dyn std::fmt::Display) {
        self.host.directory_failed(&self.directory.load(), &format_args!("{}: {error}", self.name()));
    }

    /// The disk refused a change of `log` for `cause`. Out of room or of descriptors, nothing is lost and nothing was changed: the next
    /// one tries again. With every other error the directory is out of use. Says which it was.
    fn disk_refused(&self, log: &Log, error: &dyn std::fmt::Display, cause: Option<&std::io::Error>) -> DiskFault {
        let cause = cause.filter(|_| !log.is_offline());
        let error = format_args!("{}: {error}", self.name());
        let fault = self.host.directory_refused(&self.directory.load(), &error, cause);
        if fault == DiskFault::Full {
            self.out_of_room.store(true, Ordering::Release);
        }
        fault
    }

    /// As [`Self::disk_refused`], without the log at hand.
    pub fn disk_error(&self, error: &std::io::Error) -> DiskFault {
        let text = format_args!("{}: {error}", self.name());
        self.host.directory_refused(&self.directory.load(), &text, Some(error))
    }

    /// An append succeeded.
    fn disk_took(&self) {
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

impl State {
    fn high_watermark_now(&self) -> Offset {
        match &self.role {
            Role::Leader(leader) => leader.high_watermark(),
            Role::Follower(follower) => follower.high_watermark(),
            Role::Idle => self.high_watermark,
        }
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("name", &self.name()).field("leads", &self.leads()).finish_non_exhaustive()
    }
}

/// The image's ISR as the replication core wants it.
fn isr_of(state: &PartitionState) -> Vec<IsrMember> {
    state.isr.iter().map(|member| IsrMember { broker: member.broker, epoch: member.epoch }).collect()
}
