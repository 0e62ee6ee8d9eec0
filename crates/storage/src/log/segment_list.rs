//! Taking segments out of a log, and putting others in their place: the one way for retention, for a log start that
//! moved, and for compaction.
//!
//! How compaction uses it: it reads closed segments without the partition's lock, and writes and syncs the new ones
//! beside them under temporary names. Then, with the lock, it looks up the segments by base offset (if retention
//! removed some meanwhile, it starts again) and calls [`Log::replace_segments`], whose `put_in_place` renames the new
//! files. The returned [`DeletedFiles`] are removed after `file.delete.delay.ms`.
//!
//! Invariants: the active segment is never removed; readers that have a segment's file open can continue; a removed
//! file keeps its content under the suffix `.deleted` until [`DeletedFiles::remove`], or the next opening of the log,
//! deletes it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use ottla_model::Offset;

use super::Log;
use crate::env::Env;
use crate::file_name;
use crate::segment::{Place, Segment};

/// Files that are no part of the log any more, under names that end in `.deleted`.
#[derive(Default, Debug)]
#[must_use = "the files stay on the disk until somebody removes them"]
pub struct DeletedFiles {
    paths: Vec<PathBuf>,
}

impl DeletedFiles {
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn append(&mut self, mut other: Self) {
        self.paths.append(&mut other.paths);
    }

    /// Removes the files, `file.delete.delay.ms` after they were taken out. Waits for the disk. One that is gone
    /// already (the partition's directory was removed) is no error.
    pub fn remove<E: Env>(self, env: &E) -> io::Result<()> {
        self.paths.iter().try_for_each(|path| env.remove_file_if_there(path))
    }

    /// Renames a file if it is there.
    fn take<E: Env>(&mut self, place: Place<'_, E>, base: Offset, kind: &str) -> io::Result<()> {
        let from = place.path(base, kind);
        let to = file_name::with_suffix(from.clone(), file_name::DELETED_SUFFIX);
        match place.env.rename(&from, &to) {
            Ok(()) => self.paths.push(to),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl<E: Env> Log<E> {
    /// Takes the first `count` segments out of the log: renames their files, and with them the producer snapshots that
    /// nothing needs any more. The caller has moved the log's start behind them. At most all but the active segment go.
    ///
    /// # Errors
    /// The segments before the one that could not be renamed are removed; the log is still consistent. The next call
    /// goes on where this one ended, and returns its files too.
    pub(crate) fn delete_first_segments(&mut self, count: usize) -> io::Result<DeletedFiles> {
        let mut deleted = std::mem::take(&mut self.set_aside);
        match self.set_first_segments_aside(count, &mut deleted) {
            Ok(()) => Ok(deleted),
            Err(error) => {
                self.set_aside = deleted;
                Err(error)
            }
        }
    }

    fn set_first_segments_aside(&mut self, count: usize, deleted: &mut DeletedFiles) -> io::Result<()> {
        let count = count.min(self.segments.len().saturating_sub(1));
        if count > 0 {
            self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        }
        // Oldest first: a crash in between leaves a log that starts later, not one with a hole.
        for _ in 0..count {
            let Some(base) = self.segments.first().map(|segment| segment.base_offset) else { break };
            set_aside(deleted, self.place(), base)?;
            self.files.close_of(base);
            self.segments.remove(0);
            self.names_changes += 1;
        }
        let first = self.segments.first().map_or(Offset::ZERO, |segment| segment.base_offset);
        // The newest is the only trace of producers whose batches have all gone (scenario 15).
        let newest = self.snapshots.last().copied();
        let unneeded = |snapshot: &Offset| *snapshot < first && Some(*snapshot) != newest;
        let place = Place { env: &self.env, directory: &self.directory };
        for snapshot in self.snapshots.iter().filter(|snapshot| unneeded(snapshot)) {
            deleted.take(place, *snapshot, file_name::PRODUCER_SNAPSHOT)?;
        }
        self.snapshots.retain(|snapshot| !unneeded(snapshot));
        Ok(())
    }

    /// Puts `new`, ascending, in the place of the closed segments with these numbers. `put_in_place` gives the new
    /// segments' files their names, after the old ones have given them up.
    ///
    /// # Errors
    /// The disk and the state in memory may differ: the log must be closed and opened again.
    pub(crate) fn replace_segments(
        &mut self,
        numbers: Range<usize>,
        new: Vec<Segment>,
        put_in_place: impl FnOnce(Place<'_, E>) -> io::Result<()>,
    ) -> io::Result<DeletedFiles> {
        if numbers.end >= self.segments.len() || numbers.start > numbers.end {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only closed segments can be replaced"));
        }
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        let mut deleted = DeletedFiles::default();
        for number in numbers.clone() {
            let Some(base) = self.segments.get(number).map(|segment| segment.base_offset) else { break };
            set_aside(&mut deleted, self.place(), base)?;
            self.files.close_of(base);
        }
        put_in_place(self.place())?;
        self.segments.splice(numbers, new);
        self.names_changes += 1;
        Ok(deleted)
    }
}

/// The log file first: an index without its log is removed when the log is opened.
fn set_aside<E: Env>(deleted: &mut DeletedFiles, place: Place<'_, E>, base: Offset) -> io::Result<()> {
    for kind in file_name::SEGMENT_KINDS {
        deleted.take(place, base, kind)?;
    }
    Ok(())
}
