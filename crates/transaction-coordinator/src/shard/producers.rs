//! Producers come, and partitions join their transactions.

use ottla_model::{ErrorCode, TransactionalId};

use super::{Effects, Entry, Shard};
use crate::Now;
use crate::answer::TransactionAnswer;
use crate::budget;
use crate::cluster::Cluster;
use crate::effects::{BATCH_OVERHEAD_BYTES, RequestId};
use crate::record;
use crate::request::{AddPartitions, InitProducer};
use crate::transaction::{Transaction, TransactionState, TransactionVersion};

/// The error while the former transaction of an id ends, or another request changes the id: clients try again.
const CONCURRENT: ErrorCode = ErrorCode::ConcurrentTransactions;
/// What the record of a transaction's end may have more than the one before: two fields. If the log took only the
/// latter, nothing could end the transaction.
const END_BYTES_MAX: usize = 64;

impl Shard {
    /// InitProducerId: fences the former producer of the id, ends its transaction, and gives the new one an epoch.
    pub(super) fn init_producer(
        &mut self,
        now: Now,
        cluster: &mut dyn Cluster,
        id: RequestId,
        request: &InitProducer,
    ) -> Effects {
        if !self.entries.contains_key(&request.id) && !self.share.budget.has_room(budget::bytes(&request.id, 0)) {
            // Who asks again finds the room of those that are forgotten now.
            let mut effects = self.make_room(now);
            effects.answers.push((id, TransactionAnswer::Failed(ErrorCode::CoordinatorLoadInProgress)));
            return effects;
        }
        match self.init_or_refuse(now, cluster, id, request) {
            Ok(effects) => effects,
            Err(error) => Effects::answer(id, TransactionAnswer::Failed(error)),
        }
    }

    fn init_or_refuse(
        &mut self,
        now: Now,
        cluster: &mut dyn Cluster,
        id: RequestId,
        request: &InitProducer,
    ) -> Result<Effects, ErrorCode> {
        let timeout_ms = self.timeout_of(request)?;
        if !self.entries.contains_key(&request.id) {
            let producer_id = cluster.new_producer_id().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
            let new = Transaction::new(producer_id, timeout_ms, now.wall);
            self.insert(request.id.clone(), new);
        }
        let Some(entry) = self.entries.get(&request.id) else { return Err(CONCURRENT) };
        let current = &entry.current;
        if entry.is_changing {
            return Err(CONCURRENT);
        }
        if request.expected.is_some_and(|expected| !current.knows(expected)) {
            return Err(ErrorCode::ProducerFenced);
        }
        match current.state {
            TransactionState::Ongoing => {
                // The new producer asks again until the abort is complete, and gets its epoch then.
                let aborted = self.fence(current, now);
                Ok(self.propose(now, &request.id, aborted, Some((id, TransactionAnswer::Failed(CONCURRENT)))))
            }
            state if state.is_idle() => {
                let next = if current.needs_new_id(request.expected) {
                    let producer_id = cluster.new_producer_id().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
                    current.rotated(producer_id, timeout_ms, request.expected, now.wall)
                } else {
                    current.incremented(timeout_ms, request.expected, now.wall)?
                };
                let producer = next.producer;
                Ok(self.propose(now, &request.id, next, Some((id, TransactionAnswer::Initialized(producer)))))
            }
            _ => Err(CONCURRENT),
        }
    }

    /// The abort of a transaction by the coordinator itself.
    pub(super) fn fence(&self, current: &Transaction, now: Now) -> Transaction {
        if self.config.broken_rules.no_epoch_bump {
            return current.prepared(false, TransactionVersion::V0, None, now.wall);
        }
        current.fenced(TransactionVersion::V2, now.wall)
    }

    fn timeout_of(&self, request: &InitProducer) -> Result<i32, ErrorCode> {
        if request.enable_two_phase_commit && !self.config.two_phase_commit_is_enabled {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        // KIP-939 is not finished in Kafka 4.3: it answers so.
        if request.keep_prepared {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if request.enable_two_phase_commit {
            return Ok(i32::MAX);
        }
        if !(1..=self.config.max_timeout_ms).contains(&request.timeout_ms) {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        Ok(request.timeout_ms)
    }

    /// AddPartitionsToTxn: partitions join the transaction before anything is written to them.
    pub(super) fn add_partitions(&mut self, now: Now, id: RequestId, request: &AddPartitions) -> Effects {
        let current = match self.of_producer(&request.id, request) {
            Ok(entry) if entry.is_changing || entry.current.state.is_prepared() => {
                return Effects::answer(id, TransactionAnswer::Failed(CONCURRENT));
            }
            Ok(entry) => &entry.current,
            Err(error) => return Effects::answer(id, TransactionAnswer::Failed(error)),
        };
        let is_known = |partition| current.partitions.contains(partition);
        if current.state == TransactionState::Ongoing && request.partitions.iter().all(is_known) {
            return Effects::answer(id, TransactionAnswer::Added);
        }
        if !self.share.budget.has_room(budget::bytes(&request.id, request.partitions.len())) {
            return Effects::answer(id, TransactionAnswer::Failed(ErrorCode::PolicyViolation));
        }
        let next = current.with_partitions(&request.partitions, request.version, now.wall);
        let bytes = BATCH_OVERHEAD_BYTES + record::encode(&request.id, Some(&next)).size_bytes();
        if bytes + END_BYTES_MAX > self.batch_bytes_max() {
            return Effects::answer(id, TransactionAnswer::Failed(ErrorCode::PolicyViolation));
        }
        self.propose(now, &request.id, next, Some((id, TransactionAnswer::Added)))
    }

    /// Tells a partition's leader whether a producer's transaction includes the partition.
    pub(super) fn verify_partitions(&self, request: &AddPartitions) -> TransactionAnswer {
        let current = match self.of_producer(&request.id, request) {
            Ok(entry) if entry.current.state.is_prepared() => return TransactionAnswer::Failed(CONCURRENT),
            Ok(entry) => &entry.current,
            Err(error) => return TransactionAnswer::Failed(error),
        };
        let verified = request.partitions.iter().map(|partition| {
            let is_in = current.partitions.contains(partition);
            (partition.clone(), if is_in { ErrorCode::None } else { ErrorCode::TransactionAbortable })
        });
        TransactionAnswer::Verified(verified.collect())
    }

    /// The id, if the producer is its present one.
    fn of_producer(&self, id: &TransactionalId, request: &AddPartitions) -> Result<&Entry, ErrorCode> {
        match self.entries.get(id) {
            Some(entry) if entry.current.producer == request.producer => Ok(entry),
            Some(entry) if entry.current.producer.id == request.producer.id => Err(ErrorCode::ProducerFenced),
            Some(entry) if entry.current.becomes(request.producer) => Err(CONCURRENT),
            _ => Err(ErrorCode::InvalidProducerIdMapping),
        }
    }
}
