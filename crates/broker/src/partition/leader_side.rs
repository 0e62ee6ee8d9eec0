//! What a partition does as its leader: takes records from producers, serves consumers and followers, answers where offsets
//! are, and lets the ISR follow its followers.

use std::sync::Arc;

use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, TimestampMs, TopicName};
use ottla_protocol::record_batch::{self, BatchHeader, InvalidBatch, TimestampType};
use ottla_replication::{Divergence, EpochEnd, FollowerFetch, IsrOutcome, Leader, ProducerSnapshot};
use ottla_storage::{ColdRead, DiskFault, Read, ReadError, RealEnv};

use super::waiters::{PendingProduce, Wakes};
use super::{FetchRead, Log, LogState, Partition, Reader, Role, State};
use crate::error_map;
use crate::fetch_session::FetchPartition;
use crate::log_io;
use crate::response::RecordSlice;

/// The place of a partition in a produce with acks=all.
#[derive(Clone, Copy)]
pub struct AckWait<'a> {
    pub pending: &'a Arc<PendingProduce>,
    pub place: usize,
}

/// Records that are in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub base_offset: Offset,
    /// None where the records carry their producer's times.
    pub log_append_time: TimestampMs,
    pub log_start: Offset,
}

/// A batch that is in the log.
struct Written {
    first_offset: Offset,
    last_offset: Offset,
    log_end: Offset,
    log_start: Offset,
    rolled: bool,
}

/// A piece of the leader's own log.
pub struct OwnRecords {
    /// Where the piece begins; the first batch may begin before.
    pub from: Offset,
    /// Where the log ends.
    pub end: Offset,
    /// None at the end.
    pub records: Option<RecordSlice>,
}

/// Records that are not appended, and what the producer is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendRefused {
    pub error: ErrorCode,
    pub message: Option<String>,
    /// The records that were to blame: their places in the batch, and why.
    pub records: Vec<(i32, String)>,
    pub log_start: Option<Offset>,
}

impl From<ErrorCode> for AppendRefused {
    fn from(error: ErrorCode) -> Self {
        Self { error, message: None, records: Vec::new(), log_start: None }
    }
}

impl From<InvalidBatch> for AppendRefused {
    fn from(invalid: InvalidBatch) -> Self {
        let records = invalid.record_faults().iter().map(|fault| (fault.batch_index, fault.message.clone())).collect();
        Self { error: invalid.error_code(), message: Some(invalid.to_string()), records, log_start: None }
    }
}

impl AppendRefused {
    /// There is no transaction coordinator that could end what the batch begins.
    pub fn transactional() -> Self {
        let message = "Transactional records are not accepted: transactions are not supported".to_owned();
        Self { message: Some(message), ..ErrorCode::InvalidTxnState.into() }
    }

    /// Only the brokers write there.
    pub fn internal_topic(topic: &TopicName) -> Self {
        let message = format!("Cannot append to internal topic {topic}");
        Self { message: Some(message), ..ErrorCode::InvalidTopicException.into() }
    }

    pub fn no_records() -> Self {
        let message = "Produce requests must have at least one record batch per partition".to_owned();
        Self { message: Some(message), ..ErrorCode::InvalidRecord.into() }
    }
}

/// A read that may have to wait for the disk.
struct Cold {
    read: ColdRead<RealEnv>,
    /// In which it began.
    epoch: LeaderEpoch,
    max_bytes: usize,
    upper: Offset,
    first_in_answer: bool,
}

/// What ListOffsets asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetQuery {
    Earliest,
    Latest,
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first record that is not older.
    At(TimestampMs),
}

/// What ListOffsets answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    pub timestamp: TimestampMs,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

impl FoundOffset {
    /// There is no such record.
    pub const NONE: Self =
        Self { timestamp: TimestampMs::NONE, offset: Offset::UNKNOWN, leader_epoch: LeaderEpoch::NONE };
}

/// The leader and its log, or the error that a request for the leader is answered with.
pub(super) fn leading(state: &mut State) -> Result<(&mut Leader, &mut Log), ErrorCode> {
    match (&mut state.role, &mut state.log) {
        (_, LogState::Offline) => Err(ErrorCode::KafkaStorageError),
        (Role::Leader(leader), LogState::Open(log)) => Ok((leader, log)),
        _ => Err(ErrorCode::NotLeaderOrFollower),
    }
}

impl Partition {
    /// Appends one producer's batch: checks it, assigns offsets in place and writes these bytes. With `ack` the outcome of the
    /// produce's place is told there, when the high watermark has passed the records or is known not to.
    ///
    /// # Errors
    /// Nothing was appended; `ack` was not told.
    pub fn append_as_leader(
        self: &Arc<Self>,
        records: &mut [u8],
        produce_version: i16,
        ack: Option<AckWait<'_>>,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Appended, AppendRefused> {
        let rules = self.rules.load();
        if self.directory.load().health().is_unusable() {
            return Err(ErrorCode::KafkaStorageError.into());
        }
        if !self.leads() {
            // The log may still be opening: the lock tells more.
            leading(&mut self.lock())?;
        }
        // Before the lock: checking a batch costs more than writing it.
        let limits = rules.limits(produce_version, wall);
        let validated = record_batch::validate(records, &limits)?;
        if validated.header.is_transactional() {
            return Err(AppendRefused::transactional());
        }
        let stamped = limits.timestamp_type == TimestampType::LogAppendTime;
        let recompressed = rules.recompress(records, &validated)?;
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

        let mut guard = self.lock();
        let state = &mut *guard;
        leading(state)?.0.check_append(ack.is_some())?;
        let written = self.write(state, records, Some(header), now, wall, wakes)?;
        let required = written.last_offset.next();
        if let Some(ack) = ack {
            // A retry of a batch that is not replicated yet waits as the original does (scenario 15).
            if state.high_watermark_now() >= required {
                ack.pending.complete(ack.place, ErrorCode::None, wakes);
            } else {
                state.produce.push(required, ack.pending.clone(), ack.place);
            }
        }
        drop(guard);
        if written.rolled {
            self.rolled();
        }
        Ok(Appended {
            base_offset: written.first_offset,
            log_append_time: if stamped { wall } else { TimestampMs::NONE },
            log_start: written.log_start,
        })
    }

    /// Appends a batch that this broker wrote itself, as the leader of `epoch` and as if with acks=all, and returns where the log
    /// ends then. It is replicated once the high watermark is there.
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn append_own(
        self: &Arc<Self>,
        records: &mut [u8],
        epoch: LeaderEpoch,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Offset, ErrorCode> {
        if self.directory.load().health().is_unusable() {
            return Err(ErrorCode::KafkaStorageError);
        }
        if records.len() > self.rules.load().max_message_bytes() {
            return Err(ErrorCode::RecordListTooLarge);
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let (leader, _) = leading(state)?;
        if leader.leader_epoch() != epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        leader.check_append(true)?;
        let written = self.write(state, records, None, now, wall, wakes).map_err(|refused| refused.error)?;
        drop(guard);
        if written.rolled {
            self.rolled();
        }
        Ok(written.log_end)
    }

    /// Whether [`Self::append_own`] would be let in now, as far as the replicas are concerned.
    pub fn takes_own(&self, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        let mut guard = self.state.lock();
        let (leader, _) = leading(&mut guard)?;
        if leader.leader_epoch() == epoch { leader.check_append(true) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// What this leader of `epoch` holds from `from` on, about `max_bytes` of it and never less than a batch, and where its log ends;
    /// above the high watermark too.
    pub fn read_own(
        &self,
        from: Option<Offset>,
        max_bytes: usize,
        epoch: LeaderEpoch,
    ) -> Result<OwnRecords, ErrorCode> {
        let mut guard = self.lock();
        let (leader, log) = leading(&mut guard)?;
        if leader.leader_epoch() != epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let from = from.unwrap_or(Offset::ZERO).max(log.log_start_offset());
        let end = log.log_end_offset();
        let records = self.slice(log, from, max_bytes, end, true)?;
        Ok(OwnRecords { from, end, records: Some(records).filter(|records| !records.is_empty()) })
    }

    /// Writes a batch, of this header where it is known, to the leader's log and tells whoever waits for it.
    fn write(
        self: &Arc<Self>,
        state: &mut State,
        records: &mut [u8],
        header: Option<BatchHeader>,
        now: MonotonicMs,
        wall: TimestampMs,
        wakes: &mut Wakes,
    ) -> Result<Written, AppendRefused> {
        let (leader, log) = leading(state)?;
        let health = self.directory.load().health().clone();
        let epoch = leader.leader_epoch();
        let written = health.writing(|| match header {
            Some(header) => log.append_batch_as_leader(records, header, epoch, wall),
            None => log.append_as_leader(records, epoch, wall),
        });
        let written = match written {
            Ok(written) => {
                self.disk_took();
                written
            }
            Err(error) => {
                let refused = error_map::append_refused(&error);
                let log_start = Some(log.log_start_offset());
                if refused.error == ErrorCode::KafkaStorageError {
                    self.disk_refused(log, &error, error.io());
                }
                return Err(AppendRefused { log_start, ..refused });
            }
        };
        let log_start = log.log_start_offset();
        // Whoever set flush.messages or flush.ms wants it on the disk before anybody is told of it.
        if log.flush_due(now)
            && let Err(error) = health.writing(|| log.flush(now))
            && self.disk_refused(log, &error, Some(&error)) == DiskFault::Failed
        {
            return Err(ErrorCode::KafkaStorageError.into());
        }
        if log.config().flush_ms < i64::MAX {
            self.start_flush_timer(log.config().flush_ms);
        }
        if !written.is_duplicate {
            let brokers = |broker| self.host.eligible_epoch(broker);
            let effects = leader.appended(now, written.log_end_offset, &brokers);
            state.subscribers.appended(wakes);
            self.carry_out(state, effects, wakes);
        }
        Ok(Written {
            first_offset: written.first_offset,
            last_offset: written.last_offset,
            log_end: written.log_end_offset,
            log_start,
            rolled: written.rolled,
        })
    }

    /// Looks at what is there for one fetch. A follower's news move its progress, and by it the high watermark, first: the answer
    /// then tells the new one.
    pub fn read(
        self: &Arc<Self>,
        wanted: &FetchPartition,
        reader: Reader,
        max_bytes: usize,
        first_in_answer: bool,
        now: MonotonicMs,
        wakes: &mut Wakes,
    ) -> FetchRead {
        if self.directory.load().health().is_unusable() {
            return FetchRead::error(ErrorCode::KafkaStorageError);
        }
        let Some(mut guard) = self.lock_or_pass() else { return FetchRead::error(ErrorCode::KafkaStorageError) };
        let state = &mut *guard;
        let looked = self.read_in(state, wanted, reader, max_bytes, first_in_answer, now, wakes);
        drop(guard);
        let read = looked.and_then(|(read, cold)| match cold {
            // The disk is not waited for with the lock, nor on a thread that serves others.
            Some(cold) => Ok(read.with_records(self.read_cold(&cold)?)),
            None => Ok(read),
        });
        read.unwrap_or_else(FetchRead::error)
    }

    fn read_cold(&self, cold: &Cold) -> Result<RecordSlice, ErrorCode> {
        let found = log_io::aside(|| cold.read.run()).map_err(|error| self.read_failed(&error))?;
        match (found, cold.read.next_offset()) {
            (Some(records), _) => Ok(records),
            (None, None) => Ok(RecordSlice::empty()),
            // The rest of that segment was compacted away.
            (None, Some(next)) => {
                let mut guard = self.lock();
                let (leader, log) = leading(&mut guard)?;
                if leader.leader_epoch() != cold.epoch {
                    return Err(ErrorCode::NotLeaderOrFollower);
                }
                self.slice(log, next, cold.max_bytes, cold.upper, cold.first_in_answer)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the inside of `read`")]
    fn read_in(
        self: &Arc<Self>,
        state: &mut State,
        wanted: &FetchPartition,
        reader: Reader,
        max_bytes: usize,
        first_in_answer: bool,
        now: MonotonicMs,
        wakes: &mut Wakes,
    ) -> Result<(FetchRead, Option<Cold>), ErrorCode> {
        let (leader, log) = leading(state)?;
        let brokers = |broker| self.host.eligible_epoch(broker);
        let fetch = match reader {
            Reader::Consumer { .. } => {
                leader.check_leader_epoch(wanted.current_leader_epoch).map_err(|refused| refused.error_code())?;
                None
            }
            Reader::Replica { id, epoch, progress } => {
                let fetch = FollowerFetch {
                    replica: id,
                    broker_epoch: epoch,
                    leader_epoch: wanted.current_leader_epoch,
                    fetch_offset: wanted.offset,
                    log_start_offset: wanted.log_start,
                };
                leader.check_fetch(&fetch, &brokers).map_err(|refused| refused.error_code())?;
                progress.then_some(fetch)
            }
        };
        let (log_start, log_end) = (log.log_start_offset(), log.log_end_offset());
        let diverging =
            match log.epoch_history().divergence(wanted.last_fetched_epoch, wanted.offset, log_start, log_end) {
                Divergence::None => None,
                Divergence::At(end) => Some(end),
                Divergence::OutOfRange => return Err(ErrorCode::OffsetOutOfRange),
            };
        if diverging.is_none() && (wanted.offset < log_start || wanted.offset > log_end) {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if let Some(fetch) = fetch.filter(|_| diverging.is_none()) {
            let effects = leader.follower_fetched(now, &fetch, &brokers).map_err(|refused| refused.error_code())?;
            if !effects.is_empty() {
                self.carry_out(state, effects, wakes);
            }
            self.complete_deletions(state, wakes);
        }
        let (leader, log) = leading(state)?;
        let high_watermark = leader.high_watermark();
        let last_stable = leader.last_stable_offset();
        let upper = match reader {
            Reader::Consumer { read_committed: true } => last_stable,
            Reader::Consumer { read_committed: false } => high_watermark,
            Reader::Replica { .. } => log_end,
        };
        let epoch = leader.leader_epoch();
        let read = FetchRead { high_watermark, last_stable, log_start, diverging, ..FetchRead::error(ErrorCode::None) };
        if diverging.is_some() || wanted.offset >= upper {
            return Ok((read, None));
        }
        let found = log.read_if_cached(wanted.offset, max_bytes, upper, first_in_answer);
        match found.map_err(|error| self.read_failed(&error))? {
            Read::Done(records) => Ok((read.with_records(records), None)),
            Read::Cold(cold) => Ok((read, Some(Cold { read: cold, epoch, max_bytes, upper, first_in_answer }))),
        }
    }

    /// What a fetch is answered when its partition cannot be read.
    fn read_failed(&self, error: &ReadError) -> ErrorCode {
        let code = error_map::read_error(error);
        if code == ErrorCode::KafkaStorageError {
            tracing::error!(partition = %self.name(), %error, "a read failed");
        }
        code
    }

    fn slice(
        &self,
        log: &Log,
        from: Offset,
        max_bytes: usize,
        upper: Offset,
        first_in_answer: bool,
    ) -> Result<RecordSlice, ErrorCode> {
        log.read(from, max_bytes, upper, first_in_answer).map_err(|error| self.read_failed(&error))
    }

    /// ListOffsets. `sees_log_end`: a follower asks, for whom the high watermark is no bound.
    pub fn find_offset(
        &self,
        query: OffsetQuery,
        leader_epoch: LeaderEpoch,
        sees_log_end: bool,
    ) -> Result<FoundOffset, ErrorCode> {
        let mut guard = self.lock();
        let (leader, log) = leading(&mut guard)?;
        leader.check_leader_epoch(leader_epoch).map_err(|refused| refused.error_code())?;
        let upper = if sees_log_end { log.log_end_offset() } else { leader.last_stable_offset() };
        // A new leader's high watermark may be behind what its predecessor told: "latest" must not go back.
        let is_settled = sees_log_end || leader.are_offsets_available();
        let unsettled = || if is_settled { Ok(()) } else { Err(ErrorCode::OffsetNotAvailable) };
        let search = match query {
            OffsetQuery::Latest => {
                unsettled()?;
                return Ok(FoundOffset {
                    timestamp: TimestampMs::NONE,
                    offset: upper,
                    leader_epoch: leader.leader_epoch(),
                });
            }
            OffsetQuery::Earliest => {
                let offset = log.log_start_offset();
                let leader_epoch = log.epoch_history().epoch_for_offset(offset).unwrap_or(LeaderEpoch::NONE);
                return Ok(FoundOffset { timestamp: TimestampMs::NONE, offset, leader_epoch });
            }
            OffsetQuery::MaxTimestamp => log.max_time_search(),
            OffsetQuery::At(timestamp) => log.time_search(timestamp),
        };
        let epoch = leader.leader_epoch();
        drop(guard);
        // It opens files and may unpack a batch.
        let found = log_io::aside(|| search.run());
        let mut guard = self.lock();
        let (leader, log) = leading(&mut guard)?;
        if leader.leader_epoch() != epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let found = match found {
            // Retention took a segment out meanwhile: what is left is searched here and now.
            Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => log.search_again(&search),
            found => found,
        };
        let found = found.map_err(|error| self.read_failed(&error))?;
        match found {
            Some(found) if found.offset < upper => Ok(FoundOffset {
                timestamp: found.timestamp,
                offset: found.offset,
                leader_epoch: log.epoch_history().epoch_for_offset(found.offset).unwrap_or(LeaderEpoch::NONE),
            }),
            _ => {
                unsettled()?;
                Ok(FoundOffset::NONE)
            }
        }
    }

    /// OffsetForLeaderEpoch: the largest epoch not above `epoch` and where it ends; none if the log knows no such.
    pub fn epoch_end(&self, epoch: LeaderEpoch, current: LeaderEpoch) -> Result<Option<EpochEnd>, ErrorCode> {
        let mut guard = self.lock();
        let (leader, log) = leading(&mut guard)?;
        leader.check_leader_epoch(current).map_err(|refused| refused.error_code())?;
        Ok(log.epoch_history().end_offset_for(epoch, log.log_end_offset()))
    }

    /// The idempotent producers that the leader's log remembers.
    pub fn producers(&self) -> Result<Vec<ProducerSnapshot>, ErrorCode> {
        let mut guard = self.lock();
        let (_, log) = leading(&mut guard)?;
        Ok(log.producers().snapshot().collect())
    }

    /// What became of an ISR proposal. Returns when the leader wants to be ticked, if soon.
    pub fn isr_decided(self: &Arc<Self>, now: MonotonicMs, number: u32, outcome: &IsrOutcome) -> Option<MonotonicMs> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let Role::Leader(leader) = &mut state.role else { return None };
        let brokers = |broker| self.host.eligible_epoch(broker);
        let effects = leader.isr_decided(now, number, outcome, &brokers);
        if effects.isr_changed {
            self.count_isr(&mut state);
        }
        if effects.isr_changed
            && let Role::Leader(leader) = &state.role
        {
            let isr: Vec<i32> = leader.isr().committed().iter().map(|member| member.broker.0).collect();
            tracing::debug!(partition = %self.name(), ?isr, "ISR changed");
        }
        let decided = matches!(outcome, IsrOutcome::Decided { .. });
        let retry_at = if decided { None } else { Some(now + ottla_replication::leader::ISR_RETRY_BACKOFF) };
        self.carry_out(&mut state, effects, &mut wakes);
        retry_at
    }

    /// Time passed, or a broker's registration changed: followers may have to leave or join the ISR.
    pub fn tick(self: &Arc<Self>, now: MonotonicMs) {
        let mut wakes = Wakes::default();
        let Some(mut state) = self.lock_or_pass() else { return };
        let Role::Leader(leader) = &mut state.role else { return };
        let brokers = |broker| self.host.eligible_epoch(broker);
        let effects = leader.tick(now, &brokers);
        if !effects.is_empty() {
            self.carry_out(&mut state, effects, &mut wakes);
        }
        self.complete_deletions(&mut state, &mut wakes);
    }
}
