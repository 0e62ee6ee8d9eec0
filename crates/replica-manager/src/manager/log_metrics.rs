//! How large the logs of this broker are and where they end, for a page of metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ottla_metrics::{ComputedGauge, Registry, Rows};

use crate::partition::Partition;

/// Partitions that have series of their own, the first ones by name: a page of more would take longer than the 50 ms
/// that a scrape may cost.
pub const PARTITION_SERIES_MAX: usize = 2_000;

const PARTITION: &[&str] = &["topic", "partition"];
const GAUGES: &[ComputedGauge<'_>] = &[
    ComputedGauge {
        name: "log_end_offset",
        help: "Offset of the next record, for the first 2000 partitions",
        labels: PARTITION,
    },
    ComputedGauge {
        name: "log_size_bytes",
        help: "Bytes of the log's segments, for the first 2000 partitions",
        labels: PARTITION,
    },
    ComputedGauge { name: "log_directory_bytes", help: "Bytes of all logs in a directory", labels: &["directory"] },
    ComputedGauge {
        name: "partitions_without_series",
        help: "Partitions here beyond the first 2000, which log_end_offset and log_size_bytes leave out",
        labels: &[],
    },
];

/// The partitions of this broker at the moment.
type Partitions = Box<dyn Fn() -> Vec<Arc<Partition>> + Send + Sync>;

/// Set when there is a replica manager.
#[derive(Clone, Default)]
pub struct LogMetrics(Arc<OnceLock<Partitions>>);

impl LogMetrics {
    pub fn new(registry: &Registry) -> Self {
        let metrics = Self::default();
        let shown = metrics.clone();
        registry.computed_together(GAUGES, move || shown.rows());
        metrics
    }

    /// Once.
    pub fn show(&self, partitions: impl Fn() -> Vec<Arc<Partition>> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(partitions));
    }

    fn rows(&self) -> Vec<Rows> {
        self.0.get().map(|partitions| rows(partitions(), PARTITION_SERIES_MAX)).unwrap_or_default()
    }
}

impl std::fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogMetrics")
    }
}

#[expect(clippy::cast_precision_loss, reason = "no log has 2^53 records or bytes")]
fn rows(mut partitions: Vec<Arc<Partition>>, series_max: usize) -> Vec<Rows> {
    let mut directories: BTreeMap<String, u64> = BTreeMap::new();
    for partition in &partitions {
        let directory = partition.directory();
        let bytes = partition.log_figures().bytes;
        match directories.get_mut(&*directory.path().to_string_lossy()) {
            Some(sum) => *sum += bytes,
            None => drop(directories.insert(directory.path().display().to_string(), bytes)),
        }
    }
    let left_out = partitions.len().saturating_sub(series_max);
    let by_name = |partition: &Arc<Partition>| (partition.topic.clone(), partition.id().partition);
    if left_out > 0 {
        partitions.select_nth_unstable_by_key(series_max, by_name);
        partitions.truncate(series_max);
    }
    let (mut ends, mut sizes) = (Rows::new(), Rows::new());
    for partition in &partitions {
        let figures = partition.log_figures();
        let labels = vec![partition.topic.to_string(), partition.id().partition.to_string()];
        ends.push((labels.clone(), figures.end.0 as f64));
        sizes.push((labels, figures.bytes as f64));
    }
    let directories = directories.into_iter().map(|(directory, bytes)| (vec![directory], bytes as f64)).collect();
    vec![ends, sizes, directories, vec![(Vec::new(), left_out as f64)]]
}
