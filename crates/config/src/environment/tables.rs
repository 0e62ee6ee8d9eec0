//! The variables of the images that people come from, a table for each family. `docs/environment.md` is made from them.

/// What a variable does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Its value is the value of this property.
    Property(&'static str),
    /// It acts otherwise: how.
    Acts(&'static str),
    /// Nothing here needs it, and nobody is warned of it: why.
    Unused(&'static str),
    /// Nothing here does it, and the log says so: why.
    Warned(&'static str),
    /// It asks for something that guards the data and that is not there; the start ends: what.
    Refused(&'static str),
}

/// One variable. A name that ends with `*` stands for all that begin so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub variable: &'static str,
    pub effect: Effect,
}

impl Row {
    pub(super) fn fits(&self, name: &str) -> bool {
        match self.variable.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.variable == name,
        }
    }
}

/// The variables of one kind of image.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    /// Variables that begin with one of these and stand in no row become the property that the rest of their name
    /// spells.
    pub prefixes: &'static [&'static str],
    pub rows: &'static [Row],
}

const fn property(variable: &'static str, property: &'static str) -> Row {
    Row { variable, effect: Effect::Property(property) }
}

const fn acts(variable: &'static str, how: &'static str) -> Row {
    Row { variable, effect: Effect::Acts(how) }
}

const fn unused(variable: &'static str, why: &'static str) -> Row {
    Row { variable, effect: Effect::Unused(why) }
}

const fn warned(variable: &'static str, why: &'static str) -> Row {
    Row { variable, effect: Effect::Warned(why) }
}

const fn refused(variable: &'static str, what: &'static str) -> Row {
    Row { variable, effect: Effect::Refused(what) }
}

const JVM: &str = "for a Java process";
const LOGS: &str = "for Kafka's logging; see KAFKA_LOGGING_LEVEL";
const SCRIPT: &str = "for the other image's start script";
const TLS: &str = "give COORDINATOR_SECURE_CLIENT_PORT, COORDINATOR_SSL_QUORUM and COORDINATOR_SSL_*";
const SASL: &str = "coordinators know no users";
const SECRETS: &str = "a file below /etc/kafka/secrets";
const CLEANING: &str = "a coordinator removes old snapshots by itself";
const ANOTHER: &str = "for another program";

/// Families of brokers. Where two set one property, the later family wins.
pub const BROKER_FAMILIES: &[Family] = &[
    Family {
        name: "debezium/kafka",
        prefixes: &[],
        rows: &[
            property("ZOOKEEPER_CONNECT", "zookeeper.connect"),
            property("BROKER_ID", "broker.id"),
            property("NODE_ID", "node.id"),
            acts("NODE_ROLE", "property `process.roles`; `combined` is both"),
            property("ADVERTISED_HOST_NAME", "advertised.host.name"),
            property("ADVERTISED_PORT", "advertised.port"),
            property("ADVERTISED_LISTENERS", "advertised.listeners"),
            property("HOST_NAME", "host.name"),
            property("CREATE_TOPICS", "create.topics"),
            unused("HEAP_OPTS", JVM),
        ],
    },
    Family {
        name: "spotify/kafka",
        prefixes: &[],
        rows: &[
            property("ADVERTISED_HOST", "advertised.host.name"),
            acts("ADVERTISED_PORT", "as debezium's"),
            property("NUM_PARTITIONS", "num.partitions"),
            property("LOG_RETENTION_HOURS", "log.retention.hours"),
            property("LOG_RETENTION_BYTES", "log.retention.bytes"),
            property("AUTO_CREATE_TOPICS", "auto.create.topics.enable"),
            unused("ZK_CHROOT", "the coordinator of that container holds one cluster"),
        ],
    },
    Family { name: "landoop/fast-data-dev", prefixes: &[], rows: &[property("ADV_HOST", "advertised.host.name")] },
    Family {
        name: "apache/kafka, confluentinc/cp-kafka, wurstmeister/kafka",
        prefixes: &["KAFKA_"],
        rows: &[
            property("CLUSTER_ID", "cluster.id"),
            acts("KAFKA_CREATE_TOPICS_SEPARATOR", "what separates the topics of KAFKA_CREATE_TOPICS"),
            acts(
                "HOSTNAME_COMMAND",
                "what it prints stands for _{HOSTNAME_COMMAND} in every KAFKA_ variable; alone it is the advertised host",
            ),
            acts("PORT_COMMAND", "what it prints stands for _{PORT_COMMAND}; alone it is the advertised port"),
            acts("RACK_COMMAND", "what it prints is broker.rack"),
            acts("BROKER_ID_COMMAND", "what it prints is broker.id"),
            unused("KAFKA_VERSION", JVM),
            unused("KAFKA_HOME", SCRIPT),
            acts(
                "KAFKA_OPTS",
                "-Djava.security.auth.login.config=FILE names the login file; the rest is for a Java process",
            ),
            unused("KAFKA_HEAP_OPTS", JVM),
            unused("KAFKA_GC_LOG_OPTS", JVM),
            unused("KAFKA_LOG4J*", LOGS),
            unused("KAFKA_LOG_LEVEL", LOGS),
            unused("KAFKA_JMX_*", "JMX is Java's; metrics are served at http.port"),
            unused("KAFKA_JVM_PERFORMANCE_OPTS", JVM),
            unused("KAFKA_TOOLS_LOG4J_LOGLEVEL", LOGS),
            unused("KAFKA_CUB_*", SCRIPT),
            unused("KAFKA_DATA_DIRS", SCRIPT),
            unused("KAFKA_DEBUG", JVM),
            unused("KAFKA_MODE", SCRIPT),
            unused("KAFKA_ZOOKEEPER_CLIENT_CNXN_SOCKET", "for ZooKeeper's client"),
            acts("KAFKA_SSL_KEYSTORE_FILENAME", SECRETS),
            acts("KAFKA_SSL_KEYSTORE_CREDENTIALS", SECRETS),
            acts("KAFKA_SSL_KEY_CREDENTIALS", SECRETS),
            acts("KAFKA_SSL_TRUSTSTORE_FILENAME", SECRETS),
            acts("KAFKA_SSL_TRUSTSTORE_CREDENTIALS", SECRETS),
            unused("KAFKA_CLUSTERS_*", ANOTHER),
            unused("KAFKA_REST_*", ANOTHER),
            unused("KAFKA_CONFLUENT_*", "for Confluent's server"),
        ],
    },
    Family {
        name: "bitnami/kafka",
        prefixes: &["KAFKA_CFG_"],
        rows: &[
            property("KAFKA_KRAFT_CLUSTER_ID", "cluster.id"),
            acts("ALLOW_PLAINTEXT_LISTENER", "nothing: plaintext listeners are allowed"),
            unused("KAFKA_ENABLE_KRAFT", "a node without coordinators to connect to is one of its own"),
            unused("KAFKA_SKIP_KRAFT_STORAGE_INIT", SCRIPT),
            unused("KAFKA_INITIAL_CONTROLLERS", SCRIPT),
            unused("KAFKA_EXTRA_FLAGS", SCRIPT),
            unused("KAFKA_BASE_DIR", SCRIPT),
            unused("KAFKA_VOLUME_DIR", SCRIPT),
            unused("KAFKA_MOUNTED_CONF_DIR", SCRIPT),
            unused("KAFKA_CONF_FILE", SCRIPT),
            unused("KAFKA_DAEMON_*", SCRIPT),
            unused("KAFKA_INIT_*", SCRIPT),
            unused("BITNAMI_DEBUG", SCRIPT),
            property("KAFKA_CLIENT_USERS", "client.users"),
            property("KAFKA_CLIENT_PASSWORDS", "client.passwords"),
            unused("KAFKA_CLIENT_LISTENER_NAME", "these users may log in at every listener with SASL"),
            property("KAFKA_INTER_BROKER_USER", "inter.broker.user"),
            property("KAFKA_INTER_BROKER_PASSWORD", "inter.broker.password"),
            unused("KAFKA_CONTROLLER_USER", SASL),
            unused("KAFKA_CONTROLLER_PASSWORD", SASL),
            unused("KAFKA_ZOOKEEPER_PROTOCOL", "for ZooKeeper's client"),
            unused("KAFKA_ZOOKEEPER_USER", "for ZooKeeper's client"),
            unused("KAFKA_ZOOKEEPER_PASSWORD", "for ZooKeeper's client"),
            acts("KAFKA_CERTIFICATE_PASSWORD", "the password of the key, its store and the trust store"),
            property("KAFKA_TLS_CLIENT_AUTH", "ssl.client.auth"),
            unused("KAFKA_TLS_*", "give KAFKA_CFG_SSL_KEYSTORE_LOCATION and the like"),
        ],
    },
];

/// Families of coordinators. Where two set one property, the later family wins.
pub const COORDINATOR_FAMILIES: &[Family] = &[
    Family {
        name: "confluentinc/cp-zookeeper",
        prefixes: &[],
        rows: &[
            property("ZOOKEEPER_SERVER_ID", "id"),
            property("ZOOKEEPER_CLIENT_PORT", "client.port"),
            property("ZOOKEEPER_TICK_TIME", "tick.time"),
            property("ZOOKEEPER_INIT_LIMIT", "init.limit"),
            property("ZOOKEEPER_SYNC_LIMIT", "sync.limit"),
            property("ZOOKEEPER_SERVERS", "zookeeper.servers"),
            property("ZOOKEEPER_DATA_DIR", "data.dir"),
            unused("ZOOKEEPER_DATA_LOG_DIR", "logs and state lie together, in data.dir"),
            unused("ZOOKEEPER_LOG_DIR", "logs and state lie together, in data.dir"),
            property("ZOOKEEPER_MAX_CLIENT_CNXNS", "max.client.cnxns"),
            unused("ZOOKEEPER_MIN_SESSION_TIMEOUT", "brokers' sessions follow broker.session.timeout.ms"),
            unused("ZOOKEEPER_MAX_SESSION_TIMEOUT", "brokers' sessions follow broker.session.timeout.ms"),
            unused("ZOOKEEPER_AUTOPURGE_*", CLEANING),
            unused("ZOOKEEPER_SNAPSHOT_*", CLEANING),
            unused("ZOOKEEPER_PRE_ALLOC_SIZE", CLEANING),
            unused("ZOOKEEPER_SNAP_*", CLEANING),
            unused("ZOOKEEPER_GROUPS", "every coordinator has one vote"),
            unused("ZOOKEEPER_WEIGHTS", "every coordinator has one vote"),
            unused("ZOOKEEPER_4LW_COMMANDS_WHITELIST", "all four-letter words are answered"),
            unused("ZOOKEEPER_ADMIN_*", "health and metrics are served at http.port"),
            unused("ZOOKEEPER_METRICS_*", "health and metrics are served at http.port"),
            unused("ZOOKEEPER_STANDALONE_ENABLED", "a list of one is a quorum of one"),
            unused("ZOOKEEPER_RECONFIG_ENABLED", "the list of coordinators is fixed"),
            unused("ZOOKEEPER_ELECTION_PORT_BIND_RETRY", "there is no port for elections"),
            unused("ZOOKEEPER_QUORUM_LISTEN_ON_ALL_IPS", "the port for peers is bound to client.host"),
            unused("ZOOKEEPER_LEADER_SERVES", "every coordinator serves"),
            unused("ZOOKEEPER_CNX_TIMEOUT", "Raft's clocks are raft.*"),
            unused("ZOOKEEPER_LOG4J_*", LOGS),
            unused("ZOOKEEPER_TOOLS_*", LOGS),
            unused("ZOOKEEPER_LOG_LEVEL", LOGS),
            unused("ZOOKEEPER_JMX_*", JVM),
            unused("ZOOKEEPER_HEAP_OPTS", JVM),
            unused("ZOOKEEPER_OPTS", JVM),
            property("ZOOKEEPER_SECURE_CLIENT_PORT", "secure.client.port"),
            property("ZOOKEEPER_SSL_QUORUM", "ssl.quorum"),
            property("ZOOKEEPER_PORT_UNIFICATION", "port.unification"),
            property("ZOOKEEPER_SSL_CLIENT_AUTH", "ssl.client.auth"),
            property("ZOOKEEPER_SSL_KEYSTORE_LOCATION", "ssl.keystore.location"),
            property("ZOOKEEPER_SSL_KEYSTORE_PASSWORD", "ssl.keystore.password"),
            property("ZOOKEEPER_SSL_KEYSTORE_TYPE", "ssl.keystore.type"),
            property("ZOOKEEPER_SSL_TRUSTSTORE_LOCATION", "ssl.truststore.location"),
            property("ZOOKEEPER_SSL_TRUSTSTORE_PASSWORD", "ssl.truststore.password"),
            property("ZOOKEEPER_SSL_TRUSTSTORE_TYPE", "ssl.truststore.type"),
            warned("ZOOKEEPER_SSL_*", TLS),
            unused("ZOOKEEPER_SERVER_CNXN_FACTORY", "for a Java process"),
            unused("ZOOKEEPER_AUTH_PROVIDER_X509", "ssl.client.auth and ssl.truststore.* count"),
            unused("ZOOKEEPER_CONNECT", ANOTHER),
        ],
    },
    Family {
        name: "zookeeper, bitnami/zookeeper",
        prefixes: &[],
        rows: &[
            property("ZOO_MY_ID", "id"),
            property("ZOO_SERVER_ID", "id"),
            property("ZOO_PORT", "client.port"),
            property("ZOO_PORT_NUMBER", "client.port"),
            property("ZOO_TICK_TIME", "tick.time"),
            property("ZOO_INIT_LIMIT", "init.limit"),
            property("ZOO_SYNC_LIMIT", "sync.limit"),
            property("ZOO_SERVERS", "zookeeper.servers"),
            property("ZOO_DATA_DIR", "data.dir"),
            acts("ALLOW_ANONYMOUS_LOGIN", "nothing: whoever reaches the port is served"),
            unused("ZOO_DATA_LOG_DIR", "logs and state lie together, in data.dir"),
            unused("ZOO_LOG*", LOGS),
            unused("ZOO_CONF_DIR", SCRIPT),
            unused("ZOO_CFG_EXTRA", "for ZooKeeper's own settings"),
            unused("ZOO_PEER_TYPE", "every coordinator has one vote"),
            property("ZOO_MAX_CLIENT_CNXNS", "max.client.cnxns"),
            unused("ZOO_MAX_*", "connections are bounded by their memory"),
            unused("ZOO_MIN_*", "brokers' sessions follow broker.session.timeout.ms"),
            unused("ZOO_AUTOPURGE_*", CLEANING),
            unused("ZOO_PRE_ALLOC_SIZE", CLEANING),
            unused("ZOO_SNAPCOUNT", CLEANING),
            unused("ZOO_4LW_COMMANDS_WHITELIST", "all four-letter words are answered"),
            unused("ZOO_ADMINSERVER_*", "health and metrics are served at http.port"),
            unused("ZOO_ENABLE_ADMIN_SERVER", "health and metrics are served at http.port"),
            unused("ZOO_ADMIN_SERVER_PORT_NUMBER", "health and metrics are served at http.port"),
            unused("ZOO_ENABLE_PROMETHEUS_METRICS", "health and metrics are served at http.port"),
            unused("ZOO_PROMETHEUS_METRICS_PORT_NUMBER", "health and metrics are served at http.port"),
            unused("ZOO_STANDALONE_ENABLED", "a list of one is a quorum of one"),
            unused("ZOO_RECONFIG_ENABLED", "the list of coordinators is fixed"),
            unused("ZOO_LISTEN_ALLIPS_ENABLED", "the port for peers is bound to client.host"),
            unused("ZOO_HEAP_SIZE", JVM),
            unused("ZOO_JVMFLAGS", JVM),
            unused("ZOO_USER", SCRIPT),
            unused("ZOO_ENABLE_QUORUM_AUTH", SASL),
            unused("ZOO_QUORUM_*", SASL),
            unused("ZOO_CLIENT_*", SASL),
            unused("ZOO_SERVER_USERS", SASL),
            unused("ZOO_SERVER_PASSWORDS", SASL),
            refused("ZOO_ENABLE_AUTH", SASL),
            refused("ZOO_TLS_CLIENT_ENABLE", TLS),
            refused("ZOO_TLS_QUORUM_ENABLE", TLS),
            warned("ZOO_TLS_*", TLS),
        ],
    },
    Family {
        name: "debezium/zookeeper",
        prefixes: &[],
        rows: &[property("SERVER_ID", "id"), unused("SERVER_COUNT", "give ZOOKEEPER_SERVERS, a list of names")],
    },
    Family { name: "ottla/coordinator", prefixes: &["COORDINATOR_"], rows: &[property("CLUSTER_ID", "cluster.id")] },
];
