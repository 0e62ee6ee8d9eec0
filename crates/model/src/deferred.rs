//! Answers that wait for a log position: a produce for the high watermark, an admin change for a revision.

use std::collections::VecDeque;

/// Room for this many waiting items is kept when none waits any more: a partition that is written to has a few at a
/// time. More came with a burst, and goes with it.
const KEPT_ITEMS: usize = 64;

/// Waiting items, ordered by the position that each waits for. Items with the same position complete in the order of
/// arrival.
#[derive(Debug)]
pub struct Deferred<P, T> {
    /// In order. A log grows at its end, so nearly every item is the last one when it comes.
    waiting: VecDeque<(P, T)>,
}

impl<P: Ord + Copy, T> Default for Deferred<P, T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<P: Ord + Copy, T> Deferred<P, T> {
    /// `answer` completes once the log has reached `position`.
    pub fn push(&mut self, position: P, answer: T) {
        let is_last = self.waiting.back().is_none_or(|(last, _)| *last <= position);
        let place = if is_last { self.waiting.len() } else { self.waiting_up_to(position) };
        self.waiting.insert(place, (position, answer));
    }

    /// How many items wait for `position` or an earlier one.
    fn waiting_up_to(&self, position: P) -> usize {
        self.waiting.partition_point(|(waits_for, _)| *waits_for <= position)
    }

    /// Everything that waited for `position` or an earlier one.
    pub fn complete_up_to(&mut self, position: P) -> Vec<T> {
        let done = self.waiting_up_to(position);
        let done = self.waiting.drain(..done).map(|(_, answer)| answer).collect();
        self.give_room_back();
        done
    }

    /// All waiting items, in order: the position will not be reached here.
    pub fn fail_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiting).into_iter().map(|(_, answer)| answer).collect()
    }

    /// Keeps only the items for which `keep` returns true, for example those whose request has not timed out.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.waiting.retain(|(_, answer)| keep(answer));
        self.give_room_back();
    }

    fn give_room_back(&mut self) {
        if self.waiting.is_empty() {
            self.waiting.shrink_to(KEPT_ITEMS);
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_in_order_of_position_then_of_arrival() {
        let mut deferred = Deferred::default();
        deferred.push(5, 'c');
        deferred.push(2, 'a');
        deferred.push(2, 'b');
        assert_eq!(deferred.complete_up_to(1), []);
        assert_eq!(deferred.complete_up_to(4), ['a', 'b']);
        assert_eq!(deferred.len(), 1);
        deferred.push(9, 'd');
        deferred.retain(|answer| *answer != 'd');
        assert_eq!(deferred.len(), 1);
        assert_eq!(deferred.fail_all(), ['c']);
        assert!(deferred.is_empty());
    }

    /// A retry waits for the position of its original, which is not the last one.
    #[test]
    fn positions_may_come_in_any_order() {
        let mut deferred = Deferred::default();
        let positions = [7, 3, 9, 3, 1, 9, 7, 4];
        for (arrival, position) in positions.into_iter().enumerate() {
            deferred.push(position, (position, arrival));
        }
        let mut expected: Vec<_> = positions.into_iter().zip(0..).collect();
        expected.sort_unstable();
        let mut completed = Vec::new();
        for position in 0..10 {
            let done = deferred.complete_up_to(position);
            assert!(done.iter().all(|(waited_for, _)| *waited_for == position), "{position}: {done:?}");
            completed.extend(done);
        }
        assert_eq!(completed, expected);
    }

    #[test]
    fn the_room_of_a_burst_is_given_back() {
        let mut deferred = Deferred::default();
        (0..10_000).for_each(|position| deferred.push(position, ()));
        assert_eq!(deferred.complete_up_to(10_000).len(), 10_000);
        assert!(deferred.waiting.capacity() <= 2 * KEPT_ITEMS, "{}", deferred.waiting.capacity());
    }
}
