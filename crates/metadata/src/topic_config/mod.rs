//! Topic configurations: the names that Kafka 4.3 knows, their types, ranges and defaults, the texts with which Kafka
//! refuses a value, and the typed view that brokers work with.
//!
//! A topic's value is, first that is set: the topic's own override, the broker's property (with its run-time
//! configuration) behind the name, Kafka's default.

pub mod documentation;
mod table;
mod typed;

use std::collections::BTreeMap;

use crate::config_value::InvalidValue;
pub use crate::config_value::{Value, ValueKind};
pub use table::{TOPIC_CONFIGS, TopicConfigKey, find as key};
pub use typed::{CompressionType, TimestampType, TopicConfig};

/// Why a topic's configuration is refused; the texts are Kafka's.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum TopicConfigError {
    #[error("Unknown topic config name: {0}")]
    UnknownName(String),
    #[error("Null value not supported for topic configs: {}", .0.join(","))]
    NullValue(Vec<String>),
    #[error(transparent)]
    Value(#[from] InvalidValue),
    #[error("conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})")]
    CompactionLags { min: i64, max: i64 },
    #[error(
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
    )]
    RemoteStorage,
}

/// Checks a topic's overrides as a whole, as they would be after a change.
pub fn validate(overrides: &BTreeMap<String, String>) -> Result<(), TopicConfigError> {
    for name in overrides.keys() {
        key(name).ok_or_else(|| TopicConfigError::UnknownName(name.clone()))?;
    }
    for (name, text) in overrides {
        if let Some(key) = key(name) {
            key.parse(text)?;
        }
    }
    let config = TopicConfig::resolve(overrides, &BTreeMap::new());
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
        let (min, max) = (config.min_compaction_lag_ms, config.max_compaction_lag_ms);
        return Err(TopicConfigError::CompactionLags { min, max });
    }
    if config.remote_storage_enable {
        return Err(TopicConfigError::RemoteStorage);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(entries: &[(&str, &str)]) -> String {
        let overrides = entries.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
        validate(&overrides).map_or_else(|refused| refused.to_string(), |()| String::new())
    }

    #[test]
    fn values_are_refused_in_kafkas_words() {
        // goldens: kafka-topics --create --config …
        assert_eq!(
            refusal(&[("retention.ms", "soon")]),
            "Invalid value soon for configuration retention.ms: Not a number of type LONG"
        );
        assert_eq!(refusal(&[("no.such.config", "1")]), "Unknown topic config name: no.such.config");
        assert_eq!(
            refusal(&[("cleanup.policy", "compact,burn")]),
            "Invalid value burn for configuration cleanup.policy: String must be one of: compact, delete"
        );
        assert_eq!(
            refusal(&[("min.insync.replicas", "0")]),
            "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1"
        );
        assert_eq!(
            refusal(&[("min.cleanable.dirty.ratio", "2")]),
            "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"
        );
        assert_eq!(
            refusal(&[("preallocate", "yes")]),
            "Invalid value yes for configuration preallocate: Expected value to be either true or false"
        );
        assert_eq!(
            refusal(&[("compression.gzip.level", "0")]),
            "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1"
        );
        assert_eq!(
            refusal(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]),
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"
        );
        assert_eq!(
            refusal(&[("segment.bytes", "99999999999")]),
            "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT"
        );
        assert!(
            refusal(&[("leader.replication.throttled.replicas", "a:b")]).contains("must be the literal '*' or a list")
        );
        assert!(refusal(&[("remote.storage.enable", "true")]).starts_with("Tiered Storage"));
    }

    #[test]
    fn good_values_pass() {
        let good = [
            ("retention.ms", " 60000 "),
            ("cleanup.policy", "compact, delete"),
            ("compression.gzip.level", "-1"),
            ("follower.replication.throttled.replicas", "*"),
            ("leader.replication.throttled.replicas", "0:1,1:2"),
            ("unclean.leader.election.enable", "TRUE"),
            ("retention.bytes", "-1"),
        ];
        assert_eq!(refusal(&good), "");
    }

    /// An invalid text for the configuration, and Kafka's description of valid values; none if every value of the type
    /// is valid.
    fn refused(key: &TopicConfigKey) -> Option<(String, String)> {
        let (text, accepted) = match key.kind {
            ValueKind::Bool => ("perhaps".to_owned(), "either true or false".to_owned()),
            ValueKind::Int { max, .. } if max < i64::from(i32::MAX) => {
                ((max + 1).to_string(), format!("Value must be no more than {max}"))
            }
            ValueKind::Int { min, .. } => ((min - 1).to_string(), format!("Value must be at least {min}")),
            ValueKind::Long { min: i64::MIN } => ("9223372036854775808".to_owned(), "number of type LONG".to_owned()),
            ValueKind::Long { min } => ((min - 1).to_string(), format!("Value must be at least {min}")),
            ValueKind::GzipLevel => ("10".to_owned(), "between 1 and 9 or equal to -1".to_owned()),
            ValueKind::Double { max, .. } => ((max + 1.0).to_string(), format!("Value must be no more than {max}")),
            ValueKind::Text(accepted) | ValueKind::List(accepted) => {
                ("no.such".to_owned(), format!("String must be one of: {}", accepted.join(", ")))
            }
            ValueKind::ThrottledReplicas => ("7".to_owned(), "[partitionId]:[brokerId]".to_owned()),
            ValueKind::Short | ValueKind::AnyText | ValueKind::AnyList => return None,
        };
        Some((text, accepted))
    }

    #[test]
    fn every_configuration_refuses_a_bad_value_and_names_what_is_accepted() {
        for key in TOPIC_CONFIGS {
            let (text, accepted) = refused(key).expect("every topic configuration has a range");
            let refusal = refusal(&[(key.name, &text)]);
            assert!(refusal.contains(key.name) && refusal.contains(&accepted), "{}={text}: {refusal}", key.name);
            assert_eq!(super::tests::refusal(&[(key.name, key.default)]), "", "{}", key.name);
        }
    }
}
