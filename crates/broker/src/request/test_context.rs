//! A connection for tests: a client's on this machine, without a login.

use std::sync::Arc;
use std::time::Instant;

use ottla_model::{KafkaPrincipal, ListenerName, SecurityProtocol};
use ottla_network::RequestContext;

pub fn context(listener: &str) -> RequestContext {
    RequestContext {
        listener: ListenerName::new(listener),
        security_protocol: SecurityProtocol::Plaintext,
        is_inter_broker_listener: false,
        principal: KafkaPrincipal::anonymous(),
        is_by_token: false,
        peer: ([127, 0, 0, 1], 1).into(),
        connection_id: 1,
        opened: Instant::now(),
        software: Arc::default(),
    }
}
