//! ListOffsets, versions 1 to 11: where a log starts and ends, and what lies at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, LeaderEpoch, PartitionId, TimestampMs};
use ottla_network::response::Answer;
use ottla_protocol::kafka_protocol::messages::ListOffsetsRequest;
use ottla_protocol::kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::partition::{FoundOffset, OffsetQuery, Visible};

use crate::broker::Broker;
use crate::request::RequestContext;

/// Before this version OFFSET_NOT_AVAILABLE was not known (KIP-207).
const OFFSET_NOT_AVAILABLE_FROM: i16 = 5;

/// The isolation level of a reader of committed records.
const READ_COMMITTED: i8 = 1;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let request = match decode_request::<ListOffsetsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Answer::close(error),
    };
    let access = broker.access(context);
    // A follower that lost its place asks for the log's very end; nobody else may see above the high watermark.
    let claims_to_follow = request.replica_id.0 >= 0 && context.is_inter_broker_listener;
    let is_follower = claims_to_follow && access.cluster(Operation::ClusterAction);
    let visible = match request.isolation_level {
        _ if is_follower => Visible::LogEnd,
        READ_COMMITTED => Visible::LastStable,
        _ => Visible::HighWatermark,
    };
    let mut seen = BTreeSet::new();
    let mut response = ListOffsetsResponse::default();
    for topic in request.topics {
        let name = TopicRef::Name(topic.name.0.to_string());
        let is_allowed = is_follower || access.topic(Operation::Describe, topic.name.as_str());
        let mut answers = ListOffsetsTopicResponse::default();
        for asked in topic.partitions {
            let partition = PartitionId(asked.partition_index);
            let found = if !is_allowed {
                Err(ErrorCode::TopicAuthorizationFailed)
            } else if seen.insert((topic.name.clone(), partition)) {
                find(broker, &name, partition, header.api_version, asked.timestamp, asked.current_leader_epoch, visible)
            } else {
                Err(ErrorCode::InvalidRequest)
            };
            answers.partitions.push(answer(partition, header.api_version, found));
        }
        answers.name = topic.name;
        response.topics.push(answers);
    }
    Answer::encode::<ListOffsetsRequest>(&header, &response)
}

fn find(
    broker: &Broker,
    topic: &TopicRef,
    partition: PartitionId,
    version: i16,
    timestamp: i64,
    leader_epoch: i32,
    visible: Visible,
) -> Result<FoundOffset, ErrorCode> {
    let query = query(version, timestamp)?;
    let partition = broker.replicas.find(topic, partition)?;
    let Some(query) = query else { return Ok(FoundOffset::NONE) };
    partition.find_offset(query, LeaderEpoch(leader_epoch), visible)
}

/// What a timestamp asks for; none for a place that only tiered logs have.
fn query(version: i16, timestamp: i64) -> Result<Option<OffsetQuery>, ErrorCode> {
    let (query, since) = match timestamp {
        -1 => (Some(OffsetQuery::Latest), 0),
        -2 => (Some(OffsetQuery::Earliest), 0),
        -3 => (Some(OffsetQuery::MaxTimestamp), 7),
        -4 => (Some(OffsetQuery::Earliest), 8),
        -5 => (None, 9),
        -6 => (None, 11),
        at if at < 0 => return Err(ErrorCode::UnsupportedVersion),
        at => (Some(OffsetQuery::At(TimestampMs(at))), 0),
    };
    if version < since { Err(ErrorCode::UnsupportedVersion) } else { Ok(query) }
}

fn answer(partition: PartitionId, version: i16, found: Result<FoundOffset, ErrorCode>) -> ListOffsetsPartitionResponse {
    let answer = ListOffsetsPartitionResponse::default().with_partition_index(partition.0);
    match found {
        Ok(found) => answer
            .with_timestamp(found.timestamp.0)
            .with_offset(found.offset.0)
            .with_leader_epoch(if version >= 4 { found.leader_epoch.0 } else { -1 }),
        Err(error) => {
            let error = match error {
                ErrorCode::OffsetNotAvailable if version < OFFSET_NOT_AVAILABLE_FROM => ErrorCode::LeaderNotAvailable,
                error => error,
            };
            answer.with_error_code(error.code()).with_timestamp(-1).with_offset(-1).with_leader_epoch(-1)
        }
    }
}
