//! A listener's side.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::followed::Followed;
use crate::settings::{ClientAuth, TlsSettings};
use crate::verifier::ClientVerifier;
use crate::{HTTP_1, HTTP_2, ReadAhead, TlsError, names, provider, store};

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
    pub fn accept(&self, socket: TcpStream) -> Accept<ReadAhead> {
        TlsAcceptor::from(self.followed.current()).accept(ReadAhead::new(socket))
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

fn server_config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
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
    builder.with_single_cert(material.chain, material.key).map_err(unusable)
}
