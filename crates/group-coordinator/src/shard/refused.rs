//! Steps whose records the log would refuse: they are undone before anything is appended, and only their own group is
//! concerned.
//!
//! The log refuses records while its ISR is too small or its directory is offline (the host says so), and a batch above
//! `max_batch_bytes` (the shard sees that itself). A copy of the group is taken before each step that may write much,
//! or that may write while the log refuses; it takes the group's place when the records are refused. Kafka does the
//! same with a timeline of snapshots. A refusal that nobody foresaw is left to [`Shard::append_refused`], which loads
//! the shard again.

use std::collections::BTreeSet;
use std::sync::Arc;

use ottla_model::{ErrorCode, GroupId, MonotonicMs};

use super::pace::{PAUSE_AFTER_TOO_LARGE, PAUSE_WHILE_REFUSED};
use super::{Decision, Effects, Shard, refusal};
use crate::Now;
use crate::answer::GroupAnswer;
use crate::config::{GroupConfig, MigrationPolicy};
use crate::effects::{Batch, RequestId};
use crate::group::Group;
use crate::request::{ConsumerGroupHeartbeat, Request};
use crate::timer::{GroupTimers, Timer};
use crate::topics::Topics;

/// What a group was before a step.
pub(super) struct Before {
    id: GroupId,
    group: Option<Group>,
    timers: GroupTimers,
}

impl Shard {
    /// Whether the log takes records now, and batches of how many bytes, as far as the host knows; it says so before a
    /// step, a tick or the deletion of topics.
    pub fn set_log_state(&mut self, log: Result<usize, ErrorCode>) {
        match log {
            Ok(max_batch_bytes) => {
                self.log_refuses = None;
                self.limit_batches(i32::try_from(max_batch_bytes).unwrap_or(i32::MAX));
            }
            Err(error) => self.log_refuses = Some(error),
        }
        if self.log_refuses.is_none() {
            self.quiet_until = None;
        }
    }

    /// Whether a request is likely to lead to records that change its group. The host need not look at the log's state
    /// for others.
    pub fn may_write(&self, topics: &dyn Topics, request: &Request) -> bool {
        match request {
            Request::JoinGroup(_) | Request::SyncGroup(_) | Request::LeaveGroup(_) | Request::DeleteGroup(_) => true,
            Request::ConsumerGroupHeartbeat(beat) => {
                let is_settled = matches!(self.groups.get(&beat.group), Some(Group::Consumer(group))
                    if group.is_settled(&beat.member, topics.version()));
                !is_settled || writes_whole_group(beat)
            }
            Request::Heartbeat(_)
            | Request::CommitOffsets(_)
            | Request::CommitInTransaction(_)
            | Request::EndTransaction(_)
            | Request::FetchOffsets(_)
            | Request::DeleteOffsets(_)
            | Request::DescribeGroup(_)
            | Request::ListGroups(_)
            | Request::ConsumerGroupDescribe(_) => false,
        }
    }

    /// Takes a step that is undone if its records are refused.
    pub(super) fn step_or_undo(&mut self, now: Now, topics: &dyn Topics, id: RequestId, request: Request) -> Effects {
        // A round of a classic group would end in a record, and its timers stand still: members are told at once.
        if let Some(error) = self.log_refuses
            && matches!(request, Request::JoinGroup(_) | Request::SyncGroup(_) | Request::LeaveGroup(_))
        {
            return Effects { answers: vec![(id, GroupAnswer::Failed(refusal(error, false)))], ..Effects::default() };
        }
        let may_assign = self.may_assign(now, topics, &request);
        let is_guarded = self.writes_whole_group(&request)
            || may_assign
            || self.may_step_far(&request)
            || (self.log_refuses.is_some() && self.may_write(topics, &request));
        let before = request.group().filter(|_| is_guarded).map(|group| self.before(group));
        let may_stay_consumers = self.may_end_consumers(&request) && self.log_refuses.is_none() && self.may_downgrade();
        let may_wait = may_assign && self.log_refuses.is_none();
        let again = (may_stay_consumers || may_wait).then(|| request.clone());
        let effects = self.dispatch(now, topics, id, request);
        match (before, self.refusal_of(&effects.batches)) {
            (Some(before), Some(error)) => {
                self.undo(before, &effects);
                if let Some(request) = again {
                    if may_stay_consumers {
                        return self.without_downgrade(|shard| shard.step_or_undo(now, topics, id, request));
                    }
                    self.put_off_assignment(now, &request);
                    return self.step_or_undo(now, topics, id, request);
                }
                Effects { answers: vec![(id, GroupAnswer::Failed(refusal(error, false)))], ..Effects::default() }
            }
            _ => effects,
        }
    }

    /// Whether the step costs as much as a copy of the group anyway.
    fn writes_whole_group(&self, request: &Request) -> bool {
        match request {
            Request::SyncGroup(_) => true,
            Request::ConsumerGroupHeartbeat(beat) => writes_whole_group(beat),
            Request::JoinGroup(join) => matches!(self.groups.get(&join.group), Some(Group::Consumer(_))),
            Request::LeaveGroup(leave) => matches!(self.groups.get(&leave.group), Some(Group::Consumer(_))),
            _ => false,
        }
    }

    /// Whether a heartbeat of a member that is there may write as much, whatever it says itself: everybody's target is
    /// computed in the first one after topics have changed or members have gone.
    fn may_assign(&self, now: Now, topics: &dyn Topics, request: &Request) -> bool {
        let Request::ConsumerGroupHeartbeat(beat) = request else { return false };
        beat.member_epoch > 0
            && matches!(self.groups.get(&beat.group), Some(Group::Consumer(group))
                if group.may_assign(topics.version(), now.monotonic))
    }

    /// Whether the step of one member to its target may be too large for the log by itself.
    fn may_step_far(&self, request: &Request) -> bool {
        let Request::ConsumerGroupHeartbeat(beat) = request else { return false };
        matches!(self.groups.get(&beat.group), Some(Group::Consumer(group))
            if group.step_bytes_max(&beat.member) > self.batch_limit())
    }

    /// The targets would be too large for the log: the member goes on with what it has.
    fn put_off_assignment(&mut self, now: Now, request: &Request) {
        if let Some(Group::Consumer(group)) = request.group().and_then(|group| self.groups.get_mut(group)) {
            group.put_off(now.monotonic + PAUSE_AFTER_TOO_LARGE);
        }
    }

    /// Whether the last member of the consumer protocol may go with the request. These are small, or rare.
    fn may_end_consumers(&self, request: &Request) -> bool {
        let is_consumers = |group: &GroupId| matches!(self.groups.get(group), Some(Group::Consumer(_)));
        match request {
            Request::ConsumerGroupHeartbeat(beat) => beat.member_epoch < 0,
            // An administrator removes members of either protocol.
            Request::LeaveGroup(leave) => is_consumers(&leave.group),
            // A static member of the classic protocol takes the place of one of the other.
            Request::JoinGroup(join) => join.instance.is_some() && join.member.is_empty() && is_consumers(&join.group),
            _ => false,
        }
    }

    /// Whether a consumer group may become a classic one.
    fn may_downgrade(&self) -> bool {
        matches!(self.config.consumer_migration_policy, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade)
    }

    /// Takes a step as if consumer groups could not become classic ones. That takes one batch with every member and
    /// what it has: where this is too large, the group stays a consumer group of classic members, and the member goes.
    fn without_downgrade(&mut self, step: impl FnOnce(&mut Self) -> Effects) -> Effects {
        let config = GroupConfig { consumer_migration_policy: MigrationPolicy::Disabled, ..(*self.config).clone() };
        let config = std::mem::replace(&mut self.config, Arc::new(config));
        let effects = step(self);
        self.config = config;
        effects
    }

    /// Lets timers of a consumer group run out in one step. If what follows is refused, each of them is tried in a step
    /// of its own, which may write less; then without a downgrade; one that is still refused runs out later.
    pub(super) fn expire_or_undo(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        group: &GroupId,
        timers: BTreeSet<Timer>,
    ) -> Effects {
        let before = self.before(group);
        let effects = self.on_group(now, topics, group, |found, cx| match found {
            Group::Consumer(consumer) => consumer.expired(cx, &timers),
            Group::Classic(_) => Decision::default(),
        });
        if self.refusal_of(&effects.batches).is_none() {
            return effects;
        }
        self.undo(before, &effects);
        if timers.len() > 1 {
            return timers.into_iter().fold(Effects::default(), |mut all, timer| {
                all.extend(self.expire_or_undo(now, topics, group, BTreeSet::from([timer])));
                all
            });
        }
        if self.log_refuses.is_none() && self.may_downgrade() {
            return self.without_downgrade(|shard| shard.expire_or_undo(now, topics, group, timers));
        }
        for timer in timers {
            self.timers.schedule(group, timer, now.monotonic + PAUSE_AFTER_TOO_LARGE);
        }
        Effects::default()
    }

    /// Whether nothing is ticked now because the log refuses what would follow.
    pub(super) fn is_paused(&mut self, now: Now) -> bool {
        if self.log_refuses.is_some() {
            self.quiet_until = Some(now.monotonic + PAUSE_WHILE_REFUSED);
        }
        self.log_refuses.is_some()
    }

    /// When the shard looks again at what it could not write.
    pub(super) fn not_before(&self, deadline: Option<MonotonicMs>) -> Option<MonotonicMs> {
        match self.quiet_until {
            Some(until) => deadline.map(|at| at.max(until)),
            None => deadline,
        }
    }

    fn before(&self, group: &GroupId) -> Before {
        Before { id: group.clone(), group: self.groups.get(group).cloned(), timers: self.timers.of_group(group) }
    }

    fn undo(&mut self, before: Before, effects: &Effects) {
        for batch in &effects.batches {
            if let Some(pending) = self.in_flight.take(batch.number) {
                // The request is answered with the refusal instead.
                drop(self.withdraw(pending));
            }
        }
        match before.group {
            Some(group) => drop(self.groups.insert(before.id.clone(), group)),
            None => drop(self.groups.remove(&before.id)),
        }
        self.timers.restore_group(&before.id, before.timers);
    }

    /// The error with which the log would refuse one of these.
    fn refusal_of(&self, batches: &[Batch]) -> Option<ErrorCode> {
        if batches.is_empty() {
            return None;
        }
        let is_too_large = batches.iter().any(|batch| batch.size_bytes() > self.batch_limit());
        self.log_refuses.or(is_too_large.then_some(ErrorCode::RecordListTooLarge))
    }

    fn batch_limit(&self) -> usize {
        usize::try_from(self.config.max_batch_bytes).unwrap_or(0)
    }
}

/// Whether a member comes, goes or changes what it reads: everybody's target is computed anew.
pub(super) fn writes_whole_group(beat: &ConsumerGroupHeartbeat) -> bool {
    beat.member_epoch <= 0 || beat.subscribed_topics.is_some() || beat.subscribed_regex.is_some()
}
