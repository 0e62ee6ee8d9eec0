//! One resource: its ceiling, what is used, and how many requests for it were refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what is used of a resource, and refuses what would exceed its ceiling.
#[derive(Debug)]
pub struct Ledger {
    ceiling: u64,
    used: AtomicU64,
    refused: AtomicU64,
}

/// A part of a resource; given back when dropped.
#[derive(Debug)]
pub struct Share {
    ledger: Arc<Ledger>,
    amount: u64,
}

impl Ledger {
    pub fn new(ceiling: u64) -> Arc<Self> {
        Arc::new(Self { ceiling, used: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    pub fn ceiling(&self) -> u64 {
        self.ceiling
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Requests for a share that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A share of `amount`; none, and a refusal counted, if the ceiling does not allow it.
    pub fn take(self: &Arc<Self>, amount: u64) -> Option<Share> {
        let mut share = Share { ledger: Arc::clone(self), amount: 0 };
        share.resize(amount).then_some(share)
    }

    fn add(&self, amount: u64) -> bool {
        let more = |used: u64| used.checked_add(amount).filter(|used| *used <= self.ceiling);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

impl Share {
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Grows or shrinks to `amount`. False, and the share is as before, if the ceiling does not allow it.
    #[must_use]
    pub fn resize(&mut self, amount: u64) -> bool {
        if amount > self.amount {
            if !self.ledger.add(amount - self.amount) {
                return false;
            }
        } else {
            self.ledger.used.fetch_sub(self.amount - amount, Ordering::Relaxed);
        }
        self.amount = amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_below_the_ceiling_and_are_given_back() {
        let ledger = Ledger::new(100);
        let mut first = ledger.take(60).expect("there is room");
        assert!(ledger.take(41).is_none());
        assert_eq!((ledger.used(), ledger.refused()), (60, 1));
        assert!(first.resize(100) && !first.resize(101) && first.resize(10));
        assert_eq!((first.amount(), ledger.used(), ledger.refused()), (10, 10, 2));
        assert!(ledger.take(u64::MAX).is_none());
        drop(first);
        assert_eq!(ledger.used(), 0);
    }
}
