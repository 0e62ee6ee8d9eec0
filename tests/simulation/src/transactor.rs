//! A transactional producer and its coordinator in one, for one partition: it writes the batches of a transaction,
//! decides how it ends, and sends the marker until it is replicated. Every transaction has an epoch of its own
//! (`transaction.version` 2), so that a late batch is fenced by the marker where the leader knows of it; else by the
//! question that the leader asks before a transaction begins, which is answered at once here.

use bytes::Bytes;
use ottla_model::{ErrorCode, ProducerEpoch, ProducerId, TimestampMs, TopicIdPartition, TransactionResult};
use ottla_protocol::record_batch::{BatchBuilder, BatchHeader};
use ottla_replication::EndMarker;

use crate::client::Seen;
use crate::clock::{SimTime, WALL_START_MS};
use crate::message::{CallId, Message, Produce, ProduceAnswer};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

/// Producer ids from here on are transactional.
pub const TRANSACTIONAL_IDS: i64 = 1_000_000;

const RESEND_MS: u64 = 1_200;
const BACKOFF_MS: u64 = 50;

/// What is on its way, or is to be sent.
enum Request {
    Batch { batch: Bytes, records: i32 },
    Marker(EndMarker),
}

struct Sent {
    call: CallId,
    request: Request,
    sent_at: Option<SimTime>,
    not_before: SimTime,
}

enum State {
    Idle {
        until: SimTime,
    },
    /// So many batches are still to be written.
    Open {
        left: u64,
        sequence: i32,
        sent: Option<Sent>,
    },
    Ending {
        sent: Sent,
    },
}

pub struct Transactor {
    id: u32,
    partition: Option<TopicIdPartition>,
    brokers: Vec<i32>,
    broker: i32,
    producer: ProducerId,
    epoch: ProducerEpoch,
    state: State,
    next_producer: i64,
    next_call: u64,
    random: Random,
    pub is_stopping: bool,
}

impl Transactor {
    pub fn new(id: u32, brokers: Vec<i32>, random: Random) -> Self {
        let mut transactor = Self {
            id,
            partition: None,
            brokers,
            broker: 1,
            producer: ProducerId::NONE,
            epoch: ProducerEpoch(0),
            state: State::Idle { until: SimTime(0) },
            next_producer: 0,
            next_call: 0,
            random,
            is_stopping: false,
        };
        transactor.begin_anew();
        transactor
    }

    fn begin_anew(&mut self) {
        self.next_producer += 1;
        self.producer = ProducerId(TRANSACTIONAL_IDS + i64::from(self.id) * 1_000 + self.next_producer);
        self.epoch = ProducerEpoch(0);
        self.state = State::Idle { until: SimTime(0) };
    }

    /// Writes to one of these partitions from now on.
    pub fn set_partitions(&mut self, partitions: &[TopicIdPartition]) {
        if self.partition.is_none_or(|partition| !partitions.contains(&partition)) {
            self.partition = self.random.pick(partitions).copied();
            self.begin_anew();
        }
    }

    /// Whether the transaction of this batch is open: the answer to a leader's question.
    pub fn confirms(&self, header: &BatchHeader) -> bool {
        let is_open = matches!(self.state, State::Open { .. });
        is_open && header.producer_id == self.producer && header.producer_epoch == self.epoch
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle { .. })
    }

    pub fn tick(&mut self, at: SimTime, out: &mut Outbox) -> Option<Seen> {
        let mut seen = None;
        match &mut self.state {
            State::Idle { until } if at >= *until && !self.is_stopping && self.partition.is_some() => {
                self.state = State::Open { left: self.random.between(1, 4), sequence: 0, sent: None };
            }
            // Its batch may arrive late, behind the marker.
            State::Open { .. } if self.random.percent(4) => seen = Some(self.decide(TransactionResult::Abort, at)),
            State::Open { left: 0, sent: None, .. } => {
                let commits = self.random.percent(60);
                let result = if commits { TransactionResult::Commit } else { TransactionResult::Abort };
                seen = Some(self.decide(result, at));
            }
            State::Open { sent: None, .. } if self.random.percent(60) => self.add_batch(at),
            _ => {}
        }
        self.send(at, out);
        seen
    }

    fn call(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// The transaction's fate is known from here on, whoever has its marker.
    fn decide(&mut self, result: TransactionResult, at: SimTime) -> Seen {
        let marker = EndMarker {
            producer_id: self.producer,
            producer_epoch: ProducerEpoch(self.epoch.0 + 1),
            result,
            coordinator_epoch: 0,
        };
        let call = self.call();
        self.state =
            State::Ending { sent: Sent { call, request: Request::Marker(marker), sent_at: None, not_before: at } };
        Seen::Decided { producer: self.producer, epoch: self.epoch, result }
    }

    fn add_batch(&mut self, at: SimTime) {
        let records = i32::try_from(self.random.between(1, 3)).unwrap_or(1);
        let call = self.call();
        let (producer, epoch) = (self.producer, self.epoch);
        let State::Open { sequence, sent, .. } = &mut self.state else { return };
        let mut builder = BatchBuilder::new().producer(producer, epoch, *sequence).transactional();
        for number in 0..records {
            let value = format!("{producer} {epoch} {}", *sequence + number);
            let timestamp = WALL_START_MS + i64::try_from(at.as_ms()).unwrap_or(0);
            builder = builder.record(TimestampMs(timestamp), None, Some(value.as_bytes()));
        }
        let Ok(batch) = builder.build() else { return };
        let request = Request::Batch { batch: batch.freeze(), records };
        *sent = Some(Sent { call, request, sent_at: None, not_before: at });
    }

    fn sent_mut(&mut self) -> Option<&mut Sent> {
        match &mut self.state {
            State::Idle { .. } => None,
            State::Open { sent, .. } => sent.as_mut(),
            State::Ending { sent } => Some(sent),
        }
    }

    fn send(&mut self, at: SimTime, out: &mut Outbox) {
        let (broker, elsewhere) = (self.broker, self.random.pick(&self.brokers).copied().unwrap_or(1));
        let Some(partition) = self.partition else { return };
        let Some(sent) = self.sent_mut() else { return };
        let is_late = sent.sent_at.is_some_and(|since| at >= since.plus_ms(RESEND_MS));
        if sent.sent_at.is_some() && !is_late || at < sent.not_before {
            return;
        }
        sent.sent_at = Some(at);
        let call = sent.call;
        let message = match &sent.request {
            Request::Batch { batch, .. } => {
                let (batch, is_confirmed) = (batch.clone(), false);
                let produce = Produce { partition, acks: -1, batch, timeout_ms: 2_000, is_confirmed };
                Message::Produce { call, produce }
            }
            Request::Marker(marker) => Message::EndTransaction { call, partition, marker: *marker },
        };
        let broker = if is_late { elsewhere } else { broker };
        self.broker = broker;
        out.send(NodeId::Broker(broker), message);
    }

    pub fn answered(&mut self, at: SimTime, call: CallId, answer: &ProduceAnswer, out: &mut Outbox) -> Option<Seen> {
        let elsewhere = self.random.pick(&self.brokers).copied().unwrap_or(1);
        let sent = self.sent_mut().filter(|sent| sent.call == call)?;
        let mut seen = None;
        match (answer.error, &sent.request) {
            (ErrorCode::None, Request::Batch { records, .. }) => {
                let records = *records;
                if let State::Open { left, sequence, sent } = &mut self.state {
                    (*left, *sequence, *sent) = (*left - 1, *sequence + records, None);
                }
            }
            (ErrorCode::None, Request::Marker(marker)) => {
                self.epoch = marker.producer_epoch;
                self.state = State::Idle { until: at.plus_ms(self.random.between(0, 300)) };
            }
            // Only a log that lost its producers' states says so.
            (ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced, Request::Marker(_)) => {
                self.begin_anew();
            }
            (
                ErrorCode::InvalidProducerEpoch | ErrorCode::OutOfOrderSequenceNumber | ErrorCode::InvalidTxnState,
                Request::Batch { .. },
            ) => seen = Some(self.decide(TransactionResult::Abort, at)),
            _ => {
                sent.sent_at = None;
                sent.not_before = at.plus_ms(BACKOFF_MS);
                self.broker = if answer.leader.0 >= 0 { answer.leader.0 } else { elsewhere };
            }
        }
        self.send(at, out);
        seen
    }

    /// The broker's process is gone: what it had not answered may be in the log, or not.
    pub fn connection_lost(&mut self, at: SimTime, broker: i32) {
        if self.broker != broker {
            return;
        }
        self.broker = self.random.pick(&self.brokers).copied().unwrap_or(broker);
        if let Some(sent) = self.sent_mut() {
            sent.sent_at = None;
            sent.not_before = at.plus_ms(BACKOFF_MS);
        }
    }
}
