//! Consumer groups under faults: the group coordinators that the service runs (`ottla_coordinator_partition` with the
//! groups of `ottla_group_coordinator`), over the replicas that ship (`ottla_partition::Replica`) of
//! `__consumer_offsets` partitions, with members of both protocols as clients behave: they crash, stand still, answer
//! late, are static or use regular expressions. One thread, one queue of events, one seed, as the simulation of the
//! whole cluster has it.
//!
//! - [`crate::coordinator_log`]: the replicas of a partition; leaders come and go, zombies append to logs that nobody
//!   will read.
//! - [`broker`]: the coordinators of one process. [`topics`]: what members read.
//! - [`classic_member`], [`consumer_member`], [`admin`]: the clients. [`client`]: what they have in common.
//! - [`invariants`]: what must hold at every step. [`world`]: all of it together. [`runner`]: faults, then healing,
//!   then the demand that every group settles and that no partition stays without a reader.

pub mod admin;
pub mod broker;
pub mod classic_member;
pub mod client;
pub mod consumer_member;
pub mod consumer_protocol;
pub mod invariants;
pub mod runner;
#[cfg(test)]
mod scenarios;
pub mod topics;
pub mod world;
