//! One node of the metadata quorum: the Raft member, the tree to which it applies entries, the controller while it
//! leads, linearizable reads, and the updates of watchers. It makes every decision of a coordinator; the service around
//! it waits, locks and does I/O.
//!
//! - [`node`]: event → outputs, and the order in which Raft's effects are executed.
//! - `leadership`: the state that exists only while this member leads: the controller, waiting requests and heartbeat
//!   streams.
//! - `proposals`: the guard before each proposal, and group commit.
//! - `apply`: committed entries → tree, image, store, watchers, controller. When the log is compacted.
//! - [`watchers`]: the history, and the updates of a watcher from a revision.
//! - [`members`]: who belongs to the quorum, and where; `members_change`: how the leader changes it.
//! - [`first_start`]: how an empty disk comes to vote. [`identity`]: what coordinators tell each other of themselves,
//!   and what follows; [`opinions`]: when members are believed that a disk is the wrong one.
//! - [`stream_admission`]: whose streams of Raft messages are taken. [`peer_link`]: what follows when a stream to
//!   another coordinator ends.
//! - [`disks`]: checks which disk may act for which coordinator. [`snapshot`]: the tree as a snapshot's data.
//! - [`store`]: the storage trait. [`event`]: inputs and outputs.
//!
//! Layer 1: synchronous and deterministic. The simulation runs exactly this with a simulated store.

mod apply;
mod broken_rules;
pub mod disks;
pub mod event;
pub mod first_start;
mod hand_over;
pub mod identity;
mod leadership;
pub mod members;
mod members_change;
mod memory_store;
pub mod node;
pub mod opinions;
pub mod peer_link;
mod proposals;
pub mod snapshot;
pub mod store;
pub mod stream_admission;
mod view;
pub mod watchers;

#[cfg(test)]
mod tests;

pub use broken_rules::BrokenRules;
pub use disks::Voter;
pub use event::{
    AppliedEntry, CallId, Event, Note, Outcome, Output, ReadId, RequestError, Sink, WatchUpdate, WatcherId,
};
pub use members::{MemberInfo, Members, Vouched};
pub use memory_store::MemoryQuorumStore;
pub use node::{Node, NodeConfig, NodeError};
pub use store::{AppliedPlace, QuorumStore};
pub use stream_admission::{Admission, AdmissionStep, StreamRefused};
pub use view::View;
pub use watchers::{Changes, HistoryLimits};
