//! DescribeConfigs (32): every configuration of a topic or of this broker, with where its value comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_config::known::{self, BROKER_CONFIGS, ConfigKind};
use ottla_config::{BrokerConfig, TOPIC_SYNONYMS};
use ottla_metadata::topic_config::{TOPIC_CONFIGS, ValueKind};
use ottla_metadata::{ConfigEntity, Image};
use ottla_model::{BrokerId, ErrorCode, TopicName};
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use ottla_protocol::kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use super::wire;
use crate::broker::Broker;
use crate::request_context::RequestContext;
use crate::response::Answer;

/// `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;

/// Where a value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Topic,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
}

impl Source {
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::DynamicDefaultBroker => 3,
            Self::StaticBroker => 4,
            Self::Default => 5,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synonym {
    pub name: &'static str,
    pub value: Option<String>,
    pub source: Source,
}

/// One configuration, as it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: &'static str,
    /// None: no value, or one that is never shown.
    pub value: Option<String>,
    pub source: Source,
    /// Nothing of a broker changes while it runs.
    pub read_only: bool,
    pub sensitive: bool,
    /// Everything that has or would have a say, the strongest first.
    pub synonyms: Vec<Synonym>,
    pub kind: ConfigKind,
    /// Empty where there is none.
    pub documentation: &'static str,
}

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
            let found = describe(&image, &broker.config, broker.identity.id(), resource);
            result(&request, resource, found)
        })
        .collect();
    Answer::encode::<DescribeConfigsRequest>(&header, &DescribeConfigsResponse::default().with_results(results))
}

type Refused = (ErrorCode, Option<String>);

fn describe(
    image: &Image,
    config: &BrokerConfig,
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
            Ok(topic_entries(config, &image.topic_overrides(name)))
        }
        BROKER if name.is_empty() => Ok(default_broker_entries(image)),
        BROKER => own(" or empty string").map(|()| broker_entries(config)),
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
        .filter(|entry| wanted.is_none_or(|keys| keys.iter().any(|key| key.as_str() == entry.name)))
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
                .with_name(wire::text(synonym.name))
                .with_value(synonym.value.as_deref().map(wire::text))
                .with_source(synonym.source.code())
        })
        .collect();
    let documentation = request.include_documentation.then(|| wire::text(entry.documentation));
    DescribeConfigsResourceResult::default()
        .with_name(wire::text(entry.name))
        .with_value(entry.value.as_deref().map(wire::text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source.code())
        .with_is_sensitive(entry.sensitive)
        .with_synonyms(synonyms)
        .with_config_type(entry.kind.code())
        .with_documentation(documentation)
}

/// A topic's configurations, by name: its own overrides, then the broker's properties behind them, then Kafka's defaults.
pub fn topic_entries(config: &BrokerConfig, overrides: &BTreeMap<String, String>) -> Vec<Entry> {
    TOPIC_CONFIGS
        .iter()
        .map(|key| {
            let inherited = || config.topic_defaults.get(key.name).map_or(key.default, String::as_str).to_owned();
            let own = overrides.get(key.name).map(|value| value.trim().to_owned());
            let behind = TOPIC_SYNONYMS.iter().find(|synonyms| synonyms.topic == key.name);
            let mut synonyms: Vec<Synonym> = own
                .iter()
                .map(|value| Synonym { name: key.name, value: Some(value.clone()), source: Source::Topic })
                .collect();
            if let Some(first) = key.synonym {
                let names = behind.map_or(&[][..], |behind| behind.broker);
                synonyms.extend(broker_synonyms(config, first, names.iter().map(|(name, _)| *name)));
            }
            Entry {
                name: key.name,
                value: Some(own.unwrap_or_else(inherited)),
                source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
                read_only: false,
                sensitive: false,
                synonyms,
                kind: kind_of(key.kind),
                documentation: key.synonym.and_then(known::broker_config).map_or("", |known| known.doc),
            }
        })
        .collect()
}

/// This broker's configurations, by name.
pub fn broker_entries(config: &BrokerConfig) -> Vec<Entry> {
    BROKER_CONFIGS
        .iter()
        .map(|known| {
            let family = TOPIC_SYNONYMS
                .iter()
                .map(|synonyms| synonyms.broker)
                .find(|names| names.len() > 1 && names.first().is_some_and(|(first, _)| *first == known.name));
            let names = family.map_or_else(|| vec![known.name], |names| names.iter().map(|(name, _)| *name).collect());
            let synonyms = broker_synonyms(config, known.name, names.into_iter());
            let value = config.properties.text(known.name).map(str::to_owned).filter(|_| !known.sensitive);
            Entry {
                name: known.name,
                value,
                source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
                read_only: true,
                sensitive: known.sensitive,
                synonyms,
                kind: known.kind,
                documentation: known.doc,
            }
        })
        .collect()
}

/// What was set at run time for all brokers.
fn default_broker_entries(image: &Image) -> Vec<Entry> {
    let Some(entries) = image.config(&ConfigEntity::default_broker()) else { return Vec::new() };
    entries
        .entries
        .iter()
        .filter_map(|(name, value)| {
            let known = known::broker_config(name)?;
            let value = Some(value.clone()).filter(|_| !known.sensitive);
            let synonym = Synonym { name: known.name, value: value.clone(), source: Source::DynamicDefaultBroker };
            Some(Entry {
                name: known.name,
                value,
                source: Source::DynamicDefaultBroker,
                read_only: false,
                sensitive: known.sensitive,
                synonyms: vec![synonym],
                kind: known.kind,
                documentation: known.doc,
            })
        })
        .collect()
}

/// What is set, then the defaults, of a property and of those that stand in for it. As Kafka has it, the list begins with the property
/// itself: where only a stand-in has a say, it is empty (`ConfigHelper.configSynonyms`).
fn broker_synonyms(
    config: &BrokerConfig,
    first: &'static str,
    names: impl Iterator<Item = &'static str>,
) -> Vec<Synonym> {
    let names: Vec<&'static str> = names.collect();
    let shown = |name: &'static str, value: &str, source| {
        let sensitive = known::broker_config(name).is_some_and(|known| known.sensitive);
        Synonym { name, value: (!sensitive).then(|| value.to_owned()), source }
    };
    let set = names.iter().filter_map(|name| {
        config.properties.explicit(name).map(|property| shown(name, &property.value, Source::StaticBroker))
    });
    let defaults =
        names.iter().filter_map(|name| Some(shown(name, known::broker_config(name)?.default?, Source::Default)));
    set.chain(defaults).skip_while(|synonym| synonym.name != first).collect()
}

fn kind_of(kind: ValueKind) -> ConfigKind {
    match kind {
        ValueKind::Bool => ConfigKind::Boolean,
        ValueKind::Int { .. } | ValueKind::GzipLevel => ConfigKind::Int,
        ValueKind::Long { .. } => ConfigKind::Long,
        ValueKind::Double { .. } => ConfigKind::Double,
        ValueKind::Text(_) => ConfigKind::String,
        ValueKind::List(_) | ValueKind::ThrottledReplicas => ConfigKind::List,
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::{HostPort, Sources};

    use super::*;
    use crate::handlers::test_image::image;

    fn config(flags: &[(&str, &str)]) -> BrokerConfig {
        let mut all = vec![("coordinator.connect", "127.0.0.1:2181"), ("listeners", "PLAINTEXT://127.0.0.1:0")];
        all.extend(flags);
        let flags = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        BrokerConfig::load(&Sources { flags, ..Sources::default() }).expect("valid").config
    }

    fn entry(entries: &[Entry], name: &str) -> Entry {
        entries.iter().find(|entry| entry.name == name).expect("known").clone()
    }

    fn names(entry: &Entry) -> Vec<(&'static str, Source)> {
        entry.synonyms.iter().map(|synonym| (synonym.name, synonym.source)).collect()
    }

    #[test]
    fn a_topics_values_name_their_sources_as_kafka_does() {
        let overrides = BTreeMap::from([
            ("cleanup.policy".to_owned(), "compact,delete".to_owned()),
            ("retention.ms".to_owned(), "60000".to_owned()),
        ]);
        let entries = topic_entries(&config(&[("min.insync.replicas", "2")]), &overrides);
        // goldens: kafka-configs --describe --entity-type topics --entity-name a.b_c
        let policy = entry(&entries, "cleanup.policy");
        assert_eq!(names(&policy), [("cleanup.policy", Source::Topic), ("log.cleanup.policy", Source::Default)]);
        let retention = entry(&entries, "retention.ms");
        assert_eq!(retention.value.as_deref(), Some("60000"));
        assert_eq!(names(&retention), [("retention.ms", Source::Topic)]);
        // goldens: kafka-topics --describe shows the broker's min.insync.replicas among the topic's.
        let min_isr = entry(&entries, "min.insync.replicas");
        assert_eq!((min_isr.value.as_deref(), min_isr.source), (Some("2"), Source::StaticBroker));
        let segment = entry(&entries, "segment.bytes");
        assert_eq!((segment.value.as_deref(), segment.source), (Some("1073741824"), Source::Default));
        assert_eq!(entries.len(), TOPIC_CONFIGS.len());
    }

    #[test]
    fn a_brokers_values_are_set_or_default_and_secrets_are_kept() {
        let entries = broker_entries(&config(&[("num.partitions", "3"), ("ssl.key.password", "secret")]));
        let partitions = entry(&entries, "num.partitions");
        assert_eq!((partitions.value.as_deref(), partitions.source), (Some("3"), Source::StaticBroker));
        assert_eq!(partitions.synonyms.len(), 2);
        let password = entry(&entries, "ssl.key.password");
        assert!(password.sensitive && password.value.is_none());
        assert!(password.synonyms.iter().all(|synonym| synonym.value.is_none()));
        let retention = entry(&entries, "log.retention.ms");
        assert_eq!((retention.value, retention.synonyms.len()), (None, 0));
    }

    #[test]
    fn resources_that_are_not_here_are_refused_in_kafkas_words() {
        let image = image();
        let config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        let ask = |resource_type, name: &'static str| {
            let resource = DescribeConfigsResource::default()
                .with_resource_type(resource_type)
                .with_resource_name(wire::text(name));
            describe(&image, &config, BrokerId(1), &resource)
        };
        assert!(ask(TOPIC, "t").is_ok_and(|entries| !entries.is_empty()));
        assert_eq!(ask(TOPIC, "nope"), Err((ErrorCode::UnknownTopicOrPartition, None)));
        assert_eq!(ask(TOPIC, "a b").err().map(|(error, _)| error), Some(ErrorCode::InvalidTopicException));
        assert!(ask(BROKER, "1").is_ok());
        assert_eq!(ask(BROKER, ""), Ok(Vec::new()));
        let text = "Unexpected broker id, expected 1 or empty string, but received 2";
        assert_eq!(ask(BROKER, "2"), Err((ErrorCode::InvalidRequest, Some(text.to_owned()))));
        assert_eq!(ask(32, "g").err().map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
    }
}
