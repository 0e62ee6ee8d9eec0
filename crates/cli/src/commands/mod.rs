//! The commands of `ottla`, one file for each group of commands.

mod at;
mod balance;
mod bench;
mod cluster;
pub mod config;
mod consume;
mod generate;
mod group;
mod group_reset;
mod produce;
mod rebalance;
mod record_json;
mod rendering;
mod top;
mod topic;
mod tree;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};

use crate::kafka_tools::dump_log;
use crate::node::{self, NodeArguments};
use crate::{dev, local};
use at::{Bootstrap, Coordinators};

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
    /// The settings of services, and the configuration of topics, brokers and groups
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Live rates by topic and by client
    Top(top::TopArguments),
    /// Write a record for each line of standard input
    Produce(produce::ProduceArguments),
    /// How fast records are written and read
    Bench(bench::BenchArguments),
    /// Print the records of a topic
    Consume(consume::ConsumeArguments),
    /// The brokers of the cluster
    Brokers(cluster::BrokersArguments),
    /// Brokers: list them; one leaves the cluster
    #[command(subcommand)]
    Broker(balance::BrokerCommand),
    /// Brokers get their shares of bytes, replicas and leaders
    #[command(subcommand)]
    Rebalance(rebalance::RebalanceCommand),
    /// The coordinators of the cluster
    Quorum(cluster::QuorumArguments),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// What is in the files of a log: as kafka-dump-log, with its options
    #[command(disable_help_flag = true)]
    Dump {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Completions of a shell, and manual pages: what `make install` installs
    #[command(subcommand, hide = true)]
    Generate(generate::GenerateCommand),
    /// The cluster's metadata, with ZooKeeper's paths
    #[command(subcommand)]
    Tree(tree::TreeCommand),
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

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Local(command) => local::run(command).await?,
        // Handled before there is a runtime.
        Command::Dev(_) | Command::Start(_) => {}
        Command::Ready(arguments) => node::ready::run(&arguments).await?,
        Command::Config(command) => config::run(command).await?,
        Command::Topic(command) => topic::run(command).await?,
        Command::Group(command) => group::run(command).await?,
        Command::Top(arguments) => top::run(arguments).await?,
        Command::Produce(arguments) => return produce::run(arguments).await,
        Command::Bench(arguments) => bench::run(arguments).await?,
        Command::Consume(arguments) => consume::run(arguments).await?,
        Command::Brokers(arguments) => cluster::brokers(arguments).await?,
        Command::Quorum(arguments) => cluster::quorum(arguments).await?,
        Command::Cluster(command) => return cluster::run(command).await,
        Command::Dump { arguments } => {
            dump_log::check(&arguments).map_err(|error| anyhow!("{error}; ottla dump --help lists the options"))?;
            return Ok(dump_log::run(&arguments).await);
        }
        Command::Generate(command) => generate::run(command)?,
        Command::Broker(command) => balance::broker(command).await?,
        Command::Rebalance(command) => rebalance::rebalance(command).await?,
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
