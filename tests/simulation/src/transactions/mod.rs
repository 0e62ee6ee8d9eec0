//! Transactions under faults: the transaction coordinators that the service runs (`ottla_coordinator_partition` with
//! the shards of `ottla_transaction_coordinator`), over the replicas that ship of `__transaction_state` partitions,
//! with producers as clients behave: they crash, stand still, are fenced, repeat what was not answered. One thread, one
//! queue of events, one seed.
//!
//! - [`crate::coordinator_log`]: the replicas of a partition of `__transaction_state`.
//! - [`data`]: a partition that producers write to: one replica that leads.
//! - [`producer`]: the clients. [`invariants`]: what must hold at every step. [`world`]: all of it together.
//! - [`runner`]: faults, then healing, then the demand that every transaction ends.

pub mod data;
pub mod invariants;
pub mod producer;
pub mod runner;
#[cfg(test)]
mod scenarios;
pub mod world;
