//! `ottla consume`.

use anyhow::Result;
use clap::Args;
use ottla_protocol::messages::fetch::IsolationLevel;

use super::Bootstrap;
use crate::consumer::{self, From, Settings};
use crate::kafka::Kafka;
use crate::kafka_tools::format::Formatter;
use crate::output;

#[derive(Args)]
pub struct ConsumeArguments {
    topic: String,
    /// Begin with the oldest record rather than with the next that is written
    #[arg(long, short = 'f')]
    from_beginning: bool,
    /// Stop after so many records
    #[arg(long, short = 'n', value_name = "N")]
    max_messages: Option<u64>,
    /// Stop at the end that each partition has now
    #[arg(long, short)]
    exit_at_end: bool,
    /// Only this partition
    #[arg(long, short)]
    partition: Option<i32>,
    /// Begin at this offset of the partition
    #[arg(long, short, requires = "partition", conflicts_with = "from_beginning")]
    offset: Option<i64>,
    /// Print keys too, separated by this text
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    #[command(flatten)]
    at: Bootstrap,
}

pub async fn run(arguments: ConsumeArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses()).await?;
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
    };
    let mut formatter = Formatter::default();
    if let Some(separator) = arguments.key_separator {
        formatter.print_key = true;
        formatter.key_separator = separator.into_bytes();
    }
    let mut records = consumer::open(&kafka, &arguments.topic, &settings).await?;
    let mut line = Vec::new();
    let mut left = arguments.max_messages.unwrap_or(u64::MAX);
    while left > 0 {
        let next = match records.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                // What is there is shown before there is any wait.
                output::flush();
                records.recv().await
            }
        };
        let Some(incoming) = next else { break };
        line.clear();
        formatter.write(&incoming?, &mut line);
        output::bytes(&line);
        left -= 1;
    }
    output::flush();
    Ok(())
}
