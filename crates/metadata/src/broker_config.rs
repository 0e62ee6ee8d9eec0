//! The broker configurations that can change while brokers run: those of Kafka 4.3, for one broker or for all, with the
//! accepted values (`DynamicBrokerConfig`, `DynamicConfig`). An unknown name (of a plugin, for example) is kept
//! unchanged.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config_value::{InvalidValue, ValueKind};

/// The scope for which a configuration may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateMode {
    /// For one broker, named by its id.
    PerBroker,
    /// For one broker, or for all of the cluster.
    ClusterWide,
}

/// One configuration that may change.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DynamicConfig {
    pub name: &'static str,
    pub mode: UpdateMode,
    pub kind: ValueKind,
    /// Of TLS or SASL: set only with its listener's prefix.
    pub is_security: bool,
}

/// Why a change of a broker's configuration is refused; the texts are Kafka's.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum BrokerConfigError {
    #[error("Cannot update these configs dynamically: [{}]", .0.join(", "))]
    NotDynamic(Vec<String>),
    #[error(
        "These security configs can be dynamically updated only per-listener using the listener prefix: [{}]",
        .0.join(", ")
    )]
    WithoutListener(Vec<String>),
    #[error("Cannot update these configs at default cluster level, broker id must be specified: [{}]", .0.join(", "))]
    PerBroker(Vec<String>),
    #[error("{name}: there is no class {class} here, and without it clients could do what it is there to refuse")]
    Guard { name: String, class: String },
    #[error(transparent)]
    Value(#[from] InvalidValue),
}

const fn wide(name: &'static str, kind: ValueKind) -> DynamicConfig {
    DynamicConfig { name, mode: UpdateMode::ClusterWide, kind, is_security: false }
}

const fn one(name: &'static str, kind: ValueKind) -> DynamicConfig {
    DynamicConfig { name, mode: UpdateMode::PerBroker, kind, is_security: false }
}

const fn security(name: &'static str, kind: ValueKind) -> DynamicConfig {
    DynamicConfig { name, mode: UpdateMode::PerBroker, kind, is_security: true }
}

const fn int(min: i64) -> ValueKind {
    ValueKind::Int { min, max: i32::MAX as i64 }
}

const fn long(min: i64) -> ValueKind {
    ValueKind::Long { min }
}

const ANY_LONG: ValueKind = ValueKind::Long { min: i64::MIN };
const ANY_DOUBLE: ValueKind = ValueKind::Double { min: f64::MIN, max: f64::MAX };
const COMPRESSIONS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
const COORDINATOR_BUFFER_MIN_BYTES: i64 = 524_288;

/// The value of `cordoned.log.dirs` (KIP-1066): the paths of log directories that get no new replicas, or `*` for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CordonedLogDirs {
    paths: Vec<String>,
}

impl CordonedLogDirs {
    pub const KEY: &str = "cordoned.log.dirs";

    pub fn parse(value: &str) -> Self {
        Self { paths: value.split(',').map(|path| path.trim().to_owned()).collect() }
    }

    pub fn are_all(&self) -> bool {
        self.paths.iter().any(|path| path == "*")
    }

    pub fn contain(&self, directory: &Path) -> bool {
        self.are_all() || self.paths.iter().any(|path| directory.as_os_str() == path.as_str())
    }
}

/// By name, as Kafka 4.3.0 has them; the throttles at the end of Kafka's list among them.
pub static DYNAMIC_CONFIGS: &[DynamicConfig] = {
    use ValueKind::{AnyList, AnyText, Bool, Double, GzipLevel, Int, List, Short, Text};
    &[
        wide("background.threads", int(1)),
        wide("compression.gzip.level", GzipLevel),
        wide("compression.lz4.level", Int { min: 1, max: 17 }),
        wide("compression.type", Text(COMPRESSIONS)),
        wide("compression.zstd.level", Int { min: -131_072, max: 22 }),
        wide("config.providers", AnyList),
        one("cordoned.log.dirs", AnyList),
        wide("follower.fetch.last.tiered.offset.enable", Bool),
        wide("follower.replication.throttled.rate", long(0)),
        wide("group.consumer.assignment.interval.ms", int(0)),
        wide("group.coordinator.cached.buffer.max.bytes", int(COORDINATOR_BUFFER_MIN_BYTES)),
        wide("group.share.assignment.interval.ms", int(0)),
        wide("group.streams.assignment.interval.ms", int(0)),
        wide("leader.replication.throttled.rate", long(0)),
        one("listener.security.protocol.map", AnyText),
        one("listeners", AnyList),
        wide("log.cleaner.backoff.ms", long(0)),
        wide("log.cleaner.dedupe.buffer.size", ANY_LONG),
        wide("log.cleaner.delete.retention.ms", long(0)),
        wide("log.cleaner.io.buffer.load.factor", ANY_DOUBLE),
        wide("log.cleaner.io.buffer.size", int(0)),
        wide("log.cleaner.io.max.bytes.per.second", ANY_DOUBLE),
        wide("log.cleaner.max.compaction.lag.ms", long(1)),
        wide("log.cleaner.min.cleanable.ratio", Double { min: 0.0, max: 1.0 }),
        wide("log.cleaner.min.compaction.lag.ms", long(0)),
        // A file may say 0; a running broker is not told to stop its cleaner, as in Kafka.
        wide("log.cleaner.threads", int(1)),
        wide("log.cleanup.policy", List(&["compact", "delete"])),
        wide("log.flush.interval.messages", long(1)),
        wide("log.flush.interval.ms", ANY_LONG),
        wide("log.index.interval.bytes", int(0)),
        wide("log.index.size.max.bytes", int(4)),
        wide("log.local.retention.bytes", long(-2)),
        wide("log.local.retention.ms", long(-2)),
        wide("log.message.timestamp.after.max.ms", long(0)),
        wide("log.message.timestamp.before.max.ms", long(0)),
        wide("log.message.timestamp.type", Text(&["CreateTime", "LogAppendTime"])),
        wide("log.preallocate", Bool),
        wide("log.retention.bytes", ANY_LONG),
        wide("log.retention.ms", ANY_LONG),
        wide("log.roll.jitter.ms", ANY_LONG),
        wide("log.roll.ms", ANY_LONG),
        wide("log.segment.bytes", int(1_048_576)),
        wide("log.segment.delete.delay.ms", long(0)),
        wide("max.connection.creation.rate", int(0)),
        wide("max.connections", int(0)),
        wide("max.connections.per.ip", int(0)),
        wide("max.connections.per.ip.overrides", AnyText),
        wide("message.max.bytes", int(0)),
        wide("metric.reporters", AnyList),
        wide("min.insync.replicas", int(1)),
        wide("num.io.threads", int(1)),
        wide("num.network.threads", int(1)),
        wide("num.recovery.threads.per.data.dir", int(1)),
        wide("num.replica.fetchers", int(1)),
        one("principal.builder.class", AnyText),
        wide("producer.id.expiration.ms", int(1)),
        wide("remote.fetch.max.wait.ms", int(1)),
        wide("remote.list.offsets.request.timeout.ms", long(1)),
        wide("remote.log.index.file.cache.total.size.bytes", long(1)),
        wide("remote.log.manager.copier.thread.pool.size", int(1)),
        wide("remote.log.manager.copy.max.bytes.per.second", long(1)),
        wide("remote.log.manager.expiration.thread.pool.size", int(1)),
        wide("remote.log.manager.fetch.max.bytes.per.second", long(1)),
        wide("remote.log.manager.follower.thread.pool.size", int(1)),
        wide("remote.log.reader.threads", int(1)),
        wide("replica.alter.log.dirs.io.max.bytes.per.second", long(0)),
        one("sasl.enabled.mechanisms", AnyList),
        one("sasl.jaas.config", AnyText),
        one("sasl.kerberos.kinit.cmd", AnyText),
        one("sasl.kerberos.min.time.before.relogin", ANY_LONG),
        one("sasl.kerberos.principal.to.local.rules", AnyList),
        one("sasl.kerberos.service.name", AnyText),
        one("sasl.kerberos.ticket.renew.jitter", ANY_DOUBLE),
        one("sasl.kerberos.ticket.renew.window.factor", ANY_DOUBLE),
        one("sasl.login.refresh.buffer.seconds", Short),
        one("sasl.login.refresh.min.period.seconds", Short),
        one("sasl.login.refresh.window.factor", ANY_DOUBLE),
        one("sasl.login.refresh.window.jitter", ANY_DOUBLE),
        one("sasl.mechanism.inter.broker.protocol", AnyText),
        wide("share.coordinator.cached.buffer.max.bytes", int(COORDINATOR_BUFFER_MIN_BYTES)),
        security("ssl.cipher.suites", AnyList),
        security("ssl.client.auth", Text(&["required", "requested", "none"])),
        security("ssl.enabled.protocols", AnyList),
        security("ssl.endpoint.identification.algorithm", AnyText),
        security("ssl.engine.factory.class", AnyText),
        security("ssl.key.password", AnyText),
        security("ssl.keymanager.algorithm", AnyText),
        security("ssl.keystore.certificate.chain", AnyText),
        security("ssl.keystore.key", AnyText),
        security("ssl.keystore.location", AnyText),
        security("ssl.keystore.password", AnyText),
        security("ssl.keystore.type", AnyText),
        security("ssl.protocol", AnyText),
        security("ssl.provider", AnyText),
        security("ssl.secure.random.implementation", AnyText),
        security("ssl.trustmanager.algorithm", AnyText),
        security("ssl.truststore.certificates", AnyText),
        security("ssl.truststore.location", AnyText),
        security("ssl.truststore.password", AnyText),
        security("ssl.truststore.type", AnyText),
        wide("transaction.partition.verification.enable", Bool),
        wide("unclean.leader.election.enable", Bool),
    ]
};

/// Classes that decide what a client may do, each with the one that there is. To take another and go on without it
/// would be open where it is meant to be closed. (A broker refuses the same at its start.)
pub const GUARDS: &[(&str, &str)] = &[
    ("alter.config.policy.class.name", ""),
    ("create.topic.policy.class.name", ""),
    ("principal.builder.class", "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder"),
];

/// Configurations that may be set for all brokers also with a listener's prefix.
const CLUSTER_WIDE_OF_LISTENERS: &[&str] = &["max.connections", "max.connection.creation.rate", "num.network.threads"];

/// The configuration of this name; none if it never changes while a broker runs.
pub fn find(name: &str) -> Option<&'static DynamicConfig> {
    DYNAMIC_CONFIGS.binary_search_by_key(&name, |config| config.name).ok().and_then(|at| DYNAMIC_CONFIGS.get(at))
}

/// The name without `listener.name.NAME.`, if it has that prefix.
pub fn without_listener(name: &str) -> Option<&str> {
    name.strip_prefix("listener.name.")?.split_once('.').map(|(_, base)| base)
}

/// Checks the values that a change sets, for one broker or (`!per_broker`) for all. `is_known` returns whether a broker
/// has a configuration that cannot change at run time.
pub fn validate(
    values: &BTreeMap<&str, &str>,
    per_broker: bool,
    is_known: impl Fn(&str) -> bool,
) -> Result<(), BrokerConfigError> {
    let those = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        values.keys().filter(|name| wanted(name)).map(|name| (*name).to_owned()).collect()
    };
    let refuse = |names: Vec<String>, refusal: fn(Vec<String>) -> BrokerConfigError| {
        if names.is_empty() { Ok(()) } else { Err(refusal(names)) }
    };
    refuse(those(&|name| find(name).is_none() && is_known(name)), BrokerConfigError::NotDynamic)?;
    refuse(those(&|name| find(name).is_some_and(|config| config.is_security)), BrokerConfigError::WithoutListener)?;
    for (name, value) in values {
        let base = without_listener(name).unwrap_or(name);
        let guard = GUARDS.iter().find(|(guard, _)| *guard == base);
        if guard.is_some_and(|(_, there_is)| !value.trim().is_empty() && value.trim() != *there_is) {
            return Err(BrokerConfigError::Guard { name: (*name).to_owned(), class: (*value).to_owned() });
        }
    }
    for (name, value) in values {
        if let Some(config) = find(without_listener(name).unwrap_or(name)) {
            config.kind.parse(config.name, value)?;
        }
    }
    if per_broker {
        return Ok(());
    }
    let is_per_broker = |name: &str| match without_listener(name) {
        Some(base) => !CLUSTER_WIDE_OF_LISTENERS.contains(&base),
        None => find(name).is_some_and(|config| config.mode == UpdateMode::PerBroker),
    };
    refuse(those(&is_per_broker), BrokerConfigError::PerBroker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(values: &[(&str, &str)], per_broker: bool) -> String {
        let known = |name: &str| matches!(name, "log.dirs" | "broker.id" | "log.retention.hours");
        let checked = validate(&values.iter().copied().collect(), per_broker, known);
        checked.map_or_else(|refused| refused.to_string(), |()| String::new())
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(DYNAMIC_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(find("message.max.bytes").map(|config| config.mode), Some(UpdateMode::ClusterWide));
        assert_eq!(find("log.dirs"), None);
    }

    #[test]
    fn changes_are_refused_in_kafkas_words() {
        /// The entries, whether they are for one broker, and the expected error text.
        type Case = (&'static [(&'static str, &'static str)], bool, &'static str);
        // As Kafka 4.3's DynamicBrokerConfig.validateConfigs says it.
        let cases: &[Case] = &[
            (
                &[("log.dirs", "x"), ("broker.id", "7")],
                true,
                "Cannot update these configs dynamically: [broker.id, log.dirs]",
            ),
            (&[("log.retention.hours", "3")], false, "Cannot update these configs dynamically: [log.retention.hours]"),
            (
                &[("ssl.keystore.type", "x")],
                true,
                "These security configs can be dynamically updated only per-listener using the listener prefix: [ssl.keystore.type]",
            ),
            (&[("listener.name.x.ssl.keystore.type", "x")], true, ""),
            (
                &[("listener.name.x.ssl.keystore.type", "x")],
                false,
                "Cannot update these configs at default cluster level, broker id must be specified: [listener.name.x.ssl.keystore.type]",
            ),
            (
                &[("listeners", "x")],
                false,
                "Cannot update these configs at default cluster level, broker id must be specified: [listeners]",
            ),
            (
                &[("message.max.bytes", "-1")],
                false,
                "Invalid value -1 for configuration message.max.bytes: Value must be at least 0",
            ),
            (
                &[("message.max.bytes", "abc")],
                false,
                "Invalid value abc for configuration message.max.bytes: Not a number of type INT",
            ),
            (
                &[("leader.replication.throttled.rate", "-3")],
                true,
                "Invalid value -3 for configuration leader.replication.throttled.rate: Value must be at least 0",
            ),
            (
                &[("log.cleanup.policy", "foo")],
                false,
                "Invalid value foo for configuration log.cleanup.policy: String must be one of: compact, delete",
            ),
            (
                &[("principal.builder.class", "org.example.Own")],
                true,
                "principal.builder.class: there is no class org.example.Own here, and without it clients could do what it is there to refuse",
            ),
            (
                &[("listener.name.x.principal.builder.class", "org.example.Own")],
                true,
                "listener.name.x.principal.builder.class: there is no class org.example.Own here, and without it clients could do what it is there to refuse",
            ),
            (&[("principal.builder.class", "")], true, ""),
            (
                &[(
                    "principal.builder.class",
                    "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder",
                )],
                true,
                "",
            ),
            (&[("no.such", "abc")], false, ""),
            (
                &[("log.cleaner.threads", "0")],
                false,
                "Invalid value 0 for configuration log.cleaner.threads: Value must be at least 1",
            ),
            (&[("log.cleaner.threads", "1")], false, ""),
            (&[("listener.name.x.max.connections", "5")], false, ""),
            (
                &[("listener.name.x.max.connections", "-5")],
                false,
                "Invalid value -5 for configuration max.connections: Value must be at least 0",
            ),
        ];
        for (values, per_broker, expected) in cases {
            assert_eq!(refusal(values, *per_broker), *expected, "{values:?}");
        }
    }
}
