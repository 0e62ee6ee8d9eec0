//! The end: every log is closed, and its directory says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{BrokerEpoch, ErrorCode};
use ottla_partition::{ClosedReplicas, Shutdown};

use super::ReplicaManager;
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
        // Or a log would come to a directory that has been left.
        self.await_last_steps();
        let delta_state = self.delta_state.lock();
        // The logs that no image has placed are dropped as they are.
        let (is_current, unplaced) = {
            let mut replicas = self.replicas.lock();
            (replicas.is_current(), replicas.take_found())
        };
        drop(unplaced);
        let mut shutdown = Shutdown::begin(epoch, is_current, delta_state.last_run);
        for directory in self.log_dirs.all() {
            let closed = self.close_directory(directory);
            if let Some(error) = shutdown.leave(directory, &closed) {
                tracing::warn!(
                    directory = %directory.path().display(), %error,
                    "a log directory is not closed cleanly"
                );
            }
        }
        self.log_dirs.end(shutdown)
    }

    fn close_directory(&self, directory: &Arc<LogDir>) -> ClosedReplicas {
        // What is being created, renamed or synced comes first.
        directory.stop_io();
        let partitions = self.partitions_in(directory);
        let per_thread = partitions.len().div_ceil(CLOSING_THREADS).max(1);
        let mut closed = ClosedReplicas::default();
        std::thread::scope(|scope| {
            let close = |chunk| scope.spawn(move || close_all(chunk));
            let running: Vec<_> = partitions.chunks(per_thread).map(close).collect();
            running.into_iter().for_each(|thread| closed.append(thread.join().unwrap_or_default()));
        });
        closed
    }
}

fn close_all(partitions: &[Arc<Partition>]) -> ClosedReplicas {
    let mut closed = ClosedReplicas::default();
    for partition in partitions {
        let log = partition.close(ErrorCode::NotLeaderOrFollower);
        let name = partition.topic_partition();
        if let Err(error) = closed.add(name, partition.high_watermark(), log, clock::monotonic()) {
            tracing::warn!(partition = %partition.name(), %error, "a log is not closed");
        }
    }
    closed
}
