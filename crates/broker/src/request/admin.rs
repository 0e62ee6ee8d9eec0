//! What the changes of the cluster that clients ask for have in common: the quorum decides; the answer waits until this
//! broker's own image shows what was decided, so that the client's next look at this broker finds it.

use std::time::Duration;

use ottla_metadata::controller::{Refusal, TopicOutcomes};
use ottla_model::{ErrorCode, Revision};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::QuorumError;

use crate::request::wire;

/// The least and the most that a request's own time-out is taken for. Tools send 0 where they do not care, and a
/// connection is held until the answer is there.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long the answer waits for this broker's image at least, also when the quorum took all of the request's time.
const IMAGE_WAIT_MIN: Duration = Duration::from_secs(1);

/// The time that a request leaves.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    deadline: Instant,
}

impl Patience {
    pub fn of_request(timeout_ms: i32) -> Self {
        Self::of(Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)))
    }

    pub fn of(asked: Duration) -> Self {
        Self { deadline: Instant::now() + asked.clamp(TIMEOUT_MIN, TIMEOUT_MAX) }
    }

    pub fn remaining(self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until this broker's image has the change. The answer is right either way.
    pub async fn await_image(self, metadata: &MetadataCache, revision: Revision) {
        if !metadata.wait_for(revision, self.remaining().max(IMAGE_WAIT_MIN)).await {
            tracing::warn!(%revision, "this broker has not applied the admin change in time");
        }
    }
}

/// What clients are told where the quorum gave no answer: a time-out, which they know may have taken effect all the
/// same.
pub fn no_answer(error: &QuorumError) -> Refusal {
    match error {
        QuorumError::Unavailable(_) | QuorumError::Unknown(_) | QuorumError::NotRegistered => {
            Refusal::new(ErrorCode::RequestTimedOut, error.to_string())
        }
    }
}

/// The error code and the text of an outcome, as results have them. Without a refusal the text is null: the defaults of
/// some schemas are empty texts, which clients show.
pub fn told(refusal: Option<&Refusal>) -> (i16, Option<StrBytes>) {
    let told = |refusal: &Refusal| (refusal.error.code(), message(refusal).as_deref().map(wire::text));
    refusal.map_or((ErrorCode::None.code(), None), told)
}

/// The text that goes with a refusal; Kafka's own where the quorum gave none.
pub fn message(refusal: &Refusal) -> Option<String> {
    if !refusal.message.is_empty() {
        return Some(refusal.message.clone());
    }
    let text = match refusal.error {
        ErrorCode::UnknownTopicOrPartition => "This server does not host this topic-partition.",
        ErrorCode::UnknownTopicId => "This server does not host this topic ID.",
        ErrorCode::TopicAlreadyExists => "Topic with this name already exists.",
        ErrorCode::RequestTimedOut => "The request timed out.",
        ErrorCode::InvalidPartitions => "Number of partitions is below 1.",
        ErrorCode::InvalidReplicationFactor => {
            "Replication factor is below 1 or larger than the number of available brokers."
        }
        ErrorCode::InvalidTopicException => "The request attempted to perform an operation on an invalid topic.",
        ErrorCode::ElectionNotNeeded => "Leader election not needed for topic partition.",
        ErrorCode::PreferredLeaderNotAvailable => "The preferred leader was not available.",
        ErrorCode::EligibleLeadersNotAvailable => "Eligible topic partition leaders are not available.",
        ErrorCode::TopicDeletionDisabled => "Topic deletion is disabled.",
        _ => return None,
    };
    Some(text.to_owned())
}

/// The outcome of each asked item, in order: what the quorum decided, or the same failure for all.
pub fn outcomes(
    decided: Result<TopicOutcomes, QuorumError>,
    asked: usize,
) -> (Vec<Result<ottla_metadata::controller::TopicOutcome, Refusal>>, Option<Revision>) {
    match decided {
        Ok(decided) => {
            let revision = decided.revision;
            let mut topics: Vec<_> = decided
                .topics
                .into_iter()
                .map(|outcome| match outcome.refusal.clone() {
                    None => Ok(outcome),
                    Some(refusal) => Err(refusal),
                })
                .collect();
            let silent =
                || Err(Refusal::new(ErrorCode::UnknownServerError, "the quorum did not answer for this topic"));
            topics.resize_with(asked, silent);
            (topics, Some(revision))
        }
        Err(error) => (std::iter::repeat_with(|| Err(no_answer(&error))).take(asked).collect(), None),
    }
}
