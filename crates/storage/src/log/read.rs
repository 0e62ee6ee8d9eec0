//! Reading: which bytes of which segment answer a fetch.
//!
//! A fetcher that is close to the end is served from memory. Behind that the offset index and the headers of a segment
//! have to be read, which may wait for the disk: [`Log::read_if_cached`] does not, and gives the look-up to its caller
//! to be run without the partition's lock.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::Offset;

use super::{Log, Shared};
use crate::env::{Env, OpenMode, Waits};
use crate::error::ReadError;
use crate::file_name::{self, path_of};
use crate::offset_index::{OffsetEntry, OffsetIndex};
use crate::open_files::{Kept, OpenFiles};
use crate::scan::Step;
use crate::segment::{Bounds, Segment, unless_lost};
use crate::slice::LogSlice;

/// The result of a read that does not wait.
pub enum Read<E: Env> {
    Done(LogSlice<E::File>),
    /// The disk may have to be waited for.
    Cold(ColdRead<E>),
}

/// Where a batch begins in its segment's file, and where it ends.
#[derive(Clone, Copy)]
struct Located {
    position: u32,
    end: u32,
}

/// The bounds of a read.
#[derive(Clone, Copy)]
struct Wanted {
    max_bytes: usize,
    min_one: bool,
}

impl Wanted {
    /// The slice of the batches from `first` to `end`.
    fn slice<F>(self, file: Arc<F>, first: Located, end: u32) -> LogSlice<F> {
        if end <= first.position {
            return LogSlice::empty();
        }
        let available = (end - first.position) as usize;
        let whole_first = (first.end - first.position) as usize;
        let wanted = if self.min_one { self.max_bytes.max(whole_first) } else { self.max_bytes };
        if wanted < whole_first {
            return LogSlice::left_out(available);
        }
        LogSlice::new(file, u64::from(first.position), available.min(wanted))
    }
}

/// Where the look-up of an offset begins.
#[derive(Clone, Copy)]
enum Lookup {
    /// The entries in memory had the answer.
    From(Option<OffsetEntry>),
    /// The index file has to be read.
    InFile,
}

/// Up to where a segment is read.
#[derive(Clone, Copy)]
enum Until {
    Position(u32),
    /// The batch that holds this offset.
    Batch(Offset, Lookup),
}

/// The look-up of one read in one segment; run it anywhere, without the partition's lock.
pub struct ColdRead<E: Env> {
    env: E,
    directory: PathBuf,
    /// As which file the segment's log file is kept open.
    kept: Kept,
    bounds: Bounds,
    /// The entries that are in the file.
    index: OffsetIndex,
    from: Offset,
    first: Result<Located, Lookup>,
    until: Until,
    wanted: Wanted,
    /// The base offset of the next segment.
    next_base: Option<Offset>,
    files: Arc<OpenFiles<E::File>>,
    shared: Arc<Shared>,
    /// The segments are those of these counts.
    cuts: u64,
    truncations: u64,
}

impl<E: Env> ColdRead<E> {
    /// Waits for the disk. None if the segment has nothing at or after the requested offset: continue at
    /// [`Self::next_offset`]. An empty slice if the log was truncated meanwhile, or the segment removed: read again
    /// from the current log.
    pub fn run(&self) -> Result<Option<LogSlice<E::File>>, ReadError> {
        let slice = self.slice(Waits::Yes);
        let is_gone = matches!(&slice, Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound);
        let was_cut = self.shared.truncations.load(Ordering::Acquire) != self.truncations;
        if was_cut || is_gone && self.shared.cuts.load(Ordering::Acquire) != self.cuts {
            return Ok(Some(LogSlice::empty()));
        }
        slice
    }

    pub fn next_offset(&self) -> Option<Offset> {
        self.next_base
    }

    fn slice(&self, waits: Waits) -> Result<Option<LogSlice<E::File>>, ReadError> {
        let mode = if self.kept == Kept::Active { OpenMode::Write } else { OpenMode::Read };
        let file = self.file(self.kept, file_name::LOG, mode, waits)?;
        let first = match self.first {
            Ok(located) => located,
            Err(lookup) => match self.locate(&file, self.from, lookup, waits)? {
                Some(located) => located,
                None => return Ok(None),
            },
        };
        let end = match self.until {
            Until::Position(end) => end,
            Until::Batch(upper, lookup) => {
                self.locate(&file, upper, lookup, waits)?.map_or(self.bounds.size_bytes, |beyond| beyond.position)
            }
        };
        Ok(Some(self.wanted.slice(file, first, end)))
    }

    /// The first batch whose last offset is `offset` or later; none if the segment has no such batch.
    fn locate(
        &self,
        file: &E::File,
        offset: Offset,
        lookup: Lookup,
        waits: Waits,
    ) -> Result<Option<Located>, ReadError> {
        let entry = match lookup {
            Lookup::From(entry) => entry,
            Lookup::InFile => unless_lost(
                self.file(Kept::Index, file_name::OFFSET_INDEX, OpenMode::Read, waits)
                    .and_then(|index| self.index.entry_in_file(&*index, self.bounds.base_offset, offset, waits)),
            )?,
        };
        match self.bounds.find(file, entry, offset, waits)? {
            Step::Batch(batch) => Ok(Some(Located { position: batch.position, end: batch.end() })),
            Step::End => Ok(None),
            Step::Invalid { position } => Err(ReadError::Corrupt {
                file: path_of(&self.directory, self.bounds.base_offset, file_name::LOG),
                position: u64::from(position),
            }),
        }
    }

    /// A file of the segment; opened and kept if need be, where that may be waited for.
    fn file(&self, kept: Kept, kind: &str, mode: OpenMode, waits: Waits) -> io::Result<Arc<E::File>> {
        let base = self.bounds.base_offset;
        if let Some(file) = self.files.get(kept, base) {
            return Ok(file);
        }
        if waits == Waits::No {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let file = Arc::new(self.env.open(&path_of(&self.directory, base, kind), mode)?);
        // Compaction may have put another file in its place, or a roll another segment.
        let keeps = self.files.keep_if(kept, base, &file, || {
            self.shared.cuts.load(Ordering::Acquire) == self.cuts && !self.shared.closed.load(Ordering::Acquire)
        });
        if keeps {
            self.env.opened(&self.files, kept, &file);
        }
        Ok(file)
    }
}

impl<E: Env> Log<E> {
    /// The batches from the one that holds `from` on, of one segment: at most `max_bytes`, the last one possibly cut
    /// off; with `min_one` at least one whole batch, however large. Nothing at or above `upper` (the high watermark,
    /// the last stable offset, or for replicas the log's end) is in it: a batch that reaches there is left out.
    ///
    /// The first batch may begin before `from`; clients skip records that they did not request. An empty slice means
    /// that there is nothing (yet) between `from` and `upper`, or that the first batch is larger than `max_bytes`: then
    /// [`LogSlice::left_out_bytes`] is its size. A part of the first batch would be useless: Java's consumer throws an
    /// exception if it gets nothing else.
    ///
    /// Waits for the disk.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] outside `log_start..=log_end`.
    pub fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        upper: Offset,
        min_one: bool,
    ) -> Result<LogSlice<E::File>, ReadError> {
        let mut from = from;
        loop {
            let cold = match self.read_if_cached(from, max_bytes, upper, min_one)? {
                Read::Done(slice) => return Ok(slice),
                Read::Cold(cold) => cold,
            };
            match (cold.run()?, cold.next_offset()) {
                (Some(slice), _) => return Ok(slice),
                (None, Some(next)) => from = next,
                (None, None) => return Ok(LogSlice::empty()),
            }
        }
    }

    /// [`Self::read`] without waiting for the disk.
    pub fn read_if_cached(
        &self,
        from: Offset,
        max_bytes: usize,
        upper: Offset,
        min_one: bool,
    ) -> Result<Read<E>, ReadError> {
        if from < self.log_start || from > self.log_end {
            return Err(ReadError::OutOfRange { offset: from, log_start: self.log_start, log_end: self.log_end });
        }
        let upper = upper.min(self.log_end);
        if from >= upper {
            return Ok(Read::Done(LogSlice::empty()));
        }
        if max_bytes == 0 && !min_one {
            // How much there is does not matter where there is no room at all: no look at the files.
            return Ok(Read::Done(LogSlice::left_out(1)));
        }
        let wanted = Wanted { max_bytes, min_one };
        let mut from = from;
        for number in self.segment_number(from)..self.segments.len() {
            let Some(segment) = self.segments.get(number).filter(|it| it.size_bytes > 0 && it.base_offset < upper)
            else {
                continue;
            };
            let (first, until) = self.places(number, segment, from, upper);
            let kept = if number + 1 == self.segments.len() { Kept::Active } else { Kept::Older };
            if let (Ok(first), Until::Position(end)) = (first, until)
                && let Some(file) = self.files.get(kept, segment.base_offset)
            {
                return Ok(Read::Done(wanted.slice(file, first, end)));
            }
            let read = ColdRead {
                env: self.env.clone(),
                directory: self.directory.clone(),
                kept,
                bounds: segment.bounds(),
                index: segment.offset_index.in_file(),
                from,
                first,
                until,
                wanted,
                next_base: self.segments.get(number + 1).map(|next| next.base_offset),
                files: Arc::clone(&self.files),
                shared: Arc::clone(&self.shared),
                cuts: self.shared.cuts.load(Ordering::Acquire),
                truncations: self.shared.truncations.load(Ordering::Acquire),
            };
            match read.slice(Waits::No) {
                Ok(Some(slice)) => return Ok(Read::Done(slice)),
                // The segment has nothing after `from`; continue in the next one.
                Ok(None) => from = read.next_base.unwrap_or(from),
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Cold(read)),
                Err(error) => return Err(error),
            }
        }
        Ok(Read::Done(LogSlice::empty()))
    }

    /// The start and end of a read in this segment, as far as they are known without the disk.
    fn places(
        &self,
        number: usize,
        segment: &Segment,
        from: Offset,
        upper: Offset,
    ) -> (Result<Located, Lookup>, Until) {
        let is_active = number + 1 == self.segments.len();
        let in_memory = |offset| {
            let found = self.recent.find(offset).filter(|_| is_active);
            found.map(|(position, end)| Located { position, end: end.unwrap_or(segment.size_bytes) })
        };
        let lookup = |offset| {
            let entry = segment.offset_index.entry_in_memory(segment.base_offset, offset);
            entry.map_or(Lookup::InFile, Lookup::From)
        };
        let until = match self.segments.get(number + 1) {
            Some(next) if next.base_offset <= upper => Until::Position(segment.size_bytes),
            None if upper >= self.log_end => Until::Position(segment.size_bytes),
            _ => match in_memory(upper) {
                Some(beyond) => Until::Position(beyond.position),
                None => Until::Batch(upper, lookup(upper)),
            },
        };
        (in_memory(from).ok_or_else(|| lookup(from)), until)
    }

    /// The base offset of the batch that contains `offset`, or the offset itself if there is none.
    pub(crate) fn batch_start(&self, offset: Offset) -> Result<(usize, u32, Offset), ReadError> {
        let number = self.segment_number(offset);
        let Some(segment) = self.segments.get(number) else { return Ok((number, 0, offset)) };
        let file = self.segment_file(number)?;
        match segment.find(self.place(), &file, offset)? {
            Step::Batch(batch) => Ok((number, batch.position, offset.min(batch.header.base_offset))),
            Step::End => Ok((number, segment.size_bytes, offset)),
            Step::Invalid { position } => Err(ReadError::Corrupt {
                file: self.place().path(segment.base_offset, file_name::LOG),
                position: u64::from(position),
            }),
        }
    }
}
