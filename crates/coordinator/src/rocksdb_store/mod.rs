//! The disk of a coordinator: one RocksDB with a column family each for the log, the state of Raft, and the tree.
//!
//! Invariants: all writes of one Raft ready are one batch, synced if Raft requires it; the changes of an apply and its
//! revision are one batch, which need not be synced, because the log can repeat it. All families share one write-ahead
//! log, so that a crash leaves a prefix of the writes.
//!
//! - [`raft_log`]: index → entry, and how many bytes that is.
//! - [`raft_state`]: hard state, membership, applied revision, and the disk's identity.
//! - [`tree`]: path → node.
//! - [`log_store`]: the three together as consensus sees them.
//! - `write_ahead_log`: whether RocksDB would pass over what was on the disk.

pub mod log_store;
pub mod raft_log;
pub mod raft_state;
pub mod tree;
mod write_ahead_log;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_resources::private_directory;
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode,
    DBWithThreadMode, LogLevel, MultiThreaded, Options, WriteBatch, WriteOptions,
};

pub use log_store::RocksDbStore;
pub use raft_state::Identity;
pub use write_ahead_log::WalError;

/// The memory of a family before it is flushed; four families use at most twice that. The tree of ten thousand
/// partitions is a few megabytes, and a coordinator should use no more than that.
const WRITE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Over all families.
const WRITE_BUFFERS_BYTES: usize = 12 * 1024 * 1024;
/// Of write-ahead log, before the oldest family is flushed.
const WAL_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Reads come from memory, except at the start and for snapshots.
const BLOCK_CACHE_BYTES: usize = 1024 * 1024;
/// RocksDB's own diary.
const INFO_LOG_BYTES: usize = 1024 * 1024;

/// The disk failed, or contains data that no release wrote. The process must stop.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{0}")]
    RocksDb(#[from] rocksdb::Error),
    #[error("{what} on the disk cannot be read: {problem}")]
    Corrupt { what: &'static str, problem: String },
}

impl DiskError {
    fn corrupt(what: &'static str, problem: impl ToString) -> Self {
        Self::Corrupt { what, problem: problem.to_string() }
    }
}

/// Why a data directory cannot be used: configuration, not failure.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{directory}: another process uses it")]
    InUse { directory: PathBuf },
    #[error("{directory}: cannot be written: {problem}")]
    NotWritable { directory: PathBuf, problem: String },
    #[error("{directory}: {problem}")]
    Unusable { directory: PathBuf, problem: String },
    #[error(
        "{directory}: {problem}: a start would forget votes and entries that were acknowledged; take this coordinator \
         out (ottla quorum remove), empty its data directory, start it, and add it (ottla quorum add)"
    )]
    Damaged { directory: PathBuf, problem: WalError },
}

type Db = DBWithThreadMode<MultiThreaded>;

/// The open database; shared by the driver, which alone writes, and the thread that makes a snapshot.
#[derive(Clone)]
pub struct Disk {
    db: Arc<Db>,
    #[cfg(test)]
    synced: Arc<std::sync::atomic::AtomicUsize>,
}

/// Within the data directory.
const DIRECTORY: &str = "quorum";

impl Disk {
    /// Opens, or creates, the database below `data_dir`. A write that a power loss left unfinished is passed over; a
    /// database that lost what was on the disk is refused.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let directory = data_dir.join(DIRECTORY);
        private_directory::create(&directory)
            .map_err(|error| OpenError::NotWritable { directory: data_dir.to_owned(), problem: error.to_string() })?;
        private_directory::warn_if_open(data_dir);
        Self::check_write_ahead_log(data_dir)?;
        let (options, families) = Self::options();
        match Db::open_cf_descriptors(&options, &directory, families) {
            Ok(db) => Ok(Self::of(db)),
            Err(error) => Err(open_error(data_dir, &error)),
        }
    }

    /// Whether a start would pass over what was on the disk ([`write_ahead_log`]).
    pub fn check_write_ahead_log(data_dir: &Path) -> Result<(), OpenError> {
        let directory = data_dir.to_owned();
        write_ahead_log::check(&data_dir.join(DIRECTORY)).map_err(|problem| match problem {
            WalError::Damaged { .. } => OpenError::Damaged { directory, problem },
            WalError::Io { .. } => OpenError::Unusable { directory, problem: problem.to_string() },
        })
    }

    /// Opens the database below `data_dir` as it is; every write fails. What follows a damaged record of the
    /// write-ahead log is passed over.
    pub fn open_read_only(data_dir: &Path) -> Result<Self, OpenError> {
        let directory = data_dir.join(DIRECTORY);
        if !directory.is_dir() {
            let problem = format!("no data directory of a coordinator: it has no {DIRECTORY}");
            return Err(OpenError::Unusable { directory: data_dir.to_owned(), problem });
        }
        let (options, families) = Self::options();
        match Db::open_cf_descriptors_read_only(&options, &directory, families, false) {
            Ok(db) => Ok(Self::of(db)),
            Err(error) => Err(open_error(data_dir, &error)),
        }
    }

    fn of(db: Db) -> Self {
        Self {
            db: Arc::new(db),
            #[cfg(test)]
            synced: Arc::default(),
        }
    }

    fn options() -> (Options, [ColumnFamilyDescriptor; 3]) {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        let mut family = Options::default();
        family.set_write_buffer_size(WRITE_BUFFER_BYTES);
        family.set_max_write_buffer_number(2);
        family.set_compression_type(DBCompressionType::None);
        family.set_block_based_table_factory(&table);
        let mut options = family.clone();
        // What precedes a damaged record: `write_ahead_log` has found that it was not finished.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_max_background_jobs(2);
        options.set_max_open_files(64);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(INFO_LOG_BYTES);
        options.set_log_level(LogLevel::Warn);
        // No statistics thread: an idle coordinator must cost nothing.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_skip_stats_update_on_db_open(true);
        options.set_allow_concurrent_memtable_write(false);
        options.set_manifest_preallocation_size(64 * 1024);
        let families = [raft_log::FAMILY, raft_state::FAMILY, tree::FAMILY]
            .map(|name| ColumnFamilyDescriptor::new(name, family.clone()));
        (options, families)
    }

    fn family(&self, name: &'static str) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(name).expect("every family is created when the database is opened")
    }

    /// Writes a batch; with `sync` it is on the disk when this returns.
    pub fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), DiskError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options)?;
        #[cfg(test)]
        self.synced.fetch_add(usize::from(sync), std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Writes that were on the disk when they returned.
    #[cfg(test)]
    pub(crate) fn synced_writes(&self) -> usize {
        self.synced.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes what no release writes.
    #[cfg(test)]
    pub(crate) fn spoil(&self, family: &'static str, key: &[u8], value: Option<&[u8]>) {
        let mut batch = WriteBatch::default();
        match value {
            Some(value) => batch.put_cf(&self.family(family), key, value),
            None => batch.delete_cf(&self.family(family), key),
        }
        self.write(batch, true).expect("written");
    }

    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.db.get_cf(&self.family(family), key)?)
    }
}

fn open_error(directory: &Path, error: &rocksdb::Error) -> OpenError {
    let directory = directory.to_owned();
    let problem = error.to_string();
    let lowered = problem.to_lowercase();
    // Held by another process, or by this one.
    if lowered.contains("/lock") && (lowered.contains("unavailable") || lowered.contains("no locks available")) {
        OpenError::InUse { directory }
    } else if lowered.contains("read-only") || lowered.contains("permission denied") {
        OpenError::NotWritable { directory, problem }
    } else {
        OpenError::Unusable { directory, problem }
    }
}
