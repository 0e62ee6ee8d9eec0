//! SaslHandshake (17): every listener is plaintext without authentication, where Kafka refuses the handshake too.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    match decode_request::<SaslHandshakeRequest>(header.api_version, body.freeze()) {
        Ok(_) => {
            let refused = SaslHandshakeResponse::default().with_error_code(ErrorCode::IllegalSaslState.code());
            Answer::encode::<SaslHandshakeRequest>(&header, &refused)
        }
        Err(error) => Answer::close(error),
    }
}
