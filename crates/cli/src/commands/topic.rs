//! `ottla topic`.

use anyhow::Result;
use clap::Subcommand;
use ottla_model::ErrorCode;

use super::{Bootstrap, pair};
use crate::describe::{self, Shown};
use crate::kafka::{Kafka, NewTopic};
use crate::out;

#[derive(Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create {
        name: String,
        /// Default: the cluster's
        #[arg(long, short)]
        partitions: Option<i32>,
        /// Default: the cluster's
        #[arg(long, short)]
        replication_factor: Option<i16>,
        /// A configuration of the topic, such as min.insync.replicas=2
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = pair)]
        configs: Vec<(String, String)>,
        /// Succeed if the topic already exists
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// List topics by name
    List {
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Describe topics: leader, replicas and in-sync replicas of each partition
    Describe {
        /// Default: all topics
        names: Vec<String>,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Delete topics with all their records
    Delete {
        #[arg(required = true)]
        names: Vec<String>,
        /// Succeed if a topic does not exist
        #[arg(long)]
        if_exists: bool,
        #[command(flatten)]
        at: Bootstrap,
    },
}

pub async fn run(command: TopicCommand) -> Result<()> {
    match command {
        TopicCommand::Create { name, partitions, replication_factor, configs, if_not_exists, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let topic =
                NewTopic { name: name.clone(), partitions, replication_factor, assignments: Vec::new(), configs };
            match kafka.create_topic(&topic).await {
                Ok(()) => out!("created topic {name}"),
                Err(error) if if_not_exists && error.is(ErrorCode::TopicAlreadyExists) => {
                    out!("topic {name} is there already");
                }
                Err(error) => return Err(error.into()),
            }
        }
        TopicCommand::List { at } => {
            for name in names(&Kafka::connect(&at.addresses().await?).await?).await? {
                out!("{name}");
            }
        }
        TopicCommand::Describe { names: wanted, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let wanted = if wanted.is_empty() { names(&kafka).await? } else { wanted };
            for line in describe::lines(&kafka.describe(&wanted).await?, &Shown::default()) {
                out!("{line}");
            }
        }
        TopicCommand::Delete { names, if_exists, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            for name in names {
                match kafka.delete_topic(&name).await {
                    Ok(()) => out!("deleted topic {name}"),
                    Err(error) if error.is(ErrorCode::UnknownTopicOrPartition) && if_exists => {
                        out!("topic {name} does not exist");
                    }
                    Err(error) if error.is(ErrorCode::UnknownTopicOrPartition) => {
                        anyhow::bail!("topic {name} does not exist");
                    }
                    Err(error) => return Err(anyhow::Error::from(error).context(format!("delete {name}"))),
                }
            }
        }
    }
    Ok(())
}

async fn names(kafka: &Kafka) -> Result<Vec<String>> {
    let mut names: Vec<String> = kafka.topics().await?.into_iter().map(|topic| topic.name).collect();
    names.sort();
    Ok(names)
}
