//! How many partitions of one log directory are loaded at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Loading decodes records for most of its time, so that several cores help; each load holds
/// a buffer (`offsets.load.buffer.size`, `transaction.state.log.load.buffer.size`).
const LOADS_PER_DIRECTORY: usize = 4;

/// One semaphore for each directory: a disk that stalls delays only its own partitions.
#[derive(Default)]
pub struct LoadPermits(Mutex<BTreeMap<PathBuf, Arc<Semaphore>>>);

impl LoadPermits {
    pub fn of(&self, directory: &Path) -> Arc<Semaphore> {
        let mut all = self.0.lock();
        if let Some(permits) = all.get(directory) {
            return Arc::clone(permits);
        }
        let permits = Arc::new(Semaphore::new(LOADS_PER_DIRECTORY));
        all.insert(directory.to_owned(), Arc::clone(&permits));
        permits
    }
}
