//! Questions of brokers for this coordinator, at others: what [`super::hand_over`] compares.

use std::collections::BTreeMap;

use ottla_model::{BrokerId, CoordinatorId, MonotonicMs};

/// Questions of one broker at one other coordinator, since this one last heard it; on the sessions' clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub first: MonotonicMs,
    pub last: MonotonicMs,
}

/// A coordinator that more brokers reach than this one, as far as they have asked there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub coordinator: CoordinatorId,
    /// They reach it, and not this one.
    pub brokers: Vec<BrokerId>,
    /// How many this one reaches.
    pub reached_here: usize,
}

#[derive(Debug)]
pub(super) struct Reach {
    /// Bounded by the quorum's voters and the brokers of the image.
    pub asked: BTreeMap<(CoordinatorId, BrokerId), Asked>,
    /// No hand-over before.
    pub settled_at: MonotonicMs,
}

impl Reach {
    pub fn new(settled_at: MonotonicMs) -> Self {
        Self { asked: BTreeMap::new(), settled_at }
    }
}
