//! Produce, versions 3 to 13: appends to the partitions that this broker leads, inline and in the order of the frames
//! ([`appends`]); with acks=all the answer waits for the high watermarks. The first batch of a transaction in a
//! partition waits until the transaction coordinator has confirmed it ([`verification`]).

mod appends;
mod verification;

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, ListenerName, Offset, TimestampMs};
use ottla_network::response::{Reply, Response};
use ottla_protocol::messages::produce::{
    self, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use ottla_protocol::{Api, RequestHeader};
use ottla_replica_manager::partition::waiters::PendingAcks;
use tokio::time::Sleep;

use crate::authorization::Access;
use crate::broker::Broker;
use crate::quotas::throttle::throttled;
use crate::request::RequestContext;
use crate::request::leader_hint::{LeaderHints, names_leader};
use crate::request::slices;
use appends::Appends;
use verification::Verifications;

/// The client id by which Kafka lets a producer write to the topics that brokers keep for themselves.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// Who sends the records, and in which version of the request.
#[derive(Clone, Copy)]
struct Producer {
    version: i16,
    is_admin: bool,
    has_transactional_id: bool,
    acks: Acks,
    /// How long the client waits before its next request: it is above its quota. Its records are appended.
    throttle: Duration,
}

/// What `acks` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acks {
    None,
    Leader,
    All,
}

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let mut request = match produce::parse(header.api_version, &body, 0) {
        Ok(request) => request,
        Err(error) => return Reply::close(format_args!("Produce: {error}")),
    };
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => {
            let response = refuse_all(request, ErrorCode::InvalidRequiredAcks);
            return Reply::Ready(encode(&header, &response));
        }
    };
    let access = broker.access(context);
    let transactional_id = request.transactional_id.as_deref();
    if transactional_id.is_some_and(|id| !access.transactional_id(Operation::Write, id)) {
        let error = ErrorCode::TransactionalIdAuthorizationFailed;
        return Reply::Ready(encode(&header, &refuse_all(request, error)));
    }
    let denied = deny(&access, &mut request);
    let verifications = match Verifications::begin(broker, header.api_version, &request, &body) {
        Ok(verifications) => verifications.refusing(denied),
        Err(error) => return Reply::Ready(encode(&header, &refuse_all(request, error))),
    };
    let throttle = broker.quotas.produced(context, header.client_id.as_deref(), body.len());
    let producer = Producer {
        version: header.api_version,
        is_admin: header.client_id.as_deref() == Some(ADMIN_CLIENT_ID),
        has_transactional_id: request.transactional_id.is_some(),
        acks,
        throttle,
    };
    let version = header.api_version;
    let answer = if verifications.are_complete() {
        let appends = Appends::new(header, producer, request, body, verifications);
        slices::carry_out(broker, context, appends)
    } else {
        let (broker, context) = (broker.clone(), context.clone());
        Reply::Held(Box::pin(async move {
            let verifications = verifications.complete(&broker).await;
            let appends = Appends::new(header, producer, request, body, verifications);
            slices::carried_out(&broker, &context, appends).await
        }))
    };
    throttled(answer, Api::Produce, version, throttle)
}

/// Takes the records of topics that may not be written out of the request, and returns their places, each with its
/// error.
fn deny(access: &Access, request: &mut ProduceRequest) -> Vec<(usize, ErrorCode)> {
    let (mut denied, mut place) = (Vec::new(), 0);
    if access.is_unlimited() {
        return denied;
    }
    for topic in &mut request.topics {
        let refusal = access.topic_ref(Operation::Write, &topic.topic).err();
        for partition in &mut topic.partitions {
            if let Some(error) = refusal {
                partition.records = None;
                denied.push((place, error));
            }
            place += 1;
        }
    }
    denied
}

/// Answers, or waits for the replicas.
fn answer(
    broker: &Arc<Broker>,
    listener: &ListenerName,
    header: RequestHeader,
    response: ProduceResponse,
    acks: Acks,
    pending: Option<Arc<PendingAcks>>,
    timeout: Duration,
) -> Reply {
    match pending {
        Some(pending) if !pending.is_complete() => {
            let waiting =
                WaitingProduce { broker: broker.clone(), listener: listener.clone(), header, response, pending };
            Reply::later(waiting.answered(tokio::time::sleep(timeout)))
        }
        _ if acks == Acks::None => close_on_error(&response),
        pending => Reply::Ready(finish(broker, listener, &header, response, pending.as_deref())),
    }
}

/// A producer that wants no answer learns of an error by the end of its connection, as with Kafka.
fn close_on_error(response: &ProduceResponse) -> Reply {
    let failed = response.topics.iter().flat_map(|topic| &topic.partitions).find(|p| p.error != ErrorCode::None);
    match failed {
        Some(failed) => Reply::close(format_args!("Produce with acks=0 failed with {:?}", failed.error)),
        None => Reply::None,
    }
}

fn refuse_all(request: ProduceRequest, error: ErrorCode) -> ProduceResponse {
    let topics = request.topics.into_iter().map(|topic| TopicProduceResponse {
        partitions: topic.partitions.iter().map(|p| PartitionProduceResponse::failed(p.partition, error)).collect(),
        topic: topic.topic,
    });
    ProduceResponse { topics: topics.collect(), ..ProduceResponse::default() }
}

/// Completes a response by what became of the partitions that waited, and by who leads instead.
fn finish(
    broker: &Broker,
    listener: &ListenerName,
    header: &RequestHeader,
    mut response: ProduceResponse,
    pending: Option<&PendingAcks>,
) -> Response {
    let mut names_any = false;
    for (place, partition) in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions).enumerate() {
        if let Some(pending) = pending
            && partition.error == ErrorCode::None
        {
            // What is not known when the time is up may still happen: as in Kafka the offsets are not told then.
            let outcome = pending.outcome(place).unwrap_or(ErrorCode::RequestTimedOut);
            if outcome != ErrorCode::None {
                partition.error = outcome;
                partition.base_offset = Offset::UNKNOWN;
                partition.log_append_time = TimestampMs::NONE;
            }
        }
        names_any |= names_leader(partition.error);
    }
    if names_any {
        let image = broker.metadata.current();
        let mut hints = LeaderHints::new(&image, listener);
        for topic in &mut response.topics {
            for partition in topic.partitions.iter_mut().filter(|partition| names_leader(partition.error)) {
                partition.current_leader = hints.leader(&topic.topic, partition.partition);
            }
        }
        response.node_endpoints = hints.endpoints;
    }
    encode(header, &response)
}

fn encode(header: &RequestHeader, response: &ProduceResponse) -> Response {
    Response::or_close(
        produce::encode_response(header.api_version, header.correlation_id, response).map(Response::bytes),
    )
}

/// A produce with acks=all until every partition's high watermark has passed its records, or they failed, or the time
/// is up.
struct WaitingProduce {
    broker: Arc<Broker>,
    listener: ListenerName,
    header: RequestHeader,
    response: ProduceResponse,
    pending: Arc<PendingAcks>,
}

impl WaitingProduce {
    async fn answered(mut self, timeout: Sleep) -> Response {
        let mut timeout = pin!(timeout);
        poll_fn(|context| {
            let is_over = self.pending.poll_complete(context).is_ready() || timeout.as_mut().poll(context).is_ready();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let response = std::mem::take(&mut self.response);
        finish(&self.broker, &self.listener, &self.header, response, Some(&self.pending))
    }
}

impl Drop for WaitingProduce {
    fn drop(&mut self) {
        self.pending.abandon();
    }
}
