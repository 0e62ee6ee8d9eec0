//! A consumer group (KIP-848): the coordinator computes what each member shall own ([`target`]), and each member's
//! heartbeat brings it one step nearer ([`heartbeat`], [`reconcile`]).
//!
//! Three epochs: the group's grows with every change of members, subscriptions or topics; the target assignment's is
//! the group epoch that it was computed for; a member's is that of the target it has reached. A partition goes to its
//! next owner only after the former said that it has let go, or was fenced ([`fence`]).
//!
//! Every change is a record first, and the record changes the group ([`apply`]): a group that was replayed is the group
//! that wrote the records, but for timers and for when it last looked at the topics. The rules, texts and errors are
//! those of Kafka's `GroupMetadataManager`; what differs is said where it does.
//!
//! Invariants: `statics`, `owners`, `subscriptions`, `named`, `by_regex` and `classic_members` are what `members` says;
//! a partition has one owner; epochs only grow.

mod apply;
mod classic_members;
mod commit;
mod describe;
mod error;
mod fence;
mod group;
mod heartbeat;
mod interval;
mod member;
mod metadata_hash;
mod migration;
mod reconcile;
mod regex;
mod subscription;
mod target;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{GroupId, InstanceId, MemberId, MonotonicMs, PartitionId, TimestampMs, TopicId, TopicName};

use crate::answer::ListedGroup;
use crate::effects::RequestId;
use crate::group::{NAMED_TOPIC_BYTES, OffsetExpiry, embedded, member_bytes};
use crate::record::Record;
use crate::shard::{Context, Decision};
use crate::timer::Timer;
pub(crate) use group::ConsumerGroup;
use group::Expression;
use member::Member;
pub(crate) use regex::RegexCache;

/// What a partition takes that a member has: among what it has and shall have, and with its owner. A topic that an
/// expression has matched takes about as much.
const OWNED_BYTES: usize = 64;

impl Expression {
    fn matched(&self, topic: &str) -> bool {
        TopicName::new(topic).is_ok_and(|topic| self.topics.contains(&topic))
    }
}

/// The states of a consumer group, under Kafka's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Empty,
    /// The target assignment is older than the group.
    Assigning,
    /// Somebody has not reached the target.
    Reconciling,
    Stable,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

impl ConsumerGroup {
    /// Whether the member has what it shall have, nothing waits to be assigned, and the group has looked at the topics
    /// of this version: the member's next quiet heartbeat changes nothing.
    pub(crate) fn is_settled(&self, member: &MemberId, topics_version: u64) -> bool {
        self.assignment_epoch == self.epoch
            && self.soft.seen_topics == Some(topics_version)
            && self.members.get(member).is_some_and(|member| member.is_reconciled_to(self.assignment_epoch))
    }

    /// Whether a heartbeat without news may write everybody's target: members have gone, or the topics may differ.
    pub(crate) fn may_assign(&self, topics_version: u64, now: MonotonicMs) -> bool {
        let may_differ = self.soft.seen_topics != Some(topics_version) && now >= self.soft.look_again;
        (may_differ || self.epoch > self.assignment_epoch) && now >= self.soft.put_off
    }

    /// At most so many bytes are written when the member takes a step: what it has, what it gives up, and what it gets.
    pub(crate) fn step_bytes_max(&self, id: &MemberId) -> usize {
        let Some(member) = self.members.get(id).filter(|it| !it.is_reconciled_to(self.assignment_epoch)) else {
            return 0;
        };
        let held: usize = member.assigned.values().chain(member.pending_revocation.values()).map(BTreeMap::len).sum();
        let target: usize = self.targets.get(id).into_iter().flat_map(BTreeMap::values).map(BTreeSet::len).sum();
        OWNED_BYTES * (held + target)
    }

    /// Members go on with the targets that they have.
    pub(crate) fn put_off(&mut self, until: MonotonicMs) {
        (self.soft.look_again, self.soft.put_off) = (until, until);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// About how many bytes the members hold. Members that name the same topics share one set.
    pub(crate) fn bytes(&self) -> usize {
        let topic = |topic: &String| NAMED_TOPIC_BYTES + topic.len();
        let sets: usize = self.subscriptions.keys().map(|topics| topics.iter().map(topic).sum::<usize>()).sum();
        let members = self.members.iter().map(|(id, member)| member_bytes(id) + member.bytes());
        let owned: usize = self.owners.values().map(BTreeMap::len).sum();
        let matched: usize = self.expressions.values().map(|expression| expression.topics.len()).sum();
        sets + members.sum::<usize>() + OWNED_BYTES * (owned + matched)
    }

    /// See [`Group::said_by`](crate::group::Group::said_by). Topics count, though members share them.
    pub(crate) fn said_by(&self, member: &MemberId, instance: Option<&InstanceId>) -> Option<usize> {
        let by_instance = || self.members.get(self.statics.get(instance?)?);
        let found = self.members.get(member).or_else(by_instance)?;
        let topics: usize = found.topics.iter().map(|topic| NAMED_TOPIC_BYTES + topic.len()).sum();
        Some(topics + found.bytes())
    }

    fn state(&self) -> State {
        if self.members.is_empty() {
            State::Empty
        } else if self.epoch > self.assignment_epoch {
            State::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.assignment_epoch)) {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    /// Whether a member names the topic or has an expression that matched it.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.named.contains_key(topic) || self.expressions.values().any(|expression| expression.matched(topic))
    }

    /// Each offset grows old from its own commit on, unless a member reads the topic.
    pub(crate) fn offset_expiry(&self) -> OffsetExpiry {
        OffsetExpiry::SinceCommit
    }

    /// No request waits in here: heartbeats are answered in the step that they come in, as far as the log allows.
    pub(crate) fn take_waiting(&mut self) -> Vec<RequestId> {
        Vec::new()
    }

    pub(crate) fn listed(&self, id: &GroupId) -> ListedGroup {
        ListedGroup {
            group: id.clone(),
            protocol_type: embedded::PROTOCOL_TYPE.to_owned(),
            state: self.state().name(),
            group_type: "consumer",
        }
    }

    /// Replay is over: every member gets a fresh session, and a fresh while to give up what it must.
    pub(crate) fn loaded(&mut self, cx: &mut Context<'_>) -> Decision {
        for (id, member) in &self.members {
            cx.schedule(Timer::Session(id.clone()), member.session_timeout_ms(cx));
            if member.must_give_up() {
                cx.schedule(Timer::Rebalance(id.clone()), member.rebalance_timeout_ms);
            }
        }
        Decision::default()
    }

    /// Members ran out of one of their times: they are fenced, whichever it was.
    pub(crate) fn expired(&mut self, cx: &mut Context<'_>, timers: &BTreeSet<Timer>) -> Decision {
        let members = timers.iter().filter_map(|timer| match timer {
            Timer::Session(member)
            | Timer::Rebalance(member)
            | Timer::ClassicJoin(member)
            | Timer::ClassicSync(member) => Some(member),
            Timer::Join | Timer::PendingSync => None,
        });
        let members: BTreeSet<MemberId> =
            members.filter(|member| self.members.contains_key(*member)).cloned().collect();
        if members.is_empty() { Decision::default() } else { self.fence(cx, &members) }
    }

    /// Makes the change that a record says, and keeps the record for the log.
    fn write(&mut self, records: &mut Vec<Record>, record: Record) {
        self.apply(&record);
        records.push(record);
    }

    /// Who has a partition that another member could want.
    fn owner(&self, topic: TopicId, partition: PartitionId) -> Option<&MemberId> {
        self.owners.get(&topic)?.get(&partition)
    }

    /// The member that holds an instance id.
    fn static_member(&self, instance: &InstanceId) -> Option<(&MemberId, &Member)> {
        self.members.get_key_value(self.statics.get(instance)?)
    }
}

/// The wall clock as the time of a record.
fn timestamp(cx: &Context<'_>) -> TimestampMs {
    cx.now.wall
}
