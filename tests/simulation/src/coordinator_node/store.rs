//! A coordinator's disk: the log and the tree behind one write-ahead log, of which a loss of power leaves what was
//! synced, and at whose writes the process can be killed.

use ottla_consensus::log_store::ConfState;
use ottla_consensus::log_store::InitialState;
use ottla_consensus::{Entry, LogStore, Persist, Snapshot, StoreError};
use ottla_metadata::{NodeChange, Tree};
use ottla_quorum_node::{AppliedPlace, MemoryQuorumStore, QuorumStore};

/// The process ends at this very write.
#[derive(Debug, thiserror::Error)]
#[error("the process is killed at a write")]
struct Killed;

#[derive(Clone, Default, Debug)]
pub struct SimulatedStore {
    disk: MemoryQuorumStore,
    /// Dies after this many steps; each write has one before and one behind it.
    dies_after: Option<u32>,
}

impl SimulatedStore {
    pub fn arm_crash(&mut self, after_steps: u32) {
        self.dies_after = Some(after_steps);
    }

    /// Starts another life on the same disk.
    pub fn disarm(&mut self) {
        self.dies_after = None;
    }

    pub fn lose_power(&mut self) {
        self.disk.crash();
    }

    /// Of the tree as it is on the disk now.
    pub fn make_snapshot(&self) -> Snapshot {
        self.disk.make_snapshot()
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
        self.disk.initial_state()
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        self.disk.entries(low, high, max_bytes)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        self.disk.term(index)
    }

    fn first_index(&self) -> u64 {
        self.disk.first_index()
    }

    fn last_index(&self) -> u64 {
        self.disk.last_index()
    }

    fn snapshot(&self, at_least: u64) -> Result<Option<Snapshot>, StoreError> {
        self.disk.snapshot(at_least)
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        self.step()?;
        self.disk.persist(persist)?;
        self.step()
    }

    fn bootstrap(&mut self, conf_state: ConfState) -> Result<(), StoreError> {
        self.disk.bootstrap(conf_state)
    }

    fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        self.step()?;
        if through >= self.disk.first_index() {
            self.disk.compact(through)?;
        }
        self.step()
    }
}

impl QuorumStore for SimulatedStore {
    fn tree(&self) -> Result<Tree, StoreError> {
        self.disk.tree()
    }

    fn applied(&self) -> Result<AppliedPlace, StoreError> {
        self.disk.applied()
    }

    fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a NodeChange>,
        applied: AppliedPlace,
        conf_state: Option<&ConfState>,
    ) -> Result<(), StoreError> {
        self.step()?;
        self.disk.apply(changes, applied, conf_state)?;
        self.step()
    }

    fn conf_state(&self) -> &ConfState {
        self.disk.conf_state()
    }

    fn log_bytes(&self) -> u64 {
        self.disk.log_bytes()
    }

    fn index_with_tail(&self, keep_bytes: u64) -> u64 {
        self.disk.index_with_tail(keep_bytes)
    }

    fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.disk.set_snapshot(snapshot);
    }

    fn forget_snapshot(&mut self) {
        self.disk.forget_snapshot();
    }
}
