//! What this process tells of itself: counters that cost one relaxed add, and the page that shows them (see [`http`]).

pub mod http;
pub mod logging;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ottla_protocol::Api;

use crate::group_host::metrics::GroupMetrics;
use crate::log_cleaner::metrics::CleanerMetrics;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes both ways.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests by API key.
#[derive(Debug)]
pub struct RequestCounters([Counter; RequestCounters::KEYS]);

impl RequestCounters {
    const KEYS: usize = 96;

    pub fn count(&self, api: Api) {
        if let Some(counter) = self.counter(api) {
            counter.add(1);
        }
    }

    fn counter(&self, api: Api) -> Option<&Counter> {
        self.0.get(usize::try_from(api.key()).ok()?)
    }
}

impl Default for RequestCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// All counters of a broker. Add a field, and a line in [`Telemetry::render`].
#[derive(Debug, Default)]
pub struct Telemetry {
    pub requests: RequestCounters,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub connections_open: Gauge,
    /// Connections that ended because of what they sent.
    pub connections_broken: Counter,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub records_bytes_in: Counter,
    pub records_bytes_out: Counter,
    pub batches_in: Counter,
    pub partitions: Gauge,
    pub leader_partitions: Gauge,
    pub under_replicated_partitions: Gauge,
    pub isr_shrinks: Counter,
    pub isr_expansions: Counter,
    pub image_revision: Gauge,
    pub broker_epoch: Gauge,
    pub cleaner: CleanerMetrics,
    pub groups: GroupMetrics,
    /// Whose disk failed.
    pub log_directories_offline: Gauge,
    pub log_directories_full: Gauge,
    /// Whose writes do not come back.
    pub log_directories_stalled: Gauge,
}

impl Telemetry {
    /// The counters in Prometheus' text form. O(counters) and O(groups), never O(partitions).
    pub fn render(&self) -> String {
        let mut page = String::with_capacity(4096);
        let counters: [(&str, &str, &Counter); 10] = [
            ("connections_accepted_total", "Connections accepted", &self.connections_accepted),
            ("connections_refused_total", "Connections refused by a limit", &self.connections_refused),
            ("connections_broken_total", "Connections ended because of what they sent", &self.connections_broken),
            ("bytes_received_total", "Bytes read from clients", &self.bytes_received),
            ("bytes_sent_total", "Bytes written to clients", &self.bytes_sent),
            ("records_bytes_in_total", "Bytes of record batches appended for producers", &self.records_bytes_in),
            ("records_bytes_out_total", "Bytes of record batches sent to consumers", &self.records_bytes_out),
            ("batches_in_total", "Record batches appended for producers", &self.batches_in),
            ("isr_shrinks_total", "ISR shrinks that were decided", &self.isr_shrinks),
            ("isr_expansions_total", "ISR expansions that were decided", &self.isr_expansions),
        ];
        for (name, help, counter) in counters {
            let value = counter.get();
            let _ = writeln!(
                page,
                "# HELP ottla_broker_{name} {help}\n# TYPE ottla_broker_{name} counter\nottla_broker_{name} {value}"
            );
        }
        let gauges: [(&str, &str, &Gauge); 9] = [
            ("connections_open", "Connections open now", &self.connections_open),
            ("partitions", "Partitions with a replica here", &self.partitions),
            ("leader_partitions", "Partitions led here", &self.leader_partitions),
            (
                "under_replicated_partitions",
                "Partitions led here whose ISR lacks a replica",
                &self.under_replicated_partitions,
            ),
            ("image_revision", "Revision of this broker's image of the tree", &self.image_revision),
            ("epoch", "Broker epoch; -1 while not registered", &self.broker_epoch),
            ("log_directories_offline", "Log directories whose disk failed", &self.log_directories_offline),
            ("log_directories_full", "Log directories without room", &self.log_directories_full),
            ("log_directories_stalled", "Log directories that do not answer", &self.log_directories_stalled),
        ];
        for (name, help, gauge) in gauges {
            let value = gauge.get();
            let _ = writeln!(
                page,
                "# HELP ottla_broker_{name} {help}\n# TYPE ottla_broker_{name} gauge\nottla_broker_{name} {value}"
            );
        }
        self.cleaner.render(&mut page);
        self.groups.render(&mut page);
        page.push_str(
            "# HELP ottla_broker_requests_total Requests by API\n# TYPE ottla_broker_requests_total counter\n",
        );
        for &api in Api::ALL {
            let count = self.requests.counter(api).map_or(0, Counter::get);
            let _ = writeln!(page, "ottla_broker_requests_total{{api=\"{api}\"}} {count}");
        }
        page
    }
}
