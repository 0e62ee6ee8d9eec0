//! The connections of ZooKeeper's clients: sockets, timers and bounds around [`ottla_zookeeper`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use ottla_config::CoordinatorConfig;
use ottla_metadata::controller::Request;
use ottla_metrics::RateLimit;
use ottla_model::Chroot;
use ottla_quorum_node::View;
use ottla_zookeeper::connect::{CONNECT_BYTES_MAX, ConnectRequest};
use ottla_zookeeper::sessions::{Opened, Sessions, TimeoutLimits, password};
use ottla_zookeeper::{Client, ErrorCode, FRAME_BYTES_MAX, MayWrite, Next, WatchBudget, writes};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::quorums::Quorums;
use crate::shared::Shared;

/// Connections of ZooKeeper's clients, from all addresses together: monitors and tools, not a fleet of applications.
const CONNECTIONS_MAX: usize = 512;
/// A client that has not sent its connect request after this time is disconnected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The bytes of all watches: some hundred thousand.
const WATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Frames up to this size need no part of [`LARGE_FRAME_KIB_MAX`]: most requests have less than 200 bytes.
const SMALL_FRAME_BYTES_MAX: usize = 8 * 1024;
/// The larger frames of all connections together, in KiB.
const LARGE_FRAME_KIB_MAX: usize = 16 * 1024;
/// A buffer that grew above this size is given back when it is empty.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// Answers that are collected before they are written.
const WRITE_BYTES: usize = 64 * 1024;
/// How long `sync` and writes wait for a quorum, as the admin API's linearizable reads do.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// ZooKeeper's protocol on one coordinator.
pub struct ZooKeeper {
    quorums: Arc<Quorums>,
    clock: Clock,
    sessions: Mutex<Sessions>,
    watches: Arc<WatchBudget>,
    large_frames: Arc<Semaphore>,
    connections: Mutex<Connections>,
    refusals: RateLimit,
}

/// Open connections by address.
#[derive(Default)]
struct Connections {
    by_address: HashMap<IpAddr, usize>,
    open: usize,
    /// ZooKeeper's `maxClientCnxns`; none: no bound of its own.
    per_address_max: Option<usize>,
}

impl ZooKeeper {
    /// None if the configuration turns the protocol off.
    pub fn new(quorums: Arc<Quorums>, config: &CoordinatorConfig, clock: Clock) -> Option<Arc<Self>> {
        if !config.zookeeper_protocol {
            return None;
        }
        // ZooKeeper's bounds: 2 and 20 ticks.
        let ticks = |count| i32::try_from(config.tick_time.as_millis().saturating_mul(count)).unwrap_or(i32::MAX);
        let limits = TimeoutLimits { min_ms: ticks(2), max_ms: ticks(20) };
        Some(Arc::new(Self {
            sessions: Mutex::new(Sessions::new(quorums.root().id, limits, clock.now().wall)),
            watches: WatchBudget::new(WATCH_BYTES_MAX),
            large_frames: Arc::new(Semaphore::new(LARGE_FRAME_KIB_MAX)),
            connections: Mutex::new(Connections {
                per_address_max: config.client_connections_max,
                ..Connections::default()
            }),
            refusals: RateLimit::per_second(),
            quorums,
            clock,
        }))
    }

    pub fn connections(&self) -> usize {
        self.connections.lock().open
    }

    pub fn watches(&self) -> usize {
        self.watches.count()
    }

    /// Serves one connection until it ends.
    pub async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        let address = peer.ip().to_canonical();
        let Some(_permit) = self.permit(address) else {
            tracing::warn!("refused a ZooKeeper client of {address}: too many connections (max.client.cnxns)");
            return;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            ended = self.converse(stream, address) => {
                if let Err(error) = ended {
                    tracing::debug!("the connection of a ZooKeeper client of {address} ended: {error}");
                }
            }
        }
    }

    fn permit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let mut connections = self.connections.lock();
        let of_address = connections.by_address.get(&address).copied().unwrap_or(0);
        if connections.open >= CONNECTIONS_MAX || connections.per_address_max.is_some_and(|max| of_address >= max) {
            return None;
        }
        connections.open += 1;
        connections.by_address.insert(address, of_address + 1);
        Some(ConnectionPermit { zookeeper: self.clone(), address })
    }

    async fn converse(&self, stream: TcpStream, address: IpAddr) -> io::Result<()> {
        // As ZooKeeper, which closes connections while it has no leader: the client tries the next server.
        let Some(formed) = self.quorums.root().formed().filter(|formed| formed.role.borrow().leader.is_some()) else {
            return Ok(());
        };
        let mut connection = Connection::new(stream, self.large_frames.clone());
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, connection.connect_request()).await??;
        let revision = i64::try_from(formed.view.get().revision.0).unwrap_or(i64::MAX);
        let opened = self.sessions.lock().open(&connect, revision, self.clock.monotonic());
        let (id, timeout_ms) = match opened {
            Opened::Session { id, timeout_ms } => (id, timeout_ms),
            Opened::Expired => {
                connect.expired(&mut connection.out);
                return connection.flush(CONNECT_TIMEOUT).await;
            }
            Opened::Refused => return Ok(()),
        };
        let timeout = Duration::from_millis(timeout_ms.unsigned_abs().into());
        connect.accepted(id, timeout_ms, &password(id), &mut connection.out);
        let mut session = Session { zookeeper: self, id, timeout, address, parts: Vec::new() };
        let ended = session.run(&mut connection).await;
        let mut sessions = self.sessions.lock();
        match ended {
            Ok(End::Session) => sessions.close(id),
            _ => sessions.disconnected(id),
        }
        ended.map(|_| ())
    }
}

/// One connection's part of the bounds.
struct ConnectionPermit {
    zookeeper: Arc<ZooKeeper>,
    address: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.zookeeper.connections.lock();
        connections.open -= 1;
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
    id: i64,
    timeout: Duration,
    address: IpAddr,
    /// One for each chroot that the client has named, and for the root.
    parts: Vec<Part>,
}

/// A session's part in one cluster: the client as that cluster's tree shows itself to it.
struct Part {
    chroot: Option<Chroot>,
    shared: Arc<Shared>,
    client: Client,
    views: watch::Receiver<Arc<View>>,
}

impl Session<'_> {
    async fn run(&mut self, connection: &mut Connection) -> io::Result<End> {
        loop {
            while let Some(frame) = connection.frame()? {
                let zookeeper = self.zookeeper;
                zookeeper.sessions.lock().heard(self.id, zookeeper.clock.monotonic());
                let part = self.part_of(&frame)?;
                let view = part.views.borrow_and_update().clone();
                let next = part.client.request(&frame, &view.tree, &mut connection.out).map_err(invalid)?;
                drop(frame);
                let is_over = part.proceed(next, connection, &zookeeper.refusals).await?;
                // Until now the frame, or what it asked for, took its part of the bound.
                connection.large_frame = None;
                if is_over {
                    connection.flush(self.timeout).await?;
                    return Ok(End::Session);
                }
                if connection.out.len() > WRITE_BYTES {
                    connection.flush(self.timeout).await?;
                }
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
                        let view = part.views.borrow_and_update().clone();
                        part.client.advance(&view.tree, &mut connection.out);
                        connection.flush(self.timeout).await?;
                    }
                }
            }
        }
    }

    /// The part that a request is for: that of the chroot which its first path begins with.
    fn part_of(&mut self, frame: &[u8]) -> io::Result<&mut Part> {
        let path = ottla_zookeeper::first_path(frame).unwrap_or("/");
        let (chroot, shared) = self.zookeeper.quorums.of_path(path);
        let at = match self.parts.iter().position(|part| part.chroot == chroot) {
            Some(at) => at,
            None => {
                let formed = shared.formed().ok_or(io::ErrorKind::ConnectionAborted)?;
                let mut views = formed.view.subscribe();
                let tree = views.borrow_and_update().tree.clone();
                let prefix = chroot.as_ref().map(Chroot::to_string).unwrap_or_default();
                let may_write = if shared.has_secret() { MayWrite::Nothing } else { MayWrite::Everything };
                let client = Client::new(self.address, prefix, tree, self.zookeeper.watches.clone(), may_write);
                self.parts.push(Part { chroot, shared, client, views });
                self.parts.len() - 1
            }
        };
        Ok(&mut self.parts[at])
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
    async fn proceed(&mut self, next: Next, connection: &mut Connection, refusals: &RateLimit) -> io::Result<bool> {
        let formed = self.shared.formed().ok_or(io::ErrorKind::ConnectionAborted)?;
        match next {
            Next::Continue => {}
            Next::Close => return Ok(true),
            Next::Sync { xid, path } => {
                let view = tokio::time::timeout(SYNC_TIMEOUT, formed.driver.linearizable_view()).await;
                let view = view.ok().and_then(Result::ok);
                self.client.synced(xid, &path, view.as_ref().map(|view| &view.tree), &mut connection.out);
            }
            Next::Decide { request, write } => {
                let error = self.decide(request, refusals).await;
                let view = self.views.borrow_and_update().clone();
                self.client.decided(&write, error, &view.tree, &mut connection.out);
            }
        }
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

/// A socket, what was received of it, and what is to be sent.
struct Connection {
    stream: TcpStream,
    received: BytesMut,
    out: Vec<u8>,
    large_frames: Arc<Semaphore>,
    /// Held while a large frame is received, and until what it asks for is done.
    large_frame: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: TcpStream, large_frames: Arc<Semaphore>) -> Self {
        Self { stream, received: BytesMut::new(), out: Vec::new(), large_frames, large_frame: None }
    }

    async fn connect_request(&mut self) -> io::Result<ConnectRequest> {
        while !self.has_frame() {
            if self.next_length().is_some_and(|length| length > CONNECT_BYTES_MAX) {
                return Err(invalid("a first frame that is no connect request"));
            }
            if self.receive().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let frame = self.frame()?.unwrap_or_default();
        ConnectRequest::parse(&frame).map_err(invalid)
    }

    fn next_length(&self) -> Option<usize> {
        let length = self.received.first_chunk::<4>()?;
        Some(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
    }

    fn has_frame(&self) -> bool {
        self.next_length().is_some_and(|length| length > FRAME_BYTES_MAX || self.received.len() - 4 >= length)
    }

    /// The next frame, if it has come whole.
    fn frame(&mut self) -> io::Result<Option<BytesMut>> {
        let Some(length) = self.next_length().filter(|_| self.has_frame()) else { return Ok(None) };
        if length > FRAME_BYTES_MAX {
            return Err(invalid(format!("a frame of {length} bytes")));
        }
        self.received.advance(4);
        let frame = self.received.split_to(length);
        if self.received.is_empty() && length > BUFFER_KEPT_BYTES {
            self.received = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// Receives some bytes; 0: the client has closed the connection. May be cancelled without losing any.
    async fn receive(&mut self) -> io::Result<usize> {
        let length = self.next_length().unwrap_or(0);
        if length > SMALL_FRAME_BYTES_MAX && self.large_frame.is_none() {
            let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
            let permit = self.large_frames.clone().acquire_many_owned(kib).await;
            self.large_frame = Some(permit.map_err(|_| io::ErrorKind::ConnectionAborted)?);
        }
        self.stream.read_buf(&mut self.received).await
    }

    /// A client that does not read is disconnected after `timeout`.
    async fn flush(&mut self, timeout: Duration) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        tokio::time::timeout(timeout, self.stream.write_all(&self.out)).await??;
        self.out.clear();
        self.out.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }
}

fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
