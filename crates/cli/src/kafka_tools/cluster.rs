//! `kafka-cluster`: the id of the cluster, and its brokers.

use std::process::ExitCode;

use ottla_model::BrokerId;

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, usage, value};
use super::{ToolError, bootstrap, client_properties, exceptions};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

const CLIENT_PROPERTIES: &str = "A file with a client's properties, such as security.protocol.";

pub(super) static SPECS: &[OptionSpec] = &[
    refused("bootstrap-controller", Takes::Value, "there are no KRaft controllers"),
    value("bootstrap-server", "BOOTSTRAP_SERVER", "REQUIRED: A list of host/port pairs to connect to."),
    value("command-config", "COMMAND_CONFIG", CLIENT_PROPERTIES),
    value("config", "CONFIG", CLIENT_PROPERTIES),
    flag("help", "Show this message."),
    value("id", "ID", "unregister: the id of the broker."),
    flag("include-fenced-brokers", "list-endpoints: the brokers that are down as well."),
];

/// The one letters that Kafka's tool has for options.
const LETTERS: &[(&str, &str)] = &[
    ("-b", "--bootstrap-server"),
    ("-C", "--bootstrap-controller"),
    ("-c", "--command-config"),
    ("-h", "--help"),
    ("-i", "--id"),
];

const USAGE: &str = "usage: kafka-cluster {cluster-id,unregister,list-endpoints} --bootstrap-server BOOTSTRAP_SERVER";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    ClusterId,
    Unregister(BrokerId),
    ListEndpoints { with_fenced: bool },
}

pub async fn run(arguments: &[String]) -> ExitCode {
    let (command, options) = match plan(arguments) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            out!("{USAGE}\n\n{}", usage(SPECS).trim_end());
            return ExitCode::SUCCESS;
        }
        Err(ToolError::Options(error @ OptionsError::Refused(..))) => {
            err!("kafka-cluster: error: {error}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            err!("{USAGE}\nkafka-cluster: error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match execute(command, &options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        }
    }
}

/// None asks for help.
fn plan(arguments: &[String]) -> Result<Option<(Command, Options)>, ToolError> {
    let long = |word: &String| {
        let letter = LETTERS.iter().find(|(letter, _)| letter == word);
        letter.map_or_else(|| word.clone(), |(_, long)| (*long).to_owned())
    };
    let (name, rest) = match arguments.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (Some(first.as_str()), rest),
        _ => (None, arguments),
    };
    let line: Vec<String> = rest.iter().map(long).collect();
    let options = Options::parse(SPECS, &line)?;
    if options.has("help") {
        return Ok(None);
    }
    let command = match name {
        Some("cluster-id") if options.has("include-fenced-brokers") => {
            return Err(OptionsError::Conflict("include-fenced-brokers", "cluster-id").into());
        }
        Some("unregister") if options.has("include-fenced-brokers") => {
            return Err(OptionsError::Conflict("include-fenced-brokers", "unregister").into());
        }
        Some("cluster-id") if options.has("id") => return Err(OptionsError::Conflict("id", "cluster-id").into()),
        Some("list-endpoints") if options.has("id") => {
            return Err(OptionsError::Conflict("id", "list-endpoints").into());
        }
        Some("unregister") => {
            let id = options.get("id").ok_or(OptionsError::Missing("id"))?;
            let unparsable = |_| OptionsError::Unparsable("id", id.to_owned());
            Command::Unregister(BrokerId(id.parse().map_err(unparsable)?))
        }
        Some("cluster-id") => Command::ClusterId,
        Some("list-endpoints") => Command::ListEndpoints { with_fenced: options.has("include-fenced-brokers") },
        _ => return Err(ToolError::Usage("the command is cluster-id, unregister or list-endpoints".to_owned())),
    };
    client_properties(&options, &["config", "command-config"], &[])?;
    bootstrap(&options)?;
    Ok(Some((command, options)))
}

async fn execute(command: Command, options: &Options) -> Result<(), ToolError> {
    let kafka = Kafka::connect(bootstrap(options)?).await?;
    let client = kafka.client();
    match command {
        Command::ClusterId => {
            let cluster = client.describe_cluster().await.map_err(KafkaError::from)?;
            out!("Cluster ID: {}", cluster.cluster_id);
        }
        Command::Unregister(broker) => {
            client.unregister_broker(broker).await.map_err(KafkaError::from)?;
            out!("Broker {broker} is no longer registered.");
        }
        Command::ListEndpoints { with_fenced } => {
            let cluster = match with_fenced {
                true => client.describe_cluster_with_fenced().await,
                false => client.describe_cluster().await,
            };
            list_endpoints(&cluster.map_err(KafkaError::from)?);
        }
    }
    Ok(())
}

fn list_endpoints(cluster: &ottla_client::ClusterDescription) {
    let width = |of: &dyn Fn(&ottla_client::DescribedBroker) -> usize, default: usize| {
        cluster.brokers.iter().map(of).max().filter(|width| *width > 0).unwrap_or(default)
    };
    let hosts = width(&|broker| broker.address.host.len(), 100);
    let racks = width(&|broker| broker.address.rack.as_ref().map_or(0, String::len), 10);
    let row = |id: &str, host: &str, port: &str, rack: &str, state: &str, kind: &str| {
        out!("{id:<10} {host:<hosts$} {port:<10} {rack:<racks$} {state:<10} {kind:<15}");
    };
    row("ID", "HOST", "PORT", "RACK", "STATE", "ENDPOINT_TYPE");
    for broker in &cluster.brokers {
        let address = &broker.address;
        let rack = address.rack.as_deref().unwrap_or("null");
        let state = if broker.is_fenced { "fenced" } else { "unfenced" };
        row(&address.id.to_string(), &address.host, &address.port.to_string(), rack, state, "broker");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Option<Command>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        plan(&arguments).map(|plan| plan.map(|(command, _)| command)).map_err(|error| error.to_string())
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        assert_eq!(command("cluster-id -b k:9092"), Ok(Some(Command::ClusterId)));
        let listed = Ok(Some(Command::ListEndpoints { with_fenced: true }));
        assert_eq!(command("list-endpoints --bootstrap-server k --include-fenced"), listed);
        assert_eq!(command("--help"), Ok(None));
        assert_eq!(command("cluster-id -h"), Ok(None));
        assert_eq!(command("unregister -b k -i 3"), Ok(Some(Command::Unregister(BrokerId(3)))));
        assert!(command("unregister -b k").is_err_and(|text| text.contains("id")));
        assert!(command("unregister -b k -i x").is_err_and(|text| text.contains("Cannot parse")));
        assert!(command("cluster-id -b k -i 3").is_err());
        assert!(command("cluster-id -C k:9093").is_err_and(|text| text.contains("bootstrap-controller")));
        assert!(command("cluster-id").is_err_and(|text| text.contains("bootstrap-server")));
    }
}
