//! Random operations on a compacted log on a faulty disk, against a plain list of the records that were ever appended.
//!
//! A record may be missing only if the cleaner was allowed to remove it: below the cleaned offset, with a later record
//! of its key, or an expired tombstone, or without a key. All other records are there, in order, unchanged, after any
//! operation on the files; every index answers as a scan does. A failure prints its seed: `SEED=… cargo test` replays
//! it alone.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::record_batch::{BatchBuilder, Batches, Compression, Header, Record};
use ottla_storage::compaction::{CleanError, CleanerLimits};
use ottla_storage::env::OpenMode;
use ottla_storage::{Env, Faults, FaultyEnv, File, Log, LogConfig, OpenError, OpenOptions};

/// Runs of one test; `SEEDS` sets another number.
const RUNS: u64 = 150;
const OPERATIONS: usize = 60;
const DELETE_RETENTION_MS: i64 = 1_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

struct World {
    random: Random,
    env: FaultyEnv,
    config: Arc<LogConfig>,
    log: Log<FaultyEnv>,
    /// Every record of the log's history, by offset, without those that a truncation or a crash removed.
    records: BTreeMap<i64, Record>,
    /// Appends that ended with an error: a crash can bring one back.
    unknown: Vec<Record>,
    end: Offset,
    start: Offset,
    /// The cleaner's checkpoint.
    clean: Option<Offset>,
    /// The cleaner has worked below this offset, maybe without success.
    touched: Offset,
    /// When a tombstone was first in a range that was cleaned.
    tombstone_seen: BTreeMap<i64, i64>,
    epoch: LeaderEpoch,
    sequences: [i32; 2],
    now: i64,
    recovery_point: Offset,
    log_start_checkpoint: Offset,
    faulty: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let env = FaultyEnv::new(seed ^ 0x5EED);
        env.create_directory(directory().parent().unwrap()).unwrap();
        env.sync_directory(std::path::Path::new("/")).unwrap();
        let config = Arc::new(LogConfig {
            segment_bytes: 1_500,
            index_interval_bytes: 150,
            producer_id_expiration_ms: i64::MAX,
            compact: true,
            delete_retention_ms: DELETE_RETENTION_MS,
            deletes: true,
            retention_ms: -1,
            retention_bytes: 4_000,
            ..LogConfig::default()
        });
        let log = create(&env, config.clone());
        Self {
            random: Random(seed),
            env,
            config,
            log,
            records: BTreeMap::new(),
            unknown: Vec::new(),
            end: Offset::ZERO,
            start: Offset::ZERO,
            clean: None,
            touched: Offset::ZERO,
            tombstone_seen: BTreeMap::new(),
            epoch: EPOCH,
            sequences: [0; 2],
            now: NOW.0,
            recovery_point: Offset::ZERO,
            log_start_checkpoint: Offset::ZERO,
            faulty: false,
        }
    }

    fn now(&self) -> TimestampMs {
        TimestampMs(self.now)
    }

    /// A batch of records with few keys: some are tombstones, some have headers, some no key.
    fn batch(&mut self) -> Vec<u8> {
        let codec = Compression::ALL[self.random.below(Compression::ALL.len())];
        let mut builder = BatchBuilder::new().compression(codec);
        for _ in 0..=self.random.below(4) {
            let key = format!("key {}", self.random.below(8));
            let key = (self.random.below(20) > 0).then_some(key.as_bytes());
            let value = vec![self.random.next() as u8; self.random.below(80)];
            let value = (key.is_none() || self.random.below(5) > 0).then_some(&value[..]);
            let headers: Vec<Header> = (0..self.random.below(3))
                .map(|number| Header { key: "again".into(), value: (number > 0).then(|| vec![7; number].into()) })
                .collect();
            let timestamp = TimestampMs(NOW.0 + self.random.below(1_000) as i64);
            builder.push(timestamp, key, value, &headers);
        }
        let producer = self.random.below(4);
        if let Some(sequence) = self.sequences.get_mut(producer) {
            let count = builder.record_count() as i32;
            builder = builder.producer(ProducerId(producer as i64), ProducerEpoch(0), *sequence);
            *sequence += count;
        }
        builder.build().unwrap().to_vec()
    }

    fn append(&mut self) {
        let sequences = self.sequences;
        let mut bytes = self.batch();
        match self.log.append_as_leader(&mut bytes, self.epoch, self.now()) {
            Ok(appended) => {
                assert_eq!(appended.first_offset, self.end);
                self.end = appended.log_end_offset;
                for record in records_of(&bytes) {
                    self.records.insert(record.offset.0, record);
                }
            }
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.sequences = sequences;
                let mut bytes = bytes;
                ottla_protocol::record_batch::patch_offset_and_epoch(&mut bytes, self.end, self.epoch);
                self.unknown.extend(records_of(&bytes));
            }
        }
    }

    /// The records of the leader's log after this one's end; offsets may be missing, because that log was compacted.
    fn follow(&mut self) {
        let base = self.end + self.random.below(5) as i64;
        let sequences = self.sequences;
        let mut bytes = self.batch();
        ottla_protocol::record_batch::patch_offset_and_epoch(&mut bytes, base, self.epoch);
        let end = ottla_protocol::record_batch::BatchHeader::parse(&bytes).unwrap().next_offset();
        match self.log.append_as_follower(&bytes, self.epoch, self.now()) {
            Ok(_) => {
                self.end = end;
                for record in records_of(&bytes) {
                    self.records.insert(record.offset.0, record);
                }
            }
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.sequences = sequences;
                self.unknown.extend(records_of(&bytes));
            }
        }
    }

    /// Cleans all that may be cleaned; perhaps the process dies in the middle of it, or the power fails.
    fn compact(&mut self) {
        if let Err(error) = self.log.flush(TICK) {
            assert!(self.faulty, "{error}");
            return self.repair();
        }
        if self.log.is_offline() {
            return self.repair();
        }
        self.checkpoint();
        let dies = self.random.below(3) == 0;
        if dies {
            self.heal();
            self.env.die_after(self.random.below(60) as u64);
        }
        let map_bytes = if self.random.below(4) == 0 { 24 * 6 } else { 1 << 20 };
        let limits = CleanerLimits { map_bytes, io_buffer_bytes: 200, ..CleanerLimits::default() };
        let stable = Offset(self.end.0 - self.random.below(20) as i64).max(self.start);
        let limit = stable.min(self.log.active_segment_base());
        for (offset, record) in self.records.range(..limit.0) {
            if record.value.is_none() {
                self.tombstone_seen.entry(*offset).or_insert(self.now);
            }
        }
        self.touched = self.touched.max(limit);
        let (env, clean, now) = (self.env.clone(), self.clean, self.now());
        let outcome = clean_within(&env, &mut self.log, clean, stable, now, limits);
        if dies {
            return self.end_of_life();
        }
        match outcome {
            Ok((clean, _)) => {
                self.clean = Some(clean);
                self.check_clean(clean);
            }
            Err(CleanError::MapTooSmall) => assert!(map_bytes < 1 << 20),
            Err(CleanError::Io(error)) => {
                assert!(self.faulty, "{error}");
                self.repair();
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Of the clean part no key is there twice.
    fn check_clean(&self, clean: Offset) {
        if self.faulty {
            return;
        }
        let mut seen = BTreeMap::new();
        let is_clean = |record: &Record| record.offset >= self.start && record.offset < clean;
        for record in records(&self.log, self.start).into_iter().filter(is_clean) {
            let key = record.key.expect("records without keys are gone");
            assert_eq!(seen.insert(key, record.offset), None, "{} is there twice below {clean}", record.offset);
        }
    }

    fn truncate(&mut self) {
        // Never below the high watermark, up to which the log may have been cleaned: a record and its replacement stay
        // together.
        let offset = Offset(self.end.0 - self.random.below(40) as i64).max(self.start).max(self.touched);
        match self.log.truncate_to(offset, self.now()) {
            Ok(_) => self.cut(),
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.repair();
            }
        }
    }

    /// The log has lost everything beyond its end.
    fn cut(&mut self) {
        self.end = self.log.log_end_offset();
        self.start = self.log.log_start_offset();
        self.records.split_off(&self.end.0);
        self.tombstone_seen.split_off(&self.end.0);
        self.touched = self.touched.min(self.end);
        self.clean = self.clean.map(|clean| clean.min(self.end));
        self.sequences = [0, 1].map(|id| self.log.producers().last_of(ProducerId(id)).map_or(0, |(_, last)| last + 1));
        self.checkpoint();
    }

    fn checkpoint(&mut self) {
        self.recovery_point = self.log.recovery_point();
        self.log_start_checkpoint = self.log.log_start_offset();
    }

    fn retain(&mut self) {
        match self.log.delete_old_segments(self.end, self.now()) {
            Ok(deleted) => {
                if let Err(error) = deleted.remove(&self.env) {
                    assert!(self.faulty, "{error}");
                }
            }
            Err(error) => assert!(self.faulty, "{error}"),
        }
        self.start = self.log.log_start_offset();
        self.checkpoint();
    }

    fn heal(&mut self) {
        self.faulty = false;
        self.env.set_faults(Faults::NONE);
    }

    fn open(&mut self, clean_shutdown: bool) -> Result<(), OpenError> {
        let options = OpenOptions {
            clean_shutdown,
            recovery_point: self.recovery_point,
            log_start: self.log_start_checkpoint,
            ..OpenOptions::unclean(self.now())
        };
        if !self.env.exists(&directory()).unwrap() {
            self.env.create_directory(&directory()).unwrap();
        }
        let opened = Log::open(self.env.clone(), directory(), partition(), self.config.clone(), options)?;
        self.log = opened.log;
        if self.log.topic_id().is_none() {
            self.log.set_topic_id(TOPIC_ID).unwrap();
        }
        Ok(())
    }

    /// After an error that leaves the log to be opened again.
    fn repair(&mut self) {
        self.heal();
        self.env.kill();
        self.recovery_point = Offset::ZERO;
        self.open(false).unwrap();
        self.adopt();
        self.log.flush(TICK).unwrap();
    }

    /// The process, or the machine, ends.
    fn end_of_life(&mut self) {
        self.heal();
        let flushed = self.log.recovery_point();
        // A log that was cut within a gap forgets where it ended, but no record.
        let last_flushed = self.records.range(..flushed.0).next_back().map_or(0, |(offset, _)| offset + 1);
        let was_whole = flushed == self.end;
        if self.random.below(2) == 0 {
            self.env.kill();
            self.open(false).unwrap();
            self.adopt();
            return;
        }
        self.env.lose_power();
        match self.open(false) {
            Ok(()) => {
                self.adopt();
                assert!(self.end.0 >= last_flushed, "flushed up to {flushed}, back with {}", self.end);
            }
            // Records that were not synced are lost in the middle: refused loudly, as it must be.
            Err(error @ (OpenError::CorruptMiddle { .. } | OpenError::UnknownTopic { .. })) => {
                assert!(!was_whole || flushed == Offset::ZERO, "all was on disk: {error}");
                self.start_anew();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn start_anew(&mut self) {
        self.env.kill();
        self.env.remove_directory(&directory()).unwrap();
        self.env.sync_directory(directory().parent().unwrap()).unwrap();
        let (env, config) = (self.env.clone(), self.config.clone());
        self.log = create(&env, config);
        self.unknown.clear();
        self.cut();
        (self.touched, self.clean) = (Offset::ZERO, None);
    }

    /// Accepts the state after the recovery: the end may be earlier, and appends that returned an error may be there.
    fn adopt(&mut self) {
        let back = records(&self.log, self.log.log_start_offset());
        let first_other = back.iter().find(|record| self.records.get(&record.offset.0) != Some(*record));
        if let Some(other) = first_other {
            self.records.split_off(&other.offset.0);
            for record in back.iter().filter(|record| record.offset >= other.offset) {
                assert!(self.unknown.contains(record), "nobody wrote {record:?}");
                self.records.insert(record.offset.0, record.clone());
            }
        }
        self.unknown.clear();
        self.cut();
    }

    fn flip_a_bit(&mut self) {
        if self.log.flush(TICK).is_err() || self.log.is_offline() {
            assert!(self.faulty);
            return self.repair();
        }
        self.heal();
        let bytes = read_all(&self.log, self.start, Offset::MAX, 1 << 20);
        let all: Vec<_> = Batches::new(&bytes).map(|batch| batch.unwrap().bytes.to_vec()).collect();
        let Some(last) = all.len().checked_sub(1) else { return };
        let number = self.random.below(all.len());
        let batch = &all[number];
        // The part that the checksum covers: it does not cover offset and leader epoch.
        let position = 16 + self.random.below(batch.len() - 16);
        for name in file_names(&self.env).iter().filter(|name| name.ends_with(".log")) {
            let path = directory().join(name);
            let content = self.env.read_file(&path).unwrap();
            let Some(at) = content.windows(batch.len()).position(|window| window == batch) else { continue };
            let flipped = content[at + position] ^ (1 << self.random.below(8));
            let file = self.env.open(&path, OpenMode::Write).unwrap();
            file.write_all_at(&[flipped], (at + position) as u64).unwrap();
            file.sync_data().unwrap();
        }
        // The cleaner copies nothing that is damaged.
        let (env, now) = (self.env.clone(), self.now());
        let cleaned = clean_within(&env, &mut self.log, None, self.end, now, CleanerLimits::default());
        assert!(
            matches!(cleaned, Ok(_) | Err(CleanError::Corrupt { .. } | CleanError::MapTooSmall)),
            "{:?}",
            cleaned.map(|_| ())
        );
        self.touched = self.touched.max(self.log.active_segment_base());
        self.env.kill();
        self.recovery_point = Offset::ZERO;
        match self.open(false) {
            Err(OpenError::CorruptMiddle { .. }) => assert!(number < last, "only the last batch was damaged"),
            Err(error) => panic!("{error}"),
            // A damaged last batch cannot be distinguished from a torn one.
            Ok(()) => assert!(number == last, "batch {number} of {last} was damaged, and nobody noticed"),
        }
        self.start_anew();
    }

    fn step(&mut self) {
        let operation = self.random.below(40);
        if ottla_test_support::is_replay() {
            let (start, end, clean, touched) = (self.start, self.end, self.clean, self.touched);
            eprintln!("{start}..{end}, clean below {clean:?}, touched below {touched}: {operation}");
        }
        match operation {
            0..18 => self.append(),
            18..22 => self.follow(),
            22 => {
                self.epoch = LeaderEpoch(self.epoch.0 + 1);
                self.log.begin_leader_epoch(self.epoch);
            }
            23..25 => {
                if let Err(error) = self.log.flush(TICK) {
                    assert!(self.faulty, "{error}");
                }
            }
            25..30 => self.compact(),
            30 => self.truncate(),
            31 => {
                let to = Offset(self.start.0 + self.random.below(15) as i64);
                self.log.advance_log_start(to);
                self.start = self.log.log_start_offset();
            }
            32 => self.retain(),
            33 => self.now += self.random.below(1_500) as i64,
            34 => self.checkpoint(),
            35 => self.end_of_life(),
            36 => {
                if self.log.is_offline() || self.log.close(TICK).is_err() {
                    assert!(self.faulty);
                    return self.repair();
                }
                self.heal();
                self.checkpoint();
                self.env.lose_power();
                self.open(true).unwrap();
                self.adopt();
            }
            37 => self.flip_a_bit(),
            _ => {
                self.faulty = self.random.below(3) > 0;
                let ppm = if self.faulty { 20_000 } else { 0 };
                self.env.set_faults(Faults {
                    io_error_ppm: ppm,
                    no_space_ppm: ppm,
                    sync_error_ppm: ppm / 4,
                    ..Faults::NONE
                });
                if self.log.is_offline() {
                    self.repair();
                }
            }
        }
    }

    fn may_be_gone(&self, offset: i64, record: &Record) -> bool {
        let Some(key) = &record.key else { return offset < self.touched.0 };
        let is_later = |later: &Record| later.key.as_ref() == Some(key);
        let expired = self.tombstone_seen.get(&offset).is_some_and(|seen| seen + DELETE_RETENTION_MS <= self.now);
        offset < self.touched.0
            && (self.records.range(offset + 1..self.touched.0).any(|(_, later)| is_later(later))
                || record.value.is_none() && expired)
    }

    fn check(&self) {
        assert_eq!((self.log.log_start_offset(), self.log.log_end_offset()), (self.start, self.end));
        if self.faulty {
            return;
        }
        let mut there = records(&self.log, self.start);
        there.retain(|record| record.offset >= self.start);
        assert!(there.is_sorted_by(|a, b| a.offset < b.offset));
        for record in &there {
            assert_eq!(self.records.get(&record.offset.0), Some(record), "another record");
        }
        let offsets: std::collections::BTreeSet<i64> = there.iter().map(|record| record.offset.0).collect();
        for (offset, record) in self.records.range(self.start.0..) {
            assert!(offsets.contains(offset) || self.may_be_gone(*offset, record), "{record:?} is missing");
        }
        self.check_indexes(&there);
    }

    /// Every index answers as a scan would.
    fn check_indexes(&self, there: &[Record]) {
        for from in (self.start.0..=self.end.0).step_by(5).map(Offset) {
            let bytes = self.log.read(from, 1, self.end, true).unwrap().read().unwrap();
            let batch = Batches::new(&bytes).next().map(|batch| batch.unwrap().header);
            let expected = there.iter().find(|record| record.offset >= from).map(|record| record.offset);
            // Empty batches may come first.
            assert!(
                expected.is_none() || batch.is_some_and(|header| Some(header.base_offset) <= expected),
                "from {from}"
            );
            assert!(batch.is_none_or(|header| header.last_offset() >= from), "from {from}: a batch that ends before");
        }
        for timestamp in (0..1_100).step_by(97).map(|ms| TimestampMs(NOW.0 + ms)) {
            let found = self.log.offset_for_timestamp(timestamp).unwrap().map(|found| found.offset);
            let expected = there.iter().find(|record| record.timestamp >= timestamp).map(|record| record.offset);
            assert_eq!(found, expected, "timestamp {timestamp}");
        }
        let largest = there.iter().map(|record| record.timestamp).max();
        assert_eq!(self.log.offset_of_max_timestamp().unwrap().map(|found| found.timestamp), largest);
    }
}

fn records_of(bytes: &[u8]) -> Vec<Record> {
    let batches = Batches::new(bytes).map(|batch| bytes::Bytes::copy_from_slice(batch.unwrap().bytes));
    let read = |batch| ottla_protocol::record_batch::Records::new(&batch, 1 << 20).unwrap();
    batches.flat_map(|batch| read(batch).map(|record| record.unwrap())).collect()
}

#[test]
fn a_compacted_log_loses_only_what_it_may() {
    ottla_test_support::each_seed(0..RUNS, |seed| {
        let mut world = World::new(seed);
        for _ in 0..OPERATIONS {
            world.step();
            world.check();
        }
        world.heal();
        if world.log.is_offline() {
            world.repair();
        }
        world.check();
    });
}
