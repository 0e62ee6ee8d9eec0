//! JoinGroup: who may be in the next generation.

use std::collections::BTreeSet;

use bytes::Bytes;
use ottla_model::{ErrorCode, InstanceId, MemberId};

use super::{ClassicGroup, Member, State, answer_join, answer_sync};
use crate::answer::{GroupAnswer, Joined, Synced};
use crate::effects::RequestId;
use crate::request::JoinGroup;
use crate::shard::{Context, Decision};
use crate::timer::Timer;

/// How long a member that has not seen its id yet may stay without its round ending (Kafka's fixed five minutes):
/// clients that give up and try again would otherwise fill a long round with members without a client.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1_000;
/// Ids that a group gives out to members that have not joined with them yet. Each is held for one session timeout, so a
/// client that only ever asks for ids must not fill the memory. No group has that many members about to join.
const MAX_PENDING_MEMBERS: usize = 10_000;

impl ClassicGroup {
    pub(crate) fn join(&mut self, cx: &mut Context<'_>, id: RequestId, mut request: JoinGroup) -> Decision {
        keep_first_of_each(&mut request.protocols);
        let mut out = Decision::default();
        if !self.accepts(cx, &request.member) {
            self.remove(cx, &request.member, &mut out);
            self.maybe_complete_join(cx, &mut out);
            refuse(&mut out, id, MemberId::new(""), ErrorCode::GroupMaxSizeReached);
        } else if !self.supports(&request.protocol_type, &request.protocols) {
            refuse(&mut out, id, request.member, ErrorCode::InconsistentGroupProtocol);
        } else if request.member.is_empty() {
            self.join_without_id(cx, id, request, &mut out);
        } else {
            self.join_with_id(cx, id, request, &mut out);
        }
        out
    }

    /// Whether the group has room for the member. While a round begins the members count that have joined it: the size
    /// may be above the limit (which was lowered), and then the last to come back are those that must go.
    fn accepts(&self, cx: &Context<'_>, id: &MemberId) -> bool {
        let limit = usize::try_from(cx.config.group_max_size).unwrap_or(usize::MAX);
        let member = self.members.get(id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                self.joined < limit || member.is_some_and(|member| member.awaiting_join.is_some())
            }
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < limit,
        }
    }

    fn join_without_id(&mut self, cx: &mut Context<'_>, id: RequestId, request: JoinGroup, out: &mut Decision) {
        if let Some(instance) = request.instance.clone() {
            let fresh = MemberId::new(format!("{instance}-{}", request.fresh_id));
            match self.statics.get(&instance).cloned() {
                Some(old) => self.replace_static(cx, id, &instance, old, fresh, request, out),
                None => self.add_joining(cx, id, fresh, request, out),
            }
            return;
        }
        let fresh = MemberId::new(format!("{}-{}", request.client.client_id, request.fresh_id));
        if !request.requires_known_member_id {
            self.add_joining(cx, id, fresh, request, out);
        } else if self.pending_join.len() >= MAX_PENDING_MEMBERS {
            refuse(out, id, MemberId::new(""), ErrorCode::GroupMaxSizeReached);
        } else {
            self.pending_join.insert(fresh.clone());
            cx.schedule(Timer::Session(fresh.clone()), request.session_timeout_ms);
            refuse(out, id, fresh, ErrorCode::MemberIdRequired);
        }
    }

    fn join_with_id(&mut self, cx: &mut Context<'_>, id: RequestId, request: JoinGroup, out: &mut Decision) {
        let member = request.member.clone();
        if self.pending_join.contains(&member) {
            if request.instance.is_some() {
                // Only dynamic members are told to come back with an id.
                refuse(out, id, member, ErrorCode::UnknownServerError);
            } else {
                self.add_joining(cx, id, member, request, out);
            }
            return;
        }
        if let Err(error) = self.validate(&member, request.instance.as_ref()) {
            refuse(out, id, member, error);
            return;
        }
        let unchanged = self.members.get(&member).is_some_and(|known| known.protocols == request.protocols);
        let rejoins = match self.state {
            State::PreparingRebalance => true,
            // The answer to its first JoinGroup may have been lost.
            State::CompletingRebalance => !unchanged,
            // The leader sees changes that its metadata does not show, such as new partitions.
            State::Stable => !unchanged || self.is_leader(&member),
            State::Empty => {
                refuse(out, id, member, ErrorCode::UnknownMemberId);
                return;
            }
        };
        if rejoins {
            self.update(&member, id, request, out);
            self.rebalance_or_complete_join(cx, out);
        } else {
            answer_join(out, Some(id), self.joined(&member));
        }
    }

    fn add_joining(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        member_id: MemberId,
        request: JoinGroup,
        out: &mut Decision,
    ) {
        let mut member = Member::new(
            request.instance,
            request.client,
            request.rebalance_timeout_ms,
            request.session_timeout_ms,
            request.protocols,
        );
        member.is_new = true;
        member.awaiting_join = Some(id);
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.initial.member_added = true;
        }
        self.add(member_id.clone(), &request.protocol_type, member);
        cx.schedule(Timer::Session(member_id), NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance_or_complete_join(cx, out);
    }

    /// Takes over what a known member says of itself; it waits for the end of the round.
    fn update(&mut self, member: &MemberId, id: RequestId, request: JoinGroup, out: &mut Decision) {
        let Some(mut known) = self.detach(member) else { return };
        let superseded = known.awaiting_join.replace(id);
        answer_join(out, superseded, Joined::refused(member.clone(), ErrorCode::RebalanceInProgress));
        known.protocols = request.protocols;
        known.rebalance_timeout_ms = request.rebalance_timeout_ms;
        known.session_timeout_ms = request.session_timeout_ms;
        self.reattach(member.clone(), known);
    }

    /// Puts a member back that was detached.
    fn reattach(&mut self, id: MemberId, member: Member) {
        self.count_votes(&member);
        self.joined += usize::from(member.awaiting_join.is_some());
        self.members.insert(id, member);
    }

    /// A static member has come back under a new id: it takes its own place, and its former life is fenced.
    #[allow(clippy::too_many_arguments)]
    fn replace_static(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        instance: &InstanceId,
        old: MemberId,
        fresh: MemberId,
        request: JoinGroup,
        out: &mut Decision,
    ) {
        let leader_before = self.leader.clone();
        let Some(mut member) = self.detach(&old) else { return };
        cx.cancel(Timer::Session(old.clone()));
        let fenced = ErrorCode::FencedInstanceId;
        answer_join(out, member.awaiting_join.take(), Joined::refused(old.clone(), fenced));
        answer_sync(out, member.awaiting_sync.take(), Synced::refused(fenced));
        member.is_new = false;
        if self.is_leader(&old) {
            self.leader = Some(fresh.clone());
        }
        if self.pending_sync.remove(&old) {
            self.pending_sync.insert(fresh.clone());
        }
        self.statics.insert(instance.clone(), fresh.clone());
        self.reattach(fresh.clone(), member);
        let skips = request.supports_skip_assignment;
        self.renew_session(cx, &fresh);
        self.update(&fresh, id, request, out);
        match self.state {
            State::Stable if self.protocol == self.elect_protocol() => {
                self.resume_static(cx, &fresh, skips, leader_before, out);
            }
            State::Stable => self.rebalance_or_complete_join(cx, out),
            // The leader may have been told of the old id: what it assigns would reach nobody.
            State::CompletingRebalance => self.prepare_rebalance(cx, out),
            State::PreparingRebalance | State::Empty => self.maybe_complete_join(cx, out),
        }
    }

    /// The member goes on with its assignment, without a round; its new id is made to last first.
    fn resume_static(
        &mut self,
        cx: &Context<'_>,
        id: &MemberId,
        skips: bool,
        leader_before: Option<MemberId>,
        out: &mut Decision,
    ) {
        let waiting = self.members.get_mut(id).and_then(|member| member.awaiting_join.take());
        self.joined -= usize::from(waiting.is_some());
        let mut joined = self.joined(id);
        if skips {
            joined.skip_assignment = self.is_leader(id);
        } else {
            // An older leader would assign anew if it were told that it leads: it is told the id that it had before.
            joined.leader = leader_before.unwrap_or_else(|| MemberId::new(""));
            joined.members.clear();
        }
        out.records.push(self.record(cx.group));
        out.after.extend(waiting.map(|request| (request, GroupAnswer::JoinGroup(joined))));
    }
}

fn refuse(out: &mut Decision, id: RequestId, member: MemberId, error: ErrorCode) {
    answer_join(out, Some(id), Joined::refused(member, error));
}

/// A protocol that is named twice counts once.
fn keep_first_of_each(protocols: &mut Vec<(String, Bytes)>) {
    let mut seen = BTreeSet::new();
    protocols.retain(|(name, _)| seen.insert(name.clone()));
}
