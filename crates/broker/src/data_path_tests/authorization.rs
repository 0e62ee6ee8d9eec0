//! The authorizer: every API is checked, nothing is told of topics that one may not see, and rules hold from the image
//! that has them on, also for fetch sessions that are open.

use std::sync::Arc;

use ottla_authorizer::{AclEntry, Operation, PatternType, Permission, ResourcePattern, ResourceType};
use ottla_metadata::nodes;
use ottla_model::{ErrorCode, KafkaPrincipal, TopicId};
use ottla_protocol::kafka_protocol::messages::*;
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::FetchRequest as Fetch;
use ottla_protocol::{Api, decode_response, encode_request};
use ottla_test_requests::{Ask, Names, authorized_operations};

use super::harness::*;
use crate::authorization::{Checked, requirements};

const AUTHORIZER: (&str, &str) = ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer");
const NEVER_MS: i32 = 60_000;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic_name(name: &'static str) -> TopicName {
    TopicName(text(name))
}

fn answer<R: Request>(broker: &TestBroker, version: i16, request: &R) -> R::Response {
    let frame = encode_request(version, 1, None, request).expect("a small frame");
    decode_response::<R>(version, broker.dispatch(CLIENT, &frame).frame()).expect("decodes").1
}

/// Rules for everybody about one resource; none removes them.
fn set_rules(cluster: &Cluster, pattern: &ResourcePattern, operations: &[Operation]) {
    let entry = |operation: &Operation| AclEntry {
        principal: KafkaPrincipal::user("*"),
        host: "*".to_owned(),
        operation: *operation,
        permission: Permission::Allow,
    };
    let rules = operations.iter().map(entry).collect();
    let payload = (!operations.is_empty()).then(|| nodes::acl::encode(&rules));
    cluster.quorum.commit(vec![(nodes::acl::path(pattern), payload)]);
}

fn allow(cluster: &Cluster, resource_type: ResourceType, name: &str, operations: &[Operation]) {
    set_rules(cluster, &ResourcePattern::literal(resource_type, name), operations);
}

/// Sends requests to the harness's broker.
struct Asking<'a>(&'a TestBroker);

impl Ask for Asking<'_> {
    fn ask<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        Ok(answer(self.0, version, request))
    }
}

fn names(topic: TopicId) -> Names {
    let topic_id = uuid::Uuid::from_bytes(topic.0);
    Names { topic: "t", topic_id, new_topic: "new", group: "g", transactional_id: "x" }
}

fn errors(broker: &TestBroker, api: Api, topic: TopicId) -> Vec<i16> {
    ottla_test_requests::errors(&mut Asking(broker), api, &names(topic)).expect("responses")
}

const DENIALS: [ErrorCode; 4] = [
    ErrorCode::TopicAuthorizationFailed,
    ErrorCode::GroupAuthorizationFailed,
    ErrorCode::ClusterAuthorizationFailed,
    ErrorCode::TransactionalIdAuthorizationFailed,
];

/// Refused on a listener that does not know who asks, whatever the rules are.
const OF_TOKENS: [Api; 4] =
    [Api::CreateDelegationToken, Api::RenewDelegationToken, Api::ExpireDelegationToken, Api::DescribeDelegationToken];

/// The table says what is checked; this sends each request without any rule, and again with rules for everything.
#[test]
fn every_api_is_checked() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1], &[]);
    let is_denial = |code: &i16| DENIALS.iter().any(|denial| denial.code() == *code);
    let left_out = [Api::ListGroups, Api::ListTransactions, Api::DescribeCluster];
    for &api in Api::ALL {
        let codes = errors(&broker, api, topic);
        if OF_TOKENS.contains(&api) {
            assert_eq!(codes, [ErrorCode::DelegationTokenRequestNotAllowed.code()], "{api:?}");
        } else if requirements(api) == [Checked::Nothing] || left_out.contains(&api) {
            assert!(codes.iter().all(|code| *code == 0), "{api:?}: {codes:?}");
        } else {
            assert!(!codes.is_empty() && codes.iter().all(is_denial), "{api:?}: {codes:?}");
        }
    }
    let operations = authorized_operations(&mut Asking(&broker), &names(topic)).expect("responses");
    assert_eq!(operations[0], 0, "none on the cluster");
    for resource_type in ResourceType::ALL {
        let name = if *resource_type == ResourceType::Cluster { "kafka-cluster" } else { "*" };
        allow(&cluster, *resource_type, name, &[Operation::All]);
    }
    // What the quorum of this harness does not decide is left out here.
    for api in [Api::Produce, Api::Fetch, Api::ListOffsets, Api::Metadata, Api::DescribeConfigs, Api::DescribeAcls] {
        let codes = errors(&broker, api, topic);
        assert!(!codes.iter().any(is_denial), "{api:?}: {codes:?}");
    }
}

#[test]
fn nothing_is_told_of_topics_that_one_may_not_see() {
    use metadata_request::MetadataRequestTopic;
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    for (at, name) in (1..).zip(["hidden", "team-a", "team-b"]) {
        cluster.quorum.create_topic(name, topic_id(at), 1, &[1], &[]);
    }
    let pattern = ResourcePattern {
        resource_type: ResourceType::Topic,
        pattern_type: PatternType::Prefixed,
        name: "team-".to_owned(),
    };
    set_rules(&cluster, &pattern, &[Operation::Read]);
    let ask = |names: Option<Vec<&'static str>>| {
        let topics = names.map(|names| {
            names.into_iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect()
        });
        let request = MetadataRequest::default()
            .with_topics(topics)
            .with_include_topic_authorized_operations(true)
            .with_allow_auto_topic_creation(true);
        let mut topics: Vec<_> = answer(&broker, 9, &request)
            .topics
            .into_iter()
            .map(|topic| (topic.name.expect("named").to_string(), topic.error_code, topic.topic_authorized_operations))
            .collect();
        topics.sort();
        topics
    };
    let read = 1 << Operation::Read.code() | 1 << Operation::Describe.code();
    let shown = [("team-a".to_owned(), 0, read), ("team-b".to_owned(), 0, read)];
    assert_eq!(ask(None), shown);
    let denied = ErrorCode::TopicAuthorizationFailed.code();
    let of = |name: &str| (name.to_owned(), denied, i32::MIN);
    // One that is there, and one that is not: alike.
    assert_eq!(ask(Some(vec!["hidden", "missing"])), [of("hidden"), of("missing")]);
    // One that would be created needs more than to be described.
    assert_eq!(ask(Some(vec!["team-new"])), [of("team-new")]);
    // By id nothing but the id is told.
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(uuid::Uuid::from_bytes(topic_id(1).0));
    let response = answer(&broker, 12, &MetadataRequest::default().with_topics(Some(vec![by_id])));
    assert_eq!((response.topics[0].error_code, response.topics[0].name.clone()), (denied, None));
}

/// A session is not checked with each fetch, and yet a rule that goes or comes holds from the next fetch on.
#[test]
fn a_fetch_session_follows_the_rules() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 2, &[1], &[]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    let opening = Fetch { session_epoch: 0, ..fetch_of(topic, vec![wanted(0, 0), wanted(1, 0)]) };
    let opened = broker.fetch(&opening);
    assert!(opened.topics[0].partitions.iter().all(|partition| partition.error.is_ok()));
    let mut epoch = 0;
    let mut next = || {
        epoch += 1;
        let request = Fetch { session_id: opened.session_id, session_epoch: epoch, ..fetch_of(topic, vec![]) };
        let response = broker.fetch(&request);
        let errors = response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error);
        errors.collect::<Vec<_>>()
    };
    assert_eq!(next(), []);
    allow(&cluster, ResourceType::Topic, "t", &[]);
    assert_eq!(next(), [ErrorCode::TopicAuthorizationFailed; 2]);
    // An error is told again, until it is none.
    assert_eq!(next(), [ErrorCode::TopicAuthorizationFailed; 2]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    broker.produce(TopicRef::Id(topic), 1, &batch(&["a"]), 1, NEVER_MS);
    assert!(next().iter().all(|error| error.is_ok()));
}

/// A rule that goes while a fetch waits: what is written then is not for its client any more.
#[test]
fn a_fetch_that_waits_is_answered_by_the_rules_of_its_end() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1], &[]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    let request = Fetch { max_wait_ms: NEVER_MS, ..fetch_of(topic, vec![wanted(0, 0)]) };
    let mut parked = broker.begin_fetch(CLIENT, &request);
    assert!(!parked.is_ready());
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Write]);
    let produced = broker.produce(TopicRef::Id(topic), 0, &batch(&["a"]), 1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    let fetched = parked.fetched();
    assert_eq!(fetched.topics[0].partitions[0].error, ErrorCode::TopicAuthorizationFailed);
}

/// The partitions of a session are checked when it opens and when a rule changes, not with each fetch.
#[test]
fn an_open_fetch_session_costs_no_checks() {
    const PARTITIONS: i32 = 300;
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, PARTITIONS, &[1], &[]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read]);
    let checks = || {
        let authorization = broker.broker.authorization.as_ref().expect("the authorizer is on");
        authorization.checks.swap(0, std::sync::atomic::Ordering::Relaxed)
    };
    let partitions = (0..PARTITIONS).map(|partition| wanted(partition, 0)).collect();
    let opened = broker.fetch(&Fetch { session_epoch: 0, ..fetch_of(topic, partitions) });
    assert!(checks() >= PARTITIONS.unsigned_abs().into());
    for epoch in 1..=5 {
        let request = Fetch { session_id: opened.session_id, session_epoch: epoch, ..fetch_of(topic, vec![]) };
        assert_eq!(broker.fetch(&request).error, ErrorCode::None);
        assert_eq!(checks(), 0, "fetch {epoch}");
    }
    allow(&cluster, ResourceType::Group, "g", &[Operation::Read]);
    for (epoch, expected) in [(6, PARTITIONS.unsigned_abs().into()), (7, 0)] {
        let request = Fetch { session_id: opened.session_id, session_epoch: epoch, ..fetch_of(topic, vec![]) };
        assert_eq!(broker.fetch(&request).error, ErrorCode::None);
        assert_eq!(checks(), expected, "fetch {epoch}");
    }
}

/// People's compose files: brokers talk without authentication, and are super users by that name.
#[test]
fn brokers_replicate_as_super_users() {
    let cluster = Cluster::new(&[AUTHORIZER, ("super.users", "User:ANONYMOUS")]);
    let brokers = cluster.start_all(&[1, 2]);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1, 2], &[]);
    let produced = brokers[0].produce(TopicRef::Id(topic), 0, &batch(&["a"]), -1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    eventually("the follower has it", || brokers[1].log_end(topic, 0).0 == 1);
}

/// Followers that are not allowed the cluster action get nothing; with it they do.
#[test]
fn followers_need_the_cluster_action() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let brokers = cluster.start_all(&[1, 2]);
    let topic = topic_id(1);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Write]);
    cluster.quorum.create_topic("t", topic, 1, &[1, 2], &[]);
    let produced = brokers[0].produce(TopicRef::Id(topic), 0, &batch(&["a"]), 1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    let held: Arc<_> = brokers[1].partition(topic, 0);
    assert_eq!(held.with_log(|log| log.log_end_offset().0), Some(0));
    allow(&cluster, ResourceType::Cluster, "kafka-cluster", &[Operation::ClusterAction]);
    eventually("the follower has it", || brokers[1].log_end(topic, 0).0 == 1);
}

#[test]
fn rules_are_described_by_filter() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    allow(&cluster, ResourceType::Cluster, "kafka-cluster", &[Operation::Describe]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    let any = DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_pattern_type_filter(1)
        .with_resource_name_filter(None)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let response = answer(&broker, 3, &any);
    let named: Vec<_> = response.resources.iter().map(|one| (one.resource_name.as_str(), one.acls.len())).collect();
    assert_eq!(named, [("t", 2), ("kafka-cluster", 1)]);
    let of_topics = any.clone().with_resource_type_filter(2).with_operation(4);
    assert_eq!(answer(&broker, 3, &of_topics).resources[0].acls[0].principal.as_str(), "User:*");
    assert_eq!(answer(&broker, 3, &any.with_operation(99)).error_code, ErrorCode::InvalidRequest.code());
}

/// A produce request to several topics is refused for those that may not be written only.
#[test]
fn what_may_be_written_is_written() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    for (at, name) in (1..).zip(["a", "b"]) {
        cluster.quorum.create_topic(name, topic_id(at), 1, &[1], &[]);
    }
    allow(&cluster, ResourceType::Topic, "b", &[Operation::Write]);
    let produced = |at| broker.produce(TopicRef::Id(topic_id(at)), 0, &batch(&["v"]), 1, NEVER_MS);
    assert_eq!((produced(1).error, produced(2).error), (ErrorCode::TopicAuthorizationFailed, ErrorCode::None));
    assert_eq!((broker.log_end(topic_id(1), 0).0, broker.log_end(topic_id(2), 0).0), (0, 1));
    let named = broker.produce(TopicRef::Name("missing".to_owned()), 0, &batch(&["v"]), 1, NEVER_MS);
    assert_eq!(named.error, ErrorCode::TopicAuthorizationFailed, "whether it is there is not told");
    let transactional =
        broker.begin_produce_in(12, Some("x"), TopicRef::Name("b".to_owned()), 0, &batch(&["v"]), 1, NEVER_MS);
    assert_eq!(transactional.produced().error, ErrorCode::TransactionalIdAuthorizationFailed);
}

/// A name that may be described is known to be free or not; others are refused alike.
#[test]
fn deletions_tell_no_more_than_descriptions() {
    use delete_topics_request::DeleteTopicState;
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("seen", topic_id(1), 1, &[1], &[]);
    cluster.quorum.create_topic("hidden", topic_id(2), 1, &[1], &[]);
    for name in ["seen", "free"] {
        allow(&cluster, ResourceType::Topic, name, &[Operation::Describe]);
    }
    let delete = |asked: DeleteTopicState| {
        let request = DeleteTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1_000);
        let told = answer(&broker, 6, &request).responses.remove(0);
        (told.name.map(|name| name.to_string()), told.error_code)
    };
    let by_name = |name| delete(DeleteTopicState::default().with_name(Some(topic_name(name))));
    let by_id = |at| {
        let id = uuid::Uuid::from_bytes(topic_id(at).0);
        delete(DeleteTopicState::default().with_name(None).with_topic_id(id))
    };
    let denied = ErrorCode::TopicAuthorizationFailed.code();
    let named = |name: &str, code| (Some(name.to_owned()), code);
    assert_eq!(by_name("seen"), named("seen", denied));
    assert_eq!(by_name("free"), named("free", ErrorCode::UnknownTopicOrPartition.code()));
    assert_eq!(by_name("hidden"), named("hidden", denied));
    assert_eq!(by_name("missing"), named("missing", denied));
    assert_eq!((by_id(1), by_id(2)), (named("seen", denied), (None, denied)));
}

/// The id of a topic that was created a moment ago is known to some brokers, and not yet to this one. What is asked of
/// it is decided by the image of the rules, and done by a later one, which knows it.
#[test]
fn a_topic_id_that_is_not_known_yet_allows_nothing() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let access = broker.broker.access(&broker.context(CLIENT));
    cluster.quorum.create_topic("new", topic_id(1), 1, &[1], &[]);
    let new = TopicRef::Id(topic_id(1));
    for operation in [Operation::Read, Operation::Write, Operation::Describe] {
        assert_eq!(access.topic_ref(operation, &new), Err(ErrorCode::UnknownTopicId), "{operation:?}");
        let later = broker.broker.access(&broker.context(CLIENT));
        assert_eq!(later.topic_ref(operation, &new), Err(ErrorCode::TopicAuthorizationFailed), "{operation:?}");
    }
    let asked = delete_topics_request::DeleteTopicState::default()
        .with_name(None)
        .with_topic_id(uuid::Uuid::from_bytes(topic_id(9).0));
    let request = DeleteTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1_000);
    let told = answer(&broker, 6, &request).responses.remove(0);
    assert_eq!(told.error_code, ErrorCode::UnknownTopicId.code());
}

/// Who may not follow learns from a fetch as a replica neither which brokers there are nor their epochs.
#[test]
fn a_fetch_as_a_replica_tells_strangers_nothing() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1], &[]);
    for claimed in [1, 2, 900] {
        let request = Fetch { replica_id: ottla_model::BrokerId(claimed), ..fetch_of(topic, vec![wanted(0, 0)]) };
        let error = broker.begin_fetch(INTERNAL, &request).fetched().error;
        assert_eq!(error, ErrorCode::ClusterAuthorizationFailed, "{claimed}");
    }
}
