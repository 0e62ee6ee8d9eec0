//! One member of the metadata quorum, without I/O: tikv's Raft behind this project's verbs.
//!
//! - [`member`]: tick, step, propose, read → effects.
//! - [`effects`]: what the owner must send, persist and apply, and in which order.
//! - [`log_store`]: the storage trait; [`memory_store`] implements it for tests and the simulation and can lose
//!   unsynced writes; [`conformance`] tests every implementation.
//! - [`incoming`]: checks of a peer's message before Raft sees it.
//! - [`membership`]: voters and learners. [`read_index`]: linearizable reads that wait. [`snapshot`]: the format of a
//!   snapshot's data.
//!
//! Layer 1: state + input → effects. No clock, thread, file, socket or entropy in here; time is counted in ticks, and
//! the jitter of elections comes from a seed that the owner gives.

pub mod conformance;
pub mod effects;
pub mod incoming;
pub mod jitter;
pub mod log_store;
pub mod member;
pub mod membership;
pub mod memory_store;
pub mod read_index;
pub mod snapshot;

pub use effects::{Committed, Effects, MemberChange, Outgoing, Persist, ReadConfirmed, Role, RoleChange};
pub use incoming::{Incoming, MessageError};
pub use log_store::{Entry, HardState, InitialState, LogStore, Snapshot, SnapshotMetadata, StoreError};
pub use member::{Member, MemberConfig, MemberError, PeerStatus, ProposeError, Proposed, Status};
pub use membership::Membership;
pub use memory_store::MemoryStore;
pub use read_index::Reads;
