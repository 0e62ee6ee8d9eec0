//! Family `tree`: path → node, in the node's stored form; the applied revision moves in the same batch.

use bytes::Bytes;
use ottla_consensus::log_store::ConfState;
use ottla_consensus::snapshot::{Encoder, Pairs};
use ottla_consensus::{Snapshot, SnapshotMetadata};
use ottla_metadata::tree::{Node, NodeChange, Path, Tree};
use ottla_model::Revision;
use rocksdb::{IteratorMode, WriteBatch};

use super::{Disk, DiskError, raft_state};

pub(super) const FAMILY: &str = "tree";

/// Above every path: they are UTF-8, which has no byte 0xFF.
const END: &[u8] = &[0xFF];

fn node(path: &[u8], value: &[u8]) -> Result<(Path, Node), DiskError> {
    const WHAT: &str = "a node of the tree";
    let text = std::str::from_utf8(path).map_err(|error| DiskError::corrupt(WHAT, error))?;
    let path = Path::new(text).map_err(|error| DiskError::corrupt(WHAT, error))?;
    let node = Node::decode(value).map_err(|error| DiskError::corrupt(WHAT, format!("{text}: {error}")))?;
    Ok((path, node))
}

impl Disk {
    /// The whole tree, at the applied revision.
    pub fn tree(&self) -> Result<Tree, DiskError> {
        let (revision, _) = self.applied()?;
        let mut nodes = Vec::new();
        for item in self.db.iterator_cf(&self.family(FAMILY), IteratorMode::Start) {
            let (key, value) = item?;
            nodes.push(node(&key, &value)?);
        }
        Ok(Tree::restore(Revision(revision), nodes))
    }

    /// Writes the changes of one or several entries, and the position of the last one. Not synced: the log can repeat
    /// it. Synced if the members change: one that starts with the former members might need the vote of one that was
    /// removed, to learn that the change is committed.
    pub fn apply<'a>(
        &self,
        changes: impl IntoIterator<Item = &'a NodeChange>,
        applied: (u64, u64),
        conf_state: Option<&ConfState>,
    ) -> Result<(), DiskError> {
        let mut batch = WriteBatch::default();
        let family = self.family(FAMILY);
        for change in changes {
            match &change.node {
                Some(node) => batch.put_cf(&family, change.path.as_str(), node.encode()),
                None => batch.delete_cf(&family, change.path.as_str()),
            }
        }
        self.put_applied(&mut batch, applied);
        if let Some(conf_state) = conf_state {
            self.put_conf_state(&mut batch, conf_state)?;
        }
        self.write(batch, conf_state.is_some())
    }

    /// Adds the writes that replace the tree by a snapshot's.
    pub(super) fn install(&self, batch: &mut WriteBatch, snapshot: &Snapshot) -> Result<(), DiskError> {
        let family = self.family(FAMILY);
        batch.delete_range_cf(&family, &b""[..], END);
        for pair in pairs(snapshot)? {
            let (key, value) = pair.map_err(|error| DiskError::corrupt("a snapshot", error))?;
            // Read before it is written: a tree that no start could read must not get to the disk.
            node(&key, &value)?;
            batch.put_cf(&family, key, value);
        }
        let metadata = snapshot.get_metadata();
        self.put_applied(batch, (metadata.index, metadata.term));
        Ok(())
    }

    /// The tree as it is on the disk now, with the revision and the members that belong to it. May run beside the
    /// driver's writes.
    pub fn make_snapshot(&self) -> Result<Snapshot, DiskError> {
        let view = self.db.snapshot();
        let state = self.family(raft_state::FAMILY);
        let applied = view.get_cf(&state, Self::applied_key())?;
        let (index, term) = raft_state::place("the applied revision", applied)?;
        let conf_state = raft_state::members(view.get_cf(&state, Self::conf_state_key())?)?;
        let mut encoder = Encoder::new();
        for item in view.iterator_cf(&self.family(FAMILY), IteratorMode::Start) {
            let (key, value) = item?;
            encoder.pair(&key, &value);
        }
        let mut metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        metadata.set_conf_state(conf_state);
        let mut snapshot = Snapshot { data: encoder.finish(), ..Snapshot::default() };
        snapshot.set_metadata(metadata);
        Ok(snapshot)
    }
}

fn pairs(snapshot: &Snapshot) -> Result<Pairs, DiskError> {
    let data: Bytes = snapshot.data.clone();
    Pairs::new(data).map_err(|error| DiskError::corrupt("a snapshot", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, revision: u64) -> NodeChange {
        let revision = Revision(revision);
        let node = Node { payload: Bytes::from_static(b"x"), created: revision, modified: revision, version: 0 };
        NodeChange { path: Path::new(path).expect("a path"), node: Some(node) }
    }

    /// A removal from two members to one was answered before it would survive a loss of power: the one that was left
    /// then needed the vote of the other.
    #[test]
    fn new_members_are_on_the_disk_before_anybody_hears_of_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(directory.path()).expect("opens");
        disk.apply(&[change("/a", 3)], (3, 1), None).expect("applies");
        assert_eq!(disk.synced_writes(), 0, "the log repeats it");
        let one = ConfState { voters: vec![1], ..ConfState::default() };
        disk.apply(&[change("/b", 4)], (4, 1), Some(&one)).expect("applies");
        assert_eq!(disk.synced_writes(), 1);
    }

    /// The tree has the keys of users.
    #[test]
    fn a_new_data_directory_is_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let _disk = Disk::open(&data).expect("opens");
        for path in [&data, &data.join("quorum")] {
            let mode = std::fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn the_tree_and_its_revision_move_together() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(directory.path()).expect("opens");
        assert_eq!(disk.tree().expect("empty"), Tree::new());
        disk.apply(&[change("/a", 3), change("/b", 3)], (3, 1), None).expect("applies");
        let deleted = NodeChange { path: Path::new("/a").expect("a path"), node: None };
        disk.apply(&[deleted], (4, 1), None).expect("applies");
        drop(disk);
        let disk = Disk::open(directory.path()).expect("opens again");
        let tree = disk.tree().expect("readable");
        assert_eq!((tree.revision(), tree.len()), (Revision(4), 1));
        let snapshot = disk.make_snapshot().expect("a snapshot");
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (4, 1));

        let other_directory = tempfile::tempdir().expect("a directory");
        let other = Disk::open(other_directory.path()).expect("opens");
        other.apply(&[change("/gone", 1)], (1, 1), None).expect("applies");
        let mut batch = WriteBatch::default();
        other.install(&mut batch, &snapshot).expect("readable");
        other.write(batch, true).expect("written");
        assert_eq!(other.tree().expect("readable"), tree);
    }
}
