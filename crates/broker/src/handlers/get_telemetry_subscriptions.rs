//! GetTelemetrySubscriptions (71): a client asks which of its metrics it shall push (KIP-714).

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ClientInstanceId;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::{GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse};
use ottla_protocol::record_batch::Compression;
use ottla_protocol::{RequestHeader, decode_request};
use uuid::Uuid;

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

/// Kafka's, in its order: the first one that a client knows is taken.
const COMPRESSIONS: [Compression; 4] = [Compression::Zstd, Compression::Lz4, Compression::Gzip, Compression::Snappy];

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<GetTelemetrySubscriptionsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    // Before it is known to a broker, a client has no id. Any random one is another than all others.
    let instance_id = match request.client_instance_id.is_nil() {
        true => Uuid::new_v4(),
        false => request.client_instance_id,
    };
    let image = broker.metadata.current();
    let client = ClientInstanceId(instance_id.into_bytes());
    let asked = broker.telemetry.clients.subscription(&image, context, header.client_id.as_deref(), client);
    let response = match asked {
        Err(refused) => GetTelemetrySubscriptionsResponse::default().with_error_code(refused.code().code()),
        Ok(asked) => GetTelemetrySubscriptionsResponse::default()
            .with_client_instance_id(instance_id)
            .with_subscription_id(asked.subscription_id)
            .with_accepted_compression_types(COMPRESSIONS.map(|codec| codec.id() as i8).to_vec())
            .with_push_interval_ms(asked.interval_ms)
            .with_telemetry_max_bytes(i32::try_from(broker.config.telemetry_max_bytes).unwrap_or(i32::MAX))
            .with_delta_temporality(true)
            .with_requested_metrics(asked.metrics.iter().map(|prefix| wire::text(prefix)).collect()),
    };
    Reply::encode::<GetTelemetrySubscriptionsRequest>(&header, &response)
}
