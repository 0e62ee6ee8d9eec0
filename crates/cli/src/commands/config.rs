//! `ottla config get`, `set` and `unset`: the configuration of topics, brokers and groups.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use ottla_client::{ConfigChange, ConfigResource};
use ottla_model::BrokerId;
use serde_json::Value;

use super::at::Bootstrap;
use super::pair;
use super::rendering::{Output, Table};
use crate::kafka::Kafka;
use crate::node::explain::{self, ExplainArguments};
use crate::out;

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// What the environment, FILE and overrides come to, and where each value came from
    Explain(ExplainArguments),
    /// Show the configuration of a topic, a broker or a group
    Get {
        #[command(flatten)]
        of: Resource,
        /// Also the defaults
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Set values: all of them, or none
    Set {
        #[command(flatten)]
        of: Resource,
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = pair)]
        values: Vec<(String, String)>,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Back to the defaults
    Unset {
        #[command(flatten)]
        of: Resource,
        #[arg(required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        at: Bootstrap,
    },
}

#[derive(Args)]
#[group(id = "resource", required = true, multiple = false)]
pub struct Resource {
    #[arg(long)]
    topic: Option<String>,
    /// The id of a broker, or `default` for all
    #[arg(long)]
    broker: Option<String>,
    #[arg(long)]
    group: Option<String>,
    /// The name of a subscription to metrics of clients
    #[arg(long)]
    client_metrics: Option<String>,
}

impl Resource {
    fn to_resource(&self) -> Result<ConfigResource> {
        if let Some(name) = &self.client_metrics {
            return Ok(ConfigResource::ClientMetrics(name.clone()));
        }
        Ok(match (&self.topic, &self.broker, &self.group) {
            (Some(topic), _, _) => ConfigResource::Topic(topic.clone()),
            (_, Some(broker), _) if broker == "default" => ConfigResource::AllBrokers,
            (_, Some(broker), _) => match broker.parse() {
                Ok(id) => ConfigResource::Broker(BrokerId(id)),
                Err(_) => bail!("--broker {broker}: the id of a broker, or `default`"),
            },
            (_, _, Some(group)) => ConfigResource::Group(group.clone()),
            (None, None, None) => bail!("one of --topic, --broker, --group and --client-metrics is needed"),
        })
    }
}

/// What to say to `config get topic NAME`, which other tools have.
pub fn tip(words: &[String]) -> Option<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [
            "config",
            verb @ ("get" | "set" | "unset"),
            kind @ ("topic" | "broker" | "group" | "client-metrics"),
            rest @ ..,
        ] => {
            let name = rest.first().filter(|name| !name.starts_with('-')).unwrap_or(&"NAME");
            Some(format!("tip: ottla config {verb} --{kind} {name}"))
        }
        _ => None,
    }
}

/// Kafka's number of a value that nobody set.
const DEFAULT_SOURCE: i8 = 5;

fn source(number: i8) -> &'static str {
    match number {
        1 => "topic",
        2 => "broker",
        3 => "all brokers",
        4 => "file",
        DEFAULT_SOURCE => "default",
        7 => "subscription",
        8 => "group",
        _ => "other",
    }
}

pub async fn run(command: ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Explain(arguments) => explain::run(&arguments),
        ConfigCommand::Get { of, all, output, at } => {
            let resource = of.to_resource()?;
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let mut table = Table::new(&["name", "value", "source"]);
            for entry in kafka.client().describe_configs(&resource).await? {
                if all || entry.source != DEFAULT_SOURCE {
                    table.push([entry.name.into(), entry.value.into(), Value::from(source(entry.source))]);
                }
            }
            output.table(&table);
            Ok(())
        }
        ConfigCommand::Set { of, values, at } => {
            let changes = values.into_iter().map(|(name, value)| ConfigChange::Set { name, value }).collect();
            alter(&of, changes, &at).await
        }
        ConfigCommand::Unset { of, keys, at } => {
            let changes = keys.into_iter().map(|name| ConfigChange::Delete { name }).collect();
            alter(&of, changes, &at).await
        }
    }
}

async fn alter(of: &Resource, changes: Vec<ConfigChange>, at: &Bootstrap) -> Result<()> {
    let resource = of.to_resource()?;
    let kafka = Kafka::connect(&at.addresses().await?).await?;
    kafka.client().alter_configs(&resource, &changes).await?;
    out!("changed {} {}", changes.len(), if changes.len() == 1 { "value" } else { "values" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_should_be_an_option_gets_a_tip() {
        let told = |line: &str| tip(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(told("config get topic T").as_deref(), Some("tip: ottla config get --topic T"));
        assert_eq!(told("config set broker").as_deref(), Some("tip: ottla config set --broker NAME"));
        assert_eq!((told("config get --topic T"), told("topic list")), (None, None));
    }
}
