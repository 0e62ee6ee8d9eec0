//! How a replica gets its log on a disk that has no room, or that lost what was not synced.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use ottla_metadata::{IsrMember, PartitionState};
use ottla_model::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId, TopicName, TopicPartition};
use ottla_partition::placement::Found as _;
use ottla_partition::{
    BrokenRules, FoundLog, Impairment, LogPlace, NotOpened, OpeningContext, ReopeningPause, Replica, open_log,
    resignation,
};
use ottla_protocol::record_batch::BatchBuilder;
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::env::{Env, Faults, FaultyEnv, OpenMode};
use ottla_storage::{CheckpointKind, Checkpoints, DiskFault, Log, LogConfig, LogDirectory, OpenError, read_topic_id};

const FULL: Faults = Faults { no_space_ppm: 1_000_000, ..Faults::NONE };

fn name() -> TopicPartition {
    TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0))
}

fn data() -> &'static Path {
    Path::new("/data")
}

/// Opens the log of a topic, or creates it.
fn open(
    env: &FaultyEnv,
    topic: u8,
    found: Option<Box<Log<FaultyEnv>>>,
) -> Result<Box<Log<FaultyEnv>>, NotOpened<FaultyEnv>> {
    let directory = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    let place = LogPlace {
        directory: &directory,
        checkpoints: &Checkpoints::default(),
        partition: name(),
        topic_id: TopicId([topic; 16]),
        config: Arc::new(LogConfig::default()),
    };
    place.open(found, WALL)
}

/// A replica that the tree made the leader before its log was open.
fn replica() -> Replica<FaultyEnv, NoAck> {
    let mut replica = Replica::new(Offset::ZERO);
    let effects = replica.assume(&sole_leader(LeaderEpoch(0)), NOW, WALL, &config(), &brokers);
    assert!(!effects.role_changed);
    replica
}

/// Opens the log of the directory as the next process does.
fn find(env: &FaultyEnv, checkpoints: &Checkpoints) -> FoundLog<FaultyEnv, ()> {
    let storage = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    let found = storage.partitions().unwrap();
    let config = Arc::new(LogConfig::default());
    let context = OpeningContext { checkpoints, clean_shutdown: false, config: &config, now: WALL };
    let (log, error) = FoundLog::new(env, &found[0], (), context, open_log(env.clone(), &found[0], context, None));
    assert!(error.is_none(), "{error:?}");
    log
}

/// A directory with a log that was created and never synced, and checkpoints of its name.
fn lost_before_the_first_sync(seed: u64, segments: &[i64]) -> FaultyEnv {
    let env = FaultyEnv::new(seed);
    let storage = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    drop(Log::create(env.clone(), data().join("t-0"), name(), TopicId([1; 16]), Arc::default(), WALL).unwrap());
    for base in segments {
        let path: PathBuf = data().join("t-0").join(format!("{base:020}.log"));
        env.open(&path, OpenMode::Create).unwrap();
    }
    // The names are durable, the topic id is not.
    env.sync_directory(&data().join("t-0")).unwrap();
    env.sync_directory(data()).unwrap();
    let checkpoints = Checkpoints::default();
    for kind in [CheckpointKind::HighWatermark, CheckpointKind::RecoveryPoint, CheckpointKind::LogStart] {
        checkpoints.set(kind, &storage, &name(), Offset(44)).unwrap();
    }
    drop(storage);
    env.lose_power();
    env
}

/// What a start reads of the directory's checkpoints.
fn loaded_checkpoints(env: &FaultyEnv) -> Checkpoints {
    let checkpoints = Checkpoints::default();
    let storage = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    checkpoints.load(&storage, |_| true).unwrap();
    checkpoints
}

/// The checkpoints of the former topic are gone before the log has its topic's id: the next start would believe them.
#[test]
fn scenario_42_nor_does_it_after_it_was_given_its_topics_id() {
    for (seed, segments) in [(1, &[][..]), (2, &[44]), (3, &[20, 44])] {
        let env = lost_before_the_first_sync(seed, segments);
        let checkpoints = loaded_checkpoints(&env);
        let found = find(&env, &checkpoints).log;
        let directory = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
        let place = LogPlace {
            directory: &directory,
            checkpoints: &checkpoints,
            partition: name(),
            topic_id: TopicId([2; 16]),
            config: Arc::new(LogConfig::default()),
        };
        assert!(place.open(found, WALL).is_ok());
        let later = Checkpoints::default();
        later.load(&directory, |_| true).unwrap();
        for kind in [CheckpointKind::HighWatermark, CheckpointKind::RecoveryPoint, CheckpointKind::LogStart] {
            assert_eq!(later.find(kind, &name()), None, "seed {seed}, {kind:?}");
        }
    }
}

#[test]
fn a_log_without_its_topics_id_does_not_begin_where_another_topic_of_its_name_ended() {
    for (seed, segments) in [(1, &[][..]), (2, &[44]), (3, &[20, 44])] {
        let env = lost_before_the_first_sync(seed, segments);
        let checkpoints = loaded_checkpoints(&env);
        assert_eq!(checkpoints.get(CheckpointKind::LogStart, &name()), Offset(44));
        let found = find(&env, &checkpoints);
        let log = found.log.expect("it opens");
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset::ZERO, Offset::ZERO), "seed {seed}");
        assert_eq!((found.high_watermark, log.recovery_point()), (Offset::ZERO, Offset::ZERO));
    }
}

#[test]
fn a_log_that_kafka_wrote_before_it_knew_topic_ids_keeps_its_offsets() {
    let env = FaultyEnv::new(4);
    env.create_directory(&data().join("t-0")).unwrap();
    env.open(&data().join("t-0/00000000000000000044.log"), OpenMode::Create).unwrap();
    let found = find(&env, &Checkpoints::default());
    assert_eq!(found.log.expect("it opens").log_end_offset(), Offset(44));
}

#[test]
fn a_log_that_was_found_waits_for_room_for_its_topics_id() {
    let env = lost_before_the_first_sync(5, &[]);
    let found = find(&env, &Checkpoints::default());
    let mut replica = replica();
    env.set_faults(FULL);
    let effects = replica.log_opened(open(&env, 2, found.log), NOW, WALL, &config(), &brokers);
    assert!(effects.disk_error.is_some());
    assert!(replica.awaits_log() && replica.is_offline() && replica.leader().is_none());
    // Still no room.
    let waiting = replica.take_waiting_log();
    assert!(waiting.is_some());
    let effects = replica.log_opened(open(&env, 2, waiting), NOW, WALL, &config(), &brokers);
    assert!(effects.disk_error.is_some() && replica.awaits_log());
    env.set_faults(Faults::NONE);
    let waiting = replica.take_waiting_log();
    let effects = replica.log_opened(open(&env, 2, waiting), NOW, WALL, &config(), &brokers);
    assert!(effects.disk_error.is_none() && effects.role_changed);
    assert!(!replica.awaits_log() && replica.leader().is_some());
    assert_eq!(replica.log().and_then(Log::topic_id), Some(TopicId([2; 16])));
}

#[test]
fn a_new_log_waits_for_room() {
    let env = FaultyEnv::new(6);
    let mut replica = replica();
    drop(LogDirectory::open(env.clone(), data().to_owned()).unwrap());
    env.set_faults(FULL);
    let effects = replica.log_opened(open(&env, 2, None), NOW, WALL, &config(), &brokers);
    assert!(effects.disk_error.is_some() && replica.awaits_log());
    assert!(replica.take_waiting_log().is_none());
    env.set_faults(Faults::NONE);
    let effects = replica.log_opened(open(&env, 2, None), NOW, WALL, &config(), &brokers);
    assert!(effects.role_changed && replica.leader().is_some());
}

/// A process was killed: its log has to be recovered, and what a recovery writes finds no room.
#[test]
fn scenario_43_a_log_that_cannot_be_recovered_awaits_room() {
    let env = FaultyEnv::new(9);
    let mut log = open(&env, 1, None).map_err(|refused| refused.error).unwrap();
    // A log without records is opened without writing.
    let batch = BatchBuilder::new().record(WALL, None, Some(&[1])).placed_at(Offset(0), LeaderEpoch(3)).build();
    log.append_as_follower(&batch.unwrap(), LeaderEpoch(3), WALL).unwrap();
    drop(log);
    let storage = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    let checkpoints = Checkpoints::default();
    checkpoints.set(CheckpointKind::HighWatermark, &storage, &name(), Offset(7)).unwrap();
    drop(storage);
    env.kill();
    let storage = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    let place = &storage.partitions().unwrap()[0];
    let config = Arc::new(LogConfig::default());
    let context = OpeningContext { checkpoints: &checkpoints, clean_shutdown: false, config: &config, now: WALL };
    let find = || FoundLog::new(&env, place, (), context, open_log(env.clone(), place, context, None)).0;
    for (faults, awaits_room) in [
        (FULL, true),
        (Faults { no_descriptor_ppm: 1_000_000, ..Faults::NONE }, true),
        (Faults { sync_error_ppm: 1_000_000, io_error_ppm: 1_000_000, ..Faults::NONE }, false),
    ] {
        env.set_faults(faults);
        let refused = find();
        assert!(refused.log.is_none() && !refused.is_damaged, "{faults:?}");
        assert_eq!((refused.awaits_room, refused.high_watermark), (awaits_room, Offset(7)), "{faults:?}");
        assert_eq!(refused.awaits_room(), awaits_room);
    }
    env.set_faults(Faults::NONE);
    let found = find();
    assert!(found.log.is_some() && !found.awaits_room);
}

#[test]
fn a_last_member_yields_to_a_live_broker_of_the_elr_only() {
    let resigns = |isr: &[BrokerId], has_successor| {
        let member = |broker: &BrokerId| IsrMember { broker: *broker, epoch: broker_epoch(LOCAL) };
        let state = PartitionState { isr: isr.iter().map(member).collect(), ..(*sole_leader(LeaderEpoch(0))).clone() };
        resignation(LOCAL, broker_epoch(LOCAL), &state, Impairment::Unwritable, has_successor, BrokenRules::default())
            .is_some()
    };
    assert!(!resigns(&[LOCAL], false) && resigns(&[LOCAL], true));
    assert!(resigns(&[LOCAL, BrokerId(2)], false) && !resigns(&[BrokerId(2)], true));
}

#[test]
fn the_pauses_between_tries_grow_while_nothing_is_opened() {
    let mut pause = ReopeningPause::default();
    let looks: Vec<_> = (1..=40).filter(|_| ReopeningPause::look(&mut pause, 5)).collect();
    assert_eq!(looks, [1, 2, 4, 8, 16, 32]);
    let mut pause = ReopeningPause::default();
    let mut tries = |looks: usize, awaiting| (0..looks).filter(|_| pause.look(awaiting)).count();
    assert_eq!(tries(31, 5), 5, "after 1, 1, 2, 4, 8 and 16 looks");
    assert_eq!(tries(300, 5), 10, "every 30 looks at most");
    assert_eq!(tries(3, 4), 2, "one was opened: there is room");
    assert_eq!((tries(1, 0), tries(1, 1)), (0, 1));
}

#[test]
fn a_disk_that_fails_ends_the_wait() {
    let env = lost_before_the_first_sync(7, &[]);
    let found = find(&env, &Checkpoints::default());
    let mut replica = replica();
    env.set_faults(Faults { io_error_ppm: 1_000_000, ..Faults::NONE });
    let effects = replica.log_opened(open(&env, 2, found.log), NOW, WALL, &config(), &brokers);
    assert!(effects.disk_error.is_some());
    assert!(!replica.awaits_log() && replica.is_offline());
}

/// A topic is deleted while the disk is full, and made again.
#[test]
fn a_new_log_is_not_named_by_the_checkpoints_of_an_earlier_one() {
    let env = FaultyEnv::new(8);
    let directory = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
    let checkpoints = Checkpoints::default();
    checkpoints.set(CheckpointKind::LogStart, &directory, &name(), Offset(44)).unwrap();
    let place = || LogPlace {
        directory: &directory,
        checkpoints: &checkpoints,
        partition: name(),
        topic_id: TopicId([2; 16]),
        config: Arc::default(),
    };
    // There may be room for the log and not for the file.
    env.set_faults(FULL);
    assert!(checkpoints.forget(&directory, [name()].iter()).is_err());
    let refused = place().open(None, WALL).err().expect("no room");
    assert!(DiskFault::of(Some(&refused.error)) == DiskFault::Full && refused.found.is_none());
    env.set_faults(Faults::NONE);
    place().open(None, WALL).map_err(|refused| refused.error).unwrap();
    assert_eq!(directory.read_checkpoint(CheckpointKind::LogStart).unwrap(), std::collections::BTreeMap::new());
}

/// The disk did not let the log of a deleted topic be renamed, so that it keeps its name; the topic is made again, more
/// than once. The creation was refused because of the records, and the whole directory with it.
#[test]
fn a_log_that_was_not_renamed_makes_room_for_the_next_one_of_its_name() {
    let env = FaultyEnv::new(11);
    for topic in 1..=3 {
        let mut log = open(&env, topic, None).map_err(|refused| refused.error).unwrap();
        assert_eq!((log.log_end_offset(), log.topic_id()), (Offset(0), Some(TopicId([topic; 16]))));
        let batch = BatchBuilder::new().record(WALL, None, Some(&[topic])).placed_at(Offset(0), LeaderEpoch(3)).build();
        log.append_as_follower(&batch.unwrap(), LeaderEpoch(3), WALL).unwrap();
        log.flush(NOW).unwrap();
        log.abandon();
        let directory = LogDirectory::open(env.clone(), data().to_owned()).unwrap();
        let kept = directory.partitions().unwrap();
        let strays = kept.iter().filter(|found| found.kind == PartitionDirectoryKind::Stray);
        let topics: Vec<_> = strays.map(|found| read_topic_id(&env, &found.path)).collect();
        assert_eq!(topics, (1..topic).map(|topic| Some(TopicId([topic; 16]))).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_in_the_way_of_a_log_fails_no_directory() {
    let mut replica = replica();
    let error = || std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    let refused = Err(NotOpened { error: error(), found: None });
    let effects = replica.log_opened(refused, NOW, WALL, &config(), &brokers);
    assert!(effects.disk_error.is_some_and(|error| DiskFault::of(Some(&error)) == DiskFault::NameTaken));
    assert!(replica.awaits_log(), "it is tried again");
}

#[test]
fn a_found_log_tells_the_facts_that_decide_its_place() {
    let env = FaultyEnv::new(9);
    let mut log = open(&env, 1, None).map_err(|refused| refused.error).unwrap();
    let batch = BatchBuilder::new().record(WALL, None, Some(&[1])).placed_at(Offset(0), LeaderEpoch(3)).build();
    let facts = |env: &FaultyEnv| find(env, &Checkpoints::default()).facts();
    log.flush(NOW).unwrap();
    let empty = facts(&env);
    assert_eq!((empty.reach, empty.has_records), (Some((LeaderEpoch::NONE, Offset(0))), false));
    log.append_as_follower(&batch.unwrap(), LeaderEpoch(3), WALL).unwrap();
    log.flush(NOW).unwrap();
    let grown = facts(&env);
    assert_eq!((grown.reach, grown.has_records), (Some((LeaderEpoch(3), Offset(1))), true));
    assert_eq!((grown.topic_id, grown.is_damaged), (Some(TopicId([1; 16])), false));
    assert!(!find(&env, &Checkpoints::default()).awaits_restart(), "it is open");
}

#[test]
fn a_log_that_the_disk_refused_may_open_at_the_next_start_and_a_damaged_one_may_not() {
    let env = FaultyEnv::new(10);
    open(&env, 1, None).map(drop).map_err(|refused| refused.error).unwrap();
    let found = LogDirectory::open(env.clone(), data().to_owned()).unwrap().partitions().unwrap();
    let (checkpoints, config) = (Checkpoints::default(), Arc::new(LogConfig::default()));
    let context = OpeningContext { checkpoints: &checkpoints, clean_shutdown: false, config: &config, now: WALL };
    let refused = |error| FoundLog::<FaultyEnv, ()>::new(&env, &found[0], (), context, Err(error)).0;
    let directory = data().join("t-0");
    let log =
        refused(OpenError::Io { directory: directory.clone(), error: std::io::ErrorKind::PermissionDenied.into() });
    assert!(log.awaits_restart());
    assert_eq!((log.facts().reach, log.facts().has_records), (None, false));
    assert!(!refused(OpenError::CorruptMiddle { file: directory, position: 0 }).awaits_restart());
}
