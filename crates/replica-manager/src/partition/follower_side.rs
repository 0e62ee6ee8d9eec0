//! The follower's side of a partition's handle, and the flushing of its log.

use std::sync::Arc;
use std::time::Duration;

use ottla_model::{LeaderEpoch, MonotonicMs, Offset, TimestampMs};
use ottla_partition::{FollowerEffects, take_flushed};
use ottla_replication::{FetchAnswer, FetchPosition, FollowerStep};

use super::waiters::Wakes;
use super::{Partition, State};
use crate::clock;
use crate::log_io;

impl Partition {
    /// What a fetcher does with this follower of `leader_epoch` now.
    pub fn next_step(&self, leader_epoch: LeaderEpoch) -> FollowerStep {
        self.lock().replica.next_step(leader_epoch)
    }

    /// The leader's answer to `asked`.
    pub fn follower_answered(
        self: &Arc<Self>,
        asked: FetchPosition,
        answer: &FetchAnswer,
        records: &[u8],
        wall: TimestampMs,
    ) -> FollowerStep {
        let mut wakes = Wakes::default();
        let mut guard = self.lock();
        let state = &mut *guard;
        let health = self.directory.load().health().clone();
        let now = clock::monotonic();
        let replica = &mut state.replica;
        let effects = log_io::writing(&health, || replica.leader_answered(asked, answer, records, now, wall));
        let rolled = effects.rolled;
        let step = self.execute_follower(state, effects, &mut wakes);
        drop(guard);
        if rolled {
            self.rolled();
        }
        step
    }

    /// The answer to [`FollowerStep::AskLeaderBounds`]; none if the leader gave none.
    pub fn leader_bounds(
        self: &Arc<Self>,
        leader_epoch: LeaderEpoch,
        bounds: Option<(Offset, Offset)>,
    ) -> FollowerStep {
        let mut wakes = Wakes::default();
        let mut guard = self.lock();
        let state = &mut *guard;
        let health = self.directory.load().health().clone();
        let replica = &mut state.replica;
        let effects = log_io::writing(&health, || replica.leader_bounds(leader_epoch, bounds, clock::wall()));
        self.execute_follower(state, effects, &mut wakes)
    }

    fn execute_follower(
        self: &Arc<Self>,
        state: &mut State,
        effects: FollowerEffects,
        wakes: &mut Wakes,
    ) -> FollowerStep {
        if effects.appended {
            self.append_succeeded();
            let flush_ms = state.replica.log().map_or(i64::MAX, |log| log.config().flush_ms);
            if flush_ms < i64::MAX {
                self.start_flush_timer(flush_ms);
            }
        }
        if let Some(high_watermark) = effects.high_watermark {
            self.publish(high_watermark);
            state.subscribers.high_watermark_moved(wakes);
        }
        if effects.log_start_moved {
            state.subscribers.changed(wakes);
        }
        if let Some(truncated) = effects.truncated {
            self.log_was_cut(&truncated);
        }
        if let Some(error) = effects.disk_error {
            self.disk_refused(&state.replica, &error.text, error.cause.as_ref());
        }
        if let Some(error) = effects.refused {
            tracing::warn!(partition = %self.name(), %error, "records of the leader are not appended");
        }
        effects.step
    }

    /// The next fetch of this follower differs from the one that waits at its leader. Not in the caller's thread, which
    /// holds a fetch session's lock: the fetchers look at partitions.
    pub(super) fn fetch_anew(self: &Arc<Self>) {
        let Some(fetchers) = self.context.fetchers.upgrade() else { return };
        let partition = self.clone();
        self.context.data.spawn(async move { fetchers.update([partition]) });
    }

    /// The log has begun a segment: what the one before holds is to be synced, and may be compacted.
    pub(super) fn rolled(self: &Arc<Self>) {
        self.schedule_flush();
        if self.settings.load().log.compact {
            self.context.cleaner.may_be_dirty(self);
        }
    }

    /// Lets an I/O thread sync what the log has, without the partition's lock.
    pub(crate) fn schedule_flush(self: &Arc<Self>) {
        if self.flushing.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return;
        }
        let partition = self.clone();
        self.directory.load().run(crate::log_io::Urgency::Background, move || {
            partition.flushing.store(false, std::sync::atomic::Ordering::Release);
            partition.flush(clock::monotonic());
        });
    }

    /// `flush.ms`: what was appended last is synced too, though nothing follows it.
    pub(super) fn start_flush_timer(self: &Arc<Self>, flush_ms: i64) {
        if self.flush_timer.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return;
        }
        let partition = Arc::downgrade(self);
        self.context.data.spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(flush_ms).unwrap_or(0))).await;
            if let Some(partition) = partition.upgrade() {
                partition.flush_timer.store(false, std::sync::atomic::Ordering::Release);
                partition.schedule_flush();
            }
        });
    }

    /// Syncs what the log has now. On an I/O thread: it waits for the disk.
    pub fn flush(&self, now: MonotonicMs) {
        let work = self.with_log(|log| Some((log.flush_work()?, self.directory())));
        let Some(Some((work, directory))) = work else { return };
        match work.run() {
            Ok(done) => {
                if self.with_log(|log| take_flushed(log, done, now)) == Some(true) {
                    self.context.segment_flushed.notify_one();
                }
            }
            Err(error) => {
                let state = self.lock();
                if self.is_in(&directory) {
                    self.disk_refused(&state.replica, &error, Some(&error));
                } else {
                    // The replica has moved since: it is the disk that it has left.
                    self.disk_error(&directory, &error);
                }
            }
        }
    }
}
