//! When the offsets of a broker's logs are written to the checkpoint files of their directories.

use std::time::Duration;

use ottla_model::MonotonicMs;
use ottla_storage::{CheckpointKind, Collected, DirectoryError, Env, Flushed, Log, LogDir};

use crate::upkeep::WATCH_INTERVAL;

/// Requests for an early checkpoint are merged for this long: each file is written for all partitions at once.
const GATHERING_PAUSE: Duration = Duration::from_millis(50);
/// Below this the high watermarks of a broker that is written to would be written without a pause.
const HIGH_WATERMARK_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// How often each file is written.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointIntervals {
    pub high_watermark: Duration,
    pub recovery_point: Duration,
    pub log_start: Duration,
}

/// When one file is written next.
#[derive(Debug)]
struct Due {
    interval: Duration,
    at: MonotonicMs,
    /// Somebody asked for it before that.
    early_at: Option<MonotonicMs>,
}

impl Due {
    fn new(now: MonotonicMs, interval: Duration) -> Self {
        Self { interval, at: now + interval, early_at: None }
    }

    fn next_at(&self) -> MonotonicMs {
        self.early_at.map_or(self.at, |early| early.min(self.at))
    }

    /// Whether its interval is over, or it was asked for.
    fn take(&mut self, now: MonotonicMs) -> (bool, bool) {
        let (is_over, is_early) = (now >= self.at, self.early_at.is_some_and(|early| now >= early));
        if is_over {
            self.at = now + self.interval;
        }
        if is_over || is_early {
            self.early_at = None;
        }
        (is_over, is_early)
    }
}

/// The files that are written now.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct DueCheckpoints {
    pub kinds: Vec<CheckpointKind>,
    /// The interval of the recovery points is over: files that were not used since are closed, too.
    pub closes_idle_files: bool,
}

/// See the module. Which logs a checkpoint names, [`write_checkpoints`] is told.
#[derive(Debug)]
pub struct CheckpointSchedule {
    high_watermark: Due,
    recovery_point: Due,
    log_start: Due,
}

impl CheckpointSchedule {
    pub fn new(now: MonotonicMs, intervals: CheckpointIntervals) -> Self {
        Self {
            high_watermark: Due::new(now, intervals.high_watermark.max(HIGH_WATERMARK_INTERVAL_MIN)),
            recovery_point: Due::new(now, intervals.recovery_point.max(WATCH_INTERVAL)),
            log_start: Due::new(now, intervals.log_start.max(WATCH_INTERVAL)),
        }
    }

    /// A closed segment is on the disk: should the process be killed, it need not be read again.
    pub fn segment_flushed(&mut self, now: MonotonicMs) {
        self.recovery_point.early_at.get_or_insert(now + GATHERING_PAUSE);
    }

    /// DeleteRecords: what somebody deleted stays deleted, also after a crash.
    pub fn log_start_moved(&mut self, now: MonotonicMs) {
        self.log_start.early_at.get_or_insert(now + GATHERING_PAUSE);
    }

    /// When [`Self::take_due`] has something.
    pub fn next_at(&self) -> MonotonicMs {
        self.high_watermark.next_at().min(self.recovery_point.next_at()).min(self.log_start.next_at())
    }

    /// `may_differ`: whether offsets of this kind may have changed since it was asked last. Collecting those of all
    /// logs takes too long to do it for nothing.
    pub fn take_due(&mut self, now: MonotonicMs, mut may_differ: impl FnMut(CheckpointKind) -> bool) -> DueCheckpoints {
        let mut due = DueCheckpoints::default();
        if self.high_watermark.take(now).0 && may_differ(CheckpointKind::HighWatermark) {
            due.kinds.push(CheckpointKind::HighWatermark);
        }
        let (is_over, is_early) = self.recovery_point.take(now);
        due.closes_idle_files = is_over;
        if (is_over || is_early) && may_differ(CheckpointKind::RecoveryPoint) {
            due.kinds.push(CheckpointKind::RecoveryPoint);
        }
        let (is_over, is_early) = self.log_start.take(now);
        if (is_over || is_early) && may_differ(CheckpointKind::LogStart) {
            due.kinds.push(CheckpointKind::LogStart);
        }
        due
    }
}

/// Writes checkpoints of a directory. `is_current`: the image has been loaded; before that nobody knows which of the
/// logs belong to this broker, and a file would lose the others. Waits for the disk.
///
/// # Errors
/// The disk refused one; the kinds after it were not written.
pub fn write_checkpoints<E: Env>(
    directory: &LogDir<E>,
    is_current: bool,
    kinds: &[CheckpointKind],
    collect: impl Fn(CheckpointKind) -> Collected,
) -> Result<(), DirectoryError> {
    if directory.health().is_failed() || !is_current {
        return Ok(());
    }
    kinds.iter().try_for_each(|kind| directory.write_checkpoint(*kind, || collect(*kind)))
}

/// Takes note of a flush that was done. Returns whether a closed segment is on the disk now, which is worth a
/// checkpoint ([`CheckpointSchedule::segment_flushed`]).
pub fn take_flushed<E: Env>(log: &mut Log<E>, done: Flushed, now: MonotonicMs) -> bool {
    let (before, base) = (log.recovery_point(), log.active_segment_base());
    log.flushed(done, now);
    before <= base && log.recovery_point() > base
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule() -> CheckpointSchedule {
        let intervals =
            CheckpointIntervals { high_watermark: 5 * SECOND, recovery_point: 60 * SECOND, log_start: 60 * SECOND };
        CheckpointSchedule::new(MonotonicMs(0), intervals)
    }

    fn kinds(schedule: &mut CheckpointSchedule, at: u64, moved: bool) -> Vec<CheckpointKind> {
        schedule.take_due(MonotonicMs(at), |kind| kind != CheckpointKind::HighWatermark || moved).kinds
    }

    #[test]
    fn high_watermarks_are_written_when_they_have_moved() {
        let mut schedule = schedule();
        assert_eq!(schedule.next_at(), MonotonicMs(5_000));
        assert_eq!(kinds(&mut schedule, 4_999, true), []);
        assert_eq!(kinds(&mut schedule, 5_000, false), []);
        assert_eq!(kinds(&mut schedule, 10_000, true), [CheckpointKind::HighWatermark]);
    }

    #[test]
    fn early_checkpoints_are_merged_and_keep_the_interval() {
        let mut schedule = schedule();
        schedule.segment_flushed(MonotonicMs(100));
        schedule.segment_flushed(MonotonicMs(140));
        schedule.log_start_moved(MonotonicMs(120));
        assert_eq!(schedule.next_at(), MonotonicMs(150));
        assert_eq!(kinds(&mut schedule, 150, true), [CheckpointKind::RecoveryPoint]);
        assert_eq!(kinds(&mut schedule, 170, true), [CheckpointKind::LogStart]);
        assert_eq!(kinds(&mut schedule, 4_000, true), [], "each request is for one checkpoint");
        let due = schedule.take_due(MonotonicMs(60_000), |kind| kind != CheckpointKind::HighWatermark);
        let expected = [CheckpointKind::RecoveryPoint, CheckpointKind::LogStart];
        assert_eq!(due, DueCheckpoints { kinds: expected.to_vec(), closes_idle_files: true });
    }

    #[test]
    fn what_cannot_differ_is_not_collected_and_idle_files_are_closed_all_the_same() {
        let mut schedule = schedule();
        let due = schedule.take_due(MonotonicMs(60_000), |_| false);
        assert_eq!(due, DueCheckpoints { kinds: vec![], closes_idle_files: true });
        assert_eq!(schedule.next_at(), MonotonicMs(65_000));
        schedule.log_start_moved(MonotonicMs(61_000));
        let due = schedule.take_due(MonotonicMs(61_050), |kind| kind == CheckpointKind::LogStart);
        assert_eq!(due, DueCheckpoints { kinds: vec![CheckpointKind::LogStart], closes_idle_files: false });
    }

    #[test]
    fn an_interval_of_nothing_does_not_spin() {
        let zero = Duration::ZERO;
        let mut schedule = CheckpointSchedule::new(
            MonotonicMs(0),
            CheckpointIntervals { high_watermark: zero, recovery_point: zero, log_start: zero },
        );
        assert_eq!(kinds(&mut schedule, 1, true), [CheckpointKind::HighWatermark]);
        assert_eq!(schedule.next_at(), MonotonicMs(2));
        assert!(kinds(&mut schedule, 999, false).is_empty() && schedule.next_at() == MonotonicMs(1_000));
    }
}
