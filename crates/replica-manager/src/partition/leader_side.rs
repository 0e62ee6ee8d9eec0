//! The leader's side of a partition's handle, and the reads of every role: checks what producers send, waits for the
//! disk without the lock, and words errors.

use std::sync::Arc;

use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, TimestampMs};
use ottla_partition::{
    Append, Appended as LogAppended, Errand, Fetch, Fetched, FoundOffset, IsNear, OffsetLookup, OffsetQuery, OwnPiece,
    ReadError, Reader, Visible, finish_fetch,
};
use ottla_protocol::record_batch::{self, BatchHeader, TimestampType};
use ottla_replication::{AppendTerms, EndMarker, EpochEnd, IsrOutcome, VerificationGuard, VerificationRequest};
use ottla_storage::{AbortedSearch, Read, RealEnv};

use super::touched::Pass;
use super::waiters::{PendingAck, PendingAcks, Wakes};
use super::{AppendRefused, Crowded, FetchRead, Partition, State};
use crate::log_io::{self, Blocking};

/// The place of a partition in a produce with acks=all.
#[derive(Clone, Copy)]
pub struct AckWait<'a> {
    pub pending: &'a Arc<PendingAcks>,
    pub place: usize,
}

/// One producer's batch for a partition.
pub struct ProducedBatch<'a> {
    pub records: &'a mut [u8],
    pub produce_version: i16,
    /// The request names a transactional id.
    pub may_be_transactional: bool,
    /// The transaction coordinator has confirmed that the partition belongs to the batch's transaction.
    pub guard: Option<&'a VerificationGuard>,
}

/// What a leader writes.
enum LogEntry<'a> {
    Batches(Append<'a>),
    /// The end of a transaction, the transaction's version, and whose time the record carries.
    Marker(EndMarker, i8, TimestampType),
}

/// For whom a leader writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// One of many connections: it is refused where too many wait.
    Client,
    /// A coordinator here, which has one write under way for each of its partitions.
    Own,
}

/// Records that are in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub base_offset: Offset,
    /// None where the records carry their producer's times.
    pub log_append_time: TimestampMs,
    pub log_start: Offset,
}

/// A piece of the leader's own log.
pub type OwnRecords = OwnPiece<RealEnv>;

/// The room that an append takes at most: a batch of the coordinator's (`largest_bytes`) as far as the topic takes it,
/// and blocks of a new segment's files. Index files are sparse.
fn own_append_bytes(max_message_bytes: usize, largest_bytes: usize) -> u64 {
    const NEW_SEGMENT_BYTES: u64 = 64 << 10;
    u64::try_from(max_message_bytes.min(largest_bytes)).unwrap_or(u64::MAX).saturating_add(NEW_SEGMENT_BYTES)
}

impl Partition {
    /// Appends one producer's batch: checks it, assigns offsets in place and writes these bytes. With `ack` the outcome
    /// of the produce's place is told there, when the high watermark has passed the records or is known not to.
    ///
    /// # Errors
    /// Nothing was appended; `ack` was not told.
    pub fn append_as_leader(
        self: &Arc<Self>,
        batch: ProducedBatch<'_>,
        ack: Option<AckWait<'_>>,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Appended, AppendRefused> {
        let settings = self.settings.load();
        let records = batch.records;
        Errand::Append.check(self.directory.load().health())?;
        if self.directory.load().health().is_crowded() {
            return Err(Crowded.into());
        }
        if !self.leads() {
            // The log may still be opening: the lock tells more.
            self.lock_for_client()?.replica.leading()?;
        }
        // Before the lock: checking a batch costs more than writing it.
        let limits = settings.limits(batch.produce_version, wall);
        let validated = record_batch::validate(records, &limits);
        let validated = validated.map_err(|invalid| AppendRefused::invalid(&invalid, &self.name()))?;
        if validated.header.is_transactional() && !batch.may_be_transactional {
            return Err(AppendRefused::no_transactional_id());
        }
        let stamped = limits.timestamp_type == TimestampType::LogAppendTime;
        let recompressed = settings.recompress(records, &validated)?;
        let mut owned;
        let mut header = validated.header;
        let records = match recompressed {
            Some(bytes) => {
                owned = bytes;
                header = BatchHeader::parse(&owned).map_err(|_| ErrorCode::CorruptMessage)?;
                &mut owned[..]
            }
            None => records,
        };
        let (timestamp_type, max_timestamp) = match stamped {
            true => (TimestampType::LogAppendTime, wall),
            false => (TimestampType::CreateTime, validated.max_timestamp),
        };
        record_batch::set_max_timestamp_of(&mut header, records, timestamp_type, max_timestamp);

        let mut guard = self.lock_for_client()?;
        let state = &mut *guard;
        let terms = AppendTerms {
            guard: batch.guard,
            verifies: self.context.verifies_transactions || batch.guard.is_some(),
            ..AppendTerms::CLIENT
        };
        let append = Append { records, header: Some(header), acks_all: ack.is_some(), terms };
        let written = self.write(state, LogEntry::Batches(append), Writer::Client, now, wall, wakes)?;
        if let Some(ack) = ack
            && state.replica.wait_for_replicas(written.next_offset, || ack.answer())
        {
            ack.pending.complete(ack.place, ErrorCode::None, wakes);
        }
        drop(guard);
        if written.rolled {
            self.rolled();
        }
        Ok(Appended {
            base_offset: written.first_offset,
            // A retry is told when the original was appended.
            log_append_time: if stamped { written.max_timestamp } else { TimestampMs::NONE },
            log_start: written.log_start,
        })
    }

    /// Appends a batch that this broker wrote itself, as the leader of `epoch` and as if with acks=all, and returns
    /// where the log ends then. It is replicated once the high watermark is there. `guard`: the proof that a
    /// transactional batch is part of its producer's transaction.
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn append_own(
        self: &Arc<Self>,
        records: &mut [u8],
        guard: Option<&VerificationGuard>,
        epoch: LeaderEpoch,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Offset, ErrorCode> {
        Errand::Append.check(self.directory.load().health())?;
        if records.len() > self.settings.load().max_message_bytes() {
            return Err(ErrorCode::RecordListTooLarge);
        }
        let verifies = self.context.verifies_transactions || guard.is_some();
        let terms = AppendTerms { guard, verifies, ..AppendTerms::COORDINATOR };
        let append = Append { records, header: None, acks_all: true, terms };
        self.append_in(epoch, LogEntry::Batches(append), now, wall, wakes)
    }

    /// As [`Self::append_own`], for the marker that ends a producer's transaction.
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn append_own_marker(
        self: &Arc<Self>,
        marker: EndMarker,
        transaction_version: i8,
        epoch: LeaderEpoch,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Offset, ErrorCode> {
        Errand::Append.check(self.directory.load().health())?;
        let timestamp_type = self.settings.load().timestamp_type();
        self.append_in(epoch, LogEntry::Marker(marker, transaction_version, timestamp_type), now, wall, wakes)
    }

    /// Appends as the leader of `epoch`; returns where the log ends then.
    fn append_in(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        entry: LogEntry<'_>,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Offset, ErrorCode> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.replica.leading_in(epoch)?;
        let written = self.write(state, entry, Writer::Own, now, wall, wakes).map_err(|refused| refused.error)?;
        drop(guard);
        if written.rolled {
            self.rolled();
        }
        Ok(written.log_end)
    }

    /// Appends the marker that ends a producer's transaction. The outcome is told to `ack` when the high watermark has
    /// passed it, or is known not to.
    ///
    /// # Errors
    /// Nothing was appended; `ack` was not told.
    pub fn append_marker(
        self: &Arc<Self>,
        marker: EndMarker,
        transaction_version: i8,
        ack: AckWait<'_>,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<(), ErrorCode> {
        Errand::Append.check(self.directory.load().health())?;
        let timestamp_type = self.settings.load().timestamp_type();
        let mut guard = self.lock_for_client()?;
        let state = &mut *guard;
        let entry = LogEntry::Marker(marker, transaction_version, timestamp_type);
        let written = self.write(state, entry, Writer::Client, now, wall, wakes).map_err(|refused| refused.error)?;
        if state.replica.wait_for_replicas(written.next_offset, || ack.answer()) {
            ack.pending.complete(ack.place, ErrorCode::None, wakes);
        }
        drop(guard);
        if written.rolled {
            self.rolled();
        }
        Ok(())
    }

    /// Whether the transaction coordinator must be asked before this transactional batch is appended: see
    /// [`ottla_partition::Replica::begin_verification`].
    pub fn begin_verification(
        &self,
        request: &VerificationRequest,
        wall: TimestampMs,
    ) -> Result<Option<VerificationGuard>, ErrorCode> {
        self.lock_for_client()?.replica.begin_verification(request, wall)
    }

    /// Whether [`Self::append_own`] would be let in now, as far as the replicas and the directory are concerned, and up
    /// to how many bytes. `largest_bytes`: what the coordinator writes at most in a batch.
    pub fn takes_own(&self, epoch: LeaderEpoch, largest_bytes: usize) -> Result<usize, ErrorCode> {
        let directory = self.directory.load();
        Errand::Append.check(directory.health())?;
        let max_bytes = self.settings.load().max_message_bytes();
        // A refused append costs its coordinator the state of all groups of the partition: once the disk was full, none
        // is tried before the file system has room for it.
        if (self.is_out_of_room() || directory.health().is_full())
            && log_io::run_blocking(|| directory.space())
                .is_ok_and(|(_, free)| free < own_append_bytes(max_bytes, largest_bytes))
        {
            return Err(ErrorCode::KafkaStorageError);
        }
        self.lock().replica.leading_in(epoch)?.0.check_append(true)?;
        Ok(max_bytes)
    }

    /// What this leader of `epoch` holds from `from` on, about `max_bytes` of it and never less than a batch, and where
    /// its log ends; above the high watermark too. Waits for the disk, without the lock.
    pub fn read_own(
        &self,
        from: Option<Offset>,
        max_bytes: usize,
        epoch: LeaderEpoch,
    ) -> Result<OwnRecords, ErrorCode> {
        let read = |from| self.lock().replica.read_own(epoch, from, max_bytes);
        let read = ottla_partition::read_own(from, &Blocking, read).map_err(|error| self.read_failed(&error));
        // It may have opened files without the lock.
        self.look_again(Pass::Files);
        read
    }

    /// Where the log of this leader of `epoch` ends, if it has no records. Does not wait for the disk.
    pub fn end_if_empty(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let guard = self.lock();
        let (_, log) = guard.replica.leading_in(epoch).ok()?;
        Some(log.log_end_offset()).filter(|end| *end == log.log_start_offset())
    }

    /// Writes to the leader's log, and wakes what waits for it.
    fn write(
        self: &Arc<Self>,
        state: &mut State,
        entry: LogEntry<'_>,
        writer: Writer,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<LogAppended, AppendRefused> {
        let health = self.directory.load().health().clone();
        let brokers = |broker| self.context.eligible_epoch(broker);
        let replica = &mut state.replica;
        let append = || match entry {
            LogEntry::Batches(append) => replica.append(append, now, wall, &brokers),
            LogEntry::Marker(marker, transaction_version, timestamp_type) => {
                replica.append_marker(&marker, transaction_version, timestamp_type, now, wall, &brokers)
            }
        };
        let appended = match writer {
            Writer::Client => log_io::writing_for_client(&health, append).ok_or(Crowded)?,
            Writer::Own => log_io::writing(&health, append),
        };
        match appended {
            Ok((written, effects)) => {
                self.append_succeeded();
                self.execute(state, effects, wakes);
                let flush_ms = state.replica.log().map_or(i64::MAX, |log| log.config().flush_ms);
                if flush_ms < i64::MAX {
                    self.start_flush_timer(flush_ms);
                }
                Ok(written)
            }
            Err(error) => Err(self.append_refused(&state.replica, &error)),
        }
    }

    fn append_refused(&self, replica: &super::Replica, error: &ottla_partition::AppendError) -> AppendRefused {
        if let ottla_partition::AppendError::Refused(error) = error {
            return (*error).into();
        }
        if let Some(cause) = error.disk_error() {
            self.disk_refused(replica, error, cause);
        }
        let log_start = replica.log().map(|log| log.log_start_offset());
        AppendRefused { log_start, ..AppendRefused::by_log(error) }
    }

    /// Serves one fetch. What is not in memory is read without the lock, and not on a thread that serves others.
    /// `is_near`: see [`ottla_partition::Replica::fetch`].
    pub fn fetch(
        self: &Arc<Self>,
        fetch: &Fetch,
        now: MonotonicMs,
        is_near: Option<IsNear<'_>>,
        wakes: &mut Wakes,
    ) -> FetchRead {
        if let Err(error) = Errand::Fetch.check(self.directory.load().health()) {
            return FetchRead::error(error);
        }
        let Some(mut guard) = self.lock_for(Errand::Fetch) else {
            return FetchRead::error(ErrorCode::KafkaStorageError);
        };
        let state = &mut *guard;
        let brokers = |broker| self.context.eligible_epoch(broker);
        let (effects, fetched) = state.replica.fetch(fetch, now, &brokers, is_near);
        let fetch_changed = effects.fetch_changed;
        self.execute(state, effects, wakes);
        drop(guard);
        if fetch_changed {
            self.fetch_anew();
        }
        let read = fetched.and_then(|fetched| self.finish_read(fetch, fetched));
        // It may have opened files without the lock.
        self.look_again(Pass::Files);
        read.unwrap_or_else(|error| FetchRead::error(self.read_failed(&error)))
    }

    fn finish_read(&self, fetch: &Fetch, fetched: Fetched<RealEnv>) -> Result<FetchRead, ReadError> {
        let unread = FetchRead {
            high_watermark: fetched.high_watermark,
            last_stable: fetched.last_stable,
            log_start: fetched.log_start,
            diverging: fetched.diverging,
            preferred_read_replica: fetched.preferred_read_replica,
            is_followers: fetched.is_follower,
            ..FetchRead::error(ErrorCode::None)
        };
        let (leader_epoch, upper) = (fetched.leader_epoch, fetched.upper);
        let read_on = |from| self.lock().replica.read_on(leader_epoch, from, fetch.max_bytes, upper, fetch.min_one);
        let waits = matches!(fetched.records, Some(Read::Cold(_)))
            || fetched.aborted.as_ref().is_some_and(AbortedSearch::needs_disk);
        let finish = || finish_fetch(fetched.records, fetched.aborted, &Blocking, read_on);
        // Any number of consumers may lag behind; of brokers there are few.
        let is_one_of_many = waits && !matches!(fetch.reader, Reader::Replica { .. });
        let read = match is_one_of_many {
            true => log_io::reading(self.directory.load().health(), finish).transpose()?,
            false => Some(finish()?),
        };
        // It waits as for new records, without a thread, and looks again.
        let Some((records, aborted)) = read else { return Ok(FetchRead { is_held_back: true, ..unread }) };
        Ok(FetchRead {
            left_out_bytes: records.left_out_bytes,
            records: Some(records).filter(|records| !records.is_empty()),
            aborted,
            ..unread
        })
    }

    /// What a fetch is answered when its partition cannot be read.
    fn read_failed(&self, error: &ReadError) -> ErrorCode {
        let code = error.error_code();
        if let (ErrorCode::KafkaStorageError, ReadError::Log(error)) = (code, error) {
            tracing::error!(partition = %self.name(), %error, "a read failed");
        }
        code
    }

    /// ListOffsets.
    pub fn find_offset(
        &self,
        query: OffsetQuery,
        leader_epoch: LeaderEpoch,
        visible: Visible,
    ) -> Result<FoundOffset, ErrorCode> {
        let mut lookup = self.lock_for_client()?.replica.find_offset(query, leader_epoch, visible)?;
        loop {
            let search = match lookup {
                OffsetLookup::Found(found) => return Ok(found),
                OffsetLookup::Search(search) => search,
            };
            // It opens files and may unpack a batch: a disk that does not answer would keep a thread for each client.
            let directory = self.directory.load();
            Errand::Fetch.check(directory.health())?;
            let found = log_io::reading(directory.health(), || log_io::run_blocking(|| search.run()));
            let found = found.ok_or(ErrorCode::KafkaStorageError)?;
            let found = self.lock_for_client()?.replica.offset_found(&search, found);
            lookup = found.map_err(|error| self.read_failed(&error))?;
        }
    }

    /// OffsetForLeaderEpoch: the largest epoch not above `epoch` and where it ends; none if the log knows no such.
    pub fn epoch_end(&self, epoch: LeaderEpoch, current: LeaderEpoch) -> Result<Option<EpochEnd>, ErrorCode> {
        self.lock_for_client()?.replica.epoch_end(epoch, current)
    }

    /// What became of an ISR proposal.
    pub fn isr_decided(&self, now: MonotonicMs, number: u64, outcome: &IsrOutcome) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let brokers = |broker| self.context.eligible_epoch(broker);
        let (effects, tick_at) = state.replica.isr_decided(now, number, outcome, &brokers);
        if effects.isr_changed
            && let Some(leader) = state.replica.leader()
        {
            let isr: Vec<i32> = leader.isr().committed().iter().map(|member| member.broker.0).collect();
            tracing::debug!(partition = %self.name(), ?isr, "ISR changed");
        }
        self.execute(&mut state, effects, &mut wakes);
        if let Some(at) = tick_at {
            self.context.alter_partition.tick_at(self.id, at);
        }
    }

    /// Time passed, or a broker's registration changed: followers may have to leave or join the ISR. The round of all
    /// leaders comes again while there is something left for it to do.
    pub fn tick(&self, now: MonotonicMs) {
        let mut wakes = Wakes::default();
        let Some(mut state) = self.lock_quietly_for(Errand::Tick) else { return self.look_again(Pass::Leaders) };
        let brokers = |broker| self.context.eligible_epoch(broker);
        let effects = state.replica.tick(now, &brokers);
        self.execute(&mut state, effects, &mut wakes);
        if !state.replica.is_at_rest(&brokers) {
            self.look_again(Pass::Leaders);
        }
    }
}

impl AckWait<'_> {
    pub(super) fn answer(&self) -> PendingAck {
        PendingAck { pending: self.pending.clone(), place: self.place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a topic that takes huge messages, 2 GiB had to be free before an offset was written again.
    #[test]
    fn no_more_room_is_asked_for_than_a_batch_of_the_coordinator_takes() {
        let own = own_append_bytes(0, 0);
        assert_eq!(own_append_bytes(2_147_483_647, 1_048_588), 1_048_588 + own);
        assert_eq!(own_append_bytes(1_000, 1_048_588), 1_000 + own);
    }
}
