//! What an input of a [`StatePartition`](super::StatePartition) leads to.

use ottla_model::{LeaderEpoch, MonotonicMs};

use super::loading::{LoadError, Unreadable};
use crate::answer::Answer;
use crate::effects::Marker;

/// Whoever waits for the answer to a request.
pub trait Waiter {
    /// The client has gone: its answer would reach nobody.
    fn is_gone(&self) -> bool;
}

/// Executed by the service in this order.
#[must_use]
#[derive(Debug)]
pub struct Outputs<W> {
    /// For the log and the metrics.
    pub events: Vec<Event>,
    /// Send these.
    pub answers: Vec<(W, Answer)>,
    /// Send these to their brokers, and report each with
    /// [`StatePartition::marker_answered`](super::StatePartition::marker_answered).
    pub markers: Vec<Marker>,
    /// Read the log from its start with a [`Loader`](super::Loader), and report the result with
    /// [`StatePartition::loaded`](super::StatePartition::loaded) and this epoch.
    pub load: Option<LeaderEpoch>,
    pub timer: Option<TimerChange>,
}

/// Call [`StatePartition::tick`](super::StatePartition::tick) at `at`, and not at `instead_of` any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerChange {
    pub at: MonotonicMs,
    pub instead_of: Option<MonotonicMs>,
}

#[derive(Debug)]
pub enum Event {
    /// The log was read; its ids are served when everything that was read is replicated.
    Loaded { records: u64, unreadable: Unreadable, took_ms: u64 },
    /// The log could not be read; another attempt follows after `retry_ms`.
    LoadFailed { error: LoadError, retry_ms: u64 },
    /// Transactional ids are served, `took_ms` after the leadership began.
    Serving { took_ms: u64 },
    /// They are no longer served.
    Left,
    /// So many requests were pending at the end of a leadership and no id knew of them.
    Forgotten(usize),
    /// A request was answered that was answered before, or whose client had gone.
    NobodyWaits,
}

impl<W> Default for Outputs<W> {
    fn default() -> Self {
        Self { events: Vec::new(), answers: Vec::new(), markers: Vec::new(), load: None, timer: None }
    }
}
