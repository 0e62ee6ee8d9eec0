//! How large the logs of this broker are and where they end, for a page of metrics.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, OnceLock};

use ottla_metrics::{ComputedGauge, Registry, Rows};
use ottla_model::PartitionId;

use crate::log_dirs::LogDir;
use crate::partition::{LogFigures, Partition};

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
        self.0.get().map(|partitions| rows(&partitions(), PARTITION_SERIES_MAX)).unwrap_or_default()
    }
}

impl std::fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogMetrics")
    }
}

/// A partition's figures, in the order of names.
struct Shown<'a> {
    partition: &'a Partition,
    figures: LogFigures,
}

impl Shown<'_> {
    fn name(&self) -> (&str, PartitionId) {
        (self.partition.topic.as_str(), self.partition.id().partition)
    }
}

impl Ord for Shown<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(&other.name())
    }
}

impl PartialOrd for Shown<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Shown<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Shown<'_> {}

/// Looks at each partition once: with 40,000 of them the memory that they lie in is what a page costs.
#[expect(clippy::cast_precision_loss, reason = "no log has 2^53 records or bytes")]
fn rows(partitions: &[Arc<Partition>], series_max: usize) -> Vec<Rows> {
    let mut directories: Vec<(Arc<LogDir>, u64)> = Vec::new();
    let mut first: BinaryHeap<Shown<'_>> = BinaryHeap::new();
    for partition in partitions {
        let figures = partition.log_figures();
        match directories.iter_mut().find(|(directory, _)| partition.is_in(directory)) {
            Some((_, bytes)) => *bytes += figures.bytes,
            None => directories.push((partition.directory(), figures.bytes)),
        }
        let shown = Shown { partition, figures };
        if first.len() < series_max {
            first.push(shown);
        } else if let Some(mut last) = first.peek_mut()
            && shown < *last
        {
            *last = shown;
        }
    }
    let left_out = partitions.len() - first.len();
    let (mut ends, mut sizes) = (Rows::new(), Rows::new());
    for Shown { partition, figures } in first {
        let labels = vec![partition.topic.to_string(), partition.id().partition.to_string()];
        ends.push((labels.clone(), figures.end.0 as f64));
        sizes.push((labels, figures.bytes as f64));
    }
    let path = |directory: &LogDir| vec![directory.path().display().to_string()];
    let directories = directories.iter().map(|(directory, bytes)| (path(directory), *bytes as f64)).collect();
    vec![ends, sizes, directories, vec![(Vec::new(), left_out as f64)]]
}
