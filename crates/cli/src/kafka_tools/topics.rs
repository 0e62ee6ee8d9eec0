//! `kafka-topics`.

use std::process::ExitCode;

use regex_lite::Regex;

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, value};
use super::{ToolError, bootstrap, exceptions, log_error, run_tool};
use crate::describe::{self, Shown};
use crate::kafka::{Connecting, Kafka, NewTopic};
use crate::out;

pub(super) static SPECS: &[OptionSpec] = &[
    flag("alter", "Alter the number of partitions."),
    flag(
        "at-min-isr-partitions",
        "If set when describing topics, only show partitions whose isr count is equal to the configured minimum.",
    ),
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The server to connect to."),
    value("broker-list", "String: server to connect to", "The older name of --bootstrap-server."),
    value(
        "command-config",
        "String: command config property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    value("config", "String: name=value", "A topic configuration for the topic being created."),
    flag("create", "Create a new topic."),
    flag("delete", "Delete a topic."),
    refused(
        "delete-config",
        Takes::Value,
        "kafka-configs --alter --delete-config removes the configuration of a topic",
    ),
    flag("describe", "List details for the given topics."),
    flag("exclude-internal", "Exclude internal topics when listing or describing."),
    flag("help", "Print usage information."),
    flag(
        "if-exists",
        "If set when altering, deleting or describing topics, the action will only execute if the topic exists.",
    ),
    flag(
        "if-not-exists",
        "If set when creating topics, the action will only execute if the topic does not already exist.",
    ),
    flag("list", "List all available topics."),
    value("partitions", "Integer: # of partitions", "The number of partitions for the topic being created or altered."),
    value(
        "partition-size-limit-per-response",
        "Integer: maximum partition size per response",
        "How many partitions a broker describes in one answer at most.",
    ),
    value(
        "replica-assignment",
        "String: broker_id_for_part0_replica1:broker_id_for_part0_replica2, ...",
        "The brokers of each partition for the topic being created.",
    ),
    value(
        "replication-factor",
        "Integer: replication factor",
        "The replication factor for each partition in the topic being created.",
    ),
    value(
        "topic",
        "String: topic",
        "The topic to create, alter, describe or delete. It also accepts a regular expression, except for --create.",
    ),
    value("topic-id", "String: topic-id", "The topic-id to describe."),
    flag("topics-with-overrides", "If set when describing topics, only show topics that have overridden configs."),
    flag(
        "unavailable-partitions",
        "If set when describing topics, only show partitions whose leader is not available.",
    ),
    flag(
        "under-min-isr-partitions",
        "If set when describing topics, only show partitions whose isr count is less than the configured minimum.",
    ),
    flag("under-replicated-partitions", "If set when describing topics, only show under replicated partitions."),
    flag("version", "Display the version."),
];

const ACTIONS: &[&str] = &["list", "describe", "create", "alter", "delete"];
/// The actions beside which an option means something.
const OPTIONS_OF_ACTIONS: &[(&str, &[&str])] = &[
    ("config", &["create"]),
    ("partitions", &["alter", "create"]),
    ("replication-factor", &["create"]),
    ("replica-assignment", &["alter", "create"]),
    ("under-replicated-partitions", &["describe"]),
    ("under-min-isr-partitions", &["describe"]),
    ("at-min-isr-partitions", &["describe"]),
    ("unavailable-partitions", &["describe"]),
    ("topics-with-overrides", &["describe"]),
    ("topic-id", &["describe"]),
    ("if-exists", &["alter", "delete", "describe"]),
    ("if-not-exists", &["create"]),
    ("exclude-internal", &["list", "describe"]),
];

const LOGGER: &str = "org.apache.kafka.tools.TopicCommand";
const COLLISION_WARNING: &str = "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could collide. To avoid issues it is best to use either, but not both.";

pub async fn run(arguments: &[String]) -> ExitCode {
    let plan = |options: &Options| Ok((Action::of(options)?, options.clone()));
    run_tool(SPECS, arguments, plan, |(action, options)| async move {
        let result = match action {
            Action::Create => create(&options).await,
            Action::List => list(&options).await,
            Action::Describe => describe(&options).await,
            Action::Alter => alter(&options).await,
            Action::Delete => delete(&options).await,
        };
        let Err(error) = result else { return ExitCode::SUCCESS };
        out!("Error while executing topic command : {error}");
        log_error(&exceptions::class(&error), &error.to_string(), LOGGER);
        ExitCode::FAILURE
    })
    .await
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Create,
    List,
    Describe,
    Alter,
    Delete,
}

impl Action {
    fn of(options: &Options) -> Result<Self, ToolError> {
        let named: Vec<Self> = [
            ("list", Self::List),
            ("describe", Self::Describe),
            ("create", Self::Create),
            ("alter", Self::Alter),
            ("delete", Self::Delete),
        ]
        .into_iter()
        .filter_map(|(name, action)| options.has(name).then_some(action))
        .collect();
        let [action] = named.as_slice() else {
            return Err(ToolError::Usage(
                "Command must include exactly one action: --list, --describe, --create, --alter or --delete".to_owned(),
            ));
        };
        bootstrap(options)?;
        options.check_actions(ACTIONS, OPTIONS_OF_ACTIONS)?;
        if matches!(action, Self::Create | Self::Alter | Self::Delete) {
            options.required("topic")?;
        }
        if *action == Self::Alter {
            options.required("partitions")?;
        }
        for other in ["partitions", "replication-factor"] {
            if *action == Self::Create && options.has("replica-assignment") && options.has(other) {
                return Err(OptionsError::Conflict("replica-assignment", other).into());
            }
        }
        Ok(*action)
    }
}

async fn connect(options: &Options) -> Result<Kafka, ToolError> {
    let partitions_per_response = options.number("partition-size-limit-per-response")?;
    Ok(Kafka::connect_with(Connecting { partitions_per_response, ..Connecting::to(bootstrap(options)?) }).await?)
}

async fn create(options: &Options) -> Result<(), ToolError> {
    let name = options.required("topic")?;
    if name.contains(['.', '_']) {
        out!("{COLLISION_WARNING}");
    }
    let partitions: Option<i32> = options.number("partitions")?;
    if partitions.is_some_and(|count| count < 1) {
        return Err(ToolError::Argument("The partitions must be greater than 0".to_owned()));
    }
    let replication_factor: Option<i32> = options.number("replication-factor")?;
    let replication_factor = replication_factor.map(i16::try_from).transpose().ok().filter(|f| f.is_none_or(|f| f > 0));
    let Some(replication_factor) = replication_factor else {
        return Err(ToolError::Argument("The replication factor must be between 1 and 32767 inclusive".to_owned()));
    };
    // Kafka checks the name before it asks anybody, and so names it before any other error.
    ottla_model::TopicName::new(name)
        .map_err(|error| crate::kafka::KafkaError::refused(ottla_model::ErrorCode::InvalidTopicException, &error))?;
    let topic = NewTopic {
        name: name.to_owned(),
        partitions,
        replication_factor,
        assignments: assignments(options)?,
        configs: options.pairs("config")?,
    };
    let kafka = connect(options).await?;
    match kafka.create_topic(&topic).await {
        Ok(()) => {
            out!("Created topic {name}.");
            Ok(())
        }
        Err(error) if options.has("if-not-exists") && error.is(ottla_model::ErrorCode::TopicAlreadyExists) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `0:1:2,1:2:0`: the brokers of partition 0, of partition 1, …
fn assignments(options: &Options) -> Result<Vec<Vec<i32>>, ToolError> {
    let Some(text) = options.get("replica-assignment") else { return Ok(Vec::new()) };
    text.split(',')
        .map(|partition| partition.split(':').map(|id| id.trim().parse()).collect())
        .collect::<Result<_, _>>()
        .map_err(|_| ToolError::Argument(format!("Cannot parse replica assignment '{text}'")))
}

async fn list(options: &Options) -> Result<(), ToolError> {
    for name in matching(&connect(options).await?, options).await? {
        out!("{name}");
    }
    Ok(())
}

async fn describe(options: &Options) -> Result<(), ToolError> {
    let kafka = connect(options).await?;
    let names = match options.get("topic-id") {
        Some(id) => vec![name_of(&kafka, id).await?],
        None => existing(&kafka, options).await?,
    };
    let shown = Shown {
        under_replicated: options.has("under-replicated-partitions"),
        unavailable: options.has("unavailable-partitions"),
        under_min_isr: options.has("under-min-isr-partitions"),
        at_min_isr: options.has("at-min-isr-partitions"),
        only_overridden: options.has("topics-with-overrides"),
    };
    for line in describe::lines(&kafka.describe(&names).await?, &shown) {
        out!("{line}");
    }
    Ok(())
}

async fn alter(options: &Options) -> Result<(), ToolError> {
    let kafka = connect(options).await?;
    let total: i32 = options.number("partitions")?.unwrap_or_default();
    let assignments = assignments(options)?;
    for name in existing(&kafka, options).await? {
        kafka.grow_topic(&name, total, &assignments).await?;
    }
    Ok(())
}

async fn delete(options: &Options) -> Result<(), ToolError> {
    let kafka = connect(options).await?;
    for name in existing(&kafka, options).await? {
        kafka.delete_topic(&name).await?;
    }
    Ok(())
}

/// The topics that `--topic` names, or all; sorted.
async fn matching(kafka: &Kafka, options: &Options) -> Result<Vec<String>, ToolError> {
    let filter = options.get("topic").map(pattern).transpose()?;
    let mut names: Vec<String> = kafka
        .topics()
        .await?
        .into_iter()
        .filter(|topic| !(topic.is_internal && options.has("exclude-internal")))
        .map(|topic| topic.name)
        .filter(|name| filter.as_ref().is_none_or(|filter| filter.is_match(name)))
        .collect();
    names.sort();
    Ok(names)
}

/// The topic with this id.
async fn name_of(kafka: &Kafka, id: &str) -> Result<String, ToolError> {
    let topics = kafka.client().list_topics().await.map_err(crate::kafka::KafkaError::from)?;
    let found = topics.into_iter().find(|topic| topic.id.to_string() == id);
    found
        .map(|topic| topic.name)
        .ok_or_else(|| ToolError::Argument(format!("TopicId '{id}' does not exist as expected")))
}

/// As `matching`; a topic that is named and not there is an error unless `--if-exists`.
async fn existing(kafka: &Kafka, options: &Options) -> Result<Vec<String>, ToolError> {
    let names = matching(kafka, options).await?;
    match options.get("topic") {
        Some(topic) if names.is_empty() && !options.has("if-exists") => {
            Err(ToolError::Argument(format!("Topic '{topic}' does not exist as expected")))
        }
        _ => Ok(names),
    }
}

/// Kafka's topic filters: regular expressions that must match the whole name, separated by commas.
pub(super) fn pattern(text: &str) -> Result<Regex, ToolError> {
    let text = text.trim().trim_matches(['"', '\'']).replace(',', "|").replace(' ', "");
    Regex::new(&format!("^(?:{text})$")).map_err(|_| ToolError::Argument(format!("{text} is an invalid regex.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(line: &str) -> Result<Action, String> {
        crate::kafka_tools::planned(SPECS, line, Action::of)
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        assert_eq!(
            action("--create --topic t --bootstrap-server k:9092 --replication-factor 3 --partitions 2"),
            Ok(Action::Create)
        );
        assert_eq!(action("--create --topic t --broker-list k:9092 --partition 2"), Ok(Action::Create));
        assert_eq!(action("--bootstrap-server k:1 --list"), Ok(Action::List));
        assert_eq!(action("--describe --bootstrap-server k:1"), Ok(Action::Describe));
        assert_eq!(action("--create --bootstrap-server k:1"), Err("Missing required argument \"[topic]\"".into()));
        assert_eq!(action("--list"), Err("Missing required argument \"[bootstrap-server]\"".into()));
        assert_eq!(
            action("--alter --topic t --bootstrap-server k:1"),
            Err("Missing required argument \"[partitions]\"".into())
        );
        assert!(
            action("--list --describe --bootstrap-server k:1").is_err_and(|text| text.contains("exactly one action"))
        );
        let conflict =
            |line: &str| action(&format!("--bootstrap-server k:1 --topic t {line}")).expect_err("a conflict");
        let text = |first: &str, second: &str| format!("Option \"[{first}]\" can't be used with option \"[{second}]\"");
        assert_eq!(conflict("--alter --partitions 3 --config a=1"), text("config", "alter"));
        assert_eq!(conflict("--delete --if-not-exists"), text("if-not-exists", "delete"));
        assert_eq!(
            conflict("--create --replica-assignment 1 --partitions 1"),
            text("replica-assignment", "partitions")
        );
        assert!(conflict("--alter --delete-config a").contains("delete-config is not supported"));
        assert_eq!(action("--frobnicate"), Err("frobnicate is not a recognized option".into()));
    }

    #[test]
    fn topics_are_matched_as_whole_names() {
        let matches = |filter: &str, name: &str| pattern(filter).expect("a filter").is_match(name);
        assert!(matches("my-topic", "my-topic") && !matches("my-topic", "my-topic-2"));
        assert!(matches("a.*", "a.b_c") && matches("a, b", "b") && !matches("a,b", "ab"));
        assert!(pattern("(").is_err());
    }
}
