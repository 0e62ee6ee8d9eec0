//! A plan is carried out in waves of bounded size: a cluster must go on to serve its clients meanwhile.

use std::collections::{BTreeSet, VecDeque};

use super::PlannedMove;

/// How much may be under way at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaveLimits {
    pub partitions: usize,
    /// A partition that is larger alone moves alone.
    pub bytes: u64,
}

impl Default for WaveLimits {
    /// So many partitions fit into few transactions of the quorum, and so many bytes are copied within seconds: a
    /// cancellation loses little.
    fn default() -> Self {
        Self { partitions: 100, bytes: 4 << 30 }
    }
}

/// Switches for the simulation, which proves that it would notice a rule's absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: a wave is as large as if nothing were under way.
    pub waves_forget_what_is_under_way: bool,
}

/// A plan that is being carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Execution<K> {
    /// From the next one on.
    waiting: VecDeque<PlannedMove<K>>,
    under_way: Vec<PlannedMove<K>>,
    limits: WaveLimits,
    rules: BrokenRules,
}

impl<K: Ord> Execution<K> {
    pub fn new(moves: Vec<PlannedMove<K>>, limits: WaveLimits, rules: BrokenRules) -> Self {
        Self { waiting: moves.into(), under_way: Vec::new(), limits, rules }
    }

    /// The moves to begin now: from here on they are under way.
    pub fn next_wave(&mut self) -> &[PlannedMove<K>] {
        let begun = self.under_way.len();
        let counted = if self.rules.waves_forget_what_is_under_way { begun } else { 0 };
        while let Some(next) = self.waiting.pop_front_if(|next| fits(&self.under_way[counted..], next, self.limits)) {
            self.under_way.push(next);
        }
        &self.under_way[begun..]
    }

    /// Only these partitions are being reassigned still. Returns the moves that are done.
    pub fn still_active(&mut self, active: &BTreeSet<K>) -> Vec<PlannedMove<K>> {
        let all = std::mem::take(&mut self.under_way).into_iter();
        let (still, done) = all.partition(|one| active.contains(&one.partition));
        self.under_way = still;
        done
    }

    pub fn under_way(&self) -> &[PlannedMove<K>] {
        &self.under_way
    }

    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }
}

/// Whether a move may begin beside those under way.
fn fits<K>(under_way: &[PlannedMove<K>], next: &PlannedMove<K>, limits: WaveLimits) -> bool {
    let bytes = under_way.iter().map(|one| one.bytes).fold(next.bytes, u64::saturating_add);
    under_way.is_empty() || (under_way.len() < limits.partitions && bytes <= limits.bytes)
}
