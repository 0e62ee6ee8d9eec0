//! DescribeCluster (60): the cluster's id, its controller and its brokers.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_metadata::Image;
use ottla_model::{ErrorCode, ListenerName};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use ottla_protocol::kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{topology, wire};

/// Endpoint types (KIP-919). Clients of brokers ask for the first.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DescribeClusterRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    let image = broker.metadata.current();
    let response = answer(&image, &access, broker.cluster_id.as_str(), &context.listener, &request);
    Reply::encode::<DescribeClusterRequest>(&header, &response)
}

fn answer(
    image: &Image,
    access: &Access,
    cluster_id: &str,
    listener: &ListenerName,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_authorized_operations(wire::OPERATIONS_NOT_ASKED);
    let refused = |error: ErrorCode, message: &str| {
        response.clone().with_error_code(error.code()).with_error_message(Some(wire::text(message)))
    };
    match request.endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            return refused(
                ErrorCode::MismatchedEndpointType,
                "The request was sent to a broker, not to a controller.",
            );
        }
        other => {
            return refused(ErrorCode::UnsupportedEndpointType, &format!("Unsupported endpoint type {other}"));
        }
    }
    let live = image.brokers().map(|b| (b.id, b.endpoint(listener), b.rack.as_deref(), !b.ready));
    let down = image.fenced_brokers().map(|b| (b.id, b.endpoint(listener), b.rack.as_deref(), true));
    let mut brokers: Vec<_> = live
        .chain(down)
        .filter(|(.., is_fenced)| !is_fenced || request.include_fenced_brokers)
        .filter_map(|(id, endpoint, rack, is_fenced)| {
            let endpoint = endpoint?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(wire::broker_id(id))
                    .with_host(wire::text(&endpoint.host))
                    .with_port(i32::from(endpoint.port))
                    .with_rack(rack.map(wire::text))
                    .with_is_fenced(is_fenced),
            )
        })
        .collect();
    brokers.sort_by_key(|broker| broker.broker_id);
    let operations = if request.include_cluster_authorized_operations {
        access.cluster_operations()
    } else {
        wire::OPERATIONS_NOT_ASKED
    };
    response
        .with_cluster_id(wire::text(cluster_id))
        .with_controller_id(wire::broker_id(topology::controller(image)))
        .with_brokers(brokers)
        .with_cluster_authorized_operations(operations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_image::{CLIENT, image};

    fn ask(image: &Image, request: &DescribeClusterRequest) -> DescribeClusterResponse {
        answer(image, &Access::unlimited(), "cluster", &ListenerName::new(CLIENT), request)
    }

    #[test]
    fn names_live_brokers_by_the_listener_that_asked() {
        let image = image();
        let response = ask(&image, &DescribeClusterRequest::default());
        let brokers: Vec<_> = response.brokers.iter().map(|broker| (broker.broker_id.0, broker.port)).collect();
        assert_eq!(brokers, [(1, 19092), (2, 29092)]);
        assert_eq!(response.controller_id.0, 1);
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        let all = DescribeClusterRequest::default()
            .with_include_fenced_brokers(true)
            .with_include_cluster_authorized_operations(true);
        let response = ask(&image, &all);
        assert!(response.brokers.iter().any(|broker| broker.broker_id.0 == 3 && broker.is_fenced));
        assert_eq!(response.cluster_authorized_operations, 8096);
    }

    #[test]
    fn controllers_are_elsewhere() {
        let request = DescribeClusterRequest::default().with_endpoint_type(CONTROLLERS);
        let response = ask(&Image::empty(), &request);
        assert_eq!(response.error_code, ErrorCode::MismatchedEndpointType.code());
    }
}
