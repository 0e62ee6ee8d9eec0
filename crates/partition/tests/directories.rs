//! What is written to the log directories now and then, and at the end of a process.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::*;
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, Offset, PartitionId, TopicId, TopicName, TopicPartition,
};
use ottla_partition::{
    AbsentLog, ClosedReplicas, FoundLog, Shutdown, least_used, open_in, take_flushed, write_checkpoints,
};
use ottla_storage::env::{Faults, FaultyEnv};
use ottla_storage::{CheckpointKind, DiskFault, LastRun, LeftBy, Log, LogConfig, LogCut, LogDir, LogDirs};

const EPOCH_AT_END: BrokerEpoch = BrokerEpoch(30);
const BROKEN: Faults = Faults { io_error_ppm: 1_000_000, ..Faults::NONE };

fn name(topic: &str) -> TopicPartition {
    TopicPartition::new(TopicName::new(topic).unwrap(), PartitionId(0))
}

fn open(env: &FaultyEnv) -> LogDirs<FaultyEnv> {
    LogDirs::open(["/a", "/b"].map(|path| (env.clone(), PathBuf::from(path))), None).unwrap()
}

/// A log with this number of records, each a batch.
fn log(directory: &LogDir<FaultyEnv>, topic: &str, records: i64, config: LogConfig) -> Box<Log<FaultyEnv>> {
    let (env, path) = (directory.env().clone(), directory.partition_path(&name(topic)));
    let log = Log::create(env, path, name(topic), TopicId([1; 16]), Arc::new(config), WALL);
    let mut log = Box::new(log.unwrap());
    append(&mut log, records);
    log
}

fn append(log: &mut Log<FaultyEnv>, records: i64) {
    for _ in 0..records {
        let batch = placed(log.log_end_offset().0, 1, LeaderEpoch(1));
        log.append_as_follower(&batch, LeaderEpoch(1), WALL).unwrap();
    }
}

/// How the next start finds the directories left, and what it reads of a log's checkpoints.
fn left(env: &FaultyEnv, topic: &str) -> ([LeftBy; 2], [Option<Offset>; 3]) {
    let dirs = open(env);
    let left = [0, 1].map(|number| dirs.get(number).unwrap().content(None).unwrap().left_by);
    let kinds = [CheckpointKind::HighWatermark, CheckpointKind::RecoveryPoint, CheckpointKind::LogStart];
    (left, kinds.map(|kind| dirs.get(0).unwrap().checkpoints().find(kind, &name(topic))))
}

#[test]
fn the_next_start_trusts_a_directory_whose_logs_were_all_closed() {
    let env = FaultyEnv::new(1);
    {
        let dirs = open(&env);
        let (first, second) = (dirs.get(0).unwrap(), dirs.get(1).unwrap());
        // Two threads close the logs of a directory.
        let (mut closed, mut others) = (ClosedReplicas::default(), ClosedReplicas::default());
        let mut advanced = log(first, "t", 5, LogConfig::default());
        advanced.advance_log_start(Offset(2));
        closed.add(name("t"), Offset(4), Some(advanced), NOW).unwrap();
        others.add(name("u"), Offset(2), Some(log(first, "u", 3, LogConfig::default())), NOW).unwrap();
        closed.append(others);
        // The log of one replica was never opened. Records of it were deleted in an earlier run.
        drop(log(second, "v", 5, LogConfig::default()));
        second.write_checkpoint(CheckpointKind::LogStart, || vec![(name("v"), Some(Offset(3)))]).unwrap();
        let mut unopened = ClosedReplicas::default();
        unopened.add::<FaultyEnv>(name("v"), Offset(9), None, NOW).unwrap();
        let mut shutdown = Shutdown::begin(EPOCH_AT_END, true, LastRun::default());
        assert!(shutdown.leave(first, &closed).is_none());
        assert!(shutdown.leave(second, &unopened).is_none());
        shutdown.end(&dirs).unwrap();
    }
    let ([first, second], checkpoints) = left(&env, "t");
    assert_eq!(first, left_whole(EPOCH_AT_END));
    assert_eq!(second, LeftBy::UNKNOWN, "a log there was not closed");
    assert_eq!(checkpoints, [Some(Offset(4)), Some(Offset(5)), Some(Offset(2))]);
    let (_, checkpoints) = left(&env, "u");
    assert_eq!(checkpoints[..2], [Some(Offset(2)), Some(Offset(3))], "of the other thread");
    let dirs = open(&env);
    let second = dirs.get(1).unwrap();
    second.content(None).unwrap();
    let log_start = second.checkpoints().find(CheckpointKind::LogStart, &name("v"));
    assert_eq!(log_start, Some(Offset(3)), "what was deleted does not come back");
}

/// The process had no descriptor to sync a directory when a topic was deleted. The next topic of that name was killed
/// before its first checkpoint, and began where the records of the former one had been deleted: its own were gone.
#[test]
fn the_offsets_of_logs_that_leave_are_forgotten_though_the_directory_cannot_be_synced() {
    let env = FaultyEnv::new(1);
    let dirs = open(&env);
    let directory = dirs.get(0).unwrap();
    let offsets = || ["t", "u"].map(|topic| (name(topic), Some(Offset(3)))).to_vec();
    for topic in ["t", "u"] {
        drop(log(directory, topic, 5, LogConfig::default()));
    }
    directory.write_checkpoint(CheckpointKind::LogStart, offsets).unwrap();
    env.set_faults(Faults { no_descriptor_ppm: 1_000_000, ..Faults::NONE });
    assert!(directory.mark_deleted(&[name("t")], || [7; 16]).is_err());
    assert!(directory.mark_stray(&name("u"), [8; 16]).is_err());
    env.set_faults(Faults::NONE);
    for topic in ["t", "u"] {
        let opened = open_in(directory, name(topic), TopicId([2; 16]), Arc::default(), None, WALL);
        opened.map_err(|refused| refused.error).unwrap();
    }
    drop(dirs);
    for topic in ["t", "u"] {
        let (_, checkpoints) = left(&env, topic);
        assert_eq!(checkpoints[2], None, "{topic}");
    }
}

/// The checkpoint waited for the replica, the truncation for the claim, and the claim for the checkpoint: for ever.
#[test]
fn a_log_is_cut_while_a_checkpoint_is_collected_and_the_directory_is_to_be_claimed() {
    let dirs = open(&FaultyEnv::new(1));
    let (dirs, directory) = (&dirs, dirs.get(0).unwrap());
    let (collects, collecting) = mpsc::channel();
    let (locked, unlocked) = mpsc::channel::<()>();
    let (cut, was_cut) = mpsc::channel();
    let in_time = std::thread::scope(move |scope| {
        scope.spawn(move || {
            let collect = || {
                let _ = collects.send(());
                // The replica is locked by the one that cuts its log.
                let _ = unlocked.recv();
                Vec::new()
            };
            directory.write_checkpoint(CheckpointKind::LogStart, collect).unwrap();
        });
        collecting.recv().unwrap();
        scope.spawn(move || dirs.claim_replaced(BrokerId(1), &cluster()).unwrap());
        // Until it waits; else nothing is proved.
        std::thread::sleep(Duration::from_millis(100));
        scope.spawn(move || {
            let left = LogCut { end: Offset(0), recovery_point: Offset(0) };
            directory.log_was_cut(&name("t"), left).unwrap();
            let _ = cut.send(());
        });
        let in_time = was_cut.recv_timeout(Duration::from_secs(20)).is_ok();
        drop(locked);
        in_time
    });
    assert!(in_time);
}

/// The process was killed between the two. Records that came since counted as cleaned: older ones of their keys stayed
/// beside them for ever, and came back when a deletion among them was cleaned away.
#[test]
fn a_clean_offset_that_was_not_cut_with_its_log_is_lowered_at_the_start() {
    let env = FaultyEnv::new(1);
    {
        let dirs = open(&env);
        let directory = dirs.get(0).unwrap();
        let mut log = log(directory, "t", 9, LogConfig::default());
        log.flush(NOW).unwrap();
        directory.set_clean_offset(&name("t"), Offset(9)).unwrap();
        log.truncate_to(Offset(4), WALL).unwrap();
    }
    let clean_offset = |dirs: &LogDirs<FaultyEnv>| {
        let directory = dirs.get(0).unwrap();
        let content = directory.content(None).unwrap();
        (content.live, directory.clean_offset(&name("t")))
    };
    {
        let dirs = open(&env);
        let (live, left) = clean_offset(&dirs);
        assert_eq!(left, Some(Offset(9)));
        let directory = dirs.get(0).unwrap();
        let (found, error) = FoundLog::open_again(&live[0], directory, (), &Arc::default(), WALL);
        assert!(error.is_none(), "{error:?}");
        found.lower_clean_offset(directory).unwrap();
    }
    assert_eq!(clean_offset(&open(&env)).1, Some(Offset(4)));
}

fn left_whole(epoch: BrokerEpoch) -> LeftBy {
    LeftBy { closed: true, whole_since: Some(epoch), registered: Some(epoch) }
}

/// The high watermark is known all the same.
#[test]
fn a_log_that_cannot_be_closed_makes_its_directory_unclean() {
    let env = FaultyEnv::new(1);
    {
        let dirs = open(&env);
        let directory = dirs.get(0).unwrap();
        let mut closed = ClosedReplicas::default();
        let refused = log(directory, "t", 5, LogConfig::default());
        env.set_faults(Faults { sync_error_ppm: 1_000_000, ..Faults::NONE });
        assert!(closed.add(name("t"), Offset(4), Some(refused), NOW).is_err());
        env.set_faults(Faults::NONE);
        let mut shutdown = Shutdown::begin(EPOCH_AT_END, true, LastRun::default());
        assert!(shutdown.leave(directory, &closed).is_none());
        shutdown.end(&dirs).unwrap();
    }
    let ([first, _], checkpoints) = left(&env, "t");
    assert_eq!(first, LeftBy::UNKNOWN);
    assert_eq!(checkpoints, [Some(Offset(4)), None, None]);
}

#[test]
fn a_process_that_ends_before_its_image_leaves_the_directories_as_it_found_them() {
    for closed in [true, false] {
        let env = FaultyEnv::new(1);
        {
            let dirs = open(&env);
            let last_run = LastRun { closed, whole_since: BrokerEpoch(20), registered: BrokerEpoch(20) };
            let mut shutdown = Shutdown::begin(EPOCH_AT_END, false, last_run);
            assert!(shutdown.leave(dirs.get(0).unwrap(), &ClosedReplicas::default()).is_none());
            shutdown.end(&dirs).unwrap();
        }
        let as_found = left_whole(BrokerEpoch(20));
        assert_eq!(left(&env, "t").0, [if closed { as_found } else { LeftBy::UNKNOWN }; 2]);
    }
}

#[test]
fn a_directory_that_refuses_does_not_keep_the_others_from_being_left() {
    let env = FaultyEnv::new(1);
    let dirs = open(&env);
    let mut shutdown = Shutdown::begin(EPOCH_AT_END, true, LastRun::default());
    env.set_faults(BROKEN);
    assert!(shutdown.leave(dirs.get(0).unwrap(), &ClosedReplicas::default()).is_some());
    env.set_faults(Faults::NONE);
    assert!(shutdown.leave(dirs.get(1).unwrap(), &ClosedReplicas::default()).is_none());
    assert!(shutdown.end(&dirs).is_err(), "the next start recovers the logs of the first one");
    drop(dirs);
    let ([first, second], _) = left(&env, "t");
    assert_eq!(first, LeftBy::UNKNOWN);
    assert_eq!(second, left_whole(EPOCH_AT_END));
}

#[test]
fn checkpoints_are_written_of_a_directory_that_works_when_its_logs_are_known() {
    let env = FaultyEnv::new(1);
    let dirs = open(&env);
    let directory = dirs.get(0).unwrap();
    let kinds = [CheckpointKind::HighWatermark, CheckpointKind::LogStart];
    let write = |is_current, offset| {
        write_checkpoints(directory, is_current, &kinds, |_| vec![(name("t"), Some(Offset(offset)))])
    };
    let written = || kinds.map(|kind| directory.checkpoints().find(kind, &name("t")));
    write(false, 3).unwrap();
    assert_eq!(written(), [None; 2], "other logs may be missing");
    write(true, 4).unwrap();
    assert_eq!(written(), [Some(Offset(4)); 2]);
    assert_eq!(directory.checkpoints().find(CheckpointKind::RecoveryPoint, &name("t")), None);
    env.set_faults(BROKEN);
    assert!(write(true, 5).is_err());
    env.set_faults(Faults::NONE);
    directory.health().fail();
    write(true, 6).unwrap();
    assert!(written().iter().all(|offset| *offset != Some(Offset(6))), "its disk is not written to");
}

/// A segment that is closed, and on the disk, need not be read again after a crash.
#[test]
fn a_flush_is_worth_a_checkpoint_if_it_ends_above_the_active_segments_base() {
    let env = FaultyEnv::new(1);
    let dirs = open(&env);
    let config = LogConfig { segment_bytes: 200, ..LogConfig::default() };
    let mut log = log(dirs.get(0).unwrap(), "t", 1, config);
    let flush = |log: &mut Log<FaultyEnv>| {
        let done = log.flush_work().expect("something to sync").run().unwrap();
        take_flushed(log, done, NOW)
    };
    assert_eq!(log.active_segment_base(), Offset(0));
    // From the base itself on: nothing says yet that this segment is not the first to be read.
    assert!(flush(&mut log));
    append(&mut log, 1);
    assert_eq!(log.active_segment_base(), Offset(0));
    assert!(!flush(&mut log), "of the active segment a part was on the disk before");
    append(&mut log, 2);
    let (base, end) = (log.active_segment_base(), log.log_end_offset());
    assert_eq!((base, end), (Offset(2), Offset(4)), "two batches fill a segment");
    // It rolls while a flush is under way, which ends where the new segment begins.
    let work = log.flush_work().expect("something to sync");
    append(&mut log, 1);
    assert_eq!(log.active_segment_base(), end);
    let done = work.run().unwrap();
    assert!(!take_flushed(&mut log, done, NOW), "nothing of the active segment is on the disk");
    assert!(flush(&mut log));
}

#[test]
fn a_new_log_goes_to_the_directory_with_the_fewest() {
    let dirs = open(&FaultyEnv::new(1));
    let (first, second) = (dirs.get(0).unwrap(), dirs.get(1).unwrap());
    assert_eq!(least_used(&dirs, |_| false), Some(0));
    first.place();
    assert_eq!(least_used(&dirs, |_| false), Some(1));
    assert_eq!(least_used(&dirs, |directory| directory.number() == 1), Some(0), "it is cordoned");
    second.health().fail();
    assert_eq!(least_used(&dirs, |_| false), Some(0));
    first.health().fail();
    assert_eq!(least_used(&dirs, |_| false), None);
}

fn cluster() -> ClusterId {
    ClusterId::new("G6jBNhY5TiO_EKLtMUA1qA")
}

/// Two directories of a broker, of which the second cannot be opened this time.
fn with_one_missing() -> LogDirs<FaultyEnv> {
    let (works, refuses) = (FaultyEnv::new(1), FaultyEnv::new(2));
    let disks = || [(works.clone(), PathBuf::from("/a")), (refuses.clone(), PathBuf::from("/b"))];
    LogDirs::open(disks(), None).unwrap().claim(BrokerId(1), &cluster()).unwrap();
    refuses.set_faults(BROKEN);
    let dirs = LogDirs::open(disks(), None).unwrap();
    refuses.set_faults(Faults::NONE);
    dirs
}

#[test]
fn a_log_that_is_absent_may_be_in_a_missing_directory_or_have_been_in_a_replaced_one() {
    let env = FaultyEnv::new(1);
    assert_eq!(AbsentLog::of(&open(&env)), AbsentLog::NeverMade);
    assert_eq!(AbsentLog::of(&with_one_missing()), AbsentLog::DirectoryMissing);
    let first = LogDirs::open([(env.clone(), PathBuf::from("/a"))], None).unwrap();
    first.claim(BrokerId(1), &cluster()).unwrap();
    drop(first);
    assert_eq!(AbsentLog::of(&open(&env)), AbsentLog::DirectoryReplaced, "the second one is nobody's");
}

/// `log.dirs` had an entry less: the replicas of that directory began anew, without records, as members of their ISRs.
#[test]
fn a_directory_that_is_left_out_is_missed_until_the_quorum_knows() {
    let env = FaultyEnv::new(1);
    open(&env).claim(BrokerId(1), &cluster()).unwrap();
    assert_eq!(AbsentLog::of(&open(&env)), AbsentLog::NeverMade);
    let left_over = || LogDirs::open([(env.clone(), PathBuf::from("/a"))], None).unwrap();
    let dirs = left_over();
    assert_eq!(AbsentLog::of(&dirs), AbsentLog::DirectoryReplaced);
    let last_run = dirs.last_run(vec![left_whole(EPOCH_AT_END)]);
    assert_eq!((last_run.closed, last_run.whole_since), (false, BrokerEpoch::NONE));
    dirs.claim(BrokerId(1), &cluster()).unwrap();
    assert!(dirs.has_replaced(), "it has registered, and the quorum may still count on what was there");
    dirs.claim_replaced(BrokerId(1), &cluster()).unwrap();
    assert!(!dirs.has_replaced());
    drop(dirs);
    assert_eq!(AbsentLog::of(&left_over()), AbsentLog::NeverMade);
}

#[test]
fn no_log_is_made_in_a_directory_that_could_not_be_opened() {
    let dirs = with_one_missing();
    let open =
        |number, found| open_in(dirs.get(number).unwrap(), name("t"), TopicId([1; 16]), Arc::default(), found, WALL);
    let log = open(0, None).map_err(|refused| refused.error).unwrap();
    let refused = open(1, None).err().unwrap();
    assert!(DiskFault::of(Some(&refused.error)) == DiskFault::Failed && refused.found.is_none());
    assert!(open(1, Some(log)).err().unwrap().found.is_some(), "the log that was found is kept");
}

/// A log that awaited room, in a process that was not shut down.
#[test]
fn a_log_is_opened_again_by_its_place() {
    let env = FaultyEnv::new(1);
    let dirs = open(&env);
    let directory = dirs.get(0).unwrap();
    log(directory, "t", 5, LogConfig::default()).close(NOW).unwrap();
    let waits: FoundLog<FaultyEnv, u32> = FoundLog {
        partition: name("t"),
        topic_id: Some(TopicId([1; 16])),
        directory: 8,
        log: None,
        is_damaged: false,
        awaits_room: true,
        high_watermark: Offset(4),
    };
    let place = waits.place(directory);
    assert_eq!((&place.path, place.topic_id), (&directory.partition_path(&name("t")), waits.topic_id));
    let open_again = || FoundLog::open_again(&place, directory, 9_u32, &Arc::default(), WALL);
    env.set_faults(BROKEN);
    let (again, error) = open_again();
    assert!(error.is_some() && again.log.is_none());
    env.set_faults(Faults::NONE);
    let (again, error) = open_again();
    assert!(error.is_none() && !again.awaits_room);
    assert_eq!((again.directory, again.log.map(|log| log.log_end_offset())), (9, Some(Offset(5))));
}
