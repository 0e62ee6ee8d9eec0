//! What is due when: one deadline per group and [`Timer`], found by key and taken in order of time.
//!
//! Invariants: `deadlines` and `queue` hold the same pairs; the number of timers is bounded by the groups' members (a
//! few each). Scheduling, moving and cancelling are logarithmic, so that a heartbeat costs the same in a group of 3 and
//! of 500.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{GroupId, MemberId, MonotonicMs};

/// What a group waits for. At most one of each at a time in one group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// Classic groups: the end of the join phase (the rebalance timeout, or the initial delay).
    Join,
    /// Classic groups: members that were told of a generation have asked for their assignment by then.
    PendingSync,
    /// A member was not heard of.
    Session(MemberId),
    /// Consumer groups: the member has given up what it must by then.
    Rebalance(MemberId),
    /// Consumer groups: a member of the classic protocol has joined again by then.
    ClassicJoin(MemberId),
    /// Consumer groups: a member of the classic protocol has asked for its assignment by then.
    ClassicSync(MemberId),
}

type Key = (GroupId, Timer);

/// What the timers of one group were.
pub(crate) struct GroupTimers(Vec<(Timer, MonotonicMs, bool)>);

/// The timers of one shard.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: BTreeMap<Key, MonotonicMs>,
    /// Timers that were put off once and not set again since.
    postponed: BTreeSet<Key>,
    queue: BTreeSet<(MonotonicMs, Key)>,
}

impl Timers {
    /// Sets the timer; one that runs already is moved.
    pub(crate) fn schedule(&mut self, group: &GroupId, timer: Timer, at: MonotonicMs) {
        let key = (group.clone(), timer);
        self.postponed.remove(&key);
        if let Some(before) = self.deadlines.insert(key.clone(), at) {
            if before == at {
                return;
            }
            self.queue.remove(&(before, key.clone()));
        }
        self.queue.insert((at, key));
    }

    /// Sets a timer that was due to `at` instead, once. Returns false if that was done before.
    pub(crate) fn postpone(&mut self, group: &GroupId, timer: Timer, at: MonotonicMs) -> bool {
        let key = (group.clone(), timer);
        if self.postponed.remove(&key) {
            return false;
        }
        self.schedule(group, key.1.clone(), at);
        self.postponed.insert(key)
    }

    pub(crate) fn cancel(&mut self, group: &GroupId, timer: Timer) {
        let key = (group.clone(), timer);
        self.postponed.remove(&key);
        if let Some(at) = self.deadlines.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    /// When the timer is due; none while it does not run.
    pub(crate) fn deadline(&self, group: &GroupId, timer: Timer) -> Option<MonotonicMs> {
        self.deadlines.get(&(group.clone(), timer)).copied()
    }

    /// Ends all timers of a group that goes away or changes its type.
    pub(crate) fn cancel_group(&mut self, group: &GroupId) {
        let keys: Vec<Key> = self
            .deadlines
            .range((group.clone(), Timer::Join)..)
            .map(|(key, _)| key)
            .take_while(|(of, _)| of == group)
            .cloned()
            .collect();
        for key in keys {
            self.postponed.remove(&key);
            if let Some(at) = self.deadlines.remove(&key) {
                self.queue.remove(&(at, key));
            }
        }
    }

    /// The timers of a group.
    pub(crate) fn of_group(&self, group: &GroupId) -> GroupTimers {
        let keys = self.deadlines.range((group.clone(), Timer::Join)..).take_while(|((of, _), _)| of == group);
        GroupTimers(keys.map(|(key, at)| (key.1.clone(), *at, self.postponed.contains(key))).collect())
    }

    /// Puts a group's timers back to what they were.
    pub(crate) fn restore_group(&mut self, group: &GroupId, timers: GroupTimers) {
        self.cancel_group(group);
        for (timer, at, is_postponed) in timers.0 {
            self.schedule(group, timer.clone(), at);
            if is_postponed {
                self.postponed.insert((group.clone(), timer));
            }
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<MonotonicMs> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due, the earliest first, and tells since when it is.
    pub(crate) fn pop_due(&mut self, now: MonotonicMs) -> Option<(MonotonicMs, GroupId, Timer)> {
        if self.next()? > now {
            return None;
        }
        let (at, key) = self.queue.pop_first()?;
        self.deadlines.remove(&key);
        Some((at, key.0, key.1))
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_of_their_last_deadline() {
        let (a, b) = (GroupId::new("a"), GroupId::new("b"));
        let member = |id: &str| Timer::Session(MemberId::new(id));
        let mut timers = Timers::default();
        timers.schedule(&a, Timer::Join, MonotonicMs(30));
        timers.schedule(&a, member("m"), MonotonicMs(10));
        timers.schedule(&b, member("m"), MonotonicMs(20));
        timers.schedule(&a, member("m"), MonotonicMs(40));
        timers.schedule(&b, Timer::PendingSync, MonotonicMs(15));
        timers.cancel(&b, Timer::PendingSync);
        assert_eq!(timers.next(), Some(MonotonicMs(20)));
        assert_eq!(timers.pop_due(MonotonicMs(19)), None);
        assert_eq!(timers.pop_due(MonotonicMs(35)), Some((MonotonicMs(20), b.clone(), member("m"))));
        assert_eq!(timers.pop_due(MonotonicMs(35)), Some((MonotonicMs(30), a.clone(), Timer::Join)));
        assert_eq!(timers.pop_due(MonotonicMs(35)), None);
        assert_eq!(timers.deadline(&a, member("m")), Some(MonotonicMs(40)));
        timers.schedule(&b, Timer::Join, MonotonicMs(50));
        timers.cancel_group(&a);
        assert_eq!(timers.len(), 1);
        assert_eq!(timers.next(), Some(MonotonicMs(50)));
    }
}
