//! How far every replica of the quorum's log has got, as the quorum leader sees it (Kafka's DescribeQuorum).

use ottla_model::{BrokerId, CoordinatorId, IncarnationId, Revision, TimestampMs};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumProgress {
    pub leader: CoordinatorId,
    pub term: u64,
    pub committed: Revision,
    /// The members: voters and learners.
    pub voters: Vec<Voter>,
    /// The live brokers, which follow the tree.
    pub observers: Vec<Observer>,
}

/// A coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    pub id: CoordinatorId,
    pub address: String,
    /// None until this coordinator has seen it.
    pub disk: Option<IncarnationId>,
    /// False: a learner, which has no vote yet.
    pub is_voter: bool,
    pub progress: Progress,
}

/// A broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observer {
    pub id: BrokerId,
    pub progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The end of its log, or the revision of its image.
    pub end: Revision,
    /// The time of its last message; [`TimestampMs::NONE`] if there was none in this term.
    pub heard_at: TimestampMs,
    /// The last time at which it had everything; [`TimestampMs::NONE`] if it never had in this term.
    pub caught_up_at: TimestampMs,
}
