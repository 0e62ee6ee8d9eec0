//! `kafka-broker-api-versions`: which versions of which APIs each broker serves, beside those that the clients of
//! Kafka's protocol know.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ottla_client::DescribedBroker;
use ottla_protocol::Api;
use ottla_protocol::kafka_protocol::messages::ApiKey;

use super::options::{OptionSpec, Options, flag, value};
use super::{ToolError, bootstrap, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: server(s) to use for bootstrapping", "REQUIRED: The server to connect to."),
    value(
        "command-config",
        "String: command config property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    flag("help", "Print usage information."),
    flag("version", "Display the version."),
];

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to retrieve broker version information.";

pub async fn run(arguments: &[String]) -> ExitCode {
    let plan = |options: &Options| Ok(bootstrap(options)?.to_owned());
    run_tool(PURPOSE, SPECS, arguments, plan, |bootstrap| async move {
        match show(&bootstrap).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("{error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

async fn show(bootstrap: &str) -> Result<(), ToolError> {
    let kafka = Kafka::connect(bootstrap).await?;
    let cluster = kafka.client().describe_cluster().await.map_err(KafkaError::from)?;
    for broker in &cluster.brokers {
        let DescribedBroker { address, is_fenced } = broker;
        let rack = address.rack.as_deref().unwrap_or("null");
        let node = format!("{}:{} (id: {} rack: {rack} isFenced: {is_fenced})", address.host, address.port, address.id);
        match kafka.client().api_versions(address.id).await {
            Ok(versions) => out!("{node} -> (\n{}\n)", lines(&versions).join(",\n")),
            Err(error) => out!("{node} -> ERROR: {error}"),
        }
    }
    Ok(())
}

/// APIs that only brokers and controllers send to each other.
fn is_internal(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::Vote
            | ApiKey::BeginQuorumEpoch
            | ApiKey::EndQuorumEpoch
            | ApiKey::AlterPartition
            | ApiKey::Envelope
            | ApiKey::FetchSnapshot
            | ApiKey::BrokerRegistration
            | ApiKey::BrokerHeartbeat
            | ApiKey::AllocateProducerIds
            | ApiKey::ControllerRegistration
            | ApiKey::AssignReplicasToDirs
            | ApiKey::UpdateRaftVoter
    )
}

/// APIs of Kafka 4.3 without a schema in the codec.
const WITHOUT_SCHEMA: [(i16, &str); 2] = [(88, "StreamsGroupHeartbeat"), (89, "StreamsGroupDescribe")];

fn lines(served: &BTreeMap<i16, (i16, i16)>) -> Vec<String> {
    let keys = 0..=ApiKey::DeleteShareGroupOffsets as i16;
    let without_schema = |number: i16| {
        let known = WITHOUT_SCHEMA.iter().find(|(key, _)| *key == number && !served.contains_key(key))?;
        Some(format!("\t{}({number}): UNSUPPORTED", known.1))
    };
    let mut lines: Vec<String> = keys
        .filter_map(|number| {
            let Ok(key) = ApiKey::try_from(number) else { return without_schema(number) };
            if is_internal(key) && !served.contains_key(&number) {
                return None;
            }
            let name = format!("{key:?}");
            let name = name.trim_end_matches("Key");
            let Some(&(min, max)) = served.get(&number) else {
                return Some(format!("\t{name}({number}): UNSUPPORTED"));
            };
            let known = key.valid_versions();
            // Our own table knows versions that the codec has no schema of its own for.
            let usable = max.min(Api::from_key(number).map_or(known.max, |api| api.served().max));
            let range = if min == max { min.to_string() } else { format!("{min} to {max}") };
            let usable = match usable >= min.max(known.min) {
                true => format!("usable: {usable}"),
                false => "unusable: node too new".to_owned(),
            };
            Some(format!("\t{name}({number}): {range} [{usable}]"))
        })
        .collect();
    let unknown = served.iter().filter(|(key, _)| ApiKey::try_from(**key).is_err());
    lines.extend(unknown.map(|(key, (min, max))| format!("\tUNKNOWN({key}): {min} to {max}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_as_kafkas_tool_does() {
        let served = BTreeMap::from([(0, (0, 13)), (46, (0, 0)), (3, (90, 91)), (999, (1, 2))]);
        let lines = lines(&served);
        let has = |wanted: &str| lines.iter().any(|line| line == wanted);
        assert!(has("\tProduce(0): 0 to 13 [usable: 13]") && has("\tListPartitionReassignments(46): 0 [usable: 0]"));
        assert!(has("\tFetch(1): UNSUPPORTED") && has("\tUNKNOWN(999): 1 to 2"));
        assert!(has("\tStreamsGroupDescribe(89): UNSUPPORTED"));
        assert!(has("\tMetadata(3): 90 to 91 [unusable: node too new]"));
        assert!(!lines.iter().any(|line| line.contains("Vote(52)")));
    }
}
