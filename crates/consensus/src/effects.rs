//! What the owner of a member must do, and in which order:
//!
//! 1. send `messages`;
//! 2. write `persist` in one batch, synced where it says so;
//! 3. call [`crate::Member::persisted`], which gives more messages and committed entries;
//! 4. only now send `messages_after_persist`: they promise what was persisted;
//! 5. apply `committed` of both, in order, and call [`crate::Member::applied`].
//!
//! A crash between any two of these steps is safe; a message of step 4 that leaves before step 2 is not.

use bytes::Bytes;
use ottla_model::{CoordinatorId, Revision};

use crate::log_store::{Entry, HardState, Snapshot};

/// A message for another member, opaque to whoever carries it. Messages may be lost, repeated and reordered.
#[derive(Clone, PartialEq, Debug)]
pub struct Outgoing {
    pub to: CoordinatorId,
    pub bytes: Bytes,
    /// It carries a snapshot: its fate must be told by [`crate::Member::report_snapshot`].
    pub is_snapshot: bool,
}

/// One batch for the log store.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Persist {
    /// Replaces the log and the state machine, before the entries.
    pub snapshot: Option<Snapshot>,
    /// Follow each other; replace what the log holds from the first one's index on.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Promises depend on it: it must be on the disk before they leave.
    pub must_sync: bool,
}

impl Persist {
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.entries.is_empty() && self.hard_state.is_none()
    }
}

/// An entry that a majority holds: apply it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    pub revision: Revision,
    pub term: u64,
    /// Empty: a new leader's first entry, which changes nothing, but moves the revision.
    pub data: Bytes,
}

/// Every state up to `revision` was committed when the read began: once that is applied here, the read may be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadConfirmed {
    pub context: Vec<u8>,
    pub revision: Revision,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Follower,
    /// Asks for votes, or whether it would get them.
    Candidate,
    Leader,
}

/// What this member is, and who leads as far as it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    pub role: Role,
    pub leader: Option<CoordinatorId>,
    pub term: u64,
}

/// See the module for the order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    pub messages: Vec<Outgoing>,
    pub persist: Persist,
    pub messages_after_persist: Vec<Outgoing>,
    pub committed: Vec<Committed>,
    pub reads: Vec<ReadConfirmed>,
    /// Where the role, the leader or the term changed.
    pub role: Option<RoleChange>,
}
