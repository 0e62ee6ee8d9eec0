//! `kafka-groups`: the groups of every kind.

use std::process::ExitCode;

use ottla_client::ListedGroup;

use super::options::{OptionSpec, Options, OptionsError, flag, value};
use super::{ToolError, bootstrap, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The Kafka server to connect to."),
    value(
        "command-config",
        "String: command config property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    flag("consumer", "Show the groups of consumers: those of type consumer, and classic ones of consumers."),
    value("group-type", "String: type", "Show the groups of a type: classic, consumer, share or streams."),
    flag("help", "Print usage information."),
    flag("list", "List the groups."),
    value("protocol", "String: protocol", "Show the groups of a protocol type."),
    flag("share", "Show the share groups."),
    flag("streams", "Show the streams groups."),
    flag("version", "Display the version."),
];

/// Kafka's types of groups. Groups of share and of streams are served by no broker of Ottla; those of Kafka's are
/// listed.
const TYPES: [&str; 4] = ["Classic", "Consumer", "Share", "Streams"];
/// Kafka's least width of a column.
const COLUMN_MIN: usize = 20;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted {
    All,
    Consumers,
    /// A type, and perhaps a protocol type.
    Type(&'static str, Option<String>),
    Protocol(String),
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool("", SPECS, arguments, plan, |(bootstrap, wanted)| async move {
        match list(&bootstrap, &wanted).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Kafka's tool says so on standard output.
                out!("Error while executing groups command : {error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<(String, Wanted), ToolError> {
    // Kafka's tool has it from its parser, which has other words.
    let missing = |_| ToolError::Usage("Missing required option(s) [bootstrap-server]".to_owned());
    let bootstrap = bootstrap(options).map_err(missing)?.to_owned();
    if !options.has("list") {
        return Err(ToolError::Usage("Command must include exactly one action: --list.".to_owned()));
    }
    let alone = ["consumer", "share", "streams"];
    for option in alone.into_iter().filter(|option| options.has(option)) {
        let other = ["consumer", "group-type", "protocol", "share", "streams"]
            .into_iter()
            .find(|other| *other != option && options.has(other));
        if let Some(other) = other {
            return Err(OptionsError::Conflict(option, other).into());
        }
    }
    let protocol = options.get("protocol").map(str::to_owned);
    let kind = options.get("group-type").map(|text| {
        let known = TYPES.into_iter().find(|name| name.eq_ignore_ascii_case(text));
        known.ok_or_else(|| ToolError::Argument("--group-type must be a valid group type.".to_owned()))
    });
    let wanted = match (kind.transpose()?, protocol) {
        (Some(kind), protocol) => Wanted::Type(kind, protocol),
        (None, Some(protocol)) => Wanted::Protocol(protocol),
        (None, None) if options.has("consumer") => Wanted::Consumers,
        (None, None) if options.has("share") => Wanted::Type("Share", None),
        (None, None) if options.has("streams") => Wanted::Type("Streams", None),
        (None, None) => Wanted::All,
    };
    Ok((bootstrap, wanted))
}

async fn list(bootstrap: &str, wanted: &Wanted) -> Result<(), KafkaError> {
    let kafka = Kafka::connect(bootstrap).await?;
    let groups = kafka.client().list_groups(&[], &[]).await?;
    lines(&groups, wanted).iter().for_each(|line| out!("{line}"));
    if let Some(group) = groups.iter().find(|group| group.kind.is_empty()) {
        err!("the brokers do not tell the types of their groups, such as that of {}", group.group);
    }
    Ok(())
}

/// The type as Kafka's tool spells it.
fn kind(group: &ListedGroup) -> &str {
    TYPES.into_iter().find(|name| name.eq_ignore_ascii_case(&group.kind)).unwrap_or(&group.kind)
}

fn is_wanted(group: &ListedGroup, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::All => true,
        Wanted::Consumers => ["", "consumer"].contains(&group.protocol_type.as_str()) || kind(group) == "Consumer",
        Wanted::Type(name, protocol) => {
            kind(group) == *name && protocol.as_ref().is_none_or(|protocol| *protocol == group.protocol_type)
        }
        Wanted::Protocol(protocol) => *protocol == group.protocol_type,
    }
}

fn lines(groups: &[ListedGroup], wanted: &Wanted) -> Vec<String> {
    let rows: Vec<[&str; 3]> = groups
        .iter()
        .filter(|group| is_wanted(group, wanted))
        .map(|group| [&*group.group, kind(group), &*group.protocol_type])
        .collect();
    let width = rows.iter().flatten().map(|cell| cell.len()).max().unwrap_or(0).max(COLUMN_MIN);
    let mut lines = vec![format!("{:<width$} {:<width$} {:<width$}", "GROUP", "TYPE", "PROTOCOL")];
    lines.extend(rows.iter().map(|row| row.map(|cell| format!("{cell:<width$} ")).concat()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &str) -> Result<Wanted, String> {
        crate::kafka_tools::planned(SPECS, line, plan).map(|(_, wanted)| wanted)
    }

    fn group(name: &str, kind: &str, protocol_type: &str) -> ListedGroup {
        ListedGroup {
            group: name.to_owned(),
            protocol_type: protocol_type.to_owned(),
            state: "Stable".to_owned(),
            kind: kind.to_owned(),
        }
    }

    #[test]
    fn command_lines_are_understood() {
        let server = "--bootstrap-server k --list";
        assert_eq!(wanted(server), Ok(Wanted::All));
        assert_eq!(wanted(&format!("{server} --consumer")), Ok(Wanted::Consumers));
        assert_eq!(wanted(&format!("{server} --streams")), Ok(Wanted::Type("Streams", None)));
        let both = Wanted::Type("Classic", Some("connect".to_owned()));
        assert_eq!(wanted(&format!("{server} --group-type classic --protocol connect")), Ok(both));
        let conflict = "Option \"[consumer]\" can't be used with option \"[share]\"";
        assert_eq!(wanted(&format!("{server} --consumer --share")), Err(conflict.to_owned()));
        let unknown = wanted(&format!("{server} --group-type x"));
        assert_eq!(unknown, Err("--group-type must be a valid group type.".to_owned()));
        assert_eq!(wanted("--bootstrap-server k"), Err("Command must include exactly one action: --list.".to_owned()));
    }

    #[test]
    fn groups_are_filtered_and_shown_as_kafkas_tool_shows_them() {
        let groups =
            [group("a", "classic", "consumer"), group("b", "consumer", "consumer"), group("c", "classic", "connect")];
        let names = |wanted: &Wanted| {
            let lines = lines(&groups, wanted);
            lines.iter().skip(1).map(|line| line[..1].to_owned()).collect::<Vec<_>>().concat()
        };
        assert_eq!(names(&Wanted::All), "abc");
        assert_eq!(names(&Wanted::Consumers), "ab");
        assert_eq!(names(&Wanted::Type("Classic", None)), "ac");
        assert_eq!(names(&Wanted::Type("Classic", Some("connect".to_owned()))), "c");
        assert_eq!(names(&Wanted::Protocol("connect".to_owned())), "c");
        assert_eq!(names(&Wanted::Type("Share", None)), "");
        assert_eq!(
            lines(&groups, &Wanted::Protocol("connect".to_owned())),
            [
                "GROUP                TYPE                 PROTOCOL            ",
                "c                    Classic              connect              ",
            ]
        );
    }
}
