//! Batches that the log does not hold for certain yet, and the answers that wait for them.
//!
//! Invariants: numbers grow; batches get their end offsets in order, so the high watermark passes them in order; a
//! change of a group is remembered here for exactly as long as its batch. Bounded by the requests that the host lets
//! in.

use std::collections::BTreeMap;

use ottla_model::{GroupId, Offset};

use crate::answer::GroupAnswer;
use crate::effects::{BatchKind, BatchNumber, RequestId};
use crate::record::Record;

/// What tombstones were written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deletion {
    /// Topics of which it was said that they were deleted.
    Deleted,
    /// Topics that were not found when everything was compared.
    NotFound,
}

/// One batch that was handed to the host.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The group that changed with it; none for batches of offset records, which change no group.
    pub(crate) group: Option<GroupId>,
    /// What the offset store learns once the batch is replicated.
    pub(crate) offsets: Vec<Record>,
    pub(crate) answers: Vec<(RequestId, GroupAnswer)>,
    pub(crate) kind: BatchKind,
    /// Of tombstones of offsets whose topics are gone.
    pub(super) deletion: Option<Deletion>,
    /// The log end offset after the batch, set by `placed`.
    end: Option<Offset>,
}

impl Pending {
    pub(crate) fn new(group: Option<GroupId>, offsets: Vec<Record>, answers: Vec<(RequestId, GroupAnswer)>) -> Self {
        Self { group, offsets, answers, kind: BatchKind::Plain, deletion: None, end: None }
    }

    pub(crate) fn of_kind(self, kind: BatchKind) -> Self {
        Self { kind, ..self }
    }
}

#[derive(Debug, Default)]
pub(crate) struct InFlight {
    last: BatchNumber,
    batches: BTreeMap<BatchNumber, Pending>,
    /// Each group's latest change in flight.
    changes: BTreeMap<GroupId, BatchNumber>,
}

impl InFlight {
    pub(crate) fn push(&mut self, pending: Pending) -> BatchNumber {
        self.last = BatchNumber(self.last.0 + 1);
        if let Some(group) = &pending.group {
            self.changes.insert(group.clone(), self.last);
        }
        self.batches.insert(self.last, pending);
        self.last
    }

    /// Whether a change of the group is not replicated yet.
    pub(crate) fn changes(&self, group: &GroupId) -> bool {
        self.changes.contains_key(group)
    }

    /// Lets answers wait for the group's latest change; gives them back when there is none.
    pub(crate) fn wait_for_change(
        &mut self,
        group: &GroupId,
        answers: Vec<(RequestId, GroupAnswer)>,
    ) -> Vec<(RequestId, GroupAnswer)> {
        match self.changes.get(group).and_then(|number| self.batches.get_mut(number)) {
            Some(pending) => {
                pending.answers.extend(answers);
                Vec::new()
            }
            None => answers,
        }
    }

    /// The batch has the tombstones of a deletion.
    pub(super) fn deletes(&mut self, batch: BatchNumber, deletion: Deletion) {
        if let Some(pending) = self.batches.get_mut(&batch) {
            pending.deletion = Some(deletion);
        }
    }

    /// The host appended the batch.
    pub(crate) fn placed(&mut self, batch: BatchNumber, end: Offset) {
        if let Some(pending) = self.batches.get_mut(&batch) {
            pending.end = Some(end);
        }
    }

    /// Takes the earliest batch if the high watermark has passed it.
    pub(crate) fn pop_replicated(&mut self, high_watermark: Offset) -> Option<Pending> {
        let first = self.batches.first_entry()?;
        if first.get().end? > high_watermark {
            return None;
        }
        let number = *first.key();
        let pending = first.remove();
        self.forget_change(&pending, number);
        Some(pending)
    }

    /// Takes a batch that the log refused, or would have. Its group's change before it may still be in flight.
    pub(crate) fn take(&mut self, batch: BatchNumber) -> Option<Pending> {
        let pending = self.batches.remove(&batch)?;
        self.forget_change(&pending, batch);
        if let Some(group) = &pending.group
            && !self.changes.contains_key(group)
            && let Some((number, _)) = self.batches.iter().rev().find(|(_, of)| of.group.as_ref() == Some(group))
        {
            self.changes.insert(group.clone(), *number);
        }
        Some(pending)
    }

    /// Takes everything, in order.
    pub(crate) fn take_all(&mut self) -> Vec<Pending> {
        self.changes.clear();
        std::mem::take(&mut self.batches).into_values().collect()
    }

    fn forget_change(&mut self, pending: &Pending, number: BatchNumber) {
        if let Some(group) = &pending.group
            && self.changes.get(group) == Some(&number)
        {
            self.changes.remove(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;

    use super::*;

    fn pending(group: Option<&str>, id: u64) -> Pending {
        let answers = vec![(RequestId(id), GroupAnswer::Heartbeat(ErrorCode::None))];
        Pending::new(group.map(GroupId::new), Vec::new(), answers)
    }

    #[test]
    fn batches_leave_in_order_and_only_below_the_high_watermark() {
        let mut flight = InFlight::default();
        let (first, second) = (flight.push(pending(Some("g"), 1)), flight.push(pending(None, 2)));
        assert!(flight.pop_replicated(Offset(100)).is_none(), "no end offset yet");
        flight.placed(first, Offset(3));
        flight.placed(second, Offset(5));
        assert!(flight.pop_replicated(Offset(2)).is_none());
        assert_eq!(flight.pop_replicated(Offset(4)).unwrap().answers[0].0, RequestId(1));
        assert!(flight.pop_replicated(Offset(4)).is_none());
        assert_eq!(flight.pop_replicated(Offset(5)).unwrap().answers[0].0, RequestId(2));
    }

    #[test]
    fn answers_wait_for_the_groups_latest_change_and_for_no_offsets() {
        let (mut flight, group) = (InFlight::default(), GroupId::new("g"));
        let answer = || vec![(RequestId(9), GroupAnswer::Heartbeat(ErrorCode::None))];
        let first = flight.push(pending(Some("g"), 1));
        let second = flight.push(pending(Some("g"), 2));
        flight.push(pending(None, 3));
        assert!(flight.wait_for_change(&group, answer()).is_empty());
        assert!(flight.take(first).is_some());
        assert!(flight.changes(&group));
        assert_eq!(flight.take(second).unwrap().answers.len(), 2);
        assert!(!flight.changes(&group));
        assert_eq!(flight.wait_for_change(&group, answer()).len(), 1);
        assert_eq!(flight.take_all().len(), 1);
    }

    /// Answers left at once that should have waited for the first of two changes, when the second had been undone.
    #[test]
    fn the_change_before_one_that_is_undone_is_waited_for() {
        let (mut flight, group) = (InFlight::default(), GroupId::new("g"));
        let first = flight.push(pending(Some("g"), 1));
        let second = flight.push(pending(Some("g"), 2));
        assert!(flight.take(second).is_some());
        assert!(flight.changes(&group));
        let answer = vec![(RequestId(9), GroupAnswer::Heartbeat(ErrorCode::None))];
        assert!(flight.wait_for_change(&group, answer).is_empty());
        flight.placed(first, Offset(3));
        assert_eq!(flight.pop_replicated(Offset(3)).unwrap().answers.len(), 2);
        assert!(!flight.changes(&group));
    }
}
