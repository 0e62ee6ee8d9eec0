//! The ports: bound before any other step, and protected against clients with another protocol.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ottla_metrics::RateLimit;
use ottla_resources::connections::{Caller, ConnectionLimits, ConnectionPermit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::four_letter_words::Words;
use crate::zookeeper::ZooKeeper;

/// The first bytes of every HTTP/2 client.
const PREFACE: &[u8] = b"PRI ";
/// A client that sends nothing for this time is disconnected: it holds one of few connections. A broker or a tool
/// sends the preface at once.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at a connection whose first bytes have come in part.
const PEEK_PAUSE: Duration = Duration::from_millis(5);
/// A four-letter word and its line end, with room for what else people send.
const WORD_BYTES_MAX: usize = 64;
/// Connections that wait for the server.
const ACCEPTED_MAX: usize = 64;
/// Each port of a coordinator has limits of its own, so its connections need no second count.
const ONE_LISTENER: &str = "coordinator";
/// After a failed accept (no file descriptors left), before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of one port that use HTTP/2. Ends when the receiver is dropped; each connection ends with `stop`,
/// even if streams are still open on it.
pub fn connections(
    listener: TcpListener,
    stop: CancellationToken,
    words: Arc<Words>,
    zookeeper: Option<Arc<ZooKeeper>>,
    limits: Arc<ConnectionLimits>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        let complaints = RateLimit::per_second();
        let refusals = Arc::new(RateLimit::per_second());
        loop {
            tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let ip = peer.ip().to_canonical();
                        let caller = Caller { listener: ONE_LISTENER, is_broker: false, ip };
                        let permit = match limits.enter(caller) {
                            Ok(permit) => permit,
                            Err(reason) => {
                                complaints.run(|more| tracing::warn!(%peer, more, "connection refused: {reason}"));
                                continue;
                            }
                        };
                        let sender = sender.clone();
                        let stopped = stop.clone().cancelled_owned();
                        let (words, zookeeper, stop) = (words.clone(), zookeeper.clone(), stop.clone());
                        let refusals = refusals.clone();
                        tokio::spawn(async move {
                            match protocol(stream, peer, &words, &refusals).await {
                                Protocol::Http2(stream) => {
                                    let stopped = Box::pin(stopped);
                                    let _ = sender.send(Ok(Connection { stream, stopped, _permit: permit })).await;
                                }
                                // The permit is given back when the session's connection ends.
                                Protocol::ZooKeeper(stream) => match zookeeper {
                                    Some(zookeeper) => zookeeper.serve(stream, peer, stop).await,
                                    None => refuse(&refusals, peer, "ZooKeeper's protocol is not served here"),
                                },
                                Protocol::Other => {}
                            }
                        });
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

/// What a client speaks, by its first bytes.
enum Protocol {
    Http2(TcpStream),
    ZooKeeper(TcpStream),
    /// Answered, refused or gone.
    Other,
}

async fn protocol(mut stream: TcpStream, peer: SocketAddr, words: &Arc<Words>, refusals: &RateLimit) -> Protocol {
    let mut first = [0; PREFACE.len()];
    if stream.set_nodelay(true).is_err() {
        return Protocol::Other;
    }
    match tokio::time::timeout(PREFACE_TIMEOUT, peek_whole(&stream, &mut first)).await {
        Ok(None) | Err(_) => return Protocol::Other,
        Ok(Some(count)) if PREFACE.starts_with(&first[..count]) => return Protocol::Http2(stream),
        // The length of a connect request, in four bytes.
        Ok(Some(_)) if first[0] == 0 => return Protocol::ZooKeeper(stream),
        Ok(Some(_)) => {}
    }
    // One of the words asks the disk for the size of its files.
    let words = Arc::clone(words);
    let answer = tokio::task::spawn_blocking(move || words.answer(first, peer)).await;
    match answer.unwrap_or_default() {
        Some(answer) => {
            // A client that does not read its answer in time has gone.
            let _ = tokio::time::timeout(PREFACE_TIMEOUT, tell(&mut stream, &answer)).await;
        }
        None if first.iter().all(u8::is_ascii_lowercase) => {
            refuse(refusals, peer, "it is no four-letter word that is answered")
        }
        None => refuse(refusals, peer, "this port accepts gRPC (HTTP/2), not HTTP/1"),
    }
    Protocol::Other
}

fn refuse(refusals: &RateLimit, peer: SocketAddr, why: &str) {
    refusals.run(|left_out| tracing::warn!(left_out, "refused a connection of {peer}: {why}"));
}

/// Looks at the first bytes without taking them, until all have come or they are not the beginning of anything known.
/// None: the connection has ended.
async fn peek_whole(stream: &TcpStream, first: &mut [u8; PREFACE.len()]) -> Option<usize> {
    loop {
        let count = stream.peek(first).await.ok().filter(|count| *count > 0)?;
        let may_be_word = first[..count].iter().all(u8::is_ascii_lowercase);
        if count == first.len() || !(PREFACE.starts_with(&first[..count]) || may_be_word) {
            return Some(count);
        }
        // Peeking again returns at once with what is there already.
        tokio::time::sleep(PEEK_PAUSE).await;
    }
}

async fn tell(stream: &mut TcpStream, answer: &str) -> io::Result<()> {
    // What was peeked at must be read: a connection that is closed with unread bytes is reset, and its answer may be
    // lost.
    let mut said = [0; WORD_BYTES_MAX];
    let _ = stream.read(&mut said).await?;
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Until the client has closed its side too; it says nothing more.
    while stream.read(&mut said).await? > 0 {}
    Ok(())
}

/// A connection that reads as ended once the coordinator stops. Otherwise the server would wait for open streams to
/// end, while the other side keeps sending to a stopped coordinator.
pub struct Connection {
    stream: TcpStream,
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
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
