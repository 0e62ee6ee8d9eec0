//! What a command line of `kafka-acls` asks for.

use std::collections::{BTreeMap, BTreeSet};

use ottla_authorizer::{
    AclEntry, CLUSTER, Operation, PatternFilter, PatternType, Permission, ResourceFilter, ResourcePattern,
    ResourceType, WILDCARD,
};
use ottla_model::KafkaPrincipal;

use crate::kafka_tools::ToolError;
use crate::kafka_tools::options::{Options, OptionsError};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub at: Place,
    pub action: Action,
}

/// Who is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Brokers(String),
    /// As tools of Kafka 3 and older name ZooKeeper.
    Coordinators(String),
}

/// Kafka's authorizers that kept their rules in ZooKeeper.
const ZOOKEEPERS_AUTHORIZERS: [&str; 2] =
    ["kafka.security.authorizer.AclAuthorizer", "kafka.security.auth.SimpleAclAuthorizer"];

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Add(BTreeMap<ResourcePattern, Vec<AclEntry>>),
    /// Without rules: all of the resource.
    Remove {
        rules: Vec<(ResourceFilter, Vec<AclEntry>)>,
        is_forced: bool,
    },
    List {
        resources: Vec<ResourceFilter>,
        principals: Vec<KafkaPrincipal>,
    },
}

fn usage<T>(text: impl Into<String>) -> Result<T, ToolError> {
    Err(ToolError::Usage(text.into()))
}

pub fn plan(options: &Options) -> Result<Plan, ToolError> {
    let at = place(options)?;
    check(options)?;
    let pattern = pattern(options)?;
    let action = if options.has("list") {
        let principals = principals(options, "principal")?;
        Action::List { resources: resources(options, pattern), principals }
    } else if options.has("remove") {
        Action::Remove { rules: rules(options, pattern)?.into_iter().collect(), is_forced: options.has("force") }
    } else {
        Action::Add(additions(options, pattern)?)
    };
    Ok(Plan { at, action })
}

fn place(options: &Options) -> Result<Place, ToolError> {
    let properties = options.pairs("authorizer-properties")?;
    let coordinators = properties.iter().find(|(name, _)| name == "zookeeper.connect").map(|(_, value)| value.clone());
    match (options.get("bootstrap-server"), coordinators) {
        (Some(_), _) if options.has("authorizer-properties") => {
            usage("Only one of --bootstrap-server or --authorizer-properties must be specified")
        }
        (Some(bootstrap), _) => Ok(Place::Brokers(bootstrap.to_owned())),
        (None, Some(coordinators)) => {
            let class = options.get("authorizer");
            if class.is_some_and(|class| !ZOOKEEPERS_AUTHORIZERS.contains(&class)) {
                return usage(format!("--authorizer: accepted is {}", ZOOKEEPERS_AUTHORIZERS.join(" or ")));
            }
            if let Some((name, _)) = properties.iter().find(|(name, _)| name != "zookeeper.connect") {
                return usage(format!("--authorizer-properties: accepted is zookeeper.connect, not {name}"));
            }
            Ok(Place::Coordinators(coordinators))
        }
        (None, None) => usage("One of --bootstrap-server or --bootstrap-controller must be specified"),
    }
}

/// Which options go together.
fn check(options: &Options) -> Result<(), ToolError> {
    if ["add", "remove", "list"].iter().filter(|name| options.has(name)).count() != 1 {
        return usage("Command must include exactly one action: --list, --add, --remove. ");
    }
    let conflicts: [(&'static str, &[&'static str]); 3] = [
        ("list", &["producer", "consumer", "allow-host", "allow-principal", "deny-host", "deny-principal"]),
        ("producer", &["operation", "deny-principal", "deny-host"]),
        ("consumer", &["operation", "deny-principal", "deny-host"]),
    ];
    for (one, others) in conflicts.into_iter().filter(|(one, _)| options.has(one)) {
        if let Some(other) = others.iter().find(|other| options.has(other)) {
            return Err(OptionsError::Conflict(one, other).into());
        }
    }
    if options.has("principal") && !options.has("list") {
        return usage("The --principal option is only available if --list is set");
    }
    if options.has("producer") && !options.has("topic") {
        return usage("With --producer you must specify a --topic");
    }
    if options.has("idempotent") && !options.has("producer") {
        return usage("The --idempotent option is only available if --producer is set");
    }
    let others = !options.has("producer") && (options.has("cluster") || options.has("transactional-id"));
    if options.has("consumer") && (!options.has("topic") || !options.has("group") || others) {
        return usage(
            "With --consumer you must specify a --topic and a --group and no --cluster or --transactional-id option should be specified.",
        );
    }
    Ok(())
}

fn pattern(options: &Options) -> Result<PatternFilter, ToolError> {
    let Some(text) = options.get("resource-pattern-type") else { return Ok(PatternFilter::Is(PatternType::Literal)) };
    match text.to_ascii_uppercase().as_str() {
        "ANY" => Ok(PatternFilter::Any),
        "MATCH" => Ok(PatternFilter::Match),
        name => match PatternType::parse(name) {
            Some(pattern_type) => Ok(PatternFilter::Is(pattern_type)),
            None => Err(OptionsError::Unparsable("resource-pattern-type", text.to_owned()).into()),
        },
    }
}

fn additions(options: &Options, pattern: PatternFilter) -> Result<BTreeMap<ResourcePattern, Vec<AclEntry>>, ToolError> {
    let PatternFilter::Is(pattern_type) = pattern else {
        let text = if pattern == PatternFilter::Any { "ANY" } else { "MATCH" };
        return usage(format!("A '--resource-pattern-type' value of '{text}' is not valid when adding acls."));
    };
    let mut additions = BTreeMap::new();
    for (filter, entries) in rules(options, pattern)? {
        if entries.is_empty() {
            return usage("You must specify one of: --allow-principal, --deny-principal when trying to add ACLs.");
        }
        let ResourceFilter { resource_type: Some(resource_type), name: Some(name), .. } = filter else { continue };
        // The cluster has a literal name, whatever the pattern of the others is.
        let pattern_type = if resource_type == ResourceType::Cluster { PatternType::Literal } else { pattern_type };
        additions.insert(ResourcePattern { resource_type, pattern_type, name }, entries);
    }
    Ok(additions)
}

/// The resources that the line names, each once.
fn resources(options: &Options, pattern: PatternFilter) -> Vec<ResourceFilter> {
    let named = [
        ("topic", ResourceType::Topic),
        ("group", ResourceType::Group),
        ("transactional-id", ResourceType::TransactionalId),
        ("delegation-token", ResourceType::DelegationToken),
        ("user-principal", ResourceType::User),
    ];
    let mut resources: Vec<ResourceFilter> = Vec::new();
    for (option, resource_type) in named {
        for name in options.all(option) {
            let name = Some(name.trim().to_owned());
            let resource = ResourceFilter { resource_type: Some(resource_type), pattern, name };
            if !resources.contains(&resource) {
                resources.push(resource);
            }
        }
    }
    let is_literal = pattern == PatternFilter::Is(PatternType::Literal);
    if is_literal && (options.has("cluster") || options.has("idempotent")) {
        resources.push(cluster());
    }
    resources
}

fn cluster() -> ResourceFilter {
    ResourceFilter {
        resource_type: Some(ResourceType::Cluster),
        pattern: PatternFilter::Is(PatternType::Literal),
        name: Some(CLUSTER.to_owned()),
    }
}

/// The rules of each resource.
fn rules(options: &Options, pattern: PatternFilter) -> Result<Vec<(ResourceFilter, Vec<AclEntry>)>, ToolError> {
    let resources = resources(options, pattern);
    if resources.is_empty() {
        return usage(
            "You must provide at least one resource: --topic <topic> or --cluster or --group <group> or --delegation-token <Delegation Token ID>",
        );
    }
    let (is_producer, is_consumer) = (options.has("producer"), options.has("consumer"));
    let mut rules = Vec::new();
    for resource in resources {
        let operations: BTreeSet<Operation> = match (is_producer || is_consumer, resource.resource_type) {
            (false, _) => operations(options)?,
            (true, Some(resource_type)) => {
                let of_role = |has_role, role: fn(ResourceType, bool) -> &'static [Operation]| {
                    if has_role { role(resource_type, options.has("idempotent")) } else { &[] }
                };
                let of_producer = of_role(is_producer, producer);
                of_producer.iter().chain(of_role(is_consumer, consumer)).copied().collect()
            }
            (true, None) => BTreeSet::new(),
        };
        // A resource that the role has no rules about is passed over.
        if operations.is_empty() {
            continue;
        }
        check_operations(resource.resource_type, &operations)?;
        let entries = entries(options, &operations)?;
        rules.push((resource, entries));
    }
    Ok(rules)
}

fn producer(resource_type: ResourceType, is_idempotent: bool) -> &'static [Operation] {
    match resource_type {
        ResourceType::Topic => &[Operation::Write, Operation::Describe, Operation::Create],
        ResourceType::TransactionalId => &[Operation::Write, Operation::Describe],
        ResourceType::Cluster if is_idempotent => &[Operation::IdempotentWrite],
        _ => &[],
    }
}

fn consumer(resource_type: ResourceType, _: bool) -> &'static [Operation] {
    match resource_type {
        ResourceType::Topic => &[Operation::Read, Operation::Describe],
        ResourceType::Group => &[Operation::Read],
        _ => &[],
    }
}

fn operations(options: &Options) -> Result<BTreeSet<Operation>, ToolError> {
    let named = options.all("operation");
    if named.is_empty() {
        return Ok(BTreeSet::from([Operation::All]));
    }
    let operation = |text: &String| {
        let unknown = || ToolError::from(OptionsError::Unparsable("operation", text.clone()));
        Operation::parse(text.trim()).ok_or_else(unknown)
    };
    named.iter().map(operation).collect()
}

fn check_operations(resource_type: Option<ResourceType>, operations: &BTreeSet<Operation>) -> Result<(), ToolError> {
    let Some(resource_type) = resource_type else { return Ok(()) };
    let supported = resource_type.operations();
    let is_supported = |operation: &Operation| *operation == Operation::All || supported.contains(operation);
    if operations.iter().all(is_supported) {
        return Ok(());
    }
    let mut names: Vec<&str> = supported.iter().map(|operation| operation.node_name()).collect();
    names.push(Operation::All.node_name());
    usage(format!("ResourceType {} only supports operations {}", resource_type.name(), names.join(", ")))
}

fn entries(options: &Options, operations: &BTreeSet<Operation>) -> Result<Vec<AclEntry>, ToolError> {
    let mut entries = Vec::new();
    for (permission, of_principals, of_hosts) in
        [(Permission::Allow, "allow-principal", "allow-host"), (Permission::Deny, "deny-principal", "deny-host")]
    {
        let hosts: BTreeSet<&str> = match options.all(of_hosts) {
            [] => BTreeSet::from([WILDCARD]),
            hosts => hosts.iter().map(|host| host.trim()).collect(),
        };
        for principal in principals(options, of_principals)? {
            for operation in operations {
                entries.extend(hosts.iter().map(|host| AclEntry {
                    principal: principal.clone(),
                    host: (*host).to_owned(),
                    operation: *operation,
                    permission,
                }));
            }
        }
    }
    Ok(entries)
}

fn principals(options: &Options, name: &'static str) -> Result<Vec<KafkaPrincipal>, ToolError> {
    let principal = |text: &String| {
        let text = text.trim();
        text.parse().map_err(|_| {
            ToolError::Argument(format!("expected a string in format principalType:principalName but got {text}"))
        })
    };
    let distinct: BTreeSet<KafkaPrincipal> = options.all(name).iter().map(principal).collect::<Result<_, _>>()?;
    Ok(distinct.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_tools::planned;

    fn line(line: &str) -> Result<Action, String> {
        planned(super::super::SPECS, &format!("--bootstrap-server k {line}"), plan).map(|plan| plan.action)
    }

    fn added(text: &str) -> Vec<(String, String)> {
        let Ok(Action::Add(additions)) = line(text) else { panic!("{:?}", line(text)) };
        let operations =
            |entries: Vec<AclEntry>| entries.iter().map(|entry| entry.operation.name()).collect::<Vec<_>>().join(",");
        let named = |pattern: ResourcePattern| format!("{} {}", pattern.resource_type.name(), pattern.name);
        additions.into_iter().map(|(pattern, entries)| (named(pattern), operations(entries))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn coordinators_are_named_as_zookeeper_was() {
        let at = |line: &str| planned(super::super::SPECS, &format!("--list {line}"), plan).map(|plan| plan.at);
        let class = "--authorizer kafka.security.authorizer.AclAuthorizer";
        let connect = "--authorizer-properties zookeeper.connect=z:2181/kafka";
        let expected = Ok(Place::Coordinators("z:2181/kafka".to_owned()));
        assert_eq!(at(connect), expected);
        assert_eq!(at(&format!("{class} {connect}")), expected);
        assert!(at(&format!("{connect} --bootstrap-server k:1")).is_err_and(|text| text.contains("Only one of")));
        assert!(at(&format!("{connect} --authorizer other.Authorizer")).is_err());
        assert!(at("--authorizer-properties zookeeper.set.acl=true").is_err());
        assert!(at(&format!("{connect} --authorizer-properties a=b")).is_err_and(|text| text.ends_with("not a")));
    }

    #[test]
    fn roles_have_kafkas_rules() {
        let producer = "--add --producer --allow-principal User:a --topic t";
        assert_eq!(added(producer), pairs(&[("TOPIC t", "WRITE,CREATE,DESCRIBE")]));
        assert_eq!(
            added(&format!("{producer} --transactional-id x --idempotent")),
            pairs(&[
                ("TOPIC t", "WRITE,CREATE,DESCRIBE"),
                ("CLUSTER kafka-cluster", "IDEMPOTENT_WRITE"),
                ("TRANSACTIONAL_ID x", "WRITE,DESCRIBE")
            ])
        );
        let consumer = "--add --consumer --allow-principal User:a --topic t --group g";
        assert_eq!(added(consumer), pairs(&[("TOPIC t", "READ,DESCRIBE"), ("GROUP g", "READ")]));
        assert_eq!(
            added(&format!("{consumer} --producer")),
            pairs(&[("TOPIC t", "READ,WRITE,CREATE,DESCRIBE"), ("GROUP g", "READ")])
        );
        assert_eq!(added("--add --allow-principal User:a --cluster"), pairs(&[("CLUSTER kafka-cluster", "ALL")]));
        let several = "--add --allow-principal User:a --deny-principal User:b --operation Read --operation alter-x";
        assert!(line(several).is_err());
        let several =
            "--add --allow-principal User:a --deny-principal User:b --operation Read --operation Write --topic t";
        assert_eq!(added(several), pairs(&[("TOPIC t", "READ,WRITE,READ,WRITE")]));
    }

    #[test]
    fn lines_that_kafkas_tool_refuses_are_refused_in_its_words() {
        let text = |text: &str| line(text).expect_err("wrong");
        assert_eq!(text("--topic t"), "Command must include exactly one action: --list, --add, --remove. ");
        assert_eq!(
            text("--add --topic t"),
            "You must specify one of: --allow-principal, --deny-principal when trying to add ACLs."
        );
        assert_eq!(
            text("--add --allow-principal User:a --resource-pattern-type match --topic t"),
            "A '--resource-pattern-type' value of 'MATCH' is not valid when adding acls."
        );
        assert!(text("--add --allow-principal User:a").starts_with("You must provide at least one resource"));
        assert_eq!(
            text("--add --allow-principal User:a --group g --operation Write"),
            "ResourceType GROUP only supports operations Read, Describe, Delete, DescribeConfigs, AlterConfigs, All"
        );
        assert_eq!(
            text("--list --allow-principal User:a"),
            "Option \"[list]\" can't be used with option \"[allow-principal]\""
        );
        assert_eq!(
            text("--remove --topic t --principal User:a"),
            "The --principal option is only available if --list is set"
        );
        assert!(text("--add --allow-principal a --topic t").contains("principalType:principalName"));
        assert!(planned(super::super::SPECS, "--list", plan).is_err());
    }

    #[test]
    fn what_is_removed_may_be_all_of_a_resource() {
        let Ok(Action::Remove { rules, is_forced }) = line("--remove --topic t --resource-pattern-type any --force")
        else {
            panic!("no removal")
        };
        assert!(is_forced && rules[0].1.is_empty());
        assert_eq!(rules[0].0.pattern, PatternFilter::Any);
    }
}
