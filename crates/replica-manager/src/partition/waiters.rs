//! What waits at a partition: produce answers for the high watermark, fetches for something to read.
//!
//! Nothing here polls. An event of the partition marks those who wait while the partition's lock is held and collects
//! their wakers in [`Wakes`], which fire when that lock is free again: a task woken on another core must not run into
//! the lock that woke it.
//!
//! Locks are leaves: nothing is locked while [`FetchSignal`]'s or [`PendingAcks`]'s lock is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;
use ottla_model::ErrorCode;
use ottla_partition::Ack;
use parking_lot::Mutex;

/// Called when a partition's role or high watermark changes, in the thread that changed it.
pub trait Watcher: Send + Sync {
    /// The role or the high watermark may have changed. Called with no lock of the partition held; must not wait for
    /// one that is held while a partition is called.
    fn partition_changed(self: Arc<Self>);
}

/// Wakers to fire, and watchers to tell, once the lock under which they were collected is free. Declare it before the
/// guard: it fires on drop.
#[derive(Default)]
pub struct Wakes {
    wakers: Vec<Waker>,
    watchers: Vec<Arc<dyn Watcher>>,
}

impl Wakes {
    pub fn push(&mut self, waker: Option<Waker>) {
        self.wakers.extend(waker);
    }

    pub fn tell(&mut self, watcher: Arc<dyn Watcher>) {
        self.watchers.push(watcher);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        for watcher in self.watchers.drain(..) {
            watcher.partition_changed();
        }
    }
}

/// Whose events a subscription is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchKind {
    /// Reads below the high watermark: waits for it to move.
    Consumer,
    /// Reads up to the log's end: waits for appends. A high watermark that moved is told with the next answer, but
    /// wakes only a follower that asks for it, because consumers read there ([`Subscription::awaits_high_watermark`]).
    /// As in Kafka, others need it only when they become leaders or restart, and a wake-up a record is what a quiet
    /// partition costs.
    Replica,
}

/// Where partitions leave word for one fetch session, or for one fetch without a session.
#[derive(Default, Debug)]
pub struct FetchSignal {
    /// Slots with news, each at most once (see [`Subscription::queued`]).
    dirty: Mutex<Vec<u32>>,
    /// Something came that may complete a parked fetch.
    awake: AtomicBool,
    waker: AtomicWaker,
}

impl FetchSignal {
    /// Moves the slots with news to `into`.
    pub fn drain(&self, into: &mut impl Extend<u32>) {
        let mut dirty = self.dirty.lock();
        if !dirty.is_empty() {
            into.extend(dirty.drain(..));
        }
    }

    /// Whether something came since the last call; otherwise `context` is woken when it does.
    pub fn poll_awake(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.awake.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        if self.awake.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Lets the parked fetch look again.
    pub fn wake(&self, wakes: &mut Wakes) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            wakes.push(self.waker.take());
        }
    }
}

/// One partition's place in a session. The partition holds it while the session is interested.
#[derive(Debug)]
pub struct Subscription {
    signal: Arc<FetchSignal>,
    slot: u32,
    kind: FetchKind,
    /// The slot is in the signal's list, or the session has it in hand: one entry is enough.
    queued: AtomicBool,
    /// A follower's consumers wait for the high watermark.
    awaits_high_watermark: AtomicBool,
    /// Its place among the partition's subscribers, under the partition's lock: who leaves does not search.
    place: AtomicUsize,
}

impl Subscription {
    pub fn new(signal: Arc<FetchSignal>, slot: u32, kind: FetchKind) -> Self {
        Self {
            signal,
            slot,
            kind,
            queued: AtomicBool::new(false),
            awaits_high_watermark: AtomicBool::new(false),
            place: AtomicUsize::new(usize::MAX),
        }
    }

    /// Whether a high watermark that moves wakes this follower. Called before the look at the partition, whose lock
    /// orders it before the next move.
    pub fn set_awaits_high_watermark(&self, awaits: bool) {
        if self.awaits_high_watermark.load(Ordering::Relaxed) != awaits {
            self.awaits_high_watermark.store(awaits, Ordering::Relaxed);
        }
    }

    fn awaits_high_watermark(&self) -> bool {
        self.kind == FetchKind::Consumer || self.awaits_high_watermark.load(Ordering::Relaxed)
    }

    /// The session is about to look at the partition: what happens from now on is news again.
    pub fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }

    fn mark(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.signal.dirty.lock().push(self.slot);
        }
    }
}

/// The fetches that want to hear of one partition.
#[derive(Default, Debug)]
pub struct Subscribers(Vec<Arc<Subscription>>);

impl Subscribers {
    pub fn add(&mut self, subscription: Arc<Subscription>) {
        subscription.place.store(self.0.len(), Ordering::Relaxed);
        self.0.push(subscription);
    }

    pub fn remove(&mut self, subscription: &Arc<Subscription>) {
        let at = subscription.place.load(Ordering::Relaxed);
        if self.0.get(at).is_some_and(|known| Arc::ptr_eq(known, subscription)) {
            self.0.swap_remove(at);
            if let Some(moved) = self.0.get(at) {
                moved.place.store(at, Ordering::Relaxed);
            }
        }
    }

    /// The log's end moved.
    pub fn appended(&self, wakes: &mut Wakes) {
        for subscription in self.0.iter().filter(|s| s.kind == FetchKind::Replica) {
            subscription.mark();
            subscription.signal.wake(wakes);
        }
    }

    /// The high watermark moved.
    pub fn high_watermark_moved(&self, wakes: &mut Wakes) {
        for subscription in &self.0 {
            subscription.mark();
            if subscription.awaits_high_watermark() {
                subscription.signal.wake(wakes);
            }
        }
    }

    /// Leadership, the log's start or the partition itself changed: everybody has to look.
    pub fn changed(&self, wakes: &mut Wakes) {
        for subscription in &self.0 {
            subscription.mark();
            subscription.signal.wake(wakes);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A produce request with acks=all whose partitions wait for their high watermarks; or a DeleteRecords, for their low
/// ones.
#[derive(Debug)]
pub struct PendingAcks {
    remaining: AtomicUsize,
    /// By the partition's place in the request; none: still waits.
    outcomes: Mutex<Vec<Option<ErrorCode>>>,
    waker: AtomicWaker,
    /// Timed out, or its connection ended.
    abandoned: AtomicBool,
}

impl PendingAcks {
    /// For a request with `partitions` partitions, all of which wait at first.
    pub fn new(partitions: usize) -> Self {
        Self {
            remaining: AtomicUsize::new(partitions),
            outcomes: Mutex::new(vec![None; partitions]),
            waker: AtomicWaker::new(),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Nobody will ask for the outcome any more.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// One partition's outcome. A second one for the same partition is ignored: an answer is given once.
    pub fn complete(&self, place: usize, outcome: ErrorCode, wakes: &mut Wakes) {
        if let Some(known @ None) = self.outcomes.lock().get_mut(place) {
            *known = Some(outcome);
        } else {
            return;
        }
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            wakes.push(self.waker.take());
        }
    }

    /// Ready when every partition has its outcome.
    pub fn poll_complete(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.remaining.load(Ordering::Acquire) == 0 {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        if self.remaining.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    pub fn is_complete(&self) -> bool {
        self.remaining.load(Ordering::Acquire) == 0
    }

    /// None while it waits.
    pub fn outcome(&self, place: usize) -> Option<ErrorCode> {
        self.outcomes.lock().get(place).copied().flatten()
    }
}

/// One partition's part of a request that waits.
#[derive(Clone, Debug)]
pub struct PendingAck {
    pub pending: Arc<PendingAcks>,
    /// The partition's place in the request.
    pub place: usize,
}

impl PendingAck {
    pub fn complete(&self, outcome: ErrorCode, wakes: &mut Wakes) {
        self.pending.complete(self.place, outcome, wakes);
    }
}

impl Ack for PendingAck {
    fn is_abandoned(&self) -> bool {
        self.pending.abandoned.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_request_completes_when_its_last_partition_does() {
        let pending = Arc::new(PendingAcks::new(3));
        pending.complete(1, ErrorCode::InvalidRecord, &mut Wakes::default());
        let ack = |place| PendingAck { pending: pending.clone(), place };
        ack(0).complete(ErrorCode::None, &mut Wakes::default());
        assert!(pending.poll_complete(&mut context()).is_pending());
        ack(2).complete(ErrorCode::NotLeaderOrFollower, &mut Wakes::default());
        // An answer is given once.
        ack(0).complete(ErrorCode::NotLeaderOrFollower, &mut Wakes::default());
        assert!(pending.poll_complete(&mut context()).is_ready());
        assert_eq!(pending.outcome(0), Some(ErrorCode::None));
        assert_eq!(pending.outcome(1), Some(ErrorCode::InvalidRecord));
        assert_eq!(pending.outcome(2), Some(ErrorCode::NotLeaderOrFollower));
    }

    #[test]
    fn subscribers_leave_in_any_order() {
        let mut subscribers = Subscribers::default();
        let signal = Arc::new(FetchSignal::default());
        let all: Vec<_> = (0..7)
            .map(|slot| Arc::new(Subscription::new(signal.clone(), slot, FetchKind::Consumer)))
            .inspect(|subscription| subscribers.add(subscription.clone()))
            .collect();
        for (left, slot) in [3_usize, 6, 0, 5, 5, 1, 2, 4].into_iter().enumerate() {
            subscribers.remove(&all[slot]);
            let mut known: Vec<_> = subscribers.0.iter().map(|subscription| subscription.slot).collect();
            known.sort_unstable();
            assert!(!known.contains(&(slot as u32)), "after {left} others");
        }
        assert!(subscribers.is_empty());
    }

    #[test]
    fn a_high_watermark_wakes_consumers_and_only_marks_replicas() {
        let (consumer, replica) = (Arc::new(FetchSignal::default()), Arc::new(FetchSignal::default()));
        let mut subscribers = Subscribers::default();
        let first = Arc::new(Subscription::new(consumer.clone(), 4, FetchKind::Consumer));
        subscribers.add(first.clone());
        subscribers.add(Arc::new(Subscription::new(replica.clone(), 9, FetchKind::Replica)));
        subscribers.high_watermark_moved(&mut Wakes::default());
        subscribers.high_watermark_moved(&mut Wakes::default());
        assert!(consumer.poll_awake(&mut context()).is_ready());
        assert!(replica.poll_awake(&mut context()).is_pending());
        let mut slots = Vec::new();
        consumer.drain(&mut slots);
        replica.drain(&mut slots);
        assert_eq!(slots, [4, 9]);
        subscribers.appended(&mut Wakes::default());
        assert!(consumer.poll_awake(&mut context()).is_pending());
        assert!(replica.poll_awake(&mut context()).is_ready());
        subscribers.remove(&first);
        assert_eq!(subscribers.len(), 1);
    }
}
