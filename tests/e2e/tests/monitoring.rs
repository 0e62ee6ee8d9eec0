//! The dashboard and the alert rules of `deploy/monitoring`, against a real Prometheus that scrapes a real cluster.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};
use ottla_test_support::free_ports;

fn monitoring(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../deploy/monitoring", file].iter().collect()
}

/// Whether Debian's package `prometheus` is there; else the test is skipped.
fn has_prometheus() -> bool {
    let is_there = clients::have("prometheus") && clients::have("promtool");
    if !is_there {
        ottla_test_support::skipped("prometheus and promtool are not installed");
    }
    is_there
}

/// A Prometheus with the rules of `deploy/monitoring`; ends with the test.
struct Prometheus(Child);

impl Prometheus {
    fn start(cluster: &Cluster, port: u16, targets: &[u16]) -> Result<Self> {
        let folder = cluster.folder().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let targets: Vec<String> = targets.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
        // As in prometheus.yml, but for the interval and the addresses.
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  \
             - job_name: ottla\n    static_configs:\n      - targets: [{}]\n",
            monitoring("alerts.yml").display(),
            targets.join(", ")
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start prometheus")?;
        Ok(Self(child))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Records, new topics, and a group that reads and commits, for every panel; ends with the test.
struct Traffic(Child);

impl Traffic {
    fn start(bootstrap: &str) -> Result<Self> {
        let traffic = format!(
            "for n in $(seq 1 200); do seq 1 10 | kcat -b {bootstrap} -P -t shown-$n; \
             kcat -b {bootstrap} -G readers -X auto.offset.reset=earliest -e -q shown-$n; sleep 0.2; done"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &traffic]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("start kcat")?))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn promtool_finds_no_fault_in_the_configuration_and_the_rules() -> Result<()> {
    if !has_prometheus() {
        return Ok(());
    }
    let (config, rules) = (monitoring("prometheus.yml"), monitoring("alerts.yml"));
    clients::run(Command::new("promtool").args(["check", "config"]).arg(config))?;
    clients::run(Command::new("promtool").args(["check", "rules", "--lint-fatal"]).arg(rules))?;
    clients::run(Command::new("promtool").args(["test", "rules"]).arg(clients::script("alerts_test.yml"))).map(drop)
}

#[test]
fn every_query_of_the_dashboard_finds_data_and_alerts_tell_of_a_dead_broker() -> Result<()> {
    if !has_prometheus() {
        return Ok(());
    }
    let mut cluster = Cluster::prepare(&ClusterOptions::default())?;
    let nodes = cluster.nodes();
    let mut ports = free_ports(nodes.len() + 1)?;
    let port = ports.pop().context("a port for Prometheus")?;
    for (node, port) in nodes.into_iter().zip(&ports) {
        let variable = match node {
            Node::Coordinator(_) => "COORDINATOR_HTTP_PORT",
            Node::Broker(_) => "KAFKA_HTTP_PORT",
        };
        cluster.set_variable(node, variable, &port.to_string())?;
        cluster.spawn(node)?;
    }
    cluster.wait_ready()?;
    let _prometheus = Prometheus::start(&cluster, port, &ports)?;
    let server = format!("http://127.0.0.1:{port}");
    let dashboard = monitoring("grafana-dashboard.json").display().to_string();
    let holds = |targets: &str, alerts: &[&str]| {
        let arguments = [&[&server, &dashboard, targets], alerts].concat();
        clients::run_script("prometheus_queries.py", &arguments)
    };
    let traffic = Traffic::start(&cluster.bootstrap())?;
    holds("6", &[])?;
    drop(traffic);
    cluster.kill(Node::Broker(3))?;
    holds("5", &["OttlaTargetDown", "OttlaUnderReplicatedPartitions"]).map(drop)
}
