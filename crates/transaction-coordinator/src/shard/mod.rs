//! The transactional ids of one partition of `__transaction_state`, while its broker leads it.
//!
//! Inputs: replayed records while loading, then requests, the time, and what became of batches and markers. Outputs:
//! [`Effects`].
//! - An id changes when its record is replicated, not before: a refused record leaves nothing to undo. At most one
//!   change is in flight; requests that arrive meanwhile get CONCURRENT_TRANSACTIONS.
//! - [`producers`], [`ending`]: the decisions on requests. [`markers`]: the way from a replicated decision to a
//!   complete transaction. [`sweep`]: time-outs and expiry. [`list`]: descriptions and lists of ids.

mod ending;
mod list;
mod markers;
mod producers;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, TransactionalId};

use crate::Now;
use crate::answer::TransactionAnswer;
use crate::budget::{self, ID_BYTES_MAX, Share};
use crate::cluster::Cluster;
use crate::config::TransactionConfig;
use crate::effects::{Batch, BatchKind, BatchNumber, Effects, MarkerNumber, RequestId};
use crate::record::{self, Record, RecordError};
use crate::request::Request;
use crate::transaction::{Transaction, TransactionState};
use markers::Markers;
use sweep::Sweeps;

/// See the module.
#[derive(Debug)]
pub struct Shard {
    config: Arc<TransactionConfig>,
    /// The leadership of the partition: the epoch of its markers.
    epoch: LeaderEpoch,
    entries: BTreeMap<TransactionalId, Entry>,
    /// Batches that were handed to the host, in order.
    in_flight: BTreeMap<BatchNumber, InFlight>,
    last_batch: BatchNumber,
    /// The transactions whose markers are on their way.
    sent: BTreeMap<MarkerNumber, TransactionalId>,
    last_marker: MarkerNumber,
    /// Transactions whose markers, or whose completion, are tried again at that time.
    retries: BTreeSet<(MonotonicMs, TransactionalId)>,
    /// Transactions that run, by the end of their time.
    deadlines: BTreeSet<(MonotonicMs, TransactionalId)>,
    sweeps: Sweeps,
    share: Share,
    /// Ids whose tombstones are in flight.
    leaving: usize,
    /// The log's own limit of a batch, as far as the host has said it.
    log_batch_bytes: usize,
}

/// One transactional id.
#[derive(Debug)]
struct Entry {
    /// What the log holds.
    current: Transaction,
    /// A change is in flight.
    is_changing: bool,
    markers: Markers,
    retry_at: Option<MonotonicMs>,
    deadline: Option<MonotonicMs>,
}

impl Entry {
    /// No transaction runs, and no change is in flight.
    fn is_idle(&self) -> bool {
        !self.is_changing && self.current.state.is_idle()
    }

    fn new(current: Transaction) -> Self {
        Self { current, is_changing: false, markers: Markers::default(), retry_at: None, deadline: None }
    }
}

/// A change of one id.
#[derive(Debug)]
struct Change {
    id: TransactionalId,
    /// None: the id is forgotten.
    next: Option<Transaction>,
    answer: Option<(RequestId, TransactionAnswer)>,
}

/// One batch that was handed to the host.
#[derive(Debug)]
struct InFlight {
    changes: Vec<Change>,
    /// The log end offset after the batch, once the host has told it.
    end: Option<Offset>,
}

impl Shard {
    /// Nothing is known yet; the partition is led in `epoch`.
    pub fn new(config: Arc<TransactionConfig>, epoch: LeaderEpoch) -> Self {
        Self {
            share: Share::new(Arc::clone(&config.budget)),
            leaving: 0,
            log_batch_bytes: usize::MAX,
            config,
            epoch,
            entries: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            last_batch: BatchNumber::default(),
            sent: BTreeMap::new(),
            last_marker: MarkerNumber::default(),
            retries: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            sweeps: Sweeps::default(),
        }
    }

    /// The leadership of the partition.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Holds for what is decided from now on.
    pub fn set_config(&mut self, config: Arc<TransactionConfig>) {
        self.config = config;
    }

    /// The log takes batches up to `bytes`.
    pub fn limit_batches(&mut self, bytes: usize) {
        self.log_batch_bytes = bytes;
    }

    /// The largest batch that may be written.
    fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.config.max_batch_bytes).unwrap_or(0).min(self.log_batch_bytes)
    }

    /// Replays one record while loading. Keys of later versions are passed over, as Kafka does.
    ///
    /// # Errors
    /// The key or the value is not what its version says.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        match Record::decode(key, value)? {
            Some(Record { id, transaction: Some(transaction) }) => self.insert(id, transaction),
            Some(Record { id, transaction: None }) => self.remove(&id),
            None => {}
        }
        Ok(())
    }

    fn insert(&mut self, id: TransactionalId, transaction: Transaction) {
        let bytes = budget::bytes_of(&id, &transaction);
        let former = self.entries.insert(id.clone(), Entry::new(transaction));
        let former = former.map_or(0, |former| budget::bytes_of(&id, &former.current));
        self.share.replace(former, bytes);
    }

    fn remove(&mut self, id: &TransactionalId) {
        if let Some(removed) = self.entries.remove(id) {
            self.share.replace(budget::bytes_of(id, &removed.current), 0);
        }
    }

    /// Replay is over, and everything that was read is replicated: decided transactions are ended, running ones get
    /// their deadlines.
    pub fn loaded(&mut self, now: Now, cluster: &mut dyn Cluster) -> Effects {
        self.sweeps.begin(now, &self.config);
        let ids: Vec<TransactionalId> = self.entries.keys().cloned().collect();
        let mut effects = Effects::default();
        for id in ids {
            effects.extend(self.changed(now, cluster, &id));
        }
        effects
    }

    /// One request. Its answer is among the effects of this step or of a later one.
    pub fn step(&mut self, now: Now, cluster: &mut dyn Cluster, id: RequestId, request: Request) -> Effects {
        let is_no_id = |id: &TransactionalId| id.as_str().is_empty() || id.as_str().len() > ID_BYTES_MAX;
        if request.transactional_id().is_some_and(is_no_id) {
            return Effects::answer(id, TransactionAnswer::Failed(ErrorCode::InvalidRequest));
        }
        match request {
            Request::InitProducer(request) => self.init_producer(now, cluster, id, &request),
            Request::AddPartitions(request) => self.add_partitions(now, id, &request),
            Request::VerifyPartitions(request) => Effects::answer(id, self.verify_partitions(&request)),
            Request::End(request) => self.end(now, cluster, id, &request),
            Request::Describe(of) => Effects::answer(id, self.describe(&of)),
            Request::List(request) => Effects::answer(id, self.list(now, &request)),
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now, cluster: &mut dyn Cluster) -> Effects {
        let mut effects = self.retry_markers(now, cluster);
        effects.extend(self.abort_timed_out(now));
        effects.extend(self.remove_expired(now));
        effects
    }

    /// When `tick` has something to do.
    pub fn next_deadline(&self) -> Option<MonotonicMs> {
        let retry = self.retries.first().map(|(at, _)| *at);
        [retry, self.sweeps.next(!self.deadlines.is_empty())].into_iter().flatten().min()
    }

    /// The host has appended a batch; `end` is the log end offset after it.
    pub fn appended(&mut self, now: Now, cluster: &mut dyn Cluster, batch: BatchNumber, end: Offset) -> Effects {
        if let Some(batch) = self.in_flight.get_mut(&batch) {
            batch.end = Some(end);
        }
        if self.config.broken_rules.marker_before_decision {
            return self.committed_up_to(now, cluster, end);
        }
        Effects::default()
    }

    /// The log refused a batch and holds nothing of it: nothing has changed.
    pub fn append_refused(&mut self, now: Now, batch: BatchNumber, error: ErrorCode) -> Effects {
        let mut effects = Effects::default();
        let Some(batch) = self.in_flight.remove(&batch) else { return effects };
        for change in batch.changes {
            self.leaving -= usize::from(change.next.is_none());
            let error = refusal(error);
            effects.answers.extend(change.answer.map(|(id, _)| (id, TransactionAnswer::Failed(error))));
            let Some(entry) = self.entries.get_mut(&change.id) else { continue };
            entry.is_changing = false;
            if entry.current.is_new() {
                // The log never held it: a later request begins anew.
                self.remove(&change.id);
            } else if entry.current.state.is_prepared() {
                self.retry_later(now, &change.id, markers::RETRY_COMPLETION);
            }
        }
        effects
    }

    /// The high watermark moved.
    pub fn committed_up_to(&mut self, now: Now, cluster: &mut dyn Cluster, high_watermark: Offset) -> Effects {
        let mut effects = Effects::default();
        while let Some(first) = self.in_flight.first_entry() {
            if first.get().end.is_none_or(|end| end > high_watermark) {
                break;
            }
            for change in first.remove().changes {
                effects.extend(self.replicated(now, cluster, change));
            }
        }
        effects
    }

    /// The broker leads the partition no longer: everything that waits is answered with the error.
    pub fn resign(&mut self, error: ErrorCode) -> Effects {
        let batches = std::mem::take(&mut self.in_flight).into_values();
        let answers = batches.flat_map(|batch| batch.changes).filter_map(|change| change.answer);
        Effects {
            answers: answers.map(|(id, _)| (id, TransactionAnswer::Failed(error))).collect(),
            ..Effects::default()
        }
    }

    /// A change takes effect.
    fn replicated(&mut self, now: Now, cluster: &mut dyn Cluster, change: Change) -> Effects {
        let mut effects = Effects { answers: change.answer.into_iter().collect(), ..Effects::default() };
        self.leaving -= usize::from(change.next.is_none());
        match (self.entries.get_mut(&change.id), change.next) {
            (Some(entry), Some(next)) => {
                let former = budget::bytes_of(&change.id, &entry.current);
                self.share.replace(former, budget::bytes_of(&change.id, &next));
                entry.current = next;
                entry.is_changing = false;
                effects.extend(self.changed(now, cluster, &change.id));
            }
            (Some(_), None) => {
                self.forget_times(&change.id);
                self.remove(&change.id);
            }
            (None, _) => {}
        }
        effects
    }

    /// What follows from an id's state.
    fn changed(&mut self, now: Now, cluster: &mut dyn Cluster, id: &TransactionalId) -> Effects {
        self.forget_times(id);
        let Some(entry) = self.entries.get_mut(id) else { return Effects::default() };
        match entry.current.state {
            TransactionState::Ongoing => self.set_deadline(now, id),
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                entry.markers = Markers::for_partitions(entry.current.partitions.iter().cloned());
                return self.send_markers(now, cluster, id);
            }
            _ => {}
        }
        Effects::default()
    }

    /// Ends the times that belong to an id's former state.
    fn forget_times(&mut self, id: &TransactionalId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Some(at) = entry.retry_at.take() {
            self.retries.remove(&(at, id.clone()));
        }
        if let Some(at) = entry.deadline.take() {
            self.deadlines.remove(&(at, id.clone()));
        }
    }

    /// Proposes the next state of one id. The answer leaves when it is replicated.
    fn propose(
        &mut self,
        now: Now,
        id: &TransactionalId,
        next: Transaction,
        answer: Option<(RequestId, TransactionAnswer)>,
    ) -> Effects {
        let raw = record::encode(id, Some(&next));
        if let Some(entry) = self.entries.get_mut(id) {
            entry.is_changing = true;
        }
        self.batch(now, vec![raw], vec![Change { id: id.clone(), next: Some(next), answer }])
    }

    fn batch(&mut self, now: Now, records: Vec<crate::effects::RawRecord>, changes: Vec<Change>) -> Effects {
        self.last_batch = BatchNumber(self.last_batch.0 + 1);
        self.in_flight.insert(self.last_batch, InFlight { changes, end: None });
        let batch = Batch { number: self.last_batch, timestamp: now.wall, records, kind: BatchKind::Plain };
        Effects { batches: vec![batch], ..Effects::default() }
    }
}

/// What a client is told when the log refused its record (Kafka's mapping).
fn refusal(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => ErrorCode::UnknownServerError,
        other => other,
    }
}
