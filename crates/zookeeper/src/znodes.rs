//! The tree as ZooKeeper shows it: with the parents that hold nothing, with JSON for data, and with a stat.
//!
//! The tree remembers neither the times of writes nor deleted children. So `ctime` and `mtime` are those that a node's
//! data names (brokers and the controller), else 0; `cversion` is the number of children, and `pzxid` the revision of
//! the newest one that is there.

use std::collections::BTreeSet;

use ottla_metadata::nodes::{self, NodePath};
use ottla_metadata::tree::{Node, Path, Tree};

use crate::jute::Writer;
use crate::reassignments;

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

pub fn exists(tree: &Tree, path: &Path) -> bool {
    tree.exists(path)
        || empty_parents().any(|parent| parent == path.as_str())
        || (path.as_str() == reassignments::PATH && reassignments::are_any(tree))
}

pub fn znode(tree: &Tree, path: &Path) -> Option<Znode> {
    if path.as_str() == reassignments::PATH {
        return reassignments::shown(tree).map(reassignments_node);
    }
    if !exists(tree, path) {
        return None;
    }
    let children = children(tree, path);
    let node = tree.get(path);
    let data = node.and_then(|node| nodes::json(path, node));
    let mut stat = match node {
        Some(node) => stat_of(path, node),
        None => {
            let created = creation_of_parent(tree, path);
            Stat { created, modified: created, ..Stat::default() }
        }
    };
    let newest = children.iter().filter_map(|name| tree.get_str(&child_path(path, name))).map(|node| node.created.0);
    stat.newest_child = newest.map(revision).max().unwrap_or(0).max(stat.created);
    stat.children = count(children.len());
    stat.data_bytes = count(data.as_ref().map_or(0, String::len));
    Some(Znode { data, stat, children })
}

pub fn children(tree: &Tree, path: &Path) -> Vec<String> {
    let mut names = tree.children(path);
    let empty = empty_parents().filter_map(|parent| {
        let (above, name) = parent.rsplit_once('/')?;
        let is_child = above == path.as_str() || (above.is_empty() && path.as_str() == "/");
        is_child.then(|| name.to_owned())
    });
    names.extend(empty);
    if path.as_str() == reassignments::PARENT && reassignments::are_any(tree) {
        names.extend(reassignments::PATH.rsplit('/').next().map(str::to_owned));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Every node that is shown below `path`.
pub fn count_below(tree: &Tree, path: &Path) -> usize {
    let prefix = if path.as_str() == "/" { "/".to_owned() } else { format!("{path}/") };
    let is_below = |text: &str| text != path.as_str() && text.starts_with(&prefix);
    let mut below: BTreeSet<String> = empty_parents().filter(|parent| is_below(parent)).map(str::to_owned).collect();
    for (node, _) in tree.below(path) {
        let shown = std::iter::successors(Some(node.clone()), Path::parent);
        for shown in shown.take_while(|shown| is_below(shown.as_str())) {
            if !below.insert(shown.as_str().to_owned()) {
                break;
            }
        }
    }
    if is_below(reassignments::PATH) && reassignments::are_any(tree) {
        below.insert(reassignments::PATH.to_owned());
    }
    below.len()
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

fn reassignments_node(shown: reassignments::Shown) -> Znode {
    let written = revision(shown.revision.0);
    let data_bytes = count(shown.data.len());
    let stat = Stat { created: written, modified: written, newest_child: written, data_bytes, ..Stat::default() };
    Znode { data: Some(shown.data), stat, children: Vec::new() }
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
