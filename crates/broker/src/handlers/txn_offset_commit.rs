//! TxnOffsetCommit (28), versions 0 to 5: offsets that count when the producer's transaction is committed. Before they
//! are written the transaction coordinator confirms that the group's partition is in the transaction; from version 5 on
//! it joins it so.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_group_coordinator::request::{CommitInTransaction, CommitOffsets, CommitPartition, GroupTopic};
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_metadata::Image;
use ottla_model::{
    ErrorCode, LeaderEpoch, MemberId, Offset, PartitionId, ProducerEpoch, ProducerId, TopicName, TopicPartition,
};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use ottla_protocol::kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use ottla_protocol::kafka_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replication::{VerificationGuard, VerificationRequest};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::groups::{OFFSETS_TOPIC, coordinator_partition};
use crate::request::{RequestContext, group};
use crate::transaction_verifier::{RETRY_FOR, RETRY_PAUSE, VerificationQuestion};

/// Before it clients cannot bear COORDINATOR_LOAD_IN_PROGRESS.
const LOADING_FROM: i16 = 2;
/// The first version that names the group's member.
const MEMBERS_FROM: i16 = 3;
/// From here on clients know TRANSACTION_ABORTABLE.
const ABORTABLE_FROM: i16 = 4;
/// From here on the group's partition joins the transaction with its first offsets.
const JOINS_FROM: i16 = 5;

/// Offsets have no sequence.
const NO_SEQUENCE: i32 = -1;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<TxnOffsetCommitRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let broker = Arc::clone(broker);
    let access = broker.access(context);
    Reply::later(async move {
        let response = commit(&broker, &access, header.api_version, &request).await;
        Response::encode_or_close::<TxnOffsetCommitRequest>(&header, &response)
    })
}

async fn commit(
    broker: &Arc<Broker>,
    access: &Access,
    version: i16,
    request: &TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let fail = |error| respond(version, request, |_, _| error);
    if request.transactional_id.is_empty() {
        return fail(ErrorCode::InvalidRequest);
    }
    if !access.transactional_id(Operation::Write, request.transactional_id.as_str()) {
        return fail(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    if !access.group(Operation::Read, request.group_id.as_str()) {
        return fail(ErrorCode::GroupAuthorizationFailed);
    }
    // Partitions of a topic that may not be read are refused alone.
    let denied: Vec<bool> =
        request.topics.iter().map(|topic| !access.topic(Operation::Read, topic.name.as_str())).collect();
    if denied.iter().all(|denied| *denied) && !denied.is_empty() {
        return fail(ErrorCode::TopicAuthorizationFailed);
    }
    if request.group_id.is_empty() {
        return fail(ErrorCode::InvalidGroupId);
    }
    let begun = Instant::now();
    let guard = loop {
        match verify(broker, version, request).await {
            Ok(guard) => break guard,
            Err(ErrorCode::ConcurrentTransactions) if version >= JOINS_FROM && begun.elapsed() < RETRY_FOR => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return fail(error),
        }
    };
    let group_id = group::group_id(&request.group_id);
    let image = broker.metadata.current();
    let commit = CommitInTransaction {
        producer_id: ProducerId(request.producer_id.0),
        producer_epoch: ProducerEpoch(request.producer_epoch),
        commit: CommitOffsets {
            group: group_id.clone(),
            member: MemberId::new(request.member_id.as_str()),
            instance: group::instance_id(request.group_instance_id.as_ref()),
            generation_or_epoch: if version >= MEMBERS_FROM { request.generation_id } else { -1 },
            knows_member_epochs: false,
            retention_ms: None,
            topics: request
                .topics
                .iter()
                .zip(&denied)
                .map(|(topic, denied)| topic_of(&image, *denied, topic))
                .collect(),
        },
    };
    let commit = GroupRequest::CommitInTransaction(commit);
    let pending = broker.groups.submit_in_transaction(&image, &group_id, commit, guard.as_ref());
    drop(image);
    match pending.answer_within(broker.groups.commit_timeout()).await {
        GroupAnswer::CommitOffsets(outcomes) => respond(version, request, |topic, partition| {
            let of_topic = outcomes.get(topic).map_or(&[][..], |(_, partitions)| partitions.as_slice());
            of_topic.get(partition).map_or(ErrorCode::UnknownServerError, |(_, error)| *error)
        }),
        other => fail(group::failure(&other)),
    }
}

/// The proof that the group's partition is in the transaction; none if the transaction has offsets there already.
async fn verify(
    broker: &Arc<Broker>,
    version: i16,
    request: &TxnOffsetCommitRequest,
) -> Result<Option<VerificationGuard>, ErrorCode> {
    let (producer_id, producer_epoch) = (ProducerId(request.producer_id.0), ProducerEpoch(request.producer_epoch));
    let joins = version >= JOINS_FROM;
    if !joins && !broker.config.transaction_partition_verification_enable {
        return Ok(None);
    }
    let image = broker.metadata.current();
    let group_id = group::group_id(&request.group_id);
    let wanted =
        VerificationRequest { producer_id, producer_epoch, base_sequence: NO_SEQUENCE, supports_epoch_bump: joins };
    let Some(guard) = broker.groups.begin_verification(&image, &group_id, &wanted)? else { return Ok(None) };
    let partition = coordinator_partition(&image, group_id.as_str()).ok_or(ErrorCode::NotCoordinator)?;
    let topic = TopicName::new(OFFSETS_TOPIC).map_err(|_| ErrorCode::UnknownServerError)?;
    drop(image);
    let question = VerificationQuestion {
        transactional_id: request.transactional_id.as_str().to_owned(),
        producer_id,
        producer_epoch,
        partitions: vec![TopicPartition::new(topic, partition)],
        adds: joins,
    };
    match broker.transaction_verifier.verify(question).await.first().copied() {
        Some(ErrorCode::None) if joins => {
            let image = broker.metadata.current();
            match broker.groups.begin_verification(&image, &group_id, &wanted)? {
                // The marker of the former transaction took the guard away while the question was on its way.
                Some(newer) if newer != guard => Err(ErrorCode::ConcurrentTransactions),
                current => Ok(current),
            }
        }
        Some(ErrorCode::None) => Ok(Some(guard)),
        // The transaction coordinator is moving: the client asks this coordinator again.
        Some(ErrorCode::NetworkException | ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) | None => {
            Err(ErrorCode::CoordinatorLoadInProgress)
        }
        Some(ErrorCode::TransactionAbortable) if version < ABORTABLE_FROM => Err(ErrorCode::InvalidTxnState),
        Some(error) => Err(error),
    }
}

/// The topic as the group keeps it. A partition that does not exist is refused alone.
fn topic_of(image: &Image, is_denied: bool, topic: &TxnOffsetCommitRequestTopic) -> (GroupTopic, Vec<CommitPartition>) {
    let name = topic.name.as_str().to_owned();
    let found = group::topic(image, &TopicRef::Name(name.clone()));
    let partitions = topic.partitions.iter().map(|partition| {
        let index = PartitionId(partition.partition_index);
        let is_there = image.partition_of(&name, index).is_some();
        CommitPartition {
            partition: index,
            offset: Offset(partition.committed_offset),
            leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
            metadata: partition.committed_metadata.as_ref().map(group::owned),
            timestamp: None,
            refused: match (is_denied, is_there) {
                (true, _) => Some(ErrorCode::TopicAuthorizationFailed),
                (false, false) => Some(ErrorCode::UnknownTopicOrPartition),
                (false, true) => None,
            },
        }
    });
    let group_topic = found.unwrap_or(GroupTopic { name: name.clone(), id: ottla_model::TopicId::ZERO });
    (group_topic, partitions.collect())
}

/// An answer with an error for each partition, by the places of the topic and of the partition in it.
fn respond(
    version: i16,
    request: &TxnOffsetCommitRequest,
    error: impl Fn(usize, usize) -> ErrorCode,
) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().enumerate().map(|(at, topic)| {
        let partitions = topic.partitions.iter().enumerate().map(|(place, partition)| {
            let error = match error(at, place) {
                ErrorCode::CoordinatorLoadInProgress if version < LOADING_FROM => ErrorCode::CoordinatorNotAvailable,
                error => error,
            };
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.code())
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::TopicName as WireName;
    use ottla_protocol::kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;

    use super::*;
    use crate::request::test_image::image;
    use crate::request::wire;

    #[test]
    fn each_partition_has_its_error_and_old_clients_one_that_they_know() {
        let image = image();
        let known = image.topics().next().expect("a topic").name.clone();
        let partition = |index| TxnOffsetCommitRequestPartition::default().with_partition_index(index);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(WireName(wire::text(known.as_str())))
            .with_partitions(vec![partition(0), partition(99)]);
        let (found, partitions) = topic_of(&image, false, &topic);
        assert_eq!((found.name.as_str(), found.id.is_zero()), (known.as_str(), false));
        let refused: Vec<_> = partitions.iter().map(|partition| partition.refused).collect();
        assert_eq!(refused, [None, Some(ErrorCode::UnknownTopicOrPartition)]);
        let request = TxnOffsetCommitRequest::default().with_topics(vec![topic]);
        for (version, code) in [(1, ErrorCode::CoordinatorNotAvailable), (2, ErrorCode::CoordinatorLoadInProgress)] {
            let response = respond(version, &request, |_, _| ErrorCode::CoordinatorLoadInProgress);
            assert!(response.topics[0].partitions.iter().all(|partition| partition.error_code == code.code()));
            ottla_protocol::encode_response::<TxnOffsetCommitRequest>(version, 1, &response).expect("encodes");
        }
    }
}
