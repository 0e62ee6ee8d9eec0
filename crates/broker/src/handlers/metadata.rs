//! Metadata (3): brokers, topics and leaders, as the client's listener reaches them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_metadata::{BrokerRegistration, Image, PartitionState, TopicImage};
use ottla_model::{BrokerId, ErrorCode, ListenerName, PartitionId, TopicId, TopicName};
use ottla_network::response::{Reply, Response};
use ottla_protocol::frame::FrameOverflow;
use ottla_protocol::kafka_protocol::messages::MetadataRequest;
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::messages::metadata::{self, ResponseWriter};
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::meter::Meter;
use crate::request::shared_responses::Form;
use crate::request::{held_answers, topology, wire};

/// The first version in which topics may be asked for by id.
const TOPIC_IDS_FROM: i16 = 12;
/// From here a leader without the client's listener is told from no leader.
const LISTENER_NOT_FOUND_FROM: i16 = 6;
/// A response with more partitions is made beside the workers: it takes more than a millisecond.
const INLINE_PARTITIONS_MAX: usize = 500;
/// About what an answer takes beside brokers and topics; a broker; a topic beside its name; a partition beside its
/// replicas and its ISR.
const HEAD_BYTES: usize = 64;
const BROKER_BYTES: usize = 64;
const TOPIC_BYTES: usize = 40;
const PARTITION_BYTES: usize = 32;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let body_bytes = body.len();
    let request = match decode_request::<MetadataRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let version = header.api_version;
    let may_know_more = held_answers::may_know_more(context.opened);
    let hold = held_answers::hold(broker, may_know_more, body_bytes, |image, is_suspect| {
        names_leader(image, version, &request, is_suspect)
    });
    let Some(hold) = hold else { return answer_now(broker, context, header, request) };
    let (broker, context) = (Arc::clone(broker), context.clone());
    Reply::later(async move {
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
) -> Reply {
    let image = broker.metadata.current();
    let access = broker.access(context);
    let departed = broker.metadata.departed().listed();
    let form = form_of_all(&access, &departed, &context.listener, header.api_version, &request);
    let made =
        form.as_ref().and_then(|form| broker.metadata_responses.get(image.revision(), form, header.correlation_id));
    if let Some(response) = made {
        return Reply::Ready(response);
    }
    if partitions(&image, header.api_version, &request) <= INLINE_PARTITIONS_MAX {
        return Reply::Ready(respond(broker, &access, &context.listener, &header, &request));
    }
    let (for_later, listener) = (Arc::clone(broker), context.listener.clone());
    Meter::of(broker, context, &header)
        .answer(broker, move || respond(&for_later, &access, &listener, &header, &request))
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
        _ => image.partition_count(),
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
    let (frame, missing) = answer(&image, &scope, (header.api_version, header.correlation_id), request);
    if creates {
        for name in missing {
            broker.auto_creation.create(broker, name);
        }
    }
    if let (Some(form), Ok(frame)) = (form, &frame) {
        broker.metadata_responses.put(image.revision(), form, frame.clone());
    }
    Response::or_close(frame.map(Response::bytes))
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

/// A topic of an answer.
enum Shown<'a> {
    Known(&'a TopicImage),
    /// With its name and id, as far as the client may see them.
    Not(ErrorCode, Option<&'a str>, TopicId),
}

/// The whole frame of the answer, and the names of topics that do not exist but could.
fn answer(
    image: &Image,
    scope: &Scope<'_>,
    (version, correlation_id): (i16, i32),
    request: &MetadataRequest,
) -> (Result<Bytes, FrameOverflow>, Vec<TopicName>) {
    let Scope { access, cluster_id, listener, .. } = *scope;
    let mut missing = Vec::new();
    let topics = match &request.topics {
        Some(asked) if !asks_for_all(version, request) => {
            if version < TOPIC_IDS_FROM && asked.iter().any(|topic| topic.name.is_none() || !topic.topic_id.is_nil()) {
                return (refused(version, correlation_id, asked), missing);
            }
            shown_topics(image, scope, asked, &mut missing)
        }
        _ => {
            let is_shown =
                |topic: &&Arc<TopicImage>| access.shows(Operation::Describe, ResourceType::Topic, topic.name.as_str());
            image.topics().filter(is_shown).map(|topic| Shown::Known(topic)).collect()
        }
    };
    let departed = scope.departed.iter().filter(|broker| topology::live(image, broker.id).is_none());
    // One that has registered again says where it will listen.
    let departed = departed.map(|broker| image.broker(broker.id).unwrap_or(broker));
    let departed = departed.filter_map(|broker| Some((&**broker, broker.endpoint(listener)?)));
    let live = topology::live_brokers(image, listener).chain(departed).map(|(broker, endpoint)| metadata::Broker {
        id: broker.id,
        host: &endpoint.host,
        port: endpoint.port,
        rack: broker.rack.as_deref(),
    });
    let brokers: Vec<_> = live.collect();
    let head =
        metadata::Head { brokers: &brokers, cluster_id: Some(cluster_id), controller: topology::controller(image) };
    let bytes = HEAD_BYTES + brokers.len() * BROKER_BYTES + topics.iter().map(Shown::about_bytes).sum::<usize>();
    let mut writer = ResponseWriter::begin(version, correlation_id, bytes, &head, topics.len());
    for topic in &topics {
        topic.write(&mut writer, image, listener, version);
        let named = topic.told_name().filter(|_| request.include_topic_authorized_operations);
        let operations = named.map(|name| access.operations(ResourceType::Topic, name));
        writer.end_topic(operations.unwrap_or(wire::OPERATIONS_NOT_ASKED));
    }
    let operations = if request.include_cluster_authorized_operations {
        access.cluster_operations()
    } else {
        wire::OPERATIONS_NOT_ASKED
    };
    (writer.finish(operations), missing)
}

/// The topics that the request names, each once.
fn shown_topics<'a>(
    image: &'a Image,
    scope: &Scope<'_>,
    asked: &'a [MetadataRequestTopic],
    missing: &mut Vec<TopicName>,
) -> Vec<Shown<'a>> {
    let access = scope.access;
    let mut topics = Vec::with_capacity(asked.len());
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
                    Shown::Not(ErrorCode::TopicAuthorizationFailed, None, id)
                }
                Some(found) => Shown::Known(found),
                None => Shown::Not(ErrorCode::UnknownTopicId, None, id),
            });
        } else if let Some(name) = topic.name.as_ref().map(|name| name.as_str()) {
            if !seen_names.insert(name) {
                continue;
            }
            let denied = Shown::Not(ErrorCode::TopicAuthorizationFailed, Some(name), TopicId::ZERO);
            // Without DESCRIBE the answer does not show whether it exists.
            if !access.topic(Operation::Describe, name) {
                topics.push(denied);
                continue;
            }
            topics.push(match image.topic(name) {
                Some(found) => Shown::Known(found),
                None if scope.creates && !may_create(access, name) => denied,
                None => unknown_name(name, missing),
            });
        }
    }
    topics
}

fn unknown_name<'a>(name: &'a str, missing: &mut Vec<TopicName>) -> Shown<'a> {
    let error = match TopicName::new(name) {
        Ok(name) => {
            missing.push(name);
            ErrorCode::UnknownTopicOrPartition
        }
        Err(_) => ErrorCode::InvalidTopicException,
    };
    Shown::Not(error, Some(name), TopicId::ZERO)
}

impl Shown<'_> {
    /// The size of the frame need not be exact: too small a number costs a copy.
    fn about_bytes(&self) -> usize {
        match self {
            Self::Known(topic) => {
                let partition_bytes = PARTITION_BYTES + 2 * topic.replication_factor() * size_of::<i32>();
                topic.name.as_str().len() + TOPIC_BYTES + topic.partition_count() * partition_bytes
            }
            Self::Not(_, name, _) => name.map_or(0, str::len) + TOPIC_BYTES,
        }
    }

    /// The name; none if the client is told nothing of the topic.
    fn told_name(&self) -> Option<&str> {
        match self {
            Self::Known(topic) => Some(topic.name.as_str()),
            Self::Not(ErrorCode::TopicAuthorizationFailed, ..) => None,
            Self::Not(_, name, _) => *name,
        }
    }

    /// Without what follows the partitions.
    fn write(&self, writer: &mut ResponseWriter, image: &Image, listener: &ListenerName, version: i16) {
        let is_internal = self.told_name().is_some_and(wire::is_internal);
        match self {
            Self::Known(topic) => {
                let (id, name) = (topic.id, Some(topic.name.as_str()));
                let head = metadata::Topic { error: ErrorCode::None, name, id, is_internal };
                writer.topic(&head, topic.partition_count());
                for (id, state) in topic.partitions() {
                    write_partition(writer, image, id, state, listener, version);
                }
            }
            Self::Not(error, name, id) => {
                writer.topic(&metadata::Topic { error: *error, name: *name, id: *id, is_internal }, 0);
            }
        }
    }
}

fn write_partition(
    writer: &mut ResponseWriter,
    image: &Image,
    id: PartitionId,
    state: &PartitionState,
    listener: &ListenerName,
    version: i16,
) {
    let (leader, error) = match topology::reachable_leader(image, state, listener) {
        Ok(leader) => (leader, ErrorCode::None),
        Err(reason) if version >= LISTENER_NOT_FOUND_FROM => (BrokerId::NONE, reason),
        Err(_) => (BrokerId::NONE, ErrorCode::LeaderNotAvailable),
    };
    // Version 0 names only brokers that it also lists, and reports an error for a partition with missing replicas.
    let is_listed = |id: &BrokerId| version > 0 || topology::live_endpoint(image, *id, listener).is_some();
    let replicas = state.replicas.iter().copied();
    let error = match error {
        ErrorCode::None if !replicas.clone().chain(state.isr_ids()).all(|id| is_listed(&id)) => {
            ErrorCode::ReplicaNotAvailable
        }
        error => error,
    };
    writer.partition(&metadata::Partition {
        error,
        partition: id,
        leader,
        leader_epoch: state.leader_epoch,
        replicas: replicas.filter(is_listed),
        isr: state.isr_ids().filter(is_listed),
        offline: topology::offline_replicas(image, state, listener),
    });
}

/// A request by id in a version whose answer cannot say so.
fn refused(version: i16, correlation_id: i32, asked: &[MetadataRequestTopic]) -> Result<Bytes, FrameOverflow> {
    let head = metadata::Head { brokers: &[], cluster_id: None, controller: BrokerId::NONE };
    let bytes = HEAD_BYTES + asked.len() * TOPIC_BYTES;
    let mut writer = ResponseWriter::begin(version, correlation_id, bytes, &head, asked.len());
    for topic in asked {
        let (name, id) = (topic.name.as_ref().map_or("", |name| name.as_str()), wire::topic_id(topic.topic_id));
        let error = ErrorCode::InvalidRequest;
        writer.topic(&metadata::Topic { error, name: Some(name), id, is_internal: false }, 0);
        writer.end_topic(wire::OPERATIONS_NOT_ASKED);
    }
    writer.finish(wire::OPERATIONS_NOT_ASKED)
}

#[cfg(test)]
mod tests {
    use ottla_protocol::decode_response;
    use ottla_protocol::frame::LENGTH_BYTES;
    use ottla_protocol::kafka_protocol::messages::{self, MetadataResponse};

    use super::*;
    use crate::request::test_image::{CLIENT, INTERNAL, image};

    const CORRELATION_ID: i32 = 5;

    fn ask(version: i16, listener: &str, request: &MetadataRequest) -> (MetadataResponse, Vec<TopicName>) {
        ask_with(version, listener, &[], request)
    }

    fn ask_with(
        version: i16,
        listener: &str,
        departed: &[Arc<BrokerRegistration>],
        request: &MetadataRequest,
    ) -> (MetadataResponse, Vec<TopicName>) {
        let (access, listener) = (Access::unlimited(), ListenerName::new(listener));
        let scope = Scope { access: &access, departed, cluster_id: "cluster", listener: &listener, creates: false };
        let (frame, missing) = answer(&image(), &scope, (version, CORRELATION_ID), request);
        let frame = frame.expect("a short frame").slice(LENGTH_BYTES..);
        let (correlation_id, response) = decode_response::<MetadataRequest>(version, frame).expect("decodes");
        assert_eq!(correlation_id, CORRELATION_ID);
        (response, missing)
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
            let departed = [not_seen_yet.clone(), left.clone()];
            let (response, _) = ask_with(9, listener, &departed, &named(&["t"]));
            response.brokers.iter().map(|broker| broker.node_id.0).collect::<Vec<i32>>()
        };
        assert_eq!(listed(CLIENT), [1, 2, 9]);
        assert!(listed("NOBODY").is_empty());
        // One that has registered again, and is not ready yet.
        let again = image().broker(BrokerId(3)).expect("registered").clone();
        let (response, _) = ask_with(9, CLIENT, &[again], &named(&["t"]));
        assert_eq!(response.brokers.iter().map(|broker| broker.node_id.0).collect::<Vec<i32>>(), [1, 2, 3]);
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

    /// The frame is what Kafka's schema makes of the same response: nothing is left out or added.
    #[test]
    fn every_version_is_as_the_schema_has_it() {
        let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(wire::WireUuid::from_u128(9));
        let by_id = MetadataRequest::default().with_topics(Some(vec![by_id]));
        let requests = (0..=13).map(|version| (version, named(&["t", "nope", "__consumer_offsets"])));
        for (version, request) in requests.chain((10..=13).map(|version| (version, by_id.clone()))) {
            let request = request
                .with_include_topic_authorized_operations(version >= 8)
                .with_include_cluster_authorized_operations((8..=10).contains(&version));
            let (access, listener) = (Access::unlimited(), ListenerName::new(CLIENT));
            let scope =
                Scope { access: &access, departed: &[], cluster_id: "cluster", listener: &listener, creates: false };
            let (frame, _) = answer(&image(), &scope, (version, CORRELATION_ID), &request);
            let (response, _) = ask(version, CLIENT, &request);
            let theirs = ottla_protocol::encode_response::<MetadataRequest>(version, CORRELATION_ID, &response);
            assert_eq!(frame.expect("a short frame"), theirs.expect("encodes"), "version {version}");
        }
    }
}
