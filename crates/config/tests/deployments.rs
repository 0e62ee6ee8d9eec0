//! The deployments that people copy from documents, and what each must come to: one row for each broker and
//! coordinator of those compose files.

use std::net::IpAddr;

use ottla_config::{BrokerConfig, ConfigError, CoordinatorConfig, Host, Loaded, OffsetsReplication, Sources};
use ottla_model::{BrokerId, CoordinatorId};

/// A container: it owns loopback and nothing public.
fn container() -> Host {
    Host::new("container", |address: IpAddr| address.is_loopback())
}

fn broker(variables: &[(&str, &str)]) -> Result<Loaded<BrokerConfig>, ConfigError> {
    BrokerConfig::load_on(&Sources::of_environment(variables.iter().copied()), &container())
}

fn coordinator(variables: &[(&str, &str)]) -> Result<Loaded<CoordinatorConfig>, ConfigError> {
    let mut variables = variables.to_vec();
    variables.push(("COORDINATOR_DATA_DIR", "/no/such/directory"));
    CoordinatorConfig::load(&Sources::of_environment(variables))
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What a broker's variables must come to.
struct Expected {
    id: Option<i32>,
    connect: &'static str,
    listeners: &'static str,
    advertised: &'static str,
    inter_broker: &'static str,
    /// Parts of the warnings, in order; no others may be there.
    warnings: &'static [&'static str],
}

fn check(name: &str, variables: &[(&str, &str)], expected: &Expected) -> BrokerConfig {
    let Loaded { config, warnings } = broker(variables).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(config.broker_id, expected.id.map(BrokerId), "{name}");
    assert_eq!(joined(&config.coordinator_connect), expected.connect, "{name}");
    assert_eq!(joined(&config.listeners), expected.listeners, "{name}");
    assert_eq!(joined(&config.advertised_listeners), expected.advertised, "{name}");
    assert_eq!(config.inter_broker_listener.as_str(), expected.inter_broker, "{name}");
    assert_eq!(warnings.len(), expected.warnings.len(), "{name}: {warnings:#?}");
    for (warning, part) in warnings.iter().zip(expected.warnings) {
        assert!(warning.contains(part), "{name}: {warning} / {part}");
    }
    assert_eq!(config.num_partitions, 1, "{name}");
    assert_eq!(config.default_replication_factor, 1, "{name}");
    assert_eq!(config.min_insync_replicas, 1, "{name}");
    assert!(config.auto_create_topics_enable, "{name}");
    assert_eq!(config.log_dirs, ["/var/lib/kafka/data".as_ref() as &std::path::Path], "{name}");
    config
}

/// An error must be one line that says what to do.
fn refused(variables: &[(&str, &str)], parts: &[&str]) {
    let error = broker(variables).expect_err("refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    for part in parts {
        assert!(error.contains(part), "{error}: lacks {part}");
    }
}

const CONNECT_1: (&str, &str) = ("KAFKA_ZOOKEEPER_CONNECT", "zookeeper:2181");
const CREATE: (&str, &str) = ("KAFKA_CREATE_TOPICS", "slack:1:1,sms:1:1,email:1:1");

#[test]
fn three_brokers_and_a_host_listener() {
    for (n, port, listeners, advertised) in [
        (
            1,
            29092,
            "PLAINTEXT://0.0.0.0:9092,PLAINTEXT_HOST://0.0.0.0:29092",
            "PLAINTEXT://kafka-1:9092,PLAINTEXT_HOST://localhost:29092",
        ),
        (
            2,
            39092,
            "PLAINTEXT://0.0.0.0:9092,PLAINTEXT_HOST://0.0.0.0:39092",
            "PLAINTEXT://kafka-2:9092,PLAINTEXT_HOST://localhost:39092",
        ),
        (
            3,
            49092,
            "PLAINTEXT://0.0.0.0:9092,PLAINTEXT_HOST://0.0.0.0:49092",
            "PLAINTEXT://kafka-3:9092,PLAINTEXT_HOST://localhost:49092",
        ),
    ] {
        for connect in ["zookeeper-1:2181,zookeeper-2:2181,zookeeper-3:2181", "zookeeper-1:2181"] {
            let (id, given) = (n.to_string(), format!("PLAINTEXT://kafka-{n}:9092,PLAINTEXT_HOST://localhost:{port}"));
            let config = check(
                "three brokers",
                &[
                    ("KAFKA_BROKER_ID", &id),
                    ("KAFKA_ZOOKEEPER_CONNECT", connect),
                    ("KAFKA_ADVERTISED_LISTENERS", &given),
                    ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,PLAINTEXT_HOST:PLAINTEXT"),
                    ("KAFKA_INTER_BROKER_LISTENER_NAME", "PLAINTEXT"),
                    ("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1"),
                    ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
                ],
                &Expected { id: Some(n), connect, listeners, advertised, inter_broker: "PLAINTEXT", warnings: &[] },
            );
            assert_eq!(config.properties.text("offsets.topic.replication.factor"), Some("3"));
            assert_eq!(config.transactions.state_log_min_isr, 1);
            assert_eq!(config.transactions.state_log_replication_factor, OffsetsReplication::Exactly(1));
        }
    }
}

#[test]
fn advertised_listeners_win_over_the_older_names() {
    let config = check(
        "one broker",
        &[
            CREATE,
            ("KAFKA_ADVERTISED_HOST_NAME", "kafka-service"),
            ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://139.150.75.240:9092"),
            CONNECT_1,
            ("KAFKA_ADVERTISED_PORT", "9092"),
        ],
        &Expected {
            id: None,
            connect: "zookeeper:2181",
            listeners: "PLAINTEXT://:9092",
            advertised: "PLAINTEXT://139.150.75.240:9092",
            inter_broker: "PLAINTEXT",
            warnings: &["advertised.host.name and advertised.port are not used"],
        },
    );
    let topics: Vec<_> =
        config.create_topics.iter().map(|t| format!("{} {}x{}", t.name, t.partitions, t.replication_factor)).collect();
    assert_eq!(topics, ["slack 1x1", "sms 1x1", "email 1x1"]);
}

#[test]
fn a_listener_that_is_not_in_the_map_is_refused_with_the_map_to_paste() {
    refused(
        &[
            ("KAFKA_LISTENERS", "INSIDE_CONTAINER://localhost:9000"),
            ("KAFKA_ADVERTISED_LISTENERS", "INSIDE_CONTAINER://localhost:9000"),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "INTERNAL_LISTENER:PLAINTEXT,EXTERNAL_LISTENER:PLAINTEXT"),
            CONNECT_1,
        ],
        &[
            "listeners=INSIDE_CONTAINER://localhost:9000 (KAFKA_LISTENERS)",
            "INSIDE_CONTAINER has no protocol",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=INTERNAL_LISTENER:PLAINTEXT,EXTERNAL_LISTENER:PLAINTEXT,INSIDE_CONTAINER:PLAINTEXT",
        ],
    );
}

#[test]
fn a_public_address_inside_a_container_binds_every_address() {
    let both = "EXTERNAL_LISTENER://139.150.75.240:9092, INTERNAL_LISTENER://localhost:9000";
    check(
        "public address",
        &[
            CREATE,
            ("KAFKA_LISTENERS", both),
            ("KAFKA_ADVERTISED_LISTENERS", both),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "INTERNAL_LISTENER:PLAINTEXT,EXTERNAL_LISTENER:PLAINTEXT"),
            CONNECT_1,
        ],
        &Expected {
            id: None,
            connect: "zookeeper:2181",
            listeners: "EXTERNAL_LISTENER://0.0.0.0:9092,INTERNAL_LISTENER://localhost:9000",
            advertised: "EXTERNAL_LISTENER://139.150.75.240:9092,INTERNAL_LISTENER://localhost:9000",
            inter_broker: "EXTERNAL_LISTENER",
            warnings: &["139.150.75.240 is no address of this machine", "brokers talk over EXTERNAL_LISTENER"],
        },
    );
}

#[test]
fn an_advertised_localhost_is_taken_as_meant() {
    check(
        "localhost",
        &[
            ("KAFKA_LISTENERS", "PLAINTEXT://:9092"),
            ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://localhost:9092"),
            CONNECT_1,
        ],
        &Expected {
            id: None,
            connect: "zookeeper:2181",
            listeners: "PLAINTEXT://:9092",
            advertised: "PLAINTEXT://localhost:9092",
            inter_broker: "PLAINTEXT",
            warnings: &[],
        },
    );
}

#[test]
fn the_same_port_twice_is_that_port() {
    let with = |listener: &'static str| {
        [
            ("KAFKA_BROKER_ID", "1"),
            CONNECT_1,
            ("KAFKA_ADVERTISED_LISTENERS", listener),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONNECTIONS_OUTSIDE:PLAINTEXT"),
            ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ]
    };
    let config = check(
        "port twice",
        &with("CONNECTIONS_OUTSIDE://139.150.75.240:9092:9092,PLAINTEXT://broker01:19092"),
        &Expected {
            id: Some(1),
            connect: "zookeeper:2181",
            listeners: "CONNECTIONS_OUTSIDE://0.0.0.0:9092,PLAINTEXT://0.0.0.0:19092",
            advertised: "CONNECTIONS_OUTSIDE://139.150.75.240:9092,PLAINTEXT://broker01:19092",
            inter_broker: "PLAINTEXT",
            warnings: &["names its port twice: 9092 is used"],
        },
    );
    assert_eq!(config.properties.text("offsets.topic.replication.factor"), Some("1"));
    refused(
        &with("CONNECTIONS_OUTSIDE://139.150.75.240:9092:9093,PLAINTEXT://broker01:19092"),
        &["names the ports 9092 and 9093"],
    );
}

#[test]
fn three_brokers_bound_by_name() {
    for n in 1..=3 {
        let (id, outside, inside) = (n.to_string(), 9091 + n, 19091 + n);
        let listeners = format!("CONNECTIONS_OUTSIDE://:{outside},PLAINTEXT://broker0{n}:{inside}");
        let advertised = format!("CONNECTIONS_OUTSIDE://139.150.75.240:{outside},PLAINTEXT://broker0{n}:{inside}");
        check(
            "by name",
            &[
                ("KAFKA_BROKER_ID", &id),
                CONNECT_1,
                ("KAFKA_LISTENERS", &listeners),
                ("KAFKA_ADVERTISED_LISTENERS", &advertised),
                ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONNECTIONS_OUTSIDE:PLAINTEXT"),
                ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
            ],
            &Expected {
                id: Some(n),
                connect: "zookeeper:2181",
                listeners: listeners.clone().leak(),
                advertised: advertised.clone().leak(),
                inter_broker: "PLAINTEXT",
                warnings: &[],
            },
        );
    }
}

#[test]
fn a_fragment_without_its_map_says_which_map() {
    let fragment = [
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
        (
            "KAFKA_ADVERTISED_LISTENERS",
            "INTERNAL://kfk1:19092,DOCKER://host.docker.internal:29092,EXTERNAL://127.0.0.1:9092",
        ),
        ("KAFKA_ZOOKEEPER_CONNECT", "zookeeper1:2181,zookeeper2:2182,zookeeper3:2183"),
        ("KAFKA_BROKER_ID", "1"),
    ];
    let map = "INTERNAL:PLAINTEXT,DOCKER:PLAINTEXT,EXTERNAL:PLAINTEXT";
    refused(&fragment, &["have no protocol", &format!("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP={map}")]);
    let mut repaired = fragment.to_vec();
    repaired.push(("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", map));
    check(
        "fragment",
        &repaired,
        &Expected {
            id: Some(1),
            connect: "zookeeper1:2181,zookeeper2:2182,zookeeper3:2183",
            listeners: "INTERNAL://0.0.0.0:19092,DOCKER://0.0.0.0:29092,EXTERNAL://0.0.0.0:9092",
            advertised: "INTERNAL://kfk1:19092,DOCKER://host.docker.internal:29092,EXTERNAL://127.0.0.1:9092",
            inter_broker: "INTERNAL",
            warnings: &[],
        },
    );
}

#[test]
fn what_people_get_wrong_is_one_line() {
    let base = ("KAFKA_COORDINATOR_CONNECT", "c:2181");
    refused(&[], &["coordinator.connect is not set", "KAFKA_ZOOKEEPER_CONNECT"]);
    refused(&[base, ("KAFKA_BROKER_ID", "abc")], &["broker.id=abc (KAFKA_BROKER_ID)", "from -1 to 2147483647"]);
    refused(&[base, ("KAFKA_BROKER_ID", "1"), ("KAFKA_NODE_ID", "2")], &["node.id=2", "broker.id=1"]);
    refused(&[base, ("KAFKA_LISTENERS", "PLAINTEXT://:9092,HOST://:9092")], &["share port 9092"]);
    refused(&[base, ("KAFKA_LISTENERS", "PLAINTEXT://:1,PLAINTEXT://:2")], &["PLAINTEXT is there twice"]);
    refused(&[base, ("KAFKA_LISTENERS", "9092")], &["listeners=9092", "NAME://[host]:port"]);
    refused(&[base, ("KAFKA_LISTENERS", "PLAINTEXT://:70000")], &["`70000` is no port"]);
    refused(&[base, ("KAFKA_LISTENERS", "SSL://:9093")], &["inter.broker.listener.name", "accepted: SSL"]);
    refused(&[base, ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://0.0.0.0:9092")], &["nobody can connect to `0.0.0.0`"]);
    refused(
        &[base, ("KAFKA_LISTENERS", "PLAINTEXT://:9092"), ("KAFKA_ADVERTISED_LISTENERS", "SASL_SSL://a:9092")],
        &["SASL_SSL is not in listeners", "accepted: PLAINTEXT"],
    );
    refused(
        &[base, ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL")],
        &["inter.broker.listener.name=INTERNAL", "accepted: PLAINTEXT"],
    );
    refused(&[base, ("KAFKA_COMPRESSION_TYPE", "zesty")], &["compression.type=zesty", "did you mean zstd?"]);
    refused(&[base, ("KAFKA_LOG_RETENTION_MS", "0")], &["would delete everything"]);
    refused(&[base, ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "yes")], &["accepted: true, false"]);
    refused(&[base, ("KAFKA_RACK", "x"), ("KAFKA_NUM_PARTITIONS", "1\n2")], &["num.partitions=1 2"]);
}

/// In the images that know it, a tool makes the topics once the broker runs: what it cannot read costs no broker.
#[test]
fn a_topic_that_cannot_be_read_costs_that_topic() {
    let base = ("KAFKA_COORDINATOR_CONNECT", "c:2181");
    let Loaded { config, warnings } =
        broker(&[base, ("KAFKA_CREATE_TOPICS", "events,a:b:c,ok:2:1:compact --config=x=1")]).expect("usable");
    let made: Vec<_> = config.create_topics.iter().map(|topic| (topic.name.as_str(), topic.partitions)).collect();
    assert_eq!(made, [("ok", 2)]);
    assert_eq!(config.create_topics[0].cleanup_policy.as_deref(), Some("compact"));
    let about = |name: &str| warnings.iter().any(|warning| warning.contains("create.topics") && warning.contains(name));
    assert!(about("`events`") && about("`a:b:c`"), "{warnings:?}");
}

#[test]
fn unknown_keys_warn_and_those_of_the_jvm_are_quiet() {
    let Loaded { config, warnings } = broker(&[
        ("KAFKA_COORDINATOR_CONNECT", "c"),
        ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://127.0.0.1:9092"),
        ("KAFKA_NUM_PARTITION", "3"),
        ("KAFKA_LOG_SEGMENT_MS", "1000"),
        ("KAFKA_HEAP_OPTS", "-Xmx1G"),
        ("KAFKA_JMX_PORT", "9101"),
        ("KAFKA_CONFLUENT_SUPPORT_METRICS_ENABLE", "false"),
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
    ])
    .expect("usable");
    assert_eq!(config.num_partitions, 1);
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("log.segment.ms (KAFKA_LOG_SEGMENT_MS)"), "{}", warnings[0]);
    assert!(warnings[0].contains("did you mean log.roll.ms?"), "{}", warnings[0]);
    assert!(warnings[1].contains("did you mean num.partitions?"));
}

#[test]
fn defaults_are_kafkas_but_where_there_is_no_jvm_to_wait_for() {
    let config = BrokerConfig::on_loopback(0, "/tmp/x", &[]).expect_err("no coordinator").to_string();
    assert!(config.contains("coordinator.connect"), "{config}");
    let config =
        BrokerConfig::on_loopback(0, "/tmp/x", &[ottla_config::HostPort::new("127.0.0.1", 2181)]).expect("usable");
    assert_eq!(config.broker_session_timeout.as_millis(), 3_000);
    assert_eq!(config.broker_heartbeat_interval.as_millis(), 500);
    assert_eq!(config.replica_lag_time_max.as_millis(), 30_000);
    assert_eq!(config.socket_request_max_bytes, 104_857_600);
    assert_eq!(config.queued_max_request_bytes, None);
    assert_eq!(config.socket_send_buffer_bytes, Some(102_400));
    let topic = |name| config.topic_defaults.get(name).map(String::as_str);
    assert_eq!(topic("retention.ms"), Some("604800000"));
    assert_eq!(topic("segment.ms"), Some("604800000"));
    assert_eq!(topic("segment.jitter.ms"), Some("0"));
    assert_eq!(topic("flush.ms"), Some("9223372036854775807"));
    assert_eq!(topic("max.message.bytes"), Some("1048588"));
    assert_eq!(topic("cleanup.policy"), Some("delete"));
}

#[test]
fn topic_defaults_follow_the_finest_unit() {
    let with = |variables: &[(&str, &str)]| {
        let mut all = vec![("KAFKA_COORDINATOR_CONNECT", "c")];
        all.extend_from_slice(variables);
        let config = broker(&all).expect("usable").config;
        config.topic_defaults.get("retention.ms").cloned()
    };
    assert_eq!(with(&[("KAFKA_LOG_RETENTION_HOURS", "2")]).as_deref(), Some("7200000"));
    assert_eq!(
        with(&[("KAFKA_LOG_RETENTION_HOURS", "2"), ("KAFKA_LOG_RETENTION_MINUTES", "3")]).as_deref(),
        Some("180000")
    );
    assert_eq!(with(&[("KAFKA_LOG_RETENTION_MS", "4"), ("KAFKA_LOG_RETENTION_MINUTES", "3")]).as_deref(), Some("4"));
    assert_eq!(with(&[("KAFKA_LOG_RETENTION_HOURS", "-1")]).as_deref(), Some("-1"));
}

#[test]
fn coordinators_by_zookeepers_names() {
    let waiting = coordinator(&[
        ("ZOOKEEPER_SERVER_ID", "2"),
        ("ZOOKEEPER_CLIENT_PORT", "2181"),
        ("ZOOKEEPER_TICK_TIME", "2000"),
        ("ZOOKEEPER_INIT_LIMIT", "5"),
        ("ZOOKEEPER_SYNC_LIMIT", "2"),
    ])
    .expect("usable")
    .config;
    assert_eq!(waiting.id, Some(CoordinatorId(2)));
    assert!(waiting.servers.is_empty());
    assert_eq!((waiting.client_port, waiting.peer_port), (Some(2181), None));
    assert_eq!(waiting.raft_tick.as_millis(), 50);

    let alone = coordinator(&[]).expect("usable").config;
    assert_eq!((alone.id, alone.servers.len(), alone.client_port), (None, 0, Some(2181)));

    let listed = coordinator(&[
        ("ZOOKEEPER_SERVER_ID", "2"),
        ("ZOOKEEPER_SERVERS", "zoo1:2888:3888;zoo2:2889:3888;zoo3:2888:3888"),
    ])
    .expect("usable")
    .config;
    let servers: Vec<_> = listed.servers.iter().map(|server| format!("{}@{}", server.id, server.address)).collect();
    assert_eq!(servers, ["1@zoo1:2888", "2@zoo2:2889", "3@zoo3:2888"]);
    assert_eq!(listed.peer_port, Some(2889));
}

#[test]
fn coordinators_by_their_own_names() {
    let config = coordinator(&[
        ("COORDINATOR_ID", "1"),
        ("COORDINATOR_CLIENT_PORT", "22181"),
        ("COORDINATOR_SERVERS", "1@127.0.0.1:22181,2@127.0.0.1:32181,3@127.0.0.1:42181"),
        ("CLUSTER_ID", "4L6g3nShT-eMCtK--X86sw"),
    ])
    .expect("usable")
    .config;
    assert_eq!(config.servers.len(), 3);
    assert_eq!(config.peer_port, None);
    assert_eq!(config.cluster_id.map(|id| id.to_string()).as_deref(), Some("4L6g3nShT-eMCtK--X86sw"));

    let refused = |variables: &[(&str, &str)], part: &str| {
        let error = coordinator(variables).expect_err("refused").to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(&[("COORDINATOR_SERVERS", "1@a:1,1@b:1"), ("COORDINATOR_ID", "1")], "id 1 is there twice");
    refused(&[("COORDINATOR_SERVERS", "1@a:1,2@a:1"), ("COORDINATOR_ID", "1")], "a:1 is there twice");
    refused(&[("COORDINATOR_SERVERS", "1@a:1,2@b:1"), ("COORDINATOR_ID", "4")], "id=4 (COORDINATOR_ID)");
    refused(&[("COORDINATOR_SERVERS", "1@a:1,2@b:1")], "id is not set; accepted: one of 1, 2");
    refused(&[("COORDINATOR_SERVERS", "a:1")], "`a:1` has no `id@`");
    refused(&[("COORDINATOR_ID", "0")], "from 1 to");
    refused(&[("COORDINATOR_RAFT_ELECTION_MIN_MS", "90")], "a multiple of raft.tick.ms=50");
    refused(&[("COORDINATOR_RAFT_ELECTION_MAX_MS", "500")], "more than raft.election.min.ms");
}

#[test]
fn a_zoo_cfg_and_a_myid_are_enough() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("zoo.cfg");
    let text = format!(
        "tickTime=2000\ndataDir={}\nclientPort=2182\ninitLimit=5\nserver.1=127.0.0.1:12888:13888\nserver.2=127.0.0.1:22888:23888\n",
        directory.path().display()
    );
    std::fs::write(&file, text).expect("written");
    std::fs::write(directory.path().join("myid"), "2\n").expect("written");
    let sources = Sources { file: Some(file), ..Sources::default() };
    let Loaded { config, warnings } = CoordinatorConfig::load(&sources).expect("usable");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.id, Some(CoordinatorId(2)));
    assert_eq!((config.client_port, config.peer_port), (Some(2182), Some(22888)));
}

/// As ZooKeeper's connect strings: one path, after the last address.
#[test]
fn a_connect_string_may_end_with_a_chroot() {
    let chroot = |connect: &str| {
        let loaded = broker(&[("KAFKA_ZOOKEEPER_CONNECT", connect)]).expect("accepted");
        assert_eq!(joined(&loaded.config.coordinator_connect), "zk-1:2181,zk-2:2181", "{connect}");
        loaded.config.chroot.map(|chroot| chroot.to_string())
    };
    assert_eq!(chroot("zk-1:2181,zk-2:2181/kafka/one").as_deref(), Some("/kafka/one"));
    assert_eq!(chroot("zk-1:2181,zk-2:2181/"), None);
    refused(&[("KAFKA_ZOOKEEPER_CONNECT", "zk-1:2181/kafka,zk-2:2181/kafka")], &["is no chroot", "[/chroot]"]);
}
