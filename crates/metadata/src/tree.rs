//! The tree: paths to nodes, with the revisions and the version that ZooKeeper would show for each.
//!
//! Invariants: a node's version counts the writes since its creation, from 0; `created ≤ modified ≤` the tree's
//! revision; the revision only grows. A parent path need not exist as a node: `/brokers/topics/T/partitions` is shown
//! because a state exists below it. The same transactions at the same revisions give the same tree on every member.
//! Cloning a tree is cheap (persistent map), which makes snapshots and speculation cheap.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ottla_model::Revision;
use prost::Message;

use crate::limits::MAX_PATH_BYTES;
use crate::transaction::{Change, Transaction, TransactionError};

/// A restored quorum goes on this far above its snapshot's revision: brokers may have seen later ones, and never go
/// back to an earlier one. No broker misses as many revisions in another way.
pub const REVISIONS_SKIPPED_BY_RESTORE: u64 = 1 << 32;

/// An absolute path: `/` or `/name/name…`. Names are not empty, hold no `/` and no control character, and are neither
/// `.` nor `..` (ZooKeeper's rules).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

/// A text that is no path of the tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a path of the tree: {0:?}")]
pub struct PathError(pub String);

impl Path {
    pub fn new(text: &str) -> Result<Self, PathError> {
        let invalid = || PathError(text.chars().take(MAX_PATH_BYTES).collect());
        if text.len() > MAX_PATH_BYTES {
            return Err(invalid());
        }
        if text == "/" {
            return Ok(Self::root());
        }
        let rest = text.strip_prefix('/').ok_or_else(invalid)?;
        let is_name = |name: &str| {
            !name.is_empty() && name != "." && name != ".." && !name.chars().any(|character| character.is_control())
        };
        if rest.split('/').all(is_name) { Ok(Self(text.into())) } else { Err(invalid()) }
    }

    pub fn root() -> Self {
        Self("/".into())
    }

    /// A path that the node kinds build from checked parts: topic names, numbers, names of entities within
    /// [`crate::limits`]. An invalid path becomes the root, where no node can be created, set or deleted: a transaction
    /// with it is refused when it is decided, and is never proposed to members that could not decode it (fault A1).
    pub(crate) fn built(text: String) -> Self {
        Self::new(&text).unwrap_or_else(|_| Self::root())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// None for the root.
    pub fn parent(&self) -> Option<Self> {
        let (parent, name) = self.0.rsplit_once('/')?;
        match (parent.is_empty(), name.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Self::root()),
            (false, _) => Some(Self(parent.into())),
        }
    }

    /// The common prefix of all paths below this one.
    fn prefix(&self) -> String {
        if &*self.0 == "/" { "/".to_owned() } else { format!("{}/", self.0) }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A node of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The protobuf form of the node's kind (see [`crate::nodes`]); empty if the kind has none.
    pub payload: Bytes,
    pub created: Revision,
    pub modified: Revision,
    /// Number of writes since the creation, from 0; transactions compare it.
    pub version: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeRecord {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
    #[prost(uint64, tag = "2")]
    created: u64,
    #[prost(uint64, tag = "3")]
    modified: u64,
    #[prost(int32, tag = "4")]
    version: i32,
}

impl Node {
    /// The stored form: a protobuf record of payload, revisions and version.
    pub fn encode(&self) -> Vec<u8> {
        NodeRecord {
            payload: self.payload.clone(),
            created: self.created.0,
            modified: self.modified.0,
            version: self.version,
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let record = NodeRecord::decode(bytes)?;
        Ok(Self {
            payload: record.payload,
            created: Revision(record.created),
            modified: Revision(record.modified),
            version: record.version,
        })
    }
}

/// The result of a transaction at one path: the new node, or none if it was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeChange {
    pub path: Path,
    pub node: Option<Node>,
}

/// How a path differs between two trees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeChange {
    Added(Path),
    Removed(Path),
    /// `is_new_node`: deleted and created again in between.
    Written {
        path: Path,
        is_new_node: bool,
    },
}

/// The tree at one revision.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree {
    revision: Revision,
    nodes: OrdMap<Path, Node>,
    /// What `nodes` take, about.
    bytes: usize,
}

/// What a node takes besides its path and its payload: the entry of the map, and the counters of shared texts.
const NODE_BYTES: usize = 160;

fn bytes_of(path: &Path, node: &Node) -> usize {
    NODE_BYTES + path.as_str().len() + node.payload.len()
}

/// Puts a node in its place, or removes it, and counts it.
fn place(nodes: &mut OrdMap<Path, Node>, bytes: &mut usize, path: &Path, node: Option<&Node>) {
    let former = match node {
        Some(node) => {
            *bytes += bytes_of(path, node);
            nodes.insert(path.clone(), node.clone())
        }
        None => nodes.remove(path),
    };
    *bytes -= former.map_or(0, |former| bytes_of(path, &former));
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("revision", &self.revision).field("nodes", &self.nodes.len()).finish()
    }
}

impl Tree {
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree of stored or received nodes, in any order.
    pub fn restore(revision: Revision, nodes: impl IntoIterator<Item = (Path, Node)>) -> Self {
        let nodes: OrdMap<Path, Node> = nodes.into_iter().collect();
        let bytes = nodes.iter().map(|(path, node)| bytes_of(path, node)).sum();
        Self { revision, nodes, bytes }
    }

    /// The revision of the last entry that was applied, changed or not.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// About how many bytes the nodes take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The node at a path given as text; none also for a text that is no path.
    pub fn get_str(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Every node, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter()
    }

    /// Every node below `path`, by path, without the node itself.
    pub fn below(&self, path: &Path) -> impl Iterator<Item = (&Path, &Node)> {
        let prefix = path.prefix();
        self.nodes
            .range::<_, str>((Bound::Excluded(prefix.as_str()), Bound::Unbounded))
            .take_while(move |(path, _)| path.as_str().starts_with(&prefix))
    }

    /// The names below `path` as ZooKeeper's `ls` shows them, sorted; also of parents that are not nodes themselves.
    /// Costs one look-up per name, not a scan of everything below.
    pub fn children(&self, path: &Path) -> Vec<String> {
        let prefix = path.prefix();
        let mut names = BTreeSet::new();
        let mut from = Bound::Excluded(prefix.clone());
        loop {
            let start = from.as_ref().map(String::as_str);
            let Some((found, _)) = self.nodes.range::<_, str>((start, Bound::Unbounded)).next() else { break };
            let Some(rest) = found.as_str().strip_prefix(&prefix) else { break };
            from = match rest.split_once('/') {
                None => {
                    names.insert(rest.to_owned());
                    Bound::Excluded(found.as_str().to_owned())
                }
                Some((name, _)) => {
                    names.insert(name.to_owned());
                    // '0' is the character after '/': skips everything below this name.
                    Bound::Included(format!("{prefix}{name}0"))
                }
            };
        }
        names.into_iter().collect()
    }

    /// Whether `path` is a node or has nodes below it.
    pub fn exists(&self, path: &Path) -> bool {
        path.as_str() == "/" || self.get(path).is_some() || self.below(path).next().is_some()
    }

    /// What differs from an earlier state of this tree, by path. Passes over everything that both share.
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = TreeChange> + 'a {
        old.nodes.diff(&self.nodes).map(|item| match item {
            DiffItem::Add(path, _) => TreeChange::Added(path.clone()),
            DiffItem::Remove(path, _) => TreeChange::Removed(path.clone()),
            DiffItem::Update { old: (_, old), new: (path, new) } => {
                TreeChange::Written { path: path.clone(), is_new_node: old.created != new.created }
            }
        })
    }

    /// Applies the transaction at `revision`: all of its changes, or none. The revision moves in both cases. Returns
    /// the changes by path, one per path.
    pub fn apply(
        &mut self,
        revision: Revision,
        transaction: &Transaction,
    ) -> Result<Vec<NodeChange>, TransactionError> {
        self.advance(revision);
        let (mut nodes, mut bytes) = (self.nodes.clone(), self.bytes);
        let mut touched = BTreeMap::new();
        for change in &transaction.changes {
            let node = match change {
                Change::Create { path, payload } => {
                    if path.as_str() == "/" || nodes.contains_key(path) {
                        return Err(TransactionError::Exists { path: path.clone() });
                    }
                    let node = Node { payload: payload.clone(), created: revision, modified: revision, version: 0 };
                    place(&mut nodes, &mut bytes, path, Some(&node));
                    Some(node)
                }
                // In its place: a fencing sets tens of thousands of nodes, and each search compares long paths.
                Change::Set { path, payload, expected } => {
                    let node = expect(nodes.get_mut(path), path, *expected)?;
                    bytes += payload.len();
                    bytes -= node.payload.len();
                    node.payload = payload.clone();
                    node.modified = revision;
                    node.version = node.version.saturating_add(1);
                    Some(node.clone())
                }
                Change::Delete { path, expected } => {
                    expect(nodes.get(path), path, *expected)?;
                    place(&mut nodes, &mut bytes, path, None);
                    None
                }
                Change::Check { path, expected: Some(version) } => {
                    expect(nodes.get(path), path, *version)?;
                    continue;
                }
                Change::Check { path, expected: None } if nodes.contains_key(path) => {
                    return Err(TransactionError::Exists { path: path.clone() });
                }
                Change::Check { .. } => continue,
            };
            touched.insert(change.path().clone(), node);
        }
        (self.nodes, self.bytes) = (nodes, bytes);
        Ok(touched.into_iter().map(|(path, node)| NodeChange { path, node }).collect())
    }

    /// Writes changes that were decided and applied elsewhere, as a watcher or the controller receives them.
    pub fn accept(&mut self, revision: Revision, changes: &[NodeChange]) {
        self.advance(revision);
        for change in changes {
            place(&mut self.nodes, &mut self.bytes, &change.path, change.node.as_ref());
        }
    }

    /// Moves the revision over an entry without changes (a leader's no-op). It never goes back.
    pub fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }
}

/// The node that was found at `path`, if it has the version that it must have.
fn expect<N>(node: Option<N>, path: &Path, expected: i32) -> Result<N, TransactionError>
where
    N: std::ops::Deref<Target = Node>,
{
    let node = node.ok_or_else(|| TransactionError::Missing { path: path.clone() })?;
    let found = node.version;
    if found != expected {
        return Err(TransactionError::Version { path: path.clone(), expected, found });
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::new(text).expect("a valid path")
    }

    fn create(text: &str) -> Change {
        Change::Create { path: path(text), payload: Bytes::from_static(b"x") }
    }

    #[test]
    fn paths_follow_zookeeper() {
        for valid in ["/", "/a", "/config/brokers/<default>", "/brokers/topics/a.b_c/partitions/0/state"] {
            assert_eq!(path(valid).as_str(), valid);
        }
        for invalid in ["", "a", "/a/", "//", "/a//b", "/..", "/a/./b", "/a\u{0}"] {
            assert!(Path::new(invalid).is_err(), "{invalid:?}");
        }
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(Path::root()));
        assert_eq!(Path::root().parent(), None);
        assert_eq!(path("/a/b").name(), "b");
    }

    #[test]
    fn children_list_implicit_parents_once_and_in_order() {
        let mut tree = Tree::new();
        let changes = ["/a/x", "/a/x-y", "/a/x-y-z/deep/er", "/a/x/one", "/a/x/two", "/b", "/a/x.y"];
        tree.apply(Revision(1), &Transaction { changes: changes.map(create).to_vec() }).expect("applies");
        assert_eq!(tree.children(&Path::root()), ["a", "b"]);
        assert_eq!(tree.children(&path("/a")), ["x", "x-y", "x-y-z", "x.y"]);
        assert_eq!(tree.children(&path("/a/x")), ["one", "two"]);
        assert_eq!(tree.children(&path("/b")), [] as [&str; 0]);
        assert!(tree.exists(&path("/a/x-y-z/deep")) && !tree.exists(&path("/a/x-")));
        assert_eq!(tree.below(&path("/a/x")).count(), 2);
    }

    #[test]
    fn a_transaction_applies_whole_or_not_at_all() {
        let mut tree = Tree::new();
        tree.apply(Revision(1), &Transaction { changes: vec![create("/a")] }).expect("applies");
        let before = tree.clone();
        let set = |expected| Change::Set { path: path("/a"), payload: Bytes::new(), expected };
        let refused = tree.apply(Revision(2), &Transaction { changes: vec![create("/b"), set(7)] });
        assert_eq!(refused, Err(TransactionError::Version { path: path("/a"), expected: 7, found: 0 }));
        assert_eq!(tree.get_str("/b"), None);
        assert_eq!(tree.get_str("/a"), before.get_str("/a"));
        assert_eq!(tree.revision(), Revision(2));
        let changes = tree.apply(Revision(3), &Transaction { changes: vec![set(0), set(1)] }).expect("applies");
        assert_eq!(changes.len(), 1);
        let node = tree.get_str("/a").expect("is there");
        assert_eq!((node.created, node.modified, node.version), (Revision(1), Revision(3), 2));
    }

    /// Scenario 25: an entry that is applied twice is refused the second time, the same way everywhere.
    #[test]
    fn an_entry_applied_twice_is_refused() {
        let mut tree = Tree::new();
        let creation = Transaction { changes: vec![create("/a")] };
        tree.apply(Revision(1), &creation).expect("applies");
        assert_eq!(tree.apply(Revision(2), &creation), Err(TransactionError::Exists { path: path("/a") }));
        let write = Change::Set { path: path("/a"), payload: Bytes::new(), expected: 0 };
        let write = Transaction { changes: vec![write] };
        tree.apply(Revision(3), &write).expect("applies");
        assert!(tree.apply(Revision(4), &write).is_err());
        let delete = Transaction { changes: vec![Change::Delete { path: path("/a"), expected: 1 }] };
        tree.apply(Revision(5), &delete).expect("applies");
        assert_eq!(tree.apply(Revision(6), &delete), Err(TransactionError::Missing { path: path("/a") }));
    }

    #[test]
    fn checks_guard_and_change_nothing() {
        let mut tree = Tree::new();
        let absent = Change::Check { path: path("/a"), expected: None };
        let made = tree.apply(Revision(1), &Transaction { changes: vec![absent.clone(), create("/a")] });
        assert_eq!(made.expect("applies").len(), 1);
        assert!(tree.apply(Revision(2), &Transaction { changes: vec![absent] }).is_err());
    }

    #[test]
    fn nodes_survive_their_stored_form() {
        let node = Node { payload: Bytes::from_static(b"p"), created: Revision(3), modified: Revision(9), version: 4 };
        assert_eq!(Node::decode(&node.encode()), Ok(node));
        assert!(Node::decode(&[0xff; 5]).is_err());
    }

    #[test]
    fn accepted_changes_give_the_same_tree() {
        let mut leader = Tree::new();
        let mut watcher = Tree::new();
        let changes = leader.apply(Revision(4), &Transaction { changes: vec![create("/a"), create("/b")] });
        watcher.accept(Revision(4), &changes.expect("applies"));
        assert_eq!(leader, watcher);
    }

    #[test]
    fn a_tree_knows_what_it_takes() {
        let mut tree = Tree::new();
        tree.apply(Revision(1), &Transaction { changes: vec![create("/a"), create("/b/c")] }).expect("applies");
        let write = Change::Set { path: path("/a"), payload: Bytes::from_static(&[7; 1_000]), expected: 0 };
        tree.apply(Revision(2), &Transaction { changes: vec![write] }).expect("applies");
        let restored = Tree::restore(Revision(2), tree.iter().map(|(path, node)| (path.clone(), node.clone())));
        assert_eq!(restored, tree);
        assert!(tree.bytes() > 1_000 + 2 * NODE_BYTES && tree.bytes() < 3_000, "{}", tree.bytes());
        let delete = |path: Path, expected| Change::Delete { path, expected };
        let changes = vec![delete(path("/a"), 1), delete(path("/b/c"), 0)];
        tree.apply(Revision(3), &Transaction { changes }).expect("applies");
        assert_eq!(tree.bytes(), 0);
    }
}
