//! A retry of an admin request whose first try was decided is answered as the first one (fault B12): the tree remembers
//! the outcome, in the transaction that decided it, under a key that the client's side gave to the request.
//!
//! Without it, a retry after a change of quorum leader would find its own topic and call it a duplicate, or delete a
//! topic that was created in between. Requests that changed nothing are decided again. AlterConfigs is not remembered:
//! it sets values, and doing so twice is doing so once.

use std::time::Duration;

use ottla_model::{Revision, TimestampMs};

use super::draft::Draft;
use super::{Answer, Controller, IdempotencyKey, Refusal, Request, TopicOutcome, TopicOutcomes, Unregistered};
use crate::limits;
use crate::nodes::decided_request::{self, DecidedItem, DecidedRequest};

/// Longer than any client retries one call: Kafka's tools give up after a minute, `delivery.timeout.ms` after two.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

const CREATE_TOPICS: u32 = 1;
const DELETE_TOPICS: u32 = 2;
const CREATE_PARTITIONS: u32 = 3;
const UNREGISTER_BROKER: u32 = 4;

/// Whose outcomes are remembered; none for requests that may be repeated freely.
fn kind_of(request: &Request) -> Option<u32> {
    match request {
        Request::CreateTopics(_) => Some(CREATE_TOPICS),
        Request::DeleteTopics(_) => Some(DELETE_TOPICS),
        Request::CreatePartitions(_) => Some(CREATE_PARTITIONS),
        Request::UnregisterBroker(_) => Some(UNREGISTER_BROKER),
        _ => None,
    }
}

impl Controller {
    /// The response to a request that was decided before under this key.
    pub(super) fn remembered(&self, key: IdempotencyKey, request: &Request) -> Option<Answer> {
        let node = self.ledger.ahead_tree().get(&decided_request::path(key))?;
        let decided = decided_request::decode(&node.payload).ok()?;
        if kind_of(request) != Some(decided.kind) {
            return None;
        }
        let names: Vec<&str> = match request {
            Request::CreateTopics(create) => create.topics.iter().map(|topic| topic.name.as_str()).collect(),
            // Their names are remembered: the request may have used ids.
            Request::DeleteTopics(delete) => vec![""; delete.topics.len()],
            Request::CreatePartitions(create) => create.topics.iter().map(|topic| topic.topic.as_str()).collect(),
            _ => Vec::new(),
        };
        if names.len() != decided.items.len() {
            return None;
        }
        let topics = names.into_iter().zip(decided.items).map(|(name, item)| outcome(name, item)).collect();
        let outcomes = TopicOutcomes { topics, revision: Revision(0) };
        Some(match decided.kind {
            CREATE_TOPICS => Answer::CreateTopics(outcomes),
            DELETE_TOPICS => Answer::DeleteTopics(outcomes),
            CREATE_PARTITIONS => Answer::CreatePartitions(outcomes),
            _ => Answer::UnregisterBroker(Ok(Unregistered { revision: Revision(0) })),
        })
    }

    /// Adds the response to a decision, for a retry of its request. A draft without changes stores nothing.
    pub(super) fn remember(&self, draft: &mut Draft, key: Option<IdempotencyKey>, response: &Answer) {
        let Some(key) = key.filter(|_| !draft.is_empty()) else { return };
        let (kind, outcomes): (_, &[TopicOutcome]) = match response {
            Answer::CreateTopics(outcomes) => (CREATE_TOPICS, &outcomes.topics),
            Answer::DeleteTopics(outcomes) => (DELETE_TOPICS, &outcomes.topics),
            Answer::CreatePartitions(outcomes) => (CREATE_PARTITIONS, &outcomes.topics),
            Answer::UnregisterBroker(_) => (UNREGISTER_BROKER, &[]),
            _ => return,
        };
        let is_deletion = kind == DELETE_TOPICS;
        let items = outcomes.iter().map(|outcome| item(outcome, is_deletion)).collect();
        let decided = decided_request::encode(&DecidedRequest { kind, decided_at: self.now.wall, items });
        if decided.len() > limits::MAX_REMEMBERED_BYTES {
            return;
        }
        let mut memory = Draft::default();
        self.forget_oldest(&mut memory, decided.len());
        memory.put(self.ledger.ahead_tree(), decided_request::path(key), decided);
        // If the entry is full, the decision is made without the stored response.
        let _ = draft.append(memory);
    }

    /// Frees `bytes` and removes responses that no client will request again.
    fn forget_oldest(&self, draft: &mut Draft, bytes: usize) {
        let tree = self.ledger.ahead_tree();
        let parent = decided_request::parent_path();
        let mut known: Vec<_> = tree.below(&parent).collect();
        known.sort_by_key(|(_, node)| std::cmp::Reverse(node.created));
        let oldest =
            TimestampMs(self.now.wall.0.saturating_sub(i64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(i64::MAX)));
        let (mut count, mut sum) = (1, bytes);
        for (path, node) in known {
            count += 1;
            sum += node.payload.len();
            let is_old = decided_request::decode(&node.payload).map_or(true, |request| request.decided_at < oldest);
            if is_old || count > limits::MAX_REMEMBERED_REQUESTS || sum > limits::MAX_REMEMBERED_BYTES {
                draft.delete(tree, path.clone());
            }
        }
    }
}

/// With the name only if the request may have used an id instead.
fn item(outcome: &TopicOutcome, keeps_name: bool) -> DecidedItem {
    DecidedItem {
        error: outcome.refusal.as_ref().map_or(ottla_model::ErrorCode::None, |refusal| refusal.error),
        id: outcome.id,
        name: if keeps_name { outcome.name.clone() } else { String::new() },
        partitions: outcome.partitions,
        replication_factor: outcome.replication_factor,
    }
}

/// The first response again; an error has Kafka's default text.
fn outcome(name: &str, item: DecidedItem) -> TopicOutcome {
    let refusal = (item.error != ottla_model::ErrorCode::None).then(|| Refusal::new(item.error, String::new()));
    TopicOutcome {
        name: if item.name.is_empty() { name.to_owned() } else { item.name },
        id: item.id,
        refusal,
        partitions: item.partitions,
        replication_factor: item.replication_factor,
    }
}
