//! One partition of `__consumer_offsets` on one broker: a [`Shard`] in a
//! [`CoordinatorPartition`](ottla_coordinator_partition::CoordinatorPartition).

#[cfg(test)]
mod backlog_tests;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;

use ottla_coordinator_partition::{CoordinatorPartition, CoordinatorShard, Now, Replayed, RequestId};
use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, ProducerId, TopicName};

use crate::answer::GroupAnswer;
use crate::config::GroupConfig;
use crate::effects::{BatchNumber, Effects};
use crate::record::RecordError;
use crate::request::Request;
use crate::shard::Shard;
use crate::topics::Topics;

pub type OffsetsPartition<W> = CoordinatorPartition<Shard, W>;

/// What happens to groups beside requests.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Topics were deleted: what was committed for them is deleted too.
    TopicsDeleted(Arc<[TopicName]>),
}

impl CoordinatorShard for Shard {
    type Config = GroupConfig;
    type View<'a> = &'a dyn Topics;
    type Request = Request;
    type Answer = GroupAnswer;
    type Message = Infallible;
    type Notice = Notice;
    type RecordError = RecordError;

    fn new(config: Arc<GroupConfig>, _: LeaderEpoch) -> Self {
        Shard::new(config)
    }

    fn set_config(&mut self, config: Arc<GroupConfig>) {
        Shard::set_config(self, config);
    }

    fn replay(&mut self, record: Replayed<'_>) -> Result<(), RecordError> {
        match record.producer {
            None => self.apply(record.timestamp, record.key, record.value),
            Some(producer) => self.apply_in_transaction(producer, record.key, record.value),
        }
    }

    fn replay_end_of_transaction(&mut self, producer: ProducerId, is_commit: bool) {
        self.apply_end_of_transaction(producer, is_commit);
    }

    fn loaded(&mut self, now: Now, topics: &mut &dyn Topics) -> Effects {
        Shard::loaded(self, now, *topics)
    }

    fn step(&mut self, now: Now, topics: &mut &dyn Topics, id: RequestId, request: Request) -> Effects {
        Shard::step(self, now, *topics, id, request)
    }

    fn tick(&mut self, now: Now, topics: &mut &dyn Topics) -> Effects {
        Shard::tick(self, now, *topics)
    }

    fn notice(&mut self, now: Now, topics: &mut &dyn Topics, notice: Notice) -> Effects {
        match notice {
            Notice::TopicsDeleted(deleted) => self.topics_deleted(now, *topics, &deleted),
        }
    }

    fn waits_for_loading(notice: &Notice) -> bool {
        match notice {
            Notice::TopicsDeleted(_) => true,
        }
    }

    /// Requests that only read, and heartbeats without news, cost no look at the log.
    fn asks_log(&self, topics: &&dyn Topics, request: Option<&Request>) -> bool {
        request.is_none_or(|request| self.may_write(*topics, request))
    }

    fn set_log_state(&mut self, state: Result<usize, ErrorCode>) {
        Shard::set_log_state(self, state);
    }

    fn appended(&mut self, _: Now, _: &mut &dyn Topics, batch: BatchNumber, end: Offset) -> Effects {
        Shard::appended(self, batch, end)
    }

    fn append_refused(&mut self, now: Now, batch: BatchNumber, error: ErrorCode) -> Effects {
        Shard::append_refused(self, now, batch, error)
    }

    fn committed_up_to(&mut self, now: Now, _: &mut &dyn Topics, high_watermark: Offset) -> Effects {
        Shard::committed_up_to(self, now, high_watermark)
    }

    fn resign(&mut self, error: ErrorCode) -> Effects {
        Shard::resign(self, error)
    }

    fn next_deadline(&self) -> Option<MonotonicMs> {
        Shard::next_deadline(self)
    }

    fn failed(error: ErrorCode) -> GroupAnswer {
        GroupAnswer::Failed(error)
    }
}
