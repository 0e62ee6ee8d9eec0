//! The files of a segment that the cleaner writes: `BASE.log.cleaned` and its indexes.

use std::io;
use std::path::PathBuf;

use ottla_protocol::record_batch::BatchHeader;

use super::CleanError;
use super::job::{CleanJob, Source};
use crate::aborted_index::AbortedTransaction;
use crate::env::{Env, File, OpenMode};
use crate::file_name::{self, CLEANED_SUFFIX, path_of, with_suffix};
use crate::segment::{Place, Segment};

pub(super) struct Output<E: Env> {
    env: E,
    directory: PathBuf,
    index_interval_bytes: u32,
    file: E::File,
    segment: Segment,
    /// Bytes that are not in the file yet.
    buffer: Vec<u8>,
    /// Bytes that are.
    written_bytes: u64,
    buffer_bytes: usize,
}

impl<E: Env> Output<E> {
    /// Begins the segment that takes the place of `first` and others.
    pub fn create(job: &CleanJob<E>, first: &Source, buffer_bytes: usize) -> io::Result<Self> {
        let path = |kind| with_suffix(job.place().path(first.base_offset, kind), CLEANED_SUFFIX);
        for kind in [file_name::OFFSET_INDEX, file_name::TIME_INDEX] {
            job.env.open(&path(kind), OpenMode::Truncate)?;
        }
        job.env.remove_file_if_there(&path(file_name::TRANSACTION_INDEX))?;
        Ok(Self {
            env: job.env.clone(),
            directory: job.directory.clone(),
            index_interval_bytes: job.config.index_interval_bytes,
            file: job.env.open(&path(file_name::LOG), OpenMode::Truncate)?,
            segment: Segment::new(first.base_offset, first.opened),
            buffer: Vec::new(),
            written_bytes: 0,
            buffer_bytes,
        })
    }

    /// Adds a batch; returns how many records it has.
    pub fn push(&mut self, batch: &[u8]) -> Result<u64, CleanError> {
        let header = BatchHeader::parse(batch).map_err(|error| io::Error::other(error.to_string()))?;
        let position = self.written_bytes + self.buffer.len() as u64;
        if i32::try_from(position + batch.len() as u64).is_err() {
            return Err(CleanError::SegmentTooLarge);
        }
        let position = u32::try_from(position).map_err(|_| CleanError::SegmentTooLarge)?;
        self.segment.appended(&header, position, self.index_interval_bytes);
        self.buffer.extend_from_slice(batch);
        Ok(u64::try_from(header.record_count).unwrap_or(0))
    }

    /// How much was written out, if it was time.
    pub fn write_out_if_large(&mut self) -> io::Result<u64> {
        if self.buffer.len() < self.buffer_bytes { Ok(0) } else { self.write_out() }
    }

    fn write_out(&mut self) -> io::Result<u64> {
        let size = self.buffer.len() as u64;
        if size > 0 {
            self.file.write_all_at(&self.buffer, self.written_bytes)?;
            self.written_bytes += size;
            self.buffer.clear();
        }
        if self.segment.has_many_entries() {
            self.write_indexes()?;
        }
        Ok(size)
    }

    fn write_indexes(&mut self) -> io::Result<()> {
        let (directory, base) = (&self.directory, self.segment.base_offset);
        self.segment.write_out_to(&self.env, |kind| with_suffix(path_of(directory, base, kind), CLEANED_SUFFIX))
    }

    /// Writes and syncs everything. `aborted` are the transactions whose markers are in the segment.
    pub fn finish(mut self, aborted: Vec<AbortedTransaction>) -> io::Result<(Segment, u64)> {
        for transaction in aborted {
            self.segment.aborted.push(transaction);
        }
        match self.complete() {
            Ok(()) => Ok((self.segment, self.written_bytes)),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    fn complete(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.segment.index_largest_timestamp();
        self.write_indexes()?;
        self.file.sync_all()?;
        for kind in self.segment.kinds().iter().filter(|kind| **kind != file_name::LOG) {
            self.env.open(&self.path(kind), OpenMode::Write)?.sync_all()?;
        }
        Ok(())
    }

    fn path(&self, kind: &str) -> PathBuf {
        let place = Place { env: &self.env, directory: &self.directory };
        with_suffix(place.path(self.segment.base_offset, kind), CLEANED_SUFFIX)
    }

    /// Removes the written files. A file that cannot be removed is removed when the log is opened, or overwritten.
    pub fn discard(self) {
        discard(Place { env: &self.env, directory: &self.directory }, &self.segment);
    }
}

/// Removes the files of a cleaned segment that is not wanted.
pub(super) fn discard<E: Env>(place: Place<'_, E>, segment: &Segment) {
    for kind in file_name::SEGMENT_KINDS {
        let path = with_suffix(place.path(segment.base_offset, kind), CLEANED_SUFFIX);
        if let Err(error) = place.env.remove_file_if_there(&path) {
            tracing::debug!(file = %path.display(), %error, "a cleaned segment is left behind");
        }
    }
}
