//! The connections of ZooKeeper's clients: sockets, timers and bounds around [`ottla_zookeeper`].

mod connection;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_config::CoordinatorConfig;
use ottla_metadata::controller::Request;
use ottla_metrics::RateLimit;
use ottla_quorum_node::View;
use ottla_zookeeper::sessions::{Opened, SessionKey, Sessions, TimeoutLimits};
use ottla_zookeeper::{Client, ErrorCode, MayWrite, Next, Reassignments, WatchBudget, writes};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connection::{Budgets, Connection, invalid};
use self::pace::Pace;
use crate::access::Role;
use crate::clock::Clock;
use crate::quorums::Quorums;
use crate::shared::Shared;
use crate::stream::Stream;

/// Connections of ZooKeeper's clients, from all addresses together: monitors and tools, not a fleet of applications.
const CONNECTIONS_MAX: usize = 512;
/// A client that has not sent its connect request after this time is disconnected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The bytes of all watches: some hundred thousand.
const WATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long `sync` and writes wait for a quorum, as the admin API's linearizable reads do.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// ZooKeeper's protocol on one coordinator.
pub struct ZooKeeper {
    quorums: Arc<Quorums>,
    clock: Clock,
    sessions: Mutex<Sessions>,
    watches: Arc<WatchBudget>,
    /// Of each cluster, by its chroot; empty: the root.
    reassignments: Mutex<BTreeMap<String, Arc<Reassignments>>>,
    pace: Pace,
    budgets: Budgets,
    connections: Mutex<Connections>,
    /// Of writes, in the log.
    refusals: RateLimit,
    /// Of connections, in the log.
    refused_connections: RateLimit,
}

/// ZooKeeper's bounds of a session's timeout: 2 and 20 ticks.
pub fn timeout_limits(config: &CoordinatorConfig) -> TimeoutLimits {
    let ticks = |count| i32::try_from(config.tick_time.as_millis().saturating_mul(count)).unwrap_or(i32::MAX);
    TimeoutLimits { min_ms: ticks(2), max_ms: ticks(20) }
}

/// Open connections.
#[derive(Default)]
struct Connections {
    by_address: HashMap<IpAddr, usize>,
    /// By their numbers.
    open: BTreeMap<u64, Open>,
    /// Of the last one.
    number: u64,
    /// ZooKeeper's `maxClientCnxns`; none: no bound of its own.
    per_address_max: Option<usize>,
}

/// What a connection shares with others.
#[derive(Clone)]
struct Open {
    peer: SocketAddr,
    /// Its session goes on with another connection.
    replaced: CancellationToken,
    requests: Arc<AtomicU64>,
}

impl ZooKeeper {
    /// None if the configuration turns the protocol off.
    pub fn new(quorums: Arc<Quorums>, config: &CoordinatorConfig, clock: Clock) -> Option<Arc<Self>> {
        if !config.zookeeper_protocol {
            return None;
        }
        let limits = timeout_limits(config);
        let secret = config.cluster_secret.as_ref();
        let key = secret.map_or_else(|| SessionKey::of_process(rand::random()), SessionKey::of_quorum);
        Some(Arc::new(Self {
            sessions: Mutex::new(Sessions::new(quorums.root().id, limits, key, clock.now().wall)),
            watches: WatchBudget::new(WATCH_BYTES_MAX),
            reassignments: Mutex::default(),
            pace: Pace::new(),
            budgets: Budgets::default(),
            connections: Mutex::new(Connections {
                per_address_max: config.client_connections_max,
                ..Connections::default()
            }),
            refusals: RateLimit::per_second(),
            refused_connections: RateLimit::per_second(),
            quorums,
            clock,
        }))
    }

    pub fn connections(&self) -> usize {
        self.connections.lock().open.len()
    }

    /// The open connections: from where, and how many requests each has sent.
    pub fn clients(&self) -> Vec<(SocketAddr, u64)> {
        let connections = self.connections.lock();
        connections.open.values().map(|open| (open.peer, open.requests.load(Ordering::Relaxed))).collect()
    }

    pub fn watches(&self) -> usize {
        self.watches.count()
    }

    /// Serves one connection until it ends.
    pub async fn serve(self: Arc<Self>, stream: Stream, peer: SocketAddr, stop: CancellationToken) {
        let address = peer.ip().to_canonical();
        let Some(permit) = self.permit(peer) else {
            self.refused_connections.run(|left_out| {
                tracing::warn!(
                    left_out,
                    "refused a ZooKeeper client of {address}: too many connections (max.client.cnxns)"
                );
            });
            return;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = permit.open.replaced.cancelled() => {
                tracing::debug!("a ZooKeeper client of {address} goes on with another connection");
            }
            ended = self.converse(stream, &permit) => {
                if let Err(error) = ended {
                    tracing::debug!("the connection of a ZooKeeper client of {address} ended: {error}");
                }
            }
        }
    }

    fn permit(self: &Arc<Self>, peer: SocketAddr) -> Option<ConnectionPermit> {
        let address = peer.ip().to_canonical();
        let mut connections = self.connections.lock();
        let of_address = connections.by_address.get(&address).copied().unwrap_or(0);
        if connections.open.len() >= CONNECTIONS_MAX || connections.per_address_max.is_some_and(|max| of_address >= max)
        {
            return None;
        }
        connections.by_address.insert(address, of_address + 1);
        connections.number += 1;
        let number = connections.number;
        let open = Open { peer, replaced: CancellationToken::new(), requests: Arc::default() };
        connections.open.insert(number, open.clone());
        Some(ConnectionPermit { zookeeper: self.clone(), address, number, open })
    }

    async fn converse(&self, stream: Stream, permit: &ConnectionPermit) -> io::Result<()> {
        let number = permit.number;
        let caller = self.quorums.access.caller(None, stream.client.clone());
        if caller.check(Role::Read, "ZooKeeper's protocol").is_err() {
            return Ok(());
        }
        // As ZooKeeper, which closes connections while it has no leader: the client tries the next server.
        if self.quorums.root().formed().is_none_or(|formed| formed.role.borrow().leader.is_none()) {
            return Ok(());
        }
        let mut connection = Connection::new(stream, self.budgets.clone());
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, connection.connect_request()).await??;
        // Answers below a chroot carry its cluster's revisions, and the client does not say which one it has seen.
        let revision = i64::try_from(self.quorums.newest_revision().0).unwrap_or(i64::MAX);
        let opened = self.sessions.lock().open(&connect, number, revision, self.clock.monotonic());
        let (id, password, timeout_ms) = match opened {
            Opened::Session { id, password, timeout_ms, replaced } => {
                let former = replaced.and_then(|number| self.connections.lock().open.get(&number).cloned());
                if let Some(former) = former {
                    former.replaced.cancel();
                }
                (id, password, timeout_ms)
            }
            Opened::Expired => {
                connect.expired(&mut connection.out);
                return connection.flush(CONNECT_TIMEOUT).await;
            }
            Opened::Refused => return Ok(()),
        };
        let timeout = Duration::from_millis(timeout_ms.unsigned_abs().into());
        connect.accepted(id, timeout_ms, &password, &mut connection.out);
        let may_write = if caller.has(Role::Admin) { MayWrite::Everything } else { MayWrite::Nothing };
        let mut session = Session { zookeeper: self, permit, id, timeout, may_write, parts: Vec::new() };
        let ended = session.run(&mut connection).await;
        let mut sessions = self.sessions.lock();
        match ended {
            Ok(End::Session) => sessions.close(id, number),
            _ => sessions.disconnected(id, number),
        }
        ended.map(|_| ())
    }
}

/// One connection's part of the bounds.
struct ConnectionPermit {
    zookeeper: Arc<ZooKeeper>,
    address: IpAddr,
    number: u64,
    open: Open,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.zookeeper.connections.lock();
        connections.open.remove(&self.number);
        if let Some(count) = connections.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.by_address.remove(&self.address);
            }
        }
    }
}

enum End {
    Connection,
    /// The client closed it, or was not heard of for its timeout.
    Session,
}

struct Session<'a> {
    zookeeper: &'a ZooKeeper,
    permit: &'a ConnectionPermit,
    id: i64,
    timeout: Duration,
    may_write: MayWrite,
    /// One for each chroot that the client has named, and for the root.
    parts: Vec<Part>,
}

/// A session's part in one cluster: the client as that cluster's tree shows itself to it.
struct Part {
    /// Empty: the root.
    chroot: String,
    shared: Arc<Shared>,
    client: Client,
    views: watch::Receiver<Arc<View>>,
}

impl Session<'_> {
    async fn run(&mut self, connection: &mut Connection) -> io::Result<End> {
        loop {
            while let Some(frame) = connection.frame()? {
                let (zookeeper, timeout) = (self.zookeeper, self.timeout);
                zookeeper.sessions.lock().heard(self.id, self.permit.number, zookeeper.clock.monotonic());
                self.permit.open.requests.fetch_add(1, Ordering::Relaxed);
                // A client's sign of life does not wait for others.
                if !ottla_zookeeper::is_ping(&frame) {
                    zookeeper.pace.turn().await;
                    connection.reserve(timeout).await?;
                }
                let began = Instant::now();
                let chroots = zookeeper.quorums.formed_chroots();
                let named = self.parts_of(&frame, &chroots)?;
                let mut is_over = false;
                if let [at] = named[..] {
                    let part = &mut self.parts[at];
                    let view = part.views.borrow_and_update().clone();
                    let next = part.client.request(&frame, &view.tree, &mut connection.out).map_err(invalid)?;
                    drop(frame);
                    zookeeper.pace.took(began);
                    connection.settle()?;
                    if connection.is_large() {
                        connection.flush(timeout).await?;
                    }
                    is_over = part.proceed(next, connection, timeout, &zookeeper.refusals).await?;
                } else {
                    self.request_of_several(&frame, &chroots, &named, &mut connection.out)?;
                    drop(frame);
                    zookeeper.pace.took(began);
                    connection.settle()?;
                }
                connection.release_frame();
                if is_over || connection.is_large() {
                    connection.flush(timeout).await?;
                }
                if is_over {
                    return Ok(End::Session);
                }
                // Whole frames may have come with this one, and no socket is waited for between them.
                tokio::task::yield_now().await;
            }
            connection.flush(self.timeout).await?;
            // Half a frame does not count as a sign of life.
            let expires = Instant::now() + self.timeout;
            while !connection.has_frame() {
                tokio::select! {
                    () = tokio::time::sleep_until(expires) => return Ok(End::Session),
                    received = connection.receive() => {
                        if received? == 0 {
                            return Ok(End::Connection);
                        }
                    }
                    changed = changed(&mut self.parts) => {
                        let part = changed?;
                        self.zookeeper.pace.turn().await;
                        connection.reserve(self.timeout).await?;
                        let began = Instant::now();
                        let view = part.views.borrow_and_update().clone();
                        part.client.advance(&view.tree, &mut connection.out);
                        self.zookeeper.pace.took(began);
                        connection.settle()?;
                        connection.flush(self.timeout).await?;
                    }
                }
            }
        }
    }

    /// The parts that a request is for: those of the chroots in which its paths lie, or that of the root.
    fn parts_of(&mut self, frame: &[u8], chroots: &[String]) -> io::Result<Vec<usize>> {
        let mut named = ottla_zookeeper::chroots_of(frame, chroots);
        if named.is_empty() {
            named.insert("");
        }
        named.into_iter().map(|chroot| self.part_at(chroot)).collect()
    }

    fn part_at(&mut self, chroot: &str) -> io::Result<usize> {
        if let Some(at) = self.parts.iter().position(|part| part.chroot == chroot) {
            return Ok(at);
        }
        let shared = self.zookeeper.quorums.below(chroot).ok_or(io::ErrorKind::ConnectionAborted)?;
        let formed = shared.formed().ok_or(io::ErrorKind::ConnectionAborted)?;
        let mut views = formed.view.subscribe();
        let tree = views.borrow_and_update().tree.clone();
        let watches = self.zookeeper.watches.clone();
        let chroot = chroot.to_owned();
        let reassignments = self.zookeeper.reassignments.lock().entry(chroot.clone()).or_default().clone();
        let client = Client::new(self.permit.address, chroot.clone(), tree, watches, reassignments, self.may_write);
        self.parts.push(Part { chroot, shared, client, views });
        Ok(self.parts.len() - 1)
    }

    /// Answers a request with paths of several clusters.
    fn request_of_several(
        &mut self,
        frame: &[u8],
        chroots: &[String],
        named: &[usize],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut error = ErrorCode::Ok;
        for at in named {
            let part = &mut self.parts[*at];
            let view = part.views.borrow_and_update().clone();
            let of_part = part.client.request_here(frame, chroots, &view.tree, out).map_err(invalid)?;
            error = if error == ErrorCode::Ok { of_part } else { error };
        }
        let last = named.last().map(|at| &self.parts[*at]);
        last.map_or(Ok(()), |part| part.client.answer_for_all(frame, error, out).map_err(invalid))
    }
}

/// A part whose tree has changed, of those that have watches; pending while none has.
async fn changed(parts: &mut [Part]) -> io::Result<&mut Part> {
    let waiting: Vec<_> = parts
        .iter_mut()
        .filter(|part| part.client.watches())
        .map(|part| {
            Box::pin(async move {
                part.views.changed().await.map_err(|_| io::ErrorKind::ConnectionAborted)?;
                Ok(part)
            })
        })
        .collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waiting).await.0
}

impl Part {
    /// Does what a request waits for; true if the session has ended.
    async fn proceed(
        &mut self,
        next: Next,
        connection: &mut Connection,
        timeout: Duration,
        refusals: &RateLimit,
    ) -> io::Result<bool> {
        let formed = self.shared.formed().ok_or(io::ErrorKind::ConnectionAborted)?;
        match next {
            Next::Continue => {}
            Next::Close => return Ok(true),
            Next::Sync { xid, path } => {
                let view = tokio::time::timeout(SYNC_TIMEOUT, formed.driver.linearizable_view()).await;
                let view = view.ok().and_then(Result::ok);
                connection.reserve(timeout).await?;
                self.client.synced(xid, &path, view.as_ref().map(|view| &view.tree), &mut connection.out);
            }
            Next::Decide { request, write } => {
                let error = self.decide(request, refusals).await;
                connection.reserve(timeout).await?;
                let view = self.views.borrow_and_update().clone();
                self.client.decided(&write, error, &view.tree, &mut connection.out);
            }
        }
        connection.settle()?;
        Ok(false)
    }

    /// Asks the quorum, by way of its leader. A success is answered when this coordinator's tree has it.
    async fn decide(&mut self, request: Request, refusals: &RateLimit) -> ErrorCode {
        let name = request.name();
        let answer = match self.shared.decide_at_leader(request).await {
            Ok(answer) => answer,
            Err(status) => {
                tracing::debug!("{name} of a ZooKeeper client was not decided: {status}");
                return ErrorCode::OperationTimeout;
            }
        };
        let (error, refusal) = writes::outcome(&answer);
        if let Some(refusal) = refusal {
            refusals.run(|left_out| tracing::warn!(left_out, "{name} of a ZooKeeper client was refused: {refusal}"));
        }
        if error != ErrorCode::Ok {
            return error;
        }
        let revision = writes::decided_at(&answer);
        let seen = self.views.wait_for(|view| view.revision >= revision);
        match tokio::time::timeout(SYNC_TIMEOUT, seen).await {
            Ok(Ok(_)) => error,
            _ => ErrorCode::OperationTimeout,
        }
    }
}
