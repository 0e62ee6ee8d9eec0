//! Random operations on a log on a faulty disk, against a plain list of batches.
//!
//! The invariant after each step: the same offsets, bytes, epochs and producer states as the list, after any operation
//! on the files; after a power loss, a prefix of the list that is no shorter than the flushed part, or a refusal if
//! more than one segment was unsynced.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::record_batch::{BatchHeader, Batches, Records};
use ottla_replication::producer_state::last_sequence;
use ottla_storage::{AppendError, Env, Faults, FaultyEnv, Log, LogConfig, OpenError, OpenOptions, ReadError};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Append { records: usize, value_bytes: usize, timestamp: i64, producer: Option<i64> },
    FollowerAppend { batches: usize, records: usize, timestamp: i64, torn_bytes: usize },
    LeaderEpoch { step: i32 },
    Flush,
    Checkpoint,
    Truncate { back: i64 },
    StartOver { ahead: i64 },
    AdvanceLogStart { by: i64 },
    ReopenClean,
    Kill,
    LosePower,
    Faults { ppm: u32 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (1..6_usize, 0..120_usize, 0..1_000_i64, proptest::option::of(0..3_i64)).prop_map(
            |(records, value_bytes, timestamp, producer)| {
                Operation::Append { records, value_bytes, timestamp, producer }
            }
        ),
        5 => (1..4_usize, 1..5_usize, 0..1_000_i64, 0..90_usize).prop_map(
            |(batches, records, timestamp, torn_bytes)| {
                Operation::FollowerAppend { batches, records, timestamp, torn_bytes }
            }
        ),
        2 => (1..3_i32).prop_map(|step| Operation::LeaderEpoch { step }),
        2 => Just(Operation::Flush),
        2 => Just(Operation::Checkpoint),
        2 => (0..60_i64).prop_map(|back| Operation::Truncate { back }),
        1 => (0..100_i64).prop_map(|ahead| Operation::StartOver { ahead }),
        1 => (0..20_i64).prop_map(|by| Operation::AdvanceLogStart { by }),
        2 => Just(Operation::ReopenClean),
        2 => Just(Operation::Kill),
        2 => Just(Operation::LosePower),
    ]
}

fn operation_with_faults() -> impl Strategy<Value = Operation> {
    prop_oneof![
        10 => operation(),
        1 => prop_oneof![Just(0), Just(100_000), Just(500_000)].prop_map(|ppm| Operation::Faults { ppm }),
    ]
}

/// A batch as it must be in the log.
#[derive(Clone)]
struct Expected {
    bytes: Vec<u8>,
    header: BatchHeader,
}

struct World {
    env: FaultyEnv,
    config: Arc<LogConfig>,
    log: Log<FaultyEnv>,
    batches: Vec<Expected>,
    log_start: Offset,
    /// Appends that ended with an error since the last start: a loss of power can bring one back, as the last.
    unknown: Vec<Vec<u8>>,
    /// The furthest that the start ever was: epochs before are forgotten, even if the start's checkpoint was older.
    furthest_log_start: Offset,
    /// Leader epochs never decrease, after any failure of the log.
    epoch: LeaderEpoch,
    /// Where the log ends if it has no batches.
    base: Offset,
    /// The content of the log directory's checkpoints.
    recovery_point_checkpoint: Offset,
    log_start_checkpoint: Offset,
    faulty: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let env = FaultyEnv::new(seed);
        env.create_directory(directory().parent().unwrap()).unwrap();
        env.sync_directory(std::path::Path::new("/")).unwrap();
        let config = Arc::new(LogConfig {
            segment_bytes: 1_200,
            index_interval_bytes: 150,
            producer_id_expiration_ms: i64::MAX,
            ..LogConfig::default()
        });
        let log = create(&env, Arc::clone(&config));
        Self {
            env,
            config,
            log,
            batches: Vec::new(),
            log_start: Offset::ZERO,
            unknown: Vec::new(),
            furthest_log_start: Offset::ZERO,
            epoch: EPOCH,
            base: Offset::ZERO,
            recovery_point_checkpoint: Offset::ZERO,
            log_start_checkpoint: Offset::ZERO,
            faulty: false,
        }
    }

    fn log_end(&self) -> Offset {
        self.batches.last().map_or(self.base, |batch| batch.header.next_offset())
    }

    /// The next sequence number of a producer, by the list.
    fn next_sequence(&self, producer: i64) -> i32 {
        let last = self.batches.iter().rev().find(|batch| batch.header.producer_id == ProducerId(producer));
        last.map_or(0, |batch| last_sequence(batch.header.base_sequence, batch.header.last_offset_delta) + 1)
    }

    fn append(&mut self, records: usize, value_bytes: usize, timestamp: i64, producer: Option<i64>) {
        let timestamps: Vec<i64> = (0..records as i64).map(|n| timestamp + n * 3 % 7).collect();
        let mut built = builder(&timestamps, value_bytes);
        if let Some(producer) = producer {
            built = built.producer(ProducerId(producer), ProducerEpoch(0), self.next_sequence(producer));
        }
        let mut bytes = built.build().unwrap().to_vec();
        let epoch = self.epoch;
        let end = self.log_end();
        match self.log.append_as_leader(&mut bytes, epoch, NOW) {
            Ok(appended) => {
                assert!(!appended.is_duplicate);
                assert_eq!((appended.first_offset, appended.log_end_offset), (end, end + records as i64));
                self.note(&bytes);
                if producer.is_some() {
                    let retry = self.log.append_as_leader(&mut bytes, epoch, NOW);
                    match retry {
                        Ok(retry) => {
                            assert!(retry.is_duplicate);
                            assert_eq!(retry.first_offset, end);
                        }
                        Err(error) => self.expect_fault(&error),
                    }
                }
            }
            Err(error) => {
                self.expect_fault(&error);
                self.unknown.push(bytes);
            }
        }
    }

    fn follower_append(&mut self, batches: usize, records: usize, timestamp: i64, torn_bytes: usize) {
        let epoch = self.epoch;
        let (mut bytes, mut offset) = (Vec::new(), self.log_end());
        for _ in 0..batches {
            let built = builder(&vec![timestamp; records], 15).placed_at(offset, epoch).build().unwrap();
            bytes.extend_from_slice(&built);
            offset = offset + records as i64;
        }
        let whole = bytes.len();
        let torn = builder(&[1], 40).placed_at(offset, epoch).build().unwrap();
        bytes.extend_from_slice(&torn[..torn_bytes.min(torn.len() - 1)]);
        match self.log.append_as_follower(&bytes, epoch, NOW) {
            Ok(appended) => {
                assert_eq!((appended.size_bytes, appended.log_end_offset), (whole, offset));
                self.note(&bytes[..whole]);
            }
            Err(error) => {
                self.expect_fault(&error);
                self.unknown.push(bytes[..whole].to_vec());
            }
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        for batch in Batches::new(bytes) {
            let batch = batch.unwrap();
            self.batches.push(Expected { bytes: batch.bytes.to_vec(), header: batch.header });
        }
    }

    fn expect_fault(&self, error: &AppendError) {
        assert!(self.faulty && matches!(error, AppendError::Io(_) | AppendError::Offline), "{error}");
    }

    fn checkpoint(&mut self) {
        self.recovery_point_checkpoint = self.log.recovery_point();
        self.log_start_checkpoint = self.log.log_start_offset();
    }

    fn truncate(&mut self, back: i64) {
        let offset = Offset((self.log_end() - back).0.max(self.log_start.0));
        match self.log.truncate_to(offset, NOW) {
            Ok(_) => {
                self.batches.retain(|batch| batch.header.last_offset() < offset);
                if self.batches.is_empty() {
                    self.base = self.log.log_end_offset();
                }
                // The start may have been within the batch that went.
                self.log_start = self.log_start.min(self.log_end());
                self.checkpoint();
            }
            // A truncation that failed half-way is finished by the next opening of the log.
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.repair();
            }
        }
    }

    fn start_over(&mut self, ahead: i64) {
        let offset = self.log_end() + ahead;
        // The broker reports it first: a crash in the middle must not restore an older state.
        match self.log.truncate_fully_and_start_at(offset, None) {
            Ok(()) => {
                self.batches.clear();
                self.base = offset;
                self.log_start = offset;
                self.checkpoint();
            }
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.repair();
            }
        }
    }

    /// After an error that requires reopening the log: accept any prefix.
    fn repair(&mut self) {
        self.faulty = false;
        self.env.set_faults(Faults::NONE);
        self.env.kill();
        self.recovery_point_checkpoint = Offset::ZERO;
        self.reopen(false).unwrap();
        self.adopt_unknown();
        self.adopt_prefix(Offset::ZERO);
        // The truncation is durable only from here on.
        self.log.flush(TICK).unwrap();
        self.unknown.clear();
    }

    fn reopen(&mut self, clean_shutdown: bool) -> Result<(), OpenError> {
        let options = OpenOptions {
            clean_shutdown,
            recovery_point: self.recovery_point_checkpoint,
            log_start: self.log_start_checkpoint,
            ..OpenOptions::unclean(NOW)
        };
        if !self.env.exists(&directory()).unwrap() {
            self.env.create_directory(&directory()).unwrap();
        }
        let opened = Log::open(self.env.clone(), directory(), partition(), Arc::clone(&self.config), options)?;
        if clean_shutdown {
            assert_eq!((opened.scanned_bytes, opened.cut_bytes), (0, 0));
        }
        self.log = opened.log;
        if self.log.topic_id().is_none() {
            // The id did not survive, nor did any record: the broker knows which topic it opens the log for.
            self.log.set_topic_id(TOPIC_ID).unwrap();
        }
        Ok(())
    }

    /// The recovered log must be a prefix of the list, no shorter than `at_least`.
    fn adopt_prefix(&mut self, at_least: Offset) {
        let end = self.log.log_end_offset();
        assert!(end >= at_least, "flushed up to {at_least}, back with {end}");
        if self.log.size_bytes() == 0 {
            // Nothing survived, or the log starts over.
            self.batches.clear();
            self.base = end;
        }
        assert!(end <= self.log_end());
        self.batches.retain(|batch| batch.header.last_offset() < end);
        if self.batches.is_empty() {
            self.base = end;
        }
        assert_eq!(self.log_end(), end, "the log ends within a batch");
        self.log_start = self.log.log_start_offset();
    }

    /// After a power loss, or the end of a process that could neither finish an append nor take it back: the log may
    /// end with an append that returned an error.
    fn adopt_unknown(&mut self) {
        let from = self.log.log_start_offset();
        let bytes = read_all(&self.log, from, Offset::MAX, 1 << 20);
        let known = self.batches.iter().filter(|batch| batch.header.last_offset() >= from);
        let same: usize = known
            .scan(&bytes[..], |rest, batch| {
                *rest = rest.strip_prefix(&batch.bytes[..])?;
                Some(batch.bytes.len())
            })
            .sum();
        let rest = &bytes[same..];
        if !rest.is_empty() {
            assert!(self.unknown.iter().any(|unknown| unknown.starts_with(rest)), "{:?}", offsets(rest));
            let first = offsets(rest)[0].0;
            self.batches.retain(|batch| batch.header.base_offset < Offset(first));
            self.note(rest);
        }
    }

    fn lose_power(&mut self) {
        let flushed = self.log.recovery_point();
        let unsynced_segments = self.batches.iter().filter(|batch| batch.header.base_offset >= flushed).count() > 0
            && self.log.segment_count() > 1
            && self.log.active_segment_base() > flushed;
        self.env.lose_power();
        match self.reopen(false) {
            Ok(()) => {
                self.adopt_unknown();
                self.adopt_prefix(flushed);
                self.unknown.clear();
            }
            Err(error)
                if matches!(error, OpenError::CorruptMiddle { .. }) && unsynced_segments
                    || matches!(error, OpenError::UnknownTopic { .. }) && flushed == Offset::ZERO =>
            {
                // Refused loudly, as it must be. A broker fetches it all again from elsewhere.
                self.env.remove_directory(&directory()).unwrap();
                self.env.sync_directory(directory().parent().unwrap()).unwrap();
                let (env, config) = (self.env.clone(), Arc::clone(&self.config));
                self.log = create(&env, config);
                self.batches.clear();
                (self.base, self.log_start) = (Offset::ZERO, Offset::ZERO);
                self.checkpoint();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Append { records, value_bytes, timestamp, producer } => {
                self.append(records, value_bytes, timestamp, producer);
            }
            Operation::FollowerAppend { batches, records, timestamp, torn_bytes } => {
                self.follower_append(batches, records, timestamp, torn_bytes);
            }
            Operation::LeaderEpoch { step } => {
                self.epoch = LeaderEpoch(self.epoch.0 + step);
                self.log.begin_leader_epoch(self.epoch);
            }
            Operation::Flush => match self.log.flush(TICK) {
                Ok(()) => assert!(self.log.is_offline() || self.log.recovery_point() == self.log_end()),
                Err(error) => assert!(self.faulty, "{error}"),
            },
            Operation::Checkpoint => self.checkpoint(),
            Operation::Truncate { back } => self.truncate(back),
            Operation::StartOver { ahead } => self.start_over(ahead),
            Operation::AdvanceLogStart { by } => {
                let log_start = Offset((self.log_start + by).0.min(self.log_end().0));
                self.log.advance_log_start(log_start);
                self.log_start = self.log.log_start_offset();
                assert_eq!(self.log_start, log_start);
                self.furthest_log_start = self.furthest_log_start.max(log_start);
            }
            Operation::ReopenClean => {
                if self.log.is_offline() || self.log.close(TICK).is_err() {
                    assert!(self.faulty);
                    return self.repair();
                }
                self.heal();
                self.checkpoint();
                self.env.lose_power();
                self.reopen(true).unwrap();
                self.adopt_prefix(self.log_end());
            }
            Operation::Kill => {
                self.heal();
                self.env.kill();
                self.reopen(false).unwrap();
                let end = self.log_end();
                // Nothing is forgotten: the cut of a failed append may not be durable yet.
                self.adopt_unknown();
                self.adopt_prefix(end);
            }
            Operation::LosePower => {
                self.heal();
                self.lose_power();
            }
            Operation::Faults { ppm } => {
                self.faulty = ppm > 0;
                let faults =
                    Faults { io_error_ppm: ppm / 2, no_space_ppm: ppm, sync_error_ppm: ppm / 4, ..Faults::NONE };
                self.env.set_faults(faults);
                if !self.faulty && self.log.is_offline() {
                    self.repair();
                }
            }
        }
    }

    /// Opening with a disk that fails is an error, nothing more: there is nothing to compare then.
    fn heal(&mut self) {
        self.faulty = false;
        self.env.set_faults(Faults::NONE);
    }

    fn check(&self) {
        let log = &self.log;
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (self.log_start, self.log_end()));
        assert!(log.recovery_point() <= log.log_end_offset());
        if self.faulty {
            return;
        }
        self.check_reads();
        self.check_timestamps();
        self.check_epochs();
        self.check_producers();
    }

    fn check_reads(&self) {
        let end = self.log_end();
        let readable = |from: Offset, upper: Offset| -> Vec<u8> {
            let batches = self.batches.iter().map(|batch| (&batch.header, &batch.bytes));
            batches
                .filter(|(header, _)| header.last_offset() >= from && header.last_offset() < upper)
                .flat_map(|(_, bytes)| bytes.clone())
                .collect()
        };
        for (from, upper, max_bytes) in [
            (self.log_start, end, 1 << 20),
            (self.log_start, end - 3, 90),
            (Offset((self.log_start.0 + end.0) / 2), end, 300),
            (Offset((end - 7).0.max(self.log_start.0)), end - 1, 1),
            (end, end, 100),
        ] {
            let (read, expected) = (read_all(&self.log, from, upper, max_bytes), readable(from, upper));
            assert!(read == expected, "{from}..{upper}: {:?} instead of {:?}", offsets(&read), offsets(&expected));
        }
        for from in [self.log_start - 1, end + 1] {
            assert!(matches!(self.log.read(from, 10, end, true), Err(ReadError::OutOfRange { .. })));
        }
    }

    fn check_timestamps(&self) {
        let mut records = Vec::new();
        for batch in &self.batches {
            let bytes = bytes::Bytes::copy_from_slice(&batch.bytes);
            records.extend(Records::new(&bytes, 1 << 20).unwrap().map(|record| record.unwrap()));
        }
        records.retain(|record| record.offset >= self.log_start);
        for target in [0, 3, 250, 500, 900, 990, 1_100] {
            let expected = records.iter().find(|record| record.timestamp >= TimestampMs(target));
            let found = self.log.offset_for_timestamp(TimestampMs(target)).unwrap();
            assert_eq!(
                found.map(|found| (found.offset, found.timestamp)),
                expected.map(|record| (record.offset, record.timestamp)),
                "timestamp {target}"
            );
        }
        let largest = records.iter().map(|record| record.timestamp).max();
        let found = self.log.offset_of_max_timestamp().unwrap();
        assert_eq!(found.map(|found| found.timestamp), largest);
        let first = records.iter().find(|record| Some(record.timestamp) == largest);
        assert_eq!(found.map(|found| found.offset), first.map(|record| record.offset));
    }

    fn check_epochs(&self) {
        let history = self.log.epoch_history();
        let known_from = self.log_start.max(self.furthest_log_start);
        for batch in self.batches.iter().filter(|batch| batch.header.last_offset() >= known_from) {
            let offset = batch.header.base_offset.max(known_from);
            assert_eq!(history.epoch_for_offset(offset), Some(batch.header.partition_leader_epoch), "at {offset}");
        }
        let readable = |offset: Offset| offset > known_from && offset < self.log_end();
        for entry in history.entries().iter().filter(|entry| readable(entry.start_offset)) {
            assert!(
                self.batches.iter().any(|batch| batch.header.base_offset == entry.start_offset),
                "{entry:?} begins within a batch"
            );
        }
    }

    fn check_producers(&self) {
        let mut expected = BTreeMap::new();
        for header in self.batches.iter().map(|batch| &batch.header).filter(|header| header.producer_id.0 >= 0) {
            expected.insert(header.producer_id, header.last_sequence());
        }
        let known: BTreeMap<_, _> =
            (0..3).map(ProducerId).filter_map(|id| Some((id, self.log.producers().last_of(id)?.1))).collect();
        assert_eq!(known, expected);
        assert_eq!(self.log.producers().end_offset(), self.log_end());
    }
}

fn run(seed: u64, operations: &[Operation]) {
    let mut world = World::new(seed);
    for operation in operations {
        world.run(operation);
        world.check();
    }
    world.heal();
    if world.log.is_offline() {
        world.repair();
    }
    world.check();
}

/// A log that started over when it was opened was called flushed, though the name of its directory was not: the next
/// loss of power took the directory.
#[test]
fn a_log_that_starts_over_when_it_is_opened_is_durable() {
    let append = || Operation::Append { records: 1, value_bytes: 0, timestamp: 0, producer: None };
    let operations = [
        append(),
        Operation::AdvanceLogStart { by: 1 },
        Operation::Truncate { back: 0 },
        Operation::LosePower,
        Operation::Kill,
        append(),
        Operation::LosePower,
    ];
    for seed in (0..64).chain([14_672_274_546_372_469_920]) {
        run(seed, &operations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_its_list_of_batches(seed: u64, operations in proptest::collection::vec(operation(), 1..80)) {
        run(seed, &operations);
    }

    #[test]
    fn a_failing_disk_loses_nothing(
        seed: u64,
        operations in proptest::collection::vec(operation_with_faults(), 1..80),
    ) {
        run(seed, &operations);
    }
}
