//! The service of the metadata quorum: one member of the Raft quorum, the tree on its disk, and the gRPC services for
//! brokers, other members and tools.
//!
//! - [`driver`]: the one thread that runs the node of [`ottla_quorum_node`], which decides everything.
//! - `quorums`: the cluster at the root and those of chroots. `member`: this coordinator's part in one of them.
//! - [`rocksdb_store`]: the disk. [`first_start`]: how an empty one comes to vote.
//! - [`peers`]: the streams to the other members. [`service`]: the gRPC services.
//! - `listener`, `stream`: the ports; `certificates`: TLS; `access`: roles; `four_letter_words`, `zookeeper`: what else
//!   the client port speaks. `broker_security`: how brokers are asked.
//! - [`offline`]: what is done to a data directory without running the coordinator.
//! - [`probe`]: dials brokers. [`telemetry`]: logs, health, metrics.
//!
//! [`run`] is the whole of it, for the binary and for processes that host a coordinator beside other things.

mod access;
mod broker_security;
mod certificates;
mod clock;
mod cluster_metrics;
pub mod driver;
mod error;
mod first_start;
mod four_letter_words;
mod identify;
mod listener;
mod member;
pub mod offline;
mod pages;
mod peers;
pub mod probe;
mod quorums;
pub mod rocksdb_store;
mod service;
mod shared;
mod stream;
pub mod telemetry;
mod zookeeper;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ottla_config::CoordinatorConfig;
use ottla_model::CoordinatorId;
use ottla_resources::{ConnectionLimits, CoordinatorDescriptors, Limits, Usage, core_dumps, descriptors, http_port};
use ottla_rpc::{ChannelSecurity, ports};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use broker_security::BrokerSecurity;
use certificates::Certificates;
use clock::Clock;
pub use error::CoordinatorError;
use listener::{Port, Transport};
use quorums::Quorums;
use rocksdb_store::{Disk, Identity};
use shared::OutgoingSecurity;
use zookeeper::ZooKeeper;

/// Requests and streams of one connection at a time. Each may hold a message; a broker needs a heartbeat, a watch and a
/// few requests, and its further requests wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Headers of one request: the secret, the deadline, and gRPC's own.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Runs one coordinator until `shutdown` resolves or an error ends it. Must be called within a tokio runtime.
pub async fn run(config: CoordinatorConfig, shutdown: impl Future<Output = ()>) -> Result<(), CoordinatorError> {
    Coordinator::bind(config).await?.run(shutdown).await
}

/// A coordinator that owns its data directory and ports, but does not run yet.
pub struct Coordinator {
    config: CoordinatorConfig,
    disk: Disk,
    identity: Identity,
    certificates: Option<Certificates>,
    broker_security: BrokerSecurity,
    client: Option<TcpListener>,
    secure: Option<TcpListener>,
    peer: Option<TcpListener>,
    http: Option<TcpListener>,
}

impl Coordinator {
    /// Takes the data directory and the ports. Every error is a configuration that cannot be.
    pub async fn bind(config: CoordinatorConfig) -> Result<Self, CoordinatorError> {
        let (disk, identity) = member::open_disk(&config)?;
        let certificates = config.tls.as_ref().map(Certificates::read).transpose()?;
        let towards_brokers = certificates.as_ref().map(|certificates| certificates.towards_brokers.clone());
        let broker_security = BrokerSecurity::new(&config.broker_client, towards_brokers)?;
        let host = config.client_host.as_str();
        let client = bind("client.port", host, config.client_port).await?;
        let secure = bind("secure.client.port", host, config.secure_client_port).await?;
        let peer = bind("peer.port", host, config.peer_port).await?;
        let (host, port) = config.http.as_ref().map(|address| (address.host.as_str(), address.port)).unzip();
        let http = bind("http.port", host.unwrap_or_default(), port).await?;
        Ok(Self { config, disk, identity, certificates, broker_security, client, secure, peer, http })
    }

    pub fn id(&self) -> CoordinatorId {
        self.identity.id
    }

    /// Where clients are served, in plaintext if that is possible; with the port that was chosen, if it was 0.
    pub fn client_address(&self) -> std::io::Result<SocketAddr> {
        let listener = self.client.as_ref().or(self.secure.as_ref());
        listener.ok_or(std::io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Where health and metrics are served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }

    /// Forms or joins the quorum and serves until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), CoordinatorError> {
        tokio::pin!(shutdown);
        if !self.config.core_dump_enable {
            core_dumps::forbid();
        }
        // Aborted, all of them, when this function ends; and every connection with them.
        let mut servers = JoinSet::new();
        let mut followers = JoinSet::new();
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
        let peers_use = |port: Option<u16>| self.peer.is_none() || own.is_none_or(|own| Some(own.address.port) == port);
        let is_secure_quorum = self.config.tls.as_ref().is_some_and(|tls| tls.between_coordinators);
        // During a rolling change some members dial the former port, in plaintext, and others the next one, by TLS.
        let unifies_ports = self.config.unifies_ports();
        let peers_use_client_port = unifies_ports || (!is_secure_quorum && peers_use(self.config.client_port));
        let peers_use_secure_port = unifies_ports || (is_secure_quorum && peers_use(self.config.secure_client_port));
        if unifies_ports {
            tracing::warn!("port.unification=true: this coordinator accepts plaintext where it accepts TLS");
        }
        let coordinators = ChannelSecurity {
            tls: self.certificates.as_ref().and_then(|certificates| certificates.client.clone()),
            secret: self.config.cluster_secret.clone(),
        };
        let security = OutgoingSecurity { coordinators, brokers: self.broker_security };
        let clock = Clock::default();
        let disk = (self.disk, self.identity);
        let (quorums, members, mut begun) = Quorums::open(self.config.clone(), security, disk, clock, own_address)?;
        let zookeeper = ZooKeeper::new(quorums.clone(), &self.config, clock);
        let words = four_letter_words::Words::new(quorums.root().clone(), self.config, zookeeper.clone());
        let words = Arc::new(words);
        let descriptors = CoordinatorDescriptors::of(descriptors::raise_limit());
        let tls = self.certificates.as_ref().map(|certificates| certificates.server.clone());
        let secure = tls.clone().map_or(Transport::Plaintext, Transport::Tls);
        let of_peers = match &tls {
            Some(tls) if unifies_ports => Transport::Either(tls.clone()),
            Some(tls) if is_secure_quorum => Transport::Tls(tls.clone()),
            _ => Transport::Plaintext,
        };
        let of_client_port = match tls {
            Some(tls) if unifies_ports => Transport::Either(tls),
            _ => Transport::Plaintext,
        };
        if let Some(certificates) = self.certificates {
            followers.spawn(certificates.follow());
        }
        let of_clients = match (&self.client, &self.secure) {
            (Some(_), Some(_)) => descriptors.connections / 2,
            _ => descriptors.connections,
        };
        let listeners = [
            ("connections", self.client, peers_use_client_port, of_client_port, true, of_clients),
            ("secure_connections", self.secure, peers_use_secure_port, secure, true, of_clients),
            ("peer_connections", self.peer, true, of_peers, false, descriptors.peer_connections),
        ];
        let limits = listeners.each_ref().map(|listener| connection_limits(listener.5));
        let pages = pages::routes(quorums.clone(), limits.to_vec());
        let handshakes = Arc::default();
        for ((resource, listener, takes_raft, transport, is_for_clients, ceiling), limits) in
            listeners.into_iter().zip(limits)
        {
            let Some(listener) = listener else { continue };
            let pages = (is_for_clients && transport.has_tls()).then(|| pages.clone());
            let server = Server::builder()
                .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
                .http2_max_header_list_size(HEADERS_BYTES_MAX)
                .add_routes(quorums.routes(takes_raft, pages.clone()));
            let shown = limits.clone();
            let usage = move || Usage { used: shown.open() as u64, ceiling, refused: shown.refused() };
            quorums.root_metrics().resources.add(resource, usage);
            let zookeeper = zookeeper.clone().filter(|_| is_for_clients);
            let port =
                Port { zookeeper, transport, pages, ..Port::new(words.clone(), Arc::clone(&handshakes), stop.clone()) };
            let incoming = listener::connections(listener, port, limits);
            servers.spawn(async move { server.serve_with_incoming(incoming).await.map_err(CoordinatorError::from) });
        }
        if let Some(listener) = self.http {
            servers.spawn(async move {
                http_port::serve(listener, pages).await;
                Ok(())
            });
        }
        // Polled here, not spawned: dropping this future ends all of them before it returns.
        let mut running = FuturesUnordered::new();
        let stopping = CancellationToken::new();
        running.extend(members.into_iter().map(|member| member.run(stopping.clone().cancelled_owned())));
        loop {
            tokio::select! {
                () = &mut shutdown, if !stopping.is_cancelled() => stopping.cancel(),
                Some(member) = begun.recv(), if !stopping.is_cancelled() => {
                    running.push(member.run(stopping.clone().cancelled_owned()));
                }
                ended = running.next() => match ended {
                    Some(Ok(())) if stopping.is_cancelled() => {}
                    None => return Ok(()),
                    Some(ended) => return ended.and(Err(CoordinatorError::Stopped)),
                },
                // A server ends never.
                Some(ended) = servers.join_next() => {
                    return ended.unwrap_or(Ok(())).and(Err(CoordinatorError::Stopped));
                }
            }
        }
    }

    /// The address to which others connect.
    fn own_address(&self) -> String {
        if let Some(advertised) = &self.config.advertised_address {
            return advertised.to_string();
        }
        if let Some(own) = self.config.servers.iter().find(|server| server.id == self.identity.id) {
            return own.address.to_string();
        }
        let is_secure_quorum = self.config.tls.as_ref().is_some_and(|tls| tls.between_coordinators);
        let (first, second) =
            if is_secure_quorum { (&self.secure, &self.client) } else { (&self.client, &self.secure) };
        let listener = first.as_ref().or(second.as_ref()).or(self.peer.as_ref());
        let port = listener.and_then(|listener| Some(listener.local_addr().ok()?.port())).unwrap_or_default();
        match self.config.client_host.as_str() {
            "0.0.0.0" | "::" | "" => format!("127.0.0.1:{port}"),
            host => ottla_config::HostPort::new(host, port).to_string(),
        }
    }
}

/// One address never takes all connections: brokers and peers must be able to come back.
fn connection_limits(connections_max: u64) -> Arc<ConnectionLimits> {
    let total = usize::try_from(connections_max).unwrap_or(usize::MAX);
    Arc::new(ConnectionLimits::new(move |_, _| Limits {
        total,
        kept_for_brokers: 0,
        of_listener: total,
        per_ip: total / 4 * 3,
    }))
}

/// None: there is no such port.
async fn bind(key: &'static str, host: &str, port: Option<u16>) -> Result<Option<TcpListener>, CoordinatorError> {
    let Some(port) = port else { return Ok(None) };
    let retry = ports::Retry::new(port);
    let bound = loop {
        match TcpListener::bind((host, port)).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && retry.wait().await => {}
            result => break result,
        }
    };
    bound.map(Some).map_err(|error| {
        let problem = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("the port is in use on {host}{}; accepted: a free one", ports::held_by(port))
            }
            _ => format!("cannot listen on {host}: {error}"),
        };
        CoordinatorError::Setting { key, value: port.to_string(), problem }
    })
}
