//! Answers that wait for one partition: of Produce for its high watermark, of DeleteRecords for its low watermark.

use ottla_model::{Deferred, Offset};

/// An answer that waits.
pub trait Ack {
    /// The response is no longer needed: the request timed out, or its connection ended.
    fn is_abandoned(&self) -> bool;
}

/// Below this many, abandoned answers are not looked for: they go when the watermark passes them.
const SWEEP_MIN: usize = 1_024;

#[derive(Debug)]
pub struct AckWaiters<A> {
    deferred: Deferred<Offset, A>,
    /// Abandoned answers are dropped when there are this many.
    sweep_at: usize,
}

impl<A> Default for AckWaiters<A> {
    fn default() -> Self {
        Self { deferred: Deferred::default(), sweep_at: 0 }
    }
}

impl<A: Ack> AckWaiters<A> {
    /// `ack` completes when the watermark reaches `position`.
    pub fn push(&mut self, position: Offset, ack: A) {
        if self.deferred.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.drop_abandoned();
        }
        self.deferred.push(position, ack);
    }

    /// A leader that is cut off keeps a waiter for every request that timed out meanwhile. Amortised constant time.
    fn drop_abandoned(&mut self) {
        self.deferred.retain(|ack| !ack.is_abandoned());
        self.sweep_at = self.deferred.len() * 2;
    }

    pub fn complete_up_to(&mut self, watermark: Offset) -> Vec<A> {
        if self.deferred.is_empty() { Vec::new() } else { self.deferred.complete_up_to(watermark) }
    }

    pub fn take_all(&mut self) -> Vec<A> {
        if self.deferred.is_empty() { Vec::new() } else { self.deferred.fail_all() }
    }

    pub fn len(&self) -> usize {
        self.deferred.len()
    }

    pub fn is_empty(&self) -> bool {
        self.deferred.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Waiter {
        is_abandoned: bool,
    }

    impl Ack for Waiter {
        fn is_abandoned(&self) -> bool {
            self.is_abandoned
        }
    }

    fn push(waiters: &mut AckWaiters<Waiter>, count: i64, is_abandoned: bool) {
        (0..count).for_each(|position| waiters.push(Offset(position), Waiter { is_abandoned }));
    }

    #[test]
    fn abandoned_waiters_are_dropped() {
        let mut waiters = AckWaiters::default();
        push(&mut waiters, 10_000, true);
        assert!(waiters.len() <= SWEEP_MIN);
        assert!(waiters.len() > SWEEP_MIN / 4, "not with every push");
    }

    /// Those that stay are not looked through again before there are twice as many.
    #[test]
    fn waiters_that_stay_double_the_number_that_is_swept() {
        let mut waiters = AckWaiters::default();
        push(&mut waiters, 1_024, false);
        push(&mut waiters, 1_024, true);
        assert_eq!(waiters.len(), 2_048);
        push(&mut waiters, 1, true);
        assert_eq!(waiters.len(), 1_025);
    }

    #[test]
    fn none_waits_once_all_are_taken() {
        let mut waiters = AckWaiters::default();
        assert!(waiters.is_empty());
        push(&mut waiters, 3, false);
        assert!(!waiters.is_empty());
        assert_eq!((waiters.complete_up_to(Offset(1)).len(), waiters.len()), (2, 1));
        assert_eq!((waiters.take_all().len(), waiters.is_empty()), (1, true));
    }
}
