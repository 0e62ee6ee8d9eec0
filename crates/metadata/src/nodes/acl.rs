//! `/kafka-acl/TYPE/NAME` and `/kafka-acl-extended/prefixed/TYPE/NAME`: the rules about the resources of a pattern.

use bytes::Bytes;
use ottla_authorizer::{AclEntry, Operation, PatternType, Permission, ResourcePattern, ResourceType, Rules, WILDCARD};
use ottla_model::KafkaPrincipal;
use prost::Message;
use serde::Serialize;

use super::config::{decode_name, encode_name};
use super::{NodeError, to_json};
use crate::tree::Path;

pub fn path(pattern: &ResourcePattern) -> Path {
    // The wildcard is the node `*`, as in ZooKeeper. A prefix `*` is a prefix like others.
    let name = if pattern.name == WILDCARD { WILDCARD.to_owned() } else { encode_name(&pattern.name) };
    let resource_type = pattern.resource_type.node_name();
    Path::built(match pattern.pattern_type {
        PatternType::Literal => format!("/kafka-acl/{resource_type}/{name}"),
        PatternType::Prefixed => format!("/kafka-acl-extended/prefixed/{resource_type}/{name}"),
    })
}

pub(super) fn pattern_of(pattern_type: PatternType, resource_type: &str, name: &str) -> Option<ResourcePattern> {
    let resource_type = ResourceType::from_node_name(resource_type)?;
    Some(ResourcePattern { resource_type, pattern_type, name: decode_name(name)? })
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryPayload {
    #[prost(string, tag = "1")]
    principal_type: String,
    #[prost(string, tag = "2")]
    principal_name: String,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(int32, tag = "4")]
    operation: i32,
    #[prost(int32, tag = "5")]
    permission: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AclPayload {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<EntryPayload>,
}

pub fn encode(rules: &Rules) -> Bytes {
    let entries = rules.entries().map(|entry| EntryPayload {
        principal_type: entry.principal.principal_type.to_string(),
        principal_name: entry.principal.name.to_string(),
        host: entry.host,
        operation: entry.operation.code().into(),
        permission: entry.permission.code().into(),
    });
    AclPayload { entries: entries.collect() }.encode_to_vec().into()
}

/// A rule about an operation of a later release is left out: no request of this one asks for it. The others must
/// hold, above all those that deny.
pub fn decode(payload: &Bytes) -> Result<Rules, NodeError> {
    let entries = AclPayload::decode(payload.clone())?.entries.into_iter();
    let entry = |entry: EntryPayload| {
        Some(AclEntry {
            principal: KafkaPrincipal::new(entry.principal_type, entry.principal_name),
            host: entry.host,
            operation: i8::try_from(entry.operation).ok().and_then(Operation::from_code)?,
            permission: i8::try_from(entry.permission).ok().and_then(Permission::from_code)?,
        })
    };
    Ok(entries.filter_map(entry).collect())
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    acls: Vec<ShownEntry>,
}

#[derive(Serialize)]
struct ShownEntry {
    principal: String,
    #[serde(rename = "permissionType")]
    permission: &'static str,
    operation: &'static str,
    host: String,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let rules = decode(payload)?;
    let acls = rules.entries().map(|entry| ShownEntry {
        principal: entry.principal.to_string(),
        permission: entry.permission.node_name(),
        operation: entry.operation.node_name(),
        host: entry.host,
    });
    to_json(&Shown { version: 1, acls: acls.collect() })
}

#[cfg(test)]
mod tests {
    use super::super::{NodePath, classify};
    use super::*;

    fn pattern(resource_type: ResourceType, pattern_type: PatternType, name: &str) -> ResourcePattern {
        ResourcePattern { resource_type, pattern_type, name: name.to_owned() }
    }

    #[test]
    fn patterns_have_paths_and_come_back() {
        for name in ["orders", "*", "a/b", "..", "ü", "kafka-cluster", "<default>", "%2A"] {
            for resource_type in ResourceType::ALL {
                for pattern_type in PatternType::ALL {
                    let pattern = pattern(*resource_type, *pattern_type, name);
                    assert_eq!(classify(&path(&pattern)), NodePath::Acl(pattern));
                }
            }
        }
        let text = |pattern_type, name| path(&pattern(ResourceType::Topic, pattern_type, name)).as_str().to_owned();
        assert_eq!(text(PatternType::Literal, "*"), "/kafka-acl/Topic/*");
        assert_eq!(text(PatternType::Prefixed, "team-"), "/kafka-acl-extended/prefixed/Topic/team-");
    }

    #[test]
    fn rules_come_back_and_look_as_in_zookeeper() {
        let entry = AclEntry {
            principal: KafkaPrincipal::user("alice"),
            host: "*".to_owned(),
            operation: Operation::DescribeConfigs,
            permission: Permission::Allow,
        };
        let rules: Rules = [entry].into_iter().collect();
        assert_eq!(decode(&encode(&rules)), Ok(rules.clone()));
        let shown = r#"{"version":1,"acls":[{"principal":"User:alice","permissionType":"Allow","operation":"DescribeConfigs","host":"*"}]}"#;
        assert_eq!(json(&encode(&rules)).as_deref(), Ok(shown));
        let later = EntryPayload { operation: 99, permission: 3, ..EntryPayload::default() };
        let payload = AclPayload { entries: vec![later] }.encode_to_vec().into();
        assert_eq!(decode(&payload), Ok(Rules::default()));
    }
}
