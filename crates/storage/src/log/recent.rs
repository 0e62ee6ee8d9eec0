//! Where the newest batches are: followers and tailing consumers read there, and need no index and no scan.

use std::collections::VecDeque;

use ottla_model::Offset;

/// How many batches are remembered: a follower that is further behind reads through the index. 1 KiB when in use.
const BATCHES_MAX: usize = 64;

struct RecentBatch {
    last_offset: Offset,
    position: u32,
}

/// The newest batches of the active segment, without a gap. Allocates nothing until the first append.
#[derive(Default)]
pub(crate) struct RecentBatches {
    /// The base offset of the oldest batch: nothing is known of offsets before it.
    start: Offset,
    batches: VecDeque<RecentBatch>,
}

impl RecentBatches {
    pub fn clear(&mut self) {
        self.batches.clear();
    }

    #[inline]
    pub fn push(&mut self, base_offset: Offset, last_offset: Offset, position: u32) {
        if self.batches.len() == BATCHES_MAX
            && let Some(oldest) = self.batches.pop_front()
        {
            self.start = oldest.last_offset.next();
        }
        if self.batches.is_empty() {
            self.start = base_offset;
        }
        self.batches.push_back(RecentBatch { last_offset, position });
    }

    /// The position of the first batch whose last offset is `offset` or later, and of its end (None if the active
    /// segment ends there). None if it is not among the recent batches.
    pub fn find(&self, offset: Offset) -> Option<(u32, Option<u32>)> {
        if offset < self.start {
            return None;
        }
        let number = self.batches.partition_point(|batch| batch.last_offset < offset);
        let batch = self.batches.get(number)?;
        Some((batch.position, self.batches.get(number + 1).map(|next| next.position)))
    }

    /// Drops batches that end at or beyond `end`.
    pub fn truncate_to(&mut self, end: Offset) {
        while self.batches.back().is_some_and(|batch| batch.last_offset >= end) {
            self.batches.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_exactly_what_it_knows() {
        let mut recent = RecentBatches::default();
        assert_eq!(recent.find(Offset(0)), None);
        for number in 0..100_i64 {
            let position = u32::try_from(number * 1000).expect("small");
            recent.push(Offset(number * 10), Offset(number * 10 + 9), position);
        }
        assert_eq!(recent.find(Offset(359)), None, "the oldest have been forgotten");
        assert_eq!(recent.find(Offset(360)), Some((36_000, Some(37_000))));
        assert_eq!(recent.find(Offset(995)), Some((99_000, None)));
        assert_eq!(recent.find(Offset(1000)), None);
        recent.truncate_to(Offset(990));
        assert_eq!(recent.find(Offset(989)), Some((98_000, None)));
        assert_eq!(recent.find(Offset(990)), None);
        recent.truncate_to(Offset(0));
        assert_eq!(recent.find(Offset(989)), None);
    }
}
