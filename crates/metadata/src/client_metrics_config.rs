//! What clients are asked to push of their metrics (KIP-714): the configurations of a `client-metrics` resource, which
//! is called a subscription, with Kafka 4.3's names, ranges and error texts (`ClientMetricsConfigs`).

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};

use crate::config_value::{InvalidValue, Value, ValueKind};
use crate::limits;

pub const METRICS: &str = "metrics";
pub const INTERVAL_MS: &str = "interval.ms";
pub const MATCH: &str = "match";

pub const INTERVAL_MS_DEFAULT: i32 = 5 * 60 * 1000;
const INTERVAL_MS_RANGE: std::ops::RangeInclusive<i32> = 100..=3_600_000;

/// Of one compiled expression. Counted repetitions multiply: `(((a{99}){99}){99})` would take gigabytes.
const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// One configuration of a subscription.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ClientMetricsKey {
    pub name: &'static str,
    pub kind: ValueKind,
    pub default: &'static str,
    pub documentation: &'static str,
}

const ANY_INT: ValueKind = ValueKind::Int { min: i32::MIN as i64, max: i32::MAX as i64 };

/// By name.
pub static CLIENT_METRICS_CONFIGS: &[ClientMetricsKey] = &[
    ClientMetricsKey {
        name: INTERVAL_MS,
        kind: ANY_INT,
        default: "300000",
        documentation: "The time between two pushes of a client.",
    },
    ClientMetricsKey {
        name: MATCH,
        kind: ValueKind::AnyList,
        default: "",
        documentation: "Which clients push: selectors, each with a regular expression; none: all clients.",
    },
    ClientMetricsKey {
        name: METRICS,
        kind: ValueKind::AnyList,
        default: "",
        documentation: "What they push: beginnings of names of metrics, or * for all.",
    },
];

/// Why a subscription is refused; the texts are Kafka's where Kafka refuses too.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientMetricsError {
    #[error("Unknown client metrics configuration: {0}")]
    UnknownName(String),
    #[error("Invalid value {0} for interval.ms, interval must be between 100 and 3600000 (1 hour)")]
    Interval(i32),
    #[error(transparent)]
    Value(#[from] InvalidValue),
    #[error("Configuration '{0}' values must not be duplicated.")]
    Duplicated(&'static str),
    #[error("Illegal client matching pattern: {0}")]
    Pattern(String),
    #[error("The configs of the resource would have {0} bytes; at most {max} are possible.", max = limits::MAX_CLIENT_METRICS_BYTES)]
    TooLarge(usize),
}

impl ClientMetricsError {
    /// Whether Kafka calls it a request that cannot be, instead of a bad configuration.
    pub fn is_invalid_request(&self) -> bool {
        matches!(self, Self::UnknownName(_) | Self::Interval(_))
    }
}

/// What a client tells of itself, by which a subscription selects it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Attribute {
    ClientInstanceId,
    ClientId,
    SoftwareName,
    SoftwareVersion,
    SourceAddress,
    SourcePort,
}

impl Attribute {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "client_instance_id" => Self::ClientInstanceId,
            "client_id" => Self::ClientId,
            "client_software_name" => Self::SoftwareName,
            "client_software_version" => Self::SoftwareVersion,
            "client_source_address" => Self::SourceAddress,
            "client_source_port" => Self::SourcePort,
            _ => return None,
        })
    }
}

/// A subscription, ready to be compared with clients.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Beginnings of names, or [`Subscription::ALL`].
    pub metrics: BTreeSet<String>,
    pub interval_ms: i32,
    selectors: BTreeMap<Attribute, Regex>,
}

impl Subscription {
    /// Stands for all metrics.
    pub const ALL: &'static str = "*";

    /// Reads and checks all entries of a subscription together.
    pub fn parse(set: &BTreeMap<String, String>) -> Result<Self, ClientMetricsError> {
        let bytes: usize = set.iter().map(|(name, value)| name.len() + value.len()).sum();
        if let Some(unknown) = set.keys().find(|name| find(name).is_none()) {
            return Err(ClientMetricsError::UnknownName(limits::cut(unknown.clone(), limits::MAX_ERROR_TEXT_BYTES)));
        }
        if bytes > limits::MAX_CLIENT_METRICS_BYTES {
            return Err(ClientMetricsError::TooLarge(bytes));
        }
        let mut subscription =
            Self { metrics: BTreeSet::new(), interval_ms: INTERVAL_MS_DEFAULT, selectors: BTreeMap::new() };
        for key in CLIENT_METRICS_CONFIGS {
            let Some(text) = set.get(key.name) else { continue };
            match key.kind.parse(key.name, text)? {
                Value::Int(interval_ms) if INTERVAL_MS_RANGE.contains(&interval_ms) => {
                    subscription.interval_ms = interval_ms;
                }
                Value::Int(interval_ms) => return Err(ClientMetricsError::Interval(interval_ms)),
                Value::List(entries) => {
                    let distinct: BTreeSet<String> = entries.iter().cloned().collect();
                    if distinct.len() != entries.len() {
                        return Err(ClientMetricsError::Duplicated(key.name));
                    }
                    match key.name {
                        METRICS => subscription.metrics = distinct,
                        _ => subscription.selectors = selectors(&entries)?,
                    }
                }
                // The table has no other types.
                _ => {}
            }
        }
        Ok(subscription)
    }

    /// Whether the client is meant. One that does not tell an attribute is not matched by a selector of it.
    pub fn matches<'a>(&self, of_client: impl Fn(Attribute) -> Option<&'a str>) -> bool {
        self.selectors
            .iter()
            .all(|(attribute, expression)| of_client(*attribute).is_some_and(|text| expression.is_match(text)))
    }
}

/// Of several selectors of one attribute the last one counts, as in Kafka.
fn selectors(entries: &[String]) -> Result<BTreeMap<Attribute, Regex>, ClientMetricsError> {
    let selector = |entry: &String| {
        let illegal = || ClientMetricsError::Pattern(limits::cut(entry.clone(), limits::MAX_ERROR_TEXT_BYTES));
        let (name, expression) = entry.split_once('=').ok_or_else(illegal)?;
        let expression = expression.trim();
        if expression.is_empty() || expression.contains('=') {
            return Err(illegal());
        }
        let attribute = Attribute::parse(name.trim()).ok_or_else(illegal)?;
        // It must match the whole text.
        let whole = format!(r"\A(?:{expression})\z");
        let expression = RegexBuilder::new(&whole).size_limit(COMPILED_BYTES_MAX).build().map_err(|_| illegal())?;
        Ok((attribute, expression))
    };
    entries.iter().map(selector).collect()
}

/// The configuration of this name.
pub fn find(name: &str) -> Option<&'static ClientMetricsKey> {
    CLIENT_METRICS_CONFIGS.iter().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refusal(name: &str, value: &str) -> String {
        Subscription::parse(&set(&[(name, value)])).map_or_else(|refused| refused.to_string(), |_| String::new())
    }

    #[test]
    fn values_are_refused_in_kafkas_words() {
        assert!(CLIENT_METRICS_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        let interval =
            |value| format!("Invalid value {value} for interval.ms, interval must be between 100 and 3600000 (1 hour)");
        let illegal = |entry| format!("Illegal client matching pattern: {entry}");
        let cases = [
            ("interval.ms", "100", String::new()),
            ("interval.ms", "99", interval("99")),
            ("interval.ms", "3600001", interval("3600001")),
            (
                "interval.ms",
                "soon",
                "Invalid value soon for configuration interval.ms: Not a number of type INT".to_owned(),
            ),
            ("metrics", "", String::new()),
            ("metrics", "a,b,a", "Configuration 'metrics' values must not be duplicated.".to_owned()),
            ("match", "client_id=a.*, client_source_port = 9", String::new()),
            ("match", "client_id", illegal("client_id")),
            ("match", "client_id=", illegal("client_id=")),
            ("match", "client_id=a=b", illegal("client_id=a=b")),
            ("match", "=a", illegal("=a")),
            ("match", "host=a", illegal("host=a")),
            ("match", "client_id=(", illegal("client_id=(")),
            ("match", "client_id=(((a{99}){99}){99})", illegal("client_id=(((a{99}){99}){99})")),
            ("retention.ms", "1", "Unknown client metrics configuration: retention.ms".to_owned()),
        ];
        for (name, value, expected) in cases {
            assert_eq!(refusal(name, value), expected);
        }
        let fits = "m".repeat(limits::MAX_CLIENT_METRICS_BYTES - METRICS.len());
        assert_eq!(refusal(METRICS, &fits), "");
        assert!(refusal(METRICS, &(fits + "m")).starts_with("The configs of the resource would have"));
    }

    #[test]
    fn all_selectors_must_match_the_whole_text() {
        let subscription =
            Subscription::parse(&set(&[("match", "client_id=app-.*,client_software_name=apache-kafka-java")]))
                .expect("valid");
        let matches = |id: Option<&'static str>, software: Option<&'static str>| {
            subscription.matches(|attribute| match attribute {
                Attribute::ClientId => id,
                Attribute::SoftwareName => software,
                _ => None,
            })
        };
        let java = Some("apache-kafka-java");
        assert!(matches(Some("app-1"), java));
        assert!(!matches(Some("an-app-1"), java) && !matches(Some("app-1"), Some("librdkafka")));
        assert!(!matches(Some("app-1"), None) && !matches(None, java));
        assert!(Subscription::parse(&set(&[])).expect("valid").matches(|_| None), "no selector means everybody");
    }

    #[test]
    fn what_is_not_set_has_kafkas_default() {
        let subscription = Subscription::parse(&set(&[("metrics", "a, b")])).expect("valid");
        assert_eq!(subscription.metrics, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(subscription.interval_ms.to_string(), find(INTERVAL_MS).expect("known").default);
    }
}
