//! The ceilings of what all groups of a broker hold together, and what one shard holds of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_model::GroupId;

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

impl BudgetLimits {
    /// A quarter is kept for groups with members: commits from outside of groups cannot keep consumers out.
    fn of(self, rank: Rank) -> Self {
        let part = |limit: usize| limit - limit / 4;
        match rank {
            Rank::WithMembers => self,
            Rank::WithoutMembers => Self { groups: part(self.groups), bytes: part(self.bytes), members: self.members },
        }
    }

    /// What fits into `memory_bytes`, a third each for groups, members and what they hold; at most the default.
    pub fn within(memory_bytes: u64) -> Self {
        /// An empty group with its timers and its places in the maps, rounded up.
        const GROUP_BYTES: usize = 4 << 10;
        /// A member without what it says of itself, rounded up.
        const MEMBER_BYTES: usize = 2 << 10;
        let third = usize::try_from(memory_bytes / 3).unwrap_or(usize::MAX);
        let most = Self::default();
        Self {
            groups: most.groups.min(third / GROUP_BYTES),
            members: most.members.min(third / MEMBER_BYTES),
            bytes: most.bytes.min(third),
        }
    }
}

/// Who asks for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rank {
    WithMembers,
    WithoutMembers,
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
    pub(crate) fn has_room(&self, more: Usage, rank: Rank) -> bool {
        let (used, limits) = (self.used(), self.limits.of(rank));
        // What holds nothing more is always let in: members that are there go on when the budget is used up.
        let fits = |used: usize, more: usize, limit: usize| more == 0 || used.saturating_add(more) <= limit;
        fits(used.groups, more.groups, limits.groups)
            && fits(used.members, more.members, limits.members)
            && fits(used.bytes, more.bytes, limits.bytes)
    }
}

/// What one shard holds of the broker's budget; given back when the shard goes.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) budget: Arc<Budget>,
    /// The members of each group that has some, and their bytes.
    pub(crate) sizes: BTreeMap<GroupId, (usize, usize)>,
    members: usize,
    member_bytes: usize,
    reported: Usage,
}

impl Share {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, sizes: BTreeMap::new(), members: 0, member_bytes: 0, reported: Usage::default() }
    }

    pub(crate) fn set(&mut self, group: &GroupId, (members, bytes): (usize, usize)) {
        let former =
            if members == 0 { self.sizes.remove(group) } else { self.sizes.insert(group.clone(), (members, bytes)) };
        let (former_members, former_bytes) = former.unwrap_or_default();
        self.members = self.members + members - former_members;
        self.member_bytes = self.member_bytes + bytes - former_bytes;
    }

    pub(crate) fn report(&mut self, groups: usize, offset_bytes: usize) {
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
