//! Produce and Fetch against the encoders and decoders that `kafka_protocol` generates from Kafka's schemas, byte for
//! byte, in every version that is served.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, IncarnationKey, LeaderEpoch, Offset, PartitionId, ProducerId, TimestampMs,
    TopicId,
};
use uuid::Uuid;

use super::fetch::{
    self, AbortedTransaction, EpochEndOffset, FetchPartition, FetchTopic, ForgottenTopic, IsolationLevel, Part,
};
use super::produce::{self, ProduceCall, RecordError};
use super::{CurrentLeader, NodeEndpoint, TopicRef};
use crate::api::Api;
use crate::frame::{self, LENGTH_BYTES};
use crate::test_random::Random;
use crate::wire::WireError;

const ROUNDS: u64 = 40;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn their_request(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body: &impl Encodable,
) -> Bytes {
    let mut out = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(client_id.map(text));
    header.encode(&mut out, key.request_header_version(version)).unwrap();
    body.encode(&mut out, version).unwrap();
    out.freeze()
}

fn their_response(key: ApiKey, version: i16, correlation_id: i32, body: &impl Encodable) -> Bytes {
    let mut out = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut out, key.response_header_version(version)).unwrap();
    body.encode(&mut out, version).unwrap();
    out.freeze()
}

fn without_length(frame: &[u8]) -> &[u8] {
    let (length, rest) = frame.split_first_chunk::<LENGTH_BYTES>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, rest.len());
    rest
}

fn topic(random: &mut Random, by_id: bool) -> TopicRef {
    if by_id { TopicRef::Id(TopicId(random.uuid())) } else { TopicRef::Name(random.text()) }
}

fn name_and_id(topic: &TopicRef) -> (theirs::TopicName, Uuid) {
    match topic {
        TopicRef::Name(name) => (theirs::TopicName(text(name)), Uuid::nil()),
        TopicRef::Id(id) => (theirs::TopicName::default(), Uuid::from_bytes(id.0)),
    }
}

fn leader(random: &mut Random) -> Option<CurrentLeader> {
    random.coin().then(|| CurrentLeader {
        leader_id: BrokerId(random.below(1_000) as i32),
        leader_epoch: LeaderEpoch(random.below(1_000) as i32),
    })
}

fn endpoints(random: &mut Random) -> Vec<NodeEndpoint> {
    (0..random.below(3))
        .map(|_| NodeEndpoint {
            node_id: BrokerId(random.i32()),
            host: random.text(),
            port: random.i32(),
            rack: random.coin().then(|| random.text()),
        })
        .collect()
}

#[test]
fn produce_requests() {
    for version in 3..=13 {
        ottla_test_support::each_seed(0..ROUNDS, |seed| {
            let random = &mut Random::new(seed);
            let call = ProduceCall {
                transactional_id: random.coin().then(|| random.text()),
                acks: random.next() as i16,
                timeout_ms: random.i32(),
                topics: (0..random.below(4))
                    .map(|_| {
                        let partitions = (0..random.below(4))
                            .map(|_| (PartitionId(random.i32()), Bytes::from(random.bytes(300))))
                            .collect();
                        (topic(random, version >= 13), partitions)
                    })
                    .collect(),
            };
            let mut request = theirs::ProduceRequest::default()
                .with_transactional_id(call.transactional_id.as_deref().map(|id| theirs::TransactionalId(text(id))))
                .with_acks(call.acks)
                .with_timeout_ms(call.timeout_ms);
            for (topic, partitions) in &call.topics {
                let (name, id) = name_and_id(topic);
                let partitions = partitions.iter().map(|(partition, records)| {
                    theirs::produce_request::PartitionProduceData::default()
                        .with_index(partition.0)
                        .with_records(Some(records.clone()))
                });
                request.topic_data.push(
                    theirs::produce_request::TopicProduceData::default()
                        .with_name(name)
                        .with_topic_id(id)
                        .with_partition_data(partitions.collect()),
                );
            }
            let expected = their_request(ApiKey::Produce, version, 7, Some("client"), &request);
            let encoded = produce::encode_request(version, 7, Some("client"), &call).unwrap();
            assert_eq!(without_length(&encoded), expected, "version {version} seed {seed}");

            let (header, start) = frame::parse_header(&expected).unwrap();
            assert_eq!((header.correlation_id, header.client_id.as_deref()), (7, Some("client")));
            let parsed = produce::parse(version, &expected, start).unwrap();
            assert_eq!(
                (&parsed.transactional_id, parsed.acks, parsed.timeout_ms),
                (&call.transactional_id, call.acks, call.timeout_ms)
            );
            let back = parsed.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter();
                let partitions = partitions
                    .map(|partition| (partition.partition, expected.slice(partition.records.clone().unwrap())));
                (topic.topic.clone(), partitions.collect::<Vec<_>>())
            });
            assert_eq!(back.collect::<Vec<_>>(), call.topics);
            for end in start..expected.len() {
                assert!(produce::parse(version, &expected[..end], start).is_err(), "version {version} cut at {end}");
            }
        });
    }
}

#[test]
fn produce_requests_with_null_records_and_unknown_tags() {
    for version in 9..=13 {
        let partition = theirs::produce_request::PartitionProduceData::default()
            .with_index(3)
            .with_records(None)
            .with_unknown_tagged_field(77, Bytes::from_static(b"abc"));
        let topic = theirs::produce_request::TopicProduceData::default()
            .with_partition_data(vec![partition])
            .with_unknown_tagged_field(5, Bytes::new());
        let request = theirs::ProduceRequest::default().with_topic_data(vec![topic]);
        let bytes = their_request(ApiKey::Produce, version, 1, None, &request);
        let (_, start) = frame::parse_header(&bytes).unwrap();
        let parsed = produce::parse(version, &bytes, start).unwrap();
        assert_eq!(parsed.topics[0].partitions[0].records, None);
        assert_eq!(parsed.topics[0].partitions[0].partition, PartitionId(3));
    }
}

#[test]
fn produce_responses() {
    for version in 3..=13 {
        ottla_test_support::each_seed(0..ROUNDS, |seed| {
            let random = &mut Random::new(seed + 1_000);
            let response = produce::ProduceResponse {
                throttle_time_ms: random.i32(),
                node_endpoints: if version >= 10 { endpoints(random) } else { Vec::new() },
                topics: (0..random.below(4))
                    .map(|_| produce::TopicProduceResponse {
                        topic: topic(random, version >= 13),
                        partitions: (0..random.below(4)).map(|_| produce_partition(random, version)).collect(),
                    })
                    .collect(),
            };
            let mut body = theirs::ProduceResponse::default().with_throttle_time_ms(response.throttle_time_ms);
            body.node_endpoints = response
                .node_endpoints
                .iter()
                .map(|endpoint| {
                    theirs::produce_response::NodeEndpoint::default()
                        .with_node_id(theirs::BrokerId(endpoint.node_id.0))
                        .with_host(text(&endpoint.host))
                        .with_port(endpoint.port)
                        .with_rack(endpoint.rack.as_deref().map(text))
                })
                .collect();
            for topic in &response.topics {
                let (name, id) = name_and_id(&topic.topic);
                body.responses.push(
                    theirs::produce_response::TopicProduceResponse::default()
                        .with_name(name)
                        .with_topic_id(id)
                        .with_partition_responses(topic.partitions.iter().map(their_produce_partition).collect()),
                );
            }
            let expected = their_response(ApiKey::Produce, version, 9, &body);
            let encoded = produce::encode_response(version, 9, &response).unwrap();
            assert_eq!(without_length(&encoded), expected, "version {version} seed {seed}");
            assert_eq!(
                produce::decode_response(version, &expected),
                Ok((9, response)),
                "version {version} seed {seed}"
            );
        });
    }
}

fn produce_partition(random: &mut Random, version: i16) -> produce::PartitionProduceResponse {
    produce::PartitionProduceResponse {
        partition: PartitionId(random.i32()),
        error: ErrorCode::from_code(random.below(90) as i16).unwrap(),
        base_offset: Offset(random.i64()),
        log_append_time: TimestampMs(random.i64()),
        log_start_offset: if version >= 5 { Offset(random.i64()) } else { Offset::UNKNOWN },
        record_errors: if version >= 8 {
            (0..random.below(3))
                .map(|_| RecordError { batch_index: random.i32(), message: random.coin().then(|| random.text()) })
                .collect()
        } else {
            Vec::new()
        },
        error_message: (version >= 8 && random.coin()).then(|| random.text()),
        current_leader: if version >= 10 { leader(random) } else { None },
    }
}

fn their_produce_partition(
    partition: &produce::PartitionProduceResponse,
) -> theirs::produce_response::PartitionProduceResponse {
    let errors = partition.record_errors.iter().map(|error| {
        theirs::produce_response::BatchIndexAndErrorMessage::default()
            .with_batch_index(error.batch_index)
            .with_batch_index_error_message(error.message.as_deref().map(text))
    });
    let mut body = theirs::produce_response::PartitionProduceResponse::default()
        .with_index(partition.partition.0)
        .with_error_code(partition.error.code())
        .with_base_offset(partition.base_offset.0)
        .with_log_append_time_ms(partition.log_append_time.0)
        .with_log_start_offset(partition.log_start_offset.0)
        .with_record_errors(errors.collect())
        .with_error_message(partition.error_message.as_deref().map(text));
    if let Some(leader) = partition.current_leader {
        body.current_leader = theirs::produce_response::LeaderIdAndEpoch::default()
            .with_leader_id(theirs::BrokerId(leader.leader_id.0))
            .with_leader_epoch(leader.leader_epoch.0);
    }
    body
}

fn fetch_request(random: &mut Random, version: i16) -> fetch::FetchRequest {
    let since = |from: i16| version >= from;
    let is_replica = random.coin();
    fetch::FetchRequest {
        cluster_id: (since(12) && random.coin()).then(|| random.text()),
        replica_id: if is_replica { BrokerId(random.below(100) as i32) } else { BrokerId::NONE },
        replica_epoch: if is_replica && since(15) { BrokerEpoch(random.i64()) } else { BrokerEpoch::NONE },
        incarnation_key: None,
        max_wait_ms: random.i32(),
        min_bytes: random.i32(),
        max_bytes: random.i32(),
        isolation_level: if random.coin() { IsolationLevel::ReadCommitted } else { IsolationLevel::ReadUncommitted },
        session_id: if since(7) { random.i32() } else { 0 },
        session_epoch: if since(7) { random.i32() } else { -1 },
        topics: (0..random.below(4))
            .map(|_| FetchTopic {
                topic: topic(random, since(13)),
                partitions: (0..random.below(4))
                    .map(|_| FetchPartition {
                        partition: PartitionId(random.i32()),
                        current_leader_epoch: if since(9) { LeaderEpoch(random.i32()) } else { LeaderEpoch::NONE },
                        fetch_offset: Offset(random.i64()),
                        last_fetched_epoch: if since(12) { LeaderEpoch(random.i32()) } else { LeaderEpoch::NONE },
                        log_start_offset: if since(5) { Offset(random.i64()) } else { Offset::UNKNOWN },
                        max_bytes: random.i32(),
                        replica_directory_id: if since(17) && random.coin() { random.uuid() } else { [0; 16] },
                        high_watermark: (since(18) && random.coin()).then(|| Offset(random.i64())),
                    })
                    .collect(),
            })
            .collect(),
        forgotten_topics: if since(7) {
            (0..random.below(3))
                .map(|_| ForgottenTopic {
                    topic: topic(random, since(13)),
                    partitions: (0..random.below(4)).map(|_| PartitionId(random.i32())).collect(),
                })
                .collect()
        } else {
            Vec::new()
        },
        rack_id: if since(11) { random.text() } else { String::new() },
    }
}

fn their_fetch_request(request: &fetch::FetchRequest, version: i16) -> theirs::FetchRequest {
    let mut body = theirs::FetchRequest::default()
        .with_cluster_id(request.cluster_id.as_deref().map(text))
        .with_max_wait_ms(request.max_wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(i8::from(request.isolation_level == IsolationLevel::ReadCommitted))
        .with_session_id(request.session_id)
        .with_session_epoch(request.session_epoch)
        .with_rack_id(text(&request.rack_id));
    if version >= 15 {
        body.replica_state = theirs::fetch_request::ReplicaState::default()
            .with_replica_id(theirs::BrokerId(request.replica_id.0))
            .with_replica_epoch(request.replica_epoch.0);
    } else {
        body.replica_id = theirs::BrokerId(request.replica_id.0);
    }
    for topic in &request.topics {
        let (name, id) = name_and_id(&topic.topic);
        let partitions = topic.partitions.iter().map(|partition| {
            theirs::fetch_request::FetchPartition::default()
                .with_partition(partition.partition.0)
                .with_current_leader_epoch(partition.current_leader_epoch.0)
                .with_fetch_offset(partition.fetch_offset.0)
                .with_last_fetched_epoch(partition.last_fetched_epoch.0)
                .with_log_start_offset(partition.log_start_offset.0)
                .with_partition_max_bytes(partition.max_bytes)
                .with_replica_directory_id(Uuid::from_bytes(partition.replica_directory_id))
                .with_high_watermark(partition.high_watermark.unwrap_or(Offset::MAX).0)
        });
        let topic = theirs::fetch_request::FetchTopic::default().with_topic(name).with_topic_id(id);
        body.topics.push(topic.with_partitions(partitions.collect()));
    }
    for topic in &request.forgotten_topics {
        let (name, id) = name_and_id(&topic.topic);
        body.forgotten_topics_data.push(
            theirs::fetch_request::ForgottenTopic::default()
                .with_topic(name)
                .with_topic_id(id)
                .with_partitions(topic.partitions.iter().map(|partition| partition.0).collect()),
        );
    }
    body
}

#[test]
fn fetch_requests() {
    for version in 4..=18 {
        ottla_test_support::each_seed(0..ROUNDS, |seed| {
            let random = &mut Random::new(seed + 2_000);
            let request = fetch_request(random, version);
            let expected = their_request(ApiKey::Fetch, version, 3, None, &their_fetch_request(&request, version));
            let encoded = fetch::encode_request(version, 3, None, &request).unwrap();
            assert_eq!(without_length(&encoded), expected, "version {version} seed {seed}");
            let (_, start) = frame::parse_header(&expected).unwrap();
            assert_eq!(fetch::parse(version, &expected, start), Ok(request), "version {version} seed {seed}");
            for end in start..expected.len() {
                assert!(fetch::parse(version, &expected[..end], start).is_err(), "version {version} cut at {end}");
            }
        });
    }
}

/// Ottla's own field is one that Kafka's readers pass over.
#[test]
fn the_key_of_an_incarnation_is_a_field_that_others_do_not_know() {
    for version in 4..=18 {
        let random = &mut Random::new(version as u64);
        let plain = fetch_request(random, version);
        let key = IncarnationKey::new([version as u8; IncarnationKey::BYTES]);
        let request = fetch::FetchRequest { incarnation_key: (version >= 15).then_some(key.clone()), ..plain.clone() };
        let shown = fetch::FetchRequest { incarnation_key: Some(key), ..plain.clone() };
        let encoded = fetch::encode_request(version, 3, None, &shown).unwrap();
        let frame = without_length(&encoded);
        let (_, start) = frame::parse_header(frame).unwrap();
        assert_eq!(fetch::parse(version, frame, start), Ok(request), "version {version}");
        let decode = |body: &[u8]| theirs::FetchRequest::decode(&mut Bytes::copy_from_slice(body), version).unwrap();
        let mut read = decode(&frame[start..]);
        read.unknown_tagged_fields.clear();
        let encoded = fetch::encode_request(version, 3, None, &plain).unwrap();
        assert_eq!(read, decode(&without_length(&encoded)[start..]), "version {version}");
    }
}

fn fetch_response(random: &mut Random, version: i16) -> fetch::FetchResponse<Bytes> {
    let since = |from: i16| version >= from;
    fetch::FetchResponse {
        throttle_time_ms: random.i32(),
        error: if since(7) { ErrorCode::from_code(random.below(90) as i16).unwrap() } else { ErrorCode::None },
        session_id: if since(7) { random.i32() } else { 0 },
        node_endpoints: if since(16) { endpoints(random) } else { Vec::new() },
        topics: (0..random.below(4))
            .map(|_| fetch::FetchTopicResponse {
                topic: topic(random, since(13)),
                partitions: (0..random.below(4))
                    .map(|_| fetch::FetchPartitionResponse {
                        partition: PartitionId(random.i32()),
                        error: ErrorCode::from_code(random.below(90) as i16).unwrap(),
                        high_watermark: Offset(random.i64()),
                        last_stable_offset: Offset(random.i64()),
                        log_start_offset: if since(5) { Offset(random.i64()) } else { Offset::UNKNOWN },
                        diverging_epoch: (since(12) && random.coin()).then(|| EpochEndOffset {
                            epoch: LeaderEpoch(random.below(50) as i32),
                            end_offset: Offset(random.i64()),
                        }),
                        current_leader: if since(12) { leader(random) } else { None },
                        aborted_transactions: random.coin().then(|| {
                            (0..random.below(3))
                                .map(|_| AbortedTransaction {
                                    producer_id: ProducerId(random.i64()),
                                    first_offset: Offset(random.i64()),
                                })
                                .collect()
                        }),
                        preferred_read_replica: if since(11) { BrokerId(random.i32()) } else { BrokerId::NONE },
                        records: Some(Bytes::from(random.bytes(300))).filter(|records| !records.is_empty()),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn their_fetch_response(response: &fetch::FetchResponse<Bytes>) -> theirs::FetchResponse {
    let mut body = theirs::FetchResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_error_code(response.error.code())
        .with_session_id(response.session_id);
    body.node_endpoints = response
        .node_endpoints
        .iter()
        .map(|endpoint| {
            theirs::fetch_response::NodeEndpoint::default()
                .with_node_id(theirs::BrokerId(endpoint.node_id.0))
                .with_host(text(&endpoint.host))
                .with_port(endpoint.port)
                .with_rack(endpoint.rack.as_deref().map(text))
        })
        .collect();
    for topic in &response.topics {
        let (name, id) = name_and_id(&topic.topic);
        let partitions = topic.partitions.iter().map(their_fetch_partition);
        let topic = theirs::fetch_response::FetchableTopicResponse::default().with_topic(name).with_topic_id(id);
        body.responses.push(topic.with_partitions(partitions.collect()));
    }
    body
}

fn their_fetch_partition(partition: &fetch::FetchPartitionResponse<Bytes>) -> theirs::fetch_response::PartitionData {
    let aborted = partition.aborted_transactions.as_ref().map(|aborted| {
        let aborted = aborted.iter().map(|aborted| {
            theirs::fetch_response::AbortedTransaction::default()
                .with_producer_id(theirs::ProducerId(aborted.producer_id.0))
                .with_first_offset(aborted.first_offset.0)
        });
        aborted.collect()
    });
    let mut body = theirs::fetch_response::PartitionData::default()
        .with_partition_index(partition.partition.0)
        .with_error_code(partition.error.code())
        .with_high_watermark(partition.high_watermark.0)
        .with_last_stable_offset(partition.last_stable_offset.0)
        .with_log_start_offset(partition.log_start_offset.0)
        .with_aborted_transactions(aborted)
        .with_preferred_read_replica(theirs::BrokerId(partition.preferred_read_replica.0))
        .with_records(Some(partition.records.clone().unwrap_or_default()));
    if let Some(diverging) = partition.diverging_epoch {
        body.diverging_epoch = theirs::fetch_response::EpochEndOffset::default()
            .with_epoch(diverging.epoch.0)
            .with_end_offset(diverging.end_offset.0);
    }
    if let Some(leader) = partition.current_leader {
        body.current_leader = theirs::fetch_response::LeaderIdAndEpoch::default()
            .with_leader_id(theirs::BrokerId(leader.leader_id.0))
            .with_leader_epoch(leader.leader_epoch.0);
    }
    body
}

#[test]
fn fetch_responses() {
    for version in 4..=18 {
        ottla_test_support::each_seed(0..ROUNDS, |seed| {
            let random = &mut Random::new(seed + 3_000);
            let response = fetch_response(random, version);
            let expected = their_response(ApiKey::Fetch, version, 5, &their_fetch_response(&response));
            let parts = fetch::encode(version, 5, &response).unwrap();
            let mut joined = Vec::new();
            let mut after_bytes = false;
            for part in &parts {
                assert!(part.size_bytes() > 0);
                let is_bytes = matches!(part, Part::Bytes(_));
                assert!(!(is_bytes && after_bytes), "bytes of one frame lie in one piece");
                after_bytes = is_bytes;
                match part {
                    Part::Bytes(bytes) | Part::Records(bytes) => joined.extend_from_slice(bytes),
                }
            }
            assert_eq!(without_length(&joined), expected, "version {version} seed {seed}");
            assert_eq!(fetch::decode_response(version, &expected), Ok((5, response)), "version {version} seed {seed}");
        });
    }
}

#[test]
fn versions_and_counts_that_nobody_serves_are_refused() {
    assert_eq!(produce::parse(2, &[0; 64], 0), Err(WireError::UnknownVersion(2)));
    assert_eq!(produce::parse(100, &[0; 64], 0), Err(WireError::UnknownVersion(100)));
    assert_eq!(fetch::parse(3, &[0; 64], 0), Err(WireError::UnknownVersion(3)));
    // acks and time-out, then 2³¹−1 topics.
    let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff];
    assert_eq!(produce::parse(8, &body, 0), Err(WireError::Truncated));
    body[8] = 0xff;
    body[11] = 0xfe;
    assert_eq!(produce::parse(8, &body, 0), Err(WireError::InvalidLength(-2)));
    // More topics than are accepted, and bytes enough for all of them.
    let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 0];
    body.extend_from_slice(&(produce::PARTITIONS_MAX as u32 + 1).to_be_bytes());
    body.resize(body.len() + 1_000_000, 0);
    assert!(matches!(produce::parse(8, &body, 0), Err(WireError::TooManyElements { .. })));
    let huge = vec![0; Api::Fetch.body_max_bytes() + 1];
    assert!(matches!(fetch::parse(12, &huge, 0), Err(WireError::InvalidLength(_))));
    let mut isolation = vec![0; 64];
    isolation[16] = 9;
    assert!(matches!(fetch::parse(4, &isolation, 0), Err(WireError::InvalidField { name: "isolation_level", .. })));
}

#[test]
fn our_requests_decode_with_the_schemas() {
    let call = ProduceCall { transactional_id: None, acks: -1, timeout_ms: 1, topics: Vec::new() };
    let bytes = produce::encode_request(9, 1, None, &call).unwrap();
    let (_, start) = frame::parse_header(without_length(&bytes)).unwrap();
    let mut body = bytes.slice(LENGTH_BYTES + start..);
    assert_eq!(theirs::ProduceRequest::decode(&mut body, 9).unwrap().acks, -1);
    assert!(body.is_empty());
}
