//! Requests by hand.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use bytes::Bytes;
use ottla_e2e::cluster::PATIENCE;
use ottla_e2e::{clients, wait};
use ottla_model::{ErrorCode, Offset, PartitionId, TimestampMs};
use ottla_protocol::kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use ottla_protocol::kafka_protocol::messages::{CreateTopicsRequest, FindCoordinatorRequest, TopicName};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::FetchPartition;
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::record_batch::BatchBuilder;

pub const PRODUCE_VERSION: i16 = 9;

/// What a consumer asks of one partition.
pub fn fetched(partition: i32, offset: Offset) -> FetchPartition {
    FetchPartition::of_consumer(PartitionId(partition), offset, 1 << 20)
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn frame<R: Request>(version: i16, request: &R) -> Result<Bytes> {
    Ok(ottla_protocol::encode_request(version, 7, Some("attacker"), request)?)
}

/// Sends a frame and reads its response.
pub fn call(stream: &mut TcpStream, frame: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(frame)?;
    clients::read_frame(stream)
}

/// Asks until the answer says that the coordinator of a group (kind 0) or of a transactional id (1) is there.
pub fn await_coordinator(address: SocketAddr, kind: i8) -> Result<()> {
    let question = frame(2, &FindCoordinatorRequest::default().with_key(text("any")).with_key_type(kind))?;
    wait::until_ok("a coordinator", || {
        let response = call(&mut connect(address)?, &question)?;
        let (_, response) = ottla_protocol::decode_response::<FindCoordinatorRequest>(2, response.into())?;
        ensure!(response.error_code == 0, "{response:?}");
        Ok(())
    })
}

/// A connection that waits for slow answers.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = clients::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Batches of one record to partitions of one topic.
pub fn produce_frame(topic: &str, partitions: impl Iterator<Item = i32>) -> Result<Bytes> {
    let batch = BatchBuilder::new().record(TimestampMs(1), None, Some(b"value")).build()?.freeze();
    let partitions = partitions.map(|partition| (PartitionId(partition), batch.clone())).collect();
    let topics = vec![(TopicRef::Name(topic.to_owned()), partitions)];
    let call = ProduceCall { transactional_id: None, acks: -1, timeout_ms: 30_000, topics };
    Ok(produce::encode_request(PRODUCE_VERSION, 7, Some("writer"), &call)?)
}

/// Produces and returns whether every partition has taken its batch.
pub fn produced(stream: &mut TcpStream, frame: &[u8]) -> Result<bool> {
    Ok(refusals(stream, frame)?.is_empty())
}

/// Produces and returns the errors of the partitions that have not taken their batch.
pub fn refusals(stream: &mut TcpStream, frame: &[u8]) -> Result<BTreeSet<ErrorCode>> {
    let response = call(stream, frame)?;
    let (_, response) = produce::decode_response(PRODUCE_VERSION, &response)?;
    let errors = response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error);
    Ok(errors.filter(|error| !error.is_ok()).collect())
}

pub fn create_topic(address: SocketAddr, name: &str, partitions: i32, replicas: i16) -> Result<()> {
    create_topic_with(address, name, (partitions, replicas), &[])
}

pub fn create_topic_with(
    address: SocketAddr,
    name: &str,
    (partitions, replicas): (i32, i16),
    configs: &[(&str, &str)],
) -> Result<()> {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let response = call(&mut connect(address)?, &frame(5, &request)?)?;
    let (_, response) = ottla_protocol::decode_response::<CreateTopicsRequest>(5, response.into())?;
    ensure!(response.topics.iter().all(|topic| topic.error_code == 0), "{response:?}");
    Ok(())
}
