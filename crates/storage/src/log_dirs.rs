//! The log directories of a broker (`log.dirs`): which of them can be used, whose they are, and what they say of this
//! broker's registrations. The service and the simulation run the same code; threads and the order of calls are theirs.
//!
//! Invariants:
//! - a directory whose disk refuses at the start is given up, unless it is the last one. A directory of another broker
//!   or cluster is an error of the configuration, and ends the start;
//! - a replaced directory is not claimed before the quorum knows what was lost with its predecessor
//!   ([`LogDirs::claim`]): until then every start finds that it is new;
//! - after a disk failed, no directory says that this broker registered in this boot
//!   ([`LogDirs::distrust_registration`]): pages that were never written may be gone from the cache.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ottla_model::{BrokerEpoch, BrokerId, ClusterId, Offset, TopicPartition};
use parking_lot::{Mutex, RecursiveRwLock};

use crate::checkpoint::meta_properties::MetaProperties;
use crate::checkpoint::registration::Registration;
use crate::directory::{CheckpointKind, DirectoryError, LogDirectory, PartitionDirectory, PartitionDirectoryKind};
use crate::directory_health::DirectoryHealth;
use crate::env::Env;
use crate::kept_offsets::{BeingWritten, Checkpoints, Collected, LogCut};
use crate::last_run::{LastRun, LeftBy, has_replaced};
use crate::rules::BrokenRules;

/// Why the log directories cannot be used; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    #[error("log.dirs: {0}")]
    Directory(#[from] DirectoryError),
    #[error("log.dirs: {path} belongs to broker {found}, other directories to {expected}")]
    SeveralBrokers { path: PathBuf, found: BrokerId, expected: BrokerId },
    #[error("log.dirs: {path} belongs to another cluster than the other directories")]
    SeveralClusters { path: PathBuf },
}

/// One entry of `log.dirs`.
pub struct LogDir<E: Env> {
    number: usize,
    env: E,
    path: PathBuf,
    /// None: it could not be opened at the start. Readers do not wait for a writer that waits: a checkpoint reads while
    /// it waits for replicas, and whoever has a replica locked may read here.
    storage: RecursiveRwLock<Option<LogDirectory<E>>>,
    checkpoints: Checkpoints,
    health: Arc<DirectoryHealth>,
    /// The partitions that were placed here.
    partitions: AtomicUsize,
}

/// What a directory holds at the start.
pub struct DirectoryContent {
    pub left_by: LeftBy,
    /// Logs to open.
    pub live: Vec<PartitionDirectory>,
    /// Partitions that an earlier run had marked as deleted, and moves that were cut off: to be removed.
    pub leftovers: Vec<PathBuf>,
    /// Directories of partitions that the cluster does not have: kept.
    pub strays: Vec<PathBuf>,
}

impl<E: Env> LogDir<E> {
    /// Its place among the directories.
    pub fn number(&self) -> usize {
        self.number
    }

    pub fn env(&self) -> &E {
        &self.env
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    pub fn health(&self) -> &Arc<DirectoryHealth> {
        &self.health
    }

    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// A partition is placed here.
    pub fn place(&self) {
        self.partitions.fetch_add(1, Ordering::Relaxed);
    }

    /// A partition has left.
    pub fn unplace(&self) {
        self.partitions.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of partitions that were placed here.
    pub fn placed(&self) -> usize {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Whether it could not be opened at the start: its content is unknown.
    pub fn is_missing(&self) -> bool {
        self.storage.read().is_none()
    }

    /// The opened directory; none if it could not be opened at the start.
    pub fn opened(&self) -> impl std::ops::Deref<Target = Option<LogDirectory<E>>> + '_ {
        self.storage.read()
    }

    /// Uses the opened directory.
    ///
    /// # Errors
    /// Also if it could not be opened at the start.
    pub fn with_storage<T>(
        &self,
        use_it: impl FnOnce(&LogDirectory<E>) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        match &*self.storage.read() {
            Some(storage) => use_it(storage),
            None => {
                let error = std::io::Error::other("it could not be opened at the start");
                Err(DirectoryError::Io { path: self.path.clone(), error })
            }
        }
    }

    /// Takes the directory out of use at the start, where others remain.
    fn fail_at_start(&self, error: &DirectoryError) {
        self.health.fail();
        *self.storage.write() = None;
        let directory = self.path.display();
        tracing::error!(%directory, %error, "the log directory is not usable: going on with the others");
    }

    /// Reads what the directory holds, and its checkpoints. `boot_id`: see [`LeftBy::of`]. Waits for the disk.
    pub fn content(&self, boot_id: Option<&str>) -> Result<DirectoryContent, DirectoryError> {
        self.with_storage(|storage| {
            let left_by = LeftBy::of(storage, boot_id)?;
            let mut content = DirectoryContent { left_by, live: vec![], leftovers: vec![], strays: vec![] };
            for partition in storage.partitions()? {
                match partition.kind {
                    PartitionDirectoryKind::Live => content.live.push(partition),
                    // A move that was cut off: the log that it was copied from is whole, and the request may be
                    // repeated.
                    PartitionDirectoryKind::Deleted | PartitionDirectoryKind::Future => {
                        content.leftovers.push(partition.path);
                    }
                    PartitionDirectoryKind::Stray => content.strays.push(partition.path),
                }
            }
            // Asked for each line of each checkpoint.
            let names: HashSet<_> = content.live.iter().map(|found| &found.partition).collect();
            self.checkpoints.load(storage, |partition| names.contains(partition))?;
            Ok(content)
        })
    }

    pub fn partition_path(&self, partition: &TopicPartition) -> PathBuf {
        self.path.join(partition.to_string())
    }

    /// Renames partitions' directories, to be removed later, and forgets their offsets: their names are free. Gives the
    /// new path of each that could be renamed. Waits for the disk, once for all.
    pub fn mark_deleted(
        &self,
        partitions: &[TopicPartition],
        mut unique: impl FnMut() -> [u8; 16],
    ) -> Result<Vec<PathBuf>, DirectoryError> {
        self.with_storage(|storage| {
            let mut renamed = Vec::with_capacity(partitions.len());
            for partition in partitions {
                match storage.mark_deleted(partition, unique()) {
                    Ok(path) => renamed.push(path),
                    Err(error) => tracing::warn!(%partition, %error, "a deleted partition is not set aside"),
                }
            }
            let synced = storage.sync();
            // Also if it cannot be synced now: the names are free.
            self.checkpoints.forget(storage, partitions.iter())?;
            synced.map(|()| renamed)
        })
    }

    /// Renames the directory of a partition that the cluster does not have; it is kept. Waits for the disk.
    pub fn mark_stray(&self, partition: &TopicPartition, unique: [u8; 16]) -> Result<(), DirectoryError> {
        self.with_storage(|storage| {
            storage.mark_stray(partition, unique)?;
            let synced = storage.sync();
            self.checkpoints.forget(storage, std::iter::once(partition))?;
            synced
        })
    }

    /// Where a move to this directory gathers its copy.
    pub fn future_path(&self, partition: &TopicPartition, unique: [u8; 16]) -> Result<PathBuf, DirectoryError> {
        self.with_storage(|storage| Ok(storage.future_path(partition, unique)))
    }

    /// Gives a finished copy the partition's name. Waits for the disk.
    pub fn make_live(&self, future: &Path, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.with_storage(|storage| storage.make_live(future, partition))
    }

    /// Removes what was marked as deleted. Waits for the disk.
    pub fn remove(&self, path: &Path) -> Result<(), DirectoryError> {
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
    pub fn log_was_cut(&self, partition: &TopicPartition, cut: LogCut) -> Result<(), DirectoryError> {
        self.with_storage(|storage| self.checkpoints.log_was_cut(storage, partition, cut))
    }

    /// How far a log has been cleaned; none if it never was.
    pub fn clean_offset(&self, partition: &TopicPartition) -> Option<Offset> {
        self.checkpoints.find(CheckpointKind::Cleaner, partition)
    }

    /// As [`Self::clean_offset`]: see [`Checkpoints::find_within`].
    pub fn clean_offset_within(
        &self,
        patience: Duration,
        partition: &TopicPartition,
    ) -> Result<Option<Offset>, BeingWritten> {
        self.checkpoints.find_within(patience, CheckpointKind::Cleaner, partition)
    }

    /// Sets how far a log has been cleaned. Waits for the disk.
    pub fn set_clean_offset(&self, partition: &TopicPartition, offset: Offset) -> Result<(), DirectoryError> {
        self.with_storage(|storage| self.checkpoints.set(CheckpointKind::Cleaner, storage, partition, offset))
    }
}

/// What the directories say of this broker's registrations.
#[derive(Default)]
struct Remembered {
    epoch: Option<BrokerEpoch>,
    /// A disk has failed: what was written may be lost though the machine runs on.
    distrusted: bool,
}

/// All of them.
pub struct LogDirs<E: Env> {
    directories: Vec<Arc<LogDir<E>>>,
    /// The kernel's name of this boot of the machine; none where it does not say.
    boot_id: Option<String>,
    rules: BrokenRules,
    remembered: Mutex<Remembered>,
}

impl<E: Env> LogDirs<E> {
    /// Locks the directories and reads whose they are.
    pub fn open(disks: impl IntoIterator<Item = (E, PathBuf)>, boot_id: Option<String>) -> Result<Self, LogDirsError> {
        Self::open_with(disks, boot_id, BrokenRules::default())
    }

    /// As [`Self::open`], with rules switched off.
    pub fn open_with(
        disks: impl IntoIterator<Item = (E, PathBuf)>,
        boot_id: Option<String>,
        rules: BrokenRules,
    ) -> Result<Self, LogDirsError> {
        let disks: Vec<_> = disks.into_iter().collect();
        let has_siblings = disks.len() > 1;
        let (mut directories, mut refused) = (Vec::new(), Vec::new());
        for (env, path) in disks {
            let number = directories.len();
            let storage = match LogDirectory::open(env.clone(), path.clone()) {
                Ok(storage) => Some(storage),
                Err(error) if error.io().is_some() => {
                    refused.push((number, error));
                    None
                }
                Err(error) => return Err(error.into()),
            };
            directories.push(Arc::new(LogDir {
                number,
                env,
                path,
                storage: RecursiveRwLock::new(storage),
                checkpoints: Checkpoints::default(),
                health: Arc::new(DirectoryHealth::new(has_siblings).with_rules(rules)),
                partitions: AtomicUsize::new(0),
            }));
        }
        if refused.len() == directories.len()
            && let Some((_, error)) = refused.pop()
        {
            return Err(error.into());
        }
        for (number, error) in &refused {
            if let Some(directory) = directories.get(*number) {
                directory.fail_at_start(error);
            }
        }
        let dirs = Self { directories, boot_id, rules, remembered: Mutex::default() };
        dirs.meta()?;
        Ok(dirs)
    }

    pub fn all(&self) -> &[Arc<LogDir<E>>] {
        &self.directories
    }

    pub fn get(&self, number: usize) -> Option<&Arc<LogDir<E>>> {
        self.directories.get(number)
    }

    pub fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// The owner of the directories; none if all of them are new.
    pub fn meta(&self) -> Result<Option<MetaProperties>, LogDirsError> {
        let mut first: Option<MetaProperties> = None;
        for directory in &self.directories {
            let storage = directory.storage.read();
            let Some(meta) = storage.as_ref().and_then(LogDirectory::meta) else { continue };
            let path = directory.path.clone();
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

    /// Whether a directory is new while others are not, or one is left out: logs may have been lost with that, or with
    /// the predecessor of the new one.
    pub fn has_replaced(&self) -> bool {
        let is_claimed = |directory: &Arc<LogDir<E>>| {
            let storage = directory.storage.read();
            storage.as_ref().map(|storage| storage.meta().is_some())
        };
        self.lacks_one() || has_replaced(self.directories.iter().filter_map(is_claimed))
    }

    /// Whether `log.dirs` had more entries when the directories were claimed last.
    fn lacks_one(&self) -> bool {
        let known = |directory: &Arc<LogDir<E>>| {
            let storage = directory.storage.read();
            storage.as_ref().and_then(LogDirectory::meta).map(MetaProperties::directories)
        };
        self.directories.iter().filter_map(known).any(|known| known > self.directories.len())
    }

    /// Makes all directories this broker's in this cluster, but for replaced ones: while those are not claimed, every
    /// start finds that they are new ([`Self::claim_replaced`]). Waits for the disk.
    pub fn claim(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        let waits = self.has_replaced() && !self.rules.claims_replaced_at_once;
        if waits { Ok(()) } else { self.claim_replaced(broker, cluster) }
    }

    /// The quorum knows what was lost with the predecessors of replaced directories: all are this broker's now. Waits
    /// for the disk.
    pub fn claim_replaced(&self, broker: BrokerId, cluster: &ClusterId) -> Result<(), LogDirsError> {
        self.each_usable(|directory| match &mut *directory.storage.write() {
            Some(storage) => storage.claim(broker, cluster, self.directories.len()),
            None => Ok(()),
        })
    }

    /// How the last run left all directories, by what those say that could be read. Nobody knows it of the others, nor
    /// of one that is left out now.
    pub fn last_run(&self, mut read: Vec<LeftBy>) -> LastRun {
        read.resize(self.directories.len() + usize::from(self.lacks_one()), LeftBy::UNKNOWN);
        LastRun::of(&read)
    }

    /// Writes a registration of this broker down: should the process be killed, the next one can say that nothing is
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
                tracing::warn!(%error, "this registration is not recorded: the next start treats a kill as a power loss");
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
            self.directories.iter().partition(|directory| directory.health.is_failed());
        for directory in working.into_iter().chain(failed) {
            if let Err(error) = directory.with_storage(LogDirectory::forget_registration) {
                tracing::warn!(%error, "a failed disk's directory still says that the broker registered in this boot");
            }
        }
    }

    /// The directory of this path.
    pub fn find(&self, path: &Path) -> Option<&Arc<LogDir<E>>> {
        self.directories.iter().find(|directory| directory.path == path)
    }

    /// A directory that could not be opened at the start, if there is one.
    pub fn missing(&self) -> Option<&Arc<LogDir<E>>> {
        self.directories.iter().find(|directory| directory.is_missing())
    }

    /// Whether no directory works.
    pub fn all_failed(&self) -> bool {
        self.directories.iter().all(|directory| directory.health.is_failed())
    }

    /// Does something at the start with each directory that could be opened. One whose disk refuses is given up, unless
    /// it is the last.
    pub fn each_usable(
        &self,
        mut with: impl FnMut(&LogDir<E>) -> Result<(), DirectoryError>,
    ) -> Result<(), LogDirsError> {
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

    /// The process ends before it wrote anything to a log: keeps the mark of the clean shutdown that it found.
    pub fn leave_as_found(&self, last_run: LastRun) -> Result<(), LogDirsError> {
        if last_run.closed {
            for directory in &self.directories {
                directory.with_storage(|storage| storage.write_clean_shutdown(last_run.whole_since))?;
            }
        }
        Ok(())
    }
}

/// The offsets of the logs of a directory that were closed.
#[derive(Default, Debug)]
pub struct ClosedLogs {
    pub recovery_points: Collected,
    pub log_starts: Collected,
}

impl ClosedLogs {
    /// The recovery point and the start of a log that was closed. Of one that was not, what the disk says stays: it is
    /// right, and records that were deleted must not come back.
    pub fn add(&mut self, partition: &TopicPartition, closed: Option<(Offset, Offset)>) {
        self.recovery_points.push((partition.clone(), closed.map(|(recovery_point, _)| recovery_point)));
        self.log_starts.push((partition.clone(), closed.map(|(_, log_start)| log_start)));
    }

    pub fn append(&mut self, mut other: Self) {
        self.recovery_points.append(&mut other.recovery_points);
        self.log_starts.append(&mut other.log_starts);
    }
}

impl<E: Env> LogDir<E> {
    /// The process ends as the broker of this epoch: writes the checkpoints of its `partitions`, of which those that
    /// `closed` has offsets of are closed. The next start trusts the directory if all of them are. Waits for the disk.
    pub fn leave(
        &self,
        epoch: BrokerEpoch,
        partitions: usize,
        high_watermarks: &Collected,
        closed: &ClosedLogs,
    ) -> Result<(), DirectoryError> {
        if self.health.is_failed() {
            return Ok(());
        }
        self.write_checkpoint(CheckpointKind::HighWatermark, || high_watermarks.clone())?;
        self.write_checkpoint(CheckpointKind::RecoveryPoint, || closed.recovery_points.clone())?;
        self.write_checkpoint(CheckpointKind::LogStart, || closed.log_starts.clone())?;
        if closed.recovery_points.iter().filter(|(_, point)| point.is_some()).count() < partitions {
            return Ok(());
        }
        self.with_storage(|storage| storage.write_clean_shutdown(epoch))
    }
}
