//! The life of a broker: bind, open the logs, register, follow the tree, serve; and the way out.
//!
//! Order matters. The ports are bound first, so that one in use is said at once. Connections are accepted from then on,
//! but until this broker is part of the cluster only ApiVersions is answered: a coordinator that dials the address of
//! the broker's former life learns from it that it was replaced. The registration names the endpoints, so it comes
//! after the ports and the logs. Clients are served once the image shows the registration as ready.

mod data_runtime;
mod quorum_client;
mod session;
mod shutdown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ottla_broker_session::{Applicant, BrokenRules, SessionConfig};
use ottla_config::{BrokerConfig, HostPort, Listener};
use ottla_metadata::controller::{CreateTopics, NewTopic, Registered};
use ottla_metadata::{Endpoint, Image, LeaderSettings};
use ottla_model::{BrokerEpoch, BrokerId, Chroot, ClusterId, ErrorCode, FeatureLevels, IncarnationKey, ListenerName};
use ottla_network::{AcceptOptions, BindError, BoundListener, ConnectionShared, FrameBudget, ListenerSecurity};
use ottla_protocol::messages::TopicRef;
use ottla_replica_manager::fetch_session::FetchSessionCache;
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::manager::{Coordinators, OpenedLogs, ReplicaManager, ReplicaManagerError};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::QuorumHandle;
use ottla_replica_manager::suspects::HOLD_MAX;
use ottla_resources::{ConnectionLimits, Usage, core_dumps};
use ottla_rpc::{CallError, ClusterClient, ports};
use ottla_tls::TlsError;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use data_runtime::DataRuntime;

use crate::audit::AuditLog;
use crate::authorization::Authorization;
use crate::auto_creation::AutoCreation;
use crate::broker::Broker;
use crate::delegation_tokens::{self, Tokens};
use crate::first_users;
use crate::groups::GroupCoordinators;
use crate::internal_topic::InternalTopics;
use crate::producer_ids::ProducerIds;
use crate::quotas::ClientQuotas;
use crate::request::heavy::HeavyWork;
use crate::request::shared_responses::SharedResponses;
use crate::resources::Resources;
use crate::security::{self, SecurityError};
use crate::telemetry::Telemetry;
use crate::telemetry::http;
use crate::telemetry::readiness::{Readiness, Stage};
use crate::transactions::TransactionCoordinators;
use crate::transactions::verification::Verifier;
use crate::watch::{WatchContext, Watching};
use quorum_client::QuorumClient;
use session::{RegistrationDisk, SessionContext, SessionEvent, SessionRunner};

/// For closing the logs. With the other bounds of the way out it stays below ten seconds.
const CLOSE_LOGS_MAX: Duration = Duration::from_secs(5);
/// A progress line this often, while there is nothing to do but wait.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Why a broker cannot run; one line for people, and exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Bind(#[from] BindError),
    #[error("{0}")]
    Security(#[from] SecurityError),
    #[error("audit.log.path: {0}")]
    Audit(#[source] io::Error),
    #[error("http.port: {address}: {source}{held_by}")]
    Http { address: HostPort, source: io::Error, held_by: String },
    #[error("{0}")]
    Logs(#[from] ReplicaManagerError),
    #[error("zookeeper.ssl.client.enable: {0}")]
    CoordinatorTls(#[source] TlsError),
    #[error("coordinator.connect: {0}")]
    Coordinators(#[source] CallError),
    #[error("broker.id={configured}: {stored} is the id in {path}")]
    OtherId { configured: BrokerId, stored: BrokerId, path: PathBuf },
    #[error("another cluster: {message}")]
    OtherCluster { message: String },
    #[error("broker.id={id} is in use: {message}")]
    DuplicateId { id: BrokerId, message: String },
    #[error("the quorum refuses this broker: {error:?}: {message}")]
    Refused { error: ErrorCode, message: String },
    #[error("log.dirs: every log directory has failed")]
    NoDirectoryLeft,
    #[error("the runtime does not start: {0}")]
    Runtime(io::Error),
}

/// What is known once clients are served.
#[derive(Clone, Debug)]
pub struct Ready {
    pub id: BrokerId,
    /// What is bound, by listener; ports that the system chose are filled in.
    pub listeners: Vec<(ListenerName, SocketAddr)>,
    pub http: Option<SocketAddr>,
}

/// Runs a broker until `shutdown` completes (a controlled shutdown follows) or it cannot go on. Blocks; the calling
/// thread becomes the control runtime's. `on_ready` is called once clients are served.
pub fn run(
    config: BrokerConfig,
    shutdown: impl Future<Output = ()>,
    on_ready: impl FnOnce(&Ready),
) -> Result<(), RunError> {
    if !config.core_dump_enable {
        core_dumps::forbid();
    }
    let resources = Resources::of_process(&config);
    let mut data = DataRuntime::start(&config).map_err(RunError::Runtime)?;
    let control = Builder::new_current_thread().enable_all().build().map_err(RunError::Runtime)?;
    let result = control.block_on(live(Arc::new(config), resources, &mut data, pin!(shutdown), on_ready));
    data.shut_down();
    control.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Everything that runs for as long as the broker does, and what it is made of.
struct Parts {
    config: Arc<BrokerConfig>,
    identity: Arc<Identity>,
    metadata: Arc<MetadataCache>,
    telemetry: Arc<Telemetry>,
    resources: Arc<Resources>,
    readiness: Arc<Readiness>,
    client: ClusterClient,
    quorum: Arc<dyn QuorumHandle>,
    live_config: Arc<LiveConfig>,
    replicas: Arc<ReplicaManager>,
    groups: Arc<GroupCoordinators>,
    transactions: Arc<TransactionCoordinators>,
    producer_ids: Arc<ProducerIds>,
    quotas: Arc<ClientQuotas>,
    audit: Option<Arc<AuditLog>>,
    tokens: Option<Arc<Tokens>>,
    connections: Arc<ConnectionShared<Broker>>,
    data: Handle,
}

async fn live(
    config: Arc<BrokerConfig>,
    resources: Arc<Resources>,
    data_runtime: &mut DataRuntime,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    on_ready: impl FnOnce(&Ready),
) -> Result<(), RunError> {
    let data = data_runtime.handle().clone();
    let bound = bind(&config).await?;
    let addresses: Vec<_> = bound.iter().map(|listener| (listener.name.clone(), listener.address)).collect();
    for (name, address) in &addresses {
        tracing::info!(listener = %name, %address, "listening");
    }
    let telemetry = Arc::new(Telemetry::default());
    // A beat that is answered late is none that is missing.
    let silence_max = config.broker_session_timeout.max(config.broker_heartbeat_interval.saturating_mul(2));
    let readiness = Arc::new(Readiness::new(silence_max));
    let http = serve_http(&config, &telemetry, &readiness).await?;
    let identity = Arc::new(Identity::new(IncarnationKey::random(), config.broker_id.unwrap_or(BrokerId::NONE)));
    telemetry.broker_epoch.set(BrokerEpoch::NONE.0);
    let chroot = config.chroot.as_ref().map(Chroot::to_string).unwrap_or_default();
    let coordinators: Vec<String> =
        config.coordinator_connect.iter().map(|address| format!("{address}{chroot}")).collect();
    let to_coordinators = security::coordinators(&config).map_err(RunError::CoordinatorTls)?;
    let client = ClusterClient::secured(&coordinators, &to_coordinators);
    let client = client.map_err(RunError::Coordinators)?.showing(identity.key().clone());
    let quorum: Arc<dyn QuorumHandle> =
        Arc::new(QuorumClient::new(client.clone(), Handle::current(), Arc::clone(&identity)));
    let metadata = Arc::new(MetadataCache::new(Arc::new(Image::empty()), HOLD_MAX));
    let live_config = Arc::new(LiveConfig::new(Arc::clone(&config)).with_peers(security::peers(&config)?));
    let audit = AuditLog::start(config.audit.as_ref()).map_err(RunError::Audit)?;
    let tokens = Tokens::new(config.delegation_tokens.as_ref()).map(Arc::new);
    let security::Listeners { security, bearers } =
        security::listeners(&live_config, &metadata, tokens.as_ref(), audit.as_ref())?;
    let limits = resources.group_limits();
    let groups = GroupCoordinators::new(&config, limits, &identity, Arc::clone(&telemetry), &data);
    let producer_ids = ProducerIds::new(Arc::clone(&quorum), &data);
    let ids = Arc::clone(&resources.transactional_ids);
    let transactions = TransactionCoordinators::new(
        &live_config,
        &metadata,
        Arc::clone(&producer_ids),
        ids,
        Arc::clone(&telemetry),
        &data,
    );
    let coordinators: Vec<Arc<dyn Coordinators>> = vec![Arc::clone(&groups) as _, Arc::clone(&transactions) as _];
    let replicas = ReplicaManager::new(
        Arc::clone(&live_config),
        Arc::clone(&identity),
        Arc::clone(&metadata),
        Arc::clone(&quorum),
        Arc::new(coordinators),
        Arc::clone(&telemetry.replicas),
        data.clone(),
    )?;
    let directories = replicas.log_dirs().all().iter().map(|directory| directory.health().clone()).collect();
    let _watch = data_runtime.watch(directories).map_err(RunError::Runtime)?;
    let partitions = Arc::downgrade(&replicas);
    telemetry.groups.high_watermarks_by(move |topic, partition| {
        let found = partitions.upgrade()?.find(&TopicRef::Name(topic.to_owned()), partition);
        found.ok().map(|partition| partition.high_watermark())
    });
    let connections = ConnectionShared::new(
        Arc::clone(&identity),
        Arc::clone(&telemetry.network),
        resources.request_bytes_max(config.socket_request_max_bytes),
        FrameBudget::new(usize::try_from(resources.frame_budget_bytes).unwrap_or(usize::MAX)),
        Arc::clone(&resources.responses),
        Some(config.connections_max_idle),
    );
    let connections = connections.with_strangers(Arc::clone(&resources.strangers));
    let connections = Arc::new(connections.with_unauthenticated(resources.unauthenticated(&live_config)));
    let quotas = ClientQuotas::new(&config, &metadata);
    let limits = resources.connection_limits(&live_config, &quotas);
    resources.show(&telemetry, &limits, &connections.unauthenticated);
    let endpoints = endpoints(&config, &bound);
    let (stop_accepting, mut accepting) = start_accepting(&config, bound, &security, &connections, &limits, &data);
    for (listener, checks) in bearers {
        accepting.spawn(checks.follow_keys(listener));
    }
    let has_tls = to_coordinators.tls.is_some() || security.values().any(|listener| listener.tls.is_some());
    if has_tls || live_config.peers().login.is_some() {
        accepting.spawn(security::follow_files(Arc::clone(&live_config), security, to_coordinators.tls));
    }
    let parts = Parts {
        config,
        identity,
        metadata,
        telemetry,
        resources,
        readiness,
        client,
        quorum,
        live_config,
        replicas,
        groups,
        transactions,
        producer_ids,
        quotas,
        audit,
        tokens,
        connections,
        data,
    };
    let mut watching = Watching::default();
    if parts.identity.id() != BrokerId::NONE {
        // The tree is read while the logs are opened.
        watching.begin(parts.watch_context());
    }
    let opened = open_logs(&parts, shutdown.as_mut()).await;
    let (result, opened_epoch) = match opened {
        Ok((opened, Continue::Run)) => {
            let epoch = opened.clean_shutdown_epoch;
            let (http_tasks, http_address) = http;
            let ready = move |id| on_ready(&Ready { id, listeners: addresses, http: http_address });
            let result = parts.serve(&opened, endpoints, watching, shutdown, ready).await;
            drop(http_tasks);
            (result, epoch)
        }
        Ok((opened, Continue::Stop)) => (Ok(()), opened.clean_shutdown_epoch),
        Err(error) => return Err(error),
    };
    // A broker that never registered leaves word of the life before this one: its logs are as whole as they were.
    let registered = parts.identity.epoch();
    let epoch = if registered.is_known() { registered } else { opened_epoch };
    parts.close(stop_accepting, accepting, epoch).await;
    tracing::info!("stopped");
    result
}

/// Whether the start goes on.
enum Continue {
    Run,
    Stop,
}

async fn bind(config: &BrokerConfig) -> Result<Vec<BoundListener>, RunError> {
    let mut bound = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        let is_inter_broker = listener.name == config.inter_broker_listener;
        let backlog = config.socket_listen_backlog_size;
        let retry = ports::Retry::new(listener.port);
        loop {
            match ottla_network::bind(&listener.name, &listener.host, listener.port, is_inter_broker, backlog) {
                Err(BindError::InUse { .. }) if retry.wait().await => {}
                Err(error) => return Err(error.held_by(ports::holder(listener.port)).into()),
                Ok(listener) => {
                    bound.push(listener);
                    break;
                }
            }
        }
    }
    Ok(bound)
}

async fn serve_http(
    config: &BrokerConfig,
    telemetry: &Arc<Telemetry>,
    readiness: &Arc<Readiness>,
) -> Result<(JoinSet<()>, Option<SocketAddr>), RunError> {
    let mut tasks = JoinSet::new();
    let Some(wanted) = &config.http else { return Ok((tasks, None)) };
    let failed = |source: io::Error| {
        let is_in_use = source.kind() == io::ErrorKind::AddrInUse;
        let held_by = if is_in_use { ports::held_by(wanted.port) } else { String::new() };
        RunError::Http { address: wanted.clone(), source, held_by }
    };
    let address = (wanted.host.as_str(), wanted.port)
        .to_socket_addrs()
        .map_err(failed)?
        .next()
        .ok_or_else(|| failed(io::Error::from(io::ErrorKind::AddrNotAvailable)))?;
    let (address, server) = http::serve(address, Arc::clone(telemetry), Arc::clone(readiness)).await.map_err(failed)?;
    tasks.spawn(server);
    Ok((tasks, Some(address)))
}

/// One accepting task per listener, on the data runtime. They end when the sender is dropped or says so, and their
/// connections with them.
fn start_accepting(
    config: &BrokerConfig,
    bound: Vec<BoundListener>,
    security: &BTreeMap<ListenerName, ListenerSecurity>,
    connections: &Arc<ConnectionShared<Broker>>,
    limits: &Arc<ConnectionLimits>,
    data: &Handle,
) -> (watch::Sender<bool>, JoinSet<()>) {
    let (stop, stopped) = watch::channel(false);
    let options = AcceptOptions {
        send_buffer_bytes: config.socket_send_buffer_bytes,
        receive_buffer_bytes: config.socket_receive_buffer_bytes,
    };
    let mut tasks = JoinSet::new();
    for listener in bound {
        let (connections, limits) = (Arc::clone(connections), Arc::clone(limits));
        // Each listener of the configuration has one.
        let security = security.get(&listener.name).cloned().unwrap_or_else(ListenerSecurity::plaintext);
        let accept = ottla_network::accept(listener, security, connections, limits, options, stopped.clone());
        tasks.spawn_on(
            async move {
                if let Err(error) = accept.await {
                    tracing::error!(%error, "a listener stopped");
                }
            },
            data,
        );
    }
    (stop, tasks)
}

/// Recovery after a kill reads whole segments: it says so while it lasts, and the control runtime stays free. It is not
/// interrupted: half-opened logs could not be closed cleanly.
async fn open_logs(
    parts: &Parts,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<(OpenedLogs, Continue), RunError> {
    let replicas = Arc::clone(&parts.replicas);
    let readiness = Arc::clone(&parts.readiness);
    let mut opening = tokio::task::spawn_blocking(move || replicas.open_logs(&readiness.opening));
    let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
    progress.reset();
    let mut next = Continue::Run;
    loop {
        tokio::select! {
            opened = &mut opening => {
                return match opened {
                    Ok(opened) => Ok((opened?, next)),
                    Err(error) => Err(RunError::Runtime(io::Error::other(error))),
                };
            }
            _ = progress.tick() => tracing::info!(progress = %parts.readiness.opening, "opening logs"),
            () = &mut shutdown, if matches!(next, Continue::Run) => next = Continue::Stop,
        }
    }
}

fn applicant(
    config: &BrokerConfig,
    identity: &Identity,
    opened: &OpenedLogs,
    endpoints: Vec<Endpoint>,
) -> Result<Applicant, RunError> {
    let stored_id = opened.meta.as_ref().map(|meta| meta.broker_id);
    if let (Some(configured), Some(stored)) = (config.broker_id, stored_id)
        && configured != stored
    {
        let path = config.log_dirs.first().map(|dir| dir.join("meta.properties")).unwrap_or_default();
        return Err(RunError::OtherId { configured, stored, path });
    }
    let stored_cluster_id = opened.meta.as_ref().and_then(|meta| meta.cluster_id.clone());
    if let (Some(wanted), Some(stored)) = (&config.cluster_id, &stored_cluster_id)
        && wanted != stored
    {
        let message = format!("cluster.id={wanted}, and the log directory belongs to cluster {stored}");
        return Err(RunError::OtherCluster { message });
    }
    Ok(Applicant {
        id: config.broker_id.or(stored_id).unwrap_or(BrokerId::NONE),
        incarnation: identity.incarnation(),
        stored_cluster_id,
        wanted_cluster_id: config.cluster_id.clone(),
        endpoints,
        inter_broker_listener: config.inter_broker_listener.clone(),
        rack: config.rack.clone(),
        whole_since: opened.clean_shutdown_epoch,
        min_insync_replicas: config.min_insync_replicas,
        leaders: LeaderSettings {
            unclean_election: config.unclean_leader_election,
            rebalance_interval_s: config.leader_rebalance_interval_s.unwrap_or(0),
            imbalance_percent: config.leader_imbalance_percent,
        },
        levels: FeatureLevels::OF_THIS_RELEASE,
    })
}

/// The advertised endpoints; a port that the system chose is told as chosen.
fn endpoints(config: &BrokerConfig, bound: &[BoundListener]) -> Vec<Endpoint> {
    let endpoint = |advertised: &Listener| {
        let chosen = bound.iter().find(|listener| listener.name == advertised.name);
        let port = match (advertised.port, chosen) {
            (0, Some(listener)) => listener.address.port(),
            (port, _) => port,
        };
        Endpoint {
            listener: advertised.name.clone(),
            host: advertised.host.clone(),
            port,
            security_protocol: advertised.protocol.name().to_owned(),
        }
    };
    config.advertised_listeners.iter().map(endpoint).collect()
}

impl RegistrationDisk for ReplicaManager {
    fn claim(&self, registered: &Registered) -> Result<(), ReplicaManagerError> {
        self.write_meta_properties(registered.broker, &registered.cluster_id)?;
        self.remember_registration(registered.epoch);
        Ok(())
    }

    fn remember(&self, registered: &Registered) {
        self.remember_registration(registered.epoch);
    }
}

impl Parts {
    /// From the opened logs to the end of the controlled shutdown.
    async fn serve(
        &self,
        opened: &OpenedLogs,
        endpoints: Vec<Endpoint>,
        // Ends with this call: once the leaderships have moved, the quorum may take this broker out.
        mut watching: Watching,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
        on_ready: impl FnOnce(BrokerId),
    ) -> Result<(), RunError> {
        let applicant = applicant(&self.config, &self.identity, opened, endpoints)?;
        let mut session = self.session(applicant, watching.leave());
        let mut cluster_id = None;
        let mut on_ready = Some(on_ready);
        let mut is_stopping = false;
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        progress.reset();
        loop {
            tokio::select! {
                event = session.next() => match event {
                    SessionEvent::Registered(registered) => {
                        if cluster_id.replace(registered.cluster_id).is_none() {
                            watching.registered(|| self.watch_context());
                        }
                    }
                    SessionEvent::Serve => {
                        if let (Some(cluster_id), Some(on_ready)) = (&cluster_id, on_ready.take()) {
                            self.open_gate(cluster_id.clone());
                            on_ready(self.identity.id());
                            self.create_configured_topics();
                            self.create_first_users();
                            self.remove_expired_tokens();
                        }
                    }
                    SessionEvent::Close => {
                        // The image goes on to follow the tree: the next leaders are known by it.
                        if on_ready.is_none() && self.are_others_live() {
                            shutdown::redirect_clients().await;
                        }
                        return Ok(());
                    }
                    // Somebody else has this broker's place: nothing is moved in its name.
                    SessionEvent::GiveUp(error) if is_stopping => {
                        tracing::warn!(%error, "the session ended while leaderships moved");
                        return Ok(());
                    }
                    SessionEvent::GiveUp(error) => return Err(error),
                },
                () = &mut shutdown, if !is_stopping => {
                    is_stopping = true;
                    tracing::info!("stopping");
                    self.readiness.enter(Stage::Stopping);
                    session.stop();
                }
                // Nothing is left to serve from: exit, so that a supervisor restarts or reports this broker.
                () = self.replicas.last_directory_failed(), if !is_stopping => return Err(RunError::NoDirectoryLeft),
                _ = progress.tick(), if cluster_id.is_some() && on_ready.is_some() => {
                    tracing::info!("waiting for the quorum to see this broker's image");
                }
            }
        }
    }

    fn watch_context(&self) -> WatchContext {
        WatchContext {
            client: self.client.clone(),
            broker: self.identity.id(),
            metadata: Arc::clone(&self.metadata),
            replicas: Arc::clone(&self.replicas),
            telemetry: Arc::clone(&self.telemetry),
            data: self.data.clone(),
        }
    }

    fn are_others_live(&self) -> bool {
        let me = self.identity.id();
        self.metadata.peek().brokers().any(|broker| broker.ready && broker.id != me)
    }

    fn session(&self, applicant: Applicant, leave_watch: Arc<Notify>) -> SessionRunner {
        let config = SessionConfig {
            heartbeat_interval: self.config.broker_heartbeat_interval,
            session_timeout: self.config.broker_session_timeout,
            controlled_shutdown: self.config.controlled_shutdown_enable,
            rules: BrokenRules::default(),
        };
        let context = SessionContext {
            client: self.client.clone(),
            identity: Arc::clone(&self.identity),
            metadata: Arc::clone(&self.metadata),
            telemetry: Arc::clone(&self.telemetry),
            readiness: Arc::clone(&self.readiness),
            leave_watch,
            disk: self.replicas.clone(),
        };
        SessionRunner::new(config, applicant, context)
    }

    fn open_gate(&self, cluster_id: ClusterId) {
        let broker = Broker {
            config: Arc::clone(&self.config),
            live_config: Arc::clone(&self.live_config),
            identity: Arc::clone(&self.identity),
            cluster_id,
            metadata: Arc::clone(&self.metadata),
            replicas: Arc::clone(&self.replicas),
            fetch_sessions: FetchSessionCache::new(
                self.config.max_incremental_fetch_session_cache_slots,
                self.resources.session_bytes,
                Arc::clone(&self.resources.parked),
            ),
            groups: Arc::clone(&self.groups),
            transactions: Arc::clone(&self.transactions),
            transaction_verifier: Arc::new(Verifier::new(
                Arc::clone(&self.metadata),
                self.config.inter_broker_listener.clone(),
                self.live_config.peers().clone(),
                self.data.clone(),
            )),
            producer_ids: Arc::clone(&self.producer_ids),
            quorum: Arc::clone(&self.quorum),
            telemetry: Arc::clone(&self.telemetry),
            resources: Arc::clone(&self.resources),
            quotas: Arc::clone(&self.quotas),
            authorization: Authorization::new(self.config.authorizer.as_ref()),
            audit: self.audit.clone(),
            tokens: self.tokens.clone(),
            auto_creation: AutoCreation::default(),
            heavy_work: HeavyWork::default(),
            metadata_responses: SharedResponses::default(),
            internal_topics: InternalTopics::default(),
        };
        let broker = Arc::new(broker);
        let sessions = Arc::downgrade(&broker);
        self.telemetry.resources.add("fetch_session_bytes", move || {
            let (used, ceiling, refused) =
                sessions.upgrade().map_or((0, 0, 0), |it| it.fetch_sessions.consumer_bytes());
            Usage { used: used as u64, ceiling: ceiling as u64, refused: refused as u64 }
        });
        self.connections.gate.open(broker);
        tracing::info!("serving clients");
    }

    /// Those of `kafka-storage format --add-scram`.
    fn create_first_users(&self) {
        let config = Arc::clone(&self.config);
        tokio::spawn(first_users::create(config, Arc::clone(&self.metadata), Arc::clone(&self.quorum)));
    }

    fn remove_expired_tokens(&self) {
        let Some(config) = &self.config.delegation_tokens else { return };
        let (metadata, quorum) = (Arc::clone(&self.metadata), Arc::clone(&self.quorum));
        let (id, interval) = (self.identity.id(), config.check_interval);
        tokio::spawn(delegation_tokens::remove_expired(id, interval, metadata, quorum));
    }

    /// `create.topics`: what is there already stays as it is.
    fn create_configured_topics(&self) {
        if self.config.create_topics.is_empty() {
            return;
        }
        let topics = self
            .config
            .create_topics
            .iter()
            .map(|topic| NewTopic {
                name: topic.name.as_str().to_owned(),
                partitions: topic.partitions,
                replication_factor: i32::from(topic.replication_factor),
                grows_to: 0,
                assignments: Vec::new(),
                configs: topic
                    .cleanup_policy
                    .iter()
                    .map(|policy| ("cleanup.policy".to_owned(), Some(policy.clone())))
                    .collect(),
            })
            .collect();
        let quorum = Arc::clone(&self.quorum);
        let command = CreateTopics {
            topics,
            validate_only: false,
            default_partitions: self.config.num_partitions,
            default_replication_factor: i32::from(self.config.default_replication_factor),
        };
        tokio::spawn(create_topics(quorum, command));
    }

    /// Answers what has been read, closes the logs, ends the connections.
    async fn close(&self, stop_accepting: watch::Sender<bool>, mut accepting: JoinSet<()>, epoch: BrokerEpoch) {
        stop_accepting.send_replace(true);
        self.replicas.begin_shutdown();
        let left = shutdown::drain(&self.connections).await;
        if left > 0 {
            tracing::info!(left, "answers that are still missing are dropped");
        }
        accepting.abort_all();
        while accepting.join_next().await.is_some() {}
        let replicas = Arc::clone(&self.replicas);
        let closing = tokio::task::spawn_blocking(move || replicas.shutdown_clean(epoch));
        match tokio::time::timeout(CLOSE_LOGS_MAX, closing).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(%error, "the logs were not closed cleanly"),
            Ok(Err(error)) => tracing::error!(%error, "the logs were not closed cleanly"),
            Err(_elapsed) => tracing::error!("the logs do not close in time; leaving them as after a kill"),
        }
    }
}

/// Tries until every topic is there or cannot be: too few brokers have registered yet, at a cluster's first start.
async fn create_topics(quorum: Arc<dyn QuorumHandle>, mut command: CreateTopics) {
    const PAUSE: Duration = Duration::from_millis(500);
    const ATTEMPTS: u32 = 120;
    for _ in 0..ATTEMPTS {
        if let Ok(outcomes) = quorum.submit(command.clone(), PROGRESS_INTERVAL).await {
            let refused = |name: &str| {
                let outcome = outcomes.topics.iter().find(|outcome| outcome.name == name)?;
                outcome.refusal.clone().filter(|refusal| refusal.error != ErrorCode::TopicAlreadyExists)
            };
            command.topics.retain(|topic| match refused(&topic.name) {
                None => false,
                Some(refusal) if refusal.error == ErrorCode::InvalidReplicationFactor => true,
                Some(refusal) => {
                    tracing::warn!(topic = topic.name, %refusal, "create.topics: a topic was not created");
                    false
                }
            });
            if command.topics.is_empty() {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    let missing: Vec<&str> = command.topics.iter().map(|topic| topic.name.as_str()).collect();
    tracing::warn!(?missing, "create.topics: gave up");
}
