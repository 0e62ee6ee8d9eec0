//! Metrics of the groups that this broker coordinates.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ottla_group_coordinator::shard::Budget;
use ottla_metrics::{ComputedGauge, Counter, Gauge, Registry, Rows};
use ottla_model::{Offset, PartitionId};

/// How many groups there are, by type and state.
pub type States = BTreeMap<(&'static str, &'static str), u64>;

type CountStates = Box<dyn Fn() -> States + Send + Sync>;

/// Committed offsets that have series of their own: more would make a page cost more than the 50 ms of a scrape.
const OFFSET_SERIES_MAX: usize = 2_000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedOffset {
    pub group: String,
    pub topic: String,
    pub partition: PartitionId,
    pub offset: Offset,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CommittedOffsets {
    pub shown: Vec<CommittedOffset>,
    pub left_out: usize,
}

type Committed = Box<dyn Fn(usize) -> CommittedOffsets + Send + Sync>;
/// The high watermark of a partition that has a replica here.
type HighWatermark = Box<dyn Fn(&str, PartitionId) -> Option<Offset> + Send + Sync>;

const OFFSET: &[&str] = &["group", "topic", "partition"];
const OFFSET_GAUGES: &[ComputedGauge<'_>] = &[
    ComputedGauge {
        name: "group_committed_offset",
        help: "Offset that a group of this broker has committed, for the first 2000",
        labels: OFFSET,
    },
    ComputedGauge {
        name: "group_lag",
        help: "Records from the committed offset to the high watermark, where this broker has a replica of the partition",
        labels: OFFSET,
    },
    ComputedGauge {
        name: "group_offsets_without_series",
        help: "Committed offsets beyond the first 2000, which group_committed_offset and group_lag leave out",
        labels: &[],
    },
];

pub struct GroupMetrics {
    pub partitions: Gauge,
    pub loads: Counter,
    pub load_ms: Counter,
    pub records: Counter,
    pub rebalances: Counter,
    pub commits: Counter,
    /// Counts the groups when a page is made: that costs a step for each group, where counting all the time would cost
    /// every change one.
    states: Arc<OnceLock<CountStates>>,
    budget: Arc<OnceLock<Arc<Budget>>>,
    offsets: Arc<OffsetSources>,
}

/// Where committed offsets and high watermarks are looked up.
#[derive(Default)]
struct OffsetSources {
    committed: OnceLock<Committed>,
    high_watermark: OnceLock<HighWatermark>,
}

impl OffsetSources {
    #[expect(clippy::cast_precision_loss, reason = "no partition has 2^53 records")]
    fn rows(&self) -> Vec<Rows> {
        let CommittedOffsets { shown, left_out } =
            self.committed.get().map(|committed| committed(OFFSET_SERIES_MAX)).unwrap_or_default();
        let (mut committed, mut lags) = (Rows::new(), Rows::new());
        for CommittedOffset { group, topic, partition, offset } in shown {
            let high_watermark = self.high_watermark.get().and_then(|find| find(&topic, partition));
            let labels = vec![group, topic, partition.to_string()];
            if let Some(high_watermark) = high_watermark {
                lags.push((labels.clone(), (high_watermark.0 - offset.0).max(0) as f64));
            }
            committed.push((labels, offset.0 as f64));
        }
        vec![committed, lags, vec![(Vec::new(), left_out as f64)]]
    }
}

impl GroupMetrics {
    pub fn new(registry: &Registry) -> Self {
        let states: Arc<OnceLock<CountStates>> = Arc::default();
        let counted = Arc::clone(&states);
        registry.computed("groups", "Groups that this broker coordinates", &["type", "state"], move || {
            let states = counted.get().map(|count| count()).unwrap_or_default();
            let shown = |((group_type, state), count): ((&str, &str), u64)| {
                #[expect(clippy::cast_precision_loss, reason = "no broker has 2^53 groups")]
                let count = count as f64;
                (vec![group_type.to_owned(), state.to_owned()], count)
            };
            states.into_iter().map(shown).collect()
        });
        let budget: Arc<OnceLock<Arc<Budget>>> = Arc::default();
        let shown = Arc::clone(&budget);
        registry.computed(
            "group_budget",
            "What the groups of this broker hold (used) and may hold (limit) together",
            &["resource", "kind"],
            move || shown.get().map(|budget| budget_rows(budget)).unwrap_or_default(),
        );
        let offsets: Arc<OffsetSources> = Arc::default();
        let looked_up = Arc::clone(&offsets);
        registry.computed_together(OFFSET_GAUGES, move || looked_up.rows());
        Self {
            partitions: registry
                .gauge("group_partitions", "Partitions of __consumer_offsets whose groups are served by this broker"),
            loads: registry.counter("group_loads_total", "Partitions of __consumer_offsets that were loaded"),
            load_ms: registry.counter(
                "group_load_milliseconds_total",
                "Time from the beginning of leaderships until their groups were served",
            ),
            records: registry.counter("group_records_total", "Records of groups and their offsets that were appended"),
            rebalances: registry.counter("group_rebalances_total", "Rebalances of classic groups that were completed"),
            commits: registry.counter("offset_commits_total", "OffsetCommit requests that reached their group"),
            states,
            budget,
            offsets,
        }
    }

    /// Sets where committed offsets are looked up. Once.
    pub fn committed_by(&self, committed: impl Fn(usize) -> CommittedOffsets + Send + Sync + 'static) {
        let _ = self.offsets.committed.set(Box::new(committed));
    }

    /// Sets where high watermarks are looked up. Once.
    pub fn high_watermarks_by(&self, find: impl Fn(&str, PartitionId) -> Option<Offset> + Send + Sync + 'static) {
        let _ = self.offsets.high_watermark.set(Box::new(find));
    }

    /// Sets how groups are counted, and what they may hold. Once.
    pub fn count_by(&self, states: impl Fn() -> States + Send + Sync + 'static, budget: Arc<Budget>) {
        let _ = self.states.set(Box::new(states));
        let _ = self.budget.set(budget);
    }
}

fn budget_rows(budget: &Budget) -> Vec<(Vec<String>, f64)> {
    let (used, limits) = (budget.used(), budget.limits());
    let rows = [
        ("groups", used.groups, limits.groups),
        ("members", used.members, limits.members),
        ("bytes", used.bytes, limits.bytes),
    ];
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let row = |resource: &str, kind: &str, value: usize| (vec![resource.to_owned(), kind.to_owned()], value as f64);
    rows.into_iter()
        .flat_map(|(resource, used, limit)| [row(resource, "used", used), row(resource, "limit", limit)])
        .collect()
}

impl std::fmt::Debug for GroupMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupMetrics").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}
