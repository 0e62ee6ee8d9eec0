//! Records of a topic, as they come: what `ottla consume` and `kafka-console-consumer` share.
//!
//! There are no groups yet: every partition is read from where the caller says, and nothing is committed.

use std::time::Duration;

use anyhow::Result;
use ottla_client::{Client, FetchOptions};
use ottla_model::{Offset, PartitionId, TimestampMs};
use ottla_protocol::messages::fetch::IsolationLevel;
use ottla_protocol::record_batch::{Batches, Record, Records, TimestampType};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::kafka::{Kafka, KafkaError};

/// Where reading begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Beginning,
    End,
    At(i64),
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// One partition, or all.
    pub partition: Option<i32>,
    pub from: From,
    /// Stop at the end that each partition has at the start.
    pub exit_at_end: bool,
    pub isolation_level: IsolationLevel,
}

/// A record and where it was.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub partition: PartitionId,
    pub record: Record,
    pub timestamp_type: TimestampType,
}

/// Connections to each broker, at most: partitions beyond share them.
const WORKERS_MAX: usize = 16;
/// How long a broker may hold a fetch that finds nothing.
const WAIT: Duration = Duration::from_millis(500);
/// What one fetch asks for.
const FETCH_BYTES: i32 = 4 * 1_024 * 1_024;
/// The greatest size that a compressed batch may unpack to.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Records that wait to be printed.
const QUEUE_RECORDS: usize = 10_000;

/// A partition and how far it was read.
struct Position {
    partition: PartitionId,
    next: Offset,
    /// Where to stop.
    end: Option<Offset>,
}

/// Begins to read. The channel ends when every partition is at its end (with `exit_at_end`), or with an error in it.
pub async fn open(
    kafka: &Kafka,
    topic: &str,
    settings: &Settings,
) -> Result<mpsc::Receiver<Result<Incoming, KafkaError>>, KafkaError> {
    let mut partitions = kafka.partitions(topic).await?;
    if let Some(only) = settings.partition {
        partitions.retain(|partition| partition.0 == only);
        if partitions.is_empty() {
            let message = format!("{topic} has no partition {only}");
            return Err(KafkaError::refused(ottla_model::ErrorCode::UnknownTopicOrPartition, &message));
        }
    }
    let mut positions = Vec::new();
    for partition in partitions {
        positions.push(position(kafka.client(), topic, partition, settings).await?);
    }
    let (sender, receiver) = mpsc::channel(QUEUE_RECORDS);
    let workers = positions.len().clamp(1, WORKERS_MAX);
    let mut shares: Vec<Vec<Position>> = (0..workers).map(|_| Vec::new()).collect();
    for (at, position) in positions.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(at % workers) {
            share.push(position);
        }
    }
    let mut running = JoinSet::new();
    for share in shares {
        // Answers of one connection come in order, so a fetch that waits would hold up the others: each worker has its own.
        let client = Client::new(kafka.client().config().clone());
        let (topic, sender, isolation_level) = (topic.to_owned(), sender.clone(), settings.isolation_level);
        running.spawn(read(client, topic, share, isolation_level, sender));
    }
    // They end by themselves: at their ends, or when nobody receives any more.
    running.detach_all();
    Ok(receiver)
}

async fn position(
    client: &Client,
    topic: &str,
    partition: PartitionId,
    settings: &Settings,
) -> Result<Position, KafkaError> {
    const LATEST: TimestampMs = TimestampMs(-1);
    const EARLIEST: TimestampMs = TimestampMs(-2);
    let next = match settings.from {
        From::Beginning => client.list_offsets(topic, partition, EARLIEST).await?.offset,
        From::End => client.list_offsets(topic, partition, LATEST).await?.offset,
        From::At(offset) => Offset(offset),
    };
    let end = match settings.exit_at_end {
        true => Some(client.list_offsets(topic, partition, LATEST).await?.offset),
        false => None,
    };
    Ok(Position { partition, next, end })
}

async fn read(
    client: Client,
    topic: String,
    mut share: Vec<Position>,
    isolation_level: IsolationLevel,
    sender: mpsc::Sender<Result<Incoming, KafkaError>>,
) {
    // A worker's client has no view of its own yet, and asks once.
    let mut idle = true;
    loop {
        share.retain(|position| position.end.is_none_or(|end| position.next < end));
        if share.is_empty() {
            return;
        }
        let patience = if idle { WAIT / u32::try_from(share.len()).unwrap_or(u32::MAX) } else { Duration::ZERO };
        idle = true;
        for position in &mut share {
            let options =
                FetchOptions { max_wait: patience, max_bytes: FETCH_BYTES, isolation_level, ..Default::default() };
            match fetch(&client, &topic, position, &options, &sender).await {
                Ok(Some(read)) => idle &= read == 0,
                Ok(None) => return,
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        }
    }
}

/// Reads on; the number of records, or none where nobody receives any more.
async fn fetch(
    client: &Client,
    topic: &str,
    position: &mut Position,
    options: &FetchOptions,
    sender: &mpsc::Sender<Result<Incoming, KafkaError>>,
) -> Result<Option<usize>, KafkaError> {
    let answer = client.fetch(topic, position.partition, position.next, options).await?;
    let Some(bytes) = answer.records else { return Ok(Some(0)) };
    let mut read = 0;
    // A batch that the broker cut off at the end is not walked; it comes whole with the next fetch.
    for walked in Batches::new(&bytes) {
        let walked = walked.map_err(|error| corrupt(topic, position, &error))?;
        let (header, batch) = (walked.header, bytes.slice_ref(walked.bytes));
        if !header.is_control() {
            let records = Records::new(&batch, UNPACKED_BYTES_MAX).map_err(|error| corrupt(topic, position, &error))?;
            for record in records {
                let record = record.map_err(|error| corrupt(topic, position, &error))?;
                // A batch may begin before the offset that was asked for.
                if record.offset < position.next || position.end.is_some_and(|end| record.offset >= end) {
                    continue;
                }
                let incoming =
                    Incoming { partition: position.partition, record, timestamp_type: header.timestamp_type() };
                if sender.send(Ok(incoming)).await.is_err() {
                    return Ok(None);
                }
                read += 1;
            }
        }
        position.next = position.next.max(header.next_offset());
    }
    Ok(Some(read))
}

fn corrupt(topic: &str, position: &Position, error: &dyn std::fmt::Display) -> KafkaError {
    let message = format!("{topic}-{} at offset {}: {error}", position.partition, position.next);
    KafkaError::refused(ottla_model::ErrorCode::CorruptMessage, &message)
}
