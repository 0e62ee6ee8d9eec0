//! The known state of a log directory's disk: set by those who write, checked by one timer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::DiskFault;
use crate::rules::BrokenRules;

#[derive(Default, Debug)]
pub struct DirectoryHealth {
    /// The partitions of other directories are served by the same threads: none of these may wait here for long.
    has_siblings: bool,
    rules: BrokenRules,
    failed: AtomicBool,
    full: AtomicBool,
    stalled: AtomicBool,
    writes_started: AtomicU64,
    writes_finished: AtomicU64,
}

/// What follows from a fault of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultEffect {
    /// The directory was not known to be in this state.
    pub is_first: bool,
    /// The directories are to be looked at now: replicas may have to give up their places.
    pub needs_look: bool,
}

impl DirectoryHealth {
    /// `has_siblings`: it is one of several directories.
    pub fn new(has_siblings: bool) -> Self {
        Self { has_siblings, ..Self::default() }
    }

    /// With rules switched off.
    #[must_use]
    pub fn with_rules(self, rules: BrokenRules) -> Self {
        Self { rules, ..self }
    }

    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// An I/O error: the directory is out of use until the process restarts. Returns whether this is the first one.
    pub fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }

    /// Whether the last write found no room.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// A write found no room: what was written before is there, and writes go on when space returns. Returns whether
    /// the directory was not known to be full.
    pub fn filled(&self) -> bool {
        !self.full.swap(true, Ordering::AcqRel)
    }

    /// A write found room. Returns whether the directory was known to be full.
    pub fn has_room(&self) -> bool {
        // A load first: every append comes here.
        self.full.load(Ordering::Relaxed) && self.full.swap(false, Ordering::AcqRel)
    }

    /// The disk refused something. Out of room or of descriptors, nothing is lost and nothing was changed: the next
    /// operation tries again. With every other error the directory is out of use.
    pub fn refused(&self, fault: DiskFault) -> FaultEffect {
        match fault {
            DiskFault::Failed if !self.rules.failed_disk_counts_as_full => {
                FaultEffect { is_first: self.fail(), needs_look: true }
            }
            DiskFault::Failed | DiskFault::Full => FaultEffect { is_first: self.filled(), needs_look: true },
            DiskFault::OutOfDescriptors | DiskFault::NameTaken => FaultEffect { is_first: true, needs_look: false },
        }
    }

    /// Whether writes do not return at the moment, as of the last look.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Release);
    }

    pub fn has_siblings(&self) -> bool {
        self.has_siblings
    }

    /// Whether requests to the disk are pointless: it failed, or does not answer at the moment.
    pub fn is_unusable(&self) -> bool {
        self.is_failed() || self.is_stalled()
    }

    /// A write begins; [`Self::end_write`] must follow. Returns whether it may hold its thread. Beside another write of
    /// the same directory, which may be one that does not return, it may not: a stalled disk takes at most one of the
    /// threads that serve the other directories.
    pub fn begin_write(&self) -> bool {
        let before = self.writes_started.fetch_add(1, Ordering::Relaxed);
        !self.has_siblings || before == self.writes_finished.load(Ordering::Relaxed)
    }

    pub fn end_write(&self) {
        self.writes_finished.fetch_add(1, Ordering::Release);
    }

    /// Writes that have started and finished so far.
    fn writes(&self) -> (u64, u64) {
        let finished = self.writes_finished.load(Ordering::Acquire);
        (self.writes_started.load(Ordering::Relaxed), finished)
    }
}

/// Detects a directory whose writes do not return: none finished between two looks while one was under way.
#[derive(Default, Debug)]
pub struct StallWatch {
    finished: u64,
    silent_looks: u32,
}

impl StallWatch {
    /// One look. Returns the number of looks in a row, this one included, at which a write was under way and none had
    /// finished since the look before.
    pub fn look(&mut self, health: &DirectoryHealth) -> u32 {
        let (started, finished) = health.writes();
        if started == finished || finished != self.finished {
            self.silent_looks = 0;
        } else {
            self.silent_looks += 1;
        }
        self.finished = finished;
        self.silent_looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_does_not_return_is_a_stall() {
        let health = DirectoryHealth::new(true);
        let mut watch = StallWatch::default();
        assert_eq!(watch.look(&health), 0);
        assert!(health.begin_write());
        health.end_write();
        assert_eq!(watch.look(&health), 0);
        assert!(health.begin_write());
        assert_eq!((watch.look(&health), watch.look(&health)), (1, 2));
        assert!(!health.begin_write(), "a second write does not hold a thread");
        health.end_write();
        assert_eq!(watch.look(&health), 0, "one of them has finished");
        assert_eq!(watch.look(&health), 1);
        health.end_write();
        assert_eq!(watch.look(&health), 0);
    }

    #[test]
    fn a_refusal_is_first_once_and_lack_of_descriptors_is_no_state_of_the_disk() {
        let health = DirectoryHealth::new(true);
        let look = |is_first| FaultEffect { is_first, needs_look: true };
        assert_eq!([health.refused(DiskFault::Full), health.refused(DiskFault::Full)], [look(true), look(false)]);
        for passing in [DiskFault::OutOfDescriptors, DiskFault::NameTaken] {
            assert!(!health.refused(passing).needs_look && !health.is_unusable());
        }
        assert_eq!([health.refused(DiskFault::Failed), health.refused(DiskFault::Failed)], [look(true), look(false)]);
        assert!(health.is_unusable());
    }

    #[test]
    fn a_directory_without_siblings_holds_up_nobody_else() {
        let health = DirectoryHealth::new(false);
        assert!(health.begin_write() && health.begin_write());
    }
}
