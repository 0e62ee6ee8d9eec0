//! Checks the unsynced part of a log: complete batches stay, a torn tail is cut off, anything else is refused.

use std::io;

use ottla_model::Offset;
use ottla_protocol::record_batch::{BatchHeader, HEADER_BYTES, verify_crc};

use super::{Fault, Opening, RecoveryProgress};
use crate::env::{Env, File, OpenMode};
use crate::error::OpenError;
use crate::file_name;
use crate::producer_replay;
use crate::scan::{BatchScan, Step};
use crate::segment::{Place, Segment};

/// Interval of calls of [`super::OpenOptions::progress`], in bytes: several times a second on a slow disk.
const PROGRESS_BYTES: u64 = 32 << 20;

/// How much is read at once in search of a valid batch behind a damaged one.
const SEARCH_READ_BYTES: usize = 1 << 20;

/// Where the format's number is in a batch.
const MAGIC_AT: usize = 16;

/// The result of checking a segment.
struct Examined {
    segment: Segment,
    /// The offset after the last valid batch.
    end: Offset,
    /// Where the first invalid batch begins.
    invalid_at: Option<u32>,
}

impl<E: Env> Opening<'_, '_, E> {
    /// Examines the segments from number `first` on.
    pub(super) fn recover(&mut self, first: usize) -> Result<(), Fault> {
        let Some(start) = self.log.segments.get(first).map(|segment| segment.base_offset) else { return Ok(()) };
        self.total_bytes = self.log.segments.iter().skip(first).map(|segment| u64::from(segment.size_bytes)).sum();
        if self.log.epochs.truncate_from_end(start) {
            self.log.epochs_version += 1;
        }
        // Snapshots above may be of records that did not survive, and their removal may not have been durable.
        self.log.remove_snapshots(|snapshot| snapshot > start)?;
        self.log.log_end = start;
        let from = self.log.load_producer_snapshot(self.log.replay_bound(start)?, self.options.now)?;
        self.log.replay_producers(from, start)?;

        let mut end = start;
        let mut number = first;
        while number < self.log.segments.len() {
            if self.remove_left_over(number, end)? {
                continue;
            }
            self.refuse_overlap_or_gap(number, end, number > first)?;
            if self.log.segments.len() <= number {
                break;
            }
            if number > first {
                // Retention may remove the segments before it, and with them the last trace of their producers.
                self.log.log_end = end;
                self.log.producers.set_end_offset(end);
                self.log.write_producer_snapshot(false)?;
            }
            let examined = self.examine(number)?;
            end = examined.end;
            if let Some(position) = examined.invalid_at
                && self.next_records_at(number) == Some(end)
            {
                // No offset is missing: an append failed, and its truncation before the roll was not durable.
                self.cut_file(number, position)?;
            } else if let Some(position) = examined.invalid_at {
                let in_this = self.valid_batch_follows(number, position.saturating_add(1), end)?;
                if in_this || self.valid_batch_follows_in_later(number + 1, end)? {
                    return Err(self.corrupt(number, position));
                }
                self.cut(number, position)?;
            }
            self.adopt(number, examined.segment)?;
            number += 1;
        }
        self.log.log_end = end;
        self.log.producers.set_end_offset(end);
        self.tell_progress(true);
        Ok(())
    }

    /// Removes an empty segment that begins before the end of the one before it: a failed roll left it, and appends
    /// continued without it.
    fn remove_left_over(&mut self, number: usize, end: Offset) -> Result<bool, Fault> {
        let is_left_over =
            self.log.segments.get(number).is_some_and(|segment| segment.size_bytes == 0 && segment.base_offset < end);
        if is_left_over {
            let segment = self.log.segments.remove(number);
            segment.remove_files(self.log.place())?;
        }
        Ok(is_left_over)
    }

    /// A segment must begin where the one before it ended. If it begins later, the one before has lost its end: then
    /// this and the later ones go if they hold nothing.
    fn refuse_overlap_or_gap(&mut self, number: usize, end: Offset, has_previous: bool) -> Result<(), Fault> {
        let Some(base) = self.log.segments.get(number).map(|segment| segment.base_offset) else { return Ok(()) };
        if base < end {
            return Err(self.corrupt(number, 0));
        }
        if base == end || !has_previous {
            return Ok(());
        }
        if !self.valid_batch_follows_in_later(number, end)? {
            self.drop_segments_from(number)?;
        } else if !self.log.config.may_have_gaps {
            let previous = number.saturating_sub(1);
            let position = self.log.segments.get(previous).map_or(0, |segment| segment.size_bytes);
            return Err(self.corrupt(previous, position));
        }
        Ok(())
    }

    /// The base offset of the next segment with records.
    fn next_records_at(&self, number: usize) -> Option<Offset> {
        let mut later = self.log.segments.iter().skip(number + 1);
        later.find(|segment| segment.size_bytes > 0).map(|segment| segment.base_offset)
    }

    /// Checks every batch of a segment, up to the offset where the next one begins, and rebuilds the derived state in
    /// memory.
    fn examine(&mut self, number: usize) -> Result<Examined, Fault> {
        let (base, size) = self
            .log
            .segments
            .get(number)
            .map_or((Offset::ZERO, 0), |segment| (segment.base_offset, segment.size_bytes));
        let mut examined = Examined { segment: Segment::new(base, self.options.now), end: base, invalid_at: None };
        if size == 0 {
            return Ok(examined);
        }
        let file = self.log.env.open(&self.log.place().path(base, file_name::LOG), OpenMode::Read)?;
        let interval = self.log.config.index_interval_bytes;
        let next_records_at = self.next_records_at(number).unwrap_or(Offset::MAX);
        let mut scan = BatchScan::new(&file, base, size);
        loop {
            match scan.next()? {
                Step::Batch((batch, _)) if batch.header.base_offset >= next_records_at => {
                    examined.invalid_at = Some(batch.position);
                    return Ok(examined);
                }
                Step::Batch((batch, bytes)) => {
                    examined.segment.appended(&batch.header, batch.position, interval);
                    examined.end = batch.header.next_offset();
                    self.log.note_epoch(&batch.header);
                    if let Some(aborted) = producer_replay::apply(&mut self.log.producers, &batch.header, bytes) {
                        examined.segment.aborted.push(aborted);
                    }
                    self.scanned_bytes += bytes.len() as u64;
                    self.tell_progress(false);
                }
                Step::End => return Ok(examined),
                Step::Invalid { position } => {
                    examined.invalid_at = Some(position);
                    return Ok(examined);
                }
            }
        }
    }

    /// Takes an examined segment over, with new index files.
    fn adopt(&mut self, number: usize, mut examined: Segment) -> Result<(), Fault> {
        let is_active = number + 1 == self.log.segments.len();
        let place = Place { env: &self.log.env, directory: &self.log.directory };
        if is_active && examined.size_bytes == 0 && self.with_empty_indexes == Some(examined.base_offset) {
            // As nearly all of a hundred thousand quiet logs have them.
        } else if is_active {
            // It will be appended to: only the files of closed segments are missing.
            examined.create_index_files(place)?;
        } else {
            examined.replace_index_files(place)?;
        }
        if let Some(segment) = self.log.segments.get_mut(number) {
            *segment = examined;
        }
        Ok(())
    }

    /// Cuts off a torn tail, durably: it must not reappear behind records that are written in its place.
    fn cut(&mut self, number: usize, position: u32) -> Result<(), Fault> {
        self.drop_segments_from(number + 1)?;
        self.cut_file(number, position)
    }

    fn cut_file(&mut self, number: usize, position: u32) -> Result<(), Fault> {
        let Some(segment) = self.log.segments.get(number) else { return Ok(()) };
        let path = self.log.place().path(segment.base_offset, file_name::LOG);
        tracing::warn!(
            file = %path.display(), position, cut_bytes = segment.size_bytes.saturating_sub(position),
            "cutting off the remains of an append"
        );
        self.cut_bytes += u64::from(segment.size_bytes.saturating_sub(position));
        let file = self.log.env.open(&path, OpenMode::Write)?;
        file.set_len(u64::from(position))?;
        file.sync_all()?;
        Ok(())
    }

    fn drop_segments_from(&mut self, number: usize) -> Result<(), Fault> {
        let mut dropped = false;
        while self.log.segments.len() > number.max(1) {
            if let Some(segment) = self.log.segments.pop() {
                self.cut_bytes += u64::from(segment.size_bytes);
                segment.remove_files(self.log.place())?;
                dropped = true;
            }
        }
        if dropped {
            self.log.env.sync_directory(&self.log.directory)?;
        }
        Ok(())
    }

    fn valid_batch_follows_in_later(&self, number: usize, end: Offset) -> Result<bool, Fault> {
        for number in number..self.log.segments.len() {
            if self.valid_batch_follows(number, 0, end)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a segment holds, anywhere from `position` on, a batch with a right checksum and offsets from `end` on.
    fn valid_batch_follows(&self, number: usize, position: u32, end: Offset) -> Result<bool, Fault> {
        let Some(segment) = self.log.segments.get(number) else { return Ok(false) };
        if position >= segment.size_bytes {
            return Ok(false);
        }
        let file = self.log.env.open(&self.log.place().path(segment.base_offset, file_name::LOG), OpenMode::Read)?;
        Ok(search(&file, position, segment.size_bytes, end)?)
    }

    fn corrupt(&self, number: usize, position: u32) -> Fault {
        let base = self.log.segments.get(number).map_or(Offset::ZERO, |segment| segment.base_offset);
        let file = self.log.place().path(base, file_name::LOG);
        Fault::Refused(OpenError::CorruptMiddle { file, position: u64::from(position) })
    }

    fn tell_progress(&mut self, finished: bool) {
        if !finished && self.scanned_bytes < self.told_bytes + PROGRESS_BYTES {
            return;
        }
        self.told_bytes = self.scanned_bytes;
        let progress = RecoveryProgress { scanned_bytes: self.scanned_bytes, total_bytes: self.total_bytes };
        if let Some(listener) = &mut self.options.progress {
            listener(progress);
        }
    }
}

/// Searches every byte position in `position..size` for a valid batch. The header excludes most positions quickly.
fn search(file: &impl File, position: u32, size: u32, end: Offset) -> io::Result<bool> {
    let mut window = Vec::new();
    let mut at = position;
    while size - at >= HEADER_BYTES as u32 {
        window.resize(SEARCH_READ_BYTES.min((size - at) as usize), 0);
        let count = file.read_at(&mut window, u64::from(at))?;
        window.truncate(count);
        let Some(candidates) = count.checked_sub(HEADER_BYTES - 1) else { return Ok(false) };
        for start in 0..candidates {
            let rest = window.get(start..).unwrap_or_default();
            if rest.get(MAGIC_AT) != Some(&2) {
                continue;
            }
            let Ok(header) = BatchHeader::parse(rest) else { continue };
            let begins_at = u64::from(at) + start as u64;
            let is_plausible = header.base_offset >= end
                && header.base_offset.distance_from(end) <= i32::MAX as u64
                && header.last_offset_delta >= 0
                && begins_at + header.size_bytes() as u64 <= u64::from(size);
            if is_plausible && verify_crc(&file.read_bytes(begins_at, header.size_bytes())?) {
                return Ok(true);
            }
        }
        at = at.saturating_add(u32::try_from(candidates).unwrap_or(u32::MAX));
    }
    Ok(false)
}
