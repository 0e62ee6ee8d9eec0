//! The ends of transactions, on their way to the leaders of their partitions: markers of all coordinators of this
//! broker that go to one leader share its requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use ottla_model::{BrokerId, ErrorCode, ProducerId, TopicPartition};
use ottla_protocol::Api;
use ottla_protocol::messages::write_txn_markers::{self, TxnMarker, TxnMarkerResult};
use ottla_transaction_coordinator::Marker;
use ottla_transaction_coordinator::state_partition::Notice;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::TransactionCoordinator;
use crate::coordinators::PartitionHandle;
use crate::peers::{PeerError, Peers};
use crate::telemetry::Telemetry;

/// Requests to one leader at once: the next ones need not wait until the followers have the markers of the first.
const IN_FLIGHT_MAX: usize = 4;
/// Markers in one request: about 100 KiB for transactions of a few partitions.
const MARKERS_PER_REQUEST: usize = 1_000;
/// Partitions in the markers of one request, unless one marker has more: the leader appends to all of them in one go,
/// and a request that is larger than `socket.request.max.bytes` would never arrive.
const PARTITIONS_PER_REQUEST: usize = 10_000;

pub(super) struct MarkerSender {
    peers: Arc<Peers>,
    data: Handle,
    telemetry: Arc<Telemetry>,
    queues: Mutex<BTreeMap<BrokerId, Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Sent>,
    in_flight: usize,
}

/// A marker, and whose it is.
struct Sent {
    from: Weak<PartitionHandle<TransactionCoordinator>>,
    marker: Marker,
}

type Results = BTreeMap<(ProducerId, TopicPartition), ErrorCode>;

impl MarkerSender {
    pub fn new(peers: Arc<Peers>, data: Handle, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self { peers, data, telemetry, queues: Mutex::default() })
    }

    /// Sends a marker, now or with the next request to its leader.
    pub fn send(self: &Arc<Self>, from: &Arc<PartitionHandle<TransactionCoordinator>>, marker: Marker) {
        let broker = marker.broker;
        let mut queues = self.queues.lock();
        let queue = queues.entry(broker).or_default();
        queue.waiting.push_back(Sent { from: Arc::downgrade(from), marker });
        if queue.in_flight >= IN_FLIGHT_MAX {
            return;
        }
        queue.in_flight += 1;
        drop(queues);
        let sender = Arc::clone(self);
        self.data.spawn(async move { sender.drain(broker).await });
    }

    /// Sends what waits for one leader, until nothing does.
    async fn drain(&self, broker: BrokerId) {
        while let Some(batch) = self.next(broker) {
            self.telemetry.transactions.markers.add(batch.len() as u64);
            match self.write(broker, &batch).await {
                Ok(results) => batch.iter().for_each(|sent| sent.answered(Some(&results))),
                Err(error) => {
                    tracing::debug!(%broker, %error, markers = batch.len(), "markers are not answered");
                    self.telemetry.transactions.markers_lost.add(batch.len() as u64);
                    batch.iter().for_each(|sent| sent.answered(None));
                }
            }
        }
    }

    fn next(&self, broker: BrokerId) -> Option<Vec<Sent>> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(&broker)?;
        let count = fitting(queue.waiting.iter().map(|sent| sent.marker.partitions.len()));
        if count == 0 {
            queue.in_flight -= 1;
            return None;
        }
        Some(queue.waiting.drain(..count).collect())
    }

    async fn write(&self, broker: BrokerId, batch: &[Sent]) -> Result<Results, PeerError> {
        let version = Api::WriteTxnMarkers.served().max;
        let connection = self.peers.connection(broker).await?;
        let markers: Vec<TxnMarker> = batch.iter().map(|sent| to_wire(&sent.marker)).collect();
        let encode = |id| Ok(write_txn_markers::encode_request(version, id, None, &markers)?);
        let response = connection.send(encode).await?;
        let results = write_txn_markers::parse_response(version, &response).map_err(ottla_client::ClientError::from)?;
        Ok(by_partition(results))
    }
}

/// How many markers, with so many partitions each, go with the next request: one at least.
fn fitting(partitions: impl Iterator<Item = usize>) -> usize {
    let mut left = PARTITIONS_PER_REQUEST;
    let fit = partitions.take(MARKERS_PER_REQUEST).enumerate().take_while(|(at, partitions)| {
        let fits = *at == 0 || *partitions <= left;
        left = left.saturating_sub(*partitions);
        fits
    });
    fit.count()
}

impl Sent {
    /// Reports to the coordinator, if it is still there.
    fn answered(&self, results: Option<&Results>) {
        let Some(from) = self.from.upgrade() else { return };
        let Marker { number, coordinator_epoch, producer_id, partitions, .. } = &self.marker;
        let own = results.map(|results| {
            let of = |partition: &TopicPartition| {
                let code = results.get(&(*producer_id, partition.clone()))?;
                Some((partition.clone(), *code))
            };
            partitions.iter().filter_map(of).collect()
        });
        from.notice(Notice::MarkerAnswered { epoch: *coordinator_epoch, number: *number, results: own });
    }
}

fn to_wire(marker: &Marker) -> TxnMarker {
    let mut topics: Vec<(String, Vec<_>)> = Vec::new();
    // Partitions come in the order of their topics.
    for partition in &marker.partitions {
        match topics.last_mut().filter(|(name, _)| name == partition.topic.as_str()) {
            Some((_, partitions)) => partitions.push(partition.partition),
            None => topics.push((partition.topic.as_str().to_owned(), vec![partition.partition])),
        }
    }
    TxnMarker {
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        is_commit: marker.is_commit,
        topics,
        coordinator_epoch: marker.coordinator_epoch.0,
        transaction_version: i8::try_from(marker.version.level()).unwrap_or(0),
    }
}

fn by_partition(results: Vec<TxnMarkerResult>) -> Results {
    let mut found = Results::new();
    for TxnMarkerResult { producer_id, topics } in results {
        for (name, partitions) in topics {
            let Ok(topic) = ottla_model::TopicName::new(&name) else { continue };
            for (partition, code) in partitions {
                found.insert((producer_id, TopicPartition::new(topic.clone(), partition)), code);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_so_many_markers_and_partitions() {
        assert_eq!(fitting([].into_iter()), 0);
        assert_eq!(fitting(vec![3; 5].into_iter()), 5);
        assert_eq!(fitting(vec![1; 2 * MARKERS_PER_REQUEST].into_iter()), MARKERS_PER_REQUEST);
        assert_eq!(fitting(vec![PARTITIONS_PER_REQUEST / 4; 9].into_iter()), 4);
        assert_eq!(fitting([2 * PARTITIONS_PER_REQUEST, 1].into_iter()), 1, "one at least");
    }
}
