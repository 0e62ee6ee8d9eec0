//! What a classic group consists of. It stands apart from what the group does, because a step of a group may end with a
//! group of the other protocol ([`crate::shard::Fate`]): each protocol would need the other one's files.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{InstanceId, MemberId, MonotonicMs, TimestampMs};

use super::member::Member;
use super::report::TopicNames;
use super::state::State;

/// See [`super`].
#[derive(Clone, Debug)]
pub(crate) struct ClassicGroup {
    pub(super) state: State,
    /// The state before this one: a round that began with an empty group ends with its delay, not with its last member.
    pub(super) previous: State,
    /// When the group came into its state.
    pub(super) since: Option<TimestampMs>,
    /// When the leader gave its last assignment, or the group was loaded: not in the log.
    pub(super) assigned_at: MonotonicMs,
    pub(super) generation: i32,
    /// The generation of the record where that is higher than the members', see [`ClassicGroup::adopted`]; 0 otherwise.
    pub(super) recorded_generation: i32,
    /// None: nobody ever joined.
    pub(super) protocol_type: Option<String>,
    /// What the members of this generation agreed on.
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<MemberId>,
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) statics: BTreeMap<InstanceId, MemberId>,
    /// How many members support each protocol.
    pub(super) votes: BTreeMap<String, usize>,
    /// How many members wait for the end of the round.
    pub(super) joined: usize,
    /// Ids that were given out and have not joined yet; each has a session timer.
    pub(super) pending_join: BTreeSet<MemberId>,
    /// Members of this generation that have not asked for their assignment.
    pub(super) pending_sync: BTreeSet<MemberId>,
    /// The topics that members of the consumer protocol read; none when that is not known.
    pub(super) subscribed: Option<TopicNames>,
    pub(super) initial: InitialDelay,
}

/// The delay of a round that began with an empty group: others are given the chance to be in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InitialDelay {
    pub(super) delay_ms: i32,
    /// How much longer than `delay_ms` the round may be.
    pub(super) remaining_ms: i32,
    /// Somebody joined since the delay began: it is lengthened once more.
    pub(super) member_added: bool,
}
