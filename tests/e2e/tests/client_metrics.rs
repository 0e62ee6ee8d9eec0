//! Clients push their metrics to a broker (KIP-714): Java's and librdkafka's, by subscriptions of Kafka's tools.

use std::net::SocketAddr;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use ottla_test_support::free_ports;

/// A broker that serves its metrics.
struct Pushed {
    cluster: Cluster,
    http: SocketAddr,
}

impl Pushed {
    fn start() -> Result<Self> {
        let options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() };
        let mut cluster = Cluster::prepare(&options)?;
        let port = free_ports(1)?.pop().context("a port")?;
        for node in cluster.nodes() {
            if matches!(node, Node::Broker(_)) {
                cluster.set_variable(node, "KAFKA_HTTP_PORT", &port.to_string())?;
            }
            cluster.spawn(node)?;
        }
        cluster.wait_ready()?;
        clients::run_script("create_topic.py", &[&cluster.bootstrap(), "my-topic", "1", "1"])?;
        Ok(Self { cluster, http: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    fn tool(&self, name: &str, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        clients::run(&mut clients::tool(name, &self.cluster.bootstrap(), &words)?)
    }

    /// The samples of clients on the page.
    fn samples(&self) -> Result<Vec<String>> {
        let page = clients::http_get(self.http, "/metrics")?;
        Ok(page.lines().filter(|line| line.starts_with("ottla_client_")).map(str::to_owned).collect())
    }

    /// Waits for a sample that begins and goes on like this.
    fn shows(&self, name: &str, label: &str) -> Result<()> {
        wait::until_ok(&format!("{name} of {label}"), || {
            let samples = self.samples()?;
            let shown = samples.iter().any(|line| line.starts_with(name) && line.contains(label));
            ensure!(shown, "{} samples: {:?}", samples.len(), samples.iter().take(5).collect::<Vec<_>>());
            Ok(())
        })
    }
}

/// Ends with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn librdkafka_pushes_what_a_subscription_asks_for() -> Result<()> {
    let pushed = Pushed::start()?;
    let altered = pushed.tool(
        "kafka-client-metrics",
        "--alter --name basic --interval 500 --match client_id=app-.* --metrics org.apache.kafka.producer.",
    )?;
    ensure!(altered == "Altered client metrics config for basic.\n", "{altered}");
    let described = pushed.tool("kafka-client-metrics", "--describe")?;
    ensure!(
        described
            == "Client metrics configs for basic are:\n  interval.ms=500\n  match=client_id=app-.*\n  metrics=org.apache.kafka.producer.\n",
        "{described}"
    );
    let shown = pushed.tool("kafka-configs", "--describe --entity-type client-metrics")?;
    ensure!(shown.starts_with("Dynamic configs for client-metric basic are:\n  interval.ms=500 "), "{shown}");
    let at = pushed.cluster.bootstrap();
    let start = |client| clients::start_script("pushing_producer.py", &[&at, "my-topic", client]).map(Client);
    let (_app, _other) = (start("app-1")?, start("other")?);
    pushed.shows("ottla_client_producer_", "client_id=\"app-1\"")?;
    pushed.shows("ottla_client_info{", "software_name=\"confluent-kafka-python\"")?;
    let samples = pushed.samples()?;
    ensure!(!samples.iter().any(|line| line.contains("client_id=\"other\"")), "{samples:?}");
    let deleted = pushed.tool("kafka-client-metrics", "--delete --name basic")?;
    ensure!(deleted == "Deleted client metrics config for basic.\n", "{deleted}");
    ensure!(pushed.tool("kafka-client-metrics", "--list")?.trim().is_empty());
    Ok(())
}

#[test]
fn kafkas_own_clients_push_all_their_metrics() -> Result<()> {
    let pushed = Pushed::start()?;
    pushed.tool("kafka-client-metrics", "--alter --name all --interval 500 --metrics *")?;
    let at = format!("bootstrap.servers={}", pushed.cluster.bootstrap());
    let arguments = ["--topic", "my-topic", "--num-records", "100000", "--record-size", "100", "--throughput", "100"];
    let properties = ["--producer-props", &at, "client.id=java-app", "enable.metrics.push=true"];
    let Some(mut java) =
        clients::java("org.apache.kafka.tools.ProducerPerformance", &[&arguments[..], &properties].concat())
    else {
        ottla_test_support::skipped("OTTLA_KAFKA_JARS names no folder with the jars of Kafka's clients");
        return Ok(());
    };
    let _java = Client(java.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    pushed.shows("ottla_client_producer_record_send_total", "client_id=\"java-app\"")?;
    pushed.shows("ottla_client_info{", "software_name=\"apache-kafka-java\"")
}
