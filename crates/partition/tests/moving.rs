//! A copy of a log grows in another directory, follows what happens to the log, and takes its place.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use common::*;
use ottla_model::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName, TopicPartition};
use ottla_partition::BrokenRules;
use ottla_partition::moving::{FutureReplica, MoveError, Next, may_move};
use ottla_replication::{Divergence, EpochEnd};
use ottla_storage::env::{Faults, FaultyEnv};
use ottla_storage::{
    AppendError, DirectoryError, DirectoryHealth, DiskFault, Log, LogDirs, LogSlice, OpenError, Read, ReadError,
};

const TOPIC: TopicId = TopicId([1; 16]);
const ANY_EPOCH: LeaderEpoch = LeaderEpoch(i32::MAX);

fn name() -> TopicPartition {
    TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0))
}

/// A log in the first of two directories, and its copy in the second one.
struct Moving {
    dirs: LogDirs<FaultyEnv>,
    log: Log<FaultyEnv>,
    copy: FutureReplica<FaultyEnv>,
}

/// What a look at the log led to.
#[derive(PartialEq, Eq, Debug)]
enum Step {
    Copied,
    CutTo(i64),
    StartAt(i64),
    CaughtUp,
}

impl Moving {
    /// The log has these batches, as (base, records, leader epoch); the copy is empty.
    fn begin(batches: &[(i64, i64, i32)]) -> Self {
        Self::begin_with(batches, BrokenRules::default())
    }

    fn begin_with(batches: &[(i64, i64, i32)], rules: BrokenRules) -> Self {
        let env = FaultyEnv::new(1);
        let disks = ["/a", "/b"].map(|path| (env.clone(), PathBuf::from(path)));
        let dirs = LogDirs::open(disks, None).unwrap();
        let (from, to) = (dirs.get(0).unwrap(), dirs.get(1).unwrap());
        let log = Log::create(env.clone(), from.partition_path(&name()), name(), TOPIC, Arc::default(), WALL).unwrap();
        let path = to.future_path(&name(), [7; 16]).unwrap();
        let copy = FutureReplica::create(env, path, (name(), TOPIC), Arc::default(), WALL, rules).unwrap();
        let mut moving = Self { dirs, log, copy };
        moving.append(batches);
        moving
    }

    fn append(&mut self, batches: &[(i64, i64, i32)]) {
        for (base, count, epoch) in batches {
            let records = placed(*base, *count, LeaderEpoch(*epoch));
            self.log.append_as_follower(&records, ANY_EPOCH, WALL).unwrap();
        }
    }

    /// What a look at the log leads to, done.
    fn step(&mut self) -> Step {
        match self.copy.next(&self.log).unwrap() {
            Next::Copy(Read::Done(records)) => self.copy(&records),
            Next::Copy(Read::Cold(cold)) => {
                let records = cold.run().unwrap().unwrap_or_else(LogSlice::empty);
                self.copy(&records)
            }
            Next::CutTo(offset) => {
                self.copy.cut_to(offset, WALL).unwrap();
                Step::CutTo(offset.0)
            }
            Next::StartAt(offset) => {
                self.copy.start_at(offset).unwrap();
                Step::StartAt(offset.0)
            }
            Next::CaughtUp => Step::CaughtUp,
        }
    }

    fn copy(&mut self, records: &LogSlice<<FaultyEnv as ottla_storage::Env>::File>) -> Step {
        let before = self.copy.size_bytes();
        let bytes = self.copy.append(records, WALL).unwrap();
        assert_eq!(self.copy.size_bytes() - before, bytes as u64);
        Step::Copied
    }

    /// As [`Self::begin`], with a copy of all of it.
    fn copied(batches: &[(i64, i64, i32)]) -> Self {
        let mut moving = Self::begin(batches);
        while moving.step() != Step::CaughtUp {}
        assert_eq!(moving.copy.size_bytes(), moving.log.size_bytes());
        moving
    }
}

#[test]
fn a_copy_grows_to_the_end_of_its_log() {
    let mut moving = Moving::begin(&[(0, 5, 3), (5, 5, 4)]);
    assert_eq!(moving.copy.end(), Offset(0));
    assert_eq!(moving.step(), Step::Copied);
    assert_eq!((moving.copy.end(), moving.step()), (Offset(10), Step::CaughtUp));
    moving.append(&[(10, 1, 4)]);
    assert_eq!((moving.step(), moving.step(), moving.copy.end()), (Step::Copied, Step::CaughtUp, Offset(11)));
}

#[test]
fn a_copy_begins_where_its_log_begins_by_now() {
    let mut moving = Moving::begin(&[(0, 5, 3), (5, 5, 3)]);
    moving.log.advance_log_start(Offset(5));
    assert_eq!(moving.step(), Step::StartAt(5));
    // At the very start there is nothing to leave out.
    assert_eq!((moving.step(), moving.copy.end(), moving.step()), (Step::Copied, Offset(10), Step::CaughtUp));
}

#[test]
fn a_copy_is_cut_as_its_log_was() {
    // No record took the place of those that went.
    let mut moving = Moving::copied(&[(0, 5, 3), (5, 5, 3)]);
    moving.log.truncate_to(Offset(5), WALL).unwrap();
    assert_eq!((moving.step(), moving.copy.end(), moving.step()), (Step::CutTo(5), Offset(5), Step::CaughtUp));
    // As many of another leader.
    moving.append(&[(5, 5, 4)]);
    while moving.step() != Step::CaughtUp {}
    moving.log.truncate_to(Offset(5), WALL).unwrap();
    moving.append(&[(5, 5, 6)]);
    assert_eq!((moving.step(), moving.copy.end()), (Step::CutTo(5), Offset(5)));
    assert_eq!((moving.step(), moving.copy.end(), moving.step()), (Step::Copied, Offset(10), Step::CaughtUp));
}

/// The records above the cut are those of another leader, and those below it are not in the log any more.
#[test]
fn a_copy_that_diverges_at_the_start_of_its_log_is_cut_to_it() {
    let mut moving = Moving::copied(&[(0, 5, 3), (5, 5, 3)]);
    moving.log.truncate_to(Offset(5), WALL).unwrap();
    moving.append(&[(5, 3, 5), (8, 2, 5)]);
    moving.log.advance_log_start(Offset(8));
    assert_eq!(moving.step(), Step::CutTo(8));
}

#[test]
fn a_copy_that_has_nothing_in_common_with_its_log_begins_anew() {
    // Records of an epoch that the log does not have, up to where its next one begins: a cut would change nothing.
    let mut moving = Moving::copied(&[(0, 10, 5)]);
    moving.log.truncate_fully_and_start_at(Offset(0), None).unwrap();
    moving.append(&[(0, 10, 3), (10, 2, 7)]);
    assert_eq!((moving.step(), moving.copy.end()), (Step::StartAt(0), Offset(0)));
    // An epoch above all of the log.
    let mut moving = Moving::copied(&[(0, 10, 9)]);
    moving.log.truncate_fully_and_start_at(Offset(0), None).unwrap();
    moving.append(&[(0, 12, 3)]);
    assert_eq!(moving.step(), Step::StartAt(0));
    // An empty copy beyond the end of the log.
    let mut moving = Moving::begin(&[(0, 5, 3)]);
    moving.copy.start_at(Offset(20)).unwrap();
    assert_eq!(moving.step(), Step::StartAt(0));
}

#[test]
fn records_that_were_cut_from_the_log_while_they_were_copied_are_left_out() {
    let mut moving = Moving::begin(&[(0, 5, 3)]);
    let Next::Copy(Read::Done(records)) = moving.copy.next(&moving.log).unwrap() else { panic!("it is in memory") };
    moving.log.truncate_to(Offset(0), WALL).unwrap();
    assert_eq!(moving.copy.append(&records, WALL).unwrap(), 0);
    assert_eq!(moving.copy.end(), Offset(0));
}

/// Another leader's records, at the same offsets and positions, followed records of the copy that the log had no more:
/// the two differed there for ever, because the epochs of their ends were the same.
#[test]
fn records_that_took_the_place_of_others_while_these_were_copied_are_left_out() {
    let mut moving = Moving::copied(&[(0, 5, 3), (5, 5, 3)]);
    moving.append(&[(10, 5, 3)]);
    let Next::Copy(Read::Done(records)) = moving.copy.next(&moving.log).unwrap() else { panic!("it is in memory") };
    moving.log.truncate_to(Offset(5), WALL).unwrap();
    moving.append(&[(5, 5, 4), (10, 5, 4)]);
    assert_eq!(moving.copy.append(&records, WALL).unwrap(), 0);
    assert_eq!((moving.step(), moving.copy.end()), (Step::CutTo(5), Offset(5)));
    while moving.step() != Step::CaughtUp {}
    assert_eq!(moving.copy.end(), Offset(15));
}

#[test]
fn a_log_that_cannot_be_read_is_not_taken_for_one_that_was_cut() {
    let mut moving = Moving::begin(&[(0, 5, 3)]);
    let Next::Copy(Read::Done(records)) = moving.copy.next(&moving.log).unwrap() else { panic!("it is in memory") };
    let env = moving.dirs.get(0).unwrap().env().clone();
    env.set_faults(Faults { io_error_ppm: 1_000_000, ..Faults::NONE });
    assert!(moving.copy.append(&records, WALL).is_err());
}

#[test]
fn the_last_step_copies_as_many_records_as_may_be_missing_then() {
    let begin = |missing: i64| {
        let mut moving = Moving::copied(&[(0, 10, 3)]);
        moving.append(&[(10, missing, 3)]);
        moving
    };
    let mut moving = begin(65_535);
    assert!(moving.copy.catch_up(&moving.log, WALL).unwrap());
    assert_eq!(moving.copy.end(), Offset(65_545));
    assert!(moving.copy.catch_up(&moving.log, WALL).unwrap(), "nothing is missing");
    let mut moving = begin(65_536);
    assert!(!moving.copy.catch_up(&moving.log, WALL).unwrap(), "too many for a lock");
    assert_eq!(moving.copy.end(), Offset(10));
    // More bytes than are copied at once.
    let mut moving = Moving::copied(&[(0, 10, 3)]);
    moving.append(&[(10, 30_000, 3), (30_010, 30_000, 3)]);
    assert!(moving.log.size_bytes() > 1 << 20);
    assert!(!moving.copy.catch_up(&moving.log, WALL).unwrap());
    assert!(moving.copy.end() > Offset(10) && moving.copy.end() < moving.log.log_end_offset());
    // The log was cut.
    let mut moving = Moving::copied(&[(0, 10, 3)]);
    moving.log.truncate_to(Offset(0), WALL).unwrap();
    assert!(!moving.copy.catch_up(&moving.log, WALL).unwrap());
    let broken = BrokenRules { moves_before_caught_up: true, ..BrokenRules::default() };
    let mut moving = Moving::begin_with(&[(0, 10, 3)], broken);
    assert!(moving.copy.catch_up(&moving.log, WALL).unwrap(), "the rule is taken out");
}

/// Of a compacted log, between two batches: the look found nothing to copy, again and again, until a record came.
#[test]
fn a_copy_catches_up_with_a_log_that_was_cut_within_a_gap() {
    let cut = || {
        let mut moving = Moving::begin(&[(0, 5, 3), (10, 5, 3)]);
        moving.log.truncate_to(Offset(8), WALL).unwrap();
        assert_eq!(moving.log.log_end_offset(), Offset(8));
        let steps = [0; 3].map(|_| moving.step());
        assert_eq!(steps, [Step::Copied, Step::Copied, Step::CaughtUp]);
        moving
    };
    // Records follow the gap, or are in its place.
    let mut moving = cut();
    moving.append(&[(8, 2, 3)]);
    assert_eq!((moving.step(), moving.copy.end(), moving.step()), (Step::Copied, Offset(10), Step::CaughtUp));
    let mut moving = cut();
    moving.log.truncate_to(Offset(5), WALL).unwrap();
    moving.append(&[(5, 3, 3)]);
    assert!(!moving.copy.catch_up(&moving.log, WALL).unwrap(), "there is no gap any more");
    assert!(moving.copy.catch_up(&moving.log, WALL).unwrap());
    assert_eq!(moving.copy.end(), Offset(8));

    let mut moving = cut();
    assert!(moving.copy.catch_up(&moving.log, WALL).unwrap());
    let Moving { dirs, mut log, mut copy } = moving;
    let to = dirs.get(1).unwrap();
    let mut moved = copy.take_place(&mut log, (to, &name()), Offset(8), (NOW, WALL), || [9; 16]).unwrap();
    assert_eq!(moved.log_end_offset(), Offset(8), "what consumers and followers know it to be");
    moved.append_as_follower(&placed(8, 2, LeaderEpoch(3)), ANY_EPOCH, WALL).unwrap();
    assert_eq!(moved.log_end_offset(), Offset(10));
}

#[test]
fn a_copy_takes_the_place_of_its_log() {
    let Moving { dirs, mut log, mut copy } = Moving::copied(&[(0, 5, 3), (5, 5, 4)]);
    log.advance_log_start(Offset(5));
    let (to, future) = (dirs.get(1).unwrap(), copy.path().to_owned());
    assert!(future.starts_with("/b") && future != to.partition_path(&name()));
    let moved = copy.take_place(&mut log, (to, &name()), Offset(7), (NOW, WALL), || [9; 16]).unwrap();
    assert_eq!(moved.directory(), to.partition_path(&name()));
    assert_eq!((moved.log_start_offset(), moved.log_end_offset()), (Offset(5), Offset(10)));
    assert_eq!((moved.recovery_point(), moved.topic_id()), (Offset(10), Some(TOPIC)));
    assert_eq!(moved.epoch_history().latest_epoch(), LeaderEpoch(4));
    assert!(log.is_offline() && !moved.is_offline(), "only one of them takes records");
}

/// A leader that had moved did not know the epoch that it led, as long as that had no record: a follower that came from
/// an epoch before it was told to ask for the log's bounds, which say nothing, and asked for ever.
#[test]
fn a_copy_knows_the_epochs_without_records_of_the_log_that_it_replaces() {
    let Moving { dirs, mut log, mut copy } = Moving::copied(&[(0, 5, 3), (5, 5, 4)]);
    log.begin_leader_epoch(LeaderEpoch(7));
    let to = dirs.get(1).unwrap();
    let moved = copy.take_place(&mut log, (to, &name()), Offset(10), (NOW, WALL), || [9; 16]).unwrap();
    assert_eq!(moved.epoch_history(), log.epoch_history());
    assert!(moved.flush_work().is_some(), "they are to be written");
    let asked = moved.epoch_history().divergence(LeaderEpoch(6), Offset(10), Offset(0), Offset(10));
    assert_eq!(asked, Divergence::At(EpochEnd { epoch: LeaderEpoch(4), end_offset: Offset(10) }));
}

#[test]
fn a_move_waits_for_room_and_ends_with_a_broken_disk() {
    let full = || io::Error::from_raw_os_error(28);
    let broken = || io::Error::from_raw_os_error(5);
    let errors = |error: fn() -> io::Error| {
        let directory = || PathBuf::from("/b");
        [
            MoveError::Io(error()),
            MoveError::Append(AppendError::Io(error())),
            MoveError::Read(ReadError::Io(error())),
            MoveError::Open(OpenError::Io { directory: directory(), error: error() }),
            MoveError::Directory(DirectoryError::Io { path: directory(), error: error() }),
        ]
    };
    for error in errors(full) {
        assert_eq!((error.fault(), error.passes()), (DiskFault::Full, true), "{error:?}");
    }
    for error in errors(broken).into_iter().chain([MoveError::Read(ReadError::Offline)]) {
        assert_eq!((error.fault(), error.passes()), (DiskFault::Failed, false), "{error:?}");
    }
}

#[test]
fn a_replica_moves_away_from_a_disk_that_stalls_and_to_none_that_does() {
    let (works, stalls, failed) = (DirectoryHealth::new(true), DirectoryHealth::new(true), DirectoryHealth::new(true));
    stalls.set_stalled(true);
    failed.fail();
    assert!(may_move(&works, &works) && may_move(&stalls, &works));
    assert!(!may_move(&failed, &works), "there is nothing to copy");
    assert!(!may_move(&works, &stalls) && !may_move(&works, &failed));
}

/// A sync waits for the disk: small copies leave it to the last step.
#[test]
fn a_copy_is_synced_when_it_is_asked_for_or_much_was_copied() {
    let mut moving = Moving::copied(&[(0, 10, 3)]);
    let env = moving.dirs.get(1).unwrap().env().clone();
    env.set_faults(Faults { sync_error_ppm: 1_000_000, ..Faults::NONE });
    assert!(moving.copy.flush_if_large(NOW).is_ok(), "it is small");
    assert!(moving.copy.flush(NOW).is_err());
}
