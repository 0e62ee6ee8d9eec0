//! Everything that a start would read, and what it would not notice.

use std::path::Path;

use ottla_consensus::{LogStore as _, MemberChange, Membership};
use ottla_metadata::image::{Image, Standing};
use ottla_metadata::nodes::coordinator::live_change;
use ottla_metadata::transaction::Transaction;
use ottla_metadata::tree::Tree;
use ottla_model::{CoordinatorId, Revision};
use ottla_quorum_node::snapshot;

use super::OfflineError;
use crate::rocksdb_store::{Disk, OpenError, RocksDbStore};

/// Bytes of the log that are in memory at a time.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// What a sound data directory holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    pub id: CoordinatorId,
    /// Empty: it has not voted, and has not received a quorum's state.
    pub voters: Vec<CoordinatorId>,
    pub learners: Vec<CoordinatorId>,
    pub applied: Revision,
    pub committed: Revision,
    /// Of the log; the first is above the last if it is empty.
    pub first: Revision,
    pub last: Revision,
    /// Of the last entry. Of several members, the one with the greatest term here, and of those the one with the
    /// greatest last revision, has everything that was acknowledged by a majority that it was part of.
    pub last_term: u64,
    pub term: u64,
    pub nodes: usize,
    pub topics: usize,
    pub partitions: usize,
    /// The quorum does not have it as a member any more.
    pub is_removed: bool,
}

/// Reads all of a data directory. Nothing is written to it.
pub fn check(directory: &Path) -> Result<Checked, OfflineError> {
    let (checked, _) = read(directory)?;
    match Disk::check_write_ahead_log(directory) {
        Ok(()) => Ok(checked),
        Err(OpenError::Damaged { problem, .. }) => {
            let last = checked.last;
            let problem = format!("{problem}: a start refuses it; the log that precedes the damage ends with {last}");
            Err(OfflineError::unsound(directory, problem))
        }
        Err(other) => Err(other.into()),
    }
}

/// As [`check`]; also the tree as it is after the last entry of the log. A majority may have acknowledged entries that
/// this member does not know to be committed.
pub(super) fn read(directory: &Path) -> Result<(Checked, Tree), OfflineError> {
    let unsound = |problem: String| OfflineError::unsound(directory, problem);
    let disk = Disk::open_read_only(directory)?;
    let failed = |problem| OfflineError::disk(directory, problem);
    let identity = disk.identity().map_err(failed)?;
    let identity = identity.ok_or_else(|| unsound("it is no coordinator's: nothing says whose it is".to_owned()))?;
    let (applied, applied_term) = disk.applied().map_err(failed)?;
    // A gap in the log shows here.
    let store = RocksDbStore::open(disk.clone()).map_err(failed)?;
    let initial = store.initial_state().map_err(|error| unsound(error.to_string()))?;
    let hard_state = initial.hard_state;
    let (before, last) = (store.first_index() - 1, store.last_index());
    let committed = hard_state.commit.max(applied);
    if applied < before || applied > last {
        return Err(unsound(format!("the tree has revision {applied}, and the log has {} to {last}", before + 1)));
    }
    if hard_state.commit > last {
        return Err(unsound(format!("revision {} is committed, and the log ends with {last}", hard_state.commit)));
    }
    let tree = disk.tree().map_err(failed)?;
    check_tree(&tree).map_err(unsound)?;
    let mut membership = Membership::default();
    if initial.conf_state.voters.is_empty() {
        if last > 0 {
            return Err(unsound(format!("the log has {last} entries, and nothing says who the members are")));
        }
    } else {
        let invalid = || unsound(format!("the members are impossible: {:?}", initial.conf_state));
        membership = Membership::from_conf_state(&initial.conf_state).ok_or_else(invalid)?;
    }
    let image = Image::from_tree(&tree);
    for (id, coordinator) in image.coordinators().filter(|(_, one)| one.node.is_live_change) {
        let is_member = coordinator.node.standing != Standing::Removed;
        if membership.contains(id) != is_member
            || (coordinator.node.standing == Standing::Voter) != membership.is_voter(id)
        {
            let problem =
                format!("the tree says that coordinator {id} is {:?}, Raft does not", coordinator.node.standing);
            return Err(unsound(problem));
        }
    }
    let walk = Walk { applied, applied_term, committed, term: hard_state.term };
    let (whole, last_term) = walk_log(&store, &walk, tree.clone()).map_err(unsound)?;
    let checked = Checked {
        id: identity.id,
        voters: membership.voters().collect(),
        learners: membership.learners().collect(),
        applied: Revision(applied),
        committed: Revision(committed),
        first: Revision(before + 1),
        last: Revision(last),
        last_term,
        term: hard_state.term,
        nodes: tree.len(),
        topics: image.topics().count(),
        partitions: image.topics().map(|topic| topic.partition_count()).sum(),
        is_removed: !membership.is_empty() && !membership.contains(identity.id),
    };
    Ok((checked, whole))
}

/// Every node means something to this release, its revisions are possible, and a snapshot of the tree is the tree.
fn check_tree(tree: &Tree) -> Result<(), String> {
    let revision = tree.revision();
    for (path, node) in tree.iter() {
        if node.modified > revision || node.created > node.modified {
            let (created, modified) = (node.created, node.modified);
            return Err(format!("{path} was created at {created} and changed at {modified}, in a tree of {revision}"));
        }
    }
    let (_, delta) = Image::from_nodes(revision, tree.iter());
    if let Some(path) = delta.undecodable.first() {
        return Err(format!("{path} cannot be decoded by this release"));
    }
    let copy = snapshot::decode(revision, snapshot::encode(tree)).map_err(|error| error.to_string())?;
    if copy != *tree {
        return Err("a snapshot of the tree is another tree".to_owned());
    }
    Ok(())
}

struct Walk {
    applied: u64,
    applied_term: u64,
    committed: u64,
    term: u64,
}

/// Every entry can be read, terms never fall, and what is committed and not applied applies. Returns the tree after the
/// last entry, and that entry's term.
fn walk_log(store: &RocksDbStore, walk: &Walk, mut tree: Tree) -> Result<(Tree, u64), String> {
    let before = store.first_index() - 1;
    let mut term = store.term(before).map_err(|error| error.to_string())?;
    let mut at = before;
    if walk.applied == before && walk.applied_term != term {
        return Err(format!("revision {before} has term {} in the tree and {term} in the log", walk.applied_term));
    }
    while at < store.last_index() {
        let entries = store.entries(at + 1, store.last_index() + 1, READ_BYTES).map_err(|error| error.to_string())?;
        if entries.is_empty() {
            return Err(format!("entry {} cannot be read", at + 1));
        }
        for entry in entries {
            at += 1;
            if entry.index != at || entry.term < term || entry.term > walk.term {
                let (index, found) = (entry.index, entry.term);
                return Err(format!("entry {at} is {index} of term {found}, after term {term}, in term {}", walk.term));
            }
            term = entry.term;
            if at == walk.applied && term != walk.applied_term {
                return Err(format!("revision {at} has term {} in the tree and {term} in the log", walk.applied_term));
            }
            check_entry(&entry, walk, &mut tree)?;
        }
    }
    Ok((tree, term))
}

fn check_entry(entry: &ottla_consensus::Entry, walk: &Walk, tree: &mut Tree) -> Result<(), String> {
    let index = entry.index;
    let is_to_apply = index > walk.applied;
    let change = MemberChange::of(entry).map_err(|()| format!("entry {index} is no change of members"))?;
    let data = MemberChange::data(entry);
    if data.is_empty() {
        if is_to_apply {
            tree.advance(Revision(index));
        }
        return Ok(());
    }
    let transaction = Transaction::decode(data).map_err(|error| format!("entry {index} cannot be decoded: {error}"))?;
    if change.is_some() != live_change(&transaction).is_some() {
        return Err(format!("entry {index} changes the members in Raft or in the tree, but not in both"));
    }
    if is_to_apply {
        // What does not apply changes only the revision.
        if let Err(error) = tree.apply(Revision(index), &transaction)
            && index <= walk.committed
        {
            return Err(format!("entry {index} does not apply: {error}"));
        }
    }
    Ok(())
}
