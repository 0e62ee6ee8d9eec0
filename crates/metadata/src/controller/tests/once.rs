//! Changes of rules, credentials and tokens whose answer was lost: the repeated request is answered as the first one,
//! and changes nothing again.

use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, EntryFilter, Operation, PatternFilter, PatternType, Permission, ResourceFilter,
    ResourcePattern, ResourceType,
};
use ottla_model::{ErrorCode, KafkaPrincipal, Revision};

use super::harness::*;
use crate::controller::*;
use crate::image::{ConfigEntity, ConfigKind};
use crate::limits;
use crate::nodes;

const MECHANISM: &str = "SCRAM-SHA-256";

fn rule(name: &str) -> AclBinding {
    AclBinding {
        pattern: ResourcePattern {
            resource_type: ResourceType::Topic,
            pattern_type: PatternType::Literal,
            name: name.to_owned(),
        },
        entry: AclEntry {
            principal: KafkaPrincipal::user("alice"),
            host: "*".to_owned(),
            operation: Operation::Read,
            permission: Permission::Allow,
        },
    }
}

fn add_rule(name: &str) -> Request {
    Request::CreateAcls(CreateAcls { bindings: vec![rule(name)] })
}

fn remove_rules(name: &str) -> Request {
    let pattern = ResourceFilter { resource_type: None, pattern: PatternFilter::Any, name: Some(name.to_owned()) };
    Request::DeleteAcls(DeleteAcls { filters: vec![AclFilter { pattern, entry: EntryFilter::default() }] })
}

fn user(name: &str) -> ConfigEntity {
    ConfigEntity { kind: ConfigKind::Users, name: name.to_owned() }
}

fn set(entity: ConfigEntity, name: &str, value: &str) -> AlterConfig {
    AlterConfig { entity, changes: vec![(name.to_owned(), ConfigOp::Set(value.to_owned()))], replace_all: false }
}

fn configs(entities: Vec<AlterConfig>) -> Request {
    Request::AlterConfigs(AlterConfigs { entities, validate_only: false })
}

fn password(value: &str) -> Request {
    configs(vec![set(user("alice"), MECHANISM, value)])
}

fn token(change: TokenChange) -> Request {
    Request::AlterDelegationToken(AlterDelegationToken { token_id: "t".to_owned(), change })
}

fn new_token() -> Request {
    let owner = KafkaPrincipal::user("alice");
    let (requester, renewers) = (owner.clone(), Vec::new());
    token(TokenChange::Create { owner, requester, renewers, lifetime_ms: 60_000, renewal_ms: 30_000 })
}

fn renewed(period_ms: i64) -> Request {
    token(TokenChange::Renew { by: KafkaPrincipal::user("alice"), period_ms })
}

fn ended_token() -> Request {
    token(TokenChange::Expire { by: KafkaPrincipal::user("alice"), period_ms: None })
}

fn once(key: u8, request: &Request) -> Request {
    Request::Once(IdempotencyKey([key; 16]), Box::new(request.clone()))
}

/// Everything of the tree but what is remembered of requests.
fn secured(cluster: &Cluster) -> Vec<(String, Vec<u8>)> {
    let is_memory = |path: &str| path.starts_with(nodes::decided_request::parent_path().as_str());
    let kept = cluster.tree.iter().filter(|(path, _)| !is_memory(path.as_str()));
    kept.map(|(path, node)| (path.as_str().to_owned(), node.payload.to_vec())).collect()
}

/// The same answer but for the revision, which a retry may only raise.
fn same(first: &Answer, again: &Answer) -> bool {
    let revision_of = |answer: &Answer| match answer {
        Answer::CreateAcls(created) => created.revision,
        Answer::DeleteAcls(deleted) => deleted.revision,
        Answer::AlterConfigs(altered) => altered.revision,
        Answer::AlterDelegationToken(Ok(altered)) => altered.revision,
        other => panic!("no change of security: {other:?}"),
    };
    let without = |answer: &Answer| {
        let mut answer = answer.clone();
        match &mut answer {
            Answer::CreateAcls(created) => created.revision = Revision(0),
            Answer::DeleteAcls(deleted) => deleted.revision = Revision(0),
            Answer::AlterConfigs(altered) => altered.revision = Revision(0),
            Answer::AlterDelegationToken(Ok(altered)) => altered.revision = Revision(0),
            other => panic!("no change of security: {other:?}"),
        }
        answer
    };
    revision_of(first).0 > 0 && revision_of(first) <= revision_of(again) && without(first) == without(again)
}

/// Each change is decided, another client undoes it, and it is repeated, at the same quorum leader and at the next.
/// Returns the changes that were made twice.
fn made_twice(rules: BrokenRules) -> Vec<&'static str> {
    let cases = [
        ("a rule is back", vec![], add_rule("t"), remove_rules("t")),
        ("a new rule is gone", vec![add_rule("t")], remove_rules("t"), add_rule("t")),
        ("a former password is good again", vec![password("old")], password("new"), password("newest")),
        ("a token is back", vec![], new_token(), ended_token()),
        ("a token lives on", vec![new_token()], renewed(50_000), renewed(1_000)),
    ];
    let mut twice = Vec::new();
    for (what, before, change, undoing) in cases {
        let mut cluster = Cluster::with(|config| config.rules = rules);
        before.into_iter().for_each(|request| drop(cluster.ask(request)));
        let first = cluster.ask(once(7, &change));
        cluster.ask(undoing);
        let expected = secured(&cluster);
        let again = cluster.ask(once(7, &change));
        cluster.change_leader_to_a_new_one();
        cluster.commit_all();
        let at_the_next = cluster.ask(once(7, &change));
        match secured(&cluster) == expected {
            true => assert!(same(&first, &again) && same(&first, &at_the_next), "{what}: {first:?}, then {again:?}"),
            false => twice.push(what),
        }
    }
    twice
}

#[test]
fn scenario_55_a_change_of_rules_passwords_and_tokens_is_made_once_however_often_it_is_sent() {
    assert_eq!(made_twice(BrokenRules::default()), [""; 0]);
    let broken = BrokenRules { changes_of_security_are_forgotten: true, ..BrokenRules::default() };
    assert_eq!(made_twice(broken).len(), 5, "the rule is taken out");
}

/// Seed 19014 of the simulation: memory was a matter of ten minutes by the wall clock.
#[test]
fn scenario_69_a_request_is_remembered_when_the_leaders_wall_clock_jumps() {
    let four_hours_ms = 4 * 3_600_000;
    for jump_ms in [four_hours_ms, -four_hours_ms] {
        let mut cluster = Cluster::new();
        let first = cluster.ask(once(7, &add_rule("t")));
        cluster.now.wall.0 += jump_ms;
        cluster.tick();
        cluster.ask(once(8, &remove_rules("t")));
        let expected = secured(&cluster);
        let again = cluster.ask(once(7, &add_rule("t")));
        assert!(same(&first, &again), "{first:?}, then {again:?}");
        assert_eq!(secured(&cluster), expected, "a rule is back after {jump_ms} ms");
    }
}

/// While the first attempt is in flight, and after the entry was lost with its leader.
#[test]
fn a_repeated_change_is_one_with_the_attempt_in_flight_and_is_made_if_that_one_was_lost() {
    for change in [add_rule("t"), password("one"), new_token()] {
        let mut cluster = Cluster::new();
        let before = cluster.transactions;
        let ids = [cluster.send(once(1, &change)), cluster.send(once(1, &change))];
        cluster.commit_all();
        let [first, second] = ids.map(|id| cluster.answers.remove(&id).expect("answered"));
        assert!(same(&first, &second), "{first:?}, then {second:?}");
        assert_eq!(cluster.transactions, before + 1);

        let mut cluster = Cluster::new();
        cluster.send(once(1, &change));
        cluster.change_leader();
        cluster.commit_all();
        assert!(secured(&cluster).len() <= secured(&Cluster::new()).len(), "nothing was committed");
        cluster.ask(once(1, &change));
        assert!(secured(&cluster).len() > secured(&Cluster::new()).len(), "it is made now");
    }
}

/// Outcomes that are partly refusals come back as they were, also where the last entity was not written.
#[test]
fn refusals_are_remembered_with_the_changes_beside_them() {
    let refused = set(user("b"), "unknown.quota", "1");
    let valid = set(user("a"), "producer_byte_rate", "7");
    let unchanged = set(user("c"), "producer_byte_rate", "9");
    for (key, entities) in
        [vec![refused.clone(), valid.clone()], vec![valid.clone(), refused], vec![valid, unchanged.clone()]]
            .into_iter()
            .enumerate()
    {
        let mut cluster = Cluster::new();
        cluster.ask(configs(vec![unchanged.clone()]));
        let request = once(u8::try_from(key).expect("few"), &configs(entities));
        let Answer::AlterConfigs(first) = cluster.ask(request.clone()) else { panic!("not the answer") };
        cluster.ask(configs(vec![set(user("a"), "producer_byte_rate", "8")]));
        let Answer::AlterConfigs(again) = cluster.ask(request) else { panic!("not the answer") };
        let codes = |outcomes: &ConfigOutcomes| -> Vec<_> {
            let error = |refusal: &Option<Refusal>| refusal.as_ref().map(|refusal| refusal.error);
            outcomes.entities.iter().map(|(entity, refusal)| (entity.clone(), error(refusal))).collect()
        };
        assert_eq!(codes(&first), codes(&again));
        let rate = cluster.image.config(&user("a")).and_then(|config| config.entries.get("producer_byte_rate"));
        assert_eq!(rate.map(String::as_str), Some("8"), "case {key}");
    }
    let mut cluster = Cluster::new();
    let nameless = AclBinding { pattern: ResourcePattern { name: String::new(), ..rule("t").pattern }, ..rule("t") };
    let create = once(1, &Request::CreateAcls(CreateAcls { bindings: vec![nameless, rule("t")] }));
    for _ in 0..2 {
        let Answer::CreateAcls(created) = cluster.ask(create.clone()) else { panic!("not the answer") };
        let errors: Vec<_> = created.refusals.iter().map(|one| one.as_ref().map(|refusal| refusal.error)).collect();
        assert_eq!(errors, [Some(ErrorCode::InvalidRequest), None]);
    }
}

/// A key belongs to one request: what is remembered under it answers no other kind.
#[test]
fn a_key_that_was_used_for_another_request_answers_nothing() {
    let mut cluster = Cluster::new();
    assert!(matches!(cluster.ask(once(1, &add_rule("t"))), Answer::CreateAcls(_)));
    assert!(matches!(cluster.ask(once(1, &configs(Vec::new()))), Answer::AlterConfigs(_)));
    assert!(matches!(cluster.ask(once(1, &remove_rules("t"))), Answer::DeleteAcls(_)));
    assert_eq!(cluster.image.acls().len(), 0);
    // As many outcomes as before, but of another number of rules.
    assert!(matches!(cluster.ask(once(2, &password("p"))), Answer::AlterConfigs(_)));
    let two = configs(vec![set(user("a"), MECHANISM, "a"), set(user("b"), MECHANISM, "b")]);
    let Answer::AlterConfigs(altered) = cluster.ask(once(2, &two)) else { panic!("not the answer") };
    assert_eq!(altered.entities.len(), 2);
    let two = Request::CreateAcls(CreateAcls { bindings: vec![rule("a"), rule("b")] });
    for (request, outcomes) in [(two, 2), (add_rule("c"), 1)] {
        let Answer::CreateAcls(created) = cluster.ask(once(3, &request)) else { panic!("not the answer") };
        assert_eq!(created.refusals.len(), outcomes);
    }
    let Request::DeleteAcls(DeleteAcls { filters }) = remove_rules("a") else { panic!("it removes rules") };
    let two = Request::DeleteAcls(DeleteAcls { filters: [filters.clone(), filters].concat() });
    for (request, outcomes) in [(two, 2), (remove_rules("b"), 1)] {
        let Answer::DeleteAcls(deleted) = cluster.ask(once(4, &request)) else { panic!("not the answer") };
        assert_eq!(deleted.filters.len(), outcomes);
    }
    assert_eq!(cluster.image.acls().len(), 1, "c is left");
}

#[test]
fn an_outcome_that_is_too_large_is_not_remembered_and_the_change_is_made() {
    let mut cluster = Cluster::new();
    let long = "n".repeat(limits::MAX_ENTITY_NAME_BYTES);
    let bindings: Vec<_> = (0..limits::MAX_REMEMBERED_BYTES / long.len() + 1)
        .map(|number| rule(&format!("{number}{}", &long[..long.len() - 8])))
        .collect();
    let count = bindings.len();
    for some in bindings.chunks(limits::MAX_ITEMS_PER_REQUEST) {
        cluster.ask(Request::CreateAcls(CreateAcls { bindings: some.to_vec() }));
    }
    assert_eq!(cluster.image.acls().len(), count);
    let pattern = ResourceFilter { resource_type: None, pattern: PatternFilter::Any, name: None };
    let all = AclFilter { pattern, entry: EntryFilter::default() };
    let Answer::DeleteAcls(deleted) = cluster.ask(once(1, &Request::DeleteAcls(DeleteAcls { filters: vec![all] })))
    else {
        panic!("not the answer")
    };
    assert_eq!(deleted.filters[0].as_ref().map(Vec::len), Ok(count));
    assert_eq!(cluster.image.acls().len(), 0);
    assert_eq!(cluster.tree.below(&nodes::decided_request::parent_path()).count(), 0);
}
