//! The members: voters, and learners, which receive the log and do not count for majorities.

use std::collections::BTreeSet;

use ottla_model::CoordinatorId;

use crate::log_store::ConfState;

/// A list that cannot be a quorum's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("no voters")]
    Empty,
    #[error("coordinator id 0 is not allowed: ids are 1 or greater")]
    Zero,
    #[error("coordinator id {0} is listed twice")]
    Duplicate(CoordinatorId),
}

/// Ids from 1. Without voters only on a member that joins and has not received the quorum's state yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    voters: BTreeSet<CoordinatorId>,
    learners: BTreeSet<CoordinatorId>,
}

impl Membership {
    pub fn new(ids: impl IntoIterator<Item = CoordinatorId>) -> Result<Self, MembershipError> {
        let mut voters = BTreeSet::new();
        for id in ids {
            if id.0 == 0 {
                return Err(MembershipError::Zero);
            }
            if !voters.insert(id) {
                return Err(MembershipError::Duplicate(id));
            }
        }
        if voters.is_empty() { Err(MembershipError::Empty) } else { Ok(Self { voters, learners: BTreeSet::new() }) }
    }

    pub fn voters(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        self.voters.iter().copied()
    }

    pub fn learners(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        self.learners.iter().copied()
    }

    /// Voters and learners, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        self.voters.union(&self.learners).copied()
    }

    pub fn is_voter(&self, id: CoordinatorId) -> bool {
        self.voters.contains(&id)
    }

    /// A voter or a learner.
    pub fn contains(&self, id: CoordinatorId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// The number of voters.
    pub fn voter_count(&self) -> usize {
        self.voters.len()
    }

    /// This member joins, and knows no members yet.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    pub fn to_conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.iter().map(|id| id.0).collect(),
            learners: self.learners.iter().map(|id| id.0).collect(),
            ..ConfState::default()
        }
    }

    /// None if the state has no voters, has an invalid id or one twice, or is between two memberships: members change
    /// one at a time, so that no state is.
    pub fn from_conf_state(state: &ConfState) -> Option<Self> {
        if !state.voters_outgoing.is_empty() || !state.learners_next.is_empty() || state.auto_leave {
            return None;
        }
        let mut membership = Self::new(state.voters.iter().map(|&id| CoordinatorId(id))).ok()?;
        for id in state.learners.iter().map(|&id| CoordinatorId(id)) {
            if id.0 == 0 || membership.voters.contains(&id) || !membership.learners.insert(id) {
                return None;
            }
        }
        Some(membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Result<Membership, MembershipError> {
        Membership::new(ids.iter().map(|&id| CoordinatorId(id)))
    }

    #[test]
    fn refuses_what_cannot_vote() {
        assert_eq!(ids(&[]), Err(MembershipError::Empty));
        assert_eq!(ids(&[1, 0]), Err(MembershipError::Zero));
        assert_eq!(ids(&[1, 2, 1]), Err(MembershipError::Duplicate(CoordinatorId(1))));
    }

    #[test]
    fn survives_the_log_stores_form() {
        let three = ids(&[3, 1, 2]).expect("three");
        assert_eq!(Membership::from_conf_state(&three.to_conf_state()), Some(three));
        assert_eq!(Membership::from_conf_state(&ConfState::default()), None);
        let mut state = ConfState { voters: vec![1, 2], learners: vec![4], ..ConfState::default() };
        let grown = Membership::from_conf_state(&state).expect("two and a learner");
        assert_eq!(grown.to_conf_state(), state);
        assert!(grown.contains(CoordinatorId(4)) && !grown.is_voter(CoordinatorId(4)));
        state.learners = vec![2];
        assert_eq!(Membership::from_conf_state(&state), None, "a voter is no learner");
        (state.learners, state.voters_outgoing) = (vec![], vec![3]);
        assert_eq!(Membership::from_conf_state(&state), None, "between two memberships");
    }
}
