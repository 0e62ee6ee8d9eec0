//! The log directories of this broker, each with its I/O threads. [`ottla_storage::LogDirs`] decides which of them can
//! be used; [`ottla_partition`] decides what happens to their logs.
//!
//! - [`opening`]: the start.
//! - `room`: how much space there is.

pub mod opening;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_config::BrokerConfig;
use ottla_metadata::broker_config::CordonedLogDirs;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, TopicPartition};
use ottla_partition::{AbsentLog, Shutdown, least_used};
use ottla_resources::private_directory;
use ottla_storage::checkpoint::meta_properties::MetaProperties;
use ottla_storage::{DirectoryError, LastRun, LogConfig, RealEnv};

use crate::log_io::{DirectoryIo, Urgency};

use opening::{OpeningProgress, open_directory};
use room::Room;
pub use room::Space;

/// The log of a replica, on a disk.
pub type Log = ottla_storage::Log<RealEnv>;

/// Why the log directories cannot be used; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    #[error(transparent)]
    Unusable(#[from] ottla_storage::LogDirsError),
    #[error("the I/O threads do not start: {0}")]
    Threads(#[from] std::io::Error),
}

impl From<DirectoryError> for LogDirsError {
    fn from(error: DirectoryError) -> Self {
        Self::Unusable(error.into())
    }
}

/// One log directory and its threads.
pub struct LogDir {
    directory: Arc<ottla_storage::LogDir<RealEnv>>,
    io: DirectoryIo,
    room: Arc<Room>,
}

impl std::ops::Deref for LogDir {
    type Target = ottla_storage::LogDir<RealEnv>;

    fn deref(&self) -> &Self::Target {
        &self.directory
    }
}

/// A log that was there at the start.
pub type FoundLog = ottla_partition::FoundLog<RealEnv, Arc<LogDir>>;

impl LogDir {
    /// Whether it gets no new logs.
    pub fn is_cordoned(&self, cordoned: &CordonedLogDirs) -> bool {
        cordoned.contain(self.path())
    }

    pub fn run(&self, urgency: Urgency, job: impl FnOnce() + Send + 'static) {
        self.io.run(urgency, job);
    }

    /// Whether nothing waits for the urgent thread.
    pub fn is_idle(&self) -> bool {
        self.io.is_idle(Urgency::Urgent)
    }

    /// Finishes what was queued and ends the threads.
    pub fn stop_io(&self) {
        self.io.stop();
    }

    /// The room of its file system. Waits for the disk, unless another thread does.
    pub fn space(&self) -> std::io::Result<Space> {
        self.room.ask(|| space_at(self.path()))
    }

    /// The same, on a thread that may wait, and not for long.
    pub async fn space_in_time(&self) -> std::io::Result<Space> {
        let path = self.path().clone();
        self.room.ask_in_time(move || space_at(&path)).await
    }

    /// [`ottla_storage::LogDir::mark_deleted`]. Waits for the disk.
    pub fn mark_deleted(&self, partitions: &[TopicPartition]) -> Result<Vec<PathBuf>, DirectoryError> {
        self.directory.mark_deleted(partitions, unique)
    }

    /// [`ottla_storage::LogDir::mark_stray`]. Waits for the disk.
    pub fn mark_stray(&self, partition: &TopicPartition) -> Result<(), DirectoryError> {
        self.directory.mark_stray(partition, unique())
    }

    /// Where a move to this directory gathers its copy.
    pub fn future_path(&self, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.directory.future_path(partition, unique())
    }
}

fn space_at(path: &Path) -> std::io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((bytes(stat.f_blocks), bytes(stat.f_bavail)))
}

/// Distinguishes a renamed directory from earlier ones.
pub fn unique() -> [u8; 16] {
    *uuid::Uuid::new_v4().as_bytes()
}

/// All of them.
pub struct LogDirs {
    opened: ottla_storage::LogDirs<RealEnv>,
    /// In the same order.
    directories: Vec<Arc<LogDir>>,
}

impl LogDirs {
    /// Locks the directories and reads whose they are.
    pub fn open(config: &BrokerConfig) -> Result<Self, LogDirsError> {
        let disks = config.log_dirs.iter().map(|path| (RealEnv, path.clone()));
        let opened = ottla_storage::LogDirs::open(disks, boot_id())?;
        opened.all().iter().for_each(|directory| private_directory::warn_if_open(directory.path()));
        let with_io = |directory: &Arc<ottla_storage::LogDir<RealEnv>>| {
            Ok(Arc::new(LogDir { directory: directory.clone(), io: DirectoryIo::start()?, room: Arc::default() }))
        };
        let directories = opened.all().iter().map(with_io).collect::<std::io::Result<_>>()?;
        Ok(Self { opened, directories })
    }

    pub fn all(&self) -> &[Arc<LogDir>] {
        &self.directories
    }

    /// [`ottla_storage::LogDirs::meta`].
    pub fn meta(&self) -> Result<Option<MetaProperties>, LogDirsError> {
        Ok(self.opened.meta()?)
    }

    /// [`ottla_storage::LogDirs::has_replaced`].
    pub fn has_replaced(&self) -> bool {
        self.opened.has_replaced()
    }

    /// [`ottla_storage::LogDirs::claim`].
    pub fn claim(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        Ok(self.opened.claim(broker, cluster)?)
    }

    /// [`ottla_storage::LogDirs::claim_replaced`].
    pub fn claim_replaced(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        Ok(self.opened.claim_replaced(broker, cluster)?)
    }

    /// Opens every log, with `threads` threads a directory, all directories at the same time; says how the last run
    /// left them. Blocks for as long as recovery takes.
    pub fn open_logs(
        &self,
        threads: usize,
        config: &Arc<LogConfig>,
        progress: &OpeningProgress,
    ) -> Result<(Vec<FoundLog>, LastRun), LogDirsError> {
        let boot_id = self.opened.boot_id();
        let mut left_by = Vec::new();
        let mut found = Vec::new();
        let opened: Vec<Result<_, DirectoryError>> = std::thread::scope(|scope| {
            let running: Vec<_> = self
                .directories
                .iter()
                .filter(|directory| !directory.is_missing())
                .map(|directory| scope.spawn(move || open_directory(directory, threads, config, boot_id, progress)))
                .collect();
            running
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(opened) => opened,
                    Err(_) => {
                        let error = std::io::Error::other("a thread that opened logs ended by a panic");
                        Err(DirectoryError::Io { path: PathBuf::new(), error })
                    }
                })
                .collect()
        });
        let mut opened = opened.into_iter();
        self.opened.each_usable(|_| match opened.next() {
            Some(Ok((logs, directory_left_by))) => {
                found.extend(logs);
                left_by.push(directory_left_by);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        })?;
        Ok((found, self.opened.last_run(left_by)))
    }

    /// [`ottla_storage::LogDirs::remember_registration`].
    pub fn remember_registration(&self, broker_epoch: BrokerEpoch) {
        self.opened.remember_registration(broker_epoch);
    }

    /// [`ottla_storage::LogDirs::distrust_registration`].
    pub fn distrust_registration(&self) {
        self.opened.distrust_registration();
    }

    /// [`Shutdown::end`].
    pub fn end(&self, shutdown: Shutdown) -> Result<(), LogDirsError> {
        Ok(shutdown.end(&self.opened)?)
    }

    /// Where a new partition's log goes.
    pub fn least_used(&self, cordoned: &CordonedLogDirs) -> Option<&Arc<LogDir>> {
        self.directories.get(least_used(&self.opened, |directory| cordoned.contain(directory.path()))?)
    }

    /// Why a replica may have no log here when the image is loaded.
    pub fn absent_log(&self) -> AbsentLog {
        AbsentLog::of(&self.opened)
    }

    /// The directory of this path.
    pub fn find(&self, path: &Path) -> Option<&Arc<LogDir>> {
        self.directories.get(self.opened.find(path)?.number())
    }

    /// A directory that could not be opened at the start, if there is one.
    pub fn missing(&self) -> Option<&Arc<LogDir>> {
        self.directories.get(self.opened.missing()?.number())
    }

    /// Whether no directory works.
    pub fn all_failed(&self) -> bool {
        self.opened.all_failed()
    }
}

/// The same for every process until the machine starts anew.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
