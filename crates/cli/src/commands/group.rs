//! `ottla group`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Subcommand;
use ottla_client::ClientError;
use ottla_model::{ErrorCode, TopicPartition};
use serde_json::{Value, json};

use super::at::Bootstrap;
use super::group_reset::{self, ResetArguments};
use super::rendering::{Output, Table};
use crate::kafka::Kafka;
use crate::kafka_tools::consumer_groups::LATEST;
use crate::{out, output};

#[derive(Subcommand)]
pub enum GroupCommand {
    /// List the groups with their states
    List {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Describe the members of a group and what they read
    Describe {
        group: String,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Show how far a group is behind, by partition
    Lag {
        group: String,
        /// Again and again, every SECONDS
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
        watch: Option<u64>,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Give a group without members other committed offsets
    Reset(ResetArguments),
    /// Delete a group without members, with its offsets
    Delete {
        group: String,
        #[command(flatten)]
        at: Bootstrap,
    },
}

pub async fn run(command: GroupCommand) -> Result<()> {
    match command {
        GroupCommand::List { output, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let mut table = Table::new(&["group", "type", "protocol", "state"]);
            for group in kafka.client().list_groups(&[], &[]).await? {
                table.push([group.group, group.kind, group.protocol_type, group.state].map(Value::from));
            }
            output.table(&table);
        }
        GroupCommand::Describe { group, output, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            describe(&kafka, &group, &output).await?;
        }
        GroupCommand::Lag { group, watch, output, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            loop {
                let table = lag(&kafka, &group).await?;
                if watch.is_some() && std::io::stdout().is_terminal() {
                    // The screen shows the newest table alone.
                    output::bytes(b"\x1b[2J\x1b[H");
                }
                output.table(&table);
                let Some(seconds) = watch else { return Ok(()) };
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(seconds.max(1))) => {}
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                }
            }
        }
        GroupCommand::Reset(arguments) => group_reset::run(arguments).await?,
        GroupCommand::Delete { group, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            kafka.client().delete_group(&group).await.map_err(|error| worded(&group, error))?;
            out!("deleted group {group}");
        }
    }
    Ok(())
}

/// What a person can do about it, where that is known.
fn worded(group: &str, error: ClientError) -> anyhow::Error {
    match error.code() {
        Some(ErrorCode::GroupIdNotFound) => {
            anyhow!("group {group} does not exist; ottla group list shows those that do")
        }
        Some(ErrorCode::NonEmptyGroup) => anyhow!("group {group} has members: stop them first"),
        _ => error.into(),
    }
}

async fn describe(kafka: &Kafka, group: &str, output: &Output) -> Result<()> {
    let found = kafka.client().describe_group(group).await.map_err(|error| worded(group, error))?;
    let mut members = Table::new(&["member", "client", "host", "partitions"]);
    for member in found.members {
        let mut topics: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for at in member.assignment {
            topics.entry(at.topic.to_string()).or_default().push(at.partition.to_string());
        }
        let topics = topics.into_iter().map(|(topic, partitions)| format!("{topic}({})", partitions.join(",")));
        let topics = topics.map(Value::from).collect::<Vec<_>>();
        members.push([member.id.into(), member.client_id.into(), member.host.into(), Value::Array(topics)]);
    }
    let value = json!({
        "group": found.group,
        "state": found.state,
        "coordinator": found.coordinator.address(),
        "assignor": found.assignor,
        "members": members.to_json(),
    });
    let head = format!(
        "{}  {}  coordinator {} ({})",
        found.group,
        found.state,
        found.coordinator.id,
        found.coordinator.address()
    );
    let lines = || std::iter::once(head).chain(members.lines(std::io::stdout().is_terminal())).collect();
    output.value(&value, lines);
    Ok(())
}

async fn lag(kafka: &Kafka, group: &str) -> Result<Table> {
    // That the group exists.
    kafka.client().describe_group(group).await.map_err(|error| worded(group, error))?;
    let committed = kafka.client().committed_offsets(group, None, false).await?;
    let asked: Vec<TopicPartition> = committed.keys().cloned().collect();
    let mut ends = kafka.client().list_offsets_of(&asked, LATEST).await;
    let mut table = Table::new(&["topic", "partition", "committed", "end", "lag"]);
    for (at, committed) in committed {
        // A partition that is gone, or has no leader, has no end; the others are shown.
        let end = ends.remove(&at).and_then(Result::ok).map(|end| end.offset.0);
        let lag = end.map(|end| (end - committed.offset.0).max(0));
        table.push([
            at.topic.as_str().into(),
            at.partition.0.into(),
            committed.offset.0.into(),
            end.into(),
            lag.into(),
        ]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_in_words() {
        let text = |code| worded("nosuch", ClientError::refused(code)).to_string();
        assert!(text(ErrorCode::GroupIdNotFound).starts_with("group nosuch does not exist"));
        assert_eq!(text(ErrorCode::NonEmptyGroup), "group nosuch has members: stop them first");
    }
}
