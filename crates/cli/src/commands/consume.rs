//! `ottla consume`.

use anyhow::Result;
use clap::Args;
use ottla_protocol::messages::fetch::IsolationLevel;

use super::Bootstrap;
use crate::consumer::{FETCH_BYTES, From, Settings, Source, Topics};
use crate::group_consumer::GroupSettings;
use crate::kafka::Kafka;
use crate::kafka_tools::format::Formatter;
use crate::output;

#[derive(Args)]
pub struct ConsumeArguments {
    topic: String,
    /// Begin with the oldest record instead of the next new one; in a group, only for partitions without a commit
    #[arg(long, short = 'f')]
    from_beginning: bool,
    /// Stop after this number of records
    #[arg(long, short = 'n', value_name = "N")]
    max_messages: Option<u64>,
    /// Stop at the current end of each partition
    #[arg(long, short)]
    exit_at_end: bool,
    /// Only this partition
    #[arg(long, short)]
    partition: Option<i32>,
    /// Begin at this offset of the partition
    #[arg(long, short, requires = "partition", conflicts_with = "from_beginning")]
    offset: Option<i64>,
    /// Read as a member of this group, from its committed offsets, sharing partitions with other members
    #[arg(long, short)]
    group: Option<String>,
    /// Print keys too, separated by this text
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    #[command(flatten)]
    at: Bootstrap,
}

pub async fn run(arguments: ConsumeArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    let from = match arguments.offset {
        Some(offset) => From::At(offset),
        None if arguments.from_beginning => From::Beginning,
        None => From::End,
    };
    let settings = Settings {
        partition: arguments.partition,
        from,
        exit_at_end: arguments.exit_at_end,
        isolation_level: IsolationLevel::ReadUncommitted,
        fetch_bytes: FETCH_BYTES,
        group: arguments.group.as_deref().map(GroupSettings::new),
    };
    let mut formatter = Formatter::default();
    if let Some(separator) = arguments.key_separator {
        formatter.print_key = true;
        formatter.key_separator = separator.into_bytes();
    }
    let mut source = Source::open(&kafka, Topics::One(arguments.topic), settings).await?;
    let read = tokio::select! {
        read = print(&formatter, &mut source, arguments.max_messages.unwrap_or(u64::MAX)) => read,
        // The group gets the member's leave request before the end.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    output::flush();
    source.close().await?;
    read
}

async fn print(formatter: &Formatter, source: &mut Source, mut left: u64) -> Result<()> {
    let mut lines = output::Block::default();
    while left > 0 {
        let next = match source.try_next() {
            Some(next) => Some(next),
            None => {
                // Available records are shown before any wait.
                lines.flush();
                source.next().await
            }
        };
        let Some(incoming) = next else { break };
        formatter.write(&incoming?, lines.end())?;
        lines.flush_if_full();
        left -= 1;
    }
    Ok(())
}
