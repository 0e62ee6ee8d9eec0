//! Records of topics, as they arrive: the common part of `ottla consume` and `kafka-console-consumer`.
//!
//! Either every partition is read from where the caller says, and nothing is committed; or this is a member of a group
//! ([`crate::group_consumer`]). Records travel in pieces from the tasks that read to the caller.

use std::collections::BTreeSet;
use std::time::Duration;

use ottla_client::{AbortedBatches, Client, ClientError, FetchOptions};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName, TopicPartition};
use ottla_protocol::messages::fetch::IsolationLevel;
use ottla_protocol::record_batch::{Batches, Record, Records, TimestampType};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::err;
use crate::group_consumer::{GroupConsumer, GroupSettings};
use crate::kafka::{Kafka, KafkaError};

/// Where reading begins; in a group, where it begins while nothing is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Beginning,
    End,
    At(i64),
    /// This offset; of a partition that does not have it the nearest, which is said on standard error.
    Nearest(i64),
    /// The first record at or after this time, else the end.
    Time(TimestampMs),
}

/// Kafka's special times.
const LATEST: TimestampMs = TimestampMs(-1);
const EARLIEST: TimestampMs = TimestampMs(-2);

impl From {
    /// Kafka's special time for the end that reading starts from where a position does not exist.
    fn reset(self) -> TimestampMs {
        match self {
            Self::Beginning | Self::Nearest(_) | Self::Time(_) => EARLIEST,
            Self::End | Self::At(_) => LATEST,
        }
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
    pub topic: TopicName,
    pub partition: PartitionId,
    pub record: Record,
    pub timestamp_type: TimestampType,
    /// Of the record's batch.
    pub leader_epoch: LeaderEpoch,
}

/// Connections to each broker, at most: partitions beyond share them.
const WORKERS_MAX: usize = 16;
/// How long a broker may hold a fetch that finds nothing.
const WAIT: Duration = Duration::from_millis(500);
/// The usual size of one fetch.
pub const FETCH_BYTES: i32 = 4 * 1_024 * 1_024;
/// The greatest size that a compressed batch may unpack to.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Records of one piece: enough that handing them over costs little, few enough that the first ones come at once.
const PIECE_RECORDS: usize = 1_000;
/// Pieces that wait to be printed. Their records share the bytes of the fetches that they came with.
const QUEUE_PIECES: usize = 10;
/// How long a partition without an end is tried before others of its worker have their turn.
const TURN: Duration = Duration::from_secs(1);
/// How often topics that match a pattern are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The topics that are read.
#[derive(Clone, Debug)]
pub enum Topics {
    One(String),
    /// Those whose whole name matches, also later ones; no internal ones.
    Matching(regex::Regex),
}

impl Topics {
    /// The topics of this regular expression.
    pub fn matching(expression: &str) -> Result<Self, regex::Error> {
        regex::Regex::new(&format!("^(?:{expression})$")).map(Self::Matching)
    }

    /// The names of now.
    pub async fn names(&self, kafka: &Kafka) -> Result<Vec<String>, KafkaError> {
        let pattern = match self {
            Self::One(topic) => return Ok(vec![topic.clone()]),
            Self::Matching(pattern) => pattern,
        };
        let listed = kafka.client().list_topics().await?;
        let matching = listed.into_iter().filter(|topic| !topic.is_internal && pattern.is_match(&topic.name));
        Ok(matching.map(|topic| topic.name).collect())
    }
}

/// A partition and how far it was read.
#[derive(Clone, Debug)]
pub struct Position {
    pub at: TopicPartition,
    pub next: Offset,
    /// Where to stop.
    pub end: Option<Offset>,
    /// Where to continue if the log does not have `next`.
    reset: TimestampMs,
    /// Where to begin, as soon as a leader can be asked for `next`: it has none now.
    pub later: Option<From>,
    /// Whether it was told that the partition cannot be read now.
    is_away: bool,
}

impl Position {
    /// The position of a partition: at `next`, or where the settings say.
    pub async fn find(
        client: &Client,
        at: TopicPartition,
        next: Option<Offset>,
        settings: &Settings,
    ) -> Result<Self, KafkaError> {
        let (topic, partition) = (at.topic.as_str(), at.partition);
        let (next, later) = match next {
            Some(next) => (next, None),
            // It does not hold up the others.
            None if !settings.exit_at_end && !client.may_have_leader(topic, partition) => {
                (Offset::ZERO, Some(settings.from))
            }
            None => match begin(client, &at, settings.from).await {
                Ok(next) => (next, None),
                Err(error) if !settings.exit_at_end && error.may_pass() => (Offset::ZERO, Some(settings.from)),
                Err(error) => return Err(error.into()),
            },
        };
        let end = match settings.exit_at_end {
            true => Some(client.list_offsets(topic, partition, LATEST).await?.offset),
            false => None,
        };
        Ok(Self { at, next, end, reset: settings.from.reset(), later, is_away: false })
    }

    /// The positions of all partitions of a topic, or of the one that the settings name.
    async fn of_topic(kafka: &Kafka, topic: &str, settings: &Settings) -> Result<Vec<Self>, KafkaError> {
        let mut partitions = kafka.partitions_led(topic, settings.exit_at_end).await?;
        if let Some(only) = settings.partition {
            partitions.retain(|partition| partition.0 == only);
            if partitions.is_empty() {
                let message = format!("{topic} has no partition {only}");
                return Err(KafkaError::refused(ErrorCode::UnknownTopicOrPartition, &message));
            }
        }
        let name = topic_name(topic)?;
        let mut positions = Vec::new();
        for partition in partitions {
            let at = TopicPartition::new(name.clone(), partition);
            positions.push(Self::find(kafka.client(), at, None, settings).await?);
        }
        Ok(positions)
    }

    /// What follows from a failure. Without an end there is nothing else to do than to try again, as Kafka's consumers
    /// do: a broker that restarts must not end those that read.
    fn put_off(&mut self, error: ClientError) -> Result<Option<usize>, KafkaError> {
        // A log that is damaged stays so.
        let is_damaged = error.code() == Some(ErrorCode::CorruptMessage);
        if self.end.is_some() || is_damaged || !error.may_pass() {
            return Err(error.into());
        }
        if !self.is_away {
            err!("{} cannot be read now, and is tried again: {error}", self.at);
            self.is_away = true;
        }
        Ok(Some(0))
    }
}

fn topic_name(topic: &str) -> Result<TopicName, KafkaError> {
    TopicName::new(topic).map_err(|error| KafkaError::refused(ErrorCode::InvalidTopicException, &error.to_string()))
}

/// What brokers answer where no record is at or after a time.
const NO_OFFSET: Offset = Offset(-1);

/// The offset that reading begins at.
async fn begin(client: &Client, at: &TopicPartition, from: From) -> Result<Offset, ClientError> {
    let (topic, partition) = (at.topic.as_str(), at.partition);
    match from {
        From::At(offset) => Ok(Offset(offset)),
        From::Nearest(offset) => nearest(client, at, Offset(offset)).await,
        From::Time(time) => match client.list_offsets(topic, partition, time).await?.offset {
            // No record is so new.
            NO_OFFSET => Ok(client.list_offsets(topic, partition, LATEST).await?.offset),
            found => Ok(found),
        },
        From::Beginning | From::End => Ok(client.list_offsets(topic, partition, from.reset()).await?.offset),
    }
}

/// The offset of a partition that is nearest to one that it may not have. Where it is another, a line says so: who asks
/// for the records from 1000 on must not take those from 1500 on, or none, for them.
async fn nearest(client: &Client, at: &TopicPartition, wanted: Offset) -> Result<Offset, ClientError> {
    let (topic, partition) = (at.topic.as_str(), at.partition);
    let begin = client.list_offsets(topic, partition, EARLIEST).await?.offset;
    let end = client.list_offsets(topic, partition, LATEST).await?.offset;
    if wanted > end {
        err!("{at} ends at offset {end}: {wanted} is not there yet; reading from {end}");
    } else if wanted < begin {
        err!("{at} begins at offset {begin}: {wanted} is not there any more; reading from {begin}");
    }
    Ok(wanted.clamp(begin, end.max(begin)))
}

/// Records of one batch.
struct Piece {
    at: TopicPartition,
    timestamp_type: TimestampType,
    leader_epoch: LeaderEpoch,
    records: std::vec::IntoIter<Record>,
}

type Pieces = Result<Piece, KafkaError>;

/// Partitions that are being read; dropping it ends that.
pub struct Reading {
    pieces: mpsc::Receiver<Pieces>,
    /// The one that is being handed out.
    current: Option<Piece>,
    workers: JoinSet<()>,
}

impl Reading {
    pub fn begin(kafka: &Kafka, positions: Vec<Position>, settings: &Settings) -> Self {
        let (sender, pieces) = mpsc::channel(QUEUE_PIECES);
        let mut reading = Self { pieces, current: None, workers: JoinSet::new() };
        reading.add(kafka, positions, settings, &sender);
        reading
    }

    fn add(&mut self, kafka: &Kafka, positions: Vec<Position>, settings: &Settings, sender: &mpsc::Sender<Pieces>) {
        let workers = positions.len().clamp(1, WORKERS_MAX);
        let mut shares: Vec<Vec<Position>> = (0..workers).map(|_| Vec::new()).collect();
        for (at, position) in positions.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(at % workers) {
                share.push(position);
            }
        }
        for share in shares {
            // Answers of one connection come in order, so a fetch that waits would hold up the others: each worker has
            // its own.
            let mut config = kafka.client().config().clone();
            if !settings.exit_at_end {
                config.retry_timeout = config.retry_timeout.min(TURN);
            }
            let client = Client::new(config);
            let options = FetchOptions {
                max_bytes: settings.fetch_bytes,
                isolation_level: settings.isolation_level,
                ..Default::default()
            };
            self.workers.spawn(read(client, share, options, sender.clone()));
        }
    }

    fn of_current(&mut self) -> Option<Incoming> {
        let piece = self.current.as_mut()?;
        match piece.records.next() {
            Some(record) => Some(Incoming {
                topic: piece.at.topic.clone(),
                partition: piece.at.partition,
                record,
                timestamp_type: piece.timestamp_type,
                leader_epoch: piece.leader_epoch,
            }),
            None => {
                self.current = None;
                None
            }
        }
    }

    /// The next record if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        loop {
            if let Some(incoming) = self.of_current() {
                return Some(Ok(incoming));
            }
            match self.pieces.try_recv().ok()? {
                Ok(piece) => self.current = Some(piece),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next record; none when every partition is at its end (with `exit_at_end`). The future can be dropped
    /// without losing records.
    pub async fn next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        loop {
            if let Some(incoming) = self.of_current() {
                return Some(Ok(incoming));
            }
            match self.pieces.recv().await? {
                Ok(piece) => self.current = Some(piece),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Partitions that are read without a group.
pub struct Alone {
    reading: Reading,
    kafka: Kafka,
    topics: Topics,
    settings: Settings,
    known: BTreeSet<String>,
    /// For the partitions of later topics; none where the topic was named.
    sender: Option<mpsc::Sender<Pieces>>,
    next_look: Instant,
}

impl Alone {
    async fn open(kafka: &Kafka, topics: Topics, settings: Settings) -> Result<Self, KafkaError> {
        let (sender, pieces) = mpsc::channel(QUEUE_PIECES);
        let mut alone = Self {
            reading: Reading { pieces, current: None, workers: JoinSet::new() },
            kafka: kafka.clone(),
            topics,
            settings,
            known: BTreeSet::new(),
            sender: Some(sender),
            next_look: Instant::now(),
        };
        alone.look().await?;
        if matches!(alone.topics, Topics::One(_)) {
            // Reading ends when its workers do.
            alone.sender = None;
        }
        Ok(alone)
    }

    /// Begins with the topics that are there and are not read yet.
    async fn look(&mut self) -> Result<(), KafkaError> {
        let names = self.topics.names(&self.kafka).await?;
        let mut positions = Vec::new();
        let new: Vec<String> = names.into_iter().filter(|name| !self.known.contains(name)).collect();
        for name in &new {
            positions.extend(Position::of_topic(&self.kafka, name, &self.settings).await?);
        }
        self.known.extend(new);
        if let Some(sender) = self.sender.clone().filter(|_| !positions.is_empty()) {
            self.reading.add(&self.kafka, positions, &self.settings, &sender);
        }
        // A topic that appears later is read from its beginning: it had no record before.
        if matches!(self.topics, Topics::Matching(_)) && self.settings.from == From::End {
            self.settings.from = From::Beginning;
        }
        self.next_look = Instant::now() + LOOK_EVERY;
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        loop {
            if self.sender.is_none() {
                return self.reading.next().await;
            }
            tokio::select! {
                next = self.reading.next() => return next,
                () = tokio::time::sleep_until(self.next_look) => {}
            }
            if let Err(error) = self.look().await {
                if !error.may_pass() {
                    return Some(Err(error));
                }
                // The topics that are known are read on.
                err!("new topics cannot be looked for now: {error}");
                self.next_look = Instant::now() + LOOK_EVERY;
            }
        }
    }
}

/// Where records come from.
pub enum Source {
    Alone(Box<Alone>),
    Group(Box<GroupConsumer>),
}

impl Source {
    pub async fn open(kafka: &Kafka, topics: Topics, settings: Settings) -> Result<Self, KafkaError> {
        if settings.group.is_none() {
            return Ok(Self::Alone(Box::new(Alone::open(kafka, topics, settings).await?)));
        }
        if let (Topics::One(topic), Some(_)) = (&topics, settings.partition) {
            // That the partition exists.
            Position::of_topic(kafka, topic, &settings).await?;
        }
        Ok(Self::Group(Box::new(GroupConsumer::open(kafka, topics, settings).await?)))
    }

    /// The next record if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        match self {
            Self::Alone(alone) => alone.reading.try_next(),
            Self::Group(group) => group.try_next(),
        }
    }

    /// The next record; none at the end. The future can be dropped without losing records.
    pub async fn next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        match self {
            Self::Alone(alone) => alone.next().await,
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

async fn read(client: Client, mut share: Vec<Position>, mut options: FetchOptions, sender: mpsc::Sender<Pieces>) {
    // A worker's client has no view of the cluster yet, and requests it once.
    let mut idle = true;
    for round in 0.. {
        share.retain(|position| position.end.is_none_or(|end| position.next < end));
        if share.is_empty() {
            return;
        }
        let patience = if idle { WAIT / u32::try_from(share.len()).unwrap_or(u32::MAX) } else { Duration::ZERO };
        idle = true;
        for at in turns(&share, round) {
            let Some(position) = share.get_mut(at) else { continue };
            options.max_wait = patience;
            match fetch(&client, position, &options, &sender).await {
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

/// Who has its turn in a round: all that can be read, and one of those that cannot, which takes a [`TURN`] in vain.
fn turns(share: &[Position], round: usize) -> Vec<usize> {
    let away: Vec<usize> = (0..).zip(share).filter(|(_, position)| position.is_away).map(|(at, _)| at).collect();
    let tried = away.get(round % away.len().max(1)).copied();
    (0..).zip(share).filter(|(at, position)| !position.is_away || tried == Some(*at)).map(|(at, _)| at).collect()
}

/// Reads on; the number of records, or none if the receiver is gone.
async fn fetch(
    client: &Client,
    position: &mut Position,
    options: &FetchOptions,
    sender: &mpsc::Sender<Pieces>,
) -> Result<Option<usize>, KafkaError> {
    if let Some(from) = position.later {
        match begin(client, &position.at, from).await {
            Ok(next) => (position.next, position.later) = (next, None),
            Err(error) => return position.put_off(error),
        }
    }
    let (topic, partition) = (position.at.topic.as_str(), position.at.partition);
    let answer = match client.fetch(topic, partition, position.next, options).await {
        Ok(answer) => answer,
        // Deleted in the meantime, or, in a group, since it was committed.
        Err(error) if error.code() == Some(ErrorCode::OffsetOutOfRange) => {
            return match client.list_offsets(topic, partition, position.reset).await {
                Ok(found) => {
                    position.next = found.offset;
                    Ok(Some(0))
                }
                Err(error) => position.put_off(error),
            };
        }
        Err(error) => return position.put_off(error),
    };
    position.is_away = false;
    let Some(bytes) = answer.records else { return Ok(Some(0)) };
    let mut aborted = AbortedBatches::new(answer.aborted_transactions);
    let mut read = 0;
    // A batch that the broker cut off at the end is not walked; it comes whole with the next fetch.
    for walked in Batches::new(&bytes) {
        let walked = walked.map_err(|error| corrupt(position, &error))?;
        let (header, batch) = (walked.header, bytes.slice_ref(walked.bytes));
        if !aborted.contain(&header) && !header.is_control() {
            let mut records = Records::new(&batch, UNPACKED_BYTES_MAX).map_err(|error| corrupt(position, &error))?;
            loop {
                let mut piece = Vec::new();
                for record in records.by_ref() {
                    let record = record.map_err(|error| corrupt(position, &error))?;
                    // A batch may begin before the requested offset.
                    if record.offset >= position.next && position.end.is_none_or(|end| record.offset < end) {
                        piece.push(record);
                    }
                    if piece.len() == PIECE_RECORDS {
                        break;
                    }
                }
                if piece.is_empty() {
                    break;
                }
                read += piece.len();
                let piece = Piece {
                    at: position.at.clone(),
                    timestamp_type: header.timestamp_type(),
                    leader_epoch: header.partition_leader_epoch,
                    records: piece.into_iter(),
                };
                if sender.send(Ok(piece)).await.is_err() {
                    return Ok(None);
                }
            }
        }
        position.next = position.next.max(header.next_offset());
    }
    Ok(Some(read))
}

fn corrupt(position: &Position, error: &dyn std::fmt::Display) -> KafkaError {
    let message = format!("{}-{} at offset {}: {error}", position.at.topic, position.at.partition, position.next);
    KafkaError::refused(ErrorCode::CorruptMessage, &message)
}

#[cfg(test)]
mod tests {
    use ottla_client::ClientConfig;

    use super::*;
    use crate::sample_partitions::at;

    fn position(end: Option<Offset>, later: Option<From>) -> Position {
        Position { at: at("t", 0), next: Offset(7), end, reset: LATEST, later, is_away: false }
    }

    /// No broker is where it looks for one.
    async fn of_nobody() -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        Client::new(ClientConfig { retry_timeout: Duration::from_millis(10), ..ClientConfig::new(&address) })
    }

    /// A reader of three partitions ended when the broker of one of them was away for half a minute.
    #[tokio::test]
    async fn a_partition_without_a_broker_is_tried_again_unless_it_is_read_to_an_end() {
        let client = of_nobody().await;
        let (sender, _pieces) = mpsc::channel(1);
        for (end, later, goes_on) in
            [(None, None, true), (None, Some(From::Beginning), true), (Some(Offset(9)), None, false)]
        {
            let mut position = position(end, later);
            let read = fetch(&client, &mut position, &FetchOptions::default(), &sender).await;
            assert_eq!(read.is_ok_and(|read| read == Some(0)), goes_on);
            assert_eq!((position.next, position.later, position.is_away), (Offset(7), later, goes_on));
        }
    }

    /// One topic whose only broker was away kept a reader from all others.
    #[tokio::test]
    async fn a_partition_that_cannot_be_asked_where_to_begin_is_asked_later() {
        let client = of_nobody().await;
        let mut settings = Settings {
            partition: None,
            from: From::Beginning,
            exit_at_end: false,
            isolation_level: IsolationLevel::ReadUncommitted,
            fetch_bytes: FETCH_BYTES,
            group: None,
        };
        let found = Position::find(&client, at("t", 0), None, &settings).await;
        assert_eq!(found.map(|position| position.later).ok(), Some(Some(From::Beginning)));
        settings.exit_at_end = true;
        assert!(Position::find(&client, at("t", 0), None, &settings).await.is_err(), "its end is not known");
    }

    /// Each round took a second for each partition of a broker that was away: those of the others waited for all.
    #[test]
    fn a_round_tries_one_partition_that_cannot_be_read() {
        let mut share = vec![position(None, None); 5];
        assert_eq!(turns(&share, 7), [0, 1, 2, 3, 4]);
        for away in [1, 2, 4] {
            share[away].is_away = true;
        }
        let rounds = [[0, 1, 3].as_slice(), &[0, 2, 3], &[0, 3, 4], &[0, 1, 3]];
        for (round, expected) in rounds.into_iter().enumerate() {
            assert_eq!(turns(&share, round), expected);
        }
    }

    #[test]
    fn what_does_not_pass_ends_reading() {
        for code in [ErrorCode::CorruptMessage, ErrorCode::TopicAuthorizationFailed] {
            let mut position = position(None, None);
            assert!(position.put_off(ClientError::refused(code)).is_err(), "{code:?}");
        }
    }
}
