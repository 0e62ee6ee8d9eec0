//! One partition of `__consumer_offsets` and its groups: behind one lock, from leader epoch to leader epoch.
//!
//! Whoever brings something (a request, a moved high watermark, the time) takes the lock, lets the groups take the step, carries out what
//! follows (appends at once, in order) and goes. Answers and wake-ups leave when the lock is free. Who only brings the news that the
//! partition changed never waits for the lock: whoever holds it looks again before it goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use ottla_group_coordinator::shard::Shard;
use ottla_group_coordinator::{Answer, Batch, Effects, Now, Request, RequestId};
use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, PartitionId, TopicName};
use ottla_protocol::record_batch::BatchBuilder;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::metrics::States;
use super::replay::{self, ReplayError, Replayed};
use super::{Asked, Common};
use crate::clock;
use crate::log_io::Urgency;
use crate::partition::Partition;
use crate::partition::waiters::{Wakes, Watcher};

/// Below this many requests that wait nobody looks for those whose client has gone: they go with their answers.
const SWEEP_WAITING_MIN: usize = 1_024;

enum Stage {
    /// Another broker leads, or none.
    Away,
    /// An I/O thread reads the log.
    Loading {
        since: MonotonicMs,
    },
    /// The log has been read up to `end`, part of which may not be replicated yet: groups are served from what nobody can take back.
    Replayed {
        shard: Box<Shard>,
        end: Offset,
        since: MonotonicMs,
    },
    Serving(Box<Shard>),
    /// The log cannot be read.
    Failed,
}

struct State {
    /// The leadership that the stage belongs to.
    epoch: LeaderEpoch,
    stage: Stage,
    requests: u64,
    waiting: HashMap<RequestId, oneshot::Sender<Answer>>,
    /// Look for requests whose client has gone when there are this many.
    sweep_at: usize,
    /// When the timer will tick this partition.
    ticks_at: Option<MonotonicMs>,
    /// The log refused records when it was last asked to take some: the groups are told before each step, until it takes them again.
    log_refuses: bool,
    /// Topics that were deleted while the log was read: what was committed for them goes when the groups are served.
    deleted_topics: Vec<TopicName>,
}

/// What leaves when the lock is free; the answers first.
#[derive(Default)]
struct Outbox {
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    /// The answer to the request that is being taken.
    own: Option<Answer>,
    wakes: Wakes,
}

pub(super) struct HostedShard {
    common: Arc<Common>,
    partition: Arc<Partition>,
    /// The partition's role or high watermark moved since somebody looked.
    news: AtomicBool,
    state: Mutex<State>,
    /// The groups by state when they were last counted.
    last_states: Mutex<States>,
}

impl Watcher for HostedShard {
    fn partition_changed(self: Arc<Self>) {
        self.news.store(true, Ordering::SeqCst);
        self.take_news();
    }
}

fn now() -> Now {
    Now { monotonic: clock::monotonic(), wall: clock::wall() }
}

impl HostedShard {
    pub fn new(common: Arc<Common>, partition: Arc<Partition>) -> Arc<Self> {
        let state = State {
            epoch: LeaderEpoch::NONE,
            stage: Stage::Away,
            requests: 0,
            waiting: HashMap::new(),
            sweep_at: SWEEP_WAITING_MIN,
            ticks_at: None,
            log_refuses: false,
            deleted_topics: Vec::new(),
        };
        Arc::new(Self {
            common,
            partition,
            news: AtomicBool::new(false),
            state: Mutex::new(state),
            last_states: Mutex::default(),
        })
    }

    pub fn number(&self) -> PartitionId {
        self.partition.id().partition
    }

    pub fn is_of(&self, partition: &Arc<Partition>) -> bool {
        Arc::ptr_eq(&self.partition, partition)
    }

    /// Whether this broker is the coordinator of the partition's groups, or is about to be.
    pub fn leads(&self) -> bool {
        self.partition.leads()
    }

    /// Lets the groups take a request.
    pub fn ask(self: &Arc<Self>, request: Request) -> Asked {
        self.locked(|state, outbox| {
            self.look_at_log(state, Some(&request));
            let shard = match &mut state.stage {
                Stage::Away | Stage::Failed => return Asked::Answered(Answer::Failed(ErrorCode::NotCoordinator)),
                Stage::Loading { .. } | Stage::Replayed { .. } => {
                    return Asked::Answered(Answer::Failed(ErrorCode::CoordinatorLoadInProgress));
                }
                Stage::Serving(shard) => shard,
            };
            state.requests += 1;
            let id = RequestId(state.requests);
            let effects = shard.step(now(), &**self.common.topics.load(), id, request);
            // The waiter is there before anybody can answer: the lock is held.
            self.carry_out(state, Some(id), effects, outbox);
            match outbox.own.take() {
                Some(answer) => Asked::Answered(answer),
                None => {
                    let (sender, receiver) = oneshot::channel();
                    state.wait(id, sender);
                    Asked::Waiting(receiver)
                }
            }
        })
    }

    /// The time for which this partition had set the timer has come.
    pub fn tick(self: &Arc<Self>, at: MonotonicMs) {
        self.locked(|state, outbox| {
            if state.ticks_at == Some(at) {
                state.ticks_at = None;
            }
            self.look_at_log(state, None);
            if let Stage::Serving(shard) = &mut state.stage {
                let effects = shard.tick(now(), &**self.common.topics.load());
                self.carry_out(state, None, effects, outbox);
            }
        });
    }

    /// Topics are gone. What was committed for them goes on an I/O thread of the log's directory: that writes, and the disk may
    /// stall, while the caller takes in metadata and waits for no disk.
    pub fn topics_deleted(self: &Arc<Self>, deleted: &Arc<[TopicName]>) {
        if !self.leads() {
            return;
        }
        let (shard, deleted) = (Arc::clone(self), Arc::clone(deleted));
        self.partition.directory().run(Urgency::Urgent, move || shard.forget_topics(&deleted));
    }

    fn forget_topics(self: &Arc<Self>, deleted: &[TopicName]) {
        self.locked(|state, outbox| {
            self.look_at_log(state, None);
            match &mut state.stage {
                Stage::Serving(shard) => {
                    let effects = shard.topics_deleted(now(), &**self.common.topics.load(), deleted);
                    self.carry_out(state, None, effects, outbox);
                }
                Stage::Loading { .. } | Stage::Replayed { .. } => state.deleted_topics.extend_from_slice(deleted),
                Stage::Away | Stage::Failed => {}
            }
        });
    }

    /// Tells the groups whether the log takes records. The partition is asked when it refused the last ones, when the request is
    /// likely to lead to records, and before timers and deletions (no request).
    fn look_at_log(&self, state: &mut State, request: Option<&Request>) {
        let Stage::Serving(shard) = &mut state.stage else { return };
        if !state.log_refuses && request.is_some_and(|request| !shard.may_write(&**self.common.topics.load(), request))
        {
            return;
        }
        let log = self.partition.takes_own(state.epoch);
        state.log_refuses = log.is_err();
        shard.set_log_state(log);
    }

    /// Adds the number of groups in each state. While a step holds the lock, perhaps until a disk answers, the numbers are those
    /// of last time: a scrape waits for no disk.
    pub fn count_states(self: &Arc<Self>, into: &mut States) {
        let mut last = self.last_states.lock();
        if let Some(state) = self.state.try_lock() {
            *last = match &state.stage {
                Stage::Serving(shard) => shard.states(),
                _ => States::new(),
            };
        }
        for (kind, count) in &*last {
            *into.entry(*kind).or_default() += count;
        }
        drop(last);
        // News that came while the lock was held is looked at by its holder, which was this call.
        self.take_news();
    }

    /// The configuration is another one. The groups take it from the shared place when somebody next looks.
    pub fn config_changed(self: &Arc<Self>) {
        self.news.store(true, Ordering::SeqCst);
        self.take_news();
    }

    /// Does something under the lock; what follows from it leaves when the lock is free again.
    fn locked<T>(self: &Arc<Self>, step: impl FnOnce(&mut State, &mut Outbox) -> T) -> T {
        let mut outbox = Outbox::default();
        let result = step(&mut self.state.lock(), &mut outbox);
        outbox.deliver();
        self.take_news();
        result
    }

    /// Looks at the partition if something happened there. Never waits: who holds the lock looks when it is done.
    fn take_news(self: &Arc<Self>) {
        loop {
            // Between the lock that was given up, or the news that came, and this look: one of two that meet here sees the other.
            fence(Ordering::SeqCst);
            if !self.news.load(Ordering::Relaxed) {
                return;
            }
            let mut outbox = Outbox::default();
            {
                let Some(mut state) = self.state.try_lock() else { return };
                if self.news.swap(false, Ordering::SeqCst) {
                    self.look(&mut state, &mut outbox);
                }
            }
            outbox.deliver();
        }
    }

    /// Follows the partition's role and high watermark.
    fn look(self: &Arc<Self>, state: &mut State, outbox: &mut Outbox) {
        // In this order: a high watermark of a later leadership must not be taken for this one's.
        let high_watermark = self.partition.high_watermark();
        let epoch = self.partition.leading_epoch();
        if epoch != state.epoch {
            self.leave(state, outbox);
            state.epoch = epoch;
            if epoch != LeaderEpoch::NONE {
                self.begin_loading(state);
            }
            return;
        }
        match &mut state.stage {
            Stage::Serving(shard) => {
                shard.set_config(self.common.config.load_full());
                let effects = shard.committed_up_to(now(), high_watermark);
                self.carry_out(state, None, effects, outbox);
            }
            Stage::Replayed { end, .. } if high_watermark >= *end => self.serve(state, outbox),
            Stage::Away | Stage::Loading { .. } | Stage::Replayed { .. } | Stage::Failed => {}
        }
    }

    /// Ends what belongs to a former leadership.
    fn leave(&self, state: &mut State, outbox: &mut Outbox) {
        if let Stage::Serving(mut shard) = std::mem::replace(&mut state.stage, Stage::Away) {
            self.common.telemetry.groups.partitions.add(-1);
            // What it would still append is not this broker's to write.
            let effects = shard.resign(ErrorCode::NotCoordinator);
            state.answer(effects.answers, None, outbox);
        }
        state.deleted_topics.clear();
        // Nobody waits in vain, whatever the shard forgot.
        let left = std::mem::take(&mut state.waiting);
        outbox.answers.extend(left.into_values().map(|waiter| (waiter, Answer::Failed(ErrorCode::NotCoordinator))));
    }

    fn begin_loading(self: &Arc<Self>, state: &mut State) {
        state.stage = Stage::Loading { since: clock::monotonic() };
        let (shard, epoch) = (Arc::clone(self), state.epoch);
        let is_empty = self.partition.read_own(None, 1, epoch).is_ok_and(|piece| piece.records.is_none());
        if is_empty {
            // Nothing to wait for: a new topic's fifty partitions serve at once.
            let config = self.common.config.load_full();
            let replayed = replay::replay(&self.partition, epoch, config, self.common.load_buffer_bytes);
            self.replayed(state, replayed);
            self.news.store(true, Ordering::SeqCst);
            return;
        }
        self.partition.directory().run(Urgency::Urgent, move || shard.load(epoch));
    }

    /// Reads the log. Waits for the disk.
    fn load(self: Arc<Self>, epoch: LeaderEpoch) {
        let config = self.common.config.load_full();
        let replayed = replay::replay(&self.partition, epoch, config, self.common.load_buffer_bytes);
        self.locked(|state, outbox| {
            // A leadership that has ended meanwhile, or another one: what was read is of no use.
            if state.epoch == epoch && matches!(state.stage, Stage::Loading { .. }) {
                self.replayed(state, replayed);
                self.look(state, outbox);
            }
        });
    }

    fn replayed(&self, state: &mut State, replayed: Result<Replayed, ReplayError>) {
        let Stage::Loading { since } = state.stage else { return };
        state.stage = match replayed {
            Ok(Replayed { shard, end, records, unreadable }) => {
                if records > 0 {
                    let took_ms = clock::monotonic().0.saturating_sub(since.0);
                    tracing::info!(
                        partition = %self.partition.name(), epoch = %state.epoch, records, unreadable, took_ms,
                        "the groups of a partition are read"
                    );
                }
                Stage::Replayed { shard: Box::new(shard), end, since }
            }
            // The news of the end of this leadership is on its way.
            Err(ReplayError::Refused(error)) => {
                tracing::debug!(partition = %self.partition.name(), ?error, "the groups of a partition are not read");
                Stage::Failed
            }
            Err(error) => {
                tracing::error!(
                    partition = %self.partition.name(), %error,
                    "the groups of a partition are not served until another broker leads it"
                );
                Stage::Failed
            }
        };
    }

    /// Everything that was read is replicated: the groups are served.
    fn serve(self: &Arc<Self>, state: &mut State, outbox: &mut Outbox) {
        match std::mem::replace(&mut state.stage, Stage::Failed) {
            Stage::Replayed { mut shard, since, .. } => {
                shard.set_config(self.common.config.load_full());
                let topics = self.common.topics.load();
                let mut effects = shard.loaded(now(), &**topics);
                let deleted = std::mem::take(&mut state.deleted_topics);
                if !deleted.is_empty() {
                    effects.extend(shard.topics_deleted(now(), &**topics, &deleted));
                }
                let telemetry = &self.common.telemetry;
                telemetry.groups.partitions.add(1);
                telemetry.groups.loads.add(1);
                telemetry.groups.load_ms.add(clock::monotonic().0.saturating_sub(since.0));
                state.stage = Stage::Serving(shard);
                self.carry_out(state, None, effects, outbox);
            }
            stage => state.stage = stage,
        }
    }

    /// Carries out what a step led to, and what follows from that; `own` is the request that is being taken.
    fn carry_out(
        self: &Arc<Self>,
        state: &mut State,
        own: Option<RequestId>,
        mut effects: Effects,
        outbox: &mut Outbox,
    ) {
        let mut reload = false;
        loop {
            reload |= effects.reload;
            state.answer(std::mem::take(&mut effects.answers), own, outbox);
            if effects.batches.is_empty() {
                break;
            }
            let Stage::Serving(shard) = &mut state.stage else { break };
            let mut further = Effects::default();
            for batch in effects.batches {
                let number = batch.number;
                further.extend(match self.append(batch, state.epoch, outbox) {
                    Ok(end) => shard.appended(number, end),
                    Err(error) => {
                        state.log_refuses = true;
                        shard.append_refused(now(), number, error)
                    }
                });
                // What follows a refused change would be written without it.
                if further.reload {
                    break;
                }
            }
            effects = further;
        }
        if reload {
            tracing::warn!(partition = %self.partition.name(), "the log refused what groups had decided: they are read again");
            self.leave(state, outbox);
            self.begin_loading(state);
        }
        self.set_timer(state);
    }

    fn append(&self, batch: Batch, epoch: LeaderEpoch, outbox: &mut Outbox) -> Result<Offset, ErrorCode> {
        let mut builder = BatchBuilder::new();
        for record in &batch.records {
            builder.push(batch.timestamp, Some(&record.key), record.value.as_deref(), &[]);
        }
        let mut bytes = builder.build().map_err(|error| {
            tracing::error!(partition = %self.partition.name(), %error, "a batch of group records cannot be built");
            ErrorCode::UnknownServerError
        })?;
        let appended =
            self.partition.append_own(&mut bytes, epoch, clock::monotonic(), batch.timestamp, &mut outbox.wakes);
        if let Err(error) = appended {
            tracing::debug!(partition = %self.partition.name(), ?error, "a batch of group records is not appended");
        } else {
            self.common.telemetry.groups.records.add(batch.records.len() as u64);
        }
        appended
    }

    fn set_timer(self: &Arc<Self>, state: &mut State) {
        let Stage::Serving(shard) = &state.stage else { return };
        let Some(next) = shard.next_deadline() else { return };
        // Deadlines mostly move away, with every heartbeat: the timer is left alone then, and looks once too often.
        if state.ticks_at.is_none_or(|at| next < at) {
            self.common.timer.set(self, next, state.ticks_at);
            state.ticks_at = Some(next);
        }
    }
}

impl State {
    fn answer(&mut self, answers: Vec<(RequestId, Answer)>, own: Option<RequestId>, outbox: &mut Outbox) {
        for (id, answer) in answers {
            if own == Some(id) {
                outbox.own = Some(answer);
            } else if let Some(waiter) = self.waiting.remove(&id) {
                outbox.answers.push((waiter, answer));
            }
        }
    }

    fn wait(&mut self, id: RequestId, waiter: oneshot::Sender<Answer>) {
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|_, waiter| !waiter.is_closed());
            self.sweep_at = (self.waiting.len() * 2).max(SWEEP_WAITING_MIN);
        }
        self.waiting.insert(id, waiter);
    }
}

impl Outbox {
    fn deliver(self) {
        for (waiter, answer) in self.answers {
            // The client may have gone.
            let _ = waiter.send(answer);
        }
        // The wakes fire now: followers fetch what was appended.
    }
}
