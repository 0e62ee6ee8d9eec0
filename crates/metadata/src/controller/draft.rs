//! A transaction in the making, with the versions that it expects taken from the tree that decisions are made on.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_model::{TopicId, TopicIdPartition};

use crate::image::{Image, PartitionState, TopicImage};
use crate::limits;
use crate::nodes;
use crate::nodes::topic::TopicNode;
use crate::transaction::{Change, Transaction};
use crate::tree::{Path, Tree};

/// The bytes that the entry adds to the path and payload of a change: tags, lengths, kind and version.
const CHANGE_OVERHEAD_BYTES: usize = 32;

/// What a partition's new replicas may add to its topic's node.
const ASSIGNMENT_BYTES: usize = 64;

/// Changes for one transaction; each path at most once.
#[derive(Debug, Default)]
pub(super) struct Draft {
    changes: Vec<Change>,
    /// Topics whose partitions get other replicas: each node is written once, when the draft is sealed.
    reassigned: BTreeMap<TopicId, (Path, TopicNode)>,
    /// What their nodes may add to the entry.
    reassigned_bytes: usize,
    /// A lower bound of the entry's size.
    bytes: usize,
    largest_node: usize,
}

impl Draft {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether every member can accept it as one entry.
    pub fn is_within_limits(&self) -> bool {
        self.bytes <= limits::MAX_TRANSACTION_BYTES && self.largest_node <= limits::MAX_NODE_BYTES
    }

    pub fn push(&mut self, change: Change) {
        let payload = match &change {
            Change::Create { payload, .. } | Change::Set { payload, .. } => payload.len(),
            Change::Delete { .. } | Change::Check { .. } => 0,
        };
        self.bytes += change.path().as_str().len() + payload + CHANGE_OVERHEAD_BYTES;
        self.largest_node = self.largest_node.max(payload);
        self.changes.push(change);
    }

    /// Whether it is time for another transaction: much of this one is topics' nodes.
    pub fn is_half_full(&self) -> bool {
        self.bytes + self.reassigned_bytes > limits::MAX_TRANSACTION_BYTES / 2
    }

    /// Adds the changes of `other`, which gives no partition other replicas. False, and nothing is added, where both
    /// together are above the limits.
    #[must_use]
    pub fn append(&mut self, other: Self) -> bool {
        if self.bytes + other.bytes > limits::MAX_TRANSACTION_BYTES || !other.is_within_limits() {
            return false;
        }
        self.bytes += other.bytes;
        self.largest_node = self.largest_node.max(other.largest_node);
        self.changes.extend(other.changes);
        true
    }

    pub fn create(&mut self, path: Path, payload: Bytes) {
        self.push(Change::Create { path, payload });
    }

    /// Creates the node, or sets it at its current version.
    pub fn put(&mut self, tree: &Tree, path: Path, payload: Bytes) {
        self.push(match tree.get(&path) {
            Some(node) => Change::Set { path, payload, expected: node.version },
            None => Change::Create { path, payload },
        });
    }

    /// Deletes the node if it exists.
    pub fn delete(&mut self, tree: &Tree, path: Path) {
        if let Some(node) = tree.get(&path) {
            self.push(Change::Delete { path, expected: node.version });
        }
    }

    /// Sets the state of a partition that exists, and its replicas if they are others.
    pub fn partition(&mut self, tree: &Tree, image: &Image, partition: TopicIdPartition, state: &PartitionState) {
        let Some(topic) = image.topic_by_id(partition.topic_id) else { return };
        let path = nodes::partition::path(&topic.name, partition.partition);
        self.put(tree, path, nodes::partition::encode(state));
        if topic.assigned(partition.partition).is_some_and(|assignment| state.has_assignment(assignment)) {
            return;
        }
        let assignment = state.assignment();
        self.reassigned_bytes += ASSIGNMENT_BYTES;
        let node = self.topic_node(tree, topic);
        if let Ok(at) = node.assignment.binary_search_by_key(&partition.partition, |(id, _)| *id)
            && let Some((_, known)) = node.assignment.get_mut(at)
        {
            *known = assignment;
        }
    }

    /// A topic's node, to be written with the draft.
    pub fn topic_node(&mut self, tree: &Tree, topic: &TopicImage) -> &mut TopicNode {
        let bytes = &mut self.reassigned_bytes;
        let (_, node) = self.reassigned.entry(topic.id).or_insert_with(|| {
            let path = nodes::topic::path(&topic.name);
            *bytes += tree.get(&path).map_or(0, |node| node.payload.len());
            (path, topic.node())
        });
        node
    }

    /// Writes what was collected: the draft is whole.
    pub fn seal(&mut self, tree: &Tree) {
        self.reassigned_bytes = 0;
        for (path, node) in std::mem::take(&mut self.reassigned).into_values() {
            self.put(tree, path, nodes::topic::encode(&node));
        }
    }

    pub fn into_transaction(self) -> Transaction {
        Transaction { changes: self.changes }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::harness::{Cluster, ids};
    use super::*;
    use crate::limits::{MAX_NODE_BYTES, MAX_TRANSACTION_BYTES};

    /// A draft that creates nodes of these sizes.
    fn draft(sizes: &[usize]) -> Draft {
        let mut draft = Draft::default();
        for (at, bytes) in sizes.iter().enumerate() {
            let path = Path::new(&format!("/{at}")).expect("a path");
            draft.create(path, vec![0; *bytes].into());
        }
        draft
    }

    /// The bytes that one node of a draft counts beside its payload.
    const OTHER_BYTES: usize = "/0".len() + CHANGE_OVERHEAD_BYTES;

    #[test]
    fn a_draft_may_be_as_large_as_its_limits() {
        assert!(draft(&[MAX_NODE_BYTES]).is_within_limits());
        assert!(!draft(&[MAX_NODE_BYTES + 1]).is_within_limits());
        let last = MAX_TRANSACTION_BYTES - MAX_NODE_BYTES - 2 * OTHER_BYTES;
        assert!(last < MAX_NODE_BYTES);
        assert!(draft(&[MAX_NODE_BYTES, last]).is_within_limits());
        assert!(!draft(&[MAX_NODE_BYTES, last + 1]).is_within_limits());
    }

    #[test]
    fn what_does_not_fit_is_not_appended() {
        let last = MAX_TRANSACTION_BYTES - MAX_NODE_BYTES - 2 * OTHER_BYTES;
        let mut whole = draft(&[MAX_NODE_BYTES]);
        assert!(!whole.append(draft(&[last + 1])));
        assert!(!whole.append(draft(&[MAX_NODE_BYTES + 1])), "a node that is too large alone");
        assert_eq!(whole.changes.len(), 1);
        assert!(whole.append(draft(&[last])));
        assert_eq!((whole.changes.len(), whole.bytes, whole.largest_node), (2, MAX_TRANSACTION_BYTES, MAX_NODE_BYTES));
        assert!(!whole.append(draft(&[0])), "it is full");
    }

    #[test]
    fn another_transaction_begins_above_half_of_the_largest() {
        let half = MAX_TRANSACTION_BYTES / 2 - OTHER_BYTES;
        assert!(!draft(&[half]).is_half_full());
        assert!(draft(&[half + 1]).is_half_full());
        let mut reassigning = draft(&[half - ASSIGNMENT_BYTES]);
        reassigning.reassigned_bytes = ASSIGNMENT_BYTES;
        assert!(!reassigning.is_half_full());
        reassigning.reassigned_bytes += 1;
        assert!(reassigning.is_half_full());
    }

    /// A topic's node is written last, and may be large.
    #[test]
    fn new_replicas_count_before_the_node_of_their_topic_is_written() {
        let mut cluster = Cluster::of(3);
        cluster.create("t", &[&[1, 2], &[1, 2]], &[]);
        let path = nodes::topic::path(&cluster.image.topic("t").expect("is there").name);
        let node = cluster.tree.get(&path).expect("is there").payload.len();
        let mut draft = Draft::default();
        for (number, bytes) in [(0, node + ASSIGNMENT_BYTES), (1, node + 2 * ASSIGNMENT_BYTES)] {
            let moved = PartitionState { replicas: ids(&[1, 3]), ..(*cluster.state("t", number)).clone() };
            draft.partition(&cluster.tree, &cluster.image, cluster.id_of("t", number), &moved);
            assert_eq!(draft.reassigned_bytes, bytes);
        }
        draft.seal(&cluster.tree);
        assert_eq!((draft.reassigned_bytes, draft.changes.len()), (0, 3));
        let mut same = Draft::default();
        same.partition(&cluster.tree, &cluster.image, cluster.id_of("t", 0), &cluster.state("t", 0));
        assert_eq!((same.reassigned_bytes, same.changes.len()), (0, 1), "its replicas are as before");
    }
}
