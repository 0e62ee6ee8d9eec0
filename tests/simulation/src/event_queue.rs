//! What happens when, in all worlds: one queue, in the order of time, and of scheduling where the time is the same.

use std::collections::BTreeMap;

use crate::clock::SimTime;

#[derive(Debug)]
pub struct EventQueue<E> {
    events: BTreeMap<(SimTime, u64), E>,
    last: u64,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), last: 0 }
    }
}

impl<E> EventQueue<E> {
    pub fn schedule(&mut self, at: SimTime, event: E) {
        self.last += 1;
        self.events.insert((at, self.last), event);
    }

    /// The next event that happens by `end`, and when.
    pub fn next_until(&mut self, end: SimTime) -> Option<(SimTime, E)> {
        let next = self.events.first_entry().filter(|next| next.key().0 <= end)?;
        let ((at, _), event) = next.remove_entry();
        Some((at, event))
    }
}
