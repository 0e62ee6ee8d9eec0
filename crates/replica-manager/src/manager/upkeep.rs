//! Timers of all partitions: followers that lag leave ISRs, checkpoints are written, directories that stall or fail
//! give up their leaderships; and the shutdown, which closes the logs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_model::{BrokerEpoch, ErrorCode, TopicIdPartition};
use ottla_partition::{BrokenRules, DirectoryLook, DirectoryWatch, Impairment, WATCH_INTERVAL, places_to_give_up};
use ottla_storage::{CheckpointKind, ClosedLogs, Collected, DirectoryHealth};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::{DeltaState, ReplicaManager};
use crate::clock;
use crate::log_dirs::Log;
use crate::log_dirs::{LogDir, LogDirsError};
use crate::log_io::Urgency;
use crate::partition::Partition;

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

    /// Looks at the directories now and then, and when a write failed ([`ottla_partition::upkeep`]).
    async fn watch_directories(self: Arc<Self>) {
        let mut watches: Vec<DirectoryWatch> = self.log_dirs.all().iter().map(|_| DirectoryWatch::default()).collect();
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            let is_due = tokio::select! {
                _ = interval.tick() => true,
                () = self.context.storage_failed.notified() => false,
            };
            if self.is_stopping() {
                return;
            }
            self.give_up_unopened().await;
            if is_due {
                self.open_waiting_logs();
            }
            for (directory, watch) in self.log_dirs.all().iter().zip(&mut watches) {
                let look = watch.look(directory.health(), is_due, BrokenRules::default());
                if look.is_failed {
                    self.leave_failed(directory).await;
                }
                if let Some(seconds) = look.stalled_looks {
                    tracing::error!(
                        directory = %directory.path().display(), seconds,
                        "the log directory does not answer: its leaderships are given up"
                    );
                }
                self.give_up_impaired(directory, look).await;
                if look.may_reopen {
                    self.reopen_logs(directory, watch);
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
            if partitions.iter().filter(|partition| partition.directory_failed()).count() > 0 {
                manager.metrics.leader_partitions.set(manager.count_leaders());
            }
            manager.fetchers.update(&partitions);
        });
        // Others are asked to lead in any case.
        let _ = tokio::time::timeout(WATCH_INTERVAL, left).await;
    }

    /// Gives up the places of replicas that the directory's disk keeps from serving.
    async fn give_up_impaired(&self, directory: &Arc<LogDir>, look: DirectoryLook) {
        if !look.is_impaired() {
            return;
        }
        let partitions = self.partitions_in(directory);
        let replicas = partitions.iter().map(|partition| (partition.id(), partition.is_out_of_room()));
        for (impairment, replicas) in look.impaired(replicas) {
            self.give_up(replicas, impairment).await;
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
        for impairment in Impairment::ALL {
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
        }
        self.log_dirs.leave_as_found(delta_state.last_run)
    }

    fn close_directory(&self, directory: &Arc<LogDir>, epoch: BrokerEpoch) -> Result<(), LogDirsError> {
        // What is being created, renamed or synced comes first.
        directory.stop_io();
        let partitions = self.partitions_in(directory);
        let per_thread = partitions.len().div_ceil(CLOSING_THREADS).max(1);
        let mut closed = ClosedLogs::default();
        std::thread::scope(|scope| {
            let close = |chunk| scope.spawn(move || close_all(chunk));
            let running: Vec<_> = partitions.chunks(per_thread).map(close).collect();
            running.into_iter().for_each(|thread| closed.append(thread.join().unwrap_or_default()));
        });
        let high_watermarks = offsets(&partitions, CheckpointKind::HighWatermark);
        Ok(directory.leave(epoch, partitions.len(), &high_watermarks, &closed)?)
    }
}

fn close_all(partitions: &[Arc<Partition>]) -> ClosedLogs {
    let mut closed = ClosedLogs::default();
    for partition in partitions {
        let name = partition.topic_partition();
        // One whose log was never opened here makes the whole unclean.
        let Some(mut log) = partition.close(ErrorCode::NotLeaderOrFollower) else { continue };
        match log.close(clock::monotonic()) {
            Ok(()) => closed.add(&name, log.recovery_point(), log.log_start_offset()),
            Err(error) => tracing::warn!(partition = %name, %error, "a log is not closed"),
        }
    }
    closed
}

fn offsets(partitions: &[Arc<Partition>], kind: CheckpointKind) -> Collected {
    partitions.iter().map(|partition| (partition.topic_partition(), partition.checkpointed(kind))).collect()
}

pub(super) fn interval(period: Duration) -> tokio::time::Interval {
    let period = period.max(Duration::from_millis(1));
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
