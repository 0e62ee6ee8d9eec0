//! Linearizable reads that wait: first for a revision that the quorum confirms, then until it is applied here.
//!
//! Reads that arrive while a request is in flight share the next request. Raft drops requests silently (no leader, a
//! leader before its first commit, a lost message), so an old request is repeated under a new context.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{CoordinatorId, Deferred, MonotonicMs, Revision};

use crate::effects::ReadConfirmed;

/// A request without an answer is repeated after this time: a few round trips, and less than an election.
pub const RETRY_AFTER: Duration = Duration::from_millis(100);

/// `T` is a waiting read: the data that its owner needs to answer it.
#[derive(Debug)]
pub struct Reads<T> {
    id: CoordinatorId,
    /// Unique for each start of the process: contexts must never repeat, or an old answer would confirm a new read.
    nonce: u64,
    questions: u64,
    /// Reads that arrived after the last request.
    fresh: Vec<T>,
    /// Reads by the number of their first request. Each later one is for them, too.
    asked: BTreeMap<u64, Vec<T>>,
    /// The time of the last request.
    asked_at: MonotonicMs,
    confirmed: Deferred<Revision, T>,
}

impl<T> Reads<T> {
    pub fn new(id: CoordinatorId, nonce: u64) -> Self {
        Self {
            id,
            nonce,
            questions: 0,
            fresh: Vec::new(),
            asked: BTreeMap::new(),
            asked_at: MonotonicMs(0),
            confirmed: Deferred::default(),
        }
    }

    pub fn push(&mut self, read: T) {
        self.fresh.push(read);
    }

    /// The context of the request to send now, if any.
    pub fn question(&mut self, now: MonotonicMs) -> Option<Vec<u8>> {
        let is_old = !self.asked.is_empty() && now.since(self.asked_at) >= RETRY_AFTER;
        if self.fresh.is_empty() && !is_old {
            return None;
        }
        (self.questions, self.asked_at) = (self.questions + 1, now);
        if !self.fresh.is_empty() {
            self.asked.insert(self.questions, std::mem::take(&mut self.fresh));
        }
        Some(self.context(self.questions))
    }

    fn context(&self, number: u64) -> Vec<u8> {
        [self.id.0.to_be_bytes(), self.nonce.to_be_bytes(), number.to_be_bytes()].concat()
    }

    /// The quorum answered a question. Strangers' answers change nothing. A late one counts for the reads that were
    /// there before its question: a quorum that needs longer than [`RETRY_AFTER`] would answer none otherwise.
    pub fn confirmed(&mut self, answer: &ReadConfirmed) {
        let Some(number) = answer.context.get(16..24).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
        else {
            return;
        };
        if number > self.questions || answer.context != self.context(number) {
            return;
        }
        let later = self.asked.split_off(&(number + 1));
        for read in std::mem::replace(&mut self.asked, later).into_values().flatten() {
            self.confirmed.push(answer.revision, read);
        }
    }

    /// Everything that may be answered now that `revision` is applied.
    pub fn complete_up_to(&mut self, revision: Revision) -> Vec<T> {
        self.confirmed.complete_up_to(revision)
    }

    pub fn len(&self) -> usize {
        self.fresh.len() + self.confirmed.len() + self.asked.values().map(Vec::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps those that `keep` says, wherever they wait for the quorum: for readers that went away.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.fresh.retain(&mut keep);
        for reads in self.asked.values_mut() {
            reads.retain(&mut keep);
        }
        self.asked.retain(|_, reads| !reads.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_waits_for_confirmation_and_for_the_revision() {
        let mut reads = Reads::new(CoordinatorId(1), 7);
        let start = MonotonicMs(1_000);
        assert_eq!(reads.question(start), None);
        reads.push('a');
        let first = reads.question(start).expect("a question");
        assert_eq!(reads.question(start), None, "one question at a time for the same reads");
        reads.push('b');
        reads.confirmed(&ReadConfirmed { context: first.clone(), revision: Revision(5) });
        assert!(reads.complete_up_to(Revision(4)).is_empty());
        assert_eq!(reads.complete_up_to(Revision(5)), ['a']);
        let second = reads.question(start).expect("b's question");
        assert_ne!(first, second);
        reads.confirmed(&ReadConfirmed { context: first, revision: Revision(9) });
        assert!(reads.complete_up_to(Revision(9)).is_empty(), "an old answer says nothing about a later read");
        assert_eq!(reads.len(), 1);
    }

    #[test]
    fn a_question_without_answer_is_asked_again() {
        let mut reads = Reads::new(CoordinatorId(1), 7);
        reads.push('a');
        let first = reads.question(MonotonicMs(0)).expect("a question");
        assert_eq!(reads.question(MonotonicMs(99)), None);
        let second = reads.question(MonotonicMs(100)).expect("again");
        assert_ne!(first, second);
        assert_eq!(reads.question(MonotonicMs(199)), None);
        reads.confirmed(&ReadConfirmed { context: second, revision: Revision(2) });
        assert_eq!(reads.complete_up_to(Revision(2)), ['a']);
        assert!(reads.is_empty());
    }

    /// Each question was given up before its answer came, and no read ended.
    #[test]
    fn a_quorum_that_is_far_away_answers_too() {
        let mut reads = Reads::new(CoordinatorId(1), 7);
        reads.push('a');
        let first = reads.question(MonotonicMs(0)).expect("a question");
        reads.push('b');
        let second = reads.question(MonotonicMs(100)).expect("again, and for the other");
        reads.confirmed(&ReadConfirmed { context: first, revision: Revision(5) });
        assert_eq!(reads.complete_up_to(Revision(5)), ['a'], "the other came later");
        let forged = second.iter().take(16).copied().chain([0xFF; 8]).collect();
        reads.confirmed(&ReadConfirmed { context: forged, revision: Revision(5) });
        assert_eq!(reads.len(), 1, "it was not asked");
        reads.confirmed(&ReadConfirmed { context: second, revision: Revision(6) });
        assert_eq!(reads.complete_up_to(Revision(6)), ['b']);
    }
}
