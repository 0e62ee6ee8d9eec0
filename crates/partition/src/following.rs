//! A replica as a follower: appends the records of its leader's log, truncates where the logs differ, and serves the
//! consumers that read here.

use std::io;

use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, TimestampMs};
use ottla_protocol::record_batch::BatchHeader;
use ottla_replication::{Divergence, FetchAnswer, FetchPosition, Follower, FollowerAction, FollowerStep, Truncation};
use ottla_storage::{AppendError, DiskFault, Env, Log, ReadError};

use crate::ack_waiters::Ack;
use crate::effects::{DiskError, Effects, FollowerEffects, Truncated};
use crate::leading::{Fetch, Fetched, read_below};
use crate::replica::{LogState, Replica, Role, disk_fault, last_stable, local_log};

impl<E: Env, A: Ack> Replica<E, A> {
    /// The follower of `leader_epoch` and its log; none if the replica does something else by now.
    fn follower_of(&mut self, leader_epoch: LeaderEpoch) -> Option<(&mut Follower, &mut Log<E>)> {
        match (&mut self.role, &mut self.log) {
            (Role::Follower(follower), LogState::Open(log)) if follower.leader_epoch() == leader_epoch => {
                Some((follower, log))
            }
            _ => None,
        }
    }

    /// The log of the follower of `leader_epoch`.
    pub(crate) fn followed_in(&self, leader_epoch: LeaderEpoch) -> Option<&Log<E>> {
        self.log().filter(|_| self.follower().is_some_and(|follower| follower.leader_epoch() == leader_epoch))
    }

    /// Serves a consumer up to the high watermark that this follower knows. While consumers read here, the leader is
    /// asked to tell a higher one at once.
    pub(crate) fn serve_followed(
        &mut self,
        fetch: &Fetch,
        now: MonotonicMs,
    ) -> (Effects<A>, Result<Fetched<E>, crate::ReadError>) {
        let read = self.read_followed(fetch);
        let mut effects = Effects::default();
        if let (Ok(_), Role::Follower(follower)) = (&read, &mut self.role) {
            effects.fetch_changed = follower.read_by_consumer(now);
        }
        (effects, read)
    }

    fn read_followed(&self, fetch: &Fetch) -> Result<Fetched<E>, crate::ReadError> {
        let follower = self.follower().ok_or(ErrorCode::NotLeaderOrFollower)?;
        follower.check_leader_epoch(fetch.current_leader_epoch).map_err(|refused| refused.error_code())?;
        let leader_epoch = follower.leader_epoch();
        let log = self.followed_in(leader_epoch).ok_or(ErrorCode::KafkaStorageError)?;
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        if !(start..=end).contains(&fetch.offset) {
            return Err(ErrorCode::OffsetOutOfRange.into());
        }
        let high_watermark = follower.high_watermark().min(end);
        let readable_end = follower.readable_end().map(|readable_end| readable_end.min(end));
        // A consumer above it knows more of the leader's log than this follower does.
        let is_known = readable_end.is_some_and(|readable_end| fetch.offset <= readable_end);
        let diverging = match log.epoch_history().divergence(fetch.last_fetched_epoch, fetch.offset, start, end) {
            _ if !is_known => None,
            Divergence::At(end) => Some(end),
            Divergence::None => None,
            Divergence::OutOfRange => return Err(ErrorCode::OffsetOutOfRange.into()),
        };
        let last_stable = last_stable(log, high_watermark, self.rules);
        let upper = match (readable_end, fetch.reads_committed()) {
            (None, _) => start,
            (Some(_), true) => last_stable,
            (Some(readable_end), false) => readable_end,
        };
        let (records, aborted) = if diverging.is_none() { read_below(log, fetch, upper)? } else { (None, None) };
        Ok(Fetched {
            leader_epoch,
            high_watermark,
            last_stable,
            log_start: start,
            diverging,
            preferred_read_replica: None,
            is_follower: true,
            upper,
            records,
            aborted,
        })
    }

    /// The action of a fetcher for the follower of this leader epoch now.
    pub fn next_step(&self, leader_epoch: LeaderEpoch) -> FollowerStep {
        let follower = self.follower().filter(|follower| follower.leader_epoch() == leader_epoch);
        follower.map_or(FollowerStep::Stop, Follower::next_step)
    }

    /// The leader's response to `asked`.
    pub fn leader_answered(
        &mut self,
        asked: FetchPosition,
        answer: &FetchAnswer,
        records: &[u8],
        now: MonotonicMs,
        wall: TimestampMs,
    ) -> FollowerEffects {
        let Some((follower, log)) = self.follower_of(asked.leader_epoch) else {
            return FollowerEffects::only(FollowerStep::Stop);
        };
        follower.forget_readers(now);
        match follower.fetched(asked, answer, log.epoch_history()) {
            FollowerAction::Append => append(log, follower, answer, records, now, wall),
            FollowerAction::Truncate(truncation) => truncate(log, follower, truncation, wall),
            FollowerAction::AskLeaderBounds => FollowerEffects::only(FollowerStep::AskLeaderBounds),
            FollowerAction::FetchAgain | FollowerAction::Ignore => FollowerEffects::only(follower.next_step()),
            FollowerAction::BackOff => FollowerEffects::only(FollowerStep::BackOff),
            FollowerAction::AwaitNewEpoch => FollowerEffects::only(FollowerStep::Stop),
        }
    }

    /// The answer to [`FollowerStep::AskLeaderBounds`]; none if the leader gave none.
    pub fn leader_bounds(
        &mut self,
        leader_epoch: LeaderEpoch,
        bounds: Option<(Offset, Offset)>,
        wall: TimestampMs,
    ) -> FollowerEffects {
        let Some((follower, log)) = self.follower_of(leader_epoch) else {
            return FollowerEffects::only(FollowerStep::Stop);
        };
        match follower.leader_bounds(bounds) {
            FollowerAction::Truncate(truncation) => truncate(log, follower, truncation, wall),
            FollowerAction::BackOff => FollowerEffects::only(FollowerStep::BackOff),
            _ => FollowerEffects::only(follower.next_step()),
        }
    }
}

fn append<E: Env>(
    log: &mut Log<E>,
    follower: &mut Follower,
    answer: &FetchAnswer,
    records: &[u8],
    now: MonotonicMs,
    wall: TimestampMs,
) -> FollowerEffects {
    let mut effects = FollowerEffects::only(FollowerStep::BackOff);
    if !records.is_empty() {
        // The response to an earlier request than `asked` contains records that this log already has.
        if BatchHeader::parse(records).is_ok_and(|first| first.next_offset() <= log.log_end_offset()) {
            return FollowerEffects::only(follower.next_step());
        }
        match log.append_as_follower(records, follower.leader_epoch(), wall) {
            Ok(appended) => (effects.appended, effects.rolled) = (true, appended.rolled),
            // The leader's log may start within its first batch, in the middle of which this one ends.
            Err(error @ AppendError::UnexpectedOffset { .. }) => {
                return match follower.records_do_not_follow(answer) {
                    FollowerAction::Truncate(truncation) => truncate(log, follower, truncation, wall),
                    _ => refused(log, error),
                };
            }
            Err(error) => return refused(log, error),
        }
    }
    // Before the next fetch says to the leader that the records are here.
    if log.flush_due(now)
        && let Err(error) = log.flush(now)
    {
        let fault = disk_fault(log, Some(&error));
        effects.disk_error = Some(DiskError { text: error.to_string(), cause: Some(error) });
        if fault == DiskFault::Failed {
            effects.step = FollowerStep::Stop;
            return effects;
        }
    }
    // The leader's log start: records below it no longer belong to the partition.
    if answer.log_start > log.log_start_offset() && log.advance_log_start(answer.log_start) {
        follower.log_start_moved(local_log(log));
        effects.log_start_moved = true;
    }
    effects.high_watermark = follower.appended(local_log(log), answer);
    if let Some(high_watermark) = effects.high_watermark {
        log.high_watermark_moved(high_watermark);
    }
    effects.step = follower.next_step();
    effects
}

/// Nothing was appended.
fn refused<E: Env>(log: &Log<E>, error: AppendError) -> FollowerEffects {
    let text = error.to_string();
    match error {
        AppendError::Io(cause) => disk_refused(log, text, Some(cause)),
        AppendError::Offline => disk_refused(log, text, None),
        // A damaged batch, or one that does not fit: asking again may bring a whole one.
        error => FollowerEffects { refused: Some(error), ..FollowerEffects::only(FollowerStep::BackOff) },
    }
}

/// The log is unchanged. A temporary error is retried after a pause; the leader waits for this replica only until the
/// quorum removes it from the ISR.
fn disk_refused<E: Env>(log: &Log<E>, text: String, cause: Option<io::Error>) -> FollowerEffects {
    let step = match disk_fault(log, cause.as_ref()) {
        DiskFault::Full | DiskFault::OutOfDescriptors | DiskFault::NameTaken => FollowerStep::BackOff,
        DiskFault::Failed => FollowerStep::Stop,
    };
    FollowerEffects { disk_error: Some(DiskError { text, cause }), ..FollowerEffects::only(step) }
}

fn truncate<E: Env>(
    log: &mut Log<E>,
    follower: &mut Follower,
    truncation: Truncation,
    wall: TimestampMs,
) -> FollowerEffects {
    match cut(log, follower, truncation, wall) {
        Ok(truncated) => FollowerEffects {
            truncated: Some(truncated),
            high_watermark: Some(follower.high_watermark()),
            ..FollowerEffects::only(follower.next_step())
        },
        Err(error) => {
            follower.not_truncated();
            let text = error.to_string();
            let cause = if let ReadError::Io(cause) = error { Some(cause) } else { None };
            disk_refused(log, text, cause)
        }
    }
}

pub(crate) fn cut<E: Env>(
    log: &mut Log<E>,
    follower: &mut Follower,
    truncation: Truncation,
    wall: TimestampMs,
) -> Result<Truncated, ReadError> {
    let from = log.log_end_offset();
    match truncation {
        Truncation::To(offset) => {
            log.truncate_to(offset, wall)?;
        }
        Truncation::FullyAndStartAt(offset) => log.truncate_fully_and_start_at(offset, None)?,
    }
    let now = local_log(log);
    follower.truncated(now);
    Ok(Truncated { from, to: now.end, log_start: now.start, recovery_point: log.recovery_point() })
}
