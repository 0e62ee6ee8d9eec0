//! WriteTxnMarkers, versions 1 and 2: a transaction coordinator ends transactions in the partitions that this broker
//! leads. The answer waits until every marker is replicated: then the coordinator may forget the transaction.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_group_coordinator::{GroupAnswer, TransactionEnd};
use ottla_model::{ErrorCode, PartitionId, TransactionResult};
use ottla_network::response::{Reply, Response};
use ottla_protocol::RequestHeader;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::write_txn_markers::{self, TxnMarker, TxnMarkerResult};
use ottla_replica_manager::clock;
use ottla_replica_manager::partition::AckWait;
use ottla_replica_manager::partition::waiters::{PendingAcks, Wakes};
use ottla_replication::EndMarker;
use tokio::time::Sleep;

use crate::broker::Broker;
use crate::groups::OFFSETS_TOPIC;
use crate::request::RequestContext;
use crate::request::group;

/// How long a marker waits for its replicas: the default of Kafka's `request.timeout.ms`. The coordinator sends it
/// again after that.
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(30);

struct Markers {
    header: RequestHeader,
    markers: Vec<TxnMarker>,
    pending: Arc<PendingAcks>,
}

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let mut markers = match write_txn_markers::parse_request(header.api_version, &body, 0) {
        Ok(markers) => markers,
        Err(error) => return Reply::close(format_args!("WriteTxnMarkers: {error}")),
    };
    let access = broker.access(context);
    if !access.shows(Operation::Alter, ResourceType::Cluster, CLUSTER) && !access.cluster(Operation::ClusterAction) {
        return Reply::Ready(refuse_all(&header, markers, ErrorCode::ClusterAuthorizationFailed));
    }
    // A partition that is named twice gets one marker.
    for (_, partitions) in markers.iter_mut().flat_map(|marker| &mut marker.topics) {
        let mut seen = BTreeSet::new();
        partitions.retain(|partition| seen.insert(*partition));
    }
    let count = markers.iter().flat_map(|marker| &marker.topics).map(|(_, partitions)| partitions.len()).sum();
    let pending = Arc::new(PendingAcks::new(count));
    append_all(broker, &markers, &pending);
    let markers = Markers { header, markers, pending };
    if markers.pending.is_complete() {
        return Reply::Ready(markers.answer());
    }
    Reply::Later(Box::pin(WaitingMarkers { markers, timeout: Box::pin(tokio::time::sleep(REPLICATION_TIMEOUT)) }))
}

fn refuse_all(header: &RequestHeader, markers: Vec<TxnMarker>, error: ErrorCode) -> Response {
    let results = markers.into_iter().map(|marker| {
        let refuse = |partitions: Vec<PartitionId>| partitions.into_iter().map(|one| (one, error)).collect();
        let topics = marker.topics.into_iter().map(|(name, partitions)| (name, refuse(partitions)));
        TxnMarkerResult { producer_id: marker.producer_id, topics: topics.collect() }
    });
    let results: Vec<_> = results.collect();
    let encoded = write_txn_markers::encode_response(header.api_version, header.correlation_id, &results);
    Response::or_close(encoded.map(Response::bytes))
}

fn append_all(broker: &Broker, markers: &[TxnMarker], pending: &Arc<PendingAcks>) {
    let mut wakes = Wakes::default();
    let mut place = 0;
    for marker in markers {
        let end = EndMarker {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            result: if marker.is_commit { TransactionResult::Commit } else { TransactionResult::Abort },
            coordinator_epoch: marker.coordinator_epoch,
        };
        for (name, partitions) in &marker.topics {
            let topic = TopicRef::Name(name.clone());
            for partition in partitions {
                if name == OFFSETS_TOPIC {
                    end_in_groups(broker, *partition, marker, pending, place);
                    place += 1;
                    continue;
                }
                let ack = AckWait { pending, place };
                let version = marker.transaction_version;
                if let Err(error) = append(broker, &topic, *partition, end, version, ack, &mut wakes) {
                    pending.complete(place, error, &mut wakes);
                }
                place += 1;
            }
        }
    }
}

/// Offsets that the transaction committed count, or do not, from the marker on: the groups write it themselves.
fn end_in_groups(
    broker: &Broker,
    partition: PartitionId,
    marker: &TxnMarker,
    pending: &Arc<PendingAcks>,
    place: usize,
) {
    let end = TransactionEnd {
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        is_commit: marker.is_commit,
        coordinator_epoch: marker.coordinator_epoch,
        transaction_version: marker.transaction_version,
    };
    let ended = broker.groups.end_transaction(partition, end);
    let pending = Arc::clone(pending);
    tokio::spawn(async move {
        let outcome = match ended.answer().await {
            GroupAnswer::EndTransaction => ErrorCode::None,
            other => as_leader(group::failure(&other)),
        };
        pending.complete(place, outcome, &mut Wakes::default());
    });
}

/// Senders of markers know leaders and no group coordinators: an administrator's client gives up at an error of theirs.
fn as_leader(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::CoordinatorNotAvailable | ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator => {
            ErrorCode::NotLeaderOrFollower
        }
        error => error,
    }
}

fn append(
    broker: &Broker,
    topic: &TopicRef,
    partition: PartitionId,
    end: EndMarker,
    transaction_version: i8,
    ack: AckWait<'_>,
    wakes: &mut Wakes,
) -> Result<(), ErrorCode> {
    let partition = broker.replicas.find(topic, partition)?;
    partition.append_marker(end, transaction_version, ack, clock::monotonic(), clock::wall(), wakes)
}

impl Markers {
    fn answer(&self) -> Response {
        let mut place = 0;
        let results = self.markers.iter().map(|marker| {
            let topics = marker.topics.iter().map(|(name, partitions)| {
                let partitions = partitions.iter().map(|partition| {
                    // What is not known when the time is up may still happen; a second marker does no harm.
                    let error = self.pending.outcome(place).unwrap_or(ErrorCode::RequestTimedOut);
                    place += 1;
                    (*partition, error)
                });
                (name.clone(), partitions.collect())
            });
            TxnMarkerResult { producer_id: marker.producer_id, topics: topics.collect() }
        });
        let results: Vec<_> = results.collect();
        let RequestHeader { api_version, correlation_id, .. } = self.header;
        let encoded = write_txn_markers::encode_response(api_version, correlation_id, &results);
        Response::or_close(encoded.map(Response::bytes))
    }
}

struct WaitingMarkers {
    markers: Markers,
    timeout: Pin<Box<Sleep>>,
}

impl Future for WaitingMarkers {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let this = &mut *self;
        let is_complete = this.markers.pending.poll_complete(context).is_ready();
        if !is_complete && this.timeout.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.markers.answer())
    }
}

impl Drop for WaitingMarkers {
    fn drop(&mut self) {
        self.markers.pending.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_groups_are_loaded_their_partition_has_no_leader() {
        let as_leaders = [ErrorCode::CoordinatorLoadInProgress, ErrorCode::NotCoordinator].map(as_leader);
        assert_eq!(as_leaders, [ErrorCode::NotLeaderOrFollower; 2]);
        assert_eq!(as_leader(ErrorCode::InvalidProducerEpoch), ErrorCode::InvalidProducerEpoch);
    }
}
