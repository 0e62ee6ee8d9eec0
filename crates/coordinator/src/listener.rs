//! The ports: bound before any other step, and protected against clients with another protocol.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ottla_metrics::RateLimit;
use ottla_model::KafkaPrincipal;
use ottla_resources::connections::{Caller, ConnectionLimits, ConnectionPermit};
use ottla_resources::handshakes::Handshakes;
use ottla_resources::http_port;
use ottla_tls::ServerTls;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::access::{CertifiedClient, ClientInfo};
use crate::four_letter_words::Words;
use crate::stream::{FIRST_BYTES, Stream};
use crate::zookeeper::ZooKeeper;

/// The first bytes of every HTTP/2 client.
const PREFACE: &[u8] = b"PRI ";
/// Those of an HTTP/1 client that asks for a page.
const PAGE_REQUESTS: [&[u8]; 2] = [b"GET ", b"HEAD"];
/// The first byte of a TLS client.
const TLS_HANDSHAKE: u8 = 0x16;
/// A client that sends nothing for this time is disconnected: it holds one of few connections. A broker or a tool
/// sends the preface at once.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(2);
/// A TLS handshake, after its first byte.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A four-letter word and its line end, with room for what else people send.
const WORD_BYTES_MAX: usize = 64;
/// Connections that wait for the server.
const ACCEPTED_MAX: usize = 64;
/// Each port of a coordinator has limits of its own, so its connections need no second count.
const ONE_LISTENER: &str = "coordinator";
/// After a failed accept (no file descriptors left), before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The interval of the kernel's probes of a connection that says nothing. They wake no process.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// A client that acknowledges nothing for this time is gone, if its heartbeats did not show it before.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(4);

/// Connections in plaintext to a port that accepts both are told of so often: clients that come again and again must
/// not fill the log.
const PLAINTEXT_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Whether a port speaks TLS.
#[derive(Clone)]
pub enum Transport {
    Plaintext,
    Tls(Arc<ServerTls>),
    /// `port.unification`: the first byte of a connection tells.
    Either(Arc<ServerTls>),
}

impl Transport {
    pub fn has_tls(&self) -> bool {
        !matches!(self, Self::Plaintext)
    }
}

/// What one port demands and offers.
#[derive(Clone)]
pub struct Port {
    pub words: Arc<Words>,
    /// None: ZooKeeper's protocol is not served.
    pub zookeeper: Option<Arc<ZooKeeper>>,
    pub transport: Transport,
    /// Health and metrics, where they are served here too.
    pub pages: Option<axum::Router>,
    /// Of all ports.
    pub handshakes: Arc<Handshakes>,
    /// Each connection ends with it, even if streams are still open on it.
    pub stop: CancellationToken,
    /// One line a second.
    pub refusals: Arc<RateLimit>,
    pub plaintext_lines: Arc<RateLimit>,
}

impl Port {
    pub fn new(words: Arc<Words>, handshakes: Arc<Handshakes>, stop: CancellationToken) -> Self {
        let refusals = Arc::new(RateLimit::per_second());
        let plaintext_lines = Arc::new(RateLimit::new(PLAINTEXT_LINE_INTERVAL));
        let transport = Transport::Plaintext;
        Self { words, zookeeper: None, transport, pages: None, handshakes, stop, refusals, plaintext_lines }
    }

    fn refuse(&self, peer: SocketAddr, why: impl std::fmt::Display) {
        self.refusals.run(|left_out| tracing::warn!(left_out, "refused a connection of {peer}: {why}"));
    }
}

/// The connections of one port that use HTTP/2. Ends when the receiver is dropped.
pub fn connections(
    listener: TcpListener,
    port: Port,
    limits: Arc<ConnectionLimits>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        let complaints = RateLimit::per_second();
        loop {
            tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let ip = peer.ip().to_canonical();
                        let caller = Caller { listener: ONE_LISTENER, is_broker: false, ip };
                        match limits.enter(caller) {
                            Ok(permit) => drop(tokio::spawn(serve(stream, peer, port.clone(), sender.clone(), permit))),
                            Err(reason) => {
                                complaints.run(|more| tracing::warn!(%peer, more, "connection refused: {reason}"));
                            }
                        }
                    }
                    Err(error) => {
                        complaints.run(|more| tracing::warn!(more, "accept: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    });
    ReceiverStream::new(receiver)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_INTERVAL).with_interval(PROBE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// The permit is given back when the connection ends, whatever its protocol.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    port: Port,
    sender: mpsc::Sender<io::Result<Connection>>,
    permit: ConnectionPermit,
) {
    if prepare(&stream).is_err() {
        return;
    }
    let stream = match open(stream, peer, &port).await {
        Ok(stream) => stream,
        // A check of the port, or a client that has thought better of it.
        Err(HandshakeError::Gone) => return,
        Err(error) => return port.refuse(peer, error),
    };
    match protocol(stream, peer, &port).await {
        Protocol::Http2(stream) => {
            let stopped = Box::pin(port.stop.cancelled_owned());
            let _ = sender.send(Ok(Connection { stream, stopped, _permit: permit })).await;
        }
        Protocol::ZooKeeper(stream) => match port.zookeeper.clone() {
            Some(zookeeper) => zookeeper.serve(stream, peer, port.stop).await,
            None => port.refuse(peer, "ZooKeeper's protocol is not served here"),
        },
        Protocol::Page(stream, pages) => http_port::serve_one(stream, pages).await,
        Protocol::Other => {}
    }
}

/// Why there is no TLS with a client.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("it is gone")]
    Gone,
    #[error("this port accepts TLS only")]
    Plaintext,
    #[error("no TLS handshake came")]
    Silent,
    #[error("the TLS handshake took too long")]
    Slow,
    #[error("too many TLS handshakes are under way")]
    Crowded,
    #[error("TLS: {0}")]
    Failed(ottla_tls::HandshakeError),
    #[error("no rule of ssl.principal.mapping.rules applies to its certificate")]
    NoPrincipal,
}

/// As the port speaks. Waits for the first byte of a client that may speak TLS, which costs no more than any idle
/// connection.
async fn open(stream: TcpStream, peer: SocketAddr, port: &Port) -> Result<Stream, HandshakeError> {
    let (tls, accepts_plaintext) = match &port.transport {
        Transport::Plaintext => return Ok(Stream::from(stream)),
        Transport::Tls(tls) => (tls, false),
        Transport::Either(tls) => (tls, true),
    };
    let mut first = [0];
    let peeked = tokio::time::timeout(PREFACE_TIMEOUT, stream.peek(&mut first)).await;
    match peeked.map_err(|_| HandshakeError::Silent)? {
        Ok(1) if first[0] == TLS_HANDSHAKE => shake_hands(stream, peer, tls, &port.handshakes).await,
        Ok(1) if accepts_plaintext => {
            port.plaintext_lines.run(|left_out| {
                tracing::info!(left_out, "a connection of {peer} is in plaintext (port.unification=true)");
            });
            Ok(Stream::from(stream))
        }
        Ok(1) => Err(HandshakeError::Plaintext),
        _ => Err(HandshakeError::Gone),
    }
}

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &ServerTls,
    handshakes: &Arc<Handshakes>,
) -> Result<Stream, HandshakeError> {
    let address = peer.ip().to_canonical();
    let mut permit = handshakes.enter(address, Instant::now()).ok_or(HandshakeError::Crowded)?;
    let shaking = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
    let done = tokio::select! {
        done = shaking => done.map_err(|_| HandshakeError::Slow)?,
        _ = &mut permit.cancelled => return Err(HandshakeError::Slow),
    };
    drop(permit);
    let stream = match done {
        Ok(stream) => stream,
        Err(refused) => return Err(HandshakeError::Failed(refused.say_farewell().await)),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let client = certificate.map(|certificate| {
        let name = tls.principal_name(certificate).ok_or(HandshakeError::NoPrincipal)?;
        let names = ServerTls::hosts(certificate);
        Ok(Arc::new(CertifiedClient { principal: KafkaPrincipal::user(name), names }))
    });
    let client = client.transpose()?;
    let mut stream = Stream::from(stream);
    stream.client = client;
    Ok(stream)
}

/// What a client speaks, by its first bytes.
enum Protocol {
    Http2(Stream),
    Page(Stream, axum::Router),
    ZooKeeper(Stream),
    /// Answered, refused or gone.
    Other,
}

async fn protocol(mut stream: Stream, peer: SocketAddr, port: &Port) -> Protocol {
    let looking = tokio::time::timeout(PREFACE_TIMEOUT, stream.look(is_enough));
    let Ok(Ok(first)) = looking.await.map(|looked| looked.map(<[u8]>::to_vec)) else { return Protocol::Other };
    match (first.as_slice(), &port.pages) {
        ([], _) => return Protocol::Other,
        (first, _) if PREFACE.starts_with(first) => return Protocol::Http2(stream),
        (first, Some(pages)) if PAGE_REQUESTS.contains(&first) => return Protocol::Page(stream, pages.clone()),
        // The length of a connect request, in four bytes.
        ([0, ..], _) => return Protocol::ZooKeeper(stream),
        _ => {}
    }
    let mut word = [0; FIRST_BYTES];
    word[..first.len()].copy_from_slice(&first);
    // One of the words asks the disk for the size of its files.
    let words = Arc::clone(&port.words);
    let answer = tokio::task::spawn_blocking(move || words.answer(word, peer)).await;
    match answer.unwrap_or_default() {
        Some(answer) => {
            // A client that does not read its answer in time has gone.
            let _ = tokio::time::timeout(PREFACE_TIMEOUT, tell(&mut stream, &answer)).await;
        }
        None if first.iter().all(u8::is_ascii_lowercase) => {
            port.refuse(peer, "it is no four-letter word that is answered");
        }
        None if first[0] == TLS_HANDSHAKE && !port.transport.has_tls() => {
            port.refuse(peer, "this port does not speak TLS")
        }
        None => port.refuse(peer, "this port accepts gRPC (HTTP/2), not HTTP/1"),
    }
    Protocol::Other
}

/// Whether the first bytes that have come are not the beginning of anything known.
fn is_enough(first: &[u8]) -> bool {
    let may_be_word = first.iter().all(u8::is_ascii_lowercase);
    let may_be_http = [PREFACE].iter().chain(&PAGE_REQUESTS).any(|known| known.starts_with(first));
    !(may_be_word || may_be_http)
}

async fn tell(stream: &mut Stream, answer: &str) -> io::Result<()> {
    stream.pass_over();
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Until the client has closed its side too; a connection that is closed with unread bytes is reset, and its answer
    // may be lost.
    let mut said = [0; WORD_BYTES_MAX];
    while stream.read(&mut said).await? > 0 {}
    Ok(())
}

/// A connection that reads as ended once the coordinator stops. Otherwise the server would wait for open streams to
/// end, while the other side keeps sending to a stopped coordinator.
pub struct Connection {
    stream: Stream,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: ConnectionPermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Pending => this.stopped.as_mut().poll(cx).map(Ok),
            ready => ready,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = ClientInfo;

    fn connect_info(&self) -> ClientInfo {
        ClientInfo(self.stream.client.clone())
    }
}
