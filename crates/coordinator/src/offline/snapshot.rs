//! The tree as a file, and a new quorum from it.
//!
//! A file: `OTTLAQ1\n`, the revision and the term (8 bytes each, big-endian), the length of the data (8 bytes), the
//! data (the snapshot that members send each other), and the CRC-32C of everything before it (4 bytes).

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use ottla_consensus::log_store::HardState;
use ottla_consensus::{Membership, Persist, Snapshot};
use ottla_metadata::image::{CoordinatorNode, Image, PartitionState, ProducerIdBlock, Standing};
use ottla_metadata::limits::check_coordinator;
use ottla_metadata::nodes;
use ottla_metadata::transaction::{Change, Transaction};
use ottla_metadata::tree::{Node, Path as TreePath, REVISIONS_SKIPPED_BY_RESTORE, Tree};
use ottla_model::{BrokerId, ControllerEpoch, CoordinatorId, IncarnationId, LeaderEpoch, PartitionEpoch, Revision};
use ottla_quorum_node::{Voter, snapshot};
use ottla_rpc::channel::check_address;

use super::{OfflineError, check};
use crate::rocksdb_store::{Disk, Identity, OpenError, RocksDbStore};
use ottla_consensus::LogStore as _;

const MAGIC: &[u8; 8] = b"OTTLAQ1\n";
const HEAD_BYTES: usize = 8 + 8 + 8 + 8;
const CRC_BYTES: usize = 4;
/// As many elections and other changes a partition, and elections of `/controller`, may have seen after the snapshot.
/// Epochs that were given out again would name other records: replicas compare their logs by them, and would keep both.
const EPOCHS_SKIPPED: i32 = 1 << 20;
/// As many producer ids may have been given out after the snapshot. Of two producers with one id, what the second one
/// writes is taken for repetitions of the first one's records.
const PRODUCER_IDS_SKIPPED: i64 = 1 << 32;
/// As many brokers may have come without an id after the snapshot. Of two brokers with one id, the second one is taken
/// for the first one come back, with logs that it does not have.
const BROKER_IDS_SKIPPED: i32 = 1 << 10;
/// A file may be restored more than once, because the first quorum of it was lost too: brokers have seen what that one
/// gave out. So the counters begin no lower than they would be if they had grown by so much in each second since the
/// beginning of 2026, epochs by one, and broker ids by one a minute. Revisions by so much that brokers notice it where
/// the second quorum begins ten seconds after the first one: logs that it does not know are set aside, not deleted.
const REVISIONS_PER_SECOND: u64 = 1 << 28;
const PRODUCER_IDS_PER_SECOND: i64 = 1 << 20;
/// Brokers without ids do not come every minute, and people read the numbers.
const SECONDS_PER_BROKER_ID: i64 = 60;
const BEGINNING_OF_2026: Duration = Duration::from_secs(1_767_225_600);
/// What `mkfs` puts into each file system: one that was made for the data directory has nothing else.
const EMPTY_FILE_SYSTEM_HAS: &str = "lost+found";

/// What was saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Of the last entry of the log.
    pub revision: Revision,
    pub term: u64,
    pub nodes: usize,
    pub bytes: usize,
    /// Where the write-ahead log is damaged: what follows is not saved.
    pub damage: Option<String>,
}

/// What a new quorum begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    pub saved: Revision,
    pub revision: Revision,
    pub nodes: usize,
    /// The former members: they need empty data directories, and are to be added.
    pub former: Vec<CoordinatorId>,
}

fn crc(bytes: &[u8]) -> [u8; CRC_BYTES] {
    // The algorithm has 32 bits.
    (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_be_bytes()
}

/// Writes the tree of a data directory, which is checked first, to a new file: the tree as it is after the last entry
/// of the log.
pub fn save(directory: &Path, file: &Path) -> Result<Saved, OfflineError> {
    let (checked, tree) = check::read(directory)?;
    let damage = match Disk::check_write_ahead_log(directory) {
        Err(OpenError::Damaged { problem, .. }) => Some(problem.to_string()),
        sound => sound.map(|()| None)?,
    };
    let (revision, term) = (tree.revision(), checked.last_term);
    if revision == Revision(0) {
        return Err(OfflineError::unsound(directory, "it holds no tree yet"));
    }
    let data = snapshot::encode(&tree);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + data.len() + CRC_BYTES);
    bytes.extend_from_slice(MAGIC);
    for number in [revision.0, term, data.len() as u64] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(&data);
    let crc = crc(&bytes);
    bytes.extend_from_slice(&crc);
    let failed = |problem| OfflineError::File { file: file.to_owned(), problem };
    let mut out = std::fs::File::create_new(file).map_err(failed)?;
    out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(failed)?;
    Ok(Saved { revision, term, nodes: tree.len(), bytes: bytes.len(), damage })
}

/// Revision, term and data.
fn read(file: &Path) -> Result<(u64, u64, Bytes), OfflineError> {
    let bytes = std::fs::read(file).map_err(|problem| OfflineError::File { file: file.to_owned(), problem })?;
    let invalid = |problem: &str| OfflineError::not_a_snapshot(file, problem);
    let body = bytes.len().checked_sub(CRC_BYTES).filter(|end| *end >= HEAD_BYTES);
    let (body, tail) = bytes.split_at(body.ok_or_else(|| invalid("it is too short"))?);
    if !body.starts_with(MAGIC) {
        return Err(invalid("it begins otherwise"));
    }
    if tail != crc(body) {
        return Err(invalid("its checksum is another"));
    }
    let number = |at: usize| {
        let field = body.get(at..at + 8).and_then(|field| <[u8; 8]>::try_from(field).ok());
        field.map(u64::from_be_bytes).unwrap_or_default()
    };
    let (index, term, length) = (number(8), number(16), number(24));
    let data = body.get(HEAD_BYTES..).unwrap_or_default();
    if index == 0 || index >= 1 << 60 || term == 0 || data.len() as u64 != length {
        return Err(invalid("its head does not fit"));
    }
    Ok((index, term, Bytes::copy_from_slice(data)))
}

/// Where a counter begins that the snapshot knows up to `known`.
fn begins_at(known: i64, skipped: i64, of_time: i64) -> i64 {
    // It counted on from a restore before, from the time of that one: a step from there would be the same at each
    // restore of the next days.
    if (skipped..of_time).contains(&known) { of_time } else { known.saturating_add(skipped).max(of_time) }
}

/// Passes over broker ids that may have been given out after the snapshot: they are the versions of a node.
fn with_later_broker_ids(tree: Tree, seconds: u32) -> Tree {
    let path = nodes::sequence_id::path();
    let Some(node) = tree.get(&path).cloned() else { return tree };
    let of_time = i64::from(seconds) / SECONDS_PER_BROKER_ID;
    // Many brokers may come in a minute: what a former restore gave out is passed over like the rest.
    let version = i64::from(node.version) + i64::from(BROKER_IDS_SKIPPED) + of_time;
    let node = Node { version: i32::try_from(version).unwrap_or(i32::MAX), modified: tree.revision(), ..node };
    let nodes = tree.iter().map(|(at, other)| (at.clone(), if *at == path { node.clone() } else { other.clone() }));
    Tree::restore(tree.revision(), nodes)
}

/// Passes over what else may have been given out after the snapshot. `seconds`: since the beginning of 2026.
fn given_out_later(tree: &Tree, image: &Image, seconds: u32) -> Vec<Change> {
    let put = |path: TreePath, payload| match tree.get(&path) {
        Some(known) => Change::Set { expected: known.version, path, payload },
        None => Change::Create { path, payload },
    };
    let later = |epoch: i32| {
        let later = begins_at(epoch.into(), EPOCHS_SKIPPED.into(), seconds.into());
        i32::try_from(later).unwrap_or(i32::MAX)
    };
    let block = image.producer_ids().unwrap_or(ProducerIdBlock { broker: BrokerId::NONE, first: 0, last: -1 });
    let last = begins_at(block.last, PRODUCER_IDS_SKIPPED, i64::from(seconds) * PRODUCER_IDS_PER_SECOND);
    let block = ProducerIdBlock { last, ..block };
    let controller_epoch = ControllerEpoch(later(image.controller_epoch().0));
    let mut changes = vec![
        put(nodes::producer_ids::path(), nodes::producer_ids::encode(block)),
        put(nodes::controller_epoch::path(), nodes::controller_epoch::encode(controller_epoch)),
    ];
    for topic in image.topics() {
        for (partition, state) in topic.partitions() {
            let state = PartitionState {
                leader_epoch: LeaderEpoch(later(state.leader_epoch.0)),
                partition_epoch: PartitionEpoch(later(state.partition_epoch.0)),
                ..(**state).clone()
            };
            changes.push(put(nodes::partition::path(&topic.name, partition), nodes::partition::encode(&state)));
        }
    }
    changes
}

/// A directory that is missing counts as empty. Others' files would stay beside a coordinator's, and what a former
/// member left here, such as the clusters of chroots, would be taken for a part of the new quorum.
fn check_empty(directory: &Path) -> Result<(), OfflineError> {
    let failed = |problem| OfflineError::File { file: directory.to_owned(), problem };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if name != EMPTY_FILE_SYSTEM_HAS {
            let problem = format!("it has {}; accepted: an empty data directory, or a new one", name.display());
            return Err(OfflineError::unsound(directory, problem));
        }
    }
    Ok(())
}

/// Makes an empty data directory the disk of the only member of a new quorum, with the tree of the file.
pub fn restore(file: &Path, directory: &Path, id: CoordinatorId, address: &str) -> Result<Restored, OfflineError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u32::try_from(now.saturating_sub(BEGINNING_OF_2026).as_secs()).unwrap_or(u32::MAX);
    restore_at(file, directory, id, address, seconds)
}

/// As [`restore`], so many seconds after the beginning of 2026.
pub(super) fn restore_at(
    file: &Path,
    directory: &Path,
    id: CoordinatorId,
    address: &str,
    seconds: u32,
) -> Result<Restored, OfflineError> {
    // What `ottla quorum add` demands of a member.
    check_coordinator(id, address).map_err(|error| OfflineError::Refused(error.to_string()))?;
    check_address(address).map_err(|error| OfflineError::Refused(error.to_string()))?;
    check_empty(directory)?;
    let (saved, term, data) = read(file)?;
    let mut tree =
        snapshot::decode(Revision(saved), data).map_err(|error| OfflineError::not_a_snapshot(file, error))?;
    let own = IncarnationId(rand::random());
    let of_time = u64::from(seconds) * REVISIONS_PER_SECOND;
    let revision = Revision(saved.saturating_add(REVISIONS_SKIPPED_BY_RESTORE).max(of_time));
    let image = Image::from_tree(&tree);
    let former: Vec<CoordinatorId> = image.coordinators().map(|(id, _)| id).filter(|other| *other != id).collect();
    let mut changes = Vec::new();
    for (other, coordinator) in image.coordinators().filter(|(other, _)| *other != id) {
        let node = CoordinatorNode { standing: Standing::Removed, is_live_change: true, ..coordinator.node.clone() };
        let (path, payload) = (nodes::coordinator::path(other), nodes::coordinator::encode(&node));
        let expected = tree.get(&path).map_or(0, |node| node.version);
        changes.push(Change::Set { path, payload, expected });
    }
    let node =
        CoordinatorNode { disk: own, address: address.to_owned(), standing: Standing::Voter, is_live_change: true };
    let (path, payload) = (nodes::coordinator::path(id), nodes::coordinator::encode(&node));
    changes.push(match tree.get(&path) {
        Some(known) => Change::Set { expected: known.version, path, payload },
        None => Change::Create { path, payload },
    });
    changes.extend(given_out_later(&tree, &image, seconds));
    tree.apply(revision, &Transaction { changes }).map_err(|error| OfflineError::Refused(error.to_string()))?;
    let tree = with_later_broker_ids(tree, seconds);
    let membership = Membership::new([id]).map_err(|error| OfflineError::Refused(error.to_string()))?;
    let term = term + 1;
    let mut made = Snapshot { data: snapshot::encode(&tree), ..Snapshot::default() };
    (made.mut_metadata().index, made.mut_metadata().term) = (revision.0, term);
    made.mut_metadata().set_conf_state(membership.to_conf_state());
    let hard_state = HardState { term, commit: revision.0, ..HardState::default() };
    let persist = Persist { snapshot: Some(made), hard_state: Some(hard_state), must_sync: true, ..Persist::default() };
    let failed = |problem| OfflineError::disk(directory, problem);
    let disk = Disk::open(directory)?;
    let mut store = RocksDbStore::open(disk.clone()).map_err(failed)?;
    store.persist(&persist).map_err(|error| OfflineError::Refused(error.to_string()))?;
    let voters = [(id, Voter { address: address.to_owned(), disk: Some(own) })].into();
    // Last: what has no identity is not a member's disk, and `check` says so.
    disk.write_identity(&Identity { id, disk: own, voters }).map_err(failed)?;
    Ok(Restored { saved: Revision(saved), revision, nodes: tree.len(), former })
}
