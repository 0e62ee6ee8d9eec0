//! Timers of all partitions: followers that lag leave ISRs, checkpoints are written, directories that stall or fail
//! give up their leaderships; and the shutdown, which closes the logs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_model::{BrokerEpoch, ErrorCode, TopicIdPartition};
use ottla_partition::{BrokenRules, DirectoryState, Impairment, ReopeningPause, places_to_give_up};
use ottla_storage::{CheckpointKind, Collected};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::{DeltaState, ReplicaManager};
use crate::clock;
use crate::log_dirs::Log;
use crate::log_dirs::{LogDir, LogDirsError};
use crate::log_io::{DirectoryHealth, StallWatch, Urgency};
use crate::partition::Partition;

/// How often directories are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Looks in a row, a write under way and none finished, before a directory's leaderships are given up: a disk that is
/// only busy answers within seconds, and clients wait for each of them.
const STALLED_LOOKS: u32 = 4;

/// Pause in which requests for an early checkpoint are merged: each file is written for all partitions at once.
const GATHERING_PAUSE: Duration = Duration::from_millis(50);

/// Logs that one thread closes at the end; more threads than that wait for the same disk.
const CLOSING_THREADS: usize = 4;

impl ReplicaManager {
    /// Starts the timers. The watch over the directories runs on the calling runtime: a stalled write holds up `data`.
    pub(super) fn start_upkeep(self: &Arc<Self>, data: &Handle) {
        data.spawn(self.clone().tick_leaders());
        data.spawn(self.clone().write_checkpoints());
        data.spawn(self.clone().delete_old_segments());
        tokio::spawn(self.clone().watch_directories());
    }

    /// Checks followers twice per `replica.lag.time.max.ms`, as Kafka.
    async fn tick_leaders(self: Arc<Self>) {
        let mut interval = interval(self.config.replica_lag_time_max / 2);
        loop {
            interval.tick().await;
            let now = clock::monotonic();
            for partition in self.partitions().iter().filter(|partition| partition.leads()) {
                partition.tick(now);
            }
        }
    }

    async fn write_checkpoints(self: Arc<Self>) {
        let mut high_watermarks = interval(self.config.replica_high_watermark_checkpoint_interval);
        let mut recovery_points = interval(self.config.log_flush_offset_checkpoint_interval.max(WATCH_INTERVAL));
        let mut log_starts = interval(self.config.log_flush_start_offset_checkpoint_interval.max(WATCH_INTERVAL));
        loop {
            let kinds = tokio::select! {
                _ = high_watermarks.tick() => {
                    if !self.context.high_watermarks_moved.swap(false, Ordering::AcqRel) {
                        continue;
                    }
                    &[CheckpointKind::HighWatermark][..]
                }
                _ = recovery_points.tick() => {
                    self.close_idle_files();
                    &[CheckpointKind::RecoveryPoint][..]
                }
                // A segment is on the disk: should the process be killed, it need not be read again.
                () = self.context.segment_flushed.notified() => {
                    tokio::time::sleep(GATHERING_PAUSE).await;
                    &[CheckpointKind::RecoveryPoint][..]
                }
                _ = log_starts.tick() => &[CheckpointKind::LogStart][..],
                // What somebody deleted should stay so, also after a crash.
                () = self.context.log_start_moved.notified() => {
                    tokio::time::sleep(GATHERING_PAUSE).await;
                    &[CheckpointKind::LogStart][..]
                }
            };
            if self.is_stopping() {
                return;
            }
            for directory in self.log_dirs.all() {
                let (manager, owner) = (self.clone(), directory.clone());
                directory.run(Urgency::Background, move || manager.checkpoint(&owner, kinds));
            }
        }
    }

    fn close_idle_files(self: &Arc<Self>) {
        for directory in self.log_dirs.all() {
            let (manager, owner) = (self.clone(), directory.clone());
            // A partition's lock may be held until its disk answers.
            directory.run(Urgency::Background, move || {
                for partition in manager.partitions_in(&owner) {
                    partition.with_log(Log::close_idle_files);
                }
            });
        }
    }

    /// Writes checkpoints of one directory. Waits for the disk.
    fn checkpoint(&self, directory: &Arc<LogDir>, kinds: &[CheckpointKind]) {
        if directory.health().is_failed() || !self.replicas.lock().is_current() {
            return;
        }
        for kind in kinds {
            let written = directory.write_checkpoint(*kind, || offsets(&self.partitions_in(directory), *kind));
            if let Err(error) = written {
                self.context.directory_refused(directory, &error, error.io());
                return;
            }
        }
    }

    pub(super) fn partitions_in(&self, directory: &Arc<LogDir>) -> Vec<Arc<Partition>> {
        let mut partitions = self.partitions();
        partitions.retain(|partition| partition.is_in(directory));
        partitions
    }

    /// Gives up leaderships where the disk does not answer, and takes directories whose disk failed out of use.
    async fn watch_directories(self: Arc<Self>) {
        let mut watches: HashMap<PathBuf, StallWatch> = HashMap::new();
        let mut reopenings: HashMap<PathBuf, ReopeningPause> = HashMap::new();
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.context.storage_failed.notified() => {}
            }
            if self.is_stopping() {
                return;
            }
            self.give_up_unopened().await;
            self.open_waiting_logs();
            for directory in self.log_dirs.all() {
                if directory.health().is_failed() {
                    self.leave_failed(directory).await;
                    self.give_up_impaired(directory, false).await;
                    continue;
                }
                let looks = watches.entry(directory.path().clone()).or_default().look(directory.health());
                // First: what the tree then says of its partitions must not wait for it.
                directory.health().set_stalled(looks >= STALLED_LOOKS);
                // The quorum is asked again only as often as that.
                let gives_up = looks >= STALLED_LOOKS && looks.is_multiple_of(STALLED_LOOKS);
                if gives_up {
                    tracing::error!(
                        directory = %directory.path().display(), seconds = looks,
                        "the log directory does not answer: its leaderships are given up"
                    );
                }
                self.give_up_impaired(directory, gives_up).await;
                if !directory.health().is_stalled() {
                    self.reopen_logs(directory, reopenings.entry(directory.path().clone()).or_default());
                }
            }
            self.show_directories();
            if self.log_dirs.all_failed() {
                self.last_directory_failed.notify_one();
            }
        }
    }

    async fn leave_failed(self: &Arc<Self>, directory: &Arc<LogDir>) {
        let (manager, owner) = (self.clone(), directory.clone());
        // On a thread that may wait: a write that does not come back holds its partition's lock.
        let left = tokio::task::spawn_blocking(move || {
            manager.log_dirs.distrust_registration();
            let partitions = manager.partitions_in(&owner);
            if partitions.iter().filter(|partition| partition.fail_if_open()).count() > 0 {
                manager.metrics.leader_partitions.set(manager.count_leaders());
            }
            manager.fetchers.update(&partitions);
        });
        // Others are asked to lead in any case.
        let _ = tokio::time::timeout(WATCH_INTERVAL, left).await;
    }

    /// Gives up the places of replicas that the directory's disk keeps from serving.
    async fn give_up_impaired(&self, directory: &Arc<LogDir>, is_stalled: bool) {
        let health = directory.health();
        let state = DirectoryState { is_failed: health.is_failed(), is_full: health.is_full(), is_stalled };
        if state == DirectoryState::default() {
            return;
        }
        let partitions = self.partitions_in(directory);
        for impairment in [Impairment::Unreadable, Impairment::Unwritable] {
            let is_impaired =
                |partition: &&Arc<Partition>| state.impairment(partition.is_out_of_room()) == Some(impairment);
            self.give_up(partitions.iter().filter(is_impaired).map(|partition| partition.id()).collect(), impairment)
                .await;
        }
    }

    fn show_directories(&self) {
        let count = |is: fn(&DirectoryHealth) -> bool| {
            let directories = self.log_dirs.all().iter().filter(|directory| is(directory.health()));
            i64::try_from(directories.count()).unwrap_or(i64::MAX)
        };
        self.metrics.log_directories_offline.set(count(DirectoryHealth::is_failed));
        self.metrics.log_directories_full.set(count(DirectoryHealth::is_full));
        self.metrics.log_directories_stalled.set(count(DirectoryHealth::is_stalled));
    }

    /// Completes when no log directory works any more: the broker has nothing left to serve from.
    pub async fn last_directory_failed(&self) {
        self.last_directory_failed.notified().await;
    }

    /// Tries again to open the logs for which a disk had no room.
    fn open_waiting_logs(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *self.waiting_logs.lock());
        for partition in waiting.into_iter().filter(|partition| !partition.is_closed()) {
            let manager = self.clone();
            partition.directory().run(Urgency::Urgent, move || manager.create_logs(&[partition]));
        }
    }

    fn count_leaders(&self) -> i64 {
        i64::try_from(self.partitions().iter().filter(|partition| partition.leads()).count()).unwrap_or(i64::MAX)
    }

    /// Partitions whose logs were not opened, or are gone.
    async fn give_up_unopened(self: &Arc<Self>) {
        for impairment in [Impairment::Lost, Impairment::Unreadable, Impairment::Unwritable] {
            let impaired = self.replicas.lock().impaired(impairment);
            self.give_up(impaired, impairment).await;
        }
        if !self.has_unclaimed.swap(false, Ordering::AcqRel) {
            return;
        }
        // On a thread that may wait: the others' disks are watched meanwhile.
        let manager = self.clone();
        let claiming = tokio::task::spawn_blocking(move || {
            let is_left = manager.claim_replaced_directories();
            manager.has_unclaimed.store(is_left, Ordering::Release);
        });
        let _ = tokio::time::timeout(WATCH_INTERVAL, claiming).await;
    }

    /// Once the quorum counts on nothing that was lost with a replaced directory, that directory is an ordinary one.
    /// Says whether one is left. Waits for the disk.
    fn claim_replaced_directories(&self) -> bool {
        if !self.log_dirs.has_replaced() {
            return false;
        }
        if !self.replicas.lock().may_claim_replaced() {
            return true;
        }
        let Some(meta) = self.log_dirs.meta().ok().flatten() else { return true };
        let Some(cluster_id) = &meta.cluster_id else { return true };
        match self.log_dirs.claim_replaced(meta.broker_id, cluster_id) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, "a replaced log directory is not claimed yet");
                true
            }
        }
    }

    /// Asks the quorum not to count on these partitions' replicas here, each for the reason that [`places_to_give_up`]
    /// finds; asked again by the next look, until the image shows it.
    async fn give_up(&self, partitions: Vec<TopicIdPartition>, impairment: Impairment) {
        let image = self.metadata.current();
        let (local, rules) = (self.identity.id(), BrokenRules::default());
        let Some((reason, given)) = places_to_give_up(local, &image, partitions, impairment, rules) else { return };
        let count = given.len();
        match self.quorum.resign_leadership(given, reason).await {
            Ok(_) => tracing::warn!(partitions = count, ?reason, "left ISRs because of a log directory"),
            Err(error) => {
                tracing::warn!(
                    partitions = count, ?reason, %error,
                    "did not leave ISRs yet, although a log directory stalls or failed"
                )
            }
        }
    }

    /// From now on nothing is taken from the tree and nothing is fetched; what leads goes on until it is closed.
    pub fn begin_shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        self.context.cleaner.begin_stop();
        self.fetchers.stop();
    }

    /// Closes every log and says so on disk, so that the next start trusts what it finds. Blocks.
    pub fn shutdown_clean(&self, epoch: BrokerEpoch) -> Result<(), LogDirsError> {
        self.begin_shutdown();
        self.context.cleaner.stop();
        let delta_state = self.delta_state.lock();
        if !self.replicas.lock().is_current() {
            return self.leave_as_found(&delta_state);
        }
        let mut result = Ok(());
        for directory in self.log_dirs.all() {
            if let Err(error) = self.close_directory(directory, epoch) {
                tracing::warn!(
                    directory = %directory.path().display(), %error,
                    "a log directory is not closed cleanly"
                );
                result = Err(error);
            }
        }
        result
    }

    /// Nothing was written: keeps the mark of the previous run's clean shutdown.
    fn leave_as_found(&self, delta_state: &DeltaState) -> Result<(), LogDirsError> {
        drop(self.replicas.lock().take_found());
        for directory in self.log_dirs.all() {
            directory.stop_io();
            if delta_state.last_run.closed {
                directory.write_clean_shutdown(delta_state.last_run.whole_since)?;
            }
        }
        Ok(())
    }

    fn close_directory(&self, directory: &Arc<LogDir>, epoch: BrokerEpoch) -> Result<(), LogDirsError> {
        // What is being created, renamed or synced comes first.
        directory.stop_io();
        let partitions = self.partitions_in(directory);
        let closed: Vec<_> = std::thread::scope(|scope| {
            let per_thread = partitions.len().div_ceil(CLOSING_THREADS).max(1);
            let running: Vec<_> =
                partitions.chunks(per_thread).map(|chunk| scope.spawn(move || close_all(chunk))).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let all_closed = closed.iter().map(|closed| closed.recovery_points.len()).sum::<usize>() == partitions.len();
        if directory.health().is_failed() {
            return Ok(());
        }
        let high_watermarks = offsets(&partitions, CheckpointKind::HighWatermark);
        let recovery_points = closed.iter().flat_map(|closed| &closed.recovery_points).cloned().collect::<Vec<_>>();
        let log_starts = closed.iter().flat_map(|closed| &closed.log_starts).cloned().collect::<Vec<_>>();
        directory.write_checkpoint(CheckpointKind::HighWatermark, || high_watermarks.clone())?;
        directory.write_checkpoint(CheckpointKind::RecoveryPoint, || recovery_points.clone())?;
        directory.write_checkpoint(CheckpointKind::LogStart, || log_starts.clone())?;
        if all_closed {
            directory.write_clean_shutdown(epoch)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Closed {
    recovery_points: Collected,
    log_starts: Collected,
}

/// Says nothing of a log that was not closed: its checkpoints would not be of what is on disk.
fn close_all(partitions: &[Arc<Partition>]) -> Closed {
    let mut closed = Closed::default();
    for partition in partitions {
        let name = partition.topic_partition();
        // One whose log was never opened here makes the whole unclean.
        let Some(mut log) = partition.close(ErrorCode::NotLeaderOrFollower) else {
            continue;
        };
        if let Err(error) = log.close(clock::monotonic()) {
            tracing::warn!(partition = %name, %error, "a log is not closed");
            continue;
        }
        closed.recovery_points.push((name.clone(), Some(log.recovery_point())));
        closed.log_starts.push((name, Some(log.log_start_offset())));
    }
    closed
}

fn offsets(partitions: &[Arc<Partition>], kind: CheckpointKind) -> Collected {
    let offset = |partition: &Partition| match kind {
        CheckpointKind::HighWatermark => Some(partition.high_watermark()),
        CheckpointKind::RecoveryPoint => partition.with_log(|log| log.recovery_point()),
        CheckpointKind::LogStart => partition.with_log(|log| log.log_start_offset()),
        // The cleaner's own.
        CheckpointKind::Cleaner => None,
    };
    partitions.iter().map(|partition| (partition.topic_partition(), offset(partition))).collect()
}

pub(super) fn interval(period: Duration) -> tokio::time::Interval {
    let period = period.max(Duration::from_millis(1));
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
