//! One partition of `__transaction_state` on one broker: its transactional ids, from leader epoch to leader epoch.
//!
//! ```text
//! Away ── leads ──▶ Loading ── log read ──▶ Loaded ── end replicated ──▶ Serving
//!   ▲                 ▲  │
//!   │                 │  └─ read error ──▶ Failed ── back-off ──▶ Loading
//!   └── leads no longer, from any stage
//! ```
//!
//! Inputs: requests, the time, changes of the log ([`StatePartition::poll`]), logs that were read, and what became of
//! markers. Each input takes the ids one step ahead, appends what follows in that step, and returns [`Outputs`].
//!
//! Invariants: the ids live in one leader epoch, and what was begun in another one ends without effect. They are served
//! only from what no failover can take back. Every request is answered, at the latest when the leadership ends.

mod loading;
mod log;
mod outputs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, TopicPartition};

pub use loading::{LoadError, Loaded, Loader, Unreadable};
pub use log::StateLog;
pub use outputs::{Event, Outputs, TimerChange, Waiter};

use crate::Now;
use crate::answer::Answer;
use crate::cluster::Cluster;
use crate::config::TransactionConfig;
use crate::effects::{Effects, MarkerNumber, RequestId};
use crate::request::Request;
use crate::shard::Shard;

/// Below this many pending requests those whose client has gone are not looked for: they go with their answers.
const SWEEP_WAITING_MIN: usize = 1_024;

/// The pause after a log could not be read; it doubles with each failure up to the maximum.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 10_000;

/// What every input is given.
pub struct Environment<'a> {
    pub now: Now,
    pub cluster: &'a mut dyn Cluster,
    pub log: &'a mut dyn StateLog,
}

#[derive(Debug)]
enum Stage {
    /// This broker does not lead the partition.
    Away,
    /// The log is being read.
    Loading {
        since: MonotonicMs,
    },
    /// The log was read up to `end`; the last part may not be replicated yet.
    Loaded {
        shard: Box<Shard>,
        end: Offset,
        since: MonotonicMs,
    },
    Serving(Box<Shard>),
    /// The log could not be read.
    Failed {
        retry_at: MonotonicMs,
    },
}

/// See the module. `W` waits for an answer.
#[derive(Debug)]
pub struct StatePartition<W> {
    config: Arc<TransactionConfig>,
    /// The leader epoch of the stage.
    epoch: LeaderEpoch,
    stage: Stage,
    /// Attempts to read the log that failed in this leader epoch.
    failed_loads: u32,
    requests: u64,
    waiting: BTreeMap<RequestId, W>,
    /// When there are this many waiters, those whose client has gone are removed.
    sweep_at: usize,
    /// When the service's timer will call [`Self::tick`].
    ticks_at: Option<MonotonicMs>,
}

/// The outputs of one input, and the answer to the request that is being processed.
struct Step<W> {
    outputs: Outputs<W>,
    own: Option<RequestId>,
    own_answer: Option<Answer>,
}

impl<W> Step<W> {
    fn new(own: Option<RequestId>) -> Self {
        Self { outputs: Outputs::default(), own, own_answer: None }
    }
}

impl<W: Waiter> StatePartition<W> {
    pub fn new(config: Arc<TransactionConfig>) -> Self {
        Self {
            config,
            epoch: LeaderEpoch::NONE,
            stage: Stage::Away,
            failed_loads: 0,
            requests: 0,
            waiting: BTreeMap::new(),
            sweep_at: SWEEP_WAITING_MIN,
            ticks_at: None,
        }
    }

    /// Holds for what is decided from now on; times that run keep their ends.
    pub fn set_config(&mut self, config: Arc<TransactionConfig>) {
        if let Stage::Serving(shard) | Stage::Loaded { shard, .. } = &mut self.stage {
            shard.set_config(Arc::clone(&config));
        }
        self.config = config;
    }

    /// The transactional ids, while they are served.
    pub fn shard(&self) -> Option<&Shard> {
        match &self.stage {
            Stage::Serving(shard) => Some(shard),
            _ => None,
        }
    }

    /// The leader epoch to which the ids belong; [`LeaderEpoch::NONE`] while another broker leads.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// One request. Its answer is returned at once, or `wait` makes whoever waits for it.
    pub fn request(
        &mut self,
        environment: &mut Environment<'_>,
        request: Request,
        wait: impl FnOnce() -> W,
    ) -> (Option<Answer>, Outputs<W>) {
        let shard = match &mut self.stage {
            Stage::Away | Stage::Failed { .. } => return refused(ErrorCode::NotCoordinator),
            Stage::Loading { .. } | Stage::Loaded { .. } => return refused(ErrorCode::CoordinatorLoadInProgress),
            Stage::Serving(shard) => shard,
        };
        self.requests += 1;
        let id = RequestId(self.requests);
        let mut step = Step::new(Some(id));
        let effects = shard.step(environment.now, environment.cluster, id, request);
        self.execute(environment, effects, &mut step);
        if step.own_answer.is_none() {
            self.wait(id, wait());
        }
        let answer = step.own_answer.take();
        (answer, self.finish(step))
    }

    /// The time of the service's timer has come.
    pub fn tick(&mut self, environment: &mut Environment<'_>) -> Outputs<W> {
        let now = environment.now;
        if self.ticks_at.is_some_and(|at| at <= now.monotonic) {
            self.ticks_at = None;
        }
        let mut step = Step::new(None);
        match &mut self.stage {
            Stage::Serving(shard) => {
                let effects = shard.tick(now, environment.cluster);
                self.execute(environment, effects, &mut step);
            }
            Stage::Failed { retry_at } if *retry_at <= now.monotonic => self.begin_loading(environment, &mut step),
            Stage::Away | Stage::Loading { .. } | Stage::Loaded { .. } | Stage::Failed { .. } => {}
        }
        self.finish(step)
    }

    /// The log's role or its high watermark may have changed.
    pub fn poll(&mut self, environment: &mut Environment<'_>) -> Outputs<W> {
        let mut step = Step::new(None);
        self.follow(environment, &mut step);
        self.finish(step)
    }

    /// The log was read, or could not be, as [`Outputs::load`] asked for.
    pub fn loaded(
        &mut self,
        environment: &mut Environment<'_>,
        epoch: LeaderEpoch,
        result: Result<Loaded, LoadError>,
    ) -> Outputs<W> {
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

    /// A broker has answered a marker of this leader epoch (none: it did not).
    pub fn marker_answered(
        &mut self,
        environment: &mut Environment<'_>,
        epoch: LeaderEpoch,
        number: MarkerNumber,
        results: Option<&BTreeMap<TopicPartition, ErrorCode>>,
    ) -> Outputs<W> {
        let mut step = Step::new(None);
        if self.epoch == epoch
            && let Stage::Serving(shard) = &mut self.stage
        {
            let effects = match results {
                Some(results) => shard.marker_answered(environment.now, number, results),
                None => shard.marker_lost(environment.now, number),
            };
            self.execute(environment, effects, &mut step);
        }
        self.finish(step)
    }

    /// Follows the log's role and high watermark.
    fn follow(&mut self, environment: &mut Environment<'_>, step: &mut Step<W>) {
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
                let effects = shard.committed_up_to(environment.now, environment.cluster, high_watermark);
                self.execute(environment, effects, step);
            }
            Stage::Loaded { .. } => self.serve_if_replicated(environment, high_watermark, step),
            Stage::Away | Stage::Loading { .. } | Stage::Failed { .. } => {}
        }
    }

    /// Ends what belongs to a leadership.
    fn leave(&mut self, step: &mut Step<W>) {
        if let Stage::Serving(mut shard) = std::mem::replace(&mut self.stage, Stage::Away) {
            step.outputs.events.push(Event::Left);
            let effects = shard.resign(ErrorCode::NotCoordinator);
            self.answer(effects.answers, step);
        }
        let left = std::mem::take(&mut self.waiting);
        if !left.is_empty() {
            step.outputs.events.push(Event::Forgotten(left.len()));
        }
        let answers = left.into_values().map(|waiter| (waiter, Answer::Failed(ErrorCode::NotCoordinator)));
        step.outputs.answers.extend(answers);
    }

    fn begin_loading(&mut self, environment: &mut Environment<'_>, step: &mut Step<W>) {
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
        result: Result<Loaded, LoadError>,
        step: &mut Step<W>,
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
                self.stage = Stage::Failed { retry_at: MonotonicMs(now.0.saturating_add(retry_ms)) };
            }
        }
    }

    /// Serves the ids if everything that was read is replicated.
    fn serve_if_replicated(&mut self, environment: &mut Environment<'_>, high_watermark: Offset, step: &mut Step<W>) {
        match std::mem::replace(&mut self.stage, Stage::Away) {
            Stage::Loaded { mut shard, end, since } if high_watermark >= end => {
                let effects = shard.loaded(environment.now, environment.cluster);
                let took_ms = environment.now.monotonic.0.saturating_sub(since.0);
                step.outputs.events.push(Event::Serving { took_ms });
                self.stage = Stage::Serving(shard);
                self.execute(environment, effects, step);
            }
            stage => self.stage = stage,
        }
    }

    /// Appends what a step of the ids led to, and what follows from that.
    fn execute(&mut self, environment: &mut Environment<'_>, mut effects: Effects, step: &mut Step<W>) {
        loop {
            self.answer(std::mem::take(&mut effects.answers), step);
            step.outputs.markers.append(&mut effects.markers);
            let Stage::Serving(shard) = &mut self.stage else { return };
            if effects.batches.is_empty() {
                return;
            }
            let mut further = Effects::default();
            for batch in effects.batches {
                further.extend(match environment.log.append(self.epoch, &batch) {
                    Ok(end) => shard.appended(environment.now, environment.cluster, batch.number, end),
                    Err(error) => shard.append_refused(environment.now, batch.number, error),
                });
            }
            effects = further;
        }
    }

    fn answer(&mut self, answers: Vec<(RequestId, Answer)>, step: &mut Step<W>) {
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
    fn finish(&mut self, step: Step<W>) -> Outputs<W> {
        let mut outputs = step.outputs;
        let next = match &self.stage {
            Stage::Serving(shard) => shard.next_deadline(),
            Stage::Failed { retry_at } => Some(*retry_at),
            Stage::Away | Stage::Loading { .. } | Stage::Loaded { .. } => None,
        };
        if let Some(at) = next
            && self.ticks_at.is_none_or(|ticks_at| at < ticks_at)
        {
            outputs.timer = Some(TimerChange { at, instead_of: self.ticks_at });
            self.ticks_at = Some(at);
        }
        outputs
    }
}

fn refused<W>(error: ErrorCode) -> (Option<Answer>, Outputs<W>) {
    (Some(Answer::Failed(error)), Outputs::default())
}
