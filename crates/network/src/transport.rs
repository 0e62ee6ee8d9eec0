//! The two kinds of streams under a connection. Plaintext is not boxed: its reads and writes are those of the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ottla_tls::ServerTlsStream;
use tokio::io::{AsyncRead, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

pub enum Transport {
    Plain(TcpStream),
    Tls(Box<ServerTlsStream>),
}

impl Transport {
    /// Ready when a read would return something: bytes of the socket, or what TLS has decrypted already.
    pub fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
            Self::Tls(stream) => {
                let (socket, session) = stream.get_mut();
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
        if let Self::Tls(stream) = self {
            let _ = Pin::new(stream.as_mut()).poll_shutdown(context);
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => match Pin::new(stream.as_mut()).poll_read(context, buffer) {
                // The end without a farewell: many clients close like that.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
        }
    }
}
