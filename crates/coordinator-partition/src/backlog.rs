//! What comes for a partition while a step of another caller holds it, perhaps because a disk does not answer: whoever
//! holds it does that, in order, when its own step is over. Nobody waits for the partition on a thread that serves
//! others.
//!
//! The service has the partition behind a lock, and the backlog behind another one. Whoever gets the partition takes
//! turns ([`Backlog::take`]) after its own step until nothing is left.

use std::collections::VecDeque;

use ottla_model::ErrorCode;

use crate::rules::BrokenRules;
use crate::shard::CoordinatorShard;

/// Requests that wait for one partition. A member has one request on its way, mostly, and the largest groups have a few
/// thousand members; what comes beyond is told to try again.
pub const QUEUED_REQUESTS_MAX: usize = 4_096;

/// One input of the partition. `W` waits for an answer; `P` proves that a request is part of a transaction.
pub enum Job<S: CoordinatorShard, W, P> {
    Request { request: S::Request, proof: Option<P>, waiter: W },
    Notice(S::Notice),
}

/// What is done while the partition is held once, in this order: the role and the high watermark decide what a request
/// meets.
pub struct Turn<S: CoordinatorShard, W, P> {
    /// The role, the high watermark or the configuration changed: [`crate::CoordinatorPartition::poll`].
    pub polls: bool,
    /// The timer's time has come: [`crate::CoordinatorPartition::tick`]. In a turn without a job.
    pub ticks: bool,
    /// The first of what is queued. The next one has a turn of its own, when the outputs of this one have left: if the
    /// disk stalls again, they do not wait for it.
    pub job: Option<Job<S, W, P>>,
    /// Another turn follows.
    pub has_more: bool,
}

/// See the module.
pub struct Backlog<S: CoordinatorShard, W, P> {
    rules: BrokenRules,
    polls: bool,
    ticks: bool,
    jobs: VecDeque<Job<S, W, P>>,
    requests: usize,
    /// Jobs that were done while a tick waited for them.
    before_tick: usize,
}

impl<S: CoordinatorShard, W, P> Backlog<S, W, P> {
    pub fn new(rules: BrokenRules) -> Self {
        Self { rules, polls: false, ticks: false, jobs: VecDeque::new(), requests: 0, before_tick: 0 }
    }

    pub fn has_work(&self) -> bool {
        self.polls || self.ticks || !self.jobs.is_empty()
    }

    /// Whether a request that comes now may be processed at once, if nobody holds the partition: the steps are taken in
    /// the order of the requests.
    pub fn is_in_turn(&self) -> bool {
        self.jobs.is_empty() || self.rules.requests_overtake
    }

    /// Queues a request. Returns those that are refused instead, perhaps this one among them. While the directory is
    /// known not to answer (`is_stalled`) that is everyone: nobody knows when it does, and clients can look for the
    /// next coordinator.
    pub fn push_request(
        &mut self,
        is_stalled: bool,
        request: S::Request,
        proof: Option<P>,
        waiter: W,
    ) -> Vec<(W, ErrorCode)> {
        if is_stalled {
            let waiters = self.take_waiters().into_iter().chain([waiter]);
            return waiters.map(|waiter| (waiter, ErrorCode::NotCoordinator)).collect();
        }
        if self.requests >= QUEUED_REQUESTS_MAX {
            return vec![(waiter, ErrorCode::CoordinatorLoadInProgress)];
        }
        self.requests += 1;
        self.jobs.push_back(Job::Request { request, proof, waiter });
        Vec::new()
    }

    /// Notices are few: each belongs to a change of the cluster, or to a message that this partition sent.
    pub fn push_notice(&mut self, notice: S::Notice) {
        self.jobs.push_back(Job::Notice(notice));
    }

    /// The partition's role, its high watermark or the configuration changed.
    pub fn push_poll(&mut self) {
        self.polls = true;
    }

    /// The time has come for which the partition had set its timer.
    pub fn push_tick(&mut self) {
        self.ticks = true;
    }

    /// What a request that is processed at once comes after; what is due comes after it (see [`Self::take`]).
    pub fn take_poll(&mut self) -> bool {
        std::mem::take(&mut self.polls)
    }

    /// What to do next; none if there is nothing.
    ///
    /// A tick waits for the requests that are queued: a heartbeat among them came before its member's session ended, or
    /// shows at least that the member is there. It does not wait for more requests than can be queued, though they may
    /// go on to come.
    pub fn take(&mut self) -> Option<Turn<S, W, P>> {
        if !self.has_work() {
            return None;
        }
        let polls = std::mem::take(&mut self.polls);
        let waits = !self.jobs.is_empty() && self.before_tick < QUEUED_REQUESTS_MAX;
        if self.ticks && (!waits || self.rules.ticks_overtake) {
            (self.ticks, self.before_tick) = (false, 0);
            return Some(Turn { polls, ticks: true, job: None, has_more: !self.jobs.is_empty() });
        }
        let job = self.jobs.pop_front();
        self.requests -= usize::from(matches!(job, Some(Job::Request { .. })));
        self.before_tick += usize::from(self.ticks);
        Some(Turn { polls, ticks: false, job, has_more: self.ticks || !self.jobs.is_empty() })
    }

    /// Takes the requests out: they are not going to be processed. Notices stay.
    fn take_waiters(&mut self) -> Vec<W> {
        let mut waiters = Vec::new();
        self.requests = 0;
        for job in std::mem::take(&mut self.jobs) {
            match job {
                Job::Request { waiter, .. } => waiters.push(waiter),
                notice @ Job::Notice(_) => self.jobs.push_back(notice),
            }
        }
        waiters
    }
}
