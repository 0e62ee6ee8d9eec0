//! A fetcher's connection: requests out, whole response frames in, by the task that fetches. No task of its own stands
//! between the socket and the log, because each hand-over would cost more than the record that it brings.

use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use ottla_protocol::frame::LENGTH_BYTES;
use ottla_secure_stream::{SecureStream, StreamSecurity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is kept of the receive buffer between frames. A larger one came with a burst and goes with it.
const BUFFER_KEPT_BYTES: usize = 256 * 1024;
/// What a read asks for when nothing is known of the next frame.
const READ_BYTES: usize = 64 * 1024;

pub struct FetchStream {
    socket: SecureStream,
    received: BytesMut,
    /// Larger frames are a broken peer.
    frame_max_bytes: usize,
}

impl FetchStream {
    pub async fn connect(
        host: &str,
        port: u16,
        security: &StreamSecurity,
        receive_buffer_bytes: Option<usize>,
        frame_max_bytes: usize,
    ) -> io::Result<Self> {
        let connect = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
            for address in tokio::net::lookup_host((host, port)).await? {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                if let Some(bytes) = receive_buffer_bytes {
                    socket.set_recv_buffer_size(u32::try_from(bytes).unwrap_or(u32::MAX))?;
                }
                match socket.connect(address).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the connection was not made in time");
        let socket = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(late)??;
        socket.set_nodelay(true)?;
        let securing = tokio::time::timeout(CONNECT_TIMEOUT, security.secure(socket, host));
        // A login that has come to its end closes the connection; the fetcher then makes another one.
        let (socket, _) = securing.await.map_err(late)??;
        Ok(Self { socket, received: BytesMut::new(), frame_max_bytes })
    }

    /// Sends a whole request frame. Nothing else of the fetcher goes on meanwhile, and a broker that stands still takes
    /// only what fits into the buffers of both kernels: hence the time-out.
    pub async fn send(&mut self, frame: &[u8], timeout: Duration) -> io::Result<()> {
        let mut send = pin!(async {
            self.socket.write_all(frame).await?;
            self.socket.flush().await
        });
        // Nearly always the kernel takes it at once; only else is there something to wait for.
        if let Poll::Ready(sent) = futures::poll!(send.as_mut()) {
            return sent;
        }
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the broker does not take the request");
        tokio::time::timeout(timeout, send).await.map_err(late)?
    }

    /// The next response frame, without its length. May be dropped while it waits: nothing is lost.
    pub async fn receive(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            if self.socket.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_frame(&mut self) -> io::Result<Option<Bytes>> {
        let Some(prefix) = self.received.first_chunk::<LENGTH_BYTES>() else {
            self.make_room(READ_BYTES);
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.frame_max_bytes {
            let problem = format!("a response of {length} bytes, where at most {} were expected", self.frame_max_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let missing = (LENGTH_BYTES + length).saturating_sub(self.received.len());
        if missing > 0 {
            self.make_room(missing.max(READ_BYTES));
            return Ok(None);
        }
        self.received.advance(LENGTH_BYTES);
        Ok(Some(self.received.split_to(length).freeze()))
    }

    fn make_room(&mut self, bytes: usize) {
        if self.received.is_empty() && self.received.capacity() > BUFFER_KEPT_BYTES.max(bytes) {
            self.received = BytesMut::with_capacity(bytes);
        } else {
            self.received.reserve(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fetcher read neither its mailbox nor its clock until TCP gave the connection up, a quarter of an hour later.
    #[tokio::test]
    async fn a_broker_that_stands_still_holds_a_request_up_for_a_while_only() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let port = listener.local_addr().expect("bound").port();
        let security = StreamSecurity::default();
        let mut stream = FetchStream::connect("127.0.0.1", port, &security, None, 1024).await.expect("connected");
        // More than the buffers of both kernels.
        let frame = vec![0; 64 << 20];
        let sent = stream.send(&frame, Duration::from_millis(100)).await;
        assert_eq!(sent.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
    }
}
