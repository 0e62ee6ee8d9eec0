//! `ottla dev`: one coordinator and one broker in one process, for trying Ottla out.
//!
//! Like `ottla start` of a node that is told nothing, on the loopback address and in a directory of one's own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use ottla_broker::signals;
use ottla_broker::telemetry::logging;
use ottla_config::{BrokerConfig, CoordinatorConfig, HostPort, Sources};

use crate::node::coordinator_thread::CoordinatorThread;
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
    let coordinator = CoordinatorThread::start(coordinator_config(&arguments.dir, arguments.coordinator_port)?)?;
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

fn coordinator_config(dir: &Path, port: u16) -> Result<CoordinatorConfig> {
    let mut sources = Sources::of_process(None, &[])?;
    // Neither id nor servers: a quorum of one at once.
    sources.environment.retain(|(name, _)| name.starts_with("COORDINATOR_"));
    sources.flags = vec![
        ("client.host".to_owned(), "127.0.0.1".to_owned()),
        ("client.port".to_owned(), port.to_string()),
        ("data.dir".to_owned(), dir.join("coordinator").display().to_string()),
    ];
    Ok(CoordinatorConfig::load(&sources)?.config)
}
