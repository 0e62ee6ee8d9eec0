//! The tools that measure: `kafka-producer-perf-test`, `kafka-consumer-perf-test`, `kafka-e2e-latency`.

pub mod consumer;
pub mod date_format;
pub mod latency;
pub mod producer;
pub mod producer_stats;

use std::time::Duration;

use ottla_protocol::record_batch::Compression;
use tokio::time::Instant;

use super::options::OptionsError;
use super::{ToolError, warn_unused};
use crate::kafka::Connecting;
use crate::producer::Settings;

/// The metrics of a Java client are not those of this one.
pub(super) const NO_METRICS: &str = "the metrics of Kafka's Java clients are not there";

/// A number with digits after the point, as Java's `%.nf` writes it.
pub fn decimal(number: f64, digits: usize) -> String {
    match number.is_infinite() {
        true => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        false => format!("{number:.digits$}"),
    }
}

/// The properties of a producer that have an effect; a warning names the others.
const PRODUCER_PROPERTIES: &[&str] = &[
    "acks",
    "batch.size",
    "bootstrap.servers",
    "compression.type",
    "linger.ms",
    "request.timeout.ms",
    "retries",
    "retry.backoff.ms",
    "security.protocol",
];
/// Kafka's defaults of `batch.size` and `linger.ms`.
const BATCH_BYTES: usize = 16_384;
const LINGER: Duration = Duration::from_millis(5);

/// How a producer connects and sends, by its properties; those that come later win.
pub fn producer_settings(
    bootstrap: &str,
    properties: &[(String, String)],
) -> Result<(Connecting, Settings), ToolError> {
    let property = |name: &str| properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number = |name: &'static str| -> Result<Option<u64>, ToolError> {
        let unparsable = |text: &str| OptionsError::Unparsable(name, text.to_owned()).into();
        property(name).map(|text| text.parse().map_err(|_| unparsable(text))).transpose()
    };
    let millis = |name| Ok::<_, ToolError>(number(name)?.map(Duration::from_millis));
    let acks = acks(property("acks").unwrap_or("all"))?;
    let codec = property("compression.type").unwrap_or("none");
    let compression = Compression::from_name(codec)
        .ok_or_else(|| ToolError::Argument(format!("Unknown compression name: {codec}")))?;
    if property("transactional.id").is_some() {
        return Err(ToolError::Argument(
            "Property transactional.id is not supported: no transaction is written".into(),
        ));
    }
    warn_unused(properties, PRODUCER_PROPERTIES, "org.apache.kafka.clients.producer.ProducerConfig");
    let mut settings = Settings { acks, compression, ..Settings::default() };
    let batch_bytes = number("batch.size")?.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(BATCH_BYTES);
    settings.batch_bytes = settings.batch_bytes.min(batch_bytes);
    settings.linger = millis("linger.ms")?.unwrap_or(LINGER);
    settings.timeout = millis("request.timeout.ms")?.unwrap_or(settings.timeout);
    let retries_max = number("retries")?.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    let connecting = Connecting { retries_max, backoff: millis("retry.backoff.ms")?, ..Connecting::to(bootstrap) };
    Ok((connecting, settings))
}

pub fn acks(text: &str) -> Result<i16, ToolError> {
    match text {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        other => Err(ToolError::Argument(format!(
            "Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1"
        ))),
    }
}

/// Keeps a rate of records.
pub struct Pace {
    began: Instant,
    /// Records a second; none is as fast as it goes.
    rate: Option<f64>,
}

impl Pace {
    /// Negative rates are no limit.
    pub fn new(rate: f64) -> Self {
        Self { began: Instant::now(), rate: (rate >= 0.0).then_some(rate) }
    }

    /// Waits until so many records may have been sent; for ever at a rate of 0.
    pub async fn wait(&self, sent: u64) {
        let Some(rate) = self.rate else { return };
        match Duration::try_from_secs_f64(sent as f64 / rate) {
            Ok(due) => tokio::time::sleep_until(self.began + due).await,
            Err(_) => std::future::pending().await,
        }
    }
}

/// `--name a b c` as `--name a --name b --name c`: the values of Kafka's repeatable arguments.
pub fn spread(arguments: &[String], names: &[&str]) -> Vec<String> {
    let mut spread: Vec<String> = Vec::with_capacity(arguments.len());
    let mut current = None;
    for (at, word) in arguments.iter().enumerate() {
        if word.starts_with("--") {
            current = names.contains(&word.as_str()).then_some((word, at));
        } else if let Some((name, _)) = current.filter(|(_, began)| at > began + 1) {
            spread.push(name.clone());
        }
        spread.push(word.clone());
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_java_writes_them() {
        assert_eq!((decimal(1.0, 4), decimal(0.126, 2)), ("1.0000".to_owned(), "0.13".to_owned()));
        assert_eq!((decimal(f64::INFINITY, 4), decimal(f64::NAN, 1)), ("Infinity".to_owned(), "NaN".to_owned()));
    }

    #[test]
    fn values_of_one_name_are_spread() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let spread = |line: &str| super::spread(&words(line), &["--props"]).join(" ");
        assert_eq!(spread("--props a=1 b=2 --topic t x"), "--props a=1 --props b=2 --topic t x");
        assert_eq!(spread("--topic t --props a=1"), "--topic t --props a=1");
    }

    #[test]
    fn properties_of_producers_are_read() {
        let settings = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            producer_settings("k", &pairs).map_err(|error| error.to_string())
        };
        let (connecting, read) = settings(&[("acks", "1"), ("linger.ms", "7"), ("retries", "3")]).expect("settings");
        assert_eq!((read.acks, read.linger, read.batch_bytes), (1, Duration::from_millis(7), BATCH_BYTES));
        assert_eq!(connecting.retries_max, Some(3));
        assert!(settings(&[("transactional.id", "x")]).is_err_and(|text| text.contains("transactional.id")));
        assert!(settings(&[("linger.ms", "soon")]).is_err() && settings(&[("acks", "2")]).is_err());
    }

    #[tokio::test]
    async fn a_rate_is_kept() {
        let pace = Pace::new(1_000.0);
        pace.wait(20).await;
        assert!(pace.began.elapsed() >= Duration::from_millis(20));
        Pace::new(-1.0).wait(u64::MAX).await;
    }
}
