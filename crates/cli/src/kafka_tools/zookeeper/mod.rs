//! `--zookeeper` of `kafka-topics` and `kafka-configs`, and `zookeeper.connect` among the `--authorizer-properties` of
//! `kafka-acls`: tools of Kafka 3 and older named ZooKeeper in place of brokers.
//! Here it names the coordinators, which are asked without a broker: before the first one runs, or where every listener
//! wants a login.

mod cluster;
pub mod configs;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ottla_authorizer::{AclBinding, AclEntry, AclFilter, AclIndex, Operation, Permission};
use ottla_metadata::controller::{
    AlterConfig, AlterConfigs, ConfigOp, CreateAcls, CreatePartitions, CreateTopics, DeleteAcls, DeleteTopics,
    NewPartitions, TopicOutcomes, TopicRef,
};
use ottla_metadata::nodes::{self, NodePath};
use ottla_metadata::tree::Path;
use ottla_metadata::{ConfigEntity, ConfigKind, controller};
use ottla_model::{BrokerId, ClusterSecret, ErrorCode, PartitionId};
use ottla_rpc::admin::{DescribeTopicRequest, GetNodeRequest, ListNodesRequest, ListTopicsRequest, Topic};
use ottla_rpc::{AdminClient, CallError, ClusterClient};
use serde_json::Value;

use super::exceptions;
use super::options::{Options, OptionsError};
use super::{ToolError, client_properties};
use crate::kafka::{
    CONNECT_PAUSE, KafkaError, ListedTopic, NewTopic, PartitionDescription, REGISTRATION_PATIENCE, TopicDescription,
};
use crate::{client_security, quorum};
pub use cluster::Cluster;

/// How long a tool waits for the quorum; Kafka's tools wait as long for ZooKeeper.
const TIMEOUT: Duration = Duration::from_secs(30);
/// In a container of a broker or a coordinator one of these holds the secret that the quorum wants to be shown, or,
/// with `_FILE` after it, names the file.
const SECRET_VARIABLES: [&str; 2] = ["KAFKA_CLUSTER_SECRET", "COORDINATOR_CLUSTER_SECRET"];

/// Whether the line names coordinators. It cannot name brokers as well, and options that only old tools had stand only
/// beside `--zookeeper`.
pub fn is_asked_for(options: &Options) -> Result<bool, ToolError> {
    if !options.has("zookeeper") {
        let old = options.has("force").then(|| OptionsError::Unrecognized("force".to_owned()));
        return old.map_or(Ok(false), |error| Err(error.into()));
    }
    if options.has("bootstrap-server") || options.has("broker-list") {
        return Err(ToolError::Usage("Only one of --bootstrap-server or --zookeeper must be specified".to_owned()));
    }
    for of_brokers in ["command-config", "partition-size-limit-per-response"] {
        if let Some(name) = options.given(of_brokers) {
            return Err(OptionsError::Conflict(name, "zookeeper").into());
        }
    }
    Ok(true)
}

/// The coordinators of a cluster, as tools use them.
pub struct Quorum {
    /// Open to everybody.
    reads: AdminClient,
    writes: ClusterClient,
}

impl Quorum {
    /// None without `--zookeeper`.
    pub fn of(options: &Options) -> Result<Option<Self>, ToolError> {
        let Some(coordinators) = options.get("zookeeper") else { return Ok(None) };
        client_properties(options, &["zk-tls-config-file"], &[])?;
        Self::at(coordinators).map(Some)
    }

    /// `host:port,…[/chroot]`, as ZooKeeper's clients take it.
    pub fn at(coordinators: &str) -> Result<Self, ToolError> {
        let addresses =
            quorum::addresses(coordinators).map_err(|error| ToolError::Argument(format!("{coordinators}: {error}")))?;
        let secret = secret()?;
        let security = client_security::coordinators(secret.as_ref());
        let reads = AdminClient::secured(&addresses, &security)?;
        Ok(Self { reads, writes: ClusterClient::secured(&addresses, &security)? })
    }

    /// As [`crate::kafka::Kafka::create_topic`].
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<(), ToolError> {
        let assignments = topic.assignments.iter().map(|brokers| ids(brokers));
        let wanted = controller::NewTopic {
            name: topic.name.clone(),
            partitions: topic.partitions.unwrap_or(-1),
            replication_factor: topic.replication_factor.map_or(-1, i32::from),
            grows_to: 0,
            assignments: (0..).map(PartitionId).zip(assignments).collect(),
            configs: topic.configs.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
        };
        let end = Instant::now() + REGISTRATION_PATIENCE;
        loop {
            let create = CreateTopics {
                topics: vec![wanted.clone()],
                validate_only: false,
                default_partitions: 1,
                default_replication_factor: 1,
            };
            match each(&self.writes.submit(create, TIMEOUT).await?) {
                Err(error) if error.is(ErrorCode::InvalidReplicationFactor) && Instant::now() < end => {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    pub async fn topics(&self) -> Result<Vec<ListedTopic>, ToolError> {
        self.catch_up().await?;
        let mut topics = Vec::new();
        let mut request = ListTopicsRequest::default();
        loop {
            let page = self.reads.list_topics(request.clone(), TIMEOUT).await?;
            topics.extend(page.topics);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let topic = |topic: ottla_rpc::admin::TopicSummary| ListedTopic {
            is_internal: matches!(topic.name.as_str(), "__consumer_offsets" | "__transaction_state"),
            id: topic.topic_id,
            name: topic.name,
        };
        Ok(topics.into_iter().map(topic).collect())
    }

    /// A topic with all of its partitions; none if it does not exist.
    async fn described(&self, name: &str) -> Result<Option<Topic>, ToolError> {
        let mut request = DescribeTopicRequest { name: name.to_owned(), ..DescribeTopicRequest::default() };
        let mut whole: Option<Topic> = None;
        loop {
            let Some(page) = found(self.reads.describe_topic(request.clone(), TIMEOUT).await)? else { return Ok(None) };
            match (&mut whole, page.topic) {
                (Some(whole), Some(topic)) => whole.partitions.extend(topic.partitions),
                (whole, topic) => *whole = topic,
            }
            if page.next_page_token.is_empty() {
                return Ok(whole);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Configurations are those of the topic; the brokers' own are not known here.
    pub async fn describe(&self, names: &[String]) -> Result<Vec<TopicDescription>, ToolError> {
        let mut described = Vec::with_capacity(names.len());
        for name in names {
            // A linearizable read: the description that follows is no older.
            let node = self.node(&format!("/brokers/topics/{name}")).await?.unwrap_or_default();
            let Some(topic) = self.described(name).await? else {
                let text = format!("{name} does not exist");
                return Err(KafkaError::refused(ErrorCode::UnknownTopicOrPartition, &text).into());
            };
            let mut configs: Vec<(String, String)> = topic.configs.into_iter().collect();
            configs.sort();
            let min_insync = configs.iter().find(|(name, _)| name == "min.insync.replicas");
            described.push(TopicDescription {
                name: topic.name,
                topic_id: topic.topic_id,
                partitions: topic.partitions.into_iter().map(|one| partition(one, &node)).collect(),
                min_insync_replicas: min_insync.and_then(|(_, value)| value.parse().ok()).unwrap_or(1),
                configs,
            });
        }
        Ok(described)
    }

    /// As [`crate::kafka::Kafka::grow_topic`].
    pub async fn grow_topic(&self, name: &str, total: i32, assignments: &[Vec<i32>]) -> Result<(), ToolError> {
        let existing = match assignments {
            [] => 0,
            _ => self.describe(&[name.to_owned()]).await?.iter().map(|topic| topic.partitions.len()).sum(),
        };
        let added = assignments.iter().skip(existing).map(|brokers| ids(brokers)).collect();
        let assignments = (!assignments.is_empty()).then_some(added);
        let topics = vec![NewPartitions { topic: name.to_owned(), total, assignments }];
        let outcomes = self.writes.submit(CreatePartitions { topics, validate_only: false }, TIMEOUT).await?;
        Ok(each(&outcomes)?)
    }

    pub async fn delete_topic(&self, name: &str) -> Result<(), ToolError> {
        let topics = vec![TopicRef::Name(name.to_owned())];
        Ok(each(&self.writes.submit(DeleteTopics { topics }, TIMEOUT).await?)?)
    }

    /// What is set for an entity; none if nothing ever was. Secrets are hidden.
    pub async fn config(&self, entity: &ConfigEntity) -> Result<Option<BTreeMap<String, String>>, ToolError> {
        let Some(node) = self.node(entity.path().as_str()).await? else { return Ok(None) };
        let entries = node.get("config").and_then(Value::as_object);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(entries.map(|entries| entries.iter().map(|(name, value)| (name.clone(), text(value))).collect()))
    }

    /// The entities of a kind for which something is or was set.
    pub async fn entities(&self, kind: ConfigKind) -> Result<Vec<ConfigEntity>, ToolError> {
        let parent = format!("/config/{}", kind.as_str());
        let names = self.names(&parent, false).await?;
        let entity = |name: String| match nodes::classify(&Path::new(&format!("{parent}/{name}")).ok()?) {
            NodePath::Config(entity) => Some(entity),
            _ => None,
        };
        Ok(names.into_iter().filter_map(entity).collect())
    }

    pub async fn alter_config(&self, entity: ConfigEntity, changes: Vec<(String, ConfigOp)>) -> Result<(), ToolError> {
        let entities = vec![AlterConfig { entity, changes, replace_all: false }];
        let outcomes = self.writes.submit(AlterConfigs { entities, validate_only: false }, TIMEOUT).await?;
        match outcomes.entities.iter().find_map(|(_, refusal)| refusal.as_ref()) {
            Some(refusal) => Err(refused(refusal).into()),
            None => Ok(()),
        }
    }

    /// The rules that a filter matches.
    pub async fn acls(&self, filter: &AclFilter) -> Result<Vec<AclBinding>, ToolError> {
        let mut index = AclIndex::default();
        for parent in ["/kafka-acl", "/kafka-acl-extended"] {
            for path in self.names(parent, true).await? {
                let pattern = match Path::new(&path).map(|path| nodes::classify(&path)) {
                    Ok(NodePath::Acl(pattern)) => pattern,
                    _ => continue,
                };
                let node = self.node(&path).await?.unwrap_or_default();
                let entries = node.get("acls").and_then(Value::as_array).into_iter().flatten();
                index.set(&pattern, entries.filter_map(acl_entry).collect());
            }
        }
        Ok(index.matching(filter).collect())
    }

    pub async fn create_acls(&self, rules: &[AclBinding]) -> Result<(), ToolError> {
        let created = self.writes.submit(CreateAcls { bindings: rules.to_vec() }, TIMEOUT).await?;
        match created.refusals.iter().flatten().next() {
            Some(refusal) => Err(refused(refusal).into()),
            None => Ok(()),
        }
    }

    pub async fn delete_acls(&self, filters: &[AclFilter]) -> Result<(), ToolError> {
        let deleted = self.writes.submit(DeleteAcls { filters: filters.to_vec() }, TIMEOUT).await?;
        match deleted.filters.iter().find_map(|outcome| outcome.as_ref().err()) {
            Some(refusal) => Err(refused(refusal).into()),
            None => Ok(()),
        }
    }

    /// The coordinator that is asked has everything that was committed before.
    async fn catch_up(&self) -> Result<(), ToolError> {
        self.node("/cluster/id").await.map(drop)
    }

    /// What lies below a path: nothing where there is no node.
    async fn names(&self, path: &str, recursive: bool) -> Result<Vec<String>, ToolError> {
        let request = ListNodesRequest { path: path.to_owned(), recursive, linearizable: true };
        let names = found(self.reads.list_nodes(request, TIMEOUT).await)?;
        Ok(names.map(|answer| answer.names).unwrap_or_default())
    }

    /// The JSON of a node, none where there is none.
    async fn node(&self, path: &str) -> Result<Option<Value>, ToolError> {
        let request = GetNodeRequest { path: path.to_owned(), linearizable: true };
        let node = found(self.reads.get_node(request, TIMEOUT).await)?.and_then(|answer| answer.node);
        Ok(node.and_then(|node| serde_json::from_str(&node.json).ok()))
    }
}

/// None for what is not there.
fn found<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn acl_entry(shown: &Value) -> Option<AclEntry> {
    let text = |name: &str| shown.get(name).and_then(Value::as_str);
    Some(AclEntry {
        principal: text("principal")?.parse().ok()?,
        host: text("host")?.to_owned(),
        operation: Operation::from_node_name(text("operation")?)?,
        permission: Permission::from_node_name(text("permissionType")?)?,
    })
}

fn secret() -> Result<Option<ClusterSecret>, ToolError> {
    // A variable of a compose file that has no value is empty.
    let value = |variable: &str| std::env::var(variable).ok().filter(|text| !text.is_empty());
    for variable in SECRET_VARIABLES {
        if let Some(text) = value(variable) {
            return Ok(Some(ClusterSecret::new(text)));
        }
        let variable = format!("{variable}_FILE");
        if let Some(path) = value(&variable) {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| ToolError::Argument(format!("{variable}: {path}: {error}")))?;
            return Ok(Some(ClusterSecret::new(text.trim_end_matches(['\n', '\r']))));
        }
    }
    Ok(None)
}

fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId).collect()
}

fn each(outcomes: &TopicOutcomes) -> Result<(), KafkaError> {
    match outcomes.topics.iter().find_map(|topic| topic.refusal.as_ref()) {
        Some(refusal) => Err(refused(refusal)),
        None => Ok(()),
    }
}

fn refused(refusal: &controller::Refusal) -> KafkaError {
    let message = match refusal.message.as_str() {
        "" => exceptions::message(refusal.error),
        text => text.to_owned(),
    };
    KafkaError::refused(refusal.error, &message)
}

/// `node` is the topic's node, which names the replicas that come and go.
fn partition(partition: ottla_rpc::admin::Partition, node: &Value) -> PartitionDescription {
    let moving = |list: &str| -> Vec<i32> {
        let ids = node.get(list).and_then(|list| list.get(partition.partition.to_string())).and_then(Value::as_array);
        ids.into_iter().flatten().filter_map(Value::as_i64).filter_map(|id| i32::try_from(id).ok()).collect()
    };
    let (adding, removing) = (moving("adding_replicas"), moving("removing_replicas"));
    PartitionDescription {
        partition: partition.partition,
        leader: Some(partition.leader).filter(|leader| *leader != BrokerId::NONE.0),
        reassignment: (!adding.is_empty() || !removing.is_empty()).then_some((adding, removing)),
        replicas: partition.replicas,
        isr: partition.isr,
        elr: Some(partition.elr),
        last_known_elr: Some(partition.last_known_elr),
    }
}
