//! The images, if a container engine runs: one coordinator and one broker on their own network, used by the tools
//! inside. Without an engine the test is skipped, and reports that.

use std::process::Command;

use anyhow::{Result, ensure};
use ottla_e2e::clients::{have, run};
use ottla_e2e::cluster::binary;

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

fn docker(arguments: &[&str]) -> Result<String> {
    run(Command::new("docker").args(arguments))
}

#[test]
fn images_serve_and_hold_the_tools() -> Result<()> {
    if !have("docker") || docker(&["version"]).is_err() {
        ottla_test_support::skipped("no container engine answers");
        return Ok(());
    }
    let tag = format!("test-{}", std::process::id());
    let bin = binary("ottla")?;
    let bin = bin.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/images.sh");
    run(Command::new("bash").arg(script).env("OTTLA_BIN_DIR", bin).env("OTTLA_VERSION", &tag))?;

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
