//! The metrics of a process: counters, gauges and histograms in one registry, which shows them to Prometheus and
//! describes them for `docs/metrics.md`; and [`RateLimit`] and [`Reminder`], which bound log lines.
//!
//! A metric is made once, when the process starts, and is a cheap handle: to count costs one relaxed add, to time a
//! request two. A page costs a step for each metric, never for each partition, and takes no lock that the data path
//! takes.

mod rate_limit;
mod reminder;
mod watchdog;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{AtomicI64, AtomicU64, Collector, Desc, GenericCounter, GenericGauge};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, TextEncoder};

pub use rate_limit::RateLimit;
pub use reminder::Reminder;
pub use watchdog::Watchdog;

/// Upper bounds of the histograms of durations, in seconds: from a page-cache append to a stall that people notice.
/// Four bounds per factor of ten; more would cost memory and lines for each API.
const DURATION_BOUNDS_S: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Only a bad name makes a metric fail, and names are constants: the test of `docs/metrics.md` makes every metric.
const CONSTANT: &str = "metric names are constants of the program";

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(GenericCounter<AtomicU64>);

impl Counter {
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that can grow and shrink.
#[derive(Clone, Debug)]
pub struct Gauge(GenericGauge<AtomicI64>);

impl Gauge {
    pub fn add(&self, count: i64) {
        self.0.add(count);
    }

    pub fn set(&self, value: i64) {
        self.0.set(value);
    }

    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// One gauge for each value of a label; the values come and go.
#[derive(Clone, Debug)]
pub struct GaugesBy(IntGaugeVec);

impl GaugesBy {
    /// Replaces all of them.
    pub fn set_all(&self, values: &BTreeMap<String, i64>) {
        self.0.reset();
        for (label, value) in values {
            self.0.with_label_values(&[label]).set(*value);
        }
    }
}

/// How long things took.
#[derive(Clone, Debug)]
pub struct Histogram(prometheus::Histogram);

impl Histogram {
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    pub fn count(&self) -> u64 {
        self.0.get_sample_count()
    }
}

/// The description of a metric, for the documents.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Description {
    pub name: String,
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

/// All metrics of one process, under one prefix.
pub struct Registry {
    inner: prometheus::Registry,
    prefix: &'static str,
    descriptions: Mutex<BTreeMap<String, Description>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Registry {
    /// Each name is `prefix`, `_`, and the name of the metric.
    pub fn new(prefix: &'static str) -> Self {
        Self::with_label(prefix, None)
    }

    /// As [`Registry::new`]; each metric has this label besides its own.
    pub fn with_label(prefix: &'static str, label: Option<(&str, String)>) -> Self {
        let labels = label.map(|(name, value)| [(name.to_owned(), value)].into());
        let inner = prometheus::Registry::new_custom(None, labels).expect(CONSTANT);
        Self { inner, prefix, descriptions: Mutex::default() }
    }

    /// A counter; by Prometheus' convention its name ends with `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = GenericCounter::new(self.name(name), help).expect(CONSTANT);
        self.register(name, "counter", &[], help, counter.clone());
        Counter(counter)
    }

    /// One counter for each value of a label.
    pub fn counters_by(&self, name: &str, help: &str, label: &str, values: &[&str]) -> Vec<Counter> {
        let all = IntCounterVec::new(Opts::new(self.name(name), help), &[label]).expect(CONSTANT);
        self.register(name, "counter", &[label], help, all.clone());
        values.iter().map(|value| Counter(all.with_label_values(&[value]))).collect()
    }

    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = GenericGauge::new(self.name(name), help).expect(CONSTANT);
        self.register(name, "gauge", &[], help, gauge.clone());
        Gauge(gauge)
    }

    pub fn gauges_by(&self, name: &str, help: &str, label: &str) -> GaugesBy {
        let all = IntGaugeVec::new(Opts::new(self.name(name), help), &[label]).expect(CONSTANT);
        self.register(name, "gauge", &[label], help, all.clone());
        GaugesBy(all)
    }

    /// One histogram of durations for each value of a label; the name ends with `_seconds`.
    pub fn durations_by(&self, name: &str, help: &str, label: &str, values: &[&str]) -> Vec<Histogram> {
        let options = HistogramOpts::new(self.name(name), help).buckets(DURATION_BOUNDS_S.to_vec());
        let all = HistogramVec::new(options, &[label]).expect(CONSTANT);
        self.register(name, "histogram", &[label], help, all.clone());
        values.iter().map(|value| Histogram(all.with_label_values(&[value]))).collect()
    }

    /// A histogram of durations; the name ends with `_seconds`.
    pub fn durations(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(self.name(name), help).buckets(DURATION_BOUNDS_S.to_vec());
        let histogram = prometheus::Histogram::with_opts(options).expect(CONSTANT);
        self.register(name, "histogram", &[], help, histogram.clone());
        Histogram(histogram)
    }

    /// A gauge whose values are computed for each page, because counting them continuously would cost too much.
    /// `compute` returns a value for each combination of labels. It must not wait for a lock that may be held during
    /// disk I/O.
    pub fn computed(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        compute: impl Fn() -> Rows + Send + Sync + 'static,
    ) {
        let options = Opts::new(self.name(name), help);
        let gauges = prometheus::GaugeVec::new(options, labels).expect(CONSTANT);
        self.register(name, "gauge", labels, help, Computed { gauges, compute: Box::new(compute) });
    }

    /// Several gauges whose values come from one look, made for each page as in [`Registry::computed`]. `compute`
    /// returns a list of values for each gauge, in their order.
    pub fn computed_together(
        &self,
        gauges: &[ComputedGauge<'_>],
        compute: impl Fn() -> Vec<Rows> + Send + Sync + 'static,
    ) {
        let vectors = gauges.iter().map(|gauge| {
            let options = Opts::new(self.name(gauge.name), gauge.help);
            prometheus::GaugeVec::new(options, gauge.labels).expect(CONSTANT)
        });
        let together = ComputedTogether { gauges: vectors.collect(), compute: Box::new(compute) };
        let is_new = self.inner.register(Box::new(together)).is_ok();
        debug_assert!(is_new, "one of these metrics is registered twice or has a bad name");
        for gauge in gauges {
            self.describe(gauge.name, "gauge", gauge.labels, gauge.help);
        }
    }

    /// Prometheus' text form.
    pub fn render(&self) -> String {
        Self::render_all([self])
    }

    /// The metrics of several registries, which differ in their labels, on one page.
    pub fn render_all<'a>(registries: impl IntoIterator<Item = &'a Self>) -> String {
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        for family in registries.into_iter().flat_map(|registry| registry.inner.gather()) {
            match families.entry(family.name().to_owned()) {
                Entry::Vacant(entry) => drop(entry.insert(family)),
                Entry::Occupied(mut entry) => entry.get_mut().mut_metric().extend_from_slice(family.get_metric()),
            }
        }
        let families: Vec<MetricFamily> = families.into_values().collect();
        let mut page = String::with_capacity(16 * 1024);
        // Writing to a string fails only for a family without metrics, which the registry does not gather.
        let _ = TextEncoder::new().encode_utf8(&families, &mut page);
        page
    }

    /// Every metric, by name.
    pub fn descriptions(&self) -> Vec<Description> {
        self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    /// A name that was taken before is a mistake of the program, which `docs/metrics.md`'s test finds: the second
    /// metric counts and is not shown.
    fn register(&self, name: &str, kind: &'static str, labels: &[&str], help: &str, metric: impl Collector + 'static) {
        let is_new = self.inner.register(Box::new(metric)).is_ok();
        debug_assert!(is_new, "metric {name} is registered twice or has a bad name");
        self.describe(name, kind, labels, help);
    }

    fn describe(&self, name: &str, kind: &'static str, labels: &[&str], help: &str) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let description = Description { name: self.name(name), kind, labels, help: help.to_owned() };
        self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).insert(description.name.clone(), description);
    }
}

/// A gauge of [`Registry::computed_together`].
#[derive(Clone, Copy, Debug)]
pub struct ComputedGauge<'a> {
    pub name: &'a str,
    pub help: &'a str,
    pub labels: &'a [&'a str],
}

/// Values of the labels, in their order, and a value.
pub type Rows = Vec<(Vec<String>, f64)>;
type Compute = Box<dyn Fn() -> Rows + Send + Sync>;

struct Computed {
    gauges: prometheus::GaugeVec,
    compute: Compute,
}

impl Collector for Computed {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        show(&self.gauges, (self.compute)())
    }
}

struct ComputedTogether {
    gauges: Vec<prometheus::GaugeVec>,
    compute: Box<dyn Fn() -> Vec<Rows> + Send + Sync>,
}

impl Collector for ComputedTogether {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauges.iter().zip((self.compute)()).flat_map(|(gauges, rows)| show(gauges, rows)).collect()
    }
}

fn show(gauges: &prometheus::GaugeVec, rows: Rows) -> Vec<MetricFamily> {
    gauges.reset();
    for (labels, value) in rows {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        if let Ok(gauge) = gauges.get_metric_with_label_values(&labels) {
            gauge.set(value);
        }
    }
    gauges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_what_was_counted() {
        let registry = Registry::new("ottla_test");
        let counter = registry.counter("things_total", "Things that were counted");
        let gauge = registry.gauge("open", "Things that are open");
        let durations = registry.durations_by("took_seconds", "Time that a thing took", "api", &["Fetch", "Produce"]);
        registry.computed("groups", "Groups by state", &["state"], || vec![(vec!["Stable".to_owned()], 3.0)]);
        counter.add(2);
        gauge.add(5);
        gauge.add(-1);
        durations[1].observe(Duration::from_micros(200));
        let page = registry.render();
        for line in [
            "# HELP ottla_test_things_total Things that were counted",
            "# TYPE ottla_test_things_total counter",
            "ottla_test_things_total 2",
            "ottla_test_open 4",
            "ottla_test_took_seconds_bucket{api=\"Produce\",le=\"0.0001\"} 0",
            "ottla_test_took_seconds_bucket{api=\"Produce\",le=\"0.00025\"} 1",
            "ottla_test_took_seconds_count{api=\"Fetch\"} 0",
            "ottla_test_groups{state=\"Stable\"} 3",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line} is missing in\n{page}");
        }
        let names: Vec<_> = registry.descriptions().into_iter().map(|description| description.name).collect();
        assert_eq!(
            names,
            ["ottla_test_groups", "ottla_test_open", "ottla_test_things_total", "ottla_test_took_seconds"]
        );
    }

    #[test]
    fn registries_that_differ_in_a_label_share_a_page() {
        let registries =
            [None, Some(("chroot", "/a".to_owned()))].map(|label| Registry::with_label("ottla_test", label));
        for (registry, value) in registries.iter().zip([3, 7]) {
            registry.gauge("term", "A number").set(value);
        }
        let page = Registry::render_all(&registries);
        let lines: Vec<_> = page.lines().filter(|line| line.contains("TYPE") || !line.starts_with('#')).collect();
        assert_eq!(lines, ["# TYPE ottla_test_term gauge", "ottla_test_term 3", "ottla_test_term{chroot=\"/a\"} 7"]);
    }

    #[test]
    fn gauges_of_one_look_are_shown_apart() {
        let registry = Registry::new("ottla_test");
        let labels: &[&str] = &["topic"];
        let gauges = [
            ComputedGauge { name: "end", help: "An offset", labels },
            ComputedGauge { name: "left_out", help: "A count", labels: &[] },
        ];
        registry.computed_together(&gauges, || vec![vec![(vec!["t".to_owned()], 7.0)], vec![(vec![], 2.0)]]);
        let page = registry.render();
        assert!(page.contains("ottla_test_end{topic=\"t\"} 7\n"), "{page}");
        assert!(page.contains("\nottla_test_left_out 2\n"), "{page}");
        assert_eq!(registry.descriptions().len(), 2);
    }

    #[test]
    fn a_computed_gauge_forgets_what_is_gone() {
        let registry = Registry::new("ottla_test");
        let states = std::sync::Arc::new(Mutex::new(vec!["Empty", "Stable"]));
        let seen = std::sync::Arc::clone(&states);
        registry.computed("groups", "Groups by state", &["state"], move || {
            let states = seen.lock().unwrap_or_else(PoisonError::into_inner);
            states.iter().map(|state| (vec![(*state).to_owned()], 1.0)).collect()
        });
        assert!(registry.render().contains("state=\"Empty\""));
        states.lock().expect("the test's lock").remove(0);
        assert!(!registry.render().contains("state=\"Empty\""));
    }
}
