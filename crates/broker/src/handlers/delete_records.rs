//! DeleteRecords, versions 0 to 2: the logs that this broker leads start later; the answer waits until the replicas
//! that live have followed, at most for the request's time-out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, Offset, PartitionId};
use ottla_network::response::{Answer, Response};
use ottla_protocol::kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use ottla_protocol::kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse, TopicName};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::partition::waiters::{PendingAcks, Wakes};
use ottla_replica_manager::partition::{AckWait, Partition};
use tokio::time::Sleep;

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire::is_internal;

/// One partition of the request, and what is known of it so far.
struct PendingAnswer {
    number: PartitionId,
    started: Result<Arc<Partition>, ErrorCode>,
}

struct Deletion {
    header: RequestHeader,
    topics: Vec<(TopicName, Vec<PendingAnswer>)>,
    pending: Arc<PendingAcks>,
}

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let request = match decode_request::<DeleteRecordsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Answer::close(error),
    };
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deletion = begin(broker, &broker.access(context), header, request);
    if deletion.pending.is_complete() {
        return Answer::Ready(deletion.answer());
    }
    Answer::Later(Box::pin(WaitingDeletion { deletion, timeout: Box::pin(tokio::time::sleep(timeout)) }))
}

fn begin(broker: &Broker, access: &Access, header: RequestHeader, request: DeleteRecordsRequest) -> Deletion {
    let mut wakes = Wakes::default();
    let count = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let pending = Arc::new(PendingAcks::new(count));
    let mut place = 0;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicRef::Name(topic.name.to_string());
        let is_allowed = access.topic(Operation::Delete, topic.name.as_str());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let number = PartitionId(asked.partition_index);
            let ack = AckWait { pending: &pending, place };
            let started = match is_internal(&topic.name) {
                _ if !is_allowed => Err(ErrorCode::TopicAuthorizationFailed),
                true => Err(ErrorCode::InvalidTopicException),
                false => broker.replicas.find(&name, number).and_then(|partition| {
                    partition.delete_records(Offset(asked.offset), ack, &mut wakes).map(|()| partition)
                }),
            };
            if let Err(error) = started {
                pending.complete(place, error, &mut wakes);
            }
            partitions.push(PendingAnswer { number, started });
            place += 1;
        }
        topics.push((topic.name, partitions));
    }
    Deletion { header, topics, pending }
}

impl Deletion {
    fn answer(&self) -> Response {
        let mut place = 0;
        let topics = self.topics.iter().map(|(name, partitions)| {
            let partitions = partitions.iter().map(|asked| {
                // What is not known when the time is up may still happen.
                let error = self.pending.outcome(place).unwrap_or(ErrorCode::RequestTimedOut);
                place += 1;
                let low_watermark = match (&asked.started, error) {
                    (Ok(partition), ErrorCode::None | ErrorCode::RequestTimedOut) => partition.low_watermark(),
                    _ => Offset::UNKNOWN,
                };
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(asked.number.0)
                    .with_low_watermark(low_watermark.0)
                    .with_error_code(error.code())
            });
            DeleteRecordsTopicResult::default().with_name(name.clone()).with_partitions(partitions.collect())
        });
        let response = DeleteRecordsResponse::default().with_topics(topics.collect());
        Response::encode_or_close::<DeleteRecordsRequest>(&self.header, &response)
    }
}

struct WaitingDeletion {
    deletion: Deletion,
    timeout: Pin<Box<Sleep>>,
}

impl Future for WaitingDeletion {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let this = &mut *self;
        let is_complete = this.deletion.pending.poll_complete(context).is_ready();
        if !is_complete && this.timeout.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.deletion.answer())
    }
}

impl Drop for WaitingDeletion {
    fn drop(&mut self) {
        self.deletion.pending.abandon();
    }
}
