//! `kafka-client-metrics`: which metrics clients push to the brokers (KIP-714).

use std::process::ExitCode;

use ottla_client::{CONFIG_CLIENT_METRICS, Client, ConfigChange, ConfigResource};
use ottla_metadata::client_metrics_config::{INTERVAL_MS, MATCH, METRICS};

use super::options::{OptionSpec, Options, OptionsError, flag, value};
use super::{ToolError, exceptions, log_error, run_tool};
use crate::image::storage::random_uuid;
use crate::kafka::{Kafka, KafkaError};
use crate::out;

pub(super) static SPECS: &[OptionSpec] = &[
    flag("alter", "Alter the configuration for the client metrics resource."),
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The Kafka server to connect to."),
    value(
        "command-config",
        "String: command config property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    flag("delete", "Delete the configuration for the client metrics resource."),
    flag("describe", "List configurations for the client metrics resource."),
    flag("generate-name", "Generate a UUID to use as the name."),
    flag("help", "Print usage information."),
    value("interval", "String: push interval", "The push interval in milliseconds; nothing, to reset it."),
    flag("list", "List the client metrics resources."),
    value(
        "match",
        "String: k1=v1,k2=v2",
        "Selectors of clients: client_id, client_instance_id, client_software_name, client_software_version, client_source_address, client_source_port; nothing, to reset them.",
    ),
    value("metrics", "String: m1,m2", "Beginnings of names of metrics, or *; nothing, to reset them."),
    value("name", "String: name", "Name of client metrics configuration resource."),
    flag("version", "Display the version."),
];

const LOGGER: &str = "org.apache.kafka.tools.ClientMetricsCommand";
const ACTIONS: [&str; 4] = ["alter", "delete", "describe", "list"];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    Alter(String, Vec<ConfigChange>),
    Delete(String),
    /// None: all of them.
    Describe(Option<String>),
    List,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to manipulate and describe client metrics configurations.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan, |(bootstrap, action)| async move {
        let Err(error) = execute(&bootstrap, &action).await else { return ExitCode::SUCCESS };
        let error = ToolError::from(error);
        out!("Error while executing client metrics command : {error}");
        log_error(&exceptions::class(&error), &error.to_string(), LOGGER);
        ExitCode::FAILURE
    })
    .await
}

fn plan(options: &Options) -> Result<(String, Action), ToolError> {
    let argument = |text: &str| ToolError::Argument(text.to_owned());
    let actions: Vec<&str> = ACTIONS.into_iter().filter(|action| options.has(action)).collect();
    let &[action] = actions.as_slice() else {
        let text = "Command must include exactly one action: --alter, --delete, --describe or --list.";
        return Err(ToolError::Usage(text.to_owned()));
    };
    let bootstrap = options.get("bootstrap-server").ok_or_else(|| argument("--bootstrap-server must be specified."))?;
    let of_alter: &[&'static str] = &["generate-name", "interval", "match", "metrics"];
    let of_list: &[&'static str] = &["name", "generate-name", "interval", "match", "metrics"];
    let (name, refused) = match action {
        "alter" => ("alter", &[][..]),
        "delete" => ("delete", of_alter),
        "describe" => ("describe", of_alter),
        _ => ("list", of_list),
    };
    if let Some(other) = refused.iter().find(|other| options.has(other)) {
        return Err(OptionsError::Conflict(name, other).into());
    }
    let resource = options.get("name").map(str::to_owned);
    let action = match (name, resource) {
        ("alter", resource) => {
            let resource = match (resource, options.has("generate-name")) {
                (Some(name), false) => name,
                (None, true) => random_uuid(),
                _ => return Err(argument("One of --name or --generate-name must be specified with --alter.")),
            };
            Action::Alter(resource, changes(options)?)
        }
        ("delete", Some(resource)) => Action::Delete(resource),
        ("delete", None) => return Err(argument("A client metrics resource name must be specified with --delete.")),
        ("describe", resource) => Action::Describe(resource),
        _ => Action::List,
    };
    Ok((bootstrap.to_owned(), action))
}

fn changes(options: &Options) -> Result<Vec<ConfigChange>, ToolError> {
    if options.get("interval").is_some_and(|text| !text.is_empty() && text.parse::<i32>().is_err()) {
        let text = "Invalid interval value. Enter an integer, or leave empty to reset.";
        return Err(ToolError::Argument(text.to_owned()));
    }
    let given = [("interval", INTERVAL_MS), ("match", MATCH), ("metrics", METRICS)];
    let given = given.into_iter().filter_map(|(option, name)| {
        let values = options.all(option);
        let name = name.to_owned();
        match values.join(",") {
            _ if values.is_empty() => None,
            value if value.is_empty() => Some(ConfigChange::Delete { name }),
            value => Some(ConfigChange::Set { name, value }),
        }
    });
    Ok(given.collect())
}

async fn execute(bootstrap: &str, action: &Action) -> Result<(), KafkaError> {
    let kafka = Kafka::connect(bootstrap).await?;
    let client = kafka.client();
    match action {
        Action::Alter(name, changes) => {
            client.alter_configs(&ConfigResource::ClientMetrics(name.clone()), changes).await?;
            out!("Altered client metrics config for {name}.");
        }
        Action::Delete(name) => {
            let changes = [INTERVAL_MS, MATCH, METRICS].map(|name| ConfigChange::Delete { name: name.to_owned() });
            client.alter_configs(&ConfigResource::ClientMetrics(name.clone()), &changes).await?;
            out!("Deleted client metrics config for {name}.");
        }
        Action::Describe(Some(name)) => match list(client).await?.contains(name) {
            true => describe(client, name).await?,
            false => out!("The client metric resource {name} doesn't exist and doesn't have dynamic config."),
        },
        Action::Describe(None) => {
            for name in list(client).await? {
                describe(client, &name).await?;
            }
        }
        Action::List => out!("{}", list(client).await?.join("\n")),
    }
    Ok(())
}

async fn list(client: &Client) -> Result<Vec<String>, KafkaError> {
    Ok(client.list_config_resources(CONFIG_CLIENT_METRICS).await?)
}

async fn describe(client: &Client, name: &str) -> Result<(), KafkaError> {
    let mut entries = client.describe_configs(&ConfigResource::ClientMetrics(name.to_owned())).await?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    out!("Client metrics configs for {name} are:");
    for entry in entries {
        out!("  {}={}", entry.name, entry.value.as_deref().unwrap_or("null"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(line: &str) -> Result<Action, String> {
        crate::kafka_tools::planned(SPECS, &format!("--bootstrap-server k {line}"), plan).map(|(_, action)| action)
    }

    #[test]
    fn command_lines_are_understood() {
        let set = |name: &str, value: &str| ConfigChange::Set { name: name.into(), value: value.into() };
        assert_eq!(
            action("--alter --name s --interval 1000 --metrics a,b --match client_id=x,client_source_port=1"),
            Ok(Action::Alter(
                "s".into(),
                vec![
                    set("interval.ms", "1000"),
                    set("match", "client_id=x,client_source_port=1"),
                    set("metrics", "a,b")
                ]
            ))
        );
        assert_eq!(
            action("--alter --name s --interval="),
            Ok(Action::Alter("s".into(), vec![ConfigChange::Delete { name: "interval.ms".into() }]))
        );
        let generated = action("--alter --generate-name --metrics *");
        assert!(matches!(generated, Ok(Action::Alter(name, _)) if name.len() == 22));
        assert_eq!(action("--describe"), Ok(Action::Describe(None)));
        assert_eq!(action("--delete --name s"), Ok(Action::Delete("s".into())));
        assert_eq!(action("--list"), Ok(Action::List));
    }

    #[test]
    fn wrong_lines_are_refused_in_kafkas_words() {
        let one = "Command must include exactly one action: --alter, --delete, --describe or --list.";
        let name = "One of --name or --generate-name must be specified with --alter.";
        let cases = [
            ("", one),
            ("--list --describe", one),
            ("--alter", name),
            ("--alter --name s --generate-name", name),
            ("--alter --name s --interval soon", "Invalid interval value. Enter an integer, or leave empty to reset."),
            ("--delete", "A client metrics resource name must be specified with --delete."),
            ("--list --name s", "Option \"[list]\" can't be used with option \"[name]\""),
            ("--describe --interval 1", "Option \"[describe]\" can't be used with option \"[interval]\""),
        ];
        for (line, text) in cases {
            assert_eq!(action(line), Err(text.to_owned()), "{line}");
        }
    }
}
