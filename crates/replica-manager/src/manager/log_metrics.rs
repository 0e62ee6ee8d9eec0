//! How large the logs of this broker are and where they end, for a page of metrics.

use std::collections::BinaryHeap;
use std::sync::{Arc, OnceLock};

use ottla_metrics::{ComputedGauge, Registry, Rows};
use ottla_model::{Offset, PartitionId};

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

/// A partition's row; rows are in the order of names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Row<'a> {
    topic: &'a str,
    partition: PartitionId,
    end: Offset,
    bytes: u64,
}

/// The first rows, at most `max`. One comparison for most of the others: the memory in which 40,000 partitions lie is
/// looked at once.
fn first_rows<'a>(rows: impl Iterator<Item = Row<'a>>, max: usize) -> Vec<Row<'a>> {
    let mut first: BinaryHeap<Row<'a>> = BinaryHeap::new();
    for row in rows {
        if first.len() < max {
            first.push(row);
        } else if let Some(mut last) = first.peek_mut()
            && row < *last
        {
            *last = row;
        }
    }
    first.into_sorted_vec()
}

#[expect(clippy::cast_precision_loss, reason = "no log has 2^53 records or bytes")]
fn rows(partitions: &[Arc<Partition>], series_max: usize) -> Vec<Rows> {
    let mut directories: Vec<(Arc<LogDir>, u64)> = Vec::new();
    let looked_at = partitions.iter().map(|partition| {
        let LogFigures { end, bytes } = partition.log_figures();
        match directories.iter_mut().find(|(directory, _)| partition.is_in(directory)) {
            Some((_, sum)) => *sum += bytes,
            None => directories.push((partition.directory(), bytes)),
        }
        Row { topic: partition.topic.as_str(), partition: partition.id().partition, end, bytes }
    });
    let first = first_rows(looked_at, series_max);
    let left_out = partitions.len() - first.len();
    let labels = |row: &Row<'_>| vec![row.topic.to_owned(), row.partition.to_string()];
    let ends = first.iter().map(|row| (labels(row), row.end.0 as f64)).collect();
    let sizes = first.iter().map(|row| (labels(row), row.bytes as f64)).collect();
    let path = |directory: &LogDir| vec![directory.path().display().to_string()];
    let directories = directories.iter().map(|(directory, bytes)| (path(directory), *bytes as f64)).collect();
    vec![ends, sizes, directories, vec![(Vec::new(), left_out as f64)]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_partitions_by_name_have_rows() {
        let row = |topic, partition| Row { topic, partition: PartitionId(partition), end: Offset(0), bytes: 0 };
        let all = [row("b", 10), row("c", 0), row("a", 1), row("b", 2), row("a", 0)];
        let first = |max| first_rows(all.into_iter(), max);
        assert_eq!(first(3), [row("a", 0), row("a", 1), row("b", 2)]);
        assert_eq!(first(9), [row("a", 0), row("a", 1), row("b", 2), row("b", 10), row("c", 0)]);
        assert!(first(0).is_empty());
    }
}
