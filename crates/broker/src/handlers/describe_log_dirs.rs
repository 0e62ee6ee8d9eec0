//! DescribeLogDirs (35): the log directories of this broker, the room on their disks, and the replicas in them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::BytesMut;
use futures::future::join_all;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, Offset, TopicName};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use ottla_protocol::kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use ottla_protocol::messages::describe_log_dirs::encode_response;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::log_dirs::LogDir;
use ottla_replica_manager::partition::Partition;

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

/// The partitions that are asked for; none: all.
type Wanted = Option<BTreeMap<String, BTreeSet<i32>>>;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DescribeLogDirsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).cluster(Operation::Describe) {
        let code = ErrorCode::ClusterAuthorizationFailed.code();
        let denied = DescribeLogDirsResponse::default().with_error_code(code);
        let frame = encode_response(header.api_version, header.correlation_id, &denied, &[]);
        return Reply::Ready(Response::or_close(frame.map(Response::bytes)));
    }
    let wanted = request.topics.map(|topics| {
        let mut wanted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for topic in topics {
            wanted.entry(topic.topic.to_string()).or_default().extend(topic.partitions);
        }
        wanted
    });
    let broker = Arc::clone(broker);
    Reply::later(async move {
        let directories = broker.replicas.log_dirs().all();
        let spaces = join_all(directories.iter().map(|directory| space(directory))).await;
        // Every log is looked at: not on a thread that serves others.
        let described = tokio::task::spawn_blocking(move || describe(&broker, &wanted, spaces)).await;
        let (response, cordoned) = match described {
            Ok(directories) => {
                let (results, cordoned): (Vec<_>, Vec<_>) = directories.into_iter().unzip();
                (DescribeLogDirsResponse::default().with_results(results), cordoned)
            }
            Err(_stopped) => {
                let error = ErrorCode::UnknownServerError.code();
                (DescribeLogDirsResponse::default().with_error_code(error), Vec::new())
            }
        };
        let frame = encode_response(header.api_version, header.correlation_id, &response, &cordoned);
        Response::or_close(frame.map(Response::bytes))
    })
}

/// The room of the directory's file system. None: it does not answer.
async fn space(directory: &LogDir) -> Option<(i64, i64)> {
    if directory.health().is_unusable() {
        return None;
    }
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    match directory.space_in_time().await {
        Ok((total, usable)) => Some((bytes(total), bytes(usable))),
        Err(error) => (error.kind() != ErrorKind::TimedOut).then_some((-1, -1)),
    }
}

/// Each directory, and whether it is cordoned.
fn describe(broker: &Broker, wanted: &Wanted, spaces: Vec<Option<(i64, i64)>>) -> Vec<(DescribeLogDirsResult, bool)> {
    let cordoned = broker.replicas.cordoned();
    let is_wanted = |partition: &Partition| {
        wanted.as_ref().is_none_or(|topics| {
            let numbers = topics.get(partition.topic.as_str());
            numbers.is_some_and(|numbers| numbers.contains(&partition.id().partition.0))
        })
    };
    let mut partitions = broker.replicas.partitions();
    partitions.retain(|partition| is_wanted(partition));
    let mut futures = broker.replicas.future_replicas();
    futures.retain(|future| is_wanted(&future.partition));
    broker
        .replicas
        .log_dirs()
        .all()
        .iter()
        .zip(spaces)
        .map(|(directory, space)| {
            let result = DescribeLogDirsResult::default().with_log_dir(wire::text(&shown(directory)));
            let is_cordoned = directory.is_cordoned(&cordoned);
            let Some((total, usable)) = space.filter(|_| !directory.health().is_unusable()) else {
                let result = result
                    .with_error_code(ErrorCode::KafkaStorageError.code())
                    .with_total_bytes(-1)
                    .with_usable_bytes(-1);
                return (result, is_cordoned);
            };
            let mut topics: BTreeMap<TopicName, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
            for partition in partitions.iter().filter(|partition| partition.is_in(directory)) {
                if let Some(found) = current(partition) {
                    topics.entry(partition.topic.clone()).or_default().push(found);
                }
            }
            for future in futures.iter().filter(|future| Arc::ptr_eq(&future.directory, directory)) {
                // Its log is in another directory, which may not answer.
                let end = future.partition.log_figures().0.end;
                let found = DescribeLogDirsPartition::default()
                    .with_partition_index(future.partition.id().partition.0)
                    .with_partition_size(future.size_bytes)
                    .with_offset_lag(lag(end, future.end))
                    .with_is_future_key(true);
                topics.entry(future.partition.topic.clone()).or_default().push(found);
            }
            let topics = topics.into_iter().map(|(topic, mut partitions)| {
                partitions.sort_by_key(|partition| partition.partition_index);
                DescribeLogDirsTopic::default().with_name(wire::topic_name(&topic)).with_partitions(partitions)
            });
            let result = result.with_topics(topics.collect()).with_total_bytes(total).with_usable_bytes(usable);
            (result, is_cordoned)
        })
        .collect()
}

fn current(partition: &Partition) -> Option<DescribeLogDirsPartition> {
    let high_watermark = partition.high_watermark();
    let described = partition.look_for_client(|log| {
        DescribeLogDirsPartition::default()
            .with_partition_index(partition.id().partition.0)
            .with_partition_size(i64::try_from(log.size_bytes()).unwrap_or(i64::MAX))
            .with_offset_lag(lag(high_watermark, log.log_end_offset()))
            .with_is_future_key(false)
    });
    described.ok()
}

fn lag(of: Offset, end: Offset) -> i64 {
    of.0.saturating_sub(end.0).max(0)
}

/// As Kafka shows it: absolute.
fn shown(directory: &LogDir) -> String {
    let path = directory.path();
    std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
}
