//! A transaction in the making, with the versions that it expects taken from the tree that decisions are made on.

use bytes::Bytes;
use ottla_model::TopicIdPartition;

use crate::image::{Image, PartitionState};
use crate::nodes;
use crate::transaction::{Change, Transaction};
use crate::tree::{Path, Tree};

/// Changes for one transaction; each path at most once.
#[derive(Debug, Default)]
pub(super) struct Draft {
    changes: Vec<Change>,
}

impl Draft {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub fn create(&mut self, path: Path, payload: Bytes) {
        self.changes.push(Change::Create { path, payload });
    }

    /// Creates the node, or sets it at the version that it has.
    pub fn put(&mut self, tree: &Tree, path: Path, payload: Bytes) {
        self.changes.push(match tree.get(&path) {
            Some(node) => Change::Set { path, payload, expected: node.version },
            None => Change::Create { path, payload },
        });
    }

    /// Deletes the node where there is one.
    pub fn delete(&mut self, tree: &Tree, path: Path) {
        if let Some(node) = tree.get(&path) {
            self.changes.push(Change::Delete { path, expected: node.version });
        }
    }

    /// Sets the state of a partition that exists.
    pub fn partition(&mut self, tree: &Tree, image: &Image, partition: TopicIdPartition, state: &PartitionState) {
        if let Some(topic) = image.topic_by_id(partition.topic_id) {
            let path = nodes::partition::path(&topic.name, partition.partition);
            self.put(tree, path, nodes::partition::encode(state));
        }
    }

    pub fn into_transaction(self) -> Transaction {
        Transaction { changes: self.changes }
    }
}
