//! Finding offsets by time, for ListOffsets.

use bytes::Bytes;
use ottla_model::{LeaderEpoch, Offset, TimestampMs};
use ottla_protocol::record_batch::Records;

use super::Log;
use crate::env::{Env, File};
use crate::error::ReadError;
use crate::file_name;
use crate::scan::{BatchAt, Step};

/// How far a compressed batch is unpacked to find a record in it. Batches that grow beyond are answered by their first
/// offset: earlier than the record that is sought, never later.
const UNPACKED_MAX_BYTES: u64 = 256 << 20;

/// An answer to a question for an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampOffset {
    /// [`TimestampMs::NONE`] where the question was not for a record.
    pub timestamp: TimestampMs,
    pub offset: Offset,
    /// [`LeaderEpoch::NONE`] where it is not known.
    pub leader_epoch: LeaderEpoch,
}

impl<E: Env> Log<E> {
    /// The log's start (timestamp −2).
    pub fn earliest(&self) -> TimestampOffset {
        self.answer(TimestampMs::NONE, self.log_start)
    }

    /// The log's end (timestamp −1, for those who may read that far).
    pub fn latest(&self) -> TimestampOffset {
        let leader_epoch = self.epochs.latest_epoch();
        TimestampOffset { timestamp: TimestampMs::NONE, offset: self.log_end, leader_epoch }
    }

    fn answer(&self, timestamp: TimestampMs, offset: Offset) -> TimestampOffset {
        let leader_epoch = self.epochs.epoch_for_offset(offset).unwrap_or(LeaderEpoch::NONE);
        TimestampOffset { timestamp, offset, leader_epoch }
    }

    /// The first record whose timestamp is `timestamp` or later. The caller compares its offset with the high watermark.
    pub fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        for (number, segment) in self.segments.iter().enumerate().skip(self.segment_number(self.log_start)) {
            let is_active = number + 1 == self.segments.len();
            // A closed segment's largest timestamp is the last entry of its time index.
            if segment.size_bytes == 0
                || !is_active && segment.largest_timestamp(self.place())?.is_some_and(|it| it.timestamp < timestamp)
            {
                continue;
            }
            let file = self.segment_file(number)?;
            let mut scan = segment.scan_for_timestamp(self.place(), &*file, timestamp, self.log_start)?;
            loop {
                match scan.next()? {
                    Step::End => break,
                    Step::Invalid { position } => return Err(self.corrupt(segment.base_offset, position)),
                    Step::Batch(batch) => {
                        if batch.header.max_timestamp < timestamp || batch.header.last_offset() < self.log_start {
                            continue;
                        }
                        if let Some(found) = self.first_record(&*file, &batch, timestamp)? {
                            return Ok(Some(found));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// The first record that has the largest timestamp of the log (timestamp −3).
    pub fn offset_of_max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        let mut largest: Option<TimestampMs> = None;
        for segment in self.segments.iter().skip(self.segment_number(self.log_start)) {
            if let Some(in_segment) = segment.largest_timestamp(self.place())? {
                largest = largest.max(Some(in_segment.timestamp));
            }
        }
        let Some(largest) = largest else { return Ok(None) };
        if let Some(found) = self.offset_for_timestamp(largest)? {
            return Ok(Some(found));
        }
        // The record with the largest timestamp lies before the log's start, in the segment that holds the start.
        self.largest_by_scan()
    }

    fn largest_by_scan(&self) -> Result<Option<TimestampOffset>, ReadError> {
        let mut largest: Option<TimestampMs> = None;
        for number in self.segment_number(self.log_start)..self.segments.len() {
            let Some(segment) = self.segments.get(number) else { break };
            let file = self.segment_file(number)?;
            let mut scan = crate::scan::HeaderScan::new(&*file, 0, segment.size_bytes);
            loop {
                match scan.next()? {
                    Step::End => break,
                    Step::Invalid { position } => return Err(self.corrupt(segment.base_offset, position)),
                    // What compaction left of a batch says what its largest timestamp was, but has no such record.
                    Step::Batch(batch) if batch.header.record_count == 0 => {}
                    Step::Batch(batch) if batch.header.base_offset < self.log_start => {
                        // Only some of its records, if any, count.
                        largest = largest.max(self.largest_record_timestamp(&*file, &batch)?);
                    }
                    Step::Batch(batch) => largest = largest.max(Some(batch.header.max_timestamp)),
                }
            }
        }
        match largest {
            Some(largest) => self.offset_for_timestamp(largest),
            None => Ok(None),
        }
    }

    fn records(&self, file: &E::File, batch: &BatchAt) -> Result<Option<Records>, ReadError> {
        let bytes: Bytes = file.read_bytes(u64::from(batch.position), batch.header.size_bytes())?;
        Ok(Records::new(&bytes, UNPACKED_MAX_BYTES).ok())
    }

    fn first_record(
        &self,
        file: &E::File,
        batch: &BatchAt,
        timestamp: TimestampMs,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let Some(records) = self.records(file, batch)? else {
            let offset = batch.header.base_offset.max(self.log_start);
            return Ok(Some(self.answer(batch.header.max_timestamp, offset)));
        };
        let found = records
            .map_while(Result::ok)
            .find(|record| record.timestamp >= timestamp && record.offset >= self.log_start);
        Ok(found.map(|record| TimestampOffset {
            timestamp: record.timestamp,
            offset: record.offset,
            leader_epoch: batch.header.partition_leader_epoch,
        }))
    }

    fn largest_record_timestamp(&self, file: &E::File, batch: &BatchAt) -> Result<Option<TimestampMs>, ReadError> {
        if batch.header.last_offset() < self.log_start {
            return Ok(None);
        }
        let Some(records) = self.records(file, batch)? else { return Ok(Some(batch.header.max_timestamp)) };
        let readable = records.map_while(Result::ok).filter(|record| record.offset >= self.log_start);
        Ok(readable.map(|record| record.timestamp).max())
    }

    fn corrupt(&self, base_offset: Offset, position: u32) -> ReadError {
        ReadError::Corrupt { file: self.place().path(base_offset, file_name::LOG), position: u64::from(position) }
    }
}
