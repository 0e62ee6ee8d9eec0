//! AlterReplicaLogDirs (34): replicas are to move to other log directories of this broker. The answer says that they
//! will; DescribeLogDirs shows how far they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, PartitionId, TopicName};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use ottla_protocol::kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AlterReplicaLogDirsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let is_allowed = broker.access(context).cluster(Operation::Alter);
    let mut results: BTreeMap<String, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for directory in &request.dirs {
        let path = PathBuf::from(directory.path.as_str());
        for topic in &directory.topics {
            for partition in &topic.partitions {
                let moved = match is_allowed {
                    true => begin(broker, topic.name.as_str(), PartitionId(*partition), &path),
                    false => Err(ErrorCode::ClusterAuthorizationFailed),
                };
                let code = moved.err().unwrap_or(ErrorCode::None).code();
                let result = AlterReplicaLogDirPartitionResult::default();
                let result = result.with_partition_index(*partition).with_error_code(code);
                results.entry(topic.name.to_string()).or_default().push(result);
            }
        }
    }
    let results = results.into_iter().map(|(topic, partitions)| {
        let name = ottla_protocol::kafka_protocol::messages::TopicName(crate::request::wire::text(&topic));
        AlterReplicaLogDirTopicResult::default().with_topic_name(name).with_partitions(partitions)
    });
    let response = AlterReplicaLogDirsResponse::default().with_results(results.collect());
    Reply::encode::<AlterReplicaLogDirsRequest>(&header, &response)
}

fn begin(broker: &Broker, topic: &str, partition: PartitionId, path: &std::path::Path) -> Result<(), ErrorCode> {
    TopicName::new(topic).map_err(|_| ErrorCode::InvalidTopicException)?;
    if !path.is_absolute() {
        return Err(ErrorCode::LogDirNotFound);
    }
    let found = broker.replicas.find(&TopicRef::Name(topic.to_owned()), partition);
    let partition = found.map_err(|error| match error {
        // A replica that is to come, or is not known here yet: Kafka's tool asks again until it is there.
        ErrorCode::NotLeaderOrFollower => ErrorCode::ReplicaNotAvailable,
        other => other,
    })?;
    broker.replicas.move_replica(&partition, path)
}
