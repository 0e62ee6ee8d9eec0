//! Finding batches in a segment through its index files, which are never trusted.
//!
//! A crash, a full disk or a copy of a volume damages index files first: zeros at the end (Kafka preallocates its own),
//! a tail that was cut off, entries of another life of the log. Kafka checks sizes only, and KAFKA-10207 let zeros at
//! the end of a time index delete live records. Here every entry that a look-up uses is compared with the batch that it
//! names. One that does not match is ignored: the segment is read from its start, which is slower and finds the same,
//! and [`Segment::take_index_damage`] lets the log rebuild its indexes. A time entry whose batch has exactly its
//! timestamp is believed where it says that no earlier batch has a larger one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{Offset, TimestampMs};

use super::{LargestTimestamp, Notes, Place, Segment};
use crate::env::{Env, File, OpenMode, Waits};
use crate::file_name;
use crate::offset_index::OffsetEntry;
use crate::scan::{BatchAt, HeaderScan, Step};
use crate::time_index::TimeEntry;

/// A look-up's result, without an index that is missing or cut off: the segment can be read without it.
pub(crate) fn unless_lost<T>(found: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match found {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(None),
        found => found,
    }
}

/// A segment as seen by readers with open files: a part of it that no longer changes.
#[derive(Clone)]
pub(crate) struct Bounds {
    pub base_offset: Offset,
    pub size_bytes: u32,
    pub(super) notes: Arc<Notes>,
}

impl Bounds {
    /// The first batch whose last offset is `offset` or later, starting from the offset index entry.
    pub fn find<F: File>(
        &self,
        file: &F,
        entry: Option<OffsetEntry>,
        offset: Offset,
        waits: Waits,
    ) -> io::Result<Step<BatchAt>> {
        if let Some(entry) = entry
            && let Some(found) = self.find_behind(file, entry, offset, waits)?
        {
            return Ok(found);
        }
        HeaderScan::new(file, 0, self.size_bytes).waiting(waits).find(offset)
    }

    /// [`Self::find`] from an index entry; none if the entry is wrong.
    fn find_behind<F: File>(
        &self,
        file: &F,
        entry: OffsetEntry,
        offset: Offset,
        waits: Waits,
    ) -> io::Result<Option<Step<BatchAt>>> {
        let mut scan = HeaderScan::new(file, entry.position, self.size_bytes).waiting(waits);
        let first = match scan.next()? {
            Step::Batch(first) if self.is_of_batch(entry, &first) => first,
            _ => {
                self.notes.index_is_damaged.store(true, Ordering::Relaxed);
                return Ok(None);
            }
        };
        if first.header.last_offset() >= offset {
            return Ok(Some(Step::Batch(first)));
        }
        Ok(Some(scan.find(offset)?).filter(|step| !matches!(step, Step::Invalid { .. })))
    }

    /// Whether an entry of the offset index can be of this batch, which is at its position. Kafka names the last offset
    /// of all batches that one append wrote, and the position of the first of them. No entry is of a segment's first
    /// batch.
    fn is_of_batch(&self, entry: OffsetEntry, batch: &BatchAt) -> bool {
        let named = self.base_offset + i64::from(entry.relative_offset);
        entry.position > 0 && batch.header.base_offset > self.base_offset && batch.header.last_offset() <= named
    }
}

impl Segment {
    /// The first batch whose last offset is `offset` or later.
    pub fn find<E: Env>(&self, place: Place<'_, E>, file: &E::File, offset: Offset) -> io::Result<Step<BatchAt>> {
        let path = place.path(self.base_offset, file_name::OFFSET_INDEX);
        let entry = unless_lost(self.offset_index.entry_for(place.env, &path, self.base_offset, offset))?;
        self.bounds().find(file, entry, offset, Waits::Yes)
    }

    /// The batch that an entry of the time index refers to; none if the entry is wrong.
    fn batch_of_time<E: Env>(
        &self,
        place: Place<'_, E>,
        file: &E::File,
        entry: TimeEntry,
    ) -> io::Result<Option<BatchAt>> {
        let offset = self.base_offset + i64::from(entry.relative_offset);
        match self.find(place, file, offset)? {
            Step::Batch(batch)
                if batch.header.base_offset <= offset
                    && LargestTimestamp::of(&batch.header).is_some_and(|it| it.timestamp == entry.timestamp) =>
            {
                Ok(Some(batch))
            }
            _ => {
                self.notes.index_is_damaged.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// A walk over headers that is sure to meet the first batch with a timestamp of `timestamp` or later at or behind
    /// `from`, if the segment has one.
    pub fn scan_for_timestamp<'f, E: Env>(
        &self,
        place: Place<'_, E>,
        file: &'f E::File,
        timestamp: TimestampMs,
        from: Offset,
    ) -> io::Result<HeaderScan<'f, E::File>> {
        let path = place.path(self.base_offset, file_name::TIME_INDEX);
        let mut start = 0;
        if let Some(entry) = unless_lost(self.time_index.before(place.env, &path, timestamp))? {
            start = self.batch_of_time(place, file, entry)?.map_or(0, |batch| batch.end());
        }
        if from > self.base_offset
            && let Step::Batch(first) = self.find(place, file, from)?
        {
            start = start.max(first.position);
        }
        Ok(HeaderScan::new(file, start, self.size_bytes))
    }

    /// The largest timestamp in the segment: from memory, or from the last entry of its time index and the batches
    /// after it.
    pub fn largest_timestamp<E: Env>(&self, place: Place<'_, E>) -> io::Result<Option<LargestTimestamp>> {
        if let Some(known) = self.largest_timestamp.or_else(|| self.notes.largest_timestamp.get().copied()) {
            return Ok(known);
        }
        let largest = match self.size_bytes {
            0 => None,
            _ => {
                let file = place.env.open(&place.path(self.base_offset, file_name::LOG), OpenMode::Read)?;
                self.read_largest_timestamp(place, &file)?
            }
        };
        Ok(*self.notes.largest_timestamp.get_or_init(|| largest))
    }

    fn read_largest_timestamp<E: Env>(
        &self,
        place: Place<'_, E>,
        file: &E::File,
    ) -> io::Result<Option<LargestTimestamp>> {
        let path = place.path(self.base_offset, file_name::TIME_INDEX);
        let (mut largest, mut start) = (None, 0);
        if let Some(entry) = unless_lost(self.time_index.last(place.env, &path))?
            && let Some(batch) = self.batch_of_time(place, file, entry)?
        {
            largest = LargestTimestamp::of(&batch.header);
            start = batch.end();
        }
        let mut scan = HeaderScan::new(file, start, self.size_bytes);
        while let Step::Batch(batch) = scan.next()? {
            largest = LargestTimestamp::of(&batch.header).filter(|it| it.is_later_than(largest)).or(largest);
        }
        if largest.is_some() && self.time_index.len() == 0 {
            self.notes.index_is_damaged.store(true, Ordering::Relaxed);
        }
        Ok(largest)
    }

    /// Whether the ends of both indexes are of the batches that they name, and reach as far as they should.
    pub fn has_sound_indexes<E: Env>(&self, place: Place<'_, E>, index_interval_bytes: u32) -> io::Result<bool> {
        if self.size_bytes == 0 {
            return Ok(self.offset_index.len() == 0 && self.time_index.len() == 0);
        }
        let file = place.env.open(&place.path(self.base_offset, file_name::LOG), OpenMode::Read)?;
        let Some(last) = self.last_offset_entry(place, &file)? else { return Ok(false) };
        let path = place.path(self.base_offset, file_name::TIME_INDEX);
        if let Some(entry) = unless_lost(self.time_index.last(place.env, &path))?
            && self.batch_of_time(place, &file, entry)?.is_none()
        {
            return Ok(false);
        }
        if self.time_index.len() == 0
            && let Step::Batch(first) = HeaderScan::new(&file, 0, self.size_bytes).next()?
            && LargestTimestamp::of(&first.header).is_some()
        {
            return Ok(false);
        }
        // No more than the interval and one batch are without an entry, unless a larger interval was configured once.
        let mut scan = HeaderScan::new(&file, last.map_or(0, |entry| entry.position), self.size_bytes);
        let mut bytes_since_entry = 0_u32;
        while let Step::Batch(batch) = scan.next()? {
            if bytes_since_entry > index_interval_bytes {
                return Ok(false);
            }
            bytes_since_entry = bytes_since_entry.saturating_add(batch.size_bytes());
        }
        Ok(true)
    }

    /// The last entry of the offset index, if there is one; none if it is wrong or cannot be read.
    fn last_offset_entry<E: Env>(
        &self,
        place: Place<'_, E>,
        file: &E::File,
    ) -> io::Result<Option<Option<OffsetEntry>>> {
        let path = place.path(self.base_offset, file_name::OFFSET_INDEX);
        let last = match self.offset_index.last(place.env, &path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                return Ok(None);
            }
            last => last?,
        };
        let Some(entry) = last else { return Ok(Some(None)) };
        let first = HeaderScan::new(file, entry.position, self.size_bytes).next()?;
        Ok(matches!(first, Step::Batch(batch) if self.bounds().is_of_batch(entry, &batch)).then_some(Some(entry)))
    }

    /// Turns a closed segment into the active one: reads the ends of its indexes and the batches after the last
    /// entries. Returns the offset after its last batch, or None if its content or its indexes are invalid, so that
    /// they must be rebuilt.
    pub fn activate<E: Env>(&mut self, place: Place<'_, E>, file: &E::File) -> io::Result<Option<Offset>> {
        let offset_path = place.path(self.base_offset, file_name::OFFSET_INDEX);
        let time_path = place.path(self.base_offset, file_name::TIME_INDEX);
        for loaded in
            [self.offset_index.load_last(place.env, &offset_path), self.time_index.load_last(place.env, &time_path)]
        {
            match loaded {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                    return Ok(None);
                }
                other => other?,
            }
        }
        let Some(last_entry) = self.last_offset_entry(place, file)? else { return Ok(None) };
        let indexed = last_entry.map_or(0, |entry| entry.position);
        // Start at the earlier of both indexes' last entries: otherwise a loss of time index entries would go
        // unnoticed.
        let mut largest = None;
        let mut start = 0;
        if let Some(entry) = self.time_index.known_last() {
            let Some(batch) = self.batch_of_time(place, file, entry)? else { return Ok(None) };
            largest = LargestTimestamp::of(&batch.header);
            start = indexed.min(batch.position);
        }
        let mut next_offset = self.base_offset;
        let mut scan = HeaderScan::new(file, start, self.size_bytes);
        loop {
            match scan.next()? {
                Step::Batch(batch) => {
                    if batch.header.base_offset < next_offset {
                        return Ok(None);
                    }
                    next_offset = batch.header.next_offset();
                    largest = LargestTimestamp::of(&batch.header).filter(|it| it.is_later_than(largest)).or(largest);
                }
                Step::End => break,
                Step::Invalid { .. } => return Ok(None),
            }
        }
        self.largest_timestamp = Some(largest);
        self.bytes_since_index_entry = self.size_bytes - indexed;
        self.first_timestamp = match HeaderScan::new(file, 0, self.size_bytes).next()? {
            Step::Batch(batch) => Some(batch.header.max_timestamp),
            _ => None,
        };
        Ok(Some(next_offset))
    }
}
