//! Topics are created and deleted. Order of checks and texts are Kafka's (`ReplicationControlManager`,
//! `ControllerApis`).

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionId, Revision, TopicId, TopicName};

use super::draft::Draft;
use super::work_queue::PARTITIONS_PER_TRANSACTION;
use super::{
    Answer, BrokenRules, Controller, CreateTopics, DeleteTopics, IdempotencyKey, NewTopic, Refusal, RequestId,
    TopicOutcome, TopicOutcomes, TopicRef,
};
use crate::image::{ConfigEntity, Image, IsrMember, LeaderRecoveryState, PartitionState, TopicImage, metric_name};
use crate::limits;
use crate::nodes;
use crate::nodes::topic::TopicNode;
use crate::placement::{self, Seeded, UsableBroker};
use crate::topic_config;
use crate::transaction::Change;

/// A topic that passed every check.
struct Plan {
    name: TopicName,
    id: TopicId,
    replicas: Vec<Vec<BrokerId>>,
    configs: BTreeMap<String, String>,
    grows_to: i32,
}

impl Controller {
    pub(super) fn create_topics(
        &mut self,
        id: RequestId,
        request: CreateTopics,
        entropy: [u8; 16],
        key: Option<IdempotencyKey>,
    ) {
        let mut seeded = Seeded::new(entropy);
        let mut draft = Draft::default();
        let mut room = limits::MAX_ITEMS_PER_REQUEST;
        let names = Repeated::of(request.topics.iter().map(|topic| topic.name.as_str()));
        let mut planned_metrics = BTreeMap::new();
        if request.topics.len() > limits::MAX_ITEMS_PER_REQUEST || self.ledger.is_full() {
            let topics = request.topics.iter().map(|topic| refused_unread(&topic.name)).collect();
            return self.answer(id, Answer::CreateTopics(TopicOutcomes { topics, revision: Revision(0) }));
        }
        let mut outcomes = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let plan = match names.contains(topic.name.as_str()) {
                true => Err(duplicate_topic_name()),
                false => self.plan_topic(topic, &request, &planned_metrics, &mut room, &mut seeded),
            };
            let drafted = plan.and_then(|plan| match draft.append(self.draft_topic(&plan)) {
                true => Ok(plan),
                false => Err(too_large()),
            });
            outcomes.push(match drafted {
                Ok(plan) => {
                    if let Some(metric) = metric_name(&plan.name) {
                        planned_metrics.insert(metric, plan.name.clone());
                    }
                    created(&plan, request.validate_only)
                }
                Err(refusal) => outcome(&topic.name, TopicId::ZERO, Some(refusal)),
            });
        }
        let response = Answer::CreateTopics(TopicOutcomes { topics: outcomes, revision: Revision(0) });
        if !request.validate_only {
            self.remember(&mut draft, key, &response);
            self.propose(draft);
        }
        self.answer(id, response);
    }

    fn plan_topic(
        &self,
        topic: &NewTopic,
        request: &CreateTopics,
        planned_metrics: &BTreeMap<String, TopicName>,
        room: &mut usize,
        seeded: &mut Seeded,
    ) -> Result<Plan, Refusal> {
        let ahead = self.ledger.ahead();
        let invalid_name = |text: String| Refusal::new(ErrorCode::InvalidTopicException, text);
        let name = TopicName::new(&topic.name).map_err(|invalid| invalid_name(invalid.to_string()))?;
        let exists = |text| Refusal::new(ErrorCode::TopicAlreadyExists, text);
        if ahead.topic(&topic.name).is_some() {
            return Err(exists(format!("Topic '{name}' already exists.")));
        }
        if ahead.deleting.contains_key(&name) {
            return Err(exists(format!("Topic '{name}' is marked for deletion.")));
        }
        let planned = metric_name(&name).and_then(|metric| planned_metrics.get(&metric));
        if let Some(other) = ahead.colliding_topic(&name).or(planned) {
            return Err(invalid_name(format!("Topic '{name}' collides with existing topic: {other}")));
        }
        let configs = overrides(&topic.configs)?;
        topic_config::validate(&configs)
            .map_err(|invalid| Refusal::new(ErrorCode::InvalidConfig, invalid.to_string()))?;
        let replicas = match topic.assignments.is_empty() {
            true => self.placed(topic, request, *room, seeded)?,
            false => self.assigned(topic)?,
        };
        *room = room.checked_sub(replicas.len()).ok_or_else(too_large)?;
        let grows_to = topic.grows_to.clamp(0, limits::MAX_REPLICATION_FACTOR);
        Ok(Plan { name, id: random_topic_id(seeded), replicas, configs, grows_to })
    }

    fn placed(
        &self,
        topic: &NewTopic,
        request: &CreateTopics,
        room: usize,
        seeded: &mut Seeded,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            let text = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
        }
        if topic.partitions < -1 || topic.partitions == 0 {
            let text = "Number of partitions was set to an invalid non-positive value.";
            return Err(Refusal::new(ErrorCode::InvalidPartitions, text));
        }
        let or_default = |value: i32, default: i32| if value == -1 { default.max(1) } else { value };
        let partitions = count(or_default(topic.partitions, request.default_partitions));
        let factor = match topic.grows_to {
            ..=0 => count(or_default(topic.replication_factor, request.default_replication_factor)),
            most => count(most).min(usable_brokers(self.ledger.ahead(), self.config.rules).count()).max(1),
        };
        if partitions > room {
            return Err(too_large());
        }
        if factor > count(limits::MAX_REPLICATION_FACTOR) {
            let text = format!("Replication factor must not be larger than {}.", limits::MAX_REPLICATION_FACTOR);
            return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
        }
        place(self.ledger.ahead(), partitions, factor, seeded, self.config.rules)
    }

    /// The replicas that the request itself assigns.
    fn assigned(&self, topic: &NewTopic) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let invalid = |text| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        if topic.replication_factor != -1 {
            return invalid("A manual partition assignment was specified, but replication factor was not set to -1.");
        }
        if topic.partitions != -1 {
            return invalid("A manual partition assignment was specified, but numPartitions was not set to -1.");
        }
        let refuse = |text| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
        let mut by_partition = BTreeMap::new();
        let mut factor = None;
        for (partition, replicas) in &topic.assignments {
            if by_partition.contains_key(partition) {
                return refuse(format!("Found multiple manual partition assignments for partition {partition}"));
            }
            check_assignment(self.ledger.ahead(), *partition, replicas, factor, self.config.rules)?;
            factor = Some(replicas.len());
            by_partition.insert(*partition, replicas.clone());
        }
        let is_sequence = by_partition.keys().zip(0..).all(|(partition, expected)| partition.0 == expected);
        if !is_sequence {
            return refuse("partitions should be a consecutive 0-based integer sequence".to_owned());
        }
        Ok(by_partition.into_values().collect())
    }

    fn draft_topic(&self, plan: &Plan) -> Draft {
        let mut draft = Draft::default();
        let ahead = self.ledger.ahead();
        let assignment = (0..).map(PartitionId).zip(plan.replicas.iter().cloned().map(Into::into)).collect();
        let node = nodes::topic::encode(&TopicNode {
            id: plan.id,
            assignment,
            grows_to: plan.grows_to,
            queued: Default::default(),
        });
        draft.create(nodes::topic::path(&plan.name), node);
        let tree = self.ledger.ahead_tree();
        // A configuration that an earlier topic of this name left is deleted with this one's.
        draft.put(tree, ConfigEntity::topic(plan.name.as_str()).path(), nodes::config::encode(&plan.configs));
        for (partition, replicas) in (0..).map(PartitionId).zip(&plan.replicas) {
            let state = nodes::partition::encode(&first_state(ahead, replicas));
            draft.create(nodes::partition::path(&plan.name, partition), state);
        }
        draft
    }

    pub(super) fn delete_topics(&mut self, id: RequestId, request: DeleteTopics, key: Option<IdempotencyKey>) {
        let mut draft = Draft::default();
        let mut room = PARTITIONS_PER_TRANSACTION;
        let names = Repeated::of(request.topics.iter().filter_map(TopicRef::name));
        let ids = Repeated::of(request.topics.iter().filter_map(TopicRef::id));
        // By name and by id in one request: who asks is mistaken about one of them, and nothing is deleted.
        let by_name = request.topics.iter().filter_map(|topic| self.ledger.ahead().topic(topic.name()?));
        let by_name: BTreeSet<TopicId> = by_name.map(|topic| topic.id).collect();
        let both: BTreeSet<TopicId> =
            request.topics.iter().filter_map(TopicRef::id).filter(|id| by_name.contains(id)).collect();
        let mut outcomes = Vec::with_capacity(request.topics.len());
        if request.topics.len() > limits::MAX_ITEMS_PER_REQUEST {
            let topics = request.topics.iter().map(|topic| refused_unread(topic.name().unwrap_or_default())).collect();
            return self.answer(id, Answer::DeleteTopics(TopicOutcomes { topics, revision: Revision(0) }));
        }
        for topic in &request.topics {
            let name = topic.name().unwrap_or_default();
            let topic_id = topic.id().unwrap_or(TopicId::ZERO);
            let refused = |error, text: &str| outcome(name, topic_id, Some(Refusal::new(error, text)));
            let found = match topic {
                TopicRef::Name(name) => self.ledger.ahead().topic(name),
                TopicRef::Id(id) => self.ledger.ahead().topic_by_id(*id),
            };
            outcomes.push(match (topic, found.cloned()) {
                (TopicRef::Name(_), _) if names.contains(name) => {
                    refused(ErrorCode::InvalidRequest, "Duplicate topic name.")
                }
                (TopicRef::Id(id), _) if ids.contains(id) => refused(ErrorCode::InvalidRequest, "Duplicate topic id."),
                (TopicRef::Name(_), None) => {
                    refused(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.")
                }
                (TopicRef::Id(_), None) => {
                    refused(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")
                }
                (_, Some(found)) if both.contains(&found.id) => refused(
                    ErrorCode::InvalidRequest,
                    "The provided topic name maps to an ID that was already supplied.",
                ),
                (_, Some(found)) => match draft.append(self.draft_deletion(&found, &mut room)) {
                    true => TopicOutcome {
                        partitions: number(found.partition_count()),
                        replication_factor: number(found.replication_factor()),
                        ..outcome(found.name.as_str(), found.id, None)
                    },
                    false => outcome(found.name.as_str(), found.id, Some(too_large())),
                },
            });
        }
        let response = Answer::DeleteTopics(TopicOutcomes { topics: outcomes, revision: Revision(0) });
        self.remember(&mut draft, key, &response);
        self.propose(draft);
        self.answer(id, response);
    }

    /// The topic disappears for all clients at once; the states of a large topic are removed from the tree in batches.
    fn draft_deletion(&self, topic: &TopicImage, room: &mut usize) -> Draft {
        let mut draft = Draft::default();
        let tree = self.ledger.ahead_tree();
        let path = nodes::topic::path(&topic.name);
        draft.delete(tree, ConfigEntity::topic(topic.name.as_str()).path());
        match room.checked_sub(topic.partition_count()) {
            Some(left) => {
                *room = left;
                for (below, node) in tree.below(&path) {
                    draft.push(Change::Delete { path: below.clone(), expected: node.version });
                }
            }
            None => draft.create(nodes::delete_topic::path(&topic.name), nodes::delete_topic::encode(topic.id)),
        }
        draft.delete(tree, path);
        draft
    }
}

impl TopicRef {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Id(_) => None,
        }
    }

    fn id(&self) -> Option<TopicId> {
        match self {
            Self::Name(_) => None,
            Self::Id(id) => Some(*id),
        }
    }
}

/// The names that a request contains more than once.
pub(super) struct Repeated<T>(BTreeSet<T>);

impl<T: Ord + Clone> Repeated<T> {
    pub fn of(items: impl Iterator<Item = T>) -> Self {
        let mut seen = BTreeSet::new();
        Self(items.filter(|item| !seen.insert(item.clone())).collect())
    }

    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: std::borrow::Borrow<Q>,
    {
        self.0.contains(item)
    }
}

pub(super) fn duplicate_topic_name() -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name.")
}

pub(super) fn too_large() -> Refusal {
    Refusal::new(ErrorCode::PolicyViolation, "Unable to perform excessively large batch operation.")
}

/// The result for items of a request that has too many of them. The text is Kafka's default one.
pub(super) fn refused_unread(name: &str) -> TopicOutcome {
    outcome(name, TopicId::ZERO, Some(Refusal::new(ErrorCode::PolicyViolation, String::new())))
}

pub(super) fn outcome(name: &str, id: TopicId, refusal: Option<Refusal>) -> TopicOutcome {
    TopicOutcome { name: name.to_owned(), id, refusal, partitions: -1, replication_factor: -1 }
}

fn created(plan: &Plan, validate_only: bool) -> TopicOutcome {
    TopicOutcome {
        partitions: number(plan.replicas.len()),
        replication_factor: number(plan.replicas.first().map_or(0, Vec::len)),
        ..outcome(plan.name.as_str(), if validate_only { TopicId::ZERO } else { plan.id }, None)
    }
}

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn overrides(configs: &[(String, Option<String>)]) -> Result<BTreeMap<String, String>, Refusal> {
    let nulls: Vec<_> = configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.clone()).collect();
    if !nulls.is_empty() {
        let text = topic_config::TopicConfigError::NullValue(nulls).to_string();
        return Err(Refusal::new(ErrorCode::InvalidConfig, text));
    }
    Ok(configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect())
}

/// The brokers that replicas may be placed on: all that are registered, but those in controlled shutdown and those that
/// are cordoned. One that is down, or not ready yet, gets replicas outside the ISR (Kafka's "fenced").
fn usable_brokers(image: &Image, rules: BrokenRules) -> impl Iterator<Item = UsableBroker> + '_ {
    let live = image.brokers().filter(|broker| !broker.shutting_down).map(|broker| UsableBroker {
        id: broker.id,
        rack: broker.rack.clone(),
        is_active: broker.is_active(),
    });
    let fenced = image.fenced_brokers().filter(move |_| !rules.fenced_broker_is_gone).map(|broker| UsableBroker {
        id: broker.id,
        rack: broker.rack.clone(),
        is_active: false,
    });
    live.chain(fenced).filter(move |broker| rules.cordoned_gets_replicas || !image.is_cordoned(broker.id))
}

/// Places replicas on the registered brokers.
pub(super) fn place(
    image: &Image,
    partitions: usize,
    replication_factor: usize,
    seeded: &mut Seeded,
    rules: BrokenRules,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    placement::place(usable_brokers(image, rules), partitions, replication_factor, seeded).map_err(|error| {
        let text = format!("Unable to replicate the partition {replication_factor} time(s): {error}");
        Refusal::new(ErrorCode::InvalidReplicationFactor, text)
    })
}

/// A replica list from the request: registered brokers, each once.
pub(super) fn check_replicas(image: &Image, replicas: &[BrokerId], rules: BrokenRules) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
    if replicas.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".to_owned());
    }
    if replicas.len() > count(limits::MAX_REPLICATION_FACTOR) {
        let (given, most) = (replicas.len(), limits::MAX_REPLICATION_FACTOR);
        return refuse(format!(
            "The manual partition assignment includes {given} replicas; at most {most} are possible."
        ));
    }
    let mut seen = BTreeSet::new();
    let mut sorted = replicas.to_vec();
    sorted.sort();
    for broker in sorted {
        let is_gone = rules.fenced_broker_is_gone && image.broker(broker).is_none();
        if is_gone || !image.is_registered(broker) {
            return refuse(format!(
                "The manual partition assignment includes broker {broker}, but no such broker is registered."
            ));
        }
        if !seen.insert(broker) {
            return refuse(format!("The manual partition assignment includes the broker {broker} more than once."));
        }
    }
    Ok(())
}

/// The replicas of a new partition, as the request assigns them.
pub(super) fn check_assignment(
    image: &Image,
    partition: PartitionId,
    replicas: &[BrokerId],
    factor: Option<usize>,
    rules: BrokenRules,
) -> Result<(), Refusal> {
    check_replicas(image, replicas, rules)?;
    let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
    if let Some(factor) = factor.filter(|factor| *factor != replicas.len()) {
        return refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        ));
    }
    if !replicas.iter().any(|broker| image.broker(*broker).is_some_and(|b| b.is_active())) {
        return refuse(format!(
            "All brokers specified in the manual partition assignment for partition {partition} are fenced or in controlled shutdown."
        ));
    }
    Ok(())
}

/// A new partition: the active replicas are its ISR, the first of them leads.
pub(super) fn first_state(image: &Image, replicas: &[BrokerId]) -> PartitionState {
    let member = |broker: &BrokerId| {
        let registration = image.broker(*broker).filter(|registration| registration.is_active())?;
        Some(IsrMember { broker: *broker, epoch: registration.epoch })
    };
    let isr: Vec<_> = replicas.iter().filter_map(member).collect();
    PartitionState {
        leader: isr.first().map_or(BrokerId::NONE, |member| member.broker),
        leader_epoch: LeaderEpoch::ZERO,
        partition_epoch: PartitionEpoch(0),
        controller_epoch: image.controller_epoch(),
        replicas: replicas.to_vec(),
        reassignment: None,
        isr,
        elr: Vec::new(),
        offline: Vec::new(),
        last_known_elr: Vec::new(),
        last_known_leader: BrokerId::NONE,
        leader_recovery_state: LeaderRecoveryState::Recovered,
    }
}

/// A random (version 4) id. Like Kafka's, its text never begins with a dash, which tools would treat as an option.
fn random_topic_id(seeded: &mut Seeded) -> TopicId {
    loop {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seeded.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&seeded.next_u64().to_be_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let id = TopicId(bytes);
        if !id.to_string().starts_with('-') {
            return id;
        }
    }
}
