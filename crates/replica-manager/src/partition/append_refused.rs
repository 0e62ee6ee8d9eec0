//! Why records were not appended, in the words that a producer is told.

use ottla_model::{ErrorCode, Offset, TopicName};
use ottla_protocol::record_batch::InvalidBatch;

/// Records that are not appended, and what the producer is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendRefused {
    pub error: ErrorCode,
    pub message: Option<String>,
    /// The records that were to blame: their places in the batch, and why.
    pub records: Vec<(i32, String)>,
    pub log_start: Option<Offset>,
}

impl From<ErrorCode> for AppendRefused {
    fn from(error: ErrorCode) -> Self {
        Self { error, message: None, records: Vec::new(), log_start: None }
    }
}

impl AppendRefused {
    /// `partition` is the partition's name.
    pub fn invalid(invalid: &InvalidBatch, partition: &str) -> Self {
        let records = invalid.record_faults().iter();
        let records = records.map(|fault| (fault.batch_index, fault.message(partition))).collect();
        Self { error: invalid.error_code(), message: Some(invalid.message(partition)), records, log_start: None }
    }

    /// Transactional records in a request without a transactional id.
    pub fn no_transactional_id() -> Self {
        ErrorCode::TransactionalIdAuthorizationFailed.into()
    }

    /// What a producer is told when the transaction coordinator did not confirm its transaction. `knows_concurrent`: it
    /// retries CONCURRENT_TRANSACTIONS.
    pub fn unverified(error: ErrorCode, knows_concurrent: bool) -> Self {
        match error {
            ErrorCode::InvalidTxnState => {
                let message = "Partition was not added to the transaction".to_owned();
                Self { message: Some(message), ..error.into() }
            }
            ErrorCode::ConcurrentTransactions if knows_concurrent => error.into(),
            // Older clients do not retry these as they should. They retry NOT_ENOUGH_REPLICAS, without asking for
            // metadata.
            ErrorCode::ConcurrentTransactions
            | ErrorCode::NetworkException
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator => {
                let message = format!(
                    "Unable to verify the partition has been added to the transaction. Underlying error: {error:?}"
                );
                Self { message: Some(message), ..ErrorCode::NotEnoughReplicas.into() }
            }
            error => error.into(),
        }
    }

    /// Only the brokers write there.
    pub fn internal_topic(topic: &TopicName) -> Self {
        let message = format!("Cannot append to internal topic {topic}");
        Self { message: Some(message), ..ErrorCode::InvalidTopicException.into() }
    }

    pub fn no_records() -> Self {
        let message = "Produce requests must have at least one record batch per partition".to_owned();
        Self { message: Some(message), ..ErrorCode::InvalidRecord.into() }
    }
}
