//! `kafka-replica-verification`: compares the replicas of partitions, batch by batch, until it is stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_client::{Client, FetchOptions, ReplicaPosition};
use ottla_model::{BrokerId, Offset, PartitionId, TimestampMs, TopicName, TopicPartition};
use ottla_protocol::record_batch::{BatchHeader, Batches};

use super::options::{OptionSpec, Options, value};
use super::{ToolError, log, options::flag, run_tool, stamp};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value(
        "broker-list",
        "String: hostname:port,...,hostname:port",
        "REQUIRED: The list of hostname and port of the server to connect to.",
    ),
    value("fetch-size", "Integer: bytes", "The fetch size of each request. (default: 1048576)"),
    flag("help", "Print usage information."),
    value("max-wait-ms", "Integer: ms", "The max amount of time each fetch request waits. (default: 1000)"),
    value("report-interval-ms", "Long: ms", "The reporting interval. (default: 30000)"),
    value(
        "time",
        "Long: timestamp/-1(latest)/-2(earliest)",
        "Timestamp for getting the initial offsets. (default: -1)",
    ),
    value(
        "topics-include",
        "String: Java regex (String)",
        "List of topics to verify replica consistency. (default: .*)",
    ),
    flag("version", "Display the version."),
];

const LOGGER: &str = "org.apache.kafka.tools.ReplicaVerificationTool";

struct Plan {
    bootstrap: String,
    topics: regex_lite::Regex,
    time: TimestampMs,
    fetch: FetchOptions,
    report_interval: Duration,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "Validate that all replicas for a set of topics have the same data.";

pub async fn run(arguments: &[String]) -> ExitCode {
    log("WARN", "This tool is deprecated and may be removed in a future major release.", LOGGER);
    run_tool(PURPOSE, SPECS, arguments, plan, |plan| async move {
        match verify(&plan).await {
            Ok(exit) => exit,
            Err(error) => {
                err!("{error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let fetch = FetchOptions {
        max_wait: Duration::from_millis(options.number::<u32>("max-wait-ms")?.unwrap_or(1_000).into()),
        max_bytes: options.number("fetch-size")?.unwrap_or(1_048_576),
        ..FetchOptions::default()
    };
    Ok(Plan {
        bootstrap: options.required("broker-list")?.to_owned(),
        topics: super::topics::pattern(options.get("topics-include").unwrap_or(".*"))?,
        time: TimestampMs(options.number("time")?.unwrap_or(-1)),
        fetch,
        report_interval: Duration::from_millis(options.number("report-interval-ms")?.unwrap_or(30_000)),
    })
}

/// The partitions that are compared.
struct Compared {
    replicas: BTreeMap<TopicPartition, BTreeSet<BrokerId>>,
    /// Up to here all replicas of a partition are alike.
    offsets: BTreeMap<TopicPartition, Offset>,
}

/// Ends only when replicas cannot be compared any further; people stop the tool.
async fn verify(plan: &Plan) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    let client = kafka.client();
    let mut compared = Compared { replicas: BTreeMap::new(), offsets: BTreeMap::new() };
    let view = client.metadata(None).await.map_err(KafkaError::from)?;
    for topic in view.topics.values().filter(|topic| plan.topics.is_match(&topic.name)) {
        let Ok(name) = TopicName::new(&topic.name) else { continue };
        for partition in topic.partitions.values() {
            let at = TopicPartition { topic: name.clone(), partition: partition.partition };
            let offset = first_offset(client, &at, plan.time).await?;
            compared.replicas.insert(at.clone(), partition.replicas.iter().copied().collect());
            compared.offsets.insert(at, offset);
        }
    }
    if compared.replicas.is_empty() {
        let text =
            "No topics found. [topics-include] if specified, is either filtering out all topics or there is no topic.";
        log("ERROR", text, LOGGER);
        return Ok(ExitCode::FAILURE);
    }
    out!("{}: verification process is started", stamp());
    let mut reported = Instant::now();
    loop {
        let found = fetch_all(client, &compared, &plan.fetch).await;
        let (lines, lag) = compared.compare(&found);
        for line in &lines {
            match line {
                Difference::Checksum(text) => out!("{}: {text}", stamp()),
                Difference::Offset(text) => {
                    out!("{}: {text}", stamp());
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        if reported.elapsed() > plan.report_interval {
            let (partitions, Lag { lag, at, offset }) = (compared.replicas.len(), lag);
            let at = at.map_or_else(|| "null".to_owned(), |at| at.to_string());
            out!("{}: max lag is {lag} for partition {at} at offset {offset} among {partitions} partitions", stamp());
            reported = Instant::now();
        }
    }
}

async fn first_offset(client: &Client, at: &TopicPartition, time: TimestampMs) -> Result<Offset, KafkaError> {
    const LATEST: TimestampMs = TimestampMs(-1);
    let found = client.list_offsets(at.topic.as_str(), at.partition, time).await?;
    match found.offset {
        // No record is that late.
        Offset::UNKNOWN => Ok(client.list_offsets(at.topic.as_str(), at.partition, LATEST).await?.offset),
        offset => Ok(offset),
    }
}

/// What a replica has from the offset on: the high watermark that it knows, and records.
type Found = (Offset, Bytes);

/// One fetch from each broker. A replica that does not answer has nothing.
async fn fetch_all(
    client: &Client,
    compared: &Compared,
    options: &FetchOptions,
) -> BTreeMap<TopicPartition, BTreeMap<BrokerId, Found>> {
    let mut by_broker: BTreeMap<BrokerId, Vec<ReplicaPosition>> = BTreeMap::new();
    for (at, replicas) in &compared.replicas {
        for broker in replicas {
            let offset = compared.offsets.get(at).copied().unwrap_or(Offset::ZERO);
            let position = ReplicaPosition { topic: at.topic.to_string(), partition: at.partition, offset };
            by_broker.entry(*broker).or_default().push(position);
        }
    }
    let fetches = by_broker.iter().map(|(broker, wanted)| async move {
        let fetched = client.fetch_replicas(*broker, wanted, options).await;
        if fetched.is_err() {
            // It is asked again with the others; not in a tight loop.
            tokio::time::sleep(options.max_wait).await;
        }
        (*broker, fetched.unwrap_or_default())
    });
    let mut found: BTreeMap<TopicPartition, BTreeMap<BrokerId, Found>> = BTreeMap::new();
    for (broker, fetched) in futures::future::join_all(fetches).await {
        for (position, answer) in fetched.into_iter().filter(|(_, answer)| answer.error.is_ok()) {
            let Ok(topic) = TopicName::new(&position.topic) else { continue };
            let at = TopicPartition { topic, partition: PartitionId(position.partition.0) };
            found.entry(at).or_default().insert(broker, (answer.high_watermark, answer.records.unwrap_or_default()));
        }
    }
    found
}

/// How replicas differ, in Kafka's words.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Difference {
    Checksum(String),
    /// Their batches cannot be compared any further.
    Offset(String),
}

/// The partition that is furthest behind the high watermark.
struct Lag {
    lag: i64,
    at: Option<TopicPartition>,
    offset: Offset,
}

impl Compared {
    /// Compares what the replicas have, and moves the offsets to where all are alike.
    fn compare(&mut self, found: &BTreeMap<TopicPartition, BTreeMap<BrokerId, Found>>) -> (Vec<Difference>, Lag) {
        let mut differences = Vec::new();
        let mut most = Lag { lag: -1, at: None, offset: Offset::UNKNOWN };
        for (at, replicas) in &self.replicas {
            let none = BTreeMap::new();
            let of_brokers = found.get(at).unwrap_or(&none);
            let Some(offset) = self.offsets.get_mut(at) else { continue };
            let mut walks: Vec<(BrokerId, Offset, Batches<'_>)> = of_brokers
                .iter()
                .map(|(broker, (high_watermark, records))| (*broker, *high_watermark, Batches::new(records)))
                .collect();
            while walks.len() == replicas.len()
                && let Some(batches) = next_of_all(&mut walks)
            {
                differences.extend(differ(at, &batches));
                if let Some((_, batch)) = batches.first() {
                    *offset = batch.next_offset();
                }
            }
            let high_watermark = walks.iter().map(|(_, high_watermark, _)| high_watermark.0).max().unwrap_or(-1);
            if high_watermark - offset.0 > most.lag {
                most = Lag { lag: high_watermark - offset.0, at: Some(at.clone()), offset: *offset };
            }
        }
        (differences, most)
    }
}

/// The next batch of each replica; none unless all have one below the high watermark that they know.
fn next_of_all(walks: &mut [(BrokerId, Offset, Batches<'_>)]) -> Option<Vec<(BrokerId, BatchHeader)>> {
    let next = walks.iter_mut().map(|(broker, high_watermark, batches)| {
        let batch = batches.next()?.ok()?.header;
        (batch.last_offset() < *high_watermark).then_some((*broker, batch))
    });
    next.collect()
}

fn differ(at: &TopicPartition, batches: &[(BrokerId, BatchHeader)]) -> Vec<Difference> {
    let Some(((first, one), others)) = batches.split_first() else { return Vec::new() };
    let mut differences = Vec::new();
    for (broker, batch) in others {
        let (offset, other) = (one.last_offset(), batch.last_offset());
        if offset != other {
            differences.push(Difference::Offset(format!(
                "partition {at}: replica {first}'s offset {offset} doesn't match replica {broker}'s offset {other}"
            )));
        } else if one.crc != batch.crc {
            differences.push(Difference::Checksum(format!(
                "partition {at} has unmatched checksum at offset {offset}; replica {first}'s checksum {}; replica {broker}'s checksum {}",
                one.crc, batch.crc
            )));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use ottla_protocol::record_batch::BatchBuilder;

    use super::*;
    use crate::sample_partitions::at;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_are_understood() {
        let plan = planned("--broker-list k").expect("a plan");
        assert_eq!((plan.time, plan.report_interval), (TimestampMs(-1), Duration::from_secs(30)));
        assert_eq!((plan.fetch.max_bytes, plan.fetch.max_wait), (1_048_576, Duration::from_secs(1)));
        let line =
            "--broker-list k --topics-include a|b --time -2 --fetch-size 9 --max-wait-ms 8 --report-interval-ms 7";
        let plan = planned(line).expect("a plan");
        assert_eq!((plan.time, plan.report_interval), (TimestampMs(-2), Duration::from_millis(7)));
        assert!(plan.topics.is_match("b") && !plan.topics.is_match("ab"));
        assert_eq!(planned("").err().as_deref(), Some("Missing required argument \"[broker-list]\""));
    }

    fn batches(values: &[&str]) -> Bytes {
        let mut records = Vec::new();
        for (offset, value) in (0..).zip(values) {
            let batch = BatchBuilder::new().record(TimestampMs(1), None, Some(value.as_bytes()));
            let batch = batch.placed_at(Offset(offset), ottla_model::LeaderEpoch(0)).build().expect("a batch");
            records.extend_from_slice(&batch);
        }
        records.into()
    }

    fn compared(replicas: &[(i32, i64, Bytes)]) -> (Vec<Difference>, i64, i64) {
        let brokers = [1, 2].map(BrokerId);
        let mut compared = Compared {
            replicas: [(at("t", 0), brokers.into_iter().collect())].into(),
            offsets: [(at("t", 0), Offset::ZERO)].into(),
        };
        let found = replicas
            .iter()
            .map(|(id, high_watermark, records)| (BrokerId(*id), (Offset(*high_watermark), records.clone())));
        let (differences, lag) = compared.compare(&[(at("t", 0), found.collect())].into());
        (differences, compared.offsets[&at("t", 0)].0, lag.lag)
    }

    #[test]
    fn replicas_are_compared_below_the_high_watermark() {
        let same = batches(&["a", "b", "c"]);
        assert_eq!(compared(&[(1, 3, same.clone()), (2, 2, same.clone())]), (Vec::new(), 2, 1));
        let nothing_of_one = compared(&[(1, 3, same.clone())]);
        assert_eq!(nothing_of_one, (Vec::new(), 0, 3), "a replica that is silent holds the comparison up");
        let (differences, offset, _) = compared(&[(1, 3, same.clone()), (2, 3, batches(&["a", "x", "c"]))]);
        assert_eq!(offset, 3);
        assert!(
            matches!(differences.as_slice(), [Difference::Checksum(text)] if text.starts_with("partition t-0 has unmatched checksum at offset 1; replica 1's checksum ")),
            "{differences:?}"
        );
        let later = same.slice(same.len() / 3..);
        let (differences, ..) = compared(&[(1, 3, same), (2, 3, later)]);
        let text = "partition t-0: replica 1's offset 0 doesn't match replica 2's offset 1".to_owned();
        assert_eq!(differences.first(), Some(&Difference::Offset(text)));
    }
}
