//! A broker as far as groups are concerned: the partitions of `__consumer_offsets` with their groups, as the service
//! runs them, and the state that the service would hold around them.

use std::collections::BTreeMap;

use ottla_coordinator_partition::{Backlog, BrokenRules, LoadError, LoadQueue, Loaded, Loader, Timers, Waiter};
use ottla_group_coordinator::Shard;
use ottla_group_coordinator::offsets_partition::OffsetsPartition;
use ottla_group_coordinator::request::FetchOffsets;
use ottla_model::{LeaderEpoch, MonotonicMs};

use super::topics::{SimTopics, TopicIds};

/// The client that waits for an answer.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Grows with every request that comes to any broker.
    pub arrival: u64,
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

/// Nothing of a client's is part of a transaction here.
pub type Proof = ();

/// A log that was read for a leader epoch.
pub type LoadResult = (LeaderEpoch, Result<Loaded<Shard>, LoadError>);

/// A partition, and what the service has around it.
pub struct Host {
    pub core: OffsetsPartition<Caller>,
    pub backlog: Backlog<Shard, Caller, Proof>,
    /// A step holds it.
    pub held: Option<Hold>,
    /// The arrival of the request that was processed last.
    pub processed: u64,
}

/// A step that waits for a disk, and what waits for it beside the backlog.
#[derive(Default)]
pub struct Hold {
    /// The disk is known not to answer.
    pub is_known: bool,
    pub loaded: Vec<LoadResult>,
}

/// So few that they wait for one another.
const LOADS_AT_ONCE: usize = 1;

pub struct Broker {
    /// Grows with every start.
    pub life: u32,
    pub is_running: bool,
    /// As its image has them.
    pub topics: SimTopics,
    /// By partition, like everything below.
    pub partitions: BTreeMap<i32, Host>,
    /// When each partition is ticked.
    pub timers: Timers<i32, ()>,
    /// When the timer wakes that sleeps until the first of them is due.
    pub alarm_at: Option<MonotonicMs>,
    /// Logs that are being read, by partition and leader epoch.
    pub loaders: BTreeMap<(i32, i32), Loader<Shard>>,
    /// Those, and the logs that wait for them: all in one directory.
    pub loads: LoadQueue<(), (i32, i32)>,
    rules: BrokenRules,
}

impl Broker {
    /// Before its process starts.
    pub fn new(rules: BrokenRules) -> Self {
        Self {
            life: 1,
            is_running: false,
            topics: SimTopics::default(),
            partitions: BTreeMap::new(),
            timers: Timers::default(),
            alarm_at: None,
            loaders: BTreeMap::new(),
            loads: LoadQueue::new(LOADS_AT_ONCE, rules),
            rules,
        }
    }

    /// The process ends.
    pub fn stop(&mut self) {
        *self = Self { life: self.life + 1, ..Self::new(self.rules) };
    }
}
