//! One node of the metadata quorum: the Raft member, the tree that it applies entries to, the controller while it leads, linearizable
//! reads, and what watchers are told. Everything that a coordinator decides; the service around it waits, locks and does I/O.
//!
//! - [`node`]: event → outputs, and the order in which Raft's effects are executed.
//! - `leadership`: what exists only while this member leads: the controller, its waiting requests and heartbeat streams.
//! - `proposals`: the guard before each proposal, and group commit.
//! - `apply`: committed entries → tree, image, store, watchers, controller. When the log is compacted.
//! - [`watchers`]: the history, and what a watcher at a revision gets.
//! - [`disks`]: which disk may speak for which coordinator. [`snapshot`]: the tree as a snapshot's data.
//! - [`store`]: what the disk must offer. [`event`]: what goes in and what comes out.
//!
//! Layer 1: synchronous and deterministic. The simulation runs exactly this with a simulated store.

mod apply;
mod broken_rules;
pub mod disks;
pub mod event;
mod leadership;
pub mod node;
mod proposals;
pub mod snapshot;
pub mod store;
mod view;
pub mod watchers;

#[cfg(test)]
mod tests;

pub use broken_rules::BrokenRules;
pub use disks::Voter;
pub use event::{
    AppliedEntry, CallId, Event, Note, Outcome, Output, ReadId, RequestError, Sink, WatchUpdate, WatcherId,
};
pub use node::{Node, NodeConfig, NodeError};
pub use proposals::ProposalError;
pub use store::{AppliedPlace, QuorumStore};
pub use view::View;
pub use watchers::{Changes, HistoryLimits};
