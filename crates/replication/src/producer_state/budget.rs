//! How many producers all logs of a broker remember together. Anybody can write under a new id with each batch, to any
//! number of partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shared by the logs of a broker. A log below its share is not affected by what others remember; so all logs together
/// hold less than twice the ceiling.
#[derive(Debug)]
pub struct ProducerBudget {
    ceiling: usize,
    producers: AtomicUsize,
    /// Logs that remember any.
    logs: AtomicUsize,
    forgotten: AtomicUsize,
}

impl ProducerBudget {
    pub fn new(ceiling: usize) -> Arc<Self> {
        let count = || AtomicUsize::new(0);
        Arc::new(Self { ceiling, producers: count(), logs: count(), forgotten: count() })
    }

    pub fn used(&self) -> usize {
        self.producers.load(Ordering::Relaxed)
    }

    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Producers that were forgotten before their time, since the start.
    pub fn forgotten(&self) -> usize {
        self.forgotten.load(Ordering::Relaxed)
    }

    fn share(&self) -> usize {
        (self.ceiling / self.logs.load(Ordering::Relaxed).max(1)).max(1)
    }
}

/// What one log holds of the budget.
#[derive(Debug, Default)]
pub(super) struct Held {
    budget: Option<Arc<ProducerBudget>>,
    count: usize,
}

impl Held {
    pub(super) fn new(budget: Option<Arc<ProducerBudget>>) -> Self {
        Self { budget, count: 0 }
    }

    pub(super) fn set(&mut self, count: usize) {
        if count == self.count {
            return;
        }
        if let Some(budget) = &self.budget {
            match (self.count, count) {
                (0, _) => budget.logs.fetch_add(1, Ordering::Relaxed),
                (_, 0) => budget.logs.fetch_sub(1, Ordering::Relaxed),
                _ => 0,
            };
            if count > self.count {
                budget.producers.fetch_add(count - self.count, Ordering::Relaxed);
            } else {
                budget.producers.fetch_sub(self.count - count, Ordering::Relaxed);
            }
        }
        self.count = count;
    }

    /// Whether a log that remembers so many has to forget some before it remembers another.
    pub(super) fn is_over_share(&self, count: usize) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.used() >= budget.ceiling && count >= budget.share())
    }

    pub(super) fn forgotten(&self, count: usize) {
        if let Some(budget) = &self.budget {
            budget.forgotten.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        let mut clone = Self::new(self.budget.clone());
        clone.set(self.count);
        clone
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two logs that remember so many.
    fn two_logs(ceiling: usize, (one, other): (usize, usize)) -> (Arc<ProducerBudget>, Held, Held) {
        let budget = ProducerBudget::new(ceiling);
        let held = |count| {
            let mut held = Held::new(Some(budget.clone()));
            held.set(count);
            held
        };
        let (one, other) = (held(one), held(other));
        (budget, one, other)
    }

    #[test]
    fn a_log_over_its_share_forgets_only_when_the_budget_is_used_up() {
        let (budget, one, mut other) = two_logs(10, (6, 3));
        assert_eq!((budget.used(), budget.ceiling()), (9, 10));
        assert!(!one.is_over_share(6), "there is room for one more");
        other.set(4);
        assert!(one.is_over_share(6) && one.is_over_share(5) && !one.is_over_share(4), "half of ten");
        let (_, one, _other) = two_logs(1, (1, 1));
        assert!(one.is_over_share(1) && !one.is_over_share(0), "each log may remember one");
        assert!(!Held::new(None).is_over_share(usize::MAX), "without a budget");
    }

    #[test]
    fn a_log_that_is_emptied_leaves_its_share_to_the_others() {
        let (budget, mut one, mut other) = two_logs(10, (6, 4));
        other.set(0);
        one.set(10);
        assert_eq!(budget.used(), 10);
        assert!(one.is_over_share(10) && !one.is_over_share(9), "it is alone");
        one.set(7);
        other.set(3);
        assert!(one.is_over_share(5) && !one.is_over_share(4), "half of ten again");
    }

    #[test]
    fn a_copy_counts_until_it_is_dropped() {
        let (budget, one, other) = two_logs(10, (10, 0));
        let copy = one.clone();
        assert_eq!(budget.used(), 20);
        assert!(one.is_over_share(5), "two logs");
        drop((copy, other));
        assert_eq!(budget.used(), 10);
        assert!(!one.is_over_share(9), "one log");
        drop(one);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn producers_that_were_forgotten_before_their_time_are_counted() {
        let (budget, one, other) = two_logs(10, (6, 4));
        assert_eq!(budget.forgotten(), 0);
        one.forgotten(3);
        other.forgotten(2);
        assert_eq!(budget.forgotten(), 5);
    }
}
