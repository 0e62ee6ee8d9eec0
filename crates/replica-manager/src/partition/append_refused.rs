//! Why records were not appended, in the words that a producer is told.

use ottla_model::{ErrorCode, Offset, TopicName};
use ottla_protocol::record_batch::InvalidBatch;
use ottla_replication::refusal_of;

/// Records that are not appended, and what the producer is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendRefused {
    pub error: ErrorCode,
    pub message: Option<String>,
    /// The records that were to blame: their places in the batch, and why.
    pub records: Vec<(i32, String)>,
    pub log_start: Option<Offset>,
    /// [`Crowded`]: nothing is wrong with the records, which may be tried again soon.
    pub is_crowded: bool,
}

/// So many clients wait for the directory's disk that this one must not: it is told to come again, or waits where it
/// takes no thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crowded;

impl From<Crowded> for ErrorCode {
    fn from(_: Crowded) -> Self {
        Self::KafkaStorageError
    }
}

impl From<Crowded> for AppendRefused {
    fn from(crowded: Crowded) -> Self {
        Self { is_crowded: true, ..ErrorCode::from(crowded).into() }
    }
}

impl From<ErrorCode> for AppendRefused {
    fn from(error: ErrorCode) -> Self {
        Self { error, message: None, records: Vec::new(), log_start: None, is_crowded: false }
    }
}

impl AppendRefused {
    /// What the log refused.
    pub fn by_log(error: &ottla_partition::AppendError) -> Self {
        let code = error.error_code();
        let message = match code {
            ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => None,
            _ => Some(error.to_string()),
        };
        Self { message, ..code.into() }
    }

    /// `partition` is the partition's name.
    pub fn invalid(invalid: &InvalidBatch, partition: &str) -> Self {
        let records = invalid.record_faults().iter();
        let records = records.map(|fault| (fault.batch_index, fault.message(partition))).collect();
        Self { message: Some(invalid.message(partition)), records, ..invalid.error_code().into() }
    }

    /// Transactional records in a request without a transactional id.
    pub fn no_transactional_id() -> Self {
        ErrorCode::TransactionalIdAuthorizationFailed.into()
    }

    /// What a producer is told when the transaction coordinator did not confirm its transaction. `knows_concurrent`: it
    /// retries CONCURRENT_TRANSACTIONS.
    pub fn unverified(error: ErrorCode, knows_concurrent: bool) -> Self {
        let told = refusal_of(error, knows_concurrent);
        let message = match error {
            ErrorCode::InvalidTxnState => Some("Partition was not added to the transaction".to_owned()),
            error if error != told => Some(format!(
                "Unable to verify the partition has been added to the transaction. Underlying error: {error:?}"
            )),
            _ => None,
        };
        Self { message, ..told.into() }
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

#[cfg(test)]
mod tests {
    use ottla_model::{ProducerEpoch, ProducerId};
    use ottla_replication::ProducerError;
    use ottla_storage::AppendError;

    use super::*;

    #[test]
    fn producers_get_kafkas_codes() {
        let fenced = ProducerError::InvalidProducerEpoch {
            producer_id: ProducerId(1),
            epoch: ProducerEpoch(0),
            current_epoch: ProducerEpoch(1),
        };
        let refused = AppendRefused::by_log(&AppendError::Producer(fenced).into());
        assert_eq!(refused.error, ErrorCode::InvalidProducerEpoch);
        assert!(refused.message.is_some_and(|text| text.contains("smaller than the last seen epoch")));
        assert_eq!(AppendRefused::by_log(&AppendError::Offline.into()).error, ErrorCode::KafkaStorageError);
    }
}
