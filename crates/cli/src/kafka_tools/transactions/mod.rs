//! `kafka-transactions`: transactional ids, the producers of a partition, and transactions that nobody ends.

mod hanging;

use std::process::ExitCode;

use ottla_client::{ActiveProducer, OpenTransaction, TransactionFilter};
use ottla_model::{BrokerId, ErrorCode, Offset, PartitionId, ProducerEpoch, ProducerId, TopicName, TopicPartition};

use super::options::{OptionSpec, Options, OptionsError, flag, usage, value};
use super::{ToolError, bootstrap, client_properties, now_ms};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "host:port", "REQUIRED: The server(s) to connect to, separated by commas."),
    value(
        "broker-id",
        "BROKER_ID",
        "describe-producers: the replica on this broker instead of the leader's. \
        find-hanging: search the partitions of this broker.",
    ),
    value("command-config", "FILE", "A file with a client's properties, such as security.protocol."),
    value("coordinator-epoch", "COORDINATOR_EPOCH", "abort, with --producer-id: the coordinator's epoch."),
    value(
        "duration-filter",
        "DURATION_FILTER",
        "list: only transactions that have been open for longer than this \
        many milliseconds.",
    ),
    flag("help", "Show this message."),
    value(
        "max-transaction-timeout",
        "MAX_TRANSACTION_TIMEOUT",
        "find-hanging: only transactions that have been open \
        for longer than this many minutes (default: 15).",
    ),
    value("partition", "PARTITION", "The partition's number."),
    value("producer-epoch", "PRODUCER_EPOCH", "abort, with --producer-id: the producer's epoch."),
    value("producer-id", "PRODUCER_ID", "abort: the producer, instead of --start-offset."),
    value("start-offset", "START_OFFSET", "abort: the first offset of the transaction."),
    value("topic", "TOPIC", "The topic's name."),
    value("transactional-id", "TRANSACTIONAL_ID", "describe: the transactional id."),
    value(
        "transactional-id-pattern",
        "TRANSACTIONAL_ID_PATTERN",
        "list: a regular expression that the whole \
        transactional id matches.",
    ),
    value("transactionalId", "TRANSACTIONALID", "forceTerminateTransaction: the transactional id."),
    flag("version", "Display the version."),
];

const USAGE: &str = "usage: kafka-transactions.sh [-h] [-v] [--command-config FILE] --bootstrap-server host:port \
    {list,describe,describe-producers,abort,find-hanging,forceTerminateTransaction} ...";

/// A command, and the options that it takes beside those of every command.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("list", &["duration-filter", "transactional-id-pattern"]),
    ("describe", &["transactional-id"]),
    ("describe-producers", &["broker-id", "topic", "partition"]),
    ("abort", &["topic", "partition", "start-offset", "producer-id", "producer-epoch", "coordinator-epoch"]),
    ("find-hanging", &["broker-id", "max-transaction-timeout", "topic", "partition"]),
    ("forceTerminateTransaction", &["transactionalId"]),
];
const COMMON: [&str; 4] = ["bootstrap-server", "command-config", "help", "version"];

const DEFAULT_TRANSACTION_TIMEOUT_MIN: i64 = 15;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Command {
    Help,
    Version,
    List(TransactionFilter),
    Describe(String),
    DescribeProducers { at: TopicPartition, broker: Option<BrokerId> },
    AbortFrom { at: TopicPartition, start: Offset },
    Abort(OpenTransaction),
    FindHanging(hanging::Search),
    ForceTerminate(String),
}

pub async fn run(arguments: &[String]) -> ExitCode {
    let (command, options) = match plan(arguments) {
        Ok((Command::Help, _)) => {
            super::tell(&format!("{USAGE}\n\n{}", usage(SPECS).trim_end()));
            return ExitCode::SUCCESS;
        }
        Ok((Command::Version, _)) => {
            out!("{} (Ottla)", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(planned) => planned,
        // What the command line lacks for what it asks is said alone; what cannot be read at all, with the usage.
        Err(ToolError::Argument(text)) => {
            err!("{text}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            err!("{USAGE}\nkafka-transactions.sh: error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = match Kafka::connect(bootstrap(&options).unwrap_or_default()).await {
        Ok(kafka) => carry_out(command, &kafka).await,
        Err(error) => Err(format!("{error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            err!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn plan(arguments: &[String]) -> Result<(Command, Options), ToolError> {
    let long = |word: &String| match word.as_str() {
        "-h" => "--help".to_owned(),
        "-v" => "--version".to_owned(),
        _ => word.clone(),
    };
    let words: Vec<String> = arguments.iter().map(long).collect();
    let options = Options::parse(SPECS, &words)?;
    if options.has("help") {
        return Ok((Command::Help, options));
    }
    if options.has("version") {
        return Ok((Command::Version, options));
    }
    let names = COMMANDS.map(|(name, _)| name).join(", ");
    let command = command_of(&words).ok_or_else(|| ToolError::Usage(format!("the command is one of {names}")))?;
    let foreign = SPECS
        .iter()
        .map(|spec| spec.name)
        .find(|name| options.has(name) && !COMMON.contains(name) && !command.1.contains(name));
    if let Some(option) = foreign {
        return Err(OptionsError::Unrecognized(format!("--{option} with {}:", command.0)).into());
    }
    client_properties(&options, &["command-config"], &[])?;
    bootstrap(&options)?;
    Ok((read(command.0, &options)?, options))
}

/// The first word that is a command's name and no option's value.
fn command_of(words: &[String]) -> Option<(&'static str, &'static [&'static str])> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if let Some(found) = COMMANDS.iter().find(|(name, _)| name == word) {
            return Some(*found);
        }
        // Every option but the two flags, which were answered before, takes a value.
        if word.starts_with("--") && !word.contains('=') {
            words.next();
        }
    }
    None
}

fn read(command: &str, options: &Options) -> Result<Command, ToolError> {
    let refused = |text: &str| Err(ToolError::Argument(text.to_owned()));
    let broker = options.number("broker-id")?.map(BrokerId);
    Ok(match command {
        "list" => Command::List(TransactionFilter {
            producer_ids: Vec::new(),
            longer_than_ms: options.number("duration-filter")?,
            pattern: options.get("transactional-id-pattern").map(str::to_owned),
        }),
        "describe" => Command::Describe(options.required("transactional-id")?.to_owned()),
        "describe-producers" => Command::DescribeProducers { at: partition(options)?, broker },
        "abort" => {
            let at = partition(options)?;
            match (options.number("start-offset")?, options.number("producer-id")?) {
                (Some(start), _) => Command::AbortFrom { at, start: Offset(start) },
                (None, None) => {
                    return refused(
                        "The transaction to abort must be identified either with --start-offset (for brokers on 3.0 \
                         or above) or with --producer-id, --producer-epoch, and --coordinator-epoch (for older brokers)",
                    );
                }
                (None, Some(producer_id)) => {
                    let Some(producer_epoch) = options.number("producer-epoch")? else {
                        return refused("Missing required argument --producer-epoch");
                    };
                    let Some(coordinator_epoch) = options.number::<i32>("coordinator-epoch")? else {
                        return refused("Missing required argument --coordinator-epoch");
                    };
                    Command::Abort(OpenTransaction {
                        at,
                        producer_id: ProducerId(producer_id),
                        producer_epoch: ProducerEpoch(producer_epoch),
                        coordinator_epoch: coordinator_epoch.max(0),
                    })
                }
            }
        }
        "find-hanging" => {
            let topic = options.get("topic").map(topic_name).transpose()?;
            let partition: Option<i32> = options.number("partition")?;
            if topic.is_none() && broker.is_none() {
                return refused(
                    "The `find-hanging` command requires either --topic or --broker-id to limit the scope of the search",
                );
            }
            if partition.is_some() && topic.is_none() {
                return refused("The --partition argument requires --topic to be provided");
            }
            let minutes = options.number("max-transaction-timeout")?.unwrap_or(DEFAULT_TRANSACTION_TIMEOUT_MIN);
            let longer_than_ms = minutes.saturating_mul(60_000);
            Command::FindHanging(hanging::Search {
                topic,
                partition: partition.map(PartitionId),
                broker,
                longer_than_ms,
            })
        }
        // The name of the last of `COMMANDS`.
        _ => Command::ForceTerminate(options.required("transactionalId")?.to_owned()),
    })
}

fn topic_name(name: &str) -> Result<TopicName, ToolError> {
    TopicName::new(name).map_err(|error| ToolError::Argument(error.to_string()))
}

fn partition(options: &Options) -> Result<TopicPartition, ToolError> {
    let topic = topic_name(options.required("topic")?)?;
    let partition = options.number("partition")?.ok_or(OptionsError::Missing("partition"))?;
    Ok(TopicPartition::new(topic, PartitionId(partition)))
}

/// What failed and why, as Kafka's tool says it.
fn failed(what: impl std::fmt::Display) -> impl FnOnce(ottla_client::ClientError) -> String {
    move |error| format!("{what}: {}. Enable debug logging for additional detail.", KafkaError::from(error))
}

async fn carry_out(command: Command, kafka: &Kafka) -> Result<(), String> {
    match command {
        Command::Help | Command::Version => Ok(()),
        Command::List(filter) => list(&filter, kafka).await,
        Command::Describe(id) => describe(&id, kafka).await,
        Command::DescribeProducers { at, broker } => describe_producers(&at, broker, kafka).await,
        Command::AbortFrom { at, start } => {
            let transaction = starting_at(&at, start, kafka).await?;
            abort(&transaction, kafka).await
        }
        Command::Abort(transaction) => abort(&transaction, kafka).await,
        Command::FindHanging(search) => hanging::find(&search, kafka).await,
        Command::ForceTerminate(id) => {
            let fenced = kafka.client().fence_producer(&id).await;
            fenced.map_err(failed(format_args!("Failed to force terminate transactionalId `{id}`")))
        }
    }
}

async fn list(filter: &TransactionFilter, kafka: &Kafka) -> Result<(), String> {
    let listed = kafka.client().list_transactions(filter).await.map_err(failed("Failed to list transactions"))?;
    let rows = listed.into_iter().flat_map(|(coordinator, transactions)| {
        transactions
            .into_iter()
            .map(move |one| [one.transactional_id, coordinator.0.to_string(), one.producer_id.0.to_string(), one.state])
    });
    table(["TransactionalId", "Coordinator", "ProducerId", "TransactionState"], rows.collect());
    Ok(())
}

async fn describe(id: &str, kafka: &Kafka) -> Result<(), String> {
    let what = format_args!("Failed to describe transaction state of transactional-id `{id}`");
    let found = kafka.client().describe_transaction(id).await.map_err(failed(what))?;
    let (start, duration) = match found.start {
        Some(start) => (start.0.to_string(), (now_ms() - start.0).to_string()),
        None => ("None".to_owned(), "None".to_owned()),
    };
    let partitions: Vec<String> = found.partitions.iter().map(ToString::to_string).collect();
    let row = [
        found.coordinator.0.to_string(),
        id.to_owned(),
        found.producer_id.0.to_string(),
        found.producer_epoch.0.to_string(),
        found.state,
        found.timeout_ms.to_string(),
        start,
        duration,
        partitions.join(","),
    ];
    let headers = [
        "CoordinatorId",
        "TransactionalId",
        "ProducerId",
        "ProducerEpoch",
        "TransactionState",
        "TransactionTimeoutMs",
        "CurrentTransactionStartTimeMs",
        "TransactionDurationMs",
        "TopicPartitions",
    ];
    table(headers, vec![row]);
    Ok(())
}

async fn describe_producers(at: &TopicPartition, broker: Option<BrokerId>, kafka: &Kafka) -> Result<(), String> {
    let producers = kafka.client().describe_producers(at.topic.as_str(), &[at.partition], broker).await;
    let on = broker.map_or_else(|| "leader".to_owned(), |broker| format!("broker {}", broker.0));
    let producers =
        producers.map_err(failed(format_args!("Failed to describe producers for partition {at} on {on}")))?;
    let rows = producers.into_values().flatten().map(|producer: ActiveProducer| {
        [
            producer.producer_id.0.to_string(),
            producer.producer_epoch.to_string(),
            producer.coordinator_epoch.unwrap_or(-1).to_string(),
            producer.last_sequence.to_string(),
            producer.last_timestamp.0.to_string(),
            producer.current_transaction_start.map_or_else(|| "None".to_owned(), |offset| offset.0.to_string()),
        ]
    });
    let headers = [
        "ProducerId",
        "ProducerEpoch",
        "LatestCoordinatorEpoch",
        "LastSequence",
        "LastTimestamp",
        "CurrentTransactionStartOffset",
    ];
    table(headers, rows.collect());
    Ok(())
}

/// The open transaction that begins at an offset.
async fn starting_at(at: &TopicPartition, start: Offset, kafka: &Kafka) -> Result<OpenTransaction, String> {
    let producers = kafka.client().describe_producers(at.topic.as_str(), &[at.partition], None).await;
    let producers = producers.map_err(failed(format_args!("Failed to validate producer state for partition {at}")))?;
    let mut open = producers.into_values().flatten();
    let found = open.find(|producer| producer.current_transaction_start == Some(start));
    let missing = || format!("Could not find any open transactions starting at offset {} on partition {at}", start.0);
    let found = found.ok_or_else(missing)?;
    // Producer epochs are 16 bits; the field of the answer is wider.
    let producer_epoch = i16::try_from(found.producer_epoch).map_err(|_| missing())?;
    Ok(OpenTransaction {
        at: at.clone(),
        producer_id: found.producer_id,
        producer_epoch: ProducerEpoch(producer_epoch),
        // A coordinator that never wrote a marker for the producer is older than any.
        coordinator_epoch: found.coordinator_epoch.unwrap_or(0),
    })
}

async fn abort(transaction: &OpenTransaction, kafka: &Kafka) -> Result<(), String> {
    let OpenTransaction { at, producer_id, producer_epoch, coordinator_epoch } = transaction;
    let named = format!(
        "AbortTransactionSpec(topicPartition={at}, producerId={}, producerEpoch={}, coordinatorEpoch={coordinator_epoch})",
        producer_id.0, producer_epoch.0,
    );
    let aborted = kafka.client().abort_transaction(transaction).await;
    aborted.map_err(failed(format_args!("Failed to abort transaction {named}")))
}

/// Whether the coordinator has no such transactional id.
fn is_unknown_id(error: &ottla_client::ClientError) -> bool {
    error.code() == Some(ErrorCode::TransactionalIdNotFound)
}

/// Columns as wide as their longest cell, each with a tab after it.
fn table<const COLUMNS: usize>(headers: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) {
    lines(headers, rows).iter().for_each(|line| out!("{line}"));
}

fn lines<const COLUMNS: usize>(headers: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) -> Vec<String> {
    let mut all = vec![headers.map(str::to_owned)];
    all.extend(rows);
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|at| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let line =
        |row: &[String; COLUMNS]| row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}\t")).collect();
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::at;

    fn command(line: &str) -> Result<Command, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        plan(&arguments).map(|(command, _)| command).map_err(|error| error.to_string())
    }

    #[test]
    fn command_lines_are_read_as_kafkas_tool_does() {
        let filter = TransactionFilter { longer_than_ms: Some(5), pattern: Some("a.*".into()), ..Default::default() };
        let line = "--bootstrap-server k list --duration-filter 5 --transactional-id-pattern a.*";
        assert_eq!(command(line), Ok(Command::List(filter)));
        let line = "--bootstrap-server k describe --transactional-id list";
        assert_eq!(command(line), Ok(Command::Describe("list".into())));
        let line = "--bootstrap-server k describe-producers --topic t --partition 1 --broker-id 2";
        let expected = Command::DescribeProducers { at: at("t", 1), broker: Some(BrokerId(2)) };
        assert_eq!(command(line), Ok(expected));
        let line = "--bootstrap-server k abort --topic t --partition 0 --start-offset 7";
        assert_eq!(command(line), Ok(Command::AbortFrom { at: at("t", 0), start: Offset(7) }));
        let line = "--bootstrap-server k abort --topic t --partition 0 --producer-id 1 --producer-epoch 2 \
                    --coordinator-epoch -1";
        let transaction = OpenTransaction {
            at: at("t", 0),
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(2),
            coordinator_epoch: 0,
        };
        assert_eq!(command(line), Ok(Command::Abort(transaction)));
        let line = "--bootstrap-server k forceTerminateTransaction --transactionalId x";
        assert_eq!(command(line), Ok(Command::ForceTerminate("x".into())));
        assert_eq!(command("-h"), Ok(Command::Help));
        assert_eq!(command("list -v"), Ok(Command::Version));
    }

    #[test]
    fn command_lines_that_lack_something_are_refused() {
        let text = |line: &str| command(&format!("--bootstrap-server k {line}")).expect_err(line);
        assert!(text("").contains("the command is one of list, describe"));
        assert!(text("describe").contains("transactional-id"));
        assert!(text("list --topic t").contains("--topic with list"));
        assert!(text("abort --topic t --partition 0").starts_with("The transaction to abort must be identified"));
        let line = "abort --topic t --partition 0 --producer-id 1";
        assert_eq!(text(line), "Missing required argument --producer-epoch");
        assert_eq!(text(&format!("{line} --producer-epoch 1")), "Missing required argument --coordinator-epoch");
        assert!(text("find-hanging").contains("requires either --topic or --broker-id"));
        assert_eq!(
            text("find-hanging --broker-id 1 --partition 0"),
            "The --partition argument requires --topic to be provided"
        );
        assert!(text("describe-producers --topic t --partition x").contains("partition"));
        assert!(command("list").expect_err("no server").contains("bootstrap-server"));
    }

    #[test]
    fn tables_are_those_of_kafkas_tool() {
        let rows = vec![["a".to_owned(), "1".to_owned()], ["bbbb".to_owned(), "22".to_owned()]];
        assert_eq!(lines(["Id", "N"], rows), ["Id  \tN \t", "a   \t1 \t", "bbbb\t22\t"]);
    }
}
