//! DescribeConfigs (32): every configuration of a topic, a group or of this broker, with where its value comes from.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_config::TOPIC_SYNONYMS;
use ottla_config::known::{self, BROKER_CONFIGS, ConfigKind};
use ottla_metadata::config_value::ValueKind;
use ottla_metadata::group_config::GROUP_CONFIGS;
use ottla_metadata::topic_config::TOPIC_CONFIGS;
use ottla_metadata::{ConfigEntity, Image, broker_config};
use ottla_model::{BrokerId, ErrorCode, TopicName};
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use ottla_protocol::kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use super::alter_configs::resource_type::{BROKER, BROKER_LOGGER, GROUP, TOPIC};
use super::wire;
use crate::broker::Broker;
use crate::live_config::{Layers, LiveConfig};
use crate::request_context::RequestContext;
use crate::response::Answer;

/// Where a value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Topic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
    Group,
}

impl Source {
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::DynamicBroker => 2,
            Self::DynamicDefaultBroker => 3,
            Self::StaticBroker => 4,
            Self::Default => 5,
            Self::Group => 8,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synonym {
    pub name: Cow<'static, str>,
    pub value: Option<String>,
    pub source: Source,
}

/// One configuration, as it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// One of ours, or of a listener or a plugin.
    pub name: Cow<'static, str>,
    /// None: no value, or one that is never shown.
    pub value: Option<String>,
    pub source: Source,
    /// It does not change while a broker runs.
    pub read_only: bool,
    pub sensitive: bool,
    /// Everything that has or would have a say, the strongest first.
    pub synonyms: Vec<Synonym>,
    /// None: nobody here knows it.
    pub kind: Option<ConfigKind>,
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
            let found = describe(&image, broker.replicas.live_config(), broker.identity.id(), resource);
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
            Ok(topic_entries(live, &image.topic_overrides(name)))
        }
        BROKER if name.is_empty() => Ok(default_broker_entries(live)),
        BROKER => own(" or empty string").map(|()| broker_entries(live)),
        GROUP if name.is_empty() => Err(invalid("Group name must not be empty".to_owned())),
        GROUP => {
            let set = image.config(&ConfigEntity::group(name)).map(|config| config.entries.clone()).unwrap_or_default();
            Ok(group_entries(live, &set))
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

/// A topic's configurations, by name: its own overrides, then the broker's properties behind them, then Kafka's defaults.
pub fn topic_entries(live: &LiveConfig, overrides: &BTreeMap<String, String>) -> Vec<Entry> {
    let layers = live.layers();
    TOPIC_CONFIGS
        .iter()
        .map(|key| {
            let inherited =
                || layers.config.topic_defaults.get(key.name).map_or(key.default, String::as_str).to_owned();
            let own = overrides.get(key.name).map(|value| value.trim().to_owned());
            let mut synonyms: Vec<Synonym> = own.iter().map(|value| synonym(key.name, value, Source::Topic)).collect();
            if let Some(first) = key.synonym {
                synonyms.extend(broker_synonyms(live, &layers, first));
            }
            Entry {
                name: key.name.into(),
                value: Some(own.unwrap_or_else(inherited)),
                source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
                read_only: false,
                sensitive: false,
                synonyms,
                kind: Some(kind_of(key.kind)),
                documentation: key.synonym.and_then(known::broker_config).map_or("", |known| known.doc),
            }
        })
        .collect()
}

/// A group's configurations, by name: its own, then the broker's properties behind them, then Kafka's defaults.
fn group_entries(live: &LiveConfig, set: &BTreeMap<String, String>) -> Vec<Entry> {
    let layers = live.layers();
    GROUP_CONFIGS
        .iter()
        .map(|key| {
            let own = set.get(key.name).map(|value| value.trim().to_owned());
            let of_broker = key.synonym.and_then(|name| layers.config.properties.text(name));
            let value = own.clone().unwrap_or_else(|| of_broker.unwrap_or(key.default).to_owned());
            let mut synonyms: Vec<Synonym> = own.iter().map(|value| synonym(key.name, value, Source::Group)).collect();
            match key.synonym {
                Some(first) => synonyms.extend(broker_synonyms(live, &layers, first)),
                None => synonyms.push(synonym(key.name, key.default, Source::Default)),
            }
            Entry {
                name: key.name.into(),
                value: Some(value),
                source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
                read_only: false,
                sensitive: false,
                synonyms,
                kind: Some(kind_of(key.kind)),
                documentation: key.documentation,
            }
        })
        .collect()
}

/// This broker's configurations, by name; after those of the table what was set at run time beyond it.
fn broker_entries(live: &LiveConfig) -> Vec<Entry> {
    let layers = live.layers();
    let beyond: BTreeSet<&String> =
        layers.own.keys().chain(layers.cluster.keys()).filter(|name| known::broker_config(name).is_none()).collect();
    let names = BROKER_CONFIGS.iter().map(|known| Cow::from(known.name));
    names
        .chain(beyond.into_iter().map(|name| Cow::from(name.clone())))
        .map(|name| {
            let value = layers.config.properties.text(&name).map(str::to_owned);
            broker_entry(live, &layers, name, value, |_| true)
        })
        .collect()
}

/// What was set at run time for all brokers.
fn default_broker_entries(live: &LiveConfig) -> Vec<Entry> {
    let layers = live.layers();
    layers
        .cluster
        .iter()
        .map(|(name, value)| {
            let name = known::broker_config(name).map_or_else(|| name.clone().into(), |known| known.name.into());
            broker_entry(live, &layers, name, Some(value.clone()), |source| source == Source::DynamicDefaultBroker)
        })
        .collect()
}

fn broker_entry(
    live: &LiveConfig,
    layers: &Layers,
    name: Cow<'static, str>,
    value: Option<String>,
    shown: impl Fn(Source) -> bool,
) -> Entry {
    let mut synonyms = broker_synonyms(live, layers, &name);
    synonyms.retain(|synonym| shown(synonym.source));
    let sensitive = is_sensitive(&name);
    Entry {
        value: value.filter(|_| !sensitive),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        read_only: broker_config::find(&name).is_none(),
        sensitive,
        synonyms,
        kind: kind_of_broker(&name),
        documentation: known::broker_config(&name).map_or("", |known| known.doc),
        name,
    }
}

fn synonym(name: impl Into<Cow<'static, str>>, value: &str, source: Source) -> Synonym {
    let name = name.into();
    Synonym { value: Some(value.trim().to_owned()), name, source }
}

/// The value of a configuration by its name, where this source has one.
type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Everything that has a say in a property, the strongest first: set for this broker, for all, at the start, by default; a property of
/// a listener is followed by the one that holds for all of them. As Kafka has it, the list begins with the property itself: where only a
/// stand-in has a say, it is empty (`ConfigHelper.configSynonyms`).
fn broker_synonyms(live: &LiveConfig, layers: &Layers, first: &str) -> Vec<Synonym> {
    let family = TOPIC_SYNONYMS
        .iter()
        .map(|synonyms| synonyms.broker)
        .find(|names| names.len() > 1 && names.first().is_some_and(|(name, _)| *name == first));
    let names: Vec<String> = match (family, broker_config::without_listener(first)) {
        (Some(family), _) => family.iter().map(|(name, _)| (*name).to_owned()).collect(),
        (None, Some(base)) => vec![first.to_owned(), base.to_owned()],
        (None, None) => vec![first.to_owned()],
    };
    let fixed = &live.fixed().properties;
    let of_table = |name: &str| known::broker_config(name).and_then(|known| known.default).map(str::to_owned);
    let of_start = |name: &str| fixed.explicit(name).map(|property| property.value.clone());
    let sources: [(Source, Lookup<'_>); 4] = [
        (Source::DynamicBroker, &|name| layers.own.get(name).cloned()),
        (Source::DynamicDefaultBroker, &|name| layers.cluster.get(name).cloned()),
        (Source::StaticBroker, &of_start),
        (Source::Default, &of_table),
    ];
    let mut synonyms = Vec::new();
    for (source, value) in sources {
        for name in &names {
            let Some(value) = value(name) else { continue };
            let known: Cow<'static, str> =
                known::broker_config(name).map_or_else(|| name.clone().into(), |known| known.name.into());
            let mut found = synonym(known, &value, source);
            found.value = found.value.filter(|_| !is_sensitive(name));
            synonyms.push(found);
        }
    }
    synonyms.into_iter().skip_while(|synonym| synonym.name != first).collect()
}

/// The type of a broker's property, of a listener's by the property behind it; none for one that nobody here knows.
fn kind_of_broker(name: &str) -> Option<ConfigKind> {
    let name = broker_config::without_listener(name).unwrap_or(name);
    let known = known::broker_config(name).map(|known| known.kind);
    known.or_else(|| broker_config::find(name).map(|config| kind_of(config.kind)))
}

/// What nobody here knows may be a secret.
fn is_sensitive(name: &str) -> bool {
    kind_of_broker(name).is_none_or(|kind| kind == ConfigKind::Password)
}

fn kind_of(kind: ValueKind) -> ConfigKind {
    match kind {
        ValueKind::Bool => ConfigKind::Boolean,
        ValueKind::Int { .. } | ValueKind::GzipLevel => ConfigKind::Int,
        ValueKind::Long { .. } => ConfigKind::Long,
        ValueKind::Double { .. } => ConfigKind::Double,
        ValueKind::Short => ConfigKind::Short,
        ValueKind::Text(_) | ValueKind::AnyText => ConfigKind::String,
        ValueKind::List(_) | ValueKind::AnyList | ValueKind::ThrottledReplicas => ConfigKind::List,
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::{BrokerConfig, Sources};
    use ottla_metadata::{Node, nodes};
    use ottla_model::Revision;

    use super::*;
    use crate::handlers::test_image::image;

    fn live(flags: &[(&str, &str)]) -> LiveConfig {
        let mut all = vec![("coordinator.connect", "127.0.0.1:2181"), ("listeners", "PLAINTEXT://127.0.0.1:0")];
        all.extend(flags);
        let flags = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let loaded = BrokerConfig::load(&Sources { flags, ..Sources::default() }).expect("valid");
        LiveConfig::new(Arc::new(loaded.config))
    }

    /// With these entries for all brokers, and these for broker 1.
    fn follow(live: &LiveConfig, all: &[(&str, &str)], own: &[(&str, &str)]) {
        let node = |entity: ConfigEntity, set: &[(&str, &str)]| {
            let set = set.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
            let (created, modified) = (Revision(1), Revision(1));
            (entity.path(), Node { payload: nodes::config::encode(&set), created, modified, version: 0 })
        };
        let nodes = [node(ConfigEntity::default_broker(), all), node(ConfigEntity::broker(BrokerId(1)), own)];
        let image = Image::from_nodes(Revision(1), nodes.iter().map(|(path, node)| (path, node))).0;
        assert!(live.follow(&image, BrokerId(1)));
    }

    fn entry(entries: &[Entry], name: &str) -> Entry {
        entries.iter().find(|entry| entry.name == name).expect("known").clone()
    }

    fn names(entry: &Entry) -> Vec<(&str, Source)> {
        entry.synonyms.iter().map(|synonym| (&*synonym.name, synonym.source)).collect()
    }

    #[test]
    fn a_topics_values_name_their_sources_as_kafka_does() {
        let overrides = BTreeMap::from([
            ("cleanup.policy".to_owned(), "compact,delete".to_owned()),
            ("retention.ms".to_owned(), "60000".to_owned()),
        ]);
        let entries = topic_entries(&live(&[("min.insync.replicas", "2")]), &overrides);
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
        let entries = broker_entries(&live(&[("num.partitions", "3"), ("ssl.key.password", "secret")]));
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

    #[test]
    fn what_is_set_at_run_time_wins_and_says_so() {
        let live = live(&[("log.retention.hours", "48"), ("max.connections", "100")]);
        follow(
            &live,
            &[("log.retention.ms", "5000"), ("log.cleaner.threads", "2")],
            &[("max.connections", "7"), ("leader.replication.throttled.rate", "9"), ("of.a.plugin", "x")],
        );
        let retention = entry(&topic_entries(&live, &BTreeMap::new()), "retention.ms");
        assert_eq!((retention.value.as_deref(), retention.source), (Some("5000"), Source::DynamicDefaultBroker));
        let expected = [
            ("log.retention.ms", Source::DynamicDefaultBroker),
            ("log.retention.hours", Source::StaticBroker),
            ("log.retention.hours", Source::Default),
        ];
        assert_eq!(names(&retention), expected);
        let entries = broker_entries(&live);
        let connections = entry(&entries, "max.connections");
        assert_eq!((connections.value.as_deref(), connections.source), (Some("7"), Source::DynamicBroker));
        assert_eq!(names(&connections).len(), 3);
        assert!(!connections.read_only && entry(&entries, "log.dirs").read_only);
        let rate = entry(&entries, "leader.replication.throttled.rate");
        assert_eq!((rate.value.as_deref(), rate.kind, rate.read_only), (Some("9"), Some(ConfigKind::Long), false));
        // Nobody knows whether it is a secret.
        let plugin = entry(&entries, "of.a.plugin");
        assert_eq!((plugin.value, plugin.sensitive, plugin.kind), (None, true, None));
        // goldens: kafka-configs --describe --entity-type brokers --entity-default
        let all = default_broker_entries(&live);
        assert_eq!(
            all.iter().map(|entry| &*entry.name).collect::<Vec<_>>(),
            ["log.cleaner.threads", "log.retention.ms"]
        );
        assert_eq!(names(&all[0]), [("log.cleaner.threads", Source::DynamicDefaultBroker)]);
    }

    #[test]
    fn a_groups_values_fall_back_to_its_broker() {
        let live = live(&[("group.consumer.session.timeout.ms", "50000")]);
        let set = BTreeMap::from([("consumer.heartbeat.interval.ms".to_owned(), "6000".to_owned())]);
        let entries = group_entries(&live, &set);
        let heartbeat = entry(&entries, "consumer.heartbeat.interval.ms");
        assert_eq!((heartbeat.value.as_deref(), heartbeat.source), (Some("6000"), Source::Group));
        let session = entry(&entries, "consumer.session.timeout.ms");
        assert_eq!((session.value.as_deref(), session.source), (Some("50000"), Source::StaticBroker));
        assert_eq!(entry(&entries, "share.isolation.level").source, Source::Default);
    }

    #[test]
    fn every_topic_configuration_that_is_set_is_shown_so() {
        for key in TOPIC_CONFIGS {
            let value = match key.kind {
                ValueKind::Bool => "true".to_owned(),
                ValueKind::Int { min, .. } => min.max(1).to_string(),
                ValueKind::Long { min } => min.max(7).to_string(),
                ValueKind::GzipLevel => "5".to_owned(),
                ValueKind::Double { .. } => "0.25".to_owned(),
                ValueKind::Text(accepted) | ValueKind::List(accepted) => accepted[0].to_owned(),
                ValueKind::ThrottledReplicas => "0:1,1:2".to_owned(),
                ValueKind::Short | ValueKind::AnyText | ValueKind::AnyList => "x".to_owned(),
            };
            let overrides = BTreeMap::from([(key.name.to_owned(), value.clone())]);
            let shown = entry(&topic_entries(&live(&[]), &overrides), key.name);
            assert_eq!((shown.value.as_deref(), shown.source), (Some(&*value), Source::Topic), "{}", key.name);
            assert!(!shown.read_only && !shown.sensitive && shown.kind.is_some());
            assert_eq!(names(&shown).first(), Some(&(key.name, Source::Topic)));
        }
    }
}
