//! DescribeConfigs (32): every configuration of a topic, a group or of this broker, with where its value comes from.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_config::known::ConfigKind;
use ottla_metadata::{ConfigEntity, Image};
use ottla_model::{BrokerId, ErrorCode, TopicName};
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use ottla_protocol::kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::configs::resource_type::{BROKER, BROKER_LOGGER, GROUP, TOPIC};
use crate::configs::{self, Entry};
use crate::live_config::LiveConfig;
use crate::request::{RequestContext, wire};
use crate::response::Answer;

pub fn handle(broker: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let request = match decode_request::<DescribeConfigsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Answer::close(error),
    };
    let image = broker.metadata.current();
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let found = describe(&image, &broker.live_config, broker.identity.id(), resource);
            result(&request, resource, found)
        })
        .collect();
    Answer::encode::<DescribeConfigsRequest>(&header, &DescribeConfigsResponse::default().with_results(results))
}

type Refused = (ErrorCode, Option<String>);

fn describe(
    image: &Image,
    live: &LiveConfig,
    own_id: BrokerId,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Entry>, Refused> {
    let invalid = |text: String| (ErrorCode::InvalidRequest, Some(text));
    let name = resource.resource_name.as_str();
    let own = |what: &str| match name.parse::<i32>() {
        Err(_) => Err(invalid(format!("Broker id must be an integer, but it is: {name}"))),
        Ok(id) if id != own_id.0 => {
            Err(invalid(format!("Unexpected broker id, expected {own_id}{what}, but received {name}")))
        }
        Ok(_) => Ok(()),
    };
    match resource.resource_type {
        TOPIC => {
            TopicName::new(name).map_err(|error| (ErrorCode::InvalidTopicException, Some(error.to_string())))?;
            image.topic(name).ok_or((ErrorCode::UnknownTopicOrPartition, None))?;
            Ok(configs::topic_entries(live, &image.topic_overrides(name)))
        }
        BROKER if name.is_empty() => Ok(configs::default_broker_entries(live)),
        BROKER => own(" or empty string").map(|()| configs::broker_entries(live)),
        GROUP if name.is_empty() => Err(invalid("Group name must not be empty".to_owned())),
        GROUP => {
            let set = image.config(&ConfigEntity::group(name)).map(|config| config.entries.clone()).unwrap_or_default();
            Ok(configs::group_entries(live, &set))
        }
        BROKER_LOGGER if name.is_empty() => Err(invalid("Broker id must not be empty".to_owned())),
        // Levels are set for the process as a whole (logging.level).
        BROKER_LOGGER => own("").map(|()| Vec::new()),
        other => Err(invalid(format!("Unsupported resource type: {other}"))),
    }
}

fn result(
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    found: Result<Vec<Entry>, Refused>,
) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone());
    let entries = match found {
        Ok(entries) => entries,
        Err((error, message)) => {
            return result.with_error_code(error.code()).with_error_message(message.as_deref().map(wire::text));
        }
    };
    // Null and empty both mean all.
    let wanted = resource.configuration_keys.as_deref().filter(|keys| !keys.is_empty());
    let configs = entries
        .into_iter()
        .filter(|entry| wanted.is_none_or(|keys| keys.iter().any(|key| key.as_str() == &*entry.name)))
        .map(|entry| wire_entry(request, entry))
        .collect();
    result.with_configs(configs)
}

fn wire_entry(request: &DescribeConfigsRequest, entry: Entry) -> DescribeConfigsResourceResult {
    let synonyms = if request.include_synonyms { entry.synonyms } else { Vec::new() };
    let synonyms = synonyms
        .into_iter()
        .map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(wire::text(&synonym.name))
                .with_value(synonym.value.as_deref().map(wire::text))
                .with_source(synonym.source.code())
        })
        .collect();
    let documentation = request.include_documentation.then(|| wire::text(entry.documentation));
    DescribeConfigsResourceResult::default()
        .with_name(wire::text(&entry.name))
        .with_value(entry.value.as_deref().map(wire::text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source.code())
        .with_is_sensitive(entry.sensitive)
        .with_synonyms(synonyms)
        .with_config_type(entry.kind.map_or(0, ConfigKind::code))
        .with_documentation(documentation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configs::test_live::live;
    use crate::request::test_image::image;

    #[test]
    fn resources_that_are_not_here_are_refused_in_kafkas_words() {
        let image = image();
        let live = live(&[]);
        let ask = |resource_type, name: &'static str| {
            let resource = DescribeConfigsResource::default()
                .with_resource_type(resource_type)
                .with_resource_name(wire::text(name));
            describe(&image, &live, BrokerId(1), &resource)
        };
        assert!(ask(TOPIC, "t").is_ok_and(|entries| !entries.is_empty()));
        assert_eq!(ask(TOPIC, "nope"), Err((ErrorCode::UnknownTopicOrPartition, None)));
        assert_eq!(ask(TOPIC, "a b").err().map(|(error, _)| error), Some(ErrorCode::InvalidTopicException));
        assert!(ask(BROKER, "1").is_ok());
        assert_eq!(ask(BROKER, ""), Ok(Vec::new()));
        let text = "Unexpected broker id, expected 1 or empty string, but received 2";
        assert_eq!(ask(BROKER, "2"), Err((ErrorCode::InvalidRequest, Some(text.to_owned()))));
        assert_eq!(ask(16, "g").err().map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
    }
}
