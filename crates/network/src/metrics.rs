//! What is counted of connections and requests.

use std::time::Duration;

use ottla_metrics::{Counter, Gauge, Histogram, Registry};
use ottla_protocol::Api;

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

    #[inline]
    fn get(&self, api: Api) -> Option<&T> {
        let place = (*self.places.get(usize::try_from(api.key()).ok()?)?)?;
        self.metrics.get(usize::from(place))
    }
}

/// The metrics of connections.
#[derive(Debug)]
pub struct NetworkMetrics {
    requests: ByApi<Counter>,
    request_durations: ByApi<Histogram>,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub connections_open: Gauge,
    pub connections_broken: Counter,
    pub logins_failed: Counter,
    pub tls_handshakes_failed: Counter,
    pub slow_turns: Counter,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
}

impl NetworkMetrics {
    pub fn new(registry: &Registry) -> Self {
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
            logins_failed: registry.counter("logins_failed_total", "Logins by SASL that failed"),
            tls_handshakes_failed: registry
                .counter("tls_handshakes_failed_total", "TLS handshakes that failed or took too long"),
            slow_turns: registry
                .counter("slow_turns_total", "Turns of a connection that held a worker for more than 50 ms"),
            bytes_received: registry.counter("bytes_received_total", "Bytes read from clients and other brokers"),
            bytes_sent: registry.counter("bytes_sent_total", "Bytes written to clients and other brokers"),
        }
    }

    /// A request arrived.
    #[inline]
    pub fn received(&self, api: Api) {
        if let Some(requests) = self.requests.get(api) {
            requests.add(1);
        }
    }

    /// The response to a request is complete, `took` after the request arrived.
    #[inline]
    pub fn answered(&self, api: Api, took: Duration) {
        if let Some(durations) = self.request_durations.get(api) {
            durations.observe(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_is_counted_and_timed() {
        let registry = Registry::new("test");
        let metrics = NetworkMetrics::new(&registry);
        for &api in Api::ALL {
            metrics.received(api);
            metrics.answered(api, Duration::from_micros(300));
        }
        let page = registry.render();
        for api in Api::ALL {
            assert!(page.contains(&format!("test_requests_total{{api=\"{api}\"}} 1\n")), "{api}: {page}");
            let bucket = format!("test_request_seconds_bucket{{api=\"{api}\",le=\"0.0005\"}} 1\n");
            assert!(page.contains(&bucket), "{api}: {page}");
        }
    }
}
