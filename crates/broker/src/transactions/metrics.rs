//! Metrics of the transactions that this broker coordinates.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ottla_metrics::{Counter, Gauge, Registry};

/// How many transactional ids there are, by state.
pub type States = BTreeMap<&'static str, u64>;

type CountStates = Box<dyn Fn() -> States + Send + Sync>;

pub struct TransactionMetrics {
    pub partitions: Gauge,
    pub loads: Counter,
    pub load_ms: Counter,
    pub records: Counter,
    pub markers: Counter,
    pub markers_lost: Counter,
    /// Counts the ids when a page is made.
    states: Arc<OnceLock<CountStates>>,
}

impl TransactionMetrics {
    pub fn new(registry: &Registry) -> Self {
        let states: Arc<OnceLock<CountStates>> = Arc::default();
        let counted = Arc::clone(&states);
        registry.computed(
            "transactional_ids",
            "Transactional ids that this broker coordinates",
            &["state"],
            move || {
                let states = counted.get().map(|count| count()).unwrap_or_default();
                let shown = |(state, count): (&str, u64)| {
                    #[expect(clippy::cast_precision_loss, reason = "no broker has 2^53 transactional ids")]
                    let count = count as f64;
                    (vec![state.to_owned()], count)
                };
                states.into_iter().map(shown).collect()
            },
        );
        Self {
            partitions: registry.gauge(
                "transaction_partitions",
                "Partitions of __transaction_state whose transactional ids are served by this broker",
            ),
            loads: registry.counter("transaction_loads_total", "Partitions of __transaction_state that were loaded"),
            load_ms: registry.counter(
                "transaction_load_milliseconds_total",
                "Time from the beginning of leaderships until their transactional ids were served",
            ),
            records: registry.counter("transaction_records_total", "Records of transactions that were appended"),
            markers: registry.counter(
                "transaction_markers_total",
                "Ends of transactions that were sent to leaders, one for each transaction and leader",
            ),
            markers_lost: registry.counter(
                "transaction_markers_lost_total",
                "Ends of transactions whose leaders did not answer; they are sent again",
            ),
            states,
        }
    }

    /// Says how ids are counted. Once.
    pub fn count_by(&self, states: impl Fn() -> States + Send + Sync + 'static) {
        let _ = self.states.set(Box::new(states));
    }
}

impl std::fmt::Debug for TransactionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransactionMetrics").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}
