//! Records that go: by DeleteRecords, by age, and for a follower that was away meanwhile.

use ottla_model::{ErrorCode, Offset};
use ottla_protocol::kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use ottla_protocol::kafka_protocol::messages::{DeleteRecordsRequest, TopicName};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{decode_response, encode_request};

use super::harness::{Asked, CLIENT, Cluster, TestBroker, batch, eventually, fetch_of, only, topic_id, wanted};
use crate::handlers;

const NEVER_MS: i32 = 60_000;
const VERSION: i16 = 2;
/// No log start is written before somebody asks for it.
const RARE_LOG_STARTS: (&str, &str) = ("log.flush.start.offset.checkpoint.interval.ms", "3600000");

fn begin_delete<'b>(broker: &'b TestBroker, topic: &str, before: i64, timeout_ms: i32) -> Asked<'b> {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(before);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
    let frame = encode_request(VERSION, 7, None, &request).unwrap();
    broker.ask(CLIENT, handlers::delete_records::handle, VERSION, &frame)
}

/// The error and the low watermark.
fn deleted(asked: Asked<'_>) -> (ErrorCode, i64) {
    let (_, response) = decode_response::<DeleteRecordsRequest>(VERSION, asked.frame()).unwrap();
    let result = &response.topics[0].partitions[0];
    assert_eq!((response.topics[0].name.as_str(), result.partition_index), ("t", 0));
    (ErrorCode::from_code(result.error_code).unwrap(), result.low_watermark)
}

pub(super) fn delete(broker: &TestBroker, before: i64) -> (ErrorCode, i64) {
    deleted(begin_delete(broker, "t", before, NEVER_MS))
}

#[test]
fn deleted_records_are_gone_from_every_replica_that_lives() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2, 3]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2, 3], &[]);
    let start = |broker: &TestBroker| broker.partition(id, 0).with_log(|log| log.log_start_offset());
    let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a", "b", "c", "d", "e"]), -1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);

    assert_eq!(delete(&brokers[0], 3), (ErrorCode::None, 3));
    assert!(brokers.iter().all(|broker| start(broker) == Some(Offset(3))), "the answer waited for them");
    let read = brokers[0].fetch(&fetch_of(id, vec![wanted(0, 2)]));
    assert_eq!(only(&read).error, ErrorCode::OffsetOutOfRange);
    let read = brokers[0].fetch(&fetch_of(id, vec![wanted(0, 3)]));
    assert_eq!((only(&read).error, only(&read).log_start_offset), (ErrorCode::None, Offset(3)));

    assert_eq!(delete(&brokers[0], 1), (ErrorCode::None, 3), "what is gone already");
    assert_eq!(delete(&brokers[0], 6), (ErrorCode::OffsetOutOfRange, -1));
    assert_eq!(delete(&brokers[0], -2), (ErrorCode::OffsetOutOfRange, -1));
    assert_eq!(delete(&brokers[1], 4), (ErrorCode::NotLeaderOrFollower, -1));
    assert_eq!(delete(&brokers[0], -1), (ErrorCode::None, 5), "up to the high watermark");
    let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["f"]), -1, NEVER_MS);
    assert_eq!((produced.base_offset, produced.log_start_offset), (Offset(5), Offset(5)));
}

#[test]
fn what_was_deleted_stays_so_after_a_kill() {
    let cluster = Cluster::new(&[RARE_LOG_STARTS]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    broker.produce(TopicRef::Id(id), 0, &batch(&["a", "b", "c"]), -1, NEVER_MS);
    assert_eq!(delete(&broker, 2), (ErrorCode::None, 2));
    let file = cluster.log_directory(1).join("log-start-offset-checkpoint");
    eventually("the log start is written", || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("t 0 2")));
    broker.kill();
    let broker = cluster.start(1);
    assert_eq!(broker.partition(id, 0).with_log(|log| log.log_start_offset()), Some(Offset(2)));
}

#[test]
fn a_replica_that_lives_and_is_silent_is_waited_for() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a", "b", "c"]), -1, NEVER_MS);
    brokers.remove(1).kill();
    assert_eq!(deleted(begin_delete(&brokers[0], "t", 2, 50)), (ErrorCode::RequestTimedOut, 0));
    let mut waiting = begin_delete(&brokers[0], "t", 3, NEVER_MS);
    assert!(!waiting.is_ready());
    cluster.quorum.fence(2);
    cluster.quorum.set_isr("t", 0, &[1]);
    assert_eq!(deleted(waiting), (ErrorCode::None, 3), "nobody waits for the dead");
}

#[test]
fn only_topics_that_delete_take_it() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[("cleanup.policy", "compact")]);
    broker.produce(TopicRef::Id(topic_id(1)), 0, &batch(&["a"]), -1, NEVER_MS);
    assert_eq!(delete(&broker, 0), (ErrorCode::PolicyViolation, -1));
    let frame = begin_delete(&broker, "__consumer_offsets", 0, NEVER_MS).frame();
    let (_, response) = decode_response::<DeleteRecordsRequest>(VERSION, frame).unwrap();
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::InvalidTopicException.code());
    let frame = begin_delete(&broker, "nowhere", 0, NEVER_MS).frame();
    let (_, response) = decode_response::<DeleteRecordsRequest>(VERSION, frame).unwrap();
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
}

/// B8: Kafka refuses only what compaction keeps; a topic without any policy has nothing that says so.
#[test]
fn a_topic_without_a_policy_takes_it() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[("cleanup.policy", "")]);
    broker.produce(TopicRef::Id(topic_id(1)), 0, &batch(&["a", "b"]), -1, NEVER_MS);
    assert_eq!(delete(&broker, 1), (ErrorCode::None, 1));
}

/// The follower was away while what would come next for it was deleted everywhere: it starts over at the leader's
/// start.
#[test]
fn scenario_12_a_follower_behind_the_leaders_log_start_starts_over() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
    brokers.remove(1).kill();
    cluster.quorum.fence(2);
    cluster.quorum.set_isr("t", 0, &[1]);
    for value in ["b", "c", "d"] {
        let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&[value, value]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
    // In the middle of a batch.
    assert_eq!(delete(&brokers[0], 4), (ErrorCode::None, 4));
    let back = cluster.start(2);
    eventually("it is back in the ISR", || cluster.quorum.isr("t", 0) == [1, 2]);
    let bounds = |broker: &TestBroker| {
        broker.partition(id, 0).with_log(|log| (log.log_start_offset(), log.log_end_offset())).unwrap()
    };
    assert_eq!(bounds(&back), (Offset(4), Offset(7)));
    assert_eq!(back.log_bytes(id, 0), brokers[0].log_bytes(id, 0));
    let epoch = |broker: &TestBroker| broker.partition(id, 0).with_log(|log| log.epoch_history().latest_epoch());
    assert_eq!(epoch(&back), epoch(&brokers[0]));
    let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["e"]), -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(7)));
    eventually("its high watermark follows", || back.partition(id, 0).high_watermark() >= Offset(7));
    assert_eq!(delete(&brokers[0], -1), (ErrorCode::None, 8));
}

#[test]
fn expired_segments_go_from_all_replicas_and_from_the_disk() {
    let cluster = Cluster::new(&[("log.retention.check.interval.ms", "20")]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    let config = [("retention.ms", "1"), ("file.delete.delay.ms", "100")];
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &config);
    cluster.quorum.create_topic("kept", topic_id(2), 1, &[1, 2], &[("file.delete.delay.ms", "100")]);
    for topic in [id, topic_id(2)] {
        let produced = brokers[0].produce(TopicRef::Id(topic), 0, &batch(&["a", "b"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
    for broker in &brokers {
        eventually("the log is empty", || {
            broker.partition(id, 0).with_log(|log| log.log_start_offset()) == Some(Offset(2))
        });
        let files = || {
            let entries = std::fs::read_dir(cluster.log_directory(broker.id).join("t-0")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        eventually("the files are removed", || !files().iter().any(|name| name.starts_with("00000000000000000000.")));
        assert!(files().contains(&"00000000000000000002.log".to_owned()));
        assert_eq!(broker.log_end(topic_id(2), 0), Offset(2));
        assert_eq!(broker.partition(topic_id(2), 0).with_log(|log| log.log_start_offset()), Some(Offset(0)));
    }
    let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["c"]), -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(2)));
}
