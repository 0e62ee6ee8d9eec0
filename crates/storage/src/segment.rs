//! One segment of a log: the facts about its files. The files themselves are opened when needed.
//!
//! Invariants: `size_bytes` is the size of the valid part of the log file; every index entry that this process wrote is
//! of a batch within it. Entries that were read from a file are checked against their batches ([`lookup`]).

mod lookup;

pub(crate) use lookup::{Bounds, unless_lost};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ottla_model::{Offset, TimestampMs};
use ottla_protocol::record_batch::BatchHeader;

use crate::aborted_index::AbortedIndex;
use crate::config::LogConfig;
use crate::env::{Env, File, OpenMode};
use crate::file_name::{self, path_of};
use crate::offset_index::{OffsetEntry, OffsetIndex, relative_offset};
use crate::scan::{HeaderScan, Step};
use crate::time_index::{TimeEntry, TimeIndex};

/// Where a log lives.
pub(crate) struct Place<'a, E> {
    pub env: &'a E,
    pub directory: &'a Path,
}

// A derived implementation would require the trait of `E` too.
impl<E> Clone for Place<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Place<'_, E> {}

impl<E: Env> Place<'_, E> {
    pub fn path(&self, base: Offset, kind: &str) -> PathBuf {
        path_of(self.directory, base, kind)
    }
}

/// The largest timestamp of a range, and the last offset of the first batch that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LargestTimestamp {
    pub timestamp: TimestampMs,
    pub offset: Offset,
}

impl LargestTimestamp {
    /// Of a batch, if it counts for the time index.
    fn of(header: &BatchHeader) -> Option<Self> {
        speaks_of_time(header).then(|| Self { timestamp: header.max_timestamp, offset: header.last_offset() })
    }

    fn is_later_than(self, other: Option<Self>) -> bool {
        other.is_none_or(|other| self.timestamp > other.timestamp)
    }
}

/// Facts about a segment's files that look-ups found; shared with look-ups on other threads.
#[derive(Default)]
pub(crate) struct Notes {
    /// None inside where there is no batch with a timestamp.
    largest_timestamp: OnceLock<Option<LargestTimestamp>>,
    /// An index entry does not match its batch: the indexes must be rebuilt.
    index_is_damaged: AtomicBool,
}

#[derive(Clone)]
pub(crate) struct Segment {
    pub base_offset: Offset,
    pub size_bytes: u32,
    pub offset_index: OffsetIndex,
    pub time_index: TimeIndex,
    pub aborted: AbortedIndex,
    /// Where every batch was seen by this process, the largest timestamp of them; otherwise `notes` may know it.
    largest_timestamp: Option<Option<LargestTimestamp>>,
    notes: Arc<Notes>,
    /// The largest timestamp of the first batch; rolling by time counts from it.
    pub first_timestamp: Option<TimestampMs>,
    /// When this process created or opened it; rolling by time counts from it where batches have no timestamps.
    pub opened: TimestampMs,
    bytes_since_index_entry: u32,
}

impl Segment {
    pub fn new(base_offset: Offset, now: TimestampMs) -> Self {
        Self {
            base_offset,
            size_bytes: 0,
            offset_index: OffsetIndex::empty(),
            time_index: TimeIndex::empty(),
            aborted: AbortedIndex::empty(),
            largest_timestamp: Some(None),
            notes: Arc::default(),
            first_timestamp: None,
            opened: now,
            bytes_since_index_entry: 0,
        }
    }

    /// A segment whose log file of this size was found, with nothing read of it yet.
    pub fn found(base_offset: Offset, size_bytes: u32, now: TimestampMs) -> Self {
        Self { size_bytes, largest_timestamp: None, ..Self::new(base_offset, now) }
    }

    /// Creates the files, empty; left-overs of the same names lose their content.
    pub fn create<E: Env>(place: Place<'_, E>, base_offset: Offset, now: TimestampMs) -> io::Result<(Self, E::File)> {
        let file = place.env.open(&place.path(base_offset, file_name::LOG), OpenMode::Truncate)?;
        for kind in [file_name::OFFSET_INDEX, file_name::TIME_INDEX] {
            place.env.open(&place.path(base_offset, kind), OpenMode::Truncate)?;
        }
        place.env.remove_file_if_there(&place.path(base_offset, file_name::TRANSACTION_INDEX))?;
        Ok((Self::new(base_offset, now), file))
    }

    /// Empties the indexes of offsets and times, on disk too.
    pub fn reset_indexes<E: Env>(&mut self, place: Place<'_, E>) -> io::Result<()> {
        for kind in [file_name::OFFSET_INDEX, file_name::TIME_INDEX] {
            place.env.open(&place.path(self.base_offset, kind), OpenMode::Truncate)?;
        }
        self.offset_index = OffsetIndex::empty();
        self.time_index = TimeIndex::empty();
        self.largest_timestamp = Some(None);
        self.notes = Arc::default();
        self.first_timestamp = None;
        self.bytes_since_index_entry = 0;
        Ok(())
    }

    /// Removes the files. Readers that have them open can continue.
    pub fn remove_files<E: Env>(&self, place: Place<'_, E>) -> io::Result<()> {
        for kind in file_name::SEGMENT_KINDS {
            place.env.remove_file_if_there(&place.path(self.base_offset, kind))?;
        }
        Ok(())
    }

    /// The batch has been written at `position`, the end so far.
    pub fn appended(&mut self, header: &BatchHeader, position: u32, index_interval_bytes: u32) {
        let size = u32::try_from(header.size_bytes()).unwrap_or(u32::MAX);
        if position == 0 {
            self.first_timestamp = Some(header.max_timestamp);
        }
        let largest = LargestTimestamp::of(header);
        if largest.is_some_and(|it| it.is_later_than(self.known_largest_timestamp())) {
            self.largest_timestamp = Some(largest);
        }
        if self.bytes_since_index_entry > index_interval_bytes
            && let Some(relative_offset) = relative_offset(self.base_offset, header.last_offset())
        {
            self.offset_index.push(OffsetEntry { relative_offset, position });
            self.index_largest_timestamp();
            self.bytes_since_index_entry = 0;
        }
        self.bytes_since_index_entry = self.bytes_since_index_entry.saturating_add(size);
        self.size_bytes = position.saturating_add(size);
    }

    /// Closes the time index: the largest timestamp is its last entry.
    pub fn index_largest_timestamp(&mut self) {
        if let Some(largest) = self.known_largest_timestamp()
            && let Some(relative_offset) = relative_offset(self.base_offset, largest.offset)
        {
            self.time_index.push_if_later(TimeEntry { timestamp: largest.timestamp, relative_offset });
        }
    }

    fn known_largest_timestamp(&self) -> Option<LargestTimestamp> {
        self.largest_timestamp.or_else(|| self.notes.largest_timestamp.get().copied()).flatten()
    }

    /// Whether the largest timestamp is known without a look at the disk, and is older than this.
    pub fn is_known_to_be_older_than(&self, timestamp: TimestampMs) -> bool {
        let known = self.largest_timestamp.or_else(|| self.notes.largest_timestamp.get().copied());
        known.is_some_and(|largest| largest.is_none_or(|largest| largest.timestamp < timestamp))
    }

    /// Whether the largest timestamp is known without a look at the disk.
    pub fn knows_largest_timestamp(&self) -> bool {
        self.largest_timestamp.is_some() || self.notes.largest_timestamp.get().is_some()
    }

    pub fn bounds(&self) -> Bounds {
        Bounds { base_offset: self.base_offset, size_bytes: self.size_bytes, notes: Arc::clone(&self.notes) }
    }

    /// Whether an index was seen to be damaged, once for each time that it was.
    pub fn take_index_damage(&self) -> bool {
        self.notes.index_is_damaged.swap(false, Ordering::Relaxed)
    }

    /// Whether so many index entries wait in memory that they should be written to the file.
    #[inline]
    pub fn has_many_entries(&self) -> bool {
        self.offset_index.should_write_out() || self.time_index.should_write_out() || self.aborted.should_write_out()
    }

    /// Writes index entries to the file if enough of them wait. A failure costs only memory: they stay waiting.
    pub fn write_out_if_many<E: Env>(&mut self, place: Place<'_, E>) {
        if !self.has_many_entries() {
            return;
        }
        if let Err(error) = self.write_out(place) {
            tracing::warn!(directory = %place.directory.display(), %error, "cannot write index entries");
        }
    }

    /// Empties the index files; the entries wait in memory and are written out with those that follow.
    pub fn create_index_files<E: Env>(&mut self, place: Place<'_, E>) -> io::Result<()> {
        for kind in [file_name::OFFSET_INDEX, file_name::TIME_INDEX] {
            place.env.open(&place.path(self.base_offset, kind), OpenMode::Truncate)?;
        }
        place.env.remove_file_if_there(&place.path(self.base_offset, file_name::TRANSACTION_INDEX))?;
        self.write_out_if_many(place);
        Ok(())
    }

    /// Replaces the index files by the entries in memory, which are all.
    pub fn replace_index_files<E: Env>(&mut self, place: Place<'_, E>) -> io::Result<()> {
        self.create_index_files(place)?;
        self.complete_indexes(place)
    }

    fn write_out<E: Env>(&mut self, place: Place<'_, E>) -> io::Result<()> {
        let base = self.base_offset;
        self.write_out_to(place.env, |kind| place.path(base, kind))
    }

    /// Writes the waiting index entries to the files with these paths, by kind.
    pub fn write_out_to(&mut self, env: &impl Env, path: impl Fn(&str) -> PathBuf) -> io::Result<()> {
        self.offset_index.write_out(env, &path(file_name::OFFSET_INDEX))?;
        self.time_index.write_out(env, &path(file_name::TIME_INDEX))?;
        self.aborted.write_out(env, &path(file_name::TRANSACTION_INDEX))
    }

    /// The kinds of files that it has, in the order in which a swap renames them.
    pub fn kinds(&self) -> &'static [&'static str] {
        // The index of aborted transactions is the last one.
        let count = file_name::SEGMENT_KINDS.len() - usize::from(self.aborted.len() == 0);
        file_name::SEGMENT_KINDS.get(..count).unwrap_or_default()
    }

    /// Brings the index files to the state of a closed segment: complete, with the largest timestamp as the last entry.
    pub fn complete_indexes<E: Env>(&mut self, place: Place<'_, E>) -> io::Result<()> {
        self.index_largest_timestamp();
        self.write_out(place)
    }

    /// Whether a set of batches must go to a new segment (Kafka's `LogSegment.shouldRoll`).
    #[inline]
    pub fn must_roll(&self, config: &LogConfig, batches: &Incoming, now: TimestampMs, jitter_ms: i64) -> bool {
        let too_large = u64::from(self.size_bytes) + batches.size_bytes > u64::from(config.segment_bytes);
        let waited_ms = match self.first_timestamp {
            Some(first) if first.0 >= 0 => batches.max_timestamp.0.saturating_sub(first.0),
            _ => now.0.saturating_sub(self.opened.0),
        };
        let too_old = self.size_bytes > 0 && waited_ms > config.segment_ms.saturating_sub(jitter_ms);
        too_large && self.size_bytes > 0
            || too_old
            || self.size_bytes > 0 && self.offset_index.is_full(config.index_size_max_bytes)
            || self.size_bytes > 0 && self.time_index.is_full(config.index_size_max_bytes)
            || relative_offset(self.base_offset, batches.last_offset).is_none()
    }

    /// Cuts the log file at `position`, where the batch at `end` began, and the indexes with it.
    pub fn truncate<E: Env>(
        &mut self,
        place: Place<'_, E>,
        file: &E::File,
        position: u32,
        end: Offset,
    ) -> io::Result<()> {
        let offset_path = place.path(self.base_offset, file_name::OFFSET_INDEX);
        let time_path = place.path(self.base_offset, file_name::TIME_INDEX);
        // The indexes first: they must never refer to removed batches.
        self.offset_index.truncate_to(place.env, &offset_path, self.base_offset, end)?;
        self.time_index.truncate_to(place.env, &time_path, self.base_offset, end)?;
        let aborted_path = place.path(self.base_offset, file_name::TRANSACTION_INDEX);
        self.aborted.truncate_to(place.env, &aborted_path, end)?;
        file.set_len(u64::from(position))?;
        self.size_bytes = position;
        Ok(())
    }
}

impl Segment {
    /// Rewrites the indexes of offsets and times from the log file, whose content is known to be valid. Returns the
    /// offset after the last batch.
    pub fn rebuild_indexes<E: Env>(
        &mut self,
        place: Place<'_, E>,
        file: &E::File,
        index_interval_bytes: u32,
    ) -> io::Result<Offset> {
        self.reset_indexes(place)?;
        let size = self.size_bytes;
        let mut next_offset = self.base_offset;
        let mut scan = HeaderScan::new(file, 0, size);
        while let Step::Batch(batch) = scan.next()? {
            self.appended(&batch.header, batch.position, index_interval_bytes);
            next_offset = batch.header.next_offset();
        }
        self.size_bytes = size;
        self.complete_indexes(place)?;
        Ok(next_offset)
    }
}

/// Whether a batch counts for the time index. A batch that compaction left without records still has its largest
/// timestamp, but no record with it.
fn speaks_of_time(header: &BatchHeader) -> bool {
    header.max_timestamp.0 >= 0 && header.record_count > 0
}

/// The facts about the next append that decide whether to roll.
pub(crate) struct Incoming {
    pub size_bytes: u64,
    pub last_offset: Offset,
    pub max_timestamp: TimestampMs,
}
