//! Metrics of the groups that this broker coordinates.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ottla_group_coordinator::shard::Budget;
use ottla_metrics::{Counter, Gauge, Registry};

/// How many groups there are, by type and state.
pub type States = BTreeMap<(&'static str, &'static str), u64>;

type CountStates = Box<dyn Fn() -> States + Send + Sync>;

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
        }
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
