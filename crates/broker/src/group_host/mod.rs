//! Groups, hosted: the partitions of `__consumer_offsets` that this broker leads, each with the groups that belong to it.
//!
//! - [`shard`]: one partition's groups behind one lock; loaded when this broker becomes the partition's leader, dropped when it is not.
//! - [`replay`]: reading a partition's log into its groups.
//! - [`topics`]: what groups may know of the cluster's topics.
//! - [`metrics`]: what is told of them.
//! - [`timer`]: one timer for all partitions; none runs while no group waits for anything.
//! - [`config`]: what is configured for them.
//! - [`offsets_topic`]: how `__consumer_offsets` comes into being.
//!
//! Invariants: a partition's groups live in one leader epoch; whatever was begun in another one ends without effect. An answer that
//! promises a write leaves after the high watermark has passed it. Locks: shard, then partition; a shard is never waited for with a
//! partition's lock held.

mod config;
pub mod metrics;
pub mod offsets_topic;
mod replay;
mod shard;
mod timer;
mod topics;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_group_coordinator::{Answer, GroupConfig, Request, partition_for};
use ottla_metadata::{Delta, Image};
use ottla_model::{ErrorCode, GroupId, PartitionId, TopicName};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::identity::Identity;
use crate::partition::Partition;
use crate::partition::waiters::Watcher;
use crate::telemetry::Telemetry;
use config::group_config;
use metrics::States;
use shard::HostedShard;
use timer::Timer;
use topics::ImageTopics;

/// The topic that keeps groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What all partitions share.
struct Common {
    config: ArcSwap<GroupConfig>,
    /// Bytes of a log that are read at a time while loading.
    load_buffer_bytes: usize,
    topics: ArcSwap<ImageTopics>,
    timer: Timer,
    telemetry: Arc<Telemetry>,
}

pub struct GroupHost {
    common: Arc<Common>,
    /// How long a request may wait for its records to be replicated.
    commit_timeout: Duration,
    /// The partitions with a replica here, whoever leads them.
    shards: RwLock<BTreeMap<PartitionId, Arc<HostedShard>>>,
}

/// A request that was taken: its answer, or the wait for it.
pub enum Asked {
    Answered(Answer),
    /// Ends without an answer only with the process.
    Waiting(oneshot::Receiver<Answer>),
}

impl Asked {
    /// The answer, however long it takes. Dropping the future leaves nothing behind that the group does not need.
    pub async fn answer(self) -> Answer {
        match self {
            Self::Answered(answer) => answer,
            Self::Waiting(receiver) => receiver.await.unwrap_or(Answer::Failed(ErrorCode::NotCoordinator)),
        }
    }

    /// The answer, or after `timeout` what Kafka tells clients whose records are not replicated in time.
    pub async fn answer_within(self, timeout: Duration) -> Answer {
        match self {
            Self::Answered(answer) => answer,
            waiting => tokio::time::timeout(timeout, waiting.answer())
                .await
                .unwrap_or(Answer::Failed(ErrorCode::CoordinatorNotAvailable)),
        }
    }
}

impl GroupHost {
    /// Hosts nothing yet. The timer runs on `data`, where the partitions are.
    pub fn new(config: &BrokerConfig, identity: &Arc<Identity>, telemetry: Arc<Telemetry>, data: &Handle) -> Self {
        let timer = Timer::default();
        data.spawn(timer.clone().run());
        let common = Arc::new(Common {
            config: ArcSwap::from_pointee(group_config(config, &Image::empty())),
            load_buffer_bytes: config.groups.offsets_load_buffer_bytes,
            topics: ArcSwap::from_pointee(ImageTopics::new(Arc::clone(identity))),
            timer,
            telemetry,
        });
        Self { common, commit_timeout: config.groups.offsets_commit_timeout, shards: RwLock::default() }
    }

    /// Takes a partition of [`OFFSETS_TOPIC`] that got a place here. Its groups are loaded when it leads.
    pub fn host(&self, partition: &Arc<Partition>) {
        let shard = HostedShard::new(Arc::clone(&self.common), Arc::clone(partition));
        let watcher: Weak<dyn Watcher> = Arc::downgrade(&(Arc::clone(&shard) as Arc<dyn Watcher>));
        partition.watch(watcher);
        // A former topic's partition of the same number is closed by now, or will be: it holds nothing that is needed.
        self.shards.write().insert(partition.id().partition, shard);
    }

    /// The partition's replica here is gone.
    pub fn unhost(&self, partition: &Arc<Partition>) {
        let mut shards = self.shards.write();
        let number = partition.id().partition;
        if shards.get(&number).is_some_and(|shard| shard.is_of(partition)) {
            shards.remove(&number);
        }
    }

    /// How long a request may wait for its records to be replicated.
    pub fn commit_timeout(&self) -> Duration {
        self.commit_timeout
    }

    /// The configuration of the broker, or of groups, is another one from now on.
    pub fn configure(&self, config: &BrokerConfig, image: &Image) {
        let config = Arc::new(group_config(config, image));
        self.common.config.store(config);
        for shard in self.all() {
            shard.config_changed();
        }
    }

    /// The groups see the topics of `image` from now on: each group looks at them with its next heartbeat.
    pub fn topics_changed(&self, image: &Arc<Image>, delta: &Delta) {
        self.common.topics.store(Arc::new(self.common.topics.load().next(image, delta)));
        if delta.topics_deleted.is_empty() {
            return;
        }
        // A topic that was deleted and made again in one step is gone all the same: what was committed was for the other one.
        let deleted: Arc<[TopicName]> = delta.topics_deleted.iter().map(|topic| topic.name.clone()).collect();
        for shard in self.all() {
            shard.topics_deleted(&deleted);
        }
    }

    /// How many groups there are in each state. Looks at every one of them.
    pub fn states(&self) -> States {
        let mut states = States::new();
        self.all().iter().for_each(|shard| shard.count_states(&mut states));
        states
    }

    /// Asks the groups' partition. The step is done when this returns, in the order of the calls.
    pub fn ask(&self, image: &Image, group: &GroupId, request: Request) -> Asked {
        match self.shard_of(image, group) {
            Some(shard) => shard.ask(request),
            None => Asked::Answered(Answer::Failed(ErrorCode::NotCoordinator)),
        }
    }

    /// Asks every partition whose groups are here: their answers, without those that have none of their own.
    pub fn ask_all(&self, request: &Request) -> Vec<Asked> {
        self.all().into_iter().filter(|shard| shard.leads()).map(|shard| shard.ask(request.clone())).collect()
    }

    fn shard_of(&self, image: &Image, group: &GroupId) -> Option<Arc<HostedShard>> {
        let partition = coordinator_partition(image, group.as_str())?;
        self.shards.read().get(&partition).cloned()
    }

    fn all(&self) -> Vec<Arc<HostedShard>> {
        self.shards.read().values().cloned().collect()
    }
}

/// The partition of [`OFFSETS_TOPIC`] that a group belongs to; none before there is one.
pub fn coordinator_partition(image: &Image, group: &str) -> Option<PartitionId> {
    let partitions = i32::try_from(image.topic(OFFSETS_TOPIC)?.partition_count()).ok().filter(|count| *count > 0)?;
    Some(PartitionId(partition_for(group, partitions)))
}
