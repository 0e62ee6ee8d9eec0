//! What this process measures of itself. Counting costs one relaxed add; [`http`] serves the page that shows it.

pub mod http;
pub mod loggers;
pub mod logging;
pub mod readiness;

use std::sync::Arc;

pub use ottla_metrics::{Counter, Description, Gauge, Registry};
use ottla_network::NetworkMetrics;
use ottla_replica_manager::manager::metrics::ReplicaMetrics;
use ottla_resources::ResourceTable;

use crate::client_metrics::ClientMetrics;
use crate::groups::metrics::GroupMetrics;
use crate::transactions::metrics::TransactionMetrics;

/// The metrics of a broker.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    pub network: Arc<NetworkMetrics>,
    pub replicas: Arc<ReplicaMetrics>,
    pub records_bytes_in: Counter,
    pub records_bytes_out: Counter,
    pub follower_records_bytes_out: Counter,
    pub batches_in: Counter,
    pub image_revision: Gauge,
    pub broker_epoch: Gauge,
    pub groups: GroupMetrics,
    pub transactions: TransactionMetrics,
    pub resources: ResourceTable,
    /// What clients push of their own metrics.
    pub clients: ClientMetrics,
}

impl Default for Telemetry {
    fn default() -> Self {
        let registry = Registry::new("ottla_broker");
        let resources = ResourceTable::new(&registry);
        Self {
            network: Arc::new(NetworkMetrics::new(&registry)),
            replicas: Arc::new(ReplicaMetrics::new(&registry)),
            records_bytes_in: registry
                .counter("records_bytes_in_total", "Bytes of record batches appended for producers"),
            records_bytes_out: registry.counter("records_bytes_out_total", "Bytes of record batches sent in fetches"),
            follower_records_bytes_out: registry.counter(
                "follower_records_bytes_out_total",
                "Bytes of record batches that this broker sent to consumers as a follower",
            ),
            batches_in: registry.counter("batches_in_total", "Record batches appended for producers"),
            image_revision: registry.gauge("image_revision", "Revision of this broker's image of the tree"),
            broker_epoch: registry.gauge("epoch", "Broker epoch; -1 while the broker is not registered"),
            groups: GroupMetrics::new(&registry),
            transactions: TransactionMetrics::new(&registry),
            clients: ClientMetrics::new(&registry, &resources),
            resources,
            registry,
        }
    }
}

impl Telemetry {
    /// Prometheus' text form. O(metrics), O(groups), O(transactional ids) and what clients push, never O(partitions).
    pub fn render(&self) -> String {
        self.registry.render() + &self.clients.render()
    }

    /// Every metric of a broker, for `docs/metrics.md`.
    pub fn descriptions(&self) -> Vec<Description> {
        self.registry.descriptions()
    }
}
