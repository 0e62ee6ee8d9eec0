//! One entry of `log.dirs`: its owner, its partitions, and the state that is kept between runs.
//!
//! Invariants: one process at a time (`.lock`); one cluster and one broker permanently (`meta.properties`); the
//! clean-shutdown file is removed before any log changes; a partition's directory is renamed first and removed later; a
//! stray one is never removed automatically.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ottla_model::{BrokerEpoch, BrokerId, ClusterId, Offset, PartitionId, TopicId, TopicName, TopicPartition};

use crate::checkpoint::meta_properties::{self, MetaProperties};
use crate::checkpoint::offsets::{self, Offsets};
use crate::checkpoint::registration::{self, Registration};
use crate::checkpoint::{clean_shutdown, partition_metadata};
use crate::env::{DirectoryEntry, Env, File, OpenMode};
use crate::error::{DiskFault, Malformed};
use crate::file_name;

/// The data of a node that is also a coordinator, below its first log directory (`ottla_config::node`).
const COORDINATOR_DIRECTORY: &str = "__coordinator";

const LOCK_FILE_NAME: &str = ".lock";
const DELETED_SUFFIX: &str = "-delete";
const STRAY_SUFFIX: &str = "-stray";
const FUTURE_SUFFIX: &str = "-future";
/// The limit of file systems.
const FILE_NAME_MAX_BYTES: usize = 255;

/// Why a log directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{path}: another process uses this log directory (it holds {LOCK_FILE_NAME})")]
    InUse { path: PathBuf },
    #[error("{path}: this log directory cannot be written to: {error}")]
    ReadOnly { path: PathBuf, error: io::Error },
    #[error("{path}: this log directory belongs to cluster {found}, not to {expected}")]
    OtherCluster { path: PathBuf, found: ClusterId, expected: ClusterId },
    #[error("{path}: this log directory belongs to broker {found}, not to {expected}")]
    OtherBroker { path: PathBuf, found: BrokerId, expected: BrokerId },
    #[error("{path}: {error}")]
    Malformed { path: PathBuf, error: Malformed },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl DirectoryError {
    /// The I/O error, if the disk caused the error.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::ReadOnly { error, .. } | Self::Io { error, .. } => Some(error),
            Self::InUse { .. } | Self::OtherCluster { .. } | Self::OtherBroker { .. } | Self::Malformed { .. } => None,
        }
    }

    /// As an I/O error, of the disk's kind if the disk caused the error.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::ReadOnly { error, .. } | Self::Io { error, .. } => error,
            error => io::Error::other(error),
        }
    }
}

/// The checkpoints of a log directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CheckpointKind {
    HighWatermark,
    RecoveryPoint,
    LogStart,
    /// Everything below is clean, in a compacted log.
    Cleaner,
}

impl CheckpointKind {
    pub const ALL: [Self; 4] = [Self::HighWatermark, Self::RecoveryPoint, Self::LogStart, Self::Cleaner];

    pub fn file_name(self) -> &'static str {
        match self {
            Self::HighWatermark => "replication-offset-checkpoint",
            Self::RecoveryPoint => "recovery-point-offset-checkpoint",
            Self::LogStart => "log-start-offset-checkpoint",
            Self::Cleaner => "cleaner-offset-checkpoint",
        }
    }
}

/// The kind of a subdirectory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartitionDirectoryKind {
    /// `topic-partition`
    Live,
    /// `topic-partition.ID-delete`: to be removed.
    Deleted,
    /// `topic-partition.ID-stray`: of a topic that the cluster does not have; for people to look at.
    Stray,
    /// `topic-partition.ID-future`: a copy that a move between log directories has not finished.
    Future,
}

/// A subdirectory with a partition's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionDirectory {
    pub path: PathBuf,
    /// For a renamed directory, as far as its name still shows it: long topic names are cut.
    pub partition: TopicPartition,
    pub kind: PartitionDirectoryKind,
    /// From `partition.metadata`, where that has been read already.
    pub topic_id: Option<TopicId>,
}

/// The topic of the log in a directory that cannot be opened, if `partition.metadata` is there and readable.
pub fn read_topic_id(env: &impl Env, directory: &Path) -> Option<TopicId> {
    let content = env.read_file(&directory.join(file_name::PARTITION_METADATA)).ok()?;
    partition_metadata::decode(&content).ok()
}

/// A log directory, locked for this process.
pub struct LogDirectory<E: Env> {
    env: E,
    path: PathBuf,
    meta: Option<MetaProperties>,
    _lock: E::Lock,
}

impl<E: Env> LogDirectory<E> {
    /// Creates the directory if needed, locks it, sees that it can be written to, and reads whose it is.
    pub fn open(env: E, path: PathBuf) -> Result<Self, DirectoryError> {
        let io = |error| DirectoryError::Io { path: path.clone(), error };
        if !env.exists(&path).map_err(io)? {
            env.create_directory(&path).map_err(|error| unusable(&path, error))?;
            if let Some(parent) = path.parent() {
                env.sync_directory(parent).map_err(io)?;
            }
        }
        let lock = match env.lock(&path.join(LOCK_FILE_NAME)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DirectoryError::InUse { path });
            }
            Err(error) => return Err(unusable(&path, error)),
        };
        let meta = match env.read_file(&path.join(meta_properties::FILE_NAME)) {
            Ok(bytes) => Some(
                meta_properties::decode(&bytes)
                    .map_err(|error| DirectoryError::Malformed { path: path.clone(), error })?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(DirectoryError::Io { path, error }),
        };
        Ok(Self { env, path, meta, _lock: lock })
    }

    pub fn env(&self) -> &E {
        &self.env
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose the directory is; none for a new one.
    pub fn meta(&self) -> Option<&MetaProperties> {
        self.meta.as_ref()
    }

    /// Refuses a directory of another broker. A new directory has no owner yet.
    pub fn check_broker(&self, broker_id: BrokerId) -> Result<(), DirectoryError> {
        match &self.meta {
            Some(meta) if meta.broker_id != broker_id => {
                Err(DirectoryError::OtherBroker { path: self.path.clone(), found: meta.broker_id, expected: broker_id })
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory this broker's in this cluster, one of so many `directories`, or sees that it is: at
    /// registration, when the cluster's id is known.
    pub fn claim(
        &mut self,
        broker_id: BrokerId,
        cluster_id: &ClusterId,
        directories: usize,
    ) -> Result<(), DirectoryError> {
        self.check_broker(broker_id)?;
        let mut meta = match &self.meta {
            Some(MetaProperties { cluster_id: Some(found), .. }) if found != cluster_id => {
                return Err(DirectoryError::OtherCluster {
                    path: self.path.clone(),
                    found: found.clone(),
                    expected: cluster_id.clone(),
                });
            }
            Some(meta) => meta.clone(),
            None => MetaProperties::new(broker_id, cluster_id.clone()),
        };
        meta.cluster_id = Some(cluster_id.clone());
        meta.set_directories(directories);
        if self.meta.as_ref() == Some(&meta) {
            return Ok(());
        }
        let is_claimed = self.meta.as_ref().is_some_and(|meta| meta.cluster_id.is_some());
        match self.write(meta_properties::FILE_NAME, &meta_properties::encode(&meta)) {
            // A full disk is no reason not to use the directory: the number is for the next start.
            Err(error) if is_claimed && DiskFault::of(error.io()) != DiskFault::Failed => {
                tracing::warn!(%error, "the number of log directories is not remembered");
                return Ok(());
            }
            written => written?,
        }
        self.meta = Some(meta);
        Ok(())
    }

    /// Reads and removes the clean-shutdown file: the broker epoch of the process that left it ([`BrokerEpoch::NONE`]
    /// where it does not say), or none after an unclean end. It is gone from the disk before this returns, so that no
    /// crash from now on looks clean. With `boot_id` the epoch is remembered as that of a registration in this boot
    /// first: a start that is killed before it registers has lost nothing either.
    pub fn take_clean_shutdown(&self, boot_id: Option<&str>) -> Result<Option<BrokerEpoch>, DirectoryError> {
        let path = self.path.join(clean_shutdown::FILE_NAME);
        let content = match self.env.read_file(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let broker_epoch = clean_shutdown::decode(&content);
        if let Some(boot_id) = boot_id.filter(|_| broker_epoch.is_known()) {
            let remembered = self.write_registration(&Registration { boot_id: boot_id.to_owned(), broker_epoch });
            match remembered {
                // A full disk is no reason not to use the directory: the next start treats a kill as a loss of power.
                Err(error) if DiskFault::of(error.io()) != DiskFault::Failed => {
                    tracing::warn!(%error, "the last registration is not remembered");
                }
                remembered => remembered?,
            }
        }
        self.env.remove_file(&path).map_err(|error| unusable(&self.path, error))?;
        self.env.sync_directory(&self.path).map_err(|error| self.io(error))?;
        Ok(Some(broker_epoch))
    }

    /// Says that every log of the directory has been closed, by this registration of the broker. The last thing to do.
    pub fn write_clean_shutdown(&self, broker_epoch: BrokerEpoch) -> Result<(), DirectoryError> {
        self.write(clean_shutdown::FILE_NAME, &clean_shutdown::encode(broker_epoch))
    }

    /// The broker's last registration; none if it is not known.
    pub fn registration(&self) -> Result<Option<Registration>, DirectoryError> {
        match self.env.read_file(&self.path.join(registration::FILE_NAME)) {
            Ok(content) => Ok(registration::decode(&content)
                .inspect_err(
                    |error| tracing::warn!(directory = %self.path.display(), %error, "ignoring an invalid file"),
                )
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Remembers a registration, durably.
    pub fn write_registration(&self, registration: &Registration) -> Result<(), DirectoryError> {
        self.write(registration::FILE_NAME, &registration::encode(registration))
    }

    /// Removes the last registration, durably: later writes may be lost although the machine keeps running.
    pub fn forget_registration(&self) -> Result<(), DirectoryError> {
        let forgotten = self.env.remove_file_if_there(&self.path.join(registration::FILE_NAME));
        forgotten.and_then(|()| self.env.sync_directory(&self.path)).map_err(|error| unusable(&self.path, error))
    }

    /// Where a partition's log is, or would be.
    pub fn partition_path(&self, partition: &TopicPartition) -> PathBuf {
        self.path.join(partition.to_string())
    }

    /// The partitions' directories, by name. Anything else (`lost+found`) is left alone.
    pub fn partitions(&self) -> Result<Vec<PartitionDirectory>, DirectoryError> {
        let mut found: Vec<PartitionDirectory> = Vec::new();
        for entry in self.env.list(&self.path).map_err(|error| self.io(error))? {
            if !entry.is_directory || entry.name == COORDINATOR_DIRECTORY {
                continue;
            }
            // Mostly another partition of the same topic.
            let topic = found.last().map(|found| &found.partition.topic);
            let Some((partition, kind)) = parse_name(&entry.name, topic) else {
                tracing::warn!(directory = %self.path.display(), name = entry.name, "ignoring an unknown directory");
                continue;
            };
            let path = self.path.join(entry.name);
            found.push(PartitionDirectory { path, partition, kind, topic_id: None });
        }
        Ok(found)
    }

    /// Renames a live partition's directory for a later removal, durable after [`Self::sync`]; `unique` distinguishes
    /// it from earlier ones of the same name. Abandon the log first ([`crate::Log::abandon`]). Returns the new path.
    pub fn mark_deleted(&self, partition: &TopicPartition, unique: [u8; 16]) -> Result<PathBuf, DirectoryError> {
        self.rename_partition(partition, unique, DELETED_SUFFIX)
    }

    /// Renames the directory of a partition that the cluster does not know, durable after [`Self::sync`]. It is never
    /// removed.
    pub fn mark_stray(&self, partition: &TopicPartition, unique: [u8; 16]) -> Result<PathBuf, DirectoryError> {
        self.rename_partition(partition, unique, STRAY_SUFFIX)
    }

    /// Frees the name of a partition whose log is about to be created: a log that a disk did not let rename when its
    /// replica left is renamed to `-stray` now, durably. Returns whether there was one.
    pub fn free_name(&self, partition: &TopicPartition) -> Result<bool, DirectoryError> {
        if self.may_create(&self.partition_path(partition)).map_err(|error| self.io(error))? {
            return Ok(false);
        }
        let mut number: u128 = 0;
        let is_taken = |number: u128| {
            let name = renamed(partition, number.to_be_bytes(), STRAY_SUFFIX);
            self.env.exists(&self.path.join(name)).map_err(|error| self.io(error))
        };
        while is_taken(number)? {
            number += 1;
        }
        self.mark_stray(partition, number.to_be_bytes())?;
        self.sync()?;
        Ok(true)
    }

    /// Whether there is nothing at `path` but what a creation leaves that was cut off: it is repeated in place.
    fn may_create(&self, path: &Path) -> io::Result<bool> {
        if !self.env.exists(path)? {
            return Ok(true);
        }
        let is_of_creation = |entry: &DirectoryEntry| {
            entry.name == file_name::PARTITION_METADATA
                || entry.size_bytes == 0
                    && matches!(file_name::parse(&entry.name), Some((Offset::ZERO, kind))
                        if file_name::SEGMENT_KINDS.contains(&kind))
        };
        Ok(self.env.list(path)?.iter().all(is_of_creation))
    }

    fn rename_partition(
        &self,
        partition: &TopicPartition,
        unique: [u8; 16],
        suffix: &str,
    ) -> Result<PathBuf, DirectoryError> {
        let to = self.path.join(renamed(partition, unique, suffix));
        self.env.rename(&self.partition_path(partition), &to).map_err(|error| self.io(error))?;
        Ok(to)
    }

    /// The directory for the copy of a partition that moves here; `unique` distinguishes it from earlier ones.
    pub fn future_path(&self, partition: &TopicPartition, unique: [u8; 16]) -> PathBuf {
        self.path.join(renamed(partition, unique, FUTURE_SUFFIX))
    }

    /// Gives a finished copy the partition's name, durably.
    pub fn make_live(&self, future: &Path, partition: &TopicPartition) -> Result<PathBuf, DirectoryError> {
        self.free_name(partition)?;
        let to = self.partition_path(partition);
        self.env.rename(future, &to).map_err(|error| self.io(error))?;
        self.sync()?;
        Ok(to)
    }

    /// Makes the names in the directory durable.
    pub fn sync(&self) -> Result<(), DirectoryError> {
        self.env.sync_directory(&self.path).map_err(|error| self.io(error))
    }

    /// Removes a directory that was marked as deleted, or the copy of a move that came to nothing, with all it holds.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for any other path.
    pub fn remove(&self, path: &Path) -> Result<(), DirectoryError> {
        let is_deleted = path.parent() == Some(&*self.path)
            && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                matches!(
                    parse_name(name, None),
                    Some((_, PartitionDirectoryKind::Deleted | PartitionDirectoryKind::Future))
                )
            });
        if !is_deleted {
            return Err(self.io(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not marked as deleted", path.display()),
            )));
        }
        match self.env.remove_directory(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(error)),
            _ => Ok(()),
        }
    }

    /// A checkpoint's offsets; none if it was never written.
    ///
    /// # Errors
    /// [`DirectoryError::Malformed`]: the caller may continue without the file (offset 0 is always safe for all three
    /// kinds, but for [`CheckpointKind::LogStart`] it makes deleted records visible again).
    pub fn read_checkpoint(&self, kind: CheckpointKind) -> Result<Offsets, DirectoryError> {
        match self.env.read_file(&self.path.join(kind.file_name())) {
            Ok(bytes) => offsets::decode(kind.file_name(), &bytes)
                .map_err(|error| DirectoryError::Malformed { path: self.path.clone(), error }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Replaces a checkpoint, durably.
    pub fn write_checkpoint<'p>(
        &self,
        kind: CheckpointKind,
        offsets: impl ExactSizeIterator<Item = (&'p TopicPartition, Offset)>,
    ) -> Result<(), DirectoryError> {
        self.write(kind.file_name(), &offsets::encode(offsets))
    }

    /// Whether the directory answers and takes a write: for a health check.
    pub fn probe(&self) -> Result<(), DirectoryError> {
        let path = self.path.join(LOCK_FILE_NAME);
        let probed = self.env.open(&path, OpenMode::Write).and_then(|file| file.write_all_at(b"\n", 0));
        probed.map_err(|error| unusable(&self.path, error))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), DirectoryError> {
        self.env.write_file_atomically(&self.path.join(name), content).map_err(|error| unusable(&self.path, error))
    }

    fn io(&self, error: io::Error) -> DirectoryError {
        DirectoryError::Io { path: self.path.clone(), error }
    }
}

fn unusable(path: &Path, error: io::Error) -> DirectoryError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => DirectoryError::ReadOnly { path, error },
        _ => DirectoryError::Io { path, error },
    }
}

/// `topic-partition.UNIQUE-SUFFIX`, the topic cut where the whole would be too long for a file name.
fn renamed(partition: &TopicPartition, unique: [u8; 16], suffix: &str) -> String {
    let unique: String = unique.iter().map(|byte| format!("{byte:02x}")).collect();
    let tail = format!("-{}.{unique}{suffix}", partition.partition);
    let topic = partition.topic.as_str();
    // Topic names are ASCII.
    let kept = topic.len().min(FILE_NAME_MAX_BYTES.saturating_sub(tail.len()));
    format!("{}{tail}", topic.get(..kept).unwrap_or_default())
}

/// `topic`: one that it may be of, whose name is shared then.
fn parse_name(name: &str, topic: Option<&TopicName>) -> Option<(TopicPartition, PartitionDirectoryKind)> {
    let kinds = [
        (DELETED_SUFFIX, PartitionDirectoryKind::Deleted),
        (STRAY_SUFFIX, PartitionDirectoryKind::Stray),
        (FUTURE_SUFFIX, PartitionDirectoryKind::Future),
    ];
    for (suffix, kind) in kinds {
        // A topic may be called `x-delete`: only `.ID-delete` behind a partition's name marks one.
        if let Some((partition, _unique)) = name.strip_suffix(suffix).and_then(|rest| rest.rsplit_once('.'))
            && let Some(partition) = parse_partition(partition, topic)
        {
            return Some((partition, kind));
        }
    }
    Some((parse_partition(name, topic)?, PartitionDirectoryKind::Live))
}

fn parse_partition(name: &str, known: Option<&TopicName>) -> Option<TopicPartition> {
    let (topic, number) = name.rsplit_once('-')?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(TopicPartition::new(TopicName::shared(topic, known).ok()?, PartitionId(number.parse().ok()?)))
}
