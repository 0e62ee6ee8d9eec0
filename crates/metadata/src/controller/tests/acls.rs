//! Rules of the authorizer: added once, removed by filters, bounded, and seen by every image.

use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, Authorizer, EntryFilter, Operation, PatternFilter, PatternType, Permission,
    Requester, ResourceFilter, ResourcePattern, ResourceType,
};
use ottla_model::{ErrorCode, KafkaPrincipal};

use super::harness::*;
use crate::controller::*;
use crate::limits;
use crate::nodes;
use crate::tree::Path;

fn binding(resource_type: ResourceType, pattern_type: PatternType, name: &str, user: &str) -> AclBinding {
    let entry = AclEntry {
        principal: KafkaPrincipal::user(user),
        host: "*".to_owned(),
        operation: Operation::Read,
        permission: Permission::Allow,
    };
    AclBinding { pattern: ResourcePattern { resource_type, pattern_type, name: name.to_owned() }, entry }
}

fn topic(name: &str, user: &str) -> AclBinding {
    binding(ResourceType::Topic, PatternType::Literal, name, user)
}

fn create(cluster: &mut Cluster, bindings: Vec<AclBinding>) -> Vec<Option<ErrorCode>> {
    match cluster.ask(Request::CreateAcls(CreateAcls { bindings })) {
        Answer::CreateAcls(created) => {
            created.refusals.into_iter().map(|refusal| refusal.map(|refusal| refusal.error)).collect()
        }
        other => panic!("not the answer: {other:?}"),
    }
}

fn named(name: Option<&str>) -> AclFilter {
    let name = name.map(str::to_owned);
    let pattern = ResourceFilter { resource_type: None, pattern: PatternFilter::Any, name };
    AclFilter { pattern, entry: EntryFilter::default() }
}

fn delete(cluster: &mut Cluster, filters: Vec<AclFilter>) -> Vec<Result<usize, ErrorCode>> {
    match cluster.ask(Request::DeleteAcls(DeleteAcls { filters })) {
        Answer::DeleteAcls(deleted) => deleted
            .filters
            .into_iter()
            .map(|filter| filter.map(|removed| removed.len()).map_err(|refusal| refusal.error))
            .collect(),
        other => panic!("not the answer: {other:?}"),
    }
}

#[test]
fn rules_lie_where_zookeeper_had_them_and_hold_in_the_image() {
    let mut cluster = Cluster::of(1);
    let prefixed = binding(ResourceType::Group, PatternType::Prefixed, "team-", "bob");
    let bindings = vec![topic("orders", "alice"), topic("orders", "bob"), prefixed];
    assert_eq!(create(&mut cluster, bindings.clone()), [None; 3]);
    let shown = |path: &str| nodes::json_at(&cluster.tree, &Path::new(path).expect("a path"));
    let entry =
        |user: &str| format!(r#"{{"principal":"User:{user}","permissionType":"Allow","operation":"Read","host":"*"}}"#);
    let expected = format!(r#"{{"version":1,"acls":[{},{}]}}"#, entry("alice"), entry("bob"));
    assert_eq!(shown("/kafka-acl/Topic/orders"), Some(expected));
    let expected = format!(r#"{{"version":1,"acls":[{}]}}"#, entry("bob"));
    assert_eq!(shown("/kafka-acl-extended/prefixed/Group/team-"), Some(expected));
    let requester =
        Requester { principal: KafkaPrincipal::user("bob"), address: "127.0.0.1".parse().expect("an address") };
    let may_read = |cluster: &Cluster, resource_type, name: &str| {
        Authorizer::default().is_allowed(cluster.image.acls(), &requester, Operation::Read, resource_type, name)
    };
    assert!(may_read(&cluster, ResourceType::Topic, "orders") && may_read(&cluster, ResourceType::Group, "team-x"));
    assert!(!may_read(&cluster, ResourceType::Topic, "others"));
    // A rule that is there makes no change.
    let before = cluster.transactions;
    assert_eq!(create(&mut cluster, bindings), [None; 3]);
    assert_eq!((cluster.transactions, cluster.image.acls().len()), (before, 3));
}

#[test]
fn filters_remove_what_they_match_and_say_what_it_was() {
    let mut cluster = Cluster::of(1);
    create(&mut cluster, vec![topic("a", "alice"), topic("a", "bob"), topic("b", "alice")]);
    let alice = AclFilter {
        entry: EntryFilter { principal: Some(KafkaPrincipal::user("alice")), ..EntryFilter::default() },
        ..named(None)
    };
    assert_eq!(delete(&mut cluster, vec![named(Some("nothing")), named(Some("a")), alice]), [Ok(0), Ok(2), Ok(2)]);
    assert!(cluster.image.acls().is_empty());
    let path = Path::new("/kafka-acl/Topic/a").expect("a path");
    assert!(cluster.tree.get(&path).is_none(), "a pattern without rules has no node");
}

#[test]
fn rules_are_checked_and_bounded() {
    let mut cluster = Cluster::of(1);
    let cluster_named = |name| binding(ResourceType::Cluster, PatternType::Literal, name, "a");
    let longest = "t".repeat(limits::MAX_ENTITY_NAME_BYTES);
    let checked = vec![
        cluster_named("kafka-cluster"),
        cluster_named("other"),
        topic("", "a"),
        topic(&longest, "a"),
        topic(&format!("{longest}t"), "a"),
        topic("t", &"u".repeat(limits::MAX_PRINCIPAL_BYTES)),
    ];
    let invalid = Some(ErrorCode::InvalidRequest);
    assert_eq!(create(&mut cluster, checked), [None, invalid, invalid, None, invalid, invalid]);
    // The rules of one pattern are one node.
    let large = |at: usize| topic("full", &format!("{at:0>1000}"));
    let outcomes = create(&mut cluster, (0..1_100).map(large).collect());
    let taken = outcomes.iter().filter(|outcome| outcome.is_none()).count();
    assert!((900..1_100).contains(&taken), "{taken}");
    assert_eq!(outcomes.last(), Some(&Some(ErrorCode::PolicyViolation)));
    let many = vec![topic("t", "a"); limits::MAX_ITEMS_PER_REQUEST + 1];
    assert!(create(&mut cluster, many).iter().all(|outcome| *outcome == Some(ErrorCode::PolicyViolation)));
    let filters = vec![named(Some("nothing")); limits::MAX_FILTERS_PER_REQUEST];
    assert!(delete(&mut cluster, filters).iter().all(|outcome| *outcome == Ok(0)));
    let filters = vec![named(None); limits::MAX_FILTERS_PER_REQUEST + 1];
    let refused = delete(&mut cluster, filters);
    assert!(refused.iter().all(|outcome| *outcome == Err(ErrorCode::PolicyViolation)));
}

#[test]
fn a_cluster_has_as_many_rules_as_the_limit() {
    let mut cluster = Cluster::of(1);
    let rule = |at: usize| topic(&format!("t{}", at / 100), &format!("u{at}"));
    for from in (0..limits::MAX_ACLS).step_by(limits::MAX_ITEMS_PER_REQUEST) {
        let outcomes = create(&mut cluster, (from..from + limits::MAX_ITEMS_PER_REQUEST).map(rule).collect());
        assert!(outcomes.iter().all(Option::is_none));
    }
    assert_eq!(create(&mut cluster, vec![topic("one", "more")]), [Some(ErrorCode::PolicyViolation)]);
    // The second filter would repeat what the first one says.
    assert_eq!(
        delete(&mut cluster, vec![named(None), named(None)]),
        [Ok(limits::MAX_ACLS), Err(ErrorCode::PolicyViolation)]
    );
    assert!(cluster.image.acls().is_empty());
}

#[test]
fn the_rules_of_a_resource_have_as_many_bytes_as_the_limit() {
    const EACH: usize = 700;
    // Beside the user's name: "User", the host "*" and what a rule has of its own.
    const BESIDE_NAME: usize = 4 + 1 + 16;
    let rule = |bytes: usize, at: usize| topic("full", &format!("{at:0>width$}", width = bytes - BESIDE_NAME));
    let many = limits::MAX_ACL_NODE_BYTES / EACH;
    let left = limits::MAX_ACL_NODE_BYTES % EACH;
    assert!(left > BESIDE_NAME + 4, "room for one more");
    for (more, outcome) in [(0, None), (1, Some(ErrorCode::PolicyViolation))] {
        let mut cluster = Cluster::of(1);
        // In one request, and in several.
        let (first, second) = (many / 2, many - many / 2);
        assert_eq!(create(&mut cluster, (0..first).map(|at| rule(EACH, at)).collect()), vec![None; first]);
        assert_eq!(create(&mut cluster, (first..many).map(|at| rule(EACH, at)).collect()), vec![None; second]);
        assert_eq!(create(&mut cluster, vec![rule(left + more, many)]), [outcome]);
        assert_eq!(create(&mut cluster, vec![rule(EACH, 0)]), [None], "a rule that is there takes no more room");
    }
}
