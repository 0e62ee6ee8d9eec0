//! SaslHandshake (17) that reaches the broker: its connection has no SASL, or has logged in and need not again, or did
//! so a moment ago. Logins themselves are the connection's: `network::authentication`.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    Reply::respond::<SaslHandshakeRequest>(&header, body, |_| {
        SaslHandshakeResponse::default().with_error_code(ErrorCode::IllegalSaslState.code())
    })
}
