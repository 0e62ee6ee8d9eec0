//! The tree for one watcher: a snapshot in chunks, then every revision in events of bounded size.

use std::time::Duration;

use ottla_quorum_node::{Changes, View, WatchUpdate};
use ottla_resources::Share;
use ottla_rpc::cluster::{Changes as WireChanges, SnapshotChunk, WatchEvent, watch_event};
use ottla_rpc::convert;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::EVENT_BYTES_MAX;
use crate::driver::Watching;

/// Size of a chunk of a snapshot of the tree: a watcher that does not read makes this process hold a few of them. The
/// nodes themselves are shared with the tree.
const SNAPSHOT_CHUNK_BYTES: usize = 64 * 1024;
/// Events between a watcher's task and its connection.
const EVENTS_IN_TRANSIT_MAX: usize = 2;
/// A watcher that accepts nothing for this time is dropped: it reconnects with the revision that it has.
const WATCHER_STALLS_MAX: Duration = Duration::from_secs(30);

type Event = Result<WatchEvent, Status>;

/// Serves a watcher until it is gone or too slow. Releases `permit` then.
pub fn serve(watching: Watching, permit: Share) -> ReceiverStream<Event> {
    let (events, receiver) = mpsc::channel(EVENTS_IN_TRANSIT_MAX);
    tokio::spawn(async move {
        forward(watching, &events).await;
        drop(permit);
    });
    ReceiverStream::new(receiver)
}

async fn forward(mut watching: Watching, events: &mpsc::Sender<Event>) {
    loop {
        let update = tokio::select! {
            () = events.closed() => return,
            update = watching.next() => update,
        };
        let is_taken = match update {
            Some(WatchUpdate::Snapshot(view)) => send_snapshot(&view, events).await,
            Some(WatchUpdate::Changes(item)) => send_changes(&item, events).await,
            None => {
                deliver(events, Err(Status::aborted("too slow: watch again"))).await;
                return;
            }
        };
        if !is_taken {
            return;
        }
    }
}

/// False if the receiver is gone, or does not read.
pub async fn deliver<T>(events: &mpsc::Sender<T>, event: T) -> bool {
    matches!(tokio::time::timeout(WATCHER_STALLS_MAX, events.send(event)).await, Ok(Ok(())))
}

async fn send_changes(item: &Changes, events: &mpsc::Sender<Event>) -> bool {
    for event in change_events(item) {
        if !deliver(events, Ok(event)).await {
            return false;
        }
    }
    true
}

/// One revision as events of about [`EVENT_BYTES_MAX`]: all but the last say that more of it follows.
fn change_events(item: &Changes) -> Vec<WatchEvent> {
    let mut parts = vec![WireChanges { revision: item.revision.0, ..WireChanges::default() }];
    let mut bytes = 0;
    for change in item.changes.iter().map(convert::change_to_proto) {
        let size = change.encoded_len();
        let is_full = bytes > 0 && bytes + size > EVENT_BYTES_MAX;
        if let Some(part) = parts.last_mut().filter(|_| is_full) {
            part.more = true;
            parts.push(WireChanges { revision: item.revision.0, ..WireChanges::default() });
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.changes.push(change);
        }
    }
    let event = |part| WatchEvent { event: Some(watch_event::Event::Changes(part)) };
    parts.into_iter().map(event).collect()
}

async fn send_snapshot(view: &View, events: &mpsc::Sender<Event>) -> bool {
    let revision = view.revision.0;
    let chunk = |nodes, last| {
        let event = watch_event::Event::Snapshot(SnapshotChunk { revision, nodes, last });
        Ok(WatchEvent { event: Some(event) })
    };
    let mut nodes = Vec::new();
    let mut bytes = 0;
    for (path, node) in view.tree.iter() {
        let node = convert::node_to_proto(path, node);
        bytes += node.encoded_len();
        nodes.push(node);
        if bytes >= SNAPSHOT_CHUNK_BYTES {
            bytes = 0;
            if !deliver(events, chunk(std::mem::take(&mut nodes), false)).await {
                return false;
            }
        }
    }
    deliver(events, chunk(nodes, true)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ottla_metadata::limits::MAX_NODE_BYTES;
    use ottla_metadata::tree::{Node, NodeChange, Path};
    use ottla_model::Revision;
    use ottla_rpc::MESSAGE_BYTES_MAX;

    /// A6: one revision above the limit of a message froze every watcher at that revision.
    #[test]
    fn a_large_revision_is_split_below_the_limit_of_a_message() {
        let revision = Revision(7);
        let change = |at: usize| {
            let payload = Bytes::from(vec![1; MAX_NODE_BYTES]);
            let node = Node { payload, created: revision, modified: revision, version: 0 };
            NodeChange { path: Path::new(&format!("/n/{at}")).expect("a path"), node: Some(node) }
        };
        let changes: Vec<NodeChange> = (0..6).map(change).collect();
        let item = Changes { revision, changes: changes.clone().into() };
        let events = change_events(&item);
        assert!(events.iter().all(|event| event.encoded_len() < MESSAGE_BYTES_MAX / 2));
        let parts: Vec<_> = events
            .into_iter()
            .map(|event| match event.event {
                Some(watch_event::Event::Changes(part)) => part,
                other => panic!("{other:?}"),
            })
            .collect();
        let more: Vec<bool> = parts.iter().map(|part| part.more).collect();
        assert!(parts.len() > 4 && more.iter().rev().skip(1).all(|more| *more) && !more[more.len() - 1]);
        let together: Vec<_> = parts
            .into_iter()
            .flat_map(|part| part.changes)
            .map(|change| convert::change_from_proto(change).expect("a change"))
            .collect();
        assert_eq!(together, changes);
        let empty = change_events(&Changes { revision, changes: [].into() });
        assert_eq!(empty.len(), 1, "the revision alone moves");
    }
}
