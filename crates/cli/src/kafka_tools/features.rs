//! `kafka-features`: the features of the cluster, and their levels. That of `ottla.version` changes; Kafka's features
//! have one level in a release.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ottla_client::{FeatureChange, FeatureLevels, Features};
use ottla_model::{BrokerId, FeatureLevel, KAFKAS_FEATURES, OTTLA_VERSION};

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, usage, value};
use super::{ToolError, bootstrap, client_properties, exceptions};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

const FIXED_LEVELS: &str =
    "a release of Ottla has one level of each of Kafka's features: see --feature ottla.version=LEVEL";

pub(super) static SPECS: &[OptionSpec] = &[
    refused("bootstrap-controller", Takes::Value, "there are no KRaft controllers; brokers answer"),
    value("bootstrap-server", "BOOTSTRAP_SERVER", "REQUIRED: A list of host/port pairs to connect to."),
    value("command-config", "COMMAND_CONFIG", "A file with a client's properties, such as security.protocol."),
    flag("dry-run", "upgrade, downgrade, disable: only check whether it could be done."),
    value("feature", "FEATURE", "upgrade, downgrade: FEATURE=LEVEL; disable: FEATURE. May be repeated."),
    flag("help", "Show this message."),
    value("metadata", "METADATA", "upgrade, downgrade: the level of metadata.version by its name, such as 4.3-IV0."),
    value("node-id", "NODE_ID", "describe: the broker that is asked."),
    refused("release-version", Takes::Value, FIXED_LEVELS),
    flag("unsafe", "downgrade, disable: even if metadata may be lost."),
];

static VERSION_MAPPING_SPECS: &[OptionSpec] = &[
    flag("help", "Show this message."),
    value("release-version", "RELEASE_VERSION", "A release of Kafka, such as 4.3-IV0. Default: that of this release."),
];

static FEATURE_DEPENDENCIES_SPECS: &[OptionSpec] =
    &[value("feature", "FEATURE", "REQUIRED: FEATURE=LEVEL. May be repeated."), flag("help", "Show this message.")];

const USAGE: &str = "usage: kafka-features --bootstrap-server BOOTSTRAP_SERVER {describe,upgrade,downgrade,disable} …\n       \
                     kafka-features {version-mapping,feature-dependencies} …";
const METADATA_VERSION: &str = "metadata.version";
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
    (31, LATEST_METADATA_VERSION),
];
/// Of a release that was not out when Kafka 4.3 was.
const LATEST_METADATA_VERSION: &str = "4.4-IV0";

/// What Kafka's releases have of Kafka's features beside `metadata.version`: each level, and the level of
/// `metadata.version` whose release has it by default.
const LEVELS_OF_KAFKA: &[(&str, &[(i16, i16)])] = &[
    ("kraft.version", &[(1, 21)]),
    ("transaction.version", &[(1, i16::MAX), (2, 24)]),
    ("group.version", &[(1, 22)]),
    (ELIGIBLE_LEADER_REPLICAS, &[(1, 26)]),
    ("share.version", &[(1, 28)]),
    ("streams.version", &[(1, 29)]),
];
const ELIGIBLE_LEADER_REPLICAS: &str = "eligible.leader.replicas.version";
/// What level 1 of [`ELIGIBLE_LEADER_REPLICAS`] needs.
const NEEDED_FOR_ELR: i16 = 23;

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    /// As this broker shows them, if one is named.
    Describe(Option<BrokerId>),
    Update(Update),
    /// No cluster is asked: lines, or what is wrong with the command.
    Tell(Result<Vec<String>, String>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Update {
    /// upgrade, downgrade or disable.
    command: &'static str,
    levels: BTreeMap<String, i16>,
    change: FeatureChange,
    is_dry_run: bool,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    let (action, options) = match plan(arguments) {
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
    let done = match action {
        Action::Describe(node) => describe(node, &options).await.map(|()| ExitCode::SUCCESS),
        Action::Update(update) => carry_out(&update, &options).await,
        Action::Tell(Ok(lines)) => {
            lines.iter().for_each(|line| out!("{line}"));
            Ok(ExitCode::SUCCESS)
        }
        Action::Tell(Err(wrong)) => {
            err!("{wrong}");
            Ok(ExitCode::FAILURE)
        }
    };
    done.unwrap_or_else(|error| {
        err!("{}: {error}", exceptions::class(&error));
        ExitCode::FAILURE
    })
}

/// The action; none asks for help.
fn plan(arguments: &[String]) -> Result<Option<(Action, Options)>, ToolError> {
    let command = arguments.iter().find_map(|word| COMMANDS.into_iter().find(|command| command == word));
    if let Some(name) = command.filter(|name| ["version-mapping", "feature-dependencies"].contains(name)) {
        // These two ask no cluster: its options may stand before them only.
        let after = arguments.iter().skip_while(|word| *word != name);
        let of_cluster = after.into_iter().find(|word| word.starts_with("--bootstrap-") || *word == "--command-config");
        if let Some(word) = of_cluster {
            return Err(ToolError::Usage(format!("unrecognized arguments: '{word}'")));
        }
        let specs = if name == "version-mapping" { VERSION_MAPPING_SPECS } else { FEATURE_DEPENDENCIES_SPECS };
        let options =
            Options::parse(specs, &arguments.iter().filter(|word| *word != name).cloned().collect::<Vec<_>>())?;
        if options.has("help") {
            return Ok(None);
        }
        let told = match name {
            "version-mapping" => version_mapping(options.get("release-version")),
            _ if !options.has("feature") => return Err(ToolError::Usage("argument --feature is required".to_owned())),
            _ => options.all("feature").iter().map(|feature| dependencies(feature)).collect(),
        };
        return Ok(Some((Action::Tell(told), options)));
    }
    let long = |word: &String| if word == "-h" { "--help".to_owned() } else { word.clone() };
    let options = Options::parse(SPECS, &arguments.iter().map(long).collect::<Vec<_>>())?;
    if options.has("help") {
        return Ok(None);
    }
    let Some(command) = command else {
        return Err(ToolError::Usage(format!("the command is one of {}", COMMANDS.join(", "))));
    };
    client_properties(&options, &["command-config"], &[])?;
    match bootstrap(&options) {
        Err(OptionsError::Missing(_)) => {
            return Err(ToolError::Usage(
                "You must specify either --bootstrap-controller or --bootstrap-server.".to_owned(),
            ));
        }
        found => found?,
    };
    let action = match command {
        "describe" => Action::Describe(options.number("node-id")?.map(BrokerId)),
        command => Action::Update(update(command, &options)?),
    };
    let others: &[&str] = match command {
        "describe" => &["feature", "metadata", "dry-run", "unsafe"],
        "upgrade" => &["node-id", "unsafe"],
        "disable" => &["node-id", "metadata"],
        _ => &["node-id"],
    };
    match others.iter().find(|name| options.has(name)) {
        Some(other) => Err(ToolError::Argument(format!("unrecognized arguments: '--{other}'"))),
        None => Ok(Some((action, options))),
    }
}

fn update(command: &'static str, options: &Options) -> Result<Update, ToolError> {
    let mut levels = BTreeMap::new();
    if let Some(name) = options.get("metadata") {
        let known = METADATA_VERSIONS.iter().find(|(_, known)| *known == name);
        let (level, _) = known.ok_or_else(|| ToolError::Argument(unknown_metadata_version(name)))?;
        levels.insert(METADATA_VERSION.to_owned(), *level);
    }
    for feature in options.all("feature") {
        let (name, level) = if command == "disable" { (feature.as_str(), 0) } else { name_and_level(feature)? };
        if levels.insert(name.to_owned(), level).is_some() {
            return Err(ToolError::Argument(format!("Feature {name} was specified more than once.")));
        }
    }
    if levels.is_empty() {
        return Err(ToolError::Argument(format!("You must specify at least one feature to {command}")));
    }
    let change = match (command, options.has("unsafe")) {
        ("upgrade", _) => FeatureChange::Upgrade,
        (_, false) => FeatureChange::Downgrade,
        (_, true) => FeatureChange::UnsafeDowngrade,
    };
    Ok(Update { command, levels, change, is_dry_run: options.has("dry-run") })
}

fn name_and_level(text: &str) -> Result<(&str, i16), ToolError> {
    let refused = |reason: String| ToolError::Argument(format!("Can't parse feature=level string {text}: {reason}"));
    let (name, level) = text.split_once('=').ok_or_else(|| refused("equals sign not found.".to_owned()))?;
    let level = level.trim();
    let number = level.parse().map_err(|_| refused(format!("unable to parse {level} as a short.")))?;
    Ok((name.trim(), number))
}

fn unknown_metadata_version(name: &str) -> String {
    let names = METADATA_VERSIONS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    format!("Unknown metadata.version '{name}'. Supported metadata.version are: {names}")
}

/// The levels of Kafka's features in a release of Kafka: 4.0 stands for the last of 4.0's. `ottla.version` belongs to
/// none of them.
fn version_mapping(release: Option<&str>) -> Result<Vec<String>, String> {
    let of_this_release = KAFKAS_FEATURES.iter().find(|(name, _)| *name == METADATA_VERSION).map(|(_, level)| *level);
    let (level, name) = match (release, of_this_release) {
        (None, Some(level)) => (level, self::level(METADATA_VERSION, level)),
        (name, _) => {
            let name = name.unwrap_or_default();
            let is_it = |known: &str| {
                let is_out = known != LATEST_METADATA_VERSION;
                known == name || (is_out && known.split_once('-').is_some_and(|(release, _)| release == name))
            };
            let known = METADATA_VERSIONS.iter().rev().find(|(_, known)| is_it(known));
            let (level, _) = known.ok_or_else(|| unknown_metadata_version(name))?;
            (*level, name.to_owned())
        }
    };
    let of_feature = |(name, levels): &(&str, &[(i16, i16)])| {
        let default = levels.iter().rev().find(|(_, from)| level >= *from).map_or(0, |(level, _)| *level);
        format!("{name}={default}")
    };
    let first = format!("{METADATA_VERSION}={level} ({name})");
    Ok([first].into_iter().chain(LEVELS_OF_KAFKA.iter().map(of_feature)).collect())
}

/// What a level of a feature needs of others.
fn dependencies(feature: &str) -> Result<String, String> {
    let (name, number) = name_and_level(feature).map_err(|error| error.to_string())?;
    let has_none = |level: &str| Ok(format!("{name}={level} has no dependencies."));
    if name == METADATA_VERSION {
        let known = METADATA_VERSIONS.iter().find(|(known, _)| *known == number);
        let (_, text) = known.ok_or_else(|| format!("Unknown metadata.version {number}"))?;
        return has_none(&format!("{number} ({text})"));
    }
    let missing = || Err(format!("No feature:{name} with feature level {number}"));
    if name == OTTLA_VERSION {
        let is_known = ottla_model::FeatureLevels::OF_THIS_RELEASE.includes(FeatureLevel(number));
        return if is_known { has_none(&number.to_string()) } else { missing() };
    }
    let Some((_, levels)) = LEVELS_OF_KAFKA.iter().find(|(known, _)| *known == name) else {
        return Err(format!("Unknown feature: {name}"));
    };
    if number != 0 && !levels.iter().any(|(level, _)| *level == number) {
        return missing();
    }
    if (name, number) == (ELIGIBLE_LEADER_REPLICAS, 1) {
        let needed = level(METADATA_VERSION, NEEDED_FOR_ELR);
        return Ok(format!("{name}={number} requires:\n    {METADATA_VERSION}={NEEDED_FOR_ELR} ({needed})"));
    }
    has_none(&number.to_string())
}

async fn describe(node: Option<BrokerId>, options: &Options) -> Result<(), ToolError> {
    let kafka = Kafka::connect(bootstrap(options)?).await?;
    let features = kafka.client().features(node).await.map_err(KafkaError::from)?;
    lines(&features).iter().for_each(|line| out!("{line}"));
    Ok(())
}

async fn carry_out(update: &Update, options: &Options) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect(bootstrap(options)?).await?;
    let updated = kafka.client().update_features(&update.levels, update.change, update.is_dry_run).await;
    let refusal = match updated.map_err(KafkaError::from) {
        Ok(()) => None,
        Err(KafkaError::Refused { message, .. }) => Some(message),
        Err(error) => return Err(error.into()),
    };
    outcomes(update, refusal.as_deref()).iter().for_each(|line| out!("{line}"));
    if refusal.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let count = update.levels.len();
    err!("{count} out of {count} operation(s) failed.");
    Ok(ExitCode::FAILURE)
}

/// A line for each feature: an update applies as a whole, or not at all.
fn outcomes(update: &Update, refusal: Option<&str>) -> Vec<String> {
    let Update { command, levels, is_dry_run, .. } = update;
    let line = |(name, level): (&String, &i16)| match refusal {
        None => {
            let verb = if *is_dry_run { "can be" } else { "was" };
            let done = if *command == "disable" { "disabled.".to_owned() } else { format!("{command}d to {level}.") };
            format!("{name} {verb} {done}")
        }
        Some(reason) => {
            let verb = if *is_dry_run { "Can not" } else { "Could not" };
            let what = if *command == "disable" { name.clone() } else { format!("{name} to {level}") };
            format!("{verb} {command} {what}. {reason}")
        }
    };
    levels.iter().map(line).collect()
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

    fn planned(line: &str) -> Result<Option<Action>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        plan(&arguments).map(|plan| plan.map(|(action, _)| action)).map_err(|error| error.to_string())
    }

    #[test]
    fn command_lines_are_understood() {
        assert_eq!(planned("--bootstrap-server k describe"), Ok(Some(Action::Describe(None))));
        let one = Some(BrokerId(3));
        assert_eq!(planned("--bootstrap-server k describe --node-id 3"), Ok(Some(Action::Describe(one))));
        assert_eq!(planned("-h"), Ok(None));
        for (line, text) in [
            ("--bootstrap-server k", "the command is one of"),
            ("describe", "You must specify either"),
            ("--bootstrap-server k upgrade --release-version 4.3", "release-version is not supported"),
            ("--bootstrap-server k upgrade", "at least one feature to upgrade"),
            ("--bootstrap-server k upgrade --feature a", "equals sign not found."),
            ("--bootstrap-server k upgrade --feature a=x", "unable to parse x as a short."),
            ("--bootstrap-server k upgrade --feature a=1 --feature a=2", "more than once"),
            ("--bootstrap-server k upgrade --feature a=1 --unsafe", "--unsafe"),
            ("--bootstrap-server k upgrade --metadata 9.9", "Unknown metadata.version '9.9'"),
            ("--bootstrap-server k describe --feature a=1", "--feature"),
            ("version-mapping --release", "release"),
            ("feature-dependencies", "argument --feature is required"),
            ("version-mapping --bootstrap-server k", "unrecognized arguments: '--bootstrap-server'"),
            ("--bootstrap-controller k describe", "no KRaft controllers"),
            ("--bootstrap-server k describe --node-id x", "Cannot parse"),
        ] {
            assert!(planned(line).is_err_and(|error| error.contains(text) && error.lines().count() == 1), "{line}");
        }
    }

    fn told(line: &str) -> Result<String, String> {
        match planned(line) {
            Ok(Some(Action::Tell(told))) => told.map(|lines| lines.join("\n")),
            other => panic!("{other:?}"),
        }
    }

    /// As Kafka 4.3's tool printed them.
    #[test]
    fn kafkas_releases_and_dependencies_are_told_as_kafkas_tool_tells_them() {
        let mapping = |of: &str, [kraft, transaction, group, elr, share, streams]: [i16; 6]| {
            format!(
                "metadata.version={of}\nkraft.version={kraft}\ntransaction.version={transaction}\n\
                 group.version={group}\neligible.leader.replicas.version={elr}\nshare.version={share}\n\
                 streams.version={streams}"
            )
        };
        assert_eq!(told("version-mapping"), Ok(mapping("30 (4.3-IV0)", [1, 2, 1, 1, 1, 1])));
        for (release, level, levels) in [
            ("3.8-IV0", 20, [0, 0, 0, 0, 0, 0]),
            ("3.9", 21, [1, 0, 0, 0, 0, 0]),
            ("4.0-IV1", 23, [1, 0, 1, 0, 0, 0]),
            ("4.0", 25, [1, 2, 1, 0, 0, 0]),
            ("4.1-IV0", 26, [1, 2, 1, 1, 0, 0]),
            ("4.2-IV0", 28, [1, 2, 1, 1, 1, 0]),
            ("4.4-IV0", 31, [1, 2, 1, 1, 1, 1]),
        ] {
            let line = format!("version-mapping --release-version {release}");
            assert_eq!(told(&line), Ok(mapping(&format!("{level} ({release})"), levels)));
        }
        for unknown in ["9", "4", "4.4"] {
            let told = told(&format!("version-mapping --release-version {unknown}"));
            let begins = format!("Unknown metadata.version '{unknown}'. Supported metadata.version are: 3.3-IV3, ");
            assert!(told.is_err_and(|text| text.starts_with(&begins)), "{unknown}");
        }
        let elr = "eligible.leader.replicas.version=1 requires:\n    metadata.version=23 (4.0-IV1)";
        for (features, text) in [
            (
                &["transaction.version=2", "group.version=0"][..],
                Ok("transaction.version=2 has no dependencies.\n\
              group.version=0 has no dependencies."),
            ),
            (&["metadata.version=30"], Ok("metadata.version=30 (4.3-IV0) has no dependencies.")),
            (&["ottla.version=2"], Ok("ottla.version=2 has no dependencies.")),
            (&["eligible.leader.replicas.version=1"], Ok(elr)),
            (&["nope=1"], Err("Unknown feature: nope")),
            (&["group.version=9"], Err("No feature:group.version with feature level 9")),
            (&["ottla.version=9"], Err("No feature:ottla.version with feature level 9")),
            (&["metadata.version=99"], Err("Unknown metadata.version 99")),
            (&["group.version"], Err("Can't parse feature=level string group.version: equals sign not found.")),
        ] {
            let line = features.iter().map(|feature| format!(" --feature {feature}")).collect::<String>();
            let expected = text.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(told(&format!("feature-dependencies{line}")), expected);
        }
    }

    #[test]
    fn updates_are_told_as_kafkas_tool_tells_them() {
        let told = |line: &str, refusal| match planned(&format!("--bootstrap-server k {line}")) {
            Ok(Some(Action::Update(update))) => outcomes(&update, refusal),
            other => panic!("{other:?}"),
        };
        let upgrade = "upgrade --metadata 4.3-IV0 --feature group.version=1";
        assert_eq!(told(upgrade, None), ["group.version was upgraded to 1.", "metadata.version was upgraded to 30."]);
        let dry = "downgrade --feature group.version=0 --dry-run --unsafe";
        assert_eq!(told(dry, None), ["group.version can be downgraded to 0."]);
        assert_eq!(told(dry, Some("No.")), ["Can not downgrade group.version to 0. No."]);
        assert_eq!(told("disable --feature group.version", None), ["group.version was disabled."]);
        let disable = told("disable --feature group.version", Some("No."));
        assert_eq!(disable, ["Could not disable group.version. No."]);
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
