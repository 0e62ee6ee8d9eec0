//! How large the logs of this broker are and where they end, for a page of metrics.

use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, OnceLock, Weak};

use ottla_metrics::{ComputedGauge, Registry, Rows};
use ottla_model::{Offset, PartitionId, TopicIdPartition, TopicName};
use parking_lot::Mutex;

use super::hosted_partitions::HostedPartitions;
use crate::log_dirs::LogDir;
use crate::partition::touched::Pass;
use crate::partition::{AreCurrent, LogFigures, Partition};

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
    ComputedGauge {
        name: "log_directory_bytes",
        help: "Bytes of all logs in a directory; with more than 2000 partitions as they were up to 10 s ago",
        labels: &["directory"],
    },
    ComputedGauge {
        name: "partitions_without_series",
        help: "Partitions here beyond the first 2000, which log_end_offset and log_size_bytes leave out",
        labels: &[],
    },
];

/// The partitions of this broker at the moment; none once there is no replica manager any more.
type HostedNow = Box<dyn Fn() -> Option<Arc<HostedPartitions>> + Send + Sync>;

/// Set when there is a replica manager.
#[derive(Clone, Default)]
pub struct LogMetrics(Arc<Shared>);

#[derive(Default)]
struct Shared {
    hosted: OnceLock<HostedNow>,
    first: Mutex<First>,
    /// Of the last pass over all partitions. A page does not make one where there are many.
    directories: Mutex<DirectorySums>,
}

/// The partitions with series, where there are more partitions than series.
#[derive(Default)]
struct First {
    /// Of which partitions they are the first.
    of: Weak<HostedPartitions>,
    partitions: Vec<Weak<Partition>>,
}

/// The bytes of all logs in each directory.
#[derive(Clone, Default)]
pub struct DirectorySums(Vec<(Arc<LogDir>, u64)>);

impl DirectorySums {
    fn add_bytes(&mut self, partition: &Partition, bytes: u64) {
        match self.0.iter_mut().find(|(directory, _)| partition.is_in(directory)) {
            Some((_, sum)) => *sum += bytes,
            None => self.0.push((partition.directory(), bytes)),
        }
    }

    fn take_bytes(&mut self, directory: usize, bytes: u64) {
        if let Some((_, sum)) = self.0.iter_mut().find(|(known, _)| known.number() == directory) {
            *sum = sum.saturating_sub(bytes);
        }
    }

    fn rows(&self) -> Rows {
        let path = |directory: &LogDir| vec![directory.path().display().to_string()];
        self.0.iter().map(|(directory, bytes)| (path(directory), number(*bytes))).collect()
    }
}

/// The bytes of each log as they were counted last, so that only logs that may have changed are looked at again.
#[derive(Default)]
pub struct CountedLogs {
    /// Of logs that are not empty: the number of the directory, and the bytes.
    logs: HashMap<TopicIdPartition, (usize, u64)>,
    sums: DirectorySums,
}

impl CountedLogs {
    pub fn count(&mut self, partition: &Partition) {
        let (LogFigures { bytes, .. }, AreCurrent(are_current)) = partition.log_figures();
        if !are_current {
            partition.look_again(Pass::Sums);
        }
        self.forget(partition.id());
        self.sums.add_bytes(partition, bytes);
        if bytes > 0 {
            self.logs.insert(partition.id(), (partition.directory().number(), bytes));
        }
    }

    /// The partition is not here any more.
    pub fn forget(&mut self, partition: TopicIdPartition) {
        if let Some((directory, bytes)) = self.logs.remove(&partition) {
            self.sums.take_bytes(directory, bytes);
        }
    }

    pub fn sums(&self) -> DirectorySums {
        self.sums.clone()
    }
}

impl LogMetrics {
    pub fn new(registry: &Registry) -> Self {
        let metrics = Self::default();
        let shown = metrics.clone();
        registry.computed_together(GAUGES, move || shown.rows());
        metrics
    }

    /// Once.
    pub(super) fn show(&self, hosted: impl Fn() -> Option<Arc<HostedPartitions>> + Send + Sync + 'static) {
        let _ = self.0.hosted.set(Box::new(hosted));
    }

    /// After a pass over all partitions.
    pub(super) fn show_directories(&self, sums: DirectorySums) {
        *self.0.directories.lock() = sums;
    }

    fn rows(&self) -> Vec<Rows> {
        let Some(hosted) = self.0.hosted.get().and_then(|hosted| hosted()) else { return Vec::new() };
        let count = hosted.partitions.len();
        if count <= PARTITION_SERIES_MAX {
            let mut partitions: Vec<Arc<Partition>> = hosted.partitions.values().cloned().collect();
            partitions.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
            let mut sums = DirectorySums::default();
            let rows = series(partitions.iter().cloned(), |partition, bytes| sums.add_bytes(partition, bytes));
            return page(rows, sums.rows(), 0);
        }
        let rows = series(self.first(&hosted).into_iter(), |_, _| {});
        let directories = self.0.directories.lock().rows();
        page(rows, directories, count - PARTITION_SERIES_MAX)
    }

    /// Looks at all partitions only if other ones are hosted than before.
    fn first(&self, hosted: &Arc<HostedPartitions>) -> Vec<Arc<Partition>> {
        let mut first = self.0.first.lock();
        let of = Arc::downgrade(hosted);
        if !Weak::ptr_eq(&first.of, &of) {
            let named = hosted.partitions.values().map(|partition| Named { name: name(partition), partition });
            let partitions = smallest(named, PARTITION_SERIES_MAX);
            let partitions = partitions.into_iter().map(|named| Arc::downgrade(named.partition)).collect();
            *first = First { of, partitions };
        }
        first.partitions.iter().filter_map(Weak::upgrade).collect()
    }
}

impl std::fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogMetrics")
    }
}

/// The order of series.
fn name(partition: &Partition) -> (&TopicName, PartitionId) {
    (&partition.topic, partition.id().partition)
}

#[derive(Clone, Copy)]
struct Named<'a> {
    name: (&'a TopicName, PartitionId),
    partition: &'a Arc<Partition>,
}

impl PartialEq for Named<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Named<'_> {}

impl PartialOrd for Named<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Named<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

/// The smallest items, at most `max`, in order. One comparison for most of the others: the memory in which 40,000
/// partitions lie is looked at once.
fn smallest<T: Ord>(items: impl Iterator<Item = T>, max: usize) -> Vec<T> {
    let mut smallest: BinaryHeap<T> = BinaryHeap::new();
    for item in items {
        if smallest.len() < max {
            smallest.push(item);
        } else if let Some(mut last) = smallest.peek_mut()
            && item < *last
        {
            *last = item;
        }
    }
    smallest.into_sorted_vec()
}

/// Ends and sizes of logs. `seen` is told each log's bytes.
fn series(partitions: impl Iterator<Item = Arc<Partition>>, mut seen: impl FnMut(&Partition, u64)) -> (Rows, Rows) {
    let (mut ends, mut sizes) = (Rows::new(), Rows::new());
    for partition in partitions {
        let (LogFigures { end, bytes }, _) = partition.log_figures();
        seen(&partition, bytes);
        let labels = vec![partition.topic.to_string(), partition.id().partition.to_string()];
        ends.push((labels.clone(), offset(end)));
        sizes.push((labels, number(bytes)));
    }
    (ends, sizes)
}

fn page((ends, sizes): (Rows, Rows), directories: Rows, left_out: usize) -> Vec<Rows> {
    vec![ends, sizes, directories, vec![(Vec::new(), number(u64::try_from(left_out).unwrap_or(u64::MAX)))]]
}

#[expect(clippy::cast_precision_loss, reason = "no log has 2^53 bytes")]
fn number(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "no log has 2^53 records")]
fn offset(offset: Offset) -> f64 {
    offset.0 as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_are_found_in_order() {
        let all = [("b", 10), ("c", 0), ("a", 1), ("b", 2), ("a", 0)];
        let first = |max| smallest(all.into_iter(), max);
        assert_eq!(first(3), [("a", 0), ("a", 1), ("b", 2)]);
        assert_eq!(first(9), [("a", 0), ("a", 1), ("b", 2), ("b", 10), ("c", 0)]);
        assert!(first(0).is_empty());
    }
}
