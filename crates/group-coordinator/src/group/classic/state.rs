//! The states of a classic group, under Kafka's names.

/// A group that does not exist is described as `Dead`; there is no such state in here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// No members; perhaps offsets.
    Empty,
    /// Members join; the round ends when all have, or in time.
    PreparingRebalance,
    /// The generation is set; the leader's assignment is awaited.
    CompletingRebalance,
    /// Every member can have its assignment.
    Stable,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}
