//! One timer for the coordinators of all partitions of an internal topic: sleeps until the first of them has something
//! to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ottla_model::{MonotonicMs, PartitionId};
use ottla_replica_manager::clock;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// A partition's coordinator.
pub trait Ticks: Send + Sync + 'static {
    fn number(&self) -> PartitionId;

    /// The time has come for which the partition had set the timer.
    fn tick(self: &Arc<Self>);
}

/// Shared by all partitions.
pub struct Timer<T>(Arc<Inner<T>>);

impl<T> Clone for Timer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Timer<T> {
    fn default() -> Self {
        Self(Arc::new(Inner { due: Mutex::default(), sooner: Notify::new() }))
    }
}

struct Inner<T> {
    due: Mutex<BTreeMap<(MonotonicMs, PartitionId), Weak<T>>>,
    /// The first deadline has changed.
    sooner: Notify,
}

impl<T: Ticks> Timer<T> {
    /// Ticks `partition` at `at`, and not at `instead_of` any more.
    pub fn set(&self, partition: &Arc<T>, at: MonotonicMs, instead_of: Option<MonotonicMs>) {
        let number = partition.number();
        let mut due = self.0.due.lock();
        if let Some(former) = instead_of {
            due.remove(&(former, number));
        }
        let is_first = due.keys().next().is_none_or(|(first, _)| at < *first);
        due.insert((at, number), Arc::downgrade(partition));
        drop(due);
        if is_first {
            self.0.sooner.notify_one();
        }
    }

    /// Ticks what is due, for ever.
    pub async fn run(self) {
        loop {
            let next = self.0.due.lock().keys().next().map(|(at, _)| *at);
            match next {
                Some(at) if at <= clock::monotonic() => {
                    self.tick_due();
                    // Other work of this thread has its turn: many partitions may be due at once.
                    tokio::task::yield_now().await;
                }
                Some(at) => {
                    let _ = tokio::time::timeout_at(clock::instant(at), self.0.sooner.notified()).await;
                }
                None => self.0.sooner.notified().await,
            }
        }
    }

    fn tick_due(&self) {
        let now = clock::monotonic();
        let due = {
            let mut all = self.0.due.lock();
            let later = all.split_off(&(MonotonicMs(now.0 + 1), PartitionId(i32::MIN)));
            std::mem::replace(&mut *all, later)
        };
        for partition in due.into_values() {
            if let Some(partition) = partition.upgrade() {
                partition.tick();
            }
        }
    }
}
