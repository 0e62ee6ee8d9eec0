//! A listener's side.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::followed::Followed;
use crate::settings::{ClientAuth, TlsSettings};
use crate::verifier::ClientVerifier;
use crate::{HTTP_1, HTTP_2, HandshakeError, ReadAhead, ServerTlsStream, TlsError, handshake, names, provider, store};

/// For a client to hear why it is refused: as long as it holds a connection at most.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// What such a client sent before it heard, read in pieces of this size.
const UNREAD_BYTES: usize = 4 * 1024;

/// The TLS of one listener. New connections use the files as they were when [`ServerTls::follow`] looked last;
/// connections that are open keep what they have.
pub struct ServerTls {
    followed: Followed<ServerConfig>,
}

impl ServerTls {
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        Ok(Self { followed: Followed::new(settings, server_config)? })
    }

    /// For a port that serves HTTP: clients learn in the handshake that it has HTTP/2, which gRPC's demand.
    pub fn for_http(settings: TlsSettings) -> Result<Self, TlsError> {
        let config = |settings: &TlsSettings| {
            let mut config = server_config(settings)?;
            config.alpn_protocols = [HTTP_2, HTTP_1].map(<[u8]>::to_vec).to_vec();
            Ok(config)
        };
        Ok(Self { followed: Followed::new(settings, config)? })
    }

    /// The handshake, with the certificates that are in use now.
    pub async fn accept(&self, socket: TcpStream) -> Result<ServerTlsStream, Refused> {
        let accepting = TlsAcceptor::from(self.followed.current()).accept(ReadAhead::new(socket)).into_fallible();
        let mut refused = None;
        let accepting = async {
            accepting.await.map_err(|(error, socket)| {
                refused = Some(socket);
                error
            })
        };
        let done = handshake::observe(accepting).await;
        done.map_err(|error| Refused { error, socket: refused })
    }

    /// Reads the files again if one has changed, or if the settings have; true: new ones are in use. Blocks. On an
    /// error, the former certificates stay in use until something changes again.
    pub fn follow(&self, settings: &TlsSettings) -> Result<bool, TlsError> {
        self.followed.follow(settings)
    }

    /// The names of hosts that a client's certificate has: its common name and its DNS names.
    pub fn hosts(certificate: &CertificateDer<'_>) -> Vec<String> {
        names::hosts(certificate)
    }

    /// The name of the principal that a client's certificate stands for; none if no rule matches it.
    pub fn principal_name(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        self.followed.settings().principal_rules.name_of(certificate)
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct Refused {
    pub error: HandshakeError,
    socket: Option<ReadAhead>,
}

impl Refused {
    /// Closes one side, and reads what the client sends until it has closed the other, or [`FAREWELL_MAX`] is over: a
    /// client that has shaken hands in TLS 1.3 sends its first request at once, and a connection that is closed with
    /// unread bytes is reset, so that the client would not hear why its certificate is refused.
    pub async fn say_farewell(self) -> HandshakeError {
        if let Some(socket) = self.socket {
            // A client that is gone does not hear it.
            let _ = tokio::time::timeout(FAREWELL_MAX, read_to_end(socket)).await;
        }
        self.error
    }
}

async fn read_to_end(mut socket: ReadAhead) -> io::Result<()> {
    socket.shutdown().await?;
    let mut unread = [0; UNREAD_BYTES];
    while socket.read(&mut unread).await? > 0 {}
    Ok(())
}

pub(crate) fn server_config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    const KEY: &str = "ssl.keystore.location";
    let unusable = |error: rustls::Error| TlsError::Certificate { name: KEY, problem: error.to_string() };
    let material = store::key(settings)?
        .ok_or_else(|| TlsError::setting(KEY, "is not set: a listener with TLS needs a key and a certificate"))?;
    let provider = provider(settings);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&settings.versions)
        .map_err(|error| TlsError::setting("ssl.cipher.suites", error.to_string()))?;
    let builder = match settings.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        auth => {
            let pinned = store::trusted(settings)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store::roots(&pinned)), provider);
            let verifier = if auth == ClientAuth::Requested { verifier.allow_unauthenticated() } else { verifier };
            let inner =
                verifier.build().map_err(|error| TlsError::setting("ssl.truststore.location", error.to_string()))?;
            builder.with_client_cert_verifier(Arc::new(ClientVerifier { inner, pinned }))
        }
    };
    let mut config = builder.with_single_cert(material.chain, material.key).map_err(unusable)?;
    if settings.client_auth != ClientAuth::None {
        // A resumed session shows no certificate again: one that has expired, or is not trusted any more, would go on.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}
