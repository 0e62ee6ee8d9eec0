//! One cleaning of one log, from the note of its segments to the last swap.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{Offset, TimestampMs};

use super::offset_map::{Full, OffsetMap};
use super::retention::{LastBatches, UNPACKED_MAX_BYTES};
use super::transactions::{Transactions, read_aborted};
use super::{CleanError, CleanerLimits, Dirt, Pacing};
use ottla_protocol::record_batch::StoredRecords;

use crate::aborted_index::{AbortedIndex, AbortedTransaction};
use crate::config::LogConfig;
use crate::env::{Env, OpenMode};
use crate::file_name::{self, path_of};
use crate::log::{Log, Shared};
use crate::offset_index::relative_offset;
use crate::scan::{BatchScan, Step};
use crate::segment::{Place, Segment};

/// A segment to be cleaned, as it was when the cleaning began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub base_offset: Offset,
    pub size_bytes: u32,
    pub offset_index_bytes: u64,
    pub time_index_bytes: u64,
    pub opened: TimestampMs,
    /// The base offset of the segment behind it.
    pub end: Offset,
}

/// The input of a cleaning. Created under the partition's lock; all other steps run without it.
pub struct CleanJob<E: Env> {
    pub(super) env: E,
    pub(super) directory: PathBuf,
    pub(super) config: Arc<LogConfig>,
    pub(super) now: TimestampMs,
    pub(super) last_batches: LastBatches,
    pub(super) shared: Arc<Shared>,
    /// Of [`Shared::truncations`], when the note was taken.
    pub(super) truncations: u64,
    /// Likewise, of [`Shared::cuts`].
    cuts: u64,
    sources: Vec<Source>,
    /// The aborted transactions of all segments, by their base offsets.
    aborted: Vec<(Offset, AbortedIndex)>,
    first_dirty: Offset,
}

/// The result of one cleaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CleaningStats {
    /// Read to find the keys.
    pub indexed_bytes: u64,
    pub keys: u64,
    /// Bytes read for cleaning, and bytes written.
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub read_records: u64,
    pub kept_records: u64,
}

/// A cleaning that knows the last offset of every key.
pub struct Cleaning<E: Env> {
    pub(super) job: CleanJob<E>,
    pub(super) map: OffsetMap,
    pub(super) transactions: Transactions,
    pub(super) limits: CleanerLimits,
    pub(super) stats: CleaningStats,
    /// The remaining groups, the next one last.
    groups: Vec<Vec<Source>>,
    swapped: bool,
}

/// A new segment, on disk under other names.
pub struct Cleaned {
    pub(super) segment: Segment,
    pub(super) sources: Vec<Source>,
    pub(super) truncations: u64,
    /// Of the log that it was made for: another one may have its place by now.
    pub(super) log: Arc<Shared>,
}

impl<E: Env> Log<E> {
    /// Begins to clean the part in `dirt`; none if there is nothing to clean, or the log is offline.
    pub fn begin_cleaning(&self, dirt: &Dirt, now: TimestampMs) -> Option<CleanJob<E>> {
        if self.is_offline() || dirt.first_dirty >= dirt.uncleanable {
            return None;
        }
        let ends = self.segments.iter().skip(1).map(|next| next.base_offset);
        let sources = self.segments.iter().zip(ends).take_while(|(_, end)| *end <= dirt.uncleanable);
        let sources = sources.map(|(segment, end)| Source {
            base_offset: segment.base_offset,
            size_bytes: segment.size_bytes,
            offset_index_bytes: segment.offset_index.size_bytes(),
            time_index_bytes: segment.time_index.size_bytes(),
            opened: segment.opened,
            end,
        });
        Some(CleanJob {
            env: self.env.clone(),
            directory: self.directory.clone(),
            config: Arc::clone(&self.config),
            now,
            last_batches: LastBatches::of(&self.producers),
            shared: Arc::clone(&self.shared),
            truncations: self.shared.truncations.load(Ordering::Acquire),
            cuts: self.shared.cuts.load(Ordering::Acquire),
            sources: sources.collect(),
            aborted: self
                .segments
                .iter()
                .filter(|segment| segment.aborted.len() > 0)
                .map(|segment| (segment.base_offset, segment.aborted.clone()))
                .collect(),
            first_dirty: dirt.first_dirty,
        })
    }
}

impl<E: Env> CleanJob<E> {
    pub(super) fn place(&self) -> Place<'_, E> {
        Place { env: &self.env, directory: &self.directory }
    }

    fn is_overtaken(&self) -> bool {
        self.shared.is_offline() || self.shared.truncations.load(Ordering::Acquire) != self.truncations
    }

    pub(super) fn check(&self) -> Result<(), CleanError> {
        if self.is_overtaken() { Err(CleanError::Aborted) } else { Ok(()) }
    }

    /// If the log was closed, renamed or truncated meanwhile, its errors do not count; neither do those of a segment
    /// that retention removed.
    pub(super) fn classify(&self, error: CleanError) -> CleanError {
        let is_gone = matches!(&error, CleanError::Io(error) if error.kind() == std::io::ErrorKind::NotFound)
            && self.shared.cuts.load(Ordering::Acquire) != self.cuts;
        if is_gone || self.is_overtaken() { CleanError::Aborted } else { error }
    }

    pub(super) fn log_path(&self, source: &Source) -> PathBuf {
        path_of(&self.directory, source.base_offset, file_name::LOG)
    }

    /// Reads the dirty part and remembers the last offset of every key, as far as the memory goes.
    pub fn index(self, limits: CleanerLimits, pace: Pacing<'_>) -> Result<Cleaning<E>, CleanError> {
        match self.build_map(limits, pace) {
            Ok((map, aborted, stats)) => {
                let groups = self.groups(map.latest().next());
                let transactions = Transactions::new(&aborted);
                Ok(Cleaning { job: self, map, transactions, limits, stats, groups, swapped: false })
            }
            Err(error) => Err(self.classify(error)),
        }
    }

    fn build_map(
        &self,
        limits: CleanerLimits,
        pace: Pacing<'_>,
    ) -> Result<(OffsetMap, Vec<AbortedTransaction>, CleaningStats), CleanError> {
        let mut map = OffsetMap::new(limits.map_bytes, limits.load_factor);
        let mut stats = CleaningStats::default();
        let aborted = read_aborted(&self.env, &self.directory, &self.aborted)?;
        let mut walked = self.sources.iter().filter(|source| source.end > self.first_dirty).peekable();
        // A transaction may have begun before the walk, which is then within it. One that also ended before must not
        // count: the walk meets no marker that would end it, and its producer's later transactions would be taken for
        // it. A tombstone among them would not remove its value, and be gone before it.
        let from = walked.peek().map_or(self.first_dirty, |first| first.base_offset);
        let unended: Vec<_> = aborted.iter().copied().filter(|it| it.last_offset >= from).collect();
        let mut transactions = Transactions::new(&unended);
        for source in walked {
            self.check()?;
            if self.index_segment(source, limits, &mut map, &mut transactions, &mut stats, pace)? {
                break;
            }
            // Offsets that are missing at the segment's end are covered as well.
            map.cover_up_to(source.end - 1);
        }
        if map.latest() < self.first_dirty {
            return Err(CleanError::MapTooSmall);
        }
        stats.keys = map.len() as u64;
        Ok((map, aborted, stats))
    }

    /// Whether the map is full.
    fn index_segment(
        &self,
        source: &Source,
        limits: CleanerLimits,
        map: &mut OffsetMap,
        transactions: &mut Transactions,
        stats: &mut CleaningStats,
        pace: Pacing<'_>,
    ) -> Result<bool, CleanError> {
        let path = self.log_path(source);
        let file = self.env.open(&path, OpenMode::Read)?;
        let mut scan =
            BatchScan::new(&file, source.base_offset, source.size_bytes).with_read_bytes(limits.io_buffer_bytes);
        loop {
            let (batch, bytes) = match scan.next()? {
                Step::Batch(batch) => batch,
                Step::End => return Ok(false),
                Step::Invalid { position } => {
                    return Err(CleanError::Corrupt { file: path, position: u64::from(position) });
                }
            };
            if pace(bytes.len() as u64).is_break() {
                return Err(CleanError::Aborted);
            }
            stats.indexed_bytes += bytes.len() as u64;
            let header = &batch.header;
            let is_dirty = header.last_offset() >= self.first_dirty;
            let mut full = Ok(());
            let read = StoredRecords::new(bytes, UNPACKED_MAX_BYTES).and_then(|records| {
                if header.is_control() {
                    return transactions.is_obsolete(&records).map(|_| ());
                }
                if transactions.is_aborted(header) || !is_dirty {
                    return Ok(());
                }
                records.for_each(|record| {
                    if let Some(key) = record.key.filter(|_| record.offset >= self.first_dirty) {
                        full = map.put(key, record.offset);
                    }
                    match full {
                        Ok(()) => std::ops::ControlFlow::Continue(()),
                        Err(Full) => std::ops::ControlFlow::Break(()),
                    }
                })
            });
            let position = u64::from(batch.position);
            read.map_err(|error| CleanError::Records { file: path.clone(), position, error })?;
            if full.is_err() {
                return Ok(true);
            }
            if is_dirty {
                map.cover_up_to(header.last_offset());
            }
        }
    }

    /// The segments below `end`, in groups that fit into one segment each; the first group last.
    fn groups(&self, end: Offset) -> Vec<Vec<Source>> {
        // A tombstone's batch may grow by some bytes, and positions are signed.
        let size_max = u64::from(self.config.segment_bytes.min(i32::MAX as u32 - (1 << 20)));
        let index_max = u64::from(self.config.index_size_max_bytes);
        let mut groups: Vec<Vec<Source>> = Vec::new();
        let mut sizes = (0, 0, 0);
        for source in self.sources.iter().filter(|source| source.base_offset < end) {
            let added = (
                sizes.0 + u64::from(source.size_bytes),
                sizes.1 + source.offset_index_bytes,
                sizes.2 + source.time_index_bytes,
            );
            let fits = |group: &Vec<Source>| {
                added.0 <= size_max
                    && added.1 <= index_max
                    && added.2 <= index_max
                    && group.first().is_some_and(|first| relative_offset(first.base_offset, source.end).is_some())
            };
            match groups.last_mut().filter(|group| fits(group)) {
                Some(group) => {
                    group.push(*source);
                    sizes = added;
                }
                None => {
                    groups.push(vec![*source]);
                    sizes = (u64::from(source.size_bytes), source.offset_index_bytes, source.time_index_bytes);
                }
            }
        }
        groups.reverse();
        groups
    }
}

impl<E: Env> Cleaning<E> {
    /// Cleans the next group of segments. None when all are done.
    ///
    /// # Errors
    /// Nothing is left of the new segment; the log is as before.
    pub fn next(&mut self, pace: Pacing<'_>) -> Result<Option<Cleaned>, CleanError> {
        while let Some(group) = self.groups.pop() {
            if let Some(cleaned) = self.clean_group(&group, pace)? {
                self.swapped = true;
                return Ok(Some(cleaned));
            }
        }
        Ok(None)
    }

    pub fn stats(&self) -> CleaningStats {
        self.stats
    }

    /// Syncs the replaced segments, and returns the offset up to which the log is clean: the cleaner's checkpoint.
    pub fn finish(self) -> Result<Offset, CleanError> {
        self.job.check()?;
        if self.swapped {
            self.job.env.sync_directory(&self.job.directory).map_err(|error| self.job.classify(error.into()))?;
        }
        Ok(self.map.latest().next())
    }
}
