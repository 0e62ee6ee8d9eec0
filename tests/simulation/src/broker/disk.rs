//! A broker's log directories: opened at the start, checkpointed now and then, taken out of use when their disks fail,
//! and closed.

use std::sync::Arc;

use ottla_model::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, MonotonicMs, TimestampMs, TopicId, TopicPartition};
use ottla_partition::{
    AbsentLog, DirectoryState, DirectoryUse, Impairment, LogPlace, NotOpened, OpeningContext, directory_for_new_log,
    open_log, places_to_give_up,
};
use ottla_storage::checkpoint::registration::Registration;
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::env::FaultyEnv;
use ottla_storage::{
    CheckpointKind, Checkpoints, Collected, DirectoryError, DiskFault, LastRun, LeftBy, LogConfig, LogDirectory,
    PartitionDirectory, has_replaced,
};

use super::process::Process;
use super::replica::{DiskFailed, Log, Replica};
use super::{BrokerSettings, data};
use crate::facts::Fact;
use crate::outbox::Outbox;

/// How often directories are looked at: as the broker does.
pub(super) const WATCH_MS: u64 = 1_000;

/// One log directory of a process.
pub(super) struct Directory {
    pub env: FaultyEnv,
    /// None: it could not be opened at the start.
    storage: Option<LogDirectory<FaultyEnv>>,
    checkpoints: Checkpoints,
    pub state: DirectoryState,
    /// Its replicas have been told that it failed.
    is_left: bool,
}

/// A log that was there at the start.
pub(super) type FoundLog = ottla_partition::FoundLog<FaultyEnv, usize>;

/// What the directories held at the start.
pub(super) struct OpenedLogs {
    pub directories: Vec<Directory>,
    pub found: Vec<FoundLog>,
    pub last_run: LastRun,
}

impl OpenedLogs {
    /// The cluster that the directories belong to; none before the first registration.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        let storages = self.directories.iter().filter_map(|directory| directory.storage.as_ref());
        storages.filter_map(LogDirectory::meta).find_map(|meta| meta.cluster_id.clone())
    }
}

fn boot_id(boot: u64) -> String {
    format!("boot-{boot}")
}

/// Opens every log of every directory. One whose disk refuses is given up.
pub(super) fn open_logs(
    envs: &[FaultyEnv],
    boot: u64,
    settings: &BrokerSettings,
    wall: TimestampMs,
    out: &mut Outbox,
) -> OpenedLogs {
    let mut opened = OpenedLogs { directories: Vec::new(), found: Vec::new(), last_run: LastRun::default() };
    let mut left_by = Vec::new();
    for (number, env) in envs.iter().enumerate() {
        let checkpoints = Checkpoints::default();
        match open_directory(number, env, boot, &checkpoints, settings, wall, out) {
            Ok((storage, found, left)) => {
                opened.found.extend(found);
                left_by.push(left);
                let directory = Directory {
                    env: env.clone(),
                    storage: Some(storage),
                    checkpoints,
                    state: DirectoryState::default(),
                    is_left: false,
                };
                opened.directories.push(directory);
            }
            Err(error) => {
                out.note(format_args!("directory {number} is not usable: {error}"));
                left_by.push(LeftBy::UNKNOWN);
                let state = DirectoryState { is_failed: true, ..DirectoryState::default() };
                opened.directories.push(Directory {
                    env: env.clone(),
                    storage: None,
                    checkpoints,
                    state,
                    is_left: false,
                });
            }
        }
    }
    opened.last_run = LastRun::of(&left_by);
    opened
}

type OpenedDirectory = (LogDirectory<FaultyEnv>, Vec<FoundLog>, LeftBy);

fn open_directory(
    number: usize,
    env: &FaultyEnv,
    boot: u64,
    checkpoints: &Checkpoints,
    settings: &BrokerSettings,
    wall: TimestampMs,
    out: &mut Outbox,
) -> Result<OpenedDirectory, DirectoryError> {
    let storage = LogDirectory::open(env.clone(), data().to_owned())?;
    let left_by = LeftBy::of(&storage, Some(&boot_id(boot)))?;
    let mut live = Vec::new();
    for partition in storage.partitions()? {
        match partition.kind {
            PartitionDirectoryKind::Live => live.push(partition),
            PartitionDirectoryKind::Deleted | PartitionDirectoryKind::Future => storage.remove(&partition.path)?,
            PartitionDirectoryKind::Stray => {}
        }
    }
    checkpoints.load(&storage, |name| live.iter().any(|found| found.partition == *name))?;
    let config = &settings.log_config;
    let context = OpeningContext { checkpoints, clean_shutdown: left_by.closed, config, now: wall };
    let mut logs = Vec::new();
    for found in live {
        let opened = open_log(env.clone(), &found, context, None);
        let (log, error) = FoundLog::new(&found, number, context, opened);
        if let Some(error) = error {
            out.note(format_args!("does not open {} in directory {number}: {error}", found.partition));
        }
        if let Some(log) = &log.log {
            let (start, end) = (log.log_start_offset(), log.log_end_offset());
            out.note(format_args!("finds {} in directory {number}: {start}..{end}", found.partition));
        }
        logs.push(log);
    }
    Ok((storage, logs, left_by))
}

impl Directory {
    pub fn is_failed(&self) -> bool {
        self.state.is_failed
    }

    pub fn open_log(
        &self,
        partition: TopicPartition,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        found: Option<Box<Log>>,
        wall: TimestampMs,
    ) -> Result<Box<Log>, NotOpened<FaultyEnv>> {
        match &self.storage {
            Some(directory) => {
                let place = LogPlace { directory, checkpoints: &self.checkpoints, partition, topic_id, config };
                place.open(found, wall)
            }
            None => Err(NotOpened { error: std::io::Error::other("it could not be opened at the start"), found }),
        }
    }

    fn with_storage(
        &self,
        act: impl FnOnce(&LogDirectory<FaultyEnv>, &Checkpoints) -> Result<(), DirectoryError>,
    ) -> Result<(), DirectoryError> {
        // A directory that could not be opened has no logs here.
        self.storage.as_ref().map_or(Ok(()), |storage| act(storage, &self.checkpoints))
    }
}

impl Process {
    fn storages(&self) -> impl Iterator<Item = &LogDirectory<FaultyEnv>> + Clone {
        self.directories.iter().filter_map(|directory| directory.storage.as_ref())
    }

    fn has_replaced_directory(&self) -> bool {
        has_replaced(self.storages().map(|storage| storage.meta().is_some()))
    }

    /// Why a replica may have no log here when the image is loaded.
    pub(super) fn absent_log(&self) -> AbsentLog {
        if self.directories.iter().any(|directory| directory.storage.is_none()) {
            AbsentLog::DirectoryMissing
        } else if self.has_replaced_directory() {
            AbsentLog::DirectoryReplaced
        } else {
            AbsentLog::NeverMade
        }
    }

    pub(super) fn missing_directory(&self) -> Option<usize> {
        self.directories.iter().position(|directory| directory.storage.is_none())
    }

    pub(super) fn directory_for_new_log(&self) -> Option<usize> {
        let placed = |number| self.replicas.values().filter(|replica| replica.directory == number).count();
        directory_for_new_log(self.directories.iter().enumerate().map(|(number, directory)| DirectoryUse {
            is_failed: directory.state.is_failed,
            is_full: directory.state.is_full,
            is_cordoned: false,
            partitions: placed(number),
        }))
    }

    /// The cluster that the directories belong to; none before the first registration.
    pub fn cluster_id(&self) -> Result<Option<ClusterId>, DiskFailed> {
        Ok(self.storages().find_map(|storage| storage.meta()?.cluster_id.clone()))
    }

    /// Writes down what the next process must know: the cluster, and in which epoch the logs were whole.
    pub fn remember(&mut self, id: &ClusterId, epoch: BrokerEpoch) -> Result<(), DiskFailed> {
        if !self.has_replaced_directory() {
            self.claim_directories(id)?;
        }
        if self.is_distrusted {
            return Ok(());
        }
        let registration = Registration { boot_id: boot_id(self.boot), broker_epoch: epoch };
        for storage in self.storages() {
            if storage.write_registration(&registration).is_err() {
                // Best effort: the next process does not know then.
                break;
            }
        }
        Ok(())
    }

    fn claim_directories(&mut self, cluster: &ClusterId) -> Result<(), DiskFailed> {
        let local = self.id;
        for storage in self.directories.iter_mut().filter_map(|directory| directory.storage.as_mut()) {
            storage.claim(local, cluster).map_err(|error| DiskFailed(error.to_string()))?;
        }
        Ok(())
    }

    /// A directory did not do something.
    pub(super) fn directory_refused(&mut self, number: usize, error: &DirectoryError, out: &mut Outbox) {
        self.directory_fault(number, error, DiskFault::of(error.io()), out);
    }

    pub(super) fn directory_fault(
        &mut self,
        number: usize,
        error: &dyn std::fmt::Display,
        fault: DiskFault,
        out: &mut Outbox,
    ) {
        let Some(directory) = self.directories.get_mut(number) else { return };
        out.note(format_args!("directory {number}: {error} ({fault:?})"));
        match fault {
            DiskFault::Failed => directory.state.is_failed = true,
            DiskFault::Full => directory.state.is_full = true,
            DiskFault::OutOfDescriptors => {}
        }
    }

    /// Does something in a directory whose disk may refuse it.
    pub(super) fn in_directory(
        &mut self,
        number: usize,
        out: &mut Outbox,
        act: impl FnOnce(&LogDirectory<FaultyEnv>, &Checkpoints) -> Result<(), DirectoryError>,
    ) {
        let Some(directory) = self.directories.get(number).filter(|directory| !directory.is_failed()) else { return };
        if let Err(error) = directory.with_storage(act) {
            self.directory_refused(number, &error, out);
        }
    }

    /// What a failed disk means for the replicas, and for the process if none is left. At the end of a turn.
    pub(super) fn leave_failed_directories(&mut self, now: MonotonicMs, out: &mut Outbox) {
        for number in 0..self.directories.len() {
            let Some(directory) = self.directories.get_mut(number) else { continue };
            if !directory.is_failed() || std::mem::replace(&mut directory.is_left, true) {
                continue;
            }
            out.facts.push(Fact::LogsOffline);
            self.distrust_registration();
            for id in self.replicas_in(number) {
                let Some(replica) = self.replicas.get_mut(&id) else { continue };
                replica.may_have_been_cut();
                let effects = replica.core.log_failed();
                self.execute(now, id, effects, out);
                self.fetchers.changed.push(id);
            }
        }
        if self.directories.iter().all(Directory::is_failed) {
            self.die(&DiskFailed("no log directory is left".to_owned()), out);
        }
    }

    /// A disk has failed: what was written may be lost though the machine runs on.
    fn distrust_registration(&mut self) {
        if std::mem::replace(&mut self.is_distrusted, true) {
            return;
        }
        for storage in self.storages() {
            // One directory that does not say so is enough.
            let _ = storage.forget_registration();
        }
    }

    pub(super) fn replicas_in(&self, directory: usize) -> Vec<ottla_model::TopicIdPartition> {
        self.replicas.iter().filter(|(_, replica)| replica.directory == directory).map(|(id, _)| *id).collect()
    }

    /// Gives up places where a disk keeps replicas from serving, and tries again what found no room.
    pub(super) fn watch_directories(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        if now < self.watch_at {
            return;
        }
        self.watch_at = MonotonicMs(now.0 + WATCH_MS);
        for impairment in [Impairment::Lost, Impairment::Unreadable, Impairment::Unwritable] {
            self.give_up(now, self.placement.impaired(impairment), impairment, out);
        }
        if self.has_replaced_directory() && self.placement.may_claim_replaced() {
            self.claim_replaced(out);
        }
        for id in std::mem::take(&mut self.waiting_logs) {
            self.open_log(now, wall, id, None, out);
        }
        self.reopen_logs(now, wall, out);
        for impairment in [Impairment::Unreadable, Impairment::Unwritable] {
            let is_impaired = |replica: &&Replica| {
                let directory = self.directories.get(replica.directory);
                directory.and_then(|directory| directory.state.impairment(replica.is_out_of_room)) == Some(impairment)
            };
            let impaired = self.replicas.values().filter(is_impaired).map(|replica| replica.id).collect();
            self.give_up(now, impaired, impairment, out);
        }
    }

    /// Opens logs again for which there was no room at the start.
    fn reopen_logs(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        for number in 0..self.directories.len() {
            let here = self.placement.awaiting_room().filter(|(_, found)| found.directory == number);
            let awaiting: Vec<_> = here.map(|(id, _)| id).collect();
            if self.reopenings.entry(number).or_default().look(awaiting.len()) {
                // Where one finds no room, the next ones would find none.
                let _ = awaiting.into_iter().try_for_each(|id| self.reopen(now, wall, number, id, out));
            }
        }
    }

    /// None if there is still no room.
    fn reopen(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        number: usize,
        id: ottla_model::TopicIdPartition,
        out: &mut Outbox,
    ) -> Option<()> {
        let directory = self.directories.get(number).filter(|directory| !directory.is_failed())?;
        let (storage, found) = (directory.storage.as_ref()?, self.placement.unopened(&id)?);
        let place = PartitionDirectory {
            path: storage.partition_path(&found.partition),
            partition: found.partition.clone(),
            kind: PartitionDirectoryKind::Live,
            topic_id: found.topic_id,
        };
        let (checkpoints, config) = (&directory.checkpoints, &self.settings.log_config);
        let context = OpeningContext { checkpoints, clean_shutdown: false, config, now: wall };
        let (log, error) =
            FoundLog::new(&place, number, context, open_log(directory.env.clone(), &place, context, None));
        out.note(format_args!("opens {} again: {error:?}", place.partition));
        let awaits_room = log.awaits_room;
        self.could_not_open |= log.awaits_restart();
        if let Some(FoundLog { log: Some(log), .. }) = self.placement.opened_again(&id, log) {
            self.begin_with(now, wall, id, log, out);
        }
        (!awaits_room).then_some(())
    }

    fn claim_replaced(&mut self, out: &mut Outbox) {
        if let Ok(Some(cluster)) = self.cluster_id() {
            out.note(format_args!("claims its replaced directory"));
            if let Err(error) = self.claim_directories(&cluster) {
                out.note(format_args!("a replaced directory is not claimed yet: {error}"));
            }
        }
    }

    fn give_up(
        &mut self,
        now: MonotonicMs,
        replicas: Vec<ottla_model::TopicIdPartition>,
        impairment: Impairment,
        out: &mut Outbox,
    ) {
        if let Some((reason, partitions)) =
            places_to_give_up(self.id, &self.image, replicas, impairment, self.settings.rules)
        {
            self.resign(now, partitions, reason, out);
        }
    }

    pub(super) fn write_checkpoints(&mut self, now: MonotonicMs, out: &mut Outbox) {
        if !self.placement.is_current() {
            return;
        }
        // Like the system's own write-back: now and then, some log.
        self.sync(now, 30, out);
        let kinds = [CheckpointKind::RecoveryPoint, CheckpointKind::LogStart, CheckpointKind::HighWatermark];
        for number in 0..self.directories.len() {
            for kind in kinds {
                let collected = self.collect(number, kind);
                self.in_directory(number, out, |storage, checkpoints| {
                    checkpoints.write(kind, storage, || collected.clone())
                });
            }
        }
    }

    fn collect(&self, number: usize, kind: CheckpointKind) -> Collected {
        let of = |replica: &Replica| match kind {
            CheckpointKind::HighWatermark => Some(replica.high_watermark()),
            CheckpointKind::RecoveryPoint => replica.core.log().map(Log::recovery_point),
            CheckpointKind::LogStart => replica.core.log().map(Log::log_start_offset),
            CheckpointKind::Cleaner => None,
        };
        let here = self.replicas.values().filter(|replica| replica.directory == number);
        here.map(|replica| (replica.name.clone(), of(replica))).collect()
    }

    /// Syncs each log with this chance, in percent.
    pub fn sync(&mut self, now: MonotonicMs, percent: u32, out: &mut Outbox) {
        let ids: Vec<_> = self.replicas.keys().copied().collect();
        for id in ids {
            if !self.random.percent(percent) {
                continue;
            }
            let Some(replica) = self.replicas.get_mut(&id) else { continue };
            let (number, flushed) = (replica.directory, replica.core.log_mut().map(|log| log.flush(now)));
            if let Some(Err(error)) = flushed {
                let fault = replica.core.disk_fault(Some(&error));
                self.directory_fault(number, &error, fault, out);
            }
        }
    }

    /// Every log was synced on request: the checkpoints say so.
    pub fn write_recovery_points(&mut self, out: &mut Outbox) {
        for number in 0..self.directories.len() {
            let collected = self.collect(number, CheckpointKind::RecoveryPoint);
            self.in_directory(number, out, |storage, checkpoints| {
                checkpoints.write(CheckpointKind::RecoveryPoint, storage, || collected.clone())
            });
        }
    }

    /// Closes everything, so that the next start trusts it.
    pub fn close_all(&mut self, now: MonotonicMs, out: &mut Outbox) -> Result<(), DiskFailed> {
        let failed = |error: DirectoryError| DiskFailed(error.to_string());
        if !self.placement.is_current() {
            // Nothing has been written: the end of the run before counts on.
            if self.last_run.closed {
                for storage in self.storages() {
                    storage.write_clean_shutdown(self.last_run.whole_since).map_err(failed)?;
                }
            }
            return Ok(());
        }
        let epoch = self.identity;
        for number in 0..self.directories.len() {
            let high_watermarks = self.collect(number, CheckpointKind::HighWatermark);
            let (mut points, mut starts): (Collected, Collected) = (Vec::new(), Vec::new());
            let ids = self.replicas_in(number);
            for id in &ids {
                let Some(replica) = self.replicas.get_mut(id) else { continue };
                let name = replica.name.clone();
                let (log, effects) = replica.core.close(ErrorCode::NotLeaderOrFollower);
                self.fail_all(&effects.failed, BrokerId::NONE, out);
                let Some(mut log) = log else { continue };
                log.close(now).map_err(|error| DiskFailed(error.to_string()))?;
                points.push((name.clone(), Some(log.recovery_point())));
                starts.push((name, Some(log.log_start_offset())));
            }
            let all_closed = points.len() == ids.len();
            let Some(directory) = self.directories.get(number).filter(|directory| !directory.is_failed()) else {
                continue;
            };
            directory
                .with_storage(|storage, checkpoints| {
                    checkpoints.write(CheckpointKind::HighWatermark, storage, || high_watermarks.clone())?;
                    checkpoints.write(CheckpointKind::RecoveryPoint, storage, || points.clone())?;
                    checkpoints.write(CheckpointKind::LogStart, storage, || starts.clone())?;
                    if all_closed { storage.write_clean_shutdown(epoch) } else { Ok(()) }
                })
                .map_err(failed)?;
        }
        Ok(())
    }
}
