//! What a disk does with a request, in each of its states.

use std::time::Duration;

use fuser::Errno;

/// What a disk does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    Works,
    /// Each sync takes this long.
    Slow(Duration),
    /// What changes or syncs something does not return until the state changes, nor does a read of what is not cached.
    Stalled,
    /// EIO.
    Failed,
    /// ENOSPC for what needs room.
    Full,
}

/// What a request asks of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    Read,
    /// Writes, and names that are made: needs room.
    Room,
    Sync,
    /// Changes without a need for room.
    Change,
}

/// What is done with a request now.
pub(super) enum Verdict {
    Refused(Errno),
    After(Duration),
    Waits,
}

impl DiskState {
    pub(super) fn judge(self, need: Need) -> Verdict {
        match (self, need) {
            (Self::Failed, _) => Verdict::Refused(Errno::EIO),
            (Self::Full, Need::Room) => Verdict::Refused(Errno::ENOSPC),
            (Self::Stalled, _) => Verdict::Waits,
            (Self::Slow(time), Need::Sync) => Verdict::After(time),
            (Self::Works | Self::Full | Self::Slow(_), _) => Verdict::After(Duration::ZERO),
        }
    }
}
