//! A classic group: members join a round, the coordinator picks a protocol and a leader, the leader assigns, everybody
//! asks for its share ([`join`], [`sync`]); members that fall silent or leave start the next round ([`heartbeat`],
//! [`leave`], [`rebalance`]).
//!
//! The rules, timeouts and errors are those of Kafka's `GroupMetadataManager` and `ClassicGroup`, with these
//! differences, none of which a client can tell from Kafka on a fast log:
//! - The group is `Stable` once the leader's assignment is on its way to the log; the answers wait for the high
//!   watermark.
//! - A request that the same member has overtaken with a newer one is answered, with REBALANCE_IN_PROGRESS, and not
//!   forgotten.
//!
//! Invariants: `statics`, `votes` and `joined` are what `members` says; a member waits for a join only in
//! `PreparingRebalance` and for a sync only in `CompletingRebalance`; the generation only grows; every request gets one
//! answer. A heartbeat, a join or a sync costs the logarithm of the group's size; only the start and the end of a round
//! go through all members.

mod adopt;
mod group;
mod heartbeat;
mod join;
mod leave;
mod member;
mod rebalance;
mod report;
mod state;
mod stored;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{ErrorCode, InstanceId, MemberId, MonotonicMs, TimestampMs};

pub(crate) use group::ClassicGroup;
use group::InitialDelay;
pub(crate) use member::Member;
pub(crate) use state::State;

use crate::answer::{GroupAnswer, Joined, Synced};
use crate::effects::RequestId;
use crate::group::{embedded, member_bytes};
use crate::shard::{Context, Decision};
use crate::timer::Timer;

impl ClassicGroup {
    pub(crate) fn new(now: TimestampMs) -> Self {
        Self { since: Some(now), ..Self::simple() }
    }

    /// A group that nobody joins: it only commits offsets.
    pub(crate) fn simple() -> Self {
        Self {
            state: State::Empty,
            previous: State::Empty,
            since: None,
            assigned_at: MonotonicMs(0),
            generation: 0,
            recorded_generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            votes: BTreeMap::new(),
            joined: 0,
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed: None,
            initial: InitialDelay::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Neither members nor ids that were given out.
    pub(crate) fn is_vacant(&self) -> bool {
        self.is_empty() && self.members.is_empty() && self.pending_join.is_empty()
    }

    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    pub(crate) fn assigned_at(&self) -> MonotonicMs {
        self.assigned_at
    }

    pub(crate) fn members(&self) -> &BTreeMap<MemberId, Member> {
        &self.members
    }

    /// See [`Group::said_by`](crate::group::Group::said_by).
    pub(crate) fn said_by(&self, member: &MemberId, instance: Option<&InstanceId>) -> Option<usize> {
        if self.pending_join.contains(member) {
            return Some(0);
        }
        let by_instance = || self.members.get(self.statics.get(instance?)?);
        self.members.get(member).or_else(by_instance).map(Member::said_bytes)
    }

    /// Members, and ids that were given out: these are kept as members are, for a session.
    pub(crate) fn member_count(&self) -> usize {
        self.members.len() + self.pending_join.len()
    }

    /// About how many bytes these hold.
    pub(crate) fn bytes(&self) -> usize {
        let said = |member: &Member| member.said_bytes() + member.assignment.len();
        let members = self.members.iter().map(|(id, member)| member_bytes(id) + said(member));
        members.chain(self.pending_join.iter().map(member_bytes)).sum()
    }

    /// Whether the members are consumers, whose metadata can be read here; other types (Connect's `connect`) are
    /// opaque.
    pub(crate) fn has_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(embedded::PROTOCOL_TYPE)
    }

    fn is_leader(&self, member: &MemberId) -> bool {
        self.leader.as_ref() == Some(member)
    }

    fn has_all_joined(&self) -> bool {
        self.members.len() == self.joined && self.pending_join.is_empty()
    }

    fn enter(&mut self, state: State, now: TimestampMs) {
        self.previous = self.state;
        self.state = state;
        self.since = Some(now);
    }

    /// Whether the group knows a member by this id, and by this instance id if it names one.
    fn validate(&self, member: &MemberId, instance: Option<&InstanceId>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Whether at least one of a member's protocols is known to all others, and its type is theirs.
    fn supports(&self, protocol_type: &str, protocols: &[(String, bytes::Bytes)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.votes.get(name).copied().unwrap_or(0) == self.members.len())
    }

    /// Adds a member whose id and instance are not known yet.
    pub(crate) fn add(&mut self, id: MemberId, protocol_type: &str, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.pending_join.remove(&id);
        self.count_votes(&member);
        self.joined += usize::from(member.awaiting_join.is_some());
        self.members.insert(id, member);
    }

    /// Removes a member or a pending id. A request of its own that waits is answered with UNKNOWN_MEMBER_ID, upon which
    /// a client that is still there joins anew. Its session timer, which finds nobody, is cancelled.
    fn remove(&mut self, cx: &mut Context<'_>, id: &MemberId, out: &mut Decision) {
        cx.cancel(Timer::Session(id.clone()));
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
        if let Some(member) = self.detach(id) {
            let nobody = MemberId::new("");
            answer_join(out, member.awaiting_join, Joined::refused(nobody, ErrorCode::UnknownMemberId));
            answer_sync(out, member.awaiting_sync, Synced::refused(ErrorCode::UnknownMemberId));
            if let Some(instance) = &member.instance {
                self.statics.remove(instance);
            }
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Takes a member out of the map and the counts.
    fn detach(&mut self, id: &MemberId) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.uncount_votes(&member);
        self.joined -= usize::from(member.awaiting_join.is_some());
        Some(member)
    }

    fn count_votes(&mut self, member: &Member) {
        for (name, _) in &member.protocols {
            match self.votes.get_mut(name) {
                Some(count) => *count += 1,
                None => {
                    self.votes.insert(name.clone(), 1);
                }
            }
        }
    }

    fn uncount_votes(&mut self, member: &Member) {
        for (name, _) in &member.protocols {
            if let Some(count) = self.votes.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.votes.remove(name);
                }
            }
        }
    }

    /// The member was heard of.
    fn renew_session(&self, cx: &mut Context<'_>, id: &MemberId) {
        if let Some(member) = self.members.get(id) {
            cx.schedule(Timer::Session(id.clone()), member.session_timeout_ms);
        }
    }

    /// Takes the requests that wait inside the group.
    pub(crate) fn take_waiting(&mut self) -> Vec<RequestId> {
        self.joined = 0;
        self.members
            .values_mut()
            .flat_map(|member| [member.awaiting_join.take(), member.awaiting_sync.take()])
            .flatten()
            .collect()
    }
}

fn answer_join(out: &mut Decision, id: Option<RequestId>, joined: Joined) {
    out.now.extend(id.map(|id| (id, GroupAnswer::JoinGroup(joined))));
}

fn answer_sync(out: &mut Decision, id: Option<RequestId>, synced: Synced) {
    out.now.extend(id.map(|id| (id, GroupAnswer::SyncGroup(synced))));
}
