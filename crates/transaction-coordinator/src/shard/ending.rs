//! Producers end their transactions.

use ottla_model::{ErrorCode, ProducerId};

use super::{Effects, Shard};
use crate::Now;
use crate::answer::TransactionAnswer;
use crate::cluster::Cluster;
use crate::effects::RequestId;
use crate::request::EndTransaction;
use crate::transaction::{Producer, Transaction, TransactionState};

/// What follows from a request to end a transaction.
enum Verdict {
    /// The outcome is decided now.
    Decide,
    /// It was decided before: the answer was lost.
    Repeated,
    Refused(ErrorCode),
}

impl Shard {
    /// EndTxn. The answer leaves when the decision is replicated; markers follow.
    pub(super) fn end(
        &mut self,
        now: Now,
        cluster: &mut dyn Cluster,
        id: RequestId,
        request: &EndTransaction,
    ) -> Effects {
        let refused = |error| Effects::answer(id, TransactionAnswer::Failed(error));
        let Some(entry) = self.entries.get(&request.id) else { return refused(ErrorCode::InvalidProducerIdMapping) };
        let current = &entry.current;
        let verdict = if current.becomes(request.producer) {
            Verdict::Refused(ErrorCode::ConcurrentTransactions)
        } else if request.version.bumps_epoch() {
            verdict_with_bumps(current, entry.is_changing, request)
        } else {
            verdict_without_bumps(current, entry.is_changing, request)
        };
        match verdict {
            Verdict::Refused(error) => refused(error),
            Verdict::Repeated => Effects::answer(id, TransactionAnswer::Ended(current.producer)),
            Verdict::Decide => {
                let is_exhausted = request.version.bumps_epoch() && current.producer.is_exhausted();
                let next_id = if is_exhausted {
                    let Some(next) = cluster.new_producer_id() else {
                        return refused(ErrorCode::CoordinatorLoadInProgress);
                    };
                    Some(next)
                } else {
                    None
                };
                let next = current.prepared(request.commit, request.version, next_id, now.wall);
                // The producer goes on with what the complete transaction will have.
                let producer = next.completed(now.wall).producer;
                self.propose(now, &request.id, next, Some((id, TransactionAnswer::Ended(producer))))
            }
        }
    }
}

/// Before KIP-890 part 2: the epoch stays, and the state alone tells a repeated request.
fn verdict_without_bumps(current: &Transaction, is_changing: bool, request: &EndTransaction) -> Verdict {
    if current.producer.id != request.producer.id {
        return Verdict::Refused(ErrorCode::InvalidProducerIdMapping);
    }
    if current.producer.epoch != request.producer.epoch {
        return Verdict::Refused(ErrorCode::ProducerFenced);
    }
    if is_changing {
        return Verdict::Refused(ErrorCode::ConcurrentTransactions);
    }
    match (current.state, request.commit) {
        (TransactionState::Ongoing, _) => Verdict::Decide,
        (TransactionState::CompleteCommit, true) | (TransactionState::CompleteAbort, false) => Verdict::Repeated,
        (TransactionState::PrepareCommit, true) | (TransactionState::PrepareAbort, false) => {
            Verdict::Refused(ErrorCode::ConcurrentTransactions)
        }
        _ => Verdict::Refused(ErrorCode::InvalidTxnState),
    }
}

/// KIP-890 part 2: every end gives the producer a new epoch, so the former epoch tells a repeated request.
fn verdict_with_bumps(current: &Transaction, is_changing: bool, request: &EndTransaction) -> Verdict {
    use TransactionState::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
    let Producer { id, epoch } = request.producer;
    // The producer missed that its epochs are used up and that it has another id now.
    let is_rotated = current.previous_producer_id == id
        && current.producer.epoch.0 == 0
        && epoch.0 == i16::MAX - 1
        && current.producer.id != id;
    // Where the last transaction's end gave no new epoch, the epoch before is that of a process that was fenced. Kafka
    // takes its request for a repeated one, and hands it the epoch of its successor.
    let is_bumped = current.version.bumps_epoch()
        && !is_fenced_by_last_epoch(current)
        && current.producer.id == id
        && epoch.0 != i16::MAX
        && current.producer.epoch == epoch.next();
    let is_current = current.producer.epoch == epoch;
    if current.producer.id != id && !is_rotated {
        return Verdict::Refused(ErrorCode::InvalidProducerIdMapping);
    }
    let is_valid = match current.state {
        PrepareCommit | PrepareAbort => is_bumped,
        CompleteCommit | CompleteAbort => is_bumped || is_rotated || is_current,
        _ => is_current,
    };
    if !is_valid {
        return Verdict::Refused(ErrorCode::ProducerFenced);
    }
    if is_changing {
        return Verdict::Refused(ErrorCode::ConcurrentTransactions);
    }
    let is_repeated = is_bumped || is_rotated;
    match (current.state, request.commit) {
        (Ongoing, _) => Verdict::Decide,
        (CompleteCommit, true) | (CompleteAbort, false) if is_repeated => Verdict::Repeated,
        // A transaction that may have begun: its partitions join with their first batch, of which the producer may not
        // know.
        (Empty, false) => Verdict::Decide,
        (CompleteCommit | CompleteAbort, false) if !is_repeated => Verdict::Decide,
        (PrepareCommit, true) | (PrepareAbort, false) => Verdict::Refused(ErrorCode::ConcurrentTransactions),
        _ => Verdict::Refused(ErrorCode::InvalidTxnState),
    }
}

/// Whether the coordinator has fenced the producer by the last epoch of its id. There a fence does not skip an epoch,
/// as it does elsewhere; but a producer that ends a transaction there itself gets another id with it.
fn is_fenced_by_last_epoch(current: &Transaction) -> bool {
    current.producer.epoch.0 == i16::MAX && current.next_producer_id == ProducerId::NONE
}
