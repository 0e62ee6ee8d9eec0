//! A topic grows. Order of checks and texts are Kafka's (`ReplicationControlManager.createPartitions`).

use ottla_model::{BrokerId, ErrorCode, PartitionId, Revision, TopicId};

use super::draft::Draft;
use super::topics::{
    Repeated, check_assignment, count, duplicate_topic_name, first_state, number, outcome, place, refused_unread,
    too_large,
};
use super::{
    Answer, Controller, CreatePartitions, IdempotencyKey, NewPartitions, Refusal, RequestId, TopicOutcome,
    TopicOutcomes,
};
use crate::image::TopicImage;
use crate::limits;
use crate::nodes;
use crate::placement::Seeded;

/// The topics in which a hash modulo the number of partitions maps a key to its partition. Another number of partitions
/// would make existing keys unreachable.
const PARTITIONED_BY_HASH: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

impl Controller {
    pub(super) fn create_partitions(
        &mut self,
        id: RequestId,
        request: CreatePartitions,
        entropy: [u8; 16],
        key: Option<IdempotencyKey>,
    ) {
        let mut seeded = Seeded::new(entropy);
        let mut draft = Draft::default();
        let mut room = limits::MAX_ITEMS_PER_REQUEST;
        let names = Repeated::of(request.topics.iter().map(|topic| topic.topic.as_str()));
        let mut outcomes = Vec::with_capacity(request.topics.len());
        if request.topics.len() > limits::MAX_ITEMS_PER_REQUEST || self.ledger.is_full() {
            let topics = request.topics.iter().map(|topic| refused_unread(&topic.topic)).collect();
            return self.answer(id, Answer::CreatePartitions(TopicOutcomes { topics, revision: Revision(0) }));
        }
        for topic in &request.topics {
            let planned = match names.contains(topic.topic.as_str()) {
                true => Err(duplicate_topic_name()),
                false => self.plan_partitions(topic, &mut room, &mut seeded),
            };
            let drafted =
                planned.and_then(|(found, added)| match draft.append(self.draft_partitions(&found, &added)) {
                    true => Ok(found),
                    false => Err(too_large()),
                });
            outcomes.push(match drafted {
                Ok(found) => TopicOutcome {
                    partitions: topic.total,
                    replication_factor: number(found.replication_factor()),
                    ..outcome(&topic.topic, found.id, None)
                },
                Err(refusal) => outcome(&topic.topic, TopicId::ZERO, Some(refusal)),
            });
        }
        let response = Answer::CreatePartitions(TopicOutcomes { topics: outcomes, revision: Revision(0) });
        if !request.validate_only {
            self.remember(&mut draft, key, &response);
            self.propose(draft);
        }
        self.answer(id, response);
    }

    #[allow(clippy::type_complexity)]
    fn plan_partitions(
        &self,
        topic: &NewPartitions,
        room: &mut usize,
        seeded: &mut Seeded,
    ) -> Result<(std::sync::Arc<TopicImage>, Vec<Vec<BrokerId>>), Refusal> {
        let ahead = self.ledger.ahead();
        let Some(found) = ahead.topic(&topic.topic) else {
            let text = "This server does not host this topic-partition.";
            return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
        };
        // Which partition a group or a transactional id belongs to follows from their number (fault F8).
        if PARTITIONED_BY_HASH.contains(&topic.topic.as_str()) {
            let text = format!("The number of partitions of {} is fixed: what it holds is found by it.", topic.topic);
            return Err(Refusal::new(ErrorCode::InvalidPartitions, text));
        }
        let current = found.partition_count();
        let additional = match count(topic.total).checked_sub(current) {
            Some(0) => {
                let text = format!("Topic already has {current} partition(s).");
                return Err(Refusal::new(ErrorCode::InvalidPartitions, text));
            }
            Some(additional) => additional,
            None => {
                let (name, total) = (&found.name, topic.total);
                let text =
                    format!("The topic {name} currently has {current} partition(s); {total} would not be an increase.");
                return Err(Refusal::new(ErrorCode::InvalidPartitions, text));
            }
        };
        if let Some(given) = topic.assignments.as_ref().map(Vec::len).filter(|given| *given != additional) {
            let text = format!(
                "Attempted to add {additional} additional partition(s), but only {given} assignment(s) were specified."
            );
            return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
        }
        *room = room.checked_sub(additional).ok_or_else(too_large)?;
        let factor = found.replication_factor();
        let Some(assignments) = &topic.assignments else {
            return Ok((found.clone(), place(ahead, additional, factor, seeded, self.config.rules)?));
        };
        for (partition, replicas) in (number(current)..).map(PartitionId).zip(assignments) {
            check_assignment(ahead, partition, replicas, Some(factor), self.config.rules)?;
        }
        Ok((found.clone(), assignments.clone()))
    }

    fn draft_partitions(&self, topic: &TopicImage, added: &[Vec<BrokerId>]) -> Draft {
        let mut draft = Draft::default();
        let (ahead, tree) = (self.ledger.ahead(), self.ledger.ahead_tree());
        let added = (number(topic.partition_count())..).map(PartitionId).zip(added);
        let mut node = topic.node();
        node.assignment.extend(added.clone().map(|(partition, replicas)| (partition, replicas.clone().into())));
        draft.put(tree, nodes::topic::path(&topic.name), nodes::topic::encode(&node));
        for (partition, replicas) in added {
            let state = nodes::partition::encode(&first_state(ahead, replicas));
            draft.create(nodes::partition::path(&topic.name, partition), state);
        }
        draft
    }
}
