//! Partitions get other replicas (AlterPartitionReassignments, KIP-455).
//!
//! A reassignment is a part of the topic's node: replicas to add and to remove. It completes by itself with the ISR
//! change that brings its last target replica in (`election::PartitionChange`). Order of checks and texts are Kafka's
//! (`ReplicationControlManager`); ADR 0036 says where it does otherwise.
//!
//! A broker takes a bounded number of replicas at once. A reassignment that would give it more is checked and queued in
//! the topic's node; it begins when others have ended ([`Controller::next_wave`]), whichever controller sees that.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{BrokerId, ErrorCode, PartitionId, Revision, TopicIdPartition};

use super::draft::Draft;
use super::topics::check_replicas;
use super::work_queue::{PARTITIONS_PER_TRANSACTION, Work};
use super::{AlterReassignments, Answer, Controller, PartitionOutcome, PartitionOutcomes, Refusal, RequestId};
use crate::election::{Electorate, PartitionChange, Unclean};
use crate::image::{Assignment, PartitionState, Reassignment, TopicImage};
use crate::limits;

/// Decisions that grow into transactions of bounded size.
#[derive(Default)]
struct Batch {
    draft: Draft,
    partitions: BTreeSet<TopicIdPartition>,
    /// How many of them add each broker.
    adding: BTreeMap<BrokerId, usize>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.partitions.len() >= PARTITIONS_PER_TRANSACTION || self.draft.is_half_full()
    }

    fn begin(&mut self, state: &PartitionState, assignment: &Assignment) {
        for broker in newly_added(state, assignment) {
            *self.adding.entry(broker).or_default() += 1;
        }
    }
}

/// The brokers that get a replica by the assignment, and are not getting it already.
fn newly_added<'a>(state: &'a PartitionState, assignment: &'a Assignment) -> impl Iterator<Item = BrokerId> + 'a {
    assignment.adding().iter().copied().filter(|broker| !state.adding().contains(broker))
}

/// Whether the partition is to have more or fewer replicas than without the assignment.
fn is_resized(state: &PartitionState, assignment: &Assignment) -> bool {
    assignment.target().len() != state.assignment().target().len()
}

impl Controller {
    pub(super) fn alter_reassignments(&mut self, id: RequestId, request: AlterReassignments) {
        let named: usize = request.topics.iter().map(|(_, partitions)| partitions.len()).sum();
        let is_too_large = named > limits::MAX_ITEMS_PER_REQUEST;
        let may_change = request.allow_replication_factor_change;
        let mut batch = Batch::default();
        let mut topics = Vec::with_capacity(request.topics.len());
        for (topic, partitions) in request.topics {
            let mut outcomes = Vec::with_capacity(partitions.len());
            for (partition, target) in partitions {
                let outcome = match is_too_large {
                    true => Err(Refusal::new(ErrorCode::PolicyViolation, String::new())),
                    false => self.alter_reassignment(&mut batch, &topic, partition, target.as_deref(), may_change),
                };
                outcomes.push(PartitionOutcome { partition, refusal: outcome.err() });
            }
            topics.push((topic, outcomes));
        }
        self.propose(batch.draft);
        // What waits for its turn does not grow: it may have been called off.
        self.may_grow = true;
        self.answer(id, Answer::AlterReassignments(PartitionOutcomes { topics, revision: Revision(0) }));
    }

    fn alter_reassignment(
        &mut self,
        batch: &mut Batch,
        topic: &str,
        partition: PartitionId,
        target: Option<&[BrokerId]>,
        may_change_factor: bool,
    ) -> Result<(), Refusal> {
        let id = self.ledger.ahead().topic(topic).map(|topic| TopicIdPartition { topic_id: topic.id, partition });
        // Named twice: the second is decided on what the first has changed.
        let is_repeated = id.is_some_and(|id| batch.partitions.contains(&id));
        if is_repeated || batch.is_full() {
            self.propose(std::mem::take(batch).draft);
        }
        let unknown = |text: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, text);
        let ahead = self.ledger.ahead();
        let image = ahead.topic(topic).ok_or_else(|| unknown(format!("Unable to find a topic named {topic}.")))?;
        let state = image
            .partition(partition)
            .ok_or_else(|| unknown(format!("Unable to find partition {topic}:{partition}.")))?;
        let tree = self.ledger.ahead_tree();
        let is_queued = image.queued(partition).is_some();
        let id = TopicIdPartition { topic_id: image.id, partition };
        let assignment = match target {
            Some(target) => {
                let assignment = self.reassigned(image, partition, state, target, may_change_factor)?;
                if !self.has_room(batch, state, &assignment) {
                    let node = batch.draft.topic_node(tree, image);
                    node.queued.insert(partition, target.to_vec());
                    if is_resized(state, &assignment) {
                        // A person decides how many replicas it has from now on.
                        node.grows_to = 0;
                    }
                    batch.partitions.insert(id);
                    return Ok(());
                }
                assignment
            }
            // It has not begun.
            None if is_queued && !state.is_reassigning() => state.assignment(),
            None => self.reverted(image, partition, state)?,
        };
        self.begin(batch, image, partition, state, assignment);
        Ok(())
    }

    /// Whether each broker that gets a replica may get one more.
    fn has_room(&self, batch: &Batch, state: &PartitionState, assignment: &Assignment) -> bool {
        self.config.rules.reassignments_have_no_waves
            || newly_added(state, assignment).all(|broker| self.has_room_at(batch, broker))
    }

    fn has_room_at(&self, batch: &Batch, broker: BrokerId) -> bool {
        let begun = self.ledger.ahead().index.adding_count(broker);
        begun + batch.adding.get(&broker).copied().unwrap_or(0) < self.config.reassignments_per_broker_max.max(1)
    }

    /// The partition gets this assignment now, and waits for no other.
    fn begin(
        &self,
        batch: &mut Batch,
        topic: &TopicImage,
        partition: PartitionId,
        state: &PartitionState,
        assignment: Assignment,
    ) {
        let (ahead, tree) = (self.ledger.ahead(), self.ledger.ahead_tree());
        let id = TopicIdPartition { topic_id: topic.id, partition };
        if topic.queued(partition).is_some() {
            batch.draft.topic_node(tree, topic).queued.remove(&partition);
            batch.partitions.insert(id);
        }
        batch.begin(state, &assignment);
        let is_resized = is_resized(state, &assignment);
        // Without a leader, one of the replicas that it gets now may be the only one that can lead.
        let change = PartitionChange::new(state)
            .assigned(assignment)
            .unclean(Unclean::WhereEnabled)
            .completing_early(self.config.rules.reassignment_completes_early);
        let Some(next) = change.build(&self.electorate(topic), ahead.controller_epoch()) else { return };
        batch.draft.partition(tree, ahead, id, &next);
        if topic.grows_to != 0 && is_resized {
            // A person decides how many replicas it has from now on.
            batch.draft.topic_node(tree, topic).grows_to = 0;
        }
        batch.partitions.insert(id);
    }

    /// The reassignments whose turn it is; none if there are none.
    pub(super) fn next_wave(&mut self) -> Option<Draft> {
        if self.room_at.is_empty() {
            return None;
        }
        let ahead = self.ledger.ahead();
        let mut batch = Batch::default();
        let mut given_up = Vec::new();
        // What names none of these waits on without a closer look: there may be many thousands, and one ends at a time.
        let is_news = |batch: &Batch, broker| self.has_room_at(batch, broker) || !ahead.is_registered(broker);
        let mut room_at = self.room_at.clone();
        room_at.retain(|broker| is_news(&batch, *broker));
        for id in ahead.queued() {
            if batch.is_full() || room_at.is_empty() {
                break;
            }
            let Some(topic) = ahead.topic_by_id(id.topic_id) else { continue };
            let target = topic.queued(id.partition);
            let (Some(state), Some(target)) = (topic.partition(id.partition), target) else { continue };
            if !target.iter().any(|broker| room_at.contains(broker)) {
                continue;
            }
            match self.reassigned(topic, id.partition, state, target, true) {
                Ok(assignment) if self.has_room(&batch, state, &assignment) => {
                    self.begin(&mut batch, topic, id.partition, state, assignment);
                    room_at.retain(|broker| is_news(&batch, *broker));
                }
                Ok(_) => {}
                // A broker of it was unregistered meanwhile.
                Err(refusal) => {
                    batch.draft.topic_node(self.ledger.ahead_tree(), topic).queued.remove(&id.partition);
                    batch.partitions.insert(id);
                    given_up.push(format!("{}-{}: {}", topic.name, id.partition, refusal.message));
                }
            }
        }
        let mut draft = batch.draft;
        draft.seal(self.ledger.ahead_tree());
        let is_possible = draft.is_within_limits();
        if draft.is_empty() || !is_possible {
            self.room_at.clear();
        }
        self.may_grow |= !given_up.is_empty();
        for text in given_up {
            self.warn(format!("a reassignment that waited for its turn is given up: {text}"));
        }
        (!draft.is_empty() && is_possible).then_some(draft)
    }

    /// The replicas of a partition on its way to the target. A reassignment under way is replaced: replicas that only
    /// it added go at once, if the partition does not need them.
    fn reassigned(
        &self,
        topic: &TopicImage,
        partition: PartitionId,
        state: &PartitionState,
        target: &[BrokerId],
        may_change_factor: bool,
    ) -> Result<Assignment, Refusal> {
        check_replicas(self.ledger.ahead(), target, self.config.rules)?;
        let current = state.assignment();
        // What waits for its turn counts as begun.
        let factor = topic.queued(partition).map_or_else(|| current.target().len(), Vec::len);
        if !may_change_factor && target.len() != factor {
            let text = format!("The replication factor is changed from {factor} to {}", target.len());
            return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
        }
        let original = current.original();
        let mut adding: Vec<_> = target.iter().copied().filter(|broker| !original.contains(broker)).collect();
        let abandoned = || current.adding().iter().filter(|broker| !target.contains(broker));
        let left: Vec<_> =
            current.replicas.iter().copied().filter(|broker| !abandoned().any(|other| other == broker)).collect();
        let kept = match self.check_departures(topic, partition, state, &left) {
            Ok(()) => Vec::new(),
            Err(_) => abandoned().copied().collect(),
        };
        let mut removing: Vec<_> = original.into_iter().filter(|broker| !target.contains(broker)).chain(kept).collect();
        adding.sort();
        removing.sort();
        let replicas = target.iter().copied().chain(removing.iter().copied()).collect();
        let is_reassigned = !adding.is_empty() || !removing.is_empty();
        let reassignment = is_reassigned.then(|| Box::new(Reassignment { adding, removing }));
        Ok(Assignment { replicas, reassignment })
    }

    /// The replicas of a partition whose reassignment is cancelled: those that it had before.
    fn reverted(
        &self,
        topic: &TopicImage,
        partition: PartitionId,
        state: &PartitionState,
    ) -> Result<Assignment, Refusal> {
        if !state.is_reassigning() {
            return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, String::new()));
        }
        let original = state.assignment().original();
        self.check_departures(topic, partition, state, &original)?;
        Ok(original.into())
    }

    /// Whether the partition can do without all replicas but those of `staying`: without an unclean election, and
    /// without records on fewer replicas than min.insync.replicas promised.
    fn check_departures(
        &self,
        topic: &TopicImage,
        partition: PartitionId,
        state: &PartitionState,
        staying: &[BrokerId],
    ) -> Result<(), Refusal> {
        let stays = |broker: BrokerId| staying.contains(&broker);
        let refuse = |why: String| {
            let text = format!("Unable to revert partition assignment for {}:{partition} because {why}", topic.name);
            Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text))
        };
        let in_sync = state.isr.iter().filter(|member| stays(member.broker) && !member.is_lost()).count();
        if in_sync == 0 {
            return refuse("it would require an unclean leader election.".to_owned());
        }
        let holders = in_sync + state.elr.iter().filter(|broker| stays(**broker)).count();
        let ruler = if state.has_leader() { state.leader } else { state.last_known_leader };
        let promised = self.electorate(topic).min_insync_replicas(ruler, state);
        if holders < promised.min(state.isr.len() + state.elr.len()) {
            return refuse(format!("{holders} in-sync replicas would be left, fewer than min.insync.replicas."));
        }
        Ok(())
    }

    /// A broker can lead again: reassignments may have waited for it.
    pub(super) fn complete_reassignments(&mut self) {
        if self.ledger.ahead().reassigning().next().is_some() {
            self.work.begin_again(Work::Reassign);
        }
    }
}
