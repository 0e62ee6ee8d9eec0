//! `kafka-console-consumer`: prints the records of a topic.
//!
//! It is a member of the group that `--group` (or `group.id`) names, else of one that it makes up and commits nothing
//! for, as Kafka's tool does: who reads is seen among the groups. With `--partition` alone there is no group.

use std::process::ExitCode;
use std::time::Duration;

use ottla_model::TimestampMs;
use ottla_protocol::messages::fetch::IsolationLevel;

use super::coordinator_formatter::CoordinatorFormatter;
use super::format::Formatter;
use super::options::{OptionSpec, Options, Takes, flag, refused, value};
use super::{ToolError, bootstrap, client_properties, exceptions, file_properties, log, now_ms, run_tool, warn_unused};
use crate::consumer::{FETCH_BYTES, From, Incoming, Settings, Source, Topics};
use crate::group_consumer::GroupSettings;
use crate::kafka::{Connecting, Kafka};
use crate::{calendar, err, output};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The server(s) to connect to."),
    value("broker-list", "String: server to connect to", "The older name of --bootstrap-server."),
    value("command-config", "String: config file", "A file with the properties that --command-property accepts."),
    value(
        "command-property",
        "String: consumer_prop",
        "auto.offset.reset, client.id, enable.auto.commit, group.id, isolation.level and the group's timeouts are used.",
    ),
    value(
        "consumer-property",
        "String: consumer_prop",
        "auto.offset.reset, client.id, enable.auto.commit, group.id, isolation.level and the group's timeouts are used.",
    ),
    value("consumer.config", "String: config file", "The older name of --command-config."),
    refused("enable-systest-events", Takes::Nothing, "there is no log of events"),
    value(
        "formatter",
        "String: class",
        "One of Kafka's classes: DefaultMessageFormatter (default), LoggingMessageFormatter, NoOpMessageFormatter, OffsetsMessageFormatter, GroupMetadataMessageFormatter, TransactionLogMessageFormatter, CoordinatorRecordMessageFormatter.",
    ),
    value("formatter-config", "String: config file", "A file with properties of the formatter."),
    value("formatter-property", "String: prop", "The newer name of --property."),
    flag("from-beginning", "Start with the earliest message present in the log rather than the latest message."),
    value("group", "String: consumer group id", "The consumer group id of the consumer."),
    flag("help", "Print usage information."),
    value("include", "String: regular expression", "The topics to consume from, also later ones; no internal ones."),
    value("isolation-level", "String", "read_committed or read_uncommitted (default)."),
    value("key-deserializer", "String: deserializer for key", "One of Kafka's own, such as LongDeserializer."),
    value("max-messages", "Integer: num_messages", "The maximum number of messages to consume before exiting."),
    value(
        "offset",
        "String: consume offset",
        "The offset to consume from (a non-negative number), or 'earliest', or 'latest' (default).",
    ),
    value("partition", "Integer: partition", "The partition to consume from."),
    value(
        "property",
        "String: prop",
        "A property of the formatter: print.key, print.value, print.timestamp, print.offset, print.partition, print.headers, key.separator, …",
    ),
    flag("skip-message-on-error", "Go on with the next message when one cannot be read."),
    value(
        "timeout-ms",
        "Integer: timeout_ms",
        "If specified, exit if no message is available for consumption for the specified interval.",
    ),
    value("topic", "String: topic", "The topic to consume on; this or --include is REQUIRED."),
    value("value-deserializer", "String: deserializer for values", "One of Kafka's own, such as LongDeserializer."),
    flag("version", "Display the version."),
];

/// The properties of a consumer that have an effect; a warning names the others.
const PROPERTIES: &[&str] = &[
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "client.id",
    "enable.auto.commit",
    "group.id",
    "group.instance.id",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.poll.interval.ms",
    "security.protocol",
    "session.timeout.ms",
];

/// That of Kafka's tool: it is seen among the members of groups, and documents set quotas for it.
const CLIENT_ID: &str = "console-consumer";
const LOGGER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";

/// How messages are printed.
#[derive(Debug)]
enum MessageFormatter {
    Default(Box<Formatter>),
    Coordinator(CoordinatorFormatter),
    NoOp,
}

impl MessageFormatter {
    fn write(&self, incoming: &Incoming, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Default(formatter) => formatter
                .write(incoming, out)
                .map_err(|error| format!("org.apache.kafka.common.errors.SerializationException: {error}")),
            Self::Coordinator(formatter) => {
                formatter.write(incoming, out).map_err(|error| format!("java.lang.RuntimeException: {error}"))
            }
            Self::NoOp => Ok(()),
        }
    }
}

struct Plan {
    connecting: Connecting,
    topics: Topics,
    settings: Settings,
    formatter: MessageFormatter,
    skip_on_error: bool,
    max_messages: Option<u64>,
    timeout: Option<Duration>,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to read data from Kafka topics and outputs it to standard output.";

pub async fn run(arguments: &[String]) -> ExitCode {
    // What Kafka's consumer refuses is told otherwise than what the tool refuses.
    let planned = |options: &Options| {
        outdated(options).iter().for_each(|line| err!("{line}"));
        match plan(options) {
            Err(ToolError::Config(text)) => Ok(Err(ToolError::Config(text))),
            planned => planned.map(Ok),
        }
    };
    run_tool(PURPOSE, SPECS, arguments, planned, |plan| async move {
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                log("ERROR", "Unknown error when running consumer: ", LOGGER);
                err!("{}: {error}", exceptions::class(&error));
                return ExitCode::FAILURE;
            }
        };
        let mut printed = 0;
        let result = consume(plan, &mut printed).await;
        output::flush();
        let code = result.unwrap_or_else(|error| {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        });
        err!("Processed a total of {printed} messages");
        code
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let topics = topics(options)?;
    let properties =
        client_properties(options, &["consumer.config", "command-config"], &["consumer-property", "command-property"])?;
    let property = |name: &str| properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let partition: Option<i32> = options.number("partition")?;
    if partition.is_some() && !options.has("topic") {
        return Err(ToolError::Usage("The topic is required when partition is specified.".to_owned()));
    }
    if options.has("offset") && partition.is_none() {
        return Err(ToolError::Usage("The partition is required when offset is specified.".to_owned()));
    }
    if options.has("offset") && options.has("from-beginning") {
        return Err(ToolError::Usage("Options from-beginning and offset cannot be specified together.".to_owned()));
    }
    let from = match options.get("offset") {
        None if options.has("from-beginning") => From::Beginning,
        None => reset(property("auto.offset.reset").unwrap_or("latest"))?,
        Some(text) if text.eq_ignore_ascii_case("latest") => From::End,
        Some(text) if text.eq_ignore_ascii_case("earliest") => From::Beginning,
        Some(text) => match text.parse() {
            Ok(offset) if offset >= 0 => From::At(offset),
            _ => {
                let accepted = "Valid values are 'earliest', 'latest', or a non-negative long.";
                return Err(ToolError::Usage(format!("The provided offset value '{text}' is incorrect. {accepted}")));
            }
        },
    };
    if let Some(reset) =
        property("auto.offset.reset").filter(|reset| options.has("from-beginning") && *reset != "earliest")
    {
        return Err(ToolError::Argument(format!(
            "Can't simultaneously specify --from-beginning and 'auto.offset.reset={reset}', please remove one option"
        )));
    }
    let isolation = options.get("isolation-level").or_else(|| property("isolation.level"));
    let isolation_level = match isolation.unwrap_or("read_uncommitted") {
        "read_committed" => IsolationLevel::ReadCommitted,
        "read_uncommitted" => IsolationLevel::ReadUncommitted,
        other => {
            let names = "read_committed, read_uncommitted";
            return Err(ToolError::Config(format!(
                "Invalid value {other} for configuration isolation.level: String must be one of: {names}"
            )));
        }
    };
    warn_unused(&properties, PROPERTIES, "org.apache.kafka.clients.consumer.ConsumerConfig");
    let formatter = formatter(options)?;
    Ok(Plan {
        connecting: Connecting {
            client_id: Some(property("client.id").unwrap_or(CLIENT_ID).to_owned()),
            ..Connecting::to(bootstrap(options)?)
        },
        topics,
        settings: Settings {
            partition,
            from,
            exit_at_end: false,
            isolation_level,
            fetch_bytes: FETCH_BYTES,
            group: group(options, &property)?,
        },
        formatter,
        skip_on_error: options.has("skip-message-on-error"),
        max_messages: options.number::<i64>("max-messages")?.and_then(|count| u64::try_from(count).ok()),
        timeout: options.number::<i64>("timeout-ms")?.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
    })
}

/// Where `auto.offset.reset` says to begin.
fn reset(text: &str) -> Result<From, ToolError> {
    let ago = |text: &str| text.to_ascii_lowercase().strip_prefix("by_duration:").and_then(calendar::duration_ms);
    match text.to_ascii_lowercase().as_str() {
        "earliest" => Ok(From::Beginning),
        "latest" => Ok(From::End),
        _ => match ago(text) {
            Some(ago_ms) if ago_ms >= 0 => Ok(From::Time(TimestampMs(now_ms().saturating_sub(ago_ms).max(0)))),
            _ => Err(ToolError::Config(format!(
                "Invalid value {text} for configuration auto.offset.reset: earliest, latest and by_duration:PnDTnHnMnS \
                 are supported"
            ))),
        },
    }
}

/// The numbers of groups that are made up.
const INVENTED_GROUPS: std::ops::Range<u32> = 10_000..100_000;

/// Options that Kafka's tool warns of, and what it advises.
const OUTDATED: &[(&str, &str)] = &[
    ("property", "--formatter-property"),
    ("consumer-property", "--command-property"),
    ("consumer.config", "--command-config"),
];

/// As Kafka's tool warns of outdated options, but on standard error: standard output has the records, and programs read
/// it.
fn outdated(options: &Options) -> Vec<String> {
    let given = OUTDATED.iter().filter(|(name, _)| options.has(name));
    let line = |(name, instead): &(&str, &str)| {
        format!("Option --{name} is deprecated and will be removed in a future version. Use {instead} instead.")
    };
    given.map(line).collect()
}

/// The packages of Kafka's formatters, of several releases.
const FORMATTER_PACKAGES: [&str; 4] = [
    "org.apache.kafka.tools.consumer.",
    "kafka.tools.",
    "kafka.coordinator.group.GroupMetadataManager$",
    "kafka.coordinator.transaction.TransactionLog$",
];

fn formatter(options: &Options) -> Result<MessageFormatter, ToolError> {
    if options.has("property") && options.has("formatter-property") {
        let text = "Options --property and --formatter-property cannot be specified together.";
        return Err(ToolError::Usage(text.to_owned()));
    }
    let mut properties = file_properties(options, &["formatter-config"])?;
    for (option, name) in [("key-deserializer", "key.deserializer"), ("value-deserializer", "value.deserializer")] {
        if let Some(class) = options.get(option).filter(|class| !class.is_empty()) {
            properties.push((name.to_owned(), class.to_owned()));
        }
    }
    // Properties of the command line win over the options and the file.
    properties.extend(options.pairs_or_empty("property"));
    properties.extend(options.pairs_or_empty("formatter-property"));
    let class = options.get("formatter").unwrap_or("kafka.tools.DefaultMessageFormatter");
    let name = FORMATTER_PACKAGES.iter().find_map(|package| class.strip_prefix(package));
    match name {
        // What Kafka's logging formatter logs besides is below the level that its tools show.
        Some("DefaultMessageFormatter" | "LoggingMessageFormatter") => {
            let formatter = Formatter::of(&properties).map_err(|error| ToolError::Argument(error.to_string()))?;
            Ok(MessageFormatter::Default(Box::new(formatter)))
        }
        Some("NoOpMessageFormatter") => Ok(MessageFormatter::NoOp),
        name => name.and_then(CoordinatorFormatter::of_class).map(MessageFormatter::Coordinator).ok_or_else(|| {
            ToolError::Argument(format!(
                "--formatter {class} cannot be loaded: the Default, Logging, NoOp, Offsets, GroupMetadata, \
                 TransactionLog and CoordinatorRecord formatters of org.apache.kafka.tools.consumer are there"
            ))
        }),
    }
}

/// Exactly one of `--topic` and `--include`.
fn topics(options: &Options) -> Result<Topics, ToolError> {
    match (options.get("topic"), options.get("include")) {
        (Some(topic), None) => Ok(Topics::One(topic.to_owned())),
        (None, Some(expression)) => Topics::matching(expression).map_err(|error| {
            let reason = error.to_string().lines().last().unwrap_or_default().to_owned();
            ToolError::Argument(format!("--include {expression} is no regular expression that is read here: {reason}"))
        }),
        _ => Err(ToolError::Usage("Exactly one of the following arguments is required: [topic], [include]".to_owned())),
    }
}

/// The group to read in, and how, if there is one.
fn group<'a>(
    options: &'a Options,
    property: &impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<GroupSettings>, ToolError> {
    if let (Some(option), Some(other)) = (options.get("group"), property("group.id"))
        && option != other
    {
        return Err(ToolError::Usage(format!(
            "The group ids provided in different places (directly using '--group', via '--consumer-property', or via \
             '--consumer.config') do not match. Detected group ids: '{option}', '{other}'"
        )));
    }
    let named = options.get("group").or_else(|| property("group.id"));
    if named.is_none() && options.has("partition") {
        return Ok(None);
    }
    let millis = |name: &str, default: Duration| match property(name).map(str::parse) {
        None => Ok(default),
        Some(Ok(value)) => Ok(Duration::from_millis(value)),
        Some(Err(_)) => Err(ToolError::Argument(format!("{name} must be a number of milliseconds"))),
    };
    let mut group = match named {
        Some(name) => GroupSettings::new(name),
        None => GroupSettings::new(&format!("console-consumer-{}", rand::random_range(INVENTED_GROUPS))),
    };
    group.instance = property("group.instance.id").map(str::to_owned);
    group.session_timeout = millis("session.timeout.ms", group.session_timeout)?;
    group.heartbeat_interval = millis("heartbeat.interval.ms", group.heartbeat_interval)?;
    group.rebalance_timeout = millis("max.poll.interval.ms", group.rebalance_timeout)?;
    let every = millis("auto.commit.interval.ms", group.commit_every.unwrap_or_default())?;
    // Nobody reads on in a group that was made up.
    let commits = property("enable.auto.commit").unwrap_or(if named.is_some() { "true" } else { "false" });
    group.commit_every = (commits != "false").then_some(every);
    // With a partition Kafka's tool says itself where to begin, also by default.
    group.begins_at_commit = !options.has("partition");
    Ok(Some(group))
}

async fn consume(plan: Plan, printed: &mut u64) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect_with(plan.connecting.clone()).await?;
    let mut source = Source::open(&kafka, plan.topics.clone(), plan.settings.clone()).await?;
    let read = tokio::select! {
        read = print(&plan, &mut source, printed) => read,
        // Ctrl-C ends a consumer, and a group is still told.
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        () = terminated() => Ok(ExitCode::from(143)),
    };
    output::flush();
    source.close().await?;
    read
}

/// Waits for SIGTERM; for ever where it cannot be waited for.
pub async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

async fn print(plan: &Plan, source: &mut Source, printed: &mut u64) -> Result<ExitCode, ToolError> {
    let mut lines = output::Block::default();
    while plan.max_messages.is_none_or(|most| *printed < most) {
        // What has not been written is shown before there is any wait.
        let next = match source.try_next() {
            Some(next) => Some(next),
            None => {
                lines.flush();
                match plan.timeout {
                    Some(patience) => match tokio::time::timeout(patience, source.next()).await {
                        Ok(next) => next,
                        Err(_) => {
                            log("ERROR", "Error processing message, terminating consumer process: ", LOGGER);
                            err!("org.apache.kafka.common.errors.TimeoutException");
                            break;
                        }
                    },
                    None => source.next().await,
                }
            }
        };
        let Some(incoming) = next else { break };
        let incoming = incoming?;
        // As Kafka's tool: what cannot be read counts, too.
        *printed += 1;
        match plan.formatter.write(&incoming, lines.end()) {
            Ok(()) => lines.flush_if_full(),
            Err(error) if plan.skip_on_error => {
                let place = format!("partition {} offset {}", incoming.partition, incoming.record.offset);
                log("ERROR", &format!("Error processing message, skipping this message: {place}: {error}"), LOGGER);
            }
            Err(error) => {
                lines.flush();
                err!("{error}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    /// Case 25: numbers, by either spelling.
    #[test]
    fn deserializers_are_options_or_properties() {
        let class = |name| format!("org.apache.kafka.common.serialization.{name}Deserializer");
        let (integer, long) = (class("Integer"), class("Long"));
        for options in [
            format!("--property key.deserializer={integer} --property value.deserializer={long}"),
            format!("--key-deserializer {integer} --value-deserializer {long}"),
        ] {
            let line = format!("--topic t --bootstrap-server k --property print.key=true {options}");
            let formatter = planned(&line).expect("a plan").formatter;
            let record = ottla_protocol::record_batch::Record {
                offset: ottla_model::Offset(0),
                timestamp: ottla_model::TimestampMs(0),
                key: Some(bytes::Bytes::copy_from_slice(&7_i32.to_be_bytes())),
                value: Some(bytes::Bytes::copy_from_slice(&42_i64.to_be_bytes())),
                headers: Vec::new(),
            };
            let topic = ottla_model::TopicName::new("t").expect("a name");
            let partition = ottla_model::PartitionId(0);
            let timestamp_type = ottla_protocol::record_batch::TimestampType::CreateTime;
            let mut printed = Vec::new();
            let leader_epoch = ottla_model::LeaderEpoch(0);
            let incoming = Incoming { topic, partition, record, timestamp_type, leader_epoch };
            formatter.write(&incoming, &mut printed).expect("readable");
            assert_eq!(printed, b"7\t42\n", "{options}");
        }
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let from = |line: &str| planned(line).map(|plan| plan.settings.from);
        assert_eq!(from("--topic t --bootstrap-server k:9092"), Ok(From::End));
        assert_eq!(from("--topic t --bootstrap-server k:9092 --from-beginning --group g"), Ok(From::Beginning));
        let grouped = |line: &str| planned(line).map(|plan| plan.settings.group.map(|group| group.group));
        assert_eq!(grouped("--topic t --bootstrap-server k --group g"), Ok(Some("g".into())));
        assert_eq!(grouped("--topic t --bootstrap-server k --consumer-property group.id=h"), Ok(Some("h".into())));
        let both = "--topic t --bootstrap-server k --group g --consumer-property group.id=";
        assert_eq!(grouped(&format!("{both}g")), Ok(Some("g".into())));
        assert!(grouped(&format!("{both}h")).is_err_and(|text| text.contains("do not match")));
        assert!(grouped("--topic t --bootstrap-server k --group g --consumer-property session.timeout.ms=x").is_err());
        assert_eq!(from("--topic t --bootstrap-server k --partition 0 --offset 7"), Ok(From::At(7)));
        assert_eq!(from("--topic t --bootstrap-server k --partition 0 --offset earliest"), Ok(From::Beginning));
        assert!(from("--topic t --bootstrap-server k --offset 7").is_err());
        assert!(from("--topic t --bootstrap-server k --partition 0 --offset soon").is_err());
        let plan =
            planned("--topic t --bootstrap-server k --max-messages 4 --timeout-ms 8000 --property print.key=true")
                .expect("a plan");
        assert_eq!((plan.max_messages, plan.timeout), (Some(4), Some(Duration::from_secs(8))));
        assert!(matches!(plan.formatter, MessageFormatter::Default(formatter) if formatter.print_key));
        assert!(planned("--topic t --bootstrap-server k --value-deserializer org.example.Avro").is_err());
        assert!(planned("--topic t --bootstrap-server k --formatter org.example.Pretty").is_err());
        let one = "Exactly one of the following arguments is required: [topic], [include]";
        assert_eq!(from("--bootstrap-server k"), Err(one.into()));
        assert_eq!(from("--topic t --include t --bootstrap-server k"), Err(one.into()));
        assert!(
            from("--include t --partition 1 --bootstrap-server k")
                .is_err_and(|text| text.contains("topic is required"))
        );
        assert!(from("--include (?=t) --bootstrap-server k").is_err_and(|text| text.contains("--include (?=t)")));
        assert!(matches!(
            planned("--include a.* --bootstrap-server k").map(|plan| plan.topics),
            Ok(Topics::Matching(pattern)) if pattern.is_match("ab") && !pattern.is_match("ba")
        ));
        let formatter = |class: &str| {
            planned(&format!("--topic t --bootstrap-server k --formatter {class}")).map(|plan| plan.formatter)
        };
        for class in ["org.apache.kafka.tools.consumer.LoggingMessageFormatter", "kafka.tools.LoggingMessageFormatter"]
        {
            assert!(matches!(formatter(class), Ok(MessageFormatter::Default(_))), "{class}");
        }
        let offsets = formatter("kafka.coordinator.group.GroupMetadataManager$OffsetsMessageFormatter");
        assert!(matches!(offsets, Ok(MessageFormatter::Coordinator(CoordinatorFormatter::Offsets))));
        let unknown = formatter("org.example.Pretty").expect_err("no class of Kafka's");
        assert!(unknown.contains("org.example.Pretty"), "{unknown}");
        let both = "--topic t --bootstrap-server k --property print.key=true --formatter-property print.offset=true";
        assert!(planned(both).is_err_and(|text| text.contains("cannot be specified together")));
        let reset = "--topic t --bootstrap-server k --from-beginning --consumer-property auto.offset.reset=latest";
        assert!(from(reset).is_err_and(|text| text.contains("auto.offset.reset=latest")));
    }

    /// The group's position was taken instead, and what was asked for again was not shown.
    #[test]
    fn with_a_partition_the_command_line_says_where_to_begin() {
        let begins_at_commit = |line: &str| {
            planned(&format!("--topic t --bootstrap-server k --group g {line}"))
                .map(|plan| plan.settings.group.map(|group| group.begins_at_commit))
        };
        assert_eq!(begins_at_commit("--from-beginning"), Ok(Some(true)));
        for line in ["--partition 0", "--partition 0 --from-beginning", "--partition 0 --offset earliest"] {
            assert_eq!(begins_at_commit(line), Ok(Some(false)), "{line}");
        }
    }

    /// Any other value was taken for `latest`.
    #[test]
    fn resets_are_those_that_are_supported() {
        let from = |reset: &str| {
            planned(&format!("--topic t --bootstrap-server k --consumer-property auto.offset.reset={reset}"))
                .map(|plan| plan.settings.from)
        };
        assert_eq!((from("Earliest"), from("latest")), (Ok(From::Beginning), Ok(From::End)));
        let hour_ago = now_ms() - 3_600_000;
        assert!(
            matches!(from("by_duration:PT1H"), Ok(From::Time(time)) if (hour_ago..hour_ago + 60_000).contains(&time.0))
        );
        for wrong in ["none", "earlyest", "by_duration:1h", "by_duration:-PT1H"] {
            assert!(from(wrong).is_err_and(|text| text.contains("auto.offset.reset")), "{wrong}");
        }
    }
}
