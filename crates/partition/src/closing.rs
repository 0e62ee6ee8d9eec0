//! The end of a process: its logs are closed, directory by directory, and each directory says so, so that the next
//! start trusts what it finds.

use std::io;

use ottla_model::{BrokerEpoch, MonotonicMs, Offset, TopicPartition};
use ottla_storage::{ClosedLogs, Collected, DirectoryError, Env, LastRun, Log, LogDir, LogDirs, LogDirsError};

/// The replicas of one directory that have ended.
#[derive(Default, Debug)]
pub struct ClosedReplicas {
    high_watermarks: Collected,
    logs: ClosedLogs,
}

impl ClosedReplicas {
    /// A replica has ended ([`crate::Replica::close`]) at this high watermark. One without a log makes the whole
    /// unclean: its log was never opened here.
    ///
    /// # Errors
    /// The log cannot be closed. Its checkpoints stay as they are: new ones would not describe what is on the disk.
    pub fn add<E: Env>(
        &mut self,
        partition: TopicPartition,
        high_watermark: Offset,
        log: Option<Box<Log<E>>>,
        now: MonotonicMs,
    ) -> io::Result<()> {
        let close = |mut log: Box<Log<E>>| log.close(now).map(|()| (log.recovery_point(), log.log_start_offset()));
        let closed = log.map(close).transpose();
        self.logs.add(&partition, closed.as_ref().ok().copied().flatten());
        self.high_watermarks.push((partition, Some(high_watermark)));
        closed.map(|_| ())
    }

    /// Other replicas of the same directory, which another thread has closed.
    pub fn append(&mut self, mut other: Self) {
        self.high_watermarks.append(&mut other.high_watermarks);
        self.logs.append(other.logs);
    }
}

/// See the module.
#[must_use]
#[derive(Debug)]
pub struct Shutdown {
    /// None before the image has been loaded: nothing was written to any log.
    epoch: Option<BrokerEpoch>,
    last_run: LastRun,
    refused: Option<DirectoryError>,
}

impl Shutdown {
    /// The process ends as the broker of `epoch`. `is_current`: the image has been loaded.
    pub fn begin(epoch: BrokerEpoch, is_current: bool, last_run: LastRun) -> Self {
        Self { epoch: is_current.then_some(epoch), last_run, refused: None }
    }

    /// Leaves a directory, in which nothing runs any more. One that refuses does not keep the others from being left:
    /// returns why it refuses. Waits for the disk.
    pub fn leave<E: Env>(&mut self, directory: &LogDir<E>, closed: &ClosedReplicas) -> Option<&DirectoryError> {
        let epoch = self.epoch?;
        let replicas = closed.high_watermarks.len();
        let left = directory.leave(epoch, replicas, &closed.high_watermarks, &closed.logs);
        let error = left.err()?;
        Some(self.refused.insert(error))
    }

    /// After the last directory. Waits for the disk.
    ///
    /// # Errors
    /// The next start recovers the logs of some directory.
    pub fn end<E: Env>(self, log_dirs: &LogDirs<E>) -> Result<(), LogDirsError> {
        match (self.epoch, self.refused) {
            (None, _) => log_dirs.leave_as_found(self.last_run),
            (Some(_), Some(error)) => Err(error.into()),
            (Some(_), None) => Ok(()),
        }
    }
}
