//! `kafka-producer-perf-test`: writes records as fast as it goes, or at a rate, and reports rates and latencies.

use std::process::ExitCode;

use bytes::Bytes;
use ottla_model::TimestampMs;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;

use super::producer_stats::{Stats, Summary};
use super::{NO_METRICS, Pace, producer_settings, spread};
use crate::kafka::{Connecting, Kafka};
use crate::kafka_tools::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, value};
use crate::kafka_tools::{ToolError, client_properties, exceptions, now_ms, run_tool};
use crate::producer::{Outgoing, Producer, QUEUE_RECORDS, Sent, Settings};
use crate::{err, out};

const NO_TRANSACTIONS: &str = "no transaction is written";
const PROPERTIES_HELP: &str = "Properties of the producer, such as acks=1 linger.ms=10.";

pub(in crate::kafka_tools) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "BOOTSTRAP-SERVER", "The server(s) to connect to; goes before bootstrap.servers."),
    value("command-config", "CONFIG-FILE", "A file with properties of the producer."),
    value("command-property", "PROP-NAME=PROP-VALUE ...", PROPERTIES_HELP),
    flag("help", "Show this message."),
    value("num-records", "NUM-RECORDS", "REQUIRED: Number of records to produce."),
    value("payload-delimiter", "PAYLOAD-DELIMITER", "What is between the payloads of a file (default: a new line)."),
    value("payload-file", "PAYLOAD-FILE", "A file with payloads, of which each record gets one at random."),
    flag("payload-monotonic", "Each payload is a number, one greater than that before."),
    refused("print-metrics", Takes::Nothing, NO_METRICS),
    value("producer-props", "PROP-NAME=PROP-VALUE ...", "The older name of --command-property."),
    value("producer.config", "CONFIG-FILE", "The older name of --command-config."),
    value("record-size", "RECORD-SIZE", "The size of a payload in bytes."),
    value("reporting-interval", "INTERVAL-MS", "Milliseconds between two reports (default: 5000)."),
    value("throughput", "THROUGHPUT", "REQUIRED: Records a second, about; -1 is no limit."),
    value("topic", "TOPIC", "REQUIRED: Produce records to this topic."),
    refused("transaction-duration-ms", Takes::Value, NO_TRANSACTIONS),
    refused("transactional-id", Takes::Value, NO_TRANSACTIONS),
    value(
        "warmup-records",
        "WARMUP-RECORDS",
        "The first records, which do not count for the steady state (default: 0).",
    ),
];

const INTERVAL_MS: i64 = 5_000;

/// What records hold.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Payload {
    /// Random letters.
    Random(usize),
    /// One of these.
    Listed(Vec<Bytes>),
    /// The record's number.
    Counted,
}

struct Plan {
    connecting: Connecting,
    settings: Settings,
    topic: String,
    records: u64,
    warmup: u64,
    throughput: f64,
    interval_ms: i64,
    payload: Payload,
    /// Lines that come first.
    notices: Vec<String>,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    let arguments = spread(arguments, &["--producer-props", "--command-property"]);
    run_tool("", SPECS, &arguments, plan, |plan| async move {
        match measure(plan).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("{}: {error}", exceptions::class(&error));
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let wrong = |text: &str| Err(ToolError::Usage(text.to_owned()));
    let topic = options.required("topic")?.to_owned();
    let required = |name| options.number::<i64>(name)?.ok_or(OptionsError::Missing(name));
    let records = required("num-records")?;
    let throughput = options.number::<f64>("throughput")?.ok_or(OptionsError::Missing("throughput"))?;
    let sources = ["record-size", "payload-file", "payload-monotonic"];
    if sources.iter().filter(|source| options.has(source)).count() != 1 {
        return wrong("exactly one of --record-size, --payload-file and --payload-monotonic is required");
    }
    let Some(records) = u64::try_from(records).ok().filter(|records| *records > 0) else {
        return wrong("--num-records should be greater than zero.");
    };
    let warmup = options.number::<i64>("warmup-records")?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    if warmup >= records {
        return wrong(
            "The value for --warmup-records must be strictly fewer than the number of records in the test, --num-records.",
        );
    }
    let interval_ms = options.number("reporting-interval")?.unwrap_or(INTERVAL_MS);
    if interval_ms <= 0 {
        return wrong("--reporting-interval should be greater than zero.");
    }
    let properties =
        client_properties(options, &["producer.config", "command-config"], &["producer-props", "command-property"])?;
    let named = properties.iter().rev().find(|(name, _)| name == "bootstrap.servers").map(|(_, value)| value.as_str());
    let Some(bootstrap) = options.get("bootstrap-server").or(named) else {
        return wrong(
            "At least one of --bootstrap-server, --command-property, --producer-props, --producer.config or \
             --command-config must be specified.",
        );
    };
    let (connecting, settings) = producer_settings(bootstrap, &properties)?;
    Ok(Plan {
        connecting,
        settings,
        topic,
        records,
        warmup,
        throughput,
        interval_ms,
        payload: payload(options)?,
        notices: notices(options),
    })
}

fn notices(options: &Options) -> Vec<String> {
    let older = [("producer-props", "command-property"), ("producer.config", "command-config")];
    let deprecated = older.into_iter().filter(|(option, _)| options.has(option)).map(|(option, newer)| {
        format!("Option --{option} has been deprecated and will be removed in a future version. Use --{newer} instead.")
    });
    let path = options.get("payload-file").and_then(|path| std::path::absolute(path).ok());
    deprecated.chain(path.map(|path| format!("Reading payloads from: {}", path.display()))).collect()
}

fn payload(options: &Options) -> Result<Payload, ToolError> {
    if let Some(size) = options.number::<i32>("record-size")? {
        return match usize::try_from(size) {
            Ok(size @ 1..) => Ok(Payload::Random(size)),
            _ => Err(ToolError::Usage("--record-size should be greater than zero.".to_owned())),
        };
    }
    let Some(path) = options.get("payload-file") else { return Ok(Payload::Counted) };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let delimiter = options.get("payload-delimiter").filter(|text| *text != "\\n").unwrap_or("\n");
    // Kafka's tool reads a delimiter as a regular expression.
    let delimiter = regex::Regex::new(delimiter).map_err(|error| ToolError::Argument(error.to_string()))?;
    let text = text.strip_suffix('\n').filter(|_| delimiter.as_str() == "\n").unwrap_or(&text);
    if text.is_empty() {
        return Err(ToolError::Argument("File does not exist or empty file provided.".to_owned()));
    }
    Ok(Payload::Listed(delimiter.split(text).map(|part| Bytes::copy_from_slice(part.as_bytes())).collect()))
}

impl Payload {
    fn next(&self, number: u64, random: &mut StdRng) -> Bytes {
        match self {
            Self::Random(size) => {
                let mut letters = vec![0; *size];
                random.fill(&mut letters[..]);
                letters.iter_mut().for_each(|byte| *byte = b'A' + *byte % 26);
                letters.into()
            }
            Self::Listed(listed) => listed.get(random.random_range(0..listed.len())).cloned().unwrap_or_default(),
            Self::Counted => number.to_string().into(),
        }
    }
}

async fn measure(plan: Plan) -> Result<(), ToolError> {
    plan.notices.iter().for_each(|line| out!("{line}"));
    if let Payload::Listed(listed) = &plan.payload {
        out!("Number of records read: {}", listed.len());
    }
    let kafka = Kafka::connect_with(plan.connecting.clone()).await?;
    let producer = Producer::open(&kafka, &plan.topic, plan.settings.clone()).await?;
    if plan.warmup > 0 {
        let after = "Steady state results will print after the complete test summary.";
        out!("Warmup first {} records. {after}", plan.warmup);
    }
    let (sender, records) = mpsc::channel(QUEUE_RECORDS);
    let mut stats = Stats::new(plan.records, plan.interval_ms, false, now_ms());
    let mut steady = None;
    let mut acknowledged = 0;
    let report = |sent: Sent| {
        acknowledged += sent.records.len() as u64;
        if let Err(error) = &sent.result {
            err!("{}", exceptions::shown(error));
            return true;
        }
        let now = now_ms();
        for (left, record) in (0..sent.records.len() as u64).rev().zip(&sent.records) {
            if plan.warmup > 0 && acknowledged - left > plan.warmup && steady.is_none() {
                stats.silence();
                steady = Some(Stats::new(plan.records - plan.warmup, plan.interval_ms, true, now));
            }
            let latency_ms = record.timestamp.map_or(0, |began| u32::try_from(now - began.0).unwrap_or(0));
            let bytes = record.value.as_ref().map_or(0, Bytes::len) as u64;
            stats.record(latency_ms, bytes, now).iter().for_each(|line| out!("{line}"));
            if let Some(steady) = &mut steady {
                steady.record(latency_ms, bytes, now).iter().for_each(|line| out!("{line}"));
            }
        }
        true
    };
    // Whoever takes no more records ends the making of them.
    let writing = async {
        let mut records = records;
        producer.run_reporting(&mut records, report).await
    };
    let (sent, ()) = tokio::join!(writing, generate(&plan.payload, plan.records, plan.throughput, sender));
    sent.map_err(|error| ToolError::Argument(error.to_string()))?;
    out!("{}", stats.total_line(now_ms()));
    if let Some(mut steady) = steady {
        out!("{}", steady.total_line(now_ms()));
    }
    Ok(())
}

/// What `ottla bench` writes.
pub struct Load {
    pub topic: String,
    pub settings: Settings,
    pub records: u64,
    pub record_bytes: usize,
    /// Records a second; negative: as many as go.
    pub throughput: f64,
}

/// Writes records of random letters as this tool does, and says nothing meanwhile. The first error ends it.
pub async fn write(kafka: &Kafka, load: &Load) -> Result<Summary, ToolError> {
    let producer = Producer::open(kafka, &load.topic, load.settings.clone()).await?;
    let (sender, records) = mpsc::channel(QUEUE_RECORDS);
    let mut stats = Stats::new(load.records, i64::MAX, false, now_ms());
    let mut failed = None;
    let report = |sent: Sent| {
        if let Err(error) = sent.result {
            failed = Some(error);
            return false;
        }
        let now = now_ms();
        for record in &sent.records {
            let latency_ms = record.timestamp.map_or(0, |began| u32::try_from(now - began.0).unwrap_or(0));
            stats.record(latency_ms, record.value.as_ref().map_or(0, Bytes::len) as u64, now);
        }
        true
    };
    let payload = Payload::Random(load.record_bytes);
    let writing = async {
        let mut records = records;
        producer.run_reporting(&mut records, report).await
    };
    let (sent, ()) = tokio::join!(writing, generate(&payload, load.records, load.throughput, sender));
    sent.map_err(|error| ToolError::Argument(error.to_string()))?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(stats.summary(now_ms())),
    }
}

/// Makes the records; the channel ends with them.
async fn generate(payload: &Payload, records: u64, throughput: f64, sender: mpsc::Sender<Outgoing>) {
    // As Kafka's tool: the same records in every run.
    let mut random = StdRng::seed_from_u64(0);
    let pace = Pace::new(throughput);
    for number in 0..records {
        let value = Some(payload.next(number, &mut random));
        let record = Outgoing { value, timestamp: Some(TimestampMs(now_ms())), ..Outgoing::default() };
        if sender.send(record).await.is_err() {
            return;
        }
        pace.wait(number + 1).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let line = spread(&words, &["--producer-props", "--command-property"]).join(" ");
        crate::kafka_tools::planned(SPECS, &line, plan)
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let documented = "--topic t --num-records 1000 --record-size 100 --throughput -1 --producer-props";
        let plan = planned(&format!("{documented} bootstrap.servers=k:9092 acks=1")).expect("a plan");
        assert_eq!((plan.connecting.bootstrap.as_str(), plan.settings.acks), ("k:9092", 1));
        assert_eq!((plan.records, plan.payload, plan.interval_ms), (1_000, Payload::Random(100), 5_000));
        let text = |line: &str| planned(line).err().unwrap_or_default();
        let start = "--topic t --throughput 5 --bootstrap-server k";
        assert!(planned(&format!("{start} --num-records 5 --payload-monotonic --warmup-records 4")).is_ok());
        assert!(text(&format!("{start} --num-records 5")).contains("exactly one of --record-size"));
        assert!(text(&format!("{start} --num-records 0 --record-size 5")).contains("greater than zero"));
        assert!(text(&format!("{start} --num-records 5 --record-size 0")).contains("--record-size should be"));
        assert!(
            text(&format!("{start} --num-records 5 --record-size 1 --warmup-records 5")).contains("strictly fewer")
        );
        assert!(text(&format!("{start} --num-records 5 --payload-file no-such-file")).contains("does not exist"));
        assert!(text("--topic t --throughput 5 --num-records 5 --record-size 1").contains("At least one of"));
        assert!(text(&format!("{start} --transactional-id x")).contains("not supported"));
    }

    #[test]
    fn payloads_are_letters_lines_or_numbers() {
        let mut random = StdRng::seed_from_u64(0);
        let letters = Payload::Random(500).next(0, &mut random);
        assert!(letters.len() == 500 && letters.iter().all(u8::is_ascii_uppercase));
        assert_eq!(Payload::Counted.next(7, &mut random), "7");
        assert_eq!(Payload::Listed(vec!["a".into()]).next(7, &mut random), "a");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "one\ntwo\n").expect("written");
        let line = format!(
            "--topic t --throughput 5 --bootstrap-server k --num-records 5 --payload-file {}",
            file.path().display()
        );
        assert_eq!(planned(&line).map(|plan| plan.payload), Ok(Payload::Listed(vec!["one".into(), "two".into()])));
    }
}
