//! Leaders change ISRs and give up leaderships.

use ottla_model::{BrokerId, ErrorCode, Revision};

use super::draft::Draft;
use super::work_queue::PARTITIONS_PER_TRANSACTION;
use super::{
    AlterPartition, AlterPartitions, AlteredPartition, AlteredPartitions, Answer, Controller, RequestId,
    ResignLeadership, ResignReason, Resigned,
};
use crate::election::{PartitionChange, Unclean};
use crate::image::{IsrMember, PartitionState, TopicImage};
use crate::isr_change::{self, outcome};

impl Controller {
    pub(super) fn alter_partitions(&mut self, id: RequestId, request: AlterPartitions) {
        if let Err(error) = self.check_epoch(request.broker, request.epoch) {
            let altered = AlteredPartitions { error, partitions: Vec::new(), revision: Revision(0) };
            return self.answer(id, Answer::AlterPartitions(altered));
        }
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for batch in request.partitions.chunks(PARTITIONS_PER_TRANSACTION) {
            let mut draft = Draft::default();
            for (at, change) in batch.iter().enumerate() {
                // The same partition twice: the second change is checked against the state that the first one
                // requested.
                // Completed reassignments write their topics' nodes.
                if draft.is_half_full() {
                    self.propose(std::mem::take(&mut draft));
                }
                let is_repeated = batch.iter().take(at).any(|earlier| earlier.partition == change.partition);
                partitions.push(match is_repeated {
                    true => outcome(change, ErrorCode::InvalidUpdateVersion, None),
                    false => self.alter_partition(&mut draft, request.broker, change),
                });
            }
            self.propose(draft);
        }
        let altered = AlteredPartitions { error: ErrorCode::None, partitions, revision: Revision(0) };
        self.answer(id, Answer::AlterPartitions(altered));
    }

    fn alter_partition(&self, draft: &mut Draft, leader: BrokerId, change: &AlterPartition) -> AlteredPartition {
        let ahead = self.ledger.ahead();
        let Some(topic) = ahead.topic_by_id(change.partition.topic_id) else {
            return outcome(change, ErrorCode::UnknownTopicId, None);
        };
        let Some(state) = topic.partition(change.partition.partition) else {
            return outcome(change, ErrorCode::UnknownTopicOrPartition, None);
        };
        let any_epoch_joins = self.config.rules.any_broker_epoch_joins;
        let early = self.config.rules.reassignment_completes_early;
        let (altered, next) = isr_change::alter(ahead, state, leader, change, any_epoch_joins, |mut next| {
            next = next.completing_early(early);
            // A broker that came back leads again in the change with which it is in sync again.
            if self.returns_leaderships(state.preferred_leader()) {
                next = next.preferred(self.config.rules.preferred_may_lag);
            }
            next.build(&self.electorate(topic), ahead.controller_epoch())
        });
        if let Some(next) = next {
            draft.partition(self.ledger.ahead_tree(), ahead, change.partition, &next);
        }
        altered
    }

    pub(super) fn resign_leadership(&mut self, id: RequestId, request: ResignLeadership) {
        let resigned = |error| Answer::ResignLeadership(Resigned { error, revision: Revision(0) });
        if let Err(error) = self.check_epoch(request.broker, request.epoch) {
            return self.answer(id, resigned(error));
        }
        let member = IsrMember { broker: request.broker, epoch: request.epoch };
        let mut partitions = request.partitions;
        partitions.sort();
        partitions.dedup();
        for batch in partitions.chunks(PARTITIONS_PER_TRANSACTION) {
            let mut draft = Draft::default();
            let ahead = self.ledger.ahead();
            for partition in batch {
                let Some(topic) = ahead.topic_by_id(partition.topic_id) else { continue };
                let Some(state) = topic.partition(partition.partition) else { continue };
                if let Some(next) = self.resigned(topic, state, member, request.reason) {
                    draft.partition(self.ledger.ahead_tree(), ahead, *partition, &next);
                }
            }
            self.propose(draft);
        }
        self.answer(id, resigned(ErrorCode::None));
    }
}

impl Controller {
    /// The state without the member; none if nothing changes.
    fn resigned(
        &self,
        topic: &TopicImage,
        state: &PartitionState,
        member: IsrMember,
        reason: ResignReason,
    ) -> Option<PartitionState> {
        let broker = member.broker;
        let is_offline_again = state.is_offline(broker, member.epoch) && state.leader != broker;
        let change = PartitionChange::new(state);
        let change = match reason {
            ResignReason::Stalled if state.in_isr(broker) => change.without(broker),
            ResignReason::Offline if state.is_replica(broker) && !is_offline_again => change.without_offline(member),
            ResignReason::Lost if state.in_isr(broker) || state.elr.contains(&broker) => change.without_lost(broker),
            _ => return None,
        };
        // The log of a stalled member will be whole again.
        let unclean = if reason == ResignReason::Stalled { Unclean::Never } else { Unclean::WhereEnabled };
        let next = change.unclean(unclean).build(&self.electorate(topic), self.ledger.ahead().controller_epoch())?;
        // A stalled leader is better than none, and an empty log is better than none if it is the only one. Logs that
        // cannot be read, or are gone, cannot serve: the ELR must not count on them even if no other replica leads yet
        // (faults A4, A9).
        let needs_leader = match reason {
            ResignReason::Stalled => true,
            ResignReason::Offline => self.config.rules.offline_log_may_lead,
            ResignReason::Lost => state.replicas.len() == 1 || self.config.rules.offline_log_may_lead,
        };
        (next.has_leader() || !needs_leader).then_some(next)
    }
}
