//! The log directories of this broker: found, locked and opened at the start, checkpointed while it runs, closed at the end.
//!
//! - [`checkpoints`]: the offsets that are kept beside the logs;
//! - [`opening`]: the start.

pub mod checkpoints;
pub mod opening;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_config::BrokerConfig;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, Offset, TopicId, TopicPartition};
use ottla_storage::checkpoint::meta_properties::MetaProperties;
use ottla_storage::checkpoint::registration::Registration;
use ottla_storage::{CheckpointKind, DirectoryError, LogConfig, LogDirectory, RealEnv};
use parking_lot::{Mutex, RwLock};

use crate::log_io::{DirectoryHealth, DirectoryIo, Urgency};
use crate::partition::Log;
use checkpoints::{Checkpoints, Collected};
use opening::{LeftBy, OpeningProgress, open_directory};

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
    io: DirectoryIo,
    storage: RwLock<LogDirectory<RealEnv>>,
    checkpoints: Checkpoints,
    /// The partitions that were placed here.
    partitions: AtomicUsize,
}

/// A log that was there at the start.
pub struct FoundLog {
    pub partition: TopicPartition,
    /// None in what Kafka wrote before 2.8.
    pub topic_id: Option<TopicId>,
    pub directory: Arc<LogDir>,
    /// None if it cannot be opened: it is not served.
    pub log: Option<Box<Log>>,
    /// It cannot be opened because of what is in it: damaged records, or the id of its topic is lost.
    pub is_damaged: bool,
    pub high_watermark: Offset,
}

impl LogDir {
    pub fn path(&self) -> &PathBuf {
        self.io.path()
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

    pub fn partition_path(&self, partition: &TopicPartition) -> PathBuf {
        self.storage.read().partition_path(partition)
    }

    /// Renames partitions' directories, to be removed later, and forgets their offsets: their names are free. Gives the new
    /// path of each that could be renamed. Waits for the disk, once for all.
    pub fn mark_deleted(&self, partitions: &[TopicPartition]) -> Result<Vec<PathBuf>, DirectoryError> {
        let storage = self.storage.read();
        let mut renamed = Vec::with_capacity(partitions.len());
        for partition in partitions {
            match storage.mark_deleted(partition, unique()) {
                Ok(path) => renamed.push(path),
                Err(error) => tracing::warn!(%partition, %error, "a deleted partition is not set aside"),
            }
        }
        storage.sync()?;
        self.checkpoints.forget(&storage, partitions.iter())?;
        Ok(renamed)
    }

    /// Renames the directory of a partition that the cluster does not have; it is kept. Waits for the disk.
    pub fn mark_stray(&self, partition: &TopicPartition) -> Result<(), DirectoryError> {
        let storage = self.storage.read();
        storage.mark_stray(partition, unique())?;
        storage.sync()?;
        self.checkpoints.forget(&storage, std::iter::once(partition))
    }

    /// Removes what was marked as deleted. Waits for the disk.
    pub fn remove(&self, path: &std::path::Path) -> Result<(), DirectoryError> {
        self.storage.read().remove(path)
    }

    /// Replaces a checkpoint by what `collect` finds, unless it says that already. Waits for the disk.
    pub fn write_checkpoint(
        &self,
        kind: CheckpointKind,
        collect: impl Fn() -> Collected,
    ) -> Result<(), DirectoryError> {
        self.checkpoints.write(kind, &self.storage.read(), collect)
    }

    /// A log was cut: see [`Checkpoints::log_was_cut`].
    pub fn log_was_cut(&self, partition: &TopicPartition, to: Offset) -> Result<(), DirectoryError> {
        self.checkpoints.log_was_cut(&self.storage.read(), partition, to)
    }

    /// How far a log has been cleaned; none if it never was.
    pub fn clean_offset(&self, partition: &TopicPartition) -> Option<Offset> {
        self.checkpoints.find(CheckpointKind::Cleaner, partition)
    }

    /// Says how far a log has been cleaned. Waits for the disk.
    pub fn set_clean_offset(&self, partition: &TopicPartition, offset: Offset) -> Result<(), DirectoryError> {
        self.checkpoints.set(CheckpointKind::Cleaner, &self.storage.read(), partition, offset)
    }

    pub fn write_clean_shutdown(&self, epoch: BrokerEpoch) -> Result<(), DirectoryError> {
        self.storage.read().write_clean_shutdown(epoch)
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

/// How the last run left the logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastRun {
    /// Everywhere.
    pub closed: bool,
    /// The epoch up to which nothing is lost in any directory; [`BrokerEpoch::NONE`] where nobody can tell.
    pub whole_since: BrokerEpoch,
}

impl Default for LastRun {
    fn default() -> Self {
        Self { closed: false, whole_since: BrokerEpoch::NONE }
    }
}

impl LastRun {
    /// One directory that is new, or tells of another run, makes the whole unclean.
    fn of(directories: &[LeftBy]) -> Self {
        let whole_since = match directories.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other.whole_since == first.whole_since) => first.whole_since,
            _ => None,
        };
        Self {
            closed: directories.iter().all(|directory| directory.closed),
            whole_since: whole_since.unwrap_or(BrokerEpoch::NONE),
        }
    }
}

impl LogDirs {
    /// Locks the directories and reads whose they are.
    pub fn open(config: &BrokerConfig) -> Result<Self, LogDirsError> {
        let mut directories = Vec::new();
        for path in &config.log_dirs {
            let storage = LogDirectory::open(RealEnv, path.clone())?;
            directories.push(Arc::new(LogDir {
                io: DirectoryIo::start(path.clone())?,
                storage: RwLock::new(storage),
                checkpoints: Checkpoints::default(),
                partitions: AtomicUsize::new(0),
            }));
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
            let (Some(meta), path) = (storage.meta(), directory.path().clone()) else { continue };
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

    /// Makes all directories this broker's in this cluster.
    pub fn claim(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        for directory in &self.directories {
            directory.storage.write().claim(broker, cluster)?;
        }
        Ok(())
    }

    /// Opens every log, with `threads` threads a directory, all directories at the same time; says how the last run left them.
    /// Blocks for as long as recovery takes.
    pub fn open_logs(
        &self,
        threads: usize,
        config: &Arc<LogConfig>,
        progress: &OpeningProgress,
    ) -> Result<(Vec<FoundLog>, LastRun), LogDirsError> {
        let boot_id = self.boot_id.as_deref();
        let mut left_by = Vec::new();
        let mut found = Vec::new();
        let opened: Vec<Result<_, LogDirsError>> = std::thread::scope(|scope| {
            let running: Vec<_> = self
                .directories
                .iter()
                .map(|directory| scope.spawn(move || open_directory(directory, threads, config, boot_id, progress)))
                .collect();
            running
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(opened) => opened,
                    Err(_) => Err(std::io::Error::other("a thread that opened logs ended by a panic").into()),
                })
                .collect()
        });
        for opened in opened {
            let (logs, directory_left_by) = opened?;
            found.extend(logs);
            left_by.push(directory_left_by);
        }
        Ok((found, LastRun::of(&left_by)))
    }

    /// Writes down a registration of this broker: should the process be killed, the next one can say that nothing is lost. Best
    /// effort: without it the next one says that it does not know. Waits for the disk.
    pub fn remember_registration(&self, broker_epoch: BrokerEpoch) {
        let Some(boot_id) = self.boot_id.clone() else { return };
        let mut remembered = self.remembered.lock();
        if remembered.distrusted || remembered.epoch.is_some_and(|epoch| epoch >= broker_epoch) {
            return;
        }
        remembered.epoch = Some(broker_epoch);
        let registration = Registration { boot_id, broker_epoch };
        for directory in &self.directories {
            if let Err(error) = directory.storage.read().write_registration(&registration) {
                tracing::warn!(%error, "this registration is not remembered: a kill will look like a loss of power");
                return;
            }
        }
    }

    /// A disk has failed: pages that were never written may be gone from the cache, and the next process must not call its logs
    /// whole. One directory that does not say so is enough. Waits for the disk.
    pub fn distrust_registration(&self) {
        let mut remembered = self.remembered.lock();
        if std::mem::replace(&mut remembered.distrusted, true) {
            return;
        }
        let (failed, working): (Vec<_>, Vec<_>) =
            self.directories.iter().partition(|directory| directory.health().is_failed());
        for directory in working.into_iter().chain(failed) {
            if let Err(error) = directory.storage.read().forget_registration() {
                tracing::warn!(%error, "a failed disk's directory still says that the broker registered in this boot");
            }
        }
    }

    /// Where a new partition goes: the directory that works and holds the fewest.
    pub fn least_used(&self) -> Option<&Arc<LogDir>> {
        let working = self.directories.iter().filter(|directory| !directory.health().is_failed());
        working.min_by_key(|directory| directory.partitions.load(Ordering::Relaxed))
    }
}

/// The same for every process until the machine starts anew.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
