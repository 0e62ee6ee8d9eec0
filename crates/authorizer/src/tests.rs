//! The decisions beside a naive model, Kafka's own cases, and the cost of a check.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ottla_model::KafkaPrincipal;
use proptest::prelude::*;

use crate::index::prefixes_of;
use crate::*;

const HOST: &str = "10.0.0.5";

fn requester(name: &str) -> Requester {
    Requester { principal: KafkaPrincipal::user(name), address: HOST.parse().expect("an address") }
}

fn rule(
    pattern_type: PatternType,
    name: &str,
    user: &str,
    host: &str,
    operation: Operation,
    permission: Permission,
) -> AclBinding {
    let pattern = ResourcePattern { resource_type: ResourceType::Topic, pattern_type, name: name.to_owned() };
    let entry = AclEntry { principal: KafkaPrincipal::user(user), host: host.to_owned(), operation, permission };
    AclBinding { pattern, entry }
}

fn allow(pattern_type: PatternType, name: &str, operation: Operation) -> AclBinding {
    rule(pattern_type, name, "alice", WILDCARD, operation, Permission::Allow)
}

fn deny(pattern_type: PatternType, name: &str, operation: Operation) -> AclBinding {
    rule(pattern_type, name, "alice", WILDCARD, operation, Permission::Deny)
}

fn index<'a>(bindings: impl IntoIterator<Item = &'a AclBinding>) -> AclIndex {
    let mut index = AclIndex::default();
    for AclBinding { pattern, entry } in bindings {
        let mut rules = index.rules(pattern).map(|rules| (**rules).clone()).unwrap_or_default();
        rules.insert(entry);
        index.set(pattern, rules);
    }
    index
}

/// The rules one after the other, as the description of Kafka's authorizer has them.
fn naive(
    bindings: &[AclBinding],
    authorizer: &Authorizer,
    requester: &Requester,
    operation: Operation,
    name: &str,
) -> bool {
    if authorizer.super_users.contains(&requester.principal) {
        return true;
    }
    let is_about = |pattern: &ResourcePattern| match pattern.pattern_type {
        PatternType::Literal => pattern.name == name || pattern.name == WILDCARD,
        PatternType::Prefixed => name.starts_with(&pattern.name),
    };
    let about: Vec<_> = bindings.iter().filter(|one| is_about(&one.pattern)).map(|binding| &binding.entry).collect();
    let is_for = |entry: &&&AclEntry| {
        let principal = entry.principal == requester.principal || entry.principal == KafkaPrincipal::user(WILDCARD);
        let host = entry.host == WILDCARD || entry.host.parse() == Ok(requester.address);
        principal && host
    };
    let names = |entry: &AclEntry, implied: &[Operation]| {
        entry.operation == Operation::All || entry.operation == operation || implied.contains(&entry.operation)
    };
    let implied: &[Operation] = match operation {
        Operation::Describe => &[Operation::Read, Operation::Write, Operation::Delete, Operation::Alter],
        Operation::DescribeConfigs => &[Operation::AlterConfigs],
        _ => &[],
    };
    let mut mine = about.iter().filter(is_for);
    if mine.clone().any(|entry| entry.permission == Permission::Deny && names(entry, &[])) {
        return false;
    }
    mine.any(|entry| entry.permission == Permission::Allow && names(entry, implied))
        || about.is_empty() && authorizer.allow_everyone_if_no_acl_found
}

fn binding() -> impl Strategy<Value = AclBinding> {
    let name = prop_oneof![Just(WILDCARD.to_owned()), "[ab]{1,4}", "[aü]{1,3}"];
    let user = prop_oneof![Just("alice"), Just("bob"), Just(WILDCARD)];
    let host = prop_oneof![Just(WILDCARD), Just(HOST), Just("10.0.0.6"), Just("no-address")];
    let operation = proptest::sample::select(Operation::ALL);
    let types = (proptest::sample::select(PatternType::ALL), proptest::sample::select(Permission::ALL));
    (types, name, user, host, operation).prop_map(|((pattern, permission), name, user, host, operation)| {
        rule(pattern, &name, user, host, operation, permission)
    })
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_naive_model(
        bindings in proptest::collection::vec(binding(), 0..12),
        name in prop_oneof!["[ab]{1,6}", "[aü]{1,4}"],
        user in prop_oneof![Just("alice"), Just("bob"), Just("root")],
        operation in proptest::sample::select(Operation::ALL),
        open in any::<bool>(),
    ) {
        let authorizer = Authorizer {
            super_users: BTreeSet::from([KafkaPrincipal::user("root")]),
            allow_everyone_if_no_acl_found: open,
            ..Authorizer::default()
        };
        let (index, requester) = (index(&bindings), requester(user));
        prop_assert_eq!(
            authorizer.is_allowed(&index, &requester, operation, ResourceType::Topic, &name),
            naive(&bindings, &authorizer, &requester, operation, &name)
        );
        let distinct: BTreeSet<&AclBinding> = bindings.iter().collect();
        prop_assert_eq!(index.len(), distinct.len());
        let every = AclFilter {
            pattern: ResourceFilter { resource_type: None, pattern: PatternFilter::Any, name: None },
            entry: EntryFilter::default(),
        };
        let listed: Vec<_> = index.matching(&every).collect();
        prop_assert_eq!(listed.iter().collect::<BTreeSet<_>>(), distinct);
        // Whatever is allowed for one name is allowed somewhere, but for what is only implied.
        let direct = !matches!(operation, Operation::Describe | Operation::DescribeConfigs);
        if direct && authorizer.is_allowed(&index, &requester, operation, ResourceType::Topic, &name) {
            let somewhere = authorizer.is_allowed_somewhere(&index, &requester, operation, ResourceType::Topic);
            prop_assert!(somewhere || open);
        }
    }

    #[test]
    fn a_rule_that_is_taken_away_is_gone(bindings in proptest::collection::vec(binding(), 1..12)) {
        let mut index = index(&bindings);
        for binding in &bindings {
            let rules = index.rules(&binding.pattern).map(|rules| rules.entries().collect::<Vec<_>>());
            let rest = rules.unwrap_or_default().into_iter().filter(|entry| *entry != binding.entry);
            index.set(&binding.pattern, rest.collect());
        }
        prop_assert_eq!(index, AclIndex::default());
    }
}

fn is_allowed(bindings: &[AclBinding], operation: Operation, name: &str) -> bool {
    Authorizer::default().is_allowed(&index(bindings), &requester("alice"), operation, ResourceType::Topic, name)
}

#[test]
fn operations_imply_others_only_where_they_allow() {
    for implies in [Operation::Read, Operation::Write, Operation::Delete, Operation::Alter] {
        assert!(is_allowed(&[allow(PatternType::Literal, "t", implies)], Operation::Describe, "t"));
    }
    let altered = [allow(PatternType::Literal, "t", Operation::AlterConfigs)];
    assert!(is_allowed(&altered, Operation::DescribeConfigs, "t") && !is_allowed(&altered, Operation::Describe, "t"));
    let denied =
        [deny(PatternType::Literal, "t", Operation::Read), allow(PatternType::Literal, "*", Operation::Describe)];
    assert!(is_allowed(&denied, Operation::Describe, "t") && !is_allowed(&denied, Operation::Read, "t"));
}

#[test]
fn a_resource_type_is_open_where_one_resource_of_it_is() {
    let somewhere = |bindings: &[AclBinding]| {
        let requester = requester("alice");
        Authorizer::default().is_allowed_somewhere(&index(bindings), &requester, Operation::Write, ResourceType::Topic)
    };
    use Operation::Write;
    use PatternType::{Literal, Prefixed};
    assert!(!somewhere(&[]));
    assert!(somewhere(&[allow(Literal, "t", Write)]));
    assert!(somewhere(&[allow(Literal, "*", Write), deny(Prefixed, "t", Write)]));
    assert!(!somewhere(&[allow(Literal, "t", Write), deny(Literal, "t", Write)]));
    assert!(!somewhere(&[allow(Literal, "team-t", Write), deny(Prefixed, "team", Write)]));
    assert!(!somewhere(&[allow(Prefixed, "team-t", Write), deny(Prefixed, "team", Write)]));
    assert!(somewhere(&[allow(Prefixed, "team", Write), deny(Prefixed, "team-t", Write)]));
    assert!(somewhere(&[allow(Prefixed, "t", Write), deny(Literal, "t", Write)]));
    assert!(!somewhere(&[allow(Literal, "t", Write), deny(Literal, "*", Write)]));
    assert!(!somewhere(&[allow(Literal, "t", Operation::Read)]));
}

#[test]
fn addresses_are_compared_and_not_their_texts() {
    let bindings = [rule(PatternType::Literal, "t", "alice", "0:0:0:0:0:0:0:1", Operation::Read, Permission::Allow)];
    let from = |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        let requester = Requester { principal: KafkaPrincipal::user("alice"), address };
        Authorizer::default().is_allowed(&index(&bindings), &requester, Operation::Read, ResourceType::Topic, "t")
    };
    assert!(from("::1") && !from("::2") && !from("127.0.0.1"));
}

#[test]
fn authorized_operations_are_kafkas_bits() {
    let operations = |bindings: &[AclBinding]| {
        let index = index(bindings);
        Authorizer::default().allowed_operations(&index, &requester("alice"), ResourceType::Topic, "t")
    };
    assert_eq!(operations(&[]), 0);
    assert_eq!(operations(&[allow(PatternType::Literal, "t", Operation::All)]), 3576);
    let read = 1 << Operation::Read.code() | 1 << Operation::Describe.code();
    assert_eq!(operations(&[allow(PatternType::Prefixed, "t", Operation::Read)]), read);
}

#[test]
fn filters_match_as_kafkas_do() {
    let bindings = [
        allow(PatternType::Literal, "team-a", Operation::Read),
        allow(PatternType::Prefixed, "team-", Operation::Read),
        allow(PatternType::Literal, "*", Operation::Read),
        allow(PatternType::Literal, "team-b", Operation::Write),
    ];
    let index = index(&bindings);
    let names = |pattern, name: Option<&str>, principal: Option<&str>| {
        let pattern =
            ResourceFilter { resource_type: Some(ResourceType::Topic), pattern, name: name.map(str::to_owned) };
        let principal = principal.map(KafkaPrincipal::user);
        let filter = AclFilter { pattern, entry: EntryFilter { principal, ..EntryFilter::default() } };
        index.matching(&filter).map(|binding| binding.pattern.name).collect::<Vec<_>>()
    };
    assert_eq!(names(PatternFilter::Any, None, None).len(), 4);
    assert_eq!(names(PatternFilter::Any, Some("team-a"), None), ["team-a"]);
    assert_eq!(names(PatternFilter::Match, Some("team-a"), None), ["*", "team-a", "team-"]);
    assert_eq!(names(PatternFilter::Is(PatternType::Prefixed), None, None), ["team-"]);
    assert_eq!(names(PatternFilter::Any, None, Some("alice")).len(), 4);
    assert_eq!(names(PatternFilter::Any, None, Some("alic")).len(), 0);
}

/// A check with 10,000 rules looks at the rules that match and at one entry beside each of them, not at the others.
#[test]
fn a_check_looks_at_few_entries_of_many() {
    let rules = Arc::new(Rules::default());
    let mut prefixes: OrdMap<String, Arc<Rules>> = OrdMap::new();
    for at in 0..10_000 {
        prefixes.insert(format!("team-{:02}-{:03}", at % 100, at / 100), rules.clone());
    }
    for more in ["team-", "team-42-", "team-42-007-orders"] {
        prefixes.insert(more.to_owned(), rules.clone());
    }
    let looked = |name: &str| {
        let mut found = 0;
        let steps = prefixes_of(&prefixes, name, |_| {
            found += 1;
            true
        });
        (found, steps)
    };
    assert_eq!(looked("team-42-007-orders-eu").0, 4);
    for name in ["team-42-007-orders-eu", "team-42-999", "team-77-013", "zzz", "team-42-007-order", "a"] {
        let (found, steps) = looked(name);
        assert!(steps <= 2 * found + 3, "{name}: {steps} steps for {found} rules");
    }
}
