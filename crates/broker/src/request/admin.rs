//! What the changes of the cluster that clients ask for have in common: the quorum decides; the answer waits until this
//! broker's own image shows what was decided, so that the client's next look at this broker finds it.

use std::time::Duration;

use ottla_metadata::controller::{Refusal, TopicOutcomes};
use ottla_metadata::limits;
use ottla_model::{ErrorCode, Revision};
use ottla_network::RequestContext;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use crate::broker::Broker;
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

/// Counts partitions that a client creates or deletes. How long the client is told to wait, and the refusal where the
/// version of the request knows that error; older clients are only slowed down.
pub fn charge_changes(
    broker: &Broker,
    context: &RequestContext,
    header: &RequestHeader,
    partitions: usize,
    strict_from: i16,
) -> (Duration, Option<Refusal>) {
    // The quorum refuses more at once: a number that nobody can create must not use up the quota for years.
    let partitions = partitions.min(limits::MAX_ITEMS_PER_REQUEST);
    let is_strict = header.api_version >= strict_from;
    match broker.quotas.changes(context, header.client_id.as_deref(), partitions, is_strict) {
        Ok(wait) => (wait, None),
        Err(wait) => (wait, Some(Refusal::new(ErrorCode::ThrottlingQuotaExceeded, String::new()))),
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
        ErrorCode::NoReassignmentInProgress => "No partition reassignment is in progress.",
        ErrorCode::TopicDeletionDisabled => "Topic deletion is disabled.",
        ErrorCode::ThrottlingQuotaExceeded => "The throttling quota has been exceeded.",
        ErrorCode::TopicAuthorizationFailed => "Topic authorization failed.",
        ErrorCode::GroupAuthorizationFailed => "Group authorization failed.",
        ErrorCode::ClusterAuthorizationFailed => "Cluster authorization failed.",
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
