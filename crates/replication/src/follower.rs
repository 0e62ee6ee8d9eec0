//! A follower of one partition: its fetch position, and how its log becomes a copy of the leader's.
//!
//! Owns the fetch position, the follower's high watermark (HW), and pending requests, for one leader epoch; a new
//! leader epoch begins with a new [`Follower`]. The caller owns the log.
//!
//! Consumers may read here (KIP-392): below the HW, and once the leader of this epoch has confirmed that this log is a
//! part of its own. An unclean election may cut records below the HW. While consumers read, the follower tells its
//! leader the HW that it knows, and is told of a higher one at once (KIP-1166).
//!
//! Invariants: the fetch position is the log's end. The log is truncated only where the leader's epochs show that the
//! two logs diverge (KIP-101, KIP-279), or where the leader no longer has the earlier records. A response counts only
//! if it answers the fetch that the follower would send now.

use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset};

use crate::effects::{FetchError, FollowerAction, FollowerStep, Following, Truncation, check_leader_epoch};
use crate::epoch_history::{EpochEnd, EpochHistory};
use crate::high_watermark::HighWatermark;
use crate::rules::BrokenRules;

/// How long a consumer that has read here counts as one that reads here, though it may have left: Kafka's default for
/// `metadata.max.age.ms`, after which a consumer asks the leader again.
pub const READERS_REMEMBERED: Duration = Duration::from_secs(300);

/// The state of a follower's own log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalLog {
    pub start: Offset,
    pub end: Offset,
    /// The epoch of the last record ([`EpochHistory::latest_epoch`]).
    pub latest_epoch: LeaderEpoch,
}

/// The position of a follower's fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchPosition {
    pub leader_epoch: LeaderEpoch,
    pub offset: Offset,
    /// The epoch of the last record below `offset`; [`LeaderEpoch::NONE`] for an empty log.
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start: Offset,
    /// The leader answers at once when its HW is above this one. None: the follower learns of the HW with the next
    /// records, or when its fetch has waited for its time.
    pub high_watermark: Option<Offset>,
}

/// A leader's answer to a fetch, without the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchAnswer {
    pub error: ErrorCode,
    /// The point where the logs diverge, if they do.
    pub diverging: Option<EpochEnd>,
    /// −1 with an error.
    pub high_watermark: Offset,
    /// −1 with an error.
    pub log_start: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Fetching,
    /// Waits for [`Follower::truncated`].
    Truncating,
    /// Waits for [`Follower::leader_bounds`].
    AskingBounds,
    /// The leader is in a later epoch: the follower needs to be replaced by a new [`Follower`].
    Fenced,
}

/// One partition's follower in one leader epoch.
#[derive(Clone, Debug)]
pub struct Follower {
    leader: BrokerId,
    leader_epoch: LeaderEpoch,
    log: LocalLog,
    high_watermark: HighWatermark,
    /// As the leader has told it last; this log may not reach it.
    leader_high_watermark: Offset,
    /// As the leader had told it when this log got its present end. The next answers may tell more and bring no record:
    /// the leader is asked once from there.
    told_at_end: Offset,
    /// The same of the end before; unknown once it has been compared with the present one.
    told_at_former_end: Offset,
    /// Until when the leader's HW may wait for this follower, which is not in the ISR.
    awaited_until: MonotonicMs,
    state: State,
    /// The leader has answered a fetch of this log without a divergence.
    is_confirmed: bool,
    /// Consumers read here; until when they count.
    readers_until: Option<MonotonicMs>,
    rules: BrokenRules,
}

impl Follower {
    /// Follows `leader` in `leader_epoch`. `high_watermark` is the last one that this replica knew. The action, if any,
    /// comes before the first fetch; unbroken rules never require one.
    pub fn new(
        leader: BrokerId,
        leader_epoch: LeaderEpoch,
        log: LocalLog,
        high_watermark: Offset,
        rules: BrokenRules,
    ) -> (Self, Option<FollowerAction>) {
        let high_watermark = HighWatermark::known(high_watermark, log.start, log.end);
        let mut follower = Self {
            leader,
            leader_epoch,
            log,
            high_watermark,
            leader_high_watermark: Offset::UNKNOWN,
            told_at_end: Offset::UNKNOWN,
            told_at_former_end: Offset::UNKNOWN,
            awaited_until: MonotonicMs(0),
            state: State::Fetching,
            is_confirmed: false,
            readers_until: None,
            rules,
        };
        let first = (rules.truncate_to_high_watermark && high_watermark.get() < log.end)
            .then(|| follower.truncate(Truncation::To(high_watermark.get())));
        (follower, first)
    }

    /// The fetch to send now; none while something else comes first.
    pub fn next_fetch(&self) -> Option<FetchPosition> {
        (self.state == State::Fetching).then_some(FetchPosition {
            leader_epoch: self.leader_epoch,
            offset: self.log.end,
            last_fetched_epoch: self.log.latest_epoch,
            log_start: self.log.start,
            high_watermark: self.readers_until.map(|_| self.confirmed_high_watermark().unwrap_or(Offset::UNKNOWN)),
        })
    }

    fn confirmed_high_watermark(&self) -> Option<Offset> {
        self.is_confirmed.then(|| self.high_watermark.get())
    }

    /// A consumer reads here. Returns whether it is the first: the next fetch differs from the one that waits at the
    /// leader.
    pub fn read_by_consumer(&mut self, now: MonotonicMs) -> bool {
        self.readers_until.replace(now + READERS_REMEMBERED).is_none()
    }

    /// Time passed: consumers that have not read here for [`READERS_REMEMBERED`] do not count any more.
    pub fn forget_readers(&mut self, now: MonotonicMs) {
        self.readers_until = self.readers_until.filter(|until| now < *until);
    }

    /// Where the records end that a consumer may read; none before the leader has confirmed this log.
    pub fn readable_end(&self) -> Option<Offset> {
        match self.rules {
            BrokenRules { followers_serve_to_their_end: true, .. } => Some(self.log.end),
            BrokenRules { followers_serve_unconfirmed: true, .. } => Some(self.high_watermark.get()),
            _ => self.confirmed_high_watermark(),
        }
    }

    /// Compares the leader epoch that a consumer's fetch carries with this one.
    ///
    /// # Errors
    /// As [`check_leader_epoch`].
    pub fn check_leader_epoch(&self, asked: LeaderEpoch) -> Result<(), FetchError> {
        check_leader_epoch(asked, self.leader_epoch)
    }

    /// The action of a fetcher for this partition now. It stays the same until it is done: a fetcher that takes the
    /// partition over, or lost a response, finds the pending request.
    pub fn next_step(&self) -> FollowerStep {
        match (self.next_fetch(), self.state) {
            (Some(position), _) => FollowerStep::Fetch(position),
            (None, State::AskingBounds) => FollowerStep::AskLeaderBounds,
            (None, State::Fenced) => FollowerStep::Stop,
            // The log is being truncated: the next step is not known yet.
            (None, _) => FollowerStep::BackOff,
        }
    }

    /// The leader that it follows, and the next step.
    pub fn following(&self) -> Following {
        Following { leader: self.leader, leader_epoch: self.leader_epoch, step: self.next_step() }
    }

    /// The action for the response to `asked`. `epochs` is this follower's own history.
    pub fn fetched(&mut self, asked: FetchPosition, answer: &FetchAnswer, epochs: &EpochHistory) -> FollowerAction {
        // The log was truncated or restarted, or the leader changed, since this request: the response refers to a
        // former log. The epoch of the last record is compared too: a log that was truncated and has grown to the same
        // end is a different log, and a late response about the former one would truncate records that are committed
        // now.
        let is_of = |now: FetchPosition| {
            (now.leader_epoch, now.offset, now.last_fetched_epoch)
                == (asked.leader_epoch, asked.offset, asked.last_fetched_epoch)
        };
        if !self.next_fetch().is_some_and(is_of) {
            return FollowerAction::Ignore;
        }
        match answer.error {
            ErrorCode::None => match answer.diverging {
                // The HW of this response is ignored: it refers to the leader's log, and this log differs until it is
                // truncated.
                Some(end) => self.diverged(end, epochs),
                None => FollowerAction::Append,
            },
            ErrorCode::OffsetOutOfRange => {
                self.state = State::AskingBounds;
                FollowerAction::AskLeaderBounds
            }
            ErrorCode::FencedLeaderEpoch => {
                self.state = State::Fenced;
                FollowerAction::AwaitNewEpoch
            }
            _ => FollowerAction::BackOff,
        }
    }

    /// Kafka's `AbstractFetcherThread.getOffsetTruncationState`, without its fallback to the HW.
    fn diverged(&mut self, leader_end: EpochEnd, epochs: &EpochHistory) -> FollowerAction {
        if leader_end.end_offset < Offset::ZERO {
            self.state = State::AskingBounds;
            return FollowerAction::AskLeaderBounds;
        }
        let offset = match epochs.end_offset_for(leader_end.epoch, self.log.end) {
            // The leader's epoch is not in this log: only older epochs can be common. The next fetch sends the epoch
            // that is then the last one, and the leader answers for that one (scenario 3).
            Some(own) if own.epoch != leader_end.epoch => own.end_offset,
            Some(own) => own.end_offset.min(leader_end.end_offset),
            // This log knows no epoch as old as that.
            None => leader_end.end_offset,
        };
        self.truncate(Truncation::To(offset.min(self.log.end)))
    }

    fn truncate(&mut self, truncation: Truncation) -> FollowerAction {
        self.state = State::Truncating;
        self.is_confirmed = false;
        FollowerAction::Truncate(truncation)
    }

    /// The answer to [`FollowerAction::AskLeaderBounds`]: the leader's log spans `start..end`. None for `bounds` if the
    /// leader did not answer: the follower fetches again, after a pause.
    pub fn leader_bounds(&mut self, bounds: Option<(Offset, Offset)>) -> FollowerAction {
        if self.state != State::AskingBounds {
            return FollowerAction::Ignore;
        }
        self.state = State::Fetching;
        let Some((start, end)) = bounds else { return FollowerAction::BackOff };
        if end < self.log.end && end >= self.log.start {
            self.truncate(Truncation::To(end))
        } else if start > self.log.end || end < self.log.start {
            // Retention or DeleteRecords passed this follower by (scenario 12).
            self.truncate(Truncation::FullyAndStartAt(start))
        } else {
            FollowerAction::BackOff
        }
    }

    /// The log has been cut and is now this.
    pub fn truncated(&mut self, log: LocalLog) {
        self.log = log;
        self.high_watermark.clamp(log.start, log.end);
        if self.state == State::Truncating {
            self.state = State::Fetching;
        }
    }

    /// The log could not be truncated and is unchanged: the next fetch leads here again.
    pub fn not_truncated(&mut self) {
        if self.state == State::Truncating {
            self.state = State::Fetching;
        }
    }

    /// The records of a response are in the log, whose state is `log` (also if the response had no records). Returns
    /// the HW if it moved, or may be read up to from now on: the leader's HW from the response, but at most this log's
    /// end.
    pub fn appended(&mut self, log: LocalLog, answer: &FetchAnswer) -> Option<Offset> {
        if log.end != self.log.end {
            self.told_at_former_end = std::mem::replace(&mut self.told_at_end, answer.high_watermark);
        } else if self.told_at_end == Offset::UNKNOWN {
            self.told_at_end = answer.high_watermark;
        }
        self.log = log;
        self.high_watermark.clamp(log.start, log.end);
        self.leader_high_watermark = answer.high_watermark;
        let moved = self.high_watermark.advance(answer.high_watermark, log.end);
        let was_confirmed = std::mem::replace(&mut self.is_confirmed, true);
        moved.or_else(|| (!was_confirmed).then(|| self.high_watermark.get()))
    }

    /// The log refused the records of an answer to the current position: they do not begin at its end.
    ///
    /// This never ends if the leader's log starts within a batch (DeleteRecords), and this log ends there with a batch
    /// that the leader never had: the point where the two logs diverge can no longer be found. All records of this log
    /// are deleted at the leader, so the follower starts again at the leader's log start.
    pub fn records_do_not_follow(&mut self, answer: &FetchAnswer) -> FollowerAction {
        if self.state == State::Fetching && answer.log_start >= self.log.end && self.log.start < self.log.end {
            self.truncate(Truncation::FullyAndStartAt(answer.log_start))
        } else {
            FollowerAction::BackOff
        }
    }

    /// The log's start moved, to follow the leader's (scenario 12) or by retention.
    pub fn log_start_moved(&mut self, log: LocalLog) {
        self.log = log;
        self.high_watermark.clamp(log.start, log.end);
    }

    /// The broker that leads; its epoch is [`Self::leader_epoch`].
    pub fn leader(&self) -> BrokerId {
        self.leader
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark.get()
    }

    /// Whether the leader's HW may wait for this follower while it is not in the ISR
    /// ([`crate::Leader::is_about_to_join`]): it must not be held back.
    ///
    /// The leader counts a follower as caught up for `lag_max` whose fetch begins where the leader's log ended at the
    /// fetch before. The HW that was known at that fetch is not above that end; later ones may be: other partitions may
    /// have taken the room of any number of answers, which told the HW and brought no record.
    pub fn is_awaited(&mut self, now: MonotonicMs, lag_max: Duration) -> bool {
        let end = self.log.end;
        let has_reached = |told: Offset| told != Offset::UNKNOWN && end >= told;
        let has_caught_up = has_reached(std::mem::replace(&mut self.told_at_former_end, Offset::UNKNOWN));
        if has_caught_up || has_reached(self.leader_high_watermark) {
            self.awaited_until = now + lag_max;
        }
        now < self.awaited_until
    }

    /// The end of this replica's log as last reported.
    pub fn log_end(&self) -> Offset {
        self.log.end
    }

    /// Whether [`Self::leader_bounds`] is waited for.
    pub fn awaits_bounds(&self) -> bool {
        self.state == State::AskingBounds
    }

    /// Whether the leader turned out to lead a later epoch.
    pub fn is_fenced(&self) -> bool {
        self.state == State::Fenced
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
