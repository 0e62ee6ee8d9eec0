//! The storage trait of a node: the Raft log and the tree.

use ottla_consensus::log_store::ConfState;
use ottla_consensus::{LogStore, Snapshot, StoreError};
use ottla_metadata::tree::{NodeChange, Tree};
use ottla_model::Revision;

/// The last entry that the tree on the disk holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct AppliedPlace {
    pub revision: Revision,
    pub term: u64,
}

/// A log store whose state machine is the tree.
///
/// A snapshot in [`LogStore::persist`] replaces the tree in the same batch. All writes go through one write-ahead log:
/// a crash leaves a prefix of them, and a synced write takes every earlier one with it.
pub trait QuorumStore: LogStore {
    /// The whole tree, at the applied revision.
    fn tree(&self) -> Result<Tree, StoreError>;

    fn applied(&self) -> Result<AppliedPlace, StoreError>;

    /// Writes the changes of one or several entries, the position of the last one, and the membership if they changed
    /// it, in one batch. The batch is not synced: after a crash the log applies the entries again.
    fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a NodeChange>,
        applied: AppliedPlace,
        conf_state: Option<&ConfState>,
    ) -> Result<(), StoreError>;

    fn conf_state(&self) -> &ConfState;

    /// Stored bytes of the log.
    fn log_bytes(&self) -> u64;

    /// The greatest index that can be forgotten so that at least `keep_bytes` of entries stay.
    fn index_with_tail(&self, keep_bytes: u64) -> u64;

    /// A snapshot of the tree was made: [`LogStore::snapshot`] hands it out.
    fn set_snapshot(&mut self, snapshot: Snapshot);

    /// A peer has the snapshot: the store may free its memory. Another peer that needs a snapshot requests it again.
    fn forget_snapshot(&mut self);
}
