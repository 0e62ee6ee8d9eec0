//! Tree nodes and their changes, to and from the wire.

use bytes::Bytes;
use ottla_metadata::tree::{Node, NodeChange, Path};
use ottla_model::Revision;

use crate::cluster::node_change::Change;
use crate::cluster::{NodeChange as WireChange, TreeNode};

/// A peer sent a node that the tree cannot hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidNode {
    #[error("{path:?} is no path of the tree")]
    Path { path: String },
    #[error("a change that says nothing")]
    Empty,
}

fn path(text: String) -> Result<Path, InvalidNode> {
    Path::new(&text).map_err(|_| InvalidNode::Path { path: text })
}

pub fn node_to_proto(path: &Path, node: &Node) -> TreeNode {
    TreeNode {
        path: path.as_str().to_owned(),
        payload: node.payload.clone(),
        created: node.created.0,
        modified: node.modified.0,
        version: node.version,
    }
}

pub fn node_from_proto(wire: TreeNode) -> Result<(Path, Node), InvalidNode> {
    let payload: Bytes = wire.payload;
    let node =
        Node { payload, created: Revision(wire.created), modified: Revision(wire.modified), version: wire.version };
    Ok((path(wire.path)?, node))
}

pub fn change_to_proto(change: &NodeChange) -> WireChange {
    let change = match &change.node {
        Some(node) => Change::Put(node_to_proto(&change.path, node)),
        None => Change::DeletedPath(change.path.as_str().to_owned()),
    };
    WireChange { change: Some(change) }
}

pub fn change_from_proto(wire: WireChange) -> Result<NodeChange, InvalidNode> {
    match wire.change.ok_or(InvalidNode::Empty)? {
        Change::Put(node) => {
            let (path, node) = node_from_proto(node)?;
            Ok(NodeChange { path, node: Some(node) })
        }
        Change::DeletedPath(text) => Ok(NodeChange { path: path(text)?, node: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back() {
        let path = Path::new("/brokers/ids/1").expect("a path");
        let node = Node { payload: Bytes::from_static(b"x"), created: Revision(3), modified: Revision(4), version: 1 };
        for node in [Some(node), None] {
            let change = NodeChange { path: path.clone(), node };
            assert_eq!(change_from_proto(change_to_proto(&change)), Ok(change));
        }
        assert_eq!(change_from_proto(WireChange { change: None }), Err(InvalidNode::Empty));
        let bad = WireChange { change: Some(Change::DeletedPath("no path".into())) };
        assert!(matches!(change_from_proto(bad), Err(InvalidNode::Path { .. })));
    }
}
