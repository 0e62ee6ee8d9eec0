//! Which transactions a reader of committed records must skip.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::Offset;

use super::{Log, Shared};
use crate::aborted_index::{AbortedIndex, AbortedTransaction};
use crate::env::{Env, OpenMode, Waits};
use crate::error::ReadError;
use crate::file_name::{self, path_of};
use crate::scan::{HeaderScan, Step};
use crate::slice::LogSlice;

/// A search for the aborted transactions of a read; run it without the partition's lock if it needs the disk.
pub struct AbortedSearch<E: Env> {
    env: E,
    directory: PathBuf,
    from: Offset,
    /// The read's bound.
    upper: Offset,
    /// The indexes of which the file must be read, by the base offsets of their segments.
    files: Vec<(Offset, AbortedIndex)>,
    /// The transactions that were in memory.
    recent: Vec<AbortedTransaction>,
    shared: Arc<Shared>,
    /// The segments are those of this count.
    cuts: u64,
}

impl<E: Env> Log<E> {
    /// A search for the aborted transactions that have records in `from..upper`. None if there are none: without
    /// aborted transactions this costs a comparison for each later segment.
    pub fn aborted_search(&self, from: Offset, upper: Offset) -> Option<AbortedSearch<E>> {
        let later = self.segments.get(self.segment_number(from)..).unwrap_or_default();
        let mut with_any = later.iter().filter(|segment| !segment.aborted.ends_before(from)).peekable();
        with_any.peek()?;
        let (mut files, mut recent) = (Vec::new(), Vec::new());
        for segment in with_any {
            if !segment.aborted.file_ends_before(from) {
                files.push((segment.base_offset, segment.aborted.in_file()));
            }
            let waiting = segment.aborted.waiting().iter();
            recent.extend(waiting.filter(|entry| entry.last_offset >= from && entry.first_offset < upper));
        }
        Some(AbortedSearch {
            env: self.env.clone(),
            directory: self.directory.clone(),
            from,
            upper,
            files,
            recent,
            shared: Arc::clone(&self.shared),
            cuts: self.shared.cuts.load(Ordering::Acquire),
        })
    }
}

impl<E: Env> AbortedSearch<E> {
    /// Whether [`Self::run`] may wait for the disk.
    pub fn needs_disk(&self) -> bool {
        !self.files.is_empty()
    }

    /// The aborted transactions with records in the slice that was read, in the order of their markers; possibly some
    /// that end or begin beyond it. None if segments were taken out or cut meanwhile: the slice must not be returned,
    /// for entries of its segment may be missing.
    pub fn run(self, slice: &LogSlice<E::File>) -> Result<Option<Vec<AbortedTransaction>>, ReadError> {
        if self.files.is_empty() {
            return Ok(Some(self.recent));
        }
        let found = self.read_files(slice);
        if self.shared.cuts.load(Ordering::Acquire) != self.cuts {
            return Ok(None);
        }
        found.map(Some)
    }

    fn read_files(&self, slice: &LogSlice<E::File>) -> Result<Vec<AbortedTransaction>, ReadError> {
        let upper = self.upper_of(slice)?;
        let mut found = Vec::new();
        for (base, index) in &self.files {
            let path = path_of(&self.directory, *base, file_name::TRANSACTION_INDEX);
            let file = self.env.open(&path, OpenMode::Read)?;
            let before = index.last_in_file(&file, |entry| entry.last_offset < self.from, Waits::Yes)?;
            let mut next = before.map_or(0, |(number, _)| number + 1);
            loop {
                let block = index.block(&file, next)?;
                if block.is_empty() {
                    break;
                }
                for entry in &block {
                    if entry.first_offset < upper {
                        found.push(*entry);
                    }
                    // Transactions that ended later began at this offset or later.
                    if entry.last_stable >= upper {
                        return Ok(found);
                    }
                }
                next += u32::try_from(block.len()).unwrap_or(u32::MAX);
            }
        }
        found.extend(self.recent.iter().filter(|entry| entry.first_offset < upper));
        Ok(found)
    }

    /// The offset after the last whole batch of the slice. A consumer far behind reads a small part of a segment that
    /// may have many aborted transactions.
    fn upper_of(&self, slice: &LogSlice<E::File>) -> Result<Offset, ReadError> {
        let Some(file) = slice.file() else { return Ok(self.from) };
        let position = u32::try_from(slice.position).unwrap_or(u32::MAX);
        let end = position.saturating_add(u32::try_from(slice.len).unwrap_or(u32::MAX));
        let mut scan = HeaderScan::new(&**file, position, end);
        let mut upper = self.from;
        while let Step::Batch(batch) = scan.next()? {
            upper = batch.header.next_offset();
        }
        Ok(upper.min(self.upper))
    }
}
