//! The configurations of a group (KIP-848 and its successors): names, types and ranges of Kafka 4.3 (`GroupConfig`),
//! and Kafka's error texts. A value that is not set on a group comes from its broker's `group.*` property.

use std::collections::BTreeMap;

use crate::config_value::{InvalidValue, ValueKind};

/// One configuration of a group.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GroupConfigKey {
    pub name: &'static str,
    pub kind: ValueKind,
    /// Kafka's default.
    pub default: &'static str,
    /// The broker property that supplies the value if the group sets none, if there is one.
    pub synonym: Option<&'static str>,
    /// The broker properties that bound it: least and most.
    pub bounds: (Option<&'static str>, Option<&'static str>),
    pub documentation: &'static str,
}

/// Why a group's configuration is refused; the texts are Kafka's.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum GroupConfigError {
    #[error("Unknown group config name: {0}")]
    UnknownName(String),
    #[error(transparent)]
    Value(#[from] InvalidValue),
    #[error("{name} must be greater than or equal to {bound}")]
    BelowBound { name: &'static str, bound: &'static str },
    #[error("{name} must be less than or equal to {bound}")]
    AboveBound { name: &'static str, bound: &'static str },
    #[error("{session} must be greater than {heartbeat}")]
    SessionTooShort { session: &'static str, heartbeat: &'static str },
}

const fn key(
    name: &'static str,
    kind: ValueKind,
    default: &'static str,
    synonym: Option<&'static str>,
    bounds: (Option<&'static str>, Option<&'static str>),
    documentation: &'static str,
) -> GroupConfigKey {
    GroupConfigKey { name, kind, default, synonym, bounds, documentation }
}

const fn int(min: i64) -> ValueKind {
    ValueKind::Int { min, max: i32::MAX as i64 }
}

/// By name.
pub static GROUP_CONFIGS: &[GroupConfigKey] = &[
    key(
        "consumer.assignment.interval.ms",
        int(0),
        "1000",
        Some("group.consumer.assignment.interval.ms"),
        (Some("group.consumer.min.assignment.interval.ms"), Some("group.consumer.max.assignment.interval.ms")),
        "The minimum time between two assignments of the group.",
    ),
    key(
        "consumer.heartbeat.interval.ms",
        int(1),
        "5000",
        Some("group.consumer.heartbeat.interval.ms"),
        (Some("group.consumer.min.heartbeat.interval.ms"), Some("group.consumer.max.heartbeat.interval.ms")),
        "The interval of a member's heartbeats.",
    ),
    key(
        "consumer.session.timeout.ms",
        int(1),
        "45000",
        Some("group.consumer.session.timeout.ms"),
        (Some("group.consumer.min.session.timeout.ms"), Some("group.consumer.max.session.timeout.ms")),
        "The time after which a silent member is removed from the group.",
    ),
    key(
        "share.assignment.interval.ms",
        int(0),
        "1000",
        Some("group.share.assignment.interval.ms"),
        (Some("group.share.min.assignment.interval.ms"), Some("group.share.max.assignment.interval.ms")),
        "",
    ),
    key("share.auto.offset.reset", ValueKind::AnyText, "latest", None, (None, None), ""),
    key(
        "share.delivery.count.limit",
        int(2),
        "5",
        Some("group.share.delivery.count.limit"),
        (Some("group.share.min.delivery.count.limit"), Some("group.share.max.delivery.count.limit")),
        "",
    ),
    key(
        "share.heartbeat.interval.ms",
        int(1),
        "5000",
        Some("group.share.heartbeat.interval.ms"),
        (Some("group.share.min.heartbeat.interval.ms"), Some("group.share.max.heartbeat.interval.ms")),
        "",
    ),
    key(
        "share.isolation.level",
        ValueKind::Text(&["read_committed", "read_uncommitted"]),
        "read_uncommitted",
        None,
        (None, None),
        "",
    ),
    key(
        "share.partition.max.record.locks",
        int(100),
        "2000",
        Some("group.share.partition.max.record.locks"),
        (Some("group.share.min.partition.max.record.locks"), Some("group.share.max.partition.max.record.locks")),
        "",
    ),
    key(
        "share.record.lock.duration.ms",
        int(1000),
        "30000",
        Some("group.share.record.lock.duration.ms"),
        (Some("group.share.min.record.lock.duration.ms"), Some("group.share.max.record.lock.duration.ms")),
        "",
    ),
    key("share.renew.acknowledge.enable", ValueKind::Bool, "true", None, (None, None), ""),
    key(
        "share.session.timeout.ms",
        int(1),
        "45000",
        Some("group.share.session.timeout.ms"),
        (Some("group.share.min.session.timeout.ms"), Some("group.share.max.session.timeout.ms")),
        "",
    ),
    key(
        "streams.assignment.interval.ms",
        int(0),
        "1000",
        Some("group.streams.assignment.interval.ms"),
        (Some("group.streams.min.assignment.interval.ms"), Some("group.streams.max.assignment.interval.ms")),
        "",
    ),
    key(
        "streams.heartbeat.interval.ms",
        int(1),
        "5000",
        Some("group.streams.heartbeat.interval.ms"),
        (Some("group.streams.min.heartbeat.interval.ms"), Some("group.streams.max.heartbeat.interval.ms")),
        "",
    ),
    key(
        "streams.initial.rebalance.delay.ms",
        int(0),
        "3000",
        Some("group.streams.initial.rebalance.delay.ms"),
        (None, None),
        "",
    ),
    key(
        "streams.num.standby.replicas",
        int(0),
        "0",
        Some("group.streams.num.standby.replicas"),
        (None, Some("group.streams.max.standby.replicas")),
        "",
    ),
    key(
        "streams.session.timeout.ms",
        int(1),
        "45000",
        Some("group.streams.session.timeout.ms"),
        (Some("group.streams.min.session.timeout.ms"), Some("group.streams.max.session.timeout.ms")),
        "",
    ),
];

/// A session must outlast a heartbeat.
const SESSIONS: &[(&str, &str)] = &[
    ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"),
    ("share.session.timeout.ms", "share.heartbeat.interval.ms"),
    ("streams.session.timeout.ms", "streams.heartbeat.interval.ms"),
];

/// The configuration of this name.
pub fn find(name: &str) -> Option<&'static GroupConfigKey> {
    GROUP_CONFIGS.binary_search_by_key(&name, |key| key.name).ok().and_then(|at| GROUP_CONFIGS.get(at))
}

/// Checks all entries of a group together. `of_broker` returns the value of a broker's property; if it is unknown (the
/// quorum has no such properties), only names, types and ranges are checked.
pub fn validate(
    set: &BTreeMap<String, String>,
    of_broker: impl Fn(&str) -> Option<String>,
) -> Result<(), GroupConfigError> {
    for name in set.keys() {
        find(name).ok_or_else(|| GroupConfigError::UnknownName(name.clone()))?;
    }
    let number = |text: &str| text.trim().parse::<i64>().ok();
    for (name, text) in set {
        let Some(key) = find(name) else { continue };
        key.kind.parse(key.name, text)?;
        let (least, most) = key.bounds;
        let bound = |name: Option<&'static str>| Some((name?, number(&of_broker(name?)?)?));
        let Some(value) = number(text) else { continue };
        if let Some((bound, least)) = bound(least)
            && value < least
        {
            return Err(GroupConfigError::BelowBound { name: key.name, bound });
        }
        if let Some((bound, most)) = bound(most)
            && value > most
        {
            return Err(GroupConfigError::AboveBound { name: key.name, bound });
        }
    }
    for (session, heartbeat) in SESSIONS {
        let effective = |name: &str| {
            let key = find(name)?;
            let own = set.get(name).cloned();
            number(&own.or_else(|| of_broker(key.synonym?)).unwrap_or_else(|| key.default.to_owned()))
        };
        if (set.contains_key(*session) || set.contains_key(*heartbeat)) && effective(session) <= effective(heartbeat) {
            return Err(GroupConfigError::SessionTooShort { session, heartbeat });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(set: &[(&str, &str)]) -> String {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let of_broker = |name: &str| {
            let value = match name {
                "group.consumer.min.session.timeout.ms" => "45000",
                "group.consumer.max.session.timeout.ms" => "60000",
                "group.consumer.min.heartbeat.interval.ms" => "5000",
                "group.consumer.max.heartbeat.interval.ms" => "15000",
                _ => return None,
            };
            Some(value.to_owned())
        };
        validate(&set, of_broker).map_or_else(|refused| refused.to_string(), |()| String::new())
    }

    #[test]
    fn values_are_refused_in_kafkas_words() {
        assert!(GROUP_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        for key in GROUP_CONFIGS {
            assert!(key.kind.parse(key.name, key.default).is_ok(), "{}", key.name);
        }
        let cases = [
            (("consumer.session.timeout.ms", "50000"), ""),
            (
                ("consumer.session.timeout.ms", "0"),
                "Invalid value 0 for configuration consumer.session.timeout.ms: Value must be at least 1",
            ),
            (
                ("consumer.session.timeout.ms", "44999"),
                "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
            ),
            (
                ("consumer.heartbeat.interval.ms", "15001"),
                "consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms",
            ),
            (
                ("share.heartbeat.interval.ms", "45000"),
                "share.session.timeout.ms must be greater than share.heartbeat.interval.ms",
            ),
            (("retention.ms", "1"), "Unknown group config name: retention.ms"),
        ];
        for (set, expected) in cases {
            assert_eq!(refusal(&[set]), expected);
        }
    }
}
