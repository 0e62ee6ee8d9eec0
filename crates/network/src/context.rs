//! Who asks, and by which way: what every handler may know of the connection that a request came in on.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ottla_model::{KafkaPrincipal, ListenerName, SecurityProtocol};

/// One per connection; shared by all its requests.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The listener that the connection came in on: Metadata answers with the endpoints of this one.
    pub listener: ListenerName,
    pub security_protocol: SecurityProtocol,
    /// Only here may a fetch speak as a replica.
    pub is_inter_broker_listener: bool,
    /// Whom the connection speaks for: `User:ANONYMOUS` where nothing was authenticated.
    pub principal: KafkaPrincipal,
    /// Whether the client showed a delegation token, with which it gets no other.
    pub is_by_token: bool,
    pub peer: SocketAddr,
    /// Unique within the process; for the log.
    pub connection_id: u64,
    pub opened: Instant,
    /// What the client said of itself in its first ApiVersions.
    pub software: Arc<OnceLock<ClientSoftware>>,
}

/// The software of a client (KIP-511).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientSoftware {
    pub name: Box<str>,
    pub version: Box<str>,
}

/// A longer name or version is not kept: each connection has one.
const SOFTWARE_TEXT_BYTES_MAX: usize = 64;

impl RequestContext {
    /// Keeps what a client says of its software.
    pub fn has_software(&self, name: &str, version: &str) {
        if name.len().max(version.len()) <= SOFTWARE_TEXT_BYTES_MAX {
            self.software.get_or_init(|| ClientSoftware { name: name.into(), version: version.into() });
        }
    }

    /// The client's address as Kafka shows it. A listener for both families sees IPv4 peers as IPv6 ones.
    pub fn client_host(&self) -> String {
        format!("/{}", self.peer.ip().to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_shown_in_their_own_family() {
        let host = |peer: &str| {
            let peer = peer.parse().expect("an address");
            RequestContext {
                listener: ListenerName::new("CLIENT"),
                security_protocol: SecurityProtocol::Plaintext,
                is_inter_broker_listener: false,
                principal: KafkaPrincipal::anonymous(),
                is_by_token: false,
                peer,
                connection_id: 1,
                opened: Instant::now(),
                software: Arc::default(),
            }
            .client_host()
        };
        assert_eq!(host("[::ffff:10.0.0.5]:4242"), "/10.0.0.5");
        assert_eq!(host("10.0.0.5:4242"), "/10.0.0.5");
        assert_eq!(host("[2001:db8::1]:4242"), "/2001:db8::1");
    }
}
