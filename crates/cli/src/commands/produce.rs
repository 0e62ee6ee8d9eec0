//! `ottla produce`.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use ottla_model::ErrorCode;
use ottla_protocol::record_batch::{Compression, Header};

use super::rendering::counted;
use super::{Bootstrap, pair};
use crate::kafka::{Kafka, NewTopic};
use crate::kafka_tools::format::{LineError, LineReader};
use crate::producer::{Producer, Settings};
use crate::{err, lines};

#[derive(Args)]
pub struct ProduceArguments {
    topic: String,
    /// The separator between key and value of a line; without it lines have no keys
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    /// The key of every record
    #[arg(long, value_name = "TEXT", conflicts_with = "key_separator")]
    key: Option<String>,
    /// A header of every record; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// Create the topic if it does not exist, with the cluster's defaults
    #[arg(long)]
    create: bool,
    /// The replicas that must have a record before the write succeeds: all in-sync replicas (all), the leader (1), or
    /// none (0)
    #[arg(long, default_value = "all", value_parser = ["all", "-1", "1", "0"], allow_hyphen_values = true)]
    acks: String,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value = "none", value_parser = compression)]
    compression: Compression,
    #[command(flatten)]
    at: Bootstrap,
}

pub fn compression(text: &str) -> Result<Compression, String> {
    Compression::from_name(text).ok_or_else(|| "expected none, gzip, snappy, lz4 or zstd".to_owned())
}

/// That there is the topic, so that a name that is misspelt gets no topic of its own.
async fn ensure_topic(kafka: &Kafka, name: &str, create: bool) -> Result<()> {
    if kafka.has_topic(name).await? {
        return Ok(());
    }
    if !create {
        bail!("topic {name} does not exist; --create creates it");
    }
    match kafka.create_topic(&NewTopic::with_defaults(name)).await {
        // Somebody else was faster.
        Err(error) if error.is(ErrorCode::TopicAlreadyExists) => Ok(()),
        created => created.map_err(anyhow::Error::from),
    }
}

pub async fn run(arguments: ProduceArguments) -> Result<ExitCode> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    ensure_topic(&kafka, &arguments.topic, arguments.create).await?;
    let acks = match arguments.acks.as_str() {
        "0" => 0,
        "1" => 1,
        _ => -1,
    };
    let settings = Settings { acks, compression: arguments.compression, ..Settings::default() };
    let producer = Producer::open(&kafka, &arguments.topic, settings).await?;
    let mut reader = LineReader::default();
    if let Some(separator) = arguments.key_separator {
        reader.parse_key = true;
        reader.key_separator = separator;
    }
    let key = arguments.key.map(Bytes::from);
    let header = |(key, value): (String, String)| Header { key, value: Some(value.into()) };
    let headers: Vec<Header> = arguments.headers.into_iter().map(header).collect();
    let (mut records, thread) = lines::records(move |line| {
        let mut record = reader.read(line)?;
        if key.is_some() {
            record.key.clone_from(&key);
        }
        record.headers.clone_from(&headers);
        Ok(record)
    });
    let mut failed = false;
    producer
        .run(&mut records, |lost| {
            let verb = if lost.records.len() == 1 { "was" } else { "were" };
            let records = counted(lost.records.len(), "record");
            err!("ottla: {records} {verb} not written: {}", lost.error);
            failed = true;
            // Later records would leave a gap: the caller must know of the error.
            false
        })
        .await?;
    if failed {
        // The reader may wait for a line that never comes: leave it.
        return Ok(ExitCode::FAILURE);
    }
    if let Some(code) = records.ended_by() {
        return Ok(code);
    }
    match thread.join() {
        Ok(read) => read.map(|()| ExitCode::SUCCESS).map_err(|error: LineError| error.into()),
        Err(_) => Err(anyhow!("cannot read standard input")),
    }
}
