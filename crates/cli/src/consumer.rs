//! Records of a topic, as they arrive: the common part of `ottla consume` and `kafka-console-consumer`.
//!
//! Either every partition is read from where the caller says, and nothing is committed; or this is a member of a group
//! ([`crate::group_consumer`]).

use std::time::Duration;

use ottla_client::{AbortedBatches, Client, FetchOptions};
use ottla_model::{ErrorCode, Offset, PartitionId, TimestampMs};
use ottla_protocol::messages::fetch::IsolationLevel;
use ottla_protocol::record_batch::{Batches, Record, Records, TimestampType};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::group_consumer::{GroupConsumer, GroupSettings};
use crate::kafka::{Kafka, KafkaError};

/// Where reading begins; in a group, where it begins while nothing is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Beginning,
    End,
    At(i64),
}

impl From {
    /// Kafka's special time for the end that reading starts from where a position does not exist.
    fn reset(self) -> TimestampMs {
        const LATEST: TimestampMs = TimestampMs(-1);
        const EARLIEST: TimestampMs = TimestampMs(-2);
        if self == Self::Beginning { EARLIEST } else { LATEST }
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// One partition, or all.
    pub partition: Option<i32>,
    pub from: From,
    /// Stop at the end that each partition has at the start.
    pub exit_at_end: bool,
    pub isolation_level: IsolationLevel,
    /// The most bytes of one fetch of a partition.
    pub fetch_bytes: i32,
    /// None reads without a group.
    pub group: Option<GroupSettings>,
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
/// The usual size of one fetch.
pub const FETCH_BYTES: i32 = 4 * 1_024 * 1_024;
/// The greatest size that a compressed batch may unpack to.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Records that wait to be printed.
const QUEUE_RECORDS: usize = 10_000;

/// A partition and how far it was read.
#[derive(Clone, Debug)]
pub struct Position {
    pub partition: PartitionId,
    pub next: Offset,
    /// Where to stop.
    pub end: Option<Offset>,
    /// Where to continue if the log does not have `next`.
    reset: TimestampMs,
}

impl Position {
    /// The position of a partition: at `next`, or where the settings say.
    pub async fn find(
        client: &Client,
        topic: &str,
        partition: PartitionId,
        next: Option<Offset>,
        settings: &Settings,
    ) -> Result<Self, KafkaError> {
        let reset = settings.from.reset();
        let next = match (next, settings.from) {
            (Some(next), _) => next,
            (None, From::At(offset)) => Offset(offset),
            (None, _) => client.list_offsets(topic, partition, reset).await?.offset,
        };
        let end = match settings.exit_at_end {
            true => Some(client.list_offsets(topic, partition, From::End.reset()).await?.offset),
            false => None,
        };
        Ok(Self { partition, next, end, reset })
    }
}

/// Partitions that are being read; dropping it ends that.
pub struct Reading {
    /// Ends when every partition is at its end (with `exit_at_end`), or with an error in it.
    pub records: mpsc::Receiver<Result<Incoming, KafkaError>>,
    _workers: JoinSet<()>,
}

impl Reading {
    pub fn begin(kafka: &Kafka, topic: &str, positions: Vec<Position>, settings: &Settings) -> Self {
        let (sender, records) = mpsc::channel(QUEUE_RECORDS);
        let workers = positions.len().clamp(1, WORKERS_MAX);
        let mut shares: Vec<Vec<Position>> = (0..workers).map(|_| Vec::new()).collect();
        for (at, position) in positions.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(at % workers) {
                share.push(position);
            }
        }
        let mut running = JoinSet::new();
        for share in shares {
            // Answers of one connection come in order, so a fetch that waits would hold up the others: each worker has
            // its own.
            let client = Client::new(kafka.client().config().clone());
            let options = FetchOptions {
                max_bytes: settings.fetch_bytes,
                isolation_level: settings.isolation_level,
                ..Default::default()
            };
            running.spawn(read(client, topic.to_owned(), share, options, sender.clone()));
        }
        Self { records, _workers: running }
    }
}

/// Where records come from.
pub enum Source {
    Alone(Reading),
    Group(Box<GroupConsumer>),
}

impl Source {
    pub async fn open(kafka: &Kafka, topic: &str, settings: Settings) -> Result<Self, KafkaError> {
        let mut partitions = kafka.partitions(topic).await?;
        if let Some(only) = settings.partition {
            partitions.retain(|partition| partition.0 == only);
            if partitions.is_empty() {
                let message = format!("{topic} has no partition {only}");
                return Err(KafkaError::refused(ErrorCode::UnknownTopicOrPartition, &message));
            }
        }
        if settings.group.is_some() {
            return Ok(Self::Group(Box::new(GroupConsumer::open(kafka, topic, settings))));
        }
        let mut positions = Vec::new();
        for partition in partitions {
            positions.push(Position::find(kafka.client(), topic, partition, None, &settings).await?);
        }
        Ok(Self::Alone(Reading::begin(kafka, topic, positions, &settings)))
    }

    /// The next record if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        match self {
            Self::Alone(reading) => reading.records.try_recv().ok(),
            Self::Group(group) => group.try_next(),
        }
    }

    /// The next record; none at the end. The future can be dropped without losing records.
    pub async fn next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        match self {
            Self::Alone(reading) => reading.records.recv().await,
            Self::Group(group) => group.next().await.transpose(),
        }
    }

    /// Ends reading: a member commits the positions of the returned records, and leaves.
    pub async fn close(self) -> Result<(), KafkaError> {
        match self {
            Self::Alone(_) => Ok(()),
            Self::Group(group) => group.close().await,
        }
    }
}

async fn read(
    client: Client,
    topic: String,
    mut share: Vec<Position>,
    mut options: FetchOptions,
    sender: mpsc::Sender<Result<Incoming, KafkaError>>,
) {
    // A worker's client has no view of the cluster yet, and requests it once.
    let mut idle = true;
    loop {
        share.retain(|position| position.end.is_none_or(|end| position.next < end));
        if share.is_empty() {
            return;
        }
        let patience = if idle { WAIT / u32::try_from(share.len()).unwrap_or(u32::MAX) } else { Duration::ZERO };
        idle = true;
        for position in &mut share {
            options.max_wait = patience;
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

/// Reads on; the number of records, or none if the receiver is gone.
async fn fetch(
    client: &Client,
    topic: &str,
    position: &mut Position,
    options: &FetchOptions,
    sender: &mpsc::Sender<Result<Incoming, KafkaError>>,
) -> Result<Option<usize>, KafkaError> {
    let answer = match client.fetch(topic, position.partition, position.next, options).await {
        Ok(answer) => answer,
        // Deleted in the meantime, or, in a group, since it was committed.
        Err(error) if error.code() == Some(ErrorCode::OffsetOutOfRange) => {
            position.next = client.list_offsets(topic, position.partition, position.reset).await?.offset;
            return Ok(Some(0));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(bytes) = answer.records else { return Ok(Some(0)) };
    let mut aborted = AbortedBatches::new(answer.aborted_transactions);
    let mut read = 0;
    // A batch that the broker cut off at the end is not walked; it comes whole with the next fetch.
    for walked in Batches::new(&bytes) {
        let walked = walked.map_err(|error| corrupt(topic, position, &error))?;
        let (header, batch) = (walked.header, bytes.slice_ref(walked.bytes));
        if !aborted.contain(&header) && !header.is_control() {
            let records = Records::new(&batch, UNPACKED_BYTES_MAX).map_err(|error| corrupt(topic, position, &error))?;
            for record in records {
                let record = record.map_err(|error| corrupt(topic, position, &error))?;
                // A batch may begin before the requested offset.
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
    KafkaError::refused(ErrorCode::CorruptMessage, &message)
}
