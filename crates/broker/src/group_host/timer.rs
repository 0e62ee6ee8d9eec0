//! One timer for the groups of all partitions: sleeps until the first of them has something to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ottla_model::{MonotonicMs, PartitionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shard::HostedShard;
use crate::clock;

/// Shared by all partitions.
#[derive(Clone, Default)]
pub(super) struct Timer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    due: Mutex<BTreeMap<(MonotonicMs, PartitionId), Weak<HostedShard>>>,
    /// The first deadline is another one.
    sooner: Notify,
}

impl Timer {
    /// Ticks `shard` at `at`, instead of at `instead_of`.
    pub fn set(&self, shard: &Arc<HostedShard>, at: MonotonicMs, instead_of: Option<MonotonicMs>) {
        let partition = shard.number();
        let mut due = self.0.due.lock();
        if let Some(former) = instead_of {
            due.remove(&(former, partition));
        }
        let is_first = due.keys().next().is_none_or(|(first, _)| at < *first);
        due.insert((at, partition), Arc::downgrade(shard));
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
        for ((at, _), shard) in due {
            if let Some(shard) = shard.upgrade() {
                shard.tick(at);
            }
        }
    }
}
