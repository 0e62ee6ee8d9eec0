//! The queue between the driver and one watcher. The driver never waits for a watcher: one that is too far behind is
//! dropped, and reconnects with the revision that it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_quorum_node::WatchUpdate;
use tokio::sync::mpsc;

/// Updates that may wait for a watcher: as many as the node's history has.
const QUEUED_UPDATES_MAX: usize = 4_096;
/// Bytes of changes that may wait for a watcher. They are shared with the history, but outlive it.
const QUEUED_BYTES_MAX: usize = 16 * 1024 * 1024;

pub struct WatchSender {
    updates: mpsc::Sender<WatchUpdate>,
    queued_bytes: Arc<AtomicUsize>,
}

pub struct Watching {
    updates: mpsc::Receiver<WatchUpdate>,
    queued_bytes: Arc<AtomicUsize>,
}

pub fn channel() -> (WatchSender, Watching) {
    let (sender, receiver) = mpsc::channel(QUEUED_UPDATES_MAX);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    (WatchSender { updates: sender, queued_bytes: queued_bytes.clone() }, Watching { updates: receiver, queued_bytes })
}

/// A snapshot is a state that all readers share.
fn bytes(update: &WatchUpdate) -> usize {
    match update {
        WatchUpdate::Snapshot(_) => 0,
        WatchUpdate::Changes(changes) => changes.bytes(),
    }
}

impl WatchSender {
    /// False if the watcher is gone or too slow.
    pub fn send(&self, update: WatchUpdate) -> bool {
        let bytes = bytes(&update);
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        (queued == 0 || queued + bytes <= QUEUED_BYTES_MAX) && self.updates.try_send(update).is_ok()
    }

    pub fn is_closed(&self) -> bool {
        self.updates.is_closed()
    }
}

impl Watching {
    /// None once the watcher was dropped.
    pub async fn next(&mut self) -> Option<WatchUpdate> {
        let update = self.updates.recv().await?;
        self.queued_bytes.fetch_sub(bytes(&update), Ordering::Relaxed);
        Some(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ottla_metadata::tree::{Node, NodeChange, Path};
    use ottla_model::Revision;
    use ottla_quorum_node::Changes;

    fn update(revision: u64, bytes: usize) -> WatchUpdate {
        let revision = Revision(revision);
        let node = Node { payload: Bytes::from(vec![7; bytes]), created: revision, modified: revision, version: 0 };
        let change = NodeChange { path: Path::root(), node: Some(node) };
        WatchUpdate::Changes(Changes { revision, changes: Arc::new([change]) })
    }

    #[tokio::test]
    async fn a_slow_watcher_is_dropped_by_number_and_by_bytes() {
        let (sender, mut watching) = channel();
        for revision in 1..=QUEUED_UPDATES_MAX as u64 {
            assert!(sender.send(update(revision, 1)));
        }
        assert!(!sender.send(update(5_000, 1)));
        drop(sender);
        let mut taken = 0;
        while watching.next().await.is_some() {
            taken += 1;
        }
        assert_eq!(taken, QUEUED_UPDATES_MAX, "what it got has no gap");

        let (sender, mut watching) = channel();
        assert!(sender.send(update(1, 2 * QUEUED_BYTES_MAX)), "one update may be of any size");
        assert!(watching.next().await.is_some());
        assert!(sender.send(update(2, QUEUED_BYTES_MAX / 2)) && !sender.send(update(3, QUEUED_BYTES_MAX)));
    }
}
