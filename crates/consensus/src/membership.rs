//! The voters: the configured list, the same on every member and for the whole life of the quorum.

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

/// The voters; never empty, ids from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    voters: BTreeSet<CoordinatorId>,
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
        if voters.is_empty() { Err(MembershipError::Empty) } else { Ok(Self { voters }) }
    }

    pub fn voters(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        self.voters.iter().copied()
    }

    pub fn contains(&self, id: CoordinatorId) -> bool {
        self.voters.contains(&id)
    }

    pub fn len(&self) -> usize {
        self.voters.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    pub fn to_conf_state(&self) -> ConfState {
        ConfState { voters: self.voters.iter().map(|id| id.0).collect(), ..ConfState::default() }
    }

    /// None if the state has no voters, has learners, or has an invalid id.
    pub fn from_conf_state(state: &ConfState) -> Option<Self> {
        if !state.learners.is_empty() || !state.voters_outgoing.is_empty() {
            return None;
        }
        Self::new(state.voters.iter().map(|&id| CoordinatorId(id))).ok()
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
    }
}
