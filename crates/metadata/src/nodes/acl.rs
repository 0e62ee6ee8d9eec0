//! `/kafka-acl/TYPE/NAME` and `/kafka-acl-extended/prefixed/TYPE/NAME`: the rules about the resources of a pattern.

use bytes::Bytes;
use ottla_authorizer::{
    AclBinding, AclEntry, Operation, PatternType, Permission, ResourcePattern, ResourceType, Rules, WILDCARD,
};
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
    let entries = rules.entries().map(entry_payload);
    AclPayload { entries: entries.collect() }.encode_to_vec().into()
}

#[derive(Clone, PartialEq, prost::Message)]
struct BindingPayload {
    #[prost(int32, tag = "1")]
    resource_type: i32,
    #[prost(int32, tag = "2")]
    pattern_type: i32,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, optional, tag = "4")]
    entry: Option<EntryPayload>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BindingsPayload {
    #[prost(message, repeated, tag = "1")]
    bindings: Vec<BindingPayload>,
}

fn entry_payload(entry: AclEntry) -> EntryPayload {
    EntryPayload {
        principal_type: entry.principal.principal_type.to_string(),
        principal_name: entry.principal.name.to_string(),
        host: entry.host,
        operation: entry.operation.code().into(),
        permission: entry.permission.code().into(),
    }
}

fn entry_of(entry: EntryPayload) -> Option<AclEntry> {
    Some(AclEntry {
        principal: KafkaPrincipal::new(entry.principal_type, entry.principal_name),
        host: entry.host,
        operation: i8::try_from(entry.operation).ok().and_then(Operation::from_code)?,
        permission: i8::try_from(entry.permission).ok().and_then(Permission::from_code)?,
    })
}

/// Rules of any patterns, for the memory of a request.
pub fn encode_bindings(bindings: &[AclBinding]) -> Bytes {
    let bindings = bindings.iter().map(|AclBinding { pattern, entry }| BindingPayload {
        resource_type: pattern.resource_type.code().into(),
        pattern_type: pattern.pattern_type.code().into(),
        name: pattern.name.clone(),
        entry: Some(entry_payload(entry.clone())),
    });
    BindingsPayload { bindings: bindings.collect() }.encode_to_vec().into()
}

pub fn decode_bindings(payload: &Bytes) -> Result<Vec<AclBinding>, NodeError> {
    let binding = |binding: BindingPayload| {
        let resource_type = i8::try_from(binding.resource_type).ok().and_then(ResourceType::from_code)?;
        let pattern_type = i8::try_from(binding.pattern_type).ok().and_then(PatternType::from_code)?;
        let pattern = ResourcePattern { resource_type, pattern_type, name: binding.name };
        Some(AclBinding { pattern, entry: entry_of(binding.entry?)? })
    };
    Ok(BindingsPayload::decode(payload.clone())?.bindings.into_iter().filter_map(binding).collect())
}

/// A rule about an operation of a later release is left out: no request of this one asks for it. The others must
/// hold, above all those that deny.
pub fn decode(payload: &Bytes) -> Result<Rules, NodeError> {
    let entries = AclPayload::decode(payload.clone())?.entries.into_iter();
    Ok(entries.filter_map(entry_of).collect())
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
    fn rules_of_any_patterns_come_back() {
        let of = |pattern_type, name: &str, permission| AclBinding {
            pattern: pattern(ResourceType::Group, pattern_type, name),
            entry: AclEntry {
                principal: KafkaPrincipal::user("a"),
                host: "*".to_owned(),
                operation: Operation::Read,
                permission,
            },
        };
        let rules =
            [of(PatternType::Literal, "*", Permission::Deny), of(PatternType::Prefixed, "g", Permission::Allow)];
        assert_eq!(decode_bindings(&encode_bindings(&rules)).as_deref(), Ok(&rules[..]));
        assert!(decode_bindings(&Bytes::from_static(&[0xFF])).is_err());
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
