//! Lines in, records out: the common part of `ottla produce` and `kafka-console-producer`.
//!
//! The producer is idempotent where it acknowledges at all: a batch that is sent again after a lost answer is appended
//! once. Batches of one partition go one after the other, those of different partitions together. While a round of
//! batches is on its way, the next one is made. A batch that is too large for its topic is divided.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;
use ottla_client::{Client, TopicView};
use ottla_model::{ErrorCode, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs};
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

/// Where the records to be sent come from.
pub trait RecordSource {
    /// The next record; none at the end. The future can be dropped without losing a record.
    fn next(&mut self) -> impl Future<Output = Option<Outgoing>> + Send;

    /// The next record if it is there already.
    fn try_next(&mut self) -> Option<Outgoing>;
}

impl RecordSource for mpsc::Receiver<Outgoing> {
    async fn next(&mut self) -> Option<Outgoing> {
        self.recv().await
    }

    fn try_next(&mut self) -> Option<Outgoing> {
        self.try_recv().ok()
    }
}

/// Records that come in pieces: handing over each alone would cost more than sending it.
pub struct PieceReceiver {
    pieces: mpsc::Receiver<Vec<Outgoing>>,
    current: std::vec::IntoIter<Outgoing>,
}

impl From<mpsc::Receiver<Vec<Outgoing>>> for PieceReceiver {
    fn from(pieces: mpsc::Receiver<Vec<Outgoing>>) -> Self {
        Self { pieces, current: Vec::new().into_iter() }
    }
}

impl PieceReceiver {
    /// Nothing more is taken in; what is there is still handed out.
    pub fn close(&mut self) {
        self.pieces.close();
    }
}

impl RecordSource for PieceReceiver {
    async fn next(&mut self) -> Option<Outgoing> {
        loop {
            if let Some(record) = self.current.next() {
                return Some(record);
            }
            self.current = self.pieces.recv().await?.into_iter();
        }
    }

    fn try_next(&mut self) -> Option<Outgoing> {
        loop {
            if let Some(record) = self.current.next() {
                return Some(record);
            }
            self.current = self.pieces.try_recv().ok()?.into_iter();
        }
    }
}

/// What makes batches of records.
#[derive(Clone, Copy)]
struct Encoder {
    compression: Compression,
    /// None with acks 0 and 1, which Kafka's idempotence does not cover.
    identity: Option<(ProducerId, ProducerEpoch)>,
}

impl Encoder {
    fn batch(&self, sequence: i32, records: &[Outgoing]) -> Result<Bytes> {
        let mut builder = BatchBuilder::new().compression(self.compression);
        if let Some((id, epoch)) = self.identity {
            builder = builder.producer(id, epoch, sequence);
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

/// The indexes of the partitions that have a leader, else of all. Both lists are sorted.
fn usable(partitions: &[PartitionId], led: &[PartitionId]) -> Vec<usize> {
    let with_leader = |at: &usize| partitions.get(*at).is_some_and(|partition| led.binary_search(partition).is_ok());
    let found: Vec<usize> = (0..partitions.len()).filter(with_leader).collect();
    if found.is_empty() { (0..partitions.len()).collect() } else { found }
}

/// Sequence numbers go around at the end of the non-negative ones.
fn after(sequence: i32, records: usize) -> i32 {
    let count = i64::try_from(records).unwrap_or(i64::MAX);
    i32::try_from((i64::from(sequence) + count) % (1 << 31)).unwrap_or(0)
}

/// The records of a round for one partition.
struct Share {
    partition: PartitionId,
    records: Vec<Outgoing>,
    /// Of the first record.
    sequence: i32,
    batch: Bytes,
}

/// Sends one batch after the other of one partition.
struct Sender {
    client: Client,
    topic: String,
    acks: i16,
    timeout: Duration,
    encoder: Encoder,
}

impl Sender {
    async fn send(self, share: Share) -> Result<Vec<Sent>> {
        let Share { partition, records, mut sequence, batch } = share;
        let mut rest = vec![(records, Some(batch))];
        let mut sent = Vec::new();
        while let Some((mut records, batch)) = rest.pop() {
            let batch = match batch {
                Some(batch) => batch,
                None => self.encoder.batch(sequence, &records)?,
            };
            let produced = self.client.produce(&self.topic, partition, batch, self.acks, self.timeout).await;
            let result = produced.map(|produced| produced.base_offset).map_err(KafkaError::from);
            match &result {
                Err(error) if error.is(ErrorCode::MessageTooLarge) && records.len() > 1 => {
                    let second = records.split_off(records.len() / 2);
                    rest.push((second, None));
                    rest.push((records, None));
                    continue;
                }
                // It took no sequence numbers.
                Err(error) if error.is(ErrorCode::MessageTooLarge) => {}
                Err(error) => {
                    // Whether it was appended is not known: what follows has no sequence number.
                    let error = error.clone();
                    let unsent = rest.drain(..).rev().map(|(records, _)| records);
                    let unsent: Vec<_> =
                        unsent.map(|records| Sent { partition, records, result: Err(error.clone()) }).collect();
                    sent.push(Sent { partition, records, result });
                    sent.extend(unsent);
                    break;
                }
                Ok(_) => sequence = after(sequence, records.len()),
            }
            sent.push(Sent { partition, records, result });
        }
        Ok(sent)
    }
}

/// A round of batches that is on its way.
#[derive(Default)]
struct Flight {
    sending: JoinSet<Result<Vec<Sent>>>,
    sent: Vec<Sent>,
}

impl Flight {
    /// Waits for its end. The future can be dropped: nothing is lost.
    async fn land(&mut self) -> Result<()> {
        while let Some(done) = self.sending.join_next().await {
            self.sent.extend(done??);
        }
        Ok(())
    }
}

pub struct Producer {
    client: Client,
    topic: String,
    partitions: Vec<PartitionId>,
    settings: Settings,
    encoder: Encoder,
    /// The next sequence number of each partition.
    sequences: BTreeMap<PartitionId, i32>,
    /// A batch was lost, and its sequence numbers are missing.
    has_gap: bool,
    /// A record that did not fit in the last round.
    held: Option<Outgoing>,
}

impl Producer {
    pub async fn open(kafka: &Kafka, topic: &str, settings: Settings) -> Result<Self, KafkaError> {
        let partitions = kafka.partitions(topic).await?;
        let client = kafka.client().clone();
        let identity = match settings.acks {
            -1 => Some(client.init_producer_id(None, Duration::from_secs(60)).await?),
            _ => None,
        };
        let encoder = Encoder { compression: settings.compression, identity };
        let sequences = BTreeMap::new();
        let topic = topic.to_owned();
        Ok(Self { client, topic, partitions, settings, encoder, sequences, has_gap: false, held: None })
    }

    /// Sends the records of the channel until it ends; `lost` receives failed batches, and returns whether to continue.
    pub async fn run(self, records: &mut impl RecordSource, mut lost: impl FnMut(Lost) -> bool) -> Result<()> {
        let done = |Sent { records, result, .. }| result.err().is_none_or(|error| lost(Lost { records, error }));
        self.run_reporting(records, done).await
    }

    /// As `run`; `done` receives every batch.
    pub async fn run_reporting(
        mut self,
        records: &mut impl RecordSource,
        mut done: impl FnMut(Sent) -> bool,
    ) -> Result<()> {
        let mut flight = Flight::default();
        loop {
            let is_flying = !flight.sending.is_empty();
            let first = tokio::select! {
                biased;
                first = self.first(records) => first,
                landed = flight.land(), if is_flying => {
                    landed?;
                    if !self.report(&mut flight, &mut done) {
                        return Ok(());
                    }
                    continue;
                }
            };
            let round = match first {
                Some(first) => self.gather(first, records).await,
                None => Vec::new(),
            };
            let is_last = round.is_empty();
            let mut shares = self.encode(round)?;
            flight.land().await?;
            if !self.report(&mut flight, &mut done) || is_last {
                return Ok(());
            }
            match self.close_gap().await {
                Ok(false) => {}
                Ok(true) => shares = self.encode(shares.into_iter().flat_map(|share| share.records).collect())?,
                // It may pass until the next round.
                Err(error) if error.may_pass() => {
                    let mut lost = shares.into_iter().map(|Share { partition, records, .. }| Sent {
                        partition,
                        records,
                        result: Err(error.clone()),
                    });
                    if !lost.all(&mut done) {
                        return Ok(());
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            for share in shares {
                flight.sending.spawn(self.sender().send(share));
            }
            if self.settings.is_sync {
                flight.land().await?;
                if !self.report(&mut flight, &mut done) {
                    return Ok(());
                }
            }
        }
    }

    async fn first(&mut self, records: &mut impl RecordSource) -> Option<Outgoing> {
        match self.held.take() {
            Some(held) => Some(held),
            None => records.next().await,
        }
    }

    /// Adds records that have arrived in the meantime: a slow input gets small batches at once, a fast one full
    /// batches.
    async fn gather(&mut self, first: Outgoing, records: &mut impl RecordSource) -> Vec<Outgoing> {
        let mut size = first.size_bytes();
        let mut round = vec![first];
        let until = Instant::now() + self.settings.linger;
        while !self.settings.is_sync && size < self.settings.batch_bytes {
            let next = match records.try_next() {
                Some(next) => next,
                None if self.settings.linger.is_zero() => break,
                None => match tokio::time::timeout_at(until, records.next()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            if size + next.size_bytes() > self.settings.batch_bytes {
                self.held = Some(next);
                break;
            }
            size += next.size_bytes();
            round.push(next);
        }
        round
    }

    fn sender(&self) -> Sender {
        Sender {
            client: self.client.clone(),
            topic: self.topic.clone(),
            acks: self.settings.acks,
            timeout: self.settings.timeout,
            encoder: self.encoder,
        }
    }

    /// The index of a partition for the records without a key: of one that has a leader, as far as is known.
    fn sticky(&self) -> usize {
        let view = self.client.view();
        let led: Vec<PartitionId> = view.topics.get(&self.topic).into_iter().flat_map(TopicView::led).collect();
        let candidates = usable(&self.partitions, &led);
        candidates.get(rand::random_range(0..candidates.len().max(1))).copied().unwrap_or(0)
    }

    /// The batches of a round, as if those before were appended.
    fn encode(&mut self, round: Vec<Outgoing>) -> Result<Vec<Share>> {
        // Records without a key stay together in a round and spread over rounds, as Kafka's own producer has it.
        let sticky = self.sticky();
        let mut by_partition: BTreeMap<usize, Vec<Outgoing>> = BTreeMap::new();
        for record in round {
            let at = match &record.key {
                Some(key) => partition_of(key, self.partitions.len()),
                None => sticky,
            };
            by_partition.entry(at).or_default().push(record);
        }
        let mut shares = Vec::new();
        for (at, records) in by_partition {
            let Some(&partition) = self.partitions.get(at) else { continue };
            let next = self.sequences.entry(partition).or_insert(0);
            let sequence = *next;
            *next = after(sequence, records.len());
            let batch = self.encoder.batch(sequence, &records)?;
            shares.push(Share { partition, records, sequence, batch });
        }
        Ok(shares)
    }

    /// Reports the batches of a round that has ended; false: the receiver wants no more.
    fn report(&mut self, flight: &mut Flight, done: &mut impl FnMut(Sent) -> bool) -> bool {
        let sent = std::mem::take(&mut flight.sent);
        self.has_gap |= self.encoder.identity.is_some() && sent.iter().any(|sent| sent.result.is_err());
        sent.into_iter().all(done)
    }

    /// Begins again with a new producer id where sequence numbers are missing; whether it did.
    async fn close_gap(&mut self) -> Result<bool, KafkaError> {
        if !self.has_gap {
            return Ok(false);
        }
        self.encoder.identity = Some(self.client.init_producer_id(None, Duration::from_secs(60)).await?);
        self.sequences.clear();
        self.has_gap = false;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use ottla_client::ClientConfig;

    use super::*;

    /// A tool that is to go on ended where no broker gave a new producer id at once, or waited for ever for who took
    /// the records that it made.
    #[tokio::test]
    async fn records_are_lost_one_after_the_other_while_there_is_no_broker() {
        // Nobody listens there.
        let config = ClientConfig { retry_timeout: Duration::from_millis(1), ..ClientConfig::new("127.0.0.1:1") };
        let identity = Some((ProducerId(1), ProducerEpoch(0)));
        let producer = Producer {
            client: Client::new(config),
            topic: "t".to_owned(),
            partitions: vec![PartitionId(0)],
            settings: Settings { is_sync: true, ..Settings::default() },
            encoder: Encoder { compression: Compression::None, identity },
            sequences: BTreeMap::new(),
            has_gap: false,
            held: None,
        };
        let (sender, mut records) = mpsc::channel(3);
        for _ in 0..3 {
            sender.try_send(Outgoing::default()).expect("room");
        }
        drop(sender);
        let mut lost = 0;
        let count = |sent: Sent| {
            lost += usize::from(sent.result.is_err());
            true
        };
        assert!(producer.run_reporting(&mut records, count).await.is_ok());
        assert_eq!(lost, 3);
    }

    /// Records without a key waited for the leader of a partition that had none, and were lost.
    #[test]
    fn records_without_a_key_go_where_there_is_a_leader() {
        let ids = |ids: &[i32]| ids.iter().copied().map(PartitionId).collect::<Vec<_>>();
        assert_eq!(usable(&ids(&[0, 1, 2]), &ids(&[0, 2])), [0, 2]);
        assert_eq!(usable(&ids(&[0, 1]), &[]), [0, 1], "nothing is known");
        assert!(usable(&[], &ids(&[0])).is_empty());
    }
}
