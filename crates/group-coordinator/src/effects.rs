//! What a step of a [`Shard`](crate::Shard) leads to.

use std::convert::Infallible;

pub use ottla_coordinator_partition::effects::{
    BATCH_OVERHEAD_BYTES, Batch, BatchKind, BatchNumber, RawRecord, RequestId, TransactionEnd,
};

use crate::GroupAnswer;

/// Groups send nothing to other brokers.
pub type Effects = ottla_coordinator_partition::Effects<GroupAnswer, Infallible>;
