//! Transactional appends that wait until the transaction coordinator has confirmed that it knows of this partition
//! (KIP-890): otherwise a late batch could begin a transaction that no marker would ever end.
//!
//! The guard is created when the question is asked, and dropped with the first transactional batch or marker of the
//! producer in the log: an answer from before that moment proves nothing about the transaction that begins after it.
//! The lowest sequence keeps batches in order: a later batch that was confirmed first must not be appended before.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_model::{ErrorCode, ProducerEpoch, ProducerId, TimestampMs};

use super::{ProducerBatch, ProducerError};

/// The most verifications of one log. One lasts as long as a question; what is refused or not answered stays, because
/// it keeps the producer's batches in order, until it expires (`producer.id.expiration.ms`) or has to make room.
pub const VERIFICATIONS_MAX: usize = 2_000;

/// The part of them, one of so many, that makes room at once.
const FORGOTTEN_AT_ONCE: usize = 10;

/// The identity of one verification; equal only to itself and its clones.
#[derive(Clone, Debug)]
pub struct VerificationGuard(Arc<()>);

impl PartialEq for VerificationGuard {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for VerificationGuard {}

/// The coordinator's verdict on a transaction, in the form that producers know from leaders.
pub fn verdict_of(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        error => error,
    }
}

/// The error that a producer is told after a verdict. `knows_concurrent`: it retries CONCURRENT_TRANSACTIONS.
pub fn refusal_of(verdict: ErrorCode, knows_concurrent: bool) -> ErrorCode {
    match verdict {
        ErrorCode::ConcurrentTransactions if knows_concurrent => verdict,
        // Older clients do not retry these as they should. They retry NOT_ENOUGH_REPLICAS, without asking for metadata.
        ErrorCode::ConcurrentTransactions
        | ErrorCode::NetworkException
        // The coordinator does not know another partition of the request yet: its image is older than the leader's.
        | ErrorCode::OperationNotAttempted
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        verdict => verdict,
    }
}

/// A transactional batch that is to be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerificationRequest {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    /// The producer's epoch is bumped with every transaction, whose first sequence is therefore 0.
    pub supports_epoch_bump: bool,
}

#[derive(Clone, Debug)]
struct Verification {
    guard: VerificationGuard,
    began: TimestampMs,
    epoch: ProducerEpoch,
    lowest_sequence: i32,
    supports_epoch_bump: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Verifications(BTreeMap<ProducerId, Verification>);

impl Verifications {
    pub fn begin(&mut self, request: &VerificationRequest, now: TimestampMs) -> VerificationGuard {
        let verification = self.0.entry(request.producer_id).or_insert_with(|| Verification {
            guard: VerificationGuard(Arc::new(())),
            began: now,
            epoch: request.producer_epoch,
            lowest_sequence: request.base_sequence,
            supports_epoch_bump: request.supports_epoch_bump,
        });
        if request.producer_epoch > verification.epoch {
            verification.epoch = request.producer_epoch;
            verification.lowest_sequence = request.base_sequence;
        } else if request.producer_epoch == verification.epoch {
            verification.lowest_sequence = verification.lowest_sequence.min(request.base_sequence);
        }
        verification.guard.clone()
    }

    pub fn is_verified(&self, producer_id: ProducerId, guard: Option<&VerificationGuard>) -> bool {
        match (self.0.get(&producer_id), guard) {
            (Some(verification), Some(guard)) => verification.guard == *guard,
            _ => false,
        }
    }

    /// Checks a producer's sequence against the verification that is under way, if any. `has_batches`: the log
    /// remembers batches of the producer.
    pub fn check_sequence(&self, batch: &ProducerBatch, has_batches: bool) -> Result<(), ProducerError> {
        let (producer_id, base_sequence) = (batch.producer_id, batch.base_sequence);
        let Some(verification) = self.0.get(&producer_id) else { return Ok(()) };
        if verification.supports_epoch_bump && base_sequence != 0 && !has_batches {
            return Err(ProducerError::SequenceOfNewTransaction { producer_id, base_sequence });
        }
        if base_sequence > verification.lowest_sequence {
            let lowest_sequence = verification.lowest_sequence;
            return Err(ProducerError::AboveUnverifiedSequence { producer_id, base_sequence, lowest_sequence });
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, producer_id: ProducerId) -> bool {
        self.0.contains_key(&producer_id)
    }

    /// Forgets those that began first. What still waits for an answer among them is refused, and begins anew.
    pub fn make_room(&mut self) {
        let mut ages: Vec<(TimestampMs, ProducerId)> =
            self.0.iter().map(|(producer_id, verification)| (verification.began, *producer_id)).collect();
        ages.sort_unstable();
        for (_, producer_id) in ages.iter().take(ages.len().div_ceil(FORGOTTEN_AT_ONCE)) {
            self.0.remove(producer_id);
        }
    }

    pub fn end(&mut self, producer_id: ProducerId) {
        if !self.0.is_empty() {
            self.0.remove(&producer_id);
        }
    }

    pub fn remove_expired(&mut self, now: TimestampMs, expiration_ms: i64) {
        self.0.retain(|_, verification| now.0.saturating_sub(verification.began.0) < expiration_ms);
    }
}
