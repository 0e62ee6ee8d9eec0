//! The listening sockets: bound early, so that a port in use is said at once and clients may queue; accepting as soon
//! as the log directories are open.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ottla_metrics::RateLimit;
use ottla_model::{KafkaPrincipal, ListenerName, SecurityProtocol};
use ottla_resources::giving_way::give_way;
use ottla_resources::handshakes::Handshakes;
use ottla_resources::{Caller, ConnectionLimits};
use ottla_tls::ServerTls;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::{Connection, ConnectionShared, End};
use crate::context::RequestContext;
use crate::metrics::NetworkMetrics;
use crate::security::ListenerSecurity;
use crate::service::Service;
use crate::transport::Transport;

/// Waits after an accept that failed for want of descriptors or memory: closing connections give them back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after this and nine probes: well within what idle connections are
/// kept for.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A TLS handshake: the first bytes of the client, and everything after them.
const FIRST_BYTES_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Of the reason in a line of the log: a subject of a certificate has some hundred, a token can have 64 Ki.
const REASON_CHARS_MAX: usize = 512;

/// Why a listener could not be bound; one line names it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listeners={listener}://{host}:{port}: the port is in use{holder}")]
    InUse { listener: ListenerName, host: String, port: u16, holder: String },
    #[error("listeners={listener}://{host}:{port}: {source}")]
    Other { listener: ListenerName, host: String, port: u16, source: io::Error },
}

impl BindError {
    /// Adds who has the port, where that is known.
    #[must_use]
    pub fn held_by(mut self, process: Option<impl fmt::Display>) -> Self {
        if let (Self::InUse { holder, .. }, Some(process)) = (&mut self, process) {
            *holder = format!(": {process}");
        }
        self
    }
}

/// One listening socket.
#[derive(Debug)]
pub struct BoundListener {
    pub name: ListenerName,
    pub is_inter_broker: bool,
    pub address: SocketAddr,
    socket: TcpListener,
}

/// Binds and listens. An empty host is every address of the machine, IPv6 and IPv4 where it has both.
pub fn bind(
    name: &ListenerName,
    host: &str,
    port: u16,
    is_inter_broker: bool,
    backlog: i32,
) -> Result<BoundListener, BindError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => {
            BindError::InUse { listener: name.clone(), host: host.to_owned(), port, holder: String::new() }
        }
        _ => BindError::Other { listener: name.clone(), host: host.to_owned(), port, source },
    };
    let addresses: Vec<SocketAddr> = if host.is_empty() {
        vec![(std::net::Ipv6Addr::UNSPECIFIED, port).into(), (std::net::Ipv4Addr::UNSPECIFIED, port).into()]
    } else {
        (host.trim_matches(['[', ']']), port).to_socket_addrs().map_err(failed)?.collect()
    };
    let mut result = Err(failed(io::Error::from(io::ErrorKind::AddrNotAvailable)));
    for address in addresses {
        match listen(address, backlog) {
            Ok(socket) => {
                let address = socket.local_addr().map_err(failed)?;
                return Ok(BoundListener { name: name.clone(), is_inter_broker, address, socket });
            }
            Err(error) => {
                let in_use = error.kind() == io::ErrorKind::AddrInUse;
                result = Err(failed(error));
                // A machine without IPv6 falls through to IPv4; a port in use is one.
                if in_use {
                    break;
                }
            }
        }
    }
    result
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A broker that was killed leaves connections in TIME_WAIT: its successor must not wait for them.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// The options of accepted sockets.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// `socket.send.buffer.bytes`; none: the system's, which grows with the connection.
    pub send_buffer_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`; as above.
    pub receive_buffer_bytes: Option<usize>,
}

/// Accepts, a task per connection, until told to stop; then closes the port and waits for the connections to end.
/// Dropping it ends them at once.
pub async fn accept<S: Service>(
    listener: BoundListener,
    security: ListenerSecurity,
    shared: Arc<ConnectionShared<S>>,
    limits: Arc<ConnectionLimits>,
    options: AcceptOptions,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    static CONNECTION_ID: AtomicU64 = AtomicU64::new(0);
    let socket = tokio::net::TcpListener::from_std(listener.socket)?;
    let mut connections = JoinSet::new();
    let complaints = Arc::new(RateLimit::per_second());
    loop {
        let (stream, peer) = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if is_of_the_peer(&error) {
                        continue;
                    }
                    complaints.run(|more| tracing::warn!(listener = %listener.name, %error, more, "accepting failed"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            // Empties the set as tasks end; without any, this branch waits for the other.
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        let wait = limits.pace(listener.name.as_str());
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut stop) => break,
            }
        }
        shared.metrics.connections_accepted.add(1);
        let (name, ip) = (listener.name.as_str(), peer.ip().to_canonical());
        let permit = match limits.enter(Caller { listener: name, is_broker: listener.is_inter_broker, ip }) {
            Ok(permit) => permit,
            Err(reason) => {
                shared.metrics.connections_refused.add(1);
                complaints
                    .run(|more| tracing::warn!(listener = %listener.name, %peer, more, "connection refused: {reason}"));
                continue;
            }
        };
        if let Err(error) = prepare(&stream, &options) {
            tracing::debug!(%peer, %error, "a connection went away while it was accepted");
            continue;
        }
        let mut context = RequestContext {
            listener: listener.name.clone(),
            security_protocol: security.protocol,
            is_inter_broker_listener: listener.is_inter_broker,
            principal: KafkaPrincipal::anonymous(),
            is_by_token: false,
            peer,
            connection_id: CONNECTION_ID.fetch_add(1, Ordering::Relaxed),
            opened: std::time::Instant::now(),
            software: Arc::default(),
        };
        let shared = Arc::clone(&shared);
        let complaints = Arc::clone(&complaints);
        let security = security.clone();
        connections.spawn(async move {
            let _permit = permit;
            let metrics = Arc::clone(&shared.metrics);
            metrics.connections_open.add(1);
            let _open = Open(&metrics);
            let listener = context.listener.clone();
            let transport = match &security.tls {
                None => Transport::Plain(stream),
                Some(tls) => match shake_hands(stream, tls, &shared.handshakes, &mut context).await {
                    Ok(transport) => transport,
                    // A coordinator that dials, or a check of the port.
                    Err(HandshakeError::Failed(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        tracing::debug!(%listener, %peer, "connection closed before the TLS handshake was done");
                        return;
                    }
                    Err(error) => {
                        metrics.tls_handshakes_failed.add(1);
                        complain(&complaints, &listener, peer, &error);
                        return;
                    }
                },
            };
            let end = Connection::new(transport, context, security.sasl, shared).run().await;
            if matches!(end, End::Login(_)) {
                metrics.logins_failed.add(1);
            }
            if end.is_broken() {
                metrics.connections_broken.add(1);
                complain(&complaints, &listener, peer, &end);
            } else {
                tracing::debug!(%listener, %peer, "connection closed: {end}");
            }
        });
        // One at a time: a crowd that comes at once waits in the socket's queue, and clients that are there have their
        // turn between two handshakes. The worker goes on with this when it has nothing else to do, or after some
        // dozens of other turns.
        give_way().await;
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// One line for a connection that its client is to blame for.
fn complain(complaints: &RateLimit, listener: &ListenerName, peer: SocketAddr, reason: &dyn fmt::Display) {
    complaints.run(|more| {
        let reason = one_line(&reason.to_string());
        tracing::info!(%listener, %peer, more, "connection closed: {reason}");
    });
}

/// A token or a certificate may hold what ends a line of the log, so that strangers could write lines of their own.
fn one_line(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Why a TLS handshake did not end in a connection.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("no TLS handshake came")]
    Silent,
    #[error("the TLS handshake took too long")]
    Slow,
    #[error("too many TLS handshakes are under way")]
    Crowded,
    #[error("TLS handshake: {0}")]
    Failed(#[from] ottla_tls::HandshakeError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no rule of ssl.principal.mapping.rules applies to the client's certificate")]
    NoPrincipal,
}

/// Waits for the client's first bytes, which costs no more than any idle connection; then shakes hands.
async fn shake_hands(
    stream: TcpStream,
    tls: &ServerTls,
    handshakes: &Arc<Handshakes>,
    context: &mut RequestContext,
) -> Result<Transport, HandshakeError> {
    tokio::time::timeout(FIRST_BYTES_MAX, stream.readable()).await.map_err(|_| HandshakeError::Silent)??;
    let address = context.peer.ip().to_canonical();
    let mut permit = handshakes.enter(address, Instant::now()).ok_or(HandshakeError::Crowded)?;
    // In a box: the state of a handshake is larger than that of an idle connection, which every connection would pay.
    let shaking = tokio::time::timeout(HANDSHAKE_MAX, Box::pin(tls.accept(stream)));
    let done = tokio::select! {
        done = shaking => done.map_err(|_| HandshakeError::Slow)?,
        _ = &mut permit.cancelled => return Err(HandshakeError::Slow),
    };
    drop(permit);
    let stream = match done {
        Ok(stream) => stream,
        Err(refused) => return Err(Box::pin(refused.say_farewell()).await.into()),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if context.security_protocol == SecurityProtocol::Ssl
        && let Some(certificate) = certificate
    {
        let name = tls.principal_name(certificate).ok_or(HandshakeError::NoPrincipal)?;
        context.principal = KafkaPrincipal::user(name);
    }
    Ok(Transport::tls(stream))
}

/// Also when the one who could say so is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Counts a connection as open until it is dropped, by its end or from outside.
struct Open<'a>(&'a NetworkMetrics);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections_open.add(-1);
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn prepare(stream: &TcpStream, options: &AcceptOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 6))?;
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ottla_resources::Limits;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::connection::tests::shared_with;
    use crate::frame_budget::FrameBudget;

    #[test]
    fn a_port_in_use_is_named() {
        let name = ListenerName::new("PLAINTEXT");
        let bound = bind(&name, "127.0.0.1", 0, true, 16).expect("a free port");
        let port = bound.address.port();
        let error = bind(&name, "127.0.0.1", port, true, 16).expect_err("in use").held_by(Some("process 7"));
        let expected = format!("listeners=PLAINTEXT://127.0.0.1:{port}: the port is in use: process 7");
        assert_eq!(error.to_string(), expected);
        assert!(matches!(bind(&name, "no.such.host.invalid", 0, true, 16), Err(BindError::Other { .. })));
    }

    /// Others have a turn after each connection, however many are waiting.
    #[tokio::test]
    async fn a_crowd_is_accepted_one_by_one() {
        const CROWD: u64 = 40;
        let (shared, metrics) = shared_with(1024, FrameBudget::new(1024));
        let bound = bind(&ListenerName::new("PLAINTEXT"), "127.0.0.1", 0, true, 64).expect("a free port");
        let crowd: Vec<_> = (0..CROWD).map(|_| std::net::TcpStream::connect(bound.address)).collect();
        let options = AcceptOptions { send_buffer_bytes: None, receive_buffer_bytes: None };
        let limits =
            ConnectionLimits::new(|_, _| Limits { total: 64, kept_for_brokers: 0, of_listener: 64, per_ip: 64 });
        let (_stop, stopped) = watch::channel(false);
        let security = ListenerSecurity::plaintext();
        let accepting = tokio::spawn(accept(bound, security, shared, Arc::new(limits), options, stopped));
        let mut before = 0;
        while before < CROWD {
            tokio::task::yield_now().await;
            let accepted = metrics.connections_accepted.get();
            assert!(accepted <= before + 1, "{} in one turn", accepted - before);
            before = accepted;
        }
        accepting.abort();
        assert!(crowd.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn connections_of_one_address_are_counted_and_the_port_closes() {
        let (shared, metrics) = shared_with(1024, FrameBudget::new(1024));
        let bound = bind(&ListenerName::new("PLAINTEXT"), "127.0.0.1", 0, true, 16).expect("a free port");
        let address = bound.address;
        let options = AcceptOptions { send_buffer_bytes: None, receive_buffer_bytes: Some(64 * 1024) };
        let limits = Arc::new(ConnectionLimits::new(|listener, ip| {
            assert_eq!((listener, ip), ("PLAINTEXT", Ipv4Addr::LOCALHOST.into()));
            Limits { total: 10, kept_for_brokers: 0, of_listener: 10, per_ip: 1 }
        }));
        let (stop, stopped) = watch::channel(false);
        let security = ListenerSecurity::plaintext();
        let accepting = tokio::spawn(accept(bound, security, shared, limits, options, stopped));
        let request = ottla_protocol::messages::api_versions::ApiVersionsResponse::encode_request(3, 1, None);
        let mut first = TcpStream::connect(address).await.expect("accepted");
        first.write_all(&request).await.expect("sent");
        first.read_i32().await.expect("an answer");
        let mut second = TcpStream::connect(address).await.expect("the system accepts");
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
        assert_eq!(metrics.connections_refused.get(), 1);
        stop.send_replace(true);
        drop(first);
        accepting.await.expect("no panic").expect("no error");
        assert_eq!(metrics.connections_open.get(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        let said = one_line("no key `a\r\n2026-01-01 INFO granted\u{85}` is known");
        assert_eq!(said, "no key `a\u{fffd}\u{fffd}2026-01-01 INFO granted\u{fffd}` is known");
        assert_eq!(one_line(&"k".repeat(70_000)).len(), REASON_CHARS_MAX);
    }
}
