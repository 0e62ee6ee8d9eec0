//! The data path as a whole, in one process: produce, replication over sockets, failover, sessions, groups, deferred answers,
//! idempotence, restarts.
#![allow(clippy::unwrap_used)]

mod failover;
mod groups;
mod harness;
mod produce;
mod restart;
mod retention;
mod sessions;
