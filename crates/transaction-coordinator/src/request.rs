//! What is asked of a transaction coordinator, without wire types.

use std::collections::BTreeSet;

use ottla_coordinator_partition::Expression;
use ottla_coordinator_partition::expression::Scan;
use ottla_model::{ProducerId, TopicPartition, TransactionalId};

use crate::transaction::{Producer, TransactionState, TransactionVersion};

#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    InitProducer(InitProducer),
    AddPartitions(AddPartitions),
    /// Asks which of the partitions are in the transaction, and changes nothing (KIP-890, part 1).
    VerifyPartitions(AddPartitions),
    End(EndTransaction),
    Describe(TransactionalId),
    List(ListTransactions),
}

impl Request {
    /// The transactional id that the request is about; none for those that are about all.
    pub fn transactional_id(&self) -> Option<&TransactionalId> {
        match self {
            Self::InitProducer(request) => Some(&request.id),
            Self::AddPartitions(request) | Self::VerifyPartitions(request) => Some(&request.id),
            Self::End(request) => Some(&request.id),
            Self::Describe(id) => Some(id),
            Self::List(_) => None,
        }
    }
}

/// InitProducerId of a transactional producer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitProducer {
    pub id: TransactionalId,
    pub timeout_ms: i32,
    /// What the producer was told before, when it recovers from an error (KIP-360).
    pub expected: Option<Producer>,
    /// KIP-939.
    pub enable_two_phase_commit: bool,
    pub keep_prepared: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddPartitions {
    pub id: TransactionalId,
    pub producer: Producer,
    pub partitions: Vec<TopicPartition>,
    /// The transactions that the producer can do.
    pub version: TransactionVersion,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndTransaction {
    pub id: TransactionalId,
    pub producer: Producer,
    pub commit: bool,
    /// The transactions that the producer can do.
    pub version: TransactionVersion,
}

/// Filters; an empty one lets everything pass.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ListTransactions {
    pub states: Option<BTreeSet<TransactionState>>,
    pub producer_ids: BTreeSet<ProducerId>,
    /// Only what has been running for longer; negative: everything.
    pub longer_than_ms: i64,
    pub pattern: Option<Pattern>,
}

/// A regular expression that a whole transactional id has to match.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    expression: Expression,
}

/// The text is not a regular expression, or too large a one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a regular expression")]
pub struct InvalidPattern;

/// A compiled expression may take so many bytes: patterns are short, and hostile ones repeat repetitions.
const PATTERN_MAX_BYTES: usize = 1024 * 1024;

impl Pattern {
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        let expression = Expression::new(text, PATTERN_MAX_BYTES).ok_or(InvalidPattern)?;
        Ok(Self { text: text.to_owned(), expression })
    }

    /// Matches many ids; none any more where that is too much work.
    pub(crate) fn scan(&self) -> Scan<'_> {
        self.expression.scan()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
