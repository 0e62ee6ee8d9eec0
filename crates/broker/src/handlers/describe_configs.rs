//! DescribeConfigs (32): every configuration of a topic, a group, a subscription to clients' metrics, or
//! of this broker, with where its value comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_config::known::ConfigKind;
use ottla_metadata::{ConfigEntity, Image};
use ottla_model::{BrokerId, ErrorCode, TopicName};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use ottla_protocol::kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::live_config::LiveConfig;

use crate::authorization::Access;
use crate::broker::Broker;
use crate::configs::resource_type::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::configs::{self, Entry};
use crate::request::budget::TOO_LARGE;
use crate::request::meter::Meter;
use crate::request::{RequestContext, ResponseBudget, admin, wire};
use crate::telemetry::logging;

/// More resources are described beside the workers: each has dozens of configurations, and eight bytes of a request
/// name one.
const INLINE_RESOURCES_MAX: usize = 16;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let body_bytes = body.len();
    let request = match decode_request::<DescribeConfigsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let (owned, access) = (Arc::clone(broker), broker.access(context));
    let is_long = request.resources.len() > INLINE_RESOURCES_MAX;
    Meter::of(broker, context, &header).carry_out_if(broker, is_long, body_bytes, move || {
        Reply::encode::<DescribeConfigsRequest>(&header, &response(&owned, &access, &request))
    })
}

fn response(broker: &Broker, access: &Access, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let image = broker.metadata.current();
    let mut budget = broker.response_budget();
    let results = distinct(&request.resources)
        .into_iter()
        .map(|(resource, wanted)| {
            let kind = resource.resource_type;
            let denied = configs::denial(access, Operation::DescribeConfigs, kind, &resource.resource_name);
            let found = match denied {
                Some(denied) => Err((denied.error, admin::message(&denied))),
                None => describe(&image, &broker.live_config, broker.identity.id(), resource),
            };
            let found = found.map(|mut entries| {
                entries.retain(|entry| wanted.as_ref().is_none_or(|wanted| wanted.contains(&*entry.name)));
                entries
            });
            result(request, resource, found.and_then(|entries| within(&mut budget, request, entries)))
        })
        .collect();
    DescribeConfigsResponse::default().with_results(results)
}

/// The names that are wanted of a resource; none: all.
type WantedNames<'a> = Option<BTreeSet<&'a str>>;

/// Each resource once, in the order of the request, with all names that are wanted of it: a broker's configurations
/// with their documentation take 36 KB, a resource in a request takes 8 bytes.
fn distinct(resources: &[DescribeConfigsResource]) -> Vec<(&DescribeConfigsResource, WantedNames<'_>)> {
    let mut places = BTreeMap::new();
    let mut distinct: Vec<(&DescribeConfigsResource, WantedNames<'_>)> = Vec::new();
    for resource in resources {
        // Null and empty both mean all.
        let keys = resource.configuration_keys.as_deref().filter(|keys| !keys.is_empty());
        let wanted: WantedNames<'_> = keys.map(|keys| keys.iter().map(|key| key.as_str()).collect());
        let place = *places.entry((resource.resource_type, resource.resource_name.as_str())).or_insert(distinct.len());
        match distinct.get_mut(place) {
            None => distinct.push((resource, wanted)),
            Some((_, known)) => match (&mut *known, wanted) {
                (Some(known), Some(more)) => known.extend(more),
                (known, _) => *known = None,
            },
        }
    }
    distinct
}

/// The entries, if the response has room for them.
fn within(
    budget: &mut ResponseBudget,
    request: &DescribeConfigsRequest,
    entries: Vec<Entry>,
) -> Result<Vec<Entry>, Refused> {
    let bytes = |entry: &Entry| {
        let synonyms = entry.synonyms.iter().map(|one| one.name.len() + one.value.as_ref().map_or(0, String::len) + 8);
        let synonyms = if request.include_synonyms { synonyms.sum() } else { 0 };
        let documentation = if request.include_documentation { entry.documentation.len() } else { 0 };
        entry.name.len() + entry.value.as_ref().map_or(0, String::len) + synonyms + documentation + 16
    };
    match budget.take(entries.iter().map(bytes).sum()) {
        true => Ok(entries),
        false => Err((ErrorCode::InvalidRequest, Some(TOO_LARGE.to_owned()))),
    }
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
        CLIENT_METRICS if name.is_empty() => {
            Err(invalid("Client metrics subscription name must not be empty".to_owned()))
        }
        CLIENT_METRICS => {
            let set = image.config(&ConfigEntity::client_metrics(name)).map(|config| config.entries.clone());
            Ok(configs::client_metrics_entries(&set.unwrap_or_default()))
        }
        BROKER_LOGGER if name.is_empty() => Err(invalid("Broker id must not be empty".to_owned())),
        BROKER_LOGGER => own("").map(|()| configs::logger_entries(logging::loggers())),
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
    result.with_configs(entries.into_iter().map(|entry| wire_entry(request, entry)).collect())
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
    fn a_repeated_resource_is_described_once_with_all_names_that_are_wanted() {
        let resource = |name: &'static str, keys: Option<&[&'static str]>| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC)
                .with_resource_name(wire::text(name))
                .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| wire::text(key)).collect()))
        };
        let asked = [
            resource("a", Some(&["x"])),
            resource("b", Some(&["x"])),
            resource("a", Some(&["y", "x"])),
            resource("b", None),
            resource("b", Some(&["y"])),
        ];
        let distinct = distinct(&asked);
        let names: Vec<_> = distinct.iter().map(|(resource, _)| resource.resource_name.as_str()).collect();
        let wanted: Vec<_> = distinct.iter().map(|(_, wanted)| wanted.clone()).collect();
        assert_eq!((names, wanted), (vec!["a", "b"], vec![Some(BTreeSet::from(["x", "y"])), None]));
    }

    #[test]
    fn resources_that_do_not_fit_are_refused() {
        let image = image();
        let resource = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(wire::text("t"));
        let entries = || describe(&image, &live(&[]), BrokerId(1), &resource).expect("the topic exists");
        let request = DescribeConfigsRequest::default();
        let mut budget = ResponseBudget::new(4_000);
        let fits: Vec<bool> = (0..3).map(|_| within(&mut budget, &request, entries()).is_ok()).collect();
        assert_eq!((fits[0], fits[2]), (true, false), "a topic's entries take about 2 KB");
    }

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
        let subscription = ask(CLIENT_METRICS, "s").expect("Kafka describes what is not there, too");
        assert_eq!(
            subscription.iter().map(|entry| &*entry.name).collect::<Vec<_>>(),
            ["interval.ms", "match", "metrics"]
        );
        assert_eq!(ask(CLIENT_METRICS, "").err().map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
        assert_eq!(ask(64, "g").err().map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
    }
}
