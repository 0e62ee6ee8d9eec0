//! Configured ports that are in use: the process that has one, and when another try may help.
//!
//! The system gives outgoing connections any free port of its range (32768 and up on Linux), among them ports that a
//! listener was promised. Such a connection goes away by itself, so that binding is tried again for a while; a listener
//! of another process does not. A reserved port is given to no connection.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::Instant;

/// How long a port that only connections have is tried again. The side of a connection that closes first keeps its port
/// for 60 s on Linux (TIME_WAIT), and no option of the listener helps.
const PATIENCE: Duration = Duration::from_secs(75);
const INTERVAL: Duration = Duration::from_millis(100);
/// `TCP_LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";
/// The inode of sockets that no process has any more, such as those in TIME_WAIT.
const NO_INODE: &str = "0";

/// The holder of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortHolder {
    pub is_listening: bool,
    /// No process has the connection any more, but the system keeps its port for a while.
    has_ended: bool,
    /// Process id and command, where this process may see them.
    process: Option<(u32, String)>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let purpose = if self.is_listening { "which listens" } else { "for a connection" };
        match &self.process {
            _ if self.has_ended => write!(f, "a connection that has ended keeps it for up to a minute"),
            Some((id, command)) => write!(f, "process {id} ({command}) has it, {purpose}"),
            None => write!(f, "a process that cannot be seen from here has it, {purpose}"),
        }
    }
}

/// The holder of this local TCP port: a listener, else a connection, else a connection that has ended.
pub fn holder(port: u16) -> Option<PortHolder> {
    let mut sockets = sockets_on(port);
    sockets.sort_by_key(|(is_listening, inode)| (!is_listening, inode == NO_INODE));
    let (is_listening, inode) = sockets.into_iter().next()?;
    let has_ended = inode == NO_INODE;
    Some(PortHolder { is_listening, has_ended, process: if has_ended { None } else { process_of(&inode) } })
}

/// What an error about a port in use ends with: its holder, if that is known.
pub fn held_by(port: u16) -> String {
    holder(port).map(|holder| format!(": {holder}")).unwrap_or_default()
}

/// Whether a listener has the port. Looks at no process: asked again and again while a port is waited for.
fn is_listened_on(port: u16) -> bool {
    sockets_on(port).iter().any(|(is_listening, _)| *is_listening)
}

/// Of each socket with this local port whether it listens, and its inode.
fn sockets_on(port: u16) -> Vec<(bool, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().filter_map(|line| socket_on(line, port))).collect()
}

/// Whether the socket of a line of `/proc/net/tcp` listens, and its inode, if it is bound to this port.
fn socket_on(line: &str, port: u16) -> Option<(bool, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, bound) = fields.get(1)?.rsplit_once(':')?;
    if u16::from_str_radix(bound, 16).ok()? != port {
        return None;
    }
    Some((*fields.get(3)? == LISTENING, (*fields.get(9)?).to_owned()))
}

/// The process that has a descriptor of this socket.
fn process_of(inode: &str) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(id) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let has_it = descriptors
            .flatten()
            .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()));
        if has_it {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((id, command.trim().to_owned()));
        }
    }
    None
}

/// A port that this process keeps for a listener, which may be of another process. While it is kept, the system gives
/// it to no outgoing connection. Without it, a process that waits for the listener can take the port itself: a
/// connection to a port where nobody listens yet may get the same port as its own, and is then connected to itself.
pub struct Reservation {
    /// Bound, never listening, with the option SO_REUSEADDR: listeners with the same option may bind beside it.
    _socket: TcpSocket,
}

impl Reservation {
    /// Waits while only connections have the port.
    ///
    /// # Errors
    ///
    /// The port has a listener, or connections had it until the time was over, or this host has no such address.
    pub async fn new(address: SocketAddr) -> io::Result<Self> {
        let retry = Retry::new(address.port());
        loop {
            match Self::bind(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && retry.wait().await => {}
                result => return result.map(|socket| Self { _socket: socket }),
            }
        }
    }

    fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    }
}

/// How long a port in use is tried again.
pub struct Retry {
    port: u16,
    begun: Instant,
}

impl Retry {
    pub fn new(port: u16) -> Self {
        Self { port, begun: Instant::now() }
    }

    /// After a try that found the port in use: waits a little; returns whether to try again. False if a listener has
    /// the port, or if the time is over.
    pub async fn wait(&self) -> bool {
        let is_over = self.begun.elapsed() >= PATIENCE;
        if is_over || is_listened_on(self.port) {
            return false;
        }
        tokio::time::sleep(INTERVAL).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn listen(port: u16) -> io::Result<TcpListener> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
    }

    #[tokio::test]
    async fn a_listener_is_named_and_not_waited_for() {
        let listener = listen(0).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert_eq!(listen(port).expect_err("in use").kind(), ErrorKind::AddrInUse);
        assert!(!Retry::new(port).wait().await);
        let shown = holder(port).expect("there is one").to_string();
        let expected = format!("process {} (", std::process::id());
        assert!(shown.starts_with(&expected) && shown.ends_with("which listens"), "{shown}");
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_waited_for() {
        let server = listen(0).expect("a free port");
        let stream = TcpStream::connect(server.local_addr().expect("bound")).expect("connected");
        let port = stream.local_addr().expect("connected").port();
        assert_eq!(listen(port).expect_err("in use").kind(), ErrorKind::AddrInUse);
        let shown = holder(port).expect("there is one");
        assert!(!shown.is_listening && shown.to_string().ends_with("for a connection"), "{shown}");
        let retry = Retry::new(port);
        assert!(retry.wait().await);
        // Closed by the server first, the connection leaves no waiting state on this port.
        drop(server.accept());
        drop(stream);
        while let Err(error) = listen(port) {
            assert!(error.kind() == ErrorKind::AddrInUse && retry.wait().await, "{error}");
        }
    }

    #[tokio::test]
    async fn a_reserved_port_takes_a_listener_but_no_connection() {
        let port = listen(0).expect("a free port").local_addr().expect("bound").port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let reservation = Reservation::new(address).await.expect("free");
        let outgoing = TcpSocket::new_v4().expect("a socket");
        assert_eq!(outgoing.bind(address).expect_err("reserved").kind(), ErrorKind::AddrInUse);
        let listener = listen(port).expect("listens beside the reservation");
        drop(reservation);
        assert!(TcpStream::connect(listener.local_addr().expect("bound")).is_ok());
    }

    #[tokio::test]
    async fn an_ended_connection_is_named_as_such() {
        let server = listen(0).expect("a free port");
        let stream = TcpStream::connect(server.local_addr().expect("bound")).expect("connected");
        let port = stream.local_addr().expect("connected").port();
        let (mut accepted, _) = server.accept().expect("accepted");
        drop(stream);
        // The client has closed first; when the server has closed too, the client's side is in TIME_WAIT.
        assert_eq!(std::io::Read::read(&mut accepted, &mut [0]).expect("the end"), 0);
        drop(accepted);
        let shown = loop {
            match holder(port) {
                Some(holder) if holder.has_ended => break holder.to_string(),
                _ => tokio::time::sleep(INTERVAL).await,
            }
        };
        assert!(shown.contains("has ended"), "{shown}");
    }
}
