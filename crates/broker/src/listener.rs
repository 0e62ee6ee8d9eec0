//! The listening sockets: bound early, so that a port in use is said at once and clients may queue; accepting as soon as the
//! log directories are open.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_model::ListenerName;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::{Connection, ConnectionShared};
use crate::live_config::LiveConfig;
use crate::request::{Principal, RequestContext};
use crate::telemetry::logging::RateLimit;

/// Waits after an accept that failed for want of descriptors or memory: closing connections give them back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after this and nine probes: well within what idle connections are kept for.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Why a listener could not be bound; one line names it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listeners={listener}://{host}:{port}: the port is in use{holder}")]
    InUse { listener: ListenerName, host: String, port: u16, holder: String },
    #[error("listeners={listener}://{host}:{port}: {source}")]
    Other { listener: ListenerName, host: String, port: u16, source: io::Error },
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
            let holder = ottla_rpc::ports::holder(port).map(|holder| format!(": {holder}")).unwrap_or_default();
            BindError::InUse { listener: name.clone(), host: host.to_owned(), port, holder }
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

/// The limits and options of accepted sockets.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// `max.connections`.
    pub connections_max: usize,
    /// `max.connections.per.ip`.
    pub connections_per_ip_max: usize,
    /// `socket.send.buffer.bytes`; none: the system's, which grows with the connection.
    pub send_buffer_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`; as above.
    pub receive_buffer_bytes: Option<usize>,
}

/// Who is connected, by address.
#[derive(Default)]
pub struct Population {
    /// Where the limits may change while the broker runs.
    live: Option<Arc<LiveConfig>>,
    by_ip: Mutex<BTreeMap<IpAddr, usize>>,
    total: Mutex<usize>,
}

/// One place in the population; gives it back when dropped.
struct Seat {
    population: Arc<Population>,
    ip: IpAddr,
}

impl Population {
    /// Whose limits are those of `live` at the time of each arrival, rather than those of the options.
    pub fn following(live: Arc<LiveConfig>) -> Self {
        Self { live: Some(live), ..Self::default() }
    }

    /// The most connections in all, and from this address.
    fn limits(&self, ip: IpAddr, options: &AcceptOptions) -> (usize, usize) {
        match &self.live {
            Some(live) => {
                let config = live.current();
                let own = config.max_connections_per_ip_overrides.get(&ip).copied();
                (config.max_connections, own.unwrap_or(config.max_connections_per_ip))
            }
            None => (options.connections_max, options.connections_per_ip_max),
        }
    }

    fn enter(self: &Arc<Self>, ip: IpAddr, options: &AcceptOptions) -> Result<Seat, &'static str> {
        let (connections_max, per_ip_max) = self.limits(ip, options);
        let mut total = self.total.lock();
        if *total >= connections_max {
            return Err("max.connections is reached");
        }
        let mut by_ip = self.by_ip.lock();
        let from_ip = by_ip.entry(ip).or_insert(0);
        if *from_ip >= per_ip_max {
            return Err("max.connections.per.ip is reached");
        }
        *from_ip += 1;
        *total += 1;
        Ok(Seat { population: Arc::clone(self), ip })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut total = self.population.total.lock();
        *total = total.saturating_sub(1);
        let mut by_ip = self.population.by_ip.lock();
        if let Some(count) = by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                by_ip.remove(&self.ip);
            }
        }
    }
}

/// Accepts, a task per connection, until told to stop; then closes the port and waits for the connections to end. Dropping it ends
/// them at once.
pub async fn accept(
    listener: BoundListener,
    shared: Arc<ConnectionShared>,
    population: Arc<Population>,
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
        shared.telemetry.connections_accepted.add(1);
        let seat = match population.enter(peer.ip().to_canonical(), &options) {
            Ok(seat) => seat,
            Err(reason) => {
                shared.telemetry.connections_refused.add(1);
                complaints
                    .run(|more| tracing::warn!(listener = %listener.name, %peer, more, "connection refused: {reason}"));
                continue;
            }
        };
        if let Err(error) = prepare(&stream, &options) {
            tracing::debug!(%peer, %error, "a connection went away while it was accepted");
            continue;
        }
        let context = RequestContext {
            listener: listener.name.clone(),
            is_inter_broker_listener: listener.is_inter_broker,
            principal: Principal::Anonymous,
            peer,
            connection_id: CONNECTION_ID.fetch_add(1, Ordering::Relaxed),
        };
        let shared = Arc::clone(&shared);
        let complaints = Arc::clone(&complaints);
        connections.spawn(async move {
            let _seat = seat;
            let telemetry = Arc::clone(&shared.telemetry);
            telemetry.connections_open.add(1);
            let _open = Open(&telemetry);
            let connection = Connection::new(stream, context, shared);
            let listener = connection.listener().clone();
            let end = connection.run().await;
            if end.is_broken() {
                telemetry.connections_broken.add(1);
                complaints.run(|more| tracing::info!(%listener, %peer, more, "connection closed: {end}"));
            } else {
                tracing::debug!(%listener, %peer, "connection closed: {end}");
            }
        });
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Also when the one who could say so is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Counts a connection as open until it is dropped, by its end or from outside.
struct Open<'a>(&'a crate::telemetry::Telemetry);

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
    use ottla_model::{BrokerId, IncarnationId};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::identity::Identity;
    use crate::telemetry::Telemetry;

    #[test]
    fn a_port_in_use_is_named() {
        let name = ListenerName::new("PLAINTEXT");
        let bound = bind(&name, "127.0.0.1", 0, true, 16).expect("a free port");
        let port = bound.address.port();
        let error = bind(&name, "127.0.0.1", port, true, 16).expect_err("in use");
        let error = error.to_string();
        let expected = format!("listeners=PLAINTEXT://127.0.0.1:{port}: the port is in use: process ");
        assert!(error.starts_with(&expected), "{error}");
        assert!(matches!(bind(&name, "no.such.host.invalid", 0, true, 16), Err(BindError::Other { .. })));
    }

    #[tokio::test]
    async fn connections_of_one_address_are_counted_and_the_port_closes() {
        let identity = Arc::new(Identity::new(IncarnationId([1; 16]), BrokerId(1)));
        let telemetry = Arc::new(Telemetry::default());
        let shared = Arc::new(ConnectionShared::new(identity, Arc::clone(&telemetry), 1024, 1024, None));
        let bound = bind(&ListenerName::new("PLAINTEXT"), "127.0.0.1", 0, true, 16).expect("a free port");
        let address = bound.address;
        let options = AcceptOptions {
            connections_max: 10,
            connections_per_ip_max: 1,
            send_buffer_bytes: None,
            receive_buffer_bytes: Some(64 * 1024),
        };
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(bound, shared, Arc::default(), options, stopped));
        let request = ottla_protocol::messages::api_versions::ApiVersionsResponse::encode_request(3, 1, None);
        let mut first = TcpStream::connect(address).await.expect("accepted");
        first.write_all(&request).await.expect("sent");
        first.read_i32().await.expect("an answer");
        let mut second = TcpStream::connect(address).await.expect("the system accepts");
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
        assert_eq!(telemetry.connections_refused.get(), 1);
        stop.send_replace(true);
        drop(first);
        accepting.await.expect("no panic").expect("no error");
        assert_eq!(telemetry.connections_open.get(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
