//! Compaction of a log with transactions, pass after pass, each beginning where the one before ended.
//!
//! The invariants: a reader of committed records that goes through the log ends with the table that the committed
//! records make, whatever was compacted; a pass leaves one committed record of each key; no read names an aborted
//! transaction twice.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use ottla_model::TransactionResult::{Abort, Commit};
use ottla_model::{Offset, ProducerEpoch, ProducerId, TimestampMs, TransactionResult};
use ottla_protocol::record_batch::{Batches, EndMarkerRecord, Record, Records};
use ottla_storage::{AbortedTransaction, Env, FaultyEnv, Log, LogConfig, MemoryEnv, OpenOptions};

/// Runs of the random test; `SEEDS` sets another number.
const RUNS: u64 = 200;
const OPERATIONS: usize = 150;
const PRODUCERS: usize = 3;
const KEYS: usize = 7;
const DELETE_RETENTION_MS: i64 = 1_000;

type Table = BTreeMap<String, String>;

fn config() -> Arc<LogConfig> {
    Arc::new(LogConfig {
        segment_bytes: 1_000,
        index_interval_bytes: 150,
        producer_id_expiration_ms: i64::MAX,
        compact: true,
        deletes: false,
        delete_retention_ms: DELETE_RETENTION_MS,
        min_cleanable_dirty_ppm: 0,
        ..LogConfig::default()
    })
}

fn of_transaction(producer: i64, sequence: i32, key: &str, value: Option<&str>) -> Vec<u8> {
    let batch = keyed(&[(key, value)], NOW.0).producer(ProducerId(producer), ProducerEpoch(0), sequence);
    batch.transactional().build().unwrap().to_vec()
}

/// Plain records that nothing replaces, until a segment has begun behind them.
fn fill_segment<E: Env>(log: &mut Log<E>, name: &str) {
    let before = log.active_segment_base();
    for number in 0.. {
        append(log, keyed(&[(&format!("{name} {number}"), Some("v"))], NOW.0).build().unwrap().to_vec());
        if log.active_segment_base() > before {
            return;
        }
    }
}

/// The aborted transactions that a fetch of all committed records from `from` on names with its first slice.
fn aborted_from<E: Env>(log: &Log<E>, from: Offset) -> Vec<AbortedTransaction> {
    let end = log.log_end_offset();
    let slice = log.read(from, 1 << 20, end, true).unwrap();
    log.aborted_search(from, end).map_or(Vec::new(), |search| search.run(&slice).unwrap().unwrap())
}

/// The committed records from `from` on, as librdkafka takes them from the broker's answers: an abort marker ends one
/// of its producer's aborted transactions; the next one that the answer names begins at its first offset.
fn committed<E: Env>(log: &Log<E>, from: Offset, max_bytes: usize) -> Vec<Record> {
    let upper = log.last_stable_offset(log.log_end_offset());
    let (mut found, mut next) = (Vec::new(), from);
    while next < upper {
        let search = log.aborted_search(next, upper);
        let slice = log.read(next, max_bytes, upper, true).unwrap();
        let aborted = search.map_or(Vec::new(), |search| search.run(&slice).unwrap().unwrap());
        let distinct: BTreeSet<_> = aborted.iter().map(|it| (it.producer_id, it.first_offset)).collect();
        assert_eq!(distinct.len(), aborted.len(), "named twice: {aborted:?}");
        let mut waiting: BTreeMap<ProducerId, VecDeque<Offset>> = BTreeMap::new();
        for (producer, first) in distinct {
            waiting.entry(producer).or_default().push_back(first);
        }
        let bytes = slice.read().unwrap();
        if bytes.is_empty() {
            break;
        }
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            let header = batch.header;
            next = header.next_offset();
            let of_producer = waiting.entry(header.producer_id).or_default();
            let is_aborted = of_producer.front().is_some_and(|first| *first <= header.base_offset);
            if header.is_control() {
                let marker = EndMarkerRecord::parse(&header, batch.bytes);
                if is_aborted && marker.is_some_and(|marker| marker.result == Abort) {
                    of_producer.pop_front();
                }
            } else if !(header.is_transactional() && is_aborted) {
                let batch = Bytes::copy_from_slice(batch.bytes);
                found.extend(Records::new(&batch, 1 << 20).unwrap().map(|record| record.unwrap()));
            }
        }
    }
    found.retain(|record| record.offset >= from);
    found
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn table(records: &[Record]) -> Table {
    let mut table = Table::new();
    for record in records {
        let key = text(record.key.as_ref().unwrap());
        match &record.value {
            Some(value) => table.insert(key, text(value)),
            None => table.remove(&key),
        };
    }
    table
}

/// A producer aborted a transaction in the clean part, and committed a tombstone afterwards. The pass took the whole
/// dirty part for that aborted transaction: the deleted value stayed, and was there again without its tombstone.
#[test]
fn an_aborted_transaction_of_the_clean_part_has_ended_there() {
    let env = MemoryEnv::new();
    let mut log = create(&env, config());
    append(&mut log, of_transaction(1, 0, "a", Some("aborted")));
    end(&mut log, 1, 0, Abort);
    append(&mut log, keyed(&[("k", Some("deleted later"))], NOW.0).build().unwrap().to_vec());
    fill_segment(&mut log, "first");
    let clean_up_to = clean(&env, &mut log, None, NOW);
    assert!(log.aborted_search(Offset(0), clean_up_to).is_some(), "the marker is still there");

    append(&mut log, of_transaction(1, 1, "k", None));
    end(&mut log, 1, 0, Commit);
    fill_segment(&mut log, "second");
    fill_segment(&mut log, "third");
    let clean_up_to = clean(&env, &mut log, Some(clean_up_to), NOW);
    let of_key = |log: &Log<MemoryEnv>| -> Vec<bool> {
        let all = committed(log, Offset(0), 1 << 20);
        all.iter().filter(|it| it.key.as_deref() == Some(b"k")).map(|it| it.value.is_some()).collect()
    };
    assert_eq!(of_key(&log), [false], "only the tombstone");
    fill_segment(&mut log, "fourth");
    clean(&env, &mut log, Some(clean_up_to), TimestampMs(NOW.0 + DELETE_RETENTION_MS));
    assert_eq!(of_key(&log), [false; 0]);
}

/// A segment that a pass leaves as it is keeps its aborted transactions to itself. The next segment that the pass wrote
/// got them too, and named them a second time: librdkafka's readers then skip committed records.
#[test]
fn an_aborted_transaction_is_named_once() {
    let env = MemoryEnv::new();
    let mut log = create(&env, config());
    // The last batch of an active producer: it stays, empty, and its marker with it.
    append(&mut log, of_transaction(1, 0, "a", Some("aborted")));
    end(&mut log, 1, 0, Abort);
    fill_segment(&mut log, "unique");
    fill_segment(&mut log, "replaced");
    clean(&env, &mut log, None, NOW);
    let expected = aborted_from(&log, Offset(0));
    assert_eq!(expected.len(), 1);
    fill_segment(&mut log, "replaced");
    let bytes = log.size_bytes();
    clean(&env, &mut log, None, NOW);
    assert!(log.size_bytes() < bytes, "a later segment was written anew");
    assert_eq!(aborted_from(&log, Offset(0)), expected);
}

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// A record of the history.
struct Written {
    offset: Offset,
    producer: Option<usize>,
    key: String,
    value: Option<String>,
}

struct World {
    random: Random,
    env: FaultyEnv,
    log: Log<FaultyEnv>,
    written: Vec<Written>,
    /// Where each producer's transactions ended, and how.
    ends: [Vec<(Offset, TransactionResult)>; PRODUCERS],
    sequences: [i32; PRODUCERS],
    clean_up_to: Option<Offset>,
    recovery_point: Offset,
    now: TimestampMs,
}

impl World {
    fn new(seed: u64) -> Self {
        let env = FaultyEnv::new(seed);
        env.create_directory(directory().parent().unwrap()).unwrap();
        env.sync_directory(std::path::Path::new("/")).unwrap();
        let log = create(&env, config());
        Self {
            random: Random(seed),
            env,
            log,
            written: Vec::new(),
            ends: Default::default(),
            sequences: [0; PRODUCERS],
            clean_up_to: None,
            recovery_point: Offset::ZERO,
            now: NOW,
        }
    }

    fn write(&mut self) {
        let key = format!("key {}", self.random.below(KEYS));
        let value = (self.random.below(4) > 0).then(|| format!("value {}", self.written.len()));
        // One in three is of no transaction.
        let producer = Some(self.random.below(PRODUCERS + PRODUCERS / 2)).filter(|producer| *producer < PRODUCERS);
        let batch = match producer {
            Some(number) => {
                let sequence = self.sequences[number];
                self.sequences[number] += 1;
                of_transaction(number as i64, sequence, &key, value.as_deref())
            }
            None => keyed(&[(&key, value.as_deref())], NOW.0).build().unwrap().to_vec(),
        };
        let offset = append(&mut self.log, batch);
        self.written.push(Written { offset, producer, key, value });
    }

    fn end_transaction(&mut self) {
        let number = self.random.below(PRODUCERS);
        let result = if self.random.below(2) == 0 { Abort } else { Commit };
        let marker = end(&mut self.log, number as i64, 0, result);
        self.ends[number].push((marker, result));
    }

    fn is_committed(&self, written: &Written) -> bool {
        let Some(number) = written.producer else { return true };
        let end = self.ends[number].iter().find(|(marker, _)| *marker > written.offset);
        end.is_some_and(|(_, result)| *result == Commit)
    }

    /// The table that the committed records below the last stable offset make.
    fn expected(&self) -> Table {
        let upper = self.log.last_stable_offset(self.log.log_end_offset());
        let mut table = Table::new();
        for written in self.written.iter().filter(|it| it.offset < upper && self.is_committed(it)) {
            match &written.value {
                Some(value) => table.insert(written.key.clone(), value.clone()),
                None => table.remove(&written.key),
            };
        }
        table
    }

    fn compact(&mut self) {
        self.log.flush(TICK).unwrap();
        self.recovery_point = self.log.recovery_point();
        let stable = self.log.last_stable_offset(self.log.log_end_offset());
        let limits = ottla_storage::compaction::CleanerLimits { io_buffer_bytes: 300, ..Default::default() };
        let (env, from, now) = (self.env.clone(), self.clean_up_to, self.now);
        let (clean, _) = clean_within(&env, &mut self.log, from, stable, now, limits).unwrap();
        self.clean_up_to = Some(clean);
        let mut keys = BTreeSet::new();
        for record in committed(&self.log, Offset(0), 1 << 20).iter().filter(|record| record.offset < clean) {
            assert!(keys.insert(record.key.clone()), "{:?} is there twice below {clean}", record.key);
        }
    }

    fn restart(&mut self) {
        let is_clean = self.random.below(2) == 0;
        if is_clean {
            self.log.close(TICK).unwrap();
            self.recovery_point = self.log.recovery_point();
        }
        self.env.kill();
        let options = OpenOptions {
            clean_shutdown: is_clean,
            recovery_point: self.recovery_point,
            high_watermark: self.log.log_end_offset(),
            ..OpenOptions::unclean(NOW)
        };
        self.log = Log::open(self.env.clone(), directory(), partition(), config(), options).unwrap().log;
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..11 => self.write(),
            11..15 => self.end_transaction(),
            15..17 => self.compact(),
            17 => self.now = TimestampMs(self.now.0 + self.random.below(1_500) as i64),
            18 => self.restart(),
            _ => {
                self.log.flush(TICK).unwrap();
                self.recovery_point = self.log.recovery_point();
            }
        }
        self.log.high_watermark_moved(self.log.log_end_offset());
    }

    fn check(&self) {
        for max_bytes in [1 << 20, 120] {
            assert_eq!(table(&committed(&self.log, Offset(0), max_bytes)), self.expected(), "{max_bytes} at once");
        }
    }
}

#[test]
fn readers_of_committed_records_end_with_the_same_table() {
    ottla_test_support::each_seed(0..RUNS, |seed| {
        let mut world = World::new(seed);
        for _ in 0..OPERATIONS {
            world.step();
            world.check();
        }
    });
}
