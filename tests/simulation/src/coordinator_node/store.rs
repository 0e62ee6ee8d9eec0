//! A coordinator's disk: the log and the tree behind one write-ahead log, of which a loss of power leaves what was
//! synced.

use ottla_consensus::log_store::ConfState;
use ottla_consensus::log_store::InitialState;
use ottla_consensus::{Entry, LogStore, MemoryStore, Persist, Snapshot, SnapshotMetadata, StoreError};
use ottla_metadata::{NodeChange, Tree};
use ottla_model::Revision;
use ottla_quorum_node::{AppliedPlace, QuorumStore, snapshot};

/// The process ends at this very write.
#[derive(Debug, thiserror::Error)]
#[error("the process is killed at a write")]
struct Killed;

#[derive(Clone, Default, Debug)]
pub struct SimulatedStore {
    log: MemoryStore,
    tree: Tree,
    applied: AppliedPlace,
    /// Both as a loss of power would leave them.
    durable: (Tree, AppliedPlace),
    /// Dies after this many steps; each write has one before and one behind it.
    dies_after: Option<u32>,
}

impl SimulatedStore {
    pub fn was_bootstrapped(&self) -> bool {
        !self.log.conf_state().voters.is_empty()
    }

    pub fn arm_crash(&mut self, after_steps: u32) {
        self.dies_after = Some(after_steps);
    }

    /// Starts another life on the same disk.
    pub fn disarm(&mut self) {
        self.dies_after = None;
    }

    pub fn lose_power(&mut self) {
        self.log.crash();
        (self.tree, self.applied) = self.durable.clone();
    }

    /// Of the tree as it is on the disk now.
    pub fn make_snapshot(&self) -> Snapshot {
        let metadata = SnapshotMetadata {
            index: self.applied.revision.0,
            term: self.applied.term,
            conf_state: Some(self.log.conf_state().clone()).into(),
            ..SnapshotMetadata::default()
        };
        Snapshot { data: snapshot::encode(&self.tree), metadata: Some(metadata).into(), ..Snapshot::default() }
    }

    fn step(&mut self) -> Result<(), StoreError> {
        match &mut self.dies_after {
            Some(0) => Err(StoreError::failed(Killed)),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(StoreError::failed(Killed)) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }
}

impl LogStore for SimulatedStore {
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
        self.step()?;
        if let Some(snapshot) = &persist.snapshot {
            let metadata = snapshot.get_metadata();
            let revision = Revision(metadata.index);
            self.tree = snapshot::decode(revision, snapshot.data.clone()).map_err(StoreError::failed)?;
            self.applied = AppliedPlace { revision, term: metadata.term };
        }
        self.log.persist(persist)?;
        if persist.must_sync {
            self.durable = (self.tree.clone(), self.applied);
        }
        self.step()
    }

    fn bootstrap(&mut self, conf_state: ConfState) -> Result<(), StoreError> {
        self.log.bootstrap(conf_state)
    }

    fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        self.step()?;
        if through >= self.log.first_index() {
            self.log.compact(through)?;
        }
        self.step()
    }
}

impl QuorumStore for SimulatedStore {
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
    ) -> Result<(), StoreError> {
        self.step()?;
        let changes: Vec<NodeChange> = changes.cloned().collect();
        self.tree.accept(applied.revision, &changes);
        self.applied = applied;
        self.step()
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
