//! `ottla config explain`: what a process with these settings would run, each value, and where it came from.

use anyhow::Result;
use clap::Args;
use ottla_config::{Origin, Properties, known};

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
    if let Some(coordinator) = &node.coordinator {
        out!("coordinator:");
        show(&coordinator.config.properties, arguments.all);
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
        show(&config.properties, arguments.all);
    }
    let warnings = [node.coordinator.map(|loaded| loaded.warnings), node.broker.map(|loaded| loaded.warnings)];
    for warning in warnings.into_iter().flatten().flatten() {
        err!("warning: {warning}");
    }
    Ok(())
}

fn show(properties: &Properties, all: bool) {
    for (name, property) in properties.iter() {
        if all || property.origin != Origin::Default {
            out!("  {name}={}  ({})", known::shown(name, &property.value).escape_debug(), property.origin);
        }
    }
}
