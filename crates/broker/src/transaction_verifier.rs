//! What a partition's leader asks a transaction coordinator before it appends the first batch of a transaction
//! (KIP-890).

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ottla_model::{ErrorCode, ProducerEpoch, ProducerId, TopicPartition};

/// Do these partitions belong to the producer's open transaction?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerificationQuestion {
    pub transactional_id: String,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub partitions: Vec<TopicPartition>,
    /// The question adds them (`transaction.version` 2); else it only verifies.
    pub adds: bool,
}

/// One error code for each partition of a question, in its order; [`ErrorCode::None`] confirms.
pub type VerificationAnswer = Pin<Box<dyn Future<Output = Vec<ErrorCode>> + Send>>;

/// Where a former transaction is still ending and a question adds partitions, it is put again after this pause, for so
/// long: the end takes a round trip to each of its leaders, and the producer would send its records again. The guards
/// are begun anew with each try, because the marker of the former transaction takes them away.
pub const RETRY_PAUSE: Duration = Duration::from_millis(5);
pub const RETRY_FOR: Duration = Duration::from_millis(100);

/// Puts questions to transaction coordinators.
pub trait TransactionVerifier: Send + Sync {
    /// Asks the coordinator of the transactional id, once.
    fn verify(&self, question: VerificationQuestion) -> VerificationAnswer;
}
