//! PushTelemetry (72): a client pushes its metrics (KIP-714); `/metrics` shows them.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ClientInstanceId;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{PushTelemetryRequest, PushTelemetryResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::client_metrics::Pushed;
use crate::request::RequestContext;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<PushTelemetryRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let pushed = Pushed {
        subscription_id: request.subscription_id,
        is_terminating: request.terminating,
        compression: request.compression_type,
        metrics: &request.metrics,
    };
    let client = ClientInstanceId(request.client_instance_id.into_bytes());
    let (image, bytes_max) = (broker.metadata.current(), broker.config.telemetry_max_bytes);
    let clients = &broker.telemetry.clients;
    let taken = clients.push(&image, context, header.client_id.as_deref(), client, &pushed, bytes_max);
    if let Err(refused) = taken {
        tracing::debug!(client = %client, peer = %context.peer, "a push of metrics is refused: {refused}");
    }
    let code = taken.map_or_else(|refused| refused.code().code(), |()| 0);
    Reply::encode::<PushTelemetryRequest>(&header, &PushTelemetryResponse::default().with_error_code(code))
}
