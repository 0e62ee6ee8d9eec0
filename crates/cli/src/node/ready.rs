//! `ottla ready`: whether the services that the settings name serve on this machine. The health check of the images.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ottla_client::{Client, ClientConfig};
use ottla_config::{BrokerConfig, CoordinatorConfig, HostPort, Listener, Service};
use ottla_model::SecurityProtocol;
use ottla_secure_stream::StreamSecurity;
use ottla_tls::{ClientTls, TlsSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::NodeArguments;
use super::running::{self, Running};
use crate::out;

/// A service that is ready answers from memory.
const TIMEOUT: Duration = Duration::from_secs(4);
/// `imok`, ZooKeeper's other answers, and whatever a stranger says instead.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// A line that names settings is believed; else what was started in this container counts, else the settings.
pub async fn run(arguments: &NodeArguments) -> Result<()> {
    let (mut coordinator, mut broker) = (None, None);
    if !arguments.names_settings() {
        coordinator = started(Service::Coordinator);
        broker = started(Service::Broker);
    }
    if coordinator.is_none() && broker.is_none() {
        let node = arguments.load()?;
        coordinator = node.coordinator.as_ref().map(|loaded| coordinator_of(&loaded.config));
        broker = node.broker.as_ref().map(|loaded| broker_of(&loaded.config));
    }
    if let Some(Running { address, is_open, .. }) = coordinator.map(alive).transpose()? {
        let security = if is_open { StreamSecurity::default() } else { coordinator_security(arguments)? };
        within(ask_coordinator(&address, &security)).await.with_context(|| format!("coordinator at {address}"))?;
        out!("coordinator at {address}: ready");
    }
    if let Some(Running { address, is_open, .. }) = broker.map(alive).transpose()? {
        let security = if is_open { StreamSecurity::default() } else { security(arguments)? };
        within(ask_broker(&address, security)).await.with_context(|| format!("broker at {address}"))?;
        out!("broker at {address}: ready");
    }
    Ok(())
}

/// The coordinator that was started in this container, else the one that the settings name; and how it is spoken to.
pub fn coordinator(arguments: &NodeArguments) -> Result<(HostPort, StreamSecurity)> {
    let running = match started(Service::Coordinator).filter(|_| !arguments.names_settings()) {
        Some(running) => running,
        None => coordinator_of(&arguments.load()?.coordinator.context("the settings name no coordinator")?.config),
    };
    let security = if running.is_open { StreamSecurity::default() } else { coordinator_security(arguments)? };
    Ok((running.address, security))
}

fn started(service: Service) -> Option<Running> {
    running::recall(&running::directory()?, service)
}

fn alive(running: Running) -> Result<Running> {
    if !running.is_alive() {
        bail!("the service at {} has ended: process {} is gone", running.address, running.process);
    }
    Ok(running)
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {} s", TIMEOUT.as_secs()),
    }
}

/// How this machine reaches a coordinator of these settings.
pub fn coordinator_of(config: &CoordinatorConfig) -> Running {
    let port = config.client_port.or(config.secure_client_port).unwrap_or_default();
    Running::here(HostPort::new(reachable(&config.client_host), port), config.client_port.is_some())
}

/// How this machine reaches a broker of these settings: at a listener that needs nothing, else at that of the brokers.
pub fn broker_of(config: &BrokerConfig) -> Running {
    let open = config.listeners.iter().find(|listener| listener.protocol == SecurityProtocol::Plaintext);
    let of_brokers = || config.listeners.iter().find(|listener| listener.name == config.inter_broker_listener);
    // Both are among the listeners of every configuration that was read.
    let listener = open.or_else(of_brokers);
    let address = listener.map_or_else(
        || HostPort::new("127.0.0.1", 0),
        |listener: &Listener| HostPort::new(reachable(&listener.host), listener.port),
    );
    Running::here(address, open.is_some())
}

/// The coordinator's own key: it has been signed for clients too where coordinators speak TLS to each other.
fn coordinator_security(arguments: &NodeArguments) -> Result<StreamSecurity> {
    let coordinator = arguments.load()?.coordinator.context("the settings name no coordinator")?;
    let settings = coordinator.config.tls.context("the settings have no secure.client.port")?.settings;
    let tls = ClientTls::new(TlsSettings { verifies_host: false, ..settings })?;
    Ok(StreamSecurity::new(Some(tls), None)?)
}

/// The brokers' own keys and login.
fn security(arguments: &NodeArguments) -> Result<StreamSecurity> {
    let broker = arguments.load()?.broker.context("the settings name no broker")?;
    let peers = &broker.config.security.inter_broker;
    // The loopback address is in no certificate.
    let settings = peers.tls.clone().map(|tls| TlsSettings { verifies_host: false, ..tls });
    Ok(StreamSecurity::new(settings.map(ClientTls::new).transpose()?, peers.login.clone())?)
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
pub async fn ask_coordinator(address: &HostPort, security: &StreamSecurity) -> Result<()> {
    let answer = four_letter_word(address, security, "ruok").await?;
    if answer != "imok" {
        bail!("it answers {:?}", answer.chars().take(64).collect::<String>());
    }
    Ok(())
}

/// What a coordinator answers to one of ZooKeeper's words.
async fn four_letter_word(address: &HostPort, security: &StreamSecurity, word: &str) -> Result<String> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let (mut stream, _) = security.secure(stream, &address.host).await?;
    stream.write_all(word.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// `leader`, `follower` or the like, while the coordinator knows a leader. One that was told no list serves whoever
/// comes first: brokers wait for a check that says so before they bring the list. ZooKeeper is `standalone` then.
pub async fn coordinator_mode(address: &HostPort, security: &StreamSecurity) -> Result<String> {
    let answer = within(four_letter_word(address, security, "srvr")).await?;
    if let Some(mode) = answer.lines().find_map(|line| line.strip_prefix("Mode: ")) {
        return Ok(mode.to_owned());
    }
    let settings = within(four_letter_word(address, security, "conf")).await?;
    let has_list = settings.lines().any(|line| line.starts_with("server."));
    if has_list || !settings.contains("clientPort=") {
        bail!("it knows no leader");
    }
    Ok("standalone".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The mode, as told by a server that answers so to `srvr` and to `conf`.
    async fn mode(srvr: &'static str, conf: &'static str) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = HostPort::new("127.0.0.1", listener.local_addr().expect("bound").port());
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.expect("a word");
                let answer = if &word == b"srvr" { srvr } else { conf };
                stream.write_all(answer.as_bytes()).await.expect("taken");
            }
        });
        let mode = coordinator_mode(&address, &StreamSecurity::default()).await.ok();
        serving.abort();
        mode
    }

    #[tokio::test]
    async fn a_mode_is_told_by_who_serves() {
        let serving = mode("Zookeeper version: 3.9\nMode: follower\nNode count: 5\n", "").await;
        assert_eq!(serving.as_deref(), Some("follower"));
        let waiting = "This ZooKeeper instance is not currently serving requests\n";
        let alone = mode(waiting, "clientPort=2181\nserverId=1\n").await;
        assert_eq!(alone.as_deref(), Some("standalone"));
        assert_eq!(mode(waiting, "clientPort=2181\nserver.1=a:2181:participant\n").await, None);
        assert_eq!(mode("HTTP/1.1 400 Bad Request\n", "HTTP/1.1 400 Bad Request\n").await, None);
    }
}
