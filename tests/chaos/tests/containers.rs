//! Faults of single containers of `compose/docker-compose.yml` while a real producer writes with acks=all: killed,
//! stopped, paused, and off the network, each of the three coordinators and three brokers in turn. Without a container
//! engine the tests are skipped, and report that.
//!
//! Figures go to standard error also where the test passes: how long the start took, memory, sizes of images, and the
//! longest time in which a partition had no acknowledgement. No test asserts a time.

use std::io::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ottla_chaos::SteadyProducer;
use ottla_e2e::containers::{Deployment, docker, has_compose, make_images};
use ottla_test_support::free_ports;

const NODES: &[&str] = &["kafka-1", "kafka-2", "kafka-3", "coordinator-1", "coordinator-2", "coordinator-3"];
const KAFKA_PORTS: &[&str] = &["KAFKA_PORT_1", "KAFKA_PORT_2", "KAFKA_PORT_3"];
const COORDINATOR_PORTS: &[&str] = &["COORDINATOR_PORT_1", "COORDINATOR_PORT_2", "COORDINATOR_PORT_3"];
const PARTITIONS: u32 = 6;
/// Time of writing before and after a fault.
const CALM: Duration = Duration::from_secs(3);
/// How long a container is down or paused: longer than a broker's session.
const DOWN: Duration = Duration::from_secs(12);
const OFF_THE_NETWORK: Duration = Duration::from_secs(20);

/// Not with `eprintln!`, which is shown only of tests that fail.
fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "containers: {line}");
}

/// Three coordinators and three brokers, and where they are reached.
struct Containers {
    deployment: Deployment,
    bootstrap: String,
    tag: String,
}

impl Containers {
    fn up(name: &str) -> Result<Self> {
        let tag = format!("{name}-{}", std::process::id());
        make_images(&tag)?;
        let ports = free_ports(KAFKA_PORTS.len() + COORDINATOR_PORTS.len())?;
        let names = KAFKA_PORTS.iter().chain(COORDINATOR_PORTS);
        let mut environment: Vec<_> =
            names.zip(&ports).map(|(&name, port)| (name.to_owned(), port.to_string())).collect();
        environment.push(("OTTLA_VERSION".to_owned(), tag.clone()));
        let bootstrap: Vec<_> = ports.iter().take(KAFKA_PORTS.len()).map(|port| format!("localhost:{port}")).collect();
        let deployment = Deployment {
            project: format!("ottla-{tag}"),
            file: concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose/docker-compose.yml").to_owned(),
            environment,
        };
        let start = Instant::now();
        deployment.compose(&["up", "-d"])?;
        let containers = Self { deployment, bootstrap: bootstrap.join(","), tag };
        containers.until_ready()?;
        report(&format!("{name}: from up to a topic on three brokers: {:.1} s", start.elapsed().as_secs_f64()));
        Ok(containers)
    }

    /// Waits until all brokers serve.
    fn until_ready(&self) -> Result<()> {
        let made = "kafka-topics --create --if-not-exists --topic ready --replication-factor 3 \
                    --bootstrap-server kafka-1:9092 && \
                    kafka-broker-api-versions --bootstrap-server kafka-2:9092 | grep -c '(id: '";
        let in_sync = "kafka-topics --describe --under-replicated-partitions --bootstrap-server kafka-1:9092 | wc -l";
        self.deployment.becomes(&[("kafka-3", made, "3"), ("kafka-3", in_sync, "0")])
    }

    fn report_sizes(&self) -> Result<()> {
        for image in ["broker", "coordinator"] {
            let size = docker(&["image", "inspect", "-f", "{{.Size}}", &format!("ottla/{image}:{}", self.tag)])?;
            let bytes: f64 = size.trim().parse().with_context(|| size.clone())?;
            report(&format!("image ottla/{image}: {:.1} MB", bytes / 1e6));
        }
        for node in NODES {
            let container = self.deployment.container(node)?;
            let memory = docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &container])?;
            report(&format!("memory of {node}, idle: {}", memory.split('/').next().unwrap_or_default().trim()));
        }
        Ok(())
    }

    /// Each node suffers `fault`, one after the other, under a producer of its own.
    fn each_suffers(&self, name: &str, fault: impl Fn(&str, &str) -> Result<()>) -> Result<()> {
        for node in NODES {
            let producer = SteadyProducer::start_at(&self.bootstrap, &format!("{name}-{node}"), PARTITIONS)?;
            sleep(CALM);
            fault(node, &self.deployment.container(node)?)?;
            sleep(CALM);
            let result = producer.finish()?;
            report(&format!(
                "{name} {node}: {} acknowledged, longest stall {} s",
                result.acknowledged, result.longest_s
            ));
            result.check().with_context(|| format!("{name} {node}"))?;
            self.until_ready()?;
        }
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // The images are used until the containers are gone.
        let _ = self.deployment.compose(&["down", "-v", "-t", "10"]);
        for image in ["broker", "coordinator"] {
            let _ = docker(&["rmi", &format!("ottla/{image}:{}", self.tag)]);
        }
    }
}

#[test]
fn killed_and_stopped_containers_lose_nothing() -> Result<()> {
    if !has_compose() {
        return Ok(());
    }
    let containers = Containers::up("ended")?;
    containers.report_sizes()?;
    for end in ["kill", "stop"] {
        containers.each_suffers(end, |_, container| {
            docker(&[end, container])?;
            sleep(DOWN);
            docker(&["start", container])?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn paused_containers_lose_nothing() -> Result<()> {
    if !has_compose() {
        return Ok(());
    }
    Containers::up("paused")?.each_suffers("pause", |_, container| {
        docker(&["pause", container])?;
        sleep(DOWN);
        docker(&["unpause", container])?;
        Ok(())
    })
}

/// No refusal is heard of a container that is off the network: only silence tells.
#[test]
fn containers_off_the_network_lose_nothing() -> Result<()> {
    if !has_compose() {
        return Ok(());
    }
    let containers = Containers::up("unplugged")?;
    let network = format!("{}_default", containers.deployment.project);
    containers.each_suffers("disconnect", |node, container| {
        docker(&["network", "disconnect", &network, container])?;
        sleep(OFF_THE_NETWORK);
        docker(&["network", "connect", "--alias", node, &network, container])?;
        Ok(())
    })
}
