//! `ottla config explain`: what a process with these settings would run, each value, and where it came from.

use anyhow::Result;
use clap::Args;
use ottla_config::{BROKER_FAMILIES, COORDINATOR_FAMILIES, Family, Origin, Properties, Property, known};

use super::NodeArguments;
use crate::{err, out};

#[derive(Args)]
pub struct ExplainArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Defaults as well
    #[arg(long)]
    all: bool,
}

pub fn run(arguments: &ExplainArguments) -> Result<()> {
    let node = arguments.node.load()?;
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if let Some(coordinator) = &node.coordinator {
        out!("coordinator:");
        show(&lines(&coordinator.config.properties, arguments.all, why_coordinator));
        show(&unused(&variables, COORDINATOR_FAMILIES));
    }
    if let Some(broker) = &node.broker {
        out!("broker:");
        let texts = |listeners: &[ottla_config::Listener]| {
            listeners.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let config = &broker.config;
        out!("  # listens on {}", texts(&config.listeners));
        out!("  # tells clients {}", texts(&config.advertised_listeners));
        out!("  # other brokers use {}", config.inter_broker_listener);
        show(&lines(&config.properties, arguments.all, why_broker));
        show(&unused(&variables, BROKER_FAMILIES));
    }
    let warnings = [node.coordinator.map(|loaded| loaded.warnings), node.broker.map(|loaded| loaded.warnings)];
    for warning in warnings.into_iter().flatten().flatten() {
        err!("warning: {warning}");
    }
    Ok(())
}

const UNKNOWN: &str = "it is unknown";

/// Why a broker does not use a property.
fn why_broker(name: &str) -> Option<String> {
    known::unread(name).map(|why| why.to_string()).or_else(|| (!known::broker_knows(name)).then(|| UNKNOWN.to_owned()))
}

/// Why a coordinator does not use a property.
fn why_coordinator(name: &str) -> Option<String> {
    let why = known::coordinator_unread(name).or_else(|| (!known::coordinator_knows(name)).then_some(UNKNOWN));
    why.map(str::to_owned)
}

fn show(lines: &[String]) {
    for line in lines {
        out!("  {line}");
    }
}

/// Each property, where it came from, and that it is not used where `why` has a reason.
fn lines(properties: &Properties, all: bool, why: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let shown = properties.iter().filter(|(_, property)| all || property.origin != Origin::Default);
    let line = |(name, property): (&str, &Property)| {
        let value = known::shown(name, &property.value).escape_debug();
        let unused = why(name).filter(|_| property.origin.is_static());
        let unused = unused.map(|why| format!("; not used: {why}")).unwrap_or_default();
        format!("{name}={value}  ({}{unused})", property.origin)
    };
    shown.map(line).collect()
}

/// The variables that stand for no property because nothing here needs them.
fn unused(variables: &[(String, String)], families: &[Family]) -> Vec<String> {
    let unused = ottla_config::unused_variables(variables, families);
    unused.into_iter().map(|(name, why)| format!("# {name} is not used: {why}")).collect()
}

#[cfg(test)]
mod tests {
    use ottla_config::{Node, NodeDefaults, Service, Sources};

    use super::*;

    #[test]
    fn what_is_not_used_says_so() {
        let variables = [
            ("KAFKA_ZOOKEEPER_CONNECT", "z:2181"),
            ("KAFKA_BACKGROUND_THREADS", "4"),
            ("KAFKA_SSL_KEY_PASSWORD", "hunter2"),
            ("KAFKA_HEAP_OPTS", "-Xmx1G"),
            ("KAFKA_NUM_IO_THREDS", "4"),
        ];
        let sources = Sources::of_environment(variables);
        let defaults = NodeDefaults { log_dir: "/l".into(), coordinator_dir: "/c".into() };
        let node = Node::load(Service::Broker, &sources, &defaults).expect("usable");
        let properties = node.broker.expect("a broker").config.properties;
        let lines = lines(&properties, false, why_broker);
        let text = lines.join("\n");
        assert!(text.contains("background.threads=4  (KAFKA_BACKGROUND_THREADS; not used: the number of"), "{text}");
        assert!(text.contains("coordinator.connect=z:2181  (KAFKA_ZOOKEEPER_CONNECT)"), "{text}");
        assert!(text.contains("num.io.threds=4  (KAFKA_NUM_IO_THREDS; not used: it is unknown)"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let unused = unused(&sources.environment, BROKER_FAMILIES);
        assert_eq!(unused, ["# KAFKA_HEAP_OPTS is not used: for a Java process"]);
    }
}
