//! A cluster in one process: real logs, real sockets between the brokers, and a quorum that is a map behind a lock.
//! Each broker has a runtime of its own, so that it can be killed: the runtime goes, and with it every task and lock.
//!
//! - [`quorum`]: the tree, and what it decides;
//! - [`cluster`]: brokers start;
//! - [`broker`]: a running broker, and requests to it.

mod broker;
mod cluster;
mod quorum;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ottla_model::{Offset, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicName};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
};
use ottla_protocol::record_batch::BatchBuilder;

pub use broker::{Asked, TestBroker};
pub use cluster::Cluster;

pub const INTERNAL: &str = "INTERNAL";
pub const CLIENT: &str = "CLIENT";
/// A flag of [`Cluster::new`]: every broker gets another log directory, beside [`Cluster::log_directory`].
pub const SECOND_DIRECTORY: &str = "a second log directory";
pub const FETCH_VERSION: i16 = 17;
/// Everything here happens within milliseconds; a test that waits this long has failed.
/// Reached only where something is wrong: a machine may be busy with other things, and its disk too.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn topic_id(number: u8) -> TopicId {
    TopicId([number; 16])
}

pub fn name(topic: &str) -> TopicName {
    TopicName::new(topic).expect("a valid name")
}

pub fn batch(values: &[&str]) -> BytesMut {
    builder(values).build().expect("a batch")
}

pub fn idempotent(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> BytesMut {
    builder(values).producer(ProducerId(producer), ProducerEpoch(epoch), sequence).build().expect("a batch")
}

pub fn builder(values: &[&str]) -> BatchBuilder {
    values.iter().fold(BatchBuilder::new(), |batch, value| {
        batch.record(ottla_replica_manager::clock::wall(), None, Some(value.as_bytes()))
    })
}

pub fn wanted(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::of_consumer(PartitionId(partition), Offset(offset), 1 << 20)
}

/// A consumer's fetch of some partitions of one topic.
pub fn fetch_of(topic: TopicId, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topics =
        if partitions.is_empty() { Vec::new() } else { vec![FetchTopic { topic: TopicRef::Id(topic), partitions }] };
    FetchRequest { topics, max_bytes: 1 << 20, min_bytes: 1, ..FetchRequest::default() }
}

pub fn only(response: &FetchResponse<Bytes>) -> &FetchPartitionResponse<Bytes> {
    assert_eq!(response.topics.len(), 1, "one topic");
    assert_eq!(response.topics[0].partitions.len(), 1, "one partition");
    &response.topics[0].partitions[0]
}

pub fn partitions_of(response: &FetchResponse<Bytes>) -> Vec<i32> {
    let mut partitions: Vec<_> =
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.partition.0).collect();
    partitions.sort_unstable();
    partitions
}
