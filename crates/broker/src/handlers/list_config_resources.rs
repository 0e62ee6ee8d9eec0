//! ListConfigResources (74): what has, or could have, a configuration. Version 0 asks for client metrics only.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::{ConfigKind, Image};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::list_config_resources_response::ConfigResource;
use ottla_protocol::kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::configs::resource_type::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::request::RequestContext;
use crate::request::wire;

const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<ListConfigResourcesRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).cluster(Operation::DescribeConfigs) {
        let code = ErrorCode::ClusterAuthorizationFailed.code();
        let denied = ListConfigResourcesResponse::default().with_error_code(code);
        return Reply::encode::<ListConfigResourcesRequest>(&header, &denied);
    }
    let wanted: BTreeSet<i8> = match (header.api_version, request.resource_types.is_empty()) {
        (0, _) => BTreeSet::from([CLIENT_METRICS]),
        (_, true) => ALL.into_iter().collect(),
        (_, false) => request.resource_types.iter().copied().collect(),
    };
    let response = if wanted.iter().all(|kind| ALL.contains(kind)) {
        let resources = list(&broker.metadata.current(), &wanted).into_iter().map(|(kind, name)| {
            ConfigResource::default().with_resource_type(kind).with_resource_name(wire::text(&name))
        });
        ListConfigResourcesResponse::default().with_config_resources(resources.collect())
    } else {
        ListConfigResourcesResponse::default().with_error_code(ErrorCode::UnsupportedVersion.code())
    };
    Reply::encode::<ListConfigResourcesRequest>(&header, &response)
}

fn list(image: &Image, wanted: &BTreeSet<i8>) -> Vec<(i8, String)> {
    let mut found = Vec::new();
    if wanted.contains(&TOPIC) {
        found.extend(image.topics().map(|topic| (TOPIC, topic.name.to_string())));
    }
    for kind in [BROKER, BROKER_LOGGER].into_iter().filter(|kind| wanted.contains(kind)) {
        found.extend(image.brokers().map(|broker| (kind, broker.id.to_string())));
    }
    if wanted.contains(&CLIENT_METRICS) {
        found.extend(image.client_metrics().map(|(entity, _)| (CLIENT_METRICS, entity.name.clone())));
    }
    if wanted.contains(&GROUP) {
        let groups =
            image.configs().filter(|(entity, config)| entity.kind == ConfigKind::Groups && !config.entries.is_empty());
        found.extend(groups.map(|(entity, _)| (GROUP, entity.name.clone())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_image::image;

    #[test]
    fn topics_and_brokers_are_there_by_name() {
        let image = image();
        assert_eq!(list(&image, &BTreeSet::from([TOPIC])), [(TOPIC, "t".to_owned())]);
        let brokers: Vec<String> = list(&image, &BTreeSet::from([BROKER])).into_iter().map(|(_, name)| name).collect();
        assert_eq!(brokers, ["1", "2", "3"]);
        assert_eq!(list(&image, &BTreeSet::from([GROUP, CLIENT_METRICS])), []);
    }
}
