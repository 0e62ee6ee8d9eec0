//! `kafka-log-dirs`: what lies in the log directories of brokers, as JSON.

use std::collections::BTreeSet;
use std::process::ExitCode;

use ottla_client::LogDir;
use ottla_model::BrokerId;

use super::json::Json;
use super::options::{OptionSpec, Options, flag, value};
use super::{ToolError, exceptions, run_tool};
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

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to query log directory usage on the specified brokers.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan, |plan| async move {
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
    // Here --broker-list names ids.
    let bootstrap = options.required("bootstrap-server")?.to_owned();
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
        let dirs = dirs.iter().map(|dir| described(dir, &plan.topics)).collect();
        brokers.push(Json::Object(vec![("broker", broker.0.into()), ("logDirs", dirs)]));
    }
    out!("Received log directory information from brokers {}", shown(asked));
    out!("{}", Json::Object(vec![("brokers", Json::Array(brokers)), ("version", 1.into())]));
    Ok(())
}

/// The fields have the order of Kafka's tool.
fn described(dir: &LogDir, topics: &BTreeSet<String>) -> Json {
    let replicas =
        dir.replicas.iter().filter(|replica| topics.is_empty() || topics.contains(replica.at.topic.as_str()));
    let partitions = replicas
        .map(|replica| {
            Json::Object(vec![
                ("partition", replica.at.to_string().into()),
                ("size", replica.size_bytes.into()),
                ("offsetLag", replica.offset_lag.into()),
                ("isFuture", replica.is_future.into()),
            ])
        })
        .collect();
    let error = (!dir.error.is_ok()).then(|| exceptions::class_of(dir.error));
    Json::Object(vec![("partitions", partitions), ("error", error.into()), ("logDir", dir.path.clone().into())])
}

#[cfg(test)]
mod tests {
    use ottla_client::LogDirReplica;
    use ottla_model::ErrorCode;

    use super::*;
    use crate::sample_partitions::at;

    #[test]
    fn a_list_of_brokers_is_no_address() {
        let planned = |line: &str| crate::kafka_tools::planned(SPECS, line, plan);
        let told = planned("--describe --broker-list 7").err().unwrap_or_default();
        assert!(told.contains("bootstrap-server"), "{told}");
        let plan = planned("--describe --broker-list 7 --bootstrap-server k:9092").expect("a plan");
        assert_eq!((plan.bootstrap.as_str(), plan.brokers), ("k:9092", BTreeSet::from([BrokerId(7)])));
    }

    #[test]
    fn directories_are_shown_as_kafkas_tool_shows_them() {
        let replica = LogDirReplica { at: at("t", 1), size_bytes: 83, offset_lag: 0, is_future: false };
        let dir =
            |error, replicas| LogDir { path: "/d".to_owned(), error, replicas, total_bytes: -1, usable_bytes: -1 };
        let shown = |dir: &LogDir, topics: &[&str]| {
            described(dir, &topics.iter().map(|topic| (*topic).to_owned()).collect()).to_string()
        };
        let healthy = dir(ErrorCode::None, vec![replica]);
        assert_eq!(
            shown(&healthy, &[]),
            r#"{"partitions":[{"partition":"t-1","size":83,"offsetLag":0,"isFuture":false}],"error":null,"logDir":"/d"}"#
        );
        assert_eq!(shown(&healthy, &["u"]), r#"{"partitions":[],"error":null,"logDir":"/d"}"#);
        let failed = shown(&dir(ErrorCode::KafkaStorageError, Vec::new()), &[]);
        assert!(failed.contains(r#""error":"org.apache.kafka.common.errors.KafkaStorageException""#), "{failed}");
    }
}
