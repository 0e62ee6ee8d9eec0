//! SaslAuthenticate (36) that reaches the broker: its connection has no SASL, or has logged in already.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};

use crate::broker::Broker;
use crate::request::{RequestContext, wire};

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    Reply::respond::<SaslAuthenticateRequest>(&header, body, |_| {
        let text = "SaslAuthenticate request received after successful authentication";
        SaslAuthenticateResponse::default()
            .with_error_code(ErrorCode::IllegalSaslState.code())
            .with_error_message(Some(wire::text(text)))
    })
}
