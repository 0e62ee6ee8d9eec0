//! The ports: bound before any other step, and protected against clients with another protocol.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// The first bytes of every HTTP/2 client.
const PREFACE: &[u8] = b"PRI ";
/// A client that sends nothing for this time is passed to the server, which has its own timeouts.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that wait for the server.
const ACCEPTED_MAX: usize = 64;
/// After a failed accept (no file descriptors left), before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of one port that use HTTP/2. Ends when the receiver is dropped; each connection ends with `stop`,
/// even if streams are still open on it.
pub fn connections(listener: TcpListener, stop: CancellationToken) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let sender = sender.clone();
                        let stopped = stop.clone().cancelled_owned();
                        tokio::spawn(async move {
                            if let Some(stream) = speaks_http2(stream, peer).await {
                                let _ = sender.send(Ok(Connection { stream, stopped: Box::pin(stopped) })).await;
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!("accept: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn speaks_http2(stream: TcpStream, peer: SocketAddr) -> Option<TcpStream> {
    stream.set_nodelay(true).ok()?;
    let mut first = [0; PREFACE.len()];
    match tokio::time::timeout(PREFACE_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(0) | Err(_)) => return None,
        Err(_) => return Some(stream),
        Ok(Ok(count)) if PREFACE.starts_with(&first[..count]) => return Some(stream),
        Ok(Ok(_)) => {}
    }
    // ZooKeeper's clients begin with the length of their first packet, its four-letter words with a letter.
    let guess = if first[0] == 0 || first.iter().all(u8::is_ascii_lowercase) {
        "it looks like a ZooKeeper client: Ottla's brokers use coordinator.connect, users `ottla tree`"
    } else {
        "this port accepts gRPC (HTTP/2), not HTTP/1"
    };
    tracing::warn!("refused a connection of {peer}: {guess}");
    None
}

/// A connection that reads as ended once the coordinator stops. Otherwise the server would wait for open streams to
/// end, while the other side keeps sending to a stopped coordinator.
pub struct Connection {
    stream: TcpStream,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
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
