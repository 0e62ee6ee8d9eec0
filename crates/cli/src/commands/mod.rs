//! The commands of `ottla`, one file for each group of commands.

mod cluster;
mod consume;
mod produce;
mod topic;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::node::explain::ExplainArguments;
use crate::node::{self, NodeArguments};
use crate::{dev, local};

/// The cluster of processes that `ottla local` starts by default.
const LOCAL_BROKERS: &str = "127.0.0.1:29092,127.0.0.1:39092,127.0.0.1:49092";
const LOCAL_COORDINATORS: &str = "127.0.0.1:22181,127.0.0.1:32181,127.0.0.1:42181";

/// Ottla: a replicated log for unchanged Kafka clients.
#[derive(Parser)]
#[command(name = "ottla", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A cluster of processes on this machine
    #[command(subcommand)]
    Local(local::LocalCommand),
    /// One coordinator and one broker in a single process
    Dev(dev::DevArguments),
    /// A broker, a coordinator or both, as the settings have it: what a container runs
    Start(NodeArguments),
    /// Whether the services that the settings name serve on this machine
    Ready(NodeArguments),
    /// The settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Write a record for each line of standard input
    Produce(produce::ProduceArguments),
    /// Print the records of a topic
    Consume(consume::ConsumeArguments),
    /// The brokers of the cluster
    Brokers(cluster::BrokersArguments),
    /// The coordinators of the cluster
    Quorum(Coordinators),
    /// The cluster's metadata, with ZooKeeper's paths
    #[command(subcommand)]
    Tree(tree::TreeCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// What the environment, FILE and overrides come to, and where each value came from
    Explain(ExplainArguments),
}

impl Arguments {
    /// Runs what has runtimes of its own and must not be called within one; none where the command is another.
    pub fn run_services(&self) -> Option<Result<()>> {
        match &self.command {
            Command::Dev(arguments) => Some(dev::run(arguments)),
            Command::Start(arguments) => Some(node::start(arguments)),
            _ => None,
        }
    }
}

/// The bootstrap brokers.
#[derive(Args)]
pub struct Bootstrap {
    /// host:port[,host:port…] of some brokers; else OTTLA_BOOTSTRAP, else those of `ottla local`
    #[arg(long, short = 'b', value_name = "ADDRESSES", alias = "broker-list")]
    bootstrap_server: Option<String>,
}

impl Bootstrap {
    fn addresses(&self) -> String {
        let variable = || std::env::var("OTTLA_BOOTSTRAP").ok().filter(|text| !text.is_empty());
        self.bootstrap_server.clone().or_else(variable).unwrap_or_else(|| LOCAL_BROKERS.to_owned())
    }
}

/// The coordinators.
#[derive(Args)]
pub struct Coordinators {
    /// host:port[,host:port…] of coordinators; else OTTLA_COORDINATORS, else those of `ottla local`
    #[arg(long, short = 'c', value_name = "ADDRESSES")]
    coordinators: Option<String>,
}

impl Coordinators {
    fn addresses(&self) -> Result<Vec<String>> {
        let variable = || std::env::var("OTTLA_COORDINATORS").ok().filter(|text| !text.is_empty());
        let text = self.coordinators.clone().or_else(variable).unwrap_or_else(|| LOCAL_COORDINATORS.to_owned());
        crate::quorum::addresses(&text)
    }
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Local(command) => local::run(command).await?,
        // Handled before there is a runtime.
        Command::Dev(_) | Command::Start(_) => {}
        Command::Ready(arguments) => node::ready::run(&arguments).await?,
        Command::Config(ConfigCommand::Explain(arguments)) => node::explain::run(&arguments)?,
        Command::Topic(command) => topic::run(command).await?,
        Command::Produce(arguments) => return produce::run(arguments).await,
        Command::Consume(arguments) => consume::run(arguments).await?,
        Command::Brokers(arguments) => cluster::brokers(arguments).await?,
        Command::Quorum(arguments) => cluster::quorum(&arguments).await?,
        Command::Tree(command) => tree::run(command).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `key=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}
