//! The watches of one client, and the events that a change of the tree sends to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_metadata::tree::{Path, Tree, TreeChange};

use crate::operation::WatcherType;
use crate::reassignments::{self, Reassignments};
use crate::znodes;

/// Bytes that a watch takes beside its path: the entry and its allocation, rounded up.
const WATCH_BYTES: usize = 96;

/// Bytes of all clients' watches of one process, with a ceiling.
#[derive(Debug)]
pub struct WatchBudget {
    used_bytes: AtomicUsize,
    count: AtomicUsize,
    max_bytes: usize,
}

impl WatchBudget {
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { used_bytes: AtomicUsize::new(0), count: AtomicUsize::new(0), max_bytes })
    }

    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// The watched paths of all clients, a path of two clients twice.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn take(&self, path: &Path) -> bool {
        let bytes = bytes(path);
        self.count.fetch_add(1, Ordering::Relaxed);
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if used + bytes > self.max_bytes {
            self.give(path);
            return false;
        }
        true
    }

    fn give(&self, path: &Path) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.used_bytes.fetch_sub(bytes(path), Ordering::Relaxed);
    }
}

/// What a client wants to be told about a path.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wants {
    /// Once: the node was created, written or deleted.
    pub data: bool,
    /// Once: a child was created or deleted, or the node was deleted.
    pub children: bool,
    /// All of it, until the watch is removed.
    pub persistent: bool,
    /// Creations, writes and deletions of the node and of everything below it, until the watch is removed.
    pub recursive: bool,
}

impl Wants {
    pub const DATA: Self = Self { data: true, ..Self::NOTHING };
    pub const CHILDREN: Self = Self { children: true, ..Self::NOTHING };
    pub const PERSISTENT: Self = Self { persistent: true, ..Self::NOTHING };
    pub const RECURSIVE: Self = Self { recursive: true, ..Self::NOTHING };
    const NOTHING: Self = Self { data: false, children: false, persistent: false, recursive: false };
    const ALL: Self = Self { data: true, children: true, persistent: true, recursive: true };

    pub fn of(kind: WatcherType) -> Self {
        match kind {
            WatcherType::Children => Self::CHILDREN,
            WatcherType::Data => Self::DATA,
            WatcherType::Any => Self::ALL,
            WatcherType::Persistent => Self::PERSISTENT,
            WatcherType::PersistentRecursive => Self::RECURSIVE,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            data: self.data && other.data,
            children: self.children && other.children,
            persistent: self.persistent && other.persistent,
            recursive: self.recursive && other.recursive,
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            data: self.data || other.data,
            children: self.children || other.children,
            persistent: self.persistent || other.persistent,
            recursive: self.recursive || other.recursive,
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            data: self.data && !other.data,
            children: self.children && !other.children,
            persistent: self.persistent && !other.persistent,
            recursive: self.recursive && !other.recursive,
        }
    }
}

/// ZooKeeper's event types, by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EventType {
    Created = 1,
    Deleted = 2,
    DataChanged = 3,
    ChildrenChanged = 4,
}

pub type Event = (EventType, Path);

pub struct Watches {
    wants: HashMap<Path, Wants>,
    /// Number of recursive watches: where there are none, no change looks above itself.
    recursive: usize,
    budget: Arc<WatchBudget>,
}

impl Watches {
    pub fn new(budget: Arc<WatchBudget>) -> Self {
        Self { wants: HashMap::new(), recursive: 0, budget }
    }

    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// False if the process holds as many watches as it may.
    #[must_use]
    pub fn add(&mut self, path: &Path, wants: Wants) -> bool {
        let Some(known) = self.wants.get_mut(path) else {
            if !self.budget.take(path) {
                return false;
            }
            self.wants.insert(path.clone(), wants);
            self.recursive += usize::from(wants.recursive);
            return true;
        };
        self.recursive += usize::from(wants.recursive && !known.recursive);
        *known = known.or(wants);
        true
    }

    pub fn has(&self, path: &Path, kind: WatcherType) -> bool {
        self.wants.get(path).is_some_and(|wants| wants.and(Wants::of(kind)) != Wants::NOTHING)
    }

    pub fn remove(&mut self, path: &Path, wants: Wants) {
        let Some(known) = self.wants.get_mut(path) else { return };
        self.recursive -= usize::from(known.recursive && wants.recursive);
        *known = known.without(wants);
        if *known == Wants::NOTHING {
            self.wants.remove(path);
            self.budget.give(path);
        }
    }

    /// The events that lead from one tree to a later one, in an order in which each can be understood: deletions from
    /// below, creations from above, writes, lists of children. Watches that tell once are gone afterwards.
    pub fn events(&mut self, old: &Tree, new: &Tree, reassignments: &Reassignments) -> Vec<Event> {
        let mut changes = Changes::between(old, new);
        if self.may_tell_reassignments() {
            changes.add_reassignments(old, new, reassignments);
        }
        let mut events = Vec::new();
        let deleted = changes.deleted.iter().rev().map(|path| (EventType::Deleted, path));
        let created = changes.created.iter().map(|path| (EventType::Created, path));
        let written = changes.written.iter().map(|path| (EventType::DataChanged, path));
        let parents = changes.parents.iter().map(|path| (EventType::ChildrenChanged, path));
        for (event, path) in deleted.chain(created).chain(written).chain(parents) {
            if self.tells(event, path) {
                events.push((event, path.clone()));
            }
        }
        events
    }

    fn tells(&mut self, event: EventType, path: &Path) -> bool {
        let once = match event {
            EventType::Created | EventType::DataChanged => Wants::DATA,
            EventType::ChildrenChanged => Wants::CHILDREN,
            EventType::Deleted => Wants::DATA.or(Wants::CHILDREN),
        };
        let wants = self.wants.get(path).copied().unwrap_or_default();
        let is_told = wants.persistent || wants.and(once) != Wants::NOTHING;
        self.remove(path, once);
        is_told || (event != EventType::ChildrenChanged && self.is_below_recursive(path))
    }

    fn may_tell_reassignments(&self) -> bool {
        let watched = |path| Path::new(path).is_ok_and(|path| self.wants.contains_key(&path));
        self.recursive > 0 || watched(reassignments::PATH) || watched(reassignments::PARENT)
    }

    fn is_below_recursive(&self, path: &Path) -> bool {
        let mut here = std::iter::successors(Some(path.clone()), Path::parent);
        self.recursive > 0 && here.any(|path| self.wants.get(&path).is_some_and(|wants| wants.recursive))
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.wants.keys().for_each(|path| self.budget.give(path));
    }
}

fn bytes(path: &Path) -> usize {
    WATCH_BYTES + path.as_str().len()
}

/// How the shown nodes of two trees differ.
#[derive(Default)]
struct Changes {
    deleted: BTreeSet<Path>,
    created: BTreeSet<Path>,
    written: BTreeSet<Path>,
    parents: BTreeSet<Path>,
}

impl Changes {
    fn between(old: &Tree, new: &Tree) -> Self {
        let mut changes = Self::default();
        // Whether a path was shown, for ancestors that many changes have in common.
        let mut shown_before = BTreeMap::new();
        let mut shown_after = BTreeMap::new();
        for change in new.changes_since(old) {
            match change {
                TreeChange::Written { path, is_new_node: false } => {
                    changes.written.insert(path);
                }
                TreeChange::Written { path, is_new_node: true } => {
                    changes.parents.extend(path.parent());
                    changes.deleted.insert(path.clone());
                    changes.created.insert(path);
                }
                TreeChange::Added(path) if znodes::exists(old, &path) => {
                    changes.written.insert(path);
                }
                TreeChange::Added(path) => {
                    appear(path, old, &mut shown_before, &mut changes.created, &mut changes.parents)
                }
                TreeChange::Removed(path) if znodes::exists(new, &path) => {
                    changes.written.insert(path);
                }
                TreeChange::Removed(path) => {
                    appear(path, new, &mut shown_after, &mut changes.deleted, &mut changes.parents);
                }
            }
        }
        changes
    }

    /// The node of the reassignments under way, which the tree does not have.
    fn add_reassignments(&mut self, old: &Tree, new: &Tree, reassignments: &Reassignments) {
        let (Ok(path), Ok(parent)) = (Path::new(reassignments::PATH), Path::new(reassignments::PARENT)) else { return };
        let mut topics = self.deleted.iter().chain(&self.created).chain(&self.written);
        if !topics.any(|topic| reassignments::differ(old, new, topic)) {
            return;
        }
        match (reassignments.are_any(old), reassignments.are_any(new)) {
            (false, false) => return,
            (true, true) => self.written.insert(path),
            (false, true) => self.created.insert(path) && self.parents.insert(parent),
            (true, false) => self.deleted.insert(path) && self.parents.insert(parent),
        };
    }
}

/// `path` is not shown in `other`, nor are perhaps some of its parents: all of them appear or disappear, and the
/// children of each one's parent change.
fn appear(
    path: Path,
    other: &Tree,
    shown: &mut BTreeMap<Path, bool>,
    appeared: &mut BTreeSet<Path>,
    parents: &mut BTreeSet<Path>,
) {
    let mut path = path;
    while appeared.insert(path.clone()) {
        let Some(parent) = path.parent() else { return };
        parents.insert(parent.clone());
        if *shown.entry(parent.clone()).or_insert_with(|| znodes::exists(other, &parent)) {
            return;
        }
        path = parent;
    }
}
