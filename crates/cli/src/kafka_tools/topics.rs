//! `kafka-topics`.

use std::process::ExitCode;

use ottla_metadata::topic_config;
use regex_lite::Regex;

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, value};
use super::zookeeper::{self, Cluster};
use super::{ToolError, bootstrap, exceptions, log_error, run_tool};
use crate::describe::{self, Shown};
use crate::kafka::{Connecting, Kafka, NewTopic};
use crate::out;

const DELETE_CONFIG: &str = "kafka-configs --alter --delete-config removes the configuration of a topic";

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
    value(
        "config",
        "String: name=value",
        "A topic configuration for the topic being created; with --zookeeper also for one being altered.",
    ),
    flag("create", "Create a new topic."),
    flag("delete", "Delete a topic."),
    value(
        "delete-config",
        "String: name",
        "With --zookeeper: a topic configuration to remove from a topic being altered. Otherwise kafka-configs does that.",
    ),
    flag("describe", "List details for the given topics."),
    refused("disable-rack-aware", Takes::Nothing, "replicas are placed on different racks where there are racks"),
    flag("exclude-internal", "Exclude internal topics when listing or describing."),
    flag("force", "With --zookeeper: do not prompt. It never does."),
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
    value(
        "zookeeper",
        "String: hosts",
        "The coordinators, host:port,…[/chroot], as tools of Kafka 2 and older name ZooKeeper, instead of --bootstrap-server.",
    ),
];

const ACTIONS: &[&str] = &["list", "describe", "create", "alter", "delete"];
/// The actions beside which an option means something. Kafka's tool takes `--topic-id` beside every action, and reads
/// it for --describe only.
const OPTIONS_OF_ACTIONS: &[(&str, &[&str])] = &[
    ("partitions", &["alter", "create"]),
    ("replication-factor", &["create"]),
    ("replica-assignment", &["alter", "create"]),
    ("under-replicated-partitions", &["describe"]),
    ("under-min-isr-partitions", &["describe"]),
    ("at-min-isr-partitions", &["describe"]),
    ("unavailable-partitions", &["describe"]),
    ("topics-with-overrides", &["describe"]),
    ("if-exists", &["alter", "delete", "describe"]),
    ("if-not-exists", &["create"]),
    ("exclude-internal", &["list", "describe"]),
];

const LOGGER: &str = "org.apache.kafka.tools.TopicCommand";
const NO_PAIR: &str =
    "requirement failed: Invalid topic config: all configs to be added must be in the format \"key=val\".";
const COLLISION_WARNING: &str = "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could collide. To avoid issues it is best to use either, but not both.";

/// What the tool says to a line without any word.
const PURPOSE: &str = "Create, delete, describe, or change a topic.";

pub async fn run(arguments: &[String]) -> ExitCode {
    let plan = |options: &Options| Ok((Action::of(options)?, options.clone()));
    run_tool(PURPOSE, SPECS, arguments, plan, |(action, options)| async move {
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
        let by_zookeeper = zookeeper::is_asked_for(options)?;
        if !by_zookeeper {
            bootstrap(options)?;
        }
        options.check_actions(ACTIONS, OPTIONS_OF_ACTIONS)?;
        let configurable: &[_] = if by_zookeeper { &["create", "alter"] } else { &["create"] };
        options.check_actions(ACTIONS, &[("config", configurable), ("delete-config", &["alter"])])?;
        if options.has("delete-config") && !by_zookeeper {
            return Err(OptionsError::Refused("delete-config", DELETE_CONFIG).into());
        }
        if matches!(action, Self::Create | Self::Alter | Self::Delete) {
            options.required("topic")?;
        }
        let changes_configs = options.has("config") || options.has("delete-config");
        if *action == Self::Alter && !changes_configs {
            options.required("partitions")?;
        }
        // A broker would know the defaults.
        if *action == Self::Create && by_zookeeper && !options.has("replica-assignment") {
            options.required("partitions")?;
            options.required("replication-factor")?;
        }
        for other in ["partitions", "replication-factor"] {
            if *action == Self::Create && options.has("replica-assignment") && options.has(other) {
                return Err(OptionsError::Conflict("replica-assignment", other).into());
            }
        }
        Ok(*action)
    }
}

async fn connect(options: &Options) -> Result<Cluster, ToolError> {
    if let Some(quorum) = zookeeper::Quorum::of(options)? {
        return Ok(Cluster::Quorum(quorum));
    }
    let partitions_per_response = options.number("partition-size-limit-per-response")?;
    let how = Connecting { partitions_per_response, ..Connecting::to(bootstrap(options)?) };
    Ok(Cluster::Brokers(Kafka::connect_with(how).await?))
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
        configs: new_configs(options)?,
    };
    match connect(options).await?.create_topic(&topic).await {
        Ok(()) => {
            out!("Created topic {name}.");
            Ok(())
        }
        Err(ToolError::Kafka(error))
            if options.has("if-not-exists") && error.is(ottla_model::ErrorCode::TopicAlreadyExists) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// `--config` of a new topic. Values are checked here, as Kafka's tool does; names that are not known here a broker may
/// know.
fn new_configs(options: &Options) -> Result<Vec<(String, String)>, ToolError> {
    let mut configs = Vec::new();
    for text in options.all("config") {
        let (name, value) = text.split_once('=').ok_or_else(|| ToolError::Argument(NO_PAIR.to_owned()))?;
        let (name, value) = (name.trim(), value.trim());
        if let Some(key) = topic_config::key(name) {
            key.parse(value).map_err(|error| ToolError::Config(error.to_string()))?;
        }
        configs.push((name.to_owned(), value.to_owned()));
    }
    Ok(configs)
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
    let cluster = connect(options).await?;
    let names = match options.get("topic-id") {
        Some(id) => vec![name_of(&cluster, id).await?],
        None => existing(&cluster, options).await?,
    };
    let shown = Shown {
        under_replicated: options.has("under-replicated-partitions"),
        unavailable: options.has("unavailable-partitions"),
        under_min_isr: options.has("under-min-isr-partitions"),
        at_min_isr: options.has("at-min-isr-partitions"),
        only_overridden: options.has("topics-with-overrides"),
    };
    for line in describe::lines(&cluster.describe(&names).await?, &shown) {
        out!("{line}");
    }
    Ok(())
}

async fn alter(options: &Options) -> Result<(), ToolError> {
    let cluster = connect(options).await?;
    let total: Option<i32> = options.number("partitions")?;
    let assignments = assignments(options)?;
    let (set, removed) = (options.pairs("config")?, options.all("delete-config"));
    for name in existing(&cluster, options).await? {
        if !set.is_empty() || !removed.is_empty() {
            cluster.alter_topic_config(&name, &set, removed).await?;
            out!("Updated config for topic {name}.");
        }
        if let Some(total) = total {
            cluster.grow_topic(&name, total, &assignments).await?;
        }
    }
    Ok(())
}

async fn delete(options: &Options) -> Result<(), ToolError> {
    let cluster = connect(options).await?;
    for name in existing(&cluster, options).await? {
        cluster.delete_topic(&name).await?;
        if matches!(cluster, Cluster::Quorum(_)) {
            out!("Topic {name} is marked for deletion.");
        }
    }
    Ok(())
}

/// The topics that `--topic` names, or all; sorted.
async fn matching(cluster: &Cluster, options: &Options) -> Result<Vec<String>, ToolError> {
    let filter = options.get("topic").map(pattern).transpose()?;
    let mut names: Vec<String> = cluster
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
async fn name_of(cluster: &Cluster, id: &str) -> Result<String, ToolError> {
    let found = cluster.topics().await?.into_iter().find(|topic| topic.id == id);
    found
        .map(|topic| topic.name)
        .ok_or_else(|| ToolError::Argument(format!("TopicId '{id}' does not exist as expected")))
}

/// As `matching`; a topic that is named and not there is an error unless `--if-exists`.
async fn existing(cluster: &Cluster, options: &Options) -> Result<Vec<String>, ToolError> {
    let names = matching(cluster, options).await?;
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
        let zookeeper = |line: &str| action(&format!("--zookeeper z:2181/kafka {line}"));
        assert_eq!(
            zookeeper("--create --if-not-exists --topic t --partitions 4 --replication-factor 2 --force"),
            Ok(Action::Create)
        );
        assert_eq!(zookeeper("--list"), Ok(Action::List));
        assert_eq!(zookeeper("--alter --topic t --config a=1 --delete-config b"), Ok(Action::Alter));
        let missing = Err("Missing required argument \"[replication-factor]\"".into());
        assert_eq!(zookeeper("--create --topic t --partitions 4"), missing);
        assert!(zookeeper("--list --bootstrap-server k:1").is_err_and(|text| text.contains("Only one of")));
        assert!(zookeeper("--list --command-config c").is_err());
        assert_eq!(action("--list --bootstrap-server k:1 --force"), Err("force is not a recognized option".into()));
        assert_eq!(action("--frobnicate"), Err("frobnicate is not a recognized option".into()));
    }

    #[test]
    fn configs_of_a_new_topic_are_checked_before_a_broker_is_asked() {
        let refused = |line: &str| {
            let line = format!("--create --topic t --bootstrap-server k:1 {line}");
            let error = crate::kafka_tools::planned(SPECS, &line, |options| Ok(new_configs(options)))?;
            let error = error.expect_err("refused");
            Ok::<_, String>(format!("{}: {error}", exceptions::class(&error)))
        };
        assert_eq!(
            refused("--config retention.ms=soon").as_deref(),
            Ok(
                "org.apache.kafka.common.config.ConfigException: Invalid value soon for configuration retention.ms: Not a \
                number of type LONG"
            )
        );
        let no_pair = refused("--config retention.ms").expect("a line");
        assert!(no_pair.starts_with("java.lang.IllegalArgumentException: requirement failed"), "{no_pair}");
        let kept = crate::kafka_tools::planned(SPECS, "--config no.such=1 --config retention.ms=7", new_configs);
        let pairs = [("no.such", "1"), ("retention.ms", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(kept, Ok(pairs.to_vec()));
    }

    #[test]
    fn topics_are_matched_as_whole_names() {
        let matches = |filter: &str, name: &str| pattern(filter).expect("a filter").is_match(name);
        assert!(matches("my-topic", "my-topic") && !matches("my-topic", "my-topic-2"));
        assert!(matches("a.*", "a.b_c") && matches("a, b", "b") && !matches("a,b", "ab"));
        assert!(pattern("(").is_err());
    }
}
