//! `kafka-streams-application-reset`: a stopped application of Kafka Streams begins again. The offsets of its input
//! topics are set back, and the topics that it made for itself are deleted.

use std::collections::BTreeSet;
use std::process::ExitCode;

use ottla_model::{ErrorCode, TopicName, TopicPartition};

use super::consumer_groups::{Offsets, Scenario, commit_offsets, plan_offsets};
use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, value};
use super::{ToolError, client_properties, exceptions, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("application-id", "String: id", "REQUIRED: The Kafka Streams application ID (application.id)."),
    value("bootstrap-server", "String: server to connect to", "The server(s) to connect to (default: localhost:9092)."),
    value("by-duration", "String", "Input topics: to the first record of this time ago ('PnDTnHnMnS')."),
    value("command-config", "String: file name", "A file with a client's properties."),
    value("config-file", "String: file name", "The older name of --command-config."),
    flag("dry-run", "Only show what would be done."),
    refused("force", Takes::Nothing, "members leave by themselves, or after their session timeout"),
    value("from-file", "String", "Input topics: to the offsets of a file (topic,partition,offset)."),
    flag("help", "Print usage information."),
    value("input-topics", "String: list", "Comma-separated list of topics whose offsets are reset."),
    value("intermediate-topics", "String: list", "Comma-separated list of topics that are skipped to their end."),
    value("internal-topics", "String: list", "Comma-separated list of internal topics to delete (default: all)."),
    value("shift-by", "Long: number-of-offsets", "Input topics: forwards, or backwards if negative."),
    value("to-datetime", "String", "Input topics: to the first record of this time ('YYYY-MM-DDTHH:mm:SS.sss')."),
    flag("to-earliest", "Input topics: to the earliest offset (default)."),
    flag("to-latest", "Input topics: to the latest offset."),
    value("to-offset", "Long", "Input topics: to this offset."),
    flag("version", "Display the version."),
];

const SCENARIOS: [&str; 7] =
    ["to-offset", "to-datetime", "by-duration", "to-earliest", "to-latest", "from-file", "shift-by"];

struct Plan {
    bootstrap: String,
    application: String,
    inputs: Vec<String>,
    intermediates: Vec<String>,
    internals: Vec<String>,
    scenario: Scenario,
    is_dry_run: bool,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool("", SPECS, arguments, plan, |plan| async move {
        reset(&plan).await.unwrap_or_else(|error| {
            err!("ERROR: {}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        })
    })
    .await
}

fn list(options: &Options, name: &str) -> Vec<String> {
    let items = options.all(name).iter().flat_map(|text| text.split(','));
    items.map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let application = options.required("application-id")?.to_owned();
    client_properties(options, &["config-file", "command-config"], &[])?;
    let mut given = SCENARIOS.into_iter().filter(|name| options.has(name));
    let scenario = match (given.next(), given.next()) {
        (None, _) => Scenario::Earliest,
        (Some(_), None) => Scenario::of(options)?,
        (Some(one), Some(other)) => return Err(OptionsError::Conflict(one, other).into()),
    };
    Ok(Plan {
        bootstrap: options.get("bootstrap-server").unwrap_or("localhost:9092").to_owned(),
        application,
        inputs: list(options, "input-topics"),
        intermediates: list(options, "intermediate-topics"),
        internals: list(options, "internal-topics"),
        scenario,
        is_dry_run: options.has("dry-run"),
    })
}

/// A list as Java shows it.
fn shown(names: &[String]) -> String {
    format!("[{}]", names.join(", "))
}

async fn reset(plan: &Plan) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    refuse_members(&kafka, &plan.application).await?;
    let all: BTreeSet<String> = kafka.topics().await?.into_iter().map(|topic| topic.name).collect();
    if plan.is_dry_run {
        out!("----Dry run displays the actions which will be performed when running Streams Reset Tool----");
    }
    let are_all_found = reset_offsets(&kafka, plan, &all).await?;
    delete_internal(&kafka, plan, &all).await?;
    Ok(if are_all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn refuse_members(kafka: &Kafka, group: &str) -> Result<(), ToolError> {
    let members = match kafka.client().describe_group(group).await {
        Ok(described) => described.members,
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => return Ok(()),
        Err(error) => return Err(KafkaError::from(error).into()),
    };
    if members.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = members.into_iter().map(|member| member.id).collect();
    Err(ToolError::Argument(format!(
        "Consumer group '{group}' is still active and has following members: {}. \
         Make sure to stop all running application instances before running the reset tool.",
        shown(&names)
    )))
}

/// False: a named topic does not exist.
async fn reset_offsets(kafka: &Kafka, plan: &Plan, all: &BTreeSet<String>) -> Result<bool, ToolError> {
    let Plan { inputs, intermediates, application, .. } = plan;
    if inputs.is_empty() && intermediates.is_empty() {
        out!("No input or intermediate topics specified. Skipping seek.");
        return Ok(true);
    }
    if !inputs.is_empty() {
        out!("Reset-offsets for input topics {}", shown(inputs));
    }
    if !intermediates.is_empty() {
        out!("Seek-to-end for intermediate topics {}", shown(intermediates));
    }
    let missing =
        |named: &[String]| -> Vec<String> { named.iter().filter(|name| !all.contains(*name)).cloned().collect() };
    let (no_inputs, no_intermediates) = (missing(inputs), missing(intermediates));
    for (kind, topics) in [("input", &no_inputs), ("intermediate", &no_intermediates)] {
        if !topics.is_empty() {
            out!("Following {kind} topics are not found, skipping them");
            topics.iter().for_each(|topic| out!("Topic: {topic}"));
        }
    }
    let are_all_found = no_inputs.is_empty() && no_intermediates.is_empty();
    let found =
        |named: &[String]| -> Vec<String> { named.iter().filter(|name| all.contains(*name)).cloned().collect() };
    let (inputs, intermediates) = (found(inputs), found(intermediates));
    if inputs.is_empty() && intermediates.is_empty() {
        return Ok(are_all_found);
    }
    let mut offsets = Offsets::new();
    if !inputs.is_empty() {
        let partitions = partitions(kafka, &inputs).await?;
        out!("Following input topics offsets will be reset to (for consumer group {application})");
        let mut planned = plan_offsets(kafka, application, &plan.scenario, &partitions).await?;
        // A file may name more.
        planned.retain(|at, _| partitions.contains(at));
        for (at, offset) in &planned {
            out!("Topic: {} Partition: {} Offset: {offset}", at.topic, at.partition);
        }
        offsets.extend(planned);
    }
    if !intermediates.is_empty() {
        let partitions = partitions(kafka, &intermediates).await?;
        out!("Following intermediate topics offsets will be reset to end (for consumer group {application})");
        intermediates.iter().for_each(|topic| out!("Topic: {topic}"));
        offsets.extend(plan_offsets(kafka, application, &Scenario::Latest, &partitions).await?);
    }
    if !plan.is_dry_run {
        commit_offsets(kafka, application, &offsets).await?;
    }
    out!("Done.");
    Ok(are_all_found)
}

async fn partitions(kafka: &Kafka, topics: &[String]) -> Result<Vec<TopicPartition>, ToolError> {
    let mut partitions = Vec::new();
    for topic in topics {
        let name = TopicName::new(topic)
            .map_err(|error| KafkaError::refused(ErrorCode::InvalidTopicException, &error.to_string()))?;
        let of_topic = kafka.partitions(topic).await?;
        partitions.extend(of_topic.into_iter().map(|partition| TopicPartition::new(name.clone(), partition)));
    }
    Ok(partitions)
}

/// Whether an application makes topics of such a name for itself.
fn is_internal(topic: &str, plan: &Plan) -> bool {
    let is_named = plan.inputs.iter().chain(&plan.intermediates).any(|named| named == topic);
    let Some(name) = topic.strip_prefix(&plan.application).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    let ends = ["-changelog", "-repartition", "-subscription-registration-topic", "-subscription-response-topic"];
    let is_join = |kind: &str| {
        let number = topic.strip_suffix("-topic").and_then(|rest| rest.rsplit_once(kind));
        number.is_some_and(|(before, number)| {
            !before.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    !is_named
        && !name.is_empty()
        && (ends.iter().any(|end| topic.ends_with(end))
            || is_join("-KTABLE-FK-JOIN-SUBSCRIPTION-REGISTRATION-")
            || is_join("-KTABLE-FK-JOIN-SUBSCRIPTION-RESPONSE-"))
}

async fn delete_internal(kafka: &Kafka, plan: &Plan, all: &BTreeSet<String>) -> Result<(), ToolError> {
    let inferred: Vec<String> = all.iter().filter(|topic| is_internal(topic, plan)).cloned().collect();
    if plan.internals.iter().any(|topic| !inferred.contains(topic)) {
        return Err(ToolError::Argument(
            "Invalid topic specified in the --internal-topics option. Ensure that the topics specified are all internal \
             topics. Do a dry run without the --internal-topics option to see the list of all internal topics that can \
             be deleted."
                .to_owned(),
        ));
    }
    let (how, topics) = match plan.internals.is_empty() {
        true => ("inferred", &inferred),
        false => ("specified", &plan.internals),
    };
    out!("Deleting {how} internal topics {}", shown(topics));
    if !plan.is_dry_run {
        for topic in topics {
            kafka.delete_topic(topic).await?;
        }
    }
    out!("Done.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_are_understood() {
        let plan = planned("--application-id a --input-topics x,y --input-topics z --dry-run").expect("a plan");
        assert_eq!((plan.inputs, plan.scenario), (vec!["x".into(), "y".into(), "z".into()], Scenario::Earliest));
        assert_eq!((plan.bootstrap.as_str(), plan.is_dry_run), ("localhost:9092", true));
        let plan = planned("--application-id a --bootstrap-server k --shift-by -3").expect("a plan");
        assert_eq!(plan.scenario, Scenario::ShiftBy(-3));
        assert!(planned("--input-topics x").is_err_and(|text| text.contains("application-id")));
        assert!(
            planned("--application-id a --to-latest --to-earliest").is_err_and(|text| text.contains("can't be used"))
        );
        assert!(planned("--application-id a --force").is_err_and(|text| text.contains("force is not supported")));
    }

    #[test]
    fn internal_topics_are_those_of_the_application() {
        let plan = planned("--application-id app --input-topics app-in-repartition").expect("a plan");
        for (topic, wanted) in [
            ("app-store-changelog", true),
            ("app-by-word-repartition", true),
            ("app-x-KTABLE-FK-JOIN-SUBSCRIPTION-RESPONSE-0000000014-topic", true),
            ("app-x-KTABLE-FK-JOIN-SUBSCRIPTION-RESPONSE-x-topic", false),
            ("app-in-repartition", false),
            ("app-output", false),
            ("application-store-changelog", false),
            ("other-store-changelog", false),
        ] {
            assert_eq!(is_internal(topic, &plan), wanted, "{topic}");
        }
    }
}
