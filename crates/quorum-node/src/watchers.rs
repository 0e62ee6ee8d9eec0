//! The watchers of the tree, and the history for watchers that reconnect.
//!
//! Invariants: a watcher gets every revision after its start, in order, or a snapshot that covers the missing ones. It
//! never gets a revision that it already has: a watcher that is ahead of this node waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ottla_metadata::tree::NodeChange;
use ottla_model::Revision;

use crate::event::{Output, Sink, WatchUpdate, WatcherId};
use crate::view::View;

/// The changes of one revision; empty if the entry changed nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    pub revision: Revision,
    pub changes: Arc<[NodeChange]>,
}

impl Changes {
    /// About as much memory as they take.
    pub fn bytes(&self) -> usize {
        let node = |change: &NodeChange| change.node.as_ref().map_or(0, |node| node.payload.len());
        self.changes.iter().map(|change| size_of::<NodeChange>() + change.path.as_str().len() + node(change)).sum()
    }
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    pub revisions: usize,
    pub bytes: usize,
}

impl Default for HistoryLimits {
    /// One that is this far behind is cheaper served by a snapshot.
    fn default() -> Self {
        Self { revisions: 4_096, bytes: 8 * 1024 * 1024 }
    }
}

pub(crate) struct Watchers {
    limits: HistoryLimits,
    /// The newest revisions, without gap up to the one that was applied last.
    history: VecDeque<Changes>,
    history_bytes: usize,
    /// The revision that each watcher has.
    reached: BTreeMap<WatcherId, Revision>,
    goes_back: bool,
}

impl Watchers {
    /// `goes_back`: the rule that a simulation takes out.
    pub fn new(limits: HistoryLimits, goes_back: bool) -> Self {
        Self { limits, history: VecDeque::new(), history_bytes: 0, reached: BTreeMap::new(), goes_back }
    }

    pub fn open(&mut self, watcher: WatcherId, from: Revision, view: &Arc<View>, out: &mut impl Sink) {
        let known_from = self.history.front().map_or(view.revision.0, |oldest| oldest.revision.0 - 1);
        let is_ahead = from > view.revision && self.goes_back;
        let mut reached = from;
        if from.0 == 0 || from.0 < known_from || is_ahead {
            reached = view.revision;
            out.put(Output::Watch { watcher, update: WatchUpdate::Snapshot(view.clone()) });
        } else {
            for item in self.history.iter().filter(|item| item.revision > from) {
                reached = item.revision;
                out.put(Output::Watch { watcher, update: WatchUpdate::Changes(item.clone()) });
            }
        }
        self.reached.insert(watcher, reached);
    }

    pub fn close(&mut self, watcher: WatcherId) {
        self.reached.remove(&watcher);
    }

    /// `applied` follows the last published revision.
    pub fn publish(&mut self, applied: Changes, out: &mut impl Sink) {
        for (&watcher, reached) in &mut self.reached {
            if applied.revision > *reached {
                *reached = applied.revision;
                out.put(Output::Watch { watcher, update: WatchUpdate::Changes(applied.clone()) });
            }
        }
        self.history_bytes += applied.bytes();
        self.history.push_back(applied);
        while self.history.len() > self.limits.revisions || self.history_bytes > self.limits.bytes {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.bytes();
        }
    }

    /// A snapshot was installed: the revisions between are not known on this node.
    pub fn reset(&mut self, view: &Arc<View>, out: &mut impl Sink) {
        self.history.clear();
        self.history_bytes = 0;
        for (&watcher, reached) in &mut self.reached {
            if view.revision > *reached {
                *reached = view.revision;
                out.put(Output::Watch { watcher, update: WatchUpdate::Snapshot(view.clone()) });
            }
        }
    }
}
