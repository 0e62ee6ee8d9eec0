//! Opening a log: trusting its files after a clean shutdown, examining them after any other end.
//!
//! After an unclean end everything from the recovery point is read and checked, batch by batch; indexes, leader epochs
//! and producer states are rebuilt from it. Cases that are cut off, and cases that are refused:
//! - a torn tail, behind which nothing valid follows in this segment or a later one, is cut: it was never synced;
//! - a damaged batch with a valid one behind it is refused ([`OpenError::CorruptMiddle`]): it may have been
//!   acknowledged, another replica may have it, and records must not vanish silently (scenario 14). A loss of power
//!   that persisted later pages of unsynced writes before earlier ones looks the same, and is refused too;
//! - checkpoints that are ahead of the log are taken back to it (scenario 13).

mod aborted;
mod examine;
mod swap;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ottla_model::{Offset, TimestampMs, TopicPartition};
use ottla_replication::EpochHistory;

use crate::checkpoint::{leader_epochs, partition_metadata};
use crate::config::LogConfig;
use crate::env::{DirectoryEntry, Env, OpenMode};
use crate::error::OpenError;
use crate::file_name;
use crate::log::Log;
use crate::offset_index::OffsetIndex;
use crate::open_files::Kept;
use crate::segment::{Place, Segment};
use crate::time_index::TimeIndex;

/// The facts about a log before it is opened: the log directory's checkpoints.
pub struct OpenOptions<'p> {
    /// The last process closed the log: `.kafka_cleanshutdown` was there.
    pub clean_shutdown: bool,
    /// From `recovery-point-offset-checkpoint`, or 0.
    pub recovery_point: Offset,
    /// From `log-start-offset-checkpoint`, or 0.
    pub log_start: Offset,
    /// From `replication-offset-checkpoint`, or 0.
    pub high_watermark: Offset,
    /// The wall clock.
    pub now: TimestampMs,
    /// Called with the progress of a recovery.
    pub progress: Option<&'p mut dyn FnMut(RecoveryProgress)>,
}

impl OpenOptions<'_> {
    /// For a log of which no checkpoint is known.
    pub fn unclean(now: TimestampMs) -> Self {
        Self {
            clean_shutdown: false,
            recovery_point: Offset::ZERO,
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            now,
            progress: None,
        }
    }
}

/// How far a recovery has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveryProgress {
    pub scanned_bytes: u64,
    /// The bytes that will be scanned in total.
    pub total_bytes: u64,
}

/// A log, and the result of opening it.
pub struct Opened<E: Env> {
    pub log: Log<E>,
    /// The checkpoint's, but not outside the log.
    pub high_watermark: Offset,
    /// How much of the log was checked; 0 after a clean shutdown.
    pub scanned_bytes: u64,
    /// The torn tail that was cut.
    pub cut_bytes: u64,
}

/// Why opening stops.
enum Fault {
    Io(io::Error),
    Refused(OpenError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The files of a partition's directory.
#[derive(Default)]
struct Listing {
    /// Size of each log file by base offset.
    logs: BTreeMap<Offset, u64>,
    offset_indexes: BTreeMap<Offset, u64>,
    time_indexes: BTreeMap<Offset, u64>,
    transaction_indexes: BTreeSet<Offset>,
    snapshots: Vec<Offset>,
    has_epochs: bool,
    /// The content of `partition.metadata`.
    metadata: Option<Vec<u8>>,
}

impl Listing {
    fn with_empty_indexes(&self) -> Option<Offset> {
        let (last, _) = self.logs.last_key_value()?;
        let is_empty = |indexes: &BTreeMap<Offset, u64>| indexes.get(last) == Some(&0);
        let are_empty = is_empty(&self.offset_indexes) && is_empty(&self.time_indexes);
        (are_empty && !self.transaction_indexes.contains(last)).then_some(*last)
    }
}

impl<E: Env> Log<E> {
    /// Opens the log in `directory`. Takes the time to read everything above the recovery point, unless the shutdown
    /// was clean.
    pub fn open(
        env: E,
        directory: PathBuf,
        partition: TopicPartition,
        config: Arc<LogConfig>,
        options: OpenOptions<'_>,
    ) -> Result<Opened<E>, OpenError> {
        let mut log = Self::with_segments(env, directory, partition, config, Vec::new());
        match Opening::new(&mut log, options).open() {
            Ok((high_watermark, scanned_bytes, cut_bytes)) => {
                Ok(Opened { log, high_watermark, scanned_bytes, cut_bytes })
            }
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Io(error)) => Err(OpenError::Io { directory: log.directory, error }),
        }
    }
}

struct Opening<'l, 'p, E: Env> {
    log: &'l mut Log<E>,
    options: OpenOptions<'p>,
    scanned_bytes: u64,
    told_bytes: u64,
    total_bytes: u64,
    cut_bytes: u64,
    /// The last segment, if its index files are there and empty.
    with_empty_indexes: Option<Offset>,
}

impl<'l, 'p, E: Env> Opening<'l, 'p, E> {
    fn new(log: &'l mut Log<E>, options: OpenOptions<'p>) -> Self {
        Self { log, options, scanned_bytes: 0, told_bytes: 0, total_bytes: 0, cut_bytes: 0, with_empty_indexes: None }
    }

    fn open(mut self) -> Result<(Offset, u64, u64), Fault> {
        let mut listing = self.list()?;
        self.read_topic_id(&listing)?;
        if self.log.topic_id.is_none() && self.is_unfinished(&listing) {
            self.discard_unfinished(&mut listing)?;
        }
        self.with_empty_indexes = listing.with_empty_indexes();
        let epochs_are_known = self.read_epochs(&listing)?;
        self.log.snapshots.clone_from(&listing.snapshots);
        self.load_segments(&listing)?;
        let first_base = self.log.segments.first().map_or(Offset::ZERO, |first| first.base_offset);
        self.log.log_start = self.options.log_start.max(first_base);
        self.log.high_watermark = self.options.high_watermark;

        let mut examine_from = if !epochs_are_known {
            Some(0)
        } else if !self.options.clean_shutdown {
            // The segment before the recovery point too: when the point was reached, its indexes may not have been
            // synced.
            let number = self.log.segment_number(self.options.recovery_point - 1);
            // From a segment with records, because an empty one may be left from a failed roll.
            Some(
                (0..=number)
                    .rev()
                    .find(|at| self.log.segments.get(*at).is_some_and(|it| it.size_bytes > 0))
                    .unwrap_or(0),
            )
        } else {
            None
        };
        self.remove_empty_segments(&mut examine_from)?;
        let rebuilt = self.complete_indexes(&listing, examine_from)?;
        self.load_transaction_indexes(&listing, &rebuilt, examine_from)?;
        if examine_from.is_none() {
            match self.activate()? {
                Some(log_end) => self.log.log_end = log_end,
                // An empty last segment says nothing of where the one before it ends.
                None => examine_from = Some(self.log.segments.len().saturating_sub(2)),
            }
        }
        if let Some(first) = examine_from {
            self.recover(first)?;
        }
        self.clamp(examine_from.is_some())?;
        let high_watermark = self.options.high_watermark.clamp(self.log.log_start, self.log.log_end);
        self.log.high_watermark_moved(high_watermark);
        Ok((high_watermark, self.scanned_bytes, self.cut_bytes))
    }

    fn list(&mut self) -> Result<Listing, Fault> {
        let mut listing = Listing::default();
        let directory = self.log.directory.clone();
        let (entries, metadata) = self.log.env.list_and_read(&directory, file_name::PARTITION_METADATA)?;
        listing.metadata = metadata;
        for DirectoryEntry { name, is_directory, size_bytes } in swap::finish(&self.log.env, &directory, entries)? {
            if is_directory {
                continue;
            }
            match file_name::parse(&name) {
                Some((offset, file_name::LOG)) => {
                    listing.logs.insert(offset, size_bytes);
                }
                Some((offset, file_name::OFFSET_INDEX)) => {
                    listing.offset_indexes.insert(offset, size_bytes);
                }
                Some((offset, file_name::TIME_INDEX)) => {
                    listing.time_indexes.insert(offset, size_bytes);
                }
                Some((offset, file_name::TRANSACTION_INDEX)) => {
                    listing.transaction_indexes.insert(offset);
                }
                Some((offset, file_name::PRODUCER_SNAPSHOT)) => listing.snapshots.push(offset),
                _ if name == file_name::LEADER_EPOCH_CHECKPOINT => listing.has_epochs = true,
                _ => {}
            }
        }
        listing.snapshots.sort_unstable();
        Ok(listing)
    }

    fn read_topic_id(&mut self, listing: &Listing) -> Result<(), Fault> {
        let Some(metadata) = &listing.metadata else { return Ok(()) };
        match partition_metadata::decode(metadata) {
            Ok(topic_id) => self.log.topic_id = Some(topic_id),
            // The process ended while it created the log: there is nothing in it that could be another topic's.
            Err(_) if listing.logs.values().all(|size| *size == 0) => {}
            Err(error) => {
                let directory = self.log.directory.clone();
                return Err(Fault::Refused(OpenError::UnknownTopic { directory, reason: error.reason }));
            }
        }
        Ok(())
    }

    /// Whether a log without a topic id was never finished. An empty one of Kafka before 2.8 keeps its offsets, which
    /// its segment's name or a clean shutdown vouches for. After an unclean end an empty segment that begins at 0 may
    /// be what is left of an earlier beginning of this log.
    fn is_unfinished(&self, listing: &Listing) -> bool {
        let is_empty = listing.logs.values().all(|size| *size == 0);
        let begins_at_the_start = listing.logs.keys().all(|base| *base == Offset::ZERO);
        is_empty
            && (listing.metadata.is_some()
                || listing.logs.is_empty()
                || begins_at_the_start && !self.options.clean_shutdown)
    }

    /// The process, or the host's power, ended before the topic id was durable, and so before any record was.
    /// Checkpoints go by the partition's name: these may be of an earlier topic of that name, as may the log's offsets
    /// be of a topic that was deleted meanwhile. The log begins anew.
    fn discard_unfinished(&mut self, listing: &mut Listing) -> Result<(), Fault> {
        let place = Place { env: &self.log.env, directory: &self.log.directory };
        let bases = listing.logs.keys().chain(listing.offset_indexes.keys()).chain(listing.time_indexes.keys());
        for base in bases.chain(&listing.snapshots) {
            for kind in file_name::SEGMENT_KINDS.iter().chain(&[file_name::PRODUCER_SNAPSHOT]) {
                place.env.remove_file_if_there(&place.path(*base, kind))?;
            }
        }
        let metadata = listing.metadata.take();
        *listing = Listing { has_epochs: listing.has_epochs, metadata, ..Listing::default() };
        self.options.recovery_point = Offset::ZERO;
        self.options.log_start = Offset::ZERO;
        self.options.high_watermark = Offset::ZERO;
        Ok(())
    }

    /// Returns whether the epochs of the trusted part of the log are known.
    fn read_epochs(&mut self, listing: &Listing) -> Result<bool, Fault> {
        let path = self.log.directory.join(file_name::LEADER_EPOCH_CHECKPOINT);
        // A log that was never flushed, or one whose records all lie above the recovery point.
        let may_have_none = self.options.recovery_point <= Offset::ZERO || listing.logs.values().all(|size| *size == 0);
        if !listing.has_epochs {
            return Ok(may_have_none);
        }
        let content = self.log.env.read_file(&path)?;
        match leader_epochs::decode(&content) {
            Ok(history) => {
                self.log.epochs = history;
                // A file that was cut to nothing reads as one without entries. Without them a follower would never see
                // that its log is not its leader's. One that has both lines of its head says so: all was deleted.
                let is_whole = content.iter().filter(|byte| **byte == b'\n').count() >= 2;
                Ok(may_have_none || is_whole)
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "reading the leader epochs from the whole log instead");
                self.log.epochs = EpochHistory::new();
                self.log.epochs_version += 1;
                Ok(false)
            }
        }
    }

    fn load_segments(&mut self, listing: &Listing) -> Result<(), Fault> {
        let place = Place { env: &self.log.env, directory: &self.log.directory };
        let now = self.options.now;
        for (base_offset, size_bytes) in &listing.logs {
            let size =
                u32::try_from(*size_bytes).ok().filter(|size| i32::try_from(*size).is_ok()).ok_or_else(|| {
                    let path = place.path(*base_offset, file_name::LOG);
                    io::Error::new(io::ErrorKind::InvalidData, format!("{}: larger than 2 GiB", path.display()))
                })?;
            self.log.segments.push(Segment::found(*base_offset, size, now));
        }
        let of_kinds = [
            (file_name::OFFSET_INDEX, listing.offset_indexes.keys().collect::<Vec<_>>()),
            (file_name::TIME_INDEX, listing.time_indexes.keys().collect()),
            (file_name::TRANSACTION_INDEX, listing.transaction_indexes.iter().collect()),
        ];
        for (kind, offsets) in of_kinds {
            for offset in offsets.into_iter().filter(|offset| !listing.logs.contains_key(offset)) {
                place.env.remove_file_if_there(&place.path(*offset, kind))?;
            }
        }
        if self.log.segments.is_empty() {
            let (segment, file) = Segment::create(place, self.options.log_start, now)?;
            self.log.keep(Kept::Active, segment.base_offset, &Arc::new(file));
            self.log.segments.push(segment);
            self.log.names_changes += 1;
        }
        Ok(())
    }

    /// Removes empty segments that others follow from the part that is not examined. A roll that failed left them
    /// behind; they would hide the records that the segment before has from their base offset on.
    fn remove_empty_segments(&mut self, examine_from: &mut Option<usize>) -> Result<(), Fault> {
        let trusted = examine_from.unwrap_or(self.log.segments.len().saturating_sub(1));
        let place = Place { env: &self.log.env, directory: &self.log.directory };
        let mut number = 0;
        let mut kept = 0;
        let mut failed = Ok(());
        self.log.segments.retain(|segment| {
            let goes = number < trusted && segment.size_bytes == 0;
            number += 1;
            if goes && failed.is_ok() {
                failed = segment.remove_files(place);
            } else if number <= trusted {
                kept += 1;
            }
            !goes
        });
        failed?;
        *examine_from = examine_from.map(|_| kept);
        Ok(())
    }

    /// Gives the segments that are not examined their indexes: those on disk if their sizes are right and, after an
    /// unclean end, their last entries; else new ones. Returns the segments with records that got new ones.
    fn complete_indexes(&mut self, listing: &Listing, examine_from: Option<usize>) -> Result<BTreeSet<Offset>, Fault> {
        let mut rebuilt = BTreeSet::new();
        let trusted = examine_from.unwrap_or(self.log.segments.len());
        let interval = self.log.config.index_interval_bytes;
        for number in 0..trusted {
            let place = Place { env: &self.log.env, directory: &self.log.directory };
            let Some(segment) = self.log.segments.get_mut(number) else { break };
            let base = segment.base_offset;
            let offset_index = listing.offset_indexes.get(&base).and_then(|size| OffsetIndex::of_size(*size));
            let time_index = listing.time_indexes.get(&base).and_then(|size| TimeIndex::of_size(*size));
            let mut are_sound = false;
            if let (Some(offset_index), Some(time_index)) = (offset_index, time_index) {
                segment.offset_index = offset_index;
                segment.time_index = time_index;
                are_sound = self.options.clean_shutdown || segment.has_sound_indexes(place, interval)?;
            }
            match are_sound {
                true => {}
                false if segment.size_bytes == 0 => {
                    segment.reset_indexes(place)?;
                }
                false => {
                    let path = place.path(base, file_name::LOG);
                    tracing::warn!(file = %path.display(), "rebuilding the segment's indexes");
                    let file = place.env.open(&path, OpenMode::Read)?;
                    segment.rebuild_indexes(place, &file, interval)?;
                    rebuilt.insert(base);
                }
            }
        }
        Ok(rebuilt)
    }

    /// The log's end, from the last segment and its indexes; None if they do not fit together.
    fn activate(&mut self) -> Result<Option<Offset>, Fault> {
        let is_empty = self.log.active().size_bytes == 0;
        let base = self.log.active().base_offset;
        let Some(number) = self.log.segments.len().checked_sub(if is_empty { 2 } else { 1 }) else {
            return Ok(Some(base));
        };
        let place = Place { env: &self.log.env, directory: &self.log.directory };
        let Some(segment) = self.log.segments.get_mut(number) else { return Ok(None) };
        let path = place.path(segment.base_offset, file_name::LOG);
        let file = place.env.open(&path, OpenMode::Read)?;
        let end = segment.activate(place, &file)?;
        match end {
            None => tracing::warn!(file = %path.display(), "checking a segment that should have been closed cleanly"),
            // Left from a failed roll: the segment before continued beyond it.
            Some(end) if is_empty && end > base => {
                if let Some(left_over) = self.log.segments.pop() {
                    left_over.remove_files(place)?;
                }
            }
            Some(_) if is_empty => return Ok(Some(base)),
            Some(_) => {}
        }
        Ok(end)
    }

    /// Lowers checkpoints that are ahead of the log to its end, and completes the derived state from the records.
    fn clamp(&mut self, examined: bool) -> Result<(), Fault> {
        let log = &mut *self.log;
        if examined {
            // The names may never have been synced, nor the directory's own: a start over, too, calls the log flushed.
            log.names_changes += 1;
            log.directory_unsynced = true;
        }
        if log.log_start > log.log_end {
            tracing::warn!(
                directory = %log.directory.display(), log_start = %log.log_start, log_end = %log.log_end,
                "the log ends before its log start checkpoint: restarting it there"
            );
            let log_start = log.log_start;
            log.start_over(log_start, log_start)?;
            return Ok(());
        }
        let trusted_end = if examined { self.options.recovery_point } else { log.log_end };
        log.recovery_point = trusted_end.min(log.log_end);
        let mut changed = log.epochs.truncate_from_end(log.log_end);
        if log.log_start > Offset::ZERO {
            changed |= log.epochs.truncate_from_start(log.log_start);
        }
        if changed {
            log.epochs_version += 1;
        }
        let log_end = log.log_end;
        log.remove_snapshots(|snapshot| snapshot > log_end)?;
        self.remove_stray_snapshots()?;
        if !examined {
            self.log.rebuild_producers(self.options.now)?;
        }
        Ok(())
    }

    /// Of the snapshots only those at a segment's start, which a truncation may need, and the newest are of use.
    fn remove_stray_snapshots(&mut self) -> Result<(), Fault> {
        let newest = self.log.snapshots.last().copied();
        let bases: Vec<Offset> = self.log.segments.iter().map(|segment| segment.base_offset).collect();
        self.log.remove_snapshots(|snapshot| Some(snapshot) != newest && bases.binary_search(&snapshot).is_err())?;
        Ok(())
    }
}
