//! Disks that fill, stall, fail and are not there at the start (scenario 18), and replicas that move between
//! directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ottla_model::{ErrorCode, LeaderEpoch, Offset, TimestampMs};
use ottla_protocol::kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, DescribeLogDirsRequest, DescribeProducersRequest, ListOffsetsRequest, TopicName,
    describe_producers_request,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::FetchRequest;
use ottla_protocol::wire::Reader;
use ottla_protocol::{Api, decode_response, encode_request};
use ottla_replica_manager::log_io;
use ottla_replica_manager::partition::{OffsetQuery, Partition, Visible};

use super::harness::*;
use crate::groups::OFFSETS_TOPIC;
use crate::handlers;

const NEVER_MS: i32 = 60_000;
const TWO_DIRECTORIES: &[(&str, &str)] = &[(SECOND_DIRECTORY, "")];

/// A small file system; none where nobody may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, bytes: usize) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path.to_owned()));
        }
        ottla_test_support::skipped("no file system can be mounted here");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Every record that was acknowledged is there before and after the disk had no room, and nothing has to be restarted.
#[test]
fn scenario_18_a_full_disk_refuses_and_recovers_by_itself() {
    let cluster = Cluster::new(&[]);
    let directory = cluster.log_directory(1);
    let Some(_disk) = SmallDisk::mount(&directory, 4 << 20) else { return };
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let mut brokers = cluster.start_all(&[1, 2]);
    let (alone, both) = (topic_id(1), topic_id(2));
    cluster.quorum.create_topic("alone", alone, 1, &[1], &[]);
    cluster.quorum.create_topic("both", both, 1, &[1, 2], &[]);
    let large = batch(&[&"x".repeat(64 << 10)]);
    let mut acknowledged = 0;
    let refused = loop {
        let produced = brokers[0].produce(TopicRef::Id(alone), 0, &large, -1, NEVER_MS);
        if produced.error != ErrorCode::None {
            break produced.error;
        }
        acknowledged += 1;
        assert!(acknowledged < 100, "the disk takes everything");
    };
    assert_eq!(refused, ErrorCode::KafkaStorageError);
    assert_eq!(brokers[0].log_end(alone, 0), Offset(acknowledged));
    let health = brokers[0].partition(alone, 0).directory().health().clone();
    assert!(health.is_full() && !health.is_failed());
    let metrics = || brokers[0].broker.telemetry.render();
    eventually("the metrics tell", || metrics().contains("ottla_broker_log_directories_full 1"));

    // What others can do without the full disk they do.
    let refused = brokers[0].produce(TopicRef::Id(both), 0, &large, -1, NEVER_MS);
    assert_eq!(refused.error, ErrorCode::KafkaStorageError);
    eventually("another broker leads", || cluster.quorum.state("both", 0).leader.0 == 2);
    let produced = brokers[1].produce(TopicRef::Id(both), 0, &large, -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(0)));

    std::fs::remove_file(&ballast).unwrap();
    let produced = brokers[0].produce(TopicRef::Id(alone), 0, &large, -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(acknowledged)));
    eventually("it has caught up", || cluster.quorum.isr("both", 0).contains(&1));
    assert!(!health.is_full());
    assert_eq!(brokers[0].log_bytes(both, 0), brokers[1].log_bytes(both, 0));
    let before = brokers[0].log_bytes(alone, 0);
    brokers.remove(0).kill();
    let back = cluster.start(1);
    assert_eq!(back.log_bytes(alone, 0), before);
}

/// Heartbeats run elsewhere; here: the other directory's partitions go on, clients are told at once, leadership moves,
/// and all comes back when the disk does.
#[test]
fn scenario_18_a_stalled_disk_holds_up_only_its_own_partitions() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1, 2], &[]);
    for partition in [0, 1] {
        let produced = brokers[0].produce(TopicRef::Id(id), partition, &batch(&["a"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
    let stalled = brokers[0].partition(id, 0);
    assert!(!stalled.is_in(&brokers[0].partition(id, 1).directory()));
    let (disk_answers, answer) = mpsc::channel::<()>();
    let (stalls, stalling) = mpsc::channel::<()>();
    let writer = {
        let partition = stalled.clone();
        std::thread::spawn(move || {
            let health = partition.directory().health().clone();
            partition.with_log(|_| {
                log_io::writing(&health, || {
                    stalls.send(()).unwrap();
                    answer.recv().unwrap();
                });
            });
        })
    };
    stalling.recv().unwrap();
    let goes_on = |value: &str| {
        let produced = brokers[0].produce(TopicRef::Id(id), 1, &batch(&[value]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    };
    goes_on("b");
    // A change of the topic is taken in while its disk does not answer (A7).
    cluster.quorum.configure_topic("t", &[("retention.ms", "86400000")]);
    assert_eq!(stalled.settings().log.retention_ms, 86_400_000);
    goes_on("b");
    eventually("another broker leads", || cluster.quorum.state("t", 0).leader.0 == 2);
    goes_on("c");
    let produced = brokers[1].produce(TopicRef::Id(id), 0, &batch(&["b"]), -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(1)));
    let refused = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["b"]), -1, NEVER_MS);
    assert_eq!(refused.error, ErrorCode::KafkaStorageError);
    assert!(brokers[0].broker.telemetry.render().contains("ottla_broker_log_directories_stalled 1"));
    disk_answers.send(()).unwrap();
    writer.join().unwrap();
    eventually("it is in sync again", || cluster.quorum.isr("t", 0).contains(&1));
    assert_eq!(brokers[0].log_bytes(id, 0), brokers[1].log_bytes(id, 0));
    eventually("the metrics tell", || brokers[0].broker.telemetry.replicas.log_directories_stalled.get() == 0);
}

/// A replica's lock is held until the sender is dropped, as by a write that does not return.
fn held(partition: &Arc<Partition>) -> mpsc::Sender<()> {
    let partition = partition.clone();
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        partition.with_log(|_| {
            held.send(()).unwrap();
            let _ = released.recv();
        });
    });
    is_held.recv().unwrap();
    release
}

/// The image stood still until the disk answered: the fetchers asked the replica under its lock whom it follows. And
/// it was counted as a leader for ever.
#[test]
fn a_topic_that_is_deleted_while_its_disk_stalls_holds_up_no_change_of_the_tree() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    let stalled = broker.partition(topic_id(1), 0);
    let leaders = || broker.broker.telemetry.replicas.leader_partitions.get();
    eventually("it leads", || leaders() == 1);
    let release = held(&stalled);
    let quorum = cluster.quorum.clone();
    let deleting = std::thread::spawn(move || quorum.delete_topic("t", 1));
    eventually("the image goes on", || deleting.is_finished());
    assert!(!stalled.is_closed());
    drop(release);
    eventually("it has ended", || stalled.is_closed() && leaders() == 0);
}

/// A replica left a disk that did not answer, and came back to another one. When the disk answered, the one that had
/// left took the fetcher of the other one away: that never caught up.
#[test]
fn a_replica_that_ends_late_leaves_the_one_that_came_back_its_fetcher() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[2, 1], &[]);
    let produce = || {
        let answer = brokers[1].produce(TopicRef::Id(id), 0, &batch(&["x"]), 1, NEVER_MS);
        assert_eq!(answer.error, ErrorCode::None);
    };
    let end = || brokers[0].partition(id, 0).with_log(|log| log.log_end_offset());
    produce();
    eventually("it follows", || end() == Some(Offset(1)));
    let left = brokers[0].partition(id, 0);
    let from = left.directory();
    cluster.quorum.configure_broker(1, &[("cordoned.log.dirs", from.path().to_str().unwrap())]);
    let release = held(&left);
    cluster.quorum.set_replicas("t", id, &[2]);
    cluster.quorum.set_replicas("t", id, &[2, 1]);
    assert!(!brokers[0].partition(id, 0).is_in(&from));
    eventually("it follows again", || end() == Some(Offset(1)));
    assert!(!left.is_closed());
    drop(release);
    eventually("what had left is gone", || !from.path().join("t-0").exists());
    produce();
    eventually("it goes on", || end() == Some(Offset(2)));
}

/// Each question for its producers held a thread until the disk answered: after some hundred the broker stood still.
#[test]
fn the_producers_of_a_stalled_log_are_not_waited_for_beside_too_many_others() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    let stalled = broker.partition(topic_id(1), 0);
    eventually("it leads", || broker.broker.telemetry.replicas.leader_partitions.get() == 1);
    let health = stalled.directory().health().clone();
    let release = held(&stalled);
    let waiting = std::iter::from_fn(|| health.begin_wait().then_some(())).count();
    let topic = describe_producers_request::TopicRequest::default()
        .with_name(TopicName("t".to_owned().into()))
        .with_partition_indexes(vec![0]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    let frame = encode_request(0, 7, None, &request).unwrap();
    let answer = broker.ask(CLIENT, handlers::describe_producers::handle, 0, &frame).frame();
    let response = decode_response::<DescribeProducersRequest>(0, answer).unwrap().1;
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::KafkaStorageError.code());
    (0..waiting).for_each(|_| health.end_wait());
    drop(release);
}

/// Each search for a time held a thread until the disk answered, also when it was known that it does not.
#[test]
fn a_stalled_disk_is_not_searched_for_a_time() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    assert_eq!(broker.produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS).error, ErrorCode::None);
    let partition = broker.partition(id, 0);
    let find = |query| {
        let found = partition.find_offset(query, LeaderEpoch::NONE, Visible::HighWatermark);
        found.map(|found| found.offset)
    };
    assert_eq!(find(OffsetQuery::At(TimestampMs(0))), Ok(Offset(0)));
    partition.directory().health().set_stalled(true);
    assert_eq!(find(OffsetQuery::At(TimestampMs(0))), Err(ErrorCode::KafkaStorageError));
    assert_eq!(find(OffsetQuery::Latest), Ok(Offset(1)));
}

/// A7: each consumer that lagged behind on a disk that did not answer held a thread; some hundred took all of them.
#[test]
fn readers_that_lag_behind_wait_without_a_thread_where_many_have_one() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[("segment.bytes", "1048576")]);
    let large = "x".repeat(600 << 10);
    for _ in 0..3 {
        assert_eq!(broker.produce(TopicRef::Id(id), 0, &batch(&[&large]), -1, NEVER_MS).error, ErrorCode::None);
    }
    let partition = broker.partition(id, 0);
    let health = partition.directory().health().clone();
    let reading = std::iter::from_fn(|| health.begin_read().then_some(())).count();
    let bytes_from = |offset| {
        let response = broker.fetch(&fetch_of(id, vec![wanted(0, offset)]));
        let found = only(&response);
        assert_eq!(found.error, ErrorCode::None);
        found.records.as_ref().map_or(0, |records| records.len())
    };
    // The file of the first segment is not open; that of the last one is, and where its records are is in memory.
    assert_eq!(bytes_from(0), 0);
    assert!(bytes_from(2) > large.len());
    let find = || partition.find_offset(OffsetQuery::At(TimestampMs(0)), LeaderEpoch::NONE, Visible::HighWatermark);
    assert_eq!(find().map(|found| found.offset), Err(ErrorCode::KafkaStorageError));
    // One that may wait for minutes waits for the others only.
    let patient = FetchRequest { max_wait_ms: 300_000, ..fetch_of(id, vec![wanted(0, 0)]) };
    let mut waiting = broker.begin_fetch(CLIENT, &patient);
    assert!(!waiting.is_ready());
    (0..reading).for_each(|_| health.end_read());
    assert!(only(&waiting.fetched()).records.as_ref().is_some_and(|records| records.len() > large.len()));
    assert!(bytes_from(0) > large.len());
    assert_eq!(find().map(|found| found.offset), Ok(Offset(0)));
}

/// Where the readers of a disk were stuck and nothing was written to it, a search waited for ever, and its connection
/// with it.
#[test]
fn a_search_waits_for_a_crowded_disk_for_a_time() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    assert_eq!(broker.produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS).error, ErrorCode::None);
    let health = broker.partition(id, 0).directory().health().clone();
    let reading = std::iter::from_fn(|| health.begin_read().then_some(())).count();
    let partition = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(0);
    let topic =
        ListOffsetsTopic::default().with_name(TopicName("t".to_owned().into())).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let frame = encode_request(9, 7, None, &request).unwrap();
    let answer = broker.ask(CLIENT, handlers::list_offsets::handle, 9, &frame).frame();
    let response = decode_response::<ListOffsetsRequest>(9, answer).unwrap().1;
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::KafkaStorageError.code());
    (0..reading).for_each(|_| health.end_read());
}

#[test]
fn a_directory_that_fails_takes_only_its_own_replicas_away_and_the_last_one_ends_the_broker() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1, 2], &[]);
    brokers[0].partition(id, 0).disk_failed(&"no such luck");
    eventually("another broker leads", || cluster.quorum.state("t", 0).leader.0 == 2);
    let produced = brokers[0].produce(TopicRef::Id(id), 1, &batch(&["a"]), -1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    assert_eq!(cluster.quorum.state("t", 1).leader.0, 1);
    eventually("the metrics tell", || brokers[0].broker.telemetry.replicas.log_directories_offline.get() == 1);
    let errors =
        |brokers: &[TestBroker]| describe(&brokers[0]).iter().filter(|directory| directory.error_code == 56).count();
    assert_eq!(errors(&brokers), 1);
    // A new partition goes where there is a disk.
    cluster.quorum.create_topic("new", topic_id(2), 1, &[1], &[]);
    assert_eq!(brokers[0].produce(TopicRef::Id(topic_id(2)), 0, &batch(&["a"]), -1, NEVER_MS).error, ErrorCode::None);
    brokers[0].partition(id, 1).disk_failed(&"nor this one");
    let end = brokers[0].broker.replicas.last_directory_failed();
    brokers[0].block_on(async { tokio::time::timeout(PATIENCE, end).await }).expect("it ends");
}

#[test]
fn a_directory_that_is_missing_at_the_start_is_not_taken_for_an_empty_one() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1], &[]);
    for partition in [0, 1] {
        broker.produce(TopicRef::Id(id), partition, &batch(&["a", "b"]), -1, NEVER_MS);
    }
    let lost = (0..2)
        .find(|partition| broker.partition(id, *partition).directory().path().to_string_lossy().ends_with("-second"));
    let (lost, path) = (lost.unwrap(), broker.partition(id, lost.unwrap()).directory().path().clone());
    broker.shut_down();
    let hidden = path.with_extension("hidden");
    std::fs::rename(&path, &hidden).unwrap();
    std::fs::write(&path, "not a directory").unwrap();

    let broker = cluster.start(1);
    let refused = broker.produce(TopicRef::Id(id), lost, &batch(&["c"]), -1, NEVER_MS);
    assert_eq!(refused.error, ErrorCode::KafkaStorageError);
    assert_eq!(broker.produce(TopicRef::Id(id), 1 - lost, &batch(&["c"]), -1, NEVER_MS).error, ErrorCode::None);
    broker.shut_down();

    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&hidden, &path).unwrap();
    let broker = cluster.start(1);
    assert_eq!((broker.log_end(id, lost), broker.log_end(id, 1 - lost)), (Offset(2), Offset(3)));
}

fn describe(broker: &TestBroker) -> Vec<DescribeLogDirsResult> {
    let frame = encode_request(4, 7, None, &DescribeLogDirsRequest::default().with_topics(None)).unwrap();
    let answer = broker.ask(CLIENT, handlers::describe_log_dirs::handle, 4, &frame).frame();
    decode_response::<DescribeLogDirsRequest>(4, answer).unwrap().1.results
}

/// The path of each directory in an answer of version 5, and whether it is cordoned. No directory has a topic.
fn cordoned(answer: &[u8]) -> Vec<(String, bool)> {
    // The header is the correlation id and its tagged fields.
    let mut reader = Reader::new(answer, 4);
    reader.skip_tagged_fields().unwrap();
    assert_eq!((reader.i32().unwrap(), reader.i16().unwrap()), (0, 0), "no throttling and no error");
    let read = |reader: &mut Reader<'_>| {
        assert_eq!(reader.i16().unwrap(), 0, "the directory has no error");
        let path = reader.string(true).unwrap().into_owned();
        assert_eq!(reader.array_length(true, 1, 9).unwrap(), 0, "{path} has no topic");
        assert!(reader.i64().unwrap() > 0 && reader.i64().unwrap() > 0, "total and usable bytes");
        let is_cordoned = reader.bool().unwrap();
        reader.skip_tagged_fields().unwrap();
        (path, is_cordoned)
    };
    let directories = (0..reader.array_length(true, 1, 9).unwrap()).map(|_| read(&mut reader)).collect();
    reader.skip_tagged_fields().unwrap();
    assert_eq!(reader.remaining(), 0);
    directories
}

/// B5: Kafka 4.3's Admin asks in version 5, and shows which directories take no new replicas (KIP-1066).
#[test]
fn the_newest_description_of_directories_says_which_are_cordoned() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    assert_eq!(Api::DescribeLogDirs.advertised().max, 5);
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let ask = || cordoned(&broker.dispatch(CLIENT, &encode_request(5, 7, None, &request).unwrap()).frame());
    let first = cluster.log_directory(1).display().to_string();
    let second = format!("{first}-second");
    let expected = |is_first, is_second| vec![(first.clone(), is_first), (second.clone(), is_second)];
    assert_eq!(ask(), expected(false, false));
    for (value, is_first, is_second) in [(second.as_str(), false, true), ("*", true, true), ("", false, false)] {
        cluster.quorum.configure_broker(1, &[("cordoned.log.dirs", value)]);
        assert_eq!(ask(), expected(is_first, is_second), "cordoned.log.dirs={value}");
    }
}

/// Somebody writes to the partition's log until the sender goes: its disk does not answer.
pub(super) fn stalled_writer(partition: &Arc<Partition>) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (disk_answers, answer) = mpsc::channel();
    let partition = partition.clone();
    let writer = std::thread::spawn(move || {
        let health = partition.directory().health().clone();
        partition.with_log(|_| {
            let _ = log_io::writing(&health, || answer.recv());
        });
    });
    (disk_answers, writer)
}

/// The error of one partition's move.
pub(super) fn move_to(broker: &TestBroker, topic: &str, partition: i32, path: &Path) -> i16 {
    use ottla_protocol::kafka_protocol::messages::alter_replica_log_dirs_request::{
        AlterReplicaLogDir, AlterReplicaLogDirTopic,
    };
    let text = crate::request::wire::text;
    let topic = AlterReplicaLogDirTopic::default().with_name(TopicName(text(topic))).with_partitions(vec![partition]);
    let dir = AlterReplicaLogDir::default().with_path(text(&path.display().to_string())).with_topics(vec![topic]);
    let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]);
    let frame = encode_request(2, 7, None, &request).unwrap();
    let answer = broker.ask(CLIENT, handlers::alter_replica_log_dirs::handle, 2, &frame).frame();
    decode_response::<AlterReplicaLogDirsRequest>(2, answer).unwrap().1.results[0].partitions[0].error_code
}

/// Each request of a tool that looks how far replicas have moved away from a bad disk kept a thread until it answered.
#[test]
fn directories_are_described_while_the_one_that_a_replica_leaves_does_not_answer() {
    const RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    let large = batch(&[&"x".repeat(64 << 10)]);
    for _ in 0..50 {
        assert_eq!(broker.produce(TopicRef::Id(id), 0, &large, -1, NEVER_MS).error, ErrorCode::None);
    }
    let partition = broker.partition(id, 0);
    let directories = broker.broker.replicas.log_dirs().all();
    let to = directories.iter().find(|directory| !partition.is_in(directory)).cloned().unwrap();
    cluster.quorum.configure_broker(1, &[(RATE, "1000")]);
    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("it moves", || partition.is_moving());
    let health = partition.directory().health().clone();
    let (disk_answers, writer) = stalled_writer(&partition);
    eventually("it is seen", || health.is_stalled());
    let described = std::thread::scope(|scope| {
        // Also where this fails: nobody waits for the disk for ever.
        let disk_answers = disk_answers;
        let asked = scope.spawn(|| describe(&broker));
        eventually("it is answered", || asked.is_finished());
        drop(disk_answers);
        asked.join().unwrap()
    });
    writer.join().unwrap();
    let path = to.path().display().to_string();
    let found = described.iter().find(|directory| directory.log_dir.as_str() == path).unwrap();
    assert_eq!((found.error_code, found.topics.len()), (0, 1));
    assert!(found.topics[0].partitions[0].is_future_key);
    let stalled = described.iter().find(|directory| directory.log_dir.as_str() != path).unwrap();
    assert_eq!(stalled.error_code, ErrorCode::KafkaStorageError.code());
    cluster.quorum.configure_broker(1, &[(RATE, "1000000000")]);
}

#[test]
fn a_replica_moves_to_another_directory_while_it_is_written_to() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[("segment.bytes", "1048576")]);
    let large = "x".repeat(100 << 10);
    let mut produced = 0;
    let mut produce = |brokers: &[TestBroker]| {
        let answer = brokers[0].produce(TopicRef::Id(id), 0, &batch(&[&large]), -1, NEVER_MS);
        assert_eq!(answer.error, ErrorCode::None);
        produced += 1;
    };
    for _ in 0..30 {
        produce(&brokers);
    }
    let partition = brokers[0].partition(id, 0);
    let from = partition.directory();
    let to = brokers[0].broker.replicas.log_dirs().all().iter().find(|directory| !partition.is_in(directory)).cloned();
    let to = to.unwrap();
    assert_eq!(move_to(&brokers[0], "t", 0, Path::new("/nowhere")), ErrorCode::LogDirNotFound.code());
    assert_eq!(move_to(&brokers[0], "nope", 0, to.path()), ErrorCode::UnknownTopicOrPartition.code());
    // It is told of a reassignment with a directory before the replica is here: tools ask again then.
    cluster.quorum.create_topic("elsewhere", topic_id(2), 1, &[2], &[]);
    eventually("it is known", || {
        move_to(&brokers[0], "elsewhere", 0, to.path()) == ErrorCode::ReplicaNotAvailable.code()
    });
    assert_eq!(move_to(&brokers[0], "t", 0, from.path()), 0);
    assert_eq!(move_to(&brokers[0], "t", 0, to.path()), 0);
    eventually("it has moved", || {
        produce(&brokers);
        partition.is_in(&to)
    });
    produce(&brokers);
    assert_eq!(cluster.quorum.state("t", 0).leader.0, 1);
    assert_eq!(brokers[0].log_bytes(id, 0), brokers[1].log_bytes(id, 0));
    assert_eq!(brokers[0].log_end(id, 0), Offset(produced));
    let shown = |brokers: &[TestBroker], path: &Path| {
        let directories = describe(&brokers[0]);
        let found = directories.iter().find(|directory| directory.log_dir.as_str() == path.to_string_lossy());
        found.map(|directory| (directory.topics.len(), directory.total_bytes > 0, directory.usable_bytes > 0))
    };
    assert_eq!(shown(&brokers, to.path()), Some((1, true, true)));
    assert_eq!(shown(&brokers, from.path()), Some((0, true, true)));
    eventually("what it left is removed", || {
        let left = std::fs::read_dir(from.path()).unwrap();
        left.filter_map(Result::ok).all(|entry| !entry.file_name().to_string_lossy().starts_with("t-0"))
    });
    let (from, to) = {
        let (from_path, to_path) = (from.path().clone(), to.path().clone());
        drop((from, to, partition));
        (from_path, to_path)
    };
    let mut brokers = brokers;
    let bytes = brokers[0].log_bytes(id, 0);
    brokers.remove(0).kill();
    // A crash between the two renames leaves both, and one that came before them a copy that was not finished.
    copy_directory(&to.join("t-0"), &from.join("t-0"));
    copy_directory(&to.join("t-0"), &from.join(format!("t-0.{}-future", "0".repeat(32))));
    let back = cluster.start(1);
    assert_eq!(back.log_bytes(id, 0), bytes);
    eventually("one of the two is set aside and the copy is removed", || {
        let names: Vec<String> = [&from, &to]
            .iter()
            .flat_map(|path| std::fs::read_dir(path).unwrap())
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.starts_with("t-0"))
            .collect();
        names.iter().filter(|name| *name == "t-0").count() == 1
            && names.iter().filter(|name| name.ends_with("-stray")).count() == 1
            && names.len() == 2
    });
}

/// The cleaner met an error of the disk that a replica had just left, and the other directory was out of use.
#[test]
fn an_error_is_that_of_the_directory_that_it_came_from() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    let partition = broker.partition(topic_id(1), 0);
    let directories = broker.broker.replicas.log_dirs().all();
    let left = directories.iter().find(|directory| !partition.is_in(directory)).cloned().unwrap();
    partition.disk_error(&left, &std::io::Error::other("the disk fails"));
    assert!(left.health().is_failed() && !partition.directory().health().is_failed());
}

/// The name of what a replica had left was taken again before it was renamed: the log of a new topic was renamed, and
/// removed.
#[test]
fn a_new_log_is_not_taken_for_what_a_moved_replica_has_left() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("other", topic_id(1), 1, &[1], &[]);
    cluster.quorum.create_topic("t", topic_id(2), 1, &[1], &[]);
    let (other, moving) = (broker.partition(topic_id(1), 0), broker.partition(topic_id(2), 0));
    let (from, to) = (moving.directory(), other.directory());
    assert!(!other.is_in(&from));
    // The checkpoint that comes before the renaming waits for it.
    let release = held(&other);
    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("it has moved", || moving.is_in(&to) && from.placed() == 0);
    cluster.quorum.delete_topic("t", 1);
    let quorum = cluster.quorum.clone();
    let creating = std::thread::spawn(move || quorum.create_topic("t", topic_id(3), 1, &[1], &[]));
    let patience = Instant::now() + Duration::from_secs(1);
    while !creating.is_finished() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(release);
    creating.join().unwrap();
    eventually("the move is over", || broker.broker.replicas.future_replicas().is_empty());
    assert!(broker.partition(topic_id(3), 0).is_in(&from));
    assert!(from.path().join("t-0").join("partition.metadata").exists());
    assert_eq!((from.placed(), to.placed()), (1, 1));
}

/// What was deleted while a replica moved came back with a kill, and all of its log was read again: the directory that
/// it had moved to did not say yet where the log begins, and how far it is on the disk. And a throttled move went on
/// for up to five seconds after it was called off.
#[test]
fn a_moved_replica_keeps_its_offsets_and_a_move_is_called_off_at_once() {
    const RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    let large = "x".repeat(100 << 10);
    for _ in 0..30 {
        assert_eq!(broker.produce(TopicRef::Id(id), 0, &batch(&[&large]), -1, NEVER_MS).error, ErrorCode::None);
    }
    cluster.quorum.configure_broker(1, &[(RATE, "1000000")]);
    let partition = broker.partition(id, 0);
    let from = partition.directory();
    let other = |broker: &TestBroker| {
        broker.broker.replicas.log_dirs().all().iter().find(|directory| !partition.is_in(directory)).cloned().unwrap()
    };
    let to = other(&broker);
    cluster.quorum.configure_broker(1, &[(RATE, "1000000"), ("cordoned.log.dirs", to.path().to_str().unwrap())]);
    assert_eq!(move_to(&broker, "t", 0, to.path()), ErrorCode::InvalidReplicaAssignment.code());
    assert_eq!(move_to(&broker, "t", 0, from.path()), 0, "it is there");
    cluster.quorum.configure_broker(1, &[(RATE, "1000000")]);
    let copied = || broker.broker.replicas.future_replicas().iter().map(|future| future.end.0).max();
    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("a part is copied", || copied().is_some_and(|end| end > 0));
    assert_eq!(move_to(&broker, "t", 0, from.path()), 0);
    assert_eq!(copied(), None);
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap().filter_map(Result::ok);
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    eventually("the copy is removed", || !names(to.path()).iter().any(|name| name.ends_with("-future")));
    assert!(partition.is_in(&from));

    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("a part is copied", || copied().is_some_and(|end| end > 5));
    assert_eq!(super::retention::delete(&broker, 5), (ErrorCode::None, 5));
    cluster.quorum.configure_broker(1, &[(RATE, "1000000000")]);
    eventually("it has moved", || !names(from.path()).iter().any(|name| name.starts_with("t-0")));
    assert!(partition.is_in(&to));
    let directory = to.path().clone();
    drop((from, to, partition));
    broker.kill();
    let points = std::fs::read_to_string(directory.join("recovery-point-offset-checkpoint")).unwrap();
    assert!(points.contains("t 0 30"), "{points}");
    let back = cluster.start(1);
    let start = back.partition(id, 0).with_log(|log| log.log_start_offset());
    assert_eq!((start, back.log_end(id, 0)), (Some(Offset(5)), Offset(30)));
}

/// A last step that the disk refused for a reason that passes ended the move.
#[test]
fn a_move_whose_last_step_is_refused_tries_again_and_may_be_called_off() {
    let cluster = Cluster::new(TWO_DIRECTORIES);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    assert_eq!(broker.produce(TopicRef::Id(id), 0, &batch(&["x"]), -1, NEVER_MS).error, ErrorCode::None);
    let partition = broker.partition(id, 0);
    let from = partition.directory();
    let directories = broker.broker.replicas.log_dirs().all();
    let to = directories.iter().find(|directory| !partition.is_in(directory)).cloned().unwrap();
    // What a creation has left that was cut off: the copy cannot take its name.
    let taken = to.path().join("t-0");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("partition.metadata"), "").unwrap();
    let copies = || {
        let all = std::fs::read_dir(to.path()).unwrap().filter_map(Result::ok).map(|entry| entry.path());
        all.filter(|path| path.to_string_lossy().ends_with("-future")).collect::<Vec<_>>()
    };
    // The producers are written when the copy is closed.
    let is_closed = |copy: &PathBuf| {
        let files = std::fs::read_dir(copy).into_iter().flatten().filter_map(Result::ok);
        files.map(|file| file.file_name()).any(|name| name.to_string_lossy().ends_with(".snapshot"))
    };
    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("the last step begins", || copies().iter().any(is_closed));
    cluster.quorum.configure_broker(1, &[("cordoned.log.dirs", from.path().to_str().unwrap())]);
    eventually("it is called off", || move_to(&broker, "t", 0, from.path()) == 0);
    eventually("the copy is removed", || copies().is_empty());
    assert!(partition.is_in(&from));

    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("the last step begins", || copies().iter().any(is_closed));
    // What comes meanwhile is copied too.
    assert_eq!(broker.produce(TopicRef::Id(id), 0, &batch(&["y"]), -1, NEVER_MS).error, ErrorCode::None);
    let copied = || broker.broker.replicas.future_replicas().iter().map(|future| future.end.0).max();
    eventually("it is copied", || copied() == Some(2));
    std::fs::remove_dir_all(&taken).unwrap();
    eventually("it has moved", || partition.is_in(&to));
    assert_eq!(broker.log_end(id, 0), Offset(2));
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// F5: each step that would have written loaded all groups of the partition again, for as long as the disk was full.
#[test]
fn groups_under_a_full_disk_are_read_on_and_not_loaded_again_and_again() {
    let cluster = Cluster::new(&[]);
    let directory = cluster.log_directory(1);
    let Some(_disk) = SmallDisk::mount(&directory, 8 << 20) else { return };
    let broker = cluster.start(1);
    cluster.quorum.create_topic(OFFSETS_TOPIC, topic_id(1), 1, &[1], &[("cleanup.policy", "compact")]);
    cluster.quorum.create_topic("logs", topic_id(2), 2, &[1], &[]);
    eventually("groups are served", || super::groups::fetch(&broker, "any").0 == ErrorCode::None.code());
    let commit = |offset| super::groups::committed(super::groups::begin_commit(&broker, "g", offset));
    assert_eq!(commit(1), ErrorCode::None.code());
    let ballast = directory.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    // The page that the log has begun may still take some.
    let mut offset = 1;
    eventually("a commit finds no room", || {
        offset += 1;
        commit(offset) != ErrorCode::None.code()
    });
    let join = || super::groups::joined(super::groups::begin_join(&broker, "h", "")).error_code;
    eventually("joins are refused", || join() != ErrorCode::None.code());
    let loads = broker.broker.telemetry.groups.loads.get();
    for _ in 0..20 {
        assert_ne!(join(), ErrorCode::None.code());
        assert_eq!(super::groups::fetch(&broker, "g"), (0, offset - 1), "what was committed is told");
    }
    assert_eq!(broker.broker.telemetry.groups.loads.get(), loads);
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    eventually("commits go on", || commit(100) == ErrorCode::None.code());
    eventually("members come", || join() == ErrorCode::None.code());
}
