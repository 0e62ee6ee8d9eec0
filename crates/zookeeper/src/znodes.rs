//! The tree as ZooKeeper shows it: with the parents that hold nothing, with JSON for data, and with a stat.
//!
//! The tree remembers neither the times of writes nor deleted children. So `ctime` and `mtime` are those that a node's
//! data names (brokers and the controller), else 0; `cversion` is the number of children, and `pzxid` the revision of
//! the newest one that is there.

use ottla_metadata::nodes::{self, NodePath};
use ottla_metadata::tree::{Node, Path, Tree};

use crate::jute::Writer;
use crate::reassignments::{self, Reassignments};

/// ZooKeeper's own nodes.
const ZOOKEEPERS_OWN: &[&str] = &["/zookeeper", "/zookeeper/config", "/zookeeper/quota"];

/// ZooKeeper's `Stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    pub created: i64,
    pub modified: i64,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub version: i32,
    /// See the module: both the number of children and `cversion`.
    pub children: i32,
    pub newest_child: i64,
    pub ephemeral_owner: i64,
    pub data_bytes: i32,
}

impl Stat {
    pub fn write(&self, writer: &mut Writer<'_>) {
        writer.long(self.created);
        writer.long(self.modified);
        writer.long(self.created_ms);
        writer.long(self.modified_ms);
        writer.int(self.version);
        writer.int(self.children);
        writer.int(0); // The version of the access rights, which never change.
        writer.long(self.ephemeral_owner);
        writer.int(self.data_bytes);
        writer.int(self.children);
        writer.long(self.newest_child);
    }
}

/// One node with everything that can be asked about it.
pub struct Znode {
    pub data: Option<String>,
    pub stat: Stat,
    pub children: Vec<String>,
}

/// The parents that are shown although nothing was written to them.
fn empty_parents() -> impl Iterator<Item = &'static str> {
    nodes::EMPTY_PARENTS.iter().chain(ZOOKEEPERS_OWN).copied()
}

/// Whether a path is shown that is not the node of the reassignments.
pub fn exists(tree: &Tree, path: &Path) -> bool {
    tree.exists(path) || empty_parents().any(|parent| parent == path.as_str())
}

/// What is shown of one tree.
#[derive(Clone, Copy)]
pub struct Znodes<'a> {
    pub tree: &'a Tree,
    pub reassignments: &'a Reassignments,
}

impl Znodes<'_> {
    pub fn exists(&self, path: &Path) -> bool {
        exists(self.tree, path) || (path.as_str() == reassignments::PATH && self.reassignments.are_any(self.tree))
    }

    pub fn znode(&self, path: &Path) -> Option<Znode> {
        if path.as_str() == reassignments::PATH {
            return self.reassignments.shown(self.tree).map(|shown| reassignments_node(&shown));
        }
        let tree = self.tree;
        if !exists(tree, path) {
            return None;
        }
        let children = self.children(path);
        let node = tree.get(path);
        let data = node.and_then(|node| nodes::json(path, node));
        let mut stat = match node {
            Some(node) => stat_of(path, node),
            None => {
                let created = creation_of_parent(tree, path);
                Stat { created, modified: created, ..Stat::default() }
            }
        };
        let newest =
            children.iter().filter_map(|name| tree.get_str(&child_path(path, name))).map(|node| node.created.0);
        stat.newest_child = newest.map(revision).max().unwrap_or(0).max(stat.created);
        stat.children = count(children.len());
        stat.data_bytes = count(data.as_ref().map_or(0, String::len));
        Some(Znode { data, stat, children })
    }

    /// [`Stat::modified`] of a node, without a look at its children and its data.
    pub fn modified(&self, path: &Path) -> Option<i64> {
        if path.as_str() == reassignments::PATH {
            return self.reassignments.shown(self.tree).map(|shown| revision(shown.revision.0));
        }
        if let Some(node) = self.tree.get(path) {
            return Some(revision(node.modified.0));
        }
        exists(self.tree, path).then(|| creation_of_parent(self.tree, path))
    }

    fn children(&self, path: &Path) -> Vec<String> {
        let mut names = self.tree.children(path);
        let empty = empty_parents().filter_map(|parent| {
            let (above, name) = parent.rsplit_once('/')?;
            let is_child = above == path.as_str() || (above.is_empty() && path.as_str() == "/");
            is_child.then(|| name.to_owned())
        });
        names.extend(empty);
        if path.as_str() == reassignments::PARENT && self.reassignments.are_any(self.tree) {
            names.extend(reassignments::PATH.rsplit('/').next().map(str::to_owned));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The number of nodes that are shown below `path`. Passes over all of them, and copies none.
    pub fn count_below(&self, path: &Path) -> usize {
        let tree = self.tree;
        let is_below = |text: &str| text != path.as_str() && is_at_or_below(text, path.as_str());
        let mut count = 0;
        let mut former = "";
        for (node, _) in tree.below(path) {
            count += 1;
            // The parents that are no nodes themselves. Everything below one of them comes in a row: it is new unless
            // the node before is below it too, and then so are all parents above it.
            let parents = std::iter::successors(parent_of(node.as_str()), |parent| parent_of(parent));
            let new = parents.take_while(|parent| is_below(parent) && !is_at_or_below(former, parent));
            count += new.filter(|parent| tree.get_str(parent).is_none()).count();
            former = node.as_str();
        }
        count += empty_parents()
            .filter(|parent| is_below(parent) && !Path::new(parent).is_ok_and(|parent| tree.exists(&parent)))
            .count();
        count + usize::from(is_below(reassignments::PATH) && self.reassignments.are_any(tree))
    }
}

/// Whether a path is another one, or below it.
fn is_at_or_below(path: &str, above: &str) -> bool {
    above == "/" || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// None for what has only the root above it.
fn parent_of(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
}

/// Brokers and the controller, which end with their session.
pub fn is_ephemeral(path: &Path) -> bool {
    matches!(nodes::classify(path), NodePath::Broker(_) | NodePath::Controller)
}

fn stat_of(path: &Path, node: &Node) -> Stat {
    let time_ms = match nodes::classify(path) {
        NodePath::Broker(id) => nodes::broker::decode(id, node).map_or(0, |broker| broker.registered_at.0),
        NodePath::Controller => nodes::controller::decode(&node.payload).map_or(0, |controller| controller.since.0),
        _ => 0,
    };
    Stat {
        created: revision(node.created.0),
        modified: revision(node.modified.0),
        created_ms: time_ms,
        modified_ms: time_ms,
        version: node.version,
        // Any number but 0 says that there is an owner; its session is the broker's, not one of this protocol.
        ephemeral_owner: if is_ephemeral(path) { revision(node.created.0) } else { 0 },
        ..Stat::default()
    }
}

fn reassignments_node(shown: &reassignments::Shown) -> Znode {
    let written = revision(shown.revision.0);
    let data_bytes = count(shown.data.len());
    let stat = Stat { created: written, modified: written, newest_child: written, data_bytes, ..Stat::default() };
    Znode { data: Some(shown.data.clone()), stat, children: Vec::new() }
}

/// Of a parent that is not a node itself: when the nearest node above it was created.
fn creation_of_parent(tree: &Tree, path: &Path) -> i64 {
    let above = std::iter::successors(path.parent(), Path::parent);
    above.filter_map(|path| tree.get(&path)).map(|node| revision(node.created.0)).next().unwrap_or(0)
}

fn child_path(parent: &Path, name: &str) -> String {
    if parent.as_str() == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// Revisions are ZooKeeper's zxids. They are signed there; ours stay far below.
pub fn revision(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
