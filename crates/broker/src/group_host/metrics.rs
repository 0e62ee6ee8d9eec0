//! What this broker tells of the groups that it coordinates.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use crate::telemetry::{Counter, Gauge};

/// How many groups there are, by type and state.
pub type States = BTreeMap<(&'static str, &'static str), u64>;

#[derive(Default)]
pub struct GroupMetrics {
    /// Partitions of `__consumer_offsets` whose groups are served here.
    pub partitions: Gauge,
    pub loads: Counter,
    pub load_ms: Counter,
    pub records: Counter,
    /// Rounds of classic groups that got a leader.
    pub rebalances: Counter,
    pub commits: Counter,
    /// Counts the groups when somebody looks: that costs a step for each, where counting all the time would cost every change one.
    states: OnceLock<Box<dyn Fn() -> States + Send + Sync>>,
}

impl GroupMetrics {
    /// Says how groups are counted. Once.
    pub fn count_by(&self, states: impl Fn() -> States + Send + Sync + 'static) {
        let _ = self.states.set(Box::new(states));
    }

    pub fn render(&self, page: &mut String) {
        let counters = [
            ("offset_commits_total", "OffsetCommit requests that a group was asked", self.commits.get()),
            ("group_rebalances_total", "Rebalances of classic groups that were completed", self.rebalances.get()),
            ("group_records_total", "Records of groups and their offsets that were appended", self.records.get()),
            ("group_loads_total", "Partitions of __consumer_offsets that were loaded", self.loads.get()),
            (
                "group_load_milliseconds_total",
                "Time from a leadership until its groups were served",
                self.load_ms.get(),
            ),
        ];
        for (name, help, value) in counters {
            let _ = writeln!(
                page,
                "# HELP ottla_broker_{name} {help}\n# TYPE ottla_broker_{name} counter\nottla_broker_{name} {value}"
            );
        }
        let partitions = self.partitions.get();
        let _ = writeln!(
            page,
            "# HELP ottla_broker_group_partitions Partitions of __consumer_offsets whose groups are served here\n\
             # TYPE ottla_broker_group_partitions gauge\nottla_broker_group_partitions {partitions}\n\
             # HELP ottla_broker_groups Groups that are coordinated here\n# TYPE ottla_broker_groups gauge"
        );
        let states = self.states.get().map(|count| count()).unwrap_or_default();
        for ((group_type, state), count) in states {
            let _ = writeln!(page, "ottla_broker_groups{{type=\"{group_type}\",state=\"{state}\"}} {count}");
        }
    }
}

impl std::fmt::Debug for GroupMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupMetrics").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}
