//! One member of the metadata quorum, without I/O: tikv's Raft behind the verbs of the house.
//!
//! - [`member`]: tick, step, propose, read → effects.
//! - [`effects`]: what the owner must send, persist, apply, in which order.
//! - [`log_store`]: what the owner's storage must offer; [`memory_store`] is the one for tests and simulation, which can lose what
//!   was not synced; [`conformance`] holds for every implementation.
//! - [`incoming`]: what a peer's message must satisfy before Raft sees it.
//! - [`membership`]: who votes. [`read_index`]: linearizable reads that wait. [`snapshot`]: the form of a snapshot's data.
//!
//! Layer 1: state + input → effects. No clock, thread, file, socket or entropy in here; time is counted in ticks, and the
//! jitter of elections comes from a seed that the owner gives.

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

pub use effects::{Committed, Effects, Outgoing, Persist, ReadConfirmed, Role, RoleChange};
pub use incoming::{Incoming, RefusedMessage};
pub use log_store::{Entry, HardState, InitialState, LogStore, Snapshot, SnapshotMetadata, StoreError};
pub use member::{Member, MemberConfig, MemberError, PeerStatus, ProposalRefused, Proposed, Status};
pub use membership::Membership;
pub use memory_store::MemoryStore;
pub use read_index::Reads;
