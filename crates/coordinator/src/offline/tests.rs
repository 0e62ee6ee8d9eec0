//! Sound and spoilt data directories.

use bytes::Bytes;
use ottla_consensus::log_store::HardState;
use ottla_consensus::{Entry, LogStore as _, Membership, Persist};
use ottla_metadata::controller::{AdmitCoordinator, ControllerConfig, first_transaction};
use ottla_metadata::image::{ConfigEntity, IsrMember, LeaderRecoveryState, PartitionState, Standing};
use ottla_metadata::nodes;
use ottla_metadata::transaction::{Change, Transaction};
use ottla_metadata::tree::{Node, NodeChange, Path as TreePath, REVISIONS_SKIPPED_BY_RESTORE};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ControllerEpoch, CoordinatorId, IncarnationId, LeaderEpoch, PartitionEpoch,
    PartitionId, Revision, TopicId, TopicIdPartition, TopicName,
};
use ottla_quorum_node::{AppliedPlace, QuorumStore as _, Voter};
use std::path::Path;

use super::snapshot::restore_at;
use super::{OfflineError, check, restore, save};
use crate::rocksdb_store::{Disk, Identity, RocksDbStore};

/// A member of three with four entries: two are applied, the third is committed too, the last one may have been.
fn store(directory: &Path) -> RocksDbStore {
    let disk = Disk::open(directory).expect("opens");
    let own = IncarnationId([1; 16]);
    let voters = [(CoordinatorId(1), Voter { address: "c1:2181".to_owned(), disk: Some(own) })].into();
    disk.write_identity(&Identity { id: CoordinatorId(1), disk: own, voters }).expect("written");
    let mut store = RocksDbStore::open(disk).expect("readable");
    let three = Membership::new([1, 2, 3].map(CoordinatorId)).expect("three");
    store.bootstrap(three.to_conf_state()).expect("written");
    let admit = |id: u8| AdmitCoordinator {
        coordinator: CoordinatorId(u64::from(id)),
        disk: IncarnationId([id; 16]),
        address: format!("c{id}:2181"),
    };
    let config =
        ControllerConfig { coordinators: (1..=3).map(admit).collect(), ..ControllerConfig::new(ClusterId::new("c")) };
    let first = first_transaction(&config);
    let entry = |index, data: Vec<u8>| Entry { index, term: 1, data: data.into(), ..Entry::default() };
    let alter = |group: &str| {
        let settings = [("consumer.session.timeout.ms".to_owned(), "45000".to_owned())].into();
        let (path, payload) = (ConfigEntity::group(group).path(), nodes::config::encode(&settings));
        Transaction { changes: vec![Change::Create { path, payload }] }.encode()
    };
    let last = Entry { term: 2, ..entry(4, alter("acknowledged")) };
    let entries = vec![entry(1, Vec::new()), entry(2, first.encode()), entry(3, alter("committed")), last];
    let hard_state = HardState { term: 2, commit: 3, ..HardState::default() };
    let persist = Persist { entries, hard_state: Some(hard_state), must_sync: true, ..Persist::default() };
    store.persist(&persist).expect("written");
    let mut tree = ottla_metadata::tree::Tree::new();
    tree.advance(Revision(1));
    let changes = tree.apply(Revision(2), &first).expect("applies");
    store.apply(changes.iter(), AppliedPlace { revision: Revision(2), term: 1 }, None).expect("written");
    store
}

fn problem(directory: &Path) -> String {
    check(directory).expect_err("it is spoilt").to_string()
}

#[test]
fn a_sound_directory_is_sound_and_stays_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(store(directory.path()));
    for _ in 0..2 {
        let sound = check(directory.path()).expect("sound");
        assert_eq!((sound.id, sound.voters.len(), sound.learners.len()), (CoordinatorId(1), 3, 0));
        assert_eq!((sound.first, sound.last, sound.last_term), (Revision(1), Revision(4), 2));
        assert_eq!((sound.applied, sound.committed), (Revision(2), Revision(3)));
        assert!(!sound.is_removed && sound.nodes > 5);
    }
    let empty = tempfile::tempdir().expect("a directory");
    assert!(matches!(check(empty.path()), Err(OfflineError::Open(_))));
    assert_eq!(std::fs::read_dir(empty.path()).expect("a directory").count(), 0, "nothing is created");
}

#[test]
fn a_hole_in_the_log_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(directory.path());
    store.disk().spoil("raft_log", &2u64.to_be_bytes(), None);
    drop(store);
    assert!(problem(directory.path()).contains("entry 2 is missing"));
}

#[test]
fn an_entry_that_cannot_be_read_is_found() {
    for (bytes, text) in [(&b"\xFF\xFF"[..], "entry"), (&b""[..], "entry 3 is 0 of term 0")] {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        store.disk().spoil("raft_log", &3u64.to_be_bytes(), Some(bytes));
        drop(store);
        let problem = problem(directory.path());
        assert!(problem.contains(text), "{problem}");
    }
}

#[test]
fn a_spoilt_tree_is_found() {
    for (path, payload, text) in
        [("/cluster/id", &b"\xFF"[..], "cannot be read"), ("no path", &b""[..], "cannot be read")]
    {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        store.disk().spoil("tree", path.as_bytes(), Some(payload));
        drop(store);
        let problem = problem(directory.path());
        assert!(problem.contains(text), "{problem}");
    }
    // A node that can be read and means nothing, and one from the future.
    for (revision, text) in [(2, "cannot be decoded by this release"), (9, "in a tree of 2")] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = store(directory.path());
        let revision = Revision(revision);
        let node = Node { payload: Bytes::from_static(b"?"), created: revision, modified: revision, version: 0 };
        let path = TreePath::new("/brokers/ids/1").expect("a path");
        let change = NodeChange { path, node: Some(node) };
        store.apply([&change].into_iter(), AppliedPlace { revision: Revision(2), term: 1 }, None).expect("written");
        drop(store);
        let problem = problem(directory.path());
        assert!(problem.contains(text), "{problem}");
    }
}

#[test]
fn a_tree_ahead_of_the_log_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = store(directory.path());
    store.apply([].into_iter(), AppliedPlace { revision: Revision(5), term: 1 }, None).expect("written");
    drop(store);
    assert!(problem(directory.path()).contains("the tree has revision 5, and the log has 1 to 4"));
}

/// A start, and the check, went on with what precedes the damage: entries and votes that were on the disk were lost
/// without a word. The start: `rocksdb_store::write_ahead_log`.
#[test]
fn a_damaged_write_ahead_log_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(store(directory.path()));
    let entries = std::fs::read_dir(directory.path().join("quorum")).expect("a directory").filter_map(Result::ok);
    let path = entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|it| it == "log"));
    let path = path.expect("a write-ahead log");
    let whole = std::fs::read(&path).expect("readable");
    // Cut off within the last write: it was not acknowledged.
    std::fs::write(&path, &whole[..whole.len() - 3]).expect("written");
    check(directory.path()).expect("sound");
    for at in [whole.len() / 2, whole.len() - 10] {
        let mut spoilt = whole.clone();
        spoilt[at] ^= 1;
        std::fs::write(&path, spoilt).expect("written");
        let problem = problem(directory.path());
        assert!(problem.contains("its write-ahead log is damaged"), "{at}: {problem}");
    }
    // Of a quorum without another disk, what precedes is better than nothing: here the tree, which the log repeats.
    let saved = save(directory.path(), &directory.path().join("tree")).expect("saved");
    assert!(saved.revision == Revision(4) && saved.damage.is_some(), "{saved:?}");
    std::fs::write(&path, whole).expect("written");
    check(directory.path()).expect("sound");
}

#[test]
fn a_snapshot_becomes_a_quorum_of_one() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(store(directory.path()));
    let file = directory.path().join("tree");
    let saved = save(directory.path(), &file).expect("saved");
    // What is in the log only is saved too: others may have acknowledged it.
    assert_eq!((saved.revision, saved.term), (Revision(4), 2));
    assert!(matches!(save(directory.path(), &file), Err(OfflineError::File { .. })), "no file is replaced");

    let other = tempfile::tempdir().expect("a directory");
    let restored = restore(&file, other.path(), CoordinatorId(2), "c2:2181").expect("restored");
    assert_eq!(restored.former, [CoordinatorId(1), CoordinatorId(3)]);
    assert!(restored.revision > saved.revision && restored.nodes == saved.nodes);
    let sound = check(other.path()).expect("sound");
    assert_eq!((sound.id, sound.voters), (CoordinatorId(2), vec![CoordinatorId(2)]));
    let tree = Disk::open_read_only(other.path()).expect("opens").tree().expect("readable");
    let image = ottla_metadata::image::Image::from_tree(&tree);
    for group in ["committed", "acknowledged"] {
        assert!(tree.get(&ConfigEntity::group(group).path()).is_some(), "{group}");
    }
    let standing = |id| image.coordinator(CoordinatorId(id)).map(|one| one.node.standing);
    assert_eq!((standing(1), standing(2)), (Some(Standing::Removed), Some(Standing::Voter)));
    assert!(restore(&file, other.path(), CoordinatorId(2), "c2:2181").is_err(), "it is a coordinator's");

    let mut bytes = std::fs::read(&file).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).expect("written");
    let third = tempfile::tempdir().expect("a directory");
    let spoilt = restore(&file, third.path(), CoordinatorId(3), "c3:2181").expect_err("a spoilt file");
    assert!(spoilt.to_string().contains("checksum"), "{spoilt}");
}

/// What was given out after the snapshot was given out again: leader epochs to other leaders, whose records replicas
/// could not tell apart, and producer ids to other producers, whose records were taken for repetitions. And so were
/// broker ids, after a second restore of one file.
#[test]
fn a_restored_quorum_gives_out_no_epoch_and_no_id_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = store(directory.path());
    let (topic, partition) = (TopicName::new("t").expect("a name"), PartitionId(0));
    let assignment = vec![(partition, vec![BrokerId(1)].into())];
    let topic_node = nodes::topic::TopicNode {
        id: TopicId([7; 16]),
        assignment,
        grows_to: 0,
        queued: std::collections::BTreeMap::new(),
    };
    let state = PartitionState {
        leader: BrokerId(1),
        leader_epoch: LeaderEpoch(3),
        partition_epoch: PartitionEpoch(9),
        controller_epoch: ControllerEpoch(1),
        replicas: vec![BrokerId(1)],
        reassignment: None,
        isr: vec![IsrMember { broker: BrokerId(1), epoch: BrokerEpoch(2) }],
        elr: vec![],
        offline: vec![],
        last_known_elr: vec![],
        last_known_leader: BrokerId::NONE,
        leader_recovery_state: LeaderRecoveryState::Recovered,
    };
    let changes = vec![
        Change::Create { path: nodes::topic::path(&topic), payload: nodes::topic::encode(&topic_node) },
        Change::Create { path: nodes::partition::path(&topic, partition), payload: nodes::partition::encode(&state) },
    ];
    let entries = vec![Entry { index: 5, term: 2, data: Transaction { changes }.encode().into(), ..Entry::default() }];
    let hard_state = HardState { term: 2, commit: 5, ..HardState::default() };
    let persist = Persist { entries, hard_state: Some(hard_state), must_sync: true, ..Persist::default() };
    store.persist(&persist).expect("written");
    drop(store);
    let file = directory.path().join("tree");
    save(directory.path(), &file).expect("saved");
    let other = tempfile::tempdir().expect("a directory");
    restore(&file, other.path(), CoordinatorId(2), "c2:2181").expect("restored");
    let tree = Disk::open_read_only(other.path()).expect("opens").tree().expect("readable");
    let image = ottla_metadata::image::Image::from_tree(&tree);
    let id = TopicIdPartition { topic_id: topic_node.id, partition };
    let restored = image.partition(id).expect("is there");
    assert!(restored.leader_epoch.0 > 1_000_000 && restored.partition_epoch.0 > 1_000_000, "{restored:?}");
    let unchanged =
        PartitionState { leader_epoch: restored.leader_epoch, partition_epoch: restored.partition_epoch, ..state };
    assert_eq!(**restored, unchanged);
    assert!(image.controller_epoch().0 > 1_000_000);
    assert!(image.producer_ids().expect("passed over").last > 1_000_000_000);
    let broker_ids = |tree: &ottla_metadata::tree::Tree| tree.get(&nodes::sequence_id::path()).map(|node| node.version);
    assert!(broker_ids(&tree) >= Some(1 << 10));
    // The first quorum of the file is lost too, a minute later.
    let mut brokers = Vec::new();
    let mut at = |file: &Path, seconds| {
        let directory = tempfile::tempdir().expect("a directory");
        let restored = restore_at(file, directory.path(), CoordinatorId(2), "c2:2181", seconds).expect("restored");
        let tree = Disk::open_read_only(directory.path()).expect("opens").tree().expect("readable");
        let image = ottla_metadata::image::Image::from_tree(&tree);
        let state = image.partition(id).expect("is there");
        let producer_ids = image.producer_ids().expect("passed over").last;
        brokers.push(broker_ids(&tree).expect("is there"));
        ((restored.revision.0, state.leader_epoch.0, state.partition_epoch.0, producer_ids), directory)
    };
    let ((first, directory), (second, _)) = (at(&file, 30_000_000), at(&file, 30_000_060));
    assert!(second.3 - first.3 > 1_000_000, "{first:?} {second:?}");
    assert_eq!((second.1 - first.1, second.2 - first.2), (60, 60));
    assert!(second.0 - first.0 > REVISIONS_SKIPPED_BY_RESTORE, "brokers must notice: {first:?} {second:?}");
    // So it is with a snapshot of a quorum that was restored.
    let file = other.path().join("tree");
    save(directory.path(), &file).expect("saved");
    let ((third, _), (fourth, _)) = (at(&file, 30_000_120), at(&file, 30_000_180));
    assert!(third.0 - first.0 > REVISIONS_SKIPPED_BY_RESTORE && third.3 - first.3 > 1_000_000, "{first:?} {third:?}");
    assert!(fourth.3 - third.3 > 1_000_000, "{third:?} {fourth:?}");
    assert_eq!((third.1 - first.1, fourth.1 - third.1, fourth.2 - third.2), (120, 60, 60));
    // By a clock that is wrong, as far as the snapshot tells.
    let (without_time, _) = at(&file, 0);
    assert!(without_time.0 > first.0 && without_time.1 - first.1 > 1_000_000, "{first:?} {without_time:?}");
    // Each passes over what the quorum of its file may have given out, and over what a minute earlier began with.
    let later: Vec<i32> = brokers.iter().map(|begins_at| begins_at - brokers[0]).collect();
    assert_eq!(later, [0, 1, (1 << 10) + 500_002, (1 << 10) + 500_003, 1 << 10]);
}

/// It became a coordinator's beside what it had: a former member's clusters of chroots went on with it.
#[test]
fn a_directory_that_has_something_is_not_restored_to() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(store(directory.path()));
    let file = directory.path().join("tree");
    save(directory.path(), &file).expect("saved");
    for name in ["myid", "chroots", "quorum", ".hidden"] {
        let other = tempfile::tempdir().expect("a directory");
        if name == "myid" {
            std::fs::write(other.path().join(name), "2\n").expect("written");
        } else {
            std::fs::create_dir(other.path().join(name)).expect("created");
        }
        let error = restore(&file, other.path(), CoordinatorId(2), "c2:2181").expect_err("it has something");
        assert!(error.to_string().contains(&format!("it has {name}")), "{error}");
        assert_eq!(std::fs::read_dir(other.path()).expect("a directory").count(), 1, "nothing is created");
    }
    // An empty file system, and a directory that is missing.
    let other = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(other.path().join("lost+found")).expect("created");
    restore(&file, other.path(), CoordinatorId(2), "c2:2181").expect("restored");
    let missing = other.path().join("a/b");
    restore(&file, &missing, CoordinatorId(2), "c2:2181").expect("restored");
    check(&missing).expect("sound");
    let error = restore(&file, &file, CoordinatorId(2), "c2:2181").expect_err("no directory");
    assert!(matches!(error, OfflineError::File { .. }), "{error}");
}

/// A quorum of one that nobody can reach, or whose id no tool can name.
#[test]
fn a_member_that_could_not_be_added_is_not_restored() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(store(directory.path()));
    let file = directory.path().join("tree");
    save(directory.path(), &file).expect("saved");
    let long = format!("{}:2181", "c".repeat(10_000));
    let refused =
        [(0, "c2:2181"), (1 << 31, "c2:2181"), (2, ""), (2, "c2"), (2, "c2:port"), (2, "a b:2181"), (2, long.as_str())];
    for (id, address) in refused {
        let other = tempfile::tempdir().expect("a directory");
        let error = restore(&file, other.path(), CoordinatorId(id), address).expect_err("it cannot be reached");
        assert!(matches!(error, OfflineError::Refused(_)), "{id}@{address}: {error}");
        assert_eq!(std::fs::read_dir(other.path()).expect("a directory").count(), 0, "nothing is created");
    }
}
