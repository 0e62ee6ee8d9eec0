//! The groups of one partition of `__consumer_offsets`, while its broker leads it.
//!
//! Inputs: replayed records while loading, then requests, the time, and what became of batches. Outputs: [`Effects`].
//! - Groups change at once; the answers that promise the change wait in [`in_flight`] for the high watermark. A step
//!   whose records the log would refuse is undone ([`refused`]). After a refusal that was not foreseen the shard is
//!   dropped and loaded again.
//! - Committed offsets reach the offset store only from below the high watermark, so what OffsetFetch answers needs no
//!   way back.
//! - A step costs what its own group costs; nothing here grows with the number of groups but listing them, and the
//!   searches for offsets that have expired ([`sweep`]) or whose topics are gone ([`deletions`]), which go in pieces.

mod budget;
#[cfg(test)]
mod budget_tests;
mod decision;
mod deletions;
mod dispatch;
mod in_flight;
mod pace;
mod refused;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ErrorCode, GroupId, MonotonicMs, Offset, PartitionId, ProducerId, TimestampMs};

pub(crate) use decision::{Context, Decision, Fate};
use deletions::Deletions;
use in_flight::{InFlight, Pending};
use sweep::Sweep;

use crate::Now;
use crate::answer::GroupAnswer;
use crate::budget::Share;
pub use crate::budget::{Budget, BudgetLimits, Usage};
use crate::config::GroupConfig;
use crate::effects::{Batch, BatchKind, BatchNumber, Effects, RequestId};
use crate::group::Group;
use crate::group::classic::ClassicGroup;
use crate::group::consumer::{ConsumerGroup, RegexCache};
use crate::offsets::OffsetStore;
use crate::record::{Record, RecordError};
use crate::request::Request;
use crate::timer::{Timer, Timers};
use crate::topics::Topics;

/// A tick that comes later than this was held up (a stopped process, a starved machine), and so were the heartbeats
/// that wait behind it: a member whose session ended meanwhile gets this grace, once, to be heard.
const LATE_TICK: Duration = Duration::from_millis(500);
const SESSION_GRACE: Duration = Duration::from_secs(2);

/// Timers that one tick lets run out.
const EXPIRED_PER_TICK: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Shard {
    /// With the log's own limit of a batch, where that is lower.
    config: Arc<GroupConfig>,
    /// As the host has given it.
    host_config: Arc<GroupConfig>,
    groups: BTreeMap<GroupId, Group>,
    offsets: OffsetStore,
    timers: Timers,
    regexes: RefCell<RegexCache>,
    in_flight: InFlight,
    sweep: Sweep,
    share: Share,
    /// The error with which the log refuses records now.
    log_refuses: Option<ErrorCode>,
    /// Nothing is ticked before, because the log refuses records.
    quiet_until: Option<MonotonicMs>,
    deletions: Deletions,
}

impl Shard {
    pub fn new(config: Arc<GroupConfig>) -> Self {
        Self {
            share: Share::new(Arc::clone(&config.budget)),
            host_config: Arc::clone(&config),
            config,
            groups: BTreeMap::new(),
            offsets: OffsetStore::default(),
            timers: Timers::default(),
            regexes: RefCell::default(),
            in_flight: InFlight::default(),
            sweep: Sweep::default(),
            log_refuses: None,
            quiet_until: None,
            deletions: Deletions::default(),
        }
    }

    /// Holds for what is decided from now on; timers that run keep their deadlines.
    pub fn set_config(&mut self, config: Arc<GroupConfig>) {
        let limit = self.config.max_batch_bytes;
        let is_lower = limit < self.host_config.max_batch_bytes;
        self.host_config = Arc::clone(&config);
        self.config = config;
        if is_lower {
            self.limit_batches(limit);
        }
    }

    /// The log takes batches up to `bytes`.
    fn limit_batches(&mut self, bytes: i32) {
        let bytes = bytes.min(self.host_config.max_batch_bytes);
        if self.config.max_batch_bytes != bytes {
            self.config = Arc::new(GroupConfig { max_batch_bytes: bytes, ..(*self.host_config).clone() });
        }
    }

    /// Replays one record while loading. Kinds and versions that this release does not know are passed over, as Kafka
    /// does.
    ///
    /// # Errors
    /// The key or the value is not what its version says.
    pub fn apply(&mut self, _timestamp: TimestampMs, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        let Some(record) = Record::decode(key, value)? else { return Ok(()) };
        match record {
            Record::Offset { .. } => self.offsets.apply(&record),
            Record::ClassicGroup { group, value: Some(value) } => {
                self.groups.insert(group, Group::Classic(ClassicGroup::from_record(value)));
            }
            // The tombstone of a classic group that has become a consumer group comes before that group's records.
            Record::ClassicGroup { group, value: None } => {
                if matches!(self.groups.get(&group), Some(Group::Classic(_))) {
                    self.groups.remove(&group);
                }
            }
            record => ConsumerGroup::replay(&mut self.groups, record),
        }
        Ok(())
    }

    /// Replays one record of a transaction that has not ended, as far as the log was read. Only offsets are committed
    /// so.
    ///
    /// # Errors
    /// The key or the value is not what its version says.
    pub fn apply_in_transaction(
        &mut self,
        producer: ProducerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), RecordError> {
        if let Some(record) = Record::decode(key, value)? {
            self.offsets.replay_in_transaction(producer, record);
        }
        Ok(())
    }

    /// Replays the end of a transaction.
    pub fn apply_end_of_transaction(&mut self, producer: ProducerId, is_commit: bool) {
        self.offsets.end_transaction(producer, is_commit);
    }

    /// Replay is over: every member gets a fresh session, for it could not have been heard while nobody led the
    /// partition.
    pub fn loaded(&mut self, now: Now, topics: &dyn Topics) -> Effects {
        // Groups that only commit offsets have no record of their own.
        for group in self.offsets.groups() {
            self.groups.entry(group).or_insert_with(|| Group::Classic(ClassicGroup::simple()));
        }
        self.sweep.begin(now, &self.config);
        let mut effects = Effects::default();
        let groups: Vec<GroupId> = self.groups.keys().cloned().collect();
        for group in groups {
            effects.extend(self.on_group(now, topics, &group, |found, cx| match found {
                Group::Classic(classic) => classic.loaded(cx),
                Group::Consumer(consumer) => consumer.loaded(cx),
            }));
            self.measure(&group);
        }
        effects.extend(self.delete_outdated(now, topics));
        self.report_usage();
        effects
    }

    /// One request. Its answer is among the effects of this step or of a later one.
    pub fn step(&mut self, now: Now, topics: &dyn Topics, id: RequestId, request: Request) -> Effects {
        if let Some(error) = self.over_budget(&request) {
            return Effects { answers: vec![(id, GroupAnswer::Failed(error))], ..Effects::default() };
        }
        // These requests add state that may be large.
        let large_state_of = match &request {
            Request::JoinGroup(join) => Some(join.group.clone()),
            Request::SyncGroup(sync) if !sync.assignments.is_empty() => Some(sync.group.clone()),
            Request::ConsumerGroupHeartbeat(beat) if refused::writes_whole_group(beat) => Some(beat.group.clone()),
            _ => None,
        };
        let group = request.group().cloned();
        let effects = self.step_or_undo(now, topics, id, request.detached());
        match (large_state_of, group) {
            (Some(group), _) => self.measure(&group),
            (None, Some(group)) => self.measure_if_changed(&group),
            (None, None) => {}
        }
        self.report_usage();
        effects
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now, topics: &dyn Topics) -> Effects {
        if self.is_paused(now) {
            return Effects::default();
        }
        self.quiet_until = None;
        let mut effects = self.delete_gone(now, topics);
        effects.extend(self.expire_due(now, topics));
        effects.extend(self.sweep_expired_offsets(now));
        self.report_usage();
        effects
    }

    /// Lets timers run out, so many at most: the host calls again at once if more are due, and lets others have the
    /// lock between two calls. Members of one consumer group whose time is up leave it in one step: each step costs as
    /// much as the group, and hundreds may go at once.
    fn expire_due(&mut self, now: Now, topics: &dyn Topics) -> Effects {
        let mut effects = Effects::default();
        let mut silent: BTreeMap<GroupId, BTreeSet<Timer>> = BTreeMap::new();
        for _ in 0..EXPIRED_PER_TICK {
            let Some((due, group, timer)) = self.timers.pop_due(now.monotonic) else { break };
            let is_late = matches!(timer, Timer::Session(_)) && now.monotonic.since(due) > LATE_TICK;
            if is_late && self.timers.postpone(&group, timer.clone(), now.monotonic + SESSION_GRACE) {
                continue;
            }
            if matches!(self.groups.get(&group), Some(Group::Consumer(_))) {
                silent.entry(group).or_default().insert(timer);
            } else {
                effects.extend(self.expire(now, topics, &group, &timer));
                self.measure_if_changed(&group);
            }
        }
        for (group, timers) in silent {
            effects.extend(self.expire_or_undo(now, topics, &group, timers));
            self.measure_if_changed(&group);
        }
        effects
    }

    /// Lets a timer of a group run out.
    fn expire(&mut self, now: Now, topics: &dyn Topics, group: &GroupId, timer: &Timer) -> Effects {
        self.on_group(now, topics, group, |found, cx| match found {
            Group::Classic(classic) => classic.expired(cx, timer.clone()),
            Group::Consumer(consumer) => consumer.expired(cx, &BTreeSet::from([timer.clone()])),
        })
    }

    /// How many groups there are, by type and state. Looks at every group.
    pub fn states(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut states = BTreeMap::new();
        for group in self.groups.iter().map(|(id, group)| group.listed(id)) {
            *states.entry((group.group_type, group.state)).or_default() += 1;
        }
        states
    }

    /// Every committed offset, in the order of groups.
    pub fn committed_offsets(&self) -> impl Iterator<Item = (&GroupId, &str, PartitionId, Offset)> {
        self.offsets.iter()
    }

    /// When `tick` has something to do.
    pub fn next_deadline(&self) -> Option<MonotonicMs> {
        self.not_before([self.timers.next(), self.sweep.next(), self.deletions.next()].into_iter().flatten().min())
    }

    /// The host has appended a batch; `end` is the log end offset after it.
    pub fn appended(&mut self, batch: BatchNumber, end: Offset) -> Effects {
        self.in_flight.placed(batch, end);
        Effects::default()
    }

    /// The log refused a batch and holds nothing of it.
    pub fn append_refused(&mut self, now: Now, batch: BatchNumber, error: ErrorCode) -> Effects {
        let Some(pending) = self.in_flight.take(batch) else { return Effects::default() };
        let reload = pending.group.is_some();
        self.deletion_refused(now, &pending, error);
        let mut effects = Effects {
            answers: self
                .withdraw(pending)
                .into_iter()
                .map(|(id, answer)| {
                    if answer == GroupAnswer::EndTransaction {
                        // The transaction coordinator knows the log's own errors.
                        return (id, GroupAnswer::Failed(error));
                    }
                    let error = refusal(error, matches!(answer, GroupAnswer::CommitOffsets(_)));
                    (id, GroupAnswer::Failed(error))
                })
                .collect(),
            ..Effects::default()
        };
        if reload {
            // What the groups promise now is ahead of the log: nobody may be answered from it any more.
            effects.extend(self.resign(ErrorCode::CoordinatorLoadInProgress));
            effects.reload = true;
        }
        effects
    }

    /// The high watermark moved.
    pub fn committed_up_to(&mut self, _now: Now, high_watermark: Offset) -> Effects {
        let mut effects = Effects::default();
        while let Some(pending) = self.in_flight.pop_replicated(high_watermark) {
            match pending.kind {
                BatchKind::Plain => pending.offsets.iter().for_each(|record| self.offsets.apply(record)),
                BatchKind::Transactional { producer_id, .. } => {
                    let records = pending.offsets.into_iter();
                    records.for_each(|record| self.offsets.apply_in_transaction(producer_id, record));
                }
                BatchKind::Marker(end) => self.offsets.end_transaction(end.producer_id, end.is_commit),
            }
            effects.answers.extend(pending.answers);
        }
        self.report_usage();
        effects
    }

    /// The broker leads the partition no longer: everything that waits is answered with the error.
    pub fn resign(&mut self, error: ErrorCode) -> Effects {
        let mut effects = Effects::default();
        for pending in self.in_flight.take_all() {
            effects.answers.extend(self.withdraw(pending).into_iter().map(|(id, _)| (id, GroupAnswer::Failed(error))));
        }
        for group in self.groups.values_mut() {
            effects.answers.extend(group.take_waiting().into_iter().map(|id| (id, GroupAnswer::Failed(error))));
        }
        effects
    }

    /// A batch is not in the log, and will not be: its offsets are in flight no longer. Returns the answers that waited
    /// for it.
    fn withdraw(&mut self, pending: Pending) -> Vec<(RequestId, GroupAnswer)> {
        for record in &pending.offsets {
            self.offsets.withdraw(record);
        }
        pending.answers
    }

    /// Lets a group that exists take a step.
    fn on_group(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        group: &GroupId,
        step: impl FnOnce(&mut Group, &mut Context<'_>) -> Decision,
    ) -> Effects {
        let Some(found) = self.groups.get_mut(group) else { return Effects::default() };
        let mut context = Context {
            now,
            config: &self.config,
            topics,
            group,
            timers: &mut self.timers,
            regexes: &self.regexes,
            visible: None,
            in_flight: self.in_flight.changes(group),
        };
        let decision = step(found, &mut context);
        self.execute(now, group, decision)
    }

    /// Turns a group's decision into effects.
    fn execute(&mut self, now: Now, group: &GroupId, decision: Decision) -> Effects {
        let Decision { records, now: at_once, after, fate } = decision;
        if let Fate::Become(successor) = fate {
            self.groups.insert(group.clone(), *successor);
        }
        let mut effects = Effects { answers: at_once, ..Effects::default() };
        if records.is_empty() {
            effects.answers.extend(self.in_flight.wait_for_change(group, after));
        } else {
            effects.batches.push(self.batch(now, group, records, after));
        }
        effects
    }

    /// Makes one batch of records, and lets answers wait for it.
    fn batch(
        &mut self,
        now: Now,
        group: &GroupId,
        records: Vec<Record>,
        answers: Vec<(RequestId, GroupAnswer)>,
    ) -> Batch {
        self.batch_of(now, group, records, answers, BatchKind::Plain)
    }

    fn batch_of(
        &mut self,
        now: Now,
        group: &GroupId,
        records: Vec<Record>,
        answers: Vec<(RequestId, GroupAnswer)>,
        kind: BatchKind,
    ) -> Batch {
        let raw = records.iter().map(Record::encode).collect();
        let changes = records.iter().any(|record| !is_offset(record));
        let offsets: Vec<Record> = records.into_iter().filter(is_offset).collect();
        for record in &offsets {
            self.offsets.propose(record);
        }
        let pending = Pending::new(changes.then(|| group.clone()), offsets, answers).of_kind(kind);
        Batch { number: self.in_flight.push(pending), timestamp: now.wall, records: raw, kind }
    }
}

/// Offset records change the offset store, and only from below the high watermark; all others have changed their group
/// already.
fn is_offset(record: &Record) -> bool {
    matches!(record, Record::Offset { .. })
}

/// What a client is told when the log refused its records (Kafka's mapping).
fn refusal(error: ErrorCode, is_commit: bool) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            if is_commit {
                ErrorCode::InvalidCommitOffsetSize
            } else {
                ErrorCode::UnknownServerError
            }
        }
        other => other,
    }
}
