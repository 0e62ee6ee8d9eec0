//! One accepted connection: a socket or TLS around it, and the first bytes, which tell the protocol and are read again
//! by whoever speaks it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ottla_tls::ServerTlsStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::access::CertifiedClient;

/// As many bytes as tell the protocols apart.
pub const FIRST_BYTES: usize = 4;

enum Transport {
    Plain(TcpStream),
    Tls(Box<ServerTlsStream>),
}

pub struct Stream {
    transport: Transport,
    /// What the client's certificate says; none without one.
    pub client: Option<Arc<CertifiedClient>>,
    first: [u8; FIRST_BYTES],
    /// Of the first bytes, those that were looked at, and those of them that were read since.
    looked_at: usize,
    read: usize,
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::new(Transport::Plain(stream))
    }
}

impl From<ServerTlsStream> for Stream {
    fn from(stream: ServerTlsStream) -> Self {
        Self::new(Transport::Tls(Box::new(stream)))
    }
}

impl Stream {
    fn new(transport: Transport) -> Self {
        Self { transport, client: None, first: [0; FIRST_BYTES], looked_at: 0, read: 0 }
    }

    /// The first bytes, as soon as `is_enough` says so of them; fewer where the connection has ended. They are read
    /// again afterwards.
    pub async fn look(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> io::Result<&[u8]> {
        while self.looked_at < FIRST_BYTES && (self.looked_at == 0 || !is_enough(&self.first[..self.looked_at])) {
            let count = match &mut self.transport {
                Transport::Plain(stream) => stream.read(&mut self.first[self.looked_at..]).await?,
                Transport::Tls(stream) => stream.read(&mut self.first[self.looked_at..]).await?,
            };
            if count == 0 {
                break;
            }
            self.looked_at += count;
        }
        Ok(&self.first[..self.looked_at])
    }

    /// Forgets the first bytes.
    pub fn pass_over(&mut self) {
        self.read = self.looked_at;
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let again = &this.first[this.read..this.looked_at];
        if !again.is_empty() && buffer.remaining() > 0 {
            let count = again.len().min(buffer.remaining());
            buffer.put_slice(&again[..count]);
            this.read += count;
            return Poll::Ready(Ok(()));
        }
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => match Pin::new(stream.as_mut()).poll_read(context, buffer) {
                // The end without a farewell: many clients close like that.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_are_read_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listens");
        let mut stream = Stream::from(listener.accept().await.expect("accepted").0);
        client.write_all(b"ruok and more").await.expect("sent");
        assert_eq!(stream.look(|_| false).await.expect("read"), b"ruok");
        assert_eq!(stream.look(|_| false).await.expect("read"), b"ruok", "only once");
        let mut all = [0; 13];
        stream.read_exact(&mut all[..2]).await.expect("read");
        stream.read_exact(&mut all[2..]).await.expect("read");
        assert_eq!(&all, b"ruok and more");
        drop(client);
        assert_eq!(stream.read(&mut all).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_leaves_fewer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listens");
        let mut stream = Stream::from(listener.accept().await.expect("accepted").0);
        client.write_all(b"PR").await.expect("sent");
        drop(client);
        assert_eq!(stream.look(|_| false).await.expect("read"), b"PR");
    }
}
