//! Producers and consumers. A producer with acks=all is idempotent, as Kafka's own is by default, and sends again until
//! it has an answer; one with acks=1 sends once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use ottla_model::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicIdPartition,
    TransactionResult,
};
use ottla_protocol::record_batch::{BatchBuilder, Batches, EndMarkerRecord};
use ottla_replication::FetchPosition;

use crate::clock::{SimTime, WALL_START_MS};
use crate::content::{Content, RecordId};
use crate::message::{CallId, Fetch, FetchBytes, FetchedPartition, Message, Produce, ProduceAnswer, Rack, SessionRef};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

pub const TICK_MS: u64 = 40;

/// A produce that is not answered within this time is sent again.
const RESEND_MS: u64 = 1_500;
const BACKOFF_MS: u64 = 50;
/// How long a consumer reads where its leader has sent it (`metadata.max.age.ms`).
const PREFERRED_MS: u64 = 3_000;
/// Requests of one lane that are on their way: Kafka's producers have at most five.
const IN_FLIGHT_MAX: usize = 3;
/// So many refusals for the sequence of the oldest batch mean that its predecessors are lost: the producer begins anew.
const SEQUENCE_REFUSALS_MAX: u32 = 40;

/// A batch that was acknowledged to an idempotent producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    pub partition: TopicIdPartition,
    pub first: Offset,
    pub producer: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub records: i32,
}

/// What a client saw, for the invariants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Acknowledged(Acknowledged),
    Consumed {
        partition: TopicIdPartition,
        offset: Offset,
        record: RecordId,
        /// Of the replica that gave it.
        leader_epoch: LeaderEpoch,
    },
    /// A reader of committed records took it for one.
    ReadCommitted {
        partition: TopicIdPartition,
        offset: Offset,
        record: RecordId,
        leader_epoch: LeaderEpoch,
    },
    /// What a broker tells a consumer of a log.
    Bounds {
        partition: TopicIdPartition,
        log_start: Offset,
        high_watermark: Offset,
    },
    /// How a producer's transaction in this epoch ends.
    Decided {
        producer: ProducerId,
        epoch: ProducerEpoch,
        result: TransactionResult,
    },
}

struct Sent {
    call: CallId,
    batch: Bytes,
    base_sequence: i32,
    records: i32,
    /// None: to be sent.
    sent_at: Option<SimTime>,
    not_before: SimTime,
    refusals: u32,
}

/// What a producer writes to one partition.
struct Lane {
    partition: TopicIdPartition,
    broker: i32,
    producer: ProducerId,
    next_sequence: i32,
    in_flight: VecDeque<Sent>,
}

pub struct Producer {
    pub id: u32,
    acks: i16,
    timeout_ms: u64,
    lanes: Vec<Lane>,
    brokers: Vec<i32>,
    next_call: u64,
    next_value: u64,
    /// Producer ids of this client: `id * 1000 + n`.
    next_producer: i64,
    random: Random,
    /// Chance, in percent, that a tick sends something new to a lane.
    pub eagerness: u32,
    pub is_stopping: bool,
    pub acknowledged: u64,
}

impl Producer {
    pub fn new(id: u32, acks: i16, timeout_ms: u64, brokers: Vec<i32>, random: Random) -> Self {
        Self {
            id,
            acks,
            timeout_ms,
            lanes: Vec::new(),
            brokers,
            next_call: 0,
            next_value: 0,
            next_producer: 0,
            random,
            eagerness: 30,
            is_stopping: false,
            acknowledged: 0,
        }
    }

    fn new_producer_id(&mut self) -> ProducerId {
        if self.acks != -1 {
            return ProducerId::NONE;
        }
        self.next_producer += 1;
        ProducerId(i64::from(self.id) * 1_000 + self.next_producer)
    }

    /// Writes to these partitions from now on.
    pub fn set_partitions(&mut self, partitions: &[TopicIdPartition]) {
        self.lanes.retain(|lane| partitions.contains(&lane.partition));
        for &partition in partitions {
            if !self.lanes.iter().any(|lane| lane.partition == partition) {
                let producer = self.new_producer_id();
                let broker = self.random.pick(&self.brokers).copied().unwrap_or(1);
                self.lanes.push(Lane { partition, broker, producer, next_sequence: 0, in_flight: VecDeque::new() });
            }
        }
    }

    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.in_flight.is_empty())
    }

    pub fn tick(&mut self, at: SimTime, out: &mut Outbox) {
        for number in 0..self.lanes.len() {
            if !self.is_stopping && self.random.percent(self.eagerness) {
                self.add_batch(number, at);
            }
            self.send_lane(number, at, out);
        }
    }

    fn add_batch(&mut self, number: usize, at: SimTime) {
        let records = i32::try_from(self.random.between(1, 4)).unwrap_or(1);
        let Some(lane) = self.lanes.get_mut(number).filter(|lane| lane.in_flight.len() < IN_FLIGHT_MAX) else { return };
        let base_sequence = if lane.producer == ProducerId::NONE { -1 } else { lane.next_sequence };
        let mut builder = BatchBuilder::new();
        if lane.producer != ProducerId::NONE {
            builder = builder.producer(lane.producer, ProducerEpoch(0), base_sequence);
        }
        for _ in 0..records {
            self.next_value += 1;
            let value = format!("client {} value {}", self.id, self.next_value);
            let timestamp = WALL_START_MS + i64::try_from(at.as_ms()).unwrap_or(0);
            builder = builder.record(TimestampMs(timestamp), None, Some(value.as_bytes()));
        }
        let Ok(batch) = builder.build() else { return };
        self.next_call += 1;
        lane.next_sequence = ottla_replication::producer_state::last_sequence(lane.next_sequence, records);
        lane.in_flight.push_back(Sent {
            call: CallId(self.next_call),
            batch: batch.freeze(),
            base_sequence,
            records,
            sent_at: None,
            not_before: at,
            refusals: 0,
        });
    }

    fn send_lane(&mut self, number: usize, at: SimTime, out: &mut Outbox) {
        let Some(lane) = self.lanes.get_mut(number) else { return };
        if self.acks != -1 {
            lane.in_flight.retain(|sent| sent.sent_at.is_none_or(|since| at < since.plus_ms(RESEND_MS)));
        }
        let is_late = |sent: &Sent| sent.sent_at.is_some_and(|since| at >= since.plus_ms(RESEND_MS));
        if lane.in_flight.iter().any(is_late) {
            // Nobody answers there.
            if let Some(broker) = self.random.pick(&self.brokers) {
                lane.broker = *broker;
            }
        }
        for sent in &mut lane.in_flight {
            if is_late(sent) {
                sent.sent_at = None;
            }
            if sent.sent_at.is_some() {
                continue;
            }
            // In order: what comes later waits for what is to be sent first.
            if at < sent.not_before {
                break;
            }
            sent.sent_at = Some(at);
            let produce = Produce {
                partition: lane.partition,
                acks: self.acks,
                batch: sent.batch.clone(),
                timeout_ms: self.timeout_ms,
                is_confirmed: false,
            };
            out.send(NodeId::Broker(lane.broker), Message::Produce { call: sent.call, produce });
        }
    }

    pub fn answered(&mut self, at: SimTime, call: CallId, answer: &ProduceAnswer, out: &mut Outbox) -> Option<Seen> {
        let found = self.lanes.iter().position(|lane| lane.in_flight.iter().any(|sent| sent.call == call))?;
        let fresh_producer = (self.acks == -1).then(|| self.next_producer + 1);
        let lane = self.lanes.get_mut(found)?;
        let place = lane.in_flight.iter().position(|sent| sent.call == call)?;
        let mut seen = None;
        match answer.error {
            ErrorCode::None => {
                let sent = lane.in_flight.remove(place)?;
                self.acknowledged += 1;
                if self.acks == -1 {
                    seen = Some(Seen::Acknowledged(Acknowledged {
                        partition: lane.partition,
                        first: answer.base_offset,
                        producer: lane.producer,
                        producer_epoch: ProducerEpoch(0),
                        base_sequence: sent.base_sequence,
                        records: sent.records,
                    }));
                }
            }
            _ if self.acks != -1 => {
                lane.in_flight.remove(place);
                Self::look_elsewhere(lane, answer, &self.brokers, &mut self.random);
            }
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::InvalidProducerEpoch => {
                let sent = lane.in_flight.get_mut(place)?;
                sent.sent_at = None;
                sent.not_before = at.plus_ms(BACKOFF_MS);
                sent.refusals += u32::from(place == 0);
                if sent.refusals >= SEQUENCE_REFUSALS_MAX {
                    lane.in_flight.clear();
                    lane.next_sequence = 0;
                    if let Some(fresh) = fresh_producer {
                        self.next_producer = fresh;
                        lane.producer = ProducerId(i64::from(self.id) * 1_000 + fresh);
                    }
                }
            }
            _ => {
                let sent = lane.in_flight.get_mut(place)?;
                sent.sent_at = None;
                sent.not_before = at.plus_ms(BACKOFF_MS);
                Self::look_elsewhere(lane, answer, &self.brokers, &mut self.random);
            }
        }
        self.send_lane(found, at, out);
        seen
    }

    fn look_elsewhere(lane: &mut Lane, answer: &ProduceAnswer, brokers: &[i32], random: &mut Random) {
        match answer.error {
            ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend | ErrorCode::RequestTimedOut => {}
            _ if answer.leader.0 >= 0 && answer.leader.0 != lane.broker => lane.broker = answer.leader.0,
            _ => lane.broker = random.pick(brokers).copied().unwrap_or(lane.broker),
        }
    }

    /// The broker's process is gone: what it had not answered may be in the log, or not.
    pub fn connection_lost(&mut self, at: SimTime, broker: i32) {
        for lane in &mut self.lanes {
            if lane.broker != broker {
                continue;
            }
            lane.broker = self.random.pick(&self.brokers).copied().unwrap_or(broker);
            if self.acks == -1 {
                for sent in &mut lane.in_flight {
                    sent.sent_at = None;
                    sent.not_before = at.plus_ms(BACKOFF_MS);
                }
            } else {
                lane.in_flight.clear();
            }
        }
    }
}

/// The offsets that a reader of committed records passes over: markers, and what the broker says was aborted.
pub fn hidden(records: &[u8], aborted: &[(ProducerId, Offset)]) -> BTreeSet<Offset> {
    let mut waiting: Vec<_> = aborted.iter().map(|(producer, first)| (*first, *producer)).collect();
    waiting.sort_unstable();
    let (mut waiting, mut active, mut hidden) = (waiting.into_iter().peekable(), BTreeSet::new(), BTreeSet::new());
    for batch in Batches::new(records).map_while(Result::ok) {
        let header = batch.header;
        while let Some((_, producer)) = waiting.next_if(|(first, _)| *first <= header.last_offset()) {
            active.insert(producer);
        }
        let marker = EndMarkerRecord::parse(&header, batch.bytes);
        if marker.is_some_and(|marker| marker.result == TransactionResult::Abort) {
            active.remove(&header.producer_id);
        }
        if header.is_control() || header.is_transactional() && active.contains(&header.producer_id) {
            hidden.extend((header.base_offset.0..=header.last_offset().0).map(Offset));
        }
    }
    hidden
}

struct Reading {
    broker: i32,
    offset: Offset,
    outstanding: Option<(CallId, SimTime)>,
    not_before: SimTime,
    /// It was sent here; then it asks another broker, perhaps the leader.
    here_until: Option<SimTime>,
}

pub struct Consumer {
    pub id: u32,
    reads_committed: bool,
    /// None: it reads where it happens to ask.
    pub rack: Option<Rack>,
    /// Records that followers gave it.
    pub read_at_followers: u64,
    bytes: FetchBytes,
    partitions: BTreeMap<TopicIdPartition, Reading>,
    brokers: Vec<i32>,
    next_call: u64,
    random: Random,
}

impl Consumer {
    pub fn new(id: u32, brokers: Vec<i32>, bytes: FetchBytes, mut random: Random) -> Self {
        let near = random.percent(70).then(|| random.pick(&brokers).copied()).flatten();
        Self {
            id,
            reads_committed: false,
            rack: near.map(|near| Rack::of(BrokerId(near))),
            read_at_followers: 0,
            bytes,
            partitions: BTreeMap::new(),
            brokers,
            next_call: 0,
            random,
        }
    }

    /// As a reader of committed records.
    #[must_use]
    pub fn of_committed(self) -> Self {
        Self { reads_committed: true, ..self }
    }

    pub fn set_partitions(&mut self, partitions: &[TopicIdPartition]) {
        self.partitions.retain(|partition, _| partitions.contains(partition));
        for &partition in partitions {
            let broker = self.random.pick(&self.brokers).copied().unwrap_or(1);
            self.partitions.entry(partition).or_insert(Reading {
                broker,
                offset: Offset::ZERO,
                outstanding: None,
                not_before: SimTime(0),
                here_until: None,
            });
        }
    }

    pub fn position(&self, partition: TopicIdPartition) -> Option<Offset> {
        self.partitions.get(&partition).map(|reading| reading.offset)
    }

    pub fn tick(&mut self, at: SimTime, out: &mut Outbox) {
        for (&partition, reading) in &mut self.partitions {
            if reading.outstanding.is_some_and(|(_, since)| at >= since.plus_ms(RESEND_MS)) {
                reading.outstanding = None;
                reading.broker = self.random.pick(&self.brokers).copied().unwrap_or(reading.broker);
            }
            if reading.outstanding.is_some() || at < reading.not_before {
                continue;
            }
            if reading.here_until.take_if(|until| at >= *until).is_some() {
                reading.broker = self.random.pick(&self.brokers).copied().unwrap_or(reading.broker);
            }
            self.next_call += 1;
            let call = CallId(self.next_call);
            reading.outstanding = Some((call, at));
            let position = FetchPosition {
                leader_epoch: LeaderEpoch::NONE,
                offset: reading.offset,
                last_fetched_epoch: LeaderEpoch::NONE,
                log_start: Offset::UNKNOWN,
                high_watermark: None,
            };
            let fetch = Fetch {
                replica: None,
                session: SessionRef::NONE,
                partitions: vec![(partition, position)],
                forgotten: Vec::new(),
                max_wait_ms: 300,
                bytes: self.bytes,
                reads_committed: self.reads_committed,
                rack: self.rack,
            };
            out.send(NodeId::Broker(reading.broker), Message::Fetch { call, fetch });
        }
    }

    pub fn answered(
        &mut self,
        at: SimTime,
        call: CallId,
        partitions: &[(TopicIdPartition, FetchedPartition)],
    ) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (partition, answer) in partitions {
            let Some(reading) = self.partitions.get_mut(partition) else { continue };
            if reading.outstanding.is_none_or(|(expected, _)| expected != call) {
                continue;
            }
            reading.outstanding = None;
            if !answer.error.is_ok() {
                reading.not_before = at.plus_ms(BACKOFF_MS);
                reading.broker = self.random.pick(&self.brokers).copied().unwrap_or(reading.broker);
                // DeleteRecords passed by: a consumer with `auto.offset.reset=earliest` goes on from the log's start.
                if answer.error == ErrorCode::OffsetOutOfRange && answer.log_start > reading.offset {
                    reading.offset = answer.log_start;
                }
                continue;
            }
            if let Some(preferred) = answer.preferred_read_replica {
                reading.broker = preferred.0;
                reading.here_until = Some(at.plus_ms(PREFERRED_MS));
                continue;
            }
            seen.push(Seen::Bounds {
                partition: *partition,
                log_start: answer.log_start,
                high_watermark: answer.high_watermark,
            });
            let mut content = Content::default();
            content.restart(reading.offset);
            // What the records are is the broker's; that they can be read was checked when they were appended.
            let _ = content.extend(&answer.records);
            let from = reading.offset;
            let hidden = if self.reads_committed { hidden(&answer.records, &answer.aborted) } else { BTreeSet::new() };
            for (offset, record) in content.iter_from(from).filter(|(offset, _)| !hidden.contains(offset)) {
                let (partition, record, leader_epoch) = (*partition, *record, answer.leader_epoch);
                seen.push(match self.reads_committed {
                    true => Seen::ReadCommitted { partition, offset, record, leader_epoch },
                    false => Seen::Consumed { partition, offset, record, leader_epoch },
                });
            }
            if answer.is_followers {
                self.read_at_followers += content.end().distance_from(from);
            }
            reading.offset = reading.offset.max(content.end());
        }
        seen
    }

    pub fn connection_lost(&mut self, at: SimTime, broker: i32) {
        for reading in self.partitions.values_mut().filter(|reading| reading.broker == broker) {
            reading.outstanding = None;
            reading.not_before = at.plus_ms(BACKOFF_MS);
            reading.broker = self.random.pick(&self.brokers).copied().unwrap_or(broker);
        }
    }
}
