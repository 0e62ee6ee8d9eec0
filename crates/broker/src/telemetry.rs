//! What this process measures of itself. Counting costs one relaxed add; [`http`] serves the page that shows it.

pub mod http;
pub mod logging;

use std::time::Duration;

pub use ottla_metrics::{Counter, Description, Gauge, Histogram, Registry};
use ottla_protocol::Api;

use crate::group_host::metrics::GroupMetrics;
use crate::log_cleaner::metrics::CleanerMetrics;

/// API keys end below this; a test holds it.
const API_KEYS: usize = 96;

/// One metric for each API that is served, found by the API's key without a search.
#[derive(Debug)]
struct ByApi<T> {
    metrics: Vec<T>,
    /// The place in `metrics` of each API key.
    places: [Option<u8>; API_KEYS],
}

impl<T> ByApi<T> {
    fn new(make: impl FnOnce(&[&str]) -> Vec<T>) -> Self {
        let names: Vec<String> = Api::ALL.iter().map(ToString::to_string).collect();
        let metrics = make(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut places = [None; API_KEYS];
        for (place, api) in (0..).zip(Api::ALL) {
            if let Some(slot) = usize::try_from(api.key()).ok().and_then(|key| places.get_mut(key)) {
                *slot = Some(place);
            }
        }
        Self { metrics, places }
    }

    fn get(&self, api: Api) -> Option<&T> {
        let place = (*self.places.get(usize::try_from(api.key()).ok()?)?)?;
        self.metrics.get(usize::from(place))
    }
}

/// The metrics of a broker.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    requests: ByApi<Counter>,
    request_durations: ByApi<Histogram>,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub connections_open: Gauge,
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
    pub log_directories_offline: Gauge,
    pub log_directories_full: Gauge,
    pub log_directories_stalled: Gauge,
}

impl Default for Telemetry {
    fn default() -> Self {
        let registry = Registry::new("ottla_broker");
        let by_api = |name, help| ByApi::new(|apis| registry.counters_by(name, help, "api", apis));
        let durations = |name, help| ByApi::new(|apis| registry.durations_by(name, help, "api", apis));
        Self {
            requests: by_api("requests_total", "Requests received"),
            request_durations: durations(
                "request_seconds",
                "Time from a request's last byte until its response is complete, in seconds",
            ),
            connections_accepted: registry.counter("connections_accepted_total", "Connections accepted"),
            connections_refused: registry.counter("connections_refused_total", "Connections refused by a limit"),
            connections_open: registry.gauge("connections_open", "Connections open now"),
            connections_broken: registry
                .counter("connections_broken_total", "Connections closed because of what the client sent"),
            bytes_received: registry.counter("bytes_received_total", "Bytes read from clients and other brokers"),
            bytes_sent: registry.counter("bytes_sent_total", "Bytes written to clients and other brokers"),
            records_bytes_in: registry
                .counter("records_bytes_in_total", "Bytes of record batches appended for producers"),
            records_bytes_out: registry.counter("records_bytes_out_total", "Bytes of record batches sent in fetches"),
            batches_in: registry.counter("batches_in_total", "Record batches appended for producers"),
            partitions: registry.gauge("partitions", "Partitions with a replica on this broker"),
            leader_partitions: registry.gauge("leader_partitions", "Partitions that this broker leads"),
            under_replicated_partitions: registry.gauge(
                "under_replicated_partitions",
                "Partitions that this broker leads and whose ISR lacks a replica",
            ),
            isr_shrinks: registry.counter("isr_shrinks_total", "ISR changes that removed a replica"),
            isr_expansions: registry.counter("isr_expansions_total", "ISR changes that added a replica"),
            image_revision: registry.gauge("image_revision", "Revision of this broker's image of the tree"),
            broker_epoch: registry.gauge("epoch", "Broker epoch; -1 while the broker is not registered"),
            cleaner: CleanerMetrics::new(&registry),
            groups: GroupMetrics::new(&registry),
            log_directories_offline: registry
                .gauge("log_directories_offline", "Log directories out of use because of an I/O error"),
            log_directories_full: registry.gauge("log_directories_full", "Log directories without free space"),
            log_directories_stalled: registry
                .gauge("log_directories_stalled", "Log directories whose writes do not return"),
            registry,
        }
    }
}

impl Telemetry {
    /// A request arrived.
    pub fn received(&self, api: Api) {
        if let Some(requests) = self.requests.get(api) {
            requests.add(1);
        }
    }

    /// The response to a request is complete, `took` after the request arrived.
    pub fn answered(&self, api: Api, took: Duration) {
        if let Some(durations) = self.request_durations.get(api) {
            durations.observe(took);
        }
    }

    /// Prometheus' text form. O(metrics) and O(groups), never O(partitions).
    pub fn render(&self) -> String {
        self.registry.render()
    }

    /// Every metric of a broker, for `docs/metrics.md`.
    pub fn descriptions(&self) -> Vec<Description> {
        self.registry.descriptions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_is_counted_and_timed() {
        let telemetry = Telemetry::default();
        for &api in Api::ALL {
            telemetry.received(api);
            telemetry.answered(api, Duration::from_micros(300));
        }
        let page = telemetry.render();
        for api in Api::ALL {
            assert!(page.contains(&format!("ottla_broker_requests_total{{api=\"{api}\"}} 1\n")), "{api}: {page}");
            let bucket = format!("ottla_broker_request_seconds_bucket{{api=\"{api}\",le=\"0.0005\"}} 1\n");
            assert!(page.contains(&bucket), "{api}: {page}");
        }
    }
}
