//! `kafka-log-dirs`: what lies in the log directories of brokers, as JSON.

use std::collections::BTreeSet;
use std::process::ExitCode;

use ottla_client::LogDir;
use ottla_model::BrokerId;
use serde_json::{Value, json};

use super::options::{OptionSpec, Options, flag, value};
use super::{ToolError, bootstrap, exceptions, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value(
        "bootstrap-server",
        "String: The server(s) to use for bootstrapping",
        "REQUIRED: the server(s) to use for bootstrapping",
    ),
    value(
        "broker-list",
        "String: Broker list",
        "The list of brokers to be queried in the form \"0,1,2\". All brokers in the cluster will be queried if no broker list is specified.",
    ),
    value(
        "command-config",
        "String: Admin client property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    flag("describe", "Describe the specified log directories on the specified brokers."),
    flag("help", "Print usage information."),
    value(
        "topic-list",
        "String: Topic list",
        "The list of topics to be queried in the form \"topic1,topic2,topic3\". All topics will be queried if no topic list is specified.",
    ),
    flag("version", "Display the version."),
];

struct Plan {
    bootstrap: String,
    brokers: BTreeSet<BrokerId>,
    topics: BTreeSet<String>,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(SPECS, arguments, plan, |plan| async move {
        match describe(plan).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("{error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let bootstrap = bootstrap(options)?.to_owned();
    if !options.has("describe") {
        return Err(super::options::OptionsError::Missing("describe").into());
    }
    let list = |name| options.get(name).unwrap_or_default().split(',').filter(|text| !text.is_empty());
    let brokers = list("broker-list")
        .map(|id| id.trim().parse().map(BrokerId))
        .collect::<Result<_, _>>()
        .map_err(|_| ToolError::Usage("--broker-list expects numbers".to_owned()))?;
    Ok(Plan { bootstrap, brokers, topics: list("topic-list").map(str::to_owned).collect() })
}

async fn describe(plan: Plan) -> Result<(), ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    let cluster = kafka.client().describe_cluster().await.map_err(KafkaError::from)?;
    let there: BTreeSet<BrokerId> = cluster.brokers.iter().map(|broker| broker.address.id).collect();
    let shown = |ids: &BTreeSet<BrokerId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let missing: BTreeSet<BrokerId> = plan.brokers.difference(&there).copied().collect();
    if !missing.is_empty() {
        let (missing, there) = (shown(&missing), shown(&there));
        let wrong = "ERROR: The given brokers do not exist from --broker-list";
        return Err(ToolError::Argument(format!("{wrong}: {missing}. Current existent brokers: {there}")));
    }
    let asked = if plan.brokers.is_empty() { &there } else { &plan.brokers };
    out!("Querying brokers for log directories information");
    let mut brokers = Vec::new();
    for broker in asked {
        let dirs = kafka.client().describe_log_dirs(*broker).await.map_err(KafkaError::from)?;
        let dirs: Vec<Value> = dirs.iter().map(|dir| described(dir, &plan.topics)).collect();
        brokers.push(json!({"broker": broker.0, "logDirs": dirs}));
    }
    out!("Received log directory information from brokers {}", shown(asked));
    out!("{}", json!({"brokers": brokers, "version": 1}));
    Ok(())
}

fn described(dir: &LogDir, topics: &BTreeSet<String>) -> Value {
    let replicas =
        dir.replicas.iter().filter(|replica| topics.is_empty() || topics.contains(replica.at.topic.as_str()));
    let partitions: Vec<Value> = replicas
        .map(|replica| {
            json!({
                "partition": replica.at.to_string(),
                "size": replica.size_bytes,
                "offsetLag": replica.offset_lag,
                "isFuture": replica.is_future,
            })
        })
        .collect();
    let error = (!dir.error.is_ok()).then(|| exceptions::class_of(dir.error));
    json!({"partitions": partitions, "error": error, "logDir": dir.path})
}
