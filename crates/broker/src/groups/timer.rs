//! One timer for the groups of all partitions: sleeps until the first of them has something to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ottla_group_coordinator::offsets_partition::TimerChange;
use ottla_model::{MonotonicMs, PartitionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::partition::GroupPartition;
use crate::clock;

/// Shared by all partitions.
#[derive(Clone, Default)]
pub(super) struct Timer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    due: Mutex<BTreeMap<(MonotonicMs, PartitionId), Weak<GroupPartition>>>,
    /// The first deadline has changed.
    sooner: Notify,
}

impl Timer {
    /// Changes when `partition` is ticked.
    pub fn set(&self, partition: &Arc<GroupPartition>, change: TimerChange) {
        let TimerChange { at, instead_of } = change;
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
