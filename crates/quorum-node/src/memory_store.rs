//! A store in memory, for tests.

use ottla_consensus::log_store::{ConfState, InitialState};
use ottla_consensus::{Entry, LogStore, MemoryStore, Persist, Snapshot, StoreError};
use ottla_metadata::tree::{NodeChange, Tree};
use ottla_model::Revision;

use crate::snapshot;
use crate::store::{AppliedPlace, QuorumStore};

/// The log and the tree of one node.
#[derive(Clone, Default, Debug)]
pub struct MemoryQuorumStore {
    pub(crate) log: MemoryStore,
    tree: Tree,
    applied: AppliedPlace,
    /// The tree as a loss of power would leave it. The log knows that of itself.
    durable: (Tree, AppliedPlace),
}

impl MemoryQuorumStore {
    /// The host lost its power: what was not synced is gone.
    pub fn crash(&mut self) {
        self.log.crash();
        (self.tree, self.applied) = self.durable.clone();
    }

    /// For [`crate::Event::SnapshotMade`].
    pub fn make_snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot { data: snapshot::encode(&self.tree), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.applied.revision.0, self.applied.term);
        metadata.set_conf_state(self.log.conf_state().clone());
        snapshot
    }

    /// Whether it was never bootstrapped.
    pub fn conf_state_is_empty(&self) -> bool {
        self.log.conf_state().voters.is_empty()
    }
}

impl LogStore for MemoryQuorumStore {
    fn initial_state(&self) -> Result<InitialState, StoreError> {
        self.log.initial_state()
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        self.log.entries(low, high, max_bytes)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        self.log.term(index)
    }

    fn first_index(&self) -> u64 {
        self.log.first_index()
    }

    fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    fn snapshot(&self, at_least: u64) -> Result<Option<Snapshot>, StoreError> {
        self.log.snapshot(at_least)
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        if let Some(snapshot) = &persist.snapshot {
            let revision = Revision(snapshot.get_metadata().index);
            self.tree = snapshot::decode(revision, snapshot.data.clone()).map_err(StoreError::failed)?;
            self.applied = AppliedPlace { revision, term: snapshot.get_metadata().term };
        }
        self.log.persist(persist)?;
        if persist.must_sync {
            self.durable = (self.tree.clone(), self.applied);
        }
        Ok(())
    }

    fn bootstrap(&mut self, conf_state: ConfState) -> Result<(), StoreError> {
        self.log.bootstrap(conf_state)
    }

    fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        self.log.compact(through)
    }
}

impl QuorumStore for MemoryQuorumStore {
    fn tree(&self) -> Result<Tree, StoreError> {
        Ok(self.tree.clone())
    }

    fn applied(&self) -> Result<AppliedPlace, StoreError> {
        Ok(self.applied)
    }

    fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a NodeChange>,
        applied: AppliedPlace,
        conf_state: Option<&ConfState>,
    ) -> Result<(), StoreError> {
        let changes: Vec<NodeChange> = changes.cloned().collect();
        self.tree.accept(applied.revision, &changes);
        self.applied = applied;
        if let Some(conf_state) = conf_state {
            self.log.set_conf_state(conf_state.clone());
            self.durable = (self.tree.clone(), self.applied);
        }
        Ok(())
    }

    fn conf_state(&self) -> &ConfState {
        self.log.conf_state()
    }

    fn log_bytes(&self) -> u64 {
        self.log.log_bytes()
    }

    fn index_with_tail(&self, keep_bytes: u64) -> u64 {
        self.log.index_with_tail(keep_bytes)
    }

    fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.log.set_snapshot(snapshot);
    }

    fn forget_snapshot(&mut self) {
        self.log.forget_snapshot();
    }
}
