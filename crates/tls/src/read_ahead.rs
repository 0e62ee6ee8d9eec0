//! A socket under TLS that is read in larger pieces than rustls asks for: 4 KiB, five calls of the system for each
//! record of 16 KiB.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Two whole records of TLS. A connection holds that much only while the other side sends: see [`ReadAhead`].
const READ_BYTES: usize = 2 * (16 * 1024 + 512);

/// Bytes that the socket had and rustls has not asked for yet. The buffer goes when the socket has nothing more, so
/// that an idle connection keeps none.
#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    buffer: BytesMut,
    taken_bytes: u64,
}

impl ReadAhead {
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: BytesMut::new(), taken_bytes: 0 }
    }

    /// What rustls has been given, since the connection began.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Ready when a read would return something.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() { self.socket.poll_read_ready(context) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, wanted: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            this.buffer.reserve(READ_BYTES);
            let read = pin!(this.socket.read_buf(&mut this.buffer)).poll(context);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                this.buffer = BytesMut::new();
                return read.map_ok(drop);
            }
        }
        let count = this.buffer.len().min(wanted.remaining());
        wanted.put_slice(&this.buffer[..count]);
        this.buffer.advance(count);
        this.taken_bytes += count as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn small_reads_get_every_byte_once_and_an_idle_connection_keeps_no_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (sender, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut sender, mut ahead) = (sender.expect("connected"), ReadAhead::new(accepted.expect("accepted").0));
        let sent: Vec<u8> = (0..3 * READ_BYTES).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let writing = tokio::spawn({
            let sent = sent.clone();
            async move { sender.write_all(&sent).await.map(|()| sender) }
        });
        let mut got = Vec::new();
        let mut piece = [0; 4096];
        while got.len() < sent.len() {
            let count = ahead.read(&mut piece).await.expect("read");
            assert!(count > 0, "it has not ended");
            got.extend_from_slice(&piece[..count]);
        }
        assert_eq!(got, sent);
        let sender = writing.await.expect("no panic").expect("written");

        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(pin!(ahead.read(&mut piece)).poll(&mut context).is_pending());
        assert_eq!(ahead.buffer.capacity(), 0);
        drop(sender);
        assert_eq!(ahead.read(&mut piece).await.expect("an end"), 0);
        assert_eq!(ahead.buffer.capacity(), 0);
    }
}
