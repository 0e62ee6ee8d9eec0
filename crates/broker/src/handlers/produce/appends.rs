//! The appends of one request, one after the other, in slices.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_model::{ErrorCode, MonotonicMs, Offset, PartitionId};
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::produce::{
    PartitionProduce, PartitionProduceResponse, ProduceRequest, ProduceResponse, RecordError, TopicProduce,
    TopicProduceResponse,
};
use ottla_protocol::record_batch::RECORD_ERRORS_MAX;
use ottla_replica_manager::clock;
use ottla_replica_manager::partition::waiters::{PendingAcks, Wakes};
use ottla_replica_manager::partition::{AckWait, AppendRefused, Appended, ProducedBatch};

use super::verification::Verifications;
use super::{Acks, Producer, answer};
use crate::broker::Broker;
use crate::quotas::throttle::millis;
use crate::request::slices::{Progress, Slice, Sliced, may_wait};
use crate::request::{RequestContext, wire};

pub(super) struct Appends {
    header: RequestHeader,
    producer: Producer,
    timeout: Duration,
    body: BytesMut,
    verifications: Verifications,
    pending: Option<Arc<PendingAcks>>,
    /// The topics that have not begun, and the partitions that are left of the one that has.
    topics: std::vec::IntoIter<TopicProduce>,
    partitions: std::vec::IntoIter<PartitionProduce>,
    /// Of the next partition in the request.
    place: usize,
    /// The next partition, for whose disk too many others wait; and since when this request waits for such disks.
    crowded_out: Option<PartitionProduce>,
    crowded_since: Option<MonotonicMs>,
    /// Of the whole response: a compressed batch of 100 bytes can have a thousand invalid records, each with its text.
    record_errors_left: usize,
    response: ProduceResponse,
}

impl Sliced for Appends {
    fn go_on(&mut self, broker: &Broker, slice: &mut Slice) -> Progress {
        // Wakes the waiters once, after the records of the whole slice were appended: one response may hold several.
        let mut wakes = Wakes::default();
        loop {
            while let Some(wanted) = self.crowded_out.take().or_else(|| self.partitions.next()) {
                if self.append_next(broker, wanted, &mut wakes) == Progress::Crowded {
                    return Progress::Crowded;
                }
                if slice.is_used_up() {
                    return Progress::UsedUp;
                }
            }
            let Some(topic) = self.topics.next() else { return Progress::Done };
            let partitions = Vec::with_capacity(topic.partitions.len());
            self.response.topics.push(TopicProduceResponse { topic: topic.topic, partitions });
            self.partitions = topic.partitions.into_iter();
        }
    }

    fn answer(self, broker: &Arc<Broker>, context: &RequestContext) -> Reply {
        let (acks, pending) = (self.producer.acks, self.pending);
        answer(broker, &context.listener, self.header, self.response, acks, pending, self.timeout)
    }
}

impl Appends {
    pub fn new(
        header: RequestHeader,
        producer: Producer,
        request: ProduceRequest,
        body: BytesMut,
        verifications: Verifications,
    ) -> Self {
        let count: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        let response = ProduceResponse {
            topics: Vec::with_capacity(request.topics.len()),
            throttle_time_ms: millis(producer.throttle),
            ..ProduceResponse::default()
        };
        Self {
            header,
            producer,
            timeout: Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)),
            body,
            verifications,
            pending: (producer.acks == Acks::All).then(|| Arc::new(PendingAcks::new(count))),
            topics: request.topics.into_iter(),
            partitions: Vec::new().into_iter(),
            place: 0,
            crowded_out: None,
            crowded_since: None,
            record_errors_left: RECORD_ERRORS_MAX,
            response,
        }
    }

    /// Crowded: nothing was appended, and the same partition is the next one.
    fn append_next(&mut self, broker: &Broker, wanted: PartitionProduce, wakes: &mut Wakes) -> Progress {
        let Some(topic) = self.response.topics.last_mut() else { return Progress::Done };
        let (place, producer) = (self.place, self.producer);
        let pending = self.pending.as_ref();
        let records =
            wanted.records.clone().and_then(|range| self.body.get_mut(range)).ok_or_else(AppendRefused::no_records);
        let ack = pending.map(|pending| AckWait { pending, place });
        let appended = self.verifications.guard(place).and_then(|guard| {
            let batch = ProducedBatch {
                records: records?,
                produce_version: producer.version,
                may_be_transactional: producer.has_transactional_id,
                guard,
            };
            append(broker, producer, &topic.topic, wanted.partition, batch, ack, wakes)
        });
        if appended.as_ref().is_err_and(|refused| refused.is_crowded) && may_wait(&mut self.crowded_since) {
            self.crowded_out = Some(wanted);
            return Progress::Crowded;
        }
        topic.partitions.push(match appended {
            Ok(appended) => succeeded(wanted.partition, &appended),
            Err(refused) => {
                if let Some(pending) = pending {
                    pending.complete(place, refused.error, wakes);
                }
                failed(wanted.partition, refused, &mut self.record_errors_left)
            }
        });
        self.place += 1;
        Progress::Done
    }
}

fn append(
    broker: &Broker,
    producer: Producer,
    topic: &TopicRef,
    partition: PartitionId,
    batch: ProducedBatch<'_>,
    ack: Option<AckWait<'_>>,
    wakes: &mut Wakes,
) -> Result<Appended, AppendRefused> {
    let partition = broker.replicas.find(topic, partition)?;
    if wire::is_internal(partition.topic.as_str()) && !producer.is_admin {
        return Err(AppendRefused::internal_topic(&partition.topic));
    }
    let size_bytes = batch.records.len() as u64;
    let appended = partition.append_as_leader(batch, ack, clock::monotonic(), clock::wall(), wakes)?;
    broker.telemetry.records_bytes_in.add(size_bytes);
    broker.telemetry.batches_in.add(1);
    Ok(appended)
}

fn succeeded(partition: PartitionId, appended: &Appended) -> PartitionProduceResponse {
    PartitionProduceResponse {
        base_offset: appended.base_offset,
        log_append_time: appended.log_append_time,
        log_start_offset: appended.log_start,
        ..PartitionProduceResponse::failed(partition, ErrorCode::None)
    }
}

fn failed(partition: PartitionId, refused: AppendRefused, record_errors_left: &mut usize) -> PartitionProduceResponse {
    let record_errors: Vec<_> = refused
        .records
        .into_iter()
        .take(*record_errors_left)
        .map(|(batch_index, message)| RecordError { batch_index, message: Some(message) })
        .collect();
    *record_errors_left -= record_errors.len();
    PartitionProduceResponse {
        record_errors,
        error_message: refused.message,
        log_start_offset: refused.log_start.unwrap_or(Offset::UNKNOWN),
        ..PartitionProduceResponse::failed(partition, refused.error)
    }
}
