//! The actions that the caller must execute after a step.

use std::io;

use ottla_model::{ErrorCode, Offset};
use ottla_replication::{FollowerStep, IsrProposal};
use ottla_storage::LogCut;

/// The effects of a step of a replica. Creating an empty one allocates nothing.
#[derive(Debug)]
#[must_use]
pub struct Effects<A> {
    /// Publish this high watermark, and wake the fetches that wait for it.
    pub high_watermark: Option<Offset>,
    /// The log has grown: wake followers' fetches.
    pub appended: bool,
    /// The leadership or the log's start changed: every fetch looks again.
    pub changed: bool,
    /// A role began or ended.
    pub role_changed: bool,
    /// Answers that are complete.
    pub acknowledged: Vec<A>,
    /// Requests that this replica cannot complete, with the error of each.
    pub failed: Vec<(A, ErrorCode)>,
    /// Send this to the quorum and report the outcome to [`Replica::isr_decided`](crate::Replica::isr_decided).
    pub proposal: Option<IsrProposal>,
    /// The committed ISR is another than before.
    pub isr_changed: bool,
    /// The disk refused something: a sync after which the step continued because the log itself is intact, or the
    /// opening of the log.
    pub disk_error: Option<io::Error>,
    /// The log was cut.
    pub truncated: Option<Truncated>,
    /// A follower's next fetch differs from the one that waits at its leader: its fetcher looks at the next step.
    pub fetch_changed: bool,
}

impl<A> Default for Effects<A> {
    fn default() -> Self {
        Self {
            high_watermark: None,
            appended: false,
            changed: false,
            role_changed: false,
            acknowledged: Vec::new(),
            failed: Vec::new(),
            proposal: None,
            isr_changed: false,
            disk_error: None,
            truncated: None,
            fetch_changed: false,
        }
    }
}

impl<A> Effects<A> {
    pub(crate) fn fail(&mut self, acks: Vec<A>, error: ErrorCode) {
        self.failed.extend(acks.into_iter().map(|ack| (ack, error)));
    }

    pub(crate) fn acknowledge(&mut self, mut acks: Vec<A>) {
        if self.acknowledged.is_empty() {
            self.acknowledged = acks;
        } else {
            self.acknowledged.append(&mut acks);
        }
    }
}

/// A log was truncated: its checkpoints must not exceed the new end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated {
    pub from: Offset,
    pub to: Offset,
    pub log_start: Offset,
    pub recovery_point: Offset,
}

impl Truncated {
    /// For the checkpoints.
    pub fn left(&self) -> LogCut {
        LogCut { end: self.to, recovery_point: self.recovery_point }
    }
}

/// The result of a leader's response.
#[derive(Debug)]
#[must_use]
pub struct FollowerEffects {
    /// The next action of the fetcher.
    pub step: FollowerStep,
    /// Publish this high watermark.
    pub high_watermark: Option<Offset>,
    /// Records were appended.
    pub appended: bool,
    /// The log began a segment.
    pub rolled: bool,
    /// The log's start moved with the leader's: consumers' fetches look again.
    pub log_start_moved: bool,
    pub truncated: Option<Truncated>,
    /// The disk refused.
    pub disk_error: Option<DiskError>,
    /// The log did not take records of the leader that are damaged or do not fit.
    pub refused: Option<ottla_storage::AppendError>,
}

/// A disk error, and its text for operators.
#[derive(Debug)]
pub struct DiskError {
    pub text: String,
    /// None if the log itself is offline.
    pub cause: Option<io::Error>,
}

impl FollowerEffects {
    pub(crate) fn only(step: FollowerStep) -> Self {
        Self {
            step,
            high_watermark: None,
            appended: false,
            rolled: false,
            log_start_moved: false,
            truncated: None,
            disk_error: None,
            refused: None,
        }
    }
}
