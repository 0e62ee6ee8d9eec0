//! What a process runs, by the environments of other people's images: rewritten small from deployments that exist.

use ottla_config::{ConfigError, Host, Node, NodeDefaults, Service, Sources};
use ottla_tls::ClientAuth;

fn load_as(service: Service, variables: &[(&str, &str)]) -> Result<Node, ConfigError> {
    let host = Host::new("this-machine", |address| address.is_loopback());
    let defaults = NodeDefaults { log_dir: "/data/logs".into(), coordinator_dir: "/data/tree".into() };
    Node::load_on(service, &Sources::of_environment(variables.iter().copied()), &defaults, &host)
}

fn node(variables: &[(&str, &str)]) -> Node {
    load_as(Service::Broker, variables).expect("usable")
}

fn text<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// id, connect, listeners, advertised, inter-broker, directory.
fn broker(node: &Node) -> String {
    let Some(loaded) = &node.broker else { return "none".to_owned() };
    let config = &loaded.config;
    format!(
        "{} {} {} {} {} {}",
        config.broker_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        text(&config.coordinator_connect),
        text(&config.listeners),
        text(&config.advertised_listeners),
        config.inter_broker_listener,
        config.log_dirs[0].display()
    )
}

/// id, address, quorum, directory.
fn coordinator(node: &Node) -> String {
    let Some(loaded) = &node.coordinator else { return "none".to_owned() };
    let config = &loaded.config;
    let servers: Vec<_> = config.servers.iter().map(|server| format!("{}@{}", server.id, server.address)).collect();
    format!(
        "{} {}:{} {} {}",
        config.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        config.client_host,
        config.client_port.unwrap_or_default(),
        text(&servers),
        config.data_dir.display()
    )
}

#[test]
fn nothing_at_all_is_a_cluster_of_one() {
    let alone = node(&[]);
    assert_eq!(broker(&alone), "1 127.0.0.1:2181 PLAINTEXT://:9092 PLAINTEXT://localhost:9092 PLAINTEXT /data/logs");
    assert_eq!(coordinator(&alone), "- 0.0.0.0:2181  /data/logs/__coordinator");
    assert_eq!(alone.coordinator.expect("a coordinator").config.peer_port, Some(9093));
    let coordinator_image = load_as(Service::Coordinator, &[]).expect("usable");
    assert_eq!(broker(&coordinator_image), "none");
    assert_eq!(coordinator(&coordinator_image), "- 0.0.0.0:2181  /data/tree");
}

#[test]
fn a_zookeeper_era_broker_is_only_a_broker() {
    let variables = [("KAFKA_CFG_ZOOKEEPER_CONNECT", "zookeeper:2181"), ("KAFKA_CFG_BROKER_ID", "0")];
    let bitnami = node(&variables);
    assert_eq!(coordinator(&bitnami), "none");
    assert_eq!(
        broker(&bitnami),
        "0 zookeeper:2181 PLAINTEXT://:9092 PLAINTEXT://this-machine:9092 PLAINTEXT /data/logs"
    );
    let debezium =
        node(&[("ZOOKEEPER_CONNECT", "zookeeper"), ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://localhost:9092")]);
    assert_eq!(broker(&debezium), "- zookeeper:2181 PLAINTEXT://:9092 PLAINTEXT://localhost:9092 PLAINTEXT /data/logs");
}

#[test]
fn both_roles_by_the_voters() {
    let both = node(&[
        ("KAFKA_NODE_ID", "2"),
        ("KAFKA_PROCESS_ROLES", "controller,broker"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:9090,CONTROLLER://:9091,EXTERNAL://:9092"),
        ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://broker02:9090,EXTERNAL://localhost:9092"),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,EXTERNAL:PLAINTEXT"),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@broker01:9091,2@broker02:9091,3@broker03:9091"),
        ("CLUSTER_ID", "TjY4RkQzM0ZBMkMzNDU2Nw"),
        ("KAFKA_LOG_DIRS", "/l/1,/l/2"),
    ]);
    assert_eq!(
        broker(&both),
        "2 broker01:9091,broker02:9091,broker03:9091 PLAINTEXT://:9090,EXTERNAL://:9092 \
         PLAINTEXT://broker02:9090,EXTERNAL://localhost:9092 PLAINTEXT /l/1"
    );
    let quorum = "2 0.0.0.0:9091 1@broker01:9091,2@broker02:9091,3@broker03:9091 /l/1/__coordinator";
    assert_eq!(coordinator(&both), quorum);
    let config = &both.coordinator.as_ref().expect("a coordinator").config;
    assert_eq!(config.cluster_id.as_ref().map(ToString::to_string).as_deref(), Some("TjY4RkQzM0ZBMkMzNDU2Nw"));
    assert_eq!(config.peer_port, None);
    let warnings = &both.broker.as_ref().expect("a broker").warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_coordinator_does_not_read_what_is_the_brokers() {
    let shared = [
        ("KAFKA_SSL_KEY_CREDENTIALS", "no-such-file"),
        ("KAFKA_BROKER_ID_FILE", "/no/such/file"),
        ("RACK_COMMAND", "false"),
        ("ZOO_MY_ID", "2"),
    ];
    let alone = load_as(Service::Coordinator, &shared).expect("nothing of brokers is read");
    assert_eq!(coordinator(&alone), "2 0.0.0.0:2181  /data/tree");
    assert!(load_as(Service::Broker, &shared).is_err());
    let with_roles = [&shared[..], &[("KAFKA_PROCESS_ROLES", "controller")]].concat();
    assert!(load_as(Service::Coordinator, &with_roles).is_err());
}

#[test]
fn spotifys_node_answers_where_its_zookeeper_did() {
    let spotify = node(&[("ADVERTISED_HOST", "10.1.1.1"), ("ADVERTISED_PORT", "9092"), ("NUM_PARTITIONS", "3")]);
    assert_eq!(coordinator(&spotify), "- 0.0.0.0:2181  /data/logs/__coordinator");
    assert!(broker(&spotify).starts_with("1 127.0.0.1:2181 "), "{}", broker(&spotify));
    let landoop = node(&[("ADV_HOST", "10.1.1.1")]);
    assert_eq!(coordinator(&landoop), "- 0.0.0.0:2181  /data/logs/__coordinator");
    assert!(broker(&landoop).contains(" PLAINTEXT://10.1.1.1:9092 "), "{}", broker(&landoop));
    // Others begin with KRaft, and may have a ZooKeeper of others beside them.
    let apache = node(&[("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://localhost:9092")]);
    assert_eq!(coordinator(&apache), "- 0.0.0.0:9093  /data/logs/__coordinator");
    assert_eq!(apache.coordinator.expect("a coordinator").config.peer_port, None);
}

#[test]
fn debezium_has_a_word_for_both_roles() {
    let variables = [("NODE_ID", "1"), ("NODE_ROLE", "combined"), ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@kafka:9093")];
    let both = node(&variables);
    assert_eq!(coordinator(&both), "1 0.0.0.0:9093 1@kafka:9093 /data/logs/__coordinator");
    assert!(broker(&both).starts_with("1 kafka:9093 PLAINTEXT://:9092 "), "{}", broker(&both));
    let member = node(&[variables[0], ("NODE_ROLE", "broker"), variables[2]]);
    assert_eq!(coordinator(&member), "none");
    // Another variable of the role wins, and Kafka's own key does not have the word.
    let member = node(&[variables[0], variables[1], variables[2], ("KAFKA_PROCESS_ROLES", "broker")]);
    assert_eq!(coordinator(&member), "none");
    let error = load_as(Service::Broker, &[("KAFKA_PROCESS_ROLES", "combined")]).expect_err("refused").to_string();
    assert!(error.contains("`combined` is no role"), "{error}");
}

#[test]
fn either_key_names_the_directory() {
    let directory = |variables: &[(&str, &str)]| {
        let loaded = node(variables).broker.expect("a broker");
        loaded.config.log_dirs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",")
    };
    assert_eq!(directory(&[]), "/data/logs");
    assert_eq!(directory(&[("KAFKA_LOG_DIR", "/one")]), "/one");
    assert_eq!(directory(&[("KAFKA_LOG_DIR", "/one"), ("KAFKA_LOG_DIRS", "/two,/three")]), "/two,/three");
    let sources = Sources::of_environment([("KAFKA_LOG_DIR", "/one"), ("KAFKA_METADATA_LOG_DIR", "/meta")]);
    let defaults = NodeDefaults { log_dir: "/data/logs".into(), coordinator_dir: "/data/tree".into() };
    let formatted = Node::log_dirs(&sources, &defaults).expect("usable");
    assert_eq!(formatted, ["/meta", "/one"].map(std::path::PathBuf::from));
}

#[test]
fn one_role_each() {
    let voters = ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@controller-1:9093,2@controller-2:9093");
    let controller = node(&[
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "controller"),
        voters,
        ("KAFKA_LISTENERS", "CONTROLLER://:9093"),
        ("KAFKA_LOG_DIRS", "/tmp/logs"),
    ]);
    assert_eq!(broker(&controller), "none");
    let quorum = "1 0.0.0.0:9093 1@controller-1:9093,2@controller-2:9093 /tmp/logs/__coordinator";
    assert_eq!(coordinator(&controller), quorum);
    let member = node(&[
        ("KAFKA_NODE_ID", "4"),
        ("KAFKA_PROCESS_ROLES", "broker"),
        voters,
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:19092"),
        ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://kafka-1:19092"),
    ]);
    assert_eq!(coordinator(&member), "none");
    let expected =
        "4 controller-1:9093,controller-2:9093 PLAINTEXT://:19092 PLAINTEXT://kafka-1:19092 PLAINTEXT /data/logs";
    assert_eq!(broker(&member), expected);
    // The image's name does not count where roles are set.
    let renamed = load_as(Service::Coordinator, &[("KAFKA_PROCESS_ROLES", "broker"), voters]).expect("usable");
    assert_eq!(coordinator(&renamed), "none");
}

#[test]
fn a_dynamic_quorum_is_found_by_its_bootstrap_servers() {
    let both = node(&[
        ("KAFKA_NODE_ID", "3"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        ("KAFKA_CONTROLLER_QUORUM_BOOTSTRAP_SERVERS", "a:9093,b:9093,c:9093"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
    ]);
    assert_eq!(coordinator(&both), "3 0.0.0.0:9093  /data/logs/__coordinator");
    assert!(broker(&both).starts_with("3 a:9093,b:9093,c:9093 PLAINTEXT://:9092 "), "{}", broker(&both));
}

#[test]
fn node_0_is_a_coordinator_too() {
    let both = node(&[
        ("KAFKA_CFG_NODE_ID", "0"),
        ("KAFKA_CFG_PROCESS_ROLES", "controller,broker"),
        ("KAFKA_CFG_CONTROLLER_QUORUM_VOTERS", "0@kafka:9093"),
        ("KAFKA_CFG_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://kafka:9093"),
        ("KAFKA_CFG_ADVERTISED_LISTENERS", "PLAINTEXT://:9092"),
    ]);
    assert!(
        broker(&both).starts_with("0 kafka:9093 PLAINTEXT://:9092 PLAINTEXT://this-machine:9092"),
        "{}",
        broker(&both)
    );
    assert_eq!(coordinator(&both), "2147483648 kafka:9093 2147483648@kafka:9093 /data/logs/__coordinator");
}

#[test]
fn a_controller_listener_needs_no_mention() {
    let implicit = node(&[
        ("ALLOW_PLAINTEXT_LISTENER", "yes"),
        ("KAFKA_CFG_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9193,EXTERNAL://:9094"),
        ("KAFKA_CFG_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,EXTERNAL:PLAINTEXT"),
        ("KAFKA_CFG_ADVERTISED_LISTENERS", "PLAINTEXT://kafka:9092,EXTERNAL://localhost:9094"),
    ]);
    assert_eq!(
        broker(&implicit),
        "1 127.0.0.1:9193 PLAINTEXT://:9092,EXTERNAL://:9094 PLAINTEXT://kafka:9092,EXTERNAL://localhost:9094 PLAINTEXT \
         /data/logs"
    );
    assert_eq!(coordinator(&implicit), "- 0.0.0.0:9193  /data/logs/__coordinator");
}

#[test]
fn lists_of_servers_in_every_notation() {
    let servers = |list: &str| {
        let node = load_as(Service::Coordinator, &[("ZOO_MY_ID", "2"), ("ZOO_SERVERS", list)]).expect("usable");
        coordinator(&node)
    };
    let three = "2 0.0.0.0:2181 1@zoo1:2888,2@this-machine:2888,3@zoo3:2888 /data/tree";
    assert_eq!(
        servers("server.1=zoo1:2888:3888;2181 server.2=0.0.0.0:2888:3888;2181 server.3=zoo3:2888:3888;2181"),
        three
    );
    assert_eq!(
        servers("server.1=zoo1:2888:3888;0.0.0.0:2181 server.2=0.0.0.0:2888:3888 server.3=zoo3:2888:3888"),
        three
    );
    assert_eq!(servers("zoo1:2888:3888,0.0.0.0:2888:3888,zoo3:2888:3888"), three);
    assert_eq!(servers("zoo3:2888:3888::3;zoo1:2888:3888::1;0.0.0.0:2888:3888::2"), three);
    assert_eq!(servers("zoo1:2888:3888::1 0.0.0.0:2888:3888::2 zoo3:2888:3888::3"), three);
}

#[test]
fn what_cannot_be_is_one_line() {
    let refused = |variables: &[(&str, &str)], parts: &[&str]| {
        let error = load_as(Service::Broker, variables).expect_err("refused").to_string();
        assert!(!error.contains('\n') && parts.iter().all(|part| error.contains(part)), "{error}");
    };
    refused(
        &[("KAFKA_PROCESS_ROLES", "brokre")],
        &["process.roles=brokre (KAFKA_PROCESS_ROLES)", "broker, controller"],
    );
    let roles = ("KAFKA_PROCESS_ROLES", "controller");
    let voters = ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@a:9093,2@b:9093");
    refused(&[roles, voters], &["node.id is not set"]);
    refused(&[roles, voters, ("KAFKA_NODE_ID", "7")], &["controller.quorum.voters=", "node 7 is not among them"]);
    refused(&[roles, ("KAFKA_CONTROLLER_QUORUM_VOTERS", "a:9093")], &["`a:9093` has no `id@`"]);
    let map = |protocol| ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", protocol);
    let listens = ("KAFKA_LISTENERS", "CONTROLLER://:9093");
    refused(&[roles, listens, map("CONTROLLER:SSL")], &["ssl.keystore.location is not set"]);
    let login = [roles, listens, map("CONTROLLER:SASL_SSL")];
    refused(&login, &["CONTROLLER speaks SASL_SSL, and coordinators know no users", "CONTROLLER:SSL"]);
    let broker = [
        ("KAFKA_PROCESS_ROLES", "broker"),
        ("KAFKA_NODE_ID", "4"),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        voters,
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092"),
        map("PLAINTEXT:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT"),
    ];
    refused(&broker, &["CONTROLLER speaks SASL_PLAINTEXT"]);
    // A misspelt address of the coordinators does not make three clusters of three brokers.
    refused(&[("KAFKA_ZOOKEEPER_CONECT", "z:2181")], &["KAFKA_ZOOKEEPER_CONECT: zookeeper.conect is unknown"]);
    let secret = [("KAFKA_LISTENERS", "PLAINTEXT://:9092"), ("KAFKA_SSL_KEYSTORE_PASSWORD", "hunter2")];
    assert!(load_as(Service::Broker, &secret).is_ok());
}

/// KRaft's controllers by TLS: the settings of their listener, on both sides.
#[test]
fn a_controller_listener_with_tls_is_a_secure_port() {
    let shared = [
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@controller-1:9093,2@controller-2:9093"),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:SSL,PLAINTEXT:PLAINTEXT"),
        ("KAFKA_SSL_KEYSTORE_LOCATION", "/all.p12"),
        ("KAFKA_SSL_TRUSTSTORE_LOCATION", "/trust.p12"),
        ("KAFKA_LISTENER_NAME_CONTROLLER_SSL_KEYSTORE_LOCATION", "/own.p12"),
    ];
    let of = |own: &[(&str, &str)]| node(&[&shared[..], own].concat());
    let stores =
        |tls: &ottla_tls::TlsSettings| tls.files().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    let required = ("KAFKA_LISTENER_NAME_CONTROLLER_SSL_CLIENT_AUTH", "required");
    let controller =
        [("KAFKA_NODE_ID", "1"), ("KAFKA_PROCESS_ROLES", "controller"), ("KAFKA_LISTENERS", "CONTROLLER://:9093")];
    for (own, client_auth) in [(vec![], ClientAuth::None), (vec![required], ClientAuth::Required)] {
        let found = of(&[&controller[..], &own[..]].concat()).coordinator.expect("a coordinator").config;
        assert_eq!((found.client_port, found.secure_client_port, found.peer_port), (None, Some(9093), None));
        let tls = found.tls.expect("TLS");
        assert!(tls.between_coordinators && tls.settings.client_auth == client_auth);
        assert_eq!(stores(&tls.settings), "/own.p12 /trust.p12");
    }

    let member = [("KAFKA_NODE_ID", "4"), ("KAFKA_PROCESS_ROLES", "broker"), ("KAFKA_LISTENERS", "PLAINTEXT://:9092")];
    let found = of(&member).broker.expect("a broker").config;
    assert_eq!(found.coordinator_tls.as_ref().map(&stores).as_deref(), Some("/own.p12 /trust.p12"));
    // Who says how coordinators are reached is believed.
    let told = [&member[..], &[("KAFKA_ZOOKEEPER_SSL_CLIENT_ENABLE", "false")]].concat();
    assert_eq!(of(&told).broker.expect("a broker").config.coordinator_tls, None);

    let both = [
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
    ];
    let found = of(&both);
    assert_eq!(found.coordinator.expect("a coordinator").config.secure_client_port, Some(9093));
    let broker = found.broker.expect("a broker").config;
    assert!(broker.coordinator_tls.is_some());
    assert_eq!(broker.coordinator_connect.len(), 2);
}
