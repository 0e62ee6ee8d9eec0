//! Truncates a log to the part that its leader has.
//!
//! Truncation is rare, immediate and durable, with syncs: after a power loss truncated records must not reappear behind
//! records that were written in their place.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{Offset, TimestampMs};

use super::Log;
use crate::env::{Env, File, OpenMode};
use crate::error::ReadError;
use crate::file_name;
use crate::open_files::Kept;
use crate::producer_replay;
use crate::producer_snapshot;
use crate::scan::{BatchScan, HeaderScan, Step};
use crate::segment::{Place, Segment};

impl<E: Env> Log<E> {
    /// Removes the records from `offset` on, whole batches only: where `offset` is within a batch, that batch goes too.
    /// Leader epochs that began at the new end or beyond go even if no record does. Returns whether records went.
    ///
    /// The recovery point falls with the end: the caller writes its checkpoint before it appends again.
    ///
    /// # Errors
    /// Nothing was cut, or the log is offline: to be closed and opened again.
    pub fn truncate_to(&mut self, offset: Offset, now: TimestampMs) -> Result<bool, ReadError> {
        if self.is_offline() {
            return Err(ReadError::Offline);
        }
        if offset >= self.log_end {
            // This broker may have led an epoch without writing a record.
            if self.epochs.truncate_from_end(self.log_end) {
                self.epochs_version += 1;
                self.write_epochs_now()?;
            }
            return Ok(false);
        }
        if self.segments.first().is_none_or(|first| offset < first.base_offset) {
            self.truncate_fully_and_start_at(offset, None)?;
            return Ok(true);
        }
        let (number, position, end) = self.batch_start(offset)?;
        let file = self.writable_file(number)?;
        let cut = self.cut_at(number, &file, position, end, now);
        if cut.is_err() {
            self.shared.failed.store(true, Ordering::Release);
        }
        cut.map(|()| true)
    }

    /// The file of the future active segment. It is opened before anything is truncated: a missing descriptor must not
    /// leave a half-truncated log.
    fn writable_file(&self, number: usize) -> io::Result<Arc<E::File>> {
        if number + 1 == self.segments.len() {
            return self.active_file();
        }
        let base = self.segments.get(number).map_or(Offset::ZERO, |segment| segment.base_offset);
        Ok(Arc::new(self.env.open(&self.place().path(base, file_name::LOG), OpenMode::Write)?))
    }

    fn cut_at(
        &mut self,
        number: usize,
        file: &Arc<E::File>,
        position: u32,
        end: Offset,
        now: TimestampMs,
    ) -> Result<(), ReadError> {
        self.shared.truncated();
        self.recovery_point = self.recovery_point.min(end);
        self.drop_segments_after(number)?;
        self.keep(Kept::Active, self.active().base_offset, file);
        let place = Place { env: &self.env, directory: &self.directory };
        let index_interval_bytes = self.config.index_interval_bytes;
        if let Some(active) = self.segments.last_mut() {
            active.truncate(place, &**file, position, end)?;
            active.opened = now;
            if active.activate(place, &**file)?.is_none() {
                active.rebuild_indexes(place, &**file, index_interval_bytes)?;
            }
        }
        file.sync_all()?;
        self.tail_is_dirty = false;
        self.recent.truncate_to(end);
        self.log_end = end;
        let mut records_end = self.active().base_offset;
        let mut scan = HeaderScan::new(&**file, 0, position);
        while let Step::Batch(batch) = scan.next()? {
            records_end = batch.header.next_offset();
        }
        self.records_end = Some(records_end).filter(|records_end| *records_end < end);
        self.log_start = self.log_start.min(end);
        self.high_watermark = self.high_watermark.min(end);
        if self.epochs.truncate_from_end(end) {
            self.epochs_version += 1;
        }
        self.write_epochs_now()?;
        self.remove_snapshots(|snapshot| snapshot > end)?;
        self.env.sync_directory(&self.directory)?;
        self.rebuild_producers(now)?;
        Ok(())
    }

    /// Removes everything and restarts at `offset`: the leader's log no longer has the records after this one's end
    /// (scenario 12). `log_start` is the first readable offset, by default `offset`; it is later if `offset` begins a
    /// batch of which only the end is readable.
    ///
    /// # Errors
    /// The log is to be closed and opened again.
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset, log_start: Option<Offset>) -> io::Result<()> {
        if self.is_offline() {
            return Err(io::Error::other("the log is offline"));
        }
        // Needs a descriptor, like all later steps: a missing descriptor must not leave a half-truncated log.
        self.env.sync_directory(&self.directory)?;
        let started = self.start_over(offset, log_start.unwrap_or(offset).max(offset));
        if started.is_err() {
            self.shared.failed.store(true, Ordering::Release);
        }
        started
    }

    pub(crate) fn start_over(&mut self, offset: Offset, log_start: Offset) -> io::Result<()> {
        self.shared.truncated();
        self.recovery_point = self.recovery_point.min(offset);
        let opened = self.active().opened;
        // Snapshots first: none may outlive the records that it was taken of. Then segments, newest first: a crash in
        // between leaves a log that is shorter, not one with a hole. Without any the log opens at its start's
        // checkpoint.
        self.remove_snapshots(|_| true)?;
        for number in (0..self.segments.len()).rev() {
            if let Some(segment) = self.segments.get(number) {
                segment.remove_files(self.place())?;
            }
        }
        let (segment, file) = Segment::create(self.place(), offset, opened)?;
        self.files.close_all();
        self.keep(Kept::Active, offset, &Arc::new(file));
        self.segments.clear();
        self.segments.push(segment);
        self.recent.clear();
        self.tail_is_dirty = false;
        self.records_end = None;
        self.log_end = offset;
        self.log_start = log_start;
        self.recovery_point = offset;
        self.high_watermark = offset;
        self.epochs.clear();
        self.epochs_version += 1;
        self.producers.clear(offset);
        super::flush::sync_topic_id(&self.env, &self.directory)?;
        self.write_epochs_now()?;
        self.env.sync_directory(&self.directory)?;
        self.names_synced = self.names_changes;
        if self.directory_unsynced
            && let Some(parent) = self.directory.parent()
        {
            self.env.sync_directory(parent)?;
            self.directory_unsynced = false;
        }
        Ok(())
    }

    fn drop_segments_after(&mut self, number: usize) -> io::Result<()> {
        if number + 1 == self.segments.len() {
            return Ok(());
        }
        self.files.close_all();
        self.recent.clear();
        while self.segments.len() > number + 1 {
            if let Some(last) = self.segments.last() {
                last.remove_files(self.place())?;
            }
            self.segments.pop();
        }
        Ok(())
    }

    pub(crate) fn remove_snapshots(&mut self, goes: impl Fn(Offset) -> bool) -> io::Result<()> {
        let place = Place { env: &self.env, directory: &self.directory };
        for offset in self.snapshots.iter().copied().filter(|offset| goes(*offset)) {
            place.env.remove_file_if_there(&place.path(offset, file_name::PRODUCER_SNAPSHOT))?;
        }
        self.snapshots.retain(|offset| !goes(*offset));
        Ok(())
    }

    /// Loads the newest useful snapshot, and replays the records behind it.
    pub(crate) fn rebuild_producers(&mut self, now: TimestampMs) -> io::Result<()> {
        let from = self.load_producer_snapshot(self.replay_bound(self.log_end)?, now)?;
        self.replay_producers(from, self.log_end)
    }

    /// The offset up to which a snapshot may reach: `end`, unless the part between the high watermark and `end` has a
    /// marker. A snapshot says which transactions are open, but not which have ended by a marker that is not
    /// replicated.
    pub(crate) fn replay_bound(&self, end: Offset) -> io::Result<Offset> {
        let from = self.high_watermark.max(self.log_start);
        if from >= end {
            return Ok(end);
        }
        for number in self.segment_number(from)..self.segments.len() {
            let Some(segment) = self.segments.get(number).filter(|segment| segment.size_bytes > 0) else { continue };
            if segment.base_offset >= end {
                break;
            }
            let file = self.segment_file(number)?;
            let Step::Batch(first) = segment.find(self.place(), &file, from)? else { continue };
            let mut scan = HeaderScan::new(&*file, first.position, segment.size_bytes);
            while let Step::Batch(batch) = scan.next()? {
                if batch.header.is_control() && batch.header.base_offset < end {
                    return Ok(from);
                }
            }
        }
        Ok(end)
    }

    /// Loads the newest readable snapshot at or below `at_most`, and returns its offset: the log's start if there is
    /// none. Damaged ones are removed.
    pub(crate) fn load_producer_snapshot(&mut self, at_most: Offset, now: TimestampMs) -> io::Result<Offset> {
        let expiration_ms = self.config.producer_id_expiration_ms;
        while let Some(offset) = self.snapshots.iter().copied().filter(|offset| *offset <= at_most).max() {
            let path = self.place().path(offset, file_name::PRODUCER_SNAPSHOT);
            match producer_snapshot::decode(&self.env.read_file(&path)?) {
                Ok(entries) => {
                    self.producers.load(entries, offset, now, expiration_ms);
                    return Ok(offset);
                }
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "dropping a producer snapshot");
                    self.remove_snapshots(|snapshot| snapshot == offset)?;
                }
            }
        }
        let start = self.log_start.min(at_most);
        self.producers.clear(start);
        Ok(self.segments.first().map_or(start, |first| first.base_offset.min(start)))
    }

    /// Applies the batches of `from..to` to the producer states.
    pub(crate) fn replay_producers(&mut self, from: Offset, to: Offset) -> io::Result<()> {
        for number in self.segment_number(from)..self.segments.len() {
            let Some(segment) = self.segments.get(number) else { break };
            if segment.base_offset >= to || segment.size_bytes == 0 {
                continue;
            }
            let file = self.segment_file(number)?;
            let (base, size) = (segment.base_offset, segment.size_bytes);
            let start = match segment.find(self.place(), &file, from)? {
                Step::Batch(batch) => batch,
                _ => continue,
            };
            let mut scan = BatchScan::new(&*file, base, size).from(start.position, start.header.base_offset);
            while let Step::Batch((batch, bytes)) = scan.next()? {
                if batch.header.base_offset >= to {
                    break;
                }
                if batch.header.base_offset >= from {
                    // The segment's index has what it aborts.
                    producer_replay::apply(&mut self.producers, &batch.header, bytes);
                }
            }
        }
        self.producers.set_end_offset(to);
        Ok(())
    }
}
