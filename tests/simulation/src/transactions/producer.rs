//! A transactional producer, as clients behave: one request at a time, repeated until it is answered.

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, TopicPartition, TransactionalId};
use ottla_transaction_coordinator::request::{AddPartitions, EndTransaction, InitProducer};
use ottla_transaction_coordinator::{Producer, Request, TransactionAnswer, TransactionVersion};

use super::data::DataBatch;
use super::invariants::Invariants;
use super::world::Habits;
use crate::invariants::Violation;
use crate::random::Random;

/// What a client sends.
#[derive(Clone, PartialEq, Debug)]
pub enum Call {
    Coordinator(Request),
    Leader(usize, DataBatch),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Init,
    /// The plan's partition of this number joins (before KIP-890 part 2).
    Adding(usize),
    Producing(usize),
    Ending,
}

#[derive(Debug)]
pub struct Client {
    pub id: TransactionalId,
    version: TransactionVersion,
    timeout_ms: i32,
    producer: Option<Producer>,
    expected: Option<Producer>,
    stage: Stage,
    /// Indices of the partitions that the transaction writes to.
    plan: Vec<usize>,
    is_commit: bool,
    pub transaction: u64,
    sequences: BTreeMap<usize, i64>,
    /// The call that is not answered yet.
    pub call: Option<u64>,
    pub coordinator: Option<i32>,
    /// It asks for another epoch when the transaction has ended.
    recovers: bool,
    /// No new transaction begins.
    pub stops: bool,
    pub ended: u64,
    pub random: Random,
}

impl Client {
    pub fn new(id: TransactionalId, mut random: Random) -> Self {
        let version = if random.percent(60) { TransactionVersion::V2 } else { TransactionVersion::V0 };
        Self {
            id,
            version,
            timeout_ms: i32::try_from(random.between(300, 4_000)).unwrap_or(1_000),
            producer: None,
            expected: None,
            stage: Stage::Init,
            plan: Vec::new(),
            is_commit: false,
            transaction: 0,
            sequences: BTreeMap::new(),
            call: None,
            coordinator: None,
            recovers: false,
            stops: false,
            ended: 0,
            random,
        }
    }

    /// Another process takes the client's place.
    pub fn crash(&mut self) {
        (self.producer, self.expected, self.stage, self.call) = (None, None, Stage::Init, None);
    }

    /// Whether the client has stopped, and no transaction of it may run.
    pub fn is_at_rest(&self) -> bool {
        self.stops && self.call.is_none() && (self.plan.is_empty() || self.stage == Stage::Init)
    }

    /// What is asked next; none when nothing is.
    pub fn next(&mut self, partitions: &[TopicPartition], transactions: &mut u64) -> Option<Call> {
        let Some(producer) = self.producer else {
            return Some(Call::Coordinator(Request::InitProducer(InitProducer {
                id: self.id.clone(),
                timeout_ms: self.timeout_ms,
                expected: self.expected,
                enable_two_phase_commit: false,
                keep_prepared: false,
            })));
        };
        if self.stage == Stage::Init {
            if self.stops {
                return None;
            }
            self.begin(partitions.len(), transactions);
        }
        match self.stage {
            Stage::Adding(at) => {
                let added = self.plan.get(at).and_then(|index| partitions.get(*index)).cloned();
                Some(Call::Coordinator(Request::AddPartitions(AddPartitions {
                    id: self.id.clone(),
                    producer,
                    partitions: added.into_iter().collect(),
                    version: self.version,
                })))
            }
            Stage::Producing(at) => {
                let index = self.plan.get(at).copied()?;
                let sequence = self.sequences.get(&index).copied().unwrap_or(0);
                let (transaction, version) = (self.transaction, self.version);
                Some(Call::Leader(index, DataBatch { producer, sequence, transaction, version }))
            }
            Stage::Ending => Some(Call::Coordinator(Request::End(EndTransaction {
                id: self.id.clone(),
                producer,
                commit: self.is_commit,
                version: self.version,
            }))),
            Stage::Init => None,
        }
    }

    fn begin(&mut self, partitions: usize, transactions: &mut u64) {
        *transactions += 1;
        self.transaction = *transactions;
        self.is_commit = self.random.percent(75);
        let wanted = self.random.between(1, 4).min(partitions as u64);
        self.plan.clear();
        while (self.plan.len() as u64) < wanted {
            let index = usize::try_from(self.random.below(partitions as u64)).unwrap_or(0);
            if !self.plan.contains(&index) {
                self.plan.push(index);
            }
        }
        self.go_to(0);
    }

    fn go_to(&mut self, at: usize) {
        self.stage = if at >= self.plan.len() {
            Stage::Ending
        } else if self.version.bumps_epoch() {
            Stage::Producing(at)
        } else {
            Stage::Adding(at)
        };
    }

    /// The coordinator's answer. Returns how long the client rests, in milliseconds.
    pub fn answered(&mut self, answer: &TransactionAnswer, invariants: &mut Invariants) -> Result<u64, Violation> {
        match (answer, self.stage) {
            (TransactionAnswer::Initialized(producer), _) => {
                (self.producer, self.expected, self.stage) = (Some(*producer), None, Stage::Init);
                self.recovers = false;
                self.sequences.clear();
            }
            (TransactionAnswer::Added, Stage::Adding(at)) => self.stage = Stage::Producing(at),
            (TransactionAnswer::Ended(producer), Stage::Ending) => {
                invariants.promised(self.transaction, self.is_commit)?;
                if self.version.bumps_epoch() {
                    self.producer = Some(*producer);
                    self.sequences.clear();
                }
                if std::mem::take(&mut self.recovers) {
                    (self.expected, self.producer) = (self.producer, None);
                }
                self.ended += 1;
                self.plan.clear();
                self.stage = Stage::Init;
            }
            (TransactionAnswer::Failed(error), _) => return Ok(self.failed(*error)),
            _ => {}
        }
        Ok(if self.random.percent(3) { self.random.between(0, 6_000) } else { self.random.between(0, 20) })
    }

    /// The leader's answer to a batch.
    pub fn produced(&mut self, result: Result<(), ErrorCode>, at: &TopicPartition, invariants: &mut Invariants) -> u64 {
        let Stage::Producing(number) = self.stage else { return 0 };
        match result {
            Ok(()) => {
                invariants.acknowledged(self.transaction, at);
                if let Some(index) = self.plan.get(number) {
                    *self.sequences.entry(*index).or_default() += 1;
                }
                self.go_to(number + 1);
                self.random.between(0, 20)
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: ErrorCode) -> u64 {
        match error {
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => self.coordinator = None,
            // The partition is gone, or cannot be written in this transaction.
            ErrorCode::TransactionAbortable | ErrorCode::UnknownTopicOrPartition => {
                self.is_commit = false;
                self.stage = Stage::Ending;
            }
            ErrorCode::ProducerFenced
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::InvalidProducerIdMapping
            | ErrorCode::InvalidTxnState => {
                // Mostly another process takes over; some clients recover under their own id first (KIP-360).
                self.expected = self.producer.filter(|_| self.random.percent(30));
                if self.producer.is_none() {
                    self.expected = None;
                }
                (self.producer, self.stage) = (None, Stage::Init);
                return self.random.between(10, 500);
            }
            _ => {}
        }
        self.random.between(5, 100)
    }

    /// Nobody answered.
    pub fn lost(&mut self, habits: Habits) -> u64 {
        self.coordinator = None;
        let gives_up = habits == Habits::GivesUp && !self.version.bumps_epoch();
        if gives_up && matches!(self.stage, Stage::Producing(_)) && self.random.percent(50) {
            // Whether the batch is in the log is not known: the next one needs another epoch (KIP-360).
            (self.is_commit, self.stage, self.recovers) = (false, Stage::Ending, true);
        }
        self.random.between(5, 100)
    }
}
