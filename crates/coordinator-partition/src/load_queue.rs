//! How many partitions of one log directory are loaded at a time. A directory whose disk stalls delays only its own.

use std::collections::{BTreeMap, VecDeque};

use crate::rules::BrokenRules;

/// Loading decodes records for most of its time, so that several cores help; each load holds a buffer
/// (`offsets.load.buffer.size`, `transaction.state.log.load.buffer.size`).
pub const LOADS_PER_DIRECTORY: usize = 4;

#[derive(Debug)]
struct Lane<L> {
    running: usize,
    waiting: VecDeque<L>,
}

/// Loads (`L`) that run or wait, by directory (`D`). As many may wait as partitions are led here: a partition asks once
/// in each leader epoch and after each failure, and what it asked for before ends at once.
#[derive(Debug)]
pub struct LoadQueue<D, L> {
    rules: BrokenRules,
    at_once: usize,
    lanes: BTreeMap<D, Lane<L>>,
}

impl<D: Ord, L> LoadQueue<D, L> {
    /// So many of a directory run `at_once`; at least one.
    pub fn new(at_once: usize, rules: BrokenRules) -> Self {
        Self { rules, at_once: at_once.max(1), lanes: BTreeMap::new() }
    }

    /// A load is asked for. Given back if it begins now; else [`Self::ended`] gives it back later.
    pub fn ask(&mut self, directory: D, load: L) -> Option<L> {
        let lane = self.lanes.entry(directory).or_insert_with(|| Lane { running: 0, waiting: VecDeque::new() });
        if lane.running >= self.at_once {
            lane.waiting.push_back(load);
            return None;
        }
        lane.running += 1;
        Some(load)
    }

    /// A load has ended, whatever came of it. Returns the one that begins in its place.
    pub fn ended(&mut self, directory: &D, is_loaded: bool) -> Option<L> {
        if !is_loaded && self.rules.failed_loads_keep_places {
            return None;
        }
        let lane = self.lanes.get_mut(directory)?;
        if let Some(next) = lane.waiting.pop_front() {
            return Some(next);
        }
        lane.running -= 1;
        if lane.running == 0 {
            self.lanes.remove(directory);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_of_a_directory_wait_for_one_another_in_order() {
        let mut queue = LoadQueue::new(2, BrokenRules::default());
        assert_eq!(["a", "b", "c", "d"].map(|load| queue.ask(1, load)), [Some("a"), Some("b"), None, None]);
        assert_eq!(queue.ask(2, "e"), Some("e"), "the disk of another directory");
        assert_eq!(queue.ended(&1, false), Some("c"), "one that failed makes room, too");
        assert_eq!(queue.ended(&1, true), Some("d"));
        assert_eq!([queue.ended(&1, true), queue.ended(&1, true)], [None, None]);
        assert_eq!(queue.ended(&1, true), None, "nothing runs there");
        assert_eq!(queue.ask(1, "f"), Some("f"));
    }
}
