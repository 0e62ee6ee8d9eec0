//! `kafka-consumer-groups`: lists and describes groups, resets and deletes their offsets, deletes them.
//!
//! As Kafka's tool it ends with 0 where the cluster said no: scripts look for `Error: ` in what it prints.

mod delete;
mod describe;
mod list;
mod partitions;
mod reset;

pub use partitions::{LATEST, Named};
pub use reset::{Offsets, Scenario, commit as commit_offsets, plan as plan_offsets};

use std::process::ExitCode;

use ottla_model::ErrorCode;

use super::options::{OptionSpec, Options, OptionsError, flag, maybe_value, usage, value};
use super::{ToolError, bootstrap, exceptions, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    flag("all-groups", "Apply to all consumer groups."),
    flag("all-topics", "Consider all topics assigned to a group in the `reset-offsets` process."),
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The server(s) to connect to."),
    value(
        "by-duration",
        "String: duration",
        "Reset offsets to offset by duration from current timestamp. Format: 'PnDTnHnMnS'",
    ),
    value(
        "command-config",
        "String: command config property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    flag("delete", "Pass in groups to delete: their offsets go with them. For instance --group g1 --group g2"),
    flag(
        "delete-offsets",
        "Delete offsets of consumer group. Supports one consumer group at the time, and multiple topics.",
    ),
    flag("describe", "Describe consumer group and list offset lag related to given group."),
    flag("dry-run", "Only show results without executing changes. Supported operations: reset-offsets."),
    flag("execute", "Execute operation. Supported operations: reset-offsets."),
    flag("export", "Export operation execution to CSV. Supported operations: reset-offsets."),
    value("from-file", "String: path to CSV file", "Reset offsets to values defined in CSV file."),
    value("group", "String: consumer group", "The consumer group we wish to act on."),
    flag("help", "Print usage information."),
    flag("list", "List all consumer groups."),
    flag("members", "Describe members of the group. Goes with --describe."),
    flag("offsets", "Describe the group's partitions with their lag; the default of --describe."),
    flag(
        "reset-offsets",
        "Reset offsets of consumer groups without members. One of --to-datetime, --by-duration, --to-earliest, --to-latest, --shift-by, --from-file, --to-current, --to-offset says where to; --topic or --all-topics which ones. Nothing is changed without --execute.",
    ),
    value(
        "shift-by",
        "Long: number-of-offsets",
        "Reset offsets shifting current offset by 'n', which can be negative.",
    ),
    maybe_value(
        "state",
        "String",
        "With --describe: the state of the group. With --list: the states of all groups, or those in the given states (stable,empty).",
    ),
    value("timeout", "Long: timeout (ms)", "How long to go on while a coordinator is not available."),
    flag("to-current", "Reset offsets to current offset."),
    value(
        "to-datetime",
        "String: datetime",
        "Reset offsets to offset from datetime. Format: 'YYYY-MM-DDTHH:mm:SS.sss', in UTC unless it says otherwise.",
    ),
    flag("to-earliest", "Reset offsets to earliest offset."),
    flag("to-latest", "Reset offsets to latest offset."),
    value("to-offset", "Long: offset", "Reset offsets to a specific offset."),
    value(
        "topic",
        "String: topic",
        "The topic whose offsets are reset or deleted; `topic1:0,1,2` for some of its partitions. May be repeated.",
    ),
    maybe_value(
        "type",
        "String",
        "With --list: the types of all groups, or those of the given types (classic,consumer).",
    ),
    value("validate-regex", "String: regex", "Check whether a regular expression is valid for a subscription."),
    flag("verbose", "Provide additional information, if any, when describing the group."),
    flag("version", "Display the version."),
];

const ACTIONS: &[&str] = &["list", "describe", "delete", "reset-offsets", "delete-offsets"];
/// The actions beside which an option means something.
const OPTIONS_OF_ACTIONS: &[(&str, &[&str])] = &[
    ("group", &["describe", "delete", "reset-offsets", "delete-offsets"]),
    // `Action::of` has an answer of its own for --delete.
    ("topic", &["delete", "reset-offsets", "delete-offsets"]),
];

/// Where offsets are reset to.
const SCENARIOS: [&str; 8] =
    ["shift-by", "from-file", "to-datetime", "by-duration", "to-latest", "to-current", "to-earliest", "to-offset"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    List,
    Describe,
    Delete,
    ResetOffsets,
    DeleteOffsets,
    ValidateRegex,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to list all consumer groups, describe a consumer group, delete consumer group info, or reset consumer group offsets.";

pub async fn run(arguments: &[String]) -> ExitCode {
    let plan = |options: &Options| Ok((Action::of(options)?, options.clone()));
    run_tool(PURPOSE, SPECS, arguments, plan, |(action, options)| async move {
        let result = match action {
            Action::List => list::run(&options).await,
            Action::Describe => describe::run(&options).await,
            Action::Delete => delete::groups(&options).await,
            Action::ResetOffsets => reset::run(&options).await,
            Action::DeleteOffsets => delete::offsets(&options).await,
            Action::ValidateRegex => validate_regex(&options),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            // Kafka's tool finds it out itself; all else comes out of a future.
            Err(ToolError::Kafka(error)) if error.is(ErrorCode::UnknownTopicOrPartition) => {
                print_error(&format!("Executing consumer group command failed due to {error}"));
                err!("{}", exceptions::shown(&error));
                ExitCode::SUCCESS
            }
            Err(ToolError::Kafka(error)) => {
                let shown = exceptions::shown(&error);
                print_error(&format!("Executing consumer group command failed due to {shown}"));
                err!("java.util.concurrent.ExecutionException: {shown}\nCaused by: {shown}");
                ExitCode::SUCCESS
            }
            Err(ToolError::Thrown { class: class @ reset::UNPARSABLE_DURATION, text }) => {
                print_error(&format!("Executing consumer group command failed due to {text}"));
                err!("{class}: {text}");
                ExitCode::SUCCESS
            }
            // Java's checked exceptions come out of another one.
            Err(ToolError::Thrown { class, text }) => {
                let shown = format!("{class}: {text}");
                print_error(&format!("Executing consumer group command failed due to {shown}"));
                err!("java.lang.RuntimeException: {shown}\nCaused by: {shown}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                err!("{error}\n{}", usage(SPECS).trim_end());
                ExitCode::FAILURE
            }
        }
    })
    .await
}

impl Action {
    fn of(options: &Options) -> Result<Self, ToolError> {
        let usage = |text: String| Err(ToolError::Usage(text));
        let scope = options.has("group") || options.has("all-groups");
        if !options.has("validate-regex") {
            bootstrap(options)?;
        }
        for (action, is_scoped) in [("describe", true), ("delete", true), ("reset-offsets", true)] {
            if is_scoped && options.has(action) && !scope {
                return usage(format!("Option [{action}] takes one of these options: [all-groups], [group]"));
            }
        }
        if options.has("describe") {
            let kinds = ["members", "offsets", "state"].into_iter().filter(|kind| options.has(kind));
            if kinds.count() > 1 {
                return usage(
                    "Option [describe] takes at most one of these options: [members], [offsets], [state]".into(),
                );
            }
            if options.get("state").is_some() {
                return usage("Option [describe] does not take a value for [state]".into());
            }
        }
        let belongs = [
            ("members", &["describe"][..]),
            ("offsets", &["describe"]),
            ("verbose", &["describe"]),
            ("state", &["describe", "list"]),
            ("type", &["list"]),
        ];
        for (option, actions) in belongs {
            if options.has(option) && !actions.iter().any(|action| options.has(action)) {
                return usage(format!("Option(s) [{option}] are unavailable given other options on the command line"));
            }
        }
        if options.has("delete") && options.has("topic") {
            return usage("The consumer does not support topic-specific offset deletion from a consumer group.".into());
        }
        if options.has("delete-offsets") && !(options.has("group") && options.has("topic")) {
            return usage("Option [delete-offsets] takes the following options: [topic], [group]".into());
        }
        if options.has("reset-offsets") {
            if options.has("dry-run") && options.has("execute") {
                return usage("Option [reset-offsets] only accepts one of [execute] and [dry-run]".into());
            }
            let mut given = SCENARIOS.into_iter().filter(|scenario| options.has(scenario));
            if let (Some(first), Some(second)) = (given.next(), given.next()) {
                return usage(format!("Option \"[{first}]\" can't be used with option \"[{second}]\""));
            }
        }
        if options.has("group") && options.has("all-groups") {
            return usage("Option \"[group]\" can't be used with option \"[all-groups]\"".into());
        }
        let named: Vec<Self> = [
            ("list", Self::List),
            ("describe", Self::Describe),
            ("delete", Self::Delete),
            ("reset-offsets", Self::ResetOffsets),
            ("delete-offsets", Self::DeleteOffsets),
            ("validate-regex", Self::ValidateRegex),
        ]
        .into_iter()
        .filter_map(|(name, action)| options.has(name).then_some(action))
        .collect();
        match named.as_slice() {
            [action] => {
                options.check_actions(ACTIONS, OPTIONS_OF_ACTIONS)?;
                Ok(*action)
            }
            _ => usage(
                "Command must include exactly one action: --list, --describe, --delete, --reset-offsets, --delete-offsets, --validate-regex".into(),
            ),
        }
    }
}

/// The syntax that the group coordinator has, which is RE2's.
fn validate_regex(options: &Options) -> Result<(), ToolError> {
    let text = options.required("validate-regex")?;
    match regex::Regex::new(text) {
        Ok(_) => out!("The regular expression `{text}` is valid."),
        Err(error) => out!("The regular expression `{text}` is invalid: {error}."),
    }
    Ok(())
}

async fn connect(options: &Options) -> Result<Kafka, ToolError> {
    let kafka = Kafka::connect(bootstrap(options)?).await?;
    let patience: Option<u64> = options.number("timeout")?;
    Ok(match patience {
        Some(patience_ms) => kafka.with_patience(std::time::Duration::from_millis(patience_ms)),
        None => kafka,
    })
}

/// The groups that the line names, in its order, or all that there are.
async fn groups(kafka: &Kafka, options: &Options) -> Result<Vec<String>, ToolError> {
    if options.has("all-groups") {
        let listed = kafka.client().list_groups(&[], &[]).await.map_err(KafkaError::from)?;
        return Ok(listed.into_iter().filter(list::is_of_consumers).map(|group| group.group).collect());
    }
    let named = options.all("group");
    if named.is_empty() {
        return Err(OptionsError::Missing("group").into());
    }
    Ok(named.to_vec())
}

fn print_error(text: &str) {
    out!("\nError: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(line: &str) -> Result<Action, String> {
        crate::kafka_tools::planned(SPECS, line, Action::of)
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let server = "--bootstrap-server k:9092";
        assert_eq!(action(&format!("{server} --list --state")), Ok(Action::List));
        assert_eq!(action(&format!("{server} --list --state stable --type consumer")), Ok(Action::List));
        assert_eq!(action(&format!("{server} --describe --group g --members --verbose")), Ok(Action::Describe));
        assert_eq!(action(&format!("{server} --describe --all-groups --state")), Ok(Action::Describe));
        assert_eq!(
            action(&format!("{server} --group g --reset-offsets --shift-by -2 --topic t:0,1 --execute")),
            Ok(Action::ResetOffsets)
        );
        assert_eq!(action(&format!("{server} --delete --group a --group b")), Ok(Action::Delete));
        assert_eq!(action(&format!("{server} --delete-offsets --group a --topic t")), Ok(Action::DeleteOffsets));
    }

    #[test]
    fn contradictions_are_named() {
        let server = "--bootstrap-server k:9092";
        let wrong = |line: &str| action(&format!("{server} {line}")).expect_err(line);
        assert_eq!(action("--validate-regex a.*"), Ok(Action::ValidateRegex));
        assert_eq!(wrong("--list --group g"), "Option \"[group]\" can't be used with option \"[list]\"");
        assert_eq!(
            wrong("--describe --group g --topic t"),
            "Option \"[topic]\" can't be used with option \"[describe]\""
        );
        assert_eq!(action("--list"), Err("Missing required argument \"[bootstrap-server]\"".into()));
        assert_eq!(wrong("--describe"), "Option [describe] takes one of these options: [all-groups], [group]");
        assert!(wrong("--list --delete-offsets --group g --topic t").contains("exactly one action"));
        assert!(wrong("--describe --group g --members --state").contains("at most one"));
        assert!(wrong("--describe --group g --state stable").contains("does not take a value"));
        assert!(wrong("--reset-offsets --group g --to-latest --to-earliest").contains("can't be used with"));
        assert!(wrong("--reset-offsets --group g --to-latest --dry-run --execute").contains("only accepts one"));
        assert!(wrong("--delete --group g --verbose").contains("unavailable"));
        assert!(wrong("--delete --group g --topic t").contains("topic-specific"));
    }
}
