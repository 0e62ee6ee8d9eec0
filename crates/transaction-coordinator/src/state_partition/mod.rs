//! One partition of `__transaction_state` on one broker: a [`Shard`] in a
//! [`CoordinatorPartition`](ottla_coordinator_partition::CoordinatorPartition).

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_coordinator_partition::{CoordinatorPartition, CoordinatorShard, Now, Replayed, RequestId};
use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, ProducerId, TopicPartition};

use crate::answer::TransactionAnswer;
use crate::cluster::Cluster;
use crate::config::TransactionConfig;
use crate::effects::{BatchNumber, Effects, Marker, MarkerNumber};
use crate::record::RecordError;
use crate::request::Request;
use crate::shard::Shard;

pub type StatePartition<W> = CoordinatorPartition<Shard, W>;

/// What happens to transactional ids beside requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A leader has answered a marker that was sent in this leader epoch. No results: it did not.
    MarkerAnswered { epoch: LeaderEpoch, number: MarkerNumber, results: Option<BTreeMap<TopicPartition, ErrorCode>> },
}

impl CoordinatorShard for Shard {
    type Config = TransactionConfig;
    type View<'a> = &'a mut dyn Cluster;
    type Request = Request;
    type Answer = TransactionAnswer;
    type Message = Marker;
    type Notice = Notice;
    type RecordError = RecordError;

    fn new(config: Arc<TransactionConfig>, epoch: LeaderEpoch) -> Self {
        Shard::new(config, epoch)
    }

    fn set_config(&mut self, config: Arc<TransactionConfig>) {
        Shard::set_config(self, config);
    }

    fn replay(&mut self, record: Replayed<'_>) -> Result<(), RecordError> {
        self.apply(record.key, record.value)
    }

    /// No transaction writes into the state of transactions.
    fn replay_end_of_transaction(&mut self, _: ProducerId, _: bool) {}

    fn loaded(&mut self, now: Now, cluster: &mut &mut dyn Cluster) -> Effects {
        Shard::loaded(self, now, *cluster)
    }

    fn step(&mut self, now: Now, cluster: &mut &mut dyn Cluster, id: RequestId, request: Request) -> Effects {
        Shard::step(self, now, *cluster, id, request)
    }

    fn tick(&mut self, now: Now, cluster: &mut &mut dyn Cluster) -> Effects {
        Shard::tick(self, now, *cluster)
    }

    fn notice(&mut self, now: Now, _: &mut &mut dyn Cluster, notice: Notice) -> Effects {
        match notice {
            // Markers of another leadership have numbers of their own.
            Notice::MarkerAnswered { epoch, .. } if epoch != self.epoch() => Effects::default(),
            Notice::MarkerAnswered { number, results: Some(results), .. } => {
                self.marker_answered(now, number, &results)
            }
            Notice::MarkerAnswered { number, results: None, .. } => self.marker_lost(now, number),
        }
    }

    fn waits_for_loading(notice: &Notice) -> bool {
        match notice {
            Notice::MarkerAnswered { .. } => false,
        }
    }

    /// A change takes effect when its record is replicated: one that the log refuses leaves nothing behind. But what is
    /// too large will always be refused: transactions are not to grow so, nor are ids forgotten in such batches.
    fn asks_log(&self, _: &&mut dyn Cluster, request: Option<&Request>) -> bool {
        request.is_none_or(|request| matches!(request, Request::AddPartitions(_) | Request::InitProducer(_)))
    }

    fn set_log_state(&mut self, log: Result<usize, ErrorCode>) {
        if let Ok(max_batch_bytes) = log {
            self.limit_batches(max_batch_bytes);
        }
    }

    fn appended(&mut self, now: Now, cluster: &mut &mut dyn Cluster, batch: BatchNumber, end: Offset) -> Effects {
        Shard::appended(self, now, *cluster, batch, end)
    }

    fn append_refused(&mut self, now: Now, batch: BatchNumber, error: ErrorCode) -> Effects {
        Shard::append_refused(self, now, batch, error)
    }

    fn committed_up_to(&mut self, now: Now, cluster: &mut &mut dyn Cluster, high_watermark: Offset) -> Effects {
        Shard::committed_up_to(self, now, *cluster, high_watermark)
    }

    fn resign(&mut self, error: ErrorCode) -> Effects {
        Shard::resign(self, error)
    }

    fn next_deadline(&self) -> Option<MonotonicMs> {
        Shard::next_deadline(self)
    }

    fn failed(error: ErrorCode) -> TransactionAnswer {
        TransactionAnswer::Failed(error)
    }
}
