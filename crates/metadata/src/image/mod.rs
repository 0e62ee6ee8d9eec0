//! The image: a typed, immutable view of the tree at one revision, cheap to clone and to change.
//!
//! Invariants: an image is a function of the tree alone (`Image::from_tree` of the same tree gives an equal image); the
//! cost of a change depends on the changed nodes, never on the number of partitions; the indexes by broker agree with
//! the partitions.

mod apply;
mod broker;
mod index;
mod partition;
mod topic;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ottla_authorizer::AclIndex;
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ControllerEpoch, CoordinatorId, FeatureLevel, IncarnationId, PartitionId,
    Revision, TopicId, TopicIdPartition, TopicName,
};

use crate::broker_config::CordonedLogDirs;
use crate::delta::Delta;
use crate::nodes::delegation_token::DelegationToken;
use crate::tree::{Node, NodeChange, Path, Tree};

pub(crate) use apply::diff;
pub use broker::{BrokerMemory, BrokerRegistration, Endpoint, LeaderSettings};
use index::PartitionIndex;
pub use partition::{Assignment, IsrMember, LeaderRecoveryState, PartitionState, Reassignment};
pub use topic::TopicImage;

pub use crate::nodes::config::{ConfigEntity, ConfigKind};
pub use crate::nodes::coordinator::{CoordinatorNode, Standing};

/// How many replicas must have a record before it counts as written (acks=all).
pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// A set of configuration entries and when it was last written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigImage {
    pub entries: BTreeMap<String, String>,
    pub modified: Revision,
    /// When `min.insync.replicas` got its value here, or lost it: other entries may be younger. It may be later than
    /// that, never earlier, and is at most `modified`.
    pub(crate) min_insync_replicas_modified: Revision,
}

/// A block of producer ids: from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerIdBlock {
    pub broker: BrokerId,
    pub first: i64,
    pub last: i64,
}

/// A coordinator, and when its part in the quorum last changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoordinatorImage {
    pub node: CoordinatorNode,
    pub modified: Revision,
}

/// The finalized level of `ottla.version`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FinalizedLevel {
    pub level: FeatureLevel,
    /// When it was finalized.
    pub since: Revision,
}

impl Default for FinalizedLevel {
    fn default() -> Self {
        Self { level: FeatureLevel::FIRST, since: Revision(0) }
    }
}

/// The cluster at one revision.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Image {
    pub(crate) revision: Revision,
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) finalized: FinalizedLevel,
    pub(crate) controller: Option<BrokerId>,
    pub(crate) controller_epoch: ControllerEpoch,
    pub(crate) brokers: OrdMap<BrokerId, Arc<BrokerRegistration>>,
    pub(crate) memories: OrdMap<BrokerId, Arc<BrokerMemory>>,
    pub(crate) topics: OrdMap<TopicId, Arc<TopicImage>>,
    pub(crate) topic_ids: OrdMap<TopicName, TopicId>,
    /// Names as metrics show them (`.` as `_`) of topics that hold either character: for the collision check.
    pub(crate) metric_names: OrdMap<String, TopicName>,
    pub(crate) configs: OrdMap<ConfigEntity, Arc<ConfigImage>>,
    /// Shared until a rule changes: who compares pointers sees whether any did.
    pub(crate) acls: Arc<AclIndex>,
    /// By id.
    pub(crate) delegation_tokens: OrdMap<String, Arc<DelegationToken>>,
    pub(crate) deleting: OrdMap<TopicName, TopicId>,
    /// Topics whose nodes this release cannot decode: nothing is known of them, and they are not gone.
    pub(crate) unreadable_topics: OrdSet<TopicName>,
    /// Topics with reassignments that wait for their turn.
    pub(crate) queued_topics: OrdSet<TopicId>,
    pub(crate) coordinators: OrdMap<CoordinatorId, Arc<CoordinatorImage>>,
    pub(crate) producer_ids: Option<ProducerIdBlock>,
    pub(crate) index: PartitionIndex,
}

impl Image {
    pub fn empty() -> Self {
        Self::default()
    }

    /// The image of a whole tree.
    pub fn from_tree(tree: &Tree) -> Self {
        Self::from_nodes(tree.revision(), tree.iter()).0
    }

    /// The image of the nodes of a snapshot (in any order), and the way to it from the empty one.
    pub fn from_nodes<'a>(revision: Revision, nodes: impl IntoIterator<Item = (&'a Path, &'a Node)>) -> (Self, Delta) {
        let changes: Vec<NodeChange> =
            nodes.into_iter().map(|(path, node)| NodeChange { path: path.clone(), node: Some(node.clone()) }).collect();
        Self::empty().apply(revision, &changes)
    }

    /// The image after `changes`, and the delta. An image never goes back: a revision that is not newer keeps this
    /// image's revision.
    pub fn apply(&self, revision: Revision, changes: &[NodeChange]) -> (Self, Delta) {
        apply::apply(self, revision, changes)
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// None before the first leader's first transaction.
    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.cluster_id.as_ref()
    }

    /// What the processes of the cluster may write, and ask of each other.
    pub fn finalized(&self) -> FinalizedLevel {
        self.finalized
    }

    /// The live broker that `/controller` names.
    pub fn controller(&self) -> Option<BrokerId> {
        self.controller
    }

    pub fn controller_epoch(&self) -> ControllerEpoch {
        self.controller_epoch
    }

    /// The live brokers by id; among them some that are not [ready](BrokerRegistration::ready) yet.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values()
    }

    /// Whether the images share their registrations. This compares pointers only: it is cheap, and may
    /// say false of equal images.
    pub fn has_same_brokers(&self, other: &Self) -> bool {
        self.brokers.ptr_eq(&other.brokers)
    }

    pub fn broker_count(&self) -> usize {
        self.brokers.len()
    }

    pub fn broker(&self, id: BrokerId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&id)
    }

    /// The brokers that are down and stay registered, by id.
    pub fn fenced_brokers(&self) -> impl Iterator<Item = &Arc<BrokerMemory>> {
        self.memories.values().filter(|memory| !memory.unregistered && !self.brokers.contains_key(&memory.id))
    }

    /// Whether the broker belongs to the cluster, live or down.
    pub fn is_registered(&self, id: BrokerId) -> bool {
        self.brokers.contains_key(&id) || self.memories.get(&id).is_some_and(|memory| !memory.unregistered)
    }

    /// The registered epoch of a live broker.
    pub fn broker_epoch(&self, id: BrokerId) -> Option<BrokerEpoch> {
        self.broker(id).map(|broker| broker.epoch)
    }

    /// The record of a broker's last session that ended.
    pub fn broker_memory(&self, id: BrokerId) -> Option<&Arc<BrokerMemory>> {
        self.memories.get(&id)
    }

    /// Topics by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topic_ids.values().filter_map(|id| self.topics.get(id))
    }

    /// Topics by name, from this name on.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<TopicImage>> {
        let from = (Bound::Included(name), Bound::Unbounded);
        self.topic_ids.range::<_, str>(from).filter_map(|(_, id)| self.topics.get(id))
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    /// Whether there is a topic of this name whose node this release cannot decode.
    pub fn is_unreadable_topic(&self, name: &str) -> bool {
        self.unreadable_topics.contains(name)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id)
    }

    pub fn partition(&self, partition: TopicIdPartition) -> Option<&Arc<PartitionState>> {
        self.topic_by_id(partition.topic_id)?.partition(partition.partition)
    }

    pub fn partition_of(&self, topic: &str, partition: PartitionId) -> Option<&Arc<PartitionState>> {
        self.topic(topic)?.partition(partition)
    }

    /// The configuration of an entity; none if nothing was ever set.
    pub fn config(&self, entity: &ConfigEntity) -> Option<&Arc<ConfigImage>> {
        self.configs.get(entity)
    }

    /// The entries that are set on the topic itself; empty if there are none.
    pub fn topic_overrides(&self, topic: &str) -> BTreeMap<String, String> {
        self.config(&ConfigEntity::topic(topic)).map(|config| config.entries.clone()).unwrap_or_default()
    }

    /// Whether the configuration says that no log directory of the broker gets new replicas (`cordoned.log.dirs=*`).
    /// Directories that are named one by one are the broker's own matter: only it knows which it has.
    pub fn is_cordoned(&self, broker: BrokerId) -> bool {
        // As in Kafka, the key is set on one broker, never on all.
        let set = self.config(&ConfigEntity::broker(broker)).and_then(|one| one.entries.get(CordonedLogDirs::KEY));
        set.is_some_and(|value| CordonedLogDirs::parse(value).are_all())
    }

    pub fn configs(&self) -> impl Iterator<Item = (&ConfigEntity, &Arc<ConfigImage>)> {
        self.configs.iter()
    }

    /// Whether the configurations are those of another image, without a look at them.
    #[inline]
    pub fn shares_configs(&self, other: &Self) -> bool {
        self.configs.ptr_eq(&other.configs)
    }

    /// The configurations that may hold quotas: those of clients, users and addresses.
    pub fn quota_configs(&self) -> impl Iterator<Item = (&ConfigEntity, &Arc<ConfigImage>)> {
        let first = ConfigEntity { kind: ConfigKind::Clients, name: String::new() };
        let after = ConfigEntity { kind: ConfigKind::Groups, name: String::new() };
        self.configs.range(first..after)
    }

    /// The subscriptions to metrics of clients. One whose entries were all deleted is none.
    pub fn client_metrics(&self) -> impl Iterator<Item = (&ConfigEntity, &Arc<ConfigImage>)> {
        let first = ConfigEntity { kind: ConfigKind::ClientMetrics, name: String::new() };
        self.configs.range(first..).filter(|(_, config)| !config.entries.is_empty())
    }

    /// The rules of the authorizer.
    pub fn acls(&self) -> &Arc<AclIndex> {
        &self.acls
    }

    pub fn delegation_token(&self, id: &str) -> Option<&DelegationToken> {
        self.delegation_tokens.get(id).map(Arc::as_ref)
    }

    /// All delegation tokens with their ids, by id.
    pub fn delegation_tokens(&self) -> impl Iterator<Item = (&str, &DelegationToken)> {
        self.delegation_tokens.iter().map(|(id, token)| (id.as_str(), &**token))
    }

    /// The disk that the tree remembers for a coordinator.
    pub fn coordinator_disk(&self, id: CoordinatorId) -> Option<IncarnationId> {
        self.coordinators.get(&id).map(|coordinator| coordinator.node.disk)
    }

    /// The coordinators that the tree remembers, those that were removed among them.
    pub fn coordinators(&self) -> impl Iterator<Item = (CoordinatorId, &CoordinatorImage)> {
        self.coordinators.iter().map(|(id, coordinator)| (*id, &**coordinator))
    }

    pub fn coordinator(&self, id: CoordinatorId) -> Option<&CoordinatorImage> {
        self.coordinators.get(&id).map(|coordinator| &**coordinator)
    }

    /// The last block of producer ids that was given out.
    pub fn producer_ids(&self) -> Option<ProducerIdBlock> {
        self.producer_ids
    }

    /// Topics whose partition states are still being removed from the tree, in pieces.
    pub fn deleting(&self) -> impl Iterator<Item = (&TopicName, &TopicId)> {
        self.deleting.iter()
    }

    /// The partitions that have a replica on a broker, in order.
    pub fn hosted_by(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.hosted(broker)
    }

    /// The partitions that a broker leads, in order.
    pub fn led_by(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.led_after(broker, None)
    }

    /// The partitions whose ISR contains a broker, in order, including those that it leads.
    pub fn in_sync_on(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.in_sync(broker)
    }

    /// The partitions whose ELR contains a broker, in order.
    pub fn eligible_on(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.eligible(broker)
    }

    /// The partitions that another replica than the preferred one leads, in order.
    pub fn imbalanced(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.imbalanced()
    }

    /// The partitions of all topics; this does not look at them.
    pub fn partition_count(&self) -> usize {
        self.index.count()
    }

    /// The partitions without a leader; this does not look at them.
    pub fn leaderless_count(&self) -> usize {
        self.index.leaderless_count()
    }

    /// The partitions without a leader, in order.
    pub fn leaderless(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.leaderless()
    }

    /// The partitions that are being reassigned, in order.
    pub fn reassigning(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.index.reassigning()
    }

    /// The partitions whose reassignment waits for its turn, in order. One that it is to replace may be under way.
    pub fn queued(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        let topics = self.queued_topics.iter().filter_map(|topic_id| self.topics.get(topic_id));
        topics.flat_map(|topic| {
            topic.queued.keys().map(move |partition| TopicIdPartition { topic_id: topic.id, partition: *partition })
        })
    }

    /// The brokers that reassignments name which wait for their turn, some more than once.
    pub(crate) fn queued_targets(&self) -> impl Iterator<Item = BrokerId> + '_ {
        let topics = self.queued_topics.iter().filter_map(|topic_id| self.topics.get(topic_id));
        topics.flat_map(|topic| topic.queued.values().flatten().copied())
    }

    /// Another topic whose metric name would equal that of `name`.
    pub(crate) fn colliding_topic(&self, name: &TopicName) -> Option<&TopicName> {
        self.metric_names.get(&metric_name(name)?).filter(|other| other.collides_with(name))
    }
}

/// The name in metrics; none if nothing would be replaced and no other topic's name could become it (Kafka compares
/// only names with `.` or `_`).
pub(crate) fn metric_name(name: &TopicName) -> Option<String> {
    name.as_str().contains(['.', '_']).then(|| name.as_str().replace('.', "_"))
}
