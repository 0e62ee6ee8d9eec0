//! A broker's configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use ottla_model::{BrokerId, Chroot, ClusterId, ClusterSecret, ListenerName, SecurityProtocol, TopicName};
use ottla_sasl::Mechanism;
use ottla_tls::TlsSettings;

use crate::address::HostPort;
use crate::audit::AuditConfig;
use crate::authorizer::AuthorizerConfig;
use crate::cleaner::CleanerConfig;
use crate::connections::{self, ConnectionRates};
use crate::delegation_tokens::DelegationTokenConfig;
use crate::environment;
use crate::error::ConfigError;
use crate::groups::GroupsConfig;
use crate::host::Host;
use crate::known::{
    BROKER_ALIASES, BROKER_CONFIGS, broker_config_names, broker_knows, refuse_fail_open, warn_of_unread,
};
use crate::listeners::{self, Listener};
use crate::logging::LoggingConfig;
use crate::nearest::nearest;
use crate::properties::{Origin, Properties, Property, Sources, merge};
use crate::reader::Reader;
use crate::replica_selector::{self, ReplicaSelector};
use crate::security::{CLIENT_AUTH, SecurityConfig};
use crate::transactions::TransactionsConfig;
use crate::{Loaded, coordinator_client, node, topic_defaults};

/// Everything a broker is configured with. A field is named after its Kafka property; a duration drops the unit that
/// the property's name ends with. Bounds and defaults are Kafka's but where `known::BROKER_CONFIGS` says otherwise.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `broker.id` / `node.id`; none: stored in `meta.properties`, or given by the quorum.
    pub broker_id: Option<BrokerId>,
    /// `cluster.id` / `CLUSTER_ID`; none: whatever the quorum says.
    pub cluster_id: Option<ClusterId>,
    /// `cluster.secret`: what the coordinators require of brokers.
    pub cluster_secret: Option<ClusterSecret>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `coordinator.connect` / `zookeeper.connect`, at least one.
    pub coordinator_connect: Vec<HostPort>,
    /// The path at the end of it: which of the coordinators' clusters; none: the one at their root.
    pub chroot: Option<Chroot>,
    /// `zookeeper.ssl.*`: how coordinators are reached; none: in plaintext.
    pub coordinator_tls: Option<TlsSettings>,

    /// What to listen on, at least one; names and ports are unique.
    pub listeners: Vec<Listener>,
    /// What clients and brokers are told; every name is one of `listeners`.
    pub advertised_listeners: Vec<Listener>,
    /// One of `advertised_listeners`.
    pub inter_broker_listener: ListenerName,
    /// What listeners demand of clients, and how brokers speak to each other.
    pub security: SecurityConfig,

    /// `log.dirs`, else `log.dir`; at least one, each once.
    pub log_dirs: Vec<PathBuf>,
    pub num_recovery_threads_per_data_dir: usize,
    pub log_flush_offset_checkpoint_interval: Duration,
    pub log_flush_start_offset_checkpoint_interval: Duration,
    pub log_retention_check_interval: Duration,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration: Duration,
    pub transaction_partition_verification_enable: bool,
    pub log_cleaner: CleanerConfig,

    pub auto_create_topics_enable: bool,
    pub delete_topic_enable: bool,
    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub min_insync_replicas: i32,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election: bool,
    /// `leader.imbalance.check.interval.seconds`; none if `auto.leader.rebalance.enable` is false.
    pub leader_rebalance_interval_s: Option<u32>,
    /// `leader.imbalance.per.broker.percentage`.
    pub leader_imbalance_percent: u8,
    pub message_max_bytes: usize,

    pub num_network_threads: usize,
    /// `queued.max.request.bytes`; none (−1): the broker's own bound.
    pub queued_max_request_bytes: Option<u64>,
    /// `core.dump.enable`.
    pub core_dump_enable: bool,
    /// `max.memory.bytes`; none (−1): half of what the machine or its cgroup has.
    pub max_memory_bytes: Option<u64>,
    pub socket_request_max_bytes: usize,
    pub telemetry_max_bytes: usize,
    /// None (−1): the system's.
    pub socket_receive_buffer_bytes: Option<usize>,
    /// None (−1): the system's.
    pub socket_send_buffer_bytes: Option<usize>,
    pub socket_listen_backlog_size: i32,
    pub connections_max_idle: Duration,
    pub max_connections: usize,
    /// `listener.name.NAME.max.connections`.
    pub max_connections_of_listeners: BTreeMap<ListenerName, u32>,
    pub max_connections_per_ip: usize,
    /// `max.connection.creation.rate`.
    pub connection_rates: ConnectionRates,
    /// `max.connections.per.ip.overrides`: the limits of single addresses.
    pub max_connections_per_ip_overrides: BTreeMap<IpAddr, usize>,
    pub fetch_max_bytes: usize,
    pub max_incremental_fetch_session_cache_slots: usize,
    pub max_request_partition_size_limit: usize,
    pub request_timeout: Duration,

    /// `quota.window.num` and `quota.window.size.seconds`.
    pub quota_window_num: usize,
    pub quota_window_size: Duration,
    /// `controller.quota.window.num` and `controller.quota.window.size.seconds`.
    pub controller_quota_window_num: usize,
    pub controller_quota_window_size: Duration,
    /// `replication.quota.window.num` and `replication.quota.window.size.seconds`.
    pub replication_quota_window_num: usize,
    pub replication_quota_window_size: Duration,

    pub replica_lag_time_max: Duration,
    /// `replica.selector.class`.
    pub replica_selector: ReplicaSelector,
    pub replica_fetch_max_bytes: usize,
    pub replica_fetch_response_max_bytes: usize,
    pub replica_fetch_min_bytes: usize,
    pub replica_fetch_wait_max: Duration,
    pub replica_fetch_backoff: Duration,
    pub replica_socket_timeout: Duration,
    /// None (−1): the system's.
    pub replica_socket_receive_buffer_bytes: Option<usize>,
    pub replica_high_watermark_checkpoint_interval: Duration,

    /// `broker.session.timeout.ms` / `zookeeper.session.timeout.ms`. Fencing follows the quorum's own setting; this one
    /// bounds how long a refused registration is tried again.
    pub broker_session_timeout: Duration,
    pub broker_heartbeat_interval: Duration,
    pub controlled_shutdown_enable: bool,

    /// Who may do what; none: everybody may do everything.
    pub authorizer: Option<AuthorizerConfig>,
    /// None: there is no audit log.
    pub audit: Option<AuditConfig>,
    /// None: there are no delegation tokens.
    pub delegation_tokens: Option<DelegationTokenConfig>,

    /// Groups, and the topic that keeps them.
    pub groups: GroupsConfig,

    /// Transactions, and the topic that keeps them.
    pub transactions: TransactionsConfig,

    /// `create.topics`: to be created at start, through the coordinators, if they are not there.
    pub create_topics: Vec<TopicToCreate>,

    /// Where /metrics, /healthz and /readyz are served; none: nowhere. Port 0 is any free one.
    pub http: Option<HostPort>,
    pub logging: LoggingConfig,

    /// Every property with its origin, by its own name (aliases resolved): what DescribeConfigs reports. Use
    /// [`crate::known::BROKER_CONFIGS`] for types, defaults and texts.
    pub properties: Properties,
    /// The value of each topic configuration where a topic sets none, by the topic configuration's name.
    pub topic_defaults: BTreeMap<&'static str, String>,
}

/// One entry of `create.topics`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicToCreate {
    pub name: TopicName,
    pub partitions: i32,
    pub replication_factor: i16,
    pub cleanup_policy: Option<String>,
}

/// The most of `telemetry.max.bytes`: a PushTelemetry is read whole.
const TELEMETRY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Coordinators' port where `coordinator.connect` names none: ZooKeeper's.
const COORDINATOR_PORT: u16 = 2181;

impl BrokerConfig {
    /// Reads a configuration for this machine.
    pub fn load(sources: &Sources) -> Result<Loaded<Self>, ConfigError> {
        Self::load_on(sources, &Host::this())
    }

    /// Reads a configuration as if on `host`.
    pub fn load_on(sources: &Sources, host: &Host) -> Result<Loaded<Self>, ConfigError> {
        let mut warnings = Vec::new();
        let defaults = BROKER_CONFIGS.iter().filter_map(|known| Some((known.name, known.default?)));
        let mut properties = merge(defaults, sources, environment::of_broker, &mut warnings)?;
        warn_of_unknown(&properties, &mut warnings);
        resolve_aliases(&mut properties)?;
        node::connect_by_voters(&mut properties)?;
        refuse_fail_open(&properties)?;
        warn_of_unread(&properties, &mut warnings);
        let listeners = listeners::resolve(&properties, host, &mut warnings)?;
        let config = Self::read(properties, listeners, None, &mut warnings)?;
        check_replica_lag(&config, &mut warnings);
        check_secret(&config, &mut warnings);
        check_users(&config, &mut warnings);
        check_client_auth(&config, &mut warnings);
        Ok(Loaded { config, warnings })
    }

    /// This configuration with the values that were set at run time, `own` for this broker, `cluster` for all. They
    /// replace the values of the start. Listeners stay as they are.
    ///
    /// # Errors
    /// A value that is out of its range.
    pub fn with_dynamic(
        &self,
        cluster: &BTreeMap<String, String>,
        own: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let mut properties = self.properties.clone();
        for (entries, origin) in [(cluster, Origin::Cluster), (own, Origin::Broker)] {
            for (name, value) in entries {
                // A value in hours must not win over one in milliseconds that was set later (Kafka's `overrideProps`).
                for stand_in in topic_defaults::family(name) {
                    properties.remove(stand_in);
                }
                properties.insert(name, Property { value: value.trim().to_owned(), origin: origin.clone() });
            }
        }
        let listeners = listeners::Listeners {
            listeners: self.listeners.clone(),
            advertised: self.advertised_listeners.clone(),
            inter_broker: self.inter_broker_listener.clone(),
        };
        Self::read(properties, listeners, Some(&self.security), &mut Vec::new())
    }

    fn read(
        properties: Properties,
        listeners: listeners::Listeners,
        before: Option<&SecurityConfig>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let reader = Reader::new(&properties);
        let security = SecurityConfig::read(&properties, &listeners, before)?;
        let connection_rates = ConnectionRates::read(&reader, &listeners)?;
        let max_connections_of_listeners = connections::max_of_listeners(&reader, &listeners)?;
        let (coordinator_connect, chroot) = coordinator_connect(&reader)?;
        let config = Self {
            broker_id: broker_id(&reader)?,
            cluster_id: reader.text("cluster.id").map(ClusterId::new),
            cluster_secret: reader.text("cluster.secret").map(ClusterSecret::new),
            rack: reader.text("broker.rack").map(str::to_owned),
            coordinator_connect,
            chroot,
            coordinator_tls: coordinator_client::read(&properties, node::knows_controllers(&properties))?,

            listeners: listeners.listeners,
            advertised_listeners: listeners.advertised,
            inter_broker_listener: listeners.inter_broker,
            security,

            log_dirs: log_dirs(&reader)?,
            num_recovery_threads_per_data_dir: count(&reader, "num.recovery.threads.per.data.dir")?,
            log_flush_offset_checkpoint_interval: reader.duration_ms("log.flush.offset.checkpoint.interval.ms", 0)?,
            log_flush_start_offset_checkpoint_interval: reader
                .duration_ms("log.flush.start.offset.checkpoint.interval.ms", 0)?,
            log_retention_check_interval: reader.duration_ms("log.retention.check.interval.ms", 1)?,
            producer_id_expiration: reader.duration_ms("producer.id.expiration.ms", 1)?,
            transaction_partition_verification_enable: reader.boolean("transaction.partition.verification.enable")?,
            log_cleaner: CleanerConfig::read(&reader)?,

            auto_create_topics_enable: reader.boolean("auto.create.topics.enable")?,
            delete_topic_enable: reader.boolean("delete.topic.enable")?,
            num_partitions: reader.number("num.partitions", 1..=i32::MAX)?,
            default_replication_factor: reader.number("default.replication.factor", 1..=i16::MAX)?,
            min_insync_replicas: reader.number("min.insync.replicas", 1..=i32::MAX)?,
            unclean_leader_election: reader.boolean("unclean.leader.election.enable")?,
            leader_rebalance_interval_s: leader_rebalance_interval_s(&reader)?,
            leader_imbalance_percent: reader.optional("leader.imbalance.per.broker.percentage", 0..=100)?.unwrap_or(0),
            message_max_bytes: bytes(&reader, "message.max.bytes", 0)?,

            num_network_threads: count(&reader, "num.network.threads")?,
            queued_max_request_bytes: reader
                .optional("queued.max.request.bytes", -1..=i64::MAX)?
                .and_then(|bytes| u64::try_from(bytes).ok()),
            core_dump_enable: reader.boolean("core.dump.enable")?,
            max_memory_bytes: max_memory(&reader)?,
            socket_request_max_bytes: bytes(&reader, "socket.request.max.bytes", 1)?,
            telemetry_max_bytes: reader.number("telemetry.max.bytes", 1..=TELEMETRY_MAX_BYTES)?,
            socket_receive_buffer_bytes: buffer(&reader, "socket.receive.buffer.bytes")?,
            socket_send_buffer_bytes: buffer(&reader, "socket.send.buffer.bytes")?,
            socket_listen_backlog_size: reader.number("socket.listen.backlog.size", 1..=i32::MAX)?,
            connections_max_idle: idle(&reader, "connections.max.idle.ms")?,
            max_connections: bytes(&reader, "max.connections", 0)?,
            max_connections_of_listeners,
            max_connections_per_ip: bytes(&reader, "max.connections.per.ip", 0)?,
            connection_rates,
            max_connections_per_ip_overrides: per_ip_overrides(&reader)?,
            fetch_max_bytes: bytes(&reader, "fetch.max.bytes", 1024)?,
            max_incremental_fetch_session_cache_slots: bytes(&reader, "max.incremental.fetch.session.cache.slots", 0)?,
            max_request_partition_size_limit: count(&reader, "max.request.partition.size.limit")?,
            request_timeout: reader.duration_ms("request.timeout.ms", 1)?,

            quota_window_num: count(&reader, "quota.window.num")?,
            quota_window_size: seconds(&reader, "quota.window.size.seconds")?,
            controller_quota_window_num: count(&reader, "controller.quota.window.num")?,
            controller_quota_window_size: seconds(&reader, "controller.quota.window.size.seconds")?,
            replication_quota_window_num: count(&reader, "replication.quota.window.num")?,
            replication_quota_window_size: seconds(&reader, "replication.quota.window.size.seconds")?,

            replica_lag_time_max: reader.duration_ms("replica.lag.time.max.ms", 1)?,
            replica_selector: replica_selector::read(&reader)?,
            replica_fetch_max_bytes: bytes(&reader, "replica.fetch.max.bytes", 0)?,
            replica_fetch_response_max_bytes: bytes(&reader, "replica.fetch.response.max.bytes", 0)?,
            replica_fetch_min_bytes: bytes(&reader, "replica.fetch.min.bytes", 0)?,
            replica_fetch_wait_max: reader.duration_ms("replica.fetch.wait.max.ms", 0)?,
            replica_fetch_backoff: reader.duration_ms("replica.fetch.backoff.ms", 0)?,
            replica_socket_timeout: reader.duration_ms("replica.socket.timeout.ms", 1)?,
            replica_socket_receive_buffer_bytes: buffer(&reader, "replica.socket.receive.buffer.bytes")?,
            replica_high_watermark_checkpoint_interval: reader
                .duration_ms("replica.high.watermark.checkpoint.interval.ms", 1)?,

            broker_session_timeout: reader.duration_ms("broker.session.timeout.ms", 1)?,
            broker_heartbeat_interval: reader.duration_ms("broker.heartbeat.interval.ms", 1)?,
            controlled_shutdown_enable: reader.boolean("controlled.shutdown.enable")?,

            authorizer: AuthorizerConfig::read(&reader)?,
            audit: AuditConfig::read(&reader)?,
            delegation_tokens: DelegationTokenConfig::read(&reader)?,
            groups: GroupsConfig::read(&reader)?,
            transactions: TransactionsConfig::read(&reader)?,

            create_topics: create_topics(&reader, warnings),
            http: http(&reader)?,
            logging: LoggingConfig::read(&reader)?,
            topic_defaults: topic_defaults::effective(&properties)?,
            properties,
        };
        check_choices(&config.properties)?;
        Ok(config)
    }

    /// The advertised endpoint of a listener.
    pub fn advertised(&self, name: &ListenerName) -> Option<&Listener> {
        self.advertised_listeners.iter().find(|listener| listener.name == *name)
    }
}

fn warn_of_unknown(properties: &Properties, warnings: &mut Vec<String>) {
    for (name, property) in properties.iter().filter(|(name, _)| !broker_knows(name)) {
        let hint = match nearest(name, broker_config_names()) {
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        };
        warnings.push(format!("{name} ({}) is unknown and not used{hint}", property.origin));
    }
}

/// Moves the value of an alias to the name that it stands for. Two names that say different things are an error where
/// the result would be another broker; elsewhere the name wins.
pub(crate) fn resolve_aliases(properties: &mut Properties) -> Result<(), ConfigError> {
    for (alias, name) in BROKER_ALIASES {
        let Some(aliased) = properties.explicit(alias).cloned() else { continue };
        match properties.explicit(name) {
            Some(own) if *name == "broker.id" && own.value != aliased.value => {
                let problem = format!("broker.id={} ({}) says otherwise", own.value, own.origin);
                return Err(ConfigError::invalid(alias, &aliased, problem, "one of the two, or the same value"));
            }
            Some(_) => {}
            None => properties.insert(name, aliased),
        }
        properties.remove(alias);
    }
    Ok(())
}

fn broker_id(reader: &Reader<'_>) -> Result<Option<BrokerId>, ConfigError> {
    let id = reader.optional("broker.id", -1..=i32::MAX)?.filter(|id| *id >= 0).map(BrokerId);
    if id.is_none() && !reader.boolean("broker.id.generation.enable")? {
        return Err(ConfigError::missing("broker.id", "a number, since broker.id.generation.enable is false"));
    }
    Ok(id)
}

fn coordinator_connect(reader: &Reader<'_>) -> Result<(Vec<HostPort>, Option<Chroot>), ConfigError> {
    const KEY: &str = "coordinator.connect";
    let accepted = "host:port[,host:port…][/chroot] (KAFKA_COORDINATOR_CONNECT or KAFKA_ZOOKEEPER_CONNECT)";
    let property = reader.property(KEY).ok_or_else(|| ConfigError::missing(KEY, accepted))?;
    // ZooKeeper's connect strings may end with a path to live under.
    let (addresses, path) = property.value.split_once('/').unwrap_or((&property.value, ""));
    let chroot =
        Chroot::parse(path).map_err(|error| ConfigError::invalid(KEY, property, error.to_string(), accepted))?;
    let addresses: Vec<HostPort> = crate::reader::items(addresses)
        .into_iter()
        .map(|item| HostPort::parse(item, Some(COORDINATOR_PORT)))
        .collect::<Result<_, _>>()
        .map_err(|problem| ConfigError::invalid(KEY, property, problem, accepted))?;
    if addresses.is_empty() {
        return Err(ConfigError::invalid(KEY, property, "names no coordinator", accepted));
    }
    Ok((addresses, chroot))
}

pub(crate) fn log_dirs(reader: &Reader<'_>) -> Result<Vec<PathBuf>, ConfigError> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let key = if reader.list("log.dirs").is_empty() { "log.dir" } else { "log.dirs" };
    for item in reader.list(key) {
        let directory = PathBuf::from(item);
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    if directories.is_empty() {
        return Err(ConfigError::missing("log.dirs", "directory[,directory…]"));
    }
    Ok(directories)
}

/// Topics to create at the start. An invalid entry costs that topic, not the broker: in the images that have this
/// setting, a tool creates the topics when the broker runs.
fn create_topics(reader: &Reader<'_>, warnings: &mut Vec<String>) -> Vec<TopicToCreate> {
    const KEY: &str = "create.topics";
    let Some(property) = reader.property(KEY) else { return Vec::new() };
    let mut topics = Vec::new();
    for item in crate::reader::items(&property.value) {
        match topic_to_create(item) {
            Ok(topic) => topics.push(topic),
            Err(problem) => warnings.push(format!(
                "{KEY} ({}): {problem}: this topic is not made; accepted: name:partitions:replicas[:cleanup.policy][,…]",
                property.origin
            )),
        }
    }
    topics
}

fn topic_to_create(item: &str) -> Result<TopicToCreate, String> {
    let mut parts = item.split(':').map(str::trim);
    let name = TopicName::new(parts.next().unwrap_or_default()).map_err(|error| error.to_string())?;
    let number = |text: Option<&str>| {
        text.and_then(|text| text.parse::<i16>().ok()).filter(|number| *number >= 1).ok_or_else(|| {
            format!("`{}` lacks its numbers of partitions and replicas", item.replace(char::is_control, " "))
        })
    };
    let (partitions, replication_factor) = (number(parts.next())?, number(parts.next())?);
    // wurstmeister's form leaves the policy empty, or out, or follows it by another colon or by options of the tool.
    let cleanup_policy = parts.next().and_then(|policy| policy.split_whitespace().next()).map(str::to_owned);
    Ok(TopicToCreate { name, partitions: i32::from(partitions), replication_factor, cleanup_policy })
}

/// `address:count[,address:count…]`; a host name stands for all its addresses.
fn per_ip_overrides(reader: &Reader<'_>) -> Result<BTreeMap<IpAddr, usize>, ConfigError> {
    const KEY: &str = "max.connections.per.ip.overrides";
    let Some(property) = reader.property(KEY) else { return Ok(BTreeMap::new()) };
    let invalid = |problem: String| ConfigError::invalid(KEY, property, problem, "address:connections[,…]");
    let mut overrides = BTreeMap::new();
    for item in crate::reader::items(&property.value) {
        let (host, count) = item.rsplit_once(':').ok_or_else(|| invalid(format!("`{item}` has no `:`")))?;
        let count = count.trim().parse().map_err(|_| invalid(format!("`{count}` is no whole number")))?;
        let host = host.trim().trim_matches(['[', ']']);
        let addresses = (host, 0).to_socket_addrs().map_err(|error| invalid(format!("`{host}`: {error}")))?;
        overrides.extend(addresses.map(|address| (address.ip().to_canonical(), count)));
    }
    Ok(overrides)
}

pub(crate) fn http(reader: &Reader<'_>) -> Result<Option<HostPort>, ConfigError> {
    let port = reader.number("http.port", -1..=i32::from(u16::MAX))?;
    let host = reader.text("http.host").unwrap_or("0.0.0.0");
    Ok(u16::try_from(port).ok().map(|port| HostPort::new(host, port)))
}

/// A number of seconds, at least one.
fn seconds(reader: &Reader<'_>, name: &str) -> Result<Duration, ConfigError> {
    reader.number(name, 1..=i32::MAX.unsigned_abs()).map(|seconds| Duration::from_secs(seconds.into()))
}

/// A number of threads or slots, at least one.
fn count(reader: &Reader<'_>, name: &str) -> Result<usize, ConfigError> {
    bytes(reader, name, 1)
}

/// A size that Kafka holds in a 32-bit number.
fn bytes(reader: &Reader<'_>, name: &str, least: i32) -> Result<usize, ConfigError> {
    // Both ends are non-negative here, so the conversion cannot fail.
    reader.number(name, least..=i32::MAX).map(|size| usize::try_from(size).unwrap_or_default())
}

/// A socket buffer; −1 leaves it to the system.
fn buffer(reader: &Reader<'_>, name: &str) -> Result<Option<usize>, ConfigError> {
    reader.number(name, -1..=i32::MAX).map(|size| usize::try_from(size).ok())
}

/// An idle time; negative is for ever, as Kafka has it.
fn idle(reader: &Reader<'_>, name: &str) -> Result<Duration, ConfigError> {
    let forever = i64::MAX.unsigned_abs();
    reader.number(name, i64::MIN..=i64::MAX).map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(forever)))
}

/// Below this a broker's shares of memory hold no request.
const MEMORY_BYTES_MIN: u64 = 64 << 20;

fn max_memory(reader: &Reader<'_>) -> Result<Option<u64>, ConfigError> {
    let name = "max.memory.bytes";
    match reader.optional(name, -1..=i64::MAX)?.and_then(|bytes| u64::try_from(bytes).ok()) {
        Some(bytes) if bytes < MEMORY_BYTES_MIN => reader.optional(name, MEMORY_BYTES_MIN..=i64::MAX.unsigned_abs()),
        bytes => Ok(bytes),
    }
}

fn check_replica_lag(config: &BrokerConfig, warnings: &mut Vec<String>) {
    if config.replica_fetch_wait_max > config.replica_lag_time_max {
        warnings.push(
            "replica.fetch.wait.max.ms is above replica.lag.time.max.ms: idle followers will leave their ISRs"
                .to_owned(),
        );
    }
}

/// In plaintext coordinators know nobody: without a secret they do whatever anybody asks for.
fn check_secret(config: &BrokerConfig, warnings: &mut Vec<String>) {
    let has_logins = config.listeners.iter().any(|listener| listener.protocol.has_sasl());
    let is_guarded = config.cluster_secret.is_some() || config.coordinator_tls.is_some();
    if !is_guarded && (config.authorizer.is_some() || has_logins) {
        warnings.push(
            "cluster.secret is not set: whoever reaches a coordinator may read the keys of users, and alter the \
             cluster, whatever listeners and rules demand"
                .to_owned(),
        );
    }
}

/// Kafka refuses to start here; users may come with `kafka-configs`.
fn check_users(config: &BrokerConfig, warnings: &mut Vec<String>) {
    for (name, listener) in &config.security.listeners {
        let Some(sasl) = &listener.sasl else { continue };
        if sasl.mechanisms.contains(&Mechanism::Plain) && sasl.plain_users.is_empty() {
            let own = name.as_str().to_ascii_lowercase();
            warnings.push(format!(
                "the listener {name} offers PLAIN and has no users: nobody can log in by it \
                 (listener.name.{own}.plain.sasl.jaas.config)"
            ));
        }
    }
}

/// Kafka says so, too.
fn check_client_auth(config: &BrokerConfig, warnings: &mut Vec<String>) {
    let asked = config.properties.explicit(CLIENT_AUTH).map(|property| property.value.as_str());
    let Some(asked) = asked.filter(|asked| !["", "none"].contains(asked)) else { return };
    for listener in &config.listeners {
        let own = format!("listener.name.{}.{CLIENT_AUTH}", listener.name.as_str().to_ascii_lowercase());
        if listener.protocol == SecurityProtocol::SaslSsl && config.properties.get(&own).is_none() {
            let name = &listener.name;
            warnings
                .push(format!("{CLIENT_AUTH}={asked} is not for the listener {name}, whose clients log in: {own} is"));
        }
    }
}

/// Texts of which only some are accepted, and which nothing else reads before a topic does.
fn check_choices(properties: &Properties) -> Result<(), ConfigError> {
    let reader = Reader::new(properties);
    reader.choice("compression.type", &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])?;
    reader.choice("log.message.timestamp.type", &["CreateTime", "LogAppendTime"])?;
    if let Some(property) = reader.property("log.cleanup.policy") {
        for policy in crate::reader::items(&property.value) {
            crate::reader::one_of("log.cleanup.policy", property, policy, &["delete", "compact"])?;
        }
    }
    for (name, least) in
        [("log.segment.bytes", 1 << 20), ("log.index.size.max.bytes", 4), ("log.index.interval.bytes", 0)]
    {
        reader.number(name, least..=i32::MAX)?;
    }
    for name in ["log.roll.ms", "log.flush.interval.messages", "log.roll.hours"] {
        reader.optional(name, 1..=i64::MAX)?;
    }
    for name in ["log.retention.ms", "log.retention.minutes", "log.retention.hours", "log.retention.bytes"] {
        if let Some(property) = reader.property(name)
            && reader.optional(name, -1..=i64::MAX)? == Some(0)
            && name != "log.retention.bytes"
        {
            return Err(ConfigError::invalid(name, property, "would delete everything", "-1, or 1 and more"));
        }
    }
    reader.boolean("log.preallocate")?;
    reader.duration_ms("log.segment.delete.delay.ms", 0)?;
    Ok(())
}

fn leader_rebalance_interval_s(reader: &Reader<'_>) -> Result<Option<u32>, ConfigError> {
    let interval_s = reader.number("leader.imbalance.check.interval.seconds", 1..=u32::MAX)?;
    Ok(reader.boolean("auto.leader.rebalance.enable")?.then_some(interval_s))
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { format: crate::LoggingFormat::Auto, level: "info".to_owned() }
    }
}

impl BrokerConfig {
    /// A configuration with every default, for one plaintext listener on `127.0.0.1:port` (0: any free one): what tests
    /// and the single-process cluster start from.
    pub fn on_loopback(port: u16, log_dir: impl Into<PathBuf>, coordinators: &[HostPort]) -> Result<Self, ConfigError> {
        let connect = coordinators.iter().map(HostPort::to_string).collect::<Vec<_>>().join(",");
        let sources = Sources {
            flags: vec![
                ("listeners".to_owned(), format!("PLAINTEXT://127.0.0.1:{port}")),
                ("log.dirs".to_owned(), log_dir.into().display().to_string()),
                ("coordinator.connect".to_owned(), connect),
                ("http.port".to_owned(), "-1".to_owned()),
            ],
            ..Sources::default()
        };
        Self::load(&sources).map(|loaded| loaded.config)
    }

    /// Where a property's value came from.
    pub fn origin(&self, name: &str) -> Origin {
        self.properties.get(name).map_or(Origin::Default, |property| property.origin.clone())
    }
}
