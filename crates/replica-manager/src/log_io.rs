//! The I/O threads of the log directories: operations that may block for long (opening, bulk creation, recovery, sync,
//! deletion) run here, so that a connection's thread never waits for a disk that another directory's work keeps busy.
//!
//! Each directory has two queues with a thread each: *urgent* work makes partitions available, *background* work can
//! wait. Deleting a huge topic must not delay the next leader's log.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

type Job = Box<dyn FnOnce() + Send>;

/// Which of a directory's threads takes a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Partitions wait for it.
    Urgent,
    /// Nobody waits for it.
    Background,
}

/// One directory's threads.
pub struct DirectoryIo {
    path: PathBuf,
    urgent: Queue,
    background: Queue,
    health: Arc<DirectoryHealth>,
}

/// The state of a directory's disk: writers count their writes, one timer checks the counts.
#[derive(Default, Debug)]
pub struct DirectoryHealth {
    /// Other directories' partitions are served by the same threads: none of them may wait here for long.
    has_siblings: bool,
    failed: AtomicBool,
    full: AtomicBool,
    stalled: AtomicBool,
    writes_started: AtomicU64,
    writes_finished: AtomicU64,
}

impl DirectoryHealth {
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// An I/O error: the directory is out of use until the process restarts. Returns whether this is the first error.
    pub fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }

    /// Whether the last write found no room.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// A write found no space: earlier writes are intact, and writes continue when space returns. Returns whether this
    /// was not known.
    pub fn filled(&self) -> bool {
        !self.full.swap(true, Ordering::AcqRel)
    }

    /// A write found space. Returns whether the directory was full until now.
    pub fn has_room(&self) -> bool {
        // A load first: every append comes here.
        self.full.load(Ordering::Relaxed) && self.full.swap(false, Ordering::AcqRel)
    }

    /// Whether writes do not return at the moment, according to the [`StallWatch`].
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Release);
    }

    pub fn has_siblings(&self) -> bool {
        self.has_siblings
    }

    /// Whether the directory cannot be used: its disk failed, or does not answer at the moment.
    pub fn is_unusable(&self) -> bool {
        self.is_failed() || self.is_stalled()
    }

    /// Counts a write, so that one that does not return is detected. While another write of the same directory is under
    /// way (it may be stalled), this one runs on a blocking thread: a stalled disk holds at most one of the threads
    /// that serve the other directories.
    pub fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        let before = self.writes_started.fetch_add(1, Ordering::Relaxed);
        let is_alone = !self.has_siblings || before == self.writes_finished.load(Ordering::Relaxed);
        let outcome = if is_alone { write() } else { run_blocking(write) };
        self.writes_finished.fetch_add(1, Ordering::Release);
        outcome
    }

    /// Writes that have started and finished so far.
    fn writes(&self) -> (u64, u64) {
        let finished = self.writes_finished.load(Ordering::Acquire);
        (self.writes_started.load(Ordering::Relaxed), finished)
    }
}

/// Detects a directory whose writes do not return: a write was under way, and none finished between two checks.
#[derive(Default, Debug)]
pub struct StallWatch {
    finished: u64,
    silent_looks: u32,
}

impl StallWatch {
    /// One look; the number of looks in a row, this one included, at which a write was under way and none had finished.
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

/// Runs work that may block for long; the runtime moves its other tasks to another thread.
pub fn run_blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

impl DirectoryIo {
    /// Starts the threads of the directory at `path`, one of several (`has_siblings`) or the only one.
    pub fn start(path: PathBuf, has_siblings: bool) -> std::io::Result<Self> {
        let urgent = Queue::start("log-urgent")?;
        let background = Queue::start("log-background")?;
        let health = Arc::new(DirectoryHealth { has_siblings, ..DirectoryHealth::default() });
        Ok(Self { path, urgent, background, health })
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    pub fn health(&self) -> &Arc<DirectoryHealth> {
        &self.health
    }

    /// Runs `job` on one of the directory's threads, after what was given to the same queue before. After
    /// [`stop`](Self::stop) the job is dropped.
    pub fn run(&self, urgency: Urgency, job: impl FnOnce() + Send + 'static) {
        let queue = match urgency {
            Urgency::Urgent => &self.urgent,
            Urgency::Background => &self.background,
        };
        queue.push(Box::new(job));
    }

    /// Whether the queue is empty and its thread idle.
    pub fn is_idle(&self, urgency: Urgency) -> bool {
        let queue = match urgency {
            Urgency::Urgent => &self.urgent,
            Urgency::Background => &self.background,
        };
        queue.open.load(Ordering::Acquire) == 0
    }

    /// Finishes what was queued and ends the threads.
    pub fn stop(&self) {
        self.urgent.stop();
        self.background.stop();
    }
}

struct Queue {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    /// Given and not finished.
    open: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Queue {
    fn start(name: &str) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>();
        let open = Arc::new(AtomicUsize::new(0));
        let finished = open.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = receiver.recv() {
                job();
                finished.fetch_sub(1, Ordering::Release);
            }
        })?;
        Ok(Self { jobs: Mutex::new(Some(sender)), open, thread: Mutex::new(Some(thread)) })
    }

    fn push(&self, job: Job) {
        if let Some(jobs) = &*self.jobs.lock() {
            self.open.fetch_add(1, Ordering::Relaxed);
            // The receiver lives as long as the sender is here.
            let _ = jobs.send(job);
        }
    }

    fn stop(&self) {
        self.jobs.lock().take();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("an I/O thread ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_finishes_what_was_queued() {
        let io = DirectoryIo::start(PathBuf::from("unused"), false).expect("threads start");
        let done = Arc::new(AtomicU64::new(0));
        for _ in 0..100 {
            let done = done.clone();
            io.run(Urgency::Background, move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        io.stop();
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn only_a_write_that_does_not_come_back_is_a_stall() {
        let health = DirectoryHealth::default();
        let mut watch = StallWatch::default();
        assert_eq!(watch.look(&health), 0);
        health.writing(|| ());
        assert_eq!(watch.look(&health), 0);
        health.writing(|| {
            assert_eq!(watch.look(&health), 1);
            assert_eq!(watch.look(&health), 2);
        });
        assert_eq!(watch.look(&health), 0);
    }
}
