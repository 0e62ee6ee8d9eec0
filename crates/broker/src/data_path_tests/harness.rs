//! A cluster in one process: real logs, real sockets between the brokers, and a quorum that is a map behind a lock.
//! Each broker has a runtime of its own, so that it can be killed: the runtime goes, and with it every task and lock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ottla_config::{BrokerConfig, Sources};
use ottla_group_coordinator::shard::BudgetLimits;
use ottla_metadata::controller::{
    AllocatedProducerIds, AlterPartition, AlteredPartition, AlteredPartitions, Answer as Decided, Request, Resigned,
};
use ottla_metadata::image::{Endpoint, LeaderRecoveryState, LeaderSettings};
use ottla_metadata::nodes::{self, topic::TopicNode};
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_metadata::{BrokerRegistration, ConfigEntity, Image, IsrMember, Node, NodeChange, PartitionState, Path};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ControllerEpoch, ErrorCode, IncarnationKey, LeaderEpoch, ListenerName, Offset,
    PartitionEpoch, PartitionId, ProducerEpoch, ProducerId, Revision, TimestampMs, TopicId, TopicIdPartition,
    TopicName,
};
use ottla_network::response::{Answer, Part, Response};
use ottla_network::{AcceptOptions, ConnectionShared, FrameBudget, Service};
use ottla_protocol::RequestHeader;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{
    self, FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
};
use ottla_protocol::messages::produce::{self, PartitionProduceResponse, ProduceCall};
use ottla_protocol::record_batch::BatchBuilder;
use ottla_replica_manager::fetch_session::FetchSessionCache;
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::log_dirs::opening::OpeningProgress;
use ottla_replica_manager::manager::{Coordinators, OpenedLogs, ReplicaManager};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::quorum_handle::{QuorumError, QuorumFuture, QuorumHandle};
use ottla_resources::{BrokerDescriptors, ConnectionLimits, Limits};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::transactions::Verifier;
use crate::auto_creation::AutoCreation;
use crate::broker::Broker;
use crate::groups::GroupCoordinators;
use crate::handlers;
use crate::internal_topic::InternalTopics;
use crate::producer_ids::ProducerIds;
use crate::request::heavy::HeavyWork;
use crate::request::shared_responses::SharedResponses;
use crate::request::{Principal, RequestContext};
use crate::resources::Resources;
use crate::telemetry::Telemetry;
use crate::transactions::TransactionCoordinators;

pub const INTERNAL: &str = "INTERNAL";
pub const CLIENT: &str = "CLIENT";
/// A flag of [`Cluster::new`]: every broker gets another log directory, beside [`Cluster::log_directory`].
pub const SECOND_DIRECTORY: &str = "a second log directory";
pub const FETCH_VERSION: i16 = 17;
/// Everything here happens within milliseconds; a test that waits this long has failed.
/// Reached only where something is wrong: a machine may be busy with other things, and its disk too.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn topic_id(number: u8) -> TopicId {
    TopicId([number; 16])
}

pub fn name(topic: &str) -> TopicName {
    TopicName::new(topic).expect("a valid name")
}

struct Member {
    metadata: Arc<MetadataCache>,
    replicas: Arc<ReplicaManager>,
}

#[derive(Default)]
struct Tree {
    revision: u64,
    nodes: BTreeMap<Path, Node>,
    members: BTreeMap<BrokerId, Member>,
    next_producer_id: i64,
}

/// Decides at once, and tells every broker before it answers.
#[derive(Default)]
pub struct Quorum {
    tree: Mutex<Tree>,
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

    fn set_state(&self, topic: &str, partition: i32, state: &PartitionState) {
        let path = nodes::partition::path(&name(topic), PartitionId(partition));
        self.commit(vec![(path, Some(nodes::partition::encode(state)))]);
    }

    /// A topic whose partitions are all led by the first of `replicas`.
    pub fn create_topic(&self, topic: &str, id: TopicId, partitions: i32, replicas: &[i32], config: &[(&str, &str)]) {
        let brokers: Vec<_> = replicas.iter().map(|id| BrokerId(*id)).collect();
        let assignment = (0..partitions).map(|p| (PartitionId(p), brokers.clone())).collect();
        let mut changes = vec![(
            nodes::topic::path(&name(topic)),
            Some(nodes::topic::encode(&TopicNode { id, assignment, grows_to: 0 })),
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

    /// Whoever else is in the ISR goes on without this one, as leader if need be.
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
struct QuorumLink(Arc<Quorum>, i32);

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

pub struct TestBroker {
    pub id: i32,
    pub broker: Arc<Broker>,
    pub verifier: Arc<Verifier>,
    pub opened: OpenedLogs,
    runtime: Option<Runtime>,
    quorum: Arc<Quorum>,
    _stop: watch::Sender<bool>,
}

pub struct Cluster {
    pub quorum: Arc<Quorum>,
    directory: tempfile::TempDir,
    flags: Vec<(String, String)>,
}

impl Cluster {
    pub fn new(flags: &[(&str, &str)]) -> Self {
        let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { quorum: Arc::default(), directory: tempfile::tempdir().expect("a temporary directory"), flags }
    }

    pub fn log_directory(&self, id: i32) -> PathBuf {
        self.directory.path().join(id.to_string())
    }

    pub fn config(&self, id: i32) -> Arc<BrokerConfig> {
        let directory = self.log_directory(id).display().to_string();
        // A second directory of its own where the test wants one.
        let directory = match self.flags.iter().find(|(key, _)| key == SECOND_DIRECTORY) {
            Some(_) => format!("{directory},{directory}-second"),
            None => directory,
        };
        let mut flags: Vec<(String, String)> = [
            ("coordinator.connect", "127.0.0.1:1"),
            ("broker.id", &id.to_string()),
            ("log.dirs", &directory),
            ("listeners", "INTERNAL://127.0.0.1:0,CLIENT://127.0.0.1:0"),
            ("listener.security.protocol.map", "INTERNAL:PLAINTEXT,CLIENT:PLAINTEXT"),
            ("inter.broker.listener.name", INTERNAL),
        ]
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
        flags.extend(self.flags.iter().filter(|(key, _)| key != SECOND_DIRECTORY).cloned());
        Arc::new(BrokerConfig::load(&Sources { flags, ..Sources::default() }).expect("a valid configuration").config)
    }

    /// Starts a broker that never hears of the cluster, and stops it.
    pub fn start_without_a_tree(&self, id: i32) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let live_config = Arc::new(LiveConfig::new(self.config(id)));
        let identity = Arc::new(Identity::new(IncarnationKey::random(), BrokerId(id)));
        let telemetry = Arc::new(Telemetry::default());
        let limits = BudgetLimits::default();
        let groups =
            GroupCoordinators::new(live_config.fixed(), limits, &identity, telemetry.clone(), runtime.handle());
        let replicas = ReplicaManager::new(
            live_config,
            identity,
            Arc::new(MetadataCache::new(Arc::new(Image::empty()))),
            Arc::new(QuorumLink(self.quorum.clone(), id)),
            groups,
            telemetry.replicas.clone(),
            runtime.handle().clone(),
        )
        .expect("the directory can be used");
        replicas.open_logs(&OpeningProgress::default()).expect("the logs open");
        replicas.shutdown_clean(BrokerEpoch::NONE).expect("nothing can go wrong");
    }

    /// Starts a broker with whatever its directory holds, registers it and gives it the tree.
    pub fn start(&self, id: i32) -> TestBroker {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let config = self.config(id);
        let identity = Arc::new(Identity::new(IncarnationKey::random(), BrokerId(id)));
        let metadata = Arc::new(MetadataCache::new(Arc::new(Image::empty())));
        let telemetry = Arc::new(Telemetry::default());
        let quorum: Arc<dyn QuorumHandle> = Arc::new(QuorumLink(self.quorum.clone(), id));
        let live_config = Arc::new(LiveConfig::new(config.clone()));
        let resources = Resources::new(&config, 16 << 30, BrokerDescriptors::of(20_000));
        let limits = resources.group_limits();
        let groups = GroupCoordinators::new(&config, limits, &identity, telemetry.clone(), runtime.handle());
        let producer_ids = ProducerIds::new(quorum.clone());
        let transactions =
            TransactionCoordinators::new(&config, &metadata, producer_ids.clone(), telemetry.clone(), runtime.handle());
        let coordinators: Vec<Arc<dyn Coordinators>> = vec![groups.clone(), transactions.clone()];
        let replicas = ReplicaManager::new(
            live_config.clone(),
            identity.clone(),
            metadata.clone(),
            quorum.clone(),
            Arc::new(coordinators),
            telemetry.replicas.clone(),
            runtime.handle().clone(),
        )
        .expect("the directory can be used");
        let opened = replicas.open_logs(&OpeningProgress::default()).expect("the logs open");
        let shared = Arc::new(ConnectionShared::new(
            identity.clone(),
            telemetry.network.clone(),
            config.socket_request_max_bytes,
            FrameBudget::new(1 << 28),
            Arc::clone(&resources.responses),
            None,
        ));
        let bound = ottla_network::bind(&ListenerName::new(INTERNAL), "127.0.0.1", 0, true, 50).expect("a free port");
        let port = bound.address.port();
        let options = AcceptOptions { send_buffer_bytes: None, receive_buffer_bytes: None };
        let limits = Arc::new(ConnectionLimits::new(|_| Limits { total: 100, kept_for_brokers: 0, per_ip: 100 }));
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(ottla_network::accept(bound, shared.clone(), limits, options, stopped));

        let registration = BrokerRegistration {
            id: BrokerId(id),
            epoch: BrokerEpoch::NONE,
            incarnation: identity.incarnation(),
            endpoints: [INTERNAL, CLIENT]
                .map(|listener| Endpoint {
                    listener: ListenerName::new(listener),
                    host: "127.0.0.1".to_owned(),
                    port,
                    security_protocol: "PLAINTEXT".to_owned(),
                })
                .to_vec(),
            inter_broker_listener: ListenerName::new(INTERNAL),
            rack: None,
            ready: true,
            shutting_down: false,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            registered_at: TimestampMs(0),
        };
        // A new node each time: its revision is the broker's epoch.
        let path = nodes::broker::path(BrokerId(id));
        self.quorum.commit(vec![(path.clone(), None)]);
        let revision = self.quorum.commit(vec![(path, Some(nodes::broker::encode(&registration)))]);
        let cluster_id = ClusterId::new("test");
        replicas.write_meta_properties(BrokerId(id), &cluster_id).expect("the directory can be written");
        replicas.remember_registration(BrokerEpoch::from(revision));
        identity.registered(BrokerId(id), BrokerEpoch::from(revision));
        let verifier = Arc::new(Verifier::default());
        let broker = Arc::new(Broker {
            live_config,
            identity,
            cluster_id,
            metadata: metadata.clone(),
            replicas: replicas.clone(),
            fetch_sessions: FetchSessionCache::new(
                config.max_incremental_fetch_session_cache_slots,
                Arc::clone(&resources.parked),
            ),
            groups,
            transactions,
            producer_ids,
            config,
            quorum,
            telemetry,
            resources,
            auto_creation: AutoCreation::default(),
            heavy_work: HeavyWork::default(),
            metadata_responses: SharedResponses::default(),
            internal_topics: InternalTopics::default(),
            transaction_verifier: verifier.clone(),
        });
        shared.gate.open(broker.clone());
        {
            let mut tree = self.quorum.tree.lock();
            let (image, delta) = Image::from_nodes(Revision(tree.revision), &tree.nodes);
            let image = Arc::new(image);
            metadata.store(image.clone());
            replicas.apply(&image, &delta);
            metadata.announce();
            tree.members.insert(BrokerId(id), Member { metadata, replicas });
        }
        drop(_inside);
        TestBroker { id, broker, verifier, opened, runtime: Some(runtime), quorum: self.quorum.clone(), _stop: stop }
    }

    pub fn start_all(&self, ids: &[i32]) -> Vec<TestBroker> {
        ids.iter().map(|id| self.start(*id)).collect()
    }
}

impl TestBroker {
    fn leave(&mut self) {
        self.quorum.tree.lock().members.remove(&BrokerId(self.id));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// What its followers' fetches show.
    pub fn incarnation_key(&self) -> IncarnationKey {
        self.broker.identity.key().clone()
    }

    /// Ends at once: nothing is flushed, closed or said. The tree still has it.
    pub fn kill(mut self) {
        self.broker.replicas.begin_shutdown();
        self.leave();
        self.wait_until_gone();
    }

    /// Whoever is left of the last run would keep a directory's lock.
    fn wait_until_gone(self) {
        let replicas = Arc::downgrade(&self.broker.replicas);
        let directories: Vec<_> = self.broker.replicas.log_dirs().all().iter().map(Arc::downgrade).collect();
        drop(self);
        eventually("everything of the last run is gone", || {
            replicas.strong_count() == 0 && directories.iter().all(|directory| directory.strong_count() == 0)
        });
    }

    /// Ends as after SIGTERM.
    pub fn shut_down(mut self) {
        self.broker.replicas.shutdown_clean(self.broker.identity.epoch()).expect("the logs close");
        self.leave();
        self.wait_until_gone();
    }

    pub fn partition(&self, topic: TopicId, partition: i32) -> Arc<Partition> {
        let id = TopicIdPartition { topic_id: topic, partition: PartitionId(partition) };
        self.broker.replicas.partition(id).expect("the partition is hosted")
    }

    pub fn log_end(&self, topic: TopicId, partition: i32) -> Offset {
        self.partition(topic, partition).with_log(|log| log.log_end_offset()).expect("the log is open")
    }

    /// The bytes of a whole log.
    pub fn log_bytes(&self, topic: TopicId, partition: i32) -> Bytes {
        self.partition(topic, partition)
            .with_log(|log| {
                let end = log.log_end_offset();
                log.read(log.log_start_offset(), usize::MAX, end, true).expect("readable").read().expect("cached")
            })
            .expect("the log is open")
    }

    pub fn context(&self, listener: &str) -> RequestContext {
        RequestContext {
            listener: ListenerName::new(listener),
            is_inter_broker_listener: listener == INTERNAL,
            principal: Principal::Anonymous,
            peer: ([127, 0, 0, 1], 1).into(),
            connection_id: 1,
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("running")
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    /// Hands a request to its handler: the answer may still be to come.
    pub fn ask(&self, listener: &str, handle: Handler, version: i16, frame: &[u8]) -> Asked<'_> {
        let _inside = self.runtime().enter();
        let (header, start) = ottla_protocol::parse_header(&frame[4..]).expect("a valid header");
        assert_eq!(header.api_version, version);
        let body = BytesMut::from(&frame[4 + start..]);
        let mut answer = handle(&self.broker, &self.context(listener), header, body);
        while let Answer::Held(future) = answer {
            answer = self.runtime().block_on(async { tokio::time::timeout(PATIENCE, future).await }).expect("in time");
        }
        Asked { broker: self, answer }
    }

    /// Hands a whole frame to the handler of its API.
    pub fn dispatch(&self, listener: &str, frame: &[u8]) -> Asked<'_> {
        let _inside = self.runtime().enter();
        let answer = Service::handle(&self.broker, &self.context(listener), BytesMut::from(&frame[4..]));
        Asked { broker: self, answer }
    }

    pub fn produce(
        &self,
        topic: TopicRef,
        partition: i32,
        batch: &[u8],
        acks: i16,
        timeout_ms: i32,
    ) -> PartitionProduceResponse {
        self.begin_produce(topic, partition, batch, acks, timeout_ms).produced()
    }

    pub fn begin_produce(
        &self,
        topic: TopicRef,
        partition: i32,
        batch: &[u8],
        acks: i16,
        timeout_ms: i32,
    ) -> Asked<'_> {
        let version = if matches!(topic, TopicRef::Id(_)) { 13 } else { 12 };
        self.begin_produce_in(version, None, topic, partition, batch, acks, timeout_ms)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a request")]
    pub fn begin_produce_in(
        &self,
        version: i16,
        transactional_id: Option<&str>,
        topic: TopicRef,
        partition: i32,
        batch: &[u8],
        acks: i16,
        timeout_ms: i32,
    ) -> Asked<'_> {
        let call = ProduceCall {
            transactional_id: transactional_id.map(str::to_owned),
            acks,
            timeout_ms,
            topics: vec![(topic, vec![(PartitionId(partition), Bytes::copy_from_slice(batch))])],
        };
        let frame = produce::encode_request(version, 7, None, &call).expect("a small frame");
        self.ask(CLIENT, handlers::produce::handle, version, &frame)
    }

    pub fn begin_fetch(&self, listener: &str, request: &FetchRequest) -> Asked<'_> {
        let frame = fetch::encode_request(FETCH_VERSION, 7, None, request).expect("a small frame");
        self.ask(listener, handlers::fetch::handle, FETCH_VERSION, &frame)
    }

    pub fn fetch(&self, request: &FetchRequest) -> FetchResponse<Bytes> {
        self.begin_fetch(CLIENT, request).fetched()
    }

    /// The response to a fetch of a version that names topics, which old clients send.
    pub fn fetch_at_version(&self, version: i16, request: &FetchRequest) -> FetchResponse<Bytes> {
        let frame = fetch::encode_request(version, 7, None, request).expect("a small frame");
        let response = self.ask(CLIENT, handlers::fetch::handle, version, &frame).frame();
        fetch::decode_response(version, &response).expect("a fetch response").1
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.leave();
    }
}

type Handler = fn(&Arc<Broker>, &RequestContext, RequestHeader, BytesMut) -> Answer;

/// A request that was handled, with its answer or the wait for it.
pub struct Asked<'b> {
    broker: &'b TestBroker,
    answer: Answer,
}

impl Asked<'_> {
    pub fn is_ready(&mut self) -> bool {
        if let Answer::Later(future) = &mut self.answer {
            let polled = self.broker.runtime().block_on(futures::future::poll_immediate(future));
            if let Some(response) = polled {
                self.answer = Answer::Ready(response);
            }
        }
        matches!(self.answer, Answer::Ready(_))
    }

    fn response(self) -> Response {
        match self.answer {
            Answer::Ready(response) => response,
            Answer::Later(future) => self
                .broker
                .runtime()
                .block_on(async { tokio::time::timeout(PATIENCE, future).await })
                .expect("an answer in time"),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The frame without its length.
    pub fn frame(self) -> Bytes {
        let mut frame = BytesMut::new();
        for part in self.response().parts {
            match part {
                Part::Bytes(bytes) => frame.extend_from_slice(&bytes),
                Part::Records(slice) => frame.extend_from_slice(&slice.read().expect("readable")),
            }
        }
        frame.freeze().slice(4..)
    }

    /// The bytes that the answer puts on the wire: none if the connection is closed or nothing is answered.
    pub fn wire_bytes(self) -> usize {
        match self.answer {
            Answer::Close(_) | Answer::None => 0,
            _ => self.response().size_bytes(),
        }
    }

    /// Whether the response was there when the handler returned.
    pub fn is_immediate(&self) -> bool {
        matches!(self.answer, Answer::Ready(_))
    }

    pub fn closes(&self) -> bool {
        matches!(self.answer, Answer::Close(_))
    }

    pub fn has_no_answer(&self) -> bool {
        matches!(self.answer, Answer::None)
    }

    pub fn produced(self) -> PartitionProduceResponse {
        // Both versions that are used have the same form but for how the topic is named, which is not looked at.
        let frame = self.frame();
        let (_, response) = produce::decode_response(13, &frame)
            .or_else(|_| produce::decode_response(12, &frame))
            .expect("a produce response");
        response.topics[0].partitions[0].clone()
    }

    pub fn fetched(self) -> FetchResponse<Bytes> {
        fetch::decode_response(FETCH_VERSION, &self.frame()).expect("a fetch response").1
    }
}

pub fn batch(values: &[&str]) -> BytesMut {
    builder(values).build().expect("a batch")
}

pub fn idempotent(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> BytesMut {
    builder(values).producer(ProducerId(producer), ProducerEpoch(epoch), sequence).build().expect("a batch")
}

pub fn builder(values: &[&str]) -> BatchBuilder {
    values.iter().fold(BatchBuilder::new(), |batch, value| {
        batch.record(ottla_replica_manager::clock::wall(), None, Some(value.as_bytes()))
    })
}

pub fn wanted(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition {
        partition: PartitionId(partition),
        current_leader_epoch: LeaderEpoch::NONE,
        fetch_offset: Offset(offset),
        last_fetched_epoch: LeaderEpoch::NONE,
        log_start_offset: Offset::UNKNOWN,
        max_bytes: 1 << 20,
        replica_directory_id: [0; 16],
        high_watermark: None,
    }
}

/// A consumer's fetch of some partitions of one topic.
pub fn fetch_of(topic: TopicId, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topics =
        if partitions.is_empty() { Vec::new() } else { vec![FetchTopic { topic: TopicRef::Id(topic), partitions }] };
    FetchRequest { topics, max_bytes: 1 << 20, min_bytes: 1, ..FetchRequest::default() }
}

pub fn only(response: &FetchResponse<Bytes>) -> &FetchPartitionResponse<Bytes> {
    assert_eq!(response.topics.len(), 1, "one topic");
    assert_eq!(response.topics[0].partitions.len(), 1, "one partition");
    &response.topics[0].partitions[0]
}

pub fn partitions_of(response: &FetchResponse<Bytes>) -> Vec<i32> {
    let mut partitions: Vec<_> =
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.partition.0).collect();
    partitions.sort_unstable();
    partitions
}
