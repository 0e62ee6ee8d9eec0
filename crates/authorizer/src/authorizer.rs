//! The decision: Kafka's `StandardAuthorizer`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ottla_model::KafkaPrincipal;

use crate::WILDCARD;
use crate::index::AclIndex;
use crate::rule::{Operation, PatternType, ResourceType};

/// Who asks, and from where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requester {
    pub principal: KafkaPrincipal,
    /// Canonical: an IPv4 address that came as a mapped one is an IPv4 address.
    pub address: IpAddr,
}

/// The settings of the decision, which do not change while a broker runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Authorizer {
    /// `super.users`: they may do everything.
    pub super_users: BTreeSet<KafkaPrincipal>,
    /// `allow.everyone.if.no.acl.found`: a resource that no rule is about is open.
    pub allow_everyone_if_no_acl_found: bool,
    pub broken: BrokenRules,
}

/// Rules that a simulation takes out to see that its checks notice. All hold by default; nothing but tests sets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// What denies by a prefix is overlooked.
    pub prefixes_do_not_deny: bool,
    /// One rule that allows wins over those that deny.
    pub allowing_wins: bool,
}

/// A name that no resource has: a rule about every resource is about it.
const NO_RESOURCE: &str = "hardcode";

impl Authorizer {
    pub fn is_super_user(&self, principal: &KafkaPrincipal) -> bool {
        self.super_users.contains(principal)
    }

    /// Whether the requester may execute the operation on the resource. A rule that denies wins over all that allow.
    pub fn is_allowed(
        &self,
        rules: &AclIndex,
        requester: &Requester,
        operation: Operation,
        resource_type: ResourceType,
        name: &str,
    ) -> bool {
        if self.is_super_user(&requester.principal) {
            return true;
        }
        let (mut has_rules, mut allowed, mut denied) = (false, false, false);
        rules.visit(resource_type, name, |pattern_type, rules| {
            let said = rules.said(&requester.principal, requester.address, operation);
            has_rules = true;
            allowed |= said.allowed;
            denied |= said.denied && !(self.broken.prefixes_do_not_deny && pattern_type == PatternType::Prefixed);
            !denied
        });
        (!denied || allowed && self.broken.allowing_wins)
            && (allowed || (!has_rules && self.allow_everyone_if_no_acl_found))
    }

    /// The operations that the requester may execute on a resource, as bits by their codes (KIP-430).
    pub fn allowed_operations(
        &self,
        rules: &AclIndex,
        requester: &Requester,
        resource_type: ResourceType,
        name: &str,
    ) -> i32 {
        let allowed = |operation: &&Operation| self.is_allowed(rules, requester, **operation, resource_type, name);
        resource_type.operations().iter().filter(allowed).fold(0, |bits, operation| bits | i32::from(operation.bit()))
    }

    /// Whether the requester may execute the operation on some resource of the type, existing or not (KIP-679).
    /// Operations are not implied here, as in Kafka. Costs a look at every pattern of the type.
    pub fn is_allowed_somewhere(
        &self,
        rules: &AclIndex,
        requester: &Requester,
        operation: Operation,
        resource_type: ResourceType,
    ) -> bool {
        if self.is_allowed(rules, requester, operation, resource_type, NO_RESOURCE) {
            return true;
        }
        let mut allowed: Vec<(PatternType, &str)> = Vec::new();
        let mut denied: BTreeMap<PatternType, BTreeSet<&str>> = BTreeMap::new();
        let mut is_open = false;
        for (pattern_type, name, rules) in rules.of_type(resource_type) {
            let said = rules.said_directly(&requester.principal, requester.address, operation);
            let is_every = pattern_type == PatternType::Literal && name == WILDCARD;
            if said.denied {
                if is_every {
                    return false;
                }
                denied.entry(pattern_type).or_default().insert(name);
            }
            if said.allowed {
                is_open |= is_every;
                allowed.push((pattern_type, name));
            }
        }
        let denies = |pattern_type, name: &str| denied.get(&pattern_type).is_some_and(|names| names.contains(name));
        let is_denied = |(pattern_type, name): &(PatternType, &str)| {
            let mut prefixes = name.char_indices().map(|(at, character)| &name[..at + character.len_utf8()]);
            prefixes.any(|prefix| denies(PatternType::Prefixed, prefix))
                || *pattern_type == PatternType::Literal && denies(PatternType::Literal, name)
        };
        is_open || allowed.iter().any(|pattern| !is_denied(pattern))
    }
}
