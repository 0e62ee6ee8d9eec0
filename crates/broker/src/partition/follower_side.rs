//! What a partition does as a follower: takes what its leader's log has, and cuts what it has not.

use std::sync::Arc;
use std::time::Duration;

use ottla_model::{LeaderEpoch, MonotonicMs, Offset, TimestampMs};
use ottla_protocol::record_batch::BatchHeader;
use ottla_replication::{FetchAnswer, FetchPosition, Follower, FollowerAction, FollowerStep, LocalLog, Truncation};
use ottla_storage::{AppendError, DiskFault, ReadError};

use super::waiters::Wakes;
use super::{Log, LogState, Partition, Role, State};
use crate::clock;

/// The follower of `leader_epoch` and its log; none if the partition does something else by now.
fn following(state: &mut State, leader_epoch: LeaderEpoch) -> Option<(&mut Follower, &mut Log)> {
    match (&mut state.role, &mut state.log) {
        (Role::Follower(follower), LogState::Open(log)) if follower.leader_epoch() == leader_epoch => {
            Some((follower, log))
        }
        _ => None,
    }
}

pub(super) fn local(log: &Log) -> LocalLog {
    LocalLog {
        start: log.log_start_offset(),
        end: log.log_end_offset(),
        latest_epoch: log.epoch_history().latest_epoch(),
    }
}

impl Partition {
    /// What a fetcher does with this follower of `leader_epoch` now.
    pub fn next_step(&self, leader_epoch: LeaderEpoch) -> FollowerStep {
        let mut state = self.lock();
        following(&mut state, leader_epoch).map_or(FollowerStep::Stop, |(follower, _)| follower.next_step())
    }

    /// The leader's answer to `asked`.
    pub fn follower_answered(
        self: &Arc<Self>,
        asked: FetchPosition,
        answer: &FetchAnswer,
        records: &[u8],
        wall: TimestampMs,
    ) -> FollowerStep {
        let mut wakes = Wakes::default();
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some((follower, log)) = following(state, asked.leader_epoch) else { return FollowerStep::Stop };
        match follower.fetched(asked, answer, log.epoch_history()) {
            FollowerAction::Append => {}
            FollowerAction::Truncate(truncation) => return self.truncate(state, truncation, asked.leader_epoch, wall),
            FollowerAction::AskLeaderBounds => return FollowerStep::AskLeaderBounds,
            FollowerAction::FetchAgain => return follower.next_step(),
            FollowerAction::BackOff => return FollowerStep::BackOff,
            FollowerAction::AwaitNewEpoch => return FollowerStep::Stop,
            FollowerAction::Ignore => return follower.next_step(),
        }
        let mut rolled = false;
        if !records.is_empty() {
            // An answer to an earlier request than `asked` says brings what is here already.
            if BatchHeader::parse(records).is_ok_and(|first| first.next_offset() <= log.log_end_offset()) {
                return follower.next_step();
            }
            let health = self.directory.load().health().clone();
            match health.writing(|| log.append_as_follower(records, asked.leader_epoch, wall)) {
                Ok(appended) => {
                    self.disk_took();
                    rolled = appended.rolled;
                }
                Err(error @ AppendError::UnexpectedOffset { .. }) => {
                    // The leader's log may start within its first batch, in the middle of which this one ends.
                    return match follower.records_do_not_follow(answer) {
                        FollowerAction::Truncate(truncation) => {
                            self.truncate(state, truncation, asked.leader_epoch, wall)
                        }
                        _ => self.append_failed(log, &error),
                    };
                }
                Err(error) => return self.append_failed(log, &error),
            }
        }
        // Before the next fetch tells the leader that the records are here.
        let now = clock::monotonic();
        if log.flush_due(now)
            && let Err(error) = self.directory.load().health().writing(|| log.flush(now))
            && self.disk_refused(log, &error, Some(&error)) == DiskFault::Failed
        {
            return FollowerStep::Stop;
        }
        if log.config().flush_ms < i64::MAX && !records.is_empty() {
            self.start_flush_timer(log.config().flush_ms);
        }
        // The leader's log start: what lies before is not part of the partition any more.
        if answer.log_start > log.log_start_offset() && log.advance_log_start(answer.log_start) {
            follower.log_start_moved(local(log));
        }
        let moved = follower.appended(local(log), answer);
        let step = follower.next_step();
        if let Some(high_watermark) = moved {
            self.publish(high_watermark);
            state.subscribers.high_watermark_moved(&mut wakes);
        }
        drop(guard);
        if rolled {
            self.rolled();
        }
        step
    }

    fn append_failed(&self, log: &Log, error: &AppendError) -> FollowerStep {
        match error {
            AppendError::Io(_) | AppendError::Offline => match self.disk_refused(log, error, error.io()) {
                // Asked again after a pause; the leader waits for it no longer than the quorum takes.
                DiskFault::Full | DiskFault::OutOfDescriptors => FollowerStep::BackOff,
                DiskFault::Failed => FollowerStep::Stop,
            },
            // A damaged batch, or one that does not fit: nothing was appended, and asking again may bring a whole one.
            error => {
                tracing::warn!(partition = %self.name(), %error, "records of the leader are not appended");
                FollowerStep::BackOff
            }
        }
    }

    /// The answer to [`FollowerStep::AskLeaderBounds`]; none if the leader gave none.
    pub fn leader_bounds(&self, leader_epoch: LeaderEpoch, bounds: Option<(Offset, Offset)>) -> FollowerStep {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some((follower, _)) = following(state, leader_epoch) else { return FollowerStep::Stop };
        match follower.leader_bounds(bounds) {
            FollowerAction::Truncate(truncation) => self.truncate(state, truncation, leader_epoch, clock::wall()),
            FollowerAction::BackOff => FollowerStep::BackOff,
            _ => follower.next_step(),
        }
    }

    fn truncate(
        &self,
        state: &mut State,
        truncation: Truncation,
        leader_epoch: LeaderEpoch,
        wall: TimestampMs,
    ) -> FollowerStep {
        let Some((follower, log)) = following(state, leader_epoch) else { return FollowerStep::Stop };
        let before = log.log_end_offset();
        let cut = self.directory.load().health().writing(|| match truncation {
            Truncation::To(offset) => log.truncate_to(offset, wall).map(|_| ()),
            Truncation::FullyAndStartAt(offset) => {
                log.truncate_fully_and_start_at(offset, None).map_err(ReadError::from)
            }
        });
        if let Err(error) = cut {
            let cause = if let ReadError::Io(cause) = &error { Some(cause) } else { None };
            return match self.disk_refused(log, &error, cause) {
                // Nothing was cut.
                DiskFault::Full | DiskFault::OutOfDescriptors => FollowerStep::BackOff,
                DiskFault::Failed => FollowerStep::Stop,
            };
        }
        let now = local(log);
        tracing::info!(
            partition = %self.name(), from = %before, to = %now.end, start = %now.start, epoch = %leader_epoch,
            "truncated to what the leader has"
        );
        follower.truncated(now);
        let (step, high_watermark) = (follower.next_step(), follower.high_watermark());
        self.publish(high_watermark);
        self.recovery_point_fell(log.recovery_point());
        step
    }

    /// The checkpoint on disk may name more than is left: that must not be believed after a loss of power, once other records
    /// have been written in the place of those that were cut.
    fn recovery_point_fell(&self, recovery_point: Offset) {
        let directory = self.directory.load();
        if let Err(error) = directory.log_was_cut(&self.topic_partition(), recovery_point) {
            self.disk_failed(&error);
        }
    }

    /// The log has begun a segment: what the one before holds is to be synced, and may be compacted.
    pub(super) fn rolled(self: &Arc<Self>) {
        self.schedule_flush();
        if self.rules.load().log.compact {
            self.host.cleaner.may_be_dirty(self);
        }
    }

    /// Lets an I/O thread sync what the log has, without the partition's lock.
    pub(crate) fn schedule_flush(self: &Arc<Self>) {
        if self.flushing.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return;
        }
        let partition = self.clone();
        self.directory.load().run(crate::log_io::Urgency::Background, move || {
            partition.flushing.store(false, std::sync::atomic::Ordering::Release);
            partition.flush(clock::monotonic());
        });
    }

    /// `flush.ms`: what was appended last is synced too, though nothing follows it.
    pub(super) fn start_flush_timer(self: &Arc<Self>, flush_ms: i64) {
        if self.flush_timer.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return;
        }
        let partition = Arc::downgrade(self);
        self.host.data.spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(flush_ms).unwrap_or(0))).await;
            if let Some(partition) = partition.upgrade() {
                partition.flush_timer.store(false, std::sync::atomic::Ordering::Release);
                partition.schedule_flush();
            }
        });
    }

    /// Syncs what the log has now. On an I/O thread: it waits for the disk.
    pub fn flush(&self, now: MonotonicMs) {
        let Some(Some(work)) = self.with_log(|log| log.flush_work()) else { return };
        match work.run() {
            Ok(done) => {
                let passed_a_segment = self.with_log(|log| {
                    let (before, base) = (log.recovery_point(), log.active_segment_base());
                    log.flushed(done, now);
                    before <= base && log.recovery_point() > base
                });
                if passed_a_segment == Some(true) {
                    self.host.segment_flushed.notify_one();
                }
            }
            Err(error) => {
                let refused = self.with_log(|log| self.disk_refused(log, &error, Some(&error)));
                if refused.is_none() {
                    self.disk_error(&error);
                }
            }
        }
    }
}
