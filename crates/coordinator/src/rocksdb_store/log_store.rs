//! The disk as consensus sees it.

use std::sync::Arc;
use std::time::Instant;

use ottla_consensus::log_store::{ConfState, InitialState, LogStore, StoreError};
use ottla_consensus::{Entry, Persist, Snapshot};
use ottla_metadata::tree::{NodeChange, Tree};
use ottla_model::Revision;
use ottla_quorum_node::{AppliedPlace, QuorumStore};
use rocksdb::WriteBatch;

use super::raft_log::RaftLog;
use super::{Disk, DiskError};
use crate::telemetry::Metrics;

/// The log with its disk. The driver's thread owns it.
pub struct RocksDbStore {
    disk: Disk,
    log: RaftLog,
    conf_state: ConfState,
    /// Made on request, by another thread; kept until the log has left it behind.
    snapshot: Option<Snapshot>,
    metrics: Option<Arc<Metrics>>,
}

fn failed(error: DiskError) -> StoreError {
    StoreError::failed(error)
}

impl RocksDbStore {
    pub fn open(disk: Disk) -> Result<Self, DiskError> {
        let log = RaftLog::open(&disk, disk.compacted()?)?;
        let conf_state = disk.conf_state()?;
        Ok(Self { disk, log, conf_state, snapshot: None, metrics: None })
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Synced writes are counted there from now on.
    pub fn set_metrics(&mut self, metrics: Arc<Metrics>) {
        self.metrics = Some(metrics);
    }

    fn write(&mut self, persist: &Persist) -> Result<(), DiskError> {
        let mut batch = WriteBatch::default();
        if let Some(snapshot) = &persist.snapshot {
            let metadata = snapshot.get_metadata();
            let place = (metadata.index, metadata.term);
            self.disk.install(&mut batch, snapshot)?;
            self.disk.put_conf_state(&mut batch, metadata.get_conf_state())?;
            self.disk.put_compacted(&mut batch, place);
            self.log.reset(&self.disk, &mut batch, place);
            self.conf_state = metadata.get_conf_state().clone();
            self.snapshot = None;
        }
        self.log.append(&self.disk, &mut batch, &persist.entries)?;
        if let Some(hard_state) = &persist.hard_state {
            self.disk.put_hard_state(&mut batch, hard_state)?;
        }
        self.disk.write(batch, persist.must_sync)
    }
}

impl LogStore for RocksDbStore {
    fn initial_state(&self) -> Result<InitialState, StoreError> {
        let hard_state = self.disk.hard_state().map_err(failed)?;
        Ok(InitialState { hard_state, conf_state: self.conf_state.clone() })
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        if low < self.log.first_index() {
            return Err(StoreError::Compacted);
        }
        if high > self.log.last_index() + 1 {
            return Err(StoreError::Unavailable);
        }
        if low >= high {
            return Ok(Vec::new());
        }
        self.log.read(&self.disk, low, high, max_bytes).map_err(failed)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        if index < self.log.compacted.0 {
            return Err(StoreError::Compacted);
        }
        self.log.term(&self.disk, index).map_err(failed)?.ok_or(StoreError::Unavailable)
    }

    fn first_index(&self) -> u64 {
        self.log.first_index()
    }

    fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    fn snapshot(&self, at_least: u64) -> Result<Option<Snapshot>, StoreError> {
        // A snapshot from before the log's beginning would leave a gap that no entry fills.
        let oldest = at_least.max(self.log.compacted.0).max(1);
        Ok(self.snapshot.clone().filter(|snapshot| snapshot.get_metadata().index >= oldest))
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        let started = Instant::now();
        self.write(persist).map_err(failed)?;
        if let Some(metrics) = self.metrics.as_ref().filter(|_| persist.must_sync) {
            metrics.synced(started.elapsed());
        }
        Ok(())
    }

    fn bootstrap(&mut self, conf_state: ConfState) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        self.disk.put_conf_state(&mut batch, &conf_state).map_err(failed)?;
        self.disk.write(batch, true).map_err(failed)?;
        self.conf_state = conf_state;
        Ok(())
    }

    fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        if through < self.log.first_index() {
            return Ok(());
        }
        let term = self.term(through)?;
        let mut batch = WriteBatch::default();
        self.log.compact(&self.disk, &mut batch, through, term);
        self.disk.put_compacted(&mut batch, (through, term));
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.get_metadata().index < through) {
            self.snapshot = None;
        }
        self.disk.write(batch, false).map_err(failed)
    }
}

impl QuorumStore for RocksDbStore {
    fn tree(&self) -> Result<Tree, StoreError> {
        self.disk.tree().map_err(failed)
    }

    fn applied(&self) -> Result<AppliedPlace, StoreError> {
        let (index, term) = self.disk.applied().map_err(failed)?;
        Ok(AppliedPlace { revision: Revision(index), term })
    }

    fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a NodeChange>,
        applied: AppliedPlace,
        conf_state: Option<&ConfState>,
    ) -> Result<(), StoreError> {
        self.disk.apply(changes, (applied.revision.0, applied.term), conf_state).map_err(failed)?;
        if let Some(conf_state) = conf_state {
            self.conf_state = conf_state.clone();
            // It names the members before the change.
            self.snapshot = None;
        }
        Ok(())
    }

    fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    fn log_bytes(&self) -> u64 {
        self.log.total_bytes()
    }

    fn index_with_tail(&self, keep_bytes: u64) -> u64 {
        self.log.index_with_tail(keep_bytes)
    }

    fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    fn forget_snapshot(&mut self) {
        self.snapshot = None;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn conforms() {
        let root = tempfile::tempdir().expect("a directory");
        let mut stores = 0;
        let open = |path: PathBuf| RocksDbStore::open(Disk::open(&path).expect("opens")).expect("readable");
        let fresh = || {
            stores += 1;
            open(root.path().join(stores.to_string()))
        };
        let reopen = |store: RocksDbStore| {
            let path = store.disk.db.path().parent().expect("a data directory").to_owned();
            drop(store);
            open(path)
        };
        ottla_consensus::conformance::run(fresh, reopen);
    }

    #[test]
    fn compaction_by_bytes_keeps_a_tail() {
        let root = tempfile::tempdir().expect("a directory");
        let mut store = RocksDbStore::open(Disk::open(root.path()).expect("opens")).expect("readable");
        let entry = |index| Entry { index, term: 1, data: vec![7; 1_000].into(), ..Entry::default() };
        for index in 1..=2_000 {
            let persist = Persist { entries: vec![entry(index)], must_sync: false, ..Persist::default() };
            store.persist(&persist).expect("written");
        }
        assert!(store.log_bytes() > 2_000_000);
        let through = store.index_with_tail(500_000);
        assert!((1_490..=1_510).contains(&through), "{through}");
        store.compact(through).expect("compacted");
        assert!((500_000..=510_000).contains(&store.log_bytes()), "{}", store.log_bytes());
        // Older than the entries in memory, and across both.
        assert_eq!(store.entries(through + 1, 2_001, u64::MAX).expect("all").len() as u64, 2_000 - through);
        assert_eq!(store.entries(1_990, 2_001, u64::MAX).expect("cached").len(), 11);
        assert_eq!(store.index_with_tail(u64::MAX), through);
    }
}
