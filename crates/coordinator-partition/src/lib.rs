//! One partition of an internal topic on one broker, and the coordinator's state that the partition's log holds:
//! groups in `__consumer_offsets`, transactional ids in `__transaction_state`.
//!
//! - [`partition`]: loading, serving and leaving, from leader epoch to leader epoch.
//! - [`shard`]: what the state of a leader epoch has to be able to do. `group-coordinator` and
//!   `transaction-coordinator` implement it.
//! - [`loading`]: reading the log into a shard.
//! - [`effects`]: what a step of a shard leads to; [`outputs`]: what an input of the partition leads to.
//! - [`log`]: what the partition needs of its replica.
//!
//! Layer 1: no clock, no entropy, no I/O; ordered maps only.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod effects;
pub mod loading;
pub mod log;
pub mod outputs;
pub mod partition;
pub mod rules;
pub mod shard;

pub use effects::{Batch, BatchKind, BatchNumber, Effects, RawRecord, RequestId, TransactionEnd};
pub use loading::{LoadError, Loaded, Loader, Unreadable};
pub use log::PartitionLog;
pub use outputs::{Event, Outputs, TimerChange, Waiter};
pub use partition::{CoordinatorPartition, Environment};
pub use rules::BrokenRules;
pub use shard::{CoordinatorShard, Replayed};

use ottla_model::{MonotonicMs, TimestampMs};

/// Both clocks of one input: the monotonic one decides when something is due, records carry the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    pub monotonic: MonotonicMs,
    pub wall: TimestampMs,
}
