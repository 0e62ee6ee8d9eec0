//! Members of the classic protocol inside a consumer group: JoinGroup is their heartbeat, its generation is their
//! member epoch, SyncGroup fetches what JoinGroup has assigned, and Heartbeat only says when to join again.

use std::collections::BTreeSet;

use bytes::Bytes;
use ottla_model::{ErrorCode, InstanceId, MemberId, PartitionId, TopicId};

use super::ConsumerGroup;
use super::member::Member;
use super::reconcile::Voice;
use crate::answer::{GroupAnswer, Joined, Left, Synced};
use crate::effects::RequestId;
use crate::group::embedded::{self, NamedPartitions, Subscription};
use crate::record::{ClassicMemberMetadata, MemberState};
use crate::request::{Heartbeat, JoinGroup, LeaveGroup, SyncGroup};
use crate::shard::{Context, Decision};
use crate::timer::Timer;
use crate::topics::Topics;

impl ConsumerGroup {
    pub(crate) fn classic_join(&mut self, cx: &mut Context<'_>, id: RequestId, request: JoinGroup) -> Decision {
        let member =
            if request.member.is_empty() { MemberId::new(request.fresh_id.as_str()) } else { request.member.clone() };
        self.try_join(cx, id, &member, &request).unwrap_or_else(|error| {
            // The id that a member is to join with comes with the error that asks for it.
            let told = if error == ErrorCode::MemberIdRequired { member } else { request.member };
            Decision::answer(id, GroupAnswer::JoinGroup(Joined::refused(told, error)))
        })
    }

    fn try_join(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        member: &MemberId,
        request: &JoinGroup,
    ) -> Result<Decision, ErrorCode> {
        self.refuse_if_full(cx, member).map_err(|refusal| refusal.error)?;
        if !self.supports_classic(&request.protocol_type, &request.protocols) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if request.requires_known_member_id && request.member.is_empty() && request.instance.is_none() {
            return Err(ErrorCode::MemberIdRequired);
        }
        let replaced = match &request.instance {
            // It takes the place of whoever holds the instance id, of either protocol.
            Some(instance) if request.member.is_empty() => {
                self.static_member(instance).map(|(holder, _)| holder.clone())
            }
            Some(instance) => self.known_static(member, instance).map(|_| None).map_err(|refusal| refusal.error)?,
            None => None,
        };
        let (protocol, metadata) = request.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        // All of a member's protocols have the same subscription.
        let subscription = Subscription::read(metadata).map_err(|_| ErrorCode::UnknownServerError)?;
        let is_unknown = replaced.is_none() && !self.members.contains_key(member);
        let reads = subscription.owned.iter().any(|(_, partitions)| !partitions.is_empty());
        if is_unknown && !request.member.is_empty() && reads {
            // It was fenced and does not know it. A cooperative member reads on while it joins: let in as a new member,
            // it would read together with those who have its partitions now.
            return Err(ErrorCode::UnknownMemberId);
        }

        let mut records = Vec::new();
        if let Some(replaced) = &replaced {
            self.replace(cx, &mut records, replaced, member);
        }
        self.update(cx, &mut records, member, |changed| {
            if let Some(instance) = &request.instance {
                changed.instance = Some(instance.clone());
            }
            if let Some(rack) = subscription.rack.as_deref().filter(|rack| !rack.is_empty()) {
                changed.rack = Some(rack.to_owned());
            }
            changed.rebalance_timeout_ms = request.rebalance_timeout_ms;
            changed.subscribe(subscription.topics.iter().cloned().collect());
            changed.regex = None;
            changed.client = request.client.clone();
            changed.classic = Some(ClassicMemberMetadata {
                session_timeout_ms: request.session_timeout_ms,
                protocols: request.protocols.clone(),
            });
        });
        self.assign(cx, &mut records);
        let claimed = by_id(&subscription.owned, cx.topics);
        self.step(cx, &mut records, member, Some(&claimed), Voice::Certain);
        cx.cancel(Timer::ClassicJoin(member.clone()));
        cx.schedule(Timer::Session(member.clone()), request.session_timeout_ms);
        cx.schedule(Timer::ClassicSync(member.clone()), request.rebalance_timeout_ms);

        let joined = Joined {
            error: ErrorCode::None,
            generation: self.members.get(member).map_or(-1, |joined| joined.epoch),
            protocol_type: Some(embedded::PROTOCOL_TYPE.to_owned()),
            protocol_name: Some(protocol.clone()),
            // Nobody assigns but the coordinator.
            leader: MemberId::new(""),
            skip_assignment: false,
            member: member.clone(),
            members: Vec::new(),
        };
        let mut decision =
            Decision { records, after: vec![(id, GroupAnswer::JoinGroup(joined))], ..Decision::default() };
        if replaced.is_some()
            && let Some(downgraded) = self.downgrade_after_replacement(cx)
        {
            decision.extend(downgraded);
        }
        Ok(decision)
    }

    /// Whether one of a member's protocols is known to all members that speak the classic protocol. Members may name a
    /// hundred thousand each: no name is compared with all of another member's.
    fn supports_classic(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        let mut common: BTreeSet<&str> = protocols.iter().map(|(name, _)| name.as_str()).collect();
        for classic in self.members.values().filter_map(|member| member.classic.as_ref()) {
            let known = classic.protocols.iter().map(|(name, _)| name.as_str());
            common = known.filter(|name| common.contains(name)).collect();
        }
        protocol_type == embedded::PROTOCOL_TYPE && !common.is_empty()
    }

    pub(crate) fn classic_sync(&mut self, cx: &mut Context<'_>, id: RequestId, request: SyncGroup) -> Decision {
        match self.try_sync(cx, &request) {
            Ok(assignment) => {
                cx.cancel(Timer::ClassicSync(request.member.clone()));
                let synced = Synced {
                    error: ErrorCode::None,
                    protocol_type: request.protocol_type,
                    protocol_name: request.protocol_name,
                    assignment,
                };
                Decision { after: vec![(id, GroupAnswer::SyncGroup(synced))], ..Decision::default() }
            }
            Err(error) => Decision::answer(id, GroupAnswer::SyncGroup(Synced::refused(error))),
        }
    }

    fn try_sync(&mut self, cx: &mut Context<'_>, request: &SyncGroup) -> Result<Bytes, ErrorCode> {
        let (member, classic) = self.classic_member(&request.member, request.instance.as_ref(), request.generation)?;
        let (protocol, metadata) = classic.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        if request.protocol_type.as_deref().is_some_and(|told| told != embedded::PROTOCOL_TYPE)
            || request.protocol_name.as_ref().is_some_and(|told| told != protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if self.epoch > member.epoch && member.state != MemberState::UnrevokedPartitions {
            // One that must give up has joined in this epoch already; it is told to join again when it has.
            expect_join(cx, &request.member, member);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let version = Subscription::read(metadata).map_or(0, |subscription| subscription.version);
        let assignment = embedded::write_assignment(version, &by_name(&member.assigned, cx.topics));
        cx.schedule(Timer::Session(request.member.clone()), classic.session_timeout_ms);
        Ok(assignment)
    }

    pub(crate) fn classic_heartbeat(&mut self, cx: &mut Context<'_>, id: RequestId, request: &Heartbeat) -> Decision {
        let error = match self.classic_member(&request.member, request.instance.as_ref(), request.generation) {
            Err(error) => error,
            Ok((member, classic)) => {
                cx.schedule(Timer::Session(request.member.clone()), classic.session_timeout_ms);
                // It joins again when the group moved on, to confirm that it gave up, and when what it waits for is
                // free.
                let must_join = member.epoch < self.epoch
                    || match member.state {
                        MemberState::UnrevokedPartitions => true,
                        MemberState::UnreleasedPartitions => !self.waits_for_others(&request.member, member),
                        MemberState::Stable | MemberState::Unknown => false,
                    };
                if must_join {
                    expect_join(cx, &request.member, member);
                    ErrorCode::RebalanceInProgress
                } else {
                    ErrorCode::None
                }
            }
        };
        Decision::answer(id, GroupAnswer::Heartbeat(error))
    }

    /// Members of either protocol may be named: administrators remove members with this request.
    pub(crate) fn classic_leave(&mut self, cx: &mut Context<'_>, id: RequestId, request: LeaveGroup) -> Decision {
        let mut leaving = BTreeSet::new();
        let members = request
            .members
            .into_iter()
            .map(|asked| {
                let found = match &asked.instance {
                    None => self
                        .members
                        .contains_key(&asked.member)
                        .then(|| asked.member.clone())
                        .ok_or(ErrorCode::UnknownMemberId),
                    // An administrator knows the instance id only.
                    Some(instance) if asked.member.is_empty() => {
                        self.static_member(instance).map(|(holder, _)| holder.clone()).ok_or(ErrorCode::UnknownMemberId)
                    }
                    Some(instance) => self
                        .known_static(&asked.member, instance)
                        .map(|_| asked.member.clone())
                        .map_err(|refusal| refusal.error),
                };
                let error = match found {
                    Ok(member) => {
                        leaving.insert(member);
                        ErrorCode::None
                    }
                    Err(error) => error,
                };
                (asked.member, asked.instance, error)
            })
            .collect();
        let mut decision = if leaving.is_empty() { Decision::default() } else { self.fence(cx, &leaving) };
        decision.after.push((id, GroupAnswer::LeaveGroup(Left { error: ErrorCode::None, members })));
        decision
    }

    /// A member that speaks the classic protocol, in the generation that it says.
    fn classic_member(
        &self,
        id: &MemberId,
        instance: Option<&InstanceId>,
        generation: i32,
    ) -> Result<(&Member, &ClassicMemberMetadata), ErrorCode> {
        let member = match instance {
            None => self.members.get(id).ok_or(ErrorCode::UnknownMemberId)?,
            Some(instance) => self.known_static(id, instance).map_err(|refusal| refusal.error)?,
        };
        let classic = member.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        if member.epoch == generation { Ok((member, classic)) } else { Err(ErrorCode::IllegalGeneration) }
    }
}

/// The member was told to join again, and has its rebalance timeout to do so from when it was first told.
fn expect_join(cx: &mut Context<'_>, id: &MemberId, member: &Member) {
    if !cx.is_scheduled(Timer::ClassicJoin(id.clone())) {
        cx.schedule(Timer::ClassicJoin(id.clone()), member.rebalance_timeout_ms);
    }
}

/// Topics that do not exist any more are nobody's.
pub(super) fn by_id(partitions: &NamedPartitions, topics: &dyn Topics) -> Vec<(TopicId, Vec<PartitionId>)> {
    partitions.iter().filter_map(|(name, of)| Some((topics.by_name(name)?.id, of.clone()))).collect()
}

pub(super) fn by_name(owned: &super::member::Owned, topics: &dyn Topics) -> NamedPartitions {
    let named = owned.iter().filter_map(|(id, partitions)| {
        Some((topics.by_id(*id)?.name.to_string(), partitions.keys().copied().collect()))
    });
    named.collect()
}
