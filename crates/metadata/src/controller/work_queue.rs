//! Work on many partitions that remains to be done.

use std::collections::VecDeque;
use std::time::Duration;

use ottla_model::{BrokerId, MonotonicMs, Revision, TopicIdPartition};

use super::EntryId;

/// Partition changes in one transaction: about 100 KiB of Raft entry, applied in a millisecond or two.
pub const PARTITIONS_PER_TRANSACTION: usize = 500;

/// Batches that may be proposed and not yet applied: enough to keep Raft's pipeline full, few enough that a request
/// that comes in between does not wait for the whole of a large fencing.
pub const MAX_BATCHES_IN_FLIGHT: usize = 8;

/// How long the rest of a fencing waits for brokers that do not follow the tree.
pub const NEW_LEADERS_AWAITED_MAX: Duration = Duration::from_millis(500);

/// The work on the partitions of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// The broker is fenced: it leaves every ISR that has another member; other replicas lead its partitions.
    Fence(BrokerId),
    /// It returns from an unclean shutdown: it leaves the ELRs, and the ISRs in which an ELR member can replace it.
    Unclean(BrokerId),
    /// It returns with an empty disk: as [`Work::Unclean`], and where it stays the last member, it is marked as lost.
    Lost(BrokerId),
    /// The broker is ready: it may lead partitions without a leader.
    Elect(BrokerId),
    /// The same for all partitions without a leader, at the beginning of a term.
    ElectAll,
    /// The broker leads again where it is the preferred replica and in the ISR.
    Balance(BrokerId),
    /// Reassignments whose target is in sync complete: one that can lead may be there only now.
    Reassign,
    /// The broker shuts down: as [`Work::Fence`], but no partition loses its leader.
    Shutdown(BrokerId),
}

/// Which index the cursor is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The partitions that the broker leads: they serve nobody until another replica leads them.
    Led,
    InSync,
    Eligible,
    Hosted,
    Leaderless,
    Imbalanced,
    Reassigning,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Progress {
    pub work: Work,
    pub stage: Stage,
    pub after: Option<TopicIdPartition>,
    /// The leaderships took more than one transaction: what follows them waits until the live brokers have them.
    pub awaits_leaders: bool,
}

impl Progress {
    pub fn new(work: Work) -> Self {
        let stage = match work {
            Work::ElectAll => Stage::Leaderless,
            Work::Elect(_) => Stage::Hosted,
            Work::Balance(_) => Stage::Imbalanced,
            Work::Reassign => Stage::Reassigning,
            Work::Fence(_) => Stage::Led,
            Work::Unclean(_) | Work::Lost(_) | Work::Shutdown(_) => Stage::InSync,
        };
        Self { work, stage, after: None, awaits_leaders: false }
    }

    /// The next index; false if there is none.
    pub fn next_stage(&mut self) -> bool {
        self.after = None;
        match (self.work, self.stage) {
            (Work::Fence(_), Stage::Led) => {
                self.stage = Stage::InSync;
                true
            }
            (Work::Unclean(_) | Work::Lost(_), Stage::InSync) => {
                self.stage = Stage::Eligible;
                true
            }
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    pub queue: VecDeque<Progress>,
    pub in_flight: Vec<EntryId>,
    /// The revision that has the last leaderships of a large fencing, and until when the brokers are awaited there.
    pub awaited: Option<(Revision, MonotonicMs)>,
    /// A batch was refused, and would be refused again at once: the next tick looks for all work anew.
    pub is_refused: bool,
}

impl WorkQueue {
    pub fn push(&mut self, progress: Progress) {
        self.queue.push_back(progress);
    }

    /// From the beginning: if it is under way, it may be past some partitions.
    pub fn begin_again(&mut self, work: Work) {
        self.remove(work);
        self.push(Progress::new(work));
    }

    pub fn contains(&self, work: Work) -> bool {
        self.queue.iter().any(|progress| progress.work == work)
    }

    pub fn remove(&mut self, work: Work) {
        self.queue.retain(|progress| progress.work != work);
    }
}
