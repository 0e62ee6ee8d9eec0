//! What the other members say of this coordinator's disk, and when they are believed that it is the wrong one.
//!
//! A member that lags knows a coordinator by the disk that it had before it was replaced. Therefore the word of one
//! member does not end a coordinator: the members are asked again until one that has seen a later change of the members
//! says otherwise, until a majority of the members agrees, or all others do.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::CoordinatorId;

/// Coordinators that are asked: those of the configured list, and the members that they name. More are not remembered.
pub const ASKED_MAX: usize = 32;

/// What a member says of this coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opinion {
    /// Of the last change of the members that it has applied.
    pub members_revision: u64,
    /// The members that it knows.
    pub members: BTreeSet<CoordinatorId>,
    /// It knows this coordinator with another disk.
    pub is_other_disk: bool,
}

/// The last opinion of each member.
#[derive(Default, Debug)]
pub struct Opinions {
    by_member: BTreeMap<CoordinatorId, Opinion>,
}

impl Opinions {
    pub fn record(&mut self, member: CoordinatorId, opinion: Opinion) {
        if self.by_member.len() < ASKED_MAX || self.by_member.contains_key(&member) {
            self.by_member.insert(member, opinion);
        }
    }

    /// Whether `me` voted with another disk than it has now. `known_revision` is that of the last change of the members
    /// that this coordinator has applied itself.
    pub fn is_disk_lost(&self, me: CoordinatorId, known_revision: u64) -> bool {
        let Some(newest) = self.by_member.values().max_by_key(|opinion| opinion.members_revision) else { return false };
        if newest.members_revision < known_revision {
            return false;
        }
        let mut of_newest = self.by_member.values().filter(|other| other.members_revision == newest.members_revision);
        // At one revision all know the same disks; members of the first quorum that never met this one know none.
        if !of_newest.any(|opinion| opinion.is_other_disk) || !newest.members.contains(&me) {
            return false;
        }
        let others: Vec<_> = newest.members.iter().filter(|id| **id != me).collect();
        let says_so = |id: &&&CoordinatorId| self.by_member.get(id).is_some_and(|opinion| opinion.is_other_disk);
        let count = others.iter().filter(says_so).count();
        count > newest.members.len() / 2 || (count > 0 && count == others.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: CoordinatorId = CoordinatorId(2);

    /// The opinions of members, as (member, revision, members, whether it knows another disk).
    fn is_disk_lost(known_revision: u64, opinions: &[(u64, u64, &[u64], bool)]) -> bool {
        let mut all = Opinions::default();
        for (member, members_revision, members, is_other_disk) in opinions {
            let members = members.iter().copied().map(CoordinatorId).collect();
            let opinion = Opinion { members_revision: *members_revision, members, is_other_disk: *is_other_disk };
            all.record(CoordinatorId(*member), opinion);
        }
        all.is_disk_lost(ME, known_revision)
    }

    /// A member that did not know of the replacement yet ended the coordinator that took the place.
    #[test]
    fn a_member_that_lags_does_not_end_a_coordinator_that_was_replaced() {
        let three: &[u64] = &[1, 2, 3];
        assert!(!is_disk_lost(0, &[(3, 0, three, true)]), "one of three: the other is asked");
        assert!(!is_disk_lost(0, &[(1, 50, three, false), (3, 40, three, true)]), "the newer one counts");
        assert!(!is_disk_lost(50, &[(3, 40, three, true)]), "this one knows more itself");
        let five: &[u64] = &[1, 2, 3, 4, 5];
        let lag = [(1, 50, five, false), (3, 40, five, true), (4, 40, five, true), (5, 40, five, true)];
        assert!(!is_disk_lost(0, &lag), "not even most of them");
        // After `remove`, before `add`: it waits.
        assert!(!is_disk_lost(0, &[(1, 50, &[1, 3], false), (3, 40, three, true)]));
    }

    #[test]
    fn a_lost_disk_is_told_by_a_majority_or_by_all_others() {
        let three: &[u64] = &[1, 2, 3];
        assert!(is_disk_lost(0, &[(1, 0, three, true), (3, 0, three, true)]));
        assert!(is_disk_lost(0, &[(1, 50, three, true), (3, 40, three, true)]), "by members of different age");
        assert!(is_disk_lost(0, &[(1, 0, &[1, 2], true)]), "the only other one");
        assert!(!is_disk_lost(0, &[]));
        let four: &[u64] = &[2, 3, 4, 5];
        assert!(!is_disk_lost(0, &[(3, 7, four, true), (4, 7, four, true)]), "half");
        assert!(is_disk_lost(0, &[(3, 7, four, true), (4, 7, four, true), (5, 7, four, true)]));
        let five: &[u64] = &[1, 2, 3, 4, 5];
        assert!(!is_disk_lost(0, &[(1, 7, five, true), (3, 7, five, true)]), "two of five");
        assert!(is_disk_lost(0, &[(1, 7, five, true), (3, 7, five, true), (4, 7, five, true)]), "three of five");
        assert!(!is_disk_lost(0, &[(9, 7, &[2], true)]), "one that is no member, of a quorum without others");
    }

    #[test]
    fn the_last_opinion_of_a_member_counts_and_their_number_is_bounded() {
        let opinion = |is_other_disk| Opinion {
            members_revision: 0,
            members: BTreeSet::from([CoordinatorId(1), ME]),
            is_other_disk,
        };
        let mut all = Opinions::default();
        all.record(CoordinatorId(1), opinion(true));
        assert!(all.is_disk_lost(ME, 0));
        all.record(CoordinatorId(1), opinion(false));
        assert!(!all.is_disk_lost(ME, 0));
        for id in 3..100 {
            all.record(CoordinatorId(id), opinion(false));
        }
        assert_eq!(all.by_member.len(), ASKED_MAX);
    }
}
