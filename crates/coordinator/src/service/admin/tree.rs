//! The tree, with ZooKeeper's paths.

use ottla_metadata::nodes;
use ottla_metadata::tree::{Path, Tree};
use ottla_model::Revision;
use ottla_quorum_node::{Changes, WatchUpdate};
use ottla_rpc::admin::{
    GetNodeRequest, GetNodeResponse, ListNodesRequest, ListNodesResponse, Node, NodeEvent, WatchNodesRequest,
    WatchNodesResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::errors::{invalid, status};
use super::{AdminService, count};
use crate::access::Caller;
use crate::driver::Watching;
use crate::service::EVENT_BYTES_MAX;
use crate::service::requests::stopping;
use crate::service::watching::deliver;

/// Names that one answer lists at most: some megabytes.
const NAMES_MAX: usize = 50_000;
/// Events between a watcher's task and its connection.
const EVENTS_IN_TRANSIT_MAX: usize = 16;

pub type NodeEventStream = ReceiverStream<Result<WatchNodesResponse, Status>>;

fn path(text: &str) -> Result<Path, Status> {
    Path::new(text).map_err(|error| invalid("INVALID_PATH", error.to_string()))
}

fn node(tree: &Tree, path: &Path) -> Option<Node> {
    let children = count(tree.children(path).len());
    match tree.get(path) {
        Some(found) => Some(Node {
            path: path.as_str().to_owned(),
            json: nodes::json(path, found).unwrap_or_default(),
            created_revision: found.created.0,
            modified_revision: found.modified.0,
            version: found.version,
            children,
        }),
        // A parent path without a node, as ZooKeeper would show it.
        None => tree.exists(path).then(|| Node { path: path.as_str().to_owned(), children, ..Node::default() }),
    }
}

fn no_node(path: &Path) -> Status {
    status(Code::NotFound, "NO_NODE", format!("no node {path}"))
}

impl AdminService {
    pub(super) async fn node(&self, request: GetNodeRequest) -> Result<GetNodeResponse, Status> {
        let path = path(&request.path)?;
        let view = self.view_for(request.linearizable).await?;
        let node = node(&view.tree, &path).ok_or_else(|| no_node(&path))?;
        Ok(GetNodeResponse { node: Some(node), revision: view.revision.0 })
    }

    pub(super) async fn nodes(&self, request: ListNodesRequest) -> Result<ListNodesResponse, Status> {
        let path = path(&request.path)?;
        let view = self.view_for(request.linearizable).await?;
        if !view.tree.exists(&path) {
            return Err(no_node(&path));
        }
        let names: Vec<String> = if request.recursive {
            view.tree.below(&path).take(NAMES_MAX + 1).map(|(path, _)| path.as_str().to_owned()).collect()
        } else {
            view.tree.children(&path)
        };
        if names.len() > NAMES_MAX {
            let text = format!("more than {NAMES_MAX} names: list a deeper path");
            return Err(status(Code::OutOfRange, "TOO_MANY_NODES", text));
        }
        Ok(ListNodesResponse { names, revision: view.revision.0 })
    }

    pub(super) async fn watch(&self, caller: &Caller, request: WatchNodesRequest) -> Result<NodeEventStream, Status> {
        let prefix = path(&request.prefix)?;
        let formed = self.shared.require_formed()?;
        let permit = self.shared.watch_permit(caller)?;
        let from = match request.from_revision {
            0 => formed.view.get().revision,
            from => Revision(from),
        };
        let watching = formed.driver.watch(from).await.map_err(|_| stopping())?;
        let (events, receiver) = mpsc::channel(EVENTS_IN_TRANSIT_MAX);
        tokio::spawn(async move {
            forward_events(prefix, from, watching, events).await;
            drop(permit);
        });
        Ok(ReceiverStream::new(receiver))
    }
}

type NodeEvents = mpsc::Sender<Result<WatchNodesResponse, Status>>;

async fn forward_events(prefix: Path, from: Revision, mut watching: Watching, events: NodeEvents) {
    loop {
        let update = tokio::select! {
            () = events.closed() => return,
            update = watching.next() => update,
        };
        let ended = match update {
            Some(WatchUpdate::Changes(item)) => {
                for response in node_events(&prefix, &item) {
                    if !deliver(&events, Ok(response)).await {
                        return;
                    }
                }
                continue;
            }
            Some(WatchUpdate::Snapshot(_)) => {
                let text = format!("the changes since revision {from} are no longer available");
                status(Code::OutOfRange, "REVISION_COMPACTED", text)
            }
            None => Status::aborted("too slow: watch again"),
        };
        deliver(&events, Err(ended)).await;
        return;
    }
}

/// The changes of one revision at or below `prefix`, in messages of bounded size; none if there are none.
fn node_events(prefix: &Path, item: &Changes) -> Vec<WatchNodesResponse> {
    let mut responses: Vec<WatchNodesResponse> = Vec::new();
    let mut bytes = 0;
    for change in item.changes.iter().filter(|change| is_at_or_below(&change.path, prefix)) {
        let event = NodeEvent {
            path: change.path.as_str().to_owned(),
            deleted: change.node.is_none(),
            json: change.node.as_ref().and_then(|node| nodes::json(&change.path, node)).unwrap_or_default(),
        };
        let size = event.path.len() + event.json.len();
        match responses.last_mut().filter(|_| bytes + size <= EVENT_BYTES_MAX) {
            Some(response) => response.events.push(event),
            None => {
                bytes = 0;
                responses.push(WatchNodesResponse { revision: item.revision.0, events: vec![event] });
            }
        }
        bytes += size;
    }
    responses
}

fn is_at_or_below(path: &Path, prefix: &Path) -> bool {
    if prefix.as_str() == "/" {
        return true;
    }
    path.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_names() {
        let path = |text| Path::new(text).expect("a path");
        assert!(is_at_or_below(&path("/a/b"), &path("/")));
        assert!(is_at_or_below(&path("/a/b"), &path("/a")));
        assert!(is_at_or_below(&path("/a"), &path("/a")));
        assert!(!is_at_or_below(&path("/ab"), &path("/a")));
    }
}
