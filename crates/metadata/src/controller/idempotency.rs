//! A retry of an admin request whose first try was decided is answered as the first one (fault B12): the tree remembers
//! the outcome, in the transaction that decided it, under a key that the client's side gave to the request.
//!
//! Without it, a retry after a change of quorum leader would find its own topic and call it a duplicate, or delete a
//! topic that was created in between. A rule, a password or a token that another client has taken away since would be
//! back, and one that another client has made would be gone (scenario 55). Requests that changed nothing are decided
//! again.
//!
//! The newest are remembered, by number and bytes ([`limits`]), however old they are: the wall clock of a leader may
//! jump by hours, and a retry that comes two seconds later would find nothing (scenario 69).

use bytes::Bytes;
use ottla_authorizer::AclBinding;
use ottla_model::{ErrorCode, Revision};

use super::draft::Draft;
use super::{
    AlteredDelegationToken, Answer, ChangeQuorum, ConfigOutcomes, Controller, CreatedAcls, DeletedAcls, IdempotencyKey,
    Refusal, Request, TopicOutcome, TopicOutcomes, Unregistered,
};
use crate::leader_search::Repeat;
use crate::limits;
use crate::nodes::decided_request::{self, DecidedItem, DecidedRequest};
use crate::nodes::{acl, delegation_token};

const CREATE_TOPICS: u32 = 1;
const DELETE_TOPICS: u32 = 2;
const CREATE_PARTITIONS: u32 = 3;
const UNREGISTER_BROKER: u32 = 4;
const CREATE_ACLS: u32 = 5;
const DELETE_ACLS: u32 = 6;
const ALTER_CONFIGS: u32 = 7;
const ALTER_DELEGATION_TOKEN: u32 = 8;

/// Whose outcomes are remembered; none for requests that may be repeated freely.
fn kind_of(request: &Request) -> Option<u32> {
    match request {
        Request::CreateTopics(_) => Some(CREATE_TOPICS),
        Request::DeleteTopics(_) => Some(DELETE_TOPICS),
        Request::CreatePartitions(_) => Some(CREATE_PARTITIONS),
        Request::UnregisterBroker(_) => Some(UNREGISTER_BROKER),
        Request::CreateAcls(_) => Some(CREATE_ACLS),
        Request::DeleteAcls(_) => Some(DELETE_ACLS),
        Request::AlterConfigs(alter) if !alter.validate_only => Some(ALTER_CONFIGS),
        Request::AlterDelegationToken(_) => Some(ALTER_DELEGATION_TOKEN),
        _ => None,
    }
}

impl Request {
    /// Whether the quorum decides it once under its key, however often it comes ([`Request::Once`]).
    pub fn is_remembered(&self) -> bool {
        kind_of(self).is_some()
    }

    /// Whether a client may repeat it while an earlier attempt might still take effect.
    pub fn repeat(&self) -> Repeat {
        match self {
            // A late second try could undo what another client has set meanwhile; so could it remove a coordinator that
            // was added again, with another disk, under the same id.
            Self::AlterReassignments(_)
            | Self::UpdateFeatures(_)
            | Self::ChangeQuorum(ChangeQuorum::Remove { disk: None, .. })
            // Without a key these are decided again.
            | Self::CreateTopics(_)
            | Self::DeleteTopics(_)
            | Self::CreatePartitions(_)
            | Self::UnregisterBroker(_)
            | Self::AlterConfigs(_)
            | Self::CreateAcls(_)
            | Self::DeleteAcls(_)
            | Self::AlterDelegationToken(_) => Repeat::WhenAnswered,
            // Compare-and-set, or idempotent; a repeated allocation wastes a block of ids, nothing else.
            Self::Register(_)
            | Self::AlterPartitions(_)
            | Self::ResignLeadership(_)
            | Self::ControlledShutdown(_)
            | Self::AllocateProducerIds(_)
            | Self::ElectLeaders(_)
            | Self::AdmitCoordinator(_)
            | Self::SetMember(_)
            | Self::ChangeQuorum(_)
            | Self::Once(..)
            | Self::Proved(..) => Repeat::Freely,
        }
    }
}

impl Controller {
    /// The response to a request that was decided before under this key.
    pub(super) fn remembered(&self, key: IdempotencyKey, request: &Request) -> Option<Answer> {
        let node = self.ledger.ahead_tree().get(&decided_request::path(key))?;
        let decided = decided_request::decode(&node.payload).ok()?;
        let is_forgotten = self.config.rules.changes_of_security_are_forgotten && decided.kind >= CREATE_ACLS;
        if kind_of(request) != Some(decided.kind) || is_forgotten {
            return None;
        }
        if let Some(answer) = changed_security(request, &decided.items) {
            return Some(answer);
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
            UNREGISTER_BROKER => Answer::UnregisterBroker(Ok(Unregistered { revision: Revision(0) })),
            _ => return None,
        })
    }

    /// Adds the response to a decision, for a retry of its request. A draft without changes stores nothing.
    pub(super) fn remember(&self, draft: &mut Draft, key: Option<IdempotencyKey>, response: &Answer) {
        let Some(key) = key.filter(|_| !draft.is_empty()) else { return };
        if let Some(memory) = self.memory_of(key, response) {
            // If the entry is full, the decision is made without the stored response.
            let _ = draft.append(memory);
        }
    }

    /// What keeps the response; none if it is of no kind that is remembered, or too large.
    pub(super) fn memory_of(&self, key: IdempotencyKey, response: &Answer) -> Option<Draft> {
        let topics = |outcomes: &TopicOutcomes, keeps_name| -> Vec<DecidedItem> {
            outcomes.topics.iter().map(|outcome| item(outcome, keeps_name)).collect()
        };
        let (kind, items) = match response {
            Answer::CreateTopics(outcomes) => (CREATE_TOPICS, topics(outcomes, false)),
            Answer::DeleteTopics(outcomes) => (DELETE_TOPICS, topics(outcomes, true)),
            Answer::CreatePartitions(outcomes) => (CREATE_PARTITIONS, topics(outcomes, false)),
            Answer::UnregisterBroker(_) => (UNREGISTER_BROKER, Vec::new()),
            Answer::CreateAcls(created) => (CREATE_ACLS, created.refusals.iter().map(refused).collect()),
            Answer::DeleteAcls(deleted) => (DELETE_ACLS, deleted.filters.iter().map(removed).collect()),
            Answer::AlterConfigs(altered) => {
                (ALTER_CONFIGS, altered.entities.iter().map(|(_, refusal)| refused(refusal)).collect())
            }
            Answer::AlterDelegationToken(Ok(altered)) => {
                let token = delegation_token::encode(&altered.token);
                (ALTER_DELEGATION_TOKEN, vec![DecidedItem::new(ErrorCode::None, token)])
            }
            _ => return None,
        };
        let decided = decided_request::encode(&DecidedRequest { kind, decided_at: self.now.wall, items });
        if decided.len() > limits::MAX_REMEMBERED_BYTES {
            return None;
        }
        let mut memory = Draft::default();
        self.forget_oldest(&mut memory, decided.len());
        memory.put(self.ledger.ahead_tree(), decided_request::path(key), decided);
        Some(memory)
    }

    /// Frees `bytes`, and the place of one: the oldest go.
    fn forget_oldest(&self, draft: &mut Draft, bytes: usize) {
        let tree = self.ledger.ahead_tree();
        let parent = decided_request::parent_path();
        let mut known: Vec<_> = tree.below(&parent).collect();
        known.sort_by_key(|(_, node)| std::cmp::Reverse(node.created));
        let (mut count, mut sum) = (1, bytes);
        for (path, node) in known {
            count += 1;
            sum += node.payload.len();
            if count > limits::MAX_REMEMBERED_REQUESTS || sum > limits::MAX_REMEMBERED_BYTES {
                draft.delete(tree, path.clone());
            }
        }
    }
}

fn refused(refusal: &Option<Refusal>) -> DecidedItem {
    DecidedItem::new(refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.error), Bytes::new())
}

fn removed(matched: &Result<Vec<AclBinding>, Refusal>) -> DecidedItem {
    match matched {
        Ok(bindings) => DecidedItem::new(ErrorCode::None, acl::encode_bindings(bindings)),
        Err(refusal) => DecidedItem::new(refusal.error, Bytes::new()),
    }
}

/// The response to a request about rules, configurations or tokens that was decided before; none for others, and where
/// the memory is not of such a request.
fn changed_security(request: &Request, items: &[DecidedItem]) -> Option<Answer> {
    let revision = Revision(0);
    let refusal = |item: &DecidedItem| (!item.error.is_ok()).then(|| Refusal::new(item.error, String::new()));
    let is_of = |asked: usize| asked == items.len();
    match request {
        Request::CreateAcls(create) if is_of(create.bindings.len()) => {
            let refusals = items.iter().map(refusal).collect();
            Some(Answer::CreateAcls(CreatedAcls { refusals, revision }))
        }
        Request::DeleteAcls(delete) if is_of(delete.filters.len()) => {
            let matched = |item: &DecidedItem| match refusal(item) {
                Some(refusal) => Some(Err(refusal)),
                None => acl::decode_bindings(&item.detail).ok().map(Ok),
            };
            let filters = items.iter().map(matched).collect::<Option<_>>()?;
            Some(Answer::DeleteAcls(DeletedAcls { filters, revision }))
        }
        Request::AlterConfigs(alter) if is_of(alter.entities.len()) => {
            let entities = alter.entities.iter().zip(items).map(|(one, item)| (one.entity.clone(), refusal(item)));
            Some(Answer::AlterConfigs(ConfigOutcomes { entities: entities.collect(), revision }))
        }
        Request::AlterDelegationToken(_) => {
            let token = delegation_token::decode(&items.first()?.detail).ok()?;
            Some(Answer::AlterDelegationToken(Ok(AlteredDelegationToken { token, revision })))
        }
        _ => None,
    }
}

/// With the name only if the request may have used an id instead.
fn item(outcome: &TopicOutcome, keeps_name: bool) -> DecidedItem {
    DecidedItem {
        error: outcome.refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.error),
        id: outcome.id,
        name: if keeps_name { outcome.name.clone() } else { String::new() },
        partitions: outcome.partitions,
        replication_factor: outcome.replication_factor,
        detail: Bytes::new(),
    }
}

/// The first response again; an error has Kafka's default text.
fn outcome(name: &str, item: DecidedItem) -> TopicOutcome {
    let refusal = (item.error != ErrorCode::None).then(|| Refusal::new(item.error, String::new()));
    TopicOutcome {
        name: if item.name.is_empty() { name.to_owned() } else { item.name },
        id: item.id,
        refusal,
        partitions: item.partitions,
        replication_factor: item.replication_factor,
    }
}
