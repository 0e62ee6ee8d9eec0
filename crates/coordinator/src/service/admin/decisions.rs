//! Changes: the quorum leader decides them, wherever they were called.

use std::time::Duration;

use ottla_metadata::controller::{
    Decision, IdempotencyKey, PartitionOutcomes, Refusal, Request, TopicOutcome, TopicOutcomes,
};
use ottla_model::Revision;
use ottla_rpc::NotLeader;
use ottla_rpc::admin::PartitionOutcome;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::AdminService;
use super::errors::{self, invalid, refused};
use crate::service::requests::FORWARD_TIMEOUT;

/// Between two tries: an election takes some hundred milliseconds.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A caller's name for a request: room for two UUIDs and a prefix.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl AdminService {
    /// Sends a change to the quorum leader. One with a key is tried again until its outcome is known: it is decided
    /// once. One without a key is tried again only while no leader was asked.
    pub(super) async fn decide<D: Decision>(
        &self,
        decision: D,
        key: Option<IdempotencyKey>,
    ) -> Result<D::Answer, Status> {
        let request = decision.into_request();
        let request = match key {
            Some(key) => Request::Once(key, Box::new(request)),
            None => request,
        };
        let began = Instant::now();
        loop {
            let status = match self.shared.decide_at_leader(request.clone()).await {
                // Impossible, and not worth a panic.
                Ok(answer) => {
                    return D::take_answer(answer).ok_or_else(|| Status::internal("an answer of another kind"));
                }
                Err(status) => status,
            };
            let knows_no_leader = NotLeader::from_status(&status).is_some();
            let has_no_outcome = matches!(
                status.code(),
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted
            );
            if !(knows_no_leader || has_no_outcome && key.is_some()) {
                return Err(status);
            }
            if began.elapsed() >= FORWARD_TIMEOUT {
                let text = format!("no quorum leader decided within {FORWARD_TIMEOUT:?}: {}", status.message());
                return Err(errors::status(Code::Unavailable, "NO_QUORUM_LEADER", text));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// The key under which a call is decided once: the same for calls with the same id, of the same kind and for the same
/// thing. A call without an id is repeated by this coordinator only.
pub fn key(kind: &str, of: &str, request_id: &str) -> Result<IdempotencyKey, Status> {
    if request_id.len() > REQUEST_ID_BYTES_MAX {
        let text = format!("request_id has {} bytes; at most {REQUEST_ID_BYTES_MAX} are accepted", request_id.len());
        return Err(invalid("INVALID_REQUEST_ID", text));
    }
    if request_id.is_empty() {
        return Ok(IdempotencyKey(rand::random()));
    }
    let mut hash = Sha256::new();
    for part in [kind, of, request_id] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let mut key = [0; 16];
    key.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    Ok(IdempotencyKey(key))
}

/// The only outcome of a request for one topic; a status if it was refused.
pub fn only_outcome(outcomes: TopicOutcomes) -> Result<(Revision, TopicOutcome), Status> {
    let revision = outcomes.revision;
    let outcome = outcomes.topics.into_iter().next().ok_or_else(|| Status::internal("no outcome"))?;
    match &outcome.refusal {
        Some(refusal) => Err(refused(refusal)),
        None => Ok((revision, outcome)),
    }
}

pub fn partition_outcomes(outcomes: PartitionOutcomes) -> Vec<PartitionOutcome> {
    let of_topic = |(topic, partitions): (String, Vec<ottla_metadata::controller::PartitionOutcome>)| {
        partitions.into_iter().map(move |outcome| {
            let refusal = outcome.refusal.as_ref();
            let error = refusal.map(|refusal: &Refusal| errors::name(refusal.error)).unwrap_or_default();
            let message = refusal.map(|refusal| refusal.message.clone()).unwrap_or_default();
            PartitionOutcome { topic: topic.clone(), partition: outcome.partition.0, error, message }
        })
    };
    outcomes.topics.into_iter().flat_map(of_topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_one_request_for_one_thing() {
        let of = |kind, name, id| key(kind, name, id).expect("a key");
        assert_eq!(of("CreateTopic", "a", "1"), of("CreateTopic", "a", "1"));
        for (kind, name, id) in [("DeleteTopic", "a", "1"), ("CreateTopic", "b", "1"), ("CreateTopic", "a", "2")] {
            assert_ne!(of("CreateTopic", "a", "1"), of(kind, name, id));
        }
        assert_ne!(of("CreateTopic", "a1", "2"), of("CreateTopic", "a", "12"));
        assert_ne!(of("CreateTopic", "a", ""), of("CreateTopic", "a", ""));
        assert!(key("CreateTopic", "a", &"x".repeat(129)).is_err());
    }
}
