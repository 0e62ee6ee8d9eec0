//! The service of the metadata quorum: one member of the Raft quorum, the tree on its disk, and the gRPC services for
//! brokers, other members and tools.
//!
//! - [`driver`]: the one thread that runs the node of [`ottla_quorum_node`], which decides everything.
//! - [`rocksdb_store`]: the disk. [`first_start`]: how an empty one comes to vote.
//! - [`peers`]: the streams to the other members. [`service`]: the gRPC services.
//! - `listener`: the ports; `four_letter_words`, `zookeeper`: what else the client port speaks.
//! - [`probe`]: dials brokers. [`telemetry`]: logs, health, metrics.
//!
//! [`run`] is the whole of it, for the binary and for processes that host a coordinator beside other things.

mod clock;
pub mod driver;
mod error;
mod first_start;
mod four_letter_words;
mod identify;
mod listener;
mod peers;
pub mod probe;
pub mod rocksdb_store;
mod service;
mod shared;
pub mod telemetry;
mod zookeeper;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ottla_config::CoordinatorConfig;
use ottla_consensus::{Member, MemberConfig};
use ottla_metadata::controller::ControllerConfig;
use ottla_model::{ClusterId, CoordinatorId, IncarnationId, Revision};
use ottla_quorum_node::{BrokenRules, HistoryLimits, NodeConfig};
use ottla_resources::{ConnectionLimits, CoordinatorDescriptors, Limits, descriptors, http_port};
use ottla_rpc::ports;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use clock::Clock;
use driver::{DriverConfig, DriverHandle, Input};
pub use error::CoordinatorError;
use first_start::Way;
use rocksdb_store::{Disk, Identity, RocksDbStore};
use shared::{Formed, Shared};
use telemetry::Metrics;
use zookeeper::ZooKeeper;

/// A client that disappears without closing its connection is detected after twice this time, if its heartbeats did not
/// show it before.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Requests and streams of one connection at a time. Each may hold a message; a broker needs a heartbeat, a watch and a
/// few requests, and its further requests wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Headers of one request: the secret, the deadline, and gRPC's own.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// The id of a coordinator that was given none: it is alone.
const ONLY_ID: CoordinatorId = CoordinatorId(1);
/// How long the end waits for the driver, beyond the driver's own bound for handing over: a snapshot of a large tree
/// may be under way. Docker kills a container after 10 s.
const DRIVER_END_TIMEOUT: Duration = Duration::from_secs(5);
const DRIVER_END_PAUSE: Duration = Duration::from_millis(1);

/// Runs one coordinator until `shutdown` resolves or an error ends it. Must be called within a tokio runtime.
pub async fn run(config: CoordinatorConfig, shutdown: impl Future<Output = ()>) -> Result<(), CoordinatorError> {
    Coordinator::bind(config).await?.run(shutdown).await
}

/// A coordinator that owns its data directory and ports, but does not run yet.
pub struct Coordinator {
    config: CoordinatorConfig,
    disk: Disk,
    identity: Identity,
    client: TcpListener,
    peer: Option<TcpListener>,
    http: Option<TcpListener>,
}

impl Coordinator {
    /// Takes the data directory and the ports. Every error is a configuration that cannot be.
    pub async fn bind(config: CoordinatorConfig) -> Result<Self, CoordinatorError> {
        let disk = Disk::open(&config.data_dir)?;
        let identity = own_identity(&config, &disk)?;
        let client = bind("client.port", &config.client_host, config.client_port).await?;
        let peer = match config.peer_port {
            Some(port) => Some(bind("peer.port", &config.client_host, port).await?),
            None => None,
        };
        let http = match &config.http {
            Some(address) => Some(bind("http.port", &address.host, address.port).await?),
            None => None,
        };
        Ok(Self { config, disk, identity, client, peer, http })
    }

    pub fn id(&self) -> CoordinatorId {
        self.identity.id
    }

    /// Where clients are served; with the port that was chosen, if it was 0.
    pub fn client_address(&self) -> std::io::Result<SocketAddr> {
        self.client.local_addr()
    }

    /// Where health and metrics are served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }

    /// Forms or joins the quorum and serves until `shutdown`.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), CoordinatorError> {
        tokio::pin!(shutdown);
        let (connect_lists, mut told) = mpsc::channel(1);
        let configured: BTreeMap<CoordinatorId, String> =
            self.config.servers.iter().map(|server| (server.id, server.address.to_string())).collect();
        let cluster_id = self.config.cluster_id.as_ref().map(ToString::to_string);
        let cluster = (cluster_id, self.config.cluster_secret.clone());
        let shared = Shared::new(self.identity.id, self.identity.disk, cluster, configured, connect_lists);
        let clock = Clock::default();
        let metrics = Metrics::new(clock);
        // Aborted, all of them, when this function ends; and every connection with them.
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let _stop_guard = stop.clone().drop_guard();
        let own_address = self.own_address();
        tracing::info!(
            "coordinator {} at {own_address}, disk {}, data in {}",
            self.identity.id,
            self.identity.disk,
            self.config.data_dir.display()
        );
        // If the common list has a separate peer port, messages of peers are accepted only there.
        let own = self.config.servers.iter().find(|server| server.id == self.identity.id);
        let peers_use_client_port =
            self.peer.is_none() || own.is_none_or(|own| own.address.port == self.config.client_port);
        let zookeeper = ZooKeeper::new(shared.clone(), &self.config, clock);
        let words = Arc::new(four_letter_words::Words::new(shared.clone(), self.config.clone(), zookeeper.clone()));
        let descriptors = CoordinatorDescriptors::of(descriptors::raise_limit());
        let listeners = [
            (Some(self.client), peers_use_client_port, zookeeper, descriptors.connections),
            (self.peer.take(), true, None, descriptors.peer_connections),
        ];
        for (listener, takes_raft, zookeeper, connections_max) in listeners {
            let Some(listener) = listener else { continue };
            let server = Server::builder()
                .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
                .http2_max_header_list_size(HEADERS_BYTES_MAX)
                .http2_keepalive_interval(Some(CLIENT_KEEP_ALIVE))
                .http2_keepalive_timeout(Some(CLIENT_KEEP_ALIVE))
                .add_routes(service::routes(&shared, takes_raft));
            let limits = connection_limits(connections_max);
            let incoming = listener::connections(listener, stop.clone(), words.clone(), zookeeper, limits);
            tasks.spawn(async move { server.serve_with_incoming(incoming).await.map_err(CoordinatorError::from) });
        }
        if let Some(listener) = self.http.take() {
            let routes = telemetry::routes(metrics.clone());
            tasks.spawn(async move {
                http_port::serve(listener, routes).await;
                Ok(())
            });
        }
        let mut store = RocksDbStore::open(self.disk.clone())?;
        if self.identity.voters.is_empty() {
            let way = match (self.config.servers.is_empty(), self.config.id) {
                (true, None) => Way::Alone { address: own_address },
                (true, Some(_)) => Way::Told,
                (false, _) => Way::Listed { bootstrap: self.config.bootstrap },
            };
            let forming = first_start::form(way, &shared, &mut told, &mut store, &mut self.identity);
            tokio::select! {
                formed = forming => formed?,
                () = &mut shutdown => return Ok(()),
            }
        } else {
            take_configured_addresses(&self.config, &mut self.identity)?;
        }
        write_myid(&self.config, self.identity.id);
        let (fatal, mut failed) = mpsc::channel(1);
        let mut started =
            start_driver(&self.config, &self.identity, store, clock, metrics, &shared, &fatal, &mut tasks)?;
        drop(self.disk);
        let _halt = HaltOnDrop { driver: started.handle.clone(), thread: started.thread };
        let stopped = tokio::select! {
            () = &mut shutdown => Ok(()),
            Some(error) = failed.recv() => Err(error),
            // Only a panic ends it unasked, and only where panics do not end the process.
            _ = &mut started.ended => return Err(CoordinatorError::DriverEnded),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Err(error)) => Err(error),
                // A peer's task ends with the driver, a server never.
                Ok(Ok(())) | Err(_) => Err(CoordinatorError::Stopped),
            },
        };
        let _ = started.handle.send(Input::Stop).await;
        let _ = tokio::time::timeout(DRIVER_END_TIMEOUT, started.ended).await;
        stopped
    }

    /// The address to which others connect.
    fn own_address(&self) -> String {
        if let Some(advertised) = &self.config.advertised_address {
            return advertised.to_string();
        }
        if let Some(own) = self.config.servers.iter().find(|server| server.id == self.identity.id) {
            return own.address.to_string();
        }
        let port = self.client.local_addr().map_or(self.config.client_port, |address| address.port());
        match self.config.client_host.as_str() {
            "0.0.0.0" | "::" | "" => format!("127.0.0.1:{port}"),
            host => ottla_config::HostPort::new(host, port).to_string(),
        }
    }
}

/// One address never takes all connections: brokers and peers must be able to come back.
fn connection_limits(connections_max: u64) -> Arc<ConnectionLimits> {
    let total = usize::try_from(connections_max).unwrap_or(usize::MAX);
    Arc::new(ConnectionLimits::new(move |_| Limits { total, kept_for_brokers: 0, per_ip: total / 4 * 3 }))
}

/// Stops the driver when its owner is dropped, even in the middle of an await, and waits until nothing uses the
/// database any more: a process that ends while a thread does so may crash on its way out, and another one that opens
/// the database at once would be refused. Blocks its thread, but no longer than [`DRIVER_END_TIMEOUT`]: the disk may
/// not answer.
struct HaltOnDrop {
    driver: DriverHandle,
    thread: std::thread::JoinHandle<()>,
}

impl Drop for HaltOnDrop {
    fn drop(&mut self) {
        let start = std::time::Instant::now();
        while !self.thread.is_finished() {
            // The queue may be full.
            let _ = self.driver.try_send(Input::Halt);
            if start.elapsed() > DRIVER_END_TIMEOUT {
                tracing::warn!("the disk does not answer: its thread is left behind");
                return;
            }
            std::thread::sleep(DRIVER_END_PAUSE);
        }
    }
}

struct Started {
    handle: DriverHandle,
    ended: tokio::sync::oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

#[allow(clippy::too_many_arguments)]
fn start_driver(
    config: &CoordinatorConfig,
    identity: &Identity,
    store: RocksDbStore,
    clock: Clock,
    metrics: Arc<Metrics>,
    shared: &Arc<Shared>,
    fatal: &mpsc::Sender<CoordinatorError>,
    tasks: &mut JoinSet<Result<(), CoordinatorError>>,
) -> Result<Started, CoordinatorError> {
    let mut peers = BTreeMap::new();
    let mut queues = Vec::new();
    for (&id, voter) in identity.voters.iter().filter(|(id, _)| **id != identity.id) {
        let (sender, queue) = mpsc::channel(peers::QUEUED_MESSAGES_MAX);
        peers.insert(id, sender);
        queues.push(peers::Peer { id, address: voter.address.clone(), queue });
    }
    let (applied, _) = store.disk().applied()?;
    let mut store = store;
    store.set_metrics(metrics.clone());
    let member = Member::new(&member_config(config, identity.id, Revision(applied)), store)?;
    let heartbeat_ticks = u32::try_from(ticks(config, config.raft_heartbeat)).unwrap_or(1);
    let driver = DriverConfig {
        id: identity.id,
        node: node_config(config, identity, heartbeat_ticks),
        tick: config.raft_tick,
        heartbeat_ticks,
        clock,
        metrics,
        peers,
        runtime: tokio::runtime::Handle::current(),
    };
    let running = driver::start(driver, member)?;
    shared.set_formed(Formed {
        driver: running.handle.clone(),
        view: running.view,
        role: running.role,
        voters: identity.voters.clone(),
    });
    for peer in queues {
        tasks.spawn(peers::run(peer, shared.clone(), running.handle.clone(), fatal.clone()));
    }
    Ok(Started { handle: running.handle, ended: running.ended, thread: running.thread })
}

fn node_config(config: &CoordinatorConfig, identity: &Identity, heartbeat_ticks: u32) -> NodeConfig {
    let cluster_id = config.cluster_id.clone().unwrap_or_else(random_cluster_id);
    NodeConfig {
        voters: identity.voters.clone(),
        controller: ControllerConfig {
            session_timeout: config.broker_session_timeout,
            reconnect_grace: config.broker_stream_grace,
            tick_interval: config.raft_tick * heartbeat_ticks,
            reserved_broker_max_id: config.reserved_broker_max_id,
            ..ControllerConfig::new(cluster_id)
        },
        compact_bytes: config.snapshot_bytes,
        history: HistoryLimits::default(),
        nonce: rand::random(),
        broken_rules: BrokenRules::default(),
    }
}

fn member_config(config: &CoordinatorConfig, id: CoordinatorId, applied: Revision) -> MemberConfig {
    MemberConfig {
        heartbeat_ticks: ticks(config, config.raft_heartbeat),
        election_ticks: ticks(config, config.raft_election_min),
        election_ticks_max: ticks(config, config.raft_election_max),
        applied,
        logger: slog::Logger::root(telemetry::RaftLog, slog::o!()),
        ..MemberConfig::new(id, rand::random())
    }
}

fn ticks(config: &CoordinatorConfig, duration: Duration) -> usize {
    let ticks = duration.as_millis() / config.raft_tick.as_millis().max(1);
    usize::try_from(ticks).unwrap_or(usize::MAX).max(1)
}

/// Kafka's form: 22 characters of URL-safe base64, not beginning with a dash, which tools would treat as an option.
fn random_cluster_id() -> ClusterId {
    loop {
        let text = IncarnationId(rand::random()).to_string();
        if !text.starts_with('-') {
            return ClusterId::new(text);
        }
    }
}

async fn bind(key: &'static str, host: &str, port: u16) -> Result<TcpListener, CoordinatorError> {
    let retry = ports::Retry::new(port);
    let bound = loop {
        match TcpListener::bind((host, port)).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && retry.wait().await => {}
            result => break result,
        }
    };
    bound.map_err(|error| {
        let problem = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("the port is in use on {host}{}; accepted: a free one", ports::held_by(port))
            }
            _ => format!("cannot listen on {host}: {error}"),
        };
        CoordinatorError::Setting { key, value: port.to_string(), problem }
    })
}

/// The disk's identity; a new one on an empty disk.
fn own_identity(config: &CoordinatorConfig, disk: &Disk) -> Result<Identity, CoordinatorError> {
    if let Some(identity) = disk.identity()? {
        return match config.id {
            Some(configured) if configured != identity.id => {
                Err(CoordinatorError::OtherId { configured, stored: identity.id })
            }
            _ => Ok(identity),
        };
    }
    let id = config.id.unwrap_or(ONLY_ID);
    let identity = Identity { id, disk: IncarnationId(rand::random()), voters: BTreeMap::new() };
    disk.write_identity(&identity)?;
    Ok(identity)
}

/// The members of a formed quorum stay; where they are reached may change.
fn take_configured_addresses(config: &CoordinatorConfig, identity: &mut Identity) -> Result<(), CoordinatorError> {
    if config.servers.is_empty() {
        return Ok(());
    }
    let configured: BTreeMap<_, _> =
        config.servers.iter().map(|server| (server.id, server.address.to_string())).collect();
    if !configured.keys().eq(identity.voters.keys()) {
        let stored = identity.voters.iter().map(|(id, voter)| (*id, voter.address.clone())).collect();
        return Err(CoordinatorError::OtherVoters {
            configured: identify::names(&configured),
            stored: identify::names(&stored),
        });
    }
    for (id, address) in configured {
        if let Some(voter) = identity.voters.get_mut(&id) {
            voter.address = address;
        }
    }
    Ok(())
}

/// As in ZooKeeper's images, so that the volume alone identifies the member.
fn write_myid(config: &CoordinatorConfig, id: CoordinatorId) {
    let path = config.data_dir.join("myid");
    if !path.exists()
        && let Err(error) = std::fs::write(&path, format!("{id}\n"))
    {
        tracing::warn!("{}: {error}", path.display());
    }
}
