//! Which leader epoch each part of a log was written in: the content of `leader-epoch-checkpoint`.
//!
//! Owns the pairs (leader epoch, first offset written in it). Epochs and start offsets both ascend strictly; the last
//! epoch is the one being written. From it a leader answers where an epoch ended, and a follower learns how far its log
//! is the leader's (KIP-101, KIP-279).

use ottla_model::{LeaderEpoch, Offset};

/// The first offset written in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// The offset after the last one written in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end_offset: Offset,
}

/// How a follower's log relates to this one, by the epoch of its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Divergence {
    /// Both logs are equal below the requested offset.
    None,
    /// The logs diverge at this offset or before: the follower truncates and asks again.
    At(EpochEnd),
    /// The epoch is unknown here, or the offset is below the log start: the follower requests the log's bounds
    /// (`OFFSET_OUT_OF_RANGE`).
    OutOfRange,
}

/// The epochs of one log, oldest first. Empty for a log that never had a record with a known epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochHistory {
    entries: Vec<EpochStart>,
}

impl EpochHistory {
    pub fn new() -> Self {
        Self::default()
    }

    /// From a checkpoint's lines. Entries that contradict a later one give way to it, as they do in [`Self::assign`];
    /// negative ones are dropped.
    pub fn from_entries(entries: impl IntoIterator<Item = EpochStart>) -> Self {
        let mut history = Self::new();
        for entry in entries {
            history.assign(entry.epoch, entry.start_offset);
        }
        history
    }

    /// `epoch` begins at `start_offset`. No change for the latest epoch unless the start is earlier than known. Entries
    /// at or above either number are removed, because their records are no longer in the log. Returns whether anything
    /// changed, that is, whether the checkpoint must be written again.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0 || start_offset.0 < 0 {
            return false;
        }
        if let Some(latest) = self.entries.last()
            && latest.epoch == epoch
            && latest.start_offset <= start_offset
        {
            return false;
        }
        while self.entries.last().is_some_and(|last| last.epoch >= epoch || last.start_offset >= start_offset) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start_offset });
        true
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    /// [`LeaderEpoch::NONE`] for an empty history, as the wire says it.
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.latest().map_or(LeaderEpoch::NONE, |latest| latest.epoch)
    }

    /// The largest epoch that is not above `requested`, and its end: the start of the next one, or `log_end` for the
    /// latest. An epoch older than all known ones ends where the oldest known one starts. None for an epoch above all
    /// known ones, or for no epoch (Kafka's `LeaderEpochFileCache.endOffsetFor`).
    pub fn end_offset_for(&self, requested: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let latest = self.latest()?;
        if !requested.is_known() || requested > latest.epoch {
            return None;
        }
        if requested == latest.epoch {
            return Some(EpochEnd { epoch: requested, end_offset: log_end });
        }
        let higher_at = self.entries.partition_point(|entry| entry.epoch <= requested);
        let higher = self.entries.get(higher_at)?;
        let epoch = match higher_at.checked_sub(1).and_then(|at| self.entries.get(at)) {
            Some(floor) => floor.epoch,
            // All records of the epoch were removed from this log: offsets below its start cannot be compared.
            None => requested,
        };
        Some(EpochEnd { epoch, end_offset: higher.start_offset })
    }

    /// Compares a follower's log, which ends at `fetch_offset` with a record of `last_fetched_epoch`, with this one,
    /// which spans `log_start..log_end`. A fetch without an epoch (an empty log, an ordinary consumer) never diverges.
    pub fn divergence(
        &self,
        last_fetched_epoch: LeaderEpoch,
        fetch_offset: Offset,
        log_start: Offset,
        log_end: Offset,
    ) -> Divergence {
        if !last_fetched_epoch.is_known() {
            return Divergence::None;
        }
        let Some(end) = self.end_offset_for(last_fetched_epoch, log_end) else {
            return Divergence::OutOfRange;
        };
        if fetch_offset < log_start {
            return Divergence::OutOfRange;
        }
        if end.epoch < last_fetched_epoch || end.end_offset < fetch_offset {
            return Divergence::At(end);
        }
        Divergence::None
    }

    /// The epoch that the record at `offset` was written in; none below the first known start.
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map(|entry| entry.epoch)
    }

    /// The log now ends at `log_end`: epochs that began there or later are removed. Returns whether anything changed.
    pub fn truncate_from_end(&mut self, log_end: Offset) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start_offset < log_end);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// The log now starts at `log_start`: the epoch that contains it starts there, earlier ones are removed. Returns
    /// whether anything changed.
    pub fn truncate_from_start(&mut self, log_start: Offset) -> bool {
        let at_or_below = self.entries.partition_point(|entry| entry.start_offset <= log_start);
        let Some(holding) = at_or_below.checked_sub(1) else { return false };
        let changed = holding > 0 || self.entries.first().is_some_and(|first| first.start_offset != log_start);
        self.entries.drain(..holding);
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = log_start;
        }
        changed
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(i32, i64)]) -> EpochHistory {
        EpochHistory::from_entries(
            entries.iter().map(|&(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start_offset: Offset(start) }),
        )
    }

    fn pairs(history: &EpochHistory) -> Vec<(i32, i64)> {
        history.entries().iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect()
    }

    #[test]
    fn assign_keeps_epochs_and_offsets_ascending() {
        let mut epochs = history(&[(0, 0), (1, 10), (2, 20)]);
        assert!(!epochs.assign(LeaderEpoch(2), Offset(25)), "a later batch of the latest epoch changes nothing");
        assert!(epochs.assign(LeaderEpoch(2), Offset(15)));
        assert_eq!(pairs(&epochs), [(0, 0), (1, 10), (2, 15)]);
        assert!(epochs.assign(LeaderEpoch(5), Offset(10)));
        assert_eq!(pairs(&epochs), [(0, 0), (5, 10)], "epochs that wrote nothing that is left give way");
        assert!(epochs.assign(LeaderEpoch(3), Offset(40)));
        assert_eq!(pairs(&epochs), [(0, 0), (3, 40)]);
        assert!(!epochs.assign(LeaderEpoch::NONE, Offset(50)) && !epochs.assign(LeaderEpoch(4), Offset::UNKNOWN));
    }

    #[test]
    fn end_offset_is_that_of_the_largest_epoch_not_above_the_asked_one() {
        let epochs = history(&[(2, 10), (4, 20), (7, 30)]);
        for (asked, expected) in [
            (-1, None),
            (1, Some((1, 10))), // older than all: ends where the oldest known begins
            (2, Some((2, 20))),
            (3, Some((2, 20))),
            (4, Some((4, 30))),
            (6, Some((4, 30))),
            (7, Some((7, 99))),
            (8, None),
        ] {
            let answer = epochs.end_offset_for(LeaderEpoch(asked), Offset(99));
            assert_eq!(answer.map(|end| (end.epoch.0, end.end_offset.0)), expected, "epoch {asked}");
        }
        assert_eq!(EpochHistory::new().end_offset_for(LeaderEpoch(0), Offset(5)), None);
    }

    #[test]
    fn divergence_is_found_by_epoch_not_by_offset() {
        let epochs = history(&[(1, 0), (3, 50)]);
        let ask = |epoch, offset| epochs.divergence(LeaderEpoch(epoch), Offset(offset), Offset(5), Offset(80));
        assert_eq!(ask(3, 80), Divergence::None);
        assert_eq!(ask(1, 50), Divergence::None);
        assert_eq!(ask(-1, 0), Divergence::None);
        // Scenario 2: the same offset, but written by a leader that this log does not know.
        assert_eq!(ask(2, 60), Divergence::At(EpochEnd { epoch: LeaderEpoch(1), end_offset: Offset(50) }));
        assert_eq!(ask(1, 60), Divergence::At(EpochEnd { epoch: LeaderEpoch(1), end_offset: Offset(50) }));
        assert_eq!(ask(3, 90), Divergence::At(EpochEnd { epoch: LeaderEpoch(3), end_offset: Offset(80) }));
        assert_eq!(ask(4, 60), Divergence::OutOfRange);
        assert_eq!(ask(1, 3), Divergence::OutOfRange);
    }

    #[test]
    fn truncation_from_either_end() {
        let mut epochs = history(&[(0, 0), (1, 10), (2, 20)]);
        assert!(!epochs.truncate_from_end(Offset(21)));
        assert!(epochs.truncate_from_end(Offset(20)));
        assert_eq!(pairs(&epochs), [(0, 0), (1, 10)]);
        assert!(!epochs.truncate_from_start(Offset(0)));
        assert!(epochs.truncate_from_start(Offset(5)));
        assert_eq!(pairs(&epochs), [(0, 5), (1, 10)]);
        assert!(epochs.truncate_from_start(Offset(10)));
        assert_eq!(pairs(&epochs), [(1, 10)]);
        assert!(epochs.truncate_from_start(Offset(100)));
        assert_eq!(pairs(&epochs), [(1, 100)], "the epoch being written survives its records");
        assert!(!epochs.truncate_from_start(Offset(100)), "it starts there already");
        assert!(!epochs.is_empty());
        assert!(epochs.truncate_from_end(Offset(0)) && epochs.is_empty());
        let mut epochs = history(&[(0, 0), (1, 10)]);
        assert!(epochs.truncate_from_start(Offset(10)), "an epoch is gone, though the next one keeps its start");
        epochs.clear();
        assert!(epochs.is_empty());
    }

    #[test]
    fn epoch_of_an_offset() {
        let epochs = history(&[(2, 10), (4, 20)]);
        assert_eq!(epochs.epoch_for_offset(Offset(9)), None);
        assert_eq!(epochs.epoch_for_offset(Offset(10)), Some(LeaderEpoch(2)));
        assert_eq!(epochs.epoch_for_offset(Offset(19)), Some(LeaderEpoch(2)));
        assert_eq!(epochs.epoch_for_offset(Offset(1000)), Some(LeaderEpoch(4)));
    }
}
