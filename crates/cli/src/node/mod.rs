//! `ottla start`: what a container runs. The settings say which services ([`ottla_config::Node`]); here they are
//! started, and ended in the order that a clean stop needs.
//!
//! With `ottla dev` the one user of both services in this crate (`docs/adr/0002-the-cli-holds-both-services.md`). The
//! broker's control runtime takes the main thread, the coordinator a thread of its own; the broker stops first, because
//! the coordinator must move its leaderships before it ends.

pub mod coordinator_thread;
mod directories;
pub mod explain;
pub mod ready;
mod running;
mod user;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ottla_broker::signals;
use ottla_broker::telemetry::logging;
use ottla_config::{BrokerConfig, Loaded, LoggingConfig, Node, Service, Sources};

use coordinator_thread::CoordinatorThread;
use running::Running;

#[derive(Args)]
pub struct NodeArguments {
    /// A file of properties (key=value lines), or a zoo.cfg
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// What runs where no process.roles are set; else OTTLA_SERVICE, else a broker
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
    /// One property; wins over the file and the environment
    #[arg(long = "override", short = 'o', alias = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ServiceName {
    Broker,
    Coordinator,
}

impl NodeArguments {
    /// Those of a start script of Kafka's: `FILE [--override KEY=VALUE…]`.
    pub fn of_script(service: Service, line: &[String]) -> Self {
        let mut arguments = Self { file: None, service: Some(ServiceName::Broker), overrides: Vec::new() };
        if service == Service::Coordinator {
            arguments.service = Some(ServiceName::Coordinator);
        }
        let mut words = line.iter().filter(|word| *word != "-loggc");
        while let Some(word) = words.next() {
            match word.strip_prefix("--override") {
                Some("") => arguments.overrides.extend(words.next().cloned()),
                Some(rest) => arguments.overrides.extend(rest.strip_prefix('=').map(str::to_owned)),
                None => arguments.file = arguments.file.take().or_else(|| Some(PathBuf::from(word))),
            }
        }
        arguments
    }

    /// Whether the line says what runs, rather than leaving it to the environment.
    fn names_settings(&self) -> bool {
        self.file.is_some() || !self.overrides.is_empty()
    }

    fn service(&self) -> Result<Service> {
        match self.service {
            Some(ServiceName::Broker) => return Ok(Service::Broker),
            Some(ServiceName::Coordinator) => return Ok(Service::Coordinator),
            None => {}
        }
        match std::env::var("OTTLA_SERVICE").as_deref() {
            Ok("coordinator") => Ok(Service::Coordinator),
            Ok("broker" | "") | Err(_) => Ok(Service::Broker),
            Ok(other) => bail!("OTTLA_SERVICE={other}: no service; accepted: broker, coordinator"),
        }
    }

    fn load(&self) -> Result<Node> {
        let service = self.service()?;
        let file = self.file.clone().or_else(|| directories::mounted_file(service));
        let sources = Sources::of_process(file, &self.overrides)?;
        Ok(Node::load(service, &sources, &directories::defaults())?)
    }
}

/// The directories of a node with this file, for `kafka-storage`. Scripts for other images name files that these images
/// do not have.
pub fn log_dirs(file: &Path) -> Result<Vec<PathBuf>> {
    let named = Some(file.to_owned()).filter(|file| file.exists());
    let file = named.or_else(|| directories::mounted_file(Service::Broker));
    let sources = Sources::of_process(file, &[])?;
    Ok(Node::log_dirs(&sources, &directories::defaults())?)
}

/// Runs until SIGTERM or SIGINT, or until a service cannot go on.
pub fn start(arguments: &NodeArguments) -> Result<()> {
    let node = arguments.load()?;
    // While this is root: the file of a former life may be another user's.
    let services = services(&node);
    forget(&services);
    user::leave_root(&directories::of(&node))?;
    let logging = match (&node.broker, &node.coordinator) {
        (Some(broker), _) => broker.config.logging.clone(),
        (None, Some(coordinator)) => coordinator.config.logging.clone(),
        (None, None) => LoggingConfig::default(),
    };
    logging::install(&logging);
    let stop_asked = signals::stop_asked()?;
    remember(&services);
    run(node, stop_asked)?;
    // Only after a clean end: a service that failed is missed by the health check.
    forget(&services);
    Ok(())
}

fn run(node: Node, stop_asked: impl Future<Output = ()>) -> Result<()> {
    let mut coordinator = None;
    if let Some(Loaded { config, warnings }) = node.coordinator {
        warn(&warnings);
        let started = CoordinatorThread::start(config)?;
        // As ZooKeeper logs it: start scripts and wait strategies look for the line.
        tracing::info!("binding to port {}", started.address);
        coordinator = Some(started);
    }
    match (node.broker, coordinator) {
        (Some(Loaded { config, warnings }), None) => {
            warn(&warnings);
            run_broker(config, stop_asked)
        }
        (Some(Loaded { config, warnings }), Some(mut coordinator)) => {
            warn(&warnings);
            let ended = coordinator.ended();
            let stop = async {
                tokio::select! {
                    () = stop_asked => {}
                    () = ended => tracing::error!("the coordinator ended: this node's broker stops too"),
                }
            };
            let ran = run_broker(config, stop);
            coordinator.stop()?;
            ran
        }
        (None, Some(mut coordinator)) => {
            let ended = coordinator.ended();
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            runtime.block_on(async {
                tokio::select! {
                    () = stop_asked => tracing::info!("stopping"),
                    () = ended => {}
                }
            });
            coordinator.stop()
        }
        (None, None) => Ok(()),
    }
}

/// The services of a node, and how a check on this machine asks each.
fn services(node: &Node) -> Vec<(Service, Running)> {
    let coordinator = node.coordinator.as_ref().map(|loaded| ready::coordinator_of(&loaded.config));
    let broker = node.broker.as_ref().map(|loaded| ready::broker_of(&loaded.config));
    let coordinator = coordinator.map(|running| (Service::Coordinator, running));
    coordinator.into_iter().chain(broker.map(|running| (Service::Broker, running))).collect()
}

/// Leaves for `ottla ready` where the services serve. Without it the check goes by its own environment.
fn remember(services: &[(Service, Running)]) {
    let Some(directory) = running::directory() else { return };
    for (service, running) in services {
        if let Err(error) = running::remember(&directory, *service, running) {
            tracing::info!(%error, directory = %directory.display(), "the health check goes by the environment alone");
        }
    }
}

fn forget(services: &[(Service, Running)]) {
    let Some(directory) = running::directory() else { return };
    for (service, _) in services {
        running::forget(&directory, *service);
    }
}

fn run_broker(config: BrokerConfig, stop: impl Future<Output = ()>) -> Result<()> {
    ottla_broker::run(config, stop, |ready| {
        // Once, and only now, the words that wait strategies and start scripts look for in Kafka's log.
        tracing::info!(
            "[KafkaServer id={}] started (kafka.server.KafkaServer): Kafka Server started, Transitioning from RECOVERY to RUNNING",
            ready.id
        );
    })?;
    Ok(())
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_words_are_a_file_and_overrides() {
        let line = ["-loggc", "config/server.properties", "--override", "a=b", "--override=c=d"].map(str::to_owned);
        let arguments = NodeArguments::of_script(Service::Broker, &line);
        assert_eq!(arguments.file, Some(PathBuf::from("config/server.properties")));
        assert_eq!(arguments.overrides, ["a=b", "c=d"]);
        assert_eq!(arguments.service().expect("a service"), Service::Broker);
    }
}
