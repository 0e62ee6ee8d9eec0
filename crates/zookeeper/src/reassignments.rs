//! `/admin/reassign_partitions`: in the ZooKeeper era the node held the reassignments that a tool had asked for until
//! they were done. The tree has them in the nodes of the topics, and the node is shown while there is any.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ottla_metadata::image::Assignment;
use ottla_metadata::nodes::topic;
use ottla_metadata::tree::{Path, Tree};
use ottla_model::Revision;
use serde::Serialize;

pub const PATH: &str = "/admin/reassign_partitions";
/// The parent of the node.
pub const PARENT: &str = "/admin";
const TOPICS: &str = "/brokers/topics";

/// Trees whose node is remembered: clients compare the newest tree with the one before.
const REMEMBERED_MAX: usize = 4;

/// The node as it is shown.
#[derive(Debug)]
pub struct Shown {
    pub data: String,
    /// The newest one that wrote a topic with a reassignment.
    pub revision: Revision,
}

#[derive(Serialize)]
struct Data {
    version: u8,
    partitions: Vec<Reassigned>,
}

#[derive(PartialEq, Serialize)]
struct Reassigned {
    topic: String,
    partition: i32,
    /// When the reassignment is done.
    replicas: Vec<i32>,
}

/// The node in the newest trees of one cluster, for all of its clients: to look at every topic takes milliseconds, and
/// a frame can ask for it thousands of times.
#[derive(Default, Debug)]
pub struct Reassignments {
    remembered: Mutex<VecDeque<(Revision, Option<Arc<Shown>>)>>,
}

impl Reassignments {
    /// The node; none while nothing is reassigned.
    pub fn shown(&self, tree: &Tree) -> Option<Arc<Shown>> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, shown)) = remembered.iter().find(|(revision, _)| *revision == tree.revision()) {
            return shown.clone();
        }
        let shown = look(tree).map(Arc::new);
        if remembered.len() == REMEMBERED_MAX {
            remembered.pop_front();
        }
        remembered.push_back((tree.revision(), shown.clone()));
        shown
    }

    pub fn are_any(&self, tree: &Tree) -> bool {
        self.shown(tree).is_some()
    }
}

/// Looks at every topic.
fn look(tree: &Tree) -> Option<Shown> {
    let mut revision = Revision(0);
    let mut partitions = Vec::new();
    for name in topics(tree) {
        let of_topic = of_topic(tree, &name);
        if !of_topic.is_empty() {
            let modified = tree.get_str(&topic_path(&name)).map_or(Revision(0), |node| node.modified);
            revision = revision.max(modified);
            partitions.extend(of_topic);
        }
    }
    if partitions.is_empty() {
        return None;
    }
    let data = serde_json::to_string(&Data { version: 1, partitions }).ok()?;
    Some(Shown { data, revision })
}

/// Whether a node of the tree is a topic whose reassignments the trees do not have in common.
pub fn differ(old: &Tree, new: &Tree, path: &Path) -> bool {
    let name = path.as_str().strip_prefix(TOPICS).and_then(|rest| rest.strip_prefix('/'));
    let name = name.filter(|name| !name.contains('/'));
    name.is_some_and(|name| of_topic(old, name) != of_topic(new, name))
}

fn topics(tree: &Tree) -> Vec<String> {
    Path::new(TOPICS).map_or_else(|_| Vec::new(), |path| tree.children(&path))
}

fn topic_path(name: &str) -> String {
    format!("{TOPICS}/{name}")
}

fn of_topic(tree: &Tree, name: &str) -> Vec<Reassigned> {
    let node = tree.get_str(&topic_path(name)).and_then(|node| topic::decode(&node.payload).ok());
    let assignments = node.map(|topic| topic.assignment).unwrap_or_default();
    let is_reassigned = |one: &Assignment| one.reassignment.is_some();
    assignments
        .into_iter()
        .filter(|(_, assignment)| is_reassigned(assignment))
        .map(|(partition, assignment)| Reassigned {
            topic: name.to_owned(),
            partition: partition.0,
            replicas: assignment.target().iter().map(|broker| broker.0).collect(),
        })
        .collect()
}
