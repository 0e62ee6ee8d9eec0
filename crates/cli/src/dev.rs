//! `ottla dev`: one coordinator and one broker in one process, for trying Ottla out.
//!
//! The only file of this crate that uses both services (`docs/adr/0002-the-cli-holds-both-services.md`). The broker's
//! control runtime takes the main thread, the coordinator has its own thread. The broker stops first, because its
//! controlled shutdown needs the coordinator.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use ottla_broker::signals;
use ottla_broker::telemetry::logging;
use ottla_config::{BrokerConfig, CoordinatorConfig, HostPort, Sources};
use ottla_coordinator::Coordinator;
use tokio::sync::oneshot;

use crate::out;

#[derive(Args)]
pub struct DevArguments {
    /// The data directory
    #[arg(long, default_value = "data-dev")]
    dir: PathBuf,
    /// The port for Kafka clients; 0: any free one
    #[arg(long, short, default_value_t = 9092)]
    port: u16,
    /// The coordinator's port, for `ottla tree` and similar commands; 0: any free one
    #[arg(long, default_value_t = 2181)]
    coordinator_port: u16,
    /// A property of the broker; KAFKA_* variables work as well
    #[arg(long = "override", short = 'o', value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub fn run(arguments: &DevArguments) -> Result<()> {
    let coordinator = CoordinatorThread::start(&arguments.dir, arguments.coordinator_port)?;
    let broker = broker_config(arguments, &coordinator.address)?;
    let address = coordinator.address.clone();
    let ran = ottla_broker::run(broker, signals::stop_asked()?, |ready| {
        for (name, bound) in &ready.listeners {
            out!("Kafka clients: {bound} ({name})");
        }
        out!("coordinator: {address}; Ctrl-C ends both");
    });
    coordinator.stop()?;
    Ok(ran?)
}

fn broker_config(arguments: &DevArguments, coordinator: &HostPort) -> Result<BrokerConfig> {
    let mut sources = Sources::of_process(None, &arguments.overrides)?;
    // These settings override the environment, because the broker belongs to this process; --override still wins.
    let own = [
        ("broker.id", "1".to_owned()),
        ("coordinator.connect", coordinator.to_string()),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{}", arguments.port)),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{}", arguments.port)),
        ("log.dirs", arguments.dir.join("broker").display().to_string()),
    ];
    let flags = own.into_iter().map(|(key, value)| (key.to_owned(), value));
    sources.flags = flags.chain(sources.flags).collect();
    let loaded = BrokerConfig::load(&sources)?;
    logging::install(&loaded.config.logging);
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// The coordinator, on its own runtime.
struct CoordinatorThread {
    address: HostPort,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl CoordinatorThread {
    fn start(dir: &Path, port: u16) -> Result<Self> {
        let mut sources = Sources::of_process(None, &[])?;
        // Neither id nor servers: a quorum of one at once.
        sources.environment.retain(|(name, _)| !matches!(name.as_str(), "ZOOKEEPER_SERVER_ID" | "ZOOKEEPER_SERVERS"));
        sources.flags = vec![
            ("client.host".to_owned(), "127.0.0.1".to_owned()),
            ("client.port".to_owned(), port.to_string()),
            ("data.dir".to_owned(), dir.join("coordinator").display().to_string()),
        ];
        let config = CoordinatorConfig::load(&sources)?.config;
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = mpsc::channel();
        let thread = std::thread::Builder::new().name("coordinator".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(async {
                let coordinator = Coordinator::bind(config).await?;
                let address = coordinator.client_address().context("the coordinator's address")?;
                // The caller waits for the address.
                let _ = bound.send(address);
                // A sender that is gone ends the coordinator too: its broker has ended.
                coordinator.run(async { drop(stopped.await) }).await?;
                Ok(())
            });
            runtime.shutdown_background();
            result
        })?;
        match address.recv() {
            Ok(address) => Ok(Self { address: HostPort::new(address.ip().to_string(), address.port()), stop, thread }),
            // It ended before it was bound, and says why.
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| anyhow!("the coordinator ended"))),
        }
    }

    fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        joined(self.thread)
    }
}

fn joined(thread: std::thread::JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("the coordinator's thread panicked")))
}
