//! The data path as a whole, in one process: produce, replication over sockets, failover, sessions, groups, deferred
//! answers, idempotence, restarts, compaction.
#![allow(clippy::unwrap_used)]

mod admin;
mod amplification;
mod authorization;
mod compaction;
mod disks;
mod failover;
mod groups;
mod harness;
mod metadata;
mod nearest;
mod produce;
mod quotas;
mod records;
mod restart;
mod retention;
mod sessions;
mod suspects;
mod transactions;
