//! People's mistakes end with exit 1 and one clear line, and the living cluster notices nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use ottla_e2e::cluster::run_to_end;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};
use ottla_test_support::free_ports;

type Environment = BTreeMap<String, String>;

/// One coordinator and one broker: enough to be refused by.
fn small_cluster() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })
}

/// The environment of a further broker with data and ports of its own.
fn another_broker(cluster: &Cluster, id: i32) -> Result<Environment> {
    let mut environment = cluster.environment(Node::Broker(1))?;
    let ports = free_ports(2)?;
    let listeners = format!("INTERNAL://127.0.0.1:{},HOST://127.0.0.1:{}", ports[0], ports[1]);
    let data = cluster.folder().join(format!("another-{id}-{}", ports[0]));
    environment.insert("KAFKA_BROKER_ID".into(), id.to_string());
    environment.insert("KAFKA_LISTENERS".into(), listeners.clone());
    environment.insert("KAFKA_ADVERTISED_LISTENERS".into(), listeners);
    environment.insert("KAFKA_LOG_DIRS".into(), data.display().to_string());
    Ok(environment)
}

/// Runs a binary that must refuse to run; the one line in which it says why.
fn refusal(binary: &str, environment: &Environment) -> Result<String> {
    let (status, output) = run_to_end(binary, environment)?;
    ensure!(status.code() == Some(1), "ended with {status}:\n{output}");
    let errors: Vec<&str> = output.lines().filter(|line| line.starts_with(&format!("{binary}: "))).collect();
    ensure!(
        errors.len() == 1 && output.trim_end().ends_with(errors[0]),
        "wanted one last line of error, got:\n{output}"
    );
    ensure!(!output.contains("ERROR") && !output.contains("panicked"), "{output}");
    Ok(errors[0].to_owned())
}

fn check_mentions(line: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(line.contains(word), "{line:?} does not mention {word:?}");
    }
    Ok(())
}

#[test]
fn scenario_24_a_second_broker_with_a_live_id() -> Result<()> {
    let cluster = small_cluster()?;
    let line = refusal("ottla-broker", &another_broker(&cluster, 1)?)?;
    check_mentions(&line, &["broker.id=1", "127.0.0.1:"])?;
    ensure!(clients::broker_ids(cluster.broker_address(1))? == [1], "the living broker noticed");
    Ok(())
}

#[test]
fn scenario_24_a_broker_of_another_cluster() -> Result<()> {
    let (mut one, other) = (small_cluster()?, small_cluster()?);
    one.kill(Node::Broker(1))?;
    let mut environment = one.environment(Node::Broker(1))?;
    environment.insert("KAFKA_COORDINATOR_CONNECT".into(), other.coordinator_address(1));
    let line = refusal("ottla-broker", &environment)?;
    check_mentions(&line, &["another cluster", "coordinator.connect="])?;
    ensure!(clients::broker_ids(other.broker_address(1))? == [1], "the other cluster's broker noticed");
    Ok(())
}

#[test]
fn a_listener_without_a_protocol() -> Result<()> {
    let cluster = small_cluster()?;
    let mut environment = another_broker(&cluster, 2)?;
    environment.insert("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP".into(), "INTERNAL:PLAINTEXT".into());
    let line = refusal("ottla-broker", &environment)?;
    check_mentions(&line, &["listener.security.protocol.map", "HOST"])
}

#[test]
fn an_inter_broker_listener_that_does_not_exist() -> Result<()> {
    let cluster = small_cluster()?;
    let mut environment = another_broker(&cluster, 2)?;
    environment.insert("KAFKA_INTER_BROKER_LISTENER_NAME".into(), "NOWHERE".into());
    check_mentions(&refusal("ottla-broker", &environment)?, &["inter.broker.listener.name", "NOWHERE"])
}

#[test]
fn a_port_in_use() -> Result<()> {
    let cluster = small_cluster()?;
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let port = taken.local_addr()?.port();
    let mut environment = another_broker(&cluster, 2)?;
    let listeners = format!("INTERNAL://127.0.0.1:{port}");
    environment.insert("KAFKA_LISTENERS".into(), listeners.clone());
    environment.insert("KAFKA_ADVERTISED_LISTENERS".into(), listeners);
    check_mentions(&refusal("ottla-broker", &environment)?, &["listeners", &port.to_string()])?;

    let mut environment = cluster.environment(Node::Coordinator(1))?;
    environment.insert("COORDINATOR_CLIENT_PORT".into(), port.to_string());
    environment.insert("COORDINATOR_SERVERS".into(), format!("1@127.0.0.1:{port}"));
    environment.insert("COORDINATOR_DATA_DIR".into(), cluster.folder().join("elsewhere").display().to_string());
    check_mentions(&refusal("ottla-coordinator", &environment)?, &[&port.to_string()])
}

#[test]
fn a_data_directory_in_use() -> Result<()> {
    let cluster = small_cluster()?;
    let mut environment = another_broker(&cluster, 2)?;
    let taken = cluster.data_folder(Node::Broker(1))?.display().to_string();
    environment.insert("KAFKA_LOG_DIRS".into(), taken.clone());
    check_mentions(&refusal("ottla-broker", &environment)?, &["log.dirs", &taken])?;

    let mut environment = cluster.environment(Node::Coordinator(1))?;
    let port = free_ports(1)?[0];
    environment.insert("COORDINATOR_CLIENT_PORT".into(), port.to_string());
    environment.insert("COORDINATOR_SERVERS".into(), format!("1@127.0.0.1:{port}"));
    let taken = cluster.data_folder(Node::Coordinator(1))?.display().to_string();
    check_mentions(&refusal("ottla-coordinator", &environment)?, &[&taken])
}

/// A folder that cannot be written: for root, to whom permissions do not apply, a path below a plain file.
#[test]
fn a_directory_that_cannot_be_written() -> Result<()> {
    let cluster = small_cluster()?;
    let file = cluster.folder().join("plain-file");
    fs::write(&file, "not a folder")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
    let path = file.join("data").display().to_string();
    let mut environment = another_broker(&cluster, 2)?;
    environment.insert("KAFKA_LOG_DIRS".into(), path.clone());
    check_mentions(&refusal("ottla-broker", &environment)?, &["log.dirs", &path])?;

    // /proc refuses new folders even to root, as a read-only file system does.
    let mut environment = cluster.environment(Node::Coordinator(1))?;
    environment.insert("COORDINATOR_DATA_DIR".into(), "/proc/ottla".into());
    check_mentions(&refusal("ottla-coordinator", &environment)?, &["/proc/ottla"])
}
