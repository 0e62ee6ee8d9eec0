//! A client's side: brokers among each other, and the tools.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{Connect, TlsConnector};

use crate::followed::Followed;
use crate::settings::TlsSettings;
use crate::verifier::ServerVerifier;
use crate::{HTTP_2, ReadAhead, TlsError, provider, store};

/// As [`crate::ServerTls`], new connections use the files as they were at the last look.
pub struct ClientTls {
    followed: Followed<ClientConfig>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        Ok(Self { followed: Followed::new(settings, client_config)? })
    }

    /// For HTTP/2 alone.
    pub fn for_http(settings: TlsSettings) -> Result<Self, TlsError> {
        let config = |settings: &TlsSettings| {
            let mut config = client_config(settings)?;
            config.alpn_protocols = vec![HTTP_2.to_vec()];
            Ok(config)
        };
        Ok(Self { followed: Followed::new(settings, config)? })
    }

    /// Blocks.
    pub fn follow(&self, settings: &TlsSettings) -> Result<bool, TlsError> {
        self.followed.follow(settings)
    }

    /// The handshake, with the certificates that are in use now.
    pub fn connect(&self, name: ServerName<'static>, socket: TcpStream) -> Connect<ReadAhead> {
        TlsConnector::from(self.followed.current()).connect(name, ReadAhead::new(socket))
    }

    /// The name that a server's certificate must have; of `host`, or an address.
    pub fn server_name(host: &str) -> io::Result<ServerName<'static>> {
        let host = host.trim_matches(['[', ']']).to_owned();
        ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = provider(settings);
    let pinned = store::trusted(settings)?;
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store::roots(&pinned)), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::setting("ssl.truststore.location", error.to_string()))?;
    let verifier = ServerVerifier { inner, pinned, verifies_host: settings.verifies_host };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&settings.versions)
        .map_err(|error| TlsError::setting("ssl.cipher.suites", error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match store::key(settings)? {
        Some(material) => builder
            .with_client_auth_cert(material.chain, material.key)
            .map_err(|error| TlsError::Certificate { name: "ssl.keystore.location", problem: error.to_string() }),
        None => Ok(builder.with_no_client_auth()),
    }
}

#[cfg(test)]
mod tests;
