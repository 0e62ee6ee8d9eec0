//! `ottla topic`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use ottla_client::TopicView;
use ottla_model::{ErrorCode, TopicName};
use serde_json::{Value, json};

use super::rendering::{Output, Table, counted};
use super::{Bootstrap, pair};
use crate::describe::{self, Shown};
use crate::kafka::{Kafka, NewTopic, PartitionDescription, TopicDescription};
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
    /// Give a topic more partitions; records with a key may go to other partitions from then on
    Alter {
        name: String,
        /// How many there are to be
        #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// List topics by name
    List {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Describe topics: leader, replicas and in-sync replicas of each partition
    Describe {
        /// Names, or regular expressions such as 'my-.*'; default: all topics
        names: Vec<String>,
        #[command(flatten)]
        output: Output,
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
        TopicCommand::Alter { name, partitions, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            match kafka.grow_topic(&name, partitions, &[]).await {
                Ok(()) => out!("topic {name} has {}", counted(partitions, "partition")),
                Err(error) if error.is(ErrorCode::UnknownTopicOrPartition) => bail!("topic {name} does not exist"),
                Err(error) => return Err(error.into()),
            }
        }
        TopicCommand::List { output, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let mut topics = kafka.client().list_topics().await?;
            topics.sort_by(|one, other| one.name.cmp(&other.name));
            // A person, and a script that reads lines, wants names alone.
            output.value(&listed(&topics), || topics.iter().map(|topic| topic.name.clone()).collect());
        }
        TopicCommand::Describe { names: wanted, output, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let wanted = chosen(&kafka, wanted).await?;
            let found = kafka.describe(&wanted).await?;
            output.value(&described(&found), || describe::lines(&found, &Shown::default()));
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
                        bail!("topic {name} does not exist");
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

/// The topics that are meant: a word that can be no name of a topic is a regular expression.
async fn chosen(kafka: &Kafka, wanted: Vec<String>) -> Result<Vec<String>> {
    if wanted.iter().all(|word| TopicName::new(word).is_ok()) && !wanted.is_empty() {
        return Ok(wanted);
    }
    matching(&names(kafka).await?, &wanted)
}

/// In the order of the words, each topic once; without words all.
fn matching(existing: &[String], words: &[String]) -> Result<Vec<String>> {
    if words.is_empty() {
        return Ok(existing.to_vec());
    }
    let mut chosen: Vec<String> = Vec::new();
    for word in words {
        if TopicName::new(word).is_ok() {
            chosen.push(word.clone());
            continue;
        }
        let pattern = regex::Regex::new(&format!("^(?:{word})$"))
            .with_context(|| format!("{word} is neither the name of a topic nor a regular expression"))?;
        let before = chosen.len();
        chosen.extend(existing.iter().filter(|name| pattern.is_match(name)).cloned());
        if chosen.len() == before {
            bail!("no topic's name matches {word}");
        }
    }
    let mut seen = BTreeSet::new();
    chosen.retain(|name| seen.insert(name.clone()));
    Ok(chosen)
}

fn listed(topics: &[TopicView]) -> Value {
    let mut table = Table::new(&["topic", "topic_id", "partitions", "replication_factor", "internal"]);
    for topic in topics {
        let replicas = topic.partitions.values().next().map_or(0, |partition| partition.replicas.len());
        table.push([
            topic.name.as_str().into(),
            topic.id.to_string().into(),
            topic.partitions.len().into(),
            replicas.into(),
            topic.is_internal.into(),
        ]);
    }
    table.to_json()
}

fn described(topics: &[TopicDescription]) -> Value {
    let partition = |partition: &PartitionDescription| {
        json!({
            "partition": partition.partition,
            "leader": partition.leader,
            "replicas": partition.replicas,
            "isr": partition.isr,
            "elr": partition.elr,
            "adding_replicas": partition.reassignment.as_ref().map(|(adding, _)| adding),
            "removing_replicas": partition.reassignment.as_ref().map(|(_, removing)| removing),
        })
    };
    let topic = |topic: &TopicDescription| {
        let configs: serde_json::Map<String, Value> =
            topic.configs.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        json!({
            "topic": topic.name,
            "topic_id": topic.topic_id,
            "configs": configs,
            "partitions": topic.partitions.iter().map(partition).collect::<Vec<_>>(),
        })
    };
    topics.iter().map(topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_names_are_expressions() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let existing = words(&["my-a", "my-b", "other"]);
        let chosen = |list: &[&str]| matching(&existing, &words(list)).map_err(|error| error.to_string());
        assert_eq!(chosen(&["my-.*"]), Ok(words(&["my-a", "my-b"])));
        assert_eq!(chosen(&["other", "(my|other).*"]), Ok(words(&["other", "my-a", "my-b"])));
        // Whether it exists says the cluster.
        assert_eq!(chosen(&["none"]), Ok(words(&["none"])));
        assert_eq!(chosen(&[]), Ok(existing.clone()));
        assert_eq!(chosen(&["no.*"]), Err("no topic's name matches no.*".to_owned()));
        assert!(chosen(&["("]).is_err_and(|text| text.contains("neither")));
    }
}
