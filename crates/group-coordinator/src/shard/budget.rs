//! What the groups of all partitions of a broker may hold together: clients must not fill the memory with groups,
//! members or offsets, however many of them there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_model::{ErrorCode, GroupId};

use super::Shard;
use crate::group::Group;
use crate::request::{CommitOffsets, ConsumerGroupHeartbeat, JoinGroup, Request};

/// The ceilings of one broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BudgetLimits {
    pub groups: usize,
    /// Of all groups together.
    pub members: usize,
    /// What members say of themselves, and committed offsets.
    pub bytes: usize,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self { groups: 500_000, members: 200_000, bytes: 512 << 20 }
    }
}

/// Shared by the partitions of a broker. Each of them adds what it holds.
#[derive(Debug, Default)]
pub struct Budget {
    limits: BudgetLimits,
    groups: AtomicUsize,
    members: AtomicUsize,
    bytes: AtomicUsize,
}

/// Budgets are the same if they allow the same.
impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        self.limits == other.limits
    }
}

impl Eq for Budget {}

/// What groups hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub groups: usize,
    pub members: usize,
    pub bytes: usize,
}

impl Budget {
    pub fn new(limits: BudgetLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub fn limits(&self) -> BudgetLimits {
        self.limits
    }

    pub fn used(&self) -> Usage {
        Usage {
            groups: self.groups.load(Ordering::Relaxed),
            members: self.members.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn replace(&self, former: Usage, usage: Usage) {
        let change = |total: &AtomicUsize, former: usize, now: usize| {
            if now >= former {
                total.fetch_add(now - former, Ordering::Relaxed);
            } else {
                total.fetch_sub(former - now, Ordering::Relaxed);
            }
        };
        change(&self.groups, former.groups, usage.groups);
        change(&self.members, former.members, usage.members);
        change(&self.bytes, former.bytes, usage.bytes);
    }

    /// Whether there is room for more.
    fn has_room(&self, more: Usage) -> bool {
        let (used, limits) = (self.used(), self.limits);
        // What holds nothing more is always let in: members that are there go on when the budget is used up.
        let fits = |used: usize, more: usize, limit: usize| more == 0 || used.saturating_add(more) <= limit;
        fits(used.groups, more.groups, limits.groups)
            && fits(used.members, more.members, limits.members)
            && fits(used.bytes, more.bytes, limits.bytes)
    }
}

/// What one shard holds of the broker's budget; given back when the shard goes.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    /// The members of each group that has some, and their bytes.
    sizes: BTreeMap<GroupId, (usize, usize)>,
    members: usize,
    member_bytes: usize,
    reported: Usage,
}

impl Share {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, sizes: BTreeMap::new(), members: 0, member_bytes: 0, reported: Usage::default() }
    }

    fn set(&mut self, group: &GroupId, (members, bytes): (usize, usize)) {
        let former =
            if members == 0 { self.sizes.remove(group) } else { self.sizes.insert(group.clone(), (members, bytes)) };
        let (former_members, former_bytes) = former.unwrap_or_default();
        self.members = self.members + members - former_members;
        self.member_bytes = self.member_bytes + bytes - former_bytes;
    }

    fn report(&mut self, groups: usize, offset_bytes: usize) {
        let usage = Usage { groups, members: self.members, bytes: self.member_bytes + offset_bytes };
        if usage != self.reported {
            self.budget.replace(self.reported, usage);
            self.reported = usage;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.replace(self.reported, Usage::default());
    }
}

impl Shard {
    /// The error with which a request is refused because the broker's groups hold as much as they may.
    pub(super) fn over_budget(&self, request: &Request) -> Option<ErrorCode> {
        let (more, error) = match request {
            Request::JoinGroup(join) => (self.added_by_join(join), ErrorCode::GroupMaxSizeReached),
            Request::ConsumerGroupHeartbeat(beat) => (self.added_by_heartbeat(beat), ErrorCode::GroupMaxSizeReached),
            Request::CommitOffsets(commit) => (self.added_by_commit(commit), ErrorCode::InvalidCommitOffsetSize),
            _ => return None,
        };
        (!self.share.budget.has_room(more)).then_some(error)
    }

    fn added_by_join(&self, join: &JoinGroup) -> Usage {
        let group = self.groups.get(&join.group);
        let is_known = group.is_some_and(|group| group.has_member(&join.member, join.instance.as_ref()));
        let bytes: usize = join.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        Usage {
            groups: usize::from(group.is_none()),
            members: usize::from(!is_known),
            // A member that joins again mostly says what it said before.
            bytes: if is_known { bytes.saturating_sub(REJOIN_BYTES) } else { bytes },
        }
    }

    fn added_by_heartbeat(&self, beat: &ConsumerGroupHeartbeat) -> Usage {
        let group = self.groups.get(&beat.group);
        let is_known = group.is_some_and(|group| group.has_member(&beat.member, beat.instance.as_ref()));
        if is_known || beat.member_epoch != 0 {
            return Usage::default();
        }
        let topics: usize = beat.subscribed_topics.iter().flatten().map(String::len).sum();
        let bytes = topics + beat.subscribed_regex.as_ref().map_or(0, String::len);
        Usage { groups: usize::from(group.is_none()), members: 1, bytes }
    }

    fn added_by_commit(&self, commit: &CommitOffsets) -> Usage {
        Usage {
            groups: usize::from(!self.groups.contains_key(&commit.group)),
            members: 0,
            bytes: self.offsets.bytes_added_by(commit),
        }
    }

    /// Measures a group whose members may have changed.
    pub(super) fn measure(&mut self, group: &GroupId) {
        let size = self.groups.get(group).map_or((0, 0), Group::size);
        self.share.set(group, size);
    }

    /// Measures a group if members have come or gone; what members say of themselves changes only with their requests.
    pub(super) fn measure_if_changed(&mut self, group: &GroupId) {
        let known = self.share.sizes.get(group).map_or(0, |(members, _)| *members);
        if self.groups.get(group).map_or(0, Group::member_count) != known {
            self.measure(group);
        }
    }

    /// Adds what this shard holds to what the broker holds.
    pub(super) fn report_usage(&mut self) {
        self.share.report(self.groups.len(), self.offsets.bytes());
    }
}

/// What a member that joins again may say without being measured before: subscriptions are smaller by far.
const REJOIN_BYTES: usize = 64 << 10;
