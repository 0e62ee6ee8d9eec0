//! Metadata (3): brokers, topics and leaders, as the client's listener reaches them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_metadata::{BrokerRegistration, Image, PartitionState, TopicImage};
use ottla_model::{BrokerId, ErrorCode, ListenerName, PartitionId, TopicId, TopicName};
use ottla_network::response::{Answer, Part, Response};
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use ottla_protocol::kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::shared_responses::Form;
use crate::request::{held_answers, topology, wire};

/// The first version in which topics may be asked for by id.
const TOPIC_IDS_FROM: i16 = 12;
/// From here a leader without the client's listener is told from no leader.
const LISTENER_NOT_FOUND_FROM: i16 = 6;
/// A response with more partitions is made beside the workers: it takes more than a millisecond.
const INLINE_PARTITIONS_MAX: usize = 500;
/// The versions in which the cluster's authorized operations are part of the answer.
const CLUSTER_OPERATIONS_IN: std::ops::RangeInclusive<i16> = 8..=10;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let body_bytes = body.len();
    let request = match decode_request::<MetadataRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Answer::close(error),
    };
    let version = header.api_version;
    let may_know_more = held_answers::may_know_more(context.opened);
    let hold = held_answers::hold(broker, may_know_more, body_bytes, |image, is_suspect| {
        names_leader(image, version, &request, is_suspect)
    });
    let Some(hold) = hold else { return answer_now(broker, context, header, request) };
    let (broker, context) = (Arc::clone(broker), context.clone());
    Answer::later(async move {
        hold.wait(&broker.metadata, |image, is_suspect| names_leader(image, version, &request, is_suspect)).await;
        drop(hold);
        held_answers::response(answer_now(&broker, &context, header, request)).await
    })
}

fn answer_now(
    broker: &Arc<Broker>,
    context: &RequestContext,
    header: RequestHeader,
    request: MetadataRequest,
) -> Answer {
    let image = broker.metadata.current();
    let access = broker.access(context);
    let departed = broker.metadata.departed().listed();
    let form = form_of_all(&access, &departed, &context.listener, header.api_version, &request);
    let made =
        form.as_ref().and_then(|form| broker.metadata_responses.get(image.revision(), form, header.correlation_id));
    if let Some(response) = made {
        return Answer::Ready(response);
    }
    if partitions(&image, header.api_version, &request) <= INLINE_PARTITIONS_MAX {
        return Answer::Ready(respond(broker, &access, &context.listener, &header, &request));
    }
    let (for_later, listener) = (Arc::clone(broker), context.listener.clone());
    broker.heavy_work.answer(move || respond(&for_later, &access, &listener, &header, &request))
}

/// Whether the request is for all topics.
fn asks_for_all(version: i16, request: &MetadataRequest) -> bool {
    request.topics.as_ref().is_none_or(|asked| version == 0 && asked.is_empty())
}

/// What the response depends on, if it is for all topics and shows all of them.
fn form_of_all(
    access: &Access,
    departed: &[Arc<BrokerRegistration>],
    listener: &ListenerName,
    version: i16,
    request: &MetadataRequest,
) -> Option<Form> {
    (access.is_unlimited() && asks_for_all(version, request)).then(|| Form {
        departed: departed.iter().map(|broker| broker.id).collect(),
        listener: listener.clone(),
        version,
        topic_operations: request.include_topic_authorized_operations,
        cluster_operations: request.include_cluster_authorized_operations,
    })
}

/// Whether a broker that `is_suspect` leads something of what the response names.
fn names_leader(image: &Image, version: i16, request: &MetadataRequest, is_suspect: &dyn Fn(BrokerId) -> bool) -> bool {
    let is_led = |topic: &Arc<TopicImage>| topic.partitions().any(|(_, state)| is_suspect(state.leader));
    match &request.topics {
        Some(asked) if !asks_for_all(version, request) => {
            asked.iter().filter_map(|topic| asked_topic(image, topic)).any(is_led)
        }
        _ => image.topics().any(is_led),
    }
}

fn asked_topic<'a>(image: &'a Image, asked: &MetadataRequestTopic) -> Option<&'a Arc<TopicImage>> {
    match &asked.name {
        Some(name) => image.topic(name.as_str()),
        None => image.topic_by_id(wire::topic_id(asked.topic_id)),
    }
}

/// How many partitions the response may have.
fn partitions(image: &Image, version: i16, request: &MetadataRequest) -> usize {
    match &request.topics {
        Some(asked) if !asks_for_all(version, request) => {
            asked.iter().filter_map(|topic| asked_topic(image, topic)).map(|topic| topic.partition_count()).sum()
        }
        _ => image.topics().map(|topic| topic.partition_count()).sum(),
    }
}

fn respond(
    broker: &Arc<Broker>,
    access: &Access,
    listener: &ListenerName,
    header: &RequestHeader,
    request: &MetadataRequest,
) -> Response {
    let image = broker.metadata.current();
    let departed = broker.metadata.departed().listed();
    let form = form_of_all(access, &departed, listener, header.api_version, request);
    // Somebody may have made it while this request waited.
    let made =
        form.as_ref().and_then(|form| broker.metadata_responses.get(image.revision(), form, header.correlation_id));
    if let Some(response) = made {
        return response;
    }
    let creates = request.allow_auto_topic_creation && broker.config.auto_create_topics_enable;
    let scope = Scope { access, departed: &departed, cluster_id: broker.cluster_id.as_str(), listener, creates };
    let (response, missing) = answer(&image, &scope, header.api_version, request);
    if creates {
        for name in missing {
            broker.auto_creation.create(broker, name);
        }
    }
    let response = Response::encode_or_close::<MetadataRequest>(header, &response);
    if let (Some(form), [Part::Bytes(frame)]) = (form, response.parts.as_slice()) {
        broker.metadata_responses.put(image.revision(), form, frame.clone());
    }
    response
}

/// What an answer depends on beside the image and the request.
#[derive(Clone, Copy)]
struct Scope<'a> {
    access: &'a Access,
    /// Brokers that have just gone, and are listed for a while.
    departed: &'a [Arc<BrokerRegistration>],
    cluster_id: &'a str,
    listener: &'a ListenerName,
    /// A topic that is missing is created.
    creates: bool,
}

fn may_create(access: &Access, topic: &str) -> bool {
    if access.shows(Operation::Create, ResourceType::Cluster, CLUSTER) {
        access.granted(Operation::Create, topic);
        return true;
    }
    access.topic(Operation::Create, topic)
}

/// The answer, and the names of topics that do not exist but could.
fn answer(
    image: &Image,
    scope: &Scope<'_>,
    version: i16,
    request: &MetadataRequest,
) -> (MetadataResponse, Vec<TopicName>) {
    let Scope { access, cluster_id, listener, .. } = *scope;
    let is_shown =
        |topic: &&Arc<TopicImage>| access.shows(Operation::Describe, ResourceType::Topic, topic.name.as_str());
    let mut topics = Vec::new();
    let mut missing = Vec::new();
    match &request.topics {
        None => topics.extend(image.topics().filter(is_shown).map(|topic| known(image, topic, listener, version))),
        Some(asked) if version == 0 && asked.is_empty() => {
            topics.extend(image.topics().filter(is_shown).map(|topic| known(image, topic, listener, version)));
        }
        Some(asked) => {
            if version < TOPIC_IDS_FROM && asked.iter().any(|topic| topic.name.is_none() || !topic.topic_id.is_nil()) {
                return (refused(asked), missing);
            }
            // As Kafka: one id makes it a request by ids.
            let by_id = asked.iter().any(|topic| !topic.topic_id.is_nil());
            let mut seen_ids = BTreeSet::new();
            let mut seen_names = BTreeSet::new();
            for topic in asked {
                if by_id {
                    let id = wire::topic_id(topic.topic_id);
                    if id.is_zero() || !seen_ids.insert(id) {
                        continue;
                    }
                    topics.push(match image.topic_by_id(id) {
                        // An id is no secret; the name is.
                        Some(found) if !access.topic(Operation::Describe, found.name.as_str()) => {
                            unknown_id(id).with_error_code(ErrorCode::TopicAuthorizationFailed.code())
                        }
                        Some(found) => known(image, found, listener, version),
                        None => unknown_id(id),
                    });
                } else if let Some(name) = topic.name.as_ref().map(|name| name.as_str()) {
                    if !seen_names.insert(name) {
                        continue;
                    }
                    // Without DESCRIBE the answer does not show whether it exists.
                    if !access.topic(Operation::Describe, name) {
                        topics.push(denied(name));
                        continue;
                    }
                    match image.topic(name) {
                        Some(found) => topics.push(known(image, found, listener, version)),
                        None if scope.creates && !may_create(access, name) => topics.push(denied(name)),
                        None => topics.push(unknown_name(name, &mut missing)),
                    }
                }
            }
        }
    }
    if request.include_topic_authorized_operations {
        let is_told = |topic: &&mut MetadataResponseTopic| {
            topic.name.is_some() && topic.error_code != ErrorCode::TopicAuthorizationFailed.code()
        };
        for topic in topics.iter_mut().filter(is_told) {
            let name = topic.name.as_ref().map_or("", |name| name.as_str());
            topic.topic_authorized_operations = access.operations(ResourceType::Topic, name);
        }
    }
    let departed = scope.departed.iter().filter(|broker| image.broker(broker.id).is_none());
    let departed = departed.filter_map(|broker| Some((&**broker, broker.endpoint(listener)?)));
    let brokers = topology::live_brokers(image, listener)
        .chain(departed)
        .map(|(broker, endpoint)| {
            MetadataResponseBroker::default()
                .with_node_id(wire::broker_id(broker.id))
                .with_host(wire::text(&endpoint.host))
                .with_port(i32::from(endpoint.port))
                .with_rack(broker.rack.as_deref().map(wire::text))
        })
        .collect();
    let operations = if CLUSTER_OPERATIONS_IN.contains(&version) && request.include_cluster_authorized_operations {
        access.cluster_operations()
    } else {
        wire::OPERATIONS_NOT_ASKED
    };
    let response = MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id(Some(wire::text(cluster_id)))
        .with_controller_id(wire::broker_id(topology::controller(image)))
        .with_topics(topics)
        .with_cluster_authorized_operations(operations);
    (response, missing)
}

fn known(image: &Image, topic: &TopicImage, listener: &ListenerName, version: i16) -> MetadataResponseTopic {
    let partitions = topic.partitions().map(|(id, state)| partition(image, id, state, listener, version)).collect();
    MetadataResponseTopic::default()
        .with_name(Some(wire::topic_name(&topic.name)))
        .with_topic_id(wire::uuid(topic.id))
        .with_is_internal(wire::is_internal(topic.name.as_str()))
        .with_partitions(partitions)
        .with_topic_authorized_operations(wire::OPERATIONS_NOT_ASKED)
}

fn partition(
    image: &Image,
    id: PartitionId,
    state: &PartitionState,
    listener: &ListenerName,
    version: i16,
) -> MetadataResponsePartition {
    let mut replicas = state.replicas.clone();
    let mut isr: Vec<BrokerId> = state.isr_ids().collect();
    let mut error = ErrorCode::None;
    let leader = match topology::reachable_leader(image, state, listener) {
        Ok(leader) => leader,
        Err(reason) => {
            error = if version >= LISTENER_NOT_FOUND_FROM { reason } else { ErrorCode::LeaderNotAvailable };
            BrokerId::NONE
        }
    };
    // Version 0 names only brokers that it also lists, and reports an error for a partition with missing replicas.
    if version == 0 {
        let whole = replicas.len() + isr.len();
        replicas.retain(|id| topology::live_endpoint(image, *id, listener).is_some());
        isr.retain(|id| topology::live_endpoint(image, *id, listener).is_some());
        if error.is_ok() && replicas.len() + isr.len() < whole {
            error = ErrorCode::ReplicaNotAvailable;
        }
    }
    MetadataResponsePartition::default()
        .with_error_code(error.code())
        .with_partition_index(id.0)
        .with_leader_id(wire::broker_id(leader))
        .with_leader_epoch(state.leader_epoch.0)
        .with_replica_nodes(wire::broker_ids(replicas))
        .with_isr_nodes(wire::broker_ids(isr))
        .with_offline_replicas(wire::broker_ids(topology::offline_replicas(image, state, listener)))
}

fn unknown_id(id: TopicId) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(ErrorCode::UnknownTopicId.code())
        .with_name(None)
        .with_topic_id(wire::uuid(id))
        .with_topic_authorized_operations(wire::OPERATIONS_NOT_ASKED)
}

fn denied(name: &str) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(ErrorCode::TopicAuthorizationFailed.code())
        .with_name(Some(messages::TopicName(wire::text(name))))
        .with_topic_authorized_operations(wire::OPERATIONS_NOT_ASKED)
}

fn unknown_name(name: &str, missing: &mut Vec<TopicName>) -> MetadataResponseTopic {
    let error = match TopicName::new(name) {
        Ok(name) => {
            missing.push(name);
            ErrorCode::UnknownTopicOrPartition
        }
        Err(_) => ErrorCode::InvalidTopicException,
    };
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(messages::TopicName(wire::text(name))))
        .with_is_internal(wire::is_internal(name))
        .with_topic_authorized_operations(wire::OPERATIONS_NOT_ASKED)
}

/// A request by id in a version whose answer cannot say so.
fn refused(asked: &[MetadataRequestTopic]) -> MetadataResponse {
    let topics = asked
        .iter()
        .map(|topic| {
            MetadataResponseTopic::default()
                .with_error_code(ErrorCode::InvalidRequest.code())
                .with_name(Some(topic.name.clone().unwrap_or_default()))
                .with_topic_id(topic.topic_id)
                .with_topic_authorized_operations(wire::OPERATIONS_NOT_ASKED)
        })
        .collect();
    MetadataResponse::default()
        .with_controller_id(wire::broker_id(BrokerId::NONE))
        .with_topics(topics)
        .with_cluster_authorized_operations(wire::OPERATIONS_NOT_ASKED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_image::{CLIENT, INTERNAL, image};

    fn ask(version: i16, listener: &str, request: &MetadataRequest) -> (MetadataResponse, Vec<TopicName>) {
        let (access, listener) = (Access::unlimited(), ListenerName::new(listener));
        let scope =
            Scope { access: &access, departed: &[], cluster_id: "cluster", listener: &listener, creates: false };
        answer(&image(), &scope, version, request)
    }

    fn named(names: &[&'static str]) -> MetadataRequest {
        let topic = |name| MetadataRequestTopic::default().with_name(Some(messages::TopicName(wire::text(name))));
        MetadataRequest::default().with_topics(Some(names.iter().copied().map(topic).collect()))
    }

    #[test]
    fn null_means_all_topics_and_empty_means_none_but_in_version_0() {
        let all = MetadataRequest::default().with_topics(None);
        assert_eq!(ask(1, CLIENT, &all).0.topics.len(), 1);
        assert_eq!(ask(1, CLIENT, &named(&[])).0.topics.len(), 0);
        assert_eq!(ask(0, CLIENT, &named(&[])).0.topics.len(), 1);
    }

    #[test]
    fn endpoints_are_those_of_the_listener() {
        let ports = |listener| {
            let (response, _) = ask(13, listener, &named(&[]));
            response.brokers.iter().map(|broker| (broker.node_id.0, broker.port)).collect::<Vec<_>>()
        };
        assert_eq!(ports(CLIENT), [(1, 19092), (2, 29092)]);
        assert_eq!(ports(INTERNAL), [(1, 19093), (2, 29093)]);
        assert_eq!(ports("NOBODY"), []);
    }

    #[test]
    fn brokers_that_have_just_left_are_listed_once_and_lead_nothing() {
        let left =
            Arc::new(BrokerRegistration { id: BrokerId(9), ..(**image().broker(BrokerId(1)).expect("live")).clone() });
        let not_seen_yet = image().broker(BrokerId(2)).expect("live").clone();
        let listed = |listener| {
            let listener = ListenerName::new(listener);
            let departed = [not_seen_yet.clone(), left.clone()];
            let access = Access::unlimited();
            let scope = Scope {
                access: &access,
                departed: &departed,
                cluster_id: "cluster",
                listener: &listener,
                creates: false,
            };
            let (response, _) = answer(&image(), &scope, 9, &named(&["t"]));
            response.brokers.iter().map(|broker| broker.node_id.0).collect::<Vec<i32>>()
        };
        assert_eq!(listed(CLIENT), [1, 2, 9]);
        assert!(listed("NOBODY").is_empty());
    }

    #[test]
    fn leaders_are_named_with_epochs_or_with_why_not() {
        let (response, _) = ask(9, CLIENT, &named(&["t"]));
        let partitions = &response.topics[0].partitions;
        assert_eq!((partitions[0].leader_id.0, partitions[0].leader_epoch, partitions[0].error_code), (1, 5, 0));
        assert_eq!(partitions[0].offline_replicas.iter().map(|id| id.0).collect::<Vec<_>>(), [3]);
        assert_eq!(partitions[1].leader_id.0, -1);
        assert_eq!(partitions[1].error_code, ErrorCode::LeaderNotAvailable.code());
        let (response, _) = ask(9, "NOBODY", &named(&["t"]));
        assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::ListenerNotFound.code());
        let (response, _) = ask(5, "NOBODY", &named(&["t"]));
        assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::LeaderNotAvailable.code());
        let (response, _) = ask(0, CLIENT, &named(&["t"]));
        assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::ReplicaNotAvailable.code());
    }

    #[test]
    fn unknown_topics_are_told_by_name_id_or_rule() {
        let (response, missing) = ask(4, CLIENT, &named(&["nope", "ba/d", "nope"]));
        let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [ErrorCode::UnknownTopicOrPartition.code(), ErrorCode::InvalidTopicException.code()]);
        assert_eq!(missing.iter().map(TopicName::as_str).collect::<Vec<_>>(), ["nope"]);
        let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(wire::WireUuid::from_u128(id));
        let request = MetadataRequest::default().with_topics(Some(vec![by_id(77), by_id(7)]));
        let (response, _) = ask(12, CLIENT, &request);
        assert_eq!(response.topics[0].error_code, ErrorCode::UnknownTopicId.code());
        assert_eq!(response.topics[1].name.as_ref().map(|name| name.as_str()), Some("t"));
        let (response, _) = ask(11, CLIENT, &request);
        assert_eq!(response.topics[0].error_code, ErrorCode::InvalidRequest.code());
    }

    #[test]
    fn operations_are_told_only_when_asked() {
        let (response, _) = ask(8, CLIENT, &named(&["t"]));
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        assert_eq!(response.topics[0].topic_authorized_operations, i32::MIN);
        let request = named(&["t"])
            .with_include_cluster_authorized_operations(true)
            .with_include_topic_authorized_operations(true);
        let (response, _) = ask(8, CLIENT, &request);
        assert_eq!(response.cluster_authorized_operations, 8096);
        assert_eq!(response.topics[0].topic_authorized_operations, 3576);
    }

    #[test]
    fn every_version_encodes() {
        for version in 0..=13 {
            let (response, _) = ask(version, CLIENT, &named(&["t", "nope"]));
            ottla_protocol::encode_response::<MetadataRequest>(version, 1, &response).expect("encodes");
        }
        let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(wire::WireUuid::from_u128(9));
        let request = MetadataRequest::default().with_topics(Some(vec![by_id]));
        for version in 10..=13 {
            let (response, _) = ask(version, CLIENT, &request);
            ottla_protocol::encode_response::<MetadataRequest>(version, 1, &response).expect("encodes");
        }
    }
}
