//! TLS of listeners and of clients: Kafka's `ssl.*` settings, its key and trust stores, and names of certificates as
//! principals. The protocol itself is rustls'.
//!
//! - [`settings`]: names of Kafka, read from any source of texts;
//! - [`store`]: PEM, PKCS12 and JKS;
//! - [`server`]: a listener's side, which follows its files; [`client`]: the other side;
//! - [`ReadAhead`]: the socket below;
//! - [`handshake`]: why one failed, for operators;
//! - [`principal`]: the rules of `ssl.principal.mapping.rules`.

pub mod client;
mod followed;
pub mod handshake;
mod jks;
mod names;
pub mod principal;
mod read_ahead;
pub mod server;
pub mod settings;
pub mod store;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client::ClientTls;
pub use handshake::HandshakeError;
pub use principal::PrincipalRules;
pub use read_ahead::ReadAhead;
pub use rustls::pki_types::CertificateDer;
pub use server::{Refused, ServerTls};
pub use settings::{ClientAuth, Password, TlsSettings};

/// A connection that a client opened.
pub type ClientTlsStream = tokio_rustls::client::TlsStream<ReadAhead>;
/// A connection that a listener accepted.
pub type ServerTlsStream = tokio_rustls::server::TlsStream<ReadAhead>;

/// Names of protocols in a handshake (ALPN).
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// Why TLS cannot be used as it is set; one line, without secrets.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{name}: {problem}")]
    Setting { name: &'static str, problem: String },
    #[error("{path}: {problem}")]
    Store { path: PathBuf, problem: String },
    #[error("{name}: the certificate and its key cannot be used: {problem}")]
    Certificate { name: &'static str, problem: String },
}

impl TlsError {
    pub(crate) fn setting(name: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { name, problem: problem.into() }
    }
}

fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    if !settings.cipher_suites.is_empty() {
        let is_allowed = |name: &str| settings.cipher_suites.iter().any(|allowed| allowed == name);
        provider.cipher_suites.retain(|suite| is_allowed(&settings::suite_name(*suite)));
    }
    Arc::new(provider)
}
