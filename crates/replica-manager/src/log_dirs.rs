//! The log directories of this broker: found, locked and opened at the start, checkpointed while it runs, closed at the
//! end.
//!
//! - [`opening`]: the start.

pub mod opening;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_config::BrokerConfig;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, Offset, TopicId, TopicPartition};
use ottla_partition::{DirectoryUse, LogPlace, NotOpened, directory_for_new_log};
use ottla_storage::checkpoint::meta_properties::MetaProperties;
use ottla_storage::checkpoint::registration::Registration;
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::{
    CheckpointKind, Checkpoints, Collected, DirectoryError, LastRun, LeftBy, LogConfig, LogDirectory,
    PartitionDirectory, RealEnv,
};
use parking_lot::{Mutex, RwLock};

use crate::clock;
use crate::log_io::{DirectoryHealth, DirectoryIo, Urgency};

use opening::{OpeningProgress, open_directory};

/// The log of a replica, on a disk.
pub type Log = ottla_storage::Log<RealEnv>;

/// Why the log directories cannot be used; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    #[error("log.dirs: {0}")]
    Directory(#[from] DirectoryError),
    #[error("log.dirs: {path} belongs to broker {found}, other directories to {expected}")]
    SeveralBrokers { path: PathBuf, found: BrokerId, expected: BrokerId },
    #[error("log.dirs: {path} belongs to another cluster than the other directories")]
    SeveralClusters { path: PathBuf },
    #[error("the I/O threads do not start: {0}")]
    Threads(#[from] std::io::Error),
}

/// One log directory and its threads.
pub struct LogDir {
    /// Its place among the directories.
    number: usize,
    io: DirectoryIo,
    /// None: it could not be opened at the start.
    storage: RwLock<Option<LogDirectory<RealEnv>>>,
    checkpoints: Checkpoints,
    /// The partitions that were placed here.
    partitions: AtomicUsize,
}

/// A log that was there at the start.
pub type FoundLog = ottla_partition::FoundLog<RealEnv, Arc<LogDir>>;

impl LogDir {
    pub fn path(&self) -> &PathBuf {
        self.io.path()
    }

    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether it gets no new logs. `cordoned`: paths, or `*` for all.
    pub fn is_cordoned(&self, cordoned: &[String]) -> bool {
        cordoned.iter().any(|name| name == "*" || self.path().as_os_str() == name.as_str())
    }

    pub fn health(&self) -> &Arc<DirectoryHealth> {
        self.io.health()
    }

    pub fn run(&self, urgency: Urgency, job: impl FnOnce() + Send + 'static) {
        self.io.run(urgency, job);
    }

    /// Whether nothing waits for the urgent thread.
    pub fn is_idle(&self) -> bool {
        self.io.is_idle(Urgency::Urgent)
    }

    /// A partition is placed here.
    pub fn place(&self) {
        self.partitions.fetch_add(1, Ordering::Relaxed);
    }

    /// A partition has left.
    pub fn unplace(&self) {
        self.partitions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Finishes what was queued and ends the threads.
    pub fn stop_io(&self) {
        self.io.stop();
    }

    fn with_storage<T>(
        &self,
        use_it: impl FnOnce(&LogDirectory<RealEnv>) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        match &*self.storage.read() {
            Some(storage) => use_it(storage),
            None => {
                let error = std::io::Error::other("it could not be opened at the start");
                Err(DirectoryError::Io { path: self.path().clone(), error })
            }
        }
    }

    /// Takes the directory out of use at the start, where others remain.
    fn fail_at_start(&self, error: &dyn std::fmt::Display) {
        self.health().fail();
        *self.storage.write() = None;
        tracing::error!(directory = %self.path().display(), %error, "the log directory is not usable: going on with the others");
    }

    /// Whether it could not be opened at the start: what it holds is not known.
    pub fn is_missing(&self) -> bool {
        self.storage.read().is_none()
    }

    /// All bytes of its file system and those that are left.
    pub fn space(&self) -> std::io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(self.path().as_path())?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok((bytes(stat.f_blocks), bytes(stat.f_bavail)))
    }

    /// Opens the log that was found, or creates a new one ([`LogPlace::open`]). Waits for the disk.
    pub fn open_log(
        &self,
        partition: TopicPartition,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        found: Option<Box<Log>>,
    ) -> Result<Box<Log>, NotOpened<RealEnv>> {
        match &*self.storage.read() {
            Some(directory) => {
                let place = LogPlace { directory, checkpoints: &self.checkpoints, partition, topic_id, config };
                place.open(found, clock::wall())
            }
            None => Err(NotOpened { error: std::io::Error::other("it could not be opened at the start"), found }),
        }
    }

    /// What the start found of a log.
    pub fn partition_directory(&self, found: &FoundLog) -> PartitionDirectory {
        PartitionDirectory {
            path: self.partition_path(&found.partition),
            partition: found.partition.clone(),
            kind: PartitionDirectoryKind::Live,
            topic_id: found.topic_id,
        }
    }

    pub fn partition_path(&self, partition: &TopicPartition) -> PathBuf {
        self.path().join(partition.to_string())
    }

    /// Renames partitions' directories, to be removed later, and forgets their offsets: their names are free. Gives the
    /// new path of each that could be renamed. Waits for the disk, once for all.
    pub fn mark_deleted(&self, partitions: &[TopicPartition]) -> Result<Vec<PathBuf>, DirectoryError> {
        self.with_storage(|storage| {
            let mut renamed = Vec::with_capacity(partitions.len());
            for partition in partitions {
                match storage.mark_deleted(partition, unique()) {
                    Ok(path) => renamed.push(path),
                    Err(error) => tracing::warn!(%partition, %error, "a deleted partition is not set aside"),
                }
            }
            storage.sync()?;
            self.checkpoints.forget(storage, partitions.iter())?;
            Ok(renamed)
        })
    }

    /// Renames the directory of a partition that the cluster does not have; it is kept. Waits for the disk.
    pub fn mark_stray(&self, partition: &TopicPartition) -> Result<(), DirectoryError> {
        self.with_storage(|storage| {
            storage.mark_stray(partition, unique())?;
            storage.sync()?;
            self.checkpoints.forget(storage, std::iter::once(partition))
        })
    }

    /// Where a move to this directory gathers its copy.
    pub fn future_path(&self, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.with_storage(|storage| Ok(storage.future_path(partition, unique())))
    }

    /// Gives a finished copy the partition's name. Waits for the disk.
    pub fn make_live(&self, future: &std::path::Path, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.with_storage(|storage| storage.make_live(future, partition))
    }

    /// Removes what was marked as deleted. Waits for the disk.
    pub fn remove(&self, path: &std::path::Path) -> Result<(), DirectoryError> {
        self.with_storage(|storage| storage.remove(path))
    }

    /// Replaces a checkpoint by what `collect` finds, unless it says that already. Waits for the disk.
    pub fn write_checkpoint(
        &self,
        kind: CheckpointKind,
        collect: impl Fn() -> Collected,
    ) -> Result<(), DirectoryError> {
        self.with_storage(|storage| self.checkpoints.write(kind, storage, collect))
    }

    /// A log was cut: see [`Checkpoints::log_was_cut`].
    pub fn log_was_cut(&self, partition: &TopicPartition, to: Offset) -> Result<(), DirectoryError> {
        self.with_storage(|storage| self.checkpoints.log_was_cut(storage, partition, to))
    }

    /// How far a log has been cleaned; none if it never was.
    pub fn clean_offset(&self, partition: &TopicPartition) -> Option<Offset> {
        self.checkpoints.find(CheckpointKind::Cleaner, partition)
    }

    /// Says how far a log has been cleaned. Waits for the disk.
    pub fn set_clean_offset(&self, partition: &TopicPartition, offset: Offset) -> Result<(), DirectoryError> {
        self.with_storage(|storage| self.checkpoints.set(CheckpointKind::Cleaner, storage, partition, offset))
    }

    pub fn write_clean_shutdown(&self, epoch: BrokerEpoch) -> Result<(), DirectoryError> {
        self.with_storage(|storage| storage.write_clean_shutdown(epoch))
    }
}

fn unique() -> [u8; 16] {
    *uuid::Uuid::new_v4().as_bytes()
}

/// All of them.
pub struct LogDirs {
    directories: Vec<Arc<LogDir>>,
    /// What the kernel calls this boot of the machine; none where it does not say.
    boot_id: Option<String>,
    remembered: Mutex<Remembered>,
}

/// What the directories say of this broker's registrations.
#[derive(Default)]
struct Remembered {
    epoch: Option<BrokerEpoch>,
    /// A disk has failed: what was written may be lost though the machine runs on.
    distrusted: bool,
}

impl LogDirs {
    /// Locks the directories and reads whose they are.
    pub fn open(config: &BrokerConfig) -> Result<Self, LogDirsError> {
        let mut directories = Vec::new();
        let mut refused = Vec::new();
        for path in &config.log_dirs {
            let storage = match LogDirectory::open(RealEnv, path.clone()) {
                Ok(storage) => Some(storage),
                // One of several failed: the start continues. A directory of another broker is an error of the
                // configuration, not a failed disk.
                Err(error) if error.io().is_some() => {
                    refused.push((directories.len(), error));
                    None
                }
                Err(error) => return Err(error.into()),
            };
            directories.push(Arc::new(LogDir {
                number: directories.len(),
                io: DirectoryIo::start(path.clone(), config.log_dirs.len() > 1)?,
                storage: RwLock::new(storage),
                checkpoints: Checkpoints::default(),
                partitions: AtomicUsize::new(0),
            }));
        }
        if refused.len() == directories.len()
            && let Some((_, error)) = refused.pop()
        {
            return Err(error.into());
        }
        for (at, error) in &refused {
            if let Some(directory) = directories.get(*at) {
                directory.fail_at_start(error);
            }
        }
        let dirs = Self { directories, boot_id: boot_id(), remembered: Mutex::default() };
        dirs.meta()?;
        Ok(dirs)
    }

    pub fn all(&self) -> &[Arc<LogDir>] {
        &self.directories
    }

    /// Whose the directories are; none if all of them are new.
    pub fn meta(&self) -> Result<Option<MetaProperties>, LogDirsError> {
        let mut first: Option<MetaProperties> = None;
        for directory in &self.directories {
            let storage = directory.storage.read();
            let meta = storage.as_ref().and_then(LogDirectory::meta);
            let (Some(meta), path) = (meta, directory.path().clone()) else { continue };
            match &first {
                None => first = Some(meta.clone()),
                Some(first) if first.broker_id != meta.broker_id => {
                    return Err(LogDirsError::SeveralBrokers {
                        path,
                        found: meta.broker_id,
                        expected: first.broker_id,
                    });
                }
                Some(first) if first.cluster_id != meta.cluster_id => {
                    return Err(LogDirsError::SeveralClusters { path });
                }
                Some(_) => {}
            }
        }
        Ok(first)
    }

    /// Whether a directory is new while others are not: logs may have been lost with its predecessor.
    pub fn has_replaced(&self) -> bool {
        let is_claimed = |directory: &Arc<LogDir>| {
            let storage = directory.storage.read();
            storage.as_ref().map(|storage| storage.meta().is_some())
        };
        ottla_storage::has_replaced(self.directories.iter().filter_map(is_claimed))
    }

    /// Makes all directories this broker's in this cluster, but for replaced ones: while those are not claimed, every
    /// start finds that they are new ([`Self::claim_replaced`]).
    pub fn claim(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        if self.has_replaced() { Ok(()) } else { self.claim_replaced(broker, cluster) }
    }

    /// The quorum knows what was lost with the predecessors of replaced directories: all are this broker's now.
    pub fn claim_replaced(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        self.each_usable(|directory| match &mut *directory.storage.write() {
            Some(storage) => storage.claim(broker, cluster),
            None => Ok(()),
        })
    }

    /// Opens every log, with `threads` threads a directory, all directories at the same time; says how the last run
    /// left them. Blocks for as long as recovery takes.
    pub fn open_logs(
        &self,
        threads: usize,
        config: &Arc<LogConfig>,
        progress: &OpeningProgress,
    ) -> Result<(Vec<FoundLog>, LastRun), LogDirsError> {
        let boot_id = self.boot_id.as_deref();
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
        self.each_usable(|_| match opened.next() {
            Some(Ok((logs, directory_left_by))) => {
                found.extend(logs);
                left_by.push(directory_left_by);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        })?;
        // Nobody knows how the last run left what cannot be read.
        left_by.resize(self.directories.len(), LeftBy::UNKNOWN);
        Ok((found, LastRun::of(&left_by)))
    }

    /// Writes down a registration of this broker: should the process be killed, the next one can say that nothing is
    /// lost. Best effort: without it the next one says that it does not know. Waits for the disk.
    pub fn remember_registration(&self, broker_epoch: BrokerEpoch) {
        let Some(boot_id) = self.boot_id.clone() else { return };
        let mut remembered = self.remembered.lock();
        if remembered.distrusted || remembered.epoch.is_some_and(|epoch| epoch >= broker_epoch) {
            return;
        }
        remembered.epoch = Some(broker_epoch);
        let registration = Registration { boot_id, broker_epoch };
        for directory in &self.directories {
            let written = directory.with_storage(|storage| storage.write_registration(&registration));
            if let Err(error) = written
                && !directory.is_missing()
            {
                tracing::warn!(%error, "this registration is not remembered: a kill will look like a loss of power");
                return;
            }
        }
    }

    /// A disk has failed: pages that were never written may be gone from the cache, and the next process must not call
    /// its logs whole. One directory that does not say so is enough. Waits for the disk.
    pub fn distrust_registration(&self) {
        let mut remembered = self.remembered.lock();
        if std::mem::replace(&mut remembered.distrusted, true) {
            return;
        }
        let (failed, working): (Vec<_>, Vec<_>) =
            self.directories.iter().partition(|directory| directory.health().is_failed());
        for directory in working.into_iter().chain(failed) {
            if let Err(error) = directory.with_storage(|storage| storage.forget_registration()) {
                tracing::warn!(%error, "a failed disk's directory still says that the broker registered in this boot");
            }
        }
    }

    /// Where a new partition's log goes. `cordoned`: see [`LogDir::is_cordoned`].
    pub fn least_used(&self, cordoned: &[String]) -> Option<&Arc<LogDir>> {
        let uses = self.directories.iter().map(|directory| DirectoryUse {
            is_failed: directory.health().is_failed(),
            is_full: directory.health().is_full(),
            is_cordoned: directory.is_cordoned(cordoned),
            partitions: directory.partitions.load(Ordering::Relaxed),
        });
        self.directories.get(directory_for_new_log(uses)?)
    }

    /// The directory of this path.
    pub fn find(&self, path: &std::path::Path) -> Option<&Arc<LogDir>> {
        self.directories.iter().find(|directory| directory.path() == path)
    }

    /// A directory that could not be opened at the start, if there is one.
    pub fn missing(&self) -> Option<&Arc<LogDir>> {
        self.directories.iter().find(|directory| directory.is_missing())
    }

    /// Whether none is left that works.
    pub fn all_failed(&self) -> bool {
        self.directories.iter().all(|directory| directory.health().is_failed())
    }

    /// Does something at the start with each directory. One whose disk refuses is given up, unless it is the last.
    fn each_usable(&self, mut with: impl FnMut(&LogDir) -> Result<(), DirectoryError>) -> Result<(), LogDirsError> {
        let usable: Vec<_> = self.directories.iter().filter(|directory| !directory.is_missing()).collect();
        for directory in usable {
            match with(directory) {
                Ok(()) => {}
                Err(error) if error.io().is_some() => {
                    directory.fail_at_start(&error);
                    if self.all_failed() {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The same for every process until the machine starts anew.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
