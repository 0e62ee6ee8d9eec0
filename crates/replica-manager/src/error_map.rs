//! From what goes wrong inside to Kafka's error codes.

use ottla_model::ErrorCode;
use ottla_storage::AppendError;

use crate::partition::append_refused::AppendRefused;

/// What a producer is told of an append that the log refused.
pub fn append_refused(error: &AppendError) -> AppendRefused {
    let code = match error {
        AppendError::Invalid { .. } => ErrorCode::CorruptMessage,
        AppendError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        AppendError::StaleEpoch { .. } => ErrorCode::NotLeaderOrFollower,
        // Only a follower's append can see it.
        AppendError::UnexpectedOffset { .. } => ErrorCode::UnknownServerError,
        AppendError::Producer(error) => error.error_code(),
        AppendError::Io(_) | AppendError::Offline => ErrorCode::KafkaStorageError,
    };
    let message = match code {
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => None,
        _ => Some(error.to_string()),
    };
    AppendRefused { message, ..code.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::{ProducerEpoch, ProducerId};
    use ottla_replication::ProducerError;

    #[test]
    fn producers_get_kafkas_codes() {
        let fenced = ProducerError::InvalidProducerEpoch {
            producer_id: ProducerId(1),
            epoch: ProducerEpoch(0),
            current_epoch: ProducerEpoch(1),
        };
        let refused = append_refused(&AppendError::Producer(fenced));
        assert_eq!(refused.error, ErrorCode::InvalidProducerEpoch);
        assert!(refused.message.is_some_and(|text| text.contains("smaller than the last seen epoch")));
        assert_eq!(append_refused(&AppendError::Offline).error, ErrorCode::KafkaStorageError);
    }
}
