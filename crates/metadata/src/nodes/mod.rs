//! The node kinds: for each its path, its payload (a protobuf message, private to its file), and its JSON in ZooKeeper
//! (Kafka 3.9, `kafka.zk.ZkData`). Additions of Kafka 4 are further fields of the payload.

pub mod acl;
pub mod broker;
pub mod broker_memory;
pub mod cluster_id;
pub mod config;
pub mod controller;
pub mod controller_epoch;
pub mod coordinator;
pub mod decided_request;
pub mod delegation_token;
pub mod delete_topic;
pub mod feature;
pub mod partition;
pub mod producer_ids;
pub mod sequence_id;
pub mod topic;

use ottla_authorizer::{PatternType, ResourcePattern};
use ottla_model::{BrokerId, CoordinatorId, PartitionId, TopicName};
use serde::Serialize;
use serde::ser::SerializeMap;

use crate::nodes::config::ConfigEntity;
use crate::tree::{Node, Path, Tree};

/// A payload that this release cannot read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodeError {
    #[error("not the node's protobuf form: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("{field} is not valid: {value:?}")]
    Field { field: &'static str, value: String },
    #[error("the topic's node assigns no replicas to the partition")]
    NoAssignment,
}

impl NodeError {
    fn field(field: &'static str, value: impl std::fmt::Debug) -> Self {
        Self::Field { field, value: format!("{value:?}") }
    }
}

/// The meaning of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodePath {
    Broker(BrokerId),
    BrokerMemory(BrokerId),
    Topic(TopicName),
    Partition(TopicName, PartitionId),
    Config(ConfigEntity),
    Acl(ResourcePattern),
    Controller,
    ControllerEpoch,
    ClusterId,
    Feature,
    SequenceId,
    DeleteTopic(TopicName),
    DelegationToken(String),
    Coordinator(CoordinatorId),
    ProducerIds,
    /// No payload that this release reads: empty parents, and kinds of later releases.
    Other,
}

/// The kind of node at a path.
pub fn classify(path: &Path) -> NodePath {
    fn number<T: std::str::FromStr>(text: &str, make: impl FnOnce(T) -> NodePath) -> NodePath {
        text.parse().map_or(NodePath::Other, make)
    }
    fn topic(text: &str, make: impl FnOnce(TopicName) -> NodePath) -> NodePath {
        TopicName::new(text).map_or(NodePath::Other, make)
    }
    let parts: Vec<&str> = path.as_str().split('/').skip(1).collect();
    match parts.as_slice() {
        ["brokers", "ids", id] => number(id, |id| NodePath::Broker(BrokerId(id))),
        ["brokers", "seqid"] => NodePath::SequenceId,
        ["brokers", "topics", name] => topic(name, NodePath::Topic),
        ["brokers", "topics", name, "partitions", partition, "state"] => {
            topic(name, |name| number(partition, |partition| NodePath::Partition(name, PartitionId(partition))))
        }
        ["config", kind, name] => ConfigEntity::of_path(kind, name).map_or(NodePath::Other, NodePath::Config),
        ["config", "users", user, "clients", client] => {
            ConfigEntity::of_user_client(user, client).map_or(NodePath::Other, NodePath::Config)
        }
        ["kafka-acl", resource_type, name] => {
            acl::pattern_of(PatternType::Literal, resource_type, name).map_or(NodePath::Other, NodePath::Acl)
        }
        ["kafka-acl-extended", "prefixed", resource_type, name] => {
            acl::pattern_of(PatternType::Prefixed, resource_type, name).map_or(NodePath::Other, NodePath::Acl)
        }
        ["controller"] => NodePath::Controller,
        ["controller_epoch"] => NodePath::ControllerEpoch,
        ["cluster", "id"] => NodePath::ClusterId,
        ["feature"] => NodePath::Feature,
        ["latest_producer_id_block"] => NodePath::ProducerIds,
        ["admin", "delete_topics", name] => topic(name, NodePath::DeleteTopic),
        ["delegation_token", "tokens", id] => {
            delegation_token::id_of(id).map_or(NodePath::Other, NodePath::DelegationToken)
        }
        ["ottla", "brokers", id] => number(id, |id| NodePath::BrokerMemory(BrokerId(id))),
        ["ottla", "coordinators", id] => number(id, |id| NodePath::Coordinator(CoordinatorId(id))),
        _ => NodePath::Other,
    }
}

/// The node as ZooKeeper would return it to `get`: JSON for most kinds, plain text for some; none if the node has no
/// payload (`null` in ZooKeeper's shell), or one that this release cannot decode.
pub fn json(path: &Path, node: &Node) -> Option<String> {
    let payload = &node.payload;
    let shown = match classify(path) {
        NodePath::Broker(id) => broker::json(id, node),
        NodePath::BrokerMemory(id) => broker_memory::json(id, payload),
        NodePath::Topic(_) => topic::json(payload),
        NodePath::Partition(..) => partition::json(payload),
        NodePath::Config(_) => config::json(payload),
        NodePath::Acl(_) => acl::json(payload),
        NodePath::Controller => controller::json(payload),
        NodePath::ControllerEpoch => controller_epoch::json(payload),
        NodePath::ClusterId => cluster_id::json(payload),
        NodePath::Feature => feature::json(payload),
        NodePath::Coordinator(_) => coordinator::json(payload),
        NodePath::ProducerIds => producer_ids::json(payload),
        NodePath::DelegationToken(id) => delegation_token::json(&id, payload),
        NodePath::SequenceId | NodePath::DeleteTopic(_) | NodePath::Other => return None,
    };
    shown.ok().filter(|text| !text.is_empty())
}

/// [`json`] of the node at a path of the tree; none if there is no node.
pub fn json_at(tree: &Tree, path: &Path) -> Option<String> {
    json(path, tree.get(path)?)
}

/// The top of the tree as Kafka 3.9 and ZooKeeper would show it, and the parents that hold nothing of their own.
pub const EMPTY_PARENTS: &[&str] = &[
    "/admin",
    "/admin/delete_topics",
    "/brokers",
    "/brokers/ids",
    "/brokers/topics",
    "/cluster",
    "/config",
    "/config/brokers",
    "/config/changes",
    "/config/clients",
    "/config/ips",
    "/config/topics",
    "/config/users",
    "/consumers",
    "/isr_change_notification",
    "/latest_producer_id_block",
    "/log_dir_event_notification",
    "/ottla",
    "/ottla/brokers",
    "/ottla/coordinators",
    "/ottla/requests",
];

fn to_json(value: &impl Serialize) -> Result<String, NodeError> {
    serde_json::to_string(value).map_err(|error| NodeError::field("json", error))
}

/// A map that keeps its order, as Kafka's JSON does.
struct Ordered<'a, V>(&'a [(String, V)]);

impl<V: Serialize> Serialize for Ordered<'_, V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_kinds() {
        let kind = |text| classify(&Path::new(text).expect("a valid path"));
        let topic = TopicName::new("a.b_c").expect("a valid name");
        assert_eq!(kind("/brokers/ids/1"), NodePath::Broker(BrokerId(1)));
        assert_eq!(kind("/brokers/ids/one"), NodePath::Other);
        assert_eq!(kind("/brokers/topics/a.b_c"), NodePath::Topic(topic.clone()));
        let state = partition::path(&topic, PartitionId(7));
        assert_eq!(state.as_str(), "/brokers/topics/a.b_c/partitions/7/state");
        assert_eq!(classify(&state), NodePath::Partition(topic, PartitionId(7)));
        assert_eq!(kind("/config/brokers/<default>"), NodePath::Config(ConfigEntity::default_broker()));
        assert_eq!(kind("/config/changes/config_change_0000000000"), NodePath::Other);
        assert_eq!(kind("/"), NodePath::Other);
    }

    #[test]
    fn empty_parents_are_paths_in_order() {
        assert!(EMPTY_PARENTS.is_sorted());
        assert!(EMPTY_PARENTS.iter().all(|text| Path::new(text).is_ok()));
    }
}
