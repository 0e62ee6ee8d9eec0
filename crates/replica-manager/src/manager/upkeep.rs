//! Timers of all partitions: followers that lag leave ISRs, checkpoints are written, idle files are closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_model::TopicIdPartition;
use ottla_partition::{CheckpointIntervals, CheckpointSchedule, DueCheckpoints, write_checkpoints};
use ottla_resources::giving_way::give_way;
use ottla_storage::{CheckpointKind, Collected};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::ReplicaManager;
use super::log_metrics::CountedLogs;
use crate::clock;
use crate::log_dirs::LogDir;
use crate::log_io::Urgency;
use crate::partition::Partition;
use crate::partition::touched::Pass;

/// How often the logs of each directory are added up for metrics.
const DIRECTORY_SUMS_INTERVAL: Duration = Duration::from_secs(10);
/// Partitions that are looked at before other tasks of the thread get their turn.
pub(super) const PARTITIONS_PER_TURN: usize = 500;

/// Which offsets may differ from those that were written last.
#[derive(Default)]
struct ChangedOffsets {
    high_watermark: bool,
    recovery_point: bool,
    log_start: bool,
}

impl ReplicaManager {
    /// Starts the timers. The watch over the directories runs on the calling runtime: a stalled write holds up `data`.
    pub(super) fn start_upkeep(self: &Arc<Self>, data: &Handle) {
        data.spawn(self.clone().tick_leaders());
        data.spawn(self.clone().write_checkpoints());
        for directory in self.log_dirs.all() {
            data.spawn(self.clone().delete_old_segments(directory.clone()));
        }
        data.spawn(self.clone().sum_directories());
        tokio::spawn(self.clone().watch_directories());
    }

    /// Checks followers twice per `replica.lag.time.max.ms`, as Kafka; of leaders that may have something to do.
    async fn tick_leaders(self: Arc<Self>) {
        let mut interval = interval(self.config.replica_lag_time_max / 2);
        loop {
            interval.tick().await;
            self.tick_touched_leaders().await;
        }
    }

    /// Ticks the leaders that may have something to do.
    pub(super) async fn tick_touched_leaders(&self) {
        for ids in self.context.touched.take(Pass::Leaders).chunks(PARTITIONS_PER_TURN) {
            let now = clock::monotonic();
            for partition in self.looked_at(Pass::Leaders, ids).filter(|partition| partition.leads()) {
                partition.tick(now);
            }
            give_way().await;
        }
    }

    /// Those of the partitions that are still here; this pass looks at them now.
    fn looked_at(&self, pass: Pass, ids: &[TopicIdPartition]) -> impl Iterator<Item = Arc<Partition>> {
        let partitions = ids.iter().filter_map(|id| self.partition(*id));
        partitions.inspect(move |partition| partition.looked_at(pass))
    }

    async fn write_checkpoints(self: Arc<Self>) {
        let intervals = CheckpointIntervals {
            high_watermark: self.config.replica_high_watermark_checkpoint_interval,
            recovery_point: self.config.log_flush_offset_checkpoint_interval,
            log_start: self.config.log_flush_start_offset_checkpoint_interval,
        };
        let mut schedule = CheckpointSchedule::new(clock::monotonic(), intervals);
        let mut changed = ChangedOffsets::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(clock::instant(schedule.next_at())) => {}
                () = self.context.segment_flushed.notified() => schedule.segment_flushed(clock::monotonic()),
                () = self.context.log_start_moved.notified() => schedule.log_start_moved(clock::monotonic()),
            }
            if self.is_stopping() {
                return;
            }
            let may_differ = |kind| self.may_differ(&mut changed, kind);
            let DueCheckpoints { kinds, closes_idle_files } = schedule.take_due(clock::monotonic(), may_differ);
            if closes_idle_files {
                self.close_idle_files();
            }
            if kinds.is_empty() {
                continue;
            }
            for directory in self.log_dirs.all() {
                let (manager, owner, kinds) = (self.clone(), directory.clone(), kinds.clone());
                directory.run(Urgency::Background, move || manager.checkpoint(&owner, &kinds));
            }
        }
    }

    /// Whether offsets of this kind may differ from those that were written last.
    fn may_differ(&self, changed: &mut ChangedOffsets, kind: CheckpointKind) -> bool {
        let moved = self.context.high_watermarks_moved.swap(false, Ordering::AcqRel);
        let touched = self.context.touched.take(Pass::Checkpoints);
        self.looked_at(Pass::Checkpoints, &touched).for_each(drop);
        let unwritten = self.context.checkpoints_unwritten.swap(false, Ordering::AcqRel);
        changed.high_watermark |= moved || unwritten;
        changed.recovery_point |= !touched.is_empty() || unwritten;
        changed.log_start |= !touched.is_empty() || unwritten;
        match kind {
            CheckpointKind::HighWatermark => std::mem::take(&mut changed.high_watermark),
            CheckpointKind::RecoveryPoint => std::mem::take(&mut changed.recovery_point),
            CheckpointKind::LogStart => std::mem::take(&mut changed.log_start),
            CheckpointKind::Cleaner => false,
        }
    }

    /// For a page of metrics, which may not look at tens of thousands of logs. Nor does this: only at those that may
    /// have changed.
    async fn sum_directories(self: Arc<Self>) {
        let mut interval = interval(DIRECTORY_SUMS_INTERVAL);
        let mut counted = CountedLogs::default();
        loop {
            interval.tick().await;
            if self.is_stopping() {
                return;
            }
            let touched = self.context.touched.take(Pass::Sums);
            if touched.is_empty() {
                continue;
            }
            for ids in touched.chunks(PARTITIONS_PER_TURN) {
                for id in ids {
                    match self.partition(*id) {
                        Some(partition) => {
                            partition.looked_at(Pass::Sums);
                            counted.count(&partition);
                        }
                        None => counted.forget(*id),
                    }
                }
                give_way().await;
            }
            self.metrics.logs.show_directories(counted.sums());
        }
    }

    fn close_idle_files(self: &Arc<Self>) {
        let touched = self.context.touched.take(Pass::Files);
        if touched.is_empty() {
            return;
        }
        let partitions: Vec<_> = self.looked_at(Pass::Files, &touched).collect();
        for directory in self.log_dirs.all() {
            let here: Vec<_> = partitions.iter().filter(|partition| partition.is_in(directory)).cloned().collect();
            // A partition's lock may be held until its disk answers.
            directory.run(Urgency::Background, move || here.iter().for_each(|partition| partition.close_idle_files()));
        }
    }

    /// Writes checkpoints of one directory. Waits for the disk.
    pub(super) fn checkpoint(&self, directory: &Arc<LogDir>, kinds: &[CheckpointKind]) {
        // Not before its partitions can be found: the files would lose all of them.
        let is_current = self.hosted.load().is_loaded;
        if !is_current {
            self.context.checkpoints_unwritten.store(true, Ordering::Release);
        }
        let written =
            write_checkpoints(directory, is_current, kinds, |kind| offsets(&self.partitions_in(directory), kind));
        if let Err(error) = written {
            self.context.checkpoints_unwritten.store(true, Ordering::Release);
            self.context.directory_refused(directory, &error, error.io());
        }
    }

    pub(super) fn partitions_in(&self, directory: &Arc<LogDir>) -> Vec<Arc<Partition>> {
        let mut partitions = self.partitions();
        partitions.retain(|partition| partition.is_in(directory));
        partitions
    }
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
