//! One timer for the coordinators of all partitions of an internal topic: sleeps until the first of them has something
//! to do.

use std::sync::{Arc, Weak};

use ottla_coordinator_partition::{TimerChange, Timers};
use ottla_model::PartitionId;
use ottla_replica_manager::clock;
use ottla_resources::giving_way::give_way;
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
        Self(Arc::new(Inner { timers: Mutex::default(), sooner: Notify::new() }))
    }
}

struct Inner<T> {
    timers: Mutex<Timers<PartitionId, Weak<T>>>,
    /// The first deadline has changed.
    sooner: Notify,
}

impl<T: Ticks> Timer<T> {
    pub fn set(&self, partition: &Arc<T>, change: TimerChange) {
        let is_first = self.0.timers.lock().set(partition.number(), Arc::downgrade(partition), change);
        if is_first {
            self.0.sooner.notify_one();
        }
    }

    /// Ticks what is due, for ever.
    pub async fn run(self) {
        loop {
            let next = self.0.timers.lock().next_at();
            match next {
                Some(at) if at <= clock::monotonic() => {
                    self.tick_due();
                    // Other work of this thread has its turn: many partitions may be due at once.
                    give_way().await;
                }
                Some(at) => {
                    let _ = tokio::time::timeout_at(clock::instant(at), self.0.sooner.notified()).await;
                }
                None => self.0.sooner.notified().await,
            }
        }
    }

    fn tick_due(&self) {
        let due = self.0.timers.lock().take_due(clock::monotonic());
        for (_, partition) in due {
            if let Some(partition) = partition.upgrade() {
                // In a task of its own: a tick may write, and its disk may stall.
                tokio::spawn(async move { partition.tick() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, SyncSender};
    use std::time::Duration;

    use super::*;

    /// A coordinator whose tick tells that it has begun, and does not end before it may.
    struct Writer {
        number: PartitionId,
        begun: SyncSender<PartitionId>,
        may_end: Mutex<Receiver<()>>,
    }

    impl Ticks for Writer {
        fn number(&self) -> PartitionId {
            self.number
        }

        fn tick(self: &Arc<Self>) {
            let _ = self.begun.send(self.number);
            tokio::task::block_in_place(|| {
                let _ = self.may_end.lock().recv();
            });
        }
    }

    /// F3, A7: the sessions of all other groups stood still.
    #[test]
    fn a_tick_that_waits_for_its_disk_holds_up_no_other() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (begun, has_begun) = mpsc::sync_channel(2);
        let timer = Timer::default();
        let (partitions, ends): (Vec<_>, Vec<_>) = [1, 2]
            .map(|number| {
                let (end, may_end) = mpsc::sync_channel(1);
                let (number, begun) = (PartitionId(number), begun.clone());
                (Arc::new(Writer { number, begun, may_end: Mutex::new(may_end) }), end)
            })
            .into_iter()
            .unzip();
        let now = TimerChange { at: clock::monotonic(), instead_of: None };
        partitions.iter().for_each(|partition| timer.set(partition, now));
        runtime.spawn(timer.run());
        let patience = Duration::from_secs(60);
        let mut ticked = [(); 2].map(|()| has_begun.recv_timeout(patience).ok());
        ends.iter().for_each(|end| end.send(()).unwrap());
        ticked.sort();
        assert_eq!(ticked, [Some(PartitionId(1)), Some(PartitionId(2))]);
    }
}
