//! `kafka-console-producer`: a record for each line of standard input.

use std::process::ExitCode;
use std::time::Duration;

use ottla_model::ErrorCode;
use ottla_protocol::record_batch::Compression;

use super::format::LineReader;
use super::options::{OptionSpec, Options, Takes, flag, maybe_value, refused, value};
use super::{ToolError, bootstrap, client_properties, exceptions, file_properties, log, run_tool, warn_unused};
use crate::kafka::{Connecting, Kafka, KafkaError};
use crate::producer::{Producer, Settings};
use crate::{err, lines, out};

/// The properties of a producer that have an effect; a warning names the others.
const PROPERTIES: &[&str] = &[
    "acks",
    "batch.size",
    "client.id",
    "compression.type",
    "linger.ms",
    "max.block.ms",
    "request.timeout.ms",
    "retries",
    "retry.backoff.ms",
    "security.protocol",
];
const PROPERTIES_HELP: &str = "acks, batch.size, client.id, compression.type, linger.ms, max.block.ms, request.timeout.ms, retries and retry.backoff.ms are used.";

pub(super) static SPECS: &[OptionSpec] = &[
    value("batch-size", "Integer: size", "The most bytes of records in one batch of a partition."),
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The server(s) to connect to."),
    value("broker-list", "String: broker-list", "The older name of --bootstrap-server."),
    value("command-config", "String: config file", "A file with properties as --command-property has them."),
    value("command-property", "String: producer_prop", PROPERTIES_HELP),
    maybe_value(
        "compression-codec",
        "String: compression-codec",
        "The compression codec: either 'none', 'gzip', 'snappy', 'lz4', or 'zstd'. If specified without value, then it defaults to 'gzip'.",
    ),
    flag("help", "Print usage information."),
    value("line-reader", "String: reader_class", "LineMessageReader (default); there is no other."),
    value("max-block-ms", "Long: max block on send", "How long the topic may take to be known (default: 60000)."),
    refused("max-memory-bytes", Takes::Value, "the records that wait are bounded by their number"),
    value(
        "max-partition-memory-bytes",
        "Integer: memory in bytes per partition",
        "The older name of --batch-size, which it goes before.",
    ),
    value("message-send-max-retries", "Integer", "How many times a batch is sent again at most."),
    refused("metadata-expiry-ms", Takes::Value, "metadata is asked for when a broker says that it changed"),
    value("producer-property", "String: producer_prop", PROPERTIES_HELP),
    value("producer.config", "String: config file", "The older name of --command-config."),
    value(
        "property",
        "String: prop",
        "A property of the line reader: parse.key, key.separator, parse.headers, ignore.error, null.marker, …",
    ),
    value("reader-config", "String: config file", "A file with properties of the line reader."),
    value("reader-property", "String: prop", "The newer name of --property."),
    value(
        "request-required-acks",
        "String: request required acks",
        "The required acks of the producer requests: -1 or all (default), 0, 1.",
    ),
    value("request-timeout-ms", "Integer: request timeout ms", "How long an acknowledgement may take."),
    value("retry-backoff-ms", "Long", "The first pause before a batch is sent again."),
    refused("socket-buffer-size", Takes::Value, "the system sizes the buffers of sockets"),
    flag("sync", "Send one record at a time, and end at the first that is not written."),
    value("timeout", "Long: timeout_ms", "How long a record may wait for others of its batch (default: 0)."),
    value("topic", "String: topic", "REQUIRED: The topic name to produce messages to."),
    flag("version", "Display the version."),
];

/// Kafka's reader of lines, by its names of two releases.
const LINE_READERS: &[&str] =
    &["kafka.tools.ConsoleProducer$LineMessageReader", "org.apache.kafka.tools.LineMessageReader"];
/// That of Kafka's tool: documents set quotas for it.
const CLIENT_ID: &str = "console-producer";
/// Kafka's default of `max.block.ms`.
const MAX_BLOCK: Duration = Duration::from_secs(60);
const LOGGER: &str = "org.apache.kafka.clients.producer.internals.ErrorLoggingCallback";

struct Plan {
    connecting: Connecting,
    topic: String,
    settings: Settings,
    /// How long the cluster and the topic may take to be known.
    max_block: Duration,
    reader: LineReader,
}

/// Options that Kafka's tool warns of, and what it advises.
const OUTDATED: &[(&str, &str)] = &[
    ("property", "--reader-property"),
    ("producer-property", "--command-property"),
    ("producer.config", "--command-config"),
];

/// As Kafka's tool warns of outdated options.
fn outdated(options: &Options) -> Vec<String> {
    let given = OUTDATED.iter().filter(|(name, _)| options.has(name));
    let line = |(name, instead): &(&str, &str)| {
        format!("Warning: --{name} is deprecated and will be removed in a future version. Use {instead} instead.")
    };
    given.map(line).collect()
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to read data from standard input and publish it to Kafka.";

pub async fn run(arguments: &[String]) -> ExitCode {
    let planned = |options: &Options| {
        outdated(options).iter().for_each(|line| out!("{line}"));
        plan(options)
    };
    run_tool(PURPOSE, SPECS, arguments, planned, |plan| async move {
        produce(plan).await.unwrap_or_else(|error| {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        })
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let properties =
        client_properties(options, &["producer.config", "command-config"], &["producer-property", "command-property"])?;
    let property = |name: &str| properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let acks = match options.get("request-required-acks").or_else(|| property("acks")).unwrap_or("all") {
        "all" | "-1" => -1,
        "0" => 0,
        "1" => 1,
        other => {
            return Err(ToolError::Config(format!(
                "Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1"
            )));
        }
    };
    let codec = if options.has("compression-codec") {
        Some(options.get("compression-codec").unwrap_or("gzip"))
    } else {
        property("compression.type")
    };
    let compression = Compression::from_name(codec.unwrap_or("none")).ok_or_else(|| {
        let (wrong, names) = (codec.unwrap_or_default(), "none, gzip, snappy, lz4, zstd");
        let text = format!("Invalid value {wrong} for configuration compression.type: String must be one of: {names}");
        ToolError::Config(text)
    })?;
    warn_unused(&properties, PROPERTIES, "org.apache.kafka.clients.producer.ProducerConfig");
    let number = |option: &'static str, name: &'static str| -> Result<Option<u64>, ToolError> {
        let unparsable = |text: &str| {
            ToolError::Config(format!("Invalid value {text} for configuration {name}: Not a number of type LONG"))
        };
        let own = options.number(option)?;
        let text = property(name).filter(|_| own.is_none());
        let set = text.map(|text| text.parse().map_err(|_| unparsable(text))).transpose()?;
        Ok(own.or(set))
    };
    let millis = |option, name| Ok::<_, ToolError>(number(option, name)?.map(Duration::from_millis));
    let mut settings = Settings { acks, compression, is_sync: options.has("sync"), ..Settings::default() };
    if let Some(timeout) = millis("request-timeout-ms", "request.timeout.ms")? {
        settings.timeout = timeout;
    }
    settings.linger = millis("timeout", "linger.ms")?.unwrap_or_default();
    let by_older_name: Option<u64> = options.number("max-partition-memory-bytes")?;
    let batch_bytes = by_older_name.or(number("batch-size", "batch.size")?);
    if let Some(bytes) = batch_bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
        settings.batch_bytes = settings.batch_bytes.min(bytes);
    }
    let retries_max =
        number("message-send-max-retries", "retries")?.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    let backoff = millis("retry-backoff-ms", "retry.backoff.ms")?;
    let max_block = millis("max-block-ms", "max.block.ms")?.unwrap_or(MAX_BLOCK);
    if let Some(class) = options.get("line-reader").filter(|class| !LINE_READERS.contains(class)) {
        return Err(ToolError::Argument(format!("--line-reader {class} cannot be loaded: LineMessageReader is there")));
    }
    let mut reader = file_properties(options, &["reader-config"])?;
    if options.has("property") && options.has("reader-property") {
        let text = "Options --property and --reader-property cannot be specified together.";
        return Err(ToolError::Usage(text.to_owned()));
    }
    reader.extend(options.pairs_or_empty("property"));
    reader.extend(options.pairs_or_empty("reader-property"));
    Ok(Plan {
        connecting: Connecting {
            client_id: Some(property("client.id").unwrap_or(CLIENT_ID).to_owned()),
            retries_max,
            backoff,
            ..Connecting::to(bootstrap(options)?)
        },
        topic: options.required("topic")?.to_owned(),
        settings,
        max_block,
        reader: LineReader::of(&reader).map_err(|error| ToolError::Argument(error.to_string()))?,
    })
}

async fn produce(plan: Plan) -> Result<ExitCode, ToolError> {
    let is_sync = plan.settings.is_sync;
    let opening = async {
        let kafka = Kafka::connect_with(plan.connecting).await?;
        Producer::open(&kafka, &plan.topic, plan.settings).await
    };
    let Ok(producer) = tokio::time::timeout(plan.max_block, opening).await else {
        let waited = plan.max_block.as_millis();
        let message = format!("Topic {} not present in metadata after {waited} ms.", plan.topic);
        return Err(KafkaError::refused(ErrorCode::RequestTimedOut, &message).into());
    };
    let producer = producer?;
    let mut reader = plan.reader;
    let mut failed = false;
    let (mut records, thread) = lines::records(move |line| reader.read(line));
    let sent = producer
        .run(&mut records, |lost| {
            for record in &lost.records {
                let size = |field: &Option<bytes::Bytes>| {
                    field.as_ref().map_or("null".to_owned(), |bytes| format!("{} bytes", bytes.len()))
                };
                let (key, value) = (size(&record.key), size(&record.value));
                let message = format!(
                    "Error when sending message to topic {} with key: {key}, value: {value} with error:",
                    plan.topic
                );
                log("ERROR", &message, LOGGER);
                err!("{}", exceptions::shown(&lost.error));
            }
            failed = true;
            // Kafka's tool goes on with the next line, unless it was told to wait for each.
            !is_sync
        })
        .await;
    if let Err(error) = sent {
        return Err(ToolError::Argument(error.to_string()));
    }
    if failed && is_sync {
        // The reader may wait for a line that never comes.
        return Ok(ExitCode::FAILURE);
    }
    if let Some(code) = records.ended_by() {
        return Ok(code);
    }
    drop(records);
    match thread.join() {
        Ok(Err(error)) => {
            err!("org.apache.kafka.common.KafkaException: {error}");
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let plan = planned("--topic my-topic --broker-list kafka-1:9092").expect("a plan");
        assert_eq!((plan.settings.acks, plan.connecting.bootstrap.as_str()), (-1, "kafka-1:9092"));
        let plan = planned(
            "--topic t --bootstrap-server k --property parse.key=true --property key.separator=: --compression-codec --request-required-acks 1",
        )
        .expect("a plan");
        assert!(plan.reader.parse_key && plan.reader.key_separator == ":");
        assert_eq!((plan.settings.acks, plan.settings.compression), (1, Compression::Gzip));
        let plan = planned("--topic t --bootstrap-server k --producer-property acks=0 --compression-codec=zstd");
        assert_eq!(plan.map(|plan| (plan.settings.acks, plan.settings.compression)), Ok((0, Compression::Zstd)));
        assert_eq!(planned("--topic t").err().as_deref(), Some("Missing required argument \"[bootstrap-server]\""));
        let plan = planned(
            "--topic t --bootstrap-server k --batch-size 100 --timeout 5 --retry-backoff-ms 7 --message-send-max-retries 2 --max-block-ms 9 --sync",
        )
        .expect("a plan");
        assert_eq!((plan.settings.batch_bytes, plan.settings.linger), (100, Duration::from_millis(5)));
        assert_eq!((plan.connecting.retries_max, plan.connecting.backoff), (Some(2), Some(Duration::from_millis(7))));
        assert!(plan.settings.is_sync && plan.max_block == Duration::from_millis(9));
        let plan = planned(
            "--topic t --bootstrap-server k --batch-size 9 --max-partition-memory-bytes 8 --command-property linger.ms=6",
        );
        let shown = plan.map(|plan| (plan.settings.batch_bytes, plan.settings.linger));
        assert_eq!(shown, Ok((8, Duration::from_millis(6))));
        assert!(planned("--topic t --bootstrap-server k --producer-property linger.ms=x").is_err());
        let wrong = planned("--topic t --bootstrap-server k --compression-codec zesty").err();
        assert!(wrong.is_some_and(|text| text.contains("compression.type: String must be one of: none, gzip")));
    }
}
