//! Configurations that are known and have no effect, with the reason. Setting one is said once at start, so that nobody
//! relies on it; those that guard something end the start instead.

use std::collections::BTreeMap;

use super::{BROKER_QUIET, BROKER_QUIET_PREFIXES, broker_config};
use crate::error::ConfigError;
use crate::properties::{Properties, Property};

/// Why a configuration has no effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unread {
    /// It belongs to something that is not built yet.
    NotBuilt(&'static str),
    /// It is for Kafka's Java process.
    Jvm,
    /// It is for ZooKeeper or its client, which is not used.
    ZooKeeper,
    /// It is for Kafka's own quorum of controllers; here coordinators form the quorum.
    KRaft,
    /// What it adjusts is done in another way.
    Otherwise(&'static str),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotBuilt(what) => write!(f, "not built yet: {what}"),
            Self::Jvm => f.write_str("it is for a Java process"),
            Self::ZooKeeper => f.write_str("it is for ZooKeeper's client"),
            Self::KRaft => f.write_str("it is for KRaft controllers; coordinators form the quorum"),
            Self::Otherwise(how) => f.write_str(how),
        }
    }
}

const QUOTAS: Unread = Unread::NotBuilt("classes of quotas");
const VERIFICATION: Unread = Unread::Otherwise("a broker that waits for a transaction to end asks again by itself");
const LOGIN: Unread = Unread::Otherwise("a bearer token is used for four fifths of its life");
const PROVIDER: Unread = Unread::Otherwise("an identity provider has ten seconds to answer");
const ASSERTION: Unread = Unread::NotBuilt("bearer tokens for an assertion");
const GSSAPI: Unread = Unread::NotBuilt("GSSAPI");
const SUBJECTS: Unread = Unread::Otherwise("a certificate that replaces another may have another subject");
const TIERED: Unread = Unread::NotBuilt("tiered storage");
const SHARE: Unread = Unread::NotBuilt("share groups");
const STREAMS: Unread = Unread::NotBuilt("streams groups");
const THREADS: Unread = Unread::Otherwise("the number of threads follows from the cores and the log directories");
const PURGATORY: Unread = Unread::Otherwise("waiting requests are removed when they end, not at intervals");
const LINGER: Unread = Unread::Otherwise("records of groups are appended in the step of their request");
const METRICS: Unread = Unread::Otherwise("metrics are served at http.port");
const ASSIGNMENT: Unread = Unread::Otherwise("assignments are computed when a group changes");
const CONTROLLED: Unread = Unread::Otherwise("a broker waits for its leaders to move, within its session time-out");

/// Names, and beginnings of names (with a dot at the end), that nothing reads. The longest that fits counts.
pub(crate) const UNREAD: &[(&str, Unread)] = &[
    ("add.partitions.to.txn.", VERIFICATION),
    ("alter.log.dirs.replication.quota.", Unread::Otherwise("moves between log directories are paced chunk by chunk")),
    ("auto.include.jmx.reporter", Unread::Jvm),
    ("background.threads", THREADS),
    ("client.quota.callback.class", QUOTAS),
    ("compression.lz4.level", Unread::Otherwise("batches are packed with the encoder's only level")),
    ("config.providers", Unread::NotBuilt("configuration providers: values are taken as they stand")),
    ("confluent.", Unread::Jvm),
    ("controlled.shutdown.max.retries", CONTROLLED),
    ("controlled.shutdown.retries", CONTROLLED),
    ("controlled.shutdown.retry.backoff.ms", CONTROLLED),
    ("controller.", Unread::KRaft),
    ("delete.records.purgatory.purge.interval.requests", PURGATORY),
    ("early.start.listeners", Unread::NotBuilt("an authorizer that other listeners wait for")),
    ("enable.zookeeper", Unread::ZooKeeper),
    ("fetch.purgatory.purge.interval.requests", PURGATORY),
    ("follower.fetch.last.tiered.offset.enable", TIERED),
    ("gc.log.opts", Unread::Jvm),
    ("group.consumer.assignment.interval.ms", ASSIGNMENT),
    ("group.consumer.max.assignment.interval.ms", ASSIGNMENT),
    ("group.consumer.min.assignment.interval.ms", ASSIGNMENT),
    ("group.coordinator.", LINGER),
    ("group.coordinator.rebalance.protocols", Unread::Otherwise("both protocols of consumer groups are served")),
    ("group.share.", SHARE),
    ("group.streams.", STREAMS),
    ("heap.opts", Unread::Jvm),
    ("home", Unread::Jvm),
    (
        "initial.broker.registration.timeout.ms",
        Unread::Otherwise("a broker waits for its registration until it has it"),
    ),
    ("inter.broker.protocol.version", Unread::Otherwise("brokers of one release talk to each other")),
    ("jmx.", Unread::Jvm),
    ("kafka.metrics.", METRICS),
    ("listener.name.", Unread::NotBuilt("settings of single listeners")),
    ("log.dir.failure.timeout.ms", Unread::Otherwise("a failed directory is reported until the quorum has it")),
    ("log.local.", TIERED),
    ("log.message.downconversion.enable", Unread::Otherwise("records are never converted to older formats")),
    ("log.message.format.version", Unread::Otherwise("records have the format of Kafka 0.11 and later")),
    ("log.message.timestamp.difference.max.ms", Unread::Otherwise("log.message.timestamp.{before,after}.max.ms count")),
    ("log.preallocate", Unread::NotBuilt("segments grow as records arrive")),
    ("log4j.opts", Unread::Jvm),
    ("metadata.", Unread::KRaft),
    ("metric.reporters", METRICS),
    ("metric.reporters.", METRICS),
    ("metrics.num.samples", METRICS),
    ("metrics.recording.level", METRICS),
    ("metrics.sample.window.ms", METRICS),
    ("num.io.threads", THREADS),
    ("num.replica.alter.log.dirs.threads", THREADS),
    ("num.replica.fetchers", Unread::Otherwise("one fetcher serves each broker that is fetched from")),
    ("offsets.topic.compression.codec", Unread::Otherwise("records of __consumer_offsets are not compressed")),
    ("opts", Unread::Jvm),
    ("password.encoder.", Unread::ZooKeeper),
    ("producer.purgatory.purge.interval.requests", PURGATORY),
    ("queued.max.requests", Unread::Otherwise("requests in work are bounded by queued.max.request.bytes")),
    ("quota.consumer.default", Unread::ZooKeeper),
    ("quota.producer.default", Unread::ZooKeeper),
    ("remote.", TIERED),
    ("reserved.broker.max.id", Unread::Otherwise("coordinators give ids, by their own setting")),
    ("rlmm.config.", TIERED),
    ("rsm.config.", TIERED),
    ("sasl.kerberos.", GSSAPI),
    ("sasl.login.connect.timeout.ms", PROVIDER),
    ("sasl.login.read.timeout.ms", PROVIDER),
    ("sasl.login.refresh.", LOGIN),
    ("sasl.login.retry.", PROVIDER),
    ("sasl.mechanism.controller.protocol", Unread::KRaft),
    ("sasl.oauthbearer.assertion.", ASSERTION),
    ("security.providers", Unread::Jvm),
    ("share.", SHARE),
    ("socket.connection.setup.", Unread::Otherwise("replica.socket.timeout.ms bounds it")),
    ("ssl.allow.dn.changes", SUBJECTS),
    ("ssl.allow.san.changes", SUBJECTS),
    ("ssl.keymanager.algorithm", Unread::Jvm),
    ("ssl.protocol", Unread::Otherwise("ssl.enabled.protocols counts")),
    ("ssl.provider", Unread::Jvm),
    ("ssl.secure.random.implementation", Unread::Jvm),
    ("ssl.trustmanager.algorithm", Unread::Jvm),
    ("unstable.", Unread::KRaft),
    ("version", Unread::Jvm),
    ("zookeeper.", Unread::ZooKeeper),
];

/// Classes that decide what a client may do. A start without them would be open where it is meant to be closed.
pub const GUARDS: &[&str] = &["alter.config.policy.class.name", "create.topic.policy.class.name", PRINCIPAL_BUILDER];
/// Rules that deny something to a principal that a class makes would deny it to nobody.
const PRINCIPAL_BUILDER: &str = "principal.builder.class";

/// Names that begin as the quorum's and are read: what a node runs and whom it connects to, and quotas of changes.
const READ_NEVERTHELESS: &[&str] = &[
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.voters",
    "controller.quota.window.num",
    "controller.quota.window.size.seconds",
];

/// TLS towards coordinators, by the names of ZooKeeper's client.
const TO_COORDINATORS: &str = "zookeeper.ssl.";

/// The setting behind `listener.name.NAME.`, of those that a listener may have for itself.
fn of_listener(name: &str) -> Option<&str> {
    let (_, setting) = name.strip_prefix("listener.name.")?.split_once('.')?;
    let is_read = ["ssl.", "sasl.", "connections.max.reauth.ms", "max.connection.creation.rate", "max.connections"]
        .iter()
        .any(|beginning| setting.starts_with(beginning));
    let is_of_mechanism = setting.ends_with(".sasl.jaas.config") || setting.starts_with("oauthbearer.sasl.");
    (is_read || is_of_mechanism).then_some(setting)
}

/// Why the configuration of this name has no effect; none: it has one.
pub fn unread(name: &str) -> Option<Unread> {
    if READ_NEVERTHELESS.contains(&name) || name.starts_with(TO_COORDINATORS) {
        return None;
    }
    if let Some(own) = of_listener(name) {
        return unread(own);
    }
    let fits = |pattern: &str| name == pattern || (pattern.ends_with('.') && name.starts_with(pattern));
    UNREAD.iter().filter(|(pattern, _)| fits(pattern)).max_by_key(|(pattern, _)| pattern.len()).map(|(_, why)| *why)
}

/// Read once, by a broker that starts, from its own properties.
const READ_AT_START: &[&str] = &[
    "connections.max.reauth.ms",
    "listener.security.protocol.map",
    "listeners",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "oauthbearer.sasl.server.callback.handler.class",
    "sasl.enabled.mechanisms",
    "sasl.mechanism.inter.broker.protocol",
    "sasl.oauthbearer.clock.skew.seconds",
    "sasl.oauthbearer.expected.",
    "sasl.oauthbearer.jwks.",
    "sasl.oauthbearer.scope.claim.name",
    "sasl.oauthbearer.sub.claim.name",
    "sasl.server.max.receive.size",
    "transaction.partition.verification.enable",
];
const AT_START: Unread = Unread::Otherwise("a broker reads it from its own properties when it starts");

/// Why it has no effect to set the configuration of this name while brokers run; none: it has one.
pub fn unread_at_run_time(name: &str) -> Option<Unread> {
    let base = of_listener(name).unwrap_or(name);
    let fits = |pattern: &&str| base == *pattern || (pattern.ends_with('.') && base.starts_with(pattern));
    let is_of_start = READ_AT_START.iter().any(fits) || base.starts_with(TO_COORDINATORS);
    unread(name).or_else(|| is_of_start.then_some(AT_START))
}

/// An error where a class is set that guards something; there are no classes to load.
pub(crate) fn refuse_fail_open(properties: &Properties) -> Result<(), ConfigError> {
    for (name, _) in properties.iter() {
        let of_listener = name.strip_prefix("listener.name.").and_then(|rest| rest.split_once('.'));
        let base = of_listener.map_or(name, |(_, base)| base);
        if !GUARDS.contains(&base) {
            continue;
        }
        let default = broker_config(base).and_then(|known| known.default).unwrap_or_default();
        let is_set = |property: &&Property| !property.value.is_empty() && property.value != default;
        if let Some(property) = properties.explicit(name).filter(is_set) {
            let problem = "there is no such class here, and without it clients could do what it is there to refuse";
            return Err(ConfigError::invalid(name, property, problem, "no value"));
        }
    }
    Ok(())
}

/// One line for each reason, with the keys that somebody set to something else than their default.
pub(crate) fn warn_of_unread(properties: &Properties, warnings: &mut Vec<String>) {
    let mut keys: BTreeMap<Unread, Vec<&str>> = BTreeMap::new();
    for (name, property) in properties.iter() {
        let known = broker_config(name);
        let is_default = known.is_some_and(|known| known.default.unwrap_or_default() == property.value);
        let is_known = known.is_some()
            || BROKER_QUIET.contains(&name)
            || BROKER_QUIET_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !is_known || is_default || properties.explicit(name).is_none() {
            continue;
        }
        if let Some(why) = unread(name) {
            keys.entry(why).or_default().push(name);
        }
    }
    for (why, names) in keys {
        let has = if names.len() == 1 { "has" } else { "have" };
        warnings.push(format!("{} {has} no effect: {why}", names.join(", ")));
    }
}
