//! PushTelemetry (72): a client pushes its metrics (KIP-714); `/metrics` shows them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_client_telemetry::Refused;
use ottla_model::ClientInstanceId;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{PushTelemetryRequest, PushTelemetryResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::client_metrics::Pushed;
use crate::request::RequestContext;
use crate::request::meter::Meter;

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
    let peer = context.peer;
    let unpacking = match taken {
        Ok(Some(unpacking)) => unpacking,
        Ok(None) => return answer(broker, &header, client, peer, Ok(())),
        Err(refused) => return answer(broker, &header, client, peer, Err(refused)),
    };
    if unpacking.is_quick() {
        let taken = clients.unpack(&unpacking, &request.metrics);
        return answer(broker, &header, client, peer, taken);
    }
    let (of_broker, meter) = (Arc::clone(broker), Meter::of(broker, context, &header));
    broker.heavy_work.unpack(move |in_time| {
        meter.measure(&of_broker, || {
            let taken = match in_time {
                true => of_broker.telemetry.clients.unpack(&unpacking, &request.metrics),
                false => Err(Refused::Crowded),
            };
            answer(&of_broker, &header, client, peer, taken)
        })
    })
}

fn answer(
    broker: &Broker,
    header: &RequestHeader,
    client: ClientInstanceId,
    peer: SocketAddr,
    taken: Result<(), Refused>,
) -> Reply {
    broker.telemetry.clients.count(taken);
    if let Err(refused) = taken {
        tracing::debug!(client = %client, %peer, "a push of metrics is refused: {refused}");
    }
    let code = taken.map_or_else(|refused| refused.code().code(), |()| 0);
    Reply::encode::<PushTelemetryRequest>(header, &PushTelemetryResponse::default().with_error_code(code))
}
