//! Retention and DeleteRecords: the replica decides, the handle wakes and reports.

use std::sync::Arc;

use ottla_model::{ErrorCode, Offset, TimestampMs};
use ottla_storage::{DeletedFiles, DirectoryError};

use super::touched::Pass;
use super::waiters::Wakes;
use super::{AckWait, Crowded, Partition};
use crate::log_dirs::LogDir;
use crate::log_io;

impl Partition {
    /// Takes out the segments that the log no longer keeps. Returns the files to delete and the delay in milliseconds.
    /// Waits for the disk, briefly.
    pub fn delete_old_segments(&self, now: TimestampMs) -> Option<(DeletedFiles, i64)> {
        let search = self.lock_quietly().replica.log_mut().and_then(|log| log.age_search(now));
        if let Some(search) = search {
            // Without the lock. The pass below meets an error that has not passed.
            let _ = search.run();
        }
        let mut wakes = Wakes::default();
        let mut guard = self.lock_quietly();
        let state = &mut *guard;
        let health = self.directory.load().health().clone();
        let brokers = |broker| self.context.eligible_epoch(broker);
        let replica = &mut state.replica;
        let retained = log_io::writing(&health, || replica.delete_old_segments(now, &brokers))?;
        if state.replica.log().is_some_and(|log| log.open_files() > 0) {
            self.look_again(Pass::Files);
        }
        let (from, to) = retained.log_start;
        // Also of an attempt that failed: it may have taken segments out of the log.
        if to > from || !retained.files.as_ref().is_ok_and(DeletedFiles::is_empty) {
            self.touch();
        }
        if to > from {
            tracing::info!(partition = %self.name(), %from, %to, "old segments are deleted");
        }
        self.execute(state, retained.effects, &mut wakes);
        match retained.files {
            Ok(files) if files.is_empty() => None,
            Ok(files) => Some((files, retained.delay_ms)),
            Err(error) => {
                // A full disk, or too few descriptors: the next round tries again.
                self.disk_refused(&state.replica, &error, Some(&error));
                None
            }
        }
    }

    /// DeleteRecords: the log starts at `before` from now on, or at the high watermark for −1. `ack` is completed when
    /// every live replica starts there, or when it is known not to happen.
    ///
    /// # Errors
    /// Nothing was deleted; `ack` was not completed.
    pub fn delete_records(&self, before: Offset, ack: AckWait<'_>, wakes: &mut Wakes) -> Result<(), ErrorCode> {
        let mut guard = self.lock_for_client()?;
        let state = &mut *guard;
        let brokers = |broker| self.context.eligible_epoch(broker);
        let (effects, has_moved) = state.replica.delete_records(before, || ack.answer(), &brokers)?;
        if has_moved {
            self.context.log_start_moved.notify_one();
        }
        self.execute(state, effects, wakes);
        Ok(())
    }

    /// Notes that the log, which is in `directory`, is clean up to this offset; none if it is not there any more. Waits
    /// for the disk, with the lock: a partition that leaves takes its offsets out of the directory's files, and one
    /// that is truncated lowers them. One that came later would be another log's: its records would count as clean, and
    /// their keys would be kept for ever.
    pub fn set_clean_offset(&self, directory: &Arc<LogDir>, offset: Offset) -> Option<Result<(), DirectoryError>> {
        self.with_log(|log| {
            let offset = offset.min(log.recovery_point());
            let set = || directory.set_clean_offset(&self.topic_partition(), offset);
            self.is_in(directory).then(|| log_io::writing(directory.health(), set))
        })?
    }

    /// The lowest log start of the replicas that live; [`Offset::UNKNOWN`] where this one does not lead, or one has not
    /// been heard of yet, or too many wait for the disk.
    pub fn low_watermark(&self) -> Offset {
        match self.lock_for_client() {
            Ok(state) => state.replica.low_watermark(&|broker| self.context.eligible_epoch(broker)),
            Err(Crowded) => Offset::UNKNOWN,
        }
    }
}
