//! Rounds: how they begin, when the join phase ends, and what the timers do.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ottla_model::{ErrorCode, MemberId};

use super::group::InitialDelay;
use super::{ClassicGroup, State, answer_join, answer_sync};
use crate::answer::{Joined, JoinedMember, Synced};
use crate::shard::{Context, Decision};
use crate::timer::Timer;

/// How often a round that nobody has joined looks again, at most: clients choose the rebalance timeout, and may choose
/// 0.
const MIN_RETRY_MS: i32 = 1_000;

impl ClassicGroup {
    /// Begins a round, unless one has begun; then ends its join phase if everybody is there.
    pub(super) fn rebalance_or_complete_join(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        if self.state == State::PreparingRebalance {
            self.maybe_complete_join(cx, out);
        } else {
            self.prepare_rebalance(cx, out);
        }
    }

    /// Begins a round: from here on members are told to join again.
    pub(crate) fn prepare_rebalance(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        if self.state == State::CompletingRebalance {
            self.refuse_syncs(cx, ErrorCode::RebalanceInProgress, out);
        }
        self.pending_sync.clear();
        cx.cancel(Timer::PendingSync);
        let is_initial = self.state == State::Empty;
        if is_initial {
            let delay_ms = cx.config.group_initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms).max(0);
            self.initial = InitialDelay { delay_ms, remaining_ms, member_added: false };
            cx.schedule(Timer::Join, delay_ms);
        }
        self.enter(State::PreparingRebalance, cx.now.wall);
        if is_initial {
            return;
        }
        if self.has_all_joined() {
            self.complete_join(cx, out);
        } else {
            cx.schedule(Timer::Join, self.rebalance_timeout_ms());
        }
    }

    /// There will be no assignment in this generation.
    pub(super) fn refuse_syncs(&mut self, cx: &mut Context<'_>, error: ErrorCode, out: &mut Decision) {
        let mut waited = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = Bytes::new();
            if let Some(request) = member.awaiting_sync.take() {
                answer_sync(out, Some(request), Synced::refused(error));
                waited.push(id.clone());
            }
        }
        // A session that ran out while its member waited for the leader was not judged.
        for id in waited {
            self.renew_session(cx, &id);
        }
    }

    /// Ends the join phase if everybody is there. A round that began with an empty group lasts as long as its delay
    /// says.
    pub(super) fn maybe_complete_join(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        if self.state == State::PreparingRebalance && self.previous != State::Empty && self.has_all_joined() {
            self.complete_join(cx, out);
        }
    }

    /// Ends the join phase: members that have not joined are removed; static ones stay until their session ends.
    fn complete_join(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        cx.cancel(Timer::Join);
        if self.joined < self.members.len() {
            let missing: Vec<MemberId> = self
                .members
                .iter()
                .filter(|(_, member)| member.awaiting_join.is_none() && member.instance.is_none())
                .map(|(id, _)| id.clone())
                .collect();
            for id in missing {
                self.remove(cx, &id, out);
            }
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Nobody but silent static members: the round waits for them until their sessions end.
            cx.schedule(Timer::Join, self.rebalance_timeout_ms().max(MIN_RETRY_MS));
            return;
        }
        self.begin_generation(cx);
        if self.members.is_empty() {
            // If this record does not make it to the log, the generation before may come to life again, and its
            // members will time out there.
            out.records.push(self.record(cx.group));
            return;
        }
        self.answer_joins(cx, out);
        cx.schedule(Timer::PendingSync, self.rebalance_timeout_ms());
    }

    /// Whether there is a leader that takes part in this round; elects one if need be.
    fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|member| member.awaiting_join.is_some()) {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| member.awaiting_join.is_some());
        if let Some((id, _)) = joined {
            self.leader = Some(id.clone());
            return true;
        }
        false
    }

    fn begin_generation(&mut self, cx: &Context<'_>) {
        // A group would need two thousand million rounds; it starts over rather than stop.
        let last = self.generation.max(std::mem::take(&mut self.recorded_generation));
        self.generation = last.checked_add(1).unwrap_or(1);
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.read_subscriptions();
            self.enter(State::Empty, cx.now.wall);
        } else {
            self.protocol = self.elect_protocol();
            self.read_subscriptions();
            self.enter(State::CompletingRebalance, cx.now.wall);
        }
    }

    fn answer_joins(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in &ids {
            let waiting = self.members.get_mut(id).and_then(|member| {
                member.is_new = false;
                member.awaiting_join.take()
            });
            if waiting.is_some() {
                let joined = self.joined(id);
                answer_join(out, waiting, joined);
            }
            self.renew_session(cx, id);
        }
        self.joined = 0;
        self.pending_sync = ids.into_iter().collect();
    }

    /// What a member of the current generation is told; the leader learns of all members.
    pub(super) fn joined(&self, id: &MemberId) -> Joined {
        Joined {
            error: ErrorCode::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(|| MemberId::new("")),
            skip_assignment: false,
            member: id.clone(),
            members: if self.is_leader(id) { self.all_joined() } else { Vec::new() },
        }
    }

    pub(super) fn all_joined(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members
            .iter()
            .map(|(id, member)| JoinedMember {
                member: id.clone(),
                instance: member.instance.clone(),
                metadata: member.metadata(protocol),
            })
            .collect()
    }

    /// The protocol that most members like best, of those that all support; the first by name among equals.
    pub(crate) fn elect_protocol(&self) -> Option<String> {
        let candidates: BTreeSet<&str> = self
            .votes
            .iter()
            .filter(|(_, count)| **count == self.members.len())
            .map(|(name, _)| name.as_str())
            .collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(name) = member.vote(&candidates) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    /// The longest that any member takes to come back.
    pub(super) fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// A timer of the group has run out.
    pub(crate) fn expired(&mut self, cx: &mut Context<'_>, timer: Timer) -> Decision {
        let mut out = Decision::default();
        match timer {
            Timer::Join => self.join_phase_expired(cx, &mut out),
            Timer::PendingSync => self.pending_sync_expired(cx, &mut out),
            Timer::Session(id) => self.session_expired(cx, &id, &mut out),
            // Of the consumer group that this was before.
            Timer::Rebalance(_) | Timer::ClassicJoin(_) | Timer::ClassicSync(_) => {}
        }
        out
    }

    fn join_phase_expired(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        if self.state != State::PreparingRebalance {
            return;
        }
        let InitialDelay { delay_ms, remaining_ms, member_added } = self.initial;
        if self.previous == State::Empty && member_added && remaining_ms != 0 {
            let next_delay_ms = cx.config.group_initial_rebalance_delay_ms.min(remaining_ms);
            let remaining_ms = remaining_ms.saturating_sub(delay_ms).max(0);
            self.initial = InitialDelay { delay_ms: next_delay_ms, remaining_ms, member_added: false };
            cx.schedule(Timer::Join, next_delay_ms);
        } else {
            self.complete_join(cx, out);
        }
    }

    fn pending_sync_expired(&mut self, cx: &mut Context<'_>, out: &mut Decision) {
        let in_round = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !in_round || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.remove(cx, &id, out);
        }
        self.prepare_rebalance(cx, out);
    }

    fn session_expired(&mut self, cx: &mut Context<'_>, id: &MemberId, out: &mut Decision) {
        if self.pending_join.contains(id) {
            self.remove(cx, id, out);
            if self.state == State::PreparingRebalance && self.has_all_joined() {
                self.complete_join(cx, out);
            }
            return;
        }
        let Some(member) = self.members.get(id) else { return };
        if member.is_excused() {
            return;
        }
        if cx.in_flight {
            // The member may be waiting for the log, in which case its session cannot end before the log has moved.
            self.renew_session(cx, id);
            return;
        }
        self.remove(cx, id, out);
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(cx, out),
            State::PreparingRebalance if self.has_all_joined() => self.complete_join(cx, out),
            State::PreparingRebalance | State::Empty => {}
        }
    }
}
