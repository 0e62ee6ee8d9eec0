//! The cleaner of compacted logs: threads that choose the log with the largest dirty share and clean it.
//!
//! - [`queue`]: which logs to examine, and when;
//! - [`run`]: one cleaning of one partition;
//! - [`throttle`], [`metrics`].
//!
//! How far each log is clean is in its directory's `cleaner-offset-checkpoint`. A log is named there before its first
//! segment is swapped, so that the next start expects gaps of offsets between its segments. A checkpoint that is too
//! low costs work; one that is too high keeps old records of a key for longer.
//!
//! Invariants: only logs that changed are examined: a log comes into the queue when it is opened, configured, or
//! begins a segment, and leaves it when nothing is left to do, so that idle logs cost nothing. A log that cannot be
//! cleaned is skipped and reported; the others go on. The threads are the cleaner's own: no directory's I/O threads
//! wait for it. Lock order: the partition's lock before the cleaner's own; none of its own is held while a partition is
//! looked at.

pub mod metrics;
mod queue;
mod run;
mod throttle;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use ottla_config::CleanerConfig;
use ottla_model::{MonotonicMs, TopicIdPartition};
use ottla_storage::compaction::{CleanError, CleanerLimits, CleaningStats, Dirt, NextLook};
use ottla_storage::{BeingWritten, DiskFault};
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use crate::clock;
use crate::live_config::LiveConfig;
use crate::log_dirs::LogDir;
use crate::manager::metrics::ReplicaMetrics;
use crate::partition::{Partition, PassedBy};
use queue::Queue;
use throttle::Throttle;

/// The least time until a log is looked at again whose disk does not answer: `log.cleaner.backoff.ms` may be 0.
const STALLED_PAUSE: Duration = Duration::from_millis(100);
/// How long a look waits while a file of its directory's offsets is written: a round may look at thousands of logs.
const FILE_PATIENCE: Duration = Duration::from_millis(5);

pub struct LogCleaner {
    live: Arc<LiveConfig>,
    metrics: Arc<ReplicaMetrics>,
    queue: Mutex<Queue>,
    /// The queue, the configuration or the end of the broker is news.
    wake: Condvar,
    /// One thread chooses at a time: the others would look at the same logs.
    choosing: Mutex<()>,
    /// Logs that are put aside, and why.
    uncleanable: Mutex<HashMap<TopicIdPartition, String>>,
    throttle: Throttle,
    stopping: AtomicBool,
    threads: Mutex<Vec<Option<JoinHandle<()>>>>,
    /// Waits until old files may be removed.
    timers: Handle,
}

/// A log that is worth cleaning.
struct Choice {
    partition: Arc<Partition>,
    /// Where the log is of which `dirt` tells. Of a replica that moves, the copy may hold what was cleaned here.
    directory: Arc<LogDir>,
    dirt: Dirt,
}

impl LogCleaner {
    /// Starts the threads.
    pub fn start(live: Arc<LiveConfig>, metrics: Arc<ReplicaMetrics>, timers: Handle) -> Arc<Self> {
        let cleaner = Arc::new(Self {
            live,
            metrics,
            queue: Mutex::default(),
            wake: Condvar::new(),
            choosing: Mutex::new(()),
            uncleanable: Mutex::default(),
            throttle: Throttle::default(),
            stopping: AtomicBool::new(false),
            threads: Mutex::default(),
            timers,
        });
        cleaner.reconfigured();
        cleaner
    }

    fn config(&self) -> CleanerConfig {
        let config = self.live.current().log_cleaner;
        CleanerConfig { threads: if config.enable { config.threads } else { 0 }, ..config }
    }

    /// The configuration may have changed: there are as many threads as it says. Those that are too many end by
    /// themselves.
    pub fn reconfigured(self: &Arc<Self>) {
        let wanted = self.config().threads;
        let mut threads = self.threads.lock();
        for number in 0..wanted {
            if threads.len() <= number {
                threads.push(None);
            }
            let Some(thread) = threads.get_mut(number) else { break };
            if thread.as_ref().is_some_and(|thread| !thread.is_finished()) || self.is_stopping() {
                continue;
            }
            let cleaner = self.clone();
            let spawned =
                std::thread::Builder::new().name("log-cleaner".to_owned()).spawn(move || cleaner.work(number));
            match spawned {
                Ok(handle) => *thread = Some(handle),
                Err(error) => tracing::error!(%error, "a cleaner's thread does not start"),
            }
        }
        drop(threads);
        // With the lock, or a thread that is about to wait would not hear of it.
        let _queue = self.queue.lock();
        self.wake.notify_all();
    }

    /// The log is there, is configured anew, or has begun a segment: it may be worth cleaning.
    pub fn may_be_dirty(&self, partition: &Arc<Partition>) {
        self.look_at(partition, self.in_a_while());
    }

    /// Also the thread that chooses says so: it may go on to clean for hours, and the others wait for a later time.
    fn look_at(&self, partition: &Arc<Partition>, at: MonotonicMs) {
        if self.queue.lock().offer(partition.id(), Arc::downgrade(partition), at) {
            self.wake.notify_one();
        }
    }

    /// What kept the log from being cleaned may be gone: it was opened, or configured anew.
    pub fn may_be_cleanable_again(&self, partition: TopicIdPartition) {
        let mut uncleanable = self.uncleanable.lock();
        if uncleanable.remove(&partition).is_some() {
            self.metrics.cleaner.uncleanable_partitions.set(uncleanable.len() as i64);
        }
    }

    /// The partition has left.
    pub fn forget(&self, id: TopicIdPartition) {
        self.queue.lock().remove(id);
        self.may_be_cleanable_again(id);
    }

    /// Ends what is under way, soon.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let mut queue = self.queue.lock();
        queue.clear();
        self.wake.notify_all();
    }

    /// Ends the threads. Waits for a piece of input or output, not for a cleaning.
    pub fn stop(&self) {
        self.begin_stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads.into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a cleaner's thread ended by a panic");
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn in_a_while(&self) -> MonotonicMs {
        MonotonicMs(clock::monotonic().0.saturating_add(millis(self.config().backoff)))
    }

    /// What a thread does.
    fn work(self: Arc<Self>, number: usize) {
        while !self.is_stopping() && number < self.config().threads {
            match self.choose() {
                Some(choice) => self.clean(&choice),
                None => self.wait(number),
            }
        }
    }

    /// Until something in the queue is due.
    fn wait(&self, number: usize) {
        let mut queue = self.queue.lock();
        if self.is_stopping() || number >= self.config().threads {
            return;
        }
        match queue.next_at() {
            None => self.wake.wait(&mut queue),
            Some(at) => {
                let left = Duration::from_millis(at.0.saturating_sub(clock::monotonic().0));
                self.wake.wait_for(&mut queue, left);
            }
        }
    }

    /// The filthiest of the logs that are due.
    fn choose(&self) -> Option<Choice> {
        let _one = self.choosing.lock();
        let now = clock::monotonic();
        // What is nearly due is looked at with it, or every log would wake a thread of its own.
        let soon = MonotonicMs(now.0.saturating_add(millis(self.config().backoff) / 8));
        let mut queue = self.queue.lock();
        let (due, is_cleaning) = (queue.take_due(now, soon), queue.is_cleaning());
        drop(queue);
        if due.is_empty() && is_cleaning {
            // What another thread has found, and cleans, still holds.
            return None;
        }
        let mut best: Option<Choice> = None;
        let mut filthiest = 0.0_f64;
        for weak in due {
            let Some(partition) = weak.upgrade().filter(|partition| self.may_clean(partition)) else { continue };
            let directory = partition.directory();
            let Some(dirt) = self.look(&partition, &directory) else { continue };
            filthiest = filthiest.max(dirt.ratio());
            if !dirt.is_worth_it() {
                self.look_again(&partition, dirt.next_look);
                continue;
            }
            let choice = Choice { partition, directory, dirt };
            let other = match best.take() {
                Some(so_far) if so_far.dirt.ratio() >= choice.dirt.ratio() => {
                    best = Some(so_far);
                    Some(choice)
                }
                so_far => {
                    best = Some(choice);
                    so_far
                }
            };
            if let Some(Choice { partition, .. }) = other {
                self.queue.lock().offer(partition.id(), Arc::downgrade(&partition), now);
                // Another thread may be free.
                self.wake.notify_one();
            }
        }
        self.metrics.cleaner.max_dirty_percent.set((filthiest * 100.0) as i64);
        if let Some(choice) = &best {
            self.queue.lock().begin(choice.partition.id());
        }
        best
    }

    fn may_clean(&self, partition: &Partition) -> bool {
        !partition.is_closed()
            && !partition.is_moving()
            && partition.settings().log.compact
            && !partition.directory().health().is_failed()
            && !self.uncleanable.lock().contains_key(&partition.id())
    }

    fn look(&self, partition: &Arc<Partition>, directory: &Arc<LogDir>) -> Option<Dirt> {
        let high_watermark = partition.high_watermark();
        let looked = match directory.health().is_stalled() {
            true => Err(PassedBy),
            false => directory
                .clean_offset_within(FILE_PATIENCE, &partition.topic_partition())
                .map_err(|BeingWritten| PassedBy)
                .and_then(|checkpoint| {
                    partition.look_in_passing(|log| {
                        // Records of a transaction that is not decided must not be cleaned.
                        let stable = log.last_stable_offset(high_watermark);
                        partition.is_in(directory).then(|| log.dirt(checkpoint, stable, clock::wall()))
                    })
                }),
        };
        match looked {
            Ok(None) => None,
            Ok(Some(Some(Ok(dirt)))) => Some(dirt),
            Ok(Some(Some(Err(error)))) => {
                partition.disk_error(directory, &error);
                None
            }
            Err(PassedBy) => {
                self.look_at(partition, self.in_a_while().max(clock::monotonic() + STALLED_PAUSE));
                None
            }
            // It has moved meanwhile.
            Ok(Some(None)) => {
                self.may_be_dirty(partition);
                None
            }
        }
    }

    fn look_again(&self, partition: &Arc<Partition>, next_look: NextLook) {
        let at = match next_look {
            NextLook::AfterRoll => return,
            NextLook::Soon => {
                // A flush may have been overtaken by a swap.
                partition.schedule_flush();
                self.in_a_while()
            }
            NextLook::At(time) => {
                let wait = u64::try_from(time.0.saturating_sub(clock::wall().0)).unwrap_or(0);
                MonotonicMs(clock::monotonic().0.saturating_add(wait).saturating_add(1)).max(self.in_a_while())
            }
        };
        self.look_at(partition, at);
    }

    fn clean(self: &Arc<Self>, choice: &Choice) {
        let id = choice.partition.id();
        let started = clock::monotonic();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run::clean(self, choice)));
        let again_at = match outcome {
            Ok(Ok(stats)) => {
                self.cleaned(choice, stats, started);
                Some(clock::monotonic())
            }
            Ok(Err(error)) => self.failed(choice, error),
            Err(_) => {
                self.put_aside(&choice.partition, "the cleaner panicked".to_owned());
                None
            }
        };
        let mut queue = self.queue.lock();
        queue.finish(id);
        // One that has ended was forgotten, perhaps before this.
        if let Some(at) = again_at.filter(|_| !self.is_stopping() && !choice.partition.is_closed()) {
            queue.offer(id, Arc::downgrade(&choice.partition), at);
        }
        // It may have come into the queue meanwhile, which nobody waits for yet.
        self.wake.notify_one();
    }

    fn cleaned(&self, choice: &Choice, stats: CleaningStats, started: MonotonicMs) {
        let metrics = &self.metrics.cleaner;
        metrics.runs.add(1);
        metrics.indexed_bytes.add(stats.indexed_bytes);
        metrics.read_bytes.add(stats.read_bytes);
        metrics.written_bytes.add(stats.written_bytes);
        let took_ms = clock::monotonic().0.saturating_sub(started.0);
        tracing::info!(
            partition = %choice.partition.name(), from = %choice.dirt.first_dirty, keys = stats.keys,
            read_bytes = stats.read_bytes, written_bytes = stats.written_bytes,
            read_records = stats.read_records, kept_records = stats.kept_records, took_ms, "a log was cleaned"
        );
    }

    /// When to try again, if at all.
    fn failed(&self, choice: &Choice, error: CleanError) -> Option<MonotonicMs> {
        let Choice { partition, directory, .. } = choice;
        match error {
            CleanError::Aborted => Some(self.in_a_while()),
            _ if partition.is_closed() => None,
            CleanError::Io(error) => {
                self.metrics.cleaner.failures.add(1);
                tracing::warn!(partition = %partition.name(), %error, "a log is not cleaned");
                match partition.disk_error(directory, &error) {
                    DiskFault::Full | DiskFault::OutOfDescriptors | DiskFault::NameTaken => Some(self.in_a_while()),
                    // Where it is now it can be cleaned.
                    DiskFault::Failed => (!partition.is_in(directory)).then(|| self.in_a_while()),
                }
            }
            error => {
                self.put_aside(partition, error.to_string());
                None
            }
        }
    }

    fn put_aside(&self, partition: &Partition, reason: String) {
        tracing::error!(
            partition = %partition.name(), reason,
            "a log cannot be cleaned: it is left as it is until it is opened or configured anew"
        );
        self.metrics.cleaner.failures.add(1);
        let mut uncleanable = self.uncleanable.lock();
        uncleanable.insert(partition.id(), reason);
        self.metrics.cleaner.uncleanable_partitions.set(uncleanable.len() as i64);
    }

    fn limits(&self) -> CleanerLimits {
        let config = self.config();
        CleanerLimits {
            map_bytes: config.map_bytes_per_thread(),
            load_factor: config.load_factor,
            io_buffer_bytes: config.io_bytes_per_thread(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A partition that may be gone by the time that it is looked at.
type Candidate = Weak<Partition>;
