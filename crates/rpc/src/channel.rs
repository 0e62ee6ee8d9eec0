//! Channels to coordinators: in plaintext or by TLS, with what each call shows of its caller.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use ottla_model::{Chroot, ClusterSecret};
use ottla_tls::{ClientTls, ClientTlsStream, handshake};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codegen::http::Uri;
use tonic::codegen::{Service, StdError};
use tonic::transport::{Channel, Endpoint};

use crate::cluster_metadata::ClusterMetadata;
use crate::coordinators::CallError;

/// Longer than a connection takes between the members of a quorum. Without it, a host that is gone would hold the
/// caller for minutes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// A TLS handshake after the connection: two more round trips, and signatures on a machine that is busy.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval of the kernel's probes of a connection that says nothing. They wake no process; pings of HTTP/2 wake
/// both ends each time. A peer whose process stands still answers probes all the same: it is noticed by the answers
/// that it owes (heartbeats of sessions and of Raft, the revisions of a watch, the time limit of a call).
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection whose peer acknowledges nothing for this time is closed: its host is gone, or the network.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// A connection, in plaintext or by TLS.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
pub type Dialed = Box<dyn Duplex>;

/// How coordinators are spoken to. The default is plaintext without a secret.
#[derive(Clone, Debug, Default)]
pub struct ChannelSecurity {
    /// None: plaintext.
    pub tls: Option<Arc<ClientTls>>,
    /// What each call shows, if anything.
    pub secret: Option<ClusterSecret>,
}

impl ChannelSecurity {
    /// Plaintext.
    pub fn of_secret(secret: Option<&ClusterSecret>) -> Self {
        Self { tls: None, secret: secret.cloned() }
    }

    /// Makes the (lazy) channel to one coordinator. Fails only on an address that cannot be one.
    pub fn channel(&self, address: &str) -> Result<Channel, CallError> {
        let endpoint = endpoint(address)?;
        Ok(match &self.tls {
            None => endpoint.connect_with_connector_lazy(tcp_dialer()),
            Some(tls) => endpoint.connect_with_connector_lazy(TlsDialer { tcp: tcp_dialer(), tls: Arc::clone(tls) }),
        })
    }

    /// A connection to `host:port`, for protocols other than gRPC.
    ///
    /// # Errors
    /// The address is none, nobody accepts the connection, or the TLS handshake fails.
    pub async fn dial(&self, address: &str) -> io::Result<Dialed> {
        let Some(tls) = &self.tls else { return Ok(Box::new(TcpStream::connect(address).await?)) };
        let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(dial_tls(tls, host, port).await.map_err(io::Error::other)?))
    }

    /// What calls for a cluster carry.
    pub fn metadata(&self, chroot: Option<&Chroot>) -> ClusterMetadata {
        ClusterMetadata::new(self.secret.as_ref(), chroot)
    }
}

/// Whether [`ChannelSecurity::channel`] takes the address. Needs no runtime.
pub fn check_address(address: &str) -> Result<(), CallError> {
    endpoint(address).map(|_| ())
}

/// The scheme does not say whether there is TLS: the dialer does.
fn endpoint(address: &str) -> Result<Endpoint, CallError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| CallError::Address { address: address.to_owned(), reason: error.to_string() })?;
    if endpoint.uri().port_u16().is_none() {
        return Err(CallError::Address { address: address.to_owned(), reason: "no port".to_owned() });
    }
    Ok(endpoint)
}

/// A handshake that did not end in a connection: no request was sent.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub(crate) struct HandshakeError(#[source] pub(crate) io::Error);

/// Whether there was no connection because one side refused the certificate, or the TLS, of the other.
pub fn is_refused_handshake(error: &(dyn std::error::Error + 'static)) -> bool {
    handshake::explain(error).is_some()
}

fn tcp_dialer() -> HttpConnector {
    let mut dialer = HttpConnector::new();
    // The scheme is no matter of the connection's.
    dialer.enforce_http(false);
    dialer.set_nodelay(true);
    dialer.set_connect_timeout(Some(CONNECT_TIMEOUT));
    dialer.set_keepalive(Some(PROBE_INTERVAL));
    dialer.set_keepalive_interval(Some(PROBE_INTERVAL));
    dialer.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
    dialer
}

/// Dials, then shakes hands with the certificates that are in use at that moment.
struct TlsDialer {
    tcp: HttpConnector,
    tls: Arc<ClientTls>,
}

type Shaken = Result<TokioIo<ClientTlsStream>, StdError>;

impl Service<Uri> for TlsDialer {
    type Response = TokioIo<ClientTlsStream>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Shaken> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(StdError::from)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = Arc::clone(&self.tls);
        let dialing = self.tcp.call(uri.clone());
        Box::pin(async move {
            let stream = dialing.await?.into_inner();
            Ok(TokioIo::new(shake_hands(&tls, uri.host().unwrap_or_default(), stream).await?))
        })
    }
}

async fn dial_tls(tls: &ClientTls, host: &str, port: u16) -> Result<ClientTlsStream, StdError> {
    let dialing = TcpStream::connect((host.trim_matches(['[', ']']), port));
    let stream = in_time(CONNECT_TIMEOUT, dialing).await?;
    stream.set_nodelay(true)?;
    shake_hands(tls, host, stream).await
}

async fn shake_hands(tls: &ClientTls, host: &str, stream: TcpStream) -> Result<ClientTlsStream, StdError> {
    let name = ClientTls::server_name(host)?;
    let shaking = handshake::observe(tls.connect(name, stream));
    let shaking = async { shaking.await.map_err(io::Error::from) };
    Ok(in_time(HANDSHAKE_TIMEOUT, shaking).await.map_err(HandshakeError)?)
}

async fn in_time<T>(timeout: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(timeout, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
