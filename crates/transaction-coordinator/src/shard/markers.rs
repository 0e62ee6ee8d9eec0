//! From a replicated decision to a complete transaction: each partition gets a marker from its leader.
//!
//! Nothing of this is in the log: the next coordinator sends all markers again, and a leader that has a marker already
//! says so. A partition that was deleted meanwhile needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, TopicPartition, TransactionalId};

use super::{Effects, Shard};
use crate::Now;
use crate::cluster::{Cluster, Leader};
use crate::effects::{Marker, MarkerNumber};
use crate::transaction::TransactionState;

/// After it a marker is sent again, to the leader at that time: an election takes about as long.
const RETRY: Duration = Duration::from_millis(50);
/// The pause before the end of a transaction is written again after the log refused it, and before its markers are sent
/// again after a leader had seen a later coordinator: in the second case this broker will soon learn that it is no
/// longer the coordinator.
pub(super) const RETRY_COMPLETION: Duration = Duration::from_millis(500);

/// The partitions of a decided transaction that have no marker yet.
#[derive(Debug, Default)]
pub(super) struct Markers {
    waiting: BTreeSet<TopicPartition>,
    sent: BTreeMap<MarkerNumber, Vec<TopicPartition>>,
}

impl Markers {
    pub(super) fn for_partitions(partitions: impl Iterator<Item = TopicPartition>) -> Self {
        Self { waiting: partitions.collect(), sent: BTreeMap::new() }
    }

    fn are_written(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }
}

impl Shard {
    /// Sends the markers that wait, one for each leader; completes the transaction when all are written.
    pub(super) fn send_markers(&mut self, now: Now, cluster: &mut dyn Cluster, id: &TransactionalId) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.entries.get_mut(id) else { return effects };
        let mut by_leader: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
        let mut without_leader = BTreeSet::new();
        for partition in std::mem::take(&mut entry.markers.waiting) {
            match cluster.leader(&partition) {
                Leader::Broker(broker) => by_leader.entry(broker).or_default().push(partition),
                Leader::None => drop(without_leader.insert(partition)),
                Leader::Deleted => {}
            }
        }
        let must_wait = !without_leader.is_empty();
        entry.markers.waiting = without_leader;
        for (broker, partitions) in by_leader {
            self.last_marker = MarkerNumber(self.last_marker.0 + 1);
            self.sent.insert(self.last_marker, id.clone());
            entry.markers.sent.insert(self.last_marker, partitions.clone());
            effects.messages.push(Marker {
                number: self.last_marker,
                broker,
                producer_id: entry.current.producer.id,
                producer_epoch: entry.current.producer.epoch,
                coordinator_epoch: self.epoch,
                is_commit: entry.current.state == TransactionState::PrepareCommit,
                version: entry.current.version,
                partitions,
            });
        }
        if must_wait {
            self.retry_later(now, id, RETRY);
        }
        effects.extend(self.complete_if_written(now, id));
        effects
    }

    /// A broker has answered a marker, for each of its partitions.
    pub fn marker_answered(
        &mut self,
        now: Now,
        number: MarkerNumber,
        results: &BTreeMap<TopicPartition, ErrorCode>,
    ) -> Effects {
        self.take_marker(now, number, |partition| {
            // A partition that the broker left out is asked for again.
            results.get(partition).copied().unwrap_or(ErrorCode::UnknownServerError)
        })
    }

    /// A marker was not answered: it may be written or not.
    pub fn marker_lost(&mut self, now: Now, number: MarkerNumber) -> Effects {
        self.take_marker(now, number, |_| ErrorCode::NetworkException)
    }

    fn take_marker(
        &mut self,
        now: Now,
        number: MarkerNumber,
        result: impl Fn(&TopicPartition) -> ErrorCode,
    ) -> Effects {
        let Some(id) = self.sent.remove(&number) else { return Effects::default() };
        let Some(entry) = self.entries.get_mut(&id) else { return Effects::default() };
        let mut after = RETRY;
        for partition in entry.markers.sent.remove(&number).unwrap_or_default() {
            match result(&partition) {
                // The leader has a later epoch of the producer: it got this marker before, or an equal one. Old formats
                // hold no transactions.
                ErrorCode::None
                | ErrorCode::InvalidProducerEpoch
                | ErrorCode::UnsupportedForMessageFormat
                | ErrorCode::UnsupportedVersion => {}
                error => {
                    if error == ErrorCode::TransactionCoordinatorFenced {
                        after = RETRY_COMPLETION;
                    }
                    entry.markers.waiting.insert(partition);
                }
            }
        }
        if !entry.markers.waiting.is_empty() {
            self.retry_later(now, &id, after);
        }
        self.complete_if_written(now, &id)
    }

    /// Writes the end of a transaction whose markers are all written.
    fn complete_if_written(&mut self, now: Now, id: &TransactionalId) -> Effects {
        let Some(entry) = self.entries.get(id) else { return Effects::default() };
        if !entry.markers.are_written() || entry.is_changing || !entry.current.state.is_prepared() {
            return Effects::default();
        }
        let complete = entry.current.completed(now.wall);
        self.propose(now, id, complete, None)
    }

    /// Looks at a decided transaction again later; a time that is set already stays.
    pub(super) fn retry_later(&mut self, now: Now, id: &TransactionalId, after: Duration) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.retry_at.is_none() {
            let at = now.monotonic + after;
            entry.retry_at = Some(at);
            self.retries.insert((at, id.clone()));
        }
    }

    /// Sends again, or completes, what is due.
    pub(super) fn retry_markers(&mut self, now: Now, cluster: &mut dyn Cluster) -> Effects {
        let mut effects = Effects::default();
        while self.retries.first().is_some_and(|(at, _)| *at <= now.monotonic) {
            let Some((_, id)) = self.retries.pop_first() else { break };
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.retry_at = None;
            }
            effects.extend(self.send_markers(now, cluster, &id));
        }
        effects
    }
}
