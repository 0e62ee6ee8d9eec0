//! One step of a member from what it owns to what it shall own.
//!
//! `Stable` (owns the target of its epoch) → `UnrevokedPartitions` (must give up first; its epoch stays) → the target's
//! epoch, in `Stable`, or in `UnreleasedPartitions` while others have not let go of what it shall get. Giving up is
//! confirmed by a heartbeat that says what the member owns: until then nobody else gets those partitions.
//!
//! What a member was given and has never said to own it may be about to take: such a heartbeat may have been sent
//! between the two. For Kafka it confirms all the same, and Java consumers that subscribe by expressions do read
//! partitions together then. Here the member is told first, and what it says after that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_model::{ErrorCode, MemberId, PartitionId, TopicId};

use super::ConsumerGroup;
use super::error::HeartbeatError;
use super::member::{Member, Owned};
use crate::assignor::Partitions;
use crate::record::MemberState;
use crate::shard::Context;

/// After this time without a new report, a member does not own partitions that it was told to give up and that it did
/// not report as owned.
const QUIET: Duration = Duration::from_secs(1);

/// A client that sends its whole state in every heartbeat looks like one whose responses are lost. After this many such
/// heartbeats in a row since it was told to give partitions up, it has received that; `QUIET` later it has also
/// finished taking what it was given before, and its report counts.
const FULL_IN_A_ROW: u8 = 4;

/// What the answer to a heartbeat changes for its member.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Answered {
    /// It gets partitions that it did not have.
    pub(super) is_given: bool,
    /// It has to give up partitions that it had not been told to give up.
    pub(super) must_give_up_more: bool,
}

/// How a member speaks of what it owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Voice {
    /// It begins with nothing, or it is of the classic protocol, which assigns and confirms in one exchange.
    Certain,
    /// It has done what it was told, or says nothing.
    Running,
    /// It says everything, for it does not know what became of its last heartbeat: it may be in the middle of anything.
    Unsure,
}

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
pub(super) fn refuse_unknown_state(member: &Member, claimed: Claimed<'_>) -> Result<(), HeartbeatError> {
    if member.state == MemberState::Unknown && !claimed.is_some_and(<[_]>::is_empty) {
        return Err(HeartbeatError::new(
            ErrorCode::FencedMemberEpoch,
            "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.",
        ));
    }
    Ok(())
}

pub(super) fn partitions_of(owned: &Owned) -> impl Iterator<Item = (TopicId, PartitionId)> {
    owned.iter().flat_map(|(topic, partitions)| partitions.keys().map(|partition| (*topic, *partition)))
}

impl ConsumerGroup {
    /// The member after the step; none if it cannot take any.
    pub(super) fn reconciled(
        &self,
        cx: &Context<'_>,
        id: &MemberId,
        claimed: Claimed<'_>,
        voice: Voice,
    ) -> Option<Member> {
        let member = self.members.get(id)?;
        if member.is_reconciled_to(self.assignment_epoch) {
            return None;
        }
        let from_epoch = match member.state {
            MemberState::UnrevokedPartitions if !self.has_let_go(cx, id, member, claimed, voice) => return None,
            // What was to go is gone: on to the next epoch, whatever the target is by now.
            MemberState::UnrevokedPartitions => member.epoch + 1,
            MemberState::Stable | MemberState::UnreleasedPartitions => member.epoch,
            MemberState::Unknown => self.assignment_epoch,
        };
        Some(self.next_step(id, member, from_epoch, claimed, voice)).filter(|next| next != member)
    }

    /// Whether a member that was told to give something up has done so.
    fn has_let_go(&self, cx: &Context<'_>, id: &MemberId, member: &Member, claimed: Claimed<'_>, voice: Voice) -> bool {
        let pending = &member.pending_revocation;
        let report = self.soft.reports.get(id);
        let is_behind = report.is_some_and(|report| report.is_behind);
        // One that is behind takes what it was given one after the other.
        let quiet = if is_behind { 2 * QUIET } else { QUIET };
        let is_quiet = report.and_then(|report| report.told).is_some_and(|told| cx.now.monotonic >= told + quiet);
        if claimed.is_some() {
            let counts = match voice {
                Voice::Certain => true,
                Voice::Running => !is_behind || is_quiet || self.has_said_to_own(id, pending),
                Voice::Unsure => self.has_said_to_own(id, pending) || self.is_always_full(cx, id),
            };
            return counts && !claims_any(claimed, pending);
        }
        // It is as it said last.
        report.is_some_and(|report| {
            report.is_fresh && is_quiet && partitions_of(pending).all(|partition| !report.owned.contains(&partition))
        })
    }

    /// Whether the member has said everything in every heartbeat since it was told to give something up, and takes
    /// nothing that it was given before.
    fn is_always_full(&self, cx: &Context<'_>, id: &MemberId) -> bool {
        let since = self.soft.reports.get(id).and_then(|report| report.always_full_since);
        since.is_some_and(|since| cx.now.monotonic >= since + QUIET)
    }

    /// Whether a member that has not been told to give these up has done so.
    fn has_dropped(&self, id: &MemberId, given_up: &Owned, claimed: Claimed<'_>, voice: Voice) -> bool {
        !claims_any(claimed, given_up) && (voice == Voice::Certain || self.has_said_to_own(id, given_up))
    }

    fn has_said_to_own(&self, id: &MemberId, partitions: &Owned) -> bool {
        let report = self.soft.reports.get(id);
        report.is_some_and(|report| partitions_of(partitions).all(|partition| report.owned.contains(&partition)))
    }

    /// Remembers what a member said, whether it is given something now, and when it was told to give something up.
    pub(super) fn heard(
        &mut self,
        cx: &Context<'_>,
        id: &MemberId,
        claimed: Claimed<'_>,
        voice: Voice,
        answered: Answered,
    ) {
        let Some(member) = self.members.get(id) else { return };
        let must_give_up = member.must_give_up();
        let given: BTreeSet<_> =
            partitions_of(&member.assigned).chain(partitions_of(&member.pending_revocation)).collect();
        let report = self.soft.reports.entry(id.clone()).or_default();
        if let Some(claimed) = claimed {
            let said: BTreeSet<_> = claimed.iter().flat_map(|(topic, of)| of.iter().map(|of| (*topic, *of))).collect();
            report.is_fresh = true;
            report.is_behind &= !given.is_subset(&said);
            let shall_own: BTreeSet<_> = partitions_of(&member.assigned).collect();
            report.unconfirmed_since = report.unconfirmed_since.filter(|_| said != shall_own);
            // A client may name anything, and it would be kept for each member.
            report.owned = &said & &given;
        }
        if answered.is_given || answered.must_give_up_more {
            report.unconfirmed_since = Some(cx.now.monotonic);
        }
        report.is_behind |= answered.is_given && !report.is_fresh;
        report.is_fresh &= !answered.is_given;
        let is_full = voice == Voice::Unsure;
        report.full_since_told = match report.told {
            Some(_) if is_full && must_give_up && !answered.must_give_up_more => {
                report.full_since_told.saturating_add(1)
            }
            _ => 0,
        };
        let is_always_full = report.full_since_told >= FULL_IN_A_ROW;
        report.always_full_since = is_always_full.then(|| report.always_full_since.unwrap_or(cx.now.monotonic));
        // A member that is unsure may not have received its assignment: it counts as sent now. So does one with another
        // revocation than before: the time of the earlier revocation does not count for the new one.
        let told = report.told.filter(|_| !is_full && !answered.must_give_up_more).unwrap_or(cx.now.monotonic);
        report.told = must_give_up.then_some(told);
    }

    /// Whether a member that has not confirmed what it was told for [`QUIET`] is told again, for its client may not
    /// have received it and not know that it should. librdkafka waits for an answer as long as the heartbeat interval
    /// that it was told, drops one that comes later, and sends the same heartbeat again, in which it says nothing.
    pub(super) fn is_told_again(&mut self, cx: &Context<'_>, id: &MemberId) -> bool {
        let Some(report) = self.soft.reports.get_mut(id) else { return false };
        let Some(since) = report.unconfirmed_since.filter(|since| cx.now.monotonic >= *since + QUIET) else {
            return false;
        };
        report.unconfirmed_since = Some(cx.now.monotonic.max(since));
        true
    }

    fn next_step(&self, id: &MemberId, member: &Member, from_epoch: i32, claimed: Claimed<'_>, voice: Voice) -> Member {
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
        if !given_up.is_empty() && !self.has_dropped(id, &given_up, claimed, voice) {
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
