//! DescribeTopicPartitions (75): topics in pages, with the eligible leader replicas (KIP-966).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{Operation, ResourceType};
use ottla_metadata::{Image, TopicImage};
use ottla_model::{BrokerId, ErrorCode, ListenerName, PartitionId, TopicName};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use ottla_protocol::kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::meter::Meter;
use crate::request::{held_answers, topology, wire};

/// Topics that are looked through beside the workers, for a client that may see a few of them: more take more than a
/// millisecond.
const INLINE_CHECKS_MAX: usize = 1_000;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let body_bytes = body.len();
    let request = match decode_request::<DescribeTopicPartitionsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let hold =
        held_answers::hold(broker, false, body_bytes, |image, is_suspect| names_leader(image, &request, is_suspect));
    let Some(hold) = hold else {
        let access = broker.access(context);
        let is_long = request.topics.is_empty() && !access.is_unlimited();
        if is_long && broker.metadata.peek().topic_count() > INLINE_CHECKS_MAX {
            let (for_later, listener) = (Arc::clone(broker), context.listener.clone());
            return Meter::of(broker, context, &header).answer(broker, move || {
                let response = respond(&for_later, &access, &listener, &request);
                Response::encode_or_close::<DescribeTopicPartitionsRequest>(&header, &response)
            });
        }
        let response = respond(broker, &access, &context.listener, &request);
        return Reply::encode::<DescribeTopicPartitionsRequest>(&header, &response);
    };
    let (broker, context) = (Arc::clone(broker), context.clone());
    Reply::later(async move {
        hold.wait(&broker.metadata, |image, is_suspect| names_leader(image, &request, is_suspect)).await;
        let response = respond(&broker, &broker.access(&context), &context.listener, &request);
        Response::encode_or_close::<DescribeTopicPartitionsRequest>(&header, &response)
    })
}

fn respond(
    broker: &Broker,
    access: &Access,
    listener: &ListenerName,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let limit = broker.config.max_request_partition_size_limit;
    answer(&broker.metadata.current(), access, listener, limit, request).unwrap_or_else(|error| {
        // The schema has an error per topic only, as Kafka's answer to an invalid request shows.
        let topics = request.topics.iter().map(|topic| failed(access, topic.name.as_str(), error)).collect();
        DescribeTopicPartitionsResponse::default().with_topics(topics)
    })
}

/// Whether a broker that `is_suspect` leads something of what was asked for; the pages are not looked at.
fn names_leader(
    image: &Image,
    request: &DescribeTopicPartitionsRequest,
    is_suspect: &dyn Fn(BrokerId) -> bool,
) -> bool {
    let is_led = |topic: &Arc<TopicImage>| topic.partitions().any(|(_, state)| is_suspect(state.leader));
    if request.topics.is_empty() {
        return image.topics().any(is_led);
    }
    request.topics.iter().filter_map(|topic| image.topic(topic.name.as_str())).any(is_led)
}

fn answer(
    image: &Image,
    access: &Access,
    listener: &ListenerName,
    configured_limit: usize,
    request: &DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, ErrorCode> {
    let (from_topic, from_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), cursor.partition_index),
        None => ("", 0),
    };
    if from_partition < 0 {
        return Err(ErrorCode::InvalidRequest);
    }
    let all = request.topics.is_empty();
    // Whether a topic exists that may not be described is not told.
    let mut hidden = BTreeSet::new();
    let names: Box<dyn Iterator<Item = &str> + '_> = if all {
        // No more of them than the page has: there may be a hundred thousand.
        let names = image.topics_from(from_topic).map(|topic| topic.name.as_str());
        Box::new(names.filter(|name| access.shows(Operation::Describe, ResourceType::Topic, name)))
    } else {
        let asked = request.topics.iter().map(|topic| topic.name.as_str()).filter(|name| *name >= from_topic);
        let asked: BTreeSet<&str> = asked.collect();
        if request.cursor.is_some() && !asked.contains(from_topic) {
            return Err(ErrorCode::InvalidRequest);
        }
        // What was named is told to the audit log.
        let (shown, denied): (BTreeSet<&str>, BTreeSet<&str>) =
            asked.into_iter().partition(|name| access.topic(Operation::Describe, name));
        hidden = denied;
        Box::new(shown.into_iter())
    };
    let mut remaining = usize::try_from(request.response_partition_limit).unwrap_or(0).min(configured_limit).max(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if remaining == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let Some(topic) = image.topic(name) else {
            // When all were asked for, the cursor may name one that has gone meanwhile.
            if !all {
                let known_as = TopicName::new(name);
                let error = if known_as.is_ok() {
                    ErrorCode::UnknownTopicOrPartition
                } else {
                    ErrorCode::InvalidTopicException
                };
                response.topics.push(failed(access, name, error));
            }
            continue;
        };
        let first = if name == from_topic { from_partition } else { 0 };
        let (described, next) = describe(image, access, topic, listener, PartitionId(first), remaining);
        remaining -= described.partitions.len();
        response.topics.push(described);
        if let Some(next) = next {
            response.next_cursor = Some(cursor(name, next.0));
            break;
        }
    }
    if !all {
        response.topics.extend(hidden.into_iter().map(|name| {
            failed(access, name, ErrorCode::TopicAuthorizationFailed)
                .with_is_internal(false)
                .with_topic_authorized_operations(wire::OPERATIONS_NOT_ASKED)
        }));
    }
    Ok(response)
}

/// At most `limit` partitions from `first`, and the one to go on with.
fn describe(
    image: &Image,
    access: &Access,
    topic: &TopicImage,
    listener: &ListenerName,
    first: PartitionId,
    limit: usize,
) -> (DescribeTopicPartitionsResponseTopic, Option<PartitionId>) {
    let mut partitions = Vec::new();
    let mut next = None;
    for (id, state) in topic.partitions().filter(|(id, _)| *id >= first) {
        if partitions.len() == limit {
            next = Some(id);
            break;
        }
        let leader = topology::reachable_leader(image, state, listener).unwrap_or(BrokerId::NONE);
        partitions.push(
            DescribeTopicPartitionsResponsePartition::default()
                .with_partition_index(id.0)
                .with_leader_id(wire::broker_id(leader))
                .with_leader_epoch(state.leader_epoch.0)
                .with_replica_nodes(wire::broker_ids(state.replicas.iter().copied()))
                .with_isr_nodes(wire::broker_ids(state.isr_ids()))
                .with_eligible_leader_replicas(Some(wire::broker_ids(state.elr.iter().copied())))
                .with_last_known_elr(Some(wire::broker_ids(state.last_known_elr.iter().copied())))
                .with_offline_replicas(wire::broker_ids(topology::offline_replicas(image, state, listener))),
        );
    }
    let described = DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(wire::topic_name(&topic.name)))
        .with_topic_id(wire::uuid(topic.id))
        .with_is_internal(wire::is_internal(topic.name.as_str()))
        .with_partitions(partitions)
        .with_topic_authorized_operations(access.operations(ResourceType::Topic, topic.name.as_str()));
    (described, next)
}

fn failed(access: &Access, name: &str, error: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(messages::TopicName(wire::text(name))))
        .with_is_internal(wire::is_internal(name))
        .with_topic_authorized_operations(access.operations(ResourceType::Topic, name))
}

fn cursor(topic: &str, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(messages::TopicName(wire::text(topic))).with_partition_index(partition)
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::describe_topic_partitions_request as request;

    use super::*;
    use crate::request::test_image::{CLIENT, image};

    fn ask(request: &DescribeTopicPartitionsRequest) -> Result<DescribeTopicPartitionsResponse, ErrorCode> {
        answer(&image(), &Access::unlimited(), &ListenerName::new(CLIENT), 2000, request)
    }

    fn from(topic: &str, partition: i32) -> Option<request::Cursor> {
        let topic = messages::TopicName(wire::text(topic));
        Some(request::Cursor::default().with_topic_name(topic).with_partition_index(partition))
    }

    #[test]
    fn pages_go_on_where_they_ended() {
        let first = ask(&DescribeTopicPartitionsRequest::default().with_response_partition_limit(1)).expect("valid");
        assert_eq!(first.topics[0].partitions.len(), 1);
        let cursor = first.next_cursor.expect("there is more");
        assert_eq!((cursor.topic_name.as_str(), cursor.partition_index), ("t", 1));
        let rest = DescribeTopicPartitionsRequest::default()
            .with_response_partition_limit(100)
            .with_cursor(from("t", cursor.partition_index));
        let rest = ask(&rest).expect("valid");
        assert_eq!(rest.topics[0].partitions[0].partition_index, 1);
        assert_eq!(rest.topics[0].partitions[0].eligible_leader_replicas.as_ref().map(Vec::len), Some(1));
        assert!(rest.next_cursor.is_none());
        // The topic of a cursor may have gone.
        let all = DescribeTopicPartitionsRequest::default().with_response_partition_limit(100);
        let names = |cursor| ask(&all.clone().with_cursor(from(cursor, 0))).expect("valid").topics.len();
        assert_eq!((names("s"), names("t"), names("u")), (1, 1, 0));
    }

    #[test]
    fn names_that_do_not_exist_and_cursors_that_cannot_be() {
        let name = |name| request::TopicRequest::default().with_name(messages::TopicName(wire::text(name)));
        let asked = DescribeTopicPartitionsRequest::default().with_response_partition_limit(10).with_topics(vec![
            name("t"),
            name("nope"),
            name("a b"),
        ]);
        let codes: Vec<_> = ask(&asked).expect("valid").topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [ErrorCode::InvalidTopicException.code(), ErrorCode::UnknownTopicOrPartition.code(), 0]);
        assert_eq!(ask(&asked.clone().with_cursor(from("zzz", 0))).err(), Some(ErrorCode::InvalidRequest));
        assert_eq!(ask(&asked.with_cursor(from("t", -1))).err(), Some(ErrorCode::InvalidRequest));
    }
}
