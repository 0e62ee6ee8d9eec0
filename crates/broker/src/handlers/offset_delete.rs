//! OffsetDelete (47), version 0: a group forgets what it committed for some partitions.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::request::DeleteOffsets;
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_model::{ErrorCode, PartitionId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use ottla_protocol::kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse, TopicName as WireTopicName};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{group, wire};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<OffsetDeleteRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    if !access.group(Operation::Delete, request.group_id.as_str()) {
        let denied = OffsetDeleteResponse::default().with_error_code(ErrorCode::GroupAuthorizationFailed.code());
        return Reply::encode::<OffsetDeleteRequest>(&header, &denied);
    }
    let image = broker.metadata.current();
    let mut refused: Vec<(String, Vec<(PartitionId, ErrorCode)>)> = Vec::new();
    let mut topics = Vec::new();
    for one in &request.topics {
        if !access.topic(Operation::Read, one.name.as_str()) {
            let partitions = one.partitions.iter().map(|partition| PartitionId(partition.partition_index));
            let denied = partitions.map(|partition| (partition, ErrorCode::TopicAuthorizationFailed)).collect();
            refused.push((one.name.as_str().to_owned(), denied));
            continue;
        }
        let known = image.topic(one.name.as_str());
        let exists = |partition: &PartitionId| known.is_some_and(|topic| topic.partition(*partition).is_some());
        let (found, missing): (Vec<_>, Vec<_>) =
            one.partitions.iter().map(|partition| PartitionId(partition.partition_index)).partition(exists);
        let name = one.name.as_str().to_owned();
        if !missing.is_empty() {
            let missing = missing.into_iter().map(|one| (one, ErrorCode::UnknownTopicOrPartition)).collect();
            refused.push((name.clone(), missing));
        }
        if !found.is_empty() {
            topics.push((name, found));
        }
    }
    let group_id = group::group_id(&request.group_id);
    let delete = DeleteOffsets { group: group_id.clone(), topics };
    let asked = group::submit(broker, &group_id, GroupRequest::DeleteOffsets(delete));
    let patience = Some(broker.groups.commit_timeout());
    group::respond::<OffsetDeleteRequest>(header, asked, patience, move |answer| {
        let (error, topics) = match answer {
            GroupAnswer::DeleteOffsets(deleted) => (deleted.error, deleted.topics),
            other => (group::failure(&other), Vec::new()),
        };
        let topics = refused.into_iter().chain(topics).map(|(name, partitions)| {
            let partitions = partitions.into_iter().map(|(partition, error)| {
                OffsetDeleteResponsePartition::default().with_partition_index(partition.0).with_error_code(error.code())
            });
            OffsetDeleteResponseTopic::default()
                .with_name(WireTopicName(wire::text(&name)))
                .with_partitions(partitions.collect())
        });
        OffsetDeleteResponse::default().with_error_code(error.code()).with_topics(topics.collect())
    })
}
