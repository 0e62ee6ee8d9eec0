//! From a request to the group that it is for.

use ottla_model::{ErrorCode, GroupId};

use super::in_flight::Pending;
use super::{Context, Decision, Effects, Fate, Shard};
use crate::Now;
use crate::answer::{
    ConsumerGroupDescribed, DeletedOffsets, Described, FetchedOffsets, GroupAnswer, Joined, Left, Synced,
};
use crate::effects::{Batch, BatchKind, RequestId, TransactionEnd};
use crate::group::Group;
use crate::group::classic::ClassicGroup;
use crate::group::consumer::ConsumerGroup;
use crate::record::Record;
use crate::request::{
    CommitInTransaction, CommitOffsets, ConsumerGroupHeartbeat, DeleteOffsets, FetchOffsets, JoinGroup, LeaveGroup,
    ListGroups, Request,
};
use crate::topics::Topics;

/// The longest type of a protocol: a group keeps it when its members have gone, and the budget counts groups.
const PROTOCOL_TYPE_BYTES_MAX: usize = 256;
/// Protocols of one member, of which clients know a few: rounds, and members that come back, look at those of all.
const PROTOCOLS_MAX: usize = 256;

impl Shard {
    pub(super) fn dispatch(&mut self, now: Now, topics: &dyn Topics, id: RequestId, request: Request) -> Effects {
        match request {
            Request::JoinGroup(request) => self.join(now, topics, id, request),
            Request::SyncGroup(request) => {
                let group = request.group.clone();
                self.on_known(now, topics, id, &group, synced_unknown(), |found, cx| match found {
                    Group::Classic(classic) => classic.sync(cx, id, request),
                    Group::Consumer(consumer) => consumer.classic_sync(cx, id, request),
                })
            }
            Request::Heartbeat(request) => {
                let group = request.group.clone();
                let unknown = GroupAnswer::Heartbeat(ErrorCode::UnknownMemberId);
                self.on_known(now, topics, id, &group, unknown, |found, cx| match found {
                    Group::Classic(classic) => classic.heartbeat(cx, id, &request),
                    Group::Consumer(consumer) => consumer.classic_heartbeat(cx, id, &request),
                })
            }
            Request::LeaveGroup(request) => {
                let group = request.group.clone();
                self.on_known(now, topics, id, &group, left_unknown(&request), |found, cx| match found {
                    Group::Classic(classic) => classic.leave(cx, id, request),
                    Group::Consumer(consumer) => consumer.classic_leave(cx, id, request),
                })
            }
            Request::CommitOffsets(request) => self.commit(now, topics, id, request),
            Request::CommitInTransaction(request) => self.commit_in_transaction(now, id, request),
            Request::EndTransaction(end) => self.end_transaction(now, id, end),
            Request::FetchOffsets(request) => answer(id, GroupAnswer::FetchOffsets(self.fetch(topics, &request))),
            Request::DeleteOffsets(request) => self.delete_offsets(now, id, &request),
            Request::DescribeGroup(group) => answer(id, GroupAnswer::DescribeGroup(self.describe(group))),
            Request::DeleteGroup(group) => self.delete_group(now, id, &group),
            Request::ListGroups(request) => answer(id, self.list(&request)),
            Request::ConsumerGroupHeartbeat(request) => self.consumer_heartbeat(now, topics, id, request),
            Request::ConsumerGroupDescribe(group) => {
                answer(id, GroupAnswer::ConsumerGroupDescribe(self.describe_consumer(topics, group)))
            }
        }
    }

    /// A step of a group that has to exist; `unknown` is answered when it does not.
    fn on_known(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        id: RequestId,
        group: &GroupId,
        unknown: GroupAnswer,
        step: impl FnOnce(&mut Group, &mut Context<'_>) -> Decision,
    ) -> Effects {
        if group.as_str().is_empty() {
            return answer(id, GroupAnswer::Failed(ErrorCode::InvalidGroupId));
        }
        if !self.groups.contains_key(group) {
            return answer(id, unknown);
        }
        self.on_group(now, topics, group, step)
    }

    fn join(&mut self, now: Now, topics: &dyn Topics, id: RequestId, request: JoinGroup) -> Effects {
        if let Some(error) = self.refused_join(&request) {
            return answer(id, refused_join(&request, error));
        }
        let group = request.group.clone();
        let mut left_behind = Vec::new();
        match self.groups.get(&group) {
            Some(Group::Consumer(consumer)) if !consumer.is_empty() => {
                return self.on_group(now, topics, &group, |found, cx| match found {
                    Group::Consumer(consumer) => consumer.classic_join(cx, id, request),
                    Group::Classic(classic) => classic.join(cx, id, request),
                });
            }
            // An empty consumer group gives way to a classic one.
            Some(found @ Group::Consumer(_)) if request.member.is_empty() => left_behind = found.tombstones(&group),
            None if request.member.is_empty() => {}
            // A member that has an id was told it by a group; that group is gone.
            Some(Group::Consumer(_)) | None => {
                return answer(id, refused_join(&request, ErrorCode::UnknownMemberId));
            }
            Some(Group::Classic(_)) => {
                return self.on_group(now, topics, &group, |found, cx| match found {
                    Group::Classic(classic) => classic.join(cx, id, request),
                    Group::Consumer(consumer) => consumer.classic_join(cx, id, request),
                });
            }
        }
        let mut classic = ClassicGroup::new(now.wall);
        let mut context = Context {
            now,
            config: &self.config,
            topics,
            group: &group,
            timers: &mut self.timers,
            regexes: &self.regexes,
            visible: None,
            in_flight: false,
        };
        let mut decision = classic.join(&mut context, id, request);
        if classic.is_vacant() {
            // The first member was refused: no group comes of it.
            return self.execute(now, &group, decision);
        }
        let mut records = left_behind;
        records.append(&mut decision.records);
        // The group outlives this coordinator from its first member on, as with Kafka.
        records.push(classic.record(&group));
        decision.records = records;
        decision.fate = Fate::Become(Box::new(Group::Classic(classic)));
        self.execute(now, &group, decision)
    }

    /// What is wrong with a JoinGroup before any group is asked.
    fn refused_join(&self, request: &JoinGroup) -> Option<ErrorCode> {
        let session = self.config.group_min_session_timeout_ms..=self.config.group_max_session_timeout_ms;
        if request.group.as_str().is_empty() {
            Some(ErrorCode::InvalidGroupId)
        } else if !session.contains(&request.session_timeout_ms) {
            Some(ErrorCode::InvalidSessionTimeout)
        } else if request.protocol_type.len() > PROTOCOL_TYPE_BYTES_MAX || request.protocols.len() > PROTOCOLS_MAX {
            Some(ErrorCode::InconsistentGroupProtocol)
        } else {
            None
        }
    }

    fn commit(&mut self, now: Now, topics: &dyn Topics, id: RequestId, request: CommitOffsets) -> Effects {
        let group = request.group.clone();
        let is_new = !self.groups.contains_key(&group);
        if is_new {
            if request.generation_or_epoch >= 0 {
                let error =
                    if request.knows_member_epochs { ErrorCode::GroupIdNotFound } else { ErrorCode::IllegalGeneration };
                return answer(id, GroupAnswer::Failed(error));
            }
            // A simple consumer or an admin client: a group that only has offsets.
            self.groups.insert(group.clone(), Group::Classic(ClassicGroup::simple()));
        }
        let offsets = &mut self.offsets;
        let Some(found) = self.groups.get_mut(&group) else { return Effects::default() };
        if let Err(error) = found.validate_commit(topics, &request) {
            return answer(id, GroupAnswer::Failed(error));
        }
        let mut context = Context {
            now,
            config: &self.config,
            topics,
            group: &group,
            timers: &mut self.timers,
            regexes: &self.regexes,
            visible: None,
            in_flight: false,
        };
        if let Group::Classic(classic) = found {
            classic.committed(&mut context, &request.member);
        }
        let decision = offsets.commit(now, &self.config, id, request);
        if is_new && decision.records.is_empty() {
            // A commit of nothing makes no group.
            self.groups.remove(&group);
        }
        self.execute(now, &group, decision)
    }

    fn commit_in_transaction(&mut self, now: Now, id: RequestId, request: CommitInTransaction) -> Effects {
        let CommitInTransaction { producer_id, producer_epoch, commit } = request;
        let group = commit.group.clone();
        let is_new = !self.groups.contains_key(&group);
        if is_new {
            if commit.generation_or_epoch >= 0 {
                return answer(id, GroupAnswer::Failed(ErrorCode::IllegalGeneration));
            }
            // A group that only has offsets.
            self.groups.insert(group.clone(), Group::Classic(ClassicGroup::simple()));
        }
        let Some(found) = self.groups.get(&group) else { return Effects::default() };
        if let Err(error) = found.validate_commit_in_transaction(&commit) {
            return answer(id, GroupAnswer::Failed(error));
        }
        let Decision { records, now: at_once, after, .. } = self.offsets.commit(now, &self.config, id, commit);
        if records.is_empty() {
            if is_new {
                self.groups.remove(&group);
            }
            return Effects { answers: at_once, ..Effects::default() };
        }
        let kind = BatchKind::Transactional { producer_id, producer_epoch };
        let batch = self.batch_of(now, &group, records, after, kind);
        Effects { batches: vec![batch], ..Effects::default() }
    }

    /// Writes the marker; the offsets of the transaction follow when it is replicated.
    fn end_transaction(&mut self, now: Now, id: RequestId, end: TransactionEnd) -> Effects {
        let answers = vec![(id, GroupAnswer::EndTransaction)];
        let kind = BatchKind::Marker(end);
        let number = self.in_flight.push(Pending::new(None, Vec::new(), answers).of_kind(kind));
        let batch = Batch { number, timestamp: now.wall, records: Vec::new(), kind };
        Effects { batches: vec![batch], ..Effects::default() }
    }

    fn fetch(&self, topics: &dyn Topics, request: &FetchOffsets) -> FetchedOffsets {
        if let Some(found) = self.groups.get(&request.group)
            && let Err(error) = found.validate_fetch(request.member.as_ref(), request.member_epoch)
        {
            return FetchedOffsets { error, topics: Vec::new() };
        }
        self.offsets.fetch(topics, request)
    }

    fn delete_offsets(&mut self, now: Now, id: RequestId, request: &DeleteOffsets) -> Effects {
        let refused = |error| answer(id, GroupAnswer::DeleteOffsets(DeletedOffsets { error, topics: Vec::new() }));
        let Some(found) = self.groups.get(&request.group) else { return refused(ErrorCode::GroupIdNotFound) };
        if let Err(error) = found.validate_delete_offsets() {
            return refused(error);
        }
        let decision = self.offsets.delete(found, id, request);
        self.execute(now, &request.group, decision)
    }

    fn describe(&self, group: GroupId) -> Described {
        match self.groups.get(&group) {
            Some(Group::Classic(classic)) => classic.describe(group),
            found => {
                let what = if found.is_some() { "is not a classic group" } else { "not found" };
                Described {
                    error: ErrorCode::GroupIdNotFound,
                    message: Some(format!("Group {group} {what}.")),
                    group,
                    state: "Dead",
                    protocol_type: String::new(),
                    protocol: String::new(),
                    members: Vec::new(),
                }
            }
        }
    }

    fn describe_consumer(&self, topics: &dyn Topics, group: GroupId) -> ConsumerGroupDescribed {
        match self.groups.get(&group) {
            Some(Group::Consumer(consumer)) => consumer.describe(&group, topics, &self.config),
            found => {
                let what = if found.is_some() { "is not a consumer group" } else { "not found" };
                ConsumerGroupDescribed {
                    error: ErrorCode::GroupIdNotFound,
                    message: Some(format!("Group {group} {what}.")),
                    group,
                    state: "Dead",
                    group_epoch: 0,
                    assignment_epoch: 0,
                    assignor: String::new(),
                    members: Vec::new(),
                }
            }
        }
    }

    fn list(&self, request: &ListGroups) -> GroupAnswer {
        let listed = self.groups.iter().map(|(id, group)| group.listed(id));
        GroupAnswer::ListGroups(listed.filter(|group| request.takes(group.state, group.group_type)).collect())
    }

    fn delete_group(&mut self, now: Now, id: RequestId, group: &GroupId) -> Effects {
        let Some(found) = self.groups.get(group) else {
            return answer(id, GroupAnswer::DeleteGroup(ErrorCode::GroupIdNotFound));
        };
        if !found.is_empty() {
            return answer(id, GroupAnswer::DeleteGroup(ErrorCode::NonEmptyGroup));
        }
        let mut records: Vec<Record> = self.offsets.delete_all(group);
        records.extend(found.tombstones(group));
        self.groups.remove(group);
        self.timers.cancel_group(group);
        let mut effects = self.append_in_pieces(now, group, records);
        // The last piece is the last to be replicated.
        let answers = vec![(id, GroupAnswer::DeleteGroup(ErrorCode::None))];
        effects.answers.extend(self.in_flight.wait_for_change(group, answers));
        effects
    }

    fn consumer_heartbeat(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        id: RequestId,
        request: ConsumerGroupHeartbeat,
    ) -> Effects {
        let group = request.group.clone();
        let mut context = Context {
            now,
            config: &self.config,
            topics,
            group: &group,
            timers: &mut self.timers,
            regexes: &self.regexes,
            visible: Some(request.visible_topics.clone()),
            in_flight: self.in_flight.changes(&group),
        };
        let decision = match self.groups.get_mut(&group) {
            Some(Group::Consumer(consumer)) => consumer.heartbeat(&mut context, id, request),
            Some(Group::Classic(classic)) => ConsumerGroup::heartbeat_to_classic(classic, &mut context, id, request),
            None => ConsumerGroup::heartbeat_to_none(&mut context, id, request),
        };
        self.execute(now, &group, decision)
    }
}

fn answer(id: RequestId, answer: GroupAnswer) -> Effects {
    Effects { answers: vec![(id, answer)], ..Effects::default() }
}

fn refused_join(request: &JoinGroup, error: ErrorCode) -> GroupAnswer {
    GroupAnswer::JoinGroup(Joined::refused(request.member.clone(), error))
}

fn synced_unknown() -> GroupAnswer {
    GroupAnswer::SyncGroup(Synced::refused(ErrorCode::UnknownMemberId))
}

fn left_unknown(request: &LeaveGroup) -> GroupAnswer {
    let members = request.members.iter();
    GroupAnswer::LeaveGroup(Left {
        error: ErrorCode::None,
        members: members
            .map(|leaving| (leaving.member.clone(), leaving.instance.clone(), ErrorCode::UnknownMemberId))
            .collect(),
    })
}
