//! `kafka-e2e-latency`: writes a record, reads it, and reports how long both took together.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use ottla_client::{Client, FetchOptions};
use ottla_model::{Offset, PartitionId, TimestampMs};
use ottla_protocol::record_batch::{BatchBuilder, Batches, Header, Record, Records};
use tokio::time::Instant;

use super::decimal;
use crate::kafka::{Kafka, KafkaError, NewTopic};
use crate::kafka_tools::deserializer::java_double;
use crate::kafka_tools::options::{OptionSpec, Options, flag, value};
use crate::kafka_tools::{ToolError, bootstrap, client_properties, exceptions, now_ms, run_tool};
use crate::murmur2::partition_of;
use crate::{err, out};

pub(in crate::kafka_tools) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: bootstrap-server", "REQUIRED: The Kafka broker list, HOST1:PORT1,HOST2:PORT2."),
    value("command-config", "String: config-file", "A file with a client's properties, such as security.protocol."),
    flag("help", "Print usage information."),
    value("num-headers", "Integer: count", "The number of headers of each message (default: 0)."),
    value("num-records", "Integer: count", "REQUIRED: The number of messages to send."),
    value("producer-acks", "String: producer-acks", "REQUIRED: Producer acknowledgements, 1 or all."),
    value("record-header-key-size", "Integer: bytes", "The size of a header's key (default: 0)."),
    value("record-header-size", "Integer: bytes", "The size of a header's value; -1 is null (default: 0)."),
    value("record-key-size", "Integer: bytes", "The size of a message's key; without it there is none."),
    value("record-size", "Integer: bytes", "REQUIRED: The size of each message payload in bytes."),
    value("topic", "String: topic-name", "REQUIRED: The topic to use for the test."),
    flag("version", "Display the version."),
];

/// The arguments by their places, as they were before Kafka 4.2.
const POSITIONS: [&str; 6] =
    ["--bootstrap-server", "--topic", "--num-records", "--producer-acks", "--record-size", "--command-config"];
const DEPRECATED: &str = "WARNING: Positional argument usage is deprecated and will be removed in Apache Kafka 5.0. \
                          Please use named arguments instead: ";
/// How long a record may take to be read.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kafka's default of `request.timeout.ms`.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// The greatest size that a batch of one record may unpack to: nothing is packed here.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Between two reports of progress.
const REPORT_EVERY: usize = 1_000;

struct Plan {
    bootstrap: String,
    topic: String,
    records: usize,
    acks: i16,
    value_bytes: usize,
    key_bytes: Option<usize>,
    headers: usize,
    header_key_bytes: usize,
    /// None is null.
    header_value_bytes: Option<usize>,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    let arguments = match named(arguments) {
        Ok(arguments) => arguments,
        Err(line) => {
            err!("{line}");
            return ExitCode::FAILURE;
        }
    };
    run_tool("", SPECS, &arguments, plan, |plan| async move {
        match measure(&plan).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("{}: {error}", exceptions::class(&error));
                ExitCode::FAILURE
            }
        }
    })
    .await
}

/// The arguments with their names, where they are told by their places.
fn named(arguments: &[String]) -> Result<Vec<String>, String> {
    if arguments.iter().any(|word| word.starts_with("--")) {
        return Ok(arguments.to_vec());
    }
    if !(POSITIONS.len() - 1..=POSITIONS.len()).contains(&arguments.len()) {
        return Err(format!(
            "Invalid number of arguments. Expected 5 or 6 positional arguments, but got {}. \
             Usage: bootstrap-server topic num-records producer-acks record-size [optional] command-config",
            arguments.len()
        ));
    }
    out!("{DEPRECATED}{}", POSITIONS.join(", "));
    Ok(POSITIONS.iter().zip(arguments).flat_map(|(name, value)| [(*name).to_owned(), value.clone()]).collect())
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    client_properties(options, &["command-config"], &[])?;
    let wrong = |text: String| ToolError::Usage(text);
    let acks = match options.required("producer-acks")? {
        "1" => 1,
        "all" => -1,
        _ => {
            return Err(wrong(
                "Invalid value for --producer-acks. Latency testing requires synchronous acknowledgement. \
                 Please use '1' or 'all'."
                    .to_owned(),
            ));
        }
    };
    let size = |name: &'static str| -> Result<Option<usize>, ToolError> {
        let number: Option<i32> = options.number(name)?;
        let negative = |_| wrong(format!("Value for --{name} must be a non-negative integer."));
        number.map(|number| usize::try_from(number).map_err(negative)).transpose()
    };
    options.required("num-records")?;
    let records = options.number::<i32>("num-records")?.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    if records == 0 {
        return Err(wrong("Value for --num-records must be a positive integer.".to_owned()));
    }
    options.required("record-size")?;
    let header_value_bytes = match options.number::<i32>("record-header-size")?.unwrap_or(0) {
        -1 => None,
        number => Some(usize::try_from(number).map_err(|_| {
            wrong(
                "Value for --record-header-size must be a non-negative integer or -1 for null header value.".to_owned(),
            )
        })?),
    };
    Ok(Plan {
        bootstrap: bootstrap(options)?.to_owned(),
        topic: options.required("topic")?.to_owned(),
        records,
        acks,
        value_bytes: size("record-size")?.unwrap_or(0),
        key_bytes: size("record-key-size")?,
        headers: size("num-headers")?.unwrap_or(0),
        header_key_bytes: size("record-header-key-size")?.unwrap_or(0),
        header_value_bytes,
    })
}

async fn measure(plan: &Plan) -> Result<(), ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    create_topic(&kafka, &plan.topic).await?;
    let partitions = kafka.partitions(&plan.topic).await?;
    let consumer = Client::new(kafka.client().config().clone());
    let mut latencies = Vec::with_capacity(plan.records);
    for number in 0..plan.records {
        let record = plan.record();
        let partition = match &record.key {
            Some(key) => partition_of(key, partitions.len()),
            None => rand::random_range(0..partitions.len()),
        };
        let Some(&partition) = partitions.get(partition) else { continue };
        let mut batch = BatchBuilder::new();
        batch.push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
        let batch = batch.build().map_err(|error| ToolError::Argument(error.to_string()))?.freeze();
        let began = Instant::now();
        let produced = kafka.client().produce(&plan.topic, partition, batch, plan.acks, ACK_TIMEOUT).await;
        let offset = produced.map_err(KafkaError::from)?.base_offset;
        let read = read(&consumer, &plan.topic, partition, offset).await?;
        let elapsed = began.elapsed();
        check(&record, &read)?;
        if number % REPORT_EVERY == 0 {
            out!("{number}\t{}", java_double(elapsed.as_nanos() as f64 / 1_000.0 / 1_000.0));
        }
        latencies.push(elapsed);
    }
    results(latencies).iter().for_each(|line| out!("{line}"));
    Ok(())
}

async fn create_topic(kafka: &Kafka, name: &str) -> Result<(), ToolError> {
    if kafka.topics().await?.iter().any(|topic| topic.name == name) {
        return Ok(());
    }
    out!("Topic \"{name}\" does not exist. Will create topic with 1 partition(s) and replication factor = 1");
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: Some(1),
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    if let Err(error) = kafka.create_topic(&topic).await {
        out!("Creation of topic {name} failed");
        return Err(error.into());
    }
    Ok(())
}

/// The record at an offset, as soon as it can be read.
async fn read(client: &Client, topic: &str, partition: PartitionId, offset: Offset) -> Result<Record, ToolError> {
    // As Kafka's tool: no waiting on the broker's side.
    let options = FetchOptions { max_wait: Duration::ZERO, ..FetchOptions::default() };
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let answer = client.fetch(topic, partition, offset, &options).await.map_err(KafkaError::from)?;
        let bytes = answer.records.unwrap_or_default();
        for batch in Batches::new(&bytes).flatten() {
            let records = Records::new(&bytes.slice_ref(batch.bytes), UNPACKED_BYTES_MAX);
            let found = records.into_iter().flatten().flatten().find(|record| record.offset == offset);
            if let Some(record) = found {
                return Ok(record);
            }
        }
    }
    let waited = PATIENCE.as_millis();
    Err(ToolError::Argument(format!("poll() timed out before finding a result (timeout:[{waited}ms])")))
}

impl Plan {
    fn record(&self) -> Record {
        let headers = (0..self.headers).map(|_| Header {
            key: String::from_utf8_lossy(&letters(self.header_key_bytes)).into_owned(),
            value: self.header_value_bytes.map(letters),
        });
        Record {
            offset: Offset::ZERO,
            timestamp: TimestampMs(now_ms()),
            key: self.key_bytes.map(letters),
            value: Some(letters(self.value_bytes)),
            headers: headers.collect(),
        }
    }
}

/// One random letter, so many times.
fn letters(count: usize) -> Bytes {
    vec![rand::random_range(b'A'..=b'Z'); count].into()
}

fn check(sent: &Record, read: &Record) -> Result<(), ToolError> {
    let what = if sent.value != read.value {
        "message"
    } else if sent.key != read.key {
        "message key"
    } else if sent.headers != read.headers {
        "message headers"
    } else {
        return Ok(());
    };
    Err(ToolError::Argument(format!("The {what} read did not match the {what} sent")))
}

fn results(mut latencies: Vec<Duration>) -> [String; 2] {
    let sum: Duration = latencies.iter().sum();
    let average_ms = sum.as_nanos() as f64 / latencies.len() as f64 / 1_000.0 / 1_000.0;
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index).map_or(0, Duration::as_millis)
    };
    [
        format!("Avg latency: {} ms", decimal(average_ms, 4)),
        format!("Percentiles: 50th = {}, 99th = {}, 99.9th = {}", at(0.5), at(0.99), at(0.999)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        crate::kafka_tools::planned(SPECS, &named(&words)?.join(" "), plan)
    }

    #[test]
    fn arguments_have_names_or_places() {
        let plan = planned("k:9092 t 10 all 100").expect("a plan");
        assert_eq!((plan.bootstrap.as_str(), plan.records, plan.acks, plan.value_bytes), ("k:9092", 10, -1, 100));
        let start = "--bootstrap-server k --topic t --num-records 5 --record-size 1 --producer-acks";
        let plan = planned(&format!("{start} 1 --record-key-size 3 --num-headers 2 --record-header-size -1"));
        let record = plan.expect("a plan").record();
        assert_eq!((record.key.map(|key| key.len()), record.headers.len()), (Some(3), 2));
        assert!(record.headers.iter().all(|header| header.value.is_none()));
        let text = |line: &str| planned(line).err().unwrap_or_default();
        assert!(text("k t 10").starts_with("Invalid number of arguments. Expected 5 or 6"));
        assert!(text(&format!("{start} 0")).contains("Please use '1' or 'all'"));
        assert!(text("k t 0 all 5").contains("--num-records must be a positive"));
        assert!(text("k t 5 all -5").contains("--record-size must be a non-negative"));
        assert!(text(&format!("{start} 1 --record-header-size -2")).contains("or -1 for null"));
    }

    #[test]
    fn results_are_those_of_kafkas_tool() {
        let lines = results((1..=100).map(Duration::from_millis).collect());
        assert_eq!(lines[0], "Avg latency: 50.5000 ms");
        assert_eq!(lines[1], "Percentiles: 50th = 51, 99th = 100, 99.9th = 100");
    }

    #[test]
    fn what_was_read_must_be_what_was_sent() {
        let sent = planned("k t 1 all 5").expect("a plan").record();
        assert!(check(&sent, &Record { offset: Offset(9), ..sent.clone() }).is_ok());
        let other = Record { value: Some("x".into()), ..sent.clone() };
        assert!(check(&sent, &other).is_err_and(|error| error.to_string().contains("message")));
        assert!(check(&sent, &Record { key: Some("x".into()), ..sent.clone() }).is_err());
    }
}
