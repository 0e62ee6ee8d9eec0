//! The outputs of [`Leader`](crate::Leader) and [`Follower`](crate::Follower), which the caller must execute, and their
//! inputs.

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch};

use crate::follower::FetchPosition;
use crate::isr::IsrMember;

/// The effects of a step of a leader. Empty for most steps; creating one allocates nothing unless an ISR change is
/// proposed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct LeaderEffects {
    /// The high watermark moved to this offset: publish it, complete waiting requests, wake fetchers.
    pub high_watermark: Option<Offset>,
    /// Send this to the quorum and report the answer to [`Leader::isr_decided`](crate::Leader::isr_decided).
    pub alter: Option<IsrProposal>,
    /// The committed ISR is another than before.
    pub isr_changed: bool,
}

impl LeaderEffects {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An ISR that a leader proposes to the quorum, by compare-and-set on the partition epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsrProposal {
    /// Distinguishes this proposal's outcome from that of an earlier one; a retry has the same number.
    pub number: u64,
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the change is based on.
    pub partition_epoch: PartitionEpoch,
    /// All members, the leader too, each with the broker epoch it is known by.
    pub isr: Vec<IsrMember>,
}

/// The outcome of an ISR proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IsrOutcome {
    /// This is the partition's state now (also when it already was before this attempt).
    Decided { leader_epoch: LeaderEpoch, partition_epoch: PartitionEpoch, isr: Vec<IsrMember> },
    /// The quorum answered with an error for this partition.
    Refused(ErrorCode),
    /// No answer came: the change may have happened, may still happen, or not.
    Unknown,
}

/// A follower's fetch that must not be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the fetch has leader epoch {asked}, this replica has {current}")]
    FencedLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error("the fetch has leader epoch {asked}, this replica knows only {current}")]
    UnknownLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    /// This leader may not know a new assignment yet: the follower retries.
    #[error("the broker is not among the partition's replicas")]
    NotAReplica { with_leader_epoch: bool },
    /// A fetch of a former incarnation of the broker, still in flight (KIP-903, scenario 4).
    #[error("the fetch has broker epoch {fetched}, the broker is registered with {registered}")]
    StaleBrokerEpoch { fetched: BrokerEpoch, registered: BrokerEpoch },
}

/// Compares the leader epoch that a request carries with the replica's; a request without one always passes.
///
/// # Errors
/// The request names another leader epoch.
pub fn check_leader_epoch(asked: LeaderEpoch, current: LeaderEpoch) -> Result<(), FetchError> {
    match asked {
        asked if !asked.is_known() || asked == current => Ok(()),
        asked if asked < current => Err(FetchError::FencedLeaderEpoch { asked, current }),
        asked => Err(FetchError::UnknownLeaderEpoch { asked, current }),
    }
}

impl FetchError {
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch { .. } | Self::NotAReplica { with_leader_epoch: true } => {
                ErrorCode::UnknownLeaderEpoch
            }
            Self::NotAReplica { with_leader_epoch: false } | Self::StaleBrokerEpoch { .. } => {
                ErrorCode::NotLeaderOrFollower
            }
        }
    }
}

/// How a follower's log must be cut before it fetches again; report the result to
/// [`Follower::truncated`](crate::Follower::truncated).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truncation {
    /// Remove every record from this offset on.
    To(Offset),
    /// Remove everything and start the log here, with empty epoch history and producer states: the leader no longer has
    /// the records below (scenario 12).
    FullyAndStartAt(Offset),
}

/// A follower's action after a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum FollowerAction {
    /// Append the records (if any) to the log, then call [`Follower::appended`](crate::Follower::appended) with the
    /// state of the log.
    Append,
    /// Cut the log; the records of this answer, if any, are not used.
    Truncate(Truncation),
    /// Request the leader's log start and end (`ListOffsets` earliest and latest, under the same leader epoch), and
    /// pass them to [`Follower::leader_bounds`](crate::Follower::leader_bounds).
    AskLeaderBounds,
    /// Fetch again from the current position, without waiting.
    FetchAgain,
    /// The leader cannot serve this now, or a batch came damaged: fetch again after `replica.fetch.backoff.ms`.
    BackOff,
    /// The leader is in a later epoch than this follower knows: stop until the image has that epoch.
    AwaitNewEpoch,
    /// The answer belongs to a state that has passed: drop it.
    Ignore,
}

/// The next action of a fetcher for a partition, after the log has executed the [`FollowerAction`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum FollowerStep {
    /// Fetch from here.
    Fetch(FetchPosition),
    /// Request the leader's log start and end, and pass the response back.
    AskLeaderBounds,
    /// Look again after a pause.
    BackOff,
    /// The follower of this leader epoch has ended; a new role begins with a change of the partition's state.
    Stop,
}

/// The leader that a partition follows, and the next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Following {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub step: FollowerStep,
}
