//! The tree of a cluster, and the decisions of its quorum: at once, with every broker told before the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::controller::{
    AllocatedProducerIds, AlterPartition, AlteredPartition, AlteredPartitions, Answer as Decided, Request, Resigned,
};
use ottla_metadata::image::LeaderRecoveryState;
use ottla_metadata::nodes::{self, topic::TopicNode};
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_metadata::{ConfigEntity, Image, IsrMember, Node, NodeChange, PartitionState, Path};
use ottla_model::{
    BrokerEpoch, BrokerId, ControllerEpoch, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionId, Revision, TopicId,
    TopicIdPartition,
};
use ottla_replica_manager::manager::ReplicaManager;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::{QuorumError, QuorumFuture, QuorumHandle};
use parking_lot::Mutex;

use super::{eventually, name};

pub(super) struct Member {
    pub(super) metadata: Arc<MetadataCache>,
    pub(super) replicas: Arc<ReplicaManager>,
}

#[derive(Default)]
pub(super) struct Tree {
    pub(super) revision: u64,
    pub(super) nodes: BTreeMap<Path, Node>,
    pub(super) members: BTreeMap<BrokerId, Member>,
    next_producer_id: i64,
}

/// Decides at once, and tells every broker before it answers.
#[derive(Default)]
pub struct Quorum {
    pub(super) tree: Mutex<Tree>,
    /// ISR changes get no answer.
    pub silent: std::sync::atomic::AtomicBool,
}

impl Quorum {
    /// Writes nodes and tells the brokers.
    pub fn commit(&self, changes: Vec<(Path, Option<Bytes>)>) -> Revision {
        let mut tree = self.tree.lock();
        tree.revision += 1;
        let revision = Revision(tree.revision);
        let mut list = Vec::new();
        for (path, payload) in changes {
            let node = payload.map(|payload| {
                let created = tree.nodes.get(&path).map_or(revision, |node| node.created);
                Node { payload, created, modified: revision, version: 0 }
            });
            match &node {
                Some(node) => tree.nodes.insert(path.clone(), node.clone()),
                None => tree.nodes.remove(&path),
            };
            list.push(NodeChange { path, node });
        }
        for member in tree.members.values() {
            let (image, delta) = member.metadata.current().apply(revision, &list);
            let image = Arc::new(image);
            member.metadata.store(image.clone());
            member.replicas.apply(&image, &delta);
            member.metadata.announce();
        }
        revision
    }

    fn image(&self) -> (Revision, Image) {
        let tree = self.tree.lock();
        (Revision(tree.revision), Image::from_nodes(Revision(tree.revision), &tree.nodes).0)
    }

    pub fn state(&self, topic: &str, partition: i32) -> PartitionState {
        let (_, image) = self.image();
        (**image.partition_of(topic, PartitionId(partition)).expect("the partition exists")).clone()
    }

    pub fn isr(&self, topic: &str, partition: i32) -> Vec<i32> {
        let mut isr: Vec<_> = self.state(topic, partition).isr_ids().map(|id| id.0).collect();
        isr.sort_unstable();
        isr
    }

    pub fn epoch_of(&self, broker: i32) -> BrokerEpoch {
        self.image().1.broker_epoch(BrokerId(broker)).unwrap_or(BrokerEpoch::NONE)
    }

    /// Gives a partition another leader and ISR, in the next leader epoch.
    pub fn elect(&self, topic: &str, partition: i32, leader: i32, isr: &[i32]) {
        let state = self.state(topic, partition);
        let members = isr.iter().map(|id| IsrMember { broker: BrokerId(*id), epoch: self.epoch_of(*id) }).collect();
        let next = PartitionState {
            leader: BrokerId(leader),
            leader_epoch: state.leader_epoch.next(),
            partition_epoch: state.partition_epoch.next(),
            isr: members,
            ..state
        };
        self.set_state(topic, partition, &next);
    }

    /// Takes a broker's registration out of the tree.
    pub fn fence(&self, broker: i32) {
        self.commit(vec![(nodes::broker::path(BrokerId(broker)), None)]);
    }

    /// Another ISR under the same leader.
    pub fn set_isr(&self, topic: &str, partition: i32, isr: &[i32]) {
        let state = self.state(topic, partition);
        let isr = isr.iter().map(|id| IsrMember { broker: BrokerId(*id), epoch: self.epoch_of(*id) }).collect();
        let next = PartitionState { partition_epoch: state.partition_epoch.next(), isr, ..state };
        self.set_state(topic, partition, &next);
    }

    /// Other replicas, under the same leader, for a topic of one partition.
    pub fn set_replicas(&self, topic: &str, id: TopicId, replicas: &[i32]) {
        let state = self.state(topic, 0);
        let replicas: Vec<_> = replicas.iter().map(|id| BrokerId(*id)).collect();
        let assignment = vec![(PartitionId(0), replicas.clone().into())];
        let node = TopicNode { id, assignment, grows_to: 0, queued: Default::default() };
        let isr = state.isr.iter().filter(|member| replicas.contains(&member.broker)).copied().collect();
        let next = PartitionState { partition_epoch: state.partition_epoch.next(), replicas, isr, ..state };
        self.commit(vec![
            (nodes::topic::path(&name(topic)), Some(nodes::topic::encode(&node))),
            (nodes::partition::path(&name(topic), PartitionId(0)), Some(nodes::partition::encode(&next))),
        ]);
    }

    fn set_state(&self, topic: &str, partition: i32, state: &PartitionState) {
        let path = nodes::partition::path(&name(topic), PartitionId(partition));
        self.commit(vec![(path, Some(nodes::partition::encode(state)))]);
    }

    /// A topic whose partitions are all led by the first of `replicas`.
    pub fn create_topic(&self, topic: &str, id: TopicId, partitions: i32, replicas: &[i32], config: &[(&str, &str)]) {
        let brokers: Vec<_> = replicas.iter().map(|id| BrokerId(*id)).collect();
        let assignment = (0..partitions).map(|p| (PartitionId(p), brokers.clone().into())).collect();
        let mut changes = vec![(
            nodes::topic::path(&name(topic)),
            Some(nodes::topic::encode(&TopicNode { id, assignment, grows_to: 0, queued: Default::default() })),
        )];
        if !config.is_empty() {
            let entries = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            changes.push((ConfigEntity::topic(topic).path(), Some(nodes::config::encode(&entries))));
        }
        let state = PartitionState {
            leader: brokers[0],
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            controller_epoch: ControllerEpoch(1),
            isr: brokers.iter().map(|id| IsrMember { broker: *id, epoch: self.epoch_of(id.0) }).collect(),
            replicas: brokers,
            reassignment: None,
            elr: vec![],
            offline: vec![],
            last_known_elr: vec![],
            last_known_leader: BrokerId::NONE,
            leader_recovery_state: LeaderRecoveryState::Recovered,
        };
        for partition in 0..partitions {
            let path = nodes::partition::path(&name(topic), PartitionId(partition));
            changes.push((path, Some(nodes::partition::encode(&state))));
        }
        self.commit(changes);
        self.await_logs(id);
    }

    /// Waits until the brokers have made the topic's logs: a delta does so for half a second only, and a busy disk may
    /// take longer. Of a directory that makes none (stalled, full, failed) nothing is expected.
    fn await_logs(&self, topic: TopicId) {
        let hosted = |member: &Member| member.replicas.partitions();
        let partitions: Vec<_> = self.tree.lock().members.values().flat_map(hosted).collect();
        for partition in partitions.iter().filter(|partition| partition.id().topic_id == topic) {
            let is_expected = || !partition.directory().health().is_unusable();
            eventually("a new log is there", || !is_expected() || partition.with_log(|_| ()).is_some());
        }
    }

    /// What is set on a topic, from now on.
    pub fn configure_topic(&self, topic: &str, config: &[(&str, &str)]) {
        let entries = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.commit(vec![(ConfigEntity::topic(topic).path(), Some(nodes::config::encode(&entries)))]);
    }

    /// What is set on a broker, from now on.
    pub fn configure_broker(&self, id: i32, config: &[(&str, &str)]) {
        let entries = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.commit(vec![(ConfigEntity::broker(BrokerId(id)).path(), Some(nodes::config::encode(&entries)))]);
    }

    pub fn delete_topic(&self, topic: &str, partitions: i32) {
        let mut changes = vec![(nodes::topic::path(&name(topic)), None)];
        for partition in 0..partitions {
            changes.push((nodes::partition::path(&name(topic), PartitionId(partition)), None));
        }
        self.commit(changes);
    }

    fn alter(&self, changes: &[AlterPartition]) -> AlteredPartitions {
        let (_, image) = self.image();
        let mut partitions = Vec::new();
        for change in changes {
            let id = change.partition;
            let mut answer = AlteredPartition {
                partition: id,
                error: ErrorCode::UnknownTopicId,
                leader: BrokerId::NONE,
                leader_epoch: LeaderEpoch::NONE,
                partition_epoch: PartitionEpoch(-1),
                isr: Vec::new(),
            };
            if let (Some(topic), Some(state)) = (image.topic_by_id(id.topic_id), image.partition(id)) {
                let eligible = change.isr.iter().all(|member| image.broker_epoch(member.broker) == Some(member.epoch));
                answer.error = if state.leader_epoch != change.leader_epoch {
                    ErrorCode::FencedLeaderEpoch
                } else if state.partition_epoch != change.partition_epoch {
                    ErrorCode::InvalidUpdateVersion
                } else if !eligible {
                    ErrorCode::IneligibleReplica
                } else {
                    ErrorCode::None
                };
                if answer.error == ErrorCode::None {
                    let next = PartitionState {
                        isr: change.isr.clone(),
                        partition_epoch: state.partition_epoch.next(),
                        ..(**state).clone()
                    };
                    answer.leader = next.leader;
                    answer.leader_epoch = next.leader_epoch;
                    answer.partition_epoch = next.partition_epoch;
                    answer.isr = next.isr_ids().collect();
                    self.set_state(topic.name.as_str(), id.partition.0, &next);
                }
            }
            partitions.push(answer);
        }
        AlteredPartitions { error: ErrorCode::None, partitions, revision: Revision(0) }
    }

    /// The other ISR members stay; the first of them leads if this broker did.
    fn resign(&self, local: i32, partitions: &[TopicIdPartition]) -> Resigned {
        let (revision, image) = self.image();
        for id in partitions {
            let (Some(topic), Some(state)) = (image.topic_by_id(id.topic_id), image.partition(*id)) else { continue };
            let others: Vec<i32> = state.isr_ids().map(|broker| broker.0).filter(|id| *id != local).collect();
            match others.first() {
                Some(next) if state.leader.0 == local => {
                    self.elect(topic.name.as_str(), id.partition.0, *next, &others);
                }
                Some(_) => self.set_isr(topic.name.as_str(), id.partition.0, &others),
                None => {}
            }
        }
        Resigned { error: ErrorCode::None, revision }
    }

    fn allocate_producer_ids(&self) -> AllocatedProducerIds {
        let mut tree = self.tree.lock();
        let first = tree.next_producer_id;
        tree.next_producer_id += 1_000;
        AllocatedProducerIds { first, count: 1_000 }
    }
}

/// The quorum as one broker reaches it.
pub(super) struct QuorumLink(pub(super) Arc<Quorum>, pub(super) i32);

impl QuorumHandle for QuorumLink {
    fn registration(&self) -> Result<(BrokerId, BrokerEpoch), QuorumError> {
        Ok((BrokerId(self.1), self.0.epoch_of(self.1)))
    }

    fn decide(&self, request: Request, _: Duration) -> QuorumFuture<Decided> {
        let (quorum, local) = (self.0.clone(), self.1);
        Box::pin(async move {
            match request {
                Request::AlterPartitions(_) if quorum.silent.load(std::sync::atomic::Ordering::Acquire) => {
                    Err(QuorumError::Unknown("nobody answers".to_owned()))
                }
                Request::AlterPartitions(alter) => Ok(Decided::AlterPartitions(quorum.alter(&alter.partitions))),
                Request::ResignLeadership(resign) => {
                    Ok(Decided::ResignLeadership(quorum.resign(local, &resign.partitions)))
                }
                Request::AllocateProducerIds(_) => Ok(Decided::AllocateProducerIds(Ok(quorum.allocate_producer_ids()))),
                _ => Err(QuorumError::NotRegistered),
            }
        })
    }

    fn progress(&self, _: Duration) -> QuorumFuture<QuorumProgress> {
        Box::pin(async { Err(QuorumError::NotRegistered) })
    }
}
