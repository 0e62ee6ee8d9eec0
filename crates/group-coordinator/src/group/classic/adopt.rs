//! A classic group that comes from a consumer group, and one that becomes a consumer group.

use ottla_model::{ErrorCode, MemberId, TimestampMs};

use super::{ClassicGroup, Member, State, answer_join, answer_sync};
use crate::answer::{Joined, Synced};
use crate::group::embedded;
use crate::shard::Decision;

impl ClassicGroup {
    /// A group of consumers that have their assignments and shall join a round.
    ///
    /// The record says the generation after theirs: a coordinator that loads it before they have heard of the round
    /// would find a stable group, and nobody would read what the members that left have had. There they learn
    /// ILLEGAL_GENERATION and join.
    pub(crate) fn adopted(
        now: TimestampMs,
        generation: i32,
        members: impl Iterator<Item = (MemberId, Member)>,
    ) -> Self {
        let mut group = Self {
            state: State::Stable,
            generation,
            recorded_generation: generation.saturating_add(1),
            ..Self::new(now)
        };
        for (id, member) in members {
            group.add(id, embedded::PROTOCOL_TYPE, member);
        }
        group.protocol = group.elect_protocol();
        group.read_subscriptions();
        group
    }

    /// Answers the members that wait for others: the group as they know it ends.
    pub(crate) fn refuse_waiting(&mut self, error: ErrorCode, out: &mut Decision) {
        self.joined = 0;
        for (id, member) in &mut self.members {
            answer_join(out, member.awaiting_join.take(), Joined::refused(id.clone(), error));
            answer_sync(out, member.awaiting_sync.take(), Synced::refused(error));
        }
    }
}
