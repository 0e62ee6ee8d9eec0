//! A broker as far as groups are concerned: the partitions of `__consumer_offsets` with their groups, as the service
//! runs them, and the state that the service would hold around them.

use std::collections::BTreeMap;

use ottla_coordinator_partition::{Loader, Waiter};
use ottla_group_coordinator::Shard;
use ottla_group_coordinator::offsets_partition::OffsetsPartition;
use ottla_group_coordinator::request::FetchOffsets;
use ottla_model::MonotonicMs;

use super::topics::{SimTopics, TopicIds};

/// The client that waits for an answer.
#[derive(Clone, Debug)]
pub struct Caller {
    pub client: u32,
    pub call: u64,
    /// The request, which the invariants compare with its answer.
    pub fetch: Option<FetchOffsets>,
    pub commit: Option<u64>,
    /// The topics that the broker means by their names when it answers a SyncGroup.
    pub topic_ids: TopicIds,
}

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        false
    }
}

#[derive(Debug, Default)]
pub struct Broker {
    /// Grows with every start.
    pub life: u32,
    pub is_running: bool,
    /// As its image has them.
    pub topics: SimTopics,
    /// By partition, like everything below.
    pub partitions: BTreeMap<i32, OffsetsPartition<Caller>>,
    /// When each partition is ticked.
    pub timers: BTreeMap<i32, MonotonicMs>,
    /// Logs that are being read, by partition and leader epoch.
    pub loaders: BTreeMap<(i32, i32), Loader<Shard>>,
}

impl Broker {
    /// The process ends.
    pub fn stop(&mut self) {
        *self = Self { life: self.life + 1, ..Self::default() };
    }
}
