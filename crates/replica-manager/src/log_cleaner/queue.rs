//! Which logs are to be looked at, and when. A log that is being cleaned waits until that is over.

use std::collections::{HashMap, HashSet};

use ottla_model::{MonotonicMs, TopicIdPartition};

use super::Candidate;

#[derive(Default)]
pub(super) struct Queue<C = Candidate> {
    waiting: HashMap<TopicIdPartition, (MonotonicMs, C)>,
    in_progress: HashSet<TopicIdPartition>,
}

impl<C: Clone> Queue<C> {
    /// A log to be looked at, at this time or earlier. Says whether it is the next one: who waits for another must
    /// wake.
    pub fn offer(&mut self, id: TopicIdPartition, candidate: C, at: MonotonicMs) -> bool {
        let next = self.next_at();
        let earliest = self.waiting.get(&id).map_or(at, |(known, _)| at.min(*known));
        // A replica that has come back is another one than that which waits, perhaps, after it has ended.
        self.waiting.insert(id, (earliest, candidate));
        !self.in_progress.contains(&id) && next.is_none_or(|next| at < next)
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<MonotonicMs> {
        let free = self.waiting.iter().filter(|(id, _)| !self.in_progress.contains(id));
        free.map(|(_, (at, _))| *at).min()
    }

    /// Takes out what is due; with it, if there is any, what is due until `soon`.
    pub fn take_due(&mut self, now: MonotonicMs, soon: MonotonicMs) -> Vec<C> {
        if self.next_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let in_progress = &self.in_progress;
        let due = self.waiting.extract_if(|id, (at, _)| *at <= soon && !in_progress.contains(id));
        due.map(|(_, (_, candidate))| candidate).collect()
    }

    pub fn begin(&mut self, id: TopicIdPartition) {
        self.in_progress.insert(id);
    }

    pub fn is_cleaning(&self) -> bool {
        !self.in_progress.is_empty()
    }

    pub fn finish(&mut self, id: TopicIdPartition) {
        self.in_progress.remove(&id);
    }

    pub fn remove(&mut self, id: TopicIdPartition) {
        self.waiting.remove(&id);
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionId, TopicId};

    use super::*;

    fn id(number: i32) -> TopicIdPartition {
        TopicIdPartition { topic_id: TopicId([1; 16]), partition: PartitionId(number) }
    }

    #[test]
    fn the_earliest_wakes_and_brings_its_neighbours() {
        let mut queue: Queue<i32> = Queue::default();
        assert_eq!(queue.next_at(), None);
        assert!(queue.offer(id(1), 1, MonotonicMs(100)));
        assert!(!queue.offer(id(2), 2, MonotonicMs(110)));
        assert!(!queue.offer(id(3), 3, MonotonicMs(500)));
        assert!(!queue.offer(id(1), 1, MonotonicMs(900)), "the earlier time stays");
        assert!(queue.offer(id(4), 4, MonotonicMs(50)));
        assert!(queue.take_due(MonotonicMs(49), MonotonicMs(60)).is_empty());
        let mut due = queue.take_due(MonotonicMs(50), MonotonicMs(120));
        due.sort_unstable();
        assert_eq!(due, [1, 2, 4]);
        assert_eq!(queue.next_at(), Some(MonotonicMs(500)));
    }

    /// The one that had ended was looked at, and the log was not cleaned before it had begun another segment.
    #[test]
    fn a_replica_that_comes_back_takes_the_place_of_the_one_that_ended() {
        let mut queue: Queue<&str> = Queue::default();
        queue.offer(id(1), "ended", MonotonicMs(100));
        queue.offer(id(1), "came back", MonotonicMs(200));
        assert_eq!(queue.take_due(MonotonicMs(100), MonotonicMs(100)), ["came back"]);
    }

    #[test]
    fn what_is_being_cleaned_waits() {
        let mut queue: Queue<i32> = Queue::default();
        queue.begin(id(1));
        assert!(!queue.offer(id(1), 1, MonotonicMs(0)));
        assert_eq!(queue.next_at(), None);
        assert!(queue.take_due(MonotonicMs(9), MonotonicMs(9)).is_empty());
        queue.finish(id(1));
        assert_eq!(queue.take_due(MonotonicMs(9), MonotonicMs(9)), [1]);
    }
}
