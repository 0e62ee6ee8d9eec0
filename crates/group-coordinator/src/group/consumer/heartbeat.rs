//! ConsumerGroupHeartbeat: a member joins, says what changed about it, what it owns, and hears what it shall own.

use ottla_model::{ErrorCode, InstanceId, MemberId};

use super::ConsumerGroup;
use super::error::HeartbeatError;
use super::member::{JOINING, LEFT, LEFT_FOR_A_WHILE, Member, Owned};
use super::reconcile::{Answered, Claimed, Voice, refuse_unknown_state};
use super::validate::validate;
use crate::answer::{ConsumerHeartbeatAnswer, GroupAnswer};
use crate::effects::RequestId;
use crate::record::{Record, TopicPartitions};
use crate::request::ConsumerGroupHeartbeat;
use crate::shard::{Context, Decision};
use crate::timer::Timer;

impl ConsumerGroup {
    /// A heartbeat to this group.
    pub(crate) fn heartbeat(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        request: ConsumerGroupHeartbeat,
    ) -> Decision {
        let done = validate(&request, cx.config).and_then(|()| self.beat(cx, &request));
        decided(id, done)
    }

    /// A heartbeat to a group that does not exist: it makes the group if it joins.
    pub(crate) fn heartbeat_to_none(cx: &mut Context<'_>, id: RequestId, request: ConsumerGroupHeartbeat) -> Decision {
        let done = validate(&request, cx.config).and_then(|()| {
            if request.member_epoch != JOINING {
                let what = if request.member_epoch < JOINING { "Group" } else { "Consumer group" };
                return Err(HeartbeatError::new(ErrorCode::GroupIdNotFound, format!("{what} {} not found.", cx.group)));
            }
            Self::default().founded(cx, &request)
        });
        decided(id, done)
    }

    pub(super) fn beat(
        &mut self,
        cx: &mut Context<'_>,
        request: &ConsumerGroupHeartbeat,
    ) -> Result<(Decision, ConsumerHeartbeatAnswer), HeartbeatError> {
        if matches!(request.member_epoch, LEFT | LEFT_FOR_A_WHILE) {
            return self.leave(cx, request);
        }
        let id =
            if request.member.is_empty() { MemberId::new(request.fresh_id.as_str()) } else { request.member.clone() };
        self.refuse_if_full(cx, &id)?;
        let claimed = request.owned.as_deref();
        let joins = request.member_epoch == JOINING;
        let replaced = match &request.instance {
            None => self.admit_dynamic(cx, &id, request.member_epoch, claimed).map(|()| None)?,
            // It holds the instance id itself and joins again.
            Some(instance) if joins && self.statics.get(instance) == Some(&id) => None,
            Some(instance) if joins => self.admit_static(&id, instance)?,
            Some(instance) => {
                let member = self.known_static(&id, instance)?;
                check_epoch(member, request.member_epoch, claimed)?;
                refuse_unknown_state(member, claimed).map(|()| None)?
            }
        };
        let regex = request.subscribed_regex.as_deref();
        if let Some(new) = regex.filter(|regex| !regex.is_empty() && !self.by_regex.contains_key(*regex)) {
            cx.regexes.borrow_mut().validate(new)?;
        }

        // Nothing is refused from here on, so nothing has to be taken back.
        let mut records = Vec::new();
        if let Some(replaced) = replaced {
            self.replace(cx, &mut records, &replaced, &id);
        }
        let is_new = !self.members.contains_key(&id);
        if self.members.get(&id).is_some_and(|member| !member.hears_news(request)) {
            self.forget_expressions(cx, &mut records);
            self.look(cx, &mut records, false);
        } else {
            self.update(cx, &mut records, &id, |member| member.hear(request));
        }
        self.assign(cx, &mut records);
        // A member that is where it shall be takes no step.
        let may_move = self.members.get(&id).is_some_and(|member| !member.is_reconciled_to(self.assignment_epoch));
        let owned_before = if may_move { self.members.get(&id).map(|member| member.assigned.clone()) } else { None };
        let has_subscription = request.subscribed_topics.is_some() || regex.is_some();
        // What a member sends when it joins, and when it cannot know what became of its last heartbeat.
        let is_full = joins || (request.rebalance_timeout_ms != -1 && has_subscription && request.owned.is_some());
        let voice = match (joins, is_full) {
            (true, _) => Voice::Certain,
            (false, true) => Voice::Unsure,
            (false, false) => Voice::Running,
        };
        self.step(cx, &mut records, &id, claimed, voice);
        cx.schedule(Timer::Session(id.clone()), cx.config.consumer_session_timeout_of(cx.group));

        let interval = self.heartbeat_interval_ms(cx);
        let is_told_again = self.is_told_again(cx, &id);
        let member = self.members.get(&id);
        let answer = ConsumerHeartbeatAnswer {
            error: ErrorCode::None,
            message: None,
            member_epoch: member.map_or(JOINING, |member| member.epoch),
            heartbeat_interval_ms: interval,
            assignment: member
                .filter(|member| {
                    is_full
                        || is_new
                        || is_told_again
                        || (may_move && !same_partitions(owned_before.as_ref(), &member.assigned))
                })
                .map(|member| named(&member.assigned)),
            member: Some(id),
        };
        Ok((Decision { records, ..Decision::default() }, answer))
    }

    /// Changes what a member told of itself, makes the member if need be, and raises the group's epoch if what is read
    /// changes.
    pub(super) fn update(
        &mut self,
        cx: &Context<'_>,
        records: &mut Vec<Record>,
        id: &MemberId,
        change: impl FnOnce(&mut Member),
    ) {
        let before = self.members.get(id).cloned();
        let mut updated = before.clone().unwrap_or_default();
        change(&mut updated);
        // A group that was just made leaves epoch 0 in any case.
        let changed = self.epoch == 0
            || before
                .as_ref()
                .is_none_or(|before| (&before.topics, &before.regex) != (&updated.topics, &updated.regex));
        if before.as_ref() != Some(&updated) {
            self.write(records, updated.metadata_record(cx.group, id));
        }
        self.forget_expressions(cx, records);
        self.look(cx, records, changed);
    }

    /// Takes the member one step nearer to its target.
    pub(super) fn step(
        &mut self,
        cx: &mut Context<'_>,
        records: &mut Vec<Record>,
        id: &MemberId,
        claimed: Claimed<'_>,
        voice: Voice,
    ) {
        let mut answered = Answered::default();
        if let Some(next) = self.reconciled(cx, id, claimed, voice) {
            let before = self.members.get(id);
            answered.is_given = !before.is_some_and(|before| is_part(&next.assigned, &before.assigned));
            answered.must_give_up_more =
                !before.is_some_and(|before| is_part(&next.pending_revocation, &before.pending_revocation));
            self.write(records, next.assignment_record(cx.group, id));
            if next.must_give_up() {
                cx.schedule(Timer::Rebalance(id.clone()), next.rebalance_timeout_ms);
            } else {
                cx.cancel(Timer::Rebalance(id.clone()));
            }
        }
        self.heard(cx, id, claimed, voice, answered);
    }

    pub(super) fn refuse_if_full(&self, cx: &Context<'_>, id: &MemberId) -> Result<(), HeartbeatError> {
        let limit = usize::try_from(cx.config.consumer_max_size).unwrap_or(0);
        if self.members.len() >= limit && !self.members.contains_key(id) {
            return Err(HeartbeatError::new(
                ErrorCode::GroupMaxSizeReached,
                format!("The consumer group has reached its maximum capacity of {limit} members."),
            ));
        }
        Ok(())
    }

    fn admit_dynamic(
        &self,
        cx: &Context<'_>,
        id: &MemberId,
        epoch: i32,
        claimed: Claimed<'_>,
    ) -> Result<(), HeartbeatError> {
        match self.members.get(id) {
            Some(member) => {
                check_epoch(member, epoch, claimed)?;
                refuse_unknown_state(member, claimed)
            }
            None if epoch == JOINING => Ok(()),
            None => Err(unknown_member(cx, id)),
        }
    }

    /// The member whose place a static member takes when it joins.
    fn admit_static(&self, id: &MemberId, instance: &InstanceId) -> Result<Option<MemberId>, HeartbeatError> {
        let Some((holder, member)) = self.static_member(instance) else { return Ok(None) };
        if !member.is_classic() && member.epoch != LEFT_FOR_A_WHILE {
            return Err(HeartbeatError::new(
                ErrorCode::UnreleasedInstanceId,
                format!(
                    "Static member {id} with instance id {instance} cannot join the group because the instance id is owned by \
                     {holder} member."
                ),
            ));
        }
        Ok(Some(holder.clone()))
    }

    /// A static member that says that it is in the group.
    pub(super) fn known_static(&self, id: &MemberId, instance: &InstanceId) -> Result<&Member, HeartbeatError> {
        let Some((holder, member)) = self.static_member(instance) else {
            return Err(HeartbeatError::new(ErrorCode::UnknownMemberId, format!("Instance id {instance} is unknown.")));
        };
        if holder != id {
            return Err(HeartbeatError::new(
                ErrorCode::FencedInstanceId,
                format!("Static member {id} with instance id {instance} was fenced by member {holder}."),
            ));
        }
        Ok(member)
    }

    /// A static member comes back under a new id: it has what it had, and begins anew.
    pub(super) fn replace(&mut self, cx: &mut Context<'_>, records: &mut Vec<Record>, old: &MemberId, new: &MemberId) {
        let Some(mut member) = self.members.get(old).cloned() else { return };
        (member.epoch, member.previous_epoch) = (JOINING, JOINING);
        let target = self.targets.get(old).cloned().unwrap_or_default();
        self.remove(cx, records, old);
        self.write(records, member.metadata_record(cx.group, new));
        let value = target
            .into_iter()
            .map(|(topic, partitions)| TopicPartitions {
                topic,
                partitions: partitions.into_iter().collect(),
                assignment_epochs: Vec::new(),
            })
            .collect();
        self.write(records, Record::TargetMember { group: cx.group.clone(), member: new.clone(), value: Some(value) });
        self.write(records, member.assignment_record(cx.group, new));
    }
}

/// A member that sends another epoch than its own is fenced, with two exceptions: the epoch before its own, when it may
/// not have heard of its own yet, and epoch 0. A member that was fenced joins again under the same id, with nothing
/// (KAFKA-19233).
fn check_epoch(member: &Member, epoch: i32, claimed: Claimed<'_>) -> Result<(), HeartbeatError> {
    let what = if epoch > member.epoch {
        "greater"
    } else if epoch == JOINING
        || epoch == member.epoch
        || (epoch == member.previous_epoch && owns_no_more(member, claimed))
    {
        return Ok(());
    } else {
        "smaller"
    };
    Err(HeartbeatError::new(
        ErrorCode::FencedMemberEpoch,
        format!(
            "The consumer group member has a {what} member epoch ({epoch}) than the one known by the group coordinator ({}). The \
             member must abandon all its partitions and rejoin.",
            member.epoch
        ),
    ))
}

fn owns_no_more(member: &Member, claimed: Claimed<'_>) -> bool {
    claimed.is_some_and(|claimed| {
        claimed.iter().all(|(topic, partitions)| {
            let assigned = member.assigned.get(topic);
            partitions.iter().all(|partition| assigned.is_some_and(|assigned| assigned.contains_key(partition)))
        })
    })
}

pub(super) fn unknown_member(cx: &Context<'_>, id: &MemberId) -> HeartbeatError {
    HeartbeatError::new(ErrorCode::UnknownMemberId, format!("Member {id} is not a member of group {}.", cx.group))
}

/// No partition that is not of the whole as well.
fn is_part(part: &Owned, whole: &Owned) -> bool {
    part.iter().all(|(topic, part)| {
        whole.get(topic).is_some_and(|whole| part.keys().all(|partition| whole.contains_key(partition)))
    })
}

/// The same partitions, whenever they were given.
fn same_partitions(before: Option<&Owned>, after: &Owned) -> bool {
    let nothing = Owned::new();
    let before = before.unwrap_or(&nothing);
    is_part(before, after) && is_part(after, before)
}

fn named(owned: &Owned) -> Vec<(ottla_model::TopicId, Vec<ottla_model::PartitionId>)> {
    owned.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}

pub(super) fn decided(id: RequestId, done: Result<(Decision, ConsumerHeartbeatAnswer), HeartbeatError>) -> Decision {
    match done {
        Ok((mut decision, answer)) => {
            decision.after.push((id, GroupAnswer::ConsumerGroupHeartbeat(answer)));
            decision
        }
        Err(refusal) => Decision::answer(
            id,
            GroupAnswer::ConsumerGroupHeartbeat(ConsumerHeartbeatAnswer {
                error: refusal.error,
                message: Some(refusal.message),
                member: None,
                member_epoch: 0,
                heartbeat_interval_ms: 0,
                assignment: None,
            }),
        ),
    }
}
