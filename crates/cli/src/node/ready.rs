//! `ottla ready`: whether the services that the settings name serve on this machine. The health check of the images.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ottla_client::{Client, ClientConfig};
use ottla_config::{BrokerConfig, CoordinatorConfig, HostPort, Listener};
use ottla_model::SecurityProtocol;
use ottla_secure_stream::StreamSecurity;
use ottla_tls::{ClientTls, TlsSettings};
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
        let (address, security) = way_to_broker(&broker.config)?;
        within(ask_broker(&address, security)).await.with_context(|| format!("broker at {address}"))?;
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

/// A listener that needs nothing, else that of the brokers, with their own keys and login.
fn way_to_broker(config: &BrokerConfig) -> Result<(HostPort, StreamSecurity)> {
    let address = |listener: &Listener| HostPort::new(reachable(&listener.host), listener.port);
    let mut listeners = config.listeners.iter();
    if let Some(open) = listeners.find(|listener| listener.protocol == SecurityProtocol::Plaintext) {
        return Ok((address(open), StreamSecurity::default()));
    }
    let inter_broker = config.listeners.iter().find(|listener| listener.name == config.inter_broker_listener);
    let peers = &config.security.inter_broker;
    // The loopback address is in no certificate.
    let settings = peers.tls.clone().map(|tls| TlsSettings { verifies_host: false, ..tls });
    let tls = settings.map(ClientTls::new).transpose()?.map(Arc::new);
    let security = StreamSecurity { tls, credentials: peers.credentials.clone() };
    Ok((inter_broker.map(address).context("no listener")?, security))
}

/// A host that is bound everywhere is reached at the loopback address.
fn reachable(host: &str) -> &str {
    match host {
        "" | "0.0.0.0" | "::" => "127.0.0.1",
        host => host,
    }
}

async fn ask_broker(address: &HostPort, security: StreamSecurity) -> Result<()> {
    let mut config = ClientConfig::new(&address.to_string());
    config.connection.security = security;
    let brokers = Client::new(config).metadata(Some(&[])).await?.brokers;
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
