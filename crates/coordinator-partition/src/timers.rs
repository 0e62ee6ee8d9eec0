//! When each partition of a topic has something to do.

use std::collections::BTreeMap;

use ottla_model::MonotonicMs;

use crate::outputs::TimerChange;

/// Partitions (`K`) by the time of their next tick, each with a way to it (`V`).
#[derive(Debug)]
pub struct Timers<K, V> {
    due: BTreeMap<(MonotonicMs, K), V>,
}

impl<K: Ord, V> Default for Timers<K, V> {
    fn default() -> Self {
        Self { due: BTreeMap::new() }
    }
}

impl<K: Ord + Copy, V> Timers<K, V> {
    /// Returns whether it is due before all others.
    pub fn set(&mut self, key: K, value: V, change: TimerChange) -> bool {
        if let Some(former) = change.instead_of {
            self.due.remove(&(former, key));
        }
        let is_first = self.next_at().is_none_or(|first| change.at < first);
        self.due.insert((change.at, key), value);
        is_first
    }

    pub fn next_at(&self) -> Option<MonotonicMs> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out those whose time has come, the earliest first.
    pub fn take_due(&mut self, now: MonotonicMs) -> Vec<(K, V)> {
        let mut due = Vec::new();
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let (_, key) = *entry.key();
            due.push((key, entry.remove()));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_is_set_again_is_due_once() {
        let mut timers = Timers::default();
        let change =
            |at, instead_of: Option<u64>| TimerChange { at: MonotonicMs(at), instead_of: instead_of.map(MonotonicMs) };
        assert!(timers.set(1, "one", change(50, None)));
        assert!(!timers.set(2, "two", change(60, None)));
        assert!(timers.set(2, "two", change(40, Some(60))));
        assert_eq!(timers.next_at(), Some(MonotonicMs(40)));
        assert!(timers.take_due(MonotonicMs(39)).is_empty());
        assert_eq!(timers.take_due(MonotonicMs(70)), [(2, "two"), (1, "one")]);
        assert_eq!(timers.next_at(), None);
    }
}
