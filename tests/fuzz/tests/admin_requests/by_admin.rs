//! Requests of the admin API (gRPC, `ottla.admin.v1`) at any coordinator.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_fuzz::mutation::Random;
use ottla_model::ErrorCode;
use ottla_rpc::ChannelSecurity;
use ottla_rpc::admin::admin_client::AdminClient;
use ottla_rpc::admin::{
    AddQuorumMemberRequest, AlterConfigRequest, ConfigChange, ConfigResource, CreatePartitionsRequest,
    CreateTopicRequest, DeleteTopicRequest, DescribeConfigRequest, DescribeTopicRequest, ElectLeadersRequest,
    GetNodeRequest, ListNodesRequest, ListPartitionsRequest, PartitionId, ReassignPartitionsRequest, Reassignment,
    RemoveQuorumMemberRequest, Replicas, TransferQuorumLeadershipRequest, UnregisterBrokerRequest, config_change,
};

use crate::words::{broker, config, number, pick, text, topic};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends one random request; returns its name, and whether it was done, as Kafka's error code.
pub async fn send(random: &mut Random, at: &str) -> Result<(&'static str, Vec<i16>)> {
    let (name, outcome) = tokio::time::timeout(TIMEOUT, ask(random, at)).await.context("no answer")??;
    let Some(code) = outcome else { return Ok((name, vec![ErrorCode::None.code()])) };
    // What nobody foresaw.
    ensure!(!["Internal", "Unknown", "DataLoss"].contains(&code.as_str()), "{name}: {code}");
    Ok((name, vec![ErrorCode::InvalidRequest.code()]))
}

/// The request's name, and the code of the status with which it was refused.
async fn ask(random: &mut Random, at: &str) -> Result<(&'static str, Option<String>)> {
    let mut admin = AdminClient::new(ChannelSecurity::default().channel(at)?);
    let (name, outcome) = match random.below(16) {
        0 | 1 => ("CreateTopic", admin.create_topic(create_topic(random)).await.map(drop)),
        2 => {
            let request = DeleteTopicRequest { name: topic(random), request_id: request_id(random) };
            ("DeleteTopic", admin.delete_topic(request).await.map(drop))
        }
        3 => {
            let request = CreatePartitionsRequest {
                topic: topic(random),
                total: number(random),
                assignments: some(random, replicas),
                validate_only: random.below(4) == 0,
                request_id: request_id(random),
            };
            ("CreatePartitions", admin.create_partitions(request).await.map(drop))
        }
        4 => {
            let reassignments = some(random, |random| Reassignment {
                topic: topic(random),
                partition: number(random),
                replicas: Some(replicas(random)).filter(|_| random.below(3) > 0),
            });
            let allow_replication_factor_change = random.below(2) == 0;
            let request = ReassignPartitionsRequest { reassignments, allow_replication_factor_change };
            ("ReassignPartitions", admin.reassign_partitions(request).await.map(drop))
        }
        5 => {
            let partitions = some(random, |random| PartitionId { topic: topic(random), partition: number(random) });
            let request = ElectLeadersRequest { unclean: random.below(2) == 0, partitions, all: random.below(4) == 0 };
            ("ElectLeaders", admin.elect_leaders(request).await.map(drop))
        }
        6 | 7 => ("AlterConfig", admin.alter_config(alter_config(random)).await.map(drop)),
        8 if random.below(3) == 0 => {
            let request =
                UnregisterBrokerRequest { id: pick(random, &[3, 900, 901, -1]), request_id: request_id(random) };
            ("UnregisterBroker", admin.unregister_broker(request).await.map(drop))
        }
        8 => {
            // Nobody who could be added answers at any of these.
            let address = pick(random, &["127.0.0.1:1", "[::1]:2", "", "a b", "x:99999"]).to_owned();
            let request = AddQuorumMemberRequest { coordinator_id: pick(random, &[1, 4, 0, 900, u64::MAX]), address };
            ("AddQuorumMember", admin.add_quorum_member(request).await.map(drop))
        }
        9 => {
            // Never one of the three: they are to be compared.
            let coordinator_id = pick(random, &[4, 0, 900, u64::MAX]);
            let request = RemoveQuorumMemberRequest { coordinator_id, force: random.below(2) == 0 };
            ("RemoveQuorumMember", admin.remove_quorum_member(request).await.map(drop))
        }
        10 => {
            let coordinator_id = pick(random, &[0, 1, 2, 3, 900, u64::MAX]);
            let request = TransferQuorumLeadershipRequest { coordinator_id };
            ("TransferQuorumLeadership", admin.transfer_quorum_leadership(request).await.map(drop))
        }
        11 => {
            let request =
                DescribeTopicRequest { name: topic(random), page_size: number(random), page_token: text(random) };
            ("DescribeTopic", admin.describe_topic(request).await.map(drop))
        }
        12 => {
            let request = ListPartitionsRequest {
                topic: if random.below(2) == 0 { String::new() } else { topic(random) },
                condition: pick(random, &[0, 1, 2, 3, 4, 5, 6, -1]),
                page_size: number(random),
                page_token: if random.below(2) == 0 { String::new() } else { text(random) },
                read_mask: None,
            };
            ("ListPartitions", admin.list_partitions(request).await.map(drop))
        }
        13 => {
            let request = DescribeConfigRequest { resource: Some(resource(random)).filter(|_| random.below(8) > 0) };
            ("DescribeConfig", admin.describe_config(request).await.map(drop))
        }
        14 => {
            let request = GetNodeRequest { path: path(random), linearizable: random.below(2) == 0 };
            ("GetNode", admin.get_node(request).await.map(drop))
        }
        _ => {
            let (path, recursive) = (path(random), random.below(2) == 0);
            let request = ListNodesRequest { path, recursive, linearizable: random.below(2) == 0 };
            ("ListNodes", admin.list_nodes(request).await.map(drop))
        }
    };
    Ok((name, outcome.err().map(|status| format!("{:?}", status.code()))))
}

fn some<T>(random: &mut Random, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..random.below(4)).map(|_| make(random)).collect()
}

fn replicas(random: &mut Random) -> Replicas {
    Replicas { brokers: some(random, broker) }
}

/// Most have none: the same one would be the same request.
fn request_id(random: &mut Random) -> String {
    if random.below(4) == 0 { text(random) } else { String::new() }
}

fn path(random: &mut Random) -> String {
    match random.below(3) {
        0 => text(random),
        1 => format!("/brokers/topics/{}", topic(random)),
        _ => pick(random, &["/", "/brokers", "/brokers/ids/1", "/controller", "/nowhere", "//", "/config/topics"])
            .to_owned(),
    }
}

fn resource(random: &mut Random) -> ConfigResource {
    let kind = pick(random, &["topic", "broker", "group", "topics", "brokers", "groups", "user", "client", ""]);
    let name = if random.below(2) == 0 { topic(random) } else { text(random) };
    ConfigResource { kind: kind.to_owned(), name }
}

fn create_topic(random: &mut Random) -> CreateTopicRequest {
    CreateTopicRequest {
        name: topic(random),
        partitions: number(random),
        replication_factor: pick(random, &[1, 2, -1, 3, 0, 300, i32::MAX]),
        configs: some(random, config).into_iter().filter(|_| random.below(3) == 0).collect(),
        validate_only: random.below(4) == 0,
        request_id: request_id(random),
        assignments: if random.below(4) == 0 { some(random, replicas) } else { Vec::new() },
    }
}

fn alter_config(random: &mut Random) -> AlterConfigRequest {
    use config_change::Change;
    let changes = some(random, |random| {
        let (name, value) = config(random);
        let change = match random.below(5) {
            0 => Some(Change::Delete(random.below(4) > 0)),
            1 => Some(Change::Append(value)),
            2 => Some(Change::Subtract(value)),
            3 if random.below(4) == 0 => None,
            _ => Some(Change::Set(value)),
        };
        ConfigChange { name, change }
    });
    let resource = Some(resource(random)).filter(|_| random.below(8) > 0);
    AlterConfigRequest { resource, changes, validate_only: random.below(4) == 0 }
}
