//! Who follows the tree, and what of its past is kept for those that come back.
//!
//! Invariants: a subscriber gets every revision after its start, in order, or is cut; the driver never waits for one. A subscriber
//! that was cut comes back with its revision and goes on from the backlog, or starts over with a snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use ottla_metadata::tree::NodeChange;
use ottla_model::Revision;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::view::View;

/// Revisions that may wait for a subscriber. One that is this far behind is cheaper served by a snapshot.
const QUEUED_REVISIONS_MAX: usize = 4_096;
/// Revisions that are kept for subscribers that come back, …
const BACKLOG_REVISIONS_MAX: usize = 4_096;
/// … and the node changes in them: some megabytes.
const BACKLOG_CHANGES_MAX: usize = 16_384;

/// What one revision changed; empty where an entry changed nothing.
#[derive(Clone, Debug)]
pub struct Applied {
    pub revision: Revision,
    pub changes: Arc<[NodeChange]>,
}

/// Where a subscriber begins.
pub enum Start {
    /// It has nothing that could be gone on from: the whole tree first.
    Snapshot(Arc<View>),
    /// What it missed.
    Resume(Vec<Applied>),
}

/// Shared by the driver, which publishes, and the services, which subscribe and read.
#[derive(Clone)]
pub struct Feed {
    state: Arc<Mutex<State>>,
}

struct State {
    view: Arc<View>,
    /// The newest revisions, without gap up to the view's.
    backlog: VecDeque<Applied>,
    backlog_changes: usize,
    subscribers: Vec<mpsc::Sender<Applied>>,
    is_closed: bool,
}

impl Feed {
    pub fn new(view: View) -> Self {
        let state = State {
            view: Arc::new(view),
            backlog: VecDeque::new(),
            backlog_changes: 0,
            subscribers: Vec::new(),
            is_closed: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The state as last applied.
    pub fn view(&self) -> Arc<View> {
        self.state.lock().view.clone()
    }

    pub fn subscriber_count(&self) -> usize {
        self.state.lock().subscribers.len()
    }

    /// `view` is the state after `applied`, which follow each other and the last published ones.
    pub fn publish(&self, view: View, applied: Vec<Applied>) {
        let mut state = self.state.lock();
        state.view = Arc::new(view);
        for item in applied {
            state.subscribers.retain(|subscriber| match subscriber.try_send(item.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::warn!(revision = item.revision.0, "a watcher is too slow: it has to start over");
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            });
            state.backlog_changes += item.changes.len();
            state.backlog.push_back(item);
        }
        while state.backlog.len() > BACKLOG_REVISIONS_MAX || state.backlog_changes > BACKLOG_CHANGES_MAX {
            let Some(oldest) = state.backlog.pop_front() else { break };
            state.backlog_changes -= oldest.changes.len();
        }
    }

    /// A snapshot was installed: what lies between is not known here, so every subscriber starts over.
    pub fn reset(&self, view: View) {
        let mut state = self.state.lock();
        state.view = Arc::new(view);
        state.backlog.clear();
        state.backlog_changes = 0;
        state.subscribers.clear();
    }

    /// The coordinator stops: every subscriber is cut, and no other begins.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.subscribers.clear();
    }

    /// Follows from `from`, the revision that the subscriber has; 0: none. The receiver may repeat what the start has, and a
    /// subscriber that is ahead of this coordinator gets revisions that it has: it skips both.
    pub fn subscribe(&self, from: Revision) -> (Start, mpsc::Receiver<Applied>) {
        let (sender, receiver) = mpsc::channel(QUEUED_REVISIONS_MAX);
        let mut state = self.state.lock();
        state.subscribers.retain(|subscriber| !subscriber.is_closed());
        if !state.is_closed {
            state.subscribers.push(sender);
        }
        let known_from = state.backlog.front().map_or(state.view.revision.0, |oldest| oldest.revision.0 - 1);
        let start = if from.0 == 0 || from.0 < known_from {
            Start::Snapshot(state.view.clone())
        } else {
            Start::Resume(state.backlog.iter().filter(|item| item.revision > from).cloned().collect())
        };
        (start, receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_metadata::image::Image;
    use ottla_metadata::tree::Tree;

    fn view(revision: u64) -> View {
        let tree = Tree::restore(Revision(revision), []);
        View::new(tree.clone(), Image::from_tree(&tree))
    }

    fn publish(feed: &Feed, revision: u64) {
        feed.publish(view(revision), vec![Applied { revision: Revision(revision), changes: Arc::new([]) }]);
    }

    fn revisions(start: Start) -> Vec<u64> {
        match start {
            Start::Snapshot(view) => vec![1_000_000 + view.revision.0],
            Start::Resume(items) => items.iter().map(|item| item.revision.0).collect(),
        }
    }

    #[test]
    fn a_subscriber_goes_on_where_it_was() {
        let feed = Feed::new(view(10));
        for revision in 11..=20 {
            publish(&feed, revision);
        }
        assert_eq!(revisions(feed.subscribe(Revision(0)).0), [1_000_020]);
        assert_eq!(revisions(feed.subscribe(Revision(9)).0), [1_000_020], "older than the backlog");
        assert_eq!(revisions(feed.subscribe(Revision(10)).0), (11..=20).collect::<Vec<_>>());
        assert_eq!(revisions(feed.subscribe(Revision(18)).0), [19, 20]);
        assert_eq!(revisions(feed.subscribe(Revision(20)).0), [] as [u64; 0]);
        assert_eq!(revisions(feed.subscribe(Revision(25)).0), [] as [u64; 0], "ahead: it waits");
        let (_, mut receiver) = feed.subscribe(Revision(20));
        publish(&feed, 21);
        assert_eq!(receiver.try_recv().expect("published").revision, Revision(21));
    }

    #[test]
    fn a_slow_subscriber_is_cut() {
        let feed = Feed::new(view(0));
        let (_, mut slow) = feed.subscribe(Revision(0));
        for revision in 1..=QUEUED_REVISIONS_MAX as u64 + 1 {
            publish(&feed, revision);
        }
        assert_eq!(feed.subscriber_count(), 0);
        let mut last = 0;
        while let Ok(item) = slow.try_recv() {
            assert_eq!(item.revision.0, last + 1, "what it got has no gap");
            last = item.revision.0;
        }
        assert_eq!(last, QUEUED_REVISIONS_MAX as u64);
    }

    #[test]
    fn a_reset_cuts_everybody() {
        let feed = Feed::new(view(5));
        let (_, mut receiver) = feed.subscribe(Revision(5));
        feed.reset(view(90));
        assert!(matches!(receiver.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert_eq!(revisions(feed.subscribe(Revision(5)).0), [1_000_090]);
        assert_eq!(revisions(feed.subscribe(Revision(90)).0), [] as [u64; 0]);
    }
}
