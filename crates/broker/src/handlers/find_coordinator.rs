//! FindCoordinator (10), versions 0 to 6: which broker coordinates a group or a transactional id. Share groups are not
//! built; their clients get a definite error.
//!
//! Where there is no coordinator at the moment (the topic is being created, its broker has just died) the answer waits
//! a little: a client that gets COORDINATOR_NOT_AVAILABLE waits much longer before it asks again. So does the answer
//! that would name a coordinator that has just died and has no successor yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::Image;
use ottla_model::{BrokerId, ErrorCode, ListenerName, PartitionId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::find_coordinator_response::Coordinator;
use ottla_protocol::kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::{RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::groups::{self, OFFSETS_TOPIC};
use crate::internal_topic::InternalTopic;
use crate::request::RequestContext;
use crate::request::{held_answers, topology, wire};
use crate::transactions::{self, STATE_TOPIC};

/// The types of keys.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// The first version that asks for several keys.
const BATCHED_FROM: i16 = 4;
/// The first version that knows share groups.
const SHARE_FROM: i16 = 6;

/// How long an answer waits for a coordinator. Other answers of the connection wait behind it.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Keys of a request whose answer waits: each change of the metadata looks at all of them again, on a worker. A client
/// that asks for more is told at once what it is to ask again.
const WAITING_KEYS_MAX: usize = 1_000;

const UNAVAILABLE: &str = "The coordinator is not available.";

/// Where a coordinator is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    id: BrokerId,
    host: String,
    port: u16,
}

type Found = Result<Place, (ErrorCode, String)>;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let body_bytes = body.len();
    let mut request = match decode_request::<FindCoordinatorRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    // A key takes two bytes in the request, its coordinator's host up to 255 in the response: each is answered once.
    let mut seen = BTreeSet::new();
    request.coordinator_keys.retain(|key| seen.insert(key.clone()));
    let version = header.api_version;
    let may_know_more = held_answers::may_know_more(context.opened);
    let hold = if may_wait(version, &request) {
        held_answers::hold(broker, may_know_more, body_bytes, |image, is_suspect| {
            names_leader(image, version, &request, is_suspect)
        })
    } else {
        None
    };
    let access = broker.access(context);
    let listener = context.listener.clone();
    let Some(hold) = hold else { return answer_now(broker, access, listener, header, request, body_bytes) };
    let broker = Arc::clone(broker);
    Reply::later(async move {
        hold.wait(&broker.metadata, |image, is_suspect| names_leader(image, version, &request, is_suspect)).await;
        drop(hold);
        held_answers::response(answer_now(&broker, access, listener, header, request, body_bytes)).await
    })
}

fn answer_now(
    broker: &Arc<Broker>,
    access: Access,
    listener: ListenerName,
    header: RequestHeader,
    request: FindCoordinatorRequest,
    body_bytes: usize,
) -> Reply {
    let places = find_all(&broker.metadata.peek(), &access, &listener, header.api_version, &request);
    if !places.iter().any(may_come) {
        return Reply::encode::<FindCoordinatorRequest>(&header, &response(header.api_version, &request, places));
    }
    let topic = topic_of(broker, request.key_type);
    if let Some(topic) = topic.as_ref().filter(|topic| broker.metadata.peek().topic(topic.name()).is_none()) {
        topic.create(broker);
    }
    let room = if may_wait(header.api_version, &request) { held_answers::room(broker, body_bytes) } else { None };
    let Some(room) = room else {
        let places = explain(places, topic.and_then(|topic| refusal(broker, &topic)));
        return Reply::encode::<FindCoordinatorRequest>(&header, &response(header.api_version, &request, places));
    };
    let broker = Arc::clone(broker);
    Reply::later(async move {
        let _room = room;
        let mut revisions = broker.metadata.subscribe();
        let search = async {
            loop {
                let places = find_all(&broker.metadata.peek(), &access, &listener, header.api_version, &request);
                // With the last look's news marked as seen, nothing can be missed between it and the wait.
                if !places.iter().any(may_come) || revisions.changed().await.is_err() {
                    return places;
                }
            }
        };
        let places = match tokio::time::timeout(WAIT_MAX, search).await {
            Ok(places) => places,
            Err(_) => find_all(&broker.metadata.peek(), &access, &listener, header.api_version, &request),
        };
        let places = explain(places, topic.and_then(|topic| refusal(&broker, &topic)));
        Response::encode_or_close::<FindCoordinatorRequest>(&header, &response(header.api_version, &request, places))
    })
}

/// The topic that keeps what the key names.
fn topic_of(broker: &Arc<Broker>, key_type: i8) -> Option<Arc<InternalTopic>> {
    match key_type {
        GROUP => Some(Arc::clone(&broker.internal_topics.offsets)),
        TRANSACTION => Some(Arc::clone(&broker.internal_topics.transaction_state)),
        _ => None,
    }
}

/// Why there is no such topic, if there is none and the quorum has said so.
fn refusal(broker: &Broker, topic: &InternalTopic) -> Option<String> {
    let is_missing = broker.metadata.peek().topic(topic.name()).is_none();
    topic.refusal().filter(|_| is_missing)
}

/// Whether the answer waits for coordinators.
fn may_wait(version: i16, request: &FindCoordinatorRequest) -> bool {
    keys(version, request).len() <= WAITING_KEYS_MAX
}

/// Whether a coordinator may be there in a moment.
fn may_come(found: &Found) -> bool {
    matches!(found, Err((ErrorCode::CoordinatorNotAvailable, message)) if message.is_empty())
}

/// Puts words to those that did not come.
fn explain(places: Vec<Found>, why: Option<String>) -> Vec<Found> {
    let message = why.unwrap_or_else(|| UNAVAILABLE.to_owned());
    let explain = |found: Found| match found {
        Err((error, text)) if text.is_empty() => Err((error, message.clone())),
        found => found,
    };
    places.into_iter().map(explain).collect()
}

fn keys(version: i16, request: &FindCoordinatorRequest) -> &[StrBytes] {
    if version < BATCHED_FROM { std::slice::from_ref(&request.key) } else { &request.coordinator_keys }
}

fn find_all(
    image: &Image,
    access: &Access,
    listener: &ListenerName,
    version: i16,
    request: &FindCoordinatorRequest,
) -> Vec<Found> {
    let find = |key: &StrBytes| match denial(access, request.key_type, key.as_str()) {
        Some(error) => Err((error, message(error).to_owned())),
        None => find(image, listener, version, request.key_type, key.as_str()),
    };
    keys(version, request).iter().map(find).collect()
}

fn denial(access: &Access, key_type: i8, key: &str) -> Option<ErrorCode> {
    let (is_allowed, error) = match key_type {
        GROUP => (access.group(Operation::Describe, key), ErrorCode::GroupAuthorizationFailed),
        TRANSACTION => {
            (access.transactional_id(Operation::Describe, key), ErrorCode::TransactionalIdAuthorizationFailed)
        }
        _ => return None,
    };
    (!is_allowed).then_some(error)
}

/// Kafka's texts.
fn message(denial: ErrorCode) -> &'static str {
    match denial {
        ErrorCode::GroupAuthorizationFailed => "Group authorization failed.",
        _ => "Transactional Id authorization failed.",
    }
}

/// Whether a broker that `is_suspect` coordinates one of the keys.
fn names_leader(
    image: &Image,
    version: i16,
    request: &FindCoordinatorRequest,
    is_suspect: &dyn Fn(BrokerId) -> bool,
) -> bool {
    keys(version, request).iter().any(|key| {
        let partition = match request.key_type {
            GROUP => groups::coordinator_partition(image, key.as_str()).map(|partition| (OFFSETS_TOPIC, partition)),
            TRANSACTION => {
                transactions::coordinator_partition(image, key.as_str()).map(|partition| (STATE_TOPIC, partition))
            }
            _ => None,
        };
        let state = partition.and_then(|(topic, partition)| image.partition_of(topic, partition));
        state.is_some_and(|state| is_suspect(state.leader))
    })
}

/// A group without a coordinator has no message yet: the reason may come.
fn find(image: &Image, listener: &ListenerName, version: i16, key_type: i8, key: &str) -> Found {
    match key_type {
        GROUP => place(image, listener, OFFSETS_TOPIC, groups::coordinator_partition(image, key)),
        TRANSACTION => place(image, listener, STATE_TOPIC, transactions::coordinator_partition(image, key)),
        2 if version >= SHARE_FROM => Err((ErrorCode::InvalidRequest, "Share groups are not supported.".to_owned())),
        _ => Err((ErrorCode::InvalidRequest, "The key type is not known.".to_owned())),
    }
}

/// The leader of the partition that keeps the key.
fn place(image: &Image, listener: &ListenerName, topic: &str, partition: Option<PartitionId>) -> Found {
    let missing = || (ErrorCode::CoordinatorNotAvailable, String::new());
    let state = image.partition_of(topic, partition.ok_or_else(missing)?).ok_or_else(missing)?;
    let endpoint = topology::live_endpoint(image, state.leader, listener).ok_or_else(missing)?;
    Ok(Place { id: state.leader, host: endpoint.host.clone(), port: endpoint.port })
}

fn response(version: i16, request: &FindCoordinatorRequest, places: Vec<Found>) -> FindCoordinatorResponse {
    let parts = |found: Found| match found {
        Ok(place) => (ErrorCode::None, String::new(), place.id, place.host, i32::from(place.port)),
        Err((error, message)) => (error, message, BrokerId::NONE, String::new(), -1),
    };
    if version < BATCHED_FROM {
        let Some(found) = places.into_iter().next() else { return FindCoordinatorResponse::default() };
        let (error, message, id, host, port) = parts(found);
        let message = if error.is_ok() { "NONE".to_owned() } else { message };
        return FindCoordinatorResponse::default()
            .with_error_code(error.code())
            .with_error_message((version >= 1).then(|| wire::text(&message)))
            .with_node_id(wire::broker_id(id))
            .with_host(wire::text(&host))
            .with_port(port);
    }
    let coordinators = request.coordinator_keys.iter().zip(places).map(|(key, found)| {
        let (error, message, id, host, port) = parts(found);
        Coordinator::default()
            .with_key(key.clone())
            .with_error_code(error.code())
            .with_error_message(Some(wire::text(&message)))
            .with_node_id(wire::broker_id(id))
            .with_host(wire::text(&host))
            .with_port(port)
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_image::{CLIENT, image};

    fn ask(version: i16, request: &FindCoordinatorRequest) -> Vec<Found> {
        find_all(&image(), &Access::unlimited(), &ListenerName::new(CLIENT), version, request)
    }

    #[test]
    fn keys_without_a_coordinator_are_told_so_in_every_version() {
        for version in 0..=6 {
            let request = match version {
                BATCHED_FROM.. => {
                    FindCoordinatorRequest::default().with_coordinator_keys(vec![wire::text("a"), wire::text("b")])
                }
                _ => FindCoordinatorRequest::default().with_key(wire::text("g")),
            };
            let places = ask(version, &request);
            assert!(places.iter().all(may_come), "the topic may come: {places:?}");
            let why = "__consumer_offsets cannot be created: 3 brokers are wanted and 1 is there";
            let told = response(version, &request, explain(places, Some(why.to_owned())));
            let (errors, messages): (Vec<_>, Vec<_>) = match version {
                BATCHED_FROM.. => {
                    told.coordinators.iter().map(|one| (one.error_code, one.error_message.clone())).unzip()
                }
                _ => (vec![told.error_code], vec![told.error_message.clone()]),
            };
            assert!(errors.iter().all(|code| *code == ErrorCode::CoordinatorNotAvailable.code()));
            assert!(version < 1 || messages.iter().all(|text| text.as_deref() == Some(why)), "{messages:?}");
            ottla_protocol::encode_response::<FindCoordinatorRequest>(version, 1, &told).expect("encodes");
        }
    }

    #[test]
    fn share_groups_have_nobody() {
        let of = |key_type| {
            FindCoordinatorRequest::default().with_key_type(key_type).with_coordinator_keys(vec![wire::text("x")])
        };
        let code = |version, key_type| ask(version, &of(key_type)).remove(0).expect_err("nobody").0;
        assert_eq!(code(6, 1), ErrorCode::CoordinatorNotAvailable, "the topic may come");
        assert_eq!(code(5, 2), ErrorCode::InvalidRequest);
        assert_eq!(code(6, 2), ErrorCode::InvalidRequest);
        assert_eq!(code(6, 3), ErrorCode::InvalidRequest);
        assert!(!ask(6, &of(2)).iter().any(may_come), "nobody waits for them");
    }
}
