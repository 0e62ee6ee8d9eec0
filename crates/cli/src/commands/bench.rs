//! `ottla bench`: how fast a cluster takes records and gives them back, measured as Kafka's perf tools measure.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ottla_protocol::messages::fetch::IsolationLevel;
use ottla_protocol::record_batch::Compression;
use serde_json::json;
use tokio::time::Instant;

use super::at::Bootstrap;
use super::produce::compression;
use super::rendering::Output;
use crate::consumer::{FETCH_BYTES, From, Settings as ReadSettings, Source, Topics};
use crate::kafka::{Kafka, NewTopic};
use crate::kafka_tools::perf::producer::{self, Load};
use crate::kafka_tools::perf::producer_stats::Summary;
use crate::producer::Settings as WriteSettings;
use crate::progress::Progress;

#[derive(Args)]
pub struct BenchArguments {
    /// Write to this topic, which exists; else to one that is created for it and deleted at the end
    #[arg(long, conflicts_with_all = ["partitions", "replication_factor"])]
    topic: Option<String>,
    /// Partitions of the created topic
    #[arg(long, short, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Replicas of the created topic; default: the cluster's
    #[arg(long, short)]
    replication_factor: Option<i16>,
    #[arg(long, short = 'n', default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Bytes of a record
    #[arg(long, short = 's', default_value_t = 100, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=RECORD_BYTES_MAX))]
    record_size: u32,
    /// Records a second to write; default: as many as go
    #[arg(long, value_name = "RECORDS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    throughput: Option<u32>,
    /// all, 1 or 0, as of ottla produce
    #[arg(long, default_value = "all", value_parser = ["all", "-1", "1", "0"], allow_hyphen_values = true)]
    acks: String,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value = "none", value_parser = compression)]
    compression: Compression,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: Bootstrap,
}

/// What brokers take by default, and the batch around the record.
const RECORD_BYTES_MAX: i64 = 1_000_000;
/// How long reading waits for the next record before it counts as failed.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// As Kafka's perf tool waits by default for more records of a batch.
const LINGER: Duration = Duration::from_millis(5);
const MIB: f64 = 1_048_576.0;

/// What was read.
#[derive(Clone, Copy)]
struct Read {
    records: u64,
    bytes: u64,
    elapsed: Duration,
}

impl Read {
    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

pub async fn run(arguments: BenchArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    let Some(topic) = &arguments.topic else {
        let topic = format!("ottla-bench-{:08x}", rand::random::<u32>());
        let wanted = NewTopic {
            partitions: Some(arguments.partitions),
            replication_factor: arguments.replication_factor,
            ..NewTopic::with_defaults(&topic)
        };
        kafka.create_topic(&wanted).await.with_context(|| format!("create {topic}"))?;
        let measured = tokio::select! {
            measured = measure(&kafka, &topic, &arguments) => measured,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        // Also after a failure: nothing is left behind.
        kafka.delete_topic(&topic).await.with_context(|| format!("delete {topic}"))?;
        return measured;
    };
    if !kafka.has_topic(topic).await? {
        bail!("topic {topic} does not exist");
    }
    measure(&kafka, topic, &arguments).await
}

async fn measure(kafka: &Kafka, topic: &str, arguments: &BenchArguments) -> Result<()> {
    let mut progress = Progress::new(Duration::from_secs(1));
    let acks = match arguments.acks.as_str() {
        "0" => 0,
        "1" => 1,
        _ => -1,
    };
    let load = Load {
        topic: topic.to_owned(),
        settings: WriteSettings {
            acks,
            compression: arguments.compression,
            linger: LINGER,
            ..WriteSettings::default()
        },
        records: arguments.records,
        record_bytes: usize::try_from(arguments.record_size)?,
        throughput: arguments.throughput.map_or(-1.0, f64::from),
    };
    progress.show("writing");
    let written = producer::write(kafka, &load).await?;
    progress.show("reading");
    let read = read(kafka, topic, arguments.records).await?;
    progress.clear();
    let [p50, p95, p99, p999] = written.latency_percentiles_ms;
    let value = json!({
        "record_bytes": arguments.record_size,
        "produce": {
            "records": written.records,
            "records_per_s": written.records_per_s,
            "mib_per_s": written.mib_per_s,
            "latency_avg_ms": written.latency_avg_ms,
            "latency_p50_ms": p50,
            "latency_p95_ms": p95,
            "latency_p99_ms": p99,
            "latency_p999_ms": p999,
            "latency_max_ms": written.latency_max_ms,
        },
        "consume": {
            "records": read.records,
            "records_per_s": read.per_s(read.records),
            "mib_per_s": read.per_s(read.bytes) / MIB,
        },
    });
    arguments.output.value(&value, || lines(&written, &read));
    Ok(())
}

fn lines(written: &Summary, read: &Read) -> Vec<String> {
    let rates = |records: u64, per_s: f64, mib_per_s: f64| {
        format!("{records} records  {per_s:.0} records/s  {mib_per_s:.1} MiB/s")
    };
    let [p50, p95, p99, p999] = written.latency_percentiles_ms;
    vec![
        format!("produce  {}", rates(written.records, written.records_per_s, written.mib_per_s)),
        format!(
            "         latency {:.1} ms on average; {p50} ms p50, {p95} ms p95, {p99} ms p99, {p999} ms p99.9, {} ms at most",
            written.latency_avg_ms, written.latency_max_ms
        ),
        format!("consume  {}", rates(read.records, read.per_s(read.records), read.per_s(read.bytes) / MIB)),
    ]
}

/// Reads as many records as were written, from the beginning.
async fn read(kafka: &Kafka, topic: &str, records: u64) -> Result<Read> {
    let settings = ReadSettings {
        partition: None,
        from: From::Beginning,
        exit_at_end: false,
        isolation_level: IsolationLevel::ReadUncommitted,
        fetch_bytes: FETCH_BYTES,
        group: None,
    };
    let began = Instant::now();
    let mut source = Source::open(kafka, Topics::One(topic.to_owned()), settings).await?;
    let (mut count, mut bytes) = (0, 0);
    while count < records {
        let next = match source.try_next() {
            Some(next) => Some(next),
            None => match tokio::time::timeout(READ_PATIENCE, source.next()).await {
                Ok(next) => next,
                Err(_) => bail!("{count} of {records} records were read, and none for {} s", READ_PATIENCE.as_secs()),
            },
        };
        let Some(incoming) = next else { break };
        let record = incoming?.record;
        count += 1;
        bytes += [&record.key, &record.value].into_iter().flatten().map(|field| field.len() as u64).sum::<u64>();
    }
    let read = Read { records: count, bytes, elapsed: began.elapsed() };
    source.close().await?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_lines() {
        let written = Summary {
            records: 1_000,
            records_per_s: 500.4,
            mib_per_s: 1.25,
            latency_avg_ms: 2.34,
            latency_max_ms: 9,
            latency_percentiles_ms: [1, 5, 7, 8],
        };
        let read = Read { records: 1_000, bytes: 2 << 20, elapsed: Duration::from_millis(500) };
        let expected = [
            "produce  1000 records  500 records/s  1.2 MiB/s",
            "         latency 2.3 ms on average; 1 ms p50, 5 ms p95, 7 ms p99, 8 ms p99.9, 9 ms at most",
            "consume  1000 records  2000 records/s  4.0 MiB/s",
        ];
        assert_eq!(lines(&written, &read), expected);
    }
}
