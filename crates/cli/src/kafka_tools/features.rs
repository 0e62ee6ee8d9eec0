//! `kafka-features`: the features of the cluster, and their levels.

use std::process::ExitCode;

use ottla_client::{FeatureLevels, Features};
use ottla_model::BrokerId;

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, usage, value};
use super::{ToolError, bootstrap, client_properties, exceptions};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

const FIXED_LEVELS: &str = "the levels of features are those of the release";

pub(super) static SPECS: &[OptionSpec] = &[
    refused("bootstrap-controller", Takes::Value, "there are no KRaft controllers; brokers answer"),
    value("bootstrap-server", "BOOTSTRAP_SERVER", "REQUIRED: A list of host/port pairs to connect to."),
    value("command-config", "COMMAND_CONFIG", "A file with a client's properties, such as security.protocol."),
    refused("dry-run", Takes::Nothing, FIXED_LEVELS),
    refused("feature", Takes::Value, FIXED_LEVELS),
    flag("help", "Show this message."),
    refused("metadata", Takes::Value, FIXED_LEVELS),
    value("node-id", "NODE_ID", "describe: the broker that is asked."),
    refused("release-version", Takes::Value, FIXED_LEVELS),
    refused("unsafe", Takes::Nothing, FIXED_LEVELS),
];

const USAGE: &str = "usage: kafka-features --bootstrap-server BOOTSTRAP_SERVER describe [--node-id NODE_ID]";
const COMMANDS: [&str; 6] = ["describe", "upgrade", "downgrade", "disable", "version-mapping", "feature-dependencies"];

/// The levels of `metadata.version`, by Kafka's names.
const METADATA_VERSIONS: &[(i16, &str)] = &[
    (7, "3.3-IV3"),
    (8, "3.4-IV0"),
    (9, "3.5-IV0"),
    (10, "3.5-IV1"),
    (11, "3.5-IV2"),
    (12, "3.6-IV0"),
    (13, "3.6-IV1"),
    (14, "3.6-IV2"),
    (15, "3.7-IV0"),
    (16, "3.7-IV1"),
    (17, "3.7-IV2"),
    (18, "3.7-IV3"),
    (19, "3.7-IV4"),
    (20, "3.8-IV0"),
    (21, "3.9-IV0"),
    (22, "4.0-IV0"),
    (23, "4.0-IV1"),
    (24, "4.0-IV2"),
    (25, "4.0-IV3"),
    (26, "4.1-IV0"),
    (27, "4.1-IV1"),
    (28, "4.2-IV0"),
    (29, "4.2-IV1"),
    (30, "4.3-IV0"),
    (31, "4.4-IV0"),
];

pub async fn run(arguments: &[String]) -> ExitCode {
    let (node, options) = match plan(arguments) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            out!("{USAGE}\n\n{}", usage(SPECS).trim_end());
            return ExitCode::SUCCESS;
        }
        Err(ToolError::Usage(text)) => {
            err!("Command line error: {text}. Type --help for help.");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            err!("kafka-features: error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match describe(node, &options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        }
    }
}

/// The broker to ask, if one is named; none asks for help.
fn plan(arguments: &[String]) -> Result<Option<(Option<BrokerId>, Options)>, ToolError> {
    let command = arguments.iter().find(|word| COMMANDS.contains(&word.as_str())).map(String::as_str);
    if let Some(name) = command.filter(|name| *name != "describe") {
        return Err(ToolError::Argument(format!("{name} is not supported: {FIXED_LEVELS}")));
    }
    let long = |word: &String| if word == "-h" { "--help".to_owned() } else { word.clone() };
    let options = Options::parse(SPECS, &arguments.iter().map(long).collect::<Vec<_>>())?;
    if options.has("help") {
        return Ok(None);
    }
    if command.is_none() {
        return Err(ToolError::Usage(format!("the command is one of {}", COMMANDS.join(", "))));
    }
    client_properties(&options, &["command-config"], &[])?;
    match bootstrap(&options) {
        Err(OptionsError::Missing(_)) => {
            return Err(ToolError::Usage(
                "You must specify either --bootstrap-controller or --bootstrap-server.".to_owned(),
            ));
        }
        found => found?,
    };
    let node = options.number("node-id")?.map(BrokerId);
    Ok(Some((node, options)))
}

async fn describe(node: Option<BrokerId>, options: &Options) -> Result<(), ToolError> {
    let kafka = Kafka::connect(bootstrap(options)?).await?;
    let features = kafka.client().features(node).await.map_err(KafkaError::from)?;
    lines(&features).iter().for_each(|line| out!("{line}"));
    Ok(())
}

fn lines(features: &Features) -> Vec<String> {
    let epoch = features.finalized_epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    let line = |(name, levels): (&String, &FeatureLevels)| {
        format!(
            "Feature: {name:<40}  SupportedMinVersion: {:<15}  SupportedMaxVersion: {:<15}  \
             FinalizedVersionLevel: {:<15}  Epoch: {epoch}",
            level(name, levels.min),
            level(name, levels.max),
            level(name, levels.finalized)
        )
    };
    features.levels.iter().map(line).collect()
}

/// A level as Kafka's tool shows it: those of `metadata.version` have names.
fn level(feature: &str, level: i16) -> String {
    if feature != "metadata.version" {
        return level.to_string();
    }
    let known = METADATA_VERSIONS.iter().find(|(number, _)| *number == level);
    known.map_or_else(|| format!("UNKNOWN {level}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn node(line: &str) -> Result<Option<Option<BrokerId>>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        plan(&arguments).map(|plan| plan.map(|(node, _)| node)).map_err(|error| error.to_string())
    }

    #[test]
    fn command_lines_are_understood() {
        assert_eq!(node("--bootstrap-server k describe"), Ok(Some(None)));
        assert_eq!(node("--bootstrap-server k describe --node-id 3"), Ok(Some(Some(BrokerId(3)))));
        assert_eq!(node("-h"), Ok(None));
        for (line, text) in [
            ("--bootstrap-server k", "the command is one of"),
            ("describe", "You must specify either"),
            ("--bootstrap-server k upgrade --release-version 4.3", "upgrade is not supported"),
            ("version-mapping", "version-mapping is not supported"),
            ("--bootstrap-controller k describe", "no KRaft controllers"),
            ("--bootstrap-server k describe --node-id x", "Cannot parse"),
        ] {
            assert!(node(line).is_err_and(|error| error.contains(text) && error.lines().count() == 1), "{line}");
        }
    }

    #[test]
    fn features_are_shown_as_kafkas_tool_shows_them() {
        let levels = BTreeMap::from([
            ("group.version".to_owned(), FeatureLevels { min: 0, max: 1, finalized: 1 }),
            ("metadata.version".to_owned(), FeatureLevels { min: 7, max: 30, finalized: 0 }),
        ]);
        let shown = lines(&Features { levels: levels.clone(), finalized_epoch: Some(4) });
        // As Kafka 4.3's tool printed them.
        let first = "Feature: group.version                             SupportedMinVersion: 0                \
                     SupportedMaxVersion: 1                FinalizedVersionLevel: 1                Epoch: 4";
        let second = "Feature: metadata.version                          SupportedMinVersion: 3.3-IV3          \
                      SupportedMaxVersion: 4.3-IV0          FinalizedVersionLevel: UNKNOWN 0        Epoch: 4";
        assert_eq!(shown, [first, second]);
        assert!(lines(&Features { levels, finalized_epoch: None })[0].ends_with("Epoch: -"));
    }
}
