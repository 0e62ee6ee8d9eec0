//! The client against brokers that are a few lines each: negotiation, leaders that move, answers that are lost.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId as WireBrokerId, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable as _, StrBytes};
use ottla_client::{Client, ClientConfig, FetchOptions, Outcome};
use ottla_model::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicPartition,
};
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::messages::fetch::{self, FetchPartitionResponse, FetchResponse, FetchTopicResponse, Part};
use ottla_protocol::messages::produce::{self, PartitionProduceResponse, ProduceResponse, TopicProduceResponse};
use ottla_protocol::messages::{CurrentLeader, NodeEndpoint};
use ottla_protocol::record_batch::{BatchBuilder, Records};
use ottla_protocol::{Api, RequestHeader, parse_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The response of a fake broker: a whole frame, or none to close the connection.
type Answer = Arc<dyn Fn(&RequestHeader, &[u8], usize) -> Option<Bytes> + Send + Sync>;

async fn serve(listener: TcpListener, answer: Answer) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move { converse(stream, answer).await });
    }
}

async fn converse(mut stream: TcpStream, answer: Answer) {
    while let Ok(length) = stream.read_u32().await {
        let mut frame = vec![0; length as usize];
        stream.read_exact(&mut frame).await.unwrap();
        let (header, body) = parse_header(&frame).unwrap();
        let reply = match header.api().unwrap() {
            Api::ApiVersions => {
                Some(ApiVersionsResponse::of_this_broker(None).encode(header.api_version, header.correlation_id))
            }
            _ => answer(&header, &frame, body),
        };
        let Some(reply) = reply else { return };
        stream.write_all(&reply).await.unwrap();
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn metadata(header: &RequestHeader, ports: &[u16], leader: i32, epoch: i32) -> Bytes {
    metadata_of(header, ports, &[leader], epoch)
}

/// A topic with a partition for each of these leaders.
fn metadata_of(header: &RequestHeader, ports: &[u16], leaders: &[i32], epoch: i32) -> Bytes {
    let brokers = ports.iter().enumerate().map(|(at, port)| {
        MetadataResponseBroker::default()
            .with_node_id(WireBrokerId(at as i32 + 1))
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(i32::from(*port))
    });
    let partitions = leaders.iter().zip(0..).map(|(leader, index)| {
        let partition = MetadataResponsePartition::default().with_partition_index(index);
        partition.with_leader_id(WireBrokerId(*leader)).with_leader_epoch(epoch)
    });
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str("logs"))))
        .with_partitions(partitions.collect());
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_controller_id(WireBrokerId(1))
        .with_topics(vec![topic]);
    ottla_protocol::encode_response::<MetadataRequest>(header.api_version, header.correlation_id, &response).unwrap()
}

fn produced(header: &RequestHeader, frame: &[u8], body: usize, error: ErrorCode, leader: Option<(i32, u16)>) -> Bytes {
    let request = produce::parse(header.api_version, frame, body).unwrap();
    let mut response = ProduceResponse::default();
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|partition| PartitionProduceResponse {
            base_offset: if error.is_ok() { Offset(41) } else { Offset::UNKNOWN },
            current_leader: leader
                .map(|(id, _)| CurrentLeader { leader_id: BrokerId(id), leader_epoch: LeaderEpoch(9) }),
            ..PartitionProduceResponse::failed(partition.partition, error)
        });
        response.topics.push(TopicProduceResponse { partitions: partitions.collect(), topic: topic.topic });
    }
    response.node_endpoints = leader
        .map(|(id, port)| NodeEndpoint {
            node_id: BrokerId(id),
            host: "127.0.0.1".to_owned(),
            port: i32::from(port),
            rack: None,
        })
        .into_iter()
        .collect();
    produce::encode_response(header.api_version, header.correlation_id, &response).expect("a small frame")
}

fn batch(builder: BatchBuilder) -> Bytes {
    builder.record(TimestampMs(1), None, Some(b"hello")).build().unwrap().freeze()
}

fn client(port: u16) -> Client {
    let config = ClientConfig::new(&format!("127.0.0.1:{port}"));
    Client::new(ClientConfig { retry_timeout: Duration::from_secs(5), ..config })
}

#[tokio::test]
async fn a_produce_follows_the_leader_that_a_refusal_names() {
    let (first, first_port) = listen().await;
    let (second, second_port) = listen().await;
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = refusals.clone();
    // The first broker's metadata stay wrong: only its refusal names the new leader.
    let old: Answer = Arc::new(move |header, frame, body| match header.api()? {
        Api::Metadata => Some(metadata(header, &[first_port], 1, 3)),
        Api::Produce => {
            counted.fetch_add(1, Ordering::SeqCst);
            Some(produced(header, frame, body, ErrorCode::NotLeaderOrFollower, Some((2, second_port))))
        }
        _ => None,
    });
    let new: Answer = Arc::new(move |header, frame, body| match header.api()? {
        Api::Metadata => Some(metadata(header, &[first_port, second_port], 2, 9)),
        Api::Produce => Some(produced(header, frame, body, ErrorCode::None, None)),
        _ => None,
    });
    tokio::spawn(serve(first, old));
    tokio::spawn(serve(second, new));
    let client = client(first_port);
    let done = client.produce("logs", PartitionId(0), batch(BatchBuilder::new()), -1, Duration::from_secs(1)).await;
    assert_eq!(done.unwrap().base_offset, Offset(41));
    assert_eq!(refusals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lost_answer_is_repeated_only_for_an_idempotent_batch() {
    let (listener, port) = listen().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    // Every odd produce is taken and never answered.
    let answer: Answer = Arc::new(move |header, frame, body| match header.api()? {
        Api::Metadata => Some(metadata(header, &[port], 1, 3)),
        Api::Produce if counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => None,
        Api::Produce => Some(produced(header, frame, body, ErrorCode::None, None)),
        _ => None,
    });
    tokio::spawn(serve(listener, answer));
    let client = client(port);
    let plain = batch(BatchBuilder::new());
    let error = client.produce("logs", PartitionId(0), plain, -1, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    seen.store(0, Ordering::SeqCst);
    let idempotent = batch(BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), 0));
    client.produce("logs", PartitionId(0), idempotent, -1, Duration::from_secs(1)).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn records_come_back_and_refusals_for_good_are_not_repeated() {
    let (listener, port) = listen().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let answer: Answer = Arc::new(move |header, frame, body| match header.api()? {
        Api::Metadata => Some(metadata(header, &[port], 1, 3)),
        Api::Fetch => {
            let request = fetch::parse(header.api_version, frame, body).unwrap();
            let asked_from = request.topics[0].partitions[0].fetch_offset;
            let error = if asked_from.0 > 100 { ErrorCode::OffsetOutOfRange } else { ErrorCode::None };
            counted.fetch_add(1, Ordering::SeqCst);
            let partition = FetchPartitionResponse {
                high_watermark: Offset(1),
                records: error.is_ok().then(|| batch(BatchBuilder::new())),
                ..FetchPartitionResponse::failed(PartitionId(0), error)
            };
            let topic = FetchTopicResponse { topic: request.topics[0].topic.clone(), partitions: vec![partition] };
            let response = FetchResponse { topics: vec![topic], ..FetchResponse::default() };
            let parts = fetch::encode(header.api_version, header.correlation_id, &response).expect("a small frame");
            let bytes = parts.iter().flat_map(|part| match part {
                Part::Bytes(bytes) | Part::Records(bytes) => bytes.to_vec(),
            });
            Some(bytes.collect())
        }
        _ => None,
    });
    tokio::spawn(serve(listener, answer));
    let client = client(port);
    let options = FetchOptions::default();
    let fetched = client.fetch("logs", PartitionId(0), Offset(0), &options).await.unwrap();
    let records = Records::new(&fetched.records.unwrap(), 1 << 20).unwrap();
    let values: Vec<_> = records.map(|record| record.unwrap().value.unwrap()).collect();
    assert_eq!(values, [Bytes::from_static(b"hello")]);
    let error = client.fetch("logs", PartitionId(0), Offset(101), &options).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::OffsetOutOfRange), Outcome::Refused));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let error = client.leader("logs", PartitionId(7)).await.unwrap_err();
    assert!(error.to_string().contains("logs-7"));
}

#[tokio::test]
async fn offsets_of_many_partitions_take_one_request_for_each_leader() {
    let ((first, first_port), (second, second_port)) = (listen().await, listen().await);
    let asked = Arc::new(AtomicUsize::new(0));
    // The first broker refuses partition 0 once.
    let refuses = Arc::new(AtomicUsize::new(1));
    for listener in [first, second] {
        let (counted, refuses) = (asked.clone(), refuses.clone());
        let answer: Answer = Arc::new(move |header, frame, body| match header.api()? {
            Api::Metadata => Some(metadata_of(header, &[first_port, second_port], &[1, 2, 1, 2, 1], 3)),
            Api::ListOffsets => {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut bytes = Bytes::copy_from_slice(&frame[body..]);
                let schema = Api::ListOffsets.schema_version(header.api_version);
                let request = ListOffsetsRequest::decode(&mut bytes, schema).unwrap();
                let topics = request.topics.into_iter().map(|topic| {
                    let partitions = topic.partitions.iter().map(|partition| {
                        let index = partition.partition_index;
                        let is_refused = index == 0 && refuses.swap(0, Ordering::SeqCst) == 1;
                        let error = if is_refused { ErrorCode::NotLeaderOrFollower } else { ErrorCode::None };
                        ListOffsetsPartitionResponse::default()
                            .with_partition_index(index)
                            .with_error_code(error.code())
                            .with_offset(i64::from(index) * 10)
                    });
                    ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions.collect())
                });
                let response = ListOffsetsResponse::default().with_topics(topics.collect());
                let (version, id) = (header.api_version, header.correlation_id);
                Some(ottla_protocol::encode_response::<ListOffsetsRequest>(version, id, &response).unwrap())
            }
            _ => None,
        });
        tokio::spawn(serve(listener, answer));
    }
    let name = ottla_model::TopicName::new("logs").unwrap();
    let at = |index| TopicPartition::new(name.clone(), PartitionId(index));
    // The last one does not exist.
    let wanted: Vec<TopicPartition> = (0..6).map(at).collect();
    let found = client(first_port).list_offsets_of(&wanted, TimestampMs(-1)).await;
    let offsets: Vec<Option<i64>> =
        wanted.iter().map(|at| found[at].as_ref().ok().map(|found| found.offset.0)).collect();
    assert_eq!(offsets, [Some(0), Some(10), Some(20), Some(30), Some(40), None]);
    // Two leaders, and partition 0 once more.
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}
