//! What a broker's configuration says about groups and about the topic that keeps them. Ranges are Kafka's.

use std::time::Duration;

use crate::error::ConfigError;
use crate::reader::{Reader, one_of};

/// `group.*` and `offsets.*`. Fields are named after their properties.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupsConfig {
    pub group_min_session_timeout_ms: i32,
    pub group_max_session_timeout_ms: i32,
    pub group_initial_rebalance_delay_ms: i32,
    pub group_max_size: i32,
    pub offset_metadata_max_bytes: i32,
    pub offsets_retention_minutes: i32,
    pub offsets_retention_check_interval_ms: i64,
    /// How long a request may wait for its records to be replicated.
    pub offsets_commit_timeout: Duration,
    /// Bytes of `__consumer_offsets` that are read at a time.
    pub offsets_load_buffer_bytes: usize,
    pub offsets_topic_num_partitions: i32,
    pub offsets_topic_replication_factor: OffsetsReplication,
    pub offsets_topic_segment_bytes: i32,
    pub consumer_session_timeout_ms: i32,
    pub consumer_min_session_timeout_ms: i32,
    pub consumer_max_session_timeout_ms: i32,
    pub consumer_heartbeat_interval_ms: i32,
    /// Somebody set it: members are told this, and no shorter interval.
    pub consumer_heartbeat_interval_is_set: bool,
    pub consumer_max_size: i32,
    /// At least one of `uniform` and `range`, the default first.
    pub consumer_assignors: Vec<&'static str>,
    pub consumer_migration_policy: MigrationPolicy,
}

/// `offsets.topic.replication.factor`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetsReplication {
    /// Somebody set it: this, or an error that says why not.
    Exactly(i16),
    /// Nobody did: as many as there are brokers, and more as they join, up to this.
    UpTo(i16),
}

/// `group.consumer.migration.policy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrationPolicy {
    Bidirectional,
    Upgrade,
    Downgrade,
    Disabled,
}

/// Kafka's classes of server-side assignors, by which they may be named too.
const ASSIGNOR_CLASSES: &[(&str, &str)] = &[
    ("org.apache.kafka.coordinator.group.assignor.UniformAssignor", "uniform"),
    ("org.apache.kafka.coordinator.group.assignor.RangeAssignor", "range"),
];

impl GroupsConfig {
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        const REPLICATION: &str = "offsets.topic.replication.factor";
        let any = |name| reader.number(name, i32::MIN..=i32::MAX);
        let positive = |name| reader.number(name, 1..=i32::MAX);
        let factor = reader.number(REPLICATION, 1..=i16::MAX)?;
        let is_set = |name| reader.property(name).is_some_and(|property| property.origin.is_static());
        let config = Self {
            group_min_session_timeout_ms: any("group.min.session.timeout.ms")?,
            group_max_session_timeout_ms: any("group.max.session.timeout.ms")?,
            group_initial_rebalance_delay_ms: reader.number("group.initial.rebalance.delay.ms", 0..=i32::MAX)?,
            group_max_size: positive("group.max.size")?,
            offset_metadata_max_bytes: any("offset.metadata.max.bytes")?,
            offsets_retention_minutes: positive("offsets.retention.minutes")?,
            offsets_retention_check_interval_ms: reader.number("offsets.retention.check.interval.ms", 1..=i64::MAX)?,
            offsets_commit_timeout: reader.duration_ms("offsets.commit.timeout.ms", 1)?,
            offsets_load_buffer_bytes: usize::try_from(positive("offsets.load.buffer.size")?).unwrap_or(usize::MAX),
            offsets_topic_num_partitions: positive("offsets.topic.num.partitions")?,
            offsets_topic_replication_factor: match is_set(REPLICATION) {
                true => OffsetsReplication::Exactly(factor),
                false => OffsetsReplication::UpTo(factor),
            },
            offsets_topic_segment_bytes: positive("offsets.topic.segment.bytes")?,
            consumer_session_timeout_ms: positive("group.consumer.session.timeout.ms")?,
            consumer_min_session_timeout_ms: positive("group.consumer.min.session.timeout.ms")?,
            consumer_max_session_timeout_ms: positive("group.consumer.max.session.timeout.ms")?,
            consumer_heartbeat_interval_ms: positive("group.consumer.heartbeat.interval.ms")?,
            consumer_heartbeat_interval_is_set: is_set("group.consumer.heartbeat.interval.ms"),
            consumer_max_size: positive("group.consumer.max.size")?,
            consumer_assignors: assignors(reader)?,
            consumer_migration_policy: migration_policy(reader)?,
        };
        // Kafka's own rules between them.
        for (less, more) in [
            ("group.min.session.timeout.ms", "group.max.session.timeout.ms"),
            ("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
            ("group.consumer.min.session.timeout.ms", "group.consumer.session.timeout.ms"),
            ("group.consumer.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
            ("group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
            ("group.consumer.min.heartbeat.interval.ms", "group.consumer.heartbeat.interval.ms"),
            ("group.consumer.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
        ] {
            let (low, high) = (any(less)?, any(more)?);
            if low > high {
                return Err(out_of_order(
                    reader,
                    more,
                    format!("is less than {less}={low}"),
                    format!("{low} and more"),
                ));
            }
        }
        if config.consumer_heartbeat_interval_ms >= config.consumer_session_timeout_ms {
            const KEY: &str = "group.consumer.heartbeat.interval.ms";
            let session = config.consumer_session_timeout_ms;
            let problem = format!("is not less than group.consumer.session.timeout.ms={session}");
            return Err(out_of_order(reader, KEY, problem, format!("less than {session}")));
        }
        Ok(config)
    }
}

fn out_of_order(reader: &Reader<'_>, key: &str, problem: String, accepted: String) -> ConfigError {
    match reader.property(key) {
        Some(property) => ConfigError::invalid(key, property, problem, accepted),
        None => ConfigError::missing(key, accepted),
    }
}

fn assignors(reader: &Reader<'_>) -> Result<Vec<&'static str>, ConfigError> {
    const KEY: &str = "group.consumer.assignors";
    let accepted = "uniform, range";
    let property = reader.property(KEY).ok_or_else(|| ConfigError::missing(KEY, accepted))?;
    let mut names = Vec::new();
    for item in crate::reader::items(&property.value) {
        let name = ASSIGNOR_CLASSES.iter().find(|(class, _)| *class == item).map_or(item, |(_, name)| *name);
        let name = one_of(KEY, property, name, &["uniform", "range"])?;
        if names.contains(&name) {
            return Err(ConfigError::invalid(KEY, property, format!("names {name} twice"), accepted));
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(ConfigError::invalid(KEY, property, "names no assignor", accepted));
    }
    Ok(names)
}

fn migration_policy(reader: &Reader<'_>) -> Result<MigrationPolicy, ConfigError> {
    const KEY: &str = "group.consumer.migration.policy";
    const ACCEPTED: &[&str] = &["bidirectional", "upgrade", "downgrade", "disabled"];
    let property = reader.property(KEY).ok_or_else(|| ConfigError::missing(KEY, ACCEPTED.join(", ")))?;
    // In any case, as Kafka reads it.
    Ok(match one_of(KEY, property, &property.value.to_ascii_lowercase(), ACCEPTED)? {
        "upgrade" => MigrationPolicy::Upgrade,
        "downgrade" => MigrationPolicy::Downgrade,
        "disabled" => MigrationPolicy::Disabled,
        _ => MigrationPolicy::Bidirectional,
    })
}

#[cfg(test)]
mod tests {
    use crate::{BrokerConfig, Sources};

    use super::*;

    fn load(flags: &[(&str, &str)]) -> Result<GroupsConfig, String> {
        let mut all = vec![("coordinator.connect".to_owned(), "localhost".to_owned())];
        all.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let sources = Sources { flags: all, ..Sources::default() };
        BrokerConfig::load(&sources).map(|loaded| loaded.config.groups).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_kafkas() {
        let config = load(&[]).expect("valid");
        assert_eq!(config.offsets_topic_num_partitions, 50);
        assert_eq!(config.offsets_topic_replication_factor, OffsetsReplication::UpTo(3));
        assert_eq!(config.offsets_topic_segment_bytes, 104_857_600);
        assert_eq!((config.group_min_session_timeout_ms, config.group_max_session_timeout_ms), (6_000, 1_800_000));
        assert_eq!(config.consumer_assignors, ["uniform", "range"]);
        assert_eq!(config.consumer_migration_policy, MigrationPolicy::Bidirectional);
    }

    #[test]
    fn what_is_set_is_held_to_kafkas_ranges() {
        let set = load(&[("offsets.topic.replication.factor", "1"), ("group.consumer.assignors", "range")]);
        let set = set.expect("valid");
        assert_eq!(set.offsets_topic_replication_factor, OffsetsReplication::Exactly(1));
        assert_eq!(set.consumer_assignors, ["range"]);
        for (key, value) in [
            ("offsets.topic.num.partitions", "0"),
            ("group.max.size", "0"),
            ("group.consumer.assignors", "sticky"),
            ("group.consumer.migration.policy", "both"),
            ("group.consumer.session.timeout.ms", "1000"),
            ("group.max.session.timeout.ms", "5000"),
            ("offsets.commit.timeout.ms", "0"),
        ] {
            let error = load(&[(key, value)]).expect_err(key);
            assert!(error.contains(key) && !error.contains('\n'), "{error}");
        }
    }
}
