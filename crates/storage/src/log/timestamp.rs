//! Finding offsets by time, for ListOffsets.
//!
//! A search opens files, reads headers and may decompress a batch: [`Log::time_search`] only records where to search,
//! and [`TimeSearch::run`] does it without the partition's lock. Its facts about closed segments are kept, so that the
//! next search skips segments that are too old without reading the disk.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::{LeaderEpoch, Offset, TimestampMs};
use ottla_protocol::record_batch::for_each_time;
use parking_lot::Mutex;

use super::Log;
use crate::env::{Env, File, OpenMode};
use crate::error::ReadError;
use crate::file_name;
use crate::scan::{BatchAt, HeaderScan, Step};
use crate::segment::{Place, Segment};

/// How far a compressed batch is unpacked to find a record in it. Batches that grow beyond are answered by their first
/// offset: earlier than the record that is sought, never later.
const UNPACKED_MAX_BYTES: u64 = 256 << 20;

/// A batch above this size is read and searched while no other one is, whoever asks: it is held as it was written, and
/// one client may ask for many.
const SMALL_BATCH_BYTES: usize = 1 << 20;

static LARGE_BATCHES: Mutex<()> = Mutex::new(());

/// How long a search waits for its turn; the one before it may wait for a disk that stalls. Then a batch counts as one
/// that cannot be unpacked.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);

/// An answer to a question for an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampOffset {
    /// [`TimestampMs::NONE`] where the question was not for a record.
    pub timestamp: TimestampMs,
    pub offset: Offset,
    /// [`LeaderEpoch::NONE`] where it is not known.
    pub leader_epoch: LeaderEpoch,
}

/// The target of a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sought {
    /// The first record that is not older.
    At(TimestampMs),
    Largest,
}

/// A search by time; run it anywhere, without the partition's lock.
pub struct TimeSearch<E: Env> {
    env: E,
    directory: PathBuf,
    log_start: Offset,
    sought: Sought,
    /// Those that may hold it.
    segments: Vec<Segment>,
}

impl<E: Env> Log<E> {
    /// The log's start (timestamp −2).
    pub fn earliest(&self) -> TimestampOffset {
        self.answer(TimestampMs::NONE, self.log_start)
    }

    /// The log's end (timestamp −1, for readers that may read that far).
    pub fn latest(&self) -> TimestampOffset {
        let leader_epoch = self.epochs.latest_epoch();
        TimestampOffset { timestamp: TimestampMs::NONE, offset: self.log_end, leader_epoch }
    }

    fn answer(&self, timestamp: TimestampMs, offset: Offset) -> TimestampOffset {
        let leader_epoch = self.epochs.epoch_for_offset(offset).unwrap_or(LeaderEpoch::NONE);
        TimestampOffset { timestamp, offset, leader_epoch }
    }

    /// A search for the first record whose timestamp is `timestamp` or later. The caller compares its offset with the
    /// high watermark.
    pub fn time_search(&self, timestamp: TimestampMs) -> TimeSearch<E> {
        self.search(Sought::At(timestamp), |segment| !segment.is_known_to_be_older_than(timestamp))
    }

    /// A search for the first record that has the largest timestamp of the log (timestamp −3).
    pub fn max_time_search(&self) -> TimeSearch<E> {
        self.search(Sought::Largest, |_| true)
    }

    fn search(&self, sought: Sought, may_hold: impl Fn(&Segment) -> bool) -> TimeSearch<E> {
        let readable = self.segments.iter().skip(self.segment_number(self.log_start));
        TimeSearch {
            env: self.env.clone(),
            directory: self.directory.clone(),
            log_start: self.log_start,
            sought,
            segments: readable.filter(|segment| segment.size_bytes > 0 && may_hold(segment)).cloned().collect(),
        }
    }

    /// [`Self::time_search`], here and now.
    pub fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        self.time_search(timestamp).run()
    }

    /// [`Self::max_time_search`], here and now.
    pub fn offset_of_max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.max_time_search().run()
    }
}

impl<E: Env> TimeSearch<E> {
    /// Waits for the disk.
    pub fn run(&self) -> Result<Option<TimestampOffset>, ReadError> {
        let timestamp = match self.sought {
            Sought::At(timestamp) => timestamp,
            Sought::Largest => {
                let mut largest: Option<TimestampMs> = None;
                for segment in &self.segments {
                    largest = largest.max(segment.largest_timestamp(self.place())?.map(|it| it.timestamp));
                }
                let Some(largest) = largest else { return Ok(None) };
                largest
            }
        };
        match (self.first_at(timestamp)?, self.sought) {
            // The record with the largest timestamp lies before the log's start, in the segment that holds the start.
            (None, Sought::Largest) => self.largest_by_scan(),
            (found, _) => Ok(found),
        }
    }

    fn place(&self) -> Place<'_, E> {
        Place { env: &self.env, directory: &self.directory }
    }

    fn open(&self, segment: &Segment) -> io::Result<E::File> {
        self.env.open(&self.place().path(segment.base_offset, file_name::LOG), OpenMode::Read)
    }

    fn first_at(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        for segment in &self.segments {
            if segment.largest_timestamp(self.place())?.is_none_or(|it| it.timestamp < timestamp) {
                continue;
            }
            let file = self.open(segment)?;
            let mut scan = segment.scan_for_timestamp(self.place(), &file, timestamp, self.log_start)?;
            loop {
                match scan.next()? {
                    Step::End => break,
                    Step::Invalid { position } => return Err(self.corrupt(segment.base_offset, position)),
                    Step::Batch(batch) => {
                        if batch.header.max_timestamp < timestamp || batch.header.last_offset() < self.log_start {
                            continue;
                        }
                        if let Some(found) = self.first_record(&file, &batch, timestamp)? {
                            return Ok(Some(found));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn largest_by_scan(&self) -> Result<Option<TimestampOffset>, ReadError> {
        let mut largest: Option<TimestampMs> = None;
        for segment in &self.segments {
            let file = self.open(segment)?;
            let mut scan = HeaderScan::new(&file, 0, segment.size_bytes);
            loop {
                match scan.next()? {
                    Step::End => break,
                    Step::Invalid { position } => return Err(self.corrupt(segment.base_offset, position)),
                    // Compaction left the batch's largest timestamp in the header, but removed the record.
                    Step::Batch(batch) if batch.header.record_count == 0 => {}
                    Step::Batch(batch) if batch.header.base_offset < self.log_start => {
                        // Only some of its records, if any, count.
                        largest = largest.max(self.largest_record_timestamp(&file, &batch)?);
                    }
                    Step::Batch(batch) => largest = largest.max(Some(batch.header.max_timestamp)),
                }
            }
        }
        match largest {
            Some(largest) => self.first_at(largest),
            None => Ok(None),
        }
    }

    /// Shows the records from the log's start on. False if the batch cannot be unpacked, or not now.
    fn for_each_time(
        &self,
        file: &E::File,
        batch: &BatchAt,
        mut look: impl FnMut(Offset, TimestampMs) -> ControlFlow<()>,
    ) -> Result<bool, ReadError> {
        let size = batch.header.size_bytes();
        let _alone = match size > SMALL_BATCH_BYTES {
            true => match LARGE_BATCHES.try_lock_for(TURN_TIMEOUT) {
                None => return Ok(false),
                turn => turn,
            },
            false => None,
        };
        let bytes: Bytes = file.read_bytes(u64::from(batch.position), size)?;
        let seen = for_each_time(&bytes, UNPACKED_MAX_BYTES, |offset, timestamp| {
            if offset >= self.log_start { look(offset, timestamp) } else { ControlFlow::Continue(()) }
        });
        Ok(seen.is_ok())
    }

    fn first_record(
        &self,
        file: &E::File,
        batch: &BatchAt,
        timestamp: TimestampMs,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let leader_epoch = batch.header.partition_leader_epoch;
        let mut found = None;
        let is_readable = self.for_each_time(file, batch, |offset, time| {
            if time < timestamp {
                return ControlFlow::Continue(());
            }
            found = Some(TimestampOffset { timestamp: time, offset, leader_epoch });
            ControlFlow::Break(())
        })?;
        if !is_readable {
            return Ok(Some(TimestampOffset {
                timestamp: batch.header.max_timestamp,
                offset: batch.header.base_offset.max(self.log_start),
                leader_epoch,
            }));
        }
        Ok(found)
    }

    fn largest_record_timestamp(&self, file: &E::File, batch: &BatchAt) -> Result<Option<TimestampMs>, ReadError> {
        if batch.header.last_offset() < self.log_start {
            return Ok(None);
        }
        let mut largest = None;
        let is_readable = self.for_each_time(file, batch, |_, time| {
            largest = largest.max(Some(time));
            ControlFlow::Continue(())
        })?;
        Ok(if is_readable { largest } else { Some(batch.header.max_timestamp) })
    }

    fn corrupt(&self, base_offset: Offset, position: u32) -> ReadError {
        ReadError::Corrupt { file: self.place().path(base_offset, file_name::LOG), position: u64::from(position) }
    }
}
