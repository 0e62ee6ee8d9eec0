//! The cleanable part of a log (Kafka's `LogCleanerManager.cleanableOffsets`).

use std::io;

use ottla_model::{Offset, TimestampMs};

use crate::env::Env;
use crate::log::Log;
use crate::scan::{HeaderScan, Step};

/// When a log is worth another look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextLook {
    /// Nothing changes before another segment is closed (or the configuration changes).
    AfterRoll,
    /// Closed segments wait until this time: for `min.compaction.lag.ms` to pass, or `max.compaction.lag.ms`.
    At(TimestampMs),
    /// Closed segments wait for the high watermark, or for the disk.
    Soon,
}

impl NextLook {
    fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::Soon, _) | (_, Self::Soon) => Self::Soon,
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::AfterRoll, at) | (at, Self::AfterRoll) => at,
        }
    }
}

/// The dirty part of a log.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Dirt {
    /// Everything below is clean.
    pub first_dirty: Offset,
    /// The base of the first segment that is not to be touched.
    pub uncleanable: Offset,
    pub clean_bytes: u64,
    /// Of the dirty segments that may be cleaned.
    pub cleanable_bytes: u64,
    /// A record has waited for longer than `max.compaction.lag.ms`.
    pub is_overdue: bool,
    /// The checkpoint was impossible: below the log's start, or above its end.
    pub checkpoint_was_wrong: bool,
    /// If nothing is to be done now.
    pub next_look: NextLook,
    min_ratio_ppm: u32,
}

impl Dirt {
    /// How much of the log is dirty, from 0 to 1.
    pub fn ratio(&self) -> f64 {
        let total = self.clean_bytes + self.cleanable_bytes;
        if total == 0 { 0.0 } else { self.cleanable_bytes as f64 / total as f64 }
    }

    /// Whether it is time to clean: more is dirty than `min.cleanable.dirty.ratio`, or a record has waited too long.
    pub fn is_worth_it(&self) -> bool {
        self.cleanable_bytes > 0 && (self.is_overdue || self.ratio() * 1e6 > f64::from(self.min_ratio_ppm))
    }
}

impl<E: Env> Log<E> {
    /// The cleanable part, if everything below `clean_up_to` (the checkpoint) was cleaned before, and nothing from
    /// `stable` on (the high watermark, the last stable offset) may be changed.
    pub fn dirt(&mut self, clean_up_to: Option<Offset>, stable: Offset, now: TimestampMs) -> io::Result<Dirt> {
        let checkpoint = clean_up_to.unwrap_or(self.log_start);
        let checkpoint_was_wrong = checkpoint < self.log_start || checkpoint > self.log_end;
        let first_dirty = if checkpoint_was_wrong { self.log_start } else { checkpoint };
        let active = self.segments.len().saturating_sub(1);
        let first = self.segment_number(first_dirty).min(active);
        let mut next_look = NextLook::AfterRoll;

        // Unsynced segments are not rewritten: a sync in progress needs these files.
        let limit = stable.min(self.recovery_point).min(self.log_end);
        let mut end = self.segment_number(limit).min(active).max(first);
        if self.segments.get(active).is_some_and(|segment| segment.base_offset <= limit) {
            end = active;
        } else if end < active {
            next_look = NextLook::Soon;
        }
        let lag_ms = self.config.min_compaction_lag_ms;
        if lag_ms > 0 {
            for (number, segment) in self.segments.iter().enumerate().take(end).skip(first) {
                let newest = segment.largest_timestamp(self.place())?.map_or(segment.opened, |it| it.timestamp);
                if newest.0 > now.0.saturating_sub(lag_ms) {
                    end = number;
                    next_look = next_look.sooner(NextLook::At(TimestampMs(newest.0.saturating_add(lag_ms))));
                    break;
                }
            }
        }
        let mut is_overdue = false;
        if self.config.max_compaction_lag_ms < i64::MAX {
            let mut oldest = None;
            for number in first..active {
                let first_of_segment = self.first_timestamp(number)?.filter(|first| first.0 > 0);
                oldest = [oldest, first_of_segment].into_iter().flatten().min();
            }
            if let Some(oldest) = oldest {
                let due = TimestampMs(oldest.0.saturating_add(self.config.max_compaction_lag_ms.max(0)));
                is_overdue = due < now;
                if !is_overdue {
                    next_look = next_look.sooner(NextLook::At(due));
                }
            }
        }
        let bytes = |numbers: std::ops::Range<usize>| -> u64 {
            let segments = self.segments.get(numbers).unwrap_or_default();
            segments.iter().map(|segment| u64::from(segment.size_bytes)).sum()
        };
        // A segment that was cleaned in part counts as both, as in Kafka.
        let clean_end =
            if self.segments.get(first).is_some_and(|it| it.base_offset < first_dirty) { first + 1 } else { first };
        Ok(Dirt {
            first_dirty,
            uncleanable: self.segments.get(end).map_or(self.log_end, |segment| segment.base_offset),
            clean_bytes: bytes(0..clean_end.min(active)),
            cleanable_bytes: bytes(first..end),
            is_overdue,
            checkpoint_was_wrong,
            next_look,
            min_ratio_ppm: self.config.min_cleanable_dirty_ppm,
        })
    }

    /// The largest timestamp of a segment's first batch; read at its first use.
    fn first_timestamp(&mut self, number: usize) -> io::Result<Option<TimestampMs>> {
        let Some(segment) = self.segments.get(number) else { return Ok(None) };
        if segment.first_timestamp.is_some() || segment.size_bytes == 0 {
            return Ok(segment.first_timestamp);
        }
        let file = self.segment_file(number)?;
        let first = match HeaderScan::new(&*file, 0, segment.size_bytes).next()? {
            Step::Batch(batch) => Some(batch.header.max_timestamp),
            _ => None,
        };
        if let Some(segment) = self.segments.get_mut(number) {
            segment.first_timestamp = first;
        }
        Ok(first)
    }
}
