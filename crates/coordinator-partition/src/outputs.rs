//! What an input of a [`CoordinatorPartition`](crate::CoordinatorPartition) leads to.

use std::fmt;

use ottla_model::{LeaderEpoch, MonotonicMs};

use crate::loading::{LoadError, Unreadable};
use crate::shard::CoordinatorShard;

/// The receiver of the answer to a request.
pub trait Waiter {
    /// The client has closed its connection: there is nobody to answer.
    fn is_gone(&self) -> bool;
}

/// Executed by the service in this order.
#[must_use]
pub struct Outputs<S: CoordinatorShard, W> {
    /// For the log and the metrics.
    pub events: Vec<Event<S::RecordError>>,
    /// Send these.
    pub answers: Vec<(W, S::Answer)>,
    /// Send these to their brokers, and report each with
    /// [`CoordinatorPartition::notice`](crate::CoordinatorPartition::notice).
    pub messages: Vec<S::Message>,
    /// Read the log from its start with a [`Loader`](crate::Loader), and report the result with
    /// [`CoordinatorPartition::loaded`](crate::CoordinatorPartition::loaded) and this epoch.
    pub load: Option<LeaderEpoch>,
    pub timer: Option<TimerChange>,
}

/// Call [`CoordinatorPartition::tick`](crate::CoordinatorPartition::tick) at `at`, and not at `instead_of` any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerChange {
    pub at: MonotonicMs,
    pub instead_of: Option<MonotonicMs>,
}

/// `E` says why a record cannot be read.
#[derive(Debug)]
pub enum Event<E> {
    /// The log was read; its state is served when everything that was read is replicated.
    Loaded { records: u64, unreadable: Unreadable<E>, took_ms: u64 },
    /// The log could not be read; another attempt follows after `retry_ms`.
    LoadFailed { error: LoadError, retry_ms: u64 },
    /// The state is served, `took_ms` after the leadership began.
    Serving { took_ms: u64 },
    /// The state is no longer served.
    Left,
    /// The log refused a batch that the state had counted on: the state is read from the log again.
    Reloading,
    /// So many requests were pending at the end of a leadership and the state did not know of them.
    Forgotten(usize),
    /// A request was answered that was answered before, or whose client had gone.
    NobodyWaits,
}

impl<S: CoordinatorShard, W> Default for Outputs<S, W> {
    fn default() -> Self {
        Self { events: Vec::new(), answers: Vec::new(), messages: Vec::new(), load: None, timer: None }
    }
}

impl<S: CoordinatorShard, W> fmt::Debug for Outputs<S, W>
where
    S::Answer: fmt::Debug,
    S::Message: fmt::Debug,
    W: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs")
            .field("events", &self.events)
            .field("answers", &self.answers)
            .field("messages", &self.messages)
            .field("load", &self.load)
            .field("timer", &self.timer)
            .finish()
    }
}
