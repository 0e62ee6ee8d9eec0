//! `ottla produce`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use ottla_protocol::record_batch::Compression;

use super::Bootstrap;
use crate::kafka::Kafka;
use crate::kafka_tools::format::LineReader;
use crate::producer::{Producer, Settings};
use crate::{err, lines};

#[derive(Args)]
pub struct ProduceArguments {
    topic: String,
    /// The separator between key and value of a line; without it lines have no keys
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
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

fn compression(text: &str) -> Result<Compression, String> {
    Compression::from_name(text).ok_or_else(|| "expected none, gzip, snappy, lz4 or zstd".to_owned())
}

pub async fn run(arguments: ProduceArguments) -> Result<ExitCode> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
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
    let (mut records, thread) = lines::records(move |line| reader.read(line));
    let mut failed = false;
    producer
        .run(&mut records, |lost| {
            err!("ottla: {} records were not written: {}", lost.records.len(), lost.error);
            failed = true;
            // Later records would leave a gap: the caller must know of the error.
            false
        })
        .await?;
    if failed {
        // The reader may wait for a line that never comes: leave it.
        return Ok(ExitCode::FAILURE);
    }
    match thread.join() {
        Ok(read) => read.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
        Err(_) => Err(anyhow!("cannot read standard input")),
    }
}
