//! What this process measures of itself. Counting costs one relaxed add; [`http`] serves the page that shows it.

pub mod http;
pub mod logging;

use std::sync::Arc;

pub use ottla_metrics::{Counter, Description, Gauge, Registry};
use ottla_network::NetworkMetrics;

use crate::groups::metrics::GroupMetrics;
use crate::log_cleaner::metrics::CleanerMetrics;

/// The metrics of a broker.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    pub network: Arc<NetworkMetrics>,
    pub records_bytes_in: Counter,
    pub records_bytes_out: Counter,
    pub batches_in: Counter,
    pub partitions: Gauge,
    pub leader_partitions: Gauge,
    pub under_replicated_partitions: Gauge,
    pub isr_shrinks: Counter,
    pub isr_expansions: Counter,
    pub image_revision: Gauge,
    pub broker_epoch: Gauge,
    pub cleaner: CleanerMetrics,
    pub groups: GroupMetrics,
    pub log_directories_offline: Gauge,
    pub log_directories_full: Gauge,
    pub log_directories_stalled: Gauge,
}

impl Default for Telemetry {
    fn default() -> Self {
        let registry = Registry::new("ottla_broker");
        Self {
            network: Arc::new(NetworkMetrics::new(&registry)),
            records_bytes_in: registry
                .counter("records_bytes_in_total", "Bytes of record batches appended for producers"),
            records_bytes_out: registry.counter("records_bytes_out_total", "Bytes of record batches sent in fetches"),
            batches_in: registry.counter("batches_in_total", "Record batches appended for producers"),
            partitions: registry.gauge("partitions", "Partitions with a replica on this broker"),
            leader_partitions: registry.gauge("leader_partitions", "Partitions that this broker leads"),
            under_replicated_partitions: registry.gauge(
                "under_replicated_partitions",
                "Partitions that this broker leads and whose ISR lacks a replica",
            ),
            isr_shrinks: registry.counter("isr_shrinks_total", "ISR changes that removed a replica"),
            isr_expansions: registry.counter("isr_expansions_total", "ISR changes that added a replica"),
            image_revision: registry.gauge("image_revision", "Revision of this broker's image of the tree"),
            broker_epoch: registry.gauge("epoch", "Broker epoch; -1 while the broker is not registered"),
            cleaner: CleanerMetrics::new(&registry),
            groups: GroupMetrics::new(&registry),
            log_directories_offline: registry
                .gauge("log_directories_offline", "Log directories out of use because of an I/O error"),
            log_directories_full: registry.gauge("log_directories_full", "Log directories without free space"),
            log_directories_stalled: registry
                .gauge("log_directories_stalled", "Log directories whose writes do not return"),
            registry,
        }
    }
}

impl Telemetry {
    /// Prometheus' text form. O(metrics) and O(groups), never O(partitions).
    pub fn render(&self) -> String {
        self.registry.render()
    }

    /// Every metric of a broker, for `docs/metrics.md`.
    pub fn descriptions(&self) -> Vec<Description> {
        self.registry.descriptions()
    }
}
