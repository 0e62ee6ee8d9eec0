//! The state of each idempotent producer in a log: epoch and last sequences, to detect retries and refuse gaps. Kafka's
//! rules (`ProducerStateManager`, `ProducerAppendInfo`).
//!
//! Owns one entry per producer id with its last five batches ([`RETAINED_BATCHES`], the number of requests that a Kafka
//! producer has in flight). Invariants: cached batches are of the entry's epoch and in the order of the log;
//! [`ProducerStates::end_offset`] is the end of the log that the states reflect.
//!
//! The states follow the log, not the other way round: after a truncation or a restart the storage loads the newest
//! snapshot that is left and replays the log from there ([`ProducerStates::load`], [`ProducerStates::apply`]).

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, Offset, ProducerEpoch, ProducerId, TimestampMs};

/// How many batches of each producer are remembered: Kafka's producers have at most five requests in flight.
pub const RETAINED_BATCHES: usize = 5;

/// The value for "no sequence": a batch without a producer, or a state without batches.
pub const NO_SEQUENCE: i32 = -1;

/// The origin of a batch, which decides the checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchOrigin {
    /// A producer: epoch and sequence are checked.
    Client,
    /// The leader, or the log itself at recovery: the leader has checked, nothing is refused.
    Replication,
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

/// A control batch that ends a transaction. Markers carry no sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionMarker {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub coordinator_epoch: i32,
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
    #[error("Expected transactional write from producer {producer_id}")]
    InvalidTransactionState { producer_id: ProducerId },
}

impl ProducerError {
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::SequenceOfNewEpoch { .. } | Self::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::InvalidTransactionState { .. } => ErrorCode::InvalidTxnState,
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
    end_offset: Offset,
}

impl ProducerStates {
    pub fn new() -> Self {
        Self::default()
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
        self.producers.clear();
        self.end_offset = end_offset;
        for entry in entries {
            let mut producer = Producer::new(entry.producer_epoch);
            producer.coordinator_epoch = entry.coordinator_epoch;
            producer.last_timestamp = entry.timestamp;
            if entry.current_transaction_first_offset.0 >= 0 {
                producer.transaction_first_offset = Some(entry.current_transaction_first_offset);
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
    pub fn check(&self, batch: &ProducerBatch, origin: BatchOrigin) -> Result<ProducerCheck, ProducerError> {
        if batch.producer_id.0 < 0 || origin == BatchOrigin::Replication {
            return Ok(ProducerCheck::New);
        }
        let Some(producer) = self.producers.get(&batch.producer_id) else {
            // This producer is unknown; its records may have been removed, or it was idle for too long. Any sequence is
            // accepted, and UNKNOWN_PRODUCER_ID is not used any more (KIP-360).
            return Ok(ProducerCheck::New);
        };
        if batch.producer_epoch == producer.epoch
            && let Some(known) = producer.batches().iter().find(|known| {
                known.base_sequence() == batch.base_sequence && known.last_sequence == batch.last_sequence
            })
        {
            return Ok(ProducerCheck::Duplicate(*known));
        }
        if batch.producer_epoch < producer.epoch {
            return Err(ProducerError::InvalidProducerEpoch {
                producer_id: batch.producer_id,
                epoch: batch.producer_epoch,
                current_epoch: producer.epoch,
            });
        }
        check_sequence(producer, batch)?;
        if producer.transaction_first_offset.is_some() && !batch.is_transactional {
            return Err(ProducerError::InvalidTransactionState { producer_id: batch.producer_id });
        }
        Ok(ProducerCheck::New)
    }

    /// The batch is in the log. Batches without a producer id only move the end.
    pub fn apply(&mut self, batch: &ProducerBatch) {
        self.end_offset = batch.last_offset.next();
        if batch.producer_id.0 < 0 {
            return;
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
        if batch.is_transactional && producer.transaction_first_offset.is_none() {
            producer.transaction_first_offset = Some(batch.first_offset);
        }
    }

    /// A marker that ends the producer's transaction is in the log. Returns the offset where the transaction began, if
    /// it had records.
    pub fn apply_marker(&mut self, marker: &TransactionMarker) -> Option<Offset> {
        self.end_offset = marker.offset.next();
        let producer = self.producers.entry(marker.producer_id).or_insert_with(|| Producer::new(marker.producer_epoch));
        producer.set_epoch(marker.producer_epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = marker.timestamp;
        producer.transaction_first_offset.take()
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
    }

    /// Forgets everything: the log is empty and starts at `log_start`.
    pub fn clear(&mut self, log_start: Offset) {
        self.producers.clear();
        self.end_offset = log_start;
    }

    /// Forgets producers outside a transaction whose last batch is `expiration_ms` old or older
    /// (`producer.id.expiration.ms`). Returns how many went.
    pub fn remove_expired(&mut self, now: TimestampMs, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, producer| !is_expired(producer, now, expiration_ms));
        before - self.producers.len()
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
mod tests {
    use super::*;

    const EXPIRATION_MS: i64 = 1_000;

    /// A batch of producer 7: `(epoch, base sequence, records)` at `offset`.
    fn batch(epoch: i16, base_sequence: i32, records: i32, offset: i64) -> ProducerBatch {
        ProducerBatch {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence,
            last_sequence: last_sequence(base_sequence, records - 1),
            first_offset: Offset(offset),
            last_offset: Offset(offset + i64::from(records) - 1),
            max_timestamp: TimestampMs(offset),
            is_transactional: false,
        }
    }

    fn states(batches: &[ProducerBatch]) -> ProducerStates {
        let mut states = ProducerStates::new();
        for batch in batches {
            assert_eq!(states.check(batch, BatchOrigin::Client), Ok(ProducerCheck::New), "{batch:?}");
            states.apply(batch);
        }
        states
    }

    fn code(states: &ProducerStates, batch: &ProducerBatch) -> ErrorCode {
        match states.check(batch, BatchOrigin::Client) {
            Ok(ProducerCheck::New) => ErrorCode::None,
            Ok(ProducerCheck::Duplicate(_)) => ErrorCode::DuplicateSequenceNumber,
            Err(error) => error.error_code(),
        }
    }

    #[test]
    fn sequences_follow_kafkas_table() {
        let known = states(&[batch(1, 0, 3, 0), batch(1, 3, 2, 3)]);
        for (incoming, expected) in [
            (batch(1, 5, 1, 5), ErrorCode::None),
            (batch(1, 6, 1, 5), ErrorCode::OutOfOrderSequenceNumber),
            (batch(1, 4, 1, 5), ErrorCode::OutOfOrderSequenceNumber),
            (batch(1, 0, 3, 5), ErrorCode::DuplicateSequenceNumber),
            (batch(1, 3, 2, 5), ErrorCode::DuplicateSequenceNumber),
            (batch(1, 0, 2, 5), ErrorCode::OutOfOrderSequenceNumber), // the same start, but another batch
            (batch(0, 0, 3, 5), ErrorCode::InvalidProducerEpoch),
            (batch(2, 0, 1, 5), ErrorCode::None), // an epoch bump begins at 0
            (batch(2, 5, 1, 5), ErrorCode::OutOfOrderSequenceNumber),
        ] {
            assert_eq!(code(&known, &incoming), expected, "{incoming:?}");
        }
        let unknown = ProducerBatch { producer_id: ProducerId(8), ..batch(3, 42, 1, 5) };
        assert_eq!(code(&known, &unknown), ErrorCode::None, "an unknown producer may begin anywhere (KIP-360)");
        let plain = ProducerBatch { producer_id: ProducerId::NONE, ..batch(-1, -1, 1, 5) };
        assert_eq!(code(&known, &plain), ErrorCode::None);
    }

    #[test]
    fn scenario_15_the_last_five_batches_are_answered_with_their_offsets() {
        let batches: Vec<_> = (0..7).map(|n| batch(0, n * 2, 2, 100 + i64::from(n) * 2)).collect();
        let known = states(&batches);
        for (n, sent) in batches.iter().enumerate() {
            match known.check(sent, BatchOrigin::Client) {
                Ok(ProducerCheck::Duplicate(first)) => {
                    assert!(n >= 2);
                    assert_eq!((first.first_offset(), first.last_offset), (sent.first_offset, sent.last_offset));
                }
                Err(error) => {
                    assert!(n < 2, "{n} is among the last five");
                    assert_eq!(error.error_code(), ErrorCode::OutOfOrderSequenceNumber);
                }
                other => panic!("batch {n}: {other:?}"),
            }
        }
    }

    #[test]
    fn sequences_wrap_at_the_largest_number() {
        assert_eq!(last_sequence(i32::MAX - 1, 3), 1);
        assert_eq!(last_sequence(i32::MAX, 0), i32::MAX);
        assert_eq!(last_sequence(NO_SEQUENCE, 9), NO_SEQUENCE);
        let mut known = ProducerStates::new();
        let over_the_edge = batch(0, i32::MAX - 1, 4, 0); // MAX−1, MAX, 0, 1
        known.apply(&over_the_edge);
        assert_eq!(code(&known, &over_the_edge), ErrorCode::DuplicateSequenceNumber);
        assert_eq!(code(&known, &batch(0, 2, 1, 4)), ErrorCode::None);
        let mut at_the_edge = ProducerStates::new();
        at_the_edge.apply(&batch(0, i32::MAX, 1, 0));
        assert_eq!(code(&at_the_edge, &batch(0, 0, 1, 1)), ErrorCode::None);
    }

    #[test]
    fn an_epoch_bump_forgets_the_batches_of_the_former_epoch() {
        let mut known = states(&[batch(0, 0, 5, 0), batch(1, 0, 1, 5)]);
        assert_eq!(known.cached_batches(ProducerId(7)).len(), 1);
        assert_eq!(known.last_of(ProducerId(7)), Some((ProducerEpoch(1), 0)));
        // A follower accepts every batch that the leader accepted.
        let odd = batch(0, 77, 1, 6);
        assert_eq!(known.check(&odd, BatchOrigin::Replication), Ok(ProducerCheck::New));
        known.apply(&odd);
        assert_eq!(known.last_of(ProducerId(7)), Some((ProducerEpoch(0), 77)));
    }

    #[test]
    fn a_snapshot_keeps_each_producers_last_batch() {
        let mut known = states(&[batch(0, 0, 5, 0), batch(0, 5, 2, 5)]);
        known.apply(&ProducerBatch { producer_id: ProducerId(9), is_transactional: true, ..batch(4, 0, 1, 7) });
        let lines: Vec<_> = known.snapshot().collect();
        assert_eq!(lines.len(), 2);
        let mut reloaded = ProducerStates::new();
        reloaded.load(lines.iter().copied(), known.end_offset(), TimestampMs(7), EXPIRATION_MS);
        assert_eq!(reloaded.end_offset(), Offset(8));
        assert_eq!(reloaded.snapshot().collect::<Vec<_>>(), lines);
        assert_eq!(code(&reloaded, &batch(0, 5, 2, 8)), ErrorCode::DuplicateSequenceNumber);
        assert_eq!(code(&reloaded, &batch(0, 0, 5, 8)), ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(code(&reloaded, &batch(0, 7, 1, 8)), ErrorCode::None);
    }

    #[test]
    fn idle_producers_expire_but_not_inside_a_transaction() {
        let mut known = states(&[batch(0, 0, 1, 0)]);
        known.apply(&ProducerBatch { producer_id: ProducerId(9), is_transactional: true, ..batch(0, 0, 1, 1) });
        assert_eq!(known.remove_expired(TimestampMs(EXPIRATION_MS - 1), EXPIRATION_MS), 0);
        assert_eq!(known.remove_expired(TimestampMs(10 * EXPIRATION_MS), EXPIRATION_MS), 1);
        assert_eq!(known.last_of(ProducerId(7)), None);
        let marker = TransactionMarker {
            producer_id: ProducerId(9),
            producer_epoch: ProducerEpoch(0),
            coordinator_epoch: 2,
            offset: Offset(2),
            timestamp: TimestampMs(2),
        };
        assert_eq!(known.apply_marker(&marker), Some(Offset(1)));
        assert_eq!(known.remove_expired(TimestampMs(10 * EXPIRATION_MS), EXPIRATION_MS), 1);
        assert!(known.is_empty());
    }

    #[test]
    fn scenario_15_states_outlive_the_records_that_retention_removed() {
        let mut known = states(&[batch(0, 0, 5, 0)]);
        known.log_start_moved(Offset(100));
        assert_eq!(known.end_offset(), Offset(100));
        assert_eq!(code(&known, &batch(0, 0, 5, 100)), ErrorCode::DuplicateSequenceNumber);
        known.clear(Offset(200));
        assert_eq!(code(&known, &batch(0, 5, 1, 200)), ErrorCode::None);
    }
}
