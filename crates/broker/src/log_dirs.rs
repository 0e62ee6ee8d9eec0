//! The log directories of this broker: found, locked and opened at the start, checkpointed while it runs, closed at the end.
//!
//! Invariant: a partition's recovery point on disk is never above what a truncation has left (see
//! [`LogDir::lower_recovery_point`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_config::BrokerConfig;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, Offset, TopicId, TopicPartition};
use ottla_storage::checkpoint::meta_properties::MetaProperties;
use ottla_storage::checkpoint::offsets::Offsets;
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::{
    CheckpointKind, DirectoryError, LogConfig, LogDirectory, OpenError, OpenOptions, PartitionDirectory, RealEnv,
};
use parking_lot::{Mutex, RwLock};

use crate::clock;
use crate::log_io::{DirectoryHealth, DirectoryIo, Urgency};
use crate::partition::Log;

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
    recovery_points: Mutex<RecoveryPoints>,
    /// The partitions that were placed here.
    partitions: AtomicUsize,
}

#[derive(Default)]
struct RecoveryPoints {
    /// What `recovery-point-offset-checkpoint` says.
    on_disk: Offsets,
    /// Counts the points that fell: what was collected before one did must not be written after it.
    falls: u64,
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

    /// Renames a partition's directory, to be removed later. Waits for the disk.
    pub fn mark_deleted(&self, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.storage.read().mark_deleted(partition, unique())
    }

    /// Renames the directory of a partition that the cluster does not have; it is kept. Waits for the disk.
    pub fn mark_stray(&self, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.storage.read().mark_stray(partition, unique())
    }

    /// Removes what was marked as deleted. Waits for the disk.
    pub fn remove(&self, path: &std::path::Path) -> Result<(), DirectoryError> {
        self.storage.read().remove(path)
    }

    /// Replaces the checkpoint of high watermarks or of log starts. Waits for the disk.
    pub fn write_checkpoint(&self, kind: CheckpointKind, offsets: &Offsets) -> Result<(), DirectoryError> {
        let entries = offsets.iter().map(|(partition, offset)| (partition, *offset));
        self.storage.read().write_checkpoint(kind, entries)
    }

    /// Replaces the checkpoint of recovery points by what `collect` finds, unless it says that already. Waits for the disk.
    pub fn write_recovery_points(&self, collect: impl Fn() -> Offsets) -> Result<(), DirectoryError> {
        loop {
            let falls = self.recovery_points.lock().falls;
            // Without the lock: a partition that is being cut holds its own, and wants this one.
            let offsets = collect();
            let mut known = self.recovery_points.lock();
            if known.falls != falls {
                continue;
            }
            if known.on_disk != offsets {
                let entries = offsets.iter().map(|(partition, offset)| (partition, *offset));
                self.storage.read().write_checkpoint(CheckpointKind::RecoveryPoint, entries)?;
                known.on_disk = offsets;
            }
            return Ok(());
        }
    }

    /// A log was cut: a recovery point above its new end must not be believed after a loss of power, once other records have
    /// been written in the place of those that went. Rare: only what was synced can have such a point.
    pub fn lower_recovery_point(&self, partition: &TopicPartition, to: Offset) -> Result<(), DirectoryError> {
        let mut known = self.recovery_points.lock();
        known.falls += 1;
        match known.on_disk.get_mut(partition) {
            Some(point) if *point > to => *point = to,
            _ => return Ok(()),
        }
        let entries = known.on_disk.iter().map(|(partition, offset)| (partition, *offset));
        self.storage.read().write_checkpoint(CheckpointKind::RecoveryPoint, entries)
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
                recovery_points: Mutex::default(),
                partitions: AtomicUsize::new(0),
            }));
        }
        let dirs = Self { directories };
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

    /// Opens every log, with `threads` threads a directory; gives the epoch of the last run if it ended cleanly everywhere.
    /// Removes what an earlier run had marked as deleted. Blocks for as long as recovery takes.
    pub fn open_logs(
        &self,
        threads: usize,
        config: &Arc<LogConfig>,
    ) -> Result<(Vec<FoundLog>, BrokerEpoch), LogDirsError> {
        let mut clean: Vec<Option<BrokerEpoch>> = Vec::new();
        let mut found = Vec::new();
        let opened: Vec<Result<_, LogDirsError>> = std::thread::scope(|scope| {
            let running: Vec<_> = self
                .directories
                .iter()
                .map(|directory| scope.spawn(move || open_directory(directory, threads, config)))
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
            let (logs, epoch) = opened?;
            found.extend(logs);
            clean.push(epoch);
        }
        // One directory that is new, or was not closed, makes the whole unclean.
        let epoch = match clean.split_first() {
            Some((Some(first), rest)) if rest.iter().all(|other| *other == Some(*first)) => *first,
            _ => BrokerEpoch::NONE,
        };
        Ok((found, epoch))
    }

    /// Where a new partition goes: the directory that works and holds the fewest.
    pub fn least_used(&self) -> Option<&Arc<LogDir>> {
        let working = self.directories.iter().filter(|directory| !directory.health().is_failed());
        working.min_by_key(|directory| directory.partitions.load(Ordering::Relaxed))
    }
}

fn open_directory(
    directory: &Arc<LogDir>,
    threads: usize,
    config: &Arc<LogConfig>,
) -> Result<(Vec<FoundLog>, Option<BrokerEpoch>), LogDirsError> {
    let storage = directory.storage.read();
    let clean = storage.take_clean_shutdown()?;
    let read = |kind| match storage.read_checkpoint(kind) {
        Ok(offsets) => offsets,
        Err(error) => {
            tracing::warn!(%error, "a checkpoint is not readable: going on without it");
            Offsets::new()
        }
    };
    let high_watermarks = read(CheckpointKind::HighWatermark);
    let recovery_points = read(CheckpointKind::RecoveryPoint);
    let log_starts = read(CheckpointKind::LogStart);
    let mut live = Vec::new();
    for partition in storage.partitions()? {
        match partition.kind {
            PartitionDirectoryKind::Live => live.push(partition),
            PartitionDirectoryKind::Deleted => {
                let (owner, path) = (directory.clone(), partition.path);
                directory.run(Urgency::Background, move || {
                    if let Err(error) = owner.remove(&path) {
                        tracing::warn!(%error, "a deleted partition is not removed");
                    }
                });
            }
            PartitionDirectoryKind::Stray => {
                tracing::warn!(path = %partition.path.display(), "of a topic that the cluster does not have; kept");
            }
            PartitionDirectoryKind::Future => {}
        }
    }
    let offset = |offsets: &Offsets, partition: &TopicPartition| offsets.get(partition).copied().unwrap_or_default();
    let open = |found: &PartitionDirectory| {
        let options = OpenOptions {
            clean_shutdown: clean.is_some(),
            recovery_point: offset(&recovery_points, &found.partition),
            log_start: offset(&log_starts, &found.partition),
            high_watermark: offset(&high_watermarks, &found.partition),
            now: clock::wall(),
            progress: None,
        };
        let opened = Log::open(RealEnv, found.path.clone(), found.partition.clone(), config.clone(), options);
        let (log, high_watermark, is_damaged) = match opened {
            Ok(opened) => (Some(Box::new(opened.log)), opened.high_watermark, false),
            Err(error) => {
                tracing::error!(%error, "a log is not opened");
                let is_damaged = matches!(error, OpenError::CorruptMiddle { .. } | OpenError::UnknownTopic { .. });
                (None, Offset::ZERO, is_damaged)
            }
        };
        FoundLog {
            partition: found.partition.clone(),
            topic_id: found.topic_id,
            directory: directory.clone(),
            log,
            is_damaged,
            high_watermark,
        }
    };
    let per_thread = live.len().div_ceil(threads.max(1)).max(1);
    let logs = std::thread::scope(|scope| {
        let running: Vec<_> =
            live.chunks(per_thread).map(|chunk| scope.spawn(|| chunk.iter().map(open).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    drop(storage);
    directory.recovery_points.lock().on_disk = recovery_points;
    if logs.len() < live.len() {
        return Err(std::io::Error::other("a thread that opened logs ended by a panic").into());
    }
    Ok((logs, clean))
}
