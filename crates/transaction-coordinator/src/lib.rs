//! Transactions as a synchronous core: the transactional ids of one partition of `__transaction_state`, their
//! producers' epochs, and the transactions that these producers run.
//!
//! A [`StatePartition`](state_partition::StatePartition) is one partition of `__transaction_state` on one broker. While
//! the broker leads it, a [`Shard`] holds its ids: it is fed requests, the time, and what became of batches and
//! markers; what comes out are [`Effects`]: records to append, markers to send, and answers that may leave. Loading,
//! serving and leaving are the same for groups: `coordinator-partition` does that.
//!
//! - [`request`], [`answer`]: what clients and brokers ask and are told, without wire types.
//! - [`transaction`]: one transactional id as its record holds it, and the transitions of KIP-98, KIP-360 and KIP-890.
//! - [`state_partition`]: what `coordinator-partition` needs of a shard.
//! - [`shard`]: the ids of one leadership; batches in flight, markers on their way, time-outs and expiry.
//! - [`budget`]: what the ids of all partitions of a broker may hold together.
//! - [`record`]: what the partition holds, in Kafka's formats.
//! - [`cluster`]: what the core may look at: leaders of partitions, and fresh producer ids.
//!
//! Layer 1: no clock, no entropy, no I/O; ordered maps only. Invariants: a transactional id changes only when the high
//! watermark has passed the record of the change, and has one change in flight at most; a marker is sent only after the
//! record of the decision is replicated; epochs of a producer id never fall.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod answer;
pub mod budget;
pub mod cluster;
pub mod config;
pub mod effects;
pub mod record;
pub mod request;
pub mod shard;
pub mod state_partition;
pub mod transaction;

pub use answer::TransactionAnswer;
pub use budget::IdBudget;
pub use cluster::{Cluster, Leader};
pub use config::TransactionConfig;
pub use effects::{Batch, BatchKind, BatchNumber, Effects, Marker, MarkerNumber, RequestId};
pub use record::{Record, RecordError};
pub use request::Request;
pub use shard::Shard;
pub use transaction::{Producer, Transaction, TransactionState, TransactionVersion};

pub use ottla_coordinator_partition::Now;
