//! The tree as a snapshot's data: path → stored form of the node, in the order of the paths.

use bytes::Bytes;
use ottla_consensus::snapshot::{Encoder, InvalidSnapshot, Pairs};
use ottla_metadata::tree::{Node, Path, Tree};
use ottla_model::Revision;

/// The data is no tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Form(#[from] InvalidSnapshot),
    #[error("an invalid path")]
    Path,
    #[error("the node at {0} cannot be decoded")]
    Node(Path),
}

pub fn encode(tree: &Tree) -> Bytes {
    let mut encoder = Encoder::new();
    for (path, node) in tree.iter() {
        encoder.pair(path.as_str().as_bytes(), &node.encode());
    }
    encoder.finish()
}

pub fn decode(revision: Revision, data: Bytes) -> Result<Tree, SnapshotError> {
    let mut nodes = Vec::new();
    for pair in Pairs::new(data)? {
        let (path, node) = pair?;
        let path = std::str::from_utf8(&path).ok().and_then(|text| Path::new(text).ok()).ok_or(SnapshotError::Path)?;
        let node = Node::decode(&node).map_err(|_| SnapshotError::Node(path.clone()))?;
        nodes.push((path, node));
    }
    Ok(Tree::restore(revision, nodes))
}
