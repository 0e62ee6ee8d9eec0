//! `ottla consume`.

use anyhow::{Result, bail};
use clap::Args;
use ottla_model::TimestampMs;
use ottla_protocol::messages::fetch::IsolationLevel;

use super::Bootstrap;
use super::record_json;
use crate::calendar;
use crate::consumer::{FETCH_BYTES, From, Incoming, Settings, Source, Topics};
use crate::group_consumer::GroupSettings;
use crate::kafka::Kafka;
use crate::kafka_tools::format::Formatter;
use crate::kafka_tools::now_ms;
use crate::output;

#[derive(Args)]
pub struct ConsumeArguments {
    topic: String,
    /// Begin with the oldest record instead of the next new one; in a group, only for partitions without a commit
    #[arg(long, short = 'f')]
    from_beginning: bool,
    /// Begin at: earliest, latest, an OFFSET, the last 10m, 1h or 7d, or a time such as 2026-11-29T10:00:00Z; in a
    /// group all but an offset hold only for partitions without a commit
    #[arg(long, value_name = "WHERE", value_parser = begin, allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["from_beginning", "offset"])]
    from: Option<Begin>,
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
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// Read as a member of this group, from its committed offsets, sharing partitions with other members
    #[arg(long, short)]
    group: Option<String>,
    /// Only records whose key or value matches this regular expression
    #[arg(long, value_name = "REGEX", value_parser = expression)]
    grep: Option<regex::bytes::Regex>,
    /// Print keys too, separated by this text
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    /// Print headers too, before the rest: name:value,name:value
    #[arg(long, short = 'H')]
    headers: bool,
    /// A JSON object for each record, one a line: topic, partition, offset, timestamp_ms, key, value, headers; bytes
    /// that are not UTF-8 are base64, and key_encoding or value_encoding says so
    #[arg(long, conflicts_with_all = ["key_separator", "headers"])]
    json: bool,
    #[command(flatten)]
    at: Bootstrap,
}

/// What `--from` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begin {
    At(From),
    /// So many milliseconds before now.
    Ago(i64),
}

impl Begin {
    fn from(self, now_ms: i64) -> From {
        match self {
            Self::At(from) => from,
            Self::Ago(ago_ms) => From::Time(TimestampMs(now_ms.saturating_sub(ago_ms).max(0))),
        }
    }
}

fn begin(text: &str) -> Result<Begin, String> {
    if let Ok(offset) = text.parse::<i64>() {
        return match offset {
            0.. => Ok(Begin::At(From::Nearest(offset))),
            _ => Err("an offset is 0 or more".to_owned()),
        };
    }
    match text {
        "earliest" => return Ok(Begin::At(From::Beginning)),
        "latest" => return Ok(Begin::At(From::End)),
        _ => {}
    }
    if let Some(time) = calendar::timestamp_ms(text) {
        return Ok(Begin::At(From::Time(TimestampMs(time))));
    }
    match calendar::short_duration_ms(text) {
        Some(ago_ms) if ago_ms >= 0 => Ok(Begin::Ago(ago_ms)),
        _ => {
            Err("expected earliest, latest, an offset, 10m, 1h, 7d, or a time such as 2026-11-29T10:00:00Z".to_owned())
        }
    }
}

fn expression(text: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::Regex::new(text).map_err(|error| error.to_string())
}

/// Which records are shown, and how.
struct Shown {
    grep: Option<regex::bytes::Regex>,
    /// None: as JSON.
    formatter: Option<Formatter>,
}

impl Shown {
    fn of(arguments: &ConsumeArguments) -> Self {
        let mut formatter = Formatter { print_headers: arguments.headers, ..Formatter::default() };
        if let Some(separator) = &arguments.key_separator {
            formatter.print_key = true;
            formatter.key_separator = separator.clone().into_bytes();
        }
        Self { grep: arguments.grep.clone(), formatter: Some(formatter).filter(|_| !arguments.json) }
    }

    /// Appends the record's line; false where the record is not one that is searched for.
    fn write(&self, incoming: &Incoming, out: &mut Vec<u8>) -> Result<bool> {
        if let Some(grep) = &self.grep {
            let mut fields = [&incoming.record.key, &incoming.record.value].into_iter().flatten();
            if !fields.any(|field| grep.is_match(field)) {
                return Ok(false);
            }
        }
        match &self.formatter {
            Some(formatter) => formatter.write(incoming, out)?,
            None => record_json::write(incoming, out),
        }
        Ok(true)
    }
}

pub async fn run(arguments: ConsumeArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    if !kafka.has_topic(&arguments.topic).await? {
        bail!("topic {} does not exist; ottla topic list shows those that do", arguments.topic);
    }
    let from = match (arguments.offset, arguments.from) {
        (Some(offset), _) => From::Nearest(offset),
        (None, Some(begin)) => begin.from(now_ms()),
        (None, None) if arguments.from_beginning => From::Beginning,
        (None, None) => From::End,
    };
    let settings = Settings {
        partition: arguments.partition,
        from,
        exit_at_end: arguments.exit_at_end,
        isolation_level: IsolationLevel::ReadUncommitted,
        fetch_bytes: FETCH_BYTES,
        group: arguments.group.as_deref().map(GroupSettings::new),
    };
    let shown = Shown::of(&arguments);
    let mut source = Source::open(&kafka, Topics::One(arguments.topic), settings).await?;
    let read = tokio::select! {
        read = print(&shown, &mut source, arguments.max_messages.unwrap_or(u64::MAX)) => read,
        // The group gets the member's leave request before the end.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    output::flush();
    source.close().await?;
    read
}

/// Prints records until there are none, or `left` were shown.
async fn print(shown: &Shown, source: &mut Source, mut left: u64) -> Result<()> {
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
        left -= u64::from(shown.write(&incoming?, lines.end())?);
        lines.flush_if_full();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        consume: ConsumeArguments,
    }

    fn read(line: &str) -> Result<ConsumeArguments, String> {
        let words = ["consume", "t"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.consume).map_err(|error| error.to_string())
    }

    #[test]
    fn reading_begins_where_the_line_says() {
        let from = |text: &str| begin(text).map(|begin| begin.from(1_000_000));
        assert_eq!((from("earliest"), from("latest")), (Ok(From::Beginning), Ok(From::End)));
        assert_eq!(from("7"), Ok(From::Nearest(7)));
        assert_eq!(from("10m"), Ok(From::Time(TimestampMs(400_000))));
        assert_eq!(from("1h"), Ok(From::Time(TimestampMs(0))), "not before 1970, which would be a special time");
        assert_eq!(from("1970-01-01T00:00:02Z"), Ok(From::Time(TimestampMs(2_000))));
        for wrong in ["-1", "yesterday", "", "-PT1H"] {
            assert!(from(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_that_contradict_are_refused() {
        assert!(read("--from 7 --from-beginning").is_err() && read("--from 7 -p 0 -o 7").is_err());
        assert!(read("-o 7").is_err() && read("-p 0 -o -7").is_err() && read("--grep (").is_err());
        assert!(read("--json --headers").is_err());
        assert!(read("-p 0 -o 7 -H --grep x+").is_ok() && read("--from 1h --json").is_ok());
    }
}
