//! The end: every log is closed, and its directory says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{BrokerEpoch, ErrorCode};
use ottla_storage::{CheckpointKind, Collected};

use super::upkeep::offsets;
use super::{DeltaState, ReplicaManager};
use crate::clock;
use crate::log_dirs::{LogDir, LogDirsError};
use crate::partition::Partition;

/// Logs that one thread closes at the end; more threads than that wait for the same disk.
const CLOSING_THREADS: usize = 4;

impl ReplicaManager {
    /// From now on no delta is applied and nothing is fetched; leaders serve until they are closed.
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

/// Closes logs. A log that cannot be closed has no checkpoints: they would not describe what is on the disk.
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
