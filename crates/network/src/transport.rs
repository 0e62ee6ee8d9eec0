//! The two kinds of streams under a connection. Plaintext is not boxed: its reads and writes are those of the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ottla_tls::ServerTlsStream;
use tokio::io::{AsyncRead, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsTransport>),
}

pub struct TlsTransport {
    stream: ServerTlsStream,
    /// What rustls had been given when it returned the last bytes.
    taken_at_return: u64,
}

impl TlsTransport {
    pub fn stream(&mut self) -> &mut ServerTlsStream {
        &mut self.stream
    }
}

impl Transport {
    /// After the handshake.
    pub fn tls(stream: ServerTlsStream) -> Self {
        let taken_at_return = stream.get_ref().0.taken_bytes();
        Self::Tls(Box::new(TlsTransport { stream, taken_at_return }))
    }

    /// What a record of TLS holds that is not complete, rounded up. rustls takes no record that is larger than 16 KiB.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(tls) => {
                let taken = tls.stream.get_ref().0.taken_bytes().saturating_sub(tls.taken_at_return);
                usize::try_from(taken).unwrap_or(usize::MAX)
            }
        }
    }

    /// Ready when a read would return something: bytes of the socket, or what TLS has decrypted already.
    pub fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
            Self::Tls(tls) => {
                let (socket, session) = tls.stream.get_mut();
                let has_plaintext =
                    session.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0);
                // A broken session shows at the read.
                if has_plaintext || !session.wants_read() {
                    return Poll::Ready(Ok(()));
                }
                socket.poll_read_ready(context)
            }
        }
    }

    /// Says farewell where TLS has one, as far as the socket takes it at once.
    pub fn close(&mut self, context: &mut Context<'_>) {
        if let Self::Tls(tls) = self {
            let _ = Pin::new(&mut tls.stream).poll_shutdown(context);
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(tls) => {
                let read = Pin::new(&mut tls.stream).poll_read(context, buffer);
                if read.is_ready() {
                    tls.taken_at_return = tls.stream.get_ref().0.taken_bytes();
                }
                match read {
                    // The end without a farewell: many clients close like that.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                    read => read,
                }
            }
        }
    }
}
