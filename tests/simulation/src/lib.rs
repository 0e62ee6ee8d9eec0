//! A deterministic simulation of a whole cluster: the quorum, the brokers' cores and the storage on a disk that loses
//! what was not synced, over a network and clocks that misbehave. One thread, one queue of events, one seed.
//!
//! - [`world`]: the cluster. [`event_queue`]: what happens when. [`network`], [`clock`], [`random`]: what is simulated.
//! - [`coordinator_node`], [`broker`], [`client`]: the processes, small shells around the real cores.
//! - [`faults`]: what goes wrong. [`invariants`]: what must hold at every step. [`runner`]: faults, then healing, then
//!   the demand that everything comes together. [`script`]: the same cluster, step by step, for the scenarios with
//!   names.
//! - [`security`]: who may do what, and who changes it, for the seeds with security.
//! - [`transactor`]: transactions over the same partitions, for the seeds that have them.
//! - [`groups`], [`transactions`]: the group and the transaction coordinator, over replicas of their own partitions
//!   ([`coordinator_log`]), without the rest of the cluster.
//!
//! A failure prints its seed and the line that replays it.

pub mod arguments;
mod at_once;
pub mod broker;
pub mod client;
pub mod clock;
pub mod content;
pub mod coordinator_log;
pub mod coordinator_node;
pub mod event_queue;
pub mod facts;
pub mod faults;
pub mod groups;
pub mod invariants;
pub mod message;
pub mod network;
pub mod outbox;
pub mod random;
pub mod runner;
#[cfg(test)]
mod scenarios;
pub mod script;
pub mod security;
pub mod trace;
pub mod transactions;
pub mod transactor;
pub mod world;
