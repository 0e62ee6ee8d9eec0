//! What is done to a data directory without running the coordinator.
//!
//! - [`check`]: whether the directory holds what a coordinator can start with.
//! - [`snapshot`]: the tree as a file, and a new quorum from such a file.

mod check;
mod snapshot;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use ottla_consensus::snapshot::InvalidSnapshot;
use ottla_quorum_node::snapshot::SnapshotError;

pub use check::{Checked, check};
pub use snapshot::{Restored, Saved, restore, save};

use crate::rocksdb_store::{DiskError, OpenError};

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("data.dir={0}")]
    Open(#[from] OpenError),
    #[error("{directory}: {problem}")]
    Disk { directory: PathBuf, problem: DiskError },
    #[error("{directory}: {problem}")]
    Unsound { directory: PathBuf, problem: String },
    #[error("{file}: {problem}")]
    File { file: PathBuf, problem: std::io::Error },
    #[error("{file}: not a snapshot of a coordinator: {problem}")]
    NotASnapshot { file: PathBuf, problem: String },
    #[error("{0}")]
    Refused(String),
}

impl OfflineError {
    fn disk(directory: &Path, problem: DiskError) -> Self {
        Self::Disk { directory: directory.to_owned(), problem }
    }

    fn unsound(directory: &Path, problem: impl ToString) -> Self {
        Self::Unsound { directory: directory.to_owned(), problem: problem.to_string() }
    }

    fn not_a_snapshot(file: &Path, problem: impl ToString) -> Self {
        Self::NotASnapshot { file: file.to_owned(), problem: problem.to_string() }
    }
}

impl From<InvalidSnapshot> for OfflineError {
    fn from(error: InvalidSnapshot) -> Self {
        Self::Refused(SnapshotError::from(error).to_string())
    }
}
