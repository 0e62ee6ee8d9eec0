//! What is counted of replicas and their log directories.

use ottla_metrics::{Counter, Gauge, Registry};

use super::log_metrics::LogMetrics;
use crate::log_cleaner::metrics::CleanerMetrics;
use crate::replication_throttles::ThrottledBytes;

/// The metrics of a broker's replicas.
#[derive(Debug)]
pub struct ReplicaMetrics {
    pub partitions: Gauge,
    pub leader_partitions: Gauge,
    pub under_replicated_partitions: Gauge,
    pub at_min_isr_partitions: Gauge,
    pub under_min_isr_partitions: Gauge,
    pub isr_shrinks: Counter,
    pub isr_expansions: Counter,
    pub throttled_bytes: ThrottledBytes,
    pub cleaner: CleanerMetrics,
    pub logs: LogMetrics,
    pub log_directories_offline: Gauge,
    pub log_directories_full: Gauge,
    pub log_directories_stalled: Gauge,
}

impl ReplicaMetrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            partitions: registry.gauge("partitions", "Partitions with a replica on this broker"),
            leader_partitions: registry.gauge("leader_partitions", "Partitions that this broker leads"),
            under_replicated_partitions: registry.gauge(
                "under_replicated_partitions",
                "Partitions that this broker leads and whose ISR lacks a replica",
            ),
            at_min_isr_partitions: registry.gauge(
                "at_min_isr_partitions",
                "Partitions that this broker leads and whose ISR has min.insync.replicas members",
            ),
            under_min_isr_partitions: registry.gauge(
                "under_min_isr_partitions",
                "Partitions that this broker leads and whose ISR has less than min.insync.replicas members",
            ),
            isr_shrinks: registry.counter("isr_shrinks_total", "ISR changes that removed a replica"),
            isr_expansions: registry.counter("isr_expansions_total", "ISR changes that added a replica"),
            throttled_bytes: ThrottledBytes::new(registry),
            cleaner: CleanerMetrics::new(registry),
            logs: LogMetrics::new(registry),
            log_directories_offline: registry
                .gauge("log_directories_offline", "Log directories out of use because of an I/O error"),
            log_directories_full: registry.gauge("log_directories_full", "Log directories without free space"),
            log_directories_stalled: registry
                .gauge("log_directories_stalled", "Log directories whose writes do not return"),
        }
    }
}
