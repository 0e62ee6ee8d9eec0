//! The log cleaner's metrics.

use ottla_metrics::{Counter, Gauge, Registry};

#[derive(Debug)]
pub struct CleanerMetrics {
    pub runs: Counter,
    pub failures: Counter,
    pub indexed_bytes: Counter,
    pub read_bytes: Counter,
    pub written_bytes: Counter,
    pub uncleanable_partitions: Gauge,
    pub max_dirty_percent: Gauge,
}

impl CleanerMetrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            runs: registry.counter("cleaner_runs_total", "Cleanings of a compacted log that were finished"),
            failures: registry.counter("cleaner_failures_total", "Cleanings that ended with an error"),
            indexed_bytes: registry
                .counter("cleaner_indexed_bytes_total", "Bytes read to find the last record of each key"),
            read_bytes: registry.counter("cleaner_read_bytes_total", "Bytes of segments that were cleaned"),
            written_bytes: registry.counter("cleaner_written_bytes_total", "Bytes that cleanings kept"),
            uncleanable_partitions: registry.gauge(
                "cleaner_uncleanable_partitions",
                "Partitions that are not cleaned any more because of an error",
            ),
            max_dirty_percent: registry.gauge(
                "cleaner_max_dirty_percent",
                "Share of uncleaned bytes in the log with the largest such share, in percent",
            ),
        }
    }
}
