//! Brokers start, on what their directories hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ottla_config::{BrokerConfig, Sources};
use ottla_group_coordinator::shard::BudgetLimits;
use ottla_metadata::image::{Endpoint, LeaderSettings};
use ottla_metadata::nodes;
use ottla_metadata::{BrokerRegistration, Image};
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, IncarnationKey, ListenerName, Revision, TimestampMs};
use ottla_network::{AcceptOptions, ConnectionShared, FrameBudget, ListenerSecurity};
use ottla_replica_manager::fetch_session::FetchSessionCache;
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::log_dirs::opening::OpeningProgress;
use ottla_replica_manager::manager::{Coordinators, ReplicaManager, ReplicaManagerError};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::QuorumHandle;
use ottla_replica_manager::suspects::HOLD_MAX;
use ottla_resources::{BrokerDescriptors, ConnectionLimits, Limits};
use ottla_storage::{DirectoryError, LogDirsError};
use tokio::runtime::Builder;
use tokio::sync::watch;

use super::super::transactions::Verifier;
use super::broker::TestBroker;
use super::quorum::{Member, Quorum, QuorumLink};
use super::{CLIENT, INTERNAL, SECOND_DIRECTORY, eventually};
use crate::authorization::Authorization;
use crate::auto_creation::AutoCreation;
use crate::broker::Broker;
use crate::delegation_tokens::Tokens;
use crate::groups::GroupCoordinators;
use crate::internal_topic::InternalTopics;
use crate::producer_ids::ProducerIds;
use crate::quotas::ClientQuotas;
use crate::request::heavy::HeavyWork;
use crate::request::shared_responses::SharedResponses;
use crate::resources::Resources;
use crate::telemetry::Telemetry;
use crate::transactions::TransactionCoordinators;

pub struct Cluster {
    pub quorum: Arc<Quorum>,
    directory: tempfile::TempDir,
    flags: Vec<(String, String)>,
    /// How long brokers that start from now on hold an answer that would name a dead leader.
    pub hold_max: Duration,
}

impl Cluster {
    pub fn new(flags: &[(&str, &str)]) -> Self {
        let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { quorum: Arc::default(), directory, flags, hold_max: HOLD_MAX }
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
            Arc::new(MetadataCache::new(Arc::new(Image::empty()), self.hold_max)),
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
        let metadata = Arc::new(MetadataCache::new(Arc::new(Image::empty()), self.hold_max));
        let telemetry = Arc::new(Telemetry::default());
        let quorum: Arc<dyn QuorumHandle> = Arc::new(QuorumLink(self.quorum.clone(), id));
        let live_config = Arc::new(LiveConfig::new(config.clone()));
        let resources = Resources::new(&config, 16 << 30, BrokerDescriptors::of(20_000));
        let limits = resources.group_limits();
        let groups = GroupCoordinators::new(&config, limits, &identity, telemetry.clone(), runtime.handle());
        let producer_ids = ProducerIds::new(quorum.clone(), runtime.handle());
        let transactions = TransactionCoordinators::new(
            &live_config,
            &metadata,
            producer_ids.clone(),
            resources.transactional_ids.clone(),
            telemetry.clone(),
            runtime.handle(),
        );
        let coordinators: Vec<Arc<dyn Coordinators>> = vec![groups.clone(), transactions.clone()];
        let replicas = lock_directories(|| {
            ReplicaManager::new(
                live_config.clone(),
                identity.clone(),
                metadata.clone(),
                quorum.clone(),
                Arc::new(coordinators.clone()),
                telemetry.replicas.clone(),
                runtime.handle().clone(),
            )
        });
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
        let limits = Arc::new(ConnectionLimits::new(|_, _| Limits {
            total: 100,
            kept_for_brokers: 0,
            of_listener: 100,
            per_ip: 100,
        }));
        let (stop, stopped) = watch::channel(false);
        let security = ListenerSecurity::plaintext();
        runtime.spawn(ottla_network::accept(bound, security, shared.clone(), limits, options, stopped));

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
            rack: Some(format!("rack-{id}")),
            ready: true,
            shutting_down: false,
            awaits_clients: false,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
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
                resources.session_bytes,
                Arc::clone(&resources.parked),
            ),
            groups,
            transactions,
            producer_ids,
            quotas: ClientQuotas::new(&config, &metadata),
            authorization: Authorization::new(config.authorizer.as_ref()),
            audit: None,
            tokens: Tokens::new(config.delegation_tokens.as_ref()).map(Arc::new),
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

/// Starts a broker's replicas as soon as the last run has released the locks of the directories. A lock outlives the
/// last handle of its directory by a moment: the thread that drops this handle closes the lock's file after the count
/// of handles is zero, and a process that another test forks holds the open file until it executes its program.
fn lock_directories(
    mut start: impl FnMut() -> Result<Arc<ReplicaManager>, ReplicaManagerError>,
) -> Arc<ReplicaManager> {
    let mut started = None;
    eventually("the last run has released its directories", || match start() {
        Err(ReplicaManagerError::Unusable(LogDirsError::Directory(DirectoryError::InUse { .. }))) => false,
        result => {
            started = Some(result.expect("the directories can be used"));
            true
        }
    });
    started.expect("they were locked")
}
