//! OffsetForLeaderEpoch, versions 2 to 4: where a leader epoch ends in the leader's log, for consumers that look
//! whether what they have read is still so, and for followers of older releases.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::OffsetForLeaderEpochRequest;
use ottla_protocol::kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replication::EpochEnd;

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<OffsetForLeaderEpochRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    let is_follower = access.shows(Operation::ClusterAction, ResourceType::Cluster, CLUSTER);
    let mut response = OffsetForLeaderEpochResponse::default();
    for topic in request.topics {
        let name = TopicRef::Name(topic.topic.0.to_string());
        let is_allowed = is_follower || access.topic(Operation::Describe, topic.topic.as_str());
        let mut answers = OffsetForLeaderTopicResult::default();
        for asked in topic.partitions {
            let partition = PartitionId(asked.partition);
            let found = match is_allowed {
                true => broker.replicas.find(&name, partition),
                false => Err(ErrorCode::TopicAuthorizationFailed),
            };
            let end = found.and_then(|partition| {
                partition.epoch_end(LeaderEpoch(asked.leader_epoch), LeaderEpoch(asked.current_leader_epoch))
            });
            answers.partitions.push(answer(partition, end));
        }
        answers.topic = topic.topic;
        response.topics.push(answers);
    }
    Reply::encode::<OffsetForLeaderEpochRequest>(&header, &response)
}

fn answer(partition: PartitionId, end: Result<Option<EpochEnd>, ErrorCode>) -> EpochEndOffset {
    let (error, end) = match end {
        Ok(end) => (ErrorCode::None, end),
        Err(error) => (error, None),
    };
    EpochEndOffset::default()
        .with_error_code(error.code())
        .with_partition(partition.0)
        .with_leader_epoch(end.map_or(LeaderEpoch::NONE, |end| end.epoch).0)
        .with_end_offset(end.map_or(Offset::UNKNOWN, |end| end.end_offset).0)
}
