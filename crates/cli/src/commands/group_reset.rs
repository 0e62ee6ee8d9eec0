//! `ottla group reset`: other committed offsets of a group; shown, and with `--execute` written.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use ottla_client::CommittedOffset;
use ottla_model::{ErrorCode, Offset, TimestampMs, TopicPartition};
use serde_json::Value;

use super::at::Bootstrap;
use super::rendering::{Output, Table};
use crate::kafka::Kafka;
use crate::kafka_tools::consumer_groups::{Named, Offsets, Scenario, commit_offsets, plan_offsets};
use crate::kafka_tools::now_ms;
use crate::{calendar, err};

#[derive(Args)]
pub struct ResetArguments {
    group: String,
    /// A topic, or some of its partitions (`orders:0,1`); may be repeated
    #[arg(long, value_name = "TOPIC", required_unless_present = "all_topics", conflicts_with = "all_topics")]
    topic: Vec<String>,
    /// All partitions of which the group has offsets
    #[arg(long)]
    all_topics: bool,
    #[command(flatten)]
    to: To,
    /// Write the offsets; without it they are only shown
    #[arg(long)]
    execute: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: Bootstrap,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct To {
    /// The beginning of each partition
    #[arg(long)]
    to_earliest: bool,
    /// The end of each partition
    #[arg(long)]
    to_latest: bool,
    /// The offsets as they are; the end where there is none
    #[arg(long)]
    to_current: bool,
    /// This offset, or the nearest that the partition has
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// So many records forward, or back with a negative number
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// The first record at or after a time: 2026-11-21T09:16:58.656, in UTC unless it says otherwise
    #[arg(long, value_name = "TIME")]
    to_datetime: Option<String>,
    /// The first record of the last 10m, 2h, 7d (or PT10M, P7D)
    #[arg(long, value_name = "DURATION")]
    by_duration: Option<String>,
}

impl To {
    fn scenario(&self, now_ms: i64) -> Result<Scenario> {
        if let Some(text) = &self.to_datetime {
            let Some(time) = calendar::timestamp_ms(text) else {
                bail!("--to-datetime {text}: no time; one looks like 2026-11-21T09:16:58.656")
            };
            return Ok(Scenario::Time(TimestampMs(time)));
        }
        if let Some(text) = &self.by_duration {
            let Some(ago) = calendar::short_duration_ms(text) else {
                bail!("--by-duration {text}: no duration; one looks like 10m, 2h, 7d or PT10M")
            };
            return Ok(Scenario::Time(TimestampMs(now_ms.saturating_sub(ago))));
        }
        Ok(match (self.to_offset, self.shift_by) {
            (Some(offset), _) => Scenario::To(offset),
            (_, Some(by)) => Scenario::ShiftBy(by),
            _ if self.to_earliest => Scenario::Earliest,
            _ if self.to_latest => Scenario::Latest,
            _ => Scenario::Current,
        })
    }
}

pub async fn run(arguments: ResetArguments) -> Result<()> {
    let scenario = arguments.to.scenario(now_ms())?;
    let named: Vec<Named> = arguments.topic.iter().map(|text| Named::parse(text)).collect::<Result<_, _>>()?;
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    let group = &arguments.group;
    let state = match kafka.client().describe_group(group).await {
        Ok(found) => found.state,
        // It begins with its first offset.
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => "Dead".to_owned(),
        Err(error) => return Err(error.into()),
    };
    if !matches!(state.as_str(), "Empty" | "Dead") {
        bail!("group {group} is {state}: its members commit offsets themselves; stop them first");
    }
    let committed = kafka.client().committed_offsets(group, None, false).await?;
    let mut partitions: Vec<TopicPartition> = Vec::new();
    match arguments.all_topics {
        true => partitions.extend(committed.keys().cloned()),
        false => {
            for topic in &named {
                partitions.extend(topic.resolve(&kafka).await?);
            }
        }
    }
    if partitions.is_empty() {
        bail!("group {group} has no committed offsets; name its topics with --topic");
    }
    let plan = plan_offsets(&kafka, group, &scenario, &partitions).await?;
    if arguments.execute {
        commit_offsets(&kafka, group, &plan).await?;
    }
    arguments.output.table(&table(&committed, &plan));
    if !arguments.execute {
        err!("Nothing is changed yet: --execute writes these offsets.");
    }
    Ok(())
}

fn table(committed: &BTreeMap<TopicPartition, CommittedOffset>, plan: &Offsets) -> Table {
    let mut table = Table::new(&["topic", "partition", "before", "after"]);
    for (at, Offset(after)) in plan {
        let before = committed.get(at).map(|committed| committed.offset.0);
        table.push([at.topic.as_str().into(), at.partition.0.into(), Value::from(before), (*after).into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        reset: ResetArguments,
    }

    fn scenario(line: &str) -> Result<Scenario, String> {
        let words = ["reset", "g", "--topic", "t"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.reset.to.scenario(1_000_000).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_say_where_to() {
        assert_eq!(scenario("--to-earliest"), Ok(Scenario::Earliest));
        assert_eq!(scenario("--to-latest"), Ok(Scenario::Latest));
        assert_eq!(scenario("--to-current"), Ok(Scenario::Current));
        assert_eq!(scenario("--to-offset 7"), Ok(Scenario::To(7)));
        assert_eq!(scenario("--shift-by -7"), Ok(Scenario::ShiftBy(-7)));
        assert_eq!(scenario("--by-duration 10m"), Ok(Scenario::Time(TimestampMs(400_000))));
        assert_eq!(scenario("--by-duration PT10M"), Ok(Scenario::Time(TimestampMs(400_000))));
        assert_eq!(scenario("--by-duration 1d"), Ok(Scenario::Time(TimestampMs(1_000_000 - 86_400_000))));
        assert_eq!(scenario("--to-datetime 1970-01-01T00:00:01.000"), Ok(Scenario::Time(TimestampMs(1_000))));
        assert!(scenario("--by-duration soon").is_err_and(|text| text.contains("no duration")));
        assert!(scenario("").is_err() && scenario("--to-latest --to-earliest").is_err());
    }

    #[test]
    fn topics_are_named_or_all() {
        let is_taken = |line: &str| Line::try_parse_from(line.split_whitespace()).is_ok();
        assert!(is_taken("reset g --all-topics --to-latest") && is_taken("reset g --topic a --topic b:0 --to-latest"));
        assert!(!is_taken("reset g --to-latest") && !is_taken("reset g --all-topics --topic a --to-latest"));
    }
}
