//! `kafka-console-producer`: a record for each line of standard input.

use std::process::ExitCode;
use std::time::Duration;

use ottla_protocol::record_batch::Compression;

use super::format::LineReader;
use super::options::{OptionSpec, Options, Takes, flag, value};
use super::{ToolError, bootstrap, client_properties, exceptions, file_properties, log, run_tool};
use crate::kafka::Kafka;
use crate::producer::{Producer, Settings};
use crate::{err, lines};

static SPECS: &[OptionSpec] = &[
    value("batch-size", "Integer: size", "Accepted and not used: what has arrived is sent together."),
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The server(s) to connect to."),
    value("broker-list", "String: broker-list", "The older name of --bootstrap-server."),
    value("command-config", "String: config file", "A file with properties as --command-property has them."),
    value("command-property", "String: producer_prop", "acks and compression.type are used."),
    OptionSpec {
        name: "compression-codec",
        takes: Takes::MaybeValue,
        value: "String: compression-codec",
        help: "The compression codec: either 'none', 'gzip', 'snappy', 'lz4', or 'zstd'. If specified without value, then it defaults to 'gzip'.",
    },
    flag("help", "Print usage information."),
    value("line-reader", "String: reader_class", "LineMessageReader (default); there is no other."),
    value("max-block-ms", "Long: max block on send", "Accepted and not used."),
    value("max-memory-bytes", "Long: total memory in bytes", "Accepted and not used."),
    value("max-partition-memory-bytes", "Integer: memory in bytes per partition", "Accepted and not used."),
    value("message-send-max-retries", "Integer", "Accepted and not used."),
    value("metadata-expiry-ms", "Long: metadata expiration interval", "Accepted and not used."),
    value("producer-property", "String: producer_prop", "acks and compression.type are used."),
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
    value("retry-backoff-ms", "Long", "Accepted and not used."),
    value("socket-buffer-size", "Integer: size", "Accepted and not used."),
    flag("sync", "Accepted and not used."),
    value("timeout", "Long: timeout_ms", "Accepted and not used."),
    value("topic", "String: topic", "REQUIRED: The topic name to produce messages to."),
    flag("version", "Display the version."),
];

/// Kafka's reader of lines, by its names of two releases.
const LINE_READERS: &[&str] =
    &["kafka.tools.ConsoleProducer$LineMessageReader", "org.apache.kafka.tools.LineMessageReader"];
const LOGGER: &str = "org.apache.kafka.clients.producer.internals.ErrorLoggingCallback";

struct Plan {
    bootstrap: String,
    topic: String,
    settings: Settings,
    reader: LineReader,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(SPECS, arguments, plan, |plan| async move {
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
            return Err(ToolError::Argument(format!(
                "Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1"
            )));
        }
    };
    let codec = if options.has("compression-codec") {
        Some(options.get("compression-codec").unwrap_or("gzip"))
    } else {
        property("compression.type")
    };
    let compression = Compression::from_name(codec.unwrap_or("none"))
        .ok_or_else(|| ToolError::Argument(format!("Unknown compression name: {}", codec.unwrap_or_default())))?;
    let mut settings = Settings { acks, compression, ..Settings::default() };
    if let Some(timeout_ms) = options.number("request-timeout-ms")? {
        settings.timeout = Duration::from_millis(timeout_ms);
    }
    if let Some(class) = options.get("line-reader").filter(|class| !LINE_READERS.contains(class)) {
        return Err(ToolError::Argument(format!("--line-reader {class} cannot be loaded: LineMessageReader is there")));
    }
    let mut reader = file_properties(options, &["reader-config"])?;
    reader.extend(options.pairs("property")?);
    reader.extend(options.pairs("reader-property")?);
    Ok(Plan {
        bootstrap: bootstrap(options)?.to_owned(),
        topic: options.required("topic")?.to_owned(),
        settings,
        reader: LineReader::of(&reader),
    })
}

async fn produce(plan: Plan) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    let producer = Producer::open(&kafka, &plan.topic, plan.settings).await?;
    let mut reader = plan.reader;
    let (mut records, thread) = lines::records(move |line| reader.read(line));
    let sent = producer
        .run(&mut records, |lost| {
            for record in &lost.records {
                let size = |field: &Option<bytes::Bytes>| {
                    field.as_ref().map_or("null".to_owned(), |bytes| format!("{} bytes", bytes.len()))
                };
                let (key, value) = (size(&record.key), size(&record.value));
                let message = format!(
                    "Error when sending message to topic {} with key: {key}, value: {value} with error: {}",
                    plan.topic, lost.error
                );
                log("ERROR", &message, LOGGER);
            }
            // Kafka's tool goes on with the next line.
            true
        })
        .await;
    if let Err(error) = sent {
        return Err(ToolError::Argument(error.to_string()));
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
        assert_eq!((plan.settings.acks, plan.bootstrap.as_str()), (-1, "kafka-1:9092"));
        let plan = planned(
            "--topic t --bootstrap-server k --property parse.key=true --property key.separator=: --compression-codec --request-required-acks 1",
        )
        .expect("a plan");
        assert!(plan.reader.parse_key && plan.reader.key_separator == ":");
        assert_eq!((plan.settings.acks, plan.settings.compression), (1, Compression::Gzip));
        let plan = planned("--topic t --bootstrap-server k --producer-property acks=0 --compression-codec=zstd");
        assert_eq!(plan.map(|plan| (plan.settings.acks, plan.settings.compression)), Ok((0, Compression::Zstd)));
        assert_eq!(planned("--topic t").err().as_deref(), Some("Missing required argument \"[bootstrap-server]\""));
        let wrong = planned("--topic t --bootstrap-server k --compression-codec zesty").err();
        assert_eq!(wrong.as_deref(), Some("Unknown compression name: zesty"));
    }
}
