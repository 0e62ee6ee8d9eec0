//! What a listener demands before it serves a connection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::SecurityProtocol;
use ottla_sasl::{Credentials, Mechanism};
use ottla_tls::ServerTls;

use crate::context::RequestContext;

#[derive(Clone)]
pub struct ListenerSecurity {
    pub protocol: SecurityProtocol,
    /// Of SSL and SASL_SSL.
    pub tls: Option<Arc<ServerTls>>,
    /// Of SASL_PLAINTEXT and SASL_SSL.
    pub sasl: Option<Arc<SaslListener>>,
}

impl ListenerSecurity {
    pub fn plaintext() -> Self {
        Self { protocol: SecurityProtocol::Plaintext, tls: None, sasl: None }
    }
}

/// How a login ended.
#[derive(Clone, Copy, Debug)]
pub enum LoginEvent<'a> {
    /// The context has the principal.
    Accepted(Mechanism),
    Refused(&'a str),
}

/// Hears how logins end; must not wait.
pub trait LoginWatcher {
    fn login(&self, context: &RequestContext, event: LoginEvent<'_>);
}

/// The logins of one listener.
pub struct SaslListener {
    pub mechanisms: BTreeSet<Mechanism>,
    pub credentials: Arc<dyn Credentials + Send + Sync>,
    /// Hears of logins.
    pub watcher: Option<Arc<dyn LoginWatcher + Send + Sync>>,
    /// `connections.max.reauth.ms`; none: a login holds as long as its connection.
    pub reauth_max: Option<Duration>,
    /// The largest request before a client has logged in.
    pub receive_bytes_max: usize,
    /// How long the answer to a failed login is held back, so that guessing is slow.
    pub failure_delay: Duration,
}
