//! Which segments a log gives up: those before its start, those beyond `retention.bytes`, those older than
//! `retention.ms`.
//!
//! Kafka's rules (`UnifiedLog.deleteOldSegments`): oldest first, nothing at or above the high watermark, and the active
//! segment only when all of it has expired: then a new one begins. One difference, recorded in
//! `docs/adr/0008-retention-and-timestamps-in-the-future.md`: if the largest timestamp of a segment lies in the future,
//! its age counts from its last write; otherwise one wrong timestamp would keep it for ever (scenario 19).

use std::io;
use std::path::PathBuf;

use ottla_model::{Offset, TimestampMs};

use super::{DeletedFiles, Log};
use crate::env::Env;
use crate::file_name;
use crate::segment::{Place, Segment};

/// Finds out how old the oldest segments are; run it anywhere, without the partition's lock. The segments keep what it
/// finds.
pub struct AgeSearch<E: Env> {
    env: E,
    directory: PathBuf,
    segments: Vec<Segment>,
    /// Segments are looked at up to the first one with records that are not older.
    expires_before: TimestampMs,
}

impl<E: Env> AgeSearch<E> {
    /// Waits for the disk.
    pub fn run(&self) -> io::Result<()> {
        let place = Place { env: &self.env, directory: &self.directory };
        for segment in &self.segments {
            if segment.largest_timestamp(place)?.is_some_and(|it| it.timestamp >= self.expires_before) {
                break;
            }
        }
        Ok(())
    }
}

impl<E: Env> Log<E> {
    /// The reads that [`Self::delete_old_segments`] would make; none if it knows how old the segments are. Run before
    /// it, they need not be made under the partition's lock.
    pub fn age_search(&self, now: TimestampMs) -> Option<AgeSearch<E>> {
        if self.is_offline() || !self.config.deletes || self.config.retention_ms < 0 {
            return None;
        }
        let expires_before = TimestampMs(now.0.saturating_sub(self.config.retention_ms));
        let oldest = self.segments.iter().skip(self.before_log_start());
        let mut unexpired = oldest.skip_while(|segment| segment.is_known_to_be_older_than(expires_before)).peekable();
        if unexpired.peek().is_none_or(|first| first.knows_largest_timestamp()) {
            return None;
        }
        let segments = unexpired.cloned().collect();
        Some(AgeSearch { env: self.env.clone(), directory: self.directory.clone(), segments, expires_before })
    }

    /// Removes old segments from the log, and moves its start behind them. `cleanup.policy` decides whether size and
    /// age count; segments before the log start are always removed. The files stay until the caller removes them,
    /// `file.delete.delay.ms` later.
    ///
    /// # Errors
    /// The disk returned an error; segments that were removed before it stay removed.
    pub fn delete_old_segments(&mut self, high_watermark: Offset, now: TimestampMs) -> io::Result<DeletedFiles> {
        if self.is_offline() {
            return Ok(DeletedFiles::default());
        }
        self.repair_indexes()?;
        let mut count = self.before_log_start();
        if self.config.deletes {
            count = self.beyond_retention_bytes(count, high_watermark);
            count = self.beyond_retention_ms(count, high_watermark, now)?;
        }
        if count == 0 && self.set_aside.is_empty() {
            return Ok(DeletedFiles::default());
        }
        if count == self.segments.len() {
            self.roll(self.log_end, now)?;
            // Its name is the only trace of where the log ends: it must not be lost with those that go now.
            self.env.sync_directory(&self.directory)?;
        }
        if let Some(first_kept) = self.segments.get(count).map(|segment| segment.base_offset) {
            self.advance_log_start(first_kept);
        }
        self.delete_first_segments(count)
    }

    /// Rebuilds the indexes of closed segments in which a look-up found an entry that is not of its batch.
    fn repair_indexes(&mut self) -> io::Result<()> {
        let place = Place { env: &self.env, directory: &self.directory };
        let interval = self.config.index_interval_bytes;
        if let Some((_active, closed)) = self.segments.split_last_mut() {
            for segment in closed.iter_mut().filter(|segment| segment.take_index_damage()) {
                let path = place.path(segment.base_offset, file_name::LOG);
                tracing::warn!(file = %path.display(), "rebuilding the segment's indexes: an entry is wrong");
                segment.rebuild_indexes(place, &place.env.open(&path, crate::env::OpenMode::Read)?, interval)?;
            }
        }
        Ok(())
    }

    /// How many segments end before the log's start.
    fn before_log_start(&self) -> usize {
        let after_first = self.segments.iter().skip(1);
        after_first.take_while(|segment| segment.base_offset <= self.log_start).count()
    }

    /// Whether segment `number` may go at all.
    fn may_go(&self, number: usize, high_watermark: Offset) -> bool {
        match (self.segments.get(number), self.segments.get(number + 1)) {
            (Some(_), Some(next)) => next.base_offset <= high_watermark,
            (Some(active), None) => active.size_bytes > 0 && self.log_end <= high_watermark,
            (None, _) => false,
        }
    }

    fn beyond_retention_bytes(&self, mut count: usize, high_watermark: Offset) -> usize {
        let Ok(retention_bytes) = u64::try_from(self.config.retention_bytes) else { return count };
        let sizes = |from: usize| self.segments.iter().skip(from).map(|segment| u64::from(segment.size_bytes));
        let Some(mut excess) = sizes(count).sum::<u64>().checked_sub(retention_bytes) else { return count };
        for size in sizes(count) {
            let Some(left) = excess.checked_sub(size).filter(|_| self.may_go(count, high_watermark)) else { break };
            excess = left;
            count += 1;
        }
        count
    }

    fn beyond_retention_ms(&self, mut count: usize, high_watermark: Offset, now: TimestampMs) -> io::Result<usize> {
        if self.config.retention_ms < 0 {
            return Ok(count);
        }
        while self.may_go(count, high_watermark)
            && now.0.saturating_sub(self.newest_time(count, now)?.0) > self.config.retention_ms
        {
            count += 1;
        }
        Ok(count)
    }

    /// The time from which a segment's age counts.
    fn newest_time(&self, number: usize, now: TimestampMs) -> io::Result<TimestampMs> {
        let place = self.place();
        let Some(segment) = self.segments.get(number) else { return Ok(now) };
        let largest = segment.largest_timestamp(place)?;
        match largest {
            Some(largest) if largest.timestamp <= now => Ok(largest.timestamp),
            _ => {
                let modified = self.env.modified(&place.path(segment.base_offset, file_name::LOG))?;
                Ok(modified.unwrap_or(segment.opened))
            }
        }
    }
}
