//! Appending: checks, offsets, one write, and the bookkeeping that follows it.

use std::io;

use ottla_model::{LeaderEpoch, Offset, TimestampMs};
use ottla_protocol::record_batch::{BatchHeader, HEADER_BYTES, patch_offset_and_epoch, verify_crc};
use ottla_protocol::record_batch::{EndMarkerRecord, TimestampType};
use ottla_replication::{AppendTerms, EndMarker, ProducerBatch, ProducerCheck};

use super::Log;
use crate::env::{Env, File};
use crate::error::AppendError;
use crate::offset_index::relative_offset;
use crate::producer_replay;
use crate::segment::Incoming;

/// The result of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Of the first batch; of the original for a duplicate.
    pub first_offset: Offset,
    /// Of the last batch; of the original for a duplicate: the answer waits until the high watermark is above it.
    pub last_offset: Offset,
    /// After the append.
    pub log_end_offset: Offset,
    /// Of all batches.
    pub max_timestamp: TimestampMs,
    /// The appended bytes; 0 for a duplicate, and if the bytes contain no new complete batch.
    pub size_bytes: usize,
    /// An idempotent producer's retry: nothing was appended.
    pub is_duplicate: bool,
    /// A new segment was begun: [`Log::flush_work`] has something to do.
    pub rolled: bool,
}

impl Appended {
    fn and(self, next: &Self) -> Self {
        Self {
            first_offset: self.first_offset,
            max_timestamp: self.max_timestamp.max(next.max_timestamp),
            size_bytes: self.size_bytes + next.size_bytes,
            rolled: self.rolled || next.rolled,
            ..*next
        }
    }
}

/// The totals of a set of batches.
#[derive(Clone, Copy)]
struct Summary {
    first_offset: Offset,
    last_offset: Offset,
    max_timestamp: TimestampMs,
    size_bytes: usize,
}

impl Summary {
    fn of(header: &BatchHeader) -> Self {
        Self {
            first_offset: header.base_offset,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            size_bytes: header.size_bytes(),
        }
    }

    fn and(self, next: &BatchHeader) -> Self {
        Self {
            last_offset: next.last_offset(),
            max_timestamp: self.max_timestamp.max(next.max_timestamp),
            size_bytes: self.size_bytes + next.size_bytes(),
            ..self
        }
    }

    fn of_all(headers: &[BatchHeader]) -> Option<Self> {
        let (first, rest) = headers.split_first()?;
        Some(rest.iter().fold(Self::of(first), Self::and))
    }
}

/// The headers of whole batches that fill `batches`.
fn parse_all(batches: &[u8], headers: &mut Vec<BatchHeader>) -> Result<(), AppendError> {
    let mut position = 0;
    while position < batches.len() {
        let invalid = |reason: String| AppendError::Invalid { position, reason };
        let rest = batches.get(position..).unwrap_or_default();
        let header = BatchHeader::parse(rest).map_err(|error| invalid(error.to_string()))?;
        if header.size_bytes() > rest.len() {
            return Err(invalid("the batch is cut off".to_owned()));
        }
        if header.last_offset_delta < 0 {
            return Err(invalid(format!("last offset delta {}", header.last_offset_delta)));
        }
        headers.push(header);
        position += header.size_bytes();
    }
    Ok(())
}

/// The headers of the batches in a response that a follower may append: see [`Log::append_as_follower`].
fn check_fetched(batches: &[u8], leader_epoch: LeaderEpoch, headers: &mut Vec<BatchHeader>) -> Result<(), AppendError> {
    let mut position = 0;
    while let Some(rest) = batches.get(position..).filter(|rest| rest.len() >= HEADER_BYTES) {
        let invalid = |reason: &str| AppendError::Invalid { position, reason: reason.to_owned() };
        let header = BatchHeader::parse(rest).map_err(|error| invalid(&error.to_string()))?;
        let Some(batch) = rest.get(..header.size_bytes()) else { break };
        if header.partition_leader_epoch > leader_epoch {
            break;
        }
        if !verify_crc(batch) {
            return Err(invalid("the checksum does not match"));
        }
        let before = headers.last();
        if header.last_offset_delta < 0
            || before.is_some_and(|before| header.partition_leader_epoch < before.partition_leader_epoch)
        {
            return Err(invalid("offsets or leader epochs do not ascend"));
        }
        if let Some(before) = before.filter(|before| header.base_offset <= before.last_offset()) {
            return Err(AppendError::UnexpectedOffset {
                base: header.base_offset,
                last: header.last_offset(),
                log_end: before.next_offset(),
            });
        }
        headers.push(header);
        position += batch.len();
    }
    Ok(())
}

pub(crate) fn producer_batch(header: &BatchHeader) -> ProducerBatch {
    ProducerBatch {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        first_offset: header.base_offset,
        last_offset: header.last_offset(),
        max_timestamp: header.max_timestamp,
        is_transactional: header.is_transactional(),
    }
}

impl<E: Env> Log<E> {
    /// Appends records of a producer, or of this broker itself, as the partition's leader.
    ///
    /// `batches` are whole batches that have passed `ottla_protocol::record_batch::validate`; their base offsets and
    /// leader epochs are assigned in place, and these very bytes are written with one call. A retry of a remembered
    /// batch is not appended again: see [`Appended::is_duplicate`].
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn append_as_leader(
        &mut self,
        batches: &mut [u8],
        leader_epoch: LeaderEpoch,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.append_on_terms(batches, leader_epoch, &AppendTerms::CLIENT, now)
    }

    /// [`Self::append_as_leader`] of batches of a transaction, or of this broker.
    pub fn append_on_terms(
        &mut self,
        batches: &mut [u8],
        leader_epoch: LeaderEpoch,
        terms: &AppendTerms<'_>,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        let appended = parse_all(batches, &mut headers)
            .and_then(|()| self.append_parsed_as_leader(batches, &mut headers, leader_epoch, terms, now));
        self.headers = headers;
        appended
    }

    /// [`Self::append_on_terms`] of one batch whose header is known.
    pub fn append_batch_as_leader(
        &mut self,
        batch: &mut [u8],
        header: BatchHeader,
        leader_epoch: LeaderEpoch,
        terms: &AppendTerms<'_>,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        if header.size_bytes() != batch.len() || header.last_offset_delta < 0 {
            return Err(AppendError::Invalid { position: 0, reason: "the header belongs to another batch".to_owned() });
        }
        self.append_parsed_as_leader(batch, &mut [header], leader_epoch, terms, now)
    }

    /// Appends the marker that ends a producer's transaction, which may have no records here. `transaction_version`:
    /// see [`ottla_replication::ProducerStates::check_marker`].
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn append_marker(
        &mut self,
        marker: &EndMarker,
        transaction_version: i8,
        leader_epoch: LeaderEpoch,
        timestamp_type: TimestampType,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.producers.check_marker(marker, transaction_version)?;
        let record = EndMarkerRecord { result: marker.result, coordinator_epoch: marker.coordinator_epoch };
        let mut batch = record.batch(marker.producer_id, marker.producer_epoch, now, timestamp_type)?;
        self.append_on_terms(&mut batch, leader_epoch, &AppendTerms::COORDINATOR, now)
    }

    /// `headers` are those of `batches`, all of them.
    fn append_parsed_as_leader(
        &mut self,
        batches: &mut [u8],
        headers: &mut [BatchHeader],
        leader_epoch: LeaderEpoch,
        terms: &AppendTerms<'_>,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.refuse_if_offline()?;
        let latest = self.epochs.latest_epoch();
        if leader_epoch < latest {
            return Err(AppendError::StaleEpoch { epoch: leader_epoch, latest });
        }
        self.refuse_if_too_large(batches.len())?;
        for header in headers.iter().filter(|header| !header.is_control()) {
            if let ProducerCheck::Duplicate(original) = self.producers.check(&producer_batch(header), terms)? {
                return Ok(Appended {
                    first_offset: original.first_offset(),
                    last_offset: original.last_offset,
                    log_end_offset: self.log_end,
                    max_timestamp: original.timestamp,
                    size_bytes: 0,
                    is_duplicate: true,
                    rolled: false,
                });
            }
        }
        let mut next_offset = self.log_end;
        for header in headers.iter_mut() {
            header.base_offset = next_offset;
            header.partition_leader_epoch = leader_epoch;
            next_offset = header.next_offset();
        }
        let Some(summary) = Summary::of_all(headers) else {
            return Err(AppendError::Invalid { position: 0, reason: "no batch".to_owned() });
        };
        let rolled = self.roll_if_needed(&summary, now)?;
        let mut position = 0;
        for header in headers.iter() {
            let batch = batches.get_mut(position..position + header.size_bytes()).unwrap_or_default();
            patch_offset_and_epoch(batch, header.base_offset, leader_epoch);
            position += header.size_bytes();
        }
        self.write(batches, headers, &summary)?;
        Ok(self.appended(&summary, rolled))
    }

    /// Appends the leader's records, with its offsets and epochs. An incomplete batch at the end is left out; so is
    /// everything from the first batch of a later epoch than `leader_epoch`, in which the follower fetched: that
    /// response belongs to another leader. If the batches are more than one segment takes, they go to several.
    ///
    /// The first batch may begin before the end of an empty log that starts within it (after
    /// [`Log::truncate_fully_and_start_at`] to a leader's log start).
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn append_as_follower(
        &mut self,
        batches: &[u8],
        leader_epoch: LeaderEpoch,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.refuse_if_offline()?;
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        let appended = check_fetched(batches, leader_epoch, &mut headers)
            .and_then(|()| self.append_fetched(batches, &headers, now));
        self.headers = headers;
        appended
    }

    fn append_fetched(
        &mut self,
        batches: &[u8],
        headers: &[BatchHeader],
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        let Some(first) = headers.first() else { return Ok(self.nothing_appended()) };
        self.accept_first(first)?;
        self.start_within_first(first)?;
        let mut all: Option<Appended> = None;
        let (mut headers, mut batches) = (headers, batches);
        while let Some(summary) = Summary::of_all(headers.get(..self.fitting(headers)).unwrap_or_default()) {
            let (piece, rest) = headers.split_at(self.fitting(headers));
            let (bytes, rest_bytes) = batches.split_at(summary.size_bytes.min(batches.len()));
            let appended = self
                .roll_if_needed(&summary, now)
                .and_then(|rolled| self.write(bytes, piece, &summary).map(|()| self.appended(&summary, rolled)));
            all = match (appended, all) {
                (Ok(piece), Some(all)) => Some(all.and(&piece)),
                (Ok(piece), None) => Some(piece),
                // Batches that are in the log stay there; the rest is fetched again, and refused again if need be.
                (Err(error), Some(all)) => {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "appending only a part of the fetched records");
                    return Ok(all);
                }
                (Err(error), None) => return Err(error),
            };
            (headers, batches) = (rest, rest_bytes);
        }
        Ok(all.unwrap_or_else(|| self.nothing_appended()))
    }

    /// How many of these batches one segment takes; one at least, since the leader has it.
    fn fitting(&self, headers: &[BatchHeader]) -> usize {
        let mut left = self.segment_bytes_max();
        let fit = headers.iter().take_while(|header| {
            let fits = header.size_bytes() <= left;
            left = left.saturating_sub(header.size_bytes());
            fits
        });
        fit.count().max(1).min(headers.len())
    }

    /// The first batch of a fetched set must follow the log's end, or hold the start of a log that is empty; and no
    /// record may be of an older epoch than the log's last one.
    fn accept_first(&self, header: &BatchHeader) -> Result<(), AppendError> {
        let (base, last) = (header.base_offset, header.last_offset());
        let begins_log = self.is_empty() && base < self.log_end && last >= self.log_end && base.0 >= 0;
        if base < self.log_end && !begins_log {
            return Err(AppendError::UnexpectedOffset { base, last, log_end: self.log_end });
        }
        // An epoch that began at the log's end has no records here: another leader may have written others in its
        // place.
        let with_records = self.epochs.entries().iter().rev().find(|entry| entry.start_offset < self.log_end);
        match with_records {
            Some(entry) if header.partition_leader_epoch < entry.epoch => {
                Err(AppendError::StaleEpoch { epoch: header.partition_leader_epoch, latest: entry.epoch })
            }
            _ => Ok(()),
        }
    }

    /// Whether the log has no record. Its segments may still hold some that lie below its start.
    fn is_empty(&self) -> bool {
        self.log_start >= self.log_end || self.segments.iter().all(|segment| segment.size_bytes == 0)
    }

    /// A log that was started over in the middle of a batch begins with that whole batch; its start stays where it is.
    fn start_within_first(&mut self, first: &BatchHeader) -> io::Result<()> {
        if first.base_offset < self.log_end {
            let log_start = self.log_start;
            self.start_over(first.base_offset, log_start)?;
        }
        Ok(())
    }

    fn refuse_if_offline(&mut self) -> Result<(), AppendError> {
        if self.is_offline() {
            return Err(AppendError::Offline);
        }
        Ok(self.cut_dirty_tail()?)
    }

    /// Cuts off what a failed append may have left behind the active segment's end.
    pub(crate) fn cut_dirty_tail(&mut self) -> io::Result<()> {
        if self.tail_is_dirty {
            let size = u64::from(self.active().size_bytes);
            self.active_file()?.set_len(size)?;
            self.tail_is_dirty = false;
        }
        Ok(())
    }

    fn segment_bytes_max(&self) -> usize {
        // Positions in the index are signed.
        self.config.segment_bytes.min(i32::MAX as u32) as usize
    }

    fn refuse_if_too_large(&self, size_bytes: usize) -> Result<(), AppendError> {
        let segment_bytes = self.segment_bytes_max();
        if size_bytes > segment_bytes {
            return Err(AppendError::LargerThanSegment { size_bytes, segment_bytes });
        }
        Ok(())
    }

    fn roll_if_needed(&mut self, summary: &Summary, now: TimestampMs) -> Result<bool, AppendError> {
        let incoming = Incoming {
            size_bytes: summary.size_bytes as u64,
            last_offset: summary.last_offset,
            max_timestamp: summary.max_timestamp,
        };
        if !self.active().must_roll(&self.config, &incoming, now, self.roll_jitter_ms()) {
            return Ok(false);
        }
        // The segment begins where the records of the one before it end, even if the leader's batches begin later
        // because it has compacted the offsets between: a gap between two segments would mean lost records.
        let bases = [self.records_end.unwrap_or(self.log_end), summary.first_offset];
        let base = bases.into_iter().find(|base| relative_offset(*base, summary.last_offset).is_some());
        let Some(base) = base else {
            return Err(AppendError::Invalid {
                position: 0,
                reason: "more offsets than a segment can have".to_owned(),
            });
        };
        self.roll(base, now)?;
        Ok(true)
    }

    /// The one write. The remains of a failed write are cut off at the latest before the next append: otherwise a
    /// shorter batch would leave half of the failed one behind it.
    fn write(&mut self, batches: &[u8], headers: &[BatchHeader], summary: &Summary) -> Result<(), AppendError> {
        let start = self.active().size_bytes;
        let file = self.active_file()?;
        if let Err(error) = file.write_all_at(batches, u64::from(start)) {
            self.tail_is_dirty = file.set_len(u64::from(start)).is_err();
            return Err(error.into());
        }
        let interval = self.config.index_interval_bytes;
        let mut position = 0;
        for header in headers {
            let at = start.saturating_add(u32::try_from(position).unwrap_or(u32::MAX));
            if let Some(active) = self.segments.last_mut() {
                active.appended(header, at, interval);
            }
            self.recent.push(header.base_offset, header.last_offset(), at);
            self.note_epoch(header);
            let bytes = batches.get(position..).unwrap_or_default();
            if let Some(aborted) = producer_replay::apply(&mut self.producers, header, bytes)
                && let Some(active) = self.segments.last_mut()
            {
                active.aborted.push(aborted);
            }
            position += header.size_bytes();
        }
        self.log_end = summary.last_offset.next();
        self.records_end = None;
        let place = crate::segment::Place { env: &self.env, directory: &self.directory };
        if let Some(active) = self.segments.last_mut() {
            active.write_out_if_many(place);
        }
        Ok(())
    }

    /// A batch of this header is in the log.
    pub(crate) fn note_epoch(&mut self, header: &BatchHeader) {
        let epoch = header.partition_leader_epoch;
        if epoch == self.epochs.latest_epoch() {
            return;
        }
        // An epoch without records is replaced by the epoch that was written at its offset.
        let mut changed = epoch < self.epochs.latest_epoch() && self.epochs.truncate_from_end(header.base_offset);
        if epoch > self.epochs.latest_epoch() {
            changed |= self.epochs.assign(epoch, header.base_offset);
        }
        if changed {
            self.epochs_version += 1;
        }
    }

    fn appended(&self, summary: &Summary, rolled: bool) -> Appended {
        Appended {
            first_offset: summary.first_offset,
            last_offset: summary.last_offset,
            log_end_offset: self.log_end,
            max_timestamp: summary.max_timestamp,
            size_bytes: summary.size_bytes,
            is_duplicate: false,
            rolled,
        }
    }

    fn nothing_appended(&self) -> Appended {
        Appended {
            first_offset: self.log_end,
            last_offset: self.log_end - 1,
            log_end_offset: self.log_end,
            max_timestamp: TimestampMs::NONE,
            size_bytes: 0,
            is_duplicate: false,
            rolled: false,
        }
    }
}
