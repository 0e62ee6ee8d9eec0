//! One partition of an internal topic on one broker, and the coordinator's state that the partition's log holds:
//! groups in `__consumer_offsets`, transactional ids in `__transaction_state`.
//!
//! - [`partition`]: loading, serving and leaving, from leader epoch to leader epoch.
//! - [`shard`]: what the state of a leader epoch has to be able to do. `group-coordinator` and
//!   `transaction-coordinator` implement it.
//! - [`loading`]: reading the log into a shard.
//! - [`effects`]: what a step of a shard leads to; [`outputs`]: what an input of the partition leads to.
//! - [`backlog`]: what waits while a step of another caller holds the partition, and in which order it is done.
//! - [`load_queue`]: how many partitions are loaded at a time; [`timers`]: which partition is ticked next.
//! - [`log`]: what the partition needs of its replica.
//! - [`expression`]: regular expressions of clients over names.
//!
//! Layer 1: no clock, no entropy, no I/O; ordered maps only.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backlog;
pub mod effects;
pub mod expression;
pub mod load_queue;
pub mod loading;
pub mod log;
pub mod outputs;
pub mod partition;
pub mod rules;
pub mod shard;
pub mod timers;

pub use backlog::{Backlog, Job, Turn};
pub use effects::{Batch, BatchKind, BatchNumber, Effects, RawRecord, RequestId, TransactionEnd};
pub use expression::Expression;
pub use load_queue::{LOADS_PER_DIRECTORY, LoadQueue};
pub use loading::{LoadError, Loaded, Loader, Unreadable};
pub use log::PartitionLog;
pub use outputs::{Event, Outputs, TimerChange, Waiter};
pub use partition::{CoordinatorPartition, Environment};
pub use rules::BrokenRules;
pub use shard::{CoordinatorShard, Replayed};
pub use timers::Timers;

use ottla_model::{MonotonicMs, TimestampMs};

/// Both clocks of one input: the monotonic one decides when something is due, records carry the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    pub monotonic: MonotonicMs,
    pub wall: TimestampMs,
}
