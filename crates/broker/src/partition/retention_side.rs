//! What a partition gives up: old segments, and records that somebody deletes.
//!
//! Both move the log's start. A leader's followers hear of it with their next answer, and it is given up to hurry: they are
//! woken. DeleteRecords waits for the *low watermark*, the lowest log start of all replicas that live.

use ottla_model::{ErrorCode, Offset, TimestampMs};
use ottla_storage::DeletedFiles;

use super::leader_side::leading;
use super::waiters::Wakes;
use super::{AckWait, LogState, Partition, Role, State, follower_side};

/// DeleteRecords' name for the high watermark.
const HIGH_WATERMARK: Offset = Offset(-1);

impl Partition {
    /// Takes out the segments that the log no longer keeps; the caller removes the files, and how many milliseconds later. Waits
    /// for the disk, briefly.
    pub fn delete_old_segments(&self, now: TimestampMs) -> Option<(DeletedFiles, i64)> {
        let mut wakes = Wakes::default();
        let mut guard = self.lock();
        let state = &mut *guard;
        let high_watermark = state.high_watermark_now();
        let LogState::Open(log) = &mut state.log else { return None };
        // Producers that have not been heard of for `producer.id.expiration.ms` are forgotten too, or they would be kept for ever.
        log.remove_expired_producers(now);
        let start = log.log_start_offset();
        let deleted = self.directory.load().health().clone().writing(|| log.delete_old_segments(high_watermark, now));
        let log_start = log.log_start_offset();
        let delay_ms = log.config().file_delete_delay_ms;
        if log_start > start {
            tracing::info!(partition = %self.name(), from = %start, to = %log_start, "old segments are given up");
            match &mut state.role {
                Role::Leader(leader) => leader.log_start_moved(log_start),
                Role::Follower(follower) => follower.log_start_moved(follower_side::local(log)),
                Role::Idle => {}
            }
            state.subscribers.changed(&mut wakes);
            self.complete_deletions(state, &mut wakes);
        }
        match deleted {
            Ok(deleted) if deleted.is_empty() => None,
            Ok(deleted) => Some((deleted, delay_ms)),
            Err(error) => {
                // A full disk, or too few descriptors: the next round tries again.
                if let LogState::Open(log) = &state.log {
                    self.disk_refused(log, &error, Some(&error));
                }
                None
            }
        }
    }

    /// DeleteRecords: the log starts at `before` from now on, or at the high watermark for −1. `ack` is told when every
    /// replica that lives starts there, or when it is known not to happen.
    ///
    /// # Errors
    /// Nothing was deleted; `ack` was not told.
    pub fn delete_records(&self, before: Offset, ack: AckWait<'_>, wakes: &mut Wakes) -> Result<(), ErrorCode> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (leader, log) = leading(state)?;
        // As Kafka: a log that is only compacted keeps its records; one without any policy may lose them.
        if log.config().compact && !log.config().deletes {
            return Err(ErrorCode::PolicyViolation);
        }
        let high_watermark = leader.high_watermark();
        let before = if before == HIGH_WATERMARK { high_watermark } else { before };
        if before < Offset::ZERO || before > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if log.advance_log_start(before) {
            leader.log_start_moved(before);
            state.subscribers.changed(wakes);
            self.host.log_start_moved.notify_one();
        }
        state.deletions.push(before, ack.pending.clone(), ack.place);
        self.complete_deletions(state, wakes);
        Ok(())
    }

    /// The lowest log start of the replicas that live; [`Offset::UNKNOWN`] where this one does not lead, or one has not been heard
    /// of yet.
    pub fn low_watermark(&self) -> Offset {
        match &self.lock().role {
            Role::Leader(leader) => leader.low_watermark(&|broker| self.host.eligible_epoch(broker)),
            _ => Offset::UNKNOWN,
        }
    }

    /// A log start, or who lives, may have changed.
    pub(super) fn complete_deletions(&self, state: &mut State, wakes: &mut Wakes) {
        if state.deletions.is_empty() {
            return;
        }
        if let Role::Leader(leader) = &state.role {
            let low_watermark = leader.low_watermark(&|broker| self.host.eligible_epoch(broker));
            state.deletions.complete_up_to(low_watermark, wakes);
        }
    }
}
