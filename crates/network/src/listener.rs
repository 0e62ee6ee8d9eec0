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
use ottla_resources::unauthenticated::UnauthenticatedPermit;
use ottla_resources::{Caller, ConnectionLimits, ConnectionPermit};
use ottla_tls::ServerTls;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::{Connection, ConnectionShared, End, TURN_MAX};
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
    let socket = tokio::net::TcpListener::from_std(listener.socket)?;
    let (name, is_inter_broker) = (listener.name, listener.is_inter_broker);
    let complaints = RateLimit::per_second();
    let listener = Arc::new(Listener { name, is_inter_broker, security, shared, limits, options, complaints });
    let mut connections = JoinSet::new();
    let mut turn = AcceptTurn::new(tokio::time::Instant::now());
    loop {
        let (stream, peer) = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if is_of_the_peer(&error) {
                        continue;
                    }
                    let name = &listener.name;
                    let tell = |more: u64| tracing::warn!(listener = %name, %error, more, "accepting failed");
                    listener.complaints.run(tell);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            // Empties the set as tasks end; without any, this branch waits for the other.
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        let wait = listener.limits.pace(listener.name.as_str());
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut stop) => break,
            }
        }
        if let Some(admitted) = listener.admit(&stream, peer) {
            connections.spawn(Arc::clone(&listener).serve(stream, admitted));
        }
        let now = tokio::time::Instant::now();
        if turn.is_over(now) {
            // The worker goes on with this when it has nothing else to do, or after some dozens of other turns.
            give_way().await;
            turn.begin(now, tokio::time::Instant::now());
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// How long a listener accepts before clients that are there have their turn.
///
/// Mostly it takes one connection at a time: a crowd that comes at once waits in the socket's queue. Where the others'
/// turns are long it takes more, because a queue that is full drops what comes: clients try again after 1, 3 and 7 s.
struct AcceptTurn {
    ends: tokio::time::Instant,
}

impl AcceptTurn {
    /// Of the worker's time a listener takes one part in so many, and one connection at least.
    const PART: u32 = 8;

    fn new(now: tokio::time::Instant) -> Self {
        Self { ends: now }
    }

    fn is_over(&self, now: tokio::time::Instant) -> bool {
        now >= self.ends
    }

    /// Others had their turn since `gave_way`.
    fn begin(&mut self, gave_way: tokio::time::Instant, now: tokio::time::Instant) {
        self.ends = now + (now.duration_since(gave_way) / Self::PART).min(TURN_MAX);
    }
}

/// What all connections of one listener share.
struct Listener<S: Service> {
    name: ListenerName,
    is_inter_broker: bool,
    security: ListenerSecurity,
    shared: Arc<ConnectionShared<S>>,
    limits: Arc<ConnectionLimits>,
    options: AcceptOptions,
    complaints: RateLimit,
}

/// A connection within the limits, and what it counts in.
struct Admitted {
    context: RequestContext,
    /// Until the client has shown who it is; none: it need not.
    unauthenticated: Option<UnauthenticatedPermit>,
    _permit: ConnectionPermit,
    _open: Open,
}

impl<S: Service> Listener<S> {
    /// None: the connection is closed.
    fn admit(&self, stream: &TcpStream, peer: SocketAddr) -> Option<Admitted> {
        static CONNECTION_ID: AtomicU64 = AtomicU64::new(0);
        self.shared.metrics.connections_accepted.add(1);
        let ip = peer.ip().to_canonical();
        let caller = Caller { listener: self.name.as_str(), is_broker: self.is_inter_broker, ip };
        let permit = match self.limits.enter(caller) {
            Ok(permit) => permit,
            Err(refused) => {
                self.shared.unauthenticated.make_room(ip, refused, Instant::now());
                self.refuse(peer, &refused);
                return None;
            }
        };
        let mut unauthenticated = None;
        // Without TLS and a login there is nothing that a client has to show.
        if self.security.tls.is_some() || self.security.sasl.is_some() {
            unauthenticated = self.shared.unauthenticated.enter(ip, Instant::now());
            if unauthenticated.is_none() {
                self.refuse(peer, &"there are too many connections whose clients have not logged in");
                return None;
            }
        }
        if let Err(error) = prepare(stream, &self.options) {
            tracing::debug!(%peer, %error, "a connection went away while it was accepted");
            return None;
        }
        let context = RequestContext {
            listener: self.name.clone(),
            security_protocol: self.security.protocol,
            is_inter_broker_listener: self.is_inter_broker,
            principal: KafkaPrincipal::anonymous(),
            is_by_token: false,
            peer,
            connection_id: CONNECTION_ID.fetch_add(1, Ordering::Relaxed),
            opened: Instant::now(),
            software: Arc::default(),
        };
        Some(Admitted { context, unauthenticated, _permit: permit, _open: Open::new(&self.shared.metrics) })
    }

    fn refuse(&self, peer: SocketAddr, reason: &dyn fmt::Display) {
        self.shared.metrics.connections_refused.add(1);
        let listener = &self.name;
        self.complaints.run(|more| tracing::warn!(%listener, %peer, more, "connection refused: {reason}"));
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, admitted: Admitted) {
        let Admitted { mut context, mut unauthenticated, _permit, _open } = admitted;
        let peer = context.peer;
        let transport = match &self.security.tls {
            None => Transport::Plain(stream),
            Some(tls) => {
                // In a box: its state is larger than that of an idle connection, which every connection would pay.
                let shaking = Box::pin(shake_hands(stream, tls, &self.shared, &mut context));
                let shaken = tokio::select! {
                    shaken = shaking => shaken,
                    () = has_to_close(&mut unauthenticated) => Err(HandshakeError::ClosedForOthers),
                };
                match shaken {
                    Ok(transport) => transport,
                    Err(error) => {
                        self.tell_of_handshake(peer, &error);
                        return;
                    }
                }
            }
        };
        if self.security.sasl.is_none() {
            unauthenticated = None;
        } else if let Some(permit) = &mut unauthenticated {
            permit.stepped(Instant::now());
        }
        let (sasl, shared) = (self.security.sasl.clone(), Arc::clone(&self.shared));
        let connection = Box::new(Connection::new(transport, context, sasl, shared, unauthenticated));
        let end = connection.run().await;
        self.tell_of_end(peer, &end);
    }

    fn tell_of_handshake(&self, peer: SocketAddr, error: &HandshakeError) {
        let listener = &self.name;
        // A coordinator that dials, or a check of the port.
        if matches!(error, HandshakeError::Failed(error) if error.kind() == io::ErrorKind::UnexpectedEof) {
            tracing::debug!(%listener, %peer, "connection closed before the TLS handshake was done");
            return;
        }
        self.shared.metrics.tls_handshakes_failed.add(1);
        self.complain(peer, error);
    }

    fn tell_of_end(&self, peer: SocketAddr, end: &End) {
        let (listener, metrics) = (&self.name, &self.shared.metrics);
        if matches!(end, End::Login(_)) {
            metrics.logins_failed.add(1);
        }
        if end.is_broken() {
            metrics.connections_broken.add(1);
            self.complain(peer, end);
        } else {
            tracing::debug!(%listener, %peer, "connection closed: {end}");
        }
    }

    /// One line for a connection that its client is to blame for.
    fn complain(&self, peer: SocketAddr, reason: &dyn fmt::Display) {
        let listener = &self.name;
        self.complaints.run(|more| {
            let reason = one_line(&reason.to_string());
            tracing::info!(%listener, %peer, more, "connection closed: {reason}");
        });
    }
}

/// Completes when the connection has to be closed for others; never where it counts nowhere.
async fn has_to_close(unauthenticated: &mut Option<UnauthenticatedPermit>) {
    match unauthenticated {
        Some(permit) => permit.has_to_close().await,
        None => std::future::pending().await,
    }
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
    #[error("others connected, and the client did not begin its TLS handshake, or end it")]
    ClosedForOthers,
    #[error("TLS handshake: {0}")]
    Failed(#[from] ottla_tls::HandshakeError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no rule of ssl.principal.mapping.rules applies to the client's certificate")]
    NoPrincipal,
}

/// Waits for the client's first bytes, which costs no more than any idle connection; then shakes hands.
async fn shake_hands<S: Service>(
    stream: TcpStream,
    tls: &ServerTls,
    shared: &ConnectionShared<S>,
    context: &mut RequestContext,
) -> Result<Transport, HandshakeError> {
    tokio::time::timeout(FIRST_BYTES_MAX, stream.readable()).await.map_err(|_| HandshakeError::Silent)??;
    let address = context.peer.ip().to_canonical();
    let mut permit = shared.handshakes.enter(address, Instant::now()).ok_or(HandshakeError::Crowded)?;
    // In a box: clients that have not begun their handshake need not pay for its state.
    let shaking = Box::pin(shared.handshake_turns.take(&permit.place, tls.accept(stream)));
    let shaking = tokio::time::timeout(HANDSHAKE_MAX, shaking);
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
struct Open(Arc<NetworkMetrics>);

impl Open {
    fn new(metrics: &Arc<NetworkMetrics>) -> Self {
        metrics.connections_open.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
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

    use bytes::Bytes;
    use ottla_protocol::encode_request;
    use ottla_protocol::kafka_protocol::messages::{ApiVersionsRequest, SaslAuthenticateRequest, SaslHandshakeRequest};
    use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
    use ottla_resources::Limits;
    use ottla_resources::unauthenticated::Unauthenticated;
    use ottla_sasl::oauth::{Bearer, TokenError};
    use ottla_sasl::{Credentials, Mechanism, ScramCredential, ScramHash, TokenCredential};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::connection::tests::{Greeter, shared_with};
    use crate::frame_budget::FrameBudget;
    use crate::security::SaslListener;

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

    /// A queue that was full while others were busy made clients wait for seconds.
    #[test]
    fn a_listener_accepts_more_where_the_turns_of_others_are_long() {
        let start = tokio::time::Instant::now();
        let mut turn = AcceptTurn::new(start);
        assert!(turn.is_over(start), "one at a time");
        let after = |micros| start + Duration::from_micros(micros);
        turn.begin(start, after(800));
        assert!(!turn.is_over(after(899)) && turn.is_over(after(900)));
        turn.begin(start, after(1_000_000));
        assert!(turn.is_over(after(1_000_000) + TURN_MAX), "and not for long");
    }

    /// Others have a turn after each connection, however many are waiting. No time passes here.
    #[tokio::test(start_paused = true)]
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

    /// There may be thousands of them that do nothing.
    #[tokio::test]
    async fn a_connection_takes_little_memory() {
        let listener = Arc::new(Listener {
            name: ListenerName::new("PLAINTEXT"),
            is_inter_broker: false,
            security: ListenerSecurity::plaintext(),
            shared: shared_with(1024, FrameBudget::new(1024)).0,
            limits: Arc::new(ConnectionLimits::new(|_, _| Limits {
                total: 1,
                kept_for_brokers: 0,
                of_listener: 1,
                per_ip: 1,
            })),
            options: AcceptOptions { send_buffer_bytes: None, receive_buffer_bytes: None },
            complaints: RateLimit::per_second(),
        });
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (_client, accepted) =
            tokio::join!(TcpStream::connect(socket.local_addr().expect("bound")), socket.accept());
        let (stream, peer) = accepted.expect("accepted");
        let admitted = listener.admit(&stream, peer).expect("within the limits");
        let task_bytes = size_of_val(&listener.serve(stream, admitted));
        let connection_bytes = size_of::<Connection<Greeter>>();
        assert!(task_bytes + connection_bytes <= 2_048, "{task_bytes} and {connection_bytes}");
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

    struct Alice;

    impl Credentials for Alice {
        fn password(&self, user: &str) -> Option<String> {
            (user == "alice").then(|| "alice-secret".to_owned())
        }

        fn scram(&self, _: ScramHash, _: &str) -> Option<ScramCredential> {
            None
        }

        fn token(&self, _: ScramHash, _: &str) -> Option<TokenCredential> {
            None
        }

        fn bearer(&self, _: &str) -> Result<Bearer, TokenError> {
            Err(TokenError::Signature)
        }

        fn nobody_secret(&self) -> [u8; 32] {
            [9; 32]
        }
    }

    /// Sends a request; none: the connection is closed.
    async fn ask<R: Request>(client: &mut TcpStream, version: i16, request: &R) -> Option<Vec<u8>> {
        let frame = encode_request(version, 1, None, request).expect("encodes");
        client.write_all(&frame).await.ok()?;
        let mut answer = vec![0; usize::try_from(client.read_i32().await.ok()?).expect("positive")];
        client.read_exact(&mut answer).await.ok()?;
        Some(answer)
    }

    async fn log_in(client: &mut TcpStream) -> Option<()> {
        let mechanism = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN"));
        ask(client, 1, &mechanism).await?;
        let token = Bytes::from_static(b"\0alice\0alice-secret");
        let token = SaslAuthenticateRequest::default().with_auth_bytes(token);
        let answer = ask(client, 1, &token).await?;
        assert_eq!(answer.get(4..6), Some(&[0, 0][..]), "{answer:?}");
        Some(())
    }

    /// Connections that were silent before their login were bounded by the descriptors of the broker only, and kept
    /// others out for 30 s.
    #[tokio::test]
    async fn clients_that_do_not_log_in_give_way_to_those_that_do() {
        let shared = Arc::into_inner(shared_with(1024, FrameBudget::new(1 << 20)).0).expect("nobody else has it");
        let shared = Arc::new(shared.with_unauthenticated(Unauthenticated::new(|| 4)));
        shared.gate.open(Arc::new(Greeter));
        let bound = bind(&ListenerName::new("LOGIN"), "127.0.0.1", 0, false, 64).expect("a free port");
        let address = bound.address;
        let options = AcceptOptions { send_buffer_bytes: None, receive_buffer_bytes: None };
        let limits =
            ConnectionLimits::new(|_, _| Limits { total: 64, kept_for_brokers: 0, of_listener: 64, per_ip: 64 });
        let (_stop, stopped) = watch::channel(false);
        let sasl = SaslListener {
            mechanisms: [Mechanism::Plain].into(),
            credentials: Arc::new(Alice),
            watcher: None,
            reauth_max: None,
            receive_bytes_max: 1_000,
            failure_delay: Duration::ZERO,
        };
        let security =
            ListenerSecurity { protocol: SecurityProtocol::SaslPlaintext, tls: None, sasl: Some(Arc::new(sasl)) };
        let metrics = Arc::clone(&shared.metrics);
        let unauthenticated = Arc::clone(&shared.unauthenticated);
        let limits = Arc::new(limits);
        tokio::spawn(accept(bound, security, shared, limits, options, stopped));
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(address).await.expect("the system accepts"));
        }
        let mut logged_in = Vec::new();
        while logged_in.len() < 5 {
            // It is refused while the silent ones have just come.
            let mut client = TcpStream::connect(address).await.expect("the system accepts");
            if log_in(&mut client).await.is_some() {
                logged_in.push(client);
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "it was closed for others");
        assert!(unauthenticated.open() <= 1, "those that have logged in do not count");
        for client in &mut logged_in {
            assert!(ask(client, 0, &ApiVersionsRequest::default()).await.is_some(), "they stay");
        }
        assert_eq!(metrics.connections_broken.get(), 1);
        drop(silent);
    }
}
