//! Rules of the authorizer are added and removed.

use std::collections::{BTreeMap, BTreeSet};

use ottla_authorizer::{AclBinding, AclEntry, AclFilter, CLUSTER, ResourcePattern, ResourceType, Rules};
use ottla_model::{ErrorCode, Revision};

use super::draft::Draft;
use super::{Answer, Controller, CreateAcls, CreatedAcls, DeleteAcls, DeletedAcls, IdempotencyKey, Refusal, RequestId};
use crate::limits;
use crate::nodes;
use crate::tree::Tree;

impl Controller {
    pub(super) fn create_acls(&mut self, id: RequestId, request: CreateAcls, key: Option<IdempotencyKey>) {
        let asked = request.bindings.len();
        if asked > limits::MAX_ITEMS_PER_REQUEST {
            let refusals = (0..asked).map(|_| Some(too_many_items())).collect();
            return self.answer(id, Answer::CreateAcls(CreatedAcls { refusals, revision: Revision(0) }));
        }
        let mut planned = PlannedAcls::default();
        let refusals = request.bindings.iter().map(|binding| self.plan_acl(&mut planned, binding).err()).collect();
        let answer = Answer::CreateAcls(CreatedAcls { refusals, revision: Revision(0) });
        self.write_acls(planned, key, &answer);
        self.answer(id, answer);
    }

    fn plan_acl(&self, planned: &mut PlannedAcls, binding: &AclBinding) -> Result<(), Refusal> {
        check_acl(binding)?;
        let acls = self.ledger.ahead().acls();
        if self.ledger.is_full() || acls.len() + planned.added >= limits::MAX_ACLS {
            let text = format!("The cluster has {} ACLs; at most {} are possible.", acls.len(), limits::MAX_ACLS);
            return Err(Refusal::new(ErrorCode::PolicyViolation, text));
        }
        let plan = planned.by_pattern.entry(binding.pattern.clone()).or_insert_with(|| {
            let known = acls.rules(&binding.pattern).filter(|_| !self.config.rules.added_acls_replace);
            let rules = known.map(|rules| (**rules).clone()).unwrap_or_default();
            Plan { bytes: rules.entries().map(|entry| bytes_of(&entry)).sum(), rules, is_changed: false }
        });
        let bytes = plan.bytes + bytes_of(&binding.entry);
        // A rule that is there takes no more room.
        if plan.rules.contains(&binding.entry) {
            return Ok(());
        }
        if bytes > limits::MAX_ACL_NODE_BYTES {
            let most = limits::MAX_ACL_NODE_BYTES;
            let text = format!("The ACLs of the resource would have {bytes} bytes; at most {most} are possible.");
            return Err(Refusal::new(ErrorCode::PolicyViolation, text));
        }
        plan.rules.insert(&binding.entry);
        (plan.bytes, plan.is_changed) = (bytes, true);
        planned.added += 1;
        Ok(())
    }

    pub(super) fn delete_acls(&mut self, id: RequestId, request: DeleteAcls, key: Option<IdempotencyKey>) {
        if request.filters.len() > limits::MAX_FILTERS_PER_REQUEST {
            let filters = request.filters.iter().map(|_| Err(too_many_items())).collect();
            return self.answer(id, Answer::DeleteAcls(DeletedAcls { filters, revision: Revision(0) }));
        }
        let acls = self.ledger.ahead().acls();
        // What filters that overlap repeat is bounded: the answer must not be a multiple of all rules.
        let mut room = limits::MAX_ACLS;
        let mut matched = |filter: &AclFilter| {
            let found: Vec<AclBinding> = acls.matching(filter).take(room + 1).collect();
            if found.len() > room {
                return Err(too_many_items());
            }
            room -= found.len();
            Ok(found)
        };
        let filters: Vec<_> = request.filters.iter().map(&mut matched).collect();
        let mut removed: BTreeMap<&ResourcePattern, BTreeSet<&AclEntry>> = BTreeMap::new();
        for binding in filters.iter().flatten().flatten() {
            removed.entry(&binding.pattern).or_default().insert(&binding.entry);
        }
        let mut planned = PlannedAcls::default();
        for (pattern, entries) in removed {
            let Some(rules) = acls.rules(pattern) else { continue };
            let rules = rules.entries().filter(|entry| !entries.contains(entry)).collect();
            planned.by_pattern.insert(pattern.clone(), Plan { rules, bytes: 0, is_changed: true });
        }
        let answer = Answer::DeleteAcls(DeletedAcls { filters, revision: Revision(0) });
        self.write_acls(planned, key, &answer);
        self.answer(id, answer);
    }

    /// Writes the nodes, in as few entries as hold them; the last one has the answer, for a retry of the request.
    fn write_acls(&mut self, planned: PlannedAcls, key: Option<IdempotencyKey>, answer: &Answer) {
        let mut draft = Draft::default();
        for (pattern, plan) in planned.by_pattern.into_iter().filter(|(_, plan)| plan.is_changed) {
            let one = change_of(self.ledger.ahead_tree(), &pattern, &plan.rules);
            if !draft.append(one) {
                self.propose(std::mem::take(&mut draft));
                // An empty draft takes every node that is within its own limit.
                let one = change_of(self.ledger.ahead_tree(), &pattern, &plan.rules);
                let _ = draft.append(one);
            }
        }
        self.remember(&mut draft, key, answer);
        self.propose(draft);
    }
}

/// The rules that a request leaves, by pattern.
#[derive(Default)]
struct PlannedAcls {
    by_pattern: BTreeMap<ResourcePattern, Plan>,
    added: usize,
}

struct Plan {
    rules: Rules,
    bytes: usize,
    is_changed: bool,
}

fn change_of(tree: &Tree, pattern: &ResourcePattern, rules: &Rules) -> Draft {
    let (mut change, path) = (Draft::default(), nodes::acl::path(pattern));
    match rules.is_empty() {
        true => change.delete(tree, path),
        false => change.put(tree, path, nodes::acl::encode(rules)),
    }
    change
}

fn too_many_items() -> Refusal {
    Refusal::new(ErrorCode::PolicyViolation, String::new())
}

/// What a rule takes of its node.
fn bytes_of(entry: &AclEntry) -> usize {
    const FIELDS_BYTES: usize = 16;
    entry.principal.principal_type.len() + entry.principal.name.len() + entry.host.len() + FIELDS_BYTES
}

fn check_acl(binding: &AclBinding) -> Result<(), Refusal> {
    let AclBinding { pattern, entry } = binding;
    let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidRequest, text));
    let check = |what: &str, bytes: usize, most: usize| match bytes {
        0 => refuse(format!("Invalid empty {what}")),
        bytes if bytes > most => refuse(format!("The {what} has {bytes} bytes; at most {most} are possible.")),
        _ => Ok(()),
    };
    if pattern.resource_type == ResourceType::Cluster && pattern.name != CLUSTER {
        return refuse(format!("The only valid name for the CLUSTER resource is {CLUSTER}"));
    }
    check("resource name", pattern.name.len(), limits::MAX_ENTITY_NAME_BYTES)?;
    let principal = &entry.principal;
    check("principal", principal.principal_type.len() + principal.name.len(), limits::MAX_PRINCIPAL_BYTES)?;
    check("host", entry.host.len(), limits::MAX_REGISTRATION_TEXT_BYTES)
}
