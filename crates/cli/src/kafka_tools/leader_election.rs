//! `kafka-leader-election`: preferred replicas lead again, or any live replica leads where there is no leader.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use ottla_client::{ElectionOutcome, ElectionType};
use ottla_model::{ErrorCode, PartitionId};
use serde_json::Value;

use super::options::{OptionSpec, Options, flag, value};
use super::{COMMAND_FAILED, OPERATION_FAILED, ToolError, client_properties, exceptions, read_file, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value(
        "admin.config",
        "config file",
        "(DEPRECATED) A file with a client's properties. This option will be removed in a future version. Use --command-config instead.",
    ),
    flag(
        "all-topic-partitions",
        "Elect leaders of all partitions that need it. Not allowed with --topic or --path-to-json-file.",
    ),
    value("bootstrap-server", "host:port", "REQUIRED: The servers to connect to."),
    value("command-config", "Config file", "A file with a client's properties, such as security.protocol."),
    value(
        "election-type",
        "election type",
        "REQUIRED: \"preferred\": the first replica leads if another one does and it is in sync. \"unclean\": where there is no leader, any live replica leads, although acknowledged records may be lost.",
    ),
    flag("help", "Print usage information."),
    value("partition", "partition id", "The id of the partition. REQUIRED with --topic."),
    value(
        "path-to-json-file",
        "Path to JSON file",
        "A JSON file with the partitions: {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1}, {\"topic\": \"foobar\", \"partition\": 2}]}. Not allowed with --all-topic-partitions or --topic.",
    ),
    value(
        "topic",
        "topic name",
        "The topic of the partition. Not allowed with --all-topic-partitions or --path-to-json-file.",
    ),
    flag("version", "Display the version."),
];

/// How long the cluster may take over it; Kafka's tool allows as much.
const TIMEOUT: Duration = Duration::from_secs(30);

type Partitions = BTreeMap<String, Vec<PartitionId>>;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Target {
    All,
    One(String, PartitionId),
    File(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    bootstrap: String,
    election: ElectionType,
    target: Target,
    has_old_config: bool,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool attempts to elect a new leader for a set of topic partitions. The type of elections supported are preferred replicas and unclean replicas.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan, |plan| async move {
        match elect(&plan).await {
            Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
            Ok(failures) => {
                let text = format!("{} replica(s) could not be elected", failures.len());
                err!("{text}\n{COMMAND_FAILED}: {text}");
                failures.iter().for_each(|failure| err!("\tSuppressed: {failure}"));
                ExitCode::FAILURE
            }
            Err(error) => {
                err!("{error}\n{}: {error}", exceptions::class(&error));
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let usage = |text: String| ToolError::admin(COMMAND_FAILED, text);
    let missing: Vec<&str> =
        ["bootstrap-server", "election-type"].into_iter().filter(|name| !options.has(name)).collect();
    if !missing.is_empty() {
        return Err(usage(format!("Missing required option(s): {}", missing.join(", "))));
    }
    client_properties(options, &["admin.config"], &[])?;
    let election = election_type(options.required("election-type")?)?;
    let targets = ["topic", "all-topic-partitions", "path-to-json-file"];
    if targets.iter().filter(|name| options.has(name)).count() != 1 {
        return Err(usage(format!("One and only one of the following options is required: {}", targets.join(", "))));
    }
    let partition = options.number::<i32>("partition")?;
    let target = match (options.get("topic"), partition, options.get("path-to-json-file")) {
        (Some(topic), Some(partition), _) => Target::One(topic.to_owned(), PartitionId(partition)),
        (Some(_), None, _) => return Err(usage("Missing required option(s): partition".to_owned())),
        (None, Some(_), _) => return Err(usage("Option partition is only allowed if topic is used".to_owned())),
        (None, None, Some(path)) => Target::File(path.to_owned()),
        (None, None, None) => Target::All,
    };
    let bootstrap = options.required("bootstrap-server")?.to_owned();
    Ok(Plan { bootstrap, election, target, has_old_config: options.has("admin.config") })
}

fn election_type(text: &str) -> Result<ElectionType, ToolError> {
    match text.to_ascii_lowercase().as_str() {
        "preferred" => Ok(ElectionType::Preferred),
        "unclean" => Ok(ElectionType::Unclean),
        _ => {
            let refused = format!("Cannot parse argument '{text}' of option election-type");
            let cause =
                format!("joptsimple.ValueConversionException: Value [{text}] is not one of [[PREFERRED,UNCLEAN]]");
            Err(ToolError::Unconverted { refused, cause })
        }
    }
}

/// Why the leaders of partitions could not be elected, each as Java writes an exception.
async fn elect(plan: &Plan) -> Result<Vec<String>, ToolError> {
    let partitions = match &plan.target {
        Target::All => None,
        Target::One(topic, partition) => Some(Partitions::from([(topic.clone(), vec![*partition])])),
        Target::File(path) => Some(parse(&read_file(path)?).map_err(|text| ToolError::admin(OPERATION_FAILED, text))?),
    };
    if plan.has_old_config {
        out!(
            "Option --admin.config has been deprecated and will be removed in a future version. Use --command-config \
             instead."
        );
    }
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    let outcomes = kafka.client().elect_leaders(plan.election, partitions.as_ref(), TIMEOUT).await;
    let outcomes = outcomes.map_err(KafkaError::from)?;
    for line in lines(plan.election, &outcomes) {
        out!("{line}");
    }
    Ok(outcomes.iter().filter(|outcome| is_failure(outcome)).map(shown).collect())
}

fn is_failure(outcome: &ElectionOutcome) -> bool {
    !matches!(outcome.error, ErrorCode::None | ErrorCode::ElectionNotNeeded)
}

/// As Kafka's tool tells it: those that were elected, those that led already, the failures one by one.
fn lines(election: ElectionType, outcomes: &[ElectionOutcome]) -> Vec<String> {
    let kind = match election {
        ElectionType::Preferred => "PREFERRED",
        ElectionType::Unclean => "UNCLEAN",
    };
    let at = |outcome: &ElectionOutcome| format!("{}-{}", outcome.topic, outcome.partition);
    let with = |error: ErrorCode| {
        let those: Vec<_> = outcomes.iter().filter(|outcome| outcome.error == error).map(at).collect();
        (!those.is_empty()).then(|| those.join(", "))
    };
    let elected = with(ErrorCode::None)
        .map(|those| format!("Successfully completed leader election ({kind}) for partitions {those}"));
    let needless =
        with(ErrorCode::ElectionNotNeeded).map(|those| format!("Valid replica already elected for partitions {those}"));
    let failure = |outcome: &ElectionOutcome| {
        let error = shown(outcome);
        format!("Error completing leader election ({kind}) for partition: {}: {error}", at(outcome))
    };
    let failures = outcomes.iter().filter(|outcome| is_failure(outcome)).map(failure);
    elected.into_iter().chain(needless).chain(failures).collect()
}

/// The error as Java writes it.
fn shown(outcome: &ElectionOutcome) -> String {
    let message = outcome.message.clone().unwrap_or_else(|| exceptions::message(outcome.error));
    exceptions::shown(&KafkaError::Refused { code: outcome.error, message })
}

fn parse(json: &str) -> Result<Partitions, String> {
    let json: Value = serde_json::from_str(json).map_err(|_| "Replica election data is empty".to_owned())?;
    let listed = json.get("partitions").and_then(Value::as_array);
    let listed = listed.ok_or("Replica election data is missing \"partitions\" field")?;
    let mut partitions = Partitions::new();
    let mut twice = Vec::new();
    for entry in listed {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
        let (Some(topic), Some(partition)) = (topic, partition) else {
            return Err(format!("{entry}: wanted are topic and partition"));
        };
        let of_topic = partitions.entry(topic.to_owned()).or_default();
        match of_topic.contains(&PartitionId(partition)) {
            true => twice.push(format!("{topic}-{partition}")),
            false => of_topic.push(PartitionId(partition)),
        }
    }
    match twice.is_empty() {
        true => Ok(partitions),
        false => Err(format!("Replica election data contains duplicate partitions: [{}]", twice.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_tools::planned;

    #[test]
    fn options_are_checked_as_kafkas_tool_does() {
        let target = |line: &str| planned(SPECS, &format!("--bootstrap-server k {line}"), plan).map(|plan| plan.target);
        let one = target("--election-type PREFERRED --topic t --partition 3");
        assert_eq!(one, Ok(Target::One("t".to_owned(), PartitionId(3))));
        assert_eq!(target("--election-type unclean --all-topic-partitions"), Ok(Target::All));
        let exclusive =
            "One and only one of the following options is required: topic, all-topic-partitions, path-to-json-file";
        let cases = [
            ("--all-topic-partitions", "Missing required option(s): election-type"),
            ("--election-type preferred", exclusive),
            ("--election-type preferred --topic t --all-topic-partitions", exclusive),
            ("--election-type preferred --topic t", "Missing required option(s): partition"),
            (
                "--election-type preferred --all-topic-partitions --partition 0",
                "Option partition is only allowed if topic is used",
            ),
            ("--election-type x --all-topic-partitions", "Cannot parse argument 'x' of option election-type"),
        ];
        for (line, text) in cases {
            assert_eq!(target(line), Err(text.to_owned()), "{line}");
        }
    }

    #[test]
    fn files_name_each_partition_once() {
        let file = r#"{"partitions":[{"topic":"t","partition":1},{"topic":"t","partition":0}]}"#;
        assert_eq!(parse(file), Ok(Partitions::from([("t".to_owned(), vec![PartitionId(1), PartitionId(0)])])));
        let twice = r#"{"partitions":[{"topic":"t","partition":1},{"topic":"t","partition":1}]}"#;
        assert_eq!(parse(twice), Err("Replica election data contains duplicate partitions: [t-1]".to_owned()));
        assert_eq!(parse("{}"), Err("Replica election data is missing \"partitions\" field".to_owned()));
        assert!(parse(r#"{"partitions":[{"topic":"t"}]}"#).is_err());
    }

    #[test]
    fn outcomes_are_told_as_kafkas_tool_does() {
        let outcome = |partition, error| ElectionOutcome {
            topic: "t".to_owned(),
            partition: PartitionId(partition),
            error,
            message: None,
        };
        let outcomes = [
            outcome(0, ErrorCode::None),
            outcome(1, ErrorCode::ElectionNotNeeded),
            outcome(2, ErrorCode::None),
            outcome(3, ErrorCode::PreferredLeaderNotAvailable),
        ];
        assert_eq!(
            lines(ElectionType::Preferred, &outcomes),
            [
                "Successfully completed leader election (PREFERRED) for partitions t-0, t-2",
                "Valid replica already elected for partitions t-1",
                "Error completing leader election (PREFERRED) for partition: t-3: org.apache.kafka.common.errors.PreferredLeaderNotAvailableException: The preferred leader was not available.",
            ]
        );
        assert_eq!(lines(ElectionType::Unclean, &[]), Vec::<String>::new());
    }
}
