//! One step of a member from what it owns to what it shall own.
//!
//! `Stable` (owns the target of its epoch) → `UnrevokedPartitions` (must give up first; its epoch stays) → the target's epoch, in
//! `Stable`, or in `UnreleasedPartitions` while others have not let go of what it shall get. Giving up is confirmed by a heartbeat that
//! says what the member owns: until then nobody else gets those partitions.

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, MemberId, PartitionId, TopicId};

use super::member::{Member, Owned};
use super::{ConsumerGroup, Refusal};
use crate::assignor::Partitions;
use crate::record::MemberState;

/// What a member says that it owns; none: it did not say.
pub(super) type Claimed<'a> = Option<&'a [(TopicId, Vec<PartitionId>)]>;

fn claims_any(claimed: Claimed<'_>, of: &Owned) -> bool {
    // A member that does not say may own everything.
    let Some(claimed) = claimed else { return true };
    claimed.iter().any(|(topic, partitions)| {
        of.get(topic).is_some_and(|of| partitions.iter().any(|partition| of.contains_key(partition)))
    })
}

/// A member of a state that this release does not know can only begin anew, without partitions.
pub(super) fn refuse_unknown_state(member: &Member, claimed: Claimed<'_>) -> Result<(), Refusal> {
    if member.state == MemberState::Unknown && !claimed.is_some_and(<[_]>::is_empty) {
        return Err(Refusal::new(
            ErrorCode::FencedMemberEpoch,
            "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.",
        ));
    }
    Ok(())
}

impl ConsumerGroup {
    /// The member after the step; the same one if it cannot take any.
    pub(super) fn reconciled(&self, id: &MemberId, claimed: Claimed<'_>) -> Option<Member> {
        let member = self.members.get(id)?;
        if member.is_reconciled_to(self.assignment_epoch) {
            return None;
        }
        let from_epoch = match member.state {
            MemberState::UnrevokedPartitions if claims_any(claimed, &member.pending_revocation) => return None,
            // What was to go is gone: on to the next epoch, whatever the target is by now.
            MemberState::UnrevokedPartitions => member.epoch + 1,
            MemberState::Stable | MemberState::UnreleasedPartitions => member.epoch,
            MemberState::Unknown => self.assignment_epoch,
        };
        Some(self.next_step(id, member, from_epoch, claimed)).filter(|next| next != member)
    }

    fn next_step(&self, id: &MemberId, member: &Member, from_epoch: i32, claimed: Claimed<'_>) -> Member {
        let nothing = Partitions::new();
        let target = self.targets.get(id).unwrap_or(&nothing);
        let (mut kept, mut given_up) = (Owned::new(), Owned::new());
        for (topic, partitions) in &member.assigned {
            for (partition, epoch) in partitions {
                let stays = target.get(topic).is_some_and(|target| target.contains(partition));
                let of = if stays { &mut kept } else { &mut given_up };
                of.entry(*topic).or_default().insert(*partition, *epoch);
            }
        }
        let mut next = member.clone();
        next.previous_epoch = member.epoch;
        if !given_up.is_empty() && claims_any(claimed, &given_up) {
            next.epoch = from_epoch;
            next.state = MemberState::UnrevokedPartitions;
            next.assigned = kept;
            next.pending_revocation = given_up;
            return next;
        }
        let mut unreleased = false;
        for (topic, partitions) in target {
            for partition in partitions {
                match self.owner(*topic, *partition) {
                    // Its own: it keeps it, or gave it up in this very request and gets it back.
                    Some(owner) if owner == id => {
                        kept.entry(*topic).or_default().entry(*partition).or_insert(self.assignment_epoch);
                    }
                    Some(_) => unreleased = true,
                    None => {
                        kept.entry(*topic).or_insert_with(BTreeMap::new).insert(*partition, self.assignment_epoch);
                    }
                }
            }
        }
        next.epoch = self.assignment_epoch;
        next.state = if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        next.assigned = kept;
        next.pending_revocation = Owned::new();
        next
    }

    /// Whether a member waits for partitions that somebody else still has.
    pub(super) fn waits_for_others(&self, id: &MemberId, member: &Member) -> bool {
        member.state == MemberState::UnreleasedPartitions
            && self.targets.get(id).is_some_and(|target| {
                target.iter().any(|(topic, partitions)| {
                    partitions.iter().any(|partition| self.owner(*topic, *partition).is_some_and(|owner| owner != id))
                })
            })
    }
}
