//! The images, if a container engine runs: one coordinator and one broker on their own network, used by the tools
//! inside. Without an engine the test is skipped, and reports that.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::clients::{self, python_script, run};
use ottla_e2e::containers::{Check, Deployment, docker, has_compose, has_engine, make_images};
use ottla_test_support::free_ports;

/// Removes everything that the test made, on success and failure.
struct Cleanup {
    names: [String; 3],
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let [coordinator, broker, network] = &self.names;
        let _ = Command::new("docker").args(["rm", "-f", "-v", coordinator, broker]).output();
        let _ = Command::new("docker").args(["network", "rm", network]).output();
    }
}

/// Deployments in the manner of other people's images (`compose/*.yml`), and what must be true of each when it is up: a
/// command in a container, and a text in its output.
const DEPLOYMENTS: &[(&str, &[Check])] = &[
    (
        "confluent-zookeeper",
        &[
            ("zookeeper", "zookeeper-shell localhost:32181 ls /brokers/ids", "[1001]"),
            ("kafka", "kafka-topics --describe --topic made --bootstrap-server kafka:29092", "PartitionCount: 8"),
            ("kafka", "id -u", "12345"),
            ("kafka", "ottla ready", "ready"),
        ],
    ),
    (
        "wurstmeister",
        &[
            (
                "kafka-1",
                "kafka-topics.sh --describe --topic made --bootstrap-server kafka-2:9092",
                "ReplicationFactor: 2",
            ),
            ("kafka-2", "kafka-broker-api-versions.sh --bootstrap-server localhost:9095", "localhost:9094 (id: 1"),
        ],
    ),
    (
        "apache-combined",
        &[
            (
                "broker04",
                "/opt/kafka/bin/kafka-topics.sh --create --if-not-exists --topic t --partitions 4 \
                 --replication-factor 3 --bootstrap-server broker01:9090 && \
                 /opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server broker04:9090 | grep -c '(id: '",
                "4",
            ),
            ("broker02", "ottla ready", "coordinator at 127.0.0.1:9091: ready"),
            ("broker03", "kafka-cluster cluster-id --bootstrap-server broker02:9090", "TjY4RkQzM0ZBMkMzNDU2Nw"),
        ],
    ),
    (
        "bitnami",
        &[
            (
                "kafka",
                "/opt/bitnami/kafka/bin/kafka-topics.sh --create --if-not-exists --topic t --bootstrap-server kafka:9092 && echo made",
                "made",
            ),
            ("kafka", "ls /bitnami/kafka/data", "t-0"),
            ("kafka", "grep '^Uid:' /proc/1/status", "1000"),
            ("kafka", "ottla config explain", "a cluster of one node"),
        ],
    ),
    (
        "confluent-ensemble",
        &[
            (
                "kafka-1",
                "kafka-topics --create --if-not-exists --topic t --replication-factor 2 \
                 --bootstrap-server localhost:29092 && \
                 kafka-broker-api-versions --bootstrap-server localhost:19092 | grep -c '(id: '",
                "2",
            ),
            ("zookeeper-3", "echo ruok | nc -w 2 localhost 42181", "imok"),
        ],
    ),
    (
        "confluent-kraft",
        &[
            (
                "after",
                "kafka-topics --create --if-not-exists --topic t --bootstrap-server kafka:29092 && echo made",
                "made",
            ),
            ("kafka", "kafka-cluster cluster-id --bootstrap-server localhost:9092", "TjY4RkQzM0ZBMkMzNDU2Nw"),
        ],
    ),
    (
        "debezium",
        &[
            (
                "kafka",
                "/kafka/bin/kafka-topics.sh --describe --topic made --bootstrap-server kafka:9092",
                "PartitionCount: 3",
            ),
            ("zookeeper", "zookeeper-shell localhost:2181 ls /brokers/ids", "[7]"),
            ("zookeeper", "echo 'ls /brokers/ids' | zookeeper-shell localhost:2181", "[7]"),
            ("zookeeper", "zkCli.sh ls /brokers/ids", "[7]"),
        ],
    ),
    (
        "apache-separate",
        &[
            (
                "kafka-1",
                "/opt/kafka/bin/kafka-topics.sh --create --if-not-exists --topic t --replication-factor 2 \
                 --bootstrap-server kafka-2:19092 && \
                 /opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server localhost:19092 | grep -c '(id: '",
                "2",
            ),
            ("kafka-2", "ls /tmp/kraft-combined-logs", "t-0"),
            (
                "kafka-2",
                "kafka-metadata-quorum --bootstrap-server kafka-1:19092 describe --status",
                "CONTROLLER://controller-3:9093",
            ),
        ],
    ),
    (
        "bitnami-zookeeper",
        &[
            (
                "kafka-0",
                "kafka-topics.sh --create --if-not-exists --topic t --replication-factor 2 \
                 --bootstrap-server kafka-1:9092 && \
                 kafka-broker-api-versions.sh --bootstrap-server localhost:9092 | grep -c '(id: '",
                "2",
            ),
            ("zookeeper-1", "ls /bitnami/zookeeper", "data"),
            ("zookeeper-2", "echo srvr | nc -w 2 localhost 2181", "Mode: "),
        ],
    ),
    (
        "scripts",
        &[
            ("kafka", "echo ruok | nc -w 2 localhost 2181", "imok"),
            ("kafka", "kafka-topics --list --bootstrap-server localhost:9093 && echo listed", "listed"),
            ("strimzi", "kafka-topics.sh --list --bootstrap-server strimzi:9092 && echo listed", "listed"),
            ("daemons", "kafka-topics.sh --list --bootstrap-server daemons:9192 && echo listed", "listed"),
            ("daemons", "zkServer.sh status", "Mode: standalone"),
            ("daemons", "ottla ready", "broker at 127.0.0.1:9192: ready"),
            ("daemons", "cat /opt/kafka/logs/zookeeper.out", "binding to port"),
        ],
    ),
    (
        "chroots",
        &[
            ("one", "kafka-topics --list --bootstrap-server one:9092 | tr '\\n' ' '", "of-one "),
            ("two", "kafka-topics --list --bootstrap-server two:9092 | grep -v of-one", "of-two"),
            ("zookeeper", "zookeeper-shell localhost:2181/one ls /brokers/topics", "[of-one]"),
            ("zookeeper", "zookeeper-shell localhost:2181/two ls /brokers/ids", "[1]"),
        ],
    ),
    (
        "nothing",
        &[
            ("kafka", "kafka-topics --list --bootstrap-server localhost:9092 && echo listed", "listed"),
            ("kafka", "nc -z localhost 9092 && echo open", "open"),
            ("kafka", "zkCli.sh ls /brokers/ids", "[1]"),
        ],
    ),
];

/// The deployments of `compose/` at the top of the project: their files, one project each, and what must be true.
const OWN_DEPLOYMENTS: &[(&[&str], &[Check])] = &[
    (&["docker-compose"], THREE_BROKERS),
    (&["one-node"], &[("kafka", "kafka-topics --list --bootstrap-server kafka:9092 && echo listed", "listed")]),
    (&["three-nodes"], THREE_BROKERS),
    (&["one-coordinator"], THREE_BROKERS),
    (&["external-network/coordinators", "external-network/brokers"], THREE_BROKERS),
];

/// Of the last project: three brokers serve, under the names that containers use.
const THREE_BROKERS: &[Check] = &[(
    "kafka-3",
    "kafka-topics --create --if-not-exists --topic t --replication-factor 3 --bootstrap-server kafka-1:9092 && \
     kafka-broker-api-versions --bootstrap-server kafka-2:9092 | grep -c '(id: '",
    "3",
)];

/// The host's ports in the files of `compose/`, which tests choose anew.
const HOST_PORTS: &[&str] =
    &["KAFKA_PORT_1", "KAFKA_PORT_2", "KAFKA_PORT_3", "COORDINATOR_PORT_1", "COORDINATOR_PORT_2", "COORDINATOR_PORT_3"];

/// A network that several projects share; removed whatever happens.
struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = docker(&["network", "rm", &self.0]);
    }
}

#[test]
fn own_deployments_come_up() -> Result<()> {
    if !has_compose() {
        return Ok(());
    }
    let tag = format!("own-{}", std::process::id());
    make_images(&tag)?;
    let network = Network(format!("ottla-{tag}"));
    docker(&["network", "create", &network.0])?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose");
    for (files, checks) in OWN_DEPLOYMENTS {
        let ports = free_ports(HOST_PORTS.len())?.into_iter().map(|port| port.to_string());
        let mut environment: Vec<_> = HOST_PORTS.iter().map(|&name| name.to_owned()).zip(ports).collect();
        environment.push(("OTTLA_VERSION".to_owned(), tag.clone()));
        environment.push(("OTTLA_NETWORK".to_owned(), network.0.clone()));
        let mut deployments = Vec::new();
        for file in *files {
            let project = format!("ottla-{}-{tag}", file.replace('/', "-"));
            let file = format!("{folder}/{file}.yml");
            let deployment = Deployment { project, file, environment: environment.clone() };
            deployment.compose(&["up", "-d"])?;
            deployments.push(deployment);
        }
        if let Some(last) = deployments.last() {
            last.becomes(checks)?;
        }
    }
    docker(&["rmi", &format!("ottla/coordinator:{tag}"), &format!("ottla/broker:{tag}")])?;
    Ok(())
}

#[test]
fn deployments_of_other_images_come_up() -> Result<()> {
    if !has_compose() {
        return Ok(());
    }
    let tag = format!("compose-{}", std::process::id());
    make_images(&tag)?;
    for (name, checks) in DEPLOYMENTS {
        let file = format!("{}/compose/{name}.yml", env!("CARGO_MANIFEST_DIR"));
        let environment = vec![("OTTLA_VERSION".to_owned(), tag.clone())];
        let deployment = Deployment { project: format!("ottla-{name}-{tag}"), file, environment };
        deployment.compose(&["up", "-d"])?;
        deployment.becomes(checks)?;
    }
    docker(&["rmi", &format!("ottla/coordinator:{tag}"), &format!("ottla/broker:{tag}")])?;
    Ok(())
}

/// The helper of Testcontainers that removes containers is an image of a registry; these tests remove their own. A
/// machine that is a container itself is not asked for its gateway: the ports are published here.
const TESTCONTAINERS: [(&str, &str); 2] =
    [("TESTCONTAINERS_RYUK_DISABLED", "true"), ("TESTCONTAINERS_HOST_OVERRIDE", "localhost")];

/// The images with a tag that the modules of Testcontainers compare with versions of Confluent's image.
struct ConfluentTag(String);

impl ConfluentTag {
    /// `minor`: one for each test, which run at the same time.
    fn new(minor: u32) -> Result<Self> {
        let tag = format!("7.{minor}.{}", std::process::id());
        make_images(&tag)?;
        Ok(Self(tag))
    }

    fn broker(&self) -> String {
        format!("ottla/broker:{}", self.0)
    }
}

impl Drop for ConfluentTag {
    fn drop(&mut self) {
        let _ = docker(&["rmi", &format!("ottla/coordinator:{}", self.0), &self.broker()]);
    }
}

#[test]
fn testcontainers_of_python_start_the_image_where_they_would_start_kafka() -> Result<()> {
    if !has_engine() {
        return Ok(());
    }
    let image = ConfluentTag::new(6)?;
    run(python_script("testcontainers_kafka.py", &[&image.broker()]).envs(TESTCONTAINERS)).map(drop)
}

#[test]
fn testcontainers_of_java_start_the_image_where_they_would_start_kafka() -> Result<()> {
    if !has_engine() {
        return Ok(());
    }
    let Some(jars) = std::env::var_os("OTTLA_TESTCONTAINERS_JARS") else {
        ottla_test_support::skipped("the jars of Testcontainers for Java are not there");
        return Ok(());
    };
    let image = ConfluentTag::new(7)?;
    let source = clients::script("Testcontainers.java");
    let mut command = Command::new("java");
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(format!("{}/*", jars.display())).arg(source).arg(image.broker()).envs(TESTCONTAINERS);
    let out = run(&mut command)?;
    ensure!(out == "apache\nconfluent\nolder\nolder, KRaft\n", "{out}");
    Ok(())
}

/// A program that prints the address of its container for clients, and removes the container when its input ends.
#[test]
fn testcontainers_of_go_start_the_image_where_they_would_start_kafka() -> Result<()> {
    if !has_engine() {
        return Ok(());
    }
    let Some(program) = std::env::var_os("OTTLA_TESTCONTAINERS_GO") else {
        ottla_test_support::skipped("the program with Testcontainers for Go was not built");
        return Ok(());
    };
    let image = ConfluentTag::new(8)?;
    let mut command = Command::new(program);
    command.arg(image.broker()).envs(TESTCONTAINERS).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut container = command.spawn()?;
    let mut bootstrap = String::new();
    let out = container.stdout.take().context("its output")?;
    BufReader::new(out).read_line(&mut bootstrap)?;
    let served = clients::run_script("create_topic.py", &[bootstrap.trim(), "topic", "1", "1"]);
    drop(container.stdin.take());
    let ended = container.wait()?;
    served?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

#[test]
fn images_serve_and_hold_the_tools() -> Result<()> {
    if !has_engine() {
        return Ok(());
    }
    let tag = format!("test-{}", std::process::id());
    make_images(&tag)?;
    let name = |what: &str| format!("ottla-{what}-{tag}");
    let cleanup = Cleanup { names: [name("coordinator"), name("broker"), name("network")] };
    let [coordinator, broker, network] = &cleanup.names;
    docker(&["network", "create", network])?;
    docker(&["run", "-d", "--network", network, "--name", coordinator, &format!("ottla/coordinator:{tag}")])?;
    let connect = format!("KAFKA_ZOOKEEPER_CONNECT={coordinator}:2181");
    let advertised = format!("KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://{broker}:9092");
    let image = format!("ottla/broker:{tag}");
    docker(&["run", "-d", "--network", network, "--name", broker, "-e", &connect, "-e", &advertised, &image])?;

    // A command right after the start waits rather than fails.
    let server = format!("{broker}:9092");
    let created = docker(&[
        "exec",
        broker,
        "kafka-topics",
        "--create",
        "--topic",
        "t",
        "--partition",
        "2",
        "--broker-list",
        &server,
    ])?;
    ensure!(created == "Created topic t.\n", "{created}");
    let produce = format!("printf 'hello\\nworld\\n' | kafka-console-producer --topic t --broker-list {server}");
    docker(&["exec", broker, "bash", "-c", &produce])?;
    let consume =
        format!("kafka-console-consumer.sh --topic t --bootstrap-server {server} --from-beginning --max-messages 2");
    let read = docker(&["exec", broker, "bash", "-c", &consume])?;
    ensure!(read == "hello\nworld\n", "{read}");
    // Without a broker.id the quorum gives the first above 1000.
    let tree = docker(&["exec", broker, "ottla", "tree", "ls", "/brokers/ids", "-c", &format!("{coordinator}:2181")])?;
    ensure!(tree == "1001\n", "{tree}");

    // Everything at once, as `docker-compose stop` does it: both end cleanly and in time.
    docker(&["stop", "-t", "20", coordinator, broker])?;
    for container in [coordinator, broker] {
        let code = docker(&["inspect", "-f", "{{.State.ExitCode}}", container])?;
        ensure!(code.trim() == "0", "{container} ended with {code}");
    }
    drop(cleanup);
    docker(&["rmi", &format!("ottla/coordinator:{tag}"), &image])?;
    Ok(())
}
