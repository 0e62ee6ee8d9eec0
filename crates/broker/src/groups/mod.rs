//! Group coordinators: the partitions of `__consumer_offsets` that this broker leads, each with its groups.
//!
//! `coordinators` hosts the partitions; this module says what is particular to groups.
//!
//! - [`topics`]: what groups see of the cluster's topics.
//! - [`metrics`]: the metrics of groups.
//! - [`config`]: the configuration of groups.

mod config;
pub mod metrics;
mod topics;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_group_coordinator::offsets_partition::Notice;
use ottla_group_coordinator::shard::{Budget, BudgetLimits};
use ottla_group_coordinator::{GroupAnswer, GroupConfig, Request, Shard, Topics, TransactionEnd, partition_for};
use ottla_metadata::{Delta, Image};
use ottla_model::{BrokerId, ErrorCode, GroupId, PartitionId, TopicName};
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::manager;
use ottla_replica_manager::partition::Partition;
use ottla_replication::{VerificationGuard, VerificationRequest};
use tokio::runtime::Handle;

use crate::coordinators::{self, Coordinator, Metrics, PartitionHandle, PartitionHandles, States};
use crate::telemetry::Telemetry;
use config::group_config;
use metrics::{CommittedOffset, CommittedOffsets};
use topics::ImageTopics;

pub type PendingAnswer = coordinators::PendingAnswer<Shard>;

/// The topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What the groups of all partitions share.
pub struct GroupCoordinator {
    /// What the groups of all partitions may hold together.
    budget: Arc<Budget>,
    config: ArcSwap<GroupConfig>,
    topics: ArcSwap<ImageTopics>,
    telemetry: Arc<Telemetry>,
}

impl Coordinator for GroupCoordinator {
    type Shard = Shard;
    /// Type and state.
    type StateName = (&'static str, &'static str);

    const TOPIC: &'static str = OFFSETS_TOPIC;
    const STATE: &'static str = "groups";

    fn config(&self) -> Arc<GroupConfig> {
        self.config.load_full()
    }

    fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.config.load().max_batch_bytes).unwrap_or(0)
    }

    fn view<T>(&self, step: impl FnOnce(&dyn Topics) -> T) -> T {
        step(&**self.topics.load())
    }

    fn send(&self, _: &Arc<PartitionHandle<Self>>, message: Infallible) {
        match message {}
    }

    fn count_states(shard: &Shard) -> States<Self> {
        shard.states()
    }

    fn metrics(&self) -> Metrics<'_> {
        let groups = &self.telemetry.groups;
        Metrics {
            partitions: &groups.partitions,
            loads: &groups.loads,
            load_ms: &groups.load_ms,
            records: &groups.records,
        }
    }
}

pub struct GroupCoordinators {
    partitions: PartitionHandles<GroupCoordinator>,
    /// How long a request may wait for its records to be replicated.
    commit_timeout: Duration,
    identity: Arc<Identity>,
}

impl GroupCoordinators {
    /// Without partitions. The timer runs on `data`, where the partitions are.
    pub fn new(
        config: &BrokerConfig,
        limits: BudgetLimits,
        identity: &Arc<Identity>,
        telemetry: Arc<Telemetry>,
        data: &Handle,
    ) -> Arc<Self> {
        let budget = Arc::new(Budget::new(limits));
        let coordinator = GroupCoordinator {
            config: ArcSwap::from_pointee(group_config(config, &Image::empty(), &budget)),
            budget: Arc::clone(&budget),
            topics: ArcSwap::from_pointee(ImageTopics::new(Arc::clone(identity))),
            telemetry: Arc::clone(&telemetry),
        };
        let partitions = PartitionHandles::new(coordinator, config.groups.offsets_load_buffer_bytes, data);
        let commit_timeout = config.groups.offsets_commit_timeout;
        let groups = Arc::new(Self { partitions, commit_timeout, identity: Arc::clone(identity) });
        let counted = Arc::downgrade(&groups);
        let states = move || counted.upgrade().map(|groups| groups.states()).unwrap_or_default();
        telemetry.groups.count_by(states, budget);
        let committed = Arc::downgrade(&groups);
        telemetry.groups.committed_by(move |max| {
            committed.upgrade().map(|groups| groups.committed_offsets(max)).unwrap_or_default()
        });
        groups
    }

    /// How long a request may wait for its records to be replicated.
    pub fn commit_timeout(&self) -> Duration {
        self.commit_timeout
    }

    /// What the groups here hold together.
    pub fn held_bytes(&self) -> usize {
        self.partitions.coordinator().budget.used().bytes
    }

    /// Committed offsets of the groups here, up to `max`, and how many more there are.
    fn committed_offsets(&self, max: usize) -> CommittedOffsets {
        let mut offsets = CommittedOffsets::default();
        for partition in self.partitions.all() {
            partition.look(|shard| {
                for (group, topic, number, offset) in shard.committed_offsets() {
                    if offsets.shown.len() >= max {
                        offsets.left_out += 1;
                        continue;
                    }
                    offsets.shown.push(CommittedOffset {
                        group: group.to_string(),
                        topic: topic.to_owned(),
                        partition: number,
                        offset,
                    });
                }
            });
        }
        offsets
    }

    /// How many groups there are in each state. Goes through all of them.
    pub fn states(&self) -> States<GroupCoordinator> {
        self.partitions.count_states()
    }

    /// Submits a request to the group's partition. The step is taken when this returns, in the order of the calls.
    pub fn submit(&self, image: &Image, group: &GroupId, request: Request) -> PendingAnswer {
        let pending = match self.partition_of(image, group) {
            Some(partition) => partition.submit(request, None),
            None => PendingAnswer::failed(ErrorCode::NotCoordinator),
        };
        match pending {
            PendingAnswer::Ready(GroupAnswer::Failed(ErrorCode::NotCoordinator))
                if !self.another_coordinates(image, group) =>
            {
                PendingAnswer::failed(ErrorCode::CoordinatorLoadInProgress)
            }
            pending => pending,
        }
    }

    /// Whether the image names another broker as the group's coordinator. If it names none, or this one, this broker's
    /// image or its partitions lag behind the image of the broker that sent the client here. The client must stay:
    /// librdkafka asks once for the stored offsets of partitions that were assigned by hand, and takes NOT_COORDINATOR
    /// for the end of it.
    fn another_coordinates(&self, image: &Image, group: &GroupId) -> bool {
        let leader = coordinator_partition(image, group.as_str())
            .and_then(|partition| image.partition_of(OFFSETS_TOPIC, partition))
            .map_or(BrokerId::NONE, |state| state.leader);
        leader != BrokerId::NONE && leader != self.identity.id()
    }

    /// Whether offsets that a transaction commits for the group need the transaction coordinator's word.
    ///
    /// # Errors
    /// The producer is fenced, or the group's coordinator is not here.
    pub fn begin_verification(
        &self,
        image: &Image,
        group: &GroupId,
        request: &VerificationRequest,
    ) -> Result<Option<VerificationGuard>, ErrorCode> {
        self.partition_of(image, group).ok_or(ErrorCode::NotCoordinator)?.begin_verification(request)
    }

    /// As [`Self::submit`]; `guard` proves that the group's partition is part of the request's transaction.
    pub fn submit_in_transaction(
        &self,
        image: &Image,
        group: &GroupId,
        request: Request,
        guard: Option<&VerificationGuard>,
    ) -> PendingAnswer {
        match self.partition_of(image, group) {
            Some(partition) => partition.submit(request, guard),
            None => PendingAnswer::failed(ErrorCode::NotCoordinator),
        }
    }

    /// A transaction ends in one partition of [`OFFSETS_TOPIC`].
    pub fn end_transaction(&self, partition: PartitionId, end: TransactionEnd) -> PendingAnswer {
        match self.partitions.get(partition) {
            Some(found) => found.submit(Request::EndTransaction(end), None),
            None => PendingAnswer::failed(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Whether a step holds the partition's lock.
    #[cfg(test)]
    pub fn is_held(&self, partition: PartitionId) -> bool {
        self.partitions.get(partition).is_some_and(|found| found.is_held())
    }

    /// Submits a request to every partition that this broker leads, to each when its answer is asked for.
    pub fn submit_all(&self, request: &Request) -> impl Iterator<Item = PendingAnswer> {
        self.partitions.submit_all(request)
    }

    fn partition_of(&self, image: &Image, group: &GroupId) -> Option<Arc<PartitionHandle<GroupCoordinator>>> {
        self.partitions.get(coordinator_partition(image, group.as_str())?)
    }
}

impl manager::Coordinators for GroupCoordinators {
    /// The groups see the topics of `image` from now on: each group compares them at its next heartbeat.
    fn image_moved(&self, image: &Arc<Image>, delta: &Delta) {
        let topics = &self.partitions.coordinator().topics;
        topics.store(Arc::new(topics.load().next(image, delta)));
        if delta.topics_deleted.is_empty() {
            return;
        }
        // The offsets of a topic that was deleted and created again in one step were committed for the deleted one.
        let deleted: Arc<[TopicName]> = delta.topics_deleted.iter().map(|topic| topic.name.clone()).collect();
        for partition in self.partitions.all() {
            partition.notice_later(Notice::TopicsDeleted(Arc::clone(&deleted)));
        }
    }

    fn configured(&self, config: &BrokerConfig, image: &Image) {
        let coordinator = self.partitions.coordinator();
        coordinator.config.store(Arc::new(group_config(config, image, &coordinator.budget)));
        self.partitions.config_changed();
    }

    fn placed(&self, partition: &Arc<Partition>) {
        self.partitions.placed(partition);
    }

    fn removed(&self, partition: &Arc<Partition>) {
        self.partitions.removed(partition);
    }
}

/// The partition of [`OFFSETS_TOPIC`] that a group belongs to; none before there is one.
pub fn coordinator_partition(image: &Image, group: &str) -> Option<PartitionId> {
    let partitions = i32::try_from(image.topic(OFFSETS_TOPIC)?.partition_count()).ok().filter(|count| *count > 0)?;
    Some(PartitionId(partition_for(group, partitions)))
}
