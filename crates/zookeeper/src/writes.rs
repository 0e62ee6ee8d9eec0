//! The writes that Kafka's tools of the ZooKeeper era make, as requests to the controller. Every other write would
//! change what brokers write, and is refused.

use std::collections::BTreeMap;

use ottla_metadata::controller::{
    AlterConfig, AlterConfigs, AlterReassignments, Answer, ConfigOp, DeleteTopics, ElectLeaders, ElectionType,
    PartitionOutcomes, ReassignmentTargets, Refusal, Request, TopicRef,
};
use ottla_metadata::nodes::{self, NodePath};
use ottla_metadata::tree::{Path, Tree};
use ottla_metadata::{ConfigEntity, ConfigKind, limits};
use ottla_model::{BrokerId, ErrorCode as KafkaError, PartitionId, Revision};
use serde::Deserialize;

use crate::znodes::Znodes;
use crate::{ErrorCode, reassignments};

/// `kafka-preferred-replica-election` creates it; the controller removes it when the leaders are elected.
const ELECTION: &str = "/admin/preferred_replica_election";
/// `kafka-configs` creates it as a sequential node after it has written a configuration, so that brokers look.
const CONFIG_CHANGE: &str = "/config/changes/config_change_";
/// The only expected version that Kafka's tools send: any.
const ANY_VERSION: i32 = -1;

/// The kind of a new node: the flags of a create request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateMode {
    Persistent,
    PersistentSequential,
    /// Ephemeral nodes, containers and nodes with a time to live.
    Other,
}

impl CreateMode {
    pub fn of(flags: i32) -> Self {
        match flags {
            0 => Self::Persistent,
            2 => Self::PersistentSequential,
            _ => Self::Other,
        }
    }
}

/// What a write comes to.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    Decide(Request),
    /// A configuration was written before: the brokers watch the configurations themselves, and nothing is kept.
    Notify,
}

/// The new node's data is one of the forms that Kafka's tools write.
pub fn create(znodes: Znodes<'_>, path: &str, data: &[u8], mode: CreateMode) -> Result<Write, ErrorCode> {
    if path == CONFIG_CHANGE && mode == CreateMode::PersistentSequential {
        return Ok(Write::Notify);
    }
    let parsed = Path::new(path).map_err(|_| ErrorCode::BadArguments)?;
    if znodes.exists(&parsed) {
        return Err(ErrorCode::NodeExists);
    }
    if mode != CreateMode::Persistent {
        return Err(ErrorCode::NotReadOnly);
    }
    if path == ELECTION {
        return election(data).map(Write::Decide);
    }
    if path == reassignments::PATH {
        return reassignment(data).map(Write::Decide);
    }
    match nodes::classify(&parsed) {
        NodePath::DeleteTopic(topic) => {
            Ok(Write::Decide(Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name(topic.to_string())] })))
        }
        // That of a topic which is not there is the first step of creating the topic by hand.
        NodePath::Config(entity) if is_writable(&entity) && owner_exists(znodes.tree, &entity) => {
            config(znodes.tree, entity, data).map(Write::Decide)
        }
        _ => Err(ErrorCode::NotReadOnly),
    }
}

/// Replaces the entries of a configuration, or adds reassignments to those under way.
pub fn set_data(znodes: Znodes<'_>, path: &str, data: &[u8], version: i32) -> Result<Write, ErrorCode> {
    let parsed = Path::new(path).map_err(|_| ErrorCode::BadArguments)?;
    if path == reassignments::PATH && version == ANY_VERSION {
        return match znodes.exists(&parsed) {
            true => reassignment(data).map(Write::Decide),
            false => Err(ErrorCode::NoNode),
        };
    }
    match nodes::classify(&parsed) {
        // An expected version would be compared here, and another write could come before the quorum decides.
        NodePath::Config(entity) if is_writable(&entity) && version == ANY_VERSION => {
            if !znodes.exists(&parsed) {
                return Err(ErrorCode::NoNode);
            }
            config(znodes.tree, entity, data).map(Write::Decide)
        }
        _ => Err(ErrorCode::NotReadOnly),
    }
}

/// The kinds that old tools write. Kafka has configurations of groups and of clients' metrics since it lost
/// ZooKeeper.
fn is_writable(entity: &ConfigEntity) -> bool {
    match entity.kind {
        ConfigKind::Topics
        | ConfigKind::Brokers
        | ConfigKind::Clients
        | ConfigKind::Users
        | ConfigKind::UserClients
        | ConfigKind::Ips => true,
        ConfigKind::Groups | ConfigKind::ClientMetrics => false,
    }
}

fn owner_exists(tree: &Tree, entity: &ConfigEntity) -> bool {
    let topic = format!("/brokers/topics/{}", entity.name);
    entity.kind != ConfigKind::Topics || Path::new(&topic).is_ok_and(|topic| tree.exists(&topic))
}

fn election(data: &[u8]) -> Result<Request, ErrorCode> {
    #[derive(Deserialize)]
    struct Election {
        partitions: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        topic: String,
        partition: i32,
    }
    let election: Election = serde_json::from_slice(data).map_err(|_| ErrorCode::BadArguments)?;
    if election.partitions.len() > limits::MAX_ITEMS_PER_REQUEST {
        return Err(ErrorCode::BadArguments);
    }
    let mut topics: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
    for Named { topic, partition } in election.partitions {
        topics.entry(topic).or_default().push(PartitionId(partition));
    }
    let topics = Some(topics.into_iter().collect());
    Ok(Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics }))
}

/// What `kafka-reassign-partitions` writes. A partition that is named twice gets the replicas of the last one.
fn reassignment(data: &[u8]) -> Result<Request, ErrorCode> {
    #[derive(Deserialize)]
    struct Data {
        partitions: Vec<Reassigned>,
    }
    #[derive(Deserialize)]
    struct Reassigned {
        topic: String,
        partition: i32,
        replicas: Vec<i32>,
    }
    let data: Data = serde_json::from_slice(data).map_err(|_| ErrorCode::BadArguments)?;
    // The controller checks the same; here it bounds what waits for the controller.
    if data.partitions.len() > limits::MAX_ITEMS_PER_REQUEST {
        return Err(ErrorCode::BadArguments);
    }
    let mut topics: BTreeMap<String, BTreeMap<PartitionId, Vec<BrokerId>>> = BTreeMap::new();
    for Reassigned { topic, partition, replicas } in data.partitions {
        let replicas = replicas.into_iter().map(BrokerId).collect();
        topics.entry(topic).or_default().insert(PartitionId(partition), replicas);
    }
    let targets = |partitions: BTreeMap<PartitionId, Vec<BrokerId>>| -> ReassignmentTargets {
        partitions.into_iter().map(|(partition, replicas)| (partition, Some(replicas))).collect()
    };
    let topics = topics.into_iter().map(|(topic, partitions)| (topic, targets(partitions))).collect();
    Ok(Request::AlterReassignments(AlterReassignments { topics, allow_replication_factor_change: true }))
}

/// Clients are shown no secrets, and write back what they were shown: what is hidden stays as it is.
fn config(tree: &Tree, entity: ConfigEntity, data: &[u8]) -> Result<Request, ErrorCode> {
    #[derive(Deserialize)]
    struct Config {
        config: BTreeMap<String, String>,
    }
    let Config { config } = serde_json::from_slice(data).map_err(|_| ErrorCode::BadArguments)?;
    // The controller checks the same; here it bounds what waits for the controller.
    if config.len() > limits::MAX_CONFIGS_PER_ENTITY {
        return Err(ErrorCode::BadArguments);
    }
    let known = tree.get(&entity.path()).and_then(|node| nodes::config::decode(&node.payload).ok());
    let mut known = known.unwrap_or_default();
    let set = |(name, value): (String, String)| {
        let is_hidden = value == nodes::config::HIDDEN && nodes::config::is_secret(&name);
        let value = if is_hidden { known.remove(&name)? } else { value };
        Some((name, ConfigOp::Set(value)))
    };
    let changes = config.into_iter().filter_map(set).collect();
    let alter = AlterConfig { entity, changes, replace_all: true };
    Ok(Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false }))
}

/// How a decision ended, as the client is told it, with the reason of a refusal, for the log.
pub fn outcome(answer: &Answer) -> (ErrorCode, Option<&Refusal>) {
    match answer {
        // A ZooKeeper-era controller removes the node of a topic that is not there.
        Answer::DeleteTopics(outcomes) => match outcomes.topics.iter().find_map(|topic| topic.refusal.as_ref()) {
            Some(refusal) if refusal.error == KafkaError::TopicDeletionDisabled => {
                (ErrorCode::NotReadOnly, Some(refusal))
            }
            Some(refusal) if refusal.error != KafkaError::UnknownTopicOrPartition => {
                (ErrorCode::BadArguments, Some(refusal))
            }
            _ => (ErrorCode::Ok, None),
        },
        // So it does when leaders could not be elected; the tool looks at the partitions.
        Answer::ElectLeaders(_) => (ErrorCode::Ok, None),
        Answer::AlterReassignments(outcomes) => reassigned(outcomes),
        Answer::AlterConfigs(outcomes) => match outcomes.entities.iter().find_map(|(_, refusal)| refusal.as_ref()) {
            Some(refusal) if refusal.error == KafkaError::UnknownTopicOrPartition => (ErrorCode::NoNode, Some(refusal)),
            Some(refusal) => (ErrorCode::BadArguments, Some(refusal)),
            None => (ErrorCode::Ok, None),
        },
        _ => (ErrorCode::OperationTimeout, None),
    }
}

/// The tool looks at the partitions: only a request of which nothing was done has failed.
fn reassigned(outcomes: &PartitionOutcomes) -> (ErrorCode, Option<&Refusal>) {
    let partitions = || outcomes.topics.iter().flat_map(|(_, partitions)| partitions);
    let refusal = partitions().find_map(|partition| partition.refusal.as_ref());
    let is_any_done = partitions().any(|partition| partition.refusal.is_none());
    let has_failed = refusal.is_some() && !is_any_done;
    (if has_failed { ErrorCode::BadArguments } else { ErrorCode::Ok }, refusal)
}

/// The revision at which the tree has what was decided.
pub fn decided_at(answer: &Answer) -> Revision {
    match answer {
        Answer::DeleteTopics(outcomes) => outcomes.revision,
        Answer::ElectLeaders(outcomes) => outcomes.revision,
        Answer::AlterConfigs(outcomes) => outcomes.revision,
        Answer::AlterReassignments(outcomes) => outcomes.revision,
        _ => Revision(0),
    }
}
