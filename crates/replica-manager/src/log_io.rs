//! The I/O threads of the log directories: operations that may block for long (opening, bulk creation, recovery, sync,
//! deletion) run here, so that a connection's thread never waits for a disk that another directory's work keeps busy.
//!
//! Each directory has two queues with a thread each: *urgent* work makes partitions available, *background* work can
//! wait. Deleting a huge topic must not delay the next leader's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use ottla_partition::MayWait;
use ottla_storage::DirectoryHealth;
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
    urgent: Queue,
    background: Queue,
}

/// Brackets a write, so that one which does not return is seen ([`DirectoryHealth::begin_write`]).
pub fn writing<T>(health: &DirectoryHealth, write: impl FnOnce() -> T) -> T {
    let under_way = health.begin_write();
    let outcome = if under_way.may_hold { write() } else { run_blocking(write) };
    health.end_write(under_way);
    outcome
}

/// As [`writing`], for a client. None, and nothing is written: the write would have to wait beside too many others.
pub fn writing_for_client<T>(health: &DirectoryHealth, write: impl FnOnce() -> T) -> Option<T> {
    let under_way = health.begin_write();
    let outcome = if under_way.may_hold { Some(write()) } else { waiting(health, write) };
    health.end_write(under_way);
    outcome
}

/// Waits for the directory on behalf of a client, by [`run_blocking`]; none if too many do.
pub fn waiting<T>(health: &DirectoryHealth, wait: impl FnOnce() -> T) -> Option<T> {
    if !health.begin_wait() {
        return None;
    }
    let outcome = run_blocking(wait);
    health.end_wait();
    Some(outcome)
}

/// Reads what is not in memory, on behalf of a client; none, and nothing is read, if too many do.
pub fn reading<T>(health: &DirectoryHealth, read: impl FnOnce() -> T) -> Option<T> {
    if !health.begin_read() {
        return None;
    }
    let outcome = read();
    health.end_read();
    Some(outcome)
}

/// Runs work that may block for long; the runtime moves its other tasks to another thread.
pub fn run_blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Does something with each of `items`, on this thread and on others, `threads` together.
pub fn shared_out<T: Send>(mut items: Vec<T>, threads: usize, each: impl Fn(T) + Sync) {
    let each = &each;
    let share = items.len().div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        while items.len() > share {
            let others = items.split_off(items.len() - share);
            scope.spawn(move || others.into_iter().for_each(each));
        }
        items.into_iter().for_each(each);
    });
}

/// Work that is repeated for as long as a disk is in trouble, and that may wait for that disk: on one thread at most.
#[derive(Default)]
pub struct OneThread(Option<tokio::task::JoinHandle<()>>);

impl OneThread {
    /// Begins the work on a thread that may wait, unless the last one has not ended; returns when it has ended, and
    /// after `limit` in any case.
    pub async fn run(&mut self, limit: Duration, work: impl FnOnce() + Send + 'static) {
        let running = self.0.get_or_insert_with(|| tokio::task::spawn_blocking(work));
        if tokio::time::timeout(limit, running).await.is_ok() {
            self.0 = None;
        }
    }
}

/// Reads that wait for a disk hold up no runtime's other tasks.
pub struct Blocking;

impl MayWait for Blocking {
    fn wait_for<T>(&self, read: impl FnOnce() -> T) -> T {
        run_blocking(read)
    }
}

impl DirectoryIo {
    /// Starts the threads.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { urgent: Queue::start("log-urgent")?, background: Queue::start("log-background")? })
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
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn stopping_finishes_what_was_queued() {
        let io = DirectoryIo::start().expect("threads start");
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
    fn what_is_shared_out_is_done_once_each() {
        for (items, threads, together) in [(0, 2, 1), (1, 0, 1), (7, 1, 1), (7, 2, 2), (9, 3, 3), (2, 5, 2)] {
            let done = Mutex::new(Vec::new());
            let each = |item: u64| done.lock().push((item, std::thread::current().id()));
            shared_out((0..items).collect(), threads, each);
            let (mut done, workers): (Vec<_>, std::collections::HashSet<_>) = done.into_inner().into_iter().unzip();
            done.sort_unstable();
            assert_eq!(done, (0..items).collect::<Vec<_>>());
            assert_eq!(workers.len(), together.min(done.len()), "{items} by {threads}");
        }
    }

    /// A directory whose writes did not come back got a thread more with each look, once a second.
    #[tokio::test]
    async fn repeated_work_that_waits_has_one_thread() {
        let mut one = OneThread::default();
        let begun = Arc::new(AtomicU64::new(0));
        let (end, ends) = mpsc::channel::<()>();
        let ends = Arc::new(Mutex::new(ends));
        let work = || {
            let (begun, ends) = (begun.clone(), ends.clone());
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                // Also when the sender is gone.
                let _ = ends.lock().recv();
            }
        };
        for _ in 0..5 {
            one.run(Duration::from_millis(20), work()).await;
        }
        assert!(begun.load(Ordering::Relaxed) <= 1);
        drop(end);
        for _ in 0..2 {
            one.run(Duration::from_secs(60), work()).await;
        }
        // The first one ended, and one after it.
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }
}
