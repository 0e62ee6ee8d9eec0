//! What a replica does under its lock never waits for a read of the disk: a stalled disk would hold up everybody who
//! wants the partition.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use ottla_model::{
    LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicName, TopicPartition,
    TransactionResult,
};
use ottla_partition::{
    Append, ConsumerTerms, Fetch, MayWait, OffsetLookup, OffsetQuery, OwnRead, Reader, Replica, Visible, finish_cold,
    finish_fetch, read_own,
};
use ottla_protocol::record_batch::{BatchBuilder, TimestampType};
use ottla_replication::{AppendTerms, EndMarker};
use ottla_storage::env::{DirectoryEntry, OpenMode};
use ottla_storage::{ColdRead, Env, File, Log, LogConfig, MemoryEnv, OpenOptions, Read};

const LEADER_EPOCH: LeaderEpoch = LeaderEpoch(0);
const RECORDS: i64 = 60;

/// A disk with an empty page cache: every read would wait for it. Counts the reads that do.
#[derive(Clone, Default)]
struct ColdEnv {
    inner: MemoryEnv,
    waits: Arc<AtomicUsize>,
}

struct ColdFile {
    inner: <MemoryEnv as Env>::File,
    waits: Arc<AtomicUsize>,
}

impl ColdEnv {
    fn waits(&self) -> usize {
        self.waits.load(Ordering::Relaxed)
    }
}

impl Env for ColdEnv {
    type File = ColdFile;
    type Lock = <MemoryEnv as Env>::Lock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<ColdFile> {
        if mode == OpenMode::Read {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(ColdFile { inner: self.inner.open(path, mode)?, waits: self.waits.clone() })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.list(directory)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.create_directory(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_directory(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.inner.sync_directory(directory)
    }

    fn lock(&self, path: &Path) -> io::Result<Self::Lock> {
        self.inner.lock(path)
    }
}

impl File for ColdFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.inner.read_at(buffer, position)
    }

    fn read_at_if_cached(&self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.inner.write_all_at(bytes, position)
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        self.inner.set_len(size_bytes)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.inner.size_bytes()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all()
    }
}

type TestReplica = Replica<ColdEnv, NoAck>;

fn log_config() -> Arc<LogConfig> {
    Arc::new(LogConfig {
        segment_bytes: 2_000,
        index_interval_bytes: 200,
        producer_id_expiration_ms: i64::MAX,
        retention_ms: 1_000,
        deletes: true,
        ..LogConfig::default()
    })
}

fn lead(log: Log<ColdEnv>) -> TestReplica {
    let mut replica = Replica::new(Offset(0));
    let _ = replica.assume(&sole_leader(LEADER_EPOCH), NOW, WALL, &config(), &brokers);
    let _ = replica.log_opened(Ok(Box::new(log)), NOW, WALL, &config(), &brokers);
    assert!(replica.leader().is_some());
    replica
}

fn append(replica: &mut TestReplica, timestamp: TimestampMs) {
    let builder = BatchBuilder::new().record(timestamp, None, Some(&[7; 100]));
    let mut records = builder.build().unwrap().to_vec();
    let append = Append { records: &mut records, header: None, acks_all: false, terms: AppendTerms::CLIENT };
    let _ = replica.append(append, NOW, WALL, &brokers).unwrap();
}

/// The leader of a log of several segments, which was closed and opened again: nothing of it is in memory.
fn cold_leader(env: &ColdEnv) -> TestReplica {
    let directory = Path::new("/data/t-0").to_owned();
    let name = TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0));
    let log = Log::create(env.clone(), directory.clone(), name.clone(), TopicId([1; 16]), log_config(), WALL).unwrap();
    let mut replica = lead(log);
    for number in 0..RECORDS {
        append(&mut replica, TimestampMs(WALL.0 + number));
    }
    replica.log_mut().unwrap().close(NOW).unwrap();
    let options = OpenOptions { clean_shutdown: true, recovery_point: Offset(RECORDS), ..OpenOptions::unclean(WALL) };
    lead(Log::open(env.clone(), directory, name, log_config(), options).unwrap().log)
}

/// A step that is taken under the lock.
fn locked<T>(env: &ColdEnv, what: &str, step: impl FnOnce() -> T) -> T {
    let before = env.waits();
    let result = step();
    assert_eq!(env.waits(), before, "{what} waited for the disk");
    result
}

/// Runs a read that was not in memory; what it gives.
fn bytes_of(env: &ColdEnv, cold: &ColdRead<ColdEnv>) -> usize {
    let before = env.waits();
    let records = cold.run().unwrap().unwrap();
    assert!(env.waits() > before, "nothing was in memory");
    records.len
}

#[test]
fn reads_are_made_without_the_lock() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    for from in [0, 1, RECORDS / 2, RECORDS - 1].map(Offset) {
        let own = locked(&env, "read_own", || replica.read_own(LEADER_EPOCH, Some(from), 1).unwrap());
        let OwnRead { from: begin, end, records: Read::Cold(cold) } = own else { panic!("{from}: in memory") };
        assert_eq!((begin, end), (from, Offset(RECORDS)));
        assert!(bytes_of(&env, &cold) > 100);
        let read = locked(&env, "read_on", || replica.read_on(LEADER_EPOCH, from, 1, end, true).unwrap());
        assert!(matches!(read, Read::Cold(cold) if bytes_of(&env, &cold) > 100));
        let fetch = Fetch {
            reader: Reader::Consumer(ConsumerTerms { read_committed: true, reads_followers: false }),
            offset: from,
            current_leader_epoch: LEADER_EPOCH,
            last_fetched_epoch: LeaderEpoch::NONE,
            log_start: Offset::UNKNOWN,
            max_bytes: 1_000,
            min_one: true,
        };
        let (_, fetched) = locked(&env, "fetch", || replica.fetch(&fetch, NOW, &brokers, None));
        let Some(Read::Cold(cold)) = fetched.unwrap().records else { panic!("{from}: in memory") };
        assert!(bytes_of(&env, &cold) > 100);
    }
}

/// Waits where it is.
struct Here;

impl MayWait for Here {
    fn wait_for<T>(&self, read: impl FnOnce() -> T) -> T {
        read()
    }
}

#[test]
fn a_fetch_is_finished_with_what_the_disk_has() {
    let env = ColdEnv::default();
    let replica = cold_leader(&env);
    let Read::Cold(cold) = replica.read_own(LEADER_EPOCH, Some(Offset(3)), 1_000).unwrap().records else {
        panic!("in memory")
    };
    let again = |_| panic!("the first read has found something");
    let (records, aborted) = finish_fetch(Some(Read::Cold(cold)), None, &Here, again).unwrap();
    assert!(records.len > 100 && aborted.is_empty());
    let (records, aborted) = finish_fetch::<ColdEnv>(None, None, &Here, again).unwrap();
    assert!(records.is_empty() && aborted.is_empty());
}

/// Counts how often it waits.
#[derive(Default)]
struct Counting(Cell<usize>);

impl MayWait for Counting {
    fn wait_for<T>(&self, read: impl FnOnce() -> T) -> T {
        self.0.set(self.0.get() + 1);
        read()
    }
}

#[test]
fn aborted_transactions_are_waited_for_once_they_are_in_a_file() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    let (producer, epoch) = (ProducerId(9), ProducerEpoch(0));
    let builder = BatchBuilder::new().record(WALL, None, Some(&[7; 100])).producer(producer, epoch, 0).transactional();
    let mut records = builder.build().unwrap().to_vec();
    let terms = AppendTerms { verifies: false, ..AppendTerms::CLIENT };
    let aborted = Append { records: &mut records, header: None, acks_all: false, terms };
    let _ = replica.append(aborted, NOW, WALL, &brokers).unwrap();
    let marker = EndMarker {
        producer_id: producer,
        producer_epoch: epoch,
        result: TransactionResult::Abort,
        coordinator_epoch: 0,
    };
    let _ = replica.append_marker(&marker, 0, TimestampType::CreateTime, NOW, WALL, &brokers).unwrap();
    let fetch = Fetch {
        reader: Reader::Consumer(ConsumerTerms { read_committed: true, reads_followers: false }),
        offset: Offset(RECORDS),
        current_leader_epoch: LEADER_EPOCH,
        last_fetched_epoch: LeaderEpoch::NONE,
        log_start: Offset::UNKNOWN,
        max_bytes: 1_000,
        min_one: true,
    };
    let waits = |replica: &mut TestReplica| {
        let (waits, fetched) = (Counting::default(), replica.fetch(&fetch, NOW, &brokers, None).1.unwrap());
        assert!(fetched.aborted.is_some());
        let again = |_| panic!("there is no record to read");
        let _ = finish_fetch::<ColdEnv>(None, fetched.aborted, &waits, again).unwrap();
        waits.0.get()
    };
    assert_eq!(waits(&mut replica), 0, "they are in memory");
    let segment = replica.log().unwrap().active_segment_base();
    while replica.log().unwrap().active_segment_base() == segment {
        append(&mut replica, WALL);
    }
    assert_eq!(waits(&mut replica), 1, "they are in a file since the segment was closed");
}

/// Retention takes the files between the look at the log and the read.
#[test]
fn a_leaders_own_log_is_read_on_from_where_it_starts_by_then() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    let mut looks = Vec::new();
    let piece = read_own(Some(Offset(0)), &Here, |from| {
        let look = replica.read_own(LEADER_EPOCH, from, 1);
        if looks.is_empty() {
            let retained = replica.delete_old_segments(TimestampMs(WALL.0 + 1_030), &brokers).unwrap();
            retained.files.unwrap().remove(&env).unwrap();
        }
        looks.push(from);
        look
    });
    let piece = piece.unwrap();
    let start = replica.log().unwrap().log_start_offset();
    assert!(start > Offset(5));
    assert_eq!((looks.len(), piece.from, piece.end), (2, start, Offset(RECORDS)));
    assert!(piece.records.is_some_and(|records| records.len > 100));
    let at_the_end = read_own(Some(Offset(RECORDS)), &Here, |from| replica.read_own(LEADER_EPOCH, from, 1)).unwrap();
    assert!(at_the_end.records.is_none());
}

#[test]
fn a_read_of_files_that_are_gone_finds_nothing() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    let Read::Cold(cold) = replica.read_own(LEADER_EPOCH, Some(Offset(0)), 1).unwrap().records else {
        panic!("in memory")
    };
    let retained = replica.delete_old_segments(TimestampMs(WALL.0 + 1_030), &brokers).unwrap();
    retained.files.unwrap().remove(&env).unwrap();
    let again = |_| -> Result<_, ottla_storage::ReadError> { panic!("it is not looked at again") };
    assert!(finish_cold(cold, &Here, again).unwrap().is_empty());
}

#[test]
fn searches_by_time_are_made_without_the_lock_and_begin_anew_there() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    let query = OffsetQuery::At(TimestampMs(WALL.0 + 5));
    let begun = locked(&env, "find_offset", || replica.find_offset(query, LEADER_EPOCH, Visible::HighWatermark));
    let OffsetLookup::Search(search) = begun.unwrap() else { panic!("a search") };
    let found = search.run();
    let found = locked(&env, "offset_found", || replica.offset_found(&search, found));
    assert!(matches!(found.unwrap(), OffsetLookup::Found(found) if found.offset == Offset(5)));

    // Retention takes the files while a search runs.
    let later = TimestampMs(WALL.0 + 1_030);
    let retained = replica.delete_old_segments(later, &brokers).unwrap();
    let (_, start) = retained.log_start;
    assert!(start > Offset(5) && start < Offset(RECORDS));
    retained.files.unwrap().remove(&env).unwrap();
    let gone = search.run();
    assert!(gone.is_err());
    let again = locked(&env, "offset_found", || replica.offset_found(&search, gone)).unwrap();
    let OffsetLookup::Search(mut search) = again else { panic!("a search of what is left") };
    let found = search.run();
    let found = locked(&env, "offset_found", || replica.offset_found(&search, found)).unwrap();
    assert!(matches!(found, OffsetLookup::Found(found) if found.offset == start));

    // A file that is missing for another reason does not make it search for ever.
    let mut tries = 0;
    while let Ok(OffsetLookup::Search(next)) =
        replica.offset_found(&search, Err(io::Error::from(io::ErrorKind::NotFound).into()))
    {
        (search, tries) = (next, tries + 1);
        assert!(tries < 100);
    }
}

#[test]
fn the_ages_of_segments_are_read_without_the_lock() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    let later = TimestampMs(WALL.0 + 1_030);
    let search = locked(&env, "age_search", || replica.log().unwrap().age_search(later)).unwrap();
    search.run().unwrap();
    let retained = locked(&env, "delete_old_segments", || replica.delete_old_segments(later, &brokers)).unwrap();
    let (before, after) = retained.log_start;
    assert!(before == Offset(0) && after > Offset(5) && after < Offset(RECORDS));
    assert!(replica.log().unwrap().age_search(later).is_none(), "all that the next pass needs is known");
}

#[test]
fn appends_ticks_and_ends_need_no_read() {
    let env = ColdEnv::default();
    let mut replica = cold_leader(&env);
    locked(&env, "append", || (0..RECORDS).for_each(|_| append(&mut replica, WALL)));
    let _ = locked(&env, "tick", || replica.tick(NOW, &brokers));
    locked(&env, "epoch_end", || replica.epoch_end(LEADER_EPOCH, LEADER_EPOCH)).unwrap();
    for query in [OffsetQuery::Earliest, OffsetQuery::Latest] {
        locked(&env, "find_offset", || replica.find_offset(query, LEADER_EPOCH, Visible::LastStable)).unwrap();
    }
    let _ = locked(&env, "delete_records", || replica.delete_records(Offset(20), || NoAck, &brokers)).unwrap();
    locked(&env, "read_own", || replica.read_own(LEADER_EPOCH, None, 1)).unwrap();
}
