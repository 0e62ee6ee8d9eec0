//! `ottla ready`: whether the services that the settings name serve on this machine. The health check of the images.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ottla_client::{Client, ClientConfig};
use ottla_config::{BrokerConfig, CoordinatorConfig, HostPort};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::NodeArguments;
use crate::out;

/// A service that is ready answers from memory.
const TIMEOUT: Duration = Duration::from_secs(4);
/// `imok` and whatever a stranger says instead.
const ANSWER_BYTES_MAX: u64 = 64;

pub async fn run(arguments: &NodeArguments) -> Result<()> {
    let node = arguments.load()?;
    if let Some(coordinator) = &node.coordinator {
        let address = coordinator_address(&coordinator.config);
        within(ask_coordinator(&address)).await.with_context(|| format!("coordinator at {address}"))?;
        out!("coordinator at {address}: ready");
    }
    if let Some(broker) = &node.broker {
        let address = broker_address(&broker.config).context("no listener")?;
        within(ask_broker(&address)).await.with_context(|| format!("broker at {address}"))?;
        out!("broker at {address}: ready");
    }
    Ok(())
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {} s", TIMEOUT.as_secs()),
    }
}

fn coordinator_address(config: &CoordinatorConfig) -> HostPort {
    HostPort::new(reachable(&config.client_host), config.client_port)
}

fn broker_address(config: &BrokerConfig) -> Option<HostPort> {
    let listener = config.listeners.first()?;
    Some(HostPort::new(reachable(&listener.host), listener.port))
}

/// A host that is bound everywhere is reached at the loopback address.
fn reachable(host: &str) -> &str {
    match host {
        "" | "0.0.0.0" | "::" => "127.0.0.1",
        host => host,
    }
}

async fn ask_broker(address: &HostPort) -> Result<()> {
    let brokers = Client::new(ClientConfig::new(&address.to_string())).metadata(Some(&[])).await?.brokers;
    if brokers.is_empty() {
        bail!("it knows no broker yet");
    }
    Ok(())
}

/// By ZooKeeper's word for it. A coordinator says so before its quorum is formed: brokers that wait for it may hand
/// over the list.
pub async fn ask_coordinator(address: &HostPort) -> Result<()> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.write_all(b"ruok").await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    if answer != "imok" {
        bail!("it answers {answer:?}");
    }
    Ok(())
}
