//! Members that leave, or are put out.

use std::collections::BTreeSet;

use ottla_model::{ErrorCode, GroupId, MemberId};

use super::ConsumerGroup;
use super::error::HeartbeatError;
use super::heartbeat::unknown_member;
use super::member::{LEFT_FOR_A_WHILE, Owned};
use crate::answer::ConsumerHeartbeatAnswer;
use crate::record::Record;
use crate::request::ConsumerGroupHeartbeat;
use crate::shard::{Context, Decision};
use crate::timer::Timer;

impl ConsumerGroup {
    /// A member says that it leaves, for good or for a while.
    pub(super) fn leave(
        &mut self,
        cx: &mut Context<'_>,
        request: &ConsumerGroupHeartbeat,
    ) -> Result<(Decision, ConsumerHeartbeatAnswer), HeartbeatError> {
        let id = &request.member;
        let answer = ConsumerHeartbeatAnswer {
            error: ErrorCode::None,
            message: None,
            member: Some(id.clone()),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        };
        if let Some(instance) = &request.instance {
            let member = self.known_static(id, instance)?;
            if request.member_epoch == LEFT_FOR_A_WHILE {
                let mut leaving = member.clone();
                leaving.epoch = LEFT_FOR_A_WHILE;
                // It has stopped reading: what it had to give up is given up. What it has is kept for it.
                leaving.pending_revocation = Owned::new();
                cx.cancel(Timer::Rebalance(id.clone()));
                let mut records = Vec::new();
                self.write(&mut records, leaving.assignment_record(cx.group, id));
                return Ok((Decision { records, ..Decision::default() }, answer));
            }
        } else if !self.members.contains_key(id) {
            return Err(unknown_member(cx, id));
        }
        Ok((self.fence(cx, &BTreeSet::from([id.clone()])), answer))
    }

    /// Puts members out; what they had is free. The group becomes a classic one if only members of the classic protocol
    /// are left.
    pub(super) fn fence(&mut self, cx: &mut Context<'_>, members: &BTreeSet<MemberId>) -> Decision {
        if let Some(decision) = self.downgrade_without(cx, members) {
            return decision;
        }
        let mut records = Vec::new();
        for member in members {
            self.remove(cx, &mut records, member);
        }
        self.forget_expressions(cx, &mut records);
        self.raise_epoch_now(cx, &mut records);
        Decision { records, ..Decision::default() }
    }

    /// Removes a member and its timers.
    pub(super) fn remove(&mut self, cx: &mut Context<'_>, records: &mut Vec<Record>, id: &MemberId) {
        for timer in [Timer::Session, Timer::Rebalance, Timer::ClassicJoin, Timer::ClassicSync] {
            cx.cancel(timer(id.clone()));
        }
        self.soft.reports.remove(id);
        for record in member_tombstones(cx.group, id) {
            self.write(records, record);
        }
    }

    /// The records that delete the group, in Kafka's order: no member without its group, no group without its target.
    pub(crate) fn tombstones(&self, group: &GroupId) -> Vec<Record> {
        let mut kinds = [Vec::new(), Vec::new(), Vec::new()];
        // A log that was cut in the middle of a removal may hold a target for somebody who is gone.
        let members: BTreeSet<&MemberId> = self.members.keys().chain(self.targets.keys()).collect();
        for member in members {
            for (kind, record) in kinds.iter_mut().zip(member_tombstones(group, member)) {
                kind.push(record);
            }
        }
        let [assignments, targets, metadata] = kinds;
        let mut records = assignments;
        records.extend(targets);
        records.push(Record::TargetAssignment { group: group.clone(), value: None });
        records.extend(metadata);
        records.extend(self.expressions.keys().map(|expression| Record::RegularExpression {
            group: group.clone(),
            expression: expression.clone(),
            value: None,
        }));
        if self.has_partition_metadata {
            records.push(Record::PartitionMetadata { group: group.clone(), value: None });
        }
        records.push(Record::ConsumerGroup { group: group.clone(), value: None });
        records
    }
}

fn member_tombstones(group: &GroupId, member: &MemberId) -> [Record; 3] {
    let (group, member) = (|| group.clone(), || member.clone());
    [
        Record::CurrentAssignment { group: group(), member: member(), value: None },
        Record::TargetMember { group: group(), member: member(), value: None },
        Record::ConsumerMember { group: group(), member: member(), value: None },
    ]
}
