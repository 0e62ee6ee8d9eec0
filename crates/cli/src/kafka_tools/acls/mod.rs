//! `kafka-acls`: the rules of the authorizer.

mod plan;
mod rules;

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::process::ExitCode;

use ottla_authorizer::{AclBinding, AclEntry, AclFilter, EntryFilter, PatternFilter, ResourceFilter, ResourcePattern};
use ottla_model::KafkaPrincipal;

use super::options::{OptionSpec, Takes, flag, maybe_value, refused, value};
use super::zookeeper::Quorum;
use super::{ToolError, exceptions, run_tool};
use crate::kafka::Kafka;
use crate::out;
use plan::{Action, Place, Plan};
use rules::Rules;

pub(super) static SPECS: &[OptionSpec] = &[
    flag("add", "Indicates you are trying to add ACLs."),
    value(
        "allow-host",
        "String: allow-host",
        "Host from which principals listed in --allow-principal will have access. Default: '*', all hosts.",
    ),
    value(
        "allow-principal",
        "String: allow-principal",
        "A principal as principalType:name; User:'*' stands for all users.",
    ),
    value(
        "authorizer",
        "String: authorizer",
        "With --authorizer-properties: the authorizer's class; one of those that kept their rules in ZooKeeper.",
    ),
    value(
        "authorizer-properties",
        "String: authorizer-properties",
        "zookeeper.connect=host:port,…: the coordinators, instead of --bootstrap-server. The brokers need not run.",
    ),
    refused("bootstrap-controller", Takes::Value, "there are no KRaft controllers"),
    value("bootstrap-server", "String: server to connect to", "The Kafka servers to connect to."),
    flag("cluster", "Add/Remove cluster ACLs."),
    maybe_value("command-config", "String: command-config", "A file with a client's properties."),
    flag("consumer", "ACLs of a consumer: READ and DESCRIBE on the topic, READ on the group."),
    value("delegation-token", "String: delegation-token", "The token of the ACLs; '*': all tokens."),
    value(
        "deny-host",
        "String: deny-host",
        "Host from which principals listed in --deny-principal will be denied access. Default: '*', all hosts.",
    ),
    value(
        "deny-principal",
        "String: deny-principal",
        "A principal as principalType:name. Only who is allowed has access; a rule that denies wins over all that allow.",
    ),
    flag("force", "Assume Yes to all queries and do not prompt."),
    value("group", "String: group", "The consumer group of the ACLs; '*': all groups."),
    flag("help", "Print usage information."),
    flag("idempotent", "With --producer: the producer may be idempotent."),
    flag("list", "List ACLs, with --topic, --group or --cluster those of a resource."),
    value(
        "operation",
        "String",
        "The operation that is allowed or denied: All (the default), Alter, AlterConfigs, ClusterAction, Create, CreateTokens, Delete, Describe, DescribeConfigs, DescribeTokens, IdempotentWrite, Read, TwoPhaseCommit, Write.",
    ),
    maybe_value("principal", "String: principal", "With --list: only the ACLs of this principal."),
    flag("producer", "ACLs of a producer: WRITE, DESCRIBE and CREATE on the topic."),
    flag("remove", "Indicates you are trying to remove ACLs."),
    value(
        "resource-pattern-type",
        "ANY|MATCH|LITERAL|PREFIXED",
        "The type of the resource pattern, LITERAL by default. To list or remove also ANY, which compares the name only, or MATCH: every pattern that affects the resource.",
    ),
    value("topic", "String: topic", "The topic of the ACLs; '*': all topics."),
    value("transactional-id", "String: transactional-id", "The transactional id of the ACLs; '*': all of them."),
    value("user-principal", "String: user-principal", "The user of the ACLs, of whom tokens may be made or described."),
    flag("version", "Display the version."),
    value(
        "zk-tls-config-file",
        "String: file",
        "A file with zookeeper.ssl.client.enable and the like, for coordinators that are reached by TLS.",
    ),
];

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to manage acls on kafka.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan::plan, |plan| async move {
        match execute(&plan).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(ToolError::Kafka(error)) => {
                let shown = exceptions::shown(&error);
                out!("Error while executing ACL command: {shown}");
                out!("java.util.concurrent.ExecutionException: {shown}\nCaused by: {shown}");
                ExitCode::FAILURE
            }
            Err(error) => {
                out!("Error while executing ACL command: {error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

async fn execute(plan: &Plan) -> Result<(), ToolError> {
    let all = match &plan.at {
        Place::Brokers(bootstrap) => Rules::Brokers(Kafka::connect(bootstrap).await?),
        Place::Coordinators(coordinators) => Rules::Quorum(Quorum::at(coordinators)?),
    };
    match &plan.action {
        Action::Add(rules) => add(&all, rules).await,
        Action::Remove { rules, is_forced } => remove(&all, rules, *is_forced).await,
        Action::List { resources, principals } => list(&all, resources, principals).await,
    }
}

/// Rules that are there are named and not added again.
async fn add(all: &Rules, rules: &BTreeMap<ResourcePattern, Vec<AclEntry>>) -> Result<(), ToolError> {
    for (pattern, entries) in rules {
        let known = all.matching(&every_rule(filter_of(pattern))).await?;
        let mut added = Vec::new();
        for entry in entries {
            let binding = AclBinding { pattern: pattern.clone(), entry: entry.clone() };
            if known.contains(&binding) {
                out!("Acl (pattern={}, entry={}) already exists.", shown(pattern), shown_entry(entry));
            } else {
                added.push(binding);
            }
        }
        if added.is_empty() {
            continue;
        }
        out!("Adding ACLs for resource `{}`: \n {}\n", shown(pattern), lines(added.iter().map(|one| &one.entry)));
        all.create(&added).await?;
    }
    Ok(())
}

async fn remove(all: &Rules, rules: &[(ResourceFilter, Vec<AclEntry>)], is_forced: bool) -> Result<(), ToolError> {
    for (resource, entries) in rules {
        let named = shown_filter(resource);
        let question = match entries.is_empty() {
            true => format!("Are you sure you want to delete all ACLs for resource filter `{named}`? (y/n)"),
            false => format!(
                "Are you sure you want to remove ACLs: \n {}\n from resource filter `{named}`? (y/n)",
                lines(entries)
            ),
        };
        if !is_forced && !is_confirmed(&question) {
            continue;
        }
        let filters: Vec<AclFilter> = match entries.is_empty() {
            true => vec![every_rule(resource.clone())],
            false => entries.iter().map(|entry| AclFilter { pattern: resource.clone(), entry: only(entry) }).collect(),
        };
        all.delete(&filters).await?;
    }
    Ok(())
}

async fn list(all: &Rules, resources: &[ResourceFilter], principals: &[KafkaPrincipal]) -> Result<(), ToolError> {
    let every = || vec![ResourceFilter { resource_type: None, pattern: PatternFilter::Any, name: None }];
    let resources = if resources.is_empty() { every() } else { resources.to_vec() };
    let mut found: BTreeMap<ResourcePattern, Vec<AclEntry>> = BTreeMap::new();
    for resource in resources {
        for AclBinding { pattern, entry } in all.matching(&every_rule(resource)).await? {
            let entries = found.entry(pattern).or_default();
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
    }
    if principals.is_empty() {
        found.iter().for_each(|(pattern, entries)| show(pattern, entries));
    }
    for principal in principals {
        out!("ACLs for principal `{principal}`");
        for (pattern, entries) in &found {
            let entries: Vec<AclEntry> =
                entries.iter().filter(|entry| entry.principal == *principal).cloned().collect();
            if !entries.is_empty() {
                show(pattern, &entries);
            }
        }
    }
    Ok(())
}

fn is_confirmed(question: &str) -> bool {
    out!("{question}");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).is_ok()
        && line.trim_end_matches(['\r', '\n']).eq_ignore_ascii_case("y")
}

fn show(pattern: &ResourcePattern, entries: &[AclEntry]) {
    out!("Current ACLs for resource `{}`:\n{}\n", shown(pattern), lines(entries));
}

fn lines<'a>(entries: impl IntoIterator<Item = &'a AclEntry>) -> String {
    entries.into_iter().map(|entry| format!("\t{}", shown_entry(entry))).collect::<Vec<_>>().join("\n")
}

/// As Java writes it.
fn shown_entry(AclEntry { principal, host, operation, permission }: &AclEntry) -> String {
    let (operation, permission) = (operation.name(), permission.name());
    format!("(principal={principal}, host={host}, operation={operation}, permissionType={permission})")
}

fn shown(pattern: &ResourcePattern) -> String {
    shown_filter(&filter_of(pattern))
}

fn shown_filter(filter: &ResourceFilter) -> String {
    let pattern = match filter.pattern {
        PatternFilter::Any => "ANY",
        PatternFilter::Match => "MATCH",
        PatternFilter::Is(pattern_type) => pattern_type.name(),
    };
    let resource_type = filter.resource_type.map_or("ANY", |resource_type| resource_type.name());
    let name = filter.name.as_deref().unwrap_or("<any>");
    format!("ResourcePattern(resourceType={resource_type}, name={name}, patternType={pattern})")
}

fn filter_of(pattern: &ResourcePattern) -> ResourceFilter {
    ResourceFilter {
        resource_type: Some(pattern.resource_type),
        pattern: PatternFilter::Is(pattern.pattern_type),
        name: Some(pattern.name.clone()),
    }
}

fn every_rule(pattern: ResourceFilter) -> AclFilter {
    AclFilter { pattern, entry: EntryFilter::default() }
}

fn only(AclEntry { principal, host, operation, permission }: &AclEntry) -> EntryFilter {
    EntryFilter {
        principal: Some(principal.clone()),
        host: Some(host.clone()),
        operation: Some(*operation),
        permission: Some(*permission),
    }
}
