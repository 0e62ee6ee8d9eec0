//! OffsetCommit (8), versions 2 to 10: answered when the offsets are replicated.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::request::{CommitOffsets, CommitPartition, GroupTopic};
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_metadata::Image;
use ottla_model::{ErrorCode, GroupId, InstanceId, MemberId, PartitionId, TopicId};
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use ottla_protocol::kafka_protocol::messages::{
    OffsetCommitRequest as WireRequest, OffsetCommitResponse, TopicName as WireTopicName,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::offset_commit::{self, OffsetCommitTopic, TOPIC_IDS_FROM};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;
use crate::request::{group, wire};

/// From here on clients know STALE_MEMBER_EPOCH and GROUP_ID_NOT_FOUND.
const MEMBER_EPOCHS_FROM: i16 = 9;

type Outcomes = Vec<(GroupTopic, Vec<(PartitionId, ErrorCode)>)>;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let version = header.api_version;
    let request = match offset_commit::parse(version, &body, 0) {
        Ok(request) => request,
        Err(error) => return Reply::close(format_args!("OffsetCommit: {error}")),
    };
    let image = broker.metadata.peek();
    let access = broker.access(context);
    if !access.group(Operation::Read, &request.group) {
        let refused = refuse_all(request.topics, ErrorCode::GroupAuthorizationFailed);
        return Reply::encode::<WireRequest>(&header, &response(version, refused));
    }
    let (topics, mut refused) = check(&image, &access, request.topics);
    let named: Outcomes = topics
        .iter()
        .map(|(topic, partitions)| {
            let partitions = partitions.iter().map(|one| (one.partition, one.refused.unwrap_or(ErrorCode::None)));
            (topic.clone(), partitions.collect())
        })
        .collect();
    // As Kafka: what names nothing that exists is answered without its group.
    if named.iter().flat_map(|(_, partitions)| partitions).all(|(_, error)| !error.is_ok()) {
        refused.extend(named);
        return Reply::encode::<WireRequest>(&header, &response(version, refused));
    }
    let group_id = GroupId::new(request.group);
    let commit = CommitOffsets {
        group: group_id.clone(),
        member: MemberId::new(request.member),
        instance: request.instance.map(InstanceId::new),
        generation_or_epoch: request.generation_or_epoch,
        knows_member_epochs: version >= MEMBER_EPOCHS_FROM,
        retention_ms: request.retention_ms,
        topics,
    };
    let groups = &broker.groups;
    let asked: PendingAnswer = groups.submit(&image, &group_id, GroupRequest::CommitOffsets(commit));
    drop(image);
    let telemetry = Arc::clone(&broker.telemetry);
    group::respond::<WireRequest>(header, asked, Some(groups.commit_timeout()), move |answer| {
        let outcomes = match answer {
            GroupAnswer::CommitOffsets(outcomes) => outcomes,
            other => {
                let error = group::failure(&other);
                let fail = |partitions: Vec<(PartitionId, ErrorCode)>| {
                    partitions.into_iter().map(|(one, refused)| (one, if refused.is_ok() { error } else { refused }))
                };
                named.into_iter().map(|(topic, partitions)| (topic, fail(partitions).collect())).collect()
            }
        };
        telemetry.groups.commits.add(1);
        refused.extend(outcomes);
        response(version, refused)
    })
}

fn refuse_all(asked: Vec<OffsetCommitTopic>, error: ErrorCode) -> Outcomes {
    let refuse = |one: OffsetCommitTopic| {
        let partitions = one.partitions.iter().map(|partition| (partition.partition, error)).collect();
        let topic = match one.topic {
            TopicRef::Name(name) => GroupTopic { name, id: TopicId::ZERO },
            TopicRef::Id(id) => GroupTopic { name: String::new(), id },
        };
        (topic, partitions)
    };
    asked.into_iter().map(refuse).collect()
}

/// What is asked of the group, and the answers for topic ids that the image does not know.
fn check(
    image: &Image,
    access: &Access,
    asked: Vec<OffsetCommitTopic>,
) -> (Vec<(GroupTopic, Vec<CommitPartition>)>, Outcomes) {
    let mut topics = Vec::with_capacity(asked.len());
    let mut refused = Vec::new();
    for one in asked {
        if let Err(error) = access.topic_ref(Operation::Read, &one.topic) {
            refused.extend(refuse_all(vec![one], error));
            continue;
        }
        let Some(topic) = group::topic(image, &one.topic) else {
            let id = if let TopicRef::Id(id) = one.topic { id } else { TopicId::ZERO };
            let partitions = one.partitions.iter().map(|p| (p.partition, ErrorCode::UnknownTopicId)).collect();
            refused.push((GroupTopic { name: String::new(), id }, partitions));
            continue;
        };
        let known = image.topic(&topic.name);
        let partitions = one.partitions.into_iter().map(|partition| {
            let exists = known.is_some_and(|known| known.partition(partition.partition).is_some());
            CommitPartition {
                partition: partition.partition,
                offset: partition.offset,
                leader_epoch: partition.leader_epoch,
                metadata: partition.metadata,
                timestamp: None,
                refused: (!exists).then_some(ErrorCode::UnknownTopicOrPartition),
            }
        });
        let partitions = partitions.collect();
        topics.push((topic, partitions));
    }
    (topics, refused)
}

fn response(version: i16, outcomes: Outcomes) -> OffsetCommitResponse {
    let topics = outcomes.into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(partition, error)| {
            OffsetCommitResponsePartition::default().with_partition_index(partition.0).with_error_code(error.code())
        });
        let response = OffsetCommitResponseTopic::default().with_partitions(partitions.collect());
        match version {
            TOPIC_IDS_FROM.. => response.with_topic_id(wire::uuid(topic.id)),
            _ => response.with_name(WireTopicName(wire::text(&topic.name))),
        }
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
