//! One partition of an internal topic on one broker, from leader epoch to leader epoch.
//!
//! ```text
//! Away ── leads ──▶ Loading ── log read ──▶ Loaded ── end replicated ──▶ Serving
//!   ▲                 │  ▲                                                  │
//!   │            read error, and a back-off                 an append failed that the state counted on
//!   └── leads no longer, from any stage                     ──▶ Loading
//! ```
//!
//! Inputs: requests, the time, changes of the log ([`CoordinatorPartition::poll`]), logs that were read, notices. Each
//! input takes the partition's state one step ahead, appends what follows in that step, and returns [`Outputs`].
//!
//! Invariants: the state lives in one leader epoch, and what was begun in another one ends without effect. It is served
//! only from what no failover can take back. Every request is answered, at the latest when the leadership ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset};

use crate::Now;
use crate::effects::{Effects, RequestId};
use crate::loading::{LoadError, Loaded, Loader};
use crate::log::PartitionLog;
use crate::outputs::{Event, Outputs, TimerChange, Waiter};
use crate::rules::BrokenRules;
use crate::shard::{CoordinatorShard, EffectsOf};

/// Below this many pending requests those whose client has gone are not looked for: they go with their answers.
const SWEEP_WAITING_MIN: usize = 1_024;

/// The pause after a log could not be read; it doubles with each failure up to the maximum.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 10_000;

/// What every input is given.
pub struct Environment<'a, 'v, S: CoordinatorShard> {
    pub now: Now,
    pub view: S::View<'v>,
    pub log: &'a mut dyn PartitionLog,
}

#[derive(Debug)]
enum Stage<S> {
    /// This broker does not lead the partition.
    Away,
    /// The log is being read.
    Loading {
        since: MonotonicMs,
    },
    /// The log was read up to `end`; the last part may not be replicated yet.
    Loaded {
        shard: Box<S>,
        end: Offset,
        since: MonotonicMs,
    },
    Serving(Box<S>),
    /// The log could not be read.
    Failed {
        retry_at: Option<MonotonicMs>,
    },
}

/// See the module. `W` waits for an answer.
#[derive(Debug)]
pub struct CoordinatorPartition<S: CoordinatorShard, W> {
    config: Arc<S::Config>,
    rules: BrokenRules,
    /// The leader epoch of the stage.
    epoch: LeaderEpoch,
    stage: Stage<S>,
    /// Attempts to read the log that failed in this leader epoch.
    failed_loads: u32,
    requests: u64,
    waiting: BTreeMap<RequestId, W>,
    /// When there are this many waiters, those whose client has gone are removed.
    sweep_at: usize,
    /// When the service's timer will call [`Self::tick`].
    ticks_at: Option<MonotonicMs>,
    /// The log refused the last records, or would have: it is asked before each step until it accepts records again.
    log_refuses: bool,
    /// What came while the log was read, and is given to the state when it is served.
    notices: Vec<S::Notice>,
}

/// The outputs of one input, and the answer to the request that is being processed.
struct Step<S: CoordinatorShard, W> {
    outputs: Outputs<S, W>,
    own: Option<RequestId>,
    own_answer: Option<S::Answer>,
}

impl<S: CoordinatorShard, W> Step<S, W> {
    fn new(own: Option<RequestId>) -> Self {
        Self { outputs: Outputs::default(), own, own_answer: None }
    }
}

impl<S: CoordinatorShard, W: Waiter> CoordinatorPartition<S, W> {
    pub fn new(config: Arc<S::Config>, rules: BrokenRules) -> Self {
        Self {
            config,
            rules,
            epoch: LeaderEpoch::NONE,
            stage: Stage::Away,
            failed_loads: 0,
            requests: 0,
            waiting: BTreeMap::new(),
            sweep_at: SWEEP_WAITING_MIN,
            ticks_at: None,
            log_refuses: false,
            notices: Vec::new(),
        }
    }

    /// Holds for what is decided from now on; timers that run keep their deadlines.
    pub fn set_config(&mut self, config: Arc<S::Config>) {
        if let Stage::Serving(shard) | Stage::Loaded { shard, .. } = &mut self.stage {
            shard.set_config(Arc::clone(&config));
        }
        self.config = config;
    }

    /// The state, while it is served.
    pub fn shard(&self) -> Option<&S> {
        match &self.stage {
            Stage::Serving(shard) => Some(shard),
            _ => None,
        }
    }

    /// The leader epoch to which the state belongs; [`LeaderEpoch::NONE`] while another broker leads.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// One request. Returns its answer, or registers the waiter that `wait` makes.
    pub fn request(
        &mut self,
        environment: &mut Environment<'_, '_, S>,
        request: S::Request,
        wait: impl FnOnce() -> W,
    ) -> (Option<S::Answer>, Outputs<S, W>) {
        self.check_log(environment, Some(&request));
        let shard = match &mut self.stage {
            Stage::Away | Stage::Failed { .. } => return refused(ErrorCode::NotCoordinator),
            Stage::Loading { .. } | Stage::Loaded { .. } => return refused(ErrorCode::CoordinatorLoadInProgress),
            Stage::Serving(shard) => shard,
        };
        self.requests += 1;
        let id = RequestId(self.requests);
        let mut step = Step::new(Some(id));
        let effects = shard.step(environment.now, &mut environment.view, id, request);
        self.execute(environment, effects, &mut step);
        if step.own_answer.is_none() {
            self.wait(id, wait());
        }
        let answer = step.own_answer.take();
        (answer, self.finish(step))
    }

    /// The time of the service's timer has come.
    pub fn tick(&mut self, environment: &mut Environment<'_, '_, S>) -> Outputs<S, W> {
        let now = environment.now;
        if self.ticks_at.is_some_and(|at| at <= now.monotonic) {
            self.ticks_at = None;
        }
        self.check_log(environment, None);
        let mut step = Step::new(None);
        match &mut self.stage {
            Stage::Serving(shard) => {
                let effects = shard.tick(now, &mut environment.view);
                self.execute(environment, effects, &mut step);
            }
            Stage::Failed { retry_at } if retry_at.is_some_and(|at| at <= now.monotonic) => {
                self.begin_loading(environment, &mut step)
            }
            Stage::Away | Stage::Loading { .. } | Stage::Loaded { .. } | Stage::Failed { .. } => {}
        }
        self.finish(step)
    }

    /// The log's role or its high watermark may have changed.
    pub fn poll(&mut self, environment: &mut Environment<'_, '_, S>) -> Outputs<S, W> {
        let mut step = Step::new(None);
        self.follow(environment, &mut step);
        self.finish(step)
    }

    /// Something happened that concerns the state.
    pub fn notice(&mut self, environment: &mut Environment<'_, '_, S>, notice: S::Notice) -> Outputs<S, W> {
        self.check_log(environment, None);
        let mut step = Step::new(None);
        match &mut self.stage {
            Stage::Serving(shard) => {
                let effects = shard.notice(environment.now, &mut environment.view, notice);
                self.execute(environment, effects, &mut step);
            }
            Stage::Loading { .. } | Stage::Loaded { .. } if S::waits_for_loading(&notice) => self.notices.push(notice),
            Stage::Away | Stage::Loading { .. } | Stage::Loaded { .. } | Stage::Failed { .. } => {}
        }
        self.finish(step)
    }

    /// The log was read, or could not be, as [`Outputs::load`] asked for.
    pub fn loaded(
        &mut self,
        environment: &mut Environment<'_, '_, S>,
        epoch: LeaderEpoch,
        result: Result<Loaded<S>, LoadError>,
    ) -> Outputs<S, W> {
        let mut step = Step::new(None);
        // Another leadership has begun meanwhile, or none: what was read is of no use.
        if self.epoch == epoch
            && let Stage::Loading { since } = self.stage
        {
            self.take_loaded(environment.now.monotonic, since, result, &mut step);
            self.follow(environment, &mut step);
        }
        self.finish(step)
    }

    /// Tells the state whether the log takes records. The log is asked if it refused the last ones, and if the state
    /// wants to know.
    fn check_log(&mut self, environment: &Environment<'_, '_, S>, request: Option<&S::Request>) {
        let Stage::Serving(shard) = &mut self.stage else { return };
        if !self.log_refuses && !shard.asks_log(&environment.view, request) {
            return;
        }
        self.log_refuses = tell_log_state(&mut **shard, environment, self.epoch);
    }

    /// Follows the log's role and high watermark.
    fn follow(&mut self, environment: &mut Environment<'_, '_, S>, step: &mut Step<S, W>) {
        // In this order: a high watermark of a later leadership must not be taken for one of this leadership.
        let high_watermark = environment.log.high_watermark();
        let epoch = environment.log.leading_epoch();
        if epoch != self.epoch {
            self.leave(step);
            self.epoch = epoch;
            self.failed_loads = 0;
            if epoch != LeaderEpoch::NONE {
                self.begin_loading(environment, step);
            }
            return;
        }
        match &mut self.stage {
            Stage::Serving(shard) => {
                let effects = shard.committed_up_to(environment.now, &mut environment.view, high_watermark);
                self.execute(environment, effects, step);
            }
            Stage::Loaded { .. } => self.serve_if_replicated(environment, high_watermark, step),
            Stage::Away | Stage::Loading { .. } | Stage::Failed { .. } => {}
        }
    }

    /// Ends what belongs to a leadership.
    fn leave(&mut self, step: &mut Step<S, W>) {
        if let Stage::Serving(mut shard) = std::mem::replace(&mut self.stage, Stage::Away) {
            step.outputs.events.push(Event::Left);
            // What it would still append is not this broker's to write.
            let effects = shard.resign(ErrorCode::NotCoordinator);
            self.answer(effects.answers, step);
        }
        self.notices.clear();
        let left = std::mem::take(&mut self.waiting);
        if !left.is_empty() {
            step.outputs.events.push(Event::Forgotten(left.len()));
        }
        let answers = left.into_values().map(|waiter| (waiter, S::failed(ErrorCode::NotCoordinator)));
        step.outputs.answers.extend(answers);
    }

    fn begin_loading(&mut self, environment: &mut Environment<'_, '_, S>, step: &mut Step<S, W>) {
        let since = environment.now.monotonic;
        self.stage = Stage::Loading { since };
        match environment.log.end_if_empty(self.epoch) {
            // Nothing to wait for: the fifty partitions of a new topic serve at once.
            Some(end) => {
                let empty = Loader::new(Arc::clone(&self.config), self.epoch, 0).finish(end);
                self.take_loaded(since, since, Ok(empty), step);
                let high_watermark = environment.log.high_watermark();
                self.serve_if_replicated(environment, high_watermark, step);
            }
            None => step.outputs.load = Some(self.epoch),
        }
    }

    fn take_loaded(
        &mut self,
        now: MonotonicMs,
        since: MonotonicMs,
        result: Result<Loaded<S>, LoadError>,
        step: &mut Step<S, W>,
    ) {
        match result {
            Ok(Loaded { mut shard, end, records, unreadable }) => {
                self.failed_loads = 0;
                let took_ms = now.0.saturating_sub(since.0);
                step.outputs.events.push(Event::Loaded { records, unreadable, took_ms });
                // The configuration may have changed while the log was read.
                shard.set_config(Arc::clone(&self.config));
                self.stage = Stage::Loaded { shard: Box::new(shard), end, since };
            }
            Err(error) => {
                let retry_ms = (RETRY_MIN_MS << self.failed_loads.min(16)).min(RETRY_MAX_MS);
                self.failed_loads = self.failed_loads.saturating_add(1);
                step.outputs.events.push(Event::LoadFailed { error, retry_ms });
                let retry_at = (!self.rules.gives_up_loading).then(|| now + Duration::from_millis(retry_ms));
                self.stage = Stage::Failed { retry_at };
            }
        }
    }

    /// Serves the state if everything that was read is replicated.
    fn serve_if_replicated(
        &mut self,
        environment: &mut Environment<'_, '_, S>,
        high_watermark: Offset,
        step: &mut Step<S, W>,
    ) {
        match std::mem::replace(&mut self.stage, Stage::Away) {
            Stage::Loaded { mut shard, end, since } if high_watermark >= end || self.rules.serves_before_replicated => {
                let now = environment.now;
                // It may write at once, and must not write what would be refused.
                if shard.asks_log(&environment.view, None) {
                    self.log_refuses = tell_log_state(&mut *shard, environment, self.epoch);
                }
                let mut effects = shard.loaded(now, &mut environment.view);
                for notice in std::mem::take(&mut self.notices) {
                    effects.extend(shard.notice(now, &mut environment.view, notice));
                }
                let took_ms = now.monotonic.0.saturating_sub(since.0);
                step.outputs.events.push(Event::Serving { took_ms });
                self.stage = Stage::Serving(shard);
                self.execute(environment, effects, step);
            }
            stage => self.stage = stage,
        }
    }

    /// Appends what a step of the state led to, and what follows from that.
    fn execute(&mut self, environment: &mut Environment<'_, '_, S>, mut effects: EffectsOf<S>, step: &mut Step<S, W>) {
        let mut reload = false;
        loop {
            reload |= effects.reload;
            self.answer(std::mem::take(&mut effects.answers), step);
            step.outputs.messages.append(&mut effects.messages);
            if effects.batches.is_empty() {
                break;
            }
            let Stage::Serving(shard) = &mut self.stage else { break };
            let mut further = Effects::default();
            for batch in effects.batches {
                further.extend(match environment.log.append(self.epoch, &batch) {
                    Ok(end) => shard.appended(environment.now, &mut environment.view, batch.number, end),
                    Err(error) => {
                        self.log_refuses = true;
                        shard.append_refused(environment.now, batch.number, error)
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
            step.outputs.events.push(Event::Reloading);
            self.leave(step);
            self.begin_loading(environment, step);
        }
    }

    fn answer(&mut self, answers: Vec<(RequestId, S::Answer)>, step: &mut Step<S, W>) {
        for (id, answer) in answers {
            if step.own == Some(id) {
                step.own_answer = Some(answer);
            } else if let Some(waiter) = self.waiting.remove(&id) {
                step.outputs.answers.push((waiter, answer));
            } else {
                step.outputs.events.push(Event::NobodyWaits);
            }
        }
    }

    fn wait(&mut self, id: RequestId, waiter: W) {
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|_, waiter| !waiter.is_gone());
            self.sweep_at = (self.waiting.len() * 2).max(SWEEP_WAITING_MIN);
        }
        self.waiting.insert(id, waiter);
    }

    /// Sets the timer for what is due next.
    fn finish(&mut self, step: Step<S, W>) -> Outputs<S, W> {
        let mut outputs = step.outputs;
        let next = match &self.stage {
            Stage::Serving(shard) => shard.next_deadline(),
            Stage::Failed { retry_at } => *retry_at,
            Stage::Away | Stage::Loading { .. } | Stage::Loaded { .. } => None,
        };
        // Deadlines mostly move away, with every heartbeat: the timer is left alone then and fires once too often.
        if let Some(at) = next
            && self.ticks_at.is_none_or(|ticks_at| at < ticks_at)
        {
            outputs.timer = Some(TimerChange { at, instead_of: self.ticks_at });
            self.ticks_at = Some(at);
        }
        outputs
    }
}

/// Returns whether the log refuses records.
fn tell_log_state<S: CoordinatorShard>(
    shard: &mut S,
    environment: &Environment<'_, '_, S>,
    epoch: LeaderEpoch,
) -> bool {
    let log = environment.log.check_append(epoch);
    let refuses = log.is_err();
    shard.set_log_state(log);
    refuses
}

fn refused<S: CoordinatorShard, W>(error: ErrorCode) -> (Option<S::Answer>, Outputs<S, W>) {
    (Some(S::failed(error)), Outputs::default())
}
