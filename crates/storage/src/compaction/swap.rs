//! Replaces segments by the cleaned one.
//!
//! Four steps, of renames only: the new files from `.cleaned` to `.swap`, the old ones to `.deleted`, the new ones to
//! their own names. Renames become durable in their order, so that a crash leaves a prefix of the steps: before the
//! last `.swap` the old segments are complete and the new files are dropped; after it the new segment is complete, and
//! [`crate::recovery`] finishes the swap (Kafka's `LocalLog.replaceSegments`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::job::{Cleaned, Source};
use super::{CleanError, output};
use crate::env::Env;
use crate::file_name::{self, CLEANED_SUFFIX, SWAP_SUFFIX, with_suffix};
use crate::log::{DeletedFiles, Log};

impl<E: Env> Log<E> {
    /// Swaps a cleaned segment in. Reads in progress keep their open files: the caller removes the old files after
    /// `file.delete.delay.ms`.
    ///
    /// # Errors
    /// [`CleanError::Aborted`]: the log was cut, closed or lost segments meanwhile; nothing has changed. After
    /// [`CleanError::Io`] the log is offline if files may be half renamed.
    pub fn swap_in(&mut self, cleaned: Cleaned) -> Result<DeletedFiles, CleanError> {
        let Some(first) = self.find_sources(&cleaned) else {
            output::discard(self.place(), &cleaned.segment);
            return Err(CleanError::Aborted);
        };
        let kinds = cleaned.segment.kinds();
        let base = cleaned.segment.base_offset;
        for kind in kinds {
            let path = self.place().path(base, kind);
            let renamed = self.env.rename(&with_suffix(path.clone(), CLEANED_SUFFIX), &with_suffix(path, SWAP_SUFFIX));
            if let Err(error) = renamed {
                return Err(self.take_back(&cleaned, error));
            }
        }
        let numbers = first..first + cleaned.sources.len();
        let swapped = self.replace_segments(numbers, vec![cleaned.segment], |place| {
            kinds.iter().try_for_each(|kind| {
                let path = place.path(base, kind);
                place.env.rename(&with_suffix(path.clone(), SWAP_SUFFIX), &path)
            })
        });
        match swapped {
            Ok(deleted) => {
                self.drop_snapshots(&cleaned.sources);
                Ok(deleted)
            }
            Err(error) => {
                // Some names are the old ones, some are not: only opening the log again finishes the swap.
                self.shared.failed.store(true, Ordering::Release);
                Err(error.into())
            }
        }
    }

    /// The number of the first segment that gives way, if all are there as they were.
    fn find_sources(&self, cleaned: &Cleaned) -> Option<usize> {
        if !Arc::ptr_eq(&self.shared, &cleaned.log)
            || self.is_offline()
            || self.shared.truncations.load(Ordering::Acquire) != cleaned.truncations
        {
            return None;
        }
        let base = cleaned.sources.first()?.base_offset;
        let first = self.segments.binary_search_by_key(&base, |segment| segment.base_offset).ok()?;
        let here = self.segments.get(first..first + cleaned.sources.len())?;
        let same = here.iter().zip(&cleaned.sources).all(|(segment, source)| {
            segment.base_offset == source.base_offset && segment.size_bytes == source.size_bytes
        });
        // Never the active one.
        (same && first + cleaned.sources.len() < self.segments.len()).then_some(first)
    }

    /// Nothing of the old segments has been touched: the new files go.
    fn take_back(&mut self, cleaned: &Cleaned, error: io::Error) -> CleanError {
        // Before the others: as long as a `.cleaned` is there, a `.swap` counts for nothing.
        for kind in file_name::SEGMENT_KINDS {
            let path = with_suffix(self.place().path(cleaned.segment.base_offset, kind), SWAP_SUFFIX);
            if let Err(error) = self.env.remove_file_if_there(&path) {
                tracing::warn!(file = %path.display(), %error, "a cleaned segment is left behind");
                self.shared.failed.store(true, Ordering::Release);
                return error.into();
            }
        }
        output::discard(self.place(), &cleaned.segment);
        error.into()
    }

    /// Producer snapshots are kept where segments begin.
    fn drop_snapshots(&mut self, sources: &[Source]) {
        let gone = |offset| sources.iter().skip(1).any(|source| source.base_offset == offset);
        if let Err(error) = self.remove_snapshots(gone) {
            tracing::warn!(directory = %self.directory.display(), %error, "a producer snapshot is left behind");
        }
    }
}
