//! Transactions under faults: the real shards of the transaction coordinator, hosted by brokers over a small model of
//! replicated `__transaction_state` partitions, with producers as clients behave: they crash, stand still, are fenced,
//! repeat what was not answered. One thread, one queue of events, one seed.
//!
//! - [`crate::coordinator_log`]: a partition of `__transaction_state` as its replicas hold it.
//! - [`data`]: a partition that producers write to, with the rules of its leader: verification, epochs, markers.
//! - [`producer`]: the clients. [`invariants`]: what must hold at every step. [`world`]: all of it together.
//! - [`runner`]: faults, then healing, then the demand that every transaction ends.

pub mod data;
pub mod invariants;
pub mod producer;
pub mod runner;
#[cfg(test)]
mod scenarios;
pub mod world;
