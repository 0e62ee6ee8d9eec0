//! What the cleaner tells of itself.

use std::fmt::Write as _;

use crate::telemetry::{Counter, Gauge};

#[derive(Debug, Default)]
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
    pub fn render(&self, page: &mut String) {
        let all = [
            ("runs_total", "counter", "Cleanings of a compacted log that were finished", self.runs.get() as i64),
            ("failures_total", "counter", "Cleanings that ended with an error", self.failures.get() as i64),
            (
                "indexed_bytes_total",
                "counter",
                "Bytes read to find the last record of each key",
                self.indexed_bytes.get() as i64,
            ),
            ("read_bytes_total", "counter", "Bytes of segments that were cleaned", self.read_bytes.get() as i64),
            ("written_bytes_total", "counter", "Bytes that were left of them", self.written_bytes.get() as i64),
            (
                "uncleanable_partitions",
                "gauge",
                "Partitions that are not cleaned any more because of an error",
                self.uncleanable_partitions.get(),
            ),
            (
                "max_dirty_percent",
                "gauge",
                "Dirty part of the filthiest log at the last look",
                self.max_dirty_percent.get(),
            ),
        ];
        for (name, kind, help, value) in all {
            let _ = writeln!(
                page,
                "# HELP ottla_broker_cleaner_{name} {help}\n# TYPE ottla_broker_cleaner_{name} {kind}\nottla_broker_cleaner_{name} {value}"
            );
        }
    }
}
