//! Effective configurations: each with its value, the source of the value, and the values that it overrides.

mod authorization;
mod effect;
#[cfg(test)]
pub mod test_live;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ottla_config::TOPIC_SYNONYMS;
use ottla_config::known::{self, BROKER_CONFIGS, ConfigKind};
use ottla_metadata::broker_config;
use ottla_metadata::client_metrics_config::CLIENT_METRICS_CONFIGS;
use ottla_metadata::config_value::ValueKind;
use ottla_metadata::group_config::GROUP_CONFIGS;
use ottla_metadata::topic_config::{TOPIC_CONFIGS, documentation};
use ottla_replica_manager::live_config::{Layers, LiveConfig};

pub use authorization::denial;
pub use effect::warn_of_no_effect;

use crate::telemetry::loggers::{Level, Loggers};

/// The kinds of resources that have configurations (Kafka's `ConfigResource.Type`).
pub mod resource_type {
    pub const TOPIC: i8 = 2;
    pub const BROKER: i8 = 4;
    pub const BROKER_LOGGER: i8 = 8;
    pub const CLIENT_METRICS: i8 = 16;
    pub const GROUP: i8 = 32;
}

/// Where a value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Topic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
    BrokerLogger,
    ClientMetrics,
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
            Self::BrokerLogger => 6,
            Self::ClientMetrics => 7,
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

/// A topic's configurations, by name: its own overrides, then the broker's properties behind them, then Kafka's
/// defaults.
pub fn topic_entries(live: &LiveConfig, overrides: &BTreeMap<String, String>) -> Vec<Entry> {
    let layers = live.layers();
    TOPIC_CONFIGS
        .iter()
        .map(|key| {
            let inherited =
                || layers.config.topic_defaults.get(key.name).map_or(key.default, String::as_str).to_owned();
            let own = overrides.get(key.name).map(|value| parsed(key.kind, key.name, value));
            let mut synonyms: Vec<Synonym> = own.iter().map(|value| synonym(key.name, value, Source::Topic)).collect();
            if let Some(first) = key.synonym {
                synonyms.extend(broker_synonyms(live, &layers, first));
            }
            Entry {
                name: key.name.into(),
                value: Some(own.unwrap_or_else(|| parsed(key.kind, key.name, &inherited()))),
                source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
                read_only: false,
                sensitive: false,
                synonyms,
                kind: Some(kind_of(key.kind)),
                documentation: documentation::of(key.name),
            }
        })
        .collect()
}

/// A group's configurations, by name: its own, then the broker's properties behind them, then Kafka's defaults.
pub fn group_entries(live: &LiveConfig, set: &BTreeMap<String, String>) -> Vec<Entry> {
    let layers = live.layers();
    GROUP_CONFIGS
        .iter()
        .map(|key| {
            let own = set.get(key.name).map(|value| parsed(key.kind, key.name, value));
            let of_broker = key.synonym.and_then(|name| layers.config.properties.text(name));
            let inherited = || parsed(key.kind, key.name, of_broker.unwrap_or(key.default));
            let value = own.clone().unwrap_or_else(inherited);
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

/// The configurations of a subscription to metrics of clients, by name: its own, then Kafka's defaults, which Kafka
/// does not call synonyms.
pub fn client_metrics_entries(set: &BTreeMap<String, String>) -> Vec<Entry> {
    CLIENT_METRICS_CONFIGS
        .iter()
        .map(|key| {
            let own = set.get(key.name).map(|value| parsed(key.kind, key.name, value));
            let synonyms: Vec<Synonym> =
                own.iter().map(|value| synonym(key.name, value, Source::ClientMetrics)).collect();
            Entry {
                name: key.name.into(),
                source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
                value: Some(own.unwrap_or_else(|| key.default.to_owned())),
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
pub fn broker_entries(live: &LiveConfig) -> Vec<Entry> {
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

/// The loggers of this process with their levels.
pub fn logger_entries(loggers: Option<&Loggers>) -> Vec<Entry> {
    let entry = |(name, level): (String, Level)| Entry {
        name: name.into(),
        value: Some(level.kafka().to_owned()),
        source: Source::BrokerLogger,
        read_only: false,
        sensitive: false,
        synonyms: Vec::new(),
        kind: None,
        documentation: "",
    };
    loggers.map_or_else(Vec::new, Loggers::levels).into_iter().map(entry).collect()
}

/// What was set at run time for all brokers.
pub fn default_broker_entries(live: &LiveConfig) -> Vec<Entry> {
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

/// A value as Kafka shows it: as it was understood, not as it was typed.
fn parsed(kind: ValueKind, name: &str, text: &str) -> String {
    kind.parse(name, text).map_or_else(|_| text.trim().to_owned(), |value| value.to_string())
}

fn synonym(name: impl Into<Cow<'static, str>>, value: &str, source: Source) -> Synonym {
    let name = name.into();
    Synonym { value: Some(value.trim().to_owned()), name, source }
}

/// The value of a configuration by its name, where this source has one.
type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Everything that has a say in a property, the strongest first: set for this broker, for all, at the start, by
/// default; a property of a listener is followed by the one that holds for all of them. As Kafka has it, the list
/// begins with the property itself: where only a stand-in has a say, it is empty (`ConfigHelper.configSynonyms`).
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
    use ottla_metadata::{ConfigEntity, Image, Node, nodes};
    use ottla_model::{BrokerId, Revision};

    use super::test_live::live;
    use super::*;

    /// What a coordinator shows of the tree hides what a broker hides of its properties.
    #[test]
    fn no_secret_of_a_broker_is_shown_in_the_tree() {
        for name in known::broker_config_names() {
            let own = format!("listener.name.client.{name}");
            for name in [name, &own] {
                let hides = nodes::config::is_secret(name);
                assert!(hides || !known::is_secret(name), "{name} is shown");
            }
        }
        assert!(!nodes::config::is_secret("message.max.bytes") && !nodes::config::is_secret("producer_byte_rate"));
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
            ("cleanup.policy".to_owned(), "compact, delete".to_owned()),
            ("preallocate".to_owned(), " TRUE ".to_owned()),
            ("retention.ms".to_owned(), "60000".to_owned()),
        ]);
        let entries = topic_entries(&live(&[("min.insync.replicas", "2")]), &overrides);
        // goldens: kafka-configs --describe --entity-type topics --entity-name a.b_c
        let policy = entry(&entries, "cleanup.policy");
        assert_eq!(names(&policy), [("cleanup.policy", Source::Topic), ("log.cleanup.policy", Source::Default)]);
        assert_eq!(policy.value.as_deref(), Some("compact,delete"));
        assert_eq!(entry(&entries, "preallocate").value.as_deref(), Some("true"));
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
