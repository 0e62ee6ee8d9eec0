//! A broker's fetches as a follower from one source broker: partitions, positions, timing, and the handling of each
//! response.
//!
//! Layer 1: synchronous, no I/O. [`Fetcher`] is the state of the fetches from one source: connect and back off, one
//! incremental fetch session, the requests for the leader's log bounds, the pauses of partitions after errors. The
//! caller connects, sends and receives as [`Fetcher::tick`] returns it, and reaches the partitions through
//! [`Followers`]. [`Assignments`] maps each partition to its fetcher.
//!
//! Invariants:
//! - a partition that follows the source is in exactly one of three states: named in the source's session or about to
//!   be, paused until a time, or asking for the leader's bounds. A change of its role keeps that state or restarts it;
//!   nothing but the end of its role drops it (scenario 37);
//! - an answer is applied to the position that its own request named for the partition.

mod assignments;
mod config;
mod fetcher;
mod session;
mod slots;
#[cfg(test)]
mod tests;

pub use assignments::{Assignments, Reassigned};
pub use config::{
    ADDED_MAX, BACKOFF_MIN, BrokenRules, FETCHES_UNDERWAY_MAX, FetcherConfig, RECONNECT_MAX, RECONNECT_MIN,
    REFUSED_PAUSE,
};
pub use fetcher::{BoundsQuestion, Disconnect, Effect, FetchRequest, FetchResponse, Fetcher, Followers, LogEnd};
pub use slots::RequestNumber;
