//! Which broker properties stand behind each topic configuration, and what they come to.

use std::collections::BTreeMap;

use crate::error::ConfigError;
use crate::properties::Properties;
use crate::reader::Reader;

/// A broker property behind a topic configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicSynonym {
    /// The topic configuration's name.
    pub topic: &'static str,
    /// The broker properties, those that win first, and the factor that turns each into the topic's unit.
    pub broker: &'static [(&'static str, i64)],
}

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

const fn one(topic: &'static str, broker: &'static [(&'static str, i64)]) -> TopicSynonym {
    TopicSynonym { topic, broker }
}

/// Kafka's `ServerTopicConfigSynonyms`.
pub static TOPIC_SYNONYMS: &[TopicSynonym] = &[
    one("cleanup.policy", &[("log.cleanup.policy", 1)]),
    one("compression.gzip.level", &[("compression.gzip.level", 1)]),
    one("compression.lz4.level", &[("compression.lz4.level", 1)]),
    one("compression.type", &[("compression.type", 1)]),
    one("compression.zstd.level", &[("compression.zstd.level", 1)]),
    one("delete.retention.ms", &[("log.cleaner.delete.retention.ms", 1)]),
    one("file.delete.delay.ms", &[("log.segment.delete.delay.ms", 1)]),
    one("flush.messages", &[("log.flush.interval.messages", 1)]),
    one("flush.ms", &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)]),
    one("index.interval.bytes", &[("log.index.interval.bytes", 1)]),
    one("local.retention.bytes", &[("log.local.retention.bytes", 1)]),
    one("local.retention.ms", &[("log.local.retention.ms", 1)]),
    one("max.compaction.lag.ms", &[("log.cleaner.max.compaction.lag.ms", 1)]),
    one("max.message.bytes", &[("message.max.bytes", 1)]),
    one("message.timestamp.after.max.ms", &[("log.message.timestamp.after.max.ms", 1)]),
    one("message.timestamp.before.max.ms", &[("log.message.timestamp.before.max.ms", 1)]),
    one("message.timestamp.type", &[("log.message.timestamp.type", 1)]),
    one("min.cleanable.dirty.ratio", &[("log.cleaner.min.cleanable.ratio", 1)]),
    one("min.compaction.lag.ms", &[("log.cleaner.min.compaction.lag.ms", 1)]),
    one("min.insync.replicas", &[("min.insync.replicas", 1)]),
    one("preallocate", &[("log.preallocate", 1)]),
    one("retention.bytes", &[("log.retention.bytes", 1)]),
    one(
        "retention.ms",
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTE_MS), ("log.retention.hours", HOUR_MS)],
    ),
    one("segment.bytes", &[("log.segment.bytes", 1)]),
    one("segment.index.bytes", &[("log.index.size.max.bytes", 1)]),
    one("segment.jitter.ms", &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)]),
    one("segment.ms", &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)]),
    one("unclean.leader.election.enable", &[("unclean.leader.election.enable", 1)]),
];

/// The broker properties that say the same as `name` in other units, itself among them; empty where it stands alone.
pub(crate) fn family(name: &str) -> impl Iterator<Item = &'static str> {
    let family = TOPIC_SYNONYMS.iter().find(|synonym| synonym.broker.iter().any(|(member, _)| *member == name));
    family.map_or(&[][..], |synonym| synonym.broker).iter().map(|(member, _)| *member)
}

/// The value that each topic configuration has on this broker where the topic sets none.
pub(crate) fn effective(properties: &Properties) -> Result<BTreeMap<&'static str, String>, ConfigError> {
    let reader = Reader::new(properties);
    let mut defaults = BTreeMap::new();
    for synonym in TOPIC_SYNONYMS {
        let found = synonym.broker.iter().find_map(|(name, factor)| Some((*name, *factor, reader.text(name)?)));
        let Some((name, factor, text)) = found else { continue };
        let value = if factor == 1 {
            text.to_owned()
        } else {
            // −1 hours are "for ever", as −1 milliseconds are.
            let number: i64 = reader.number(name, -1..=i64::MAX / factor)?;
            if number < 0 { number.to_string() } else { (number * factor).to_string() }
        };
        defaults.insert(synonym.topic, value);
    }
    Ok(defaults)
}
