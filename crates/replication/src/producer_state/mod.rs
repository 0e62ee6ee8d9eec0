//! The state of each producer in a log: epoch and last sequences, to detect retries and refuse gaps, and its open
//! transaction. Kafka's rules (`ProducerStateManager`, `ProducerAppendInfo`).
//!
//! Owns one entry per producer id with its last five batches ([`RETAINED_BATCHES`], the number of requests that a Kafka
//! producer has in flight), the transactions that bound the last stable offset ([`transactions`]), and the appends that
//! wait for a transaction coordinator ([`verification`]). Invariants: cached batches are of the entry's epoch and in
//! the order of the log; [`ProducerStates::end_offset`] is the end of the log that the states reflect; a producer with
//! an open transaction is never forgotten.
//!
//! The states follow the log, not the other way round: after a truncation or a restart the storage loads the newest
//! snapshot that is left and replays the log from there ([`ProducerStates::load`], [`ProducerStates::apply`]).

mod budget;
mod eviction;
mod transactions;
pub mod verification;

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_model::{ErrorCode, Offset, ProducerEpoch, ProducerId, TimestampMs, TransactionResult};

use budget::Held;
pub use transactions::CompletedTransaction;
use transactions::Transactions;
use verification::{VERIFICATIONS_MAX, Verifications};
pub use verification::{VerificationGuard, VerificationRequest, refusal_of, verdict_of};

pub use budget::ProducerBudget;
pub use eviction::PRODUCERS_MAX;

/// How many batches of each producer are remembered: Kafka's producers have at most five requests in flight.
pub const RETAINED_BATCHES: usize = 5;

/// The value for "no sequence": a batch without a producer, or a state without batches.
pub const NO_SEQUENCE: i32 = -1;

/// The version of the transaction protocol from which every end of a transaction bumps the producer's epoch (KIP-890).
pub const EPOCH_BUMPS_FROM: i8 = 2;

/// The origin of a batch that a leader appends, which decides the checks. Batches of followers, and of a log that is
/// read again, are not checked: their leader has done so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchOrigin {
    /// A producer: epoch and sequence are checked.
    Client,
    /// This broker on behalf of a producer (offsets in a transaction), without sequences: only the epoch is checked.
    Coordinator,
}

/// The facts about an append that decide whether a transactional batch may begin a transaction in this log.
#[derive(Clone, Copy, Debug)]
pub struct AppendTerms<'g> {
    pub origin: BatchOrigin,
    /// The proof that the transaction coordinator knows of this partition; none if nothing was asked.
    pub guard: Option<&'g VerificationGuard>,
    /// `transaction.partition.verification.enable`: whether the guard counts.
    pub verifies: bool,
}

impl AppendTerms<'_> {
    /// A batch of a producer that is in no transaction.
    pub const CLIENT: Self = Self { origin: BatchOrigin::Client, guard: None, verifies: true };
    /// A batch that this broker wrote.
    pub const COORDINATOR: Self = Self { origin: BatchOrigin::Coordinator, guard: None, verifies: true };
}

/// The part of a batch's header that the states need. Offsets are the assigned ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerBatch {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    /// Already wrapped: see [`last_sequence`].
    pub last_sequence: i32,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp: TimestampMs,
    pub is_transactional: bool,
}

/// What a marker says: the end of a producer's transaction. Markers carry no sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndMarker {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub result: TransactionResult,
    /// The leader epoch of the coordinator's partition, which fences former coordinators.
    pub coordinator_epoch: i32,
}

/// A marker in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionMarker {
    pub end: EndMarker,
    pub offset: Offset,
    pub timestamp: TimestampMs,
}

/// The sequence of a batch's last record: sequences go from `i32::MAX` to 0.
pub fn last_sequence(base_sequence: i32, last_offset_delta: i32) -> i32 {
    if base_sequence < 0 {
        return NO_SEQUENCE;
    }
    let last = i64::from(base_sequence) + i64::from(last_offset_delta);
    let wrapped = if last > i64::from(i32::MAX) { last - i64::from(i32::MAX) - 1 } else { last };
    i32::try_from(wrapped).unwrap_or(NO_SEQUENCE)
}

/// The sequence `delta` before `sequence`, wrapping from 0 to `i32::MAX`.
fn sequence_before(sequence: i32, delta: i32) -> i32 {
    if sequence < delta {
        i32::try_from(i64::from(i32::MAX) - (i64::from(delta) - i64::from(sequence)) + 1).unwrap_or(NO_SEQUENCE)
    } else {
        sequence - delta
    }
}

/// A batch that is remembered, to answer its retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedBatch {
    pub last_sequence: i32,
    pub last_offset: Offset,
    /// `last_offset` − first offset.
    pub offset_delta: i32,
    pub timestamp: TimestampMs,
}

impl CachedBatch {
    const EMPTY: Self = Self {
        last_sequence: NO_SEQUENCE,
        last_offset: Offset::UNKNOWN,
        offset_delta: 0,
        timestamp: TimestampMs::NONE,
    };

    pub fn base_sequence(&self) -> i32 {
        sequence_before(self.last_sequence, self.offset_delta)
    }

    pub fn first_offset(&self) -> Offset {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// The classification of a producer's batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProducerCheck {
    /// The next batch of its producer, or the first that is known of it.
    New,
    /// Already in the log. The response is that of the original: its offsets, and not before the high watermark has
    /// passed it (scenario 15).
    Duplicate(CachedBatch),
}

/// A batch that is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProducerError {
    #[error("Epoch of producer {producer_id} is {epoch}, which is smaller than the last seen epoch {current_epoch}")]
    InvalidProducerEpoch { producer_id: ProducerId, epoch: ProducerEpoch, current_epoch: ProducerEpoch },
    #[error(
        "Invalid sequence number for new epoch of producer {producer_id}: {epoch} (request epoch), {base_sequence} \
         (seq. number), {current_epoch} (current producer epoch)"
    )]
    SequenceOfNewEpoch {
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        current_epoch: ProducerEpoch,
        base_sequence: i32,
    },
    #[error(
        "Out of order sequence number for producer {producer_id}: {base_sequence} (incoming seq. number), \
         {last_sequence} (current end sequence number)"
    )]
    OutOfOrderSequence { producer_id: ProducerId, base_sequence: i32, last_sequence: i32 },
    #[error(
        "Out of order sequence number for producer {producer_id}: {base_sequence} (incoming seq. number), \
         {lowest_sequence} (earliest seen sequence)"
    )]
    AboveUnverifiedSequence { producer_id: ProducerId, base_sequence: i32, lowest_sequence: i32 },
    #[error(
        "Invalid sequence number for producer {producer_id}: {base_sequence} (incoming seq. number). Expected \
         sequence 0 for transactions v2 idempotent producer with no existing state."
    )]
    SequenceOfNewTransaction { producer_id: ProducerId, base_sequence: i32 },
    #[error("Expected transactional write from producer {producer_id}")]
    InvalidTransactionState { producer_id: ProducerId },
    #[error("The end of a transaction needs a producer id, not {producer_id}")]
    NoProducerId { producer_id: ProducerId },
    #[error("Record was not part of an ongoing transaction")]
    NotVerified { producer_id: ProducerId },
    #[error("Epoch of producer {producer_id} is {epoch}, which is not above the last seen epoch {current_epoch}")]
    InvalidMarkerEpoch { producer_id: ProducerId, epoch: ProducerEpoch, current_epoch: ProducerEpoch },
    #[error(
        "Invalid coordinator epoch for producer {producer_id}: {coordinator_epoch} (zombie), {current_epoch} (current)"
    )]
    CoordinatorFenced { producer_id: ProducerId, coordinator_epoch: i32, current_epoch: i32 },
}

impl ProducerError {
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::InvalidProducerEpoch { .. } | Self::InvalidMarkerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::SequenceOfNewEpoch { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::AboveUnverifiedSequence { .. }
            | Self::SequenceOfNewTransaction { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::InvalidTransactionState { .. } | Self::NotVerified { .. } => ErrorCode::InvalidTxnState,
            Self::NoProducerId { .. } => ErrorCode::InvalidProducerIdMapping,
            Self::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
        }
    }
}

/// One entry of a producer snapshot file (version 1): the fields in the file's order. A snapshot keeps each producer's
/// last batch only; `last_sequence` is −1 if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerSnapshot {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub last_sequence: i32,
    pub last_offset: Offset,
    pub offset_delta: i32,
    pub timestamp: TimestampMs,
    pub coordinator_epoch: i32,
    /// −1 outside a transaction.
    pub current_transaction_first_offset: Offset,
}

#[derive(Clone, Debug)]
struct Producer {
    epoch: ProducerEpoch,
    coordinator_epoch: i32,
    last_timestamp: TimestampMs,
    transaction_first_offset: Option<Offset>,
    /// The oldest first; `batch_count` of them are in use.
    batches: [CachedBatch; RETAINED_BATCHES],
    batch_count: u8,
}

impl Producer {
    fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: TimestampMs::NONE,
            transaction_first_offset: None,
            batches: [CachedBatch::EMPTY; RETAINED_BATCHES],
            batch_count: 0,
        }
    }

    fn batches(&self) -> &[CachedBatch] {
        self.batches.get(..usize::from(self.batch_count)).unwrap_or_default()
    }

    fn last_sequence(&self) -> i32 {
        self.batches().last().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    /// Whether it has an open transaction of this epoch. One of an older epoch may have been ended by now.
    fn is_in_transaction_of(&self, epoch: ProducerEpoch) -> bool {
        self.transaction_first_offset.is_some() && self.epoch == epoch
    }

    fn set_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.batch_count = 0;
            self.epoch = epoch;
        }
    }

    fn push(&mut self, batch: CachedBatch) {
        if usize::from(self.batch_count) == RETAINED_BATCHES {
            self.batches.rotate_left(1);
            self.batch_count -= 1;
        }
        if let Some(slot) = self.batches.get_mut(usize::from(self.batch_count)) {
            *slot = batch;
            self.batch_count += 1;
        }
    }
}

/// The producers of one log. Empty and small until the first idempotent batch.
#[derive(Clone, Debug, Default)]
pub struct ProducerStates {
    producers: BTreeMap<ProducerId, Producer>,
    transactions: Transactions,
    verifications: Verifications,
    end_offset: Offset,
    /// `producers` and `verifications`, in the broker's budget.
    held: Held,
}

impl ProducerStates {
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty, as one of the logs that share a budget.
    pub fn within(budget: Option<Arc<ProducerBudget>>) -> Self {
        Self { held: Held::new(budget), ..Self::default() }
    }

    /// Replaces all states by those of a snapshot that was taken when the log ended at `end_offset`. Producers that
    /// have been idle for longer than `expiration_ms` at `now` are left out.
    pub fn load(
        &mut self,
        entries: impl IntoIterator<Item = ProducerSnapshot>,
        end_offset: Offset,
        now: TimestampMs,
        expiration_ms: i64,
    ) {
        self.clear(end_offset);
        for entry in entries {
            let mut producer = Producer::new(entry.producer_epoch);
            producer.coordinator_epoch = entry.coordinator_epoch;
            producer.last_timestamp = entry.timestamp;
            if entry.current_transaction_first_offset.0 >= 0 {
                producer.transaction_first_offset = Some(entry.current_transaction_first_offset);
                self.transactions.begin(entry.producer_id, entry.current_transaction_first_offset);
            }
            if entry.last_offset.0 >= 0 {
                producer.push(CachedBatch {
                    last_sequence: entry.last_sequence,
                    last_offset: entry.last_offset,
                    offset_delta: entry.offset_delta,
                    timestamp: entry.timestamp,
                });
            }
            if !is_expired(&producer, now, expiration_ms) {
                self.producers.insert(entry.producer_id, producer);
            }
        }
        self.held.set(self.remembered());
    }

    /// The content of a snapshot at [`Self::end_offset`], by producer id.
    pub fn snapshot(&self) -> impl Iterator<Item = ProducerSnapshot> + '_ {
        self.producers.iter().map(|(&producer_id, producer)| {
            let last = producer.batches().last().copied().unwrap_or(CachedBatch::EMPTY);
            ProducerSnapshot {
                producer_id,
                producer_epoch: producer.epoch,
                last_sequence: last.last_sequence,
                last_offset: last.last_offset,
                offset_delta: last.offset_delta,
                timestamp: producer.last_timestamp,
                coordinator_epoch: producer.coordinator_epoch,
                current_transaction_first_offset: producer.transaction_first_offset.unwrap_or(Offset::UNKNOWN),
            }
        })
    }

    /// Checks a batch before it is appended; the offsets of `batch` are ignored. A batch without a producer id is
    /// always new.
    ///
    /// # Errors
    /// The batch must be refused; nothing has changed.
    pub fn check(&self, batch: &ProducerBatch, terms: &AppendTerms<'_>) -> Result<ProducerCheck, ProducerError> {
        if batch.producer_id.0 < 0 {
            return Ok(ProducerCheck::New);
        }
        let producer = self.producers.get(&batch.producer_id);
        if let Some(producer) = producer.filter(|producer| producer.epoch == batch.producer_epoch)
            && terms.origin == BatchOrigin::Client
            && let Some(known) = producer.batches().iter().find(|known| {
                known.base_sequence() == batch.base_sequence && known.last_sequence == batch.last_sequence
            })
        {
            return Ok(ProducerCheck::Duplicate(*known));
        }
        check_epoch(producer, batch.producer_id, batch.producer_epoch)?;
        if batch.is_transactional
            && terms.verifies
            && !producer.is_some_and(|producer| producer.is_in_transaction_of(batch.producer_epoch))
            && !self.verifications.is_verified(batch.producer_id, terms.guard)
        {
            return Err(ProducerError::NotVerified { producer_id: batch.producer_id });
        }
        if terms.origin == BatchOrigin::Client {
            self.verifications.check_sequence(batch, producer.is_some_and(|producer| producer.batch_count > 0))?;
            // A producer that is unknown may begin anywhere: its records may have been removed, or it was idle for too
            // long. UNKNOWN_PRODUCER_ID is not used any more (KIP-360).
            producer.map_or(Ok(()), |producer| check_sequence(producer, batch))?;
        }
        if producer.is_some_and(|producer| producer.transaction_first_offset.is_some()) && !batch.is_transactional {
            return Err(ProducerError::InvalidTransactionState { producer_id: batch.producer_id });
        }
        Ok(ProducerCheck::New)
    }

    /// Whether a transactional batch with this sequence may be appended now: none if its transaction is open here;
    /// otherwise the transaction coordinator must confirm it first, and the append brings the guard along.
    ///
    /// # Errors
    /// The producer's epoch is fenced.
    pub fn begin_verification(
        &mut self,
        request: &VerificationRequest,
        now: TimestampMs,
    ) -> Result<Option<VerificationGuard>, ProducerError> {
        let producer = self.producers.get(&request.producer_id);
        check_epoch(producer, request.producer_id, request.producer_epoch)?;
        if producer.is_some_and(|producer| producer.is_in_transaction_of(request.producer_epoch)) {
            return Ok(None);
        }
        if !self.verifications.contains(request.producer_id)
            && (self.verifications.len() >= VERIFICATIONS_MAX || self.held.is_over_share(self.remembered()))
        {
            self.verifications.make_room();
        }
        let guard = self.verifications.begin(request, now);
        self.held.set(self.remembered());
        Ok(Some(guard))
    }

    /// Takes over the verifications that are under way for a log that this one replaces: the appends that wait for them
    /// must not be refused, for producers do not survive that.
    pub fn take_verifications(&mut self, replaced: &mut Self) {
        self.verifications = std::mem::take(&mut replaced.verifications);
        self.held.set(self.remembered());
        replaced.held.set(replaced.remembered());
    }

    /// Checks a marker before it is appended. From [`EPOCH_BUMPS_FROM`] on a marker has a higher epoch than the records
    /// that it ends. A repeated one has the same epoch and nothing to end; so has one of the last epoch.
    ///
    /// # Errors
    /// The marker must be refused: it comes from a former coordinator, is late, or names no producer.
    pub fn check_marker(&self, marker: &EndMarker, transaction_version: i8) -> Result<(), ProducerError> {
        let EndMarker { producer_id, producer_epoch: epoch, coordinator_epoch, .. } = *marker;
        if producer_id.0 < 0 {
            return Err(ProducerError::NoProducerId { producer_id });
        }
        let Some(producer) = self.producers.get(&producer_id) else { return Ok(()) };
        let repeats = producer.transaction_first_offset.is_none() || epoch.0 == i16::MAX;
        let is_late =
            epoch < producer.epoch || epoch == producer.epoch && transaction_version >= EPOCH_BUMPS_FROM && !repeats;
        if is_late {
            return Err(ProducerError::InvalidMarkerEpoch { producer_id, epoch, current_epoch: producer.epoch });
        }
        if coordinator_epoch < producer.coordinator_epoch {
            let current_epoch = producer.coordinator_epoch;
            return Err(ProducerError::CoordinatorFenced { producer_id, coordinator_epoch, current_epoch });
        }
        Ok(())
    }

    /// The batch is in the log. Batches without a producer id only move the end.
    pub fn apply(&mut self, batch: &ProducerBatch) {
        self.end_offset = batch.last_offset.next();
        if batch.producer_id.0 < 0 {
            return;
        }
        if !self.producers.contains_key(&batch.producer_id) {
            self.make_room();
        }
        let producer = self.producers.entry(batch.producer_id).or_insert_with(|| Producer::new(batch.producer_epoch));
        producer.set_epoch(batch.producer_epoch);
        producer.push(CachedBatch {
            last_sequence: batch.last_sequence,
            last_offset: batch.last_offset,
            offset_delta: i32::try_from(batch.last_offset.distance_from(batch.first_offset)).unwrap_or(i32::MAX),
            timestamp: batch.max_timestamp,
        });
        producer.last_timestamp = batch.max_timestamp;
        if batch.is_transactional {
            self.verifications.end(batch.producer_id);
            if producer.transaction_first_offset.is_none() {
                producer.transaction_first_offset = Some(batch.first_offset);
                self.transactions.begin(batch.producer_id, batch.first_offset);
            }
        }
        self.held.set(self.remembered());
    }

    /// A marker that ends the producer's transaction is in the log. Returns the transaction, if it had records.
    pub fn apply_marker(&mut self, marker: &TransactionMarker) -> Option<CompletedTransaction> {
        let EndMarker { producer_id, producer_epoch, result, coordinator_epoch } = marker.end;
        self.end_offset = marker.offset.next();
        // An append that was confirmed before the marker must not begin a transaction that no marker would end.
        self.verifications.end(producer_id);
        if !self.producers.contains_key(&producer_id) {
            self.make_room();
        }
        let producer = self.producers.entry(producer_id).or_insert_with(|| Producer::new(producer_epoch));
        producer.set_epoch(producer_epoch);
        producer.coordinator_epoch = coordinator_epoch;
        producer.last_timestamp = marker.timestamp;
        let first_offset = producer.transaction_first_offset.take();
        self.held.set(self.remembered());
        let first_offset = first_offset?;
        let last_stable = self.transactions.complete(first_offset, marker.offset);
        Some(CompletedTransaction { producer_id, first_offset, last_offset: marker.offset, result, last_stable })
    }

    /// The first offset that a reader of committed records must not reach yet, while everything below `high_watermark`
    /// is replicated: that of the earliest transaction whose marker is not in the log, or not replicated. None if all
    /// transactions are decided.
    #[inline]
    pub fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        self.transactions.first_unstable_offset(high_watermark)
    }

    /// Everything below `high_watermark` is replicated. Saves memory only: [`Self::first_unstable_offset`] is right
    /// without it.
    pub fn replicated(&mut self, high_watermark: Offset) {
        self.transactions.replicated(high_watermark);
    }

    /// The end of the log that these states reflect.
    pub fn end_offset(&self) -> Offset {
        self.end_offset
    }

    /// The log's end moved by records without a producer (or the log restarts there).
    pub fn set_end_offset(&mut self, end_offset: Offset) {
        self.end_offset = end_offset;
    }

    /// The log's start moved to `log_start`. States outlive their records: a retry of a batch whose segment has been
    /// deleted is still a retry (scenario 15); idle producers go by [`Self::remove_expired`].
    pub fn log_start_moved(&mut self, log_start: Offset) {
        self.end_offset = self.end_offset.max(log_start);
        self.transactions.replicated(log_start);
    }

    /// Forgets everything: the log is empty and starts at `log_start`.
    pub fn clear(&mut self, log_start: Offset) {
        self.producers.clear();
        self.held.set(self.remembered());
        self.transactions.clear();
        self.end_offset = log_start;
    }

    /// Forgets producers outside a transaction whose last batch is `expiration_ms` old or older
    /// (`producer.id.expiration.ms`). Returns how many went.
    pub fn remove_expired(&mut self, now: TimestampMs, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, producer| !is_expired(producer, now, expiration_ms));
        self.verifications.remove_expired(now, expiration_ms);
        self.held.set(self.remembered());
        before - self.producers.len()
    }

    /// What counts in the budget.
    fn remembered(&self) -> usize {
        self.producers.len() + self.verifications.len()
    }

    /// How many producers are known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The producer's epoch and last sequence, for a listing and for tests.
    pub fn last_of(&self, producer_id: ProducerId) -> Option<(ProducerEpoch, i32)> {
        self.producers.get(&producer_id).map(|producer| (producer.epoch, producer.last_sequence()))
    }

    /// The remembered batches of a producer, the oldest first.
    pub fn cached_batches(&self, producer_id: ProducerId) -> &[CachedBatch] {
        self.producers.get(&producer_id).map_or(&[], Producer::batches)
    }
}

fn is_expired(producer: &Producer, now: TimestampMs, expiration_ms: i64) -> bool {
    producer.transaction_first_offset.is_none() && now.0.saturating_sub(producer.last_timestamp.0) >= expiration_ms
}

fn check_epoch(
    producer: Option<&Producer>,
    producer_id: ProducerId,
    epoch: ProducerEpoch,
) -> Result<(), ProducerError> {
    match producer {
        Some(producer) if epoch < producer.epoch => {
            Err(ProducerError::InvalidProducerEpoch { producer_id, epoch, current_epoch: producer.epoch })
        }
        _ => Ok(()),
    }
}

fn check_sequence(producer: &Producer, batch: &ProducerBatch) -> Result<(), ProducerError> {
    let base_sequence = batch.base_sequence;
    if batch.producer_epoch != producer.epoch {
        if base_sequence != 0 && producer.epoch != ProducerEpoch::NONE {
            return Err(ProducerError::SequenceOfNewEpoch {
                producer_id: batch.producer_id,
                epoch: batch.producer_epoch,
                current_epoch: producer.epoch,
                base_sequence,
            });
        }
        return Ok(());
    }
    let last_sequence = producer.last_sequence();
    let follows =
        i64::from(base_sequence) == i64::from(last_sequence) + 1 || (base_sequence == 0 && last_sequence == i32::MAX);
    if follows || producer.epoch == ProducerEpoch::NONE {
        return Ok(());
    }
    Err(ProducerError::OutOfOrderSequence { producer_id: batch.producer_id, base_sequence, last_sequence })
}

#[cfg(test)]
mod tests;
