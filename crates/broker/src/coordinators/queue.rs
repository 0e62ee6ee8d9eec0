//! What came for a partition while a step of another held its lock, perhaps because a disk does not answer: the holder
//! does it, in order, when its own step is over. Nobody waits for the lock on a thread that serves other partitions.

use std::collections::VecDeque;

use ottla_coordinator_partition::{CoordinatorShard, Waiter};
use ottla_model::ErrorCode;
use ottla_replication::VerificationGuard;
use tokio::sync::oneshot;

/// Requests that wait for one partition's lock. A member has one request on its way, mostly, and the largest groups
/// have a few thousand members; what comes beyond is told to try again.
const MAX_QUEUED_REQUESTS: usize = 4_096;

/// A handler that waits for the answer to its request.
#[derive(Debug)]
pub struct Handler<A>(Option<oneshot::Sender<A>>);

impl<A> Handler<A> {
    /// A handler, and where it waits.
    pub fn new() -> (Self, oneshot::Receiver<A>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Nobody waits any more.
    pub fn gone() -> Self {
        Self(None)
    }

    pub fn answer(self, answer: A) {
        if let Some(sender) = self.0 {
            // The client may have gone.
            let _ = sender.send(answer);
        }
    }
}

impl<A> Waiter for Handler<A> {
    fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// One input of the core.
pub enum Job<S: CoordinatorShard> {
    Request { request: S::Request, guard: Option<VerificationGuard>, handler: Handler<S::Answer> },
    Notice(S::Notice),
}

/// See the module.
pub struct Queue<S: CoordinatorShard> {
    jobs: VecDeque<Job<S>>,
    requests: usize,
}

impl<S: CoordinatorShard> Default for Queue<S> {
    fn default() -> Self {
        Self { jobs: VecDeque::new(), requests: 0 }
    }
}

impl<S: CoordinatorShard> Queue<S> {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Notices are few: each belongs to a change of the cluster, or to a message that this partition sent.
    pub fn push_notice(&mut self, notice: S::Notice) {
        self.jobs.push_back(Job::Notice(notice));
    }

    /// Queues a request, and gives back where its answer will come.
    ///
    /// # Errors
    /// There are too many.
    pub fn push_request(
        &mut self,
        request: S::Request,
        guard: Option<&VerificationGuard>,
    ) -> Result<oneshot::Receiver<S::Answer>, ErrorCode> {
        if self.requests >= MAX_QUEUED_REQUESTS {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let (handler, receiver) = Handler::new();
        self.requests += 1;
        self.jobs.push_back(Job::Request { request, guard: guard.cloned(), handler });
        Ok(receiver)
    }

    /// The first job, and whether there are more.
    pub fn pop(&mut self) -> (Option<Job<S>>, bool) {
        let job = self.jobs.pop_front();
        self.requests -= usize::from(matches!(job, Some(Job::Request { .. })));
        (job, !self.jobs.is_empty())
    }

    /// Takes the requests out: they are not going to be processed.
    pub fn take_handlers(&mut self) -> Vec<Handler<S::Answer>> {
        let mut handlers = Vec::new();
        self.requests = 0;
        for job in std::mem::take(&mut self.jobs) {
            match job {
                Job::Request { handler, .. } => handlers.push(handler),
                notice @ Job::Notice(_) => self.jobs.push_back(notice),
            }
        }
        handlers
    }
}
