//! What happens to records on the way in and out: their times, their packing, the limits on their sizes, and how they
//! are found.

use bytes::{Bytes, BytesMut};
use ottla_model::{ErrorCode, Offset, TimestampMs};
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::{ListOffsetsRequest, TopicName};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::record_batch::{BatchBuilder, Batches, Compression, Records, TimestampType};
use ottla_protocol::{decode_response, encode_request};
use ottla_replica_manager::clock;

use super::harness::{CLIENT, Cluster, TestBroker, fetch_of, idempotent, only, topic_id, wanted};
use crate::handlers;

const NEVER_MS: i32 = 60_000;
const HOUR: i64 = 3_600_000;

fn batch(times: &[i64], value: &[u8], compression: Compression) -> BytesMut {
    let builder = BatchBuilder::new().compression(compression);
    times.iter().fold(builder, |batch, at| batch.record(TimestampMs(*at), None, Some(value))).build().unwrap()
}

/// Offset, time and value of every record that a consumer gets.
fn read(broker: &TestBroker, topic: u8) -> (Vec<Compression>, Vec<(i64, i64, Bytes)>) {
    let response = broker.fetch(&fetch_of(topic_id(topic), vec![wanted(0, 0)]));
    let bytes = only(&response).records.clone().unwrap_or_default();
    let (mut codecs, mut records) = (Vec::new(), Vec::new());
    for batch in Batches::new(&bytes).map(Result::unwrap) {
        codecs.push(batch.header.compression().unwrap());
        for record in Records::new(&bytes.slice_ref(batch.bytes), u64::MAX).unwrap().map(Result::unwrap) {
            records.push((record.offset.0, record.timestamp.0, record.value.unwrap_or_default()));
        }
    }
    (codecs, records)
}

/// The error, the time and the offset that ListOffsets answers.
fn list(broker: &TestBroker, version: i16, timestamp: i64) -> (ErrorCode, i64, i64) {
    let partition = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let frame = encode_request(version, 7, None, &request).unwrap();
    let frame = broker.ask(CLIENT, handlers::list_offsets::handle, version, &frame).frame();
    let (_, response) = decode_response::<ListOffsetsRequest>(version, frame).unwrap();
    let found = &response.topics[0].partitions[0];
    (ErrorCode::from_code(found.error_code).unwrap(), found.timestamp, found.offset)
}

#[test]
fn a_topic_keeps_batches_in_its_own_packing() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let value = vec![b'x'; 5_000];
    let now = clock::wall().0;
    let types = ["uncompressed", "gzip", "snappy", "lz4", "zstd"];
    for (number, (name, codec)) in types.iter().zip(Compression::ALL).enumerate() {
        let number = u8::try_from(number).unwrap() + 1;
        let (topic, id) = (format!("t{number}"), topic_id(number));
        cluster.quorum.create_topic(&topic, id, 1, &[1], &[("compression.type", name)]);
        for sent in Compression::ALL {
            let produced = broker.produce(TopicRef::Id(id), 0, &batch(&[now, now - 5], &value, *sent), -1, NEVER_MS);
            assert_eq!(produced.error, ErrorCode::None, "{sent:?} to {name}");
        }
        let (codecs, records) = read(&broker, number);
        assert_eq!(codecs, [*codec; 5]);
        let offsets: Vec<_> = records.iter().map(|record| record.0).collect();
        assert_eq!(offsets, (0..10).collect::<Vec<_>>());
        assert!(records.iter().all(|record| record.2 == value && record.1 == now - 5 * (record.0 % 2)));
    }
}

#[test]
fn clients_that_cannot_read_zstd_are_told_so() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[("compression.type", "zstd")]);
    let now = clock::wall().0;
    let sent = batch(&[now], b"a", Compression::None);
    assert_eq!(broker.produce(TopicRef::Id(topic_id(1)), 0, &sent, -1, NEVER_MS).error, ErrorCode::None);
    let mut request = fetch_of(topic_id(1), vec![wanted(0, 0)]);
    request.topics[0].topic = TopicRef::Name("t".to_owned());
    let refused = broker.fetch_at_version(9, &request);
    assert_eq!(only(&refused).error, ErrorCode::UnsupportedCompressionType);
    assert!(only(&refused).records.as_ref().is_none_or(Bytes::is_empty));
    let read = broker.fetch_at_version(10, &request);
    assert_eq!(only(&read).error, ErrorCode::None);
    assert!(only(&read).records.as_ref().is_some_and(|records| !records.is_empty()));
}

#[test]
fn the_leaders_clock_may_stamp_the_records() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let config = [("message.timestamp.type", "LogAppendTime"), ("compression.type", "zstd")];
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &config);
    let before = clock::wall();
    // Times that CreateTime would refuse.
    let produced = broker.produce(
        TopicRef::Id(topic_id(1)),
        0,
        &batch(&[1, before.0 + 500 * HOUR], b"a", Compression::None),
        -1,
        NEVER_MS,
    );
    assert_eq!(produced.error, ErrorCode::None);
    assert!(produced.log_append_time >= before, "the producer is told");
    let (_, records) = read(&broker, 1);
    assert!(records.iter().all(|record| record.1 == produced.log_append_time.0), "{records:?}");
    let bytes = broker.log_bytes(topic_id(1), 0);
    let header = Batches::new(&bytes).next().unwrap().unwrap().header;
    assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(list(&broker, 7, -3), (ErrorCode::None, produced.log_append_time.0, 0));
}

/// The retry was told the time of the retry, which no record has.
#[test]
fn a_retry_is_told_when_the_leader_stamped_the_original() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[("message.timestamp.type", "LogAppendTime")]);
    let produce = || broker.produce(TopicRef::Id(topic_id(1)), 0, &idempotent(5, 0, 0, &["a"]), -1, NEVER_MS);
    let original = produce();
    assert_eq!(original.error, ErrorCode::None);
    while clock::wall() <= original.log_append_time {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let retry = produce();
    assert_eq!((retry.error, retry.base_offset), (ErrorCode::None, original.base_offset));
    assert_eq!(retry.log_append_time, original.log_append_time);
}

#[test]
fn times_too_far_from_the_leaders_are_refused() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let config = [("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "7200000")];
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &config);
    let now = clock::wall().0;
    for (at, accepted) in
        [(now, true), (now - HOUR / 2, true), (now - 2 * HOUR, false), (now + HOUR, true), (now + 3 * HOUR, false)]
    {
        let produced =
            broker.produce(TopicRef::Id(topic_id(1)), 0, &batch(&[now, at], b"a", Compression::Lz4), -1, NEVER_MS);
        let expected = if accepted { ErrorCode::None } else { ErrorCode::InvalidTimestamp };
        assert_eq!(produced.error, expected, "{} ms from now", at - now);
        if !accepted {
            assert_eq!(produced.record_errors.len(), 1);
            assert_eq!(produced.record_errors[0].batch_index, 1);
        }
    }
}

#[test]
fn sizes_are_bounded_as_they_come_and_as_they_are_kept() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let now = clock::wall().0;
    let config = [("max.message.bytes", "2000"), ("compression.type", "uncompressed")];
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &config);
    let send = |batch: &[u8]| broker.produce(TopicRef::Id(topic_id(1)), 0, batch, -1, NEVER_MS).error;
    assert_eq!(send(&batch(&[now], &[b'x'; 1_900], Compression::None)), ErrorCode::None);
    assert_eq!(send(&batch(&[now], &[b'x'; 2_000], Compression::None)), ErrorCode::MessageTooLarge);
    let packed = batch(&[now], &[b'x'; 50_000], Compression::Gzip);
    assert!(packed.len() < 2_000);
    assert_eq!(send(&packed), ErrorCode::MessageTooLarge, "unpacked it is larger than the topic allows");
    assert_eq!(broker.log_end(topic_id(1), 0), Offset(1));
}

#[test]
fn an_answer_is_bounded_and_never_empty() {
    let cluster = Cluster::new(&[("fetch.max.bytes", "4000")]);
    let broker = cluster.start(1);
    let now = clock::wall().0;
    cluster.quorum.create_topic("t", topic_id(1), 3, &[1], &[]);
    for partition in 0..3 {
        for _ in 0..3 {
            let batch = batch(&[now], &[b'x'; 1_500], Compression::None);
            broker.produce(TopicRef::Id(topic_id(1)), partition, &batch, -1, NEVER_MS);
        }
    }
    let sizes = |max_bytes: i32, partition_max_bytes: i32| -> Vec<usize> {
        let partitions = (0..3).map(|partition| {
            let mut wanted = wanted(partition, 0);
            wanted.max_bytes = partition_max_bytes;
            wanted
        });
        let mut request = fetch_of(topic_id(1), partitions.collect());
        request.max_bytes = max_bytes;
        let response = broker.fetch(&request);
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.records.as_ref().map_or(0, Bytes::len)).collect()
    };
    let whole = broker.log_bytes(topic_id(1), 0).len();
    let one = whole / 3;
    assert_eq!(sizes(i32::MAX, i32::MAX), [4_000, 0, 0], "fetch.max.bytes of the broker");
    assert_eq!(
        sizes(i32::MAX, 1_000),
        [one, 0, 0],
        "the first batch is whole, however small the bound, the others wait"
    );
    assert_eq!(sizes(0, 0), [one, 0, 0], "something always comes");
    assert_eq!(sizes(3_000, 2_000), [2_000, 0, 0], "a part of a batch alone is of no use");
    assert_eq!(sizes(3_700, 2_000), [2_000, 1_700, 0]);
}

#[test]
fn offsets_are_listed_by_time_and_by_name() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    assert_eq!(list(&broker, 7, -1), (ErrorCode::None, -1, 0));
    assert_eq!(list(&broker, 7, -3), (ErrorCode::None, -1, -1), "no record, no largest time");
    assert_eq!(list(&broker, 7, 0), (ErrorCode::None, -1, -1));
    let now = clock::wall().0;
    for times in [[now - 50, now - 40], [now - 10, now - 90], [now - 30, now - 20]] {
        broker.produce(TopicRef::Id(id), 0, &batch(&times, b"a", Compression::Snappy), -1, NEVER_MS);
    }
    assert_eq!(list(&broker, 7, now - 100), (ErrorCode::None, now - 50, 0));
    assert_eq!(list(&broker, 7, now - 45), (ErrorCode::None, now - 40, 1));
    assert_eq!(list(&broker, 7, now - 35), (ErrorCode::None, now - 10, 2));
    assert_eq!(list(&broker, 7, now - 9), (ErrorCode::None, -1, -1));
    assert_eq!(list(&broker, 7, -1), (ErrorCode::None, -1, 6));
    assert_eq!(list(&broker, 7, -2), (ErrorCode::None, -1, 0));
    assert_eq!(list(&broker, 7, -3), (ErrorCode::None, now - 10, 2));
    assert_eq!(list(&broker, 8, -4), (ErrorCode::None, -1, 0));
    assert_eq!(list(&broker, 7, -4).0, ErrorCode::UnsupportedVersion);
    assert_eq!(list(&broker, 11, -7).0, ErrorCode::UnsupportedVersion);
    broker.partition(id, 0).with_log(|log| log.advance_log_start(Offset(3)));
    assert_eq!(list(&broker, 8, -2), (ErrorCode::None, -1, 3));
    assert_eq!(list(&broker, 8, -4), (ErrorCode::None, -1, 3));
    assert_eq!(list(&broker, 8, -3), (ErrorCode::None, now - 20, 5), "the largest of what can be read");
    assert_eq!(list(&broker, 8, now - 100), (ErrorCode::None, now - 90, 3));
}
