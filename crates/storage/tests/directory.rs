//! A log directory: its owner, its content, its stored state.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, Offset, PartitionId, TopicName, TopicPartition};
use ottla_storage::checkpoint::registration::Registration;
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::env::{DirectoryEntry, Faults, OpenMode};
use ottla_storage::{
    CheckpointKind, DirectoryError, Env, FaultyEnv, LastRun, LeftBy, Log, LogDirectory, MemoryEnv, RealEnv,
    read_topic_id,
};

fn open<E: Env>(env: &E) -> Result<LogDirectory<E>, DirectoryError> {
    LogDirectory::open(env.clone(), "/data".into())
}

#[test]
fn one_process_at_a_time() {
    let env = MemoryEnv::new();
    let first = open(&env).unwrap();
    assert!(matches!(open(&env), Err(DirectoryError::InUse { .. })));
    drop(first);
    open(&env).unwrap();
}

#[test]
fn one_process_at_a_time_on_a_real_disk() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    let first = LogDirectory::open(RealEnv, path.clone()).unwrap();
    assert!(matches!(LogDirectory::open(RealEnv, path.clone()), Err(DirectoryError::InUse { .. })));
    first.probe().unwrap();
    drop(first);
    LogDirectory::open(RealEnv, path).unwrap();
}

#[test]
fn one_broker_of_one_cluster_for_good() {
    let env = MemoryEnv::new();
    let cluster = ClusterId::new("5L6g3nShT-eMCtK--X86sw");
    let mut directory = open(&env).unwrap();
    assert!(directory.meta().is_none());
    directory.claim(BrokerId(1), &cluster, 1).unwrap();
    directory.claim(BrokerId(1), &cluster, 1).unwrap();
    drop(directory);
    let mut directory = open(&env).unwrap();
    assert!(matches!(directory.check_broker(BrokerId(2)), Err(DirectoryError::OtherBroker { .. })));
    let refused = directory.claim(BrokerId(1), &ClusterId::new("another"), 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "/data: this log directory belongs to cluster 5L6g3nShT-eMCtK--X86sw, not to another"
    );
    let text = env.read_file(Path::new("/data/meta.properties")).unwrap();
    assert_eq!(text, b"#\nbroker.id=1\ncluster.id=5L6g3nShT-eMCtK--X86sw\nversion=0\n");
}

#[test]
fn checkpoints_survive_and_are_replaced_whole() {
    let env = FaultyEnv::new(3);
    let directory = open(&env).unwrap();
    let name = partition();
    for kind in CheckpointKind::ALL {
        assert!(directory.read_checkpoint(kind).unwrap().is_empty());
        directory.write_checkpoint(kind, [(&name, Offset(41))].into_iter()).unwrap();
    }
    drop(directory);
    env.lose_power();
    let directory = open(&env).unwrap();
    assert_eq!(directory.read_checkpoint(CheckpointKind::HighWatermark).unwrap()[&name], Offset(41));
    let text = env.read_file(Path::new("/data/replication-offset-checkpoint")).unwrap();
    assert_eq!(text, b"0\n1\norders 3 41\n");
    let file =
        env.open(Path::new("/data/log-start-offset-checkpoint"), ottla_storage::env::OpenMode::Truncate).unwrap();
    ottla_storage::File::write_all_at(&file, b"0\n7\n", 0).unwrap();
    assert!(matches!(directory.read_checkpoint(CheckpointKind::LogStart), Err(DirectoryError::Malformed { .. })));
}

#[test]
fn a_clean_shutdown_counts_on_a_full_disk_too() {
    let env = FaultyEnv::new(1);
    let directory = LogDirectory::open(env.clone(), "/data".into()).unwrap();
    directory.write_clean_shutdown(BrokerEpoch(42)).unwrap();
    env.set_faults(Faults { no_space_ppm: 1_000_000, ..Faults::NONE });
    assert_eq!(directory.take_clean_shutdown(Some("boot")).unwrap(), Some(BrokerEpoch(42)));
    assert_eq!((directory.take_clean_shutdown(Some("boot")).unwrap(), directory.registration().unwrap()), (None, None));
}

#[test]
fn a_clean_shutdown_counts_once() {
    let env = FaultyEnv::new(4);
    let directory = open(&env).unwrap();
    assert_eq!(directory.take_clean_shutdown(None).unwrap(), None);
    directory.write_clean_shutdown(BrokerEpoch(42)).unwrap();
    drop(directory);
    env.lose_power();
    let directory = open(&env).unwrap();
    assert_eq!(directory.take_clean_shutdown(None).unwrap(), Some(BrokerEpoch(42)));
    drop(directory);
    env.lose_power();
    assert_eq!(open(&env).unwrap().take_clean_shutdown(None).unwrap(), None);
}

/// A broker whose host lost its power did not know that it had registered, and took a quorum that was restored from an
/// old snapshot for the one that it had left: it deleted logs that were moved to it since.
#[test]
fn the_last_registration_is_known_after_a_power_loss() {
    let env = FaultyEnv::new(6);
    let directory = open(&env).unwrap();
    let registration = Registration { boot_id: "first".to_owned(), broker_epoch: BrokerEpoch(42) };
    directory.write_registration(&registration).unwrap();
    drop(directory);
    env.lose_power();
    let directory = open(&env).unwrap();
    let same_boot = LeftBy::of(&directory, Some("first")).unwrap();
    assert_eq!((same_boot.whole_since, same_boot.registered), (Some(BrokerEpoch(42)), Some(BrokerEpoch(42))));
    let left = LeftBy::of(&directory, Some("second")).unwrap();
    assert_eq!((left.whole_since, left.registered), (None, Some(BrokerEpoch(42))));
    let run = LastRun::of(&[left, LeftBy::UNKNOWN]);
    assert_eq!((run.closed, run.whole_since, run.registered), (false, BrokerEpoch::NONE, BrokerEpoch(42)));
    directory.write_clean_shutdown(BrokerEpoch(43)).unwrap();
    let left = LeftBy::of(&directory, None).unwrap();
    assert_eq!((left.closed, left.whole_since, left.registered), (true, Some(BrokerEpoch(43)), Some(BrokerEpoch(43))));
}

#[test]
fn partitions_are_listed_renamed_and_removed() {
    let env = MemoryEnv::new();
    let directory = open(&env).unwrap();
    let mut log = create(&env, std::sync::Arc::default());
    for name in ["lost+found", "a-b-delete-7", "x.y-0.0123456789abcdef0123456789abcdef-future"] {
        env.create_directory(&directory.path().join(name)).unwrap();
    }
    let listed = directory.partitions().unwrap();
    let names: Vec<_> = listed.iter().map(|found| (found.partition.to_string(), found.kind)).collect();
    assert_eq!(
        names,
        [
            ("a-b-delete-7".to_owned(), PartitionDirectoryKind::Live),
            ("orders-3".to_owned(), PartitionDirectoryKind::Live),
            ("x.y-0".to_owned(), PartitionDirectoryKind::Future),
        ]
    );
    assert_eq!(read_topic_id(directory.env(), &listed[1].path), Some(TOPIC_ID));
    assert!(directory.remove(&directory.partition_path(&partition())).is_err(), "a live one is never removed");

    log.abandon();
    let deleted = directory.mark_deleted(&partition(), [0xAB; 16]).unwrap();
    assert_eq!(deleted, Path::new("/data/orders-3.abababababababababababababababab-delete"));
    let kinds = directory.partitions().unwrap();
    assert!(kinds.iter().any(|found| found.path == deleted && found.kind == PartitionDirectoryKind::Deleted));
    directory.remove(&deleted).unwrap();
    directory.remove(&deleted).unwrap();
    assert!(!env.exists(&deleted).unwrap());

    let long = TopicPartition::new(TopicName::new(&"t".repeat(249)).unwrap(), PartitionId(12));
    env.create_directory(&directory.partition_path(&long)).unwrap();
    let stray = directory.mark_stray(&long, [1; 16]).unwrap();
    assert_eq!(stray.file_name().unwrap().len(), 255);
    let found = directory.partitions().unwrap().into_iter().find(|found| found.path == stray).unwrap();
    assert_eq!((found.kind, found.partition.partition), (PartitionDirectoryKind::Stray, PartitionId(12)));
    assert!(directory.remove(&stray).is_err(), "a stray one is never removed");
}

/// Counts the calls that change or list names.
#[derive(Clone)]
struct Counting {
    inner: MemoryEnv,
    calls: Arc<AtomicUsize>,
    listed: Arc<AtomicUsize>,
}

impl Counting {
    fn count(&self) -> &MemoryEnv {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.inner
    }
}

impl Env for Counting {
    type File = <MemoryEnv as Env>::File;
    type Lock = <MemoryEnv as Env>::Lock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Self::File> {
        self.count().open(path, mode)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let entries = self.count().list(directory)?;
        self.listed.fetch_add(entries.len(), Ordering::Relaxed);
        Ok(entries)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.count().exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count().rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.count().remove_file(path)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.count().create_directory(path)
    }
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.count().remove_directory(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.count().sync_directory(directory)
    }
    fn lock(&self, path: &Path) -> io::Result<Self::Lock> {
        self.inner.lock(path)
    }
}

/// Thousands of partitions come and go: the next one costs as much as the first, and no other one is looked at.
#[test]
fn a_partition_costs_as_many_calls_among_thousands_as_alone() {
    let env = Counting { inner: MemoryEnv::new(), calls: Arc::default(), listed: Arc::default() };
    let directory = open(&env).unwrap();
    let of = |number: u32| {
        let before = (env.calls.load(Ordering::Relaxed), env.listed.load(Ordering::Relaxed));
        let partition = TopicPartition::new(TopicName::new("many").unwrap(), PartitionId(number.try_into().unwrap()));
        assert!(!directory.free_name(&partition).unwrap());
        let path = directory.partition_path(&partition);
        let mut log = Log::create(env.clone(), path, partition.clone(), TOPIC_ID, Arc::default(), NOW).unwrap();
        append(&mut log, batch(&[NOW.0], 10));
        log.flush(TICK).unwrap();
        if number.is_multiple_of(2) {
            log.abandon();
            let unique = u128::from(number).to_be_bytes();
            let deleted = directory.mark_deleted(&partition, unique).unwrap();
            directory.sync().unwrap();
            if number.is_multiple_of(4) {
                directory.remove(&deleted).unwrap();
            }
        }
        (env.calls.load(Ordering::Relaxed) - before.0, env.listed.load(Ordering::Relaxed) - before.1)
    };
    let first: Vec<_> = (0..4).map(of).collect();
    let last = (4..3_000).map(of).skip(2_992).collect::<Vec<_>>();
    assert_eq!(last, first);
    assert!(first.iter().all(|(calls, listed)| *calls > 0 && *listed == 0), "{first:?}");
}
