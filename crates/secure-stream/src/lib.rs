//! Outgoing connections to brokers: the TLS handshake and the SASL login that come before the first request.

pub mod bearer;
mod login;
pub mod web;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ottla_sasl::ClientLogin;
use ottla_tls::{ClientTls, ClientTlsStream, TlsError, handshake};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::bearer::FollowedLogin;

/// Why a connection that was made cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Login(String),
}

impl SecureError {
    /// Whether the same attempt may succeed later: the other side went away, or did not answer.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

impl From<SecureError> for io::Error {
    fn from(error: SecureError) -> Self {
        match error {
            SecureError::Io(error) => error,
            other => Self::new(io::ErrorKind::PermissionDenied, other.to_string()),
        }
    }
}

/// How connections are secured; nothing is plaintext without a login.
#[derive(Clone, Debug, Default)]
pub struct StreamSecurity {
    pub tls: Option<Arc<ClientTls>>,
    pub login: Option<Arc<FollowedLogin>>,
}

impl StreamSecurity {
    /// May read files with certificates of an identity provider.
    pub fn new(tls: Option<ClientTls>, login: Option<ClientLogin>) -> Result<Self, TlsError> {
        let login = login.map(FollowedLogin::new).transpose()?;
        Ok(Self { tls: tls.map(Arc::new), login: login.map(Arc::new) })
    }

    /// Secures a stream that is connected to `host`. How long the login holds, if it ends.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> Result<(SecureStream, Option<Duration>), SecureError> {
        // Before the handshake: a server does not wait long for one that is complete.
        let credentials = match &self.login {
            None => None,
            Some(login) => Some(login.current().credentials().await?),
        };
        let mut stream = match &self.tls {
            None => SecureStream::Plain(stream),
            Some(tls) => {
                let name = ClientTls::server_name(host)?;
                let shaken = handshake::observe(tls.connect(name, stream)).await;
                let connected = shaken.map_err(|error| match error.kind() {
                    // rustls' own errors come as these.
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => SecureError::Tls(error.into()),
                    _ => SecureError::Io(error.into()),
                })?;
                SecureStream::Tls(Box::new(connected))
            }
        };
        let lifetime = match credentials {
            None => None,
            Some(credentials) => login::log_in(&mut stream, credentials).await?,
        };
        Ok((stream, lifetime))
    }
}

pub enum SecureStream {
    Plain(TcpStream),
    Tls(Box<ClientTlsStream>),
}

/// The reading half of a [`SecureStream`]; plaintext shares no lock with the other half.
pub enum SecureReadHalf {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<Box<ClientTlsStream>>),
}

pub enum SecureWriteHalf {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<Box<ClientTlsStream>>),
}

impl SecureStream {
    pub fn into_split(self) -> (SecureReadHalf, SecureWriteHalf) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (SecureReadHalf::Plain(read), SecureWriteHalf::Plain(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(stream);
                (SecureReadHalf::Tls(read), SecureWriteHalf::Tls(write))
            }
        }
    }
}

macro_rules! reads {
    ($kind:ty) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
                    Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
                }
            }
        }
    };
}

macro_rules! writes {
    ($kind:ty) => {
        impl AsyncWrite for $kind {
            fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
                    Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_flush(context),
                    Self::Tls(stream) => Pin::new(stream).poll_flush(context),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
                    Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
                }
            }
        }
    };
}

reads!(SecureStream);
reads!(SecureReadHalf);
writes!(SecureStream);
writes!(SecureWriteHalf);
