//! The known state of a log directory's disk: set by those who write, checked by one timer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crate::error::DiskFault;
use crate::rules::BrokenRules;

/// How often the writes under way are looked at. One that lasts for twice as long is noticed: disks that are busy often
/// take some tens of milliseconds, and clients do not notice a tenth of a second.
pub const SLOW_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Looks in a row without a slow write before a directory counts as quick again: a second.
const QUICK_LOOKS: u32 = 10;

/// Threads that may wait for one directory at a time, on behalf of clients. Each of them is one of the runtime's
/// threads for what blocks (512), and takes the place of one that serves others; the next client is asked to wait.
pub const WAITING_MAX: usize = 64;

/// As [`WAITING_MAX`], for consumers and searches that look for records which are not in memory: apart, so that readers
/// that lag behind do not keep producers waiting.
pub const READING_MAX: usize = 32;

#[derive(Default, Debug)]
pub struct DirectoryHealth {
    /// The partitions of other directories are served by the same threads: none of these may wait here for long.
    has_siblings: bool,
    rules: BrokenRules,
    failed: AtomicBool,
    full: AtomicBool,
    stalled: AtomicBool,
    slow: AtomicBool,
    /// A write has been slow since the process began.
    was_slow: AtomicBool,
    waiting: AtomicUsize,
    reading: AtomicUsize,
    /// Looks at the writes, and rests while there are none.
    watcher: OnceLock<Thread>,
    watcher_rests: AtomicBool,
    /// The generation of the writes that begin now: 0 or 1.
    generation: AtomicUsize,
    writes: [Writes; 2],
}

/// The writes of one generation.
#[derive(Default, Debug)]
struct Writes {
    started: AtomicU64,
    finished: AtomicU64,
}

impl Writes {
    /// Started and finished so far.
    fn counted(&self) -> (u64, u64) {
        let finished = self.finished.load(Ordering::Acquire);
        (self.started.load(Ordering::Relaxed), finished)
    }

    fn are_finished(&self) -> bool {
        let (started, finished) = self.counted();
        started == finished
    }
}

/// A write under way: to be given to [`DirectoryHealth::end_write`].
#[derive(Debug)]
#[must_use = "a write that does not end is one that does not return"]
pub struct WriteUnderWay {
    generation: usize,
    /// Whether it may hold its thread.
    pub may_hold: bool,
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

    #[inline]
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// An I/O error: the directory is out of use until the process restarts. Returns whether this is the first one.
    pub fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }

    /// Whether the last write found no room.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// A write found no room: what was written before is there, and writes go on when space returns. Returns whether
    /// the directory was not known to be full.
    pub fn filled(&self) -> bool {
        !self.full.swap(true, Ordering::AcqRel)
    }

    /// A write found room. Returns whether the directory was known to be full.
    #[inline]
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
    #[inline]
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
    #[inline]
    pub fn is_unusable(&self) -> bool {
        self.is_failed() || self.is_stalled()
    }

    /// A write begins; [`Self::end_write`] must follow. It may hold its thread if the directory is quick and, where
    /// other directories are served too, no other write is under way, which may be one that does not return: a disk
    /// that stalls takes at most one of the threads that serve others. The same holds for an only directory that was
    /// slow before: the first time it may take all of them for as long as it takes to notice.
    #[inline]
    pub fn begin_write(&self) -> WriteUnderWay {
        let generation = self.generation.load(Ordering::Relaxed) & 1;
        let [first, second] = &self.writes;
        let (own, other) = if generation == 0 { (first, second) } else { (second, first) };
        // In one order with the watcher's steps in `rest`: either it sees this write, or this write sees that it rests.
        let before = own.started.fetch_add(1, Ordering::SeqCst);
        if self.watcher_rests.load(Ordering::SeqCst) {
            self.wake_watcher();
        }
        let may_hold = !self.is_cautious()
            || !self.is_slow() && before == own.finished.load(Ordering::Relaxed) && other.are_finished();
        WriteUnderWay { generation, may_hold }
    }

    #[inline]
    pub fn end_write(&self, write: WriteUnderWay) {
        if let Some(writes) = self.writes.get(write.generation) {
            writes.finished.fetch_add(1, Ordering::Release);
        }
    }

    #[cold]
    fn wake_watcher(&self) {
        if self.watcher_rests.swap(false, Ordering::SeqCst)
            && let Some(watcher) = self.watcher.get()
        {
            watcher.unpark();
        }
    }

    /// This thread looks at the writes. Once for each directory.
    pub fn watched_by(&self, watcher: Thread) {
        // A second one would be a mistake of the caller; the first one stays.
        let _ = self.watcher.set(watcher);
    }

    /// Whether the watcher may rest, and is unparked by the next write: an idle broker wakes for nothing.
    pub fn rest(&self) -> bool {
        self.watcher_rests.store(true, Ordering::SeqCst);
        let is_busy = |writes: &Writes| writes.started.load(Ordering::SeqCst) != writes.finished.load(Ordering::SeqCst);
        if self.is_slow() || self.writes.iter().any(is_busy) {
            self.watcher_rests.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    #[inline]
    fn is_cautious(&self) -> bool {
        self.has_siblings || self.was_slow.load(Ordering::Relaxed)
    }

    /// Whether writes lasted noticeably of late, as of the last [`SlowWatch::look`].
    #[inline]
    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// A client's thread is about to wait for the directory; [`Self::end_wait`] must follow. False, and nothing
    /// follows: so many wait already that this one must not.
    pub fn begin_wait(&self) -> bool {
        begin(&self.waiting, WAITING_MAX)
    }

    pub fn end_wait(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether no other client may wait for the directory now.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= WAITING_MAX
    }

    /// As [`Self::begin_wait`], for a read; [`Self::end_read`] must follow where this is true.
    pub fn begin_read(&self) -> bool {
        begin(&self.reading, READING_MAX)
    }

    pub fn end_read(&self) {
        self.reading.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether no other read may wait for the directory now.
    #[inline]
    pub fn has_many_readers(&self) -> bool {
        self.reading.load(Ordering::Relaxed) >= READING_MAX
    }

    /// Writes that have started and finished so far.
    fn writes(&self) -> (u64, u64) {
        let [first, second] = self.writes.each_ref().map(Writes::counted);
        (first.0 + second.0, first.1 + second.1)
    }
}

/// Counts one more, unless there are `max`.
fn begin(count: &AtomicUsize, max: usize) -> bool {
    let begins = count.fetch_add(1, Ordering::Relaxed) < max;
    if !begins {
        count.fetch_sub(1, Ordering::Relaxed);
    }
    begins
}

/// Detects a directory whose writes last noticeably. Looked at every [`SLOW_LOOK_INTERVAL`].
#[derive(Default, Debug)]
pub struct SlowWatch {
    /// In a row, without a slow write.
    quick_looks: u32,
}

impl SlowWatch {
    /// One look. Whether the directory is slow: a write has lasted from one look to the next, now or within the last
    /// second.
    pub fn look(&mut self, health: &DirectoryHealth) -> bool {
        let generation = health.generation.load(Ordering::Relaxed) & 1;
        let older = 1 - generation;
        // Those that began before the generation changed, which is at least one look ago.
        if health.writes.get(older).is_none_or(Writes::are_finished) {
            // What is under way now will be the older ones at the next look.
            health.generation.store(older, Ordering::Relaxed);
            self.quick_looks = self.quick_looks.saturating_add(1);
        } else {
            self.quick_looks = 0;
            health.was_slow.store(true, Ordering::Relaxed);
            health.slow.store(true, Ordering::Relaxed);
        }
        if self.quick_looks >= QUICK_LOOKS && health.is_slow() {
            health.slow.store(false, Ordering::Relaxed);
        }
        health.is_slow()
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

    impl DirectoryHealth {
        fn begin_write_and_end(&self) -> WriteUnderWay {
            let write = self.begin_write();
            let generation = write.generation;
            let may_hold = write.may_hold;
            self.end_write(write);
            WriteUnderWay { generation, may_hold }
        }
    }

    #[test]
    fn only_a_write_that_does_not_return_is_a_stall() {
        let health = DirectoryHealth::new(true);
        let mut watch = StallWatch::default();
        assert_eq!(watch.look(&health), 0);
        let write = health.begin_write();
        assert!(write.may_hold);
        health.end_write(write);
        assert_eq!(watch.look(&health), 0);
        let first = health.begin_write();
        assert!(first.may_hold);
        assert_eq!((watch.look(&health), watch.look(&health)), (1, 2));
        let second = health.begin_write();
        assert!(!second.may_hold, "a second write does not hold a thread");
        health.end_write(first);
        assert_eq!(watch.look(&health), 0, "one of them has finished");
        assert_eq!(watch.look(&health), 1);
        health.end_write(second);
        assert_eq!(watch.look(&health), 0);
    }

    #[test]
    fn a_write_that_lasts_is_noticed_though_others_return() {
        let (health, mut watch) = (DirectoryHealth::new(true), SlowWatch::default());
        let quick = || health.end_write(health.begin_write());
        let lasting = health.begin_write();
        assert!(!watch.look(&health), "it may just have begun");
        quick();
        assert!(watch.look(&health));
        quick();
        assert!(watch.look(&health), "as long as it lasts");
        assert!(!health.begin_write_and_end().may_hold);
        health.end_write(lasting);
        assert!(!health.begin_write_and_end().may_hold, "it has hardly answered");
        let looks: Vec<bool> = (0..QUICK_LOOKS).map(|_| watch.look(&health)).collect();
        assert_eq!(looks.iter().filter(|is_slow| !**is_slow).count(), 1, "quick again after the last of {looks:?}");
        assert!(health.begin_write_and_end().may_hold);
    }

    #[test]
    fn a_watcher_rests_while_nothing_is_written() {
        let (health, mut watch) = (DirectoryHealth::new(true), SlowWatch::default());
        health.watched_by(std::thread::current());
        assert!(health.rest());
        let write = health.begin_write();
        // Returns at once: the write has unparked this thread.
        std::thread::park();
        assert!(!health.rest(), "a write is under way");
        watch.look(&health);
        assert!(watch.look(&health));
        health.end_write(write);
        assert!(!health.rest(), "it has to be seen that the directory is quick again");
        while watch.look(&health) {}
        assert!(health.rest());
    }

    /// Writes that overlap without a gap are many, not slow.
    #[test]
    fn a_busy_directory_is_not_slow() {
        let (health, mut watch) = (DirectoryHealth::new(true), SlowWatch::default());
        let mut under_way = health.begin_write();
        for _ in 0..100 {
            let next = health.begin_write();
            health.end_write(std::mem::replace(&mut under_way, next));
            assert!(!watch.look(&health));
        }
        health.end_write(under_way);
    }

    /// All workers of a runtime would wait for it a second time.
    #[test]
    fn an_only_directory_that_was_slow_is_written_to_with_care() {
        let (health, mut watch) = (DirectoryHealth::new(false), SlowWatch::default());
        let (first, second) = (health.begin_write(), health.begin_write());
        assert!(first.may_hold && second.may_hold, "there is nothing else that waits");
        watch.look(&health);
        assert!(watch.look(&health));
        health.end_write(first);
        health.end_write(second);
        while watch.look(&health) {}
        let first = health.begin_write();
        assert!(first.may_hold && !health.begin_write_and_end().may_hold);
        health.end_write(first);
    }

    #[test]
    fn a_bounded_number_waits() {
        let health = DirectoryHealth::new(true);
        assert!((0..WAITING_MAX).all(|_| !health.is_crowded() && health.begin_wait()));
        assert!(health.is_crowded() && !health.begin_wait());
        assert!(!health.has_many_readers() && health.begin_read(), "readers wait apart");
        health.end_wait();
        assert!(health.begin_wait());
        assert!((1..READING_MAX).all(|_| health.begin_read()) && health.has_many_readers() && !health.begin_read());
        health.end_read();
        assert!(health.begin_read());
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
}
