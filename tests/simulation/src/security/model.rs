//! A plain model: all rules, credentials, tokens and quotas of the tree at one revision, in lists that are walked.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use ottla_authorizer::{
    AclBinding, Authorizer, Operation, PatternType, Permission, Requester, ResourcePattern, ResourceType,
};
use ottla_metadata::nodes::{self, NodePath};
use ottla_metadata::{ConfigEntity, ConfigKind, DelegationToken, Image, Path, Tree};
use ottla_model::{KafkaPrincipal, TimestampMs};

use super::ledger::Slot;

/// The parts of the tree that security is made of.
const PARENTS: [&str; 6] = [
    "/kafka-acl",
    "/kafka-acl-extended",
    "/delegation_token/tokens",
    "/config/users",
    "/config/clients",
    "/config/ips",
];

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Model {
    /// In order.
    pub acls: Vec<AclBinding>,
    pub tokens: BTreeMap<String, DelegationToken>,
    pub configs: BTreeMap<ConfigEntity, BTreeMap<String, String>>,
    /// Of the nodes that it was made from.
    pub fingerprint: u64,
}

fn paths() -> impl Iterator<Item = Path> {
    PARENTS.into_iter().filter_map(|parent| Path::new(parent).ok())
}

/// Changes with every node that a model is made from.
pub fn fingerprint(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, node) in paths().flat_map(|parent| tree.below(&parent).collect::<Vec<_>>()) {
        (path.as_str(), node.modified.0, node.version).hash(&mut hasher);
    }
    hasher.finish()
}

fn is_of_clients(kind: ConfigKind) -> bool {
    matches!(kind, ConfigKind::Users | ConfigKind::Clients | ConfigKind::UserClients | ConfigKind::Ips)
}

impl Model {
    /// An error of a node is one of the run: nothing here writes what cannot be read.
    pub fn of(tree: &Tree) -> Result<Self, String> {
        let mut model = Self { fingerprint: fingerprint(tree), ..Self::default() };
        for (path, node) in paths().flat_map(|parent| tree.below(&parent).collect::<Vec<_>>()) {
            let broken = |error: nodes::NodeError| format!("{}: {error}", path.as_str());
            match nodes::classify(path) {
                NodePath::Acl(pattern) => {
                    let rules = nodes::acl::decode(&node.payload).map_err(broken)?;
                    model.acls.extend(rules.entries().map(|entry| AclBinding { pattern: pattern.clone(), entry }));
                }
                NodePath::DelegationToken(id) => {
                    let token = nodes::delegation_token::decode(&node.payload).map_err(broken)?;
                    model.tokens.insert(id, token);
                }
                NodePath::Config(entity) => {
                    let entries = nodes::config::decode(&node.payload).map_err(broken)?;
                    model.configs.insert(entity, entries);
                }
                _ => {}
            }
        }
        model.acls.sort_unstable();
        Ok(model)
    }

    /// As Kafka's documentation has it: of the rules about the resource one that denies decides, else one that allows.
    pub fn is_allowed(
        &self,
        authorizer: &Authorizer,
        requester: &Requester,
        operation: Operation,
        resource_type: ResourceType,
        name: &str,
    ) -> bool {
        if authorizer.super_users.contains(&requester.principal) {
            return true;
        }
        let is_about = |pattern: &ResourcePattern| match pattern.pattern_type {
            PatternType::Literal => pattern.name == name || pattern.name == "*",
            PatternType::Prefixed => name.starts_with(&pattern.name),
        };
        let about = self.acls.iter().filter(|rule| rule.pattern.resource_type == resource_type);
        let about: Vec<_> = about.filter(|rule| is_about(&rule.pattern)).map(|rule| &rule.entry).collect();
        let concerns_all = KafkaPrincipal::user("*");
        let address = requester.address.to_string();
        let says = |permission, operations: &[Operation]| {
            about.iter().any(|rule| {
                rule.permission == permission
                    && (rule.principal == requester.principal || rule.principal == concerns_all)
                    && (rule.host == "*" || rule.host == address)
                    && operations.contains(&rule.operation)
            })
        };
        if says(Permission::Deny, &[Operation::All, operation]) {
            return false;
        }
        let implying: &[Operation] = match operation {
            Operation::Describe => {
                &[Operation::Read, Operation::Write, Operation::Delete, Operation::Alter, Operation::Describe]
            }
            Operation::DescribeConfigs => &[Operation::AlterConfigs, Operation::DescribeConfigs],
            _ => &[operation],
        };
        let is_open = about.is_empty() && authorizer.allow_everyone_if_no_acl_found;
        is_open || says(Permission::Allow, &[Operation::All]) || says(Permission::Allow, implying)
    }

    pub fn credential(&self, user: &str, mechanism: &str) -> Option<&str> {
        let entity = ConfigEntity { kind: ConfigKind::Users, name: user.to_owned() };
        self.configs.get(&entity)?.get(mechanism).map(String::as_str)
    }

    pub fn has_token(&self, id: &str, now: TimestampMs) -> bool {
        self.tokens.get(id).is_some_and(|token| now <= token.expires && now <= token.max)
    }

    /// What a place holds.
    pub fn value(&self, slot: &Slot) -> Option<String> {
        match slot {
            Slot::Acl(binding) => self.acls.binary_search(binding).ok().map(|_| String::new()),
            Slot::Token(id) => self.tokens.get(id).map(|_| String::new()),
            Slot::Config(entity, name) => self.configs.get(entity)?.get(name).cloned(),
        }
    }

    /// In what an image of the same revision differs.
    pub fn difference(&self, image: &Image) -> Option<String> {
        let everything = super::admin::every_rule();
        let mut acls: Vec<_> = image.acls().matching(&everything).collect();
        acls.sort_unstable();
        if acls != self.acls || image.acls().len() != self.acls.len() {
            return Some(format!("its index has {} rules {acls:?}, the tree {:?}", image.acls().len(), self.acls));
        }
        if !image.delegation_tokens().eq(self.tokens.iter().map(|(id, token)| (id.as_str(), token))) {
            return Some(format!("its tokens are not {:?}", self.tokens));
        }
        let configs = image.configs().filter(|(entity, _)| is_of_clients(entity.kind));
        if !configs.map(|(entity, config)| (entity, &config.entries)).eq(&self.configs) {
            return Some(format!("its users and clients are not {:?}", self.configs));
        }
        None
    }
}
