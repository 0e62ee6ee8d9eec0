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

    /// There is no transaction coordinator that could end what the batch begins.
    pub fn transactional() -> Self {
        let message = "Transactional records are not accepted: transactions are not supported".to_owned();
        Self { message: Some(message), ..ErrorCode::InvalidTxnState.into() }
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
