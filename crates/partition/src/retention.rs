//! Deletion of old segments, and of records by DeleteRecords.
//!
//! Both move the log's start. A leader's followers learn it with their next answer; their fetches are woken, so that
//! the space is given up soon. DeleteRecords waits for the *low watermark*, the lowest log start of all replicas that
//! live.

use std::io;

use ottla_model::{ErrorCode, Offset, TimestampMs};
use ottla_replication::Brokers;
use ottla_storage::{DeletedFiles, Env};

use crate::ack_waiters::Ack;
use crate::effects::Effects;
use crate::replica::{LogState, Replica, Role, local_log};

/// DeleteRecords' name for the high watermark.
const HIGH_WATERMARK: Offset = Offset(-1);

/// The result of one retention pass.
pub struct Retained<A> {
    pub effects: Effects<A>,
    /// The log's start before and after.
    pub log_start: (Offset, Offset),
    /// Files to be removed, `file.delete.delay.ms` later.
    pub files: io::Result<DeletedFiles>,
    pub delay_ms: i64,
}

impl<E: Env, A: Ack> Replica<E, A> {
    /// Takes out the segments that the log no longer keeps, and forgets producers that have been silent for
    /// `producer.id.expiration.ms`. None without an open log. Waits for the disk, briefly.
    pub fn delete_old_segments(&mut self, now: TimestampMs, brokers: &impl Brokers) -> Option<Retained<A>> {
        let high_watermark = self.high_watermark();
        let LogState::Open(log) = &mut self.log else { return None };
        log.remove_expired_producers(now);
        let before = log.log_start_offset();
        let files = log.delete_old_segments(high_watermark, now);
        let (after, delay_ms) = (log.log_start_offset(), log.config().file_delete_delay_ms);
        let mut effects = Effects::default();
        if after > before {
            match &mut self.role {
                Role::Leader(leader) => leader.log_start_moved(after),
                Role::Follower(follower) => follower.log_start_moved(local_log(log)),
                Role::Idle => {}
            }
            effects.changed = true;
            self.complete_deletions(brokers, &mut effects);
        }
        Some(Retained { effects, log_start: (before, after), files, delay_ms })
    }

    /// DeleteRecords: the log starts at `before` from now on, or at the high watermark for −1. The answer that `ack`
    /// makes is complete when every live replica starts there. Also says whether the log's start moved.
    ///
    /// # Errors
    /// Nothing was deleted, and `ack` was not called.
    pub fn delete_records(
        &mut self,
        before: Offset,
        ack: impl FnOnce() -> A,
        brokers: &impl Brokers,
    ) -> Result<(Effects<A>, bool), ErrorCode> {
        let high_watermark = self.leading()?.0.high_watermark();
        let (Role::Leader(leader), LogState::Open(log)) = (&mut self.role, &mut self.log) else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        // As Kafka: a log that is only compacted keeps its records; one without any policy may lose them.
        if log.config().compact && !log.config().deletes {
            return Err(ErrorCode::PolicyViolation);
        }
        let before = if before == HIGH_WATERMARK { high_watermark } else { before };
        if before < Offset::ZERO || before > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let has_moved = log.advance_log_start(before);
        let mut effects = Effects::default();
        if has_moved {
            leader.log_start_moved(before);
            effects.changed = true;
        }
        self.deletions.push(before, ack());
        self.complete_deletions(brokers, &mut effects);
        Ok((effects, has_moved))
    }

    /// The lowest log start offset of the live replicas; [`Offset::UNKNOWN`] if this replica does not lead, or has not
    /// yet heard from one of them.
    pub fn low_watermark(&self, brokers: &impl Brokers) -> Offset {
        self.leader().map_or(Offset::UNKNOWN, |leader| leader.low_watermark(brokers))
    }
}
