//! What a transaction coordinator answers, without wire types.

use ottla_model::{ErrorCode, ProducerId, TimestampMs, TopicPartition, TransactionalId};

use crate::transaction::{Producer, TransactionState};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransactionAnswer {
    /// The id and epoch that the producer has from now on.
    Initialized(Producer),
    Added,
    /// Each partition that was asked for, in order: whether it is in the transaction.
    Verified(Vec<(TopicPartition, ErrorCode)>),
    /// The decision is replicated. The id and epoch with which the producer goes on.
    Ended(Producer),
    Described(Described),
    Listed(Vec<Listed>),
    /// Nothing was done.
    Failed(ErrorCode),
}

impl TransactionAnswer {
    /// The error of an answer that carries nothing else.
    pub fn error(&self) -> ErrorCode {
        match self {
            Self::Failed(error) => *error,
            _ => ErrorCode::None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    pub state: TransactionState,
    pub timeout_ms: i32,
    pub start: TimestampMs,
    pub producer: Producer,
    pub partitions: Vec<TopicPartition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub id: TransactionalId,
    pub producer_id: ProducerId,
    pub state: TransactionState,
}
