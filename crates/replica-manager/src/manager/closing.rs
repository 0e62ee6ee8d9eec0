//! The end: every log is closed, and its directory says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{BrokerEpoch, ErrorCode};
use ottla_storage::{CheckpointKind, ClosedLogs};

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

/// Closes logs. A log that cannot be closed has no checkpoints: they would not describe what is on the disk.
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
