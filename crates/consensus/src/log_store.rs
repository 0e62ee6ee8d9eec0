//! The storage trait of a member, and its adapter to the Raft library's own trait.

use std::cell::Cell;

use ottla_model::Revision;
pub use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, StorageError};

use crate::effects::Persist;

/// Why the store cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index is before the first entry of the log: a snapshot replaced it.
    #[error("compacted")]
    Compacted,
    /// The index lies behind the log's last one.
    #[error("unavailable")]
    Unavailable,
    /// The medium failed, or its content is invalid. The process must stop: a member that continues may break its
    /// promises.
    #[error("the log store failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// The state from which a member starts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct InitialState {
    pub hard_state: HardState,
    /// Without voters: this store was never given a membership.
    pub conf_state: ConfState,
}

/// A log of entries `first_index()..=last_index()` behind a snapshot at `first_index() - 1`, and the hard state.
///
/// Implementations pass [`crate::conformance`].
pub trait LogStore {
    fn initial_state(&self) -> Result<InitialState, StoreError>;

    /// Entries `low..high`: at least one if the range has any, and at most `max_bytes` together otherwise.
    /// [`StoreError::Compacted`] below the first index, [`StoreError::Unavailable`] above the last.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError>;

    /// The term of an entry; also of the one right before the first, which the snapshot holds.
    fn term(&self, index: u64) -> Result<u64, StoreError>;

    /// 1 for an empty log that was never compacted.
    fn first_index(&self) -> u64;

    /// `first_index() - 1` for an empty log.
    fn last_index(&self) -> u64;

    /// A snapshot at `at_least` or later, and not before `first_index() - 1`. None if there is none yet:
    /// [`crate::Member::take_snapshot_wanted`] then tells the owner to make one.
    fn snapshot(&self, at_least: u64) -> Result<Option<Snapshot>, StoreError>;

    /// Writes one batch atomically: after a crash either all of it is there or none. The entries replace the log from
    /// the index of the first one.
    fn persist(&mut self, persist: &Persist) -> Result<(), StoreError>;

    /// Gives an empty store its membership.
    fn bootstrap(&mut self, conf_state: ConfState) -> Result<(), StoreError>;

    /// Forgets the entries up to and with `through`, which must have been applied.
    fn compact(&mut self, through: u64) -> Result<(), StoreError>;
}

/// The Raft library's view of a [`LogStore`].
pub(crate) struct Bridge<S> {
    pub(crate) store: S,
    /// Raft requested a snapshot, and the store had none.
    pub(crate) snapshot_wanted: Cell<bool>,
    /// The membership is not that of the first start any more. The log begins with entries that do not tell who the
    /// first members were, so that a member with an empty log must get a snapshot, even if the log is whole.
    pub(crate) membership_changed: bool,
    /// The last revision that the state machine had applied at the start.
    applied: Revision,
}

impl<S> Bridge<S> {
    pub(crate) fn new(store: S, applied: Revision) -> Self {
        Self { store, snapshot_wanted: Cell::new(false), membership_changed: false, applied }
    }
}

fn to_raft(error: StoreError) -> raft::Error {
    raft::Error::Store(match error {
        StoreError::Compacted => StorageError::Compacted,
        StoreError::Unavailable => StorageError::Unavailable,
        // The library panics on this one, as it should.
        StoreError::Failed(cause) => StorageError::Other(cause),
    })
}

impl<S: LogStore> raft::Storage for Bridge<S> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let initial = self.store.initial_state().map_err(to_raft)?;
        let mut hard_state = initial.hard_state;
        // Applied entries were committed, but the commit index itself may not have been written yet.
        hard_state.commit = hard_state.commit.max(self.applied.0);
        Ok(RaftState { hard_state, conf_state: initial.conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        self.store.entries(low, high, max_size.into().unwrap_or(u64::MAX)).map_err(to_raft)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == 0 && self.membership_changed {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.store.term(index).map_err(to_raft)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.store.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.store.last_index())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        match self.store.snapshot(request_index).map_err(to_raft)? {
            Some(snapshot) => Ok(snapshot),
            None => {
                self.snapshot_wanted.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
