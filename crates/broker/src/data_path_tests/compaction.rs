//! Compacted topics: cleaned on leader and followers by themselves, through a restart, and with errors that stay where
//! they are.

use std::collections::BTreeMap;
use std::sync::mpsc;

use bytes::Bytes;
use ottla_model::{ErrorCode, Offset, PartitionId, TopicId, TopicPartition};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::record_batch::{BatchBuilder, Batches, Records};
use ottla_replica_manager::clock;

use super::disks::{move_to, stalled_writer};
use super::harness::{Cluster, SECOND_DIRECTORY, TestBroker, eventually, name, topic_id};

const NEVER_MS: i32 = 60_000;
/// Segments have at least 1 MiB: so many records of this size fill a few of them.
const VALUE_BYTES: usize = 100_000;

const FLAGS: &[(&str, &str)] = &[("log.cleaner.backoff.ms", "20")];
const CONFIG: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("file.delete.delay.ms", "0"),
];

fn produce_keys(broker: &TestBroker, id: TopicId, count: usize) {
    for number in 0..count {
        let (key, mut value) = (format!("key {}", number % 5), vec![0_u8; VALUE_BYTES]);
        value[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let batch = BatchBuilder::new().record(clock::wall(), Some(key.as_bytes()), Some(&value));
        let produced = broker.produce(TopicRef::Id(id), 0, &batch.build().unwrap(), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
}

/// The records of the whole log: offset, and the first bytes of the value by key.
fn read(broker: &TestBroker, id: TopicId) -> (Vec<i64>, BTreeMap<Bytes, u64>) {
    let (mut offsets, mut table) = (Vec::new(), BTreeMap::new());
    let mut next = Offset::ZERO;
    loop {
        let slice =
            broker.partition(id, 0).with_log(|log| log.read(next, 1 << 20, log.log_end_offset(), true).unwrap());
        let bytes = slice.unwrap().read().unwrap();
        if bytes.is_empty() {
            return (offsets, table);
        }
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            next = batch.header.next_offset();
            for record in Records::new(&Bytes::copy_from_slice(batch.bytes), 1 << 20).unwrap() {
                let record = record.unwrap();
                offsets.push(record.offset.0);
                let value = u64::from_be_bytes(record.value.unwrap()[..8].try_into().unwrap());
                table.insert(record.key.unwrap(), value);
            }
        }
    }
}

fn metric(broker: &TestBroker, name: &str) -> i64 {
    let page = broker.broker.telemetry.render();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("ottla_broker_cleaner_{name} ")));
    line.unwrap().parse().unwrap()
}

#[test]
fn compacted_topics_are_cleaned_on_every_replica_and_open_again() {
    let cluster = Cluster::new(FLAGS);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], CONFIG);
    produce_keys(&brokers[0], id, 60);
    let expected: BTreeMap<Bytes, u64> = (55..60_u64).map(|n| (Bytes::from(format!("key {}", n % 5)), n)).collect();
    for broker in &brokers {
        // Of the closed segments five records are left at most; the active one has ten.
        eventually("the log is clean", || read(broker, id).0.len() <= 16);
        assert_eq!(read(broker, id).1, expected);
        let path = cluster.log_directory(broker.id).join("cleaner-offset-checkpoint");
        eventually("the checkpoint says so", || {
            std::fs::read_to_string(&path)
                .unwrap_or_default()
                .lines()
                .any(|line| line.strip_prefix("t 0 ").is_some_and(|offset| offset.parse::<i64>().unwrap() >= 40))
        });
        // The run ends, and is counted, after its checkpoint is written.
        eventually("the run is counted", || metric(broker, "runs_total") > 0);
        assert!(metric(broker, "written_bytes_total") < metric(broker, "read_bytes_total"));
        let deleted = || {
            let directory = cluster.log_directory(broker.id).join("t-0");
            std::fs::read_dir(directory)
                .unwrap()
                .any(|file| file.unwrap().file_name().to_string_lossy().ends_with(".deleted"))
        };
        eventually("old files are gone", || !deleted());
    }
    brokers.remove(1).kill();
    brokers.remove(0).shut_down();
    for broker in cluster.start_all(&[1, 2]) {
        assert_eq!(broker.log_end(id, 0), Offset(60));
        assert_eq!(read(&broker, id).1, expected);
        broker.kill();
    }
}

/// The last step of a cleaning came after its topic had been deleted and created anew: records of the new topic would
/// count as clean.
#[test]
fn how_far_a_log_is_clean_is_not_said_of_a_later_one_of_its_name() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let (first, second) = (topic_id(1), topic_id(2));
    cluster.quorum.create_topic("t", first, 1, &[1], CONFIG);
    produce_keys(&broker, first, 2);
    let partition = broker.partition(first, 0);
    let (directory, name) = (partition.directory(), partition.topic_partition());
    eventually("it is on the disk", || partition.with_log(|log| log.flush(clock::monotonic()).is_ok()) == Some(true));
    assert!(partition.set_clean_offset(&directory, Offset(1)).is_some_and(|set| set.is_ok()));
    assert_eq!(directory.clean_offset(&name), Some(Offset(1)));
    assert!(partition.set_clean_offset(&directory, Offset(9)).is_some_and(|set| set.is_ok()));
    assert_eq!(directory.clean_offset(&name), Some(Offset(2)), "what was cut off meanwhile is not clean");
    cluster.quorum.delete_topic("t", 1);
    cluster.quorum.create_topic("t", second, 1, &[1], CONFIG);
    produce_keys(&broker, second, 2);
    assert!(partition.set_clean_offset(&directory, Offset(1)).is_none());
    assert_eq!(directory.clean_offset(&name), None);
}

#[test]
fn a_log_that_cannot_be_cleaned_is_put_aside_and_others_go_on() {
    let cluster = Cluster::new(&[FLAGS, &[("log.cleaner.threads", "2")]].concat());
    let broker = cluster.start(1);
    let (damaged, sound) = (topic_id(1), topic_id(2));
    // Not to be cleaned before it is damaged.
    let later = [CONFIG, &[("min.compaction.lag.ms", "600000")]].concat();
    cluster.quorum.create_topic("damaged", damaged, 1, &[1], &later);
    produce_keys(&broker, damaged, 30);
    let path = cluster.log_directory(1).join("damaged-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    cluster.quorum.create_topic("sound", sound, 1, &[1], CONFIG);
    produce_keys(&broker, sound, 30);
    eventually("the sound log is clean", || read(&broker, sound).0.len() < 20);
    assert_eq!(metric(&broker, "uncleanable_partitions"), 0);
    cluster.quorum.configure_topic("damaged", CONFIG);
    eventually("the damaged one is put aside", || metric(&broker, "uncleanable_partitions") == 1);
    let runs = metric(&broker, "runs_total");
    produce_keys(&broker, sound, 30);
    eventually("the others go on", || metric(&broker, "runs_total") > runs);
    assert_eq!(broker.log_end(damaged, 0), Offset(30), "and it can be written to and read");
    broker.kill();
}

#[test]
fn a_policy_that_changes_takes_effect_at_once() {
    let cluster = Cluster::new(FLAGS);
    let broker = cluster.start(1);
    let id = topic_id(1);
    let deleted = [&CONFIG[1..], &[("cleanup.policy", "delete")]].concat();
    cluster.quorum.create_topic("t", id, 1, &[1], &deleted);
    produce_keys(&broker, id, 40);
    assert_eq!(read(&broker, id).0.len(), 40);
    cluster.quorum.configure_topic("t", CONFIG);
    eventually("the log is clean", || read(&broker, id).0.len() <= 16);
    cluster.quorum.configure_topic("t", &deleted);
    produce_keys(&broker, id, 40);
    // A cleaning that began under the former policy knows nothing of the new records. When another log that became
    // dirty later is clean, the cleaner has passed over this one.
    let other = topic_id(2);
    cluster.quorum.create_topic("other", other, 1, &[1], CONFIG);
    produce_keys(&broker, other, 40);
    eventually("the other log is clean", || read(&broker, other).0.len() <= 16);
    assert_eq!(read(&broker, id).0.iter().filter(|offset| **offset >= 40).count(), 40);
    // A log that has been cleaned once may have gaps, whatever its policy is by now.
    broker.kill();
    let broker = cluster.start(1);
    assert_eq!(broker.log_end(id, 0), Offset(80));
    broker.kill();
}

/// A move had copied a record before a cleaning took it away, and the tombstone that came after it was cleaned away
/// before the move had come there: the moved replica had the record for ever.
#[test]
fn a_log_is_not_cleaned_while_it_is_copied() {
    const RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
    let cluster = Cluster::new(&[FLAGS, &[(SECOND_DIRECTORY, "")]].concat());
    let broker = cluster.start(1);
    let (id, other) = (topic_id(1), topic_id(2));
    // Not to be cleaned before it moves.
    let later = [CONFIG, &[("min.compaction.lag.ms", "600000")]].concat();
    cluster.quorum.create_topic("t", id, 1, &[1], &later);
    produce_keys(&broker, id, 30);
    let partition = broker.partition(id, 0);
    let directories = broker.broker.replicas.log_dirs().all();
    let to = directories.iter().find(|directory| !partition.is_in(directory)).cloned().unwrap();
    cluster.quorum.configure_broker(1, &[(RATE, "1000")]);
    assert_eq!(move_to(&broker, "t", 0, to.path()), 0);
    eventually("it moves", || partition.is_moving());
    cluster.quorum.configure_topic("t", CONFIG);
    // When another log that became dirty later is clean, the cleaner has passed over this one.
    cluster.quorum.create_topic("other", other, 1, &[1], CONFIG);
    produce_keys(&broker, other, 30);
    eventually("the other log is clean", || read(&broker, other).0.len() < 20);
    assert_eq!((read(&broker, id).0.len(), partition.is_moving()), (30, true));
    cluster.quorum.configure_broker(1, &[(RATE, "1000000000")]);
    eventually("it has moved", || partition.is_in(&to));
    eventually("it is clean there", || read(&broker, id).0.len() < 20);
}

/// The cleaner's thread waited for the replica's lock, and nothing was cleaned for as long as one disk did not answer.
#[test]
fn a_disk_that_does_not_answer_keeps_no_other_log_from_being_cleaned() {
    let cluster = Cluster::new(&[FLAGS, &[(SECOND_DIRECTORY, "")]].concat());
    let broker = cluster.start(1);
    let (silent, other) = (topic_id(1), topic_id(2));
    let later = [CONFIG, &[("min.compaction.lag.ms", "600000")]].concat();
    for (name, id) in [("silent", silent), ("other", other)] {
        cluster.quorum.create_topic(name, id, 1, &[1], &later);
        produce_keys(&broker, id, 30);
    }
    let partition = broker.partition(silent, 0);
    assert!(!partition.is_in(&broker.partition(other, 0).directory()));
    let health = partition.directory().health().clone();
    let (disk_answers, writer) = stalled_writer(&partition);
    eventually("it is seen", || health.is_stalled());
    cluster.quorum.configure_topic("silent", CONFIG);
    partition.may_be_cleaned();
    cluster.quorum.configure_topic("other", CONFIG);
    eventually("the other log is clean", || read(&broker, other).0.len() < 20);
    assert!(health.is_stalled());
    drop(disk_answers);
    writer.join().unwrap();
    eventually("it is clean too", || read(&broker, silent).0.len() < 20);
}

/// The files of offsets of a directory are written one at a time, high watermarks every five seconds. The look asked
/// how far the log is clean before it asked whether the disk answers, and waited for such a file.
#[test]
fn a_file_of_offsets_that_is_not_written_keeps_no_other_log_from_being_cleaned() {
    let cluster = Cluster::new(&[FLAGS, &[(SECOND_DIRECTORY, "")]].concat());
    let broker = cluster.start(1);
    let (silent, other) = (topic_id(1), topic_id(2));
    let later = [CONFIG, &[("min.compaction.lag.ms", "600000")]].concat();
    for (name, id) in [("silent", silent), ("other", other)] {
        cluster.quorum.create_topic(name, id, 1, &[1], &later);
    }
    produce_keys(&broker, silent, 30);
    let directory = broker.partition(silent, 0).directory();
    assert!(!broker.partition(other, 0).is_in(&directory));
    let ((disk_answers, answer), (begins, begun)) = (mpsc::channel::<()>(), mpsc::channel());
    let writer = std::thread::spawn(move || {
        let gone = TopicPartition::new(name("gone"), PartitionId(0));
        let stalls = std::iter::once(&gone).inspect(|_| {
            let _ = begins.send(());
            let _ = answer.recv();
        });
        directory.with_storage(|storage| directory.checkpoints().forget(storage, stalls)).unwrap();
    });
    begun.recv().unwrap();
    cluster.quorum.configure_topic("silent", CONFIG);
    // The cleaner looks at the first one meanwhile.
    produce_keys(&broker, other, 30);
    cluster.quorum.configure_topic("other", CONFIG);
    eventually("the other log is clean", || read(&broker, other).0.len() < 20);
    drop(disk_answers);
    writer.join().unwrap();
    eventually("it is clean too", || read(&broker, silent).0.len() < 20);
}

/// A look reads the first record of a segment for `max.compaction.lag.ms`. Its file stayed open until the next pass
/// over all logs that looks for old segments.
#[test]
fn files_that_a_look_has_opened_are_closed_again() {
    let cluster = Cluster::new(&[("log.flush.offset.checkpoint.interval.ms", "1000")]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    produce_keys(&broker, id, 1);
    let partition = broker.partition(id, 0);
    let are_closed = || partition.look_in_passing(|log| log.open_files()) == Ok(Some(0));
    eventually("its files are closed", are_closed);
    drop(partition.look_in_passing(|log| log.read(Offset::ZERO, 1, Offset(1), true).unwrap()));
    assert!(!are_closed());
    eventually("they are closed again", are_closed);
}
