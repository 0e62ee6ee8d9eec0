//! Lines in, records out: the common part of `ottla produce` and `kafka-console-producer`.
//!
//! The producer is idempotent where it acknowledges at all: a batch that is sent again after a lost answer is appended
//! once. Batches of one partition go one after the other, those of different partitions together.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;
use ottla_client::Client;
use ottla_model::{Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::record_batch::{BatchBuilder, Compression, Header};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::kafka::{Kafka, KafkaError};
use crate::murmur2::partition_of;

/// One record to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outgoing {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// None: the time at which its batch is made.
    pub timestamp: Option<TimestampMs>,
}

impl Outgoing {
    fn size_bytes(&self) -> usize {
        let length = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|header| header.key.len() + length(&header.value) + 4).sum();
        // The record's own fields take at most so much beside its contents.
        length(&self.key) + length(&self.value) + headers + 32
    }
}

/// How records are sent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// −1 (all), 0 or 1.
    pub acks: i16,
    pub compression: Compression,
    pub timeout: Duration,
    /// How long a record may wait for others of its batch.
    pub linger: Duration,
    /// Records of one round that go to one partition are sent as one batch up to this size.
    pub batch_bytes: usize,
    /// Each record is sent alone, after the one before was acknowledged.
    pub is_sync: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            acks: -1,
            compression: Compression::None,
            timeout: Duration::from_secs(30),
            linger: Duration::ZERO,
            batch_bytes: BATCH_BYTES_MAX,
            is_sync: false,
        }
    }
}

/// Below the 1 MiB that brokers take.
const BATCH_BYTES_MAX: usize = 512 * 1_024;
/// Records that wait between the reader and the sender.
pub const QUEUE_RECORDS: usize = 10_000;

/// The error of a batch that was not appended.
#[derive(Debug)]
pub struct Lost {
    pub records: Vec<Outgoing>,
    pub error: KafkaError,
}

/// A batch that was sent, and the offset of its first record.
#[derive(Debug)]
pub struct Sent {
    pub partition: PartitionId,
    pub records: Vec<Outgoing>,
    pub result: Result<Offset, KafkaError>,
}

pub struct Producer {
    client: Client,
    topic: String,
    partitions: Vec<PartitionId>,
    settings: Settings,
    /// None with acks 0 and 1, which Kafka's idempotence does not cover.
    identity: Option<(ProducerId, ProducerEpoch)>,
    /// The next sequence number of each partition.
    sequences: BTreeMap<PartitionId, i32>,
}

impl Producer {
    pub async fn open(kafka: &Kafka, topic: &str, settings: Settings) -> Result<Self, KafkaError> {
        let partitions = kafka.partitions(topic).await?;
        let client = kafka.client().clone();
        let identity = match settings.acks {
            -1 => Some(client.init_producer_id(None, Duration::from_secs(60)).await?),
            _ => None,
        };
        Ok(Self { client, topic: topic.to_owned(), partitions, settings, identity, sequences: BTreeMap::new() })
    }

    /// Sends the records of the channel until it ends; `lost` receives failed batches, and returns whether to continue.
    pub async fn run(self, records: &mut mpsc::Receiver<Outgoing>, mut lost: impl FnMut(Lost) -> bool) -> Result<()> {
        let done = |Sent { records, result, .. }| result.err().is_none_or(|error| lost(Lost { records, error }));
        self.run_reporting(records, done).await
    }

    /// As `run`; `done` receives every batch.
    pub async fn run_reporting(
        mut self,
        records: &mut mpsc::Receiver<Outgoing>,
        mut done: impl FnMut(Sent) -> bool,
    ) -> Result<()> {
        while let Some(first) = records.recv().await {
            let mut size = first.size_bytes();
            let mut round = vec![first];
            let until = Instant::now() + self.settings.linger;
            // Adds records that have arrived in the meantime: a slow input gets small batches at once, a fast one full
            // batches.
            while !self.settings.is_sync && size < self.settings.batch_bytes {
                let next = match records.try_recv() {
                    Ok(next) => next,
                    Err(_) if self.settings.linger.is_zero() => break,
                    Err(_) => match tokio::time::timeout_at(until, records.recv()).await {
                        Ok(Some(next)) => next,
                        Ok(None) | Err(_) => break,
                    },
                };
                size += next.size_bytes();
                round.push(next);
            }
            for sent in self.send(round).await? {
                if !done(sent) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, round: Vec<Outgoing>) -> Result<Vec<Sent>> {
        // Records without a key stay together in a round and spread over rounds, as Kafka's own producer has it.
        let sticky = rand::random_range(0..self.partitions.len());
        let mut by_partition: BTreeMap<usize, Vec<Outgoing>> = BTreeMap::new();
        for record in round {
            let at = match &record.key {
                Some(key) => partition_of(key, self.partitions.len()),
                None => sticky,
            };
            by_partition.entry(at).or_default().push(record);
        }
        let mut sending = JoinSet::new();
        for (at, records) in by_partition {
            let Some(&partition) = self.partitions.get(at) else { continue };
            let batch = self.batch(partition, &records)?;
            let (client, topic) = (self.client.clone(), self.topic.clone());
            let (acks, timeout) = (self.settings.acks, self.settings.timeout);
            sending.spawn(async move {
                let produced = client.produce(&topic, partition, batch, acks, timeout).await;
                let result = produced.map(|produced| produced.base_offset).map_err(KafkaError::from);
                Sent { partition, records, result }
            });
        }
        let mut sent = Vec::new();
        while let Some(done) = sending.join_next().await {
            sent.push(done?);
        }
        if sent.iter().any(|sent| sent.result.is_err()) && self.identity.is_some() {
            // The sequence numbers of the lost batch are missing now: begin again with a new producer id.
            self.identity = Some(self.client.init_producer_id(None, Duration::from_secs(60)).await?);
            self.sequences.clear();
        }
        Ok(sent)
    }

    fn batch(&mut self, partition: PartitionId, records: &[Outgoing]) -> Result<Bytes> {
        let mut builder = BatchBuilder::new().compression(self.settings.compression);
        if let Some((id, epoch)) = self.identity {
            let sequence = self.sequences.entry(partition).or_insert(0);
            builder = builder.producer(id, epoch, *sequence);
            let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
            // Sequence numbers go around at the end of the non-negative ones.
            *sequence = i32::try_from((i64::from(*sequence) + i64::from(count)) % (1 << 31)).unwrap_or(0);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = TimestampMs(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        for record in records {
            let timestamp = record.timestamp.unwrap_or(now);
            builder.push(timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
        }
        Ok(builder.build()?.freeze())
    }
}
