//! What a client pushed, under names that Prometheus takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ottla_metadata::client_metrics_config::Subscription;

use crate::otlp::{self, Attribute, DataPoint, Kind, OtlpError};

/// What the names of all metrics of clients begin with.
pub const PREFIX: &str = "ottla_client_";
/// What clients' own names begin with (KIP-714).
const KAFKA_PREFIX: &str = "org.apache.kafka.";
/// The family that tells who the clients are; no client fills it.
pub const INFO: &str = "ottla_client_info";
/// Labels that say whose value it is; no client chooses them.
pub const CLIENT_LABELS: [&str; 2] = ["client_instance_id", "client_id"];

/// The longest name of a metric, and of an attribute or its value. Kafka's have at most 100 bytes, topics 249.
const TEXT_BYTES_MAX: usize = 256;
/// Attributes of one value, those of its client included. Kafka's clients send fewer than ten.
const ATTRIBUTES_MAX: usize = 32;
/// What a series takes beside its texts.
const SERIES_BYTES: usize = 96;
/// What the series of one client may take: 5,000 of them, as a consumer of 1,000 partitions has.
pub const CLIENT_BYTES_MAX: usize = 1024 * 1024;
/// Values of one push that are looked at. More series have no room, and a push may repeat one a million times.
const POINTS_MAX: usize = CLIENT_BYTES_MAX / SERIES_BYTES;

/// A metric of one client with one set of labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Series {
    pub name: String,
    pub is_counter: bool,
    /// As Prometheus writes them, without the braces.
    pub labels: String,
}

impl Series {
    pub fn bytes(&self) -> usize {
        self.name.len() + self.labels.len() + SERIES_BYTES
    }
}

/// The values of one push.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Points {
    /// With the value, and whether it is added to the last one.
    pub series: BTreeMap<Series, (f64, bool)>,
    pub bytes: usize,
    /// Values that are not shown: of types that are not understood, with long texts, too many.
    pub left_out: usize,
}

impl Points {
    /// Reads an OTLP message, as far as its metrics were asked for: by beginnings of their names, or `*`.
    pub fn read(message: &[u8], asked: &[String]) -> Result<Self, OtlpError> {
        let is_asked =
            |name: &str| asked.iter().any(|prefix| prefix == Subscription::ALL || name.starts_with(prefix.as_str()));
        let mut points = Self::default();
        let mut looked_at = 0;
        let others = otlp::for_each_point(message, |point| {
            if !is_asked(point.metric) {
                return Ok(());
            }
            looked_at += 1;
            if looked_at > POINTS_MAX {
                points.left_out += 1;
                return Ok(());
            }
            points.take(&point)
        })?;
        points.left_out += others;
        Ok(points)
    }

    fn take(&mut self, point: &DataPoint<'_>) -> Result<(), OtlpError> {
        let series = series(point)?.filter(|series| self.bytes + series.bytes() <= CLIENT_BYTES_MAX);
        let Some(series) = series else {
            self.left_out += 1;
            return Ok(());
        };
        let is_delta = matches!(point.kind, Kind::Delta { .. });
        let bytes = series.bytes();
        if self.series.insert(series, (point.value, is_delta)).is_none() {
            self.bytes += bytes;
        }
        Ok(())
    }
}

/// None: it cannot be shown.
fn series(point: &DataPoint<'_>) -> Result<Option<Series>, OtlpError> {
    let is_counter = matches!(point.kind, Kind::Sum { is_monotonic: true } | Kind::Delta { is_monotonic: true });
    let mut labels = BTreeMap::new();
    let mut is_left_out = false;
    let mut count = 0;
    point.attributes(|key, value| {
        count += 1;
        match (label(key), label_value(value)) {
            (Some(key), Some(value)) if count <= ATTRIBUTES_MAX => {
                if !CLIENT_LABELS.contains(&key.as_str()) {
                    labels.insert(key, value);
                }
            }
            _ => is_left_out = true,
        }
    })?;
    let Some(name) = name(point.metric, is_counter).filter(|_| !is_left_out) else { return Ok(None) };
    let mut text = String::new();
    for (key, value) in &labels {
        put_label(&mut text, key, value);
    }
    Ok(Some(Series { name, is_counter, labels: text }))
}

fn name(metric: &str, is_counter: bool) -> Option<String> {
    let own = metric.strip_prefix(KAFKA_PREFIX).unwrap_or(metric);
    if own.is_empty() || own.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut name = PREFIX.to_owned();
    name.extend(own.chars().map(plain));
    if is_counter && !name.ends_with("_total") {
        name.push_str("_total");
    }
    Some(name).filter(|name| name != INFO)
}

/// Names that begin with two underscores are Prometheus' own.
fn label(key: &str) -> Option<String> {
    // Before anything is done with a long one: that of a client comes with each of its values.
    if key.len() > TEXT_BYTES_MAX {
        return None;
    }
    let own = key.trim_start_matches('_');
    if own.is_empty() {
        return None;
    }
    let mut label: String = own.chars().map(plain).collect();
    if label.starts_with(|first: char| first.is_ascii_digit() || first == '_') {
        label.insert_str(0, "key");
    }
    Some(label)
}

/// As of a key, a long one is not copied.
fn label_value(value: Attribute<'_>) -> Option<String> {
    let is_long = matches!(value, Attribute::Text(text) if text.len() > TEXT_BYTES_MAX);
    (!is_long).then(|| value.to_string()).filter(|text| text.len() <= TEXT_BYTES_MAX)
}

fn plain(character: char) -> char {
    if character.is_ascii_alphanumeric() { character } else { '_' }
}

/// Adds a label to a list of them.
pub fn put_label(labels: &mut String, key: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(key);
    labels.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            other => labels.push(other),
        }
    }
    labels.push('"');
}

/// A value as Prometheus writes it.
pub fn put_value(line: &mut String, value: f64) {
    let infinite = if value.is_sign_positive() { "+Inf" } else { "-Inf" };
    let size = value.abs();
    if size.is_infinite() {
        line.push_str(infinite);
    } else if size >= 1e17 || (size > 0.0 && size < 1e-9) {
        // Written out, it may have more than three hundred digits. Writing to a string does not fail.
        let _ = write!(line, "{value:e}");
    } else {
        let _ = write!(line, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Metric, counter, gauge, payload};

    fn all() -> [String; 1] {
        ["*".to_owned()]
    }

    fn shown(resource: &[(&str, &str)], metrics: &[Metric]) -> (Vec<String>, usize) {
        let points = Points::read(&payload(resource, metrics), &all()).expect("a message");
        let line = |(series, (value, is_delta)): (&Series, &(f64, bool))| {
            format!("{}{{{}}} {value} {is_delta}", series.name, series.labels)
        };
        (points.series.iter().map(line).collect(), points.left_out)
    }

    #[test]
    fn names_are_those_that_prometheus_takes() {
        let metrics = [
            gauge("org.apache.kafka.producer.request.latency.avg", 1.5, &[("node.id", "1")]),
            counter("org.apache.kafka.producer.connection.creation", 3, true, &[]),
            counter("my-app.requests.total", 4, false, &[("path", "a\"b\\c\nd"), ("0", "x"), ("__name__", "y")]),
        ];
        let (lines, left_out) = shown(&[("client_rack", "a"), ("client_id", "another's")], &metrics);
        assert_eq!(
            lines,
            [
                r#"ottla_client_my_app_requests_total{client_rack="a",key0="x",name__="y",path="a\"b\\c\nd"} 4 false"#,
                r#"ottla_client_producer_connection_creation_total{client_rack="a"} 3 true"#,
                r#"ottla_client_producer_request_latency_avg{client_rack="a",node_id="1"} 1.5 false"#,
            ]
        );
        assert_eq!(left_out, 0);
    }

    #[test]
    fn what_was_not_asked_for_is_passed_over() {
        let message = payload(&[], &[gauge("a.b", 1.0, &[]), gauge("c.d", 1.0, &[])]);
        let shown = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|prefix| (*prefix).to_owned()).collect();
            let points = Points::read(&message, &asked).expect("a message");
            assert_eq!(points.left_out, 0);
            points.series.keys().map(|series| series.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(shown(&["x", "c."]), ["ottla_client_c_d"]);
        assert_eq!(shown(&["a", "c"]).len(), 2);
        assert!(shown(&[]).is_empty());
    }

    #[test]
    fn what_cannot_be_shown_is_left_out() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let many: Vec<String> = (0..=ATTRIBUTES_MAX).map(|number| format!("a{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
        let metrics = [
            gauge("", 1.0, &[]),
            gauge("org.apache.kafka.", 1.0, &[]),
            gauge("info", 1.0, &[]),
            gauge(&long, 1.0, &[]),
            gauge("a", 1.0, &[("key", &long)]),
            gauge("b", 1.0, &[(&long, "value")]),
            gauge("c", 1.0, &many),
            Metric { name: "latency".to_owned(), histogram: vec![1], ..Metric::default() },
        ];
        assert_eq!(shown(&[], &metrics), (Vec::new(), metrics.len()));
    }

    #[test]
    fn the_series_of_a_client_are_bounded() {
        let metrics: Vec<Metric> =
            (0..20_000).map(|number| gauge(&format!("metric.{number}"), 1.0, &[("topic", "t")])).collect();
        let points = Points::read(&payload(&[], &metrics), &all()).expect("a message");
        assert!(points.bytes <= CLIENT_BYTES_MAX && points.bytes > CLIENT_BYTES_MAX - 1_000);
        assert_eq!(points.series.len() + points.left_out, metrics.len());
        assert_eq!(points.bytes, points.series.keys().map(Series::bytes).sum::<usize>());
    }

    /// They were all made into series again, the same one each time.
    #[test]
    fn values_beyond_those_that_could_be_shown_are_not_looked_at() {
        let metrics = vec![gauge("rate", 1.0, &[]); POINTS_MAX + 100];
        let points = Points::read(&payload(&[], &metrics), &all()).expect("a message");
        assert_eq!((points.series.len(), points.left_out), (1, 100));
    }

    #[test]
    fn values_are_as_prometheus_reads_them_and_short() {
        let shown = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.5, 0.0, 4e15, -1e300, 1e-300].map(|value| {
            let mut line = String::new();
            put_value(&mut line, value);
            line
        });
        assert_eq!(shown, ["+Inf", "-Inf", "NaN", "0.5", "0", "4000000000000000", "-1e300", "1e-300"]);
    }
}
