//! What a partition's leader asks a transaction coordinator before it appends the first batch of a transaction
//! (KIP-890).

use std::future::Future;
use std::pin::Pin;

use ottla_model::{ErrorCode, ProducerEpoch, ProducerId, TopicPartition};

/// Do these partitions belong to the producer's open transaction?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionQuestion {
    pub transactional_id: String,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub partitions: Vec<TopicPartition>,
    /// The question adds them (`transaction.version` 2); else it only verifies.
    pub adds: bool,
}

/// One error code for each partition of a question, in its order; [`ErrorCode::None`] confirms.
pub type TransactionAnswer = Pin<Box<dyn Future<Output = Vec<ErrorCode>> + Send>>;

/// Puts questions to transaction coordinators.
pub trait TransactionVerifier: Send + Sync {
    /// Asks the coordinator of the transactional id. Where a former transaction is still ending and the question adds
    /// partitions, it is repeated for a short time: the producer would do it later and with all its records.
    fn verify(&self, question: TransactionQuestion) -> TransactionAnswer;
}

/// There is no transaction coordinator: no transaction is open.
pub struct NoTransactions;

impl TransactionVerifier for NoTransactions {
    fn verify(&self, question: TransactionQuestion) -> TransactionAnswer {
        Box::pin(std::future::ready(vec![ErrorCode::InvalidTxnState; question.partitions.len()]))
    }
}
