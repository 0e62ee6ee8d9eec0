//! Group coordinators: the partitions of `__consumer_offsets` that this broker leads, each with its groups.
//!
//! - [`partition`]: one partition's groups behind one lock; `ottla_group_coordinator::offsets_partition` decides.
//! - [`topics`]: what groups see of the cluster's topics.
//! - [`metrics`]: the metrics of groups.
//! - [`config`]: the configuration of groups.
//!
//! Locks: group partition, then partition; a thread that holds a partition's lock never waits for a group partition.

mod config;
pub mod metrics;
mod partition;
mod topics;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_group_coordinator::shard::{Budget, BudgetLimits};
use ottla_group_coordinator::{Answer, GroupConfig, Request, TransactionEnd, partition_for};
use ottla_metadata::{Delta, Image};
use ottla_model::{BrokerId, ErrorCode, GroupId, PartitionId, TopicName};
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::manager::Coordinators;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::partition::waiters::Watcher;
use ottla_replication::{VerificationGuard, VerificationRequest};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::load_permits::LoadPermits;
use crate::telemetry::Telemetry;
use crate::timer::Timer;
use config::group_config;
use metrics::States;
use partition::GroupPartition;
use topics::ImageTopics;

/// The topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What all partitions share.
struct Common {
    /// What the groups of all partitions may hold together.
    budget: Arc<Budget>,
    config: ArcSwap<GroupConfig>,
    /// Bytes of a log that are read at a time while loading.
    load_buffer_bytes: usize,
    load_permits: LoadPermits,
    data: Handle,
    topics: ArcSwap<ImageTopics>,
    timer: Timer<GroupPartition>,
    telemetry: Arc<Telemetry>,
}

pub struct GroupCoordinators {
    common: Arc<Common>,
    /// How long a request may wait for its records to be replicated.
    commit_timeout: Duration,
    identity: Arc<Identity>,
    /// The partitions with a replica here, whether this broker leads them or not.
    partitions: RwLock<BTreeMap<PartitionId, Arc<GroupPartition>>>,
}

/// The answer to a request that was submitted.
pub enum PendingAnswer {
    Ready(Answer),
    /// Ends without an answer only with the process.
    Waiting(oneshot::Receiver<Answer>),
}

impl PendingAnswer {
    /// The answer, however long it takes. The future may be dropped at any time.
    pub async fn answer(self) -> Answer {
        match self {
            Self::Ready(answer) => answer,
            Self::Waiting(receiver) => receiver.await.unwrap_or(Answer::Failed(ErrorCode::NotCoordinator)),
        }
    }

    /// The answer, or after `timeout` the error that Kafka returns when records are not replicated in time.
    pub async fn answer_within(self, timeout: Duration) -> Answer {
        match self {
            Self::Ready(answer) => answer,
            waiting => tokio::time::timeout(timeout, waiting.answer())
                .await
                .unwrap_or(Answer::Failed(ErrorCode::CoordinatorNotAvailable)),
        }
    }
}

impl GroupCoordinators {
    /// Without partitions. The timer runs on `data`, where the partitions are.
    pub fn new(config: &BrokerConfig, identity: &Arc<Identity>, telemetry: Arc<Telemetry>, data: &Handle) -> Arc<Self> {
        let timer = Timer::default();
        data.spawn(timer.clone().run());
        let budget = Arc::new(Budget::new(BudgetLimits::default()));
        let common = Arc::new(Common {
            config: ArcSwap::from_pointee(group_config(config, &Image::empty(), &budget)),
            budget: Arc::clone(&budget),
            load_buffer_bytes: config.groups.offsets_load_buffer_bytes,
            load_permits: LoadPermits::default(),
            data: data.clone(),
            topics: ArcSwap::from_pointee(ImageTopics::new(Arc::clone(identity))),
            timer,
            telemetry,
        });
        let commit_timeout = config.groups.offsets_commit_timeout;
        let identity = Arc::clone(identity);
        let groups = Arc::new(Self { common, commit_timeout, identity, partitions: RwLock::default() });
        let counted = Arc::downgrade(&groups);
        let states = move || counted.upgrade().map(|groups| groups.states()).unwrap_or_default();
        groups.common.telemetry.groups.count_by(states, budget);
        groups
    }

    /// How long a request may wait for its records to be replicated.
    pub fn commit_timeout(&self) -> Duration {
        self.commit_timeout
    }

    /// How many groups there are in each state. Goes through all of them.
    pub fn states(&self) -> States {
        let mut states = States::new();
        self.all().iter().for_each(|partition| partition.count_states(&mut states));
        states
    }

    /// Submits a request to the group's partition. The step is taken when this returns, in the order of the calls.
    pub fn submit(&self, image: &Image, group: &GroupId, request: Request) -> PendingAnswer {
        let pending = match self.partition_of(image, group) {
            Some(partition) => partition.submit(request),
            None => PendingAnswer::Ready(Answer::Failed(ErrorCode::NotCoordinator)),
        };
        match pending {
            PendingAnswer::Ready(Answer::Failed(ErrorCode::NotCoordinator))
                if !self.another_coordinates(image, group) =>
            {
                PendingAnswer::Ready(Answer::Failed(ErrorCode::CoordinatorLoadInProgress))
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
            Some(partition) => partition.submit_with(request, guard),
            None => PendingAnswer::Ready(Answer::Failed(ErrorCode::NotCoordinator)),
        }
    }

    /// A transaction ends in one partition of [`OFFSETS_TOPIC`].
    pub fn end_transaction(&self, partition: PartitionId, end: TransactionEnd) -> PendingAnswer {
        let found = self.partitions.read().get(&partition).cloned();
        match found {
            Some(found) => found.submit(Request::EndTransaction(end)),
            None => PendingAnswer::Ready(Answer::Failed(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// Submits a request to every partition that this broker leads.
    pub fn submit_all(&self, request: &Request) -> Vec<PendingAnswer> {
        self.all()
            .into_iter()
            .filter(|partition| partition.leads())
            .map(|partition| partition.submit(request.clone()))
            .collect()
    }

    fn partition_of(&self, image: &Image, group: &GroupId) -> Option<Arc<GroupPartition>> {
        let partition = coordinator_partition(image, group.as_str())?;
        self.partitions.read().get(&partition).cloned()
    }

    fn all(&self) -> Vec<Arc<GroupPartition>> {
        self.partitions.read().values().cloned().collect()
    }
}

impl Coordinators for GroupCoordinators {
    /// The groups see the topics of `image` from now on: each group compares them at its next heartbeat.
    fn image_moved(&self, image: &Arc<Image>, delta: &Delta) {
        self.common.topics.store(Arc::new(self.common.topics.load().next(image, delta)));
        if delta.topics_deleted.is_empty() {
            return;
        }
        // The offsets of a topic that was deleted and created again in one step were committed for the deleted one.
        let deleted: Arc<[TopicName]> = delta.topics_deleted.iter().map(|topic| topic.name.clone()).collect();
        for partition in self.all() {
            partition.topics_deleted(&deleted);
        }
    }

    fn configured(&self, config: &BrokerConfig, image: &Image) {
        let config = Arc::new(group_config(config, image, &self.common.budget));
        self.common.config.store(config);
        for partition in self.all() {
            partition.config_changed();
        }
    }

    /// Its groups are loaded when this broker leads it.
    fn placed(&self, partition: &Arc<Partition>) {
        if partition.topic.as_str() != OFFSETS_TOPIC {
            return;
        }
        let group_partition = GroupPartition::new(Arc::clone(&self.common), Arc::clone(partition));
        let watcher: Weak<dyn Watcher> = Arc::downgrade(&(Arc::clone(&group_partition) as Arc<dyn Watcher>));
        partition.watch(watcher);
        // The partition of a deleted topic with the same number is closed by now, or will be.
        self.partitions.write().insert(partition.id().partition, group_partition);
    }

    fn removed(&self, partition: &Arc<Partition>) {
        if partition.topic.as_str() != OFFSETS_TOPIC {
            return;
        }
        let mut partitions = self.partitions.write();
        let number = partition.id().partition;
        if partitions.get(&number).is_some_and(|found| found.is_of(partition)) {
            partitions.remove(&number);
        }
    }
}

/// The partition of [`OFFSETS_TOPIC`] that a group belongs to; none before there is one.
pub fn coordinator_partition(image: &Image, group: &str) -> Option<PartitionId> {
    let partitions = i32::try_from(image.topic(OFFSETS_TOPIC)?.partition_count()).ok().filter(|count| *count > 0)?;
    Some(PartitionId(partition_for(group, partitions)))
}
