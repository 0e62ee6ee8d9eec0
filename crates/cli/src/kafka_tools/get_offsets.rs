//! `kafka-get-offsets`: offsets of partitions at a time, `topic:partition:offset`.

use std::process::ExitCode;

use ottla_model::{Offset, PartitionId, TimestampMs, TopicName, TopicPartition};
use regex_lite::Regex;

use super::options::{OptionSpec, Options, flag, value};
use super::topics::pattern;
use super::{ToolError, bootstrap, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: HOST1:PORT1,...,HOST3:PORT3", "REQUIRED. The server(s) to connect to."),
    value("broker-list", "String: HOST1:PORT1,...,HOST3:PORT3", "The older name of --bootstrap-server."),
    value("command-config", "String: config file", "A file with a client's properties, such as security.protocol."),
    flag("exclude-internal-topics", "By default, internal topics are included. If specified, they are excluded."),
    flag("help", "Print usage information."),
    value(
        "partitions",
        "String: partition ids",
        "Comma separated list of partition ids to get the offsets for. Cannot be used if --topic-partitions is present.",
    ),
    value(
        "time",
        "String: <timestamp> / -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local",
        "The offset of the first record at or after this time (default: latest).",
    ),
    value(
        "topic",
        "String: topic",
        "The topic to get the offsets for. It also accepts a regular expression. Cannot be used if --topic-partitions is present.",
    ),
    value(
        "topic-partitions",
        "String: topic1:1,topic2:0-3,topic3,topic4:5-,topic5:-3",
        "Comma separated list of topic patterns (empty: all topics), each with an optional \
         :PARTITION or :FROM-TO (without TO itself).",
    ),
    flag("version", "Display the version."),
];

/// A rule about which partitions are meant.
struct Rule {
    topic: Regex,
    partitions: Partitions,
}

enum Partitions {
    All,
    These(Vec<i32>),
    /// From, and below.
    Range(i32, i32),
}

impl Rule {
    fn has(&self, topic: &str, partition: PartitionId) -> bool {
        self.topic.is_match(topic)
            && match &self.partitions {
                Partitions::All => true,
                Partitions::These(these) => these.contains(&partition.0),
                Partitions::Range(from, below) => (*from..*below).contains(&partition.0),
            }
    }

    /// `topic`, `topic:1`, `topic:0-3`, `topic:5-`, `topic:-3`, each also without the topic.
    fn parse(text: &str) -> Result<Self, ToolError> {
        let invalid = || ToolError::Argument(format!("Invalid rule specification: {text}"));
        let (topic, partitions) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str, default: i32| match text {
            "" => Ok(default),
            text => text.parse().map_err(|_| invalid()),
        };
        let partitions = match partitions.split_once('-') {
            _ if partitions.is_empty() => Partitions::All,
            Some((from, below)) => Partitions::Range(number(from, 0)?, number(below, i32::MAX)?),
            None => Partitions::These(vec![number(partitions, 0)?]),
        };
        Ok(Self { topic: pattern(if topic.is_empty() { ".*" } else { topic })?, partitions })
    }
}

struct Plan {
    bootstrap: String,
    rules: Vec<Rule>,
    time: TimestampMs,
    without_internal: bool,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "An interactive shell for getting topic-partition offsets.";

pub async fn run(arguments: &[String]) -> ExitCode {
    // What is wrong about the values is no matter for the usage: it is said as everything else that goes wrong.
    let checked = |options: &Options| {
        bootstrap(options)?;
        Ok(options.clone())
    };
    run_tool(PURPOSE, SPECS, arguments, checked, |options| async move {
        let result = match plan(&options) {
            Ok(plan) => offsets(plan).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("Error occurred: {error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let argument = |text: String| Err(ToolError::Argument(text));
    let rules = match options.get("topic-partitions") {
        Some(_) if options.has("topic") || options.has("partitions") => {
            return argument("--topic-partitions cannot be used with --topic or --partitions".to_owned());
        }
        Some(list) => list.split(',').map(Rule::parse).collect::<Result<Vec<_>, _>>()?,
        None => {
            let partitions = match options.get("partitions").filter(|list| !list.is_empty()) {
                None => Partitions::All,
                Some(list) => match list.split(',').map(str::parse).collect() {
                    Ok(these) => Partitions::These(these),
                    Err(_) => {
                        let wanted = "--partitions expects a comma separated list of numeric partition ids";
                        return argument(format!("{wanted}, but received: {list}"));
                    }
                },
            };
            vec![Rule { topic: pattern(options.get("topic").unwrap_or(".*"))?, partitions }]
        }
    };
    let time = match options.get("time").unwrap_or("latest") {
        "latest" => -1,
        "earliest" => -2,
        "max-timestamp" => -3,
        "earliest-local" => -4,
        "latest-tiered" => -5,
        "earliest-pending-upload" => -6,
        text => match text.parse() {
            Ok(time) => time,
            Err(_) => {
                let wanted = "Please use -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local / -5 or latest-tiered / -6 or earliest-pending-upload, or a specified long format timestamp";
                return argument(format!("Malformed time argument {text}. {wanted}"));
            }
        },
    };
    Ok(Plan {
        bootstrap: bootstrap(options)?.to_owned(),
        rules,
        time: TimestampMs(time),
        without_internal: options.has("exclude-internal-topics"),
    })
}

async fn offsets(plan: Plan) -> Result<(), ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    let topics = kafka.client().list_topics().await.map_err(KafkaError::from)?;
    let topics = topics.into_iter().filter(|topic| !(plan.without_internal && topic.is_internal));
    let mut wanted: Vec<TopicPartition> = topics
        .filter_map(|topic| Some((TopicName::new(&topic.name).ok()?, topic.partitions)))
        .flat_map(|(name, all)| all.into_keys().map(move |partition| TopicPartition::new(name.clone(), partition)))
        .filter(|at| plan.rules.iter().any(|rule| rule.has(at.topic.as_str(), at.partition)))
        .collect();
    if wanted.is_empty() {
        let message = "Could not match any topic-partitions with the specified filters";
        return Err(ToolError::Argument(message.to_owned()));
    }
    // As texts: Kafka's tool has t-10 before t-2.
    wanted.sort_by_key(ToString::to_string);
    let mut found = kafka.client().list_offsets_of(&wanted, plan.time).await;
    for (at, found) in wanted.iter().filter_map(|at| found.remove_entry(at)) {
        match found {
            Ok(found) if found.offset == Offset::UNKNOWN => {}
            Ok(found) => out!("{}:{}:{}", at.topic, at.partition, found.offset),
            Err(error) => {
                let shown = super::exceptions::shown(&KafkaError::from(error));
                err!("Skip getting offsets for topic-partition {at} due to error: {shown}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    fn chosen(line: &str) -> Vec<String> {
        let plan = planned(&format!("--bootstrap-server k {line}")).expect(line);
        let all = ["t1", "t2", "__x"].into_iter().flat_map(|topic| (0..4).map(move |partition| (topic, partition)));
        all.filter(|(topic, partition)| plan.rules.iter().any(|rule| rule.has(topic, PartitionId(*partition))))
            .map(|(topic, partition)| format!("{topic}:{partition}"))
            .collect()
    }

    #[test]
    fn partitions_are_chosen_as_kafkas_tool_does() {
        assert_eq!(chosen("").len(), 12);
        assert_eq!(chosen("--topic t1 --partitions 0,3"), ["t1:0", "t1:3"]);
        assert_eq!(chosen("--topic-partitions t1:0-2,__.*:1,:3"), ["t1:0", "t1:1", "t1:3", "t2:3", "__x:1", "__x:3"]);
        assert_eq!(chosen("--topic-partitions t2:2-"), ["t2:2", "t2:3"]);
        assert_eq!(chosen("--topic-partitions t.:-1"), ["t1:0", "t2:0"]);
    }

    #[test]
    fn times_have_names() {
        let time = |text: &str| planned(&format!("--bootstrap-server k --time {text}")).map(|plan| plan.time.0);
        assert_eq!((time("latest"), time("-2"), time("max-timestamp"), time("12")), (Ok(-1), Ok(-2), Ok(-3), Ok(12)));
        assert!(time("soon").is_err_and(|text| text.starts_with("Malformed time argument soon. Please use")));
        assert!(planned("--bootstrap-server k --topic t --topic-partitions t").is_err());
        assert!(planned("--bootstrap-server k --partitions x").is_err());
    }
}
