//! `kafka-cluster cluster-id`. Its other commands speak of what is not served here.

use std::process::ExitCode;

use super::client_properties;
use super::options::{OptionSpec, Options, value};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "BOOTSTRAP_SERVER", "A list of host/port pairs to connect to."),
    value("config", "CONFIG", "A file with a client's properties; security.protocol can only be PLAINTEXT."),
    value(
        "command-config",
        "COMMAND_CONFIG",
        "A file with a client's properties; security.protocol can only be PLAINTEXT.",
    ),
];

const USAGE: &str = "usage: kafka-cluster cluster-id --bootstrap-server BOOTSTRAP_SERVER";

pub async fn run(arguments: &[String]) -> ExitCode {
    let (command, rest) = match arguments.split_first() {
        Some((first, rest)) if first == "cluster-id" => (true, rest),
        Some((first, _)) if first == "--help" || first == "-h" => {
            out!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => (false, &[][..]),
    };
    if !command {
        err!("{USAGE}\nkafka-cluster: error: the command is cluster-id");
        return ExitCode::FAILURE;
    }
    // The one letter that Kafka's tool has for it.
    let line: Vec<String> =
        rest.iter().map(|word| if word == "-b" { "--bootstrap-server".to_owned() } else { word.clone() }).collect();
    let options = match Options::parse(SPECS, &line) {
        Ok(options) => options,
        Err(error) => {
            err!("{USAGE}\nkafka-cluster: error: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = client_properties(&options, &["config", "command-config"], &[]) {
        err!("{USAGE}\nkafka-cluster: error: {error}");
        return ExitCode::FAILURE;
    }
    let Some(bootstrap) = options.get("bootstrap-server") else {
        err!("{USAGE}\nkafka-cluster: error: the argument --bootstrap-server/-b is required");
        return ExitCode::FAILURE;
    };
    match cluster_id(bootstrap).await {
        Ok(id) => {
            out!("Cluster ID: {id}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            err!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn cluster_id(bootstrap: &str) -> Result<String, KafkaError> {
    let kafka = Kafka::connect(bootstrap).await?;
    Ok(kafka.client().describe_cluster().await?.cluster_id)
}
