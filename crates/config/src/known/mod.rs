//! What is known by name: every broker configuration with its type, default and meaning, and the names that may stand
//! in a configuration without meaning anything here.

mod broker;
mod unread;

pub use broker::BROKER_CONFIGS;
pub use unread::{GUARDS, Unread, unread, unread_at_run_time};
pub(crate) use unread::{refuse_fail_open, warn_of_unread};

/// Kafka's types of configurations, as DescribeConfigs tells them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigKind {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    List,
    Class,
    Password,
}

impl ConfigKind {
    /// The number on the wire (`DescribeConfigsResponse.ConfigType`).
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }
}

/// One configuration that a broker knows.
#[derive(Clone, Copy, Debug)]
pub struct KnownConfig {
    pub name: &'static str,
    pub kind: ConfigKind,
    /// None: no value (`null`).
    pub default: Option<&'static str>,
    /// Its value is never shown.
    pub sensitive: bool,
    /// Empty where nothing here depends on it yet.
    pub doc: &'static str,
}

const fn known(name: &'static str, kind: ConfigKind, default: Option<&'static str>, doc: &'static str) -> KnownConfig {
    KnownConfig { name, kind, default, sensitive: false, doc }
}

const fn sensitive(
    name: &'static str,
    kind: ConfigKind,
    default: Option<&'static str>,
    doc: &'static str,
) -> KnownConfig {
    KnownConfig { name, kind, default, sensitive: true, doc }
}

/// The broker configuration of this name.
pub fn broker_config(name: &str) -> Option<&'static KnownConfig> {
    BROKER_CONFIGS.binary_search_by(|config| config.name.cmp(name)).ok().map(|at| &BROKER_CONFIGS[at])
}

/// Whether the value of this configuration is never shown: by the table, or by its name.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = match name.strip_prefix("listener.name.").and_then(|rest| rest.split_once('.')) {
        Some((_, own)) => own.to_owned(),
        None => name,
    };
    broker_config(&name).is_some_and(|known| known.sensitive)
        || ["password", "secret", "jaas.config", "credentials"].iter().any(|part| name.contains(part))
}

/// A value as it may be printed.
pub fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    if is_secret(name) && !value.is_empty() { "[hidden]" } else { value }
}

pub fn broker_config_names() -> impl Iterator<Item = &'static str> {
    BROKER_CONFIGS.iter().map(|config| config.name)
}

/// Other names of a broker property: (alias, name). The name itself wins where both are set.
pub(crate) const BROKER_ALIASES: &[(&str, &str)] = &[
    ("zookeeper.connect", "coordinator.connect"),
    ("zookeeper.session.timeout.ms", "broker.session.timeout.ms"),
    ("node.id", "broker.id"),
    ("metrics.port", "http.port"),
];

/// Names of Kafka's ZooKeeper era, of its JVM and of Confluent's images that stand in many configurations and that no
/// table of Kafka's has. [`unread`] says why each has no effect.
const BROKER_QUIET: &[&str] = &[
    "jmx.port",
    "jmx.hostname",
    "heap.opts",
    "log4j.opts",
    "opts",
    "gc.log.opts",
    "version",
    "home",
    "inter.broker.protocol.version",
    "log.message.format.version",
    "log.message.downconversion.enable",
    "log.message.timestamp.difference.max.ms",
    "zookeeper.connection.timeout.ms",
    "zookeeper.sync.time.ms",
    "zookeeper.max.in.flight.requests",
    "zookeeper.set.acl",
    "zookeeper.clientCnxnSocket",
    "zookeeper.clientcnxnsocket",
    "enable.zookeeper",
    "controlled.shutdown.retries",
    "quota.producer.default",
    "quota.consumer.default",
    "password.encoder.secret",
    "password.encoder.old.secret",
    "auto.include.jmx.reporter",
    "unstable.api.versions.enable",
    "unstable.feature.versions.enable",
];

const BROKER_QUIET_PREFIXES: &[&str] = &[
    "confluent.",
    "password.encoder.",
    "listener.name.",
    "metric.reporters.",
    "remote.log.",
    "rsm.config.",
    "rlmm.config.",
];

/// Names that the listener rules read (Kafka before 1.0, and its images).
const BROKER_LEGACY: &[&str] = &["host.name", "port", "advertised.host.name", "advertised.port"];

/// Whether a broker knows a property, if only to say that it has no effect.
pub fn broker_knows(name: &str) -> bool {
    broker_config(name).is_some()
        || BROKER_ALIASES.iter().any(|(alias, _)| *alias == name)
        || BROKER_LEGACY.contains(&name)
        || BROKER_QUIET.contains(&name)
        || BROKER_QUIET_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The coordinator's properties: name and default. Described in `docs/operations.md`.
pub(crate) const COORDINATOR_CONFIGS: &[(&str, Option<&str>)] = &[
    ("advertised.address", None),
    ("bootstrap", Some("false")),
    ("broker.listener.name", None),
    ("broker.session.timeout.ms", Some("3000")),
    ("broker.stream.grace.ms", Some("1000")),
    ("client.host", Some("0.0.0.0")),
    ("client.port", Some("2181")),
    ("cluster.id", None),
    ("cluster.secret", None),
    ("core.dump.enable", Some("false")),
    ("data.dir", Some("/var/lib/zookeeper/data")),
    ("http.host", Some("0.0.0.0")),
    ("http.port", Some("-1")),
    ("id", None),
    ("logging.format", Some("auto")),
    ("logging.level", Some("info")),
    ("max.client.cnxns", Some("60")),
    ("peer.port", None),
    (UNIFICATION, Some("false")),
    ("raft.election.max.ms", Some("1000")),
    ("raft.election.min.ms", Some("500")),
    ("raft.heartbeat.ms", Some("150")),
    ("raft.tick.ms", Some("50")),
    ("reassignment.max.partitions.per.broker", Some("50")),
    ("reserved.broker.max.id", Some("1000")),
    ("roles.admin", None),
    ("roles.member", None),
    ("roles.operate", None),
    ("roles.read", None),
    ("sasl.jaas.config", None),
    ("sasl.mechanism", None),
    ("sasl.oauthbearer.client.credentials.client.id", None),
    ("sasl.oauthbearer.client.credentials.client.secret", None),
    ("sasl.oauthbearer.header.urlencode", None),
    ("sasl.oauthbearer.scope", None),
    ("sasl.oauthbearer.token.endpoint.url", None),
    ("secure.client.port", None),
    ("servers", None),
    ("snapshot.bytes", Some("20971520")),
    ("ssl.cipher.suites", Some("")),
    // ZooKeeper's default; brokers have Kafka's.
    ("ssl.client.auth", Some("required")),
    ("ssl.enabled.protocols", Some("TLSv1.2,TLSv1.3")),
    ("ssl.endpoint.identification.algorithm", Some("https")),
    ("ssl.key.password", None),
    ("ssl.keystore.certificate.chain", None),
    ("ssl.keystore.key", None),
    ("ssl.keystore.location", None),
    ("ssl.keystore.password", None),
    ("ssl.keystore.type", Some("JKS")),
    ("ssl.member.id", Some("false")),
    ("ssl.principal.mapping.rules", Some("DEFAULT")),
    ("ssl.quorum", Some("false")),
    ("ssl.truststore.certificates", None),
    ("ssl.truststore.location", None),
    ("ssl.truststore.password", None),
    ("ssl.truststore.type", Some("JKS")),
    ("tick.time", Some("2000")),
    ("zookeeper.protocol", Some("true")),
    ("zookeeper.servers", None),
];

pub(crate) const UNIFICATION: &str = "port.unification";

/// Other names of a coordinator property, such as those of `zoo.cfg`.
pub(crate) const COORDINATOR_ALIASES: &[(&str, &str)] = &[
    ("server.id", "id"),
    ("clientPort", "client.port"),
    ("clientPortAddress", "client.host"),
    ("dataDir", "data.dir"),
    ("tickTime", "tick.time"),
    ("maxClientCnxns", "max.client.cnxns"),
    ("metrics.port", "http.port"),
    ("snapshot.max.bytes", "snapshot.bytes"),
    ("secureClientPort", "secure.client.port"),
    ("sslQuorum", "ssl.quorum"),
    // ZooKeeper has one for the port of members and one for that of clients.
    ("portUnification", UNIFICATION),
    ("client.portUnification", UNIFICATION),
    ("ssl.clientAuth", "ssl.client.auth"),
    ("ssl.keyStore.location", "ssl.keystore.location"),
    ("ssl.keyStore.password", "ssl.keystore.password"),
    ("ssl.keyStore.type", "ssl.keystore.type"),
    ("ssl.trustStore.location", "ssl.truststore.location"),
    ("ssl.trustStore.password", "ssl.truststore.password"),
    ("ssl.trustStore.type", "ssl.truststore.type"),
];

const COORDINATOR_QUIET: &[&str] = &[
    "dataLogDir",
    // A member that joins may take as long as it needs.
    "init.limit",
    "initLimit",
    // A member may be behind as long as it needs, too: Raft catches it up.
    "sync.limit",
    "syncLimit",
    "autopurge.snapRetainCount",
    "autopurge.purgeInterval",
    "4lw.commands.whitelist",
    "admin.enableServer",
    "admin.serverPort",
    "standaloneEnabled",
    "reconfigEnabled",
    "serverCnxnFactory",
    "authProvider.x509",
];

/// What a coordinator was told in earlier releases, without effect, and why. Setting one is said at start.
pub(crate) const COORDINATOR_UNREAD: &[(&str, &str)] = &[
    ("broker.heartbeat.interval.ms", "it is each broker's own"),
    ("min.insync.replicas", "brokers tell the quorum theirs"),
    ("unclean.leader.election.enable", "brokers tell the quorum theirs"),
];

/// Why a coordinator's property of this name has no effect; none: it has one, or is unknown.
pub fn coordinator_unread(name: &str) -> Option<&'static str> {
    let told = COORDINATOR_UNREAD.iter().find(|(unread, _)| *unread == name).map(|(_, why)| *why);
    told.or_else(|| COORDINATOR_QUIET.contains(&name).then_some("it is for ZooKeeper"))
}

/// As [`broker_knows`], of a coordinator.
pub fn coordinator_knows(name: &str) -> bool {
    COORDINATOR_CONFIGS.iter().any(|(known, _)| *known == name)
        || COORDINATOR_ALIASES.iter().any(|(alias, _)| *alias == name)
        || coordinator_unread(name).is_some()
        || name.starts_with("server.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_have_its_types() {
        assert!(BROKER_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        for config in BROKER_CONFIGS {
            let Some(default) = config.default.filter(|default| !default.is_empty()) else { continue };
            let fits = match config.kind {
                ConfigKind::Boolean => default.parse::<bool>().is_ok(),
                ConfigKind::Int => default.parse::<i32>().is_ok(),
                ConfigKind::Short => default.parse::<i16>().is_ok(),
                ConfigKind::Long => default.parse::<i64>().is_ok(),
                ConfigKind::Double => default.parse::<f64>().is_ok(),
                ConfigKind::String | ConfigKind::List | ConfigKind::Class | ConfigKind::Password => true,
            };
            assert!(fits, "{} = {default}", config.name);
        }
        assert_eq!(broker_config("log.retention.hours").and_then(|config| config.default), Some("168"));
        assert!(broker_config("no.such.config").is_none());
    }

    #[test]
    fn what_is_quiet_says_why() {
        for name in BROKER_QUIET.iter().chain(BROKER_QUIET_PREFIXES) {
            assert!(unread(name).is_some(), "{name}");
        }
        let is_known = |pattern: &str| {
            BROKER_CONFIGS
                .iter()
                .map(|config| config.name)
                .chain(BROKER_QUIET.iter().copied())
                .any(|name| name == pattern || (pattern.ends_with('.') && name.starts_with(pattern)))
                || BROKER_QUIET_PREFIXES.contains(&pattern)
        };
        for (pattern, _) in unread::UNREAD {
            assert!(is_known(pattern), "{pattern} stands for nothing");
        }
    }

    #[test]
    fn aliases_lead_to_known_names() {
        for (_, name) in BROKER_ALIASES {
            assert!(broker_config(name).is_some(), "{name}");
        }
        for (_, name) in COORDINATOR_ALIASES {
            assert!(COORDINATOR_CONFIGS.iter().any(|(known, _)| known == name), "{name}");
        }
    }
}
