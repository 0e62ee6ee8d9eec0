//! Answers that wait for a log position: a produce for the high watermark, an admin change for a revision.

use std::collections::BTreeMap;

/// Waiting items, ordered by the position that each waits for. Items with the same position complete in the order of
/// arrival.
#[derive(Debug)]
pub struct Deferred<P, T> {
    waiting: BTreeMap<P, Vec<T>>,
    len: usize,
}

impl<P: Ord + Copy, T> Default for Deferred<P, T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), len: 0 }
    }
}

impl<P: Ord + Copy, T> Deferred<P, T> {
    /// `answer` completes once the log has reached `position`.
    pub fn push(&mut self, position: P, answer: T) {
        self.waiting.entry(position).or_default().push(answer);
        self.len += 1;
    }

    /// Everything that waited for `position` or an earlier one.
    pub fn complete_up_to(&mut self, position: P) -> Vec<T> {
        let mut done = Vec::new();
        while let Some(entry) = self.waiting.first_entry() {
            if *entry.key() > position {
                break;
            }
            done.append(&mut entry.remove());
        }
        self.len -= done.len();
        done
    }

    /// All waiting items, in order: the position will not be reached here.
    pub fn fail_all(&mut self) -> Vec<T> {
        self.len = 0;
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }

    /// Keeps only the items for which `keep` returns true, for example those whose request has not timed out.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.waiting.retain(|_, answers| {
            answers.retain(&mut keep);
            !answers.is_empty()
        });
        self.len = self.waiting.values().map(Vec::len).sum();
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
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
}
