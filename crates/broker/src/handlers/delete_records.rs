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
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
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
use crate::request::slices::{self, Progress, Slice, Sliced};
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

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DeleteRecordsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let count = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let beginning = Beginning {
        timeout: Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)),
        access: broker.access(context),
        asked: request.topics.into_iter(),
        name: TopicRef::Name(String::new()),
        is_allowed: false,
        partitions: Vec::new().into_iter(),
        place: 0,
        deletion: Deletion { header, topics: Vec::new(), pending: Arc::new(PendingAcks::new(count)) },
    };
    slices::carry_out(broker, context, beginning)
}

/// Moves the beginnings of the logs, one after the other.
struct Beginning {
    timeout: Duration,
    access: Access,
    /// The topics that have not begun.
    asked: std::vec::IntoIter<DeleteRecordsTopic>,
    /// The topic that has, whether the client may delete from it, and what is left of it.
    name: TopicRef,
    is_allowed: bool,
    partitions: std::vec::IntoIter<DeleteRecordsPartition>,
    /// Of the next partition in the request.
    place: usize,
    deletion: Deletion,
}

impl Sliced for Beginning {
    fn go_on(&mut self, broker: &Broker, slice: &mut Slice) -> Progress {
        let mut wakes = Wakes::default();
        loop {
            while let Some(asked) = self.partitions.next() {
                self.begin_next(broker, &asked, &mut wakes);
                if slice.is_used_up() {
                    return Progress::UsedUp;
                }
            }
            let Some(topic) = self.asked.next() else { return Progress::Done };
            self.name = TopicRef::Name(topic.name.to_string());
            self.is_allowed = self.access.topic(Operation::Delete, topic.name.as_str());
            self.deletion.topics.push((topic.name, Vec::with_capacity(topic.partitions.len())));
            self.partitions = topic.partitions.into_iter();
        }
    }

    fn answer(self, _: &Arc<Broker>, _: &RequestContext) -> Reply {
        let deletion = self.deletion;
        if deletion.pending.is_complete() {
            return Reply::Ready(deletion.answer());
        }
        Reply::Later(Box::pin(WaitingDeletion { deletion, timeout: Box::pin(tokio::time::sleep(self.timeout)) }))
    }
}

impl Beginning {
    fn begin_next(&mut self, broker: &Broker, asked: &DeleteRecordsPartition, wakes: &mut Wakes) {
        let Deletion { topics, pending, .. } = &mut self.deletion;
        let Some((name, answers)) = topics.last_mut() else { return };
        let (number, place) = (PartitionId(asked.partition_index), self.place);
        let ack = AckWait { pending, place };
        let started = match is_internal(name) {
            _ if !self.is_allowed => Err(ErrorCode::TopicAuthorizationFailed),
            true => Err(ErrorCode::InvalidTopicException),
            false => broker
                .replicas
                .find(&self.name, number)
                .and_then(|partition| partition.delete_records(Offset(asked.offset), ack, wakes).map(|()| partition)),
        };
        if let Err(error) = started {
            pending.complete(place, error, wakes);
        }
        answers.push(PendingAnswer { number, started });
        self.place += 1;
    }
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
