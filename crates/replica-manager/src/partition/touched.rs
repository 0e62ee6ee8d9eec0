//! The partitions that something has happened to since a timer looked at them: whoever takes a partition's lock marks
//! it. The timers of an idle broker with a hundred thousand partitions look at none of them.

use std::sync::atomic::{AtomicU8, Ordering};

use ottla_model::TopicIdPartition;
use parking_lot::Mutex;

/// The timers that look at partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Followers that lag leave ISRs.
    Leaders,
    /// The bytes of the directories are added up.
    Sums,
    /// Files that are not used are closed.
    Files,
    /// Checkpoints are written.
    Checkpoints,
}

impl Pass {
    pub const ALL: [Self; 4] = [Self::Leaders, Self::Sums, Self::Files, Self::Checkpoints];
    const ALL_BITS: u8 = 0b1111;

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Which passes will look at a partition.
#[derive(Default)]
pub struct Marks(AtomicU8);

/// The partitions that each pass will look at. Each is there once, and in addition those that have been removed or
/// placed since the last pass.
#[derive(Default)]
pub struct Touched([Mutex<Vec<TopicIdPartition>>; Pass::ALL.len()]);

impl Touched {
    /// Under the partition's lock: a pass that has cleared the mark looks after this change, or finds a new mark.
    pub fn touch(&self, id: TopicIdPartition, marks: &Marks) {
        // A load first: on a busy partition all marks are set already.
        if marks.0.load(Ordering::Relaxed) != Pass::ALL_BITS {
            let before = marks.0.fetch_or(Pass::ALL_BITS, Ordering::AcqRel);
            Pass::ALL.into_iter().filter(|pass| before & pass.bit() == 0).for_each(|pass| self.push(pass, id));
        }
    }

    /// This pass is to look at the partition, or to look again.
    pub fn mark(&self, pass: Pass, id: TopicIdPartition, marks: &Marks) {
        let is_marked = |bits: u8| bits & pass.bit() != 0;
        if !is_marked(marks.0.load(Ordering::Acquire)) && !is_marked(marks.0.fetch_or(pass.bit(), Ordering::AcqRel)) {
            self.push(pass, id);
        }
    }

    fn push(&self, pass: Pass, id: TopicIdPartition) {
        let Self(lists) = self;
        if let Some(list) = lists.get(pass as usize) {
            list.lock().push(id);
        }
    }

    /// What the pass has to look at now. It clears the mark of each before it looks ([`Marks::clear`]).
    pub fn take(&self, pass: Pass) -> Vec<TopicIdPartition> {
        let Self(lists) = self;
        lists.get(pass as usize).map(|list| std::mem::take(&mut *list.lock())).unwrap_or_default()
    }
}

impl Marks {
    pub fn clear(&self, pass: Pass) {
        self.0.fetch_and(!pass.bit(), Ordering::AcqRel);
    }

    /// The passes that took the partition did not find it.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionId, TopicId};

    use super::*;

    fn id(partition: i32) -> TopicIdPartition {
        TopicIdPartition { topic_id: TopicId([1; 16]), partition: PartitionId(partition) }
    }

    #[test]
    fn a_pass_looks_at_each_touched_partition_once() {
        let (touched, marks) = (Touched::default(), [Marks::default(), Marks::default()]);
        for _ in 0..3 {
            touched.touch(id(1), &marks[1]);
        }
        assert_eq!(touched.take(Pass::Sums), [id(1)]);
        marks[1].clear(Pass::Sums);
        assert!(touched.take(Pass::Sums).is_empty());
        touched.touch(id(0), &marks[0]);
        touched.touch(id(1), &marks[1]);
        assert_eq!(touched.take(Pass::Sums), [id(0), id(1)]);
        assert_eq!(touched.take(Pass::Leaders), [id(1), id(0)], "each pass for itself");
    }

    /// A pass came while a delta placed partitions, did not find them yet, and never looked at them again: followers
    /// that lagged stayed in their ISRs, and no checkpoint was written.
    #[test]
    fn a_partition_that_was_not_found_yet_is_looked_at_once_it_can_be() {
        let (touched, marks) = (Touched::default(), Marks::default());
        touched.touch(id(0), &marks);
        assert_eq!(touched.take(Pass::Leaders), [id(0)], "and nobody clears its mark");
        marks.forget();
        touched.touch(id(0), &marks);
        assert_eq!(touched.take(Pass::Leaders), [id(0)]);
    }

    #[test]
    fn a_pass_that_is_not_done_with_a_partition_comes_again() {
        let (touched, marks) = (Touched::default(), Marks::default());
        touched.touch(id(0), &marks);
        for _ in 0..3 {
            assert_eq!(touched.take(Pass::Files), [id(0)]);
            marks.clear(Pass::Files);
            touched.mark(Pass::Files, id(0), &marks);
            touched.mark(Pass::Files, id(0), &marks);
        }
        assert_eq!(touched.take(Pass::Leaders), [id(0)]);
    }
}
