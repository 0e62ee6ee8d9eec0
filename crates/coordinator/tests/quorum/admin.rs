//! `ottla.admin.v1`, the health service and reflection, at coordinators that lead and at others.

use std::time::Duration;

use ottla_rpc::AdminClient;
use ottla_rpc::admin::admin_client::AdminClient as Generated;
use ottla_rpc::admin::config_change::Change;
use ottla_rpc::admin::{
    AlterConfigRequest, ClusterHealthRequest, ConfigChange, ConfigResource, CreatePartitionsRequest,
    CreateTopicRequest, DeleteTopicRequest, DescribeConfigRequest, DescribeTopicRequest, ElectLeadersRequest, Health,
    ListBrokersRequest, ListGroupsRequest, ListPartitionsRequest, ListTopicsRequest, PartitionCondition,
    ReassignPartitionsRequest, Reassignment, Replicas, UnregisterBrokerRequest,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt as _;

use crate::harness::{PATIENCE, Quorum, TestBroker, create_topic};

async fn channel(quorum: &Quorum, id: u64) -> Channel {
    let address = format!("http://127.0.0.1:{}", quorum.port(id));
    Channel::from_shared(address).expect("an address").connect().await.expect("connected")
}

fn at(quorum: &Quorum, id: u64) -> AdminClient {
    AdminClient::new(&[format!("127.0.0.1:{}", quorum.port(id))]).expect("an address")
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| format!("{}/{}", info.domain, info.reason)).unwrap_or_default()
}

fn topic(name: &str, request_id: &str) -> CreateTopicRequest {
    CreateTopicRequest { name: name.to_owned(), request_id: request_id.to_owned(), ..CreateTopicRequest::default() }
}

/// Three coordinators, one broker, and the ids of the leader and of a follower.
async fn with_broker() -> (Quorum, TestBroker, u64, u64) {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let client = quorum.client();
    let broker = TestBroker::start(&client, 1).await;
    create_topic(&client, "first").await;
    let leader = quorum.leader().await;
    let follower = (1..=3).find(|id| *id != leader).expect("a follower");
    (quorum, broker, leader, follower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_one_request_at_any_coordinator() {
    let (mut quorum, _broker, leader, follower) = with_broker().await;
    let mut raw = Generated::new(channel(&quorum, follower).await);
    raw.create_topic(topic("once", "7")).await.expect("created");
    // The same request at another coordinator, and after the leader's end.
    let mut other = Generated::new(channel(&quorum, leader).await);
    other.create_topic(topic("once", "7")).await.expect("the request that was decided");
    quorum.kill(leader).await;
    raw.create_topic(topic("once", "7")).await.expect("the request that was decided");
    let status = raw.create_topic(topic("once", "8")).await.expect_err("another request");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "ottla/TOPIC_ALREADY_EXISTS"));
    let status = raw.create_topic(topic("once", &"x".repeat(200))).await.expect_err("a long id");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "ottla/INVALID_REQUEST_ID"));

    let delete = |id: &str| DeleteTopicRequest { name: "once".to_owned(), request_id: id.to_owned() };
    raw.delete_topic(delete("9")).await.expect("deleted");
    raw.delete_topic(delete("9")).await.expect("the request that was decided");
    let status = raw.delete_topic(delete("10")).await.expect_err("nothing is there");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "ottla/UNKNOWN_TOPIC_OR_PARTITION"));
}

/// Requests of a client that goes from leader to leader while they are killed: each topic is created once, and none
/// of the requests finds its own topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creations_survive_their_leader() {
    let (mut quorum, _broker, leader, follower) = with_broker().await;
    let admin = at(&quorum, follower);
    let creating = tokio::spawn(async move {
        for number in 0..40 {
            let name = format!("t-{number}");
            admin.create_topic(topic(&name, ""), PATIENCE).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    });
    let watched = at(&quorum, follower);
    let listed = || async {
        let request = ListTopicsRequest { prefix: "t-".to_owned(), ..ListTopicsRequest::default() };
        watched.list_topics(request, PATIENCE).await.expect("listed").topics.len()
    };
    while listed().await < 10 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    quorum.kill(leader).await;
    creating.await.expect("no panic");
    assert_eq!(listed().await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_come_in_pages() {
    let (quorum, _broker, _, follower) = with_broker().await;
    let mut raw = Generated::new(channel(&quorum, follower).await);
    for name in ["a-1", "a-2", "a-3", "b-1"] {
        raw.create_topic(CreateTopicRequest { partitions: 3, ..topic(name, "") }).await.expect("created");
    }
    let mut names = Vec::new();
    let mut request = ListTopicsRequest { page_size: 2, prefix: "a-".to_owned(), ..ListTopicsRequest::default() };
    request.read_mask = Some(prost_types::FieldMask { paths: vec!["name".to_owned()] });
    loop {
        let page = raw.list_topics(request.clone()).await.expect("a page").into_inner();
        assert!(page.topics.len() <= 2 && page.topics.iter().all(|topic| topic.topic_id.is_empty()));
        names.extend(page.topics.into_iter().map(|topic| topic.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a-1", "a-2", "a-3"]);

    let mut seen = Vec::new();
    let mut request = ListPartitionsRequest { page_size: 4, ..ListPartitionsRequest::default() };
    loop {
        let page = raw.list_partitions(request.clone()).await.expect("a page").into_inner();
        seen.extend(page.partitions.into_iter().map(|one| (one.topic, one.partition)));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    assert!(seen == sorted && seen.len() == 4 * 3 + 2, "{seen:?}");
    let one = ListPartitionsRequest { topic: "b-1".to_owned(), ..ListPartitionsRequest::default() };
    assert_eq!(raw.list_partitions(one).await.expect("a page").into_inner().partitions.len(), 3);
    let leaderless =
        ListPartitionsRequest { condition: PartitionCondition::Leaderless.into(), ..ListPartitionsRequest::default() };
    assert!(raw.list_partitions(leaderless).await.expect("a page").into_inner().partitions.is_empty());

    let describe = DescribeTopicRequest { name: "a-1".to_owned(), page_size: 2, ..DescribeTopicRequest::default() };
    let first = raw.describe_topic(describe.clone()).await.expect("described").into_inner();
    let rest = DescribeTopicRequest { page_token: first.next_page_token, ..describe };
    let rest = raw.describe_topic(rest).await.expect("described").into_inner();
    let of = |topic: Option<ottla_rpc::admin::Topic>| topic.map_or(0, |topic| topic.partitions.len());
    assert_eq!((of(first.topic), of(rest.topic), rest.next_page_token.as_str()), (2, 1, ""));

    for (request, wanted) in [
        (ListTopicsRequest { page_size: -1, ..ListTopicsRequest::default() }, "ottla/INVALID_PAGE_SIZE"),
        (ListTopicsRequest { page_token: "%".to_owned(), ..ListTopicsRequest::default() }, "ottla/INVALID_PAGE_TOKEN"),
        (
            ListTopicsRequest {
                read_mask: Some(prost_types::FieldMask { paths: vec!["size".to_owned()] }),
                ..ListTopicsRequest::default()
            },
            "ottla/INVALID_READ_MASK",
        ),
    ] {
        assert_eq!(reason(&raw.list_topics(request).await.expect_err("refused")), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_configurations_and_brokers_are_administered_at_a_follower() {
    let (quorum, broker, _, follower) = with_broker().await;
    let admin = at(&quorum, follower);
    let mut raw = Generated::new(channel(&quorum, follower).await);
    let more = CreatePartitionsRequest { topic: "first".to_owned(), total: 4, ..CreatePartitionsRequest::default() };
    admin.create_partitions(more, PATIENCE).await.expect("more");
    let fewer = CreatePartitionsRequest { topic: "first".to_owned(), total: 1, ..CreatePartitionsRequest::default() };
    assert_eq!(reason(&raw.create_partitions(fewer).await.expect_err("fewer")), "ottla/INVALID_PARTITIONS");
    let placed = CreateTopicRequest { assignments: vec![Replicas { brokers: vec![1] }; 2], ..topic("placed", "") };
    let created = admin.create_topic(placed, PATIENCE).await.expect("created").topic.expect("read back");
    assert_eq!(created.partitions.iter().map(|one| one.replicas.clone()).collect::<Vec<_>>(), [[1], [1]]);

    let resource = |kind: &str, name: &str| Some(ConfigResource { kind: kind.to_owned(), name: name.to_owned() });
    let change = |name: &str, change| ConfigChange { name: name.to_owned(), change: Some(change) };
    let alter =
        |kind, name, changes| AlterConfigRequest { resource: resource(kind, name), changes, validate_only: false };
    let set = vec![
        change("retention.ms", Change::Set("60000".to_owned())),
        change("cleanup.policy", Change::Append("compact".to_owned())),
    ];
    let revision = admin.alter_config(alter("topics", "first", set), PATIENCE).await.expect("altered").revision;
    quorum.caught_up(follower, revision).await;
    let describe = DescribeConfigRequest { resource: resource("topics", "first") };
    let entries = admin.describe_config(describe, PATIENCE).await.expect("described").entries;
    let entries: Vec<_> = entries.into_iter().map(|entry| (entry.name, entry.value)).collect();
    let wanted = [("cleanup.policy", "delete,compact"), ("retention.ms", "60000")];
    assert_eq!(entries, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let bad = alter("topics", "first", vec![change("retention.ms", Change::Set("soon".to_owned()))]);
    assert_eq!(reason(&raw.alter_config(bad).await.expect_err("no number")), "ottla/INVALID_CONFIG");
    let of_broker = alter("brokers", "1", vec![change("log.cleaner.threads", Change::Set("2".to_owned()))]);
    assert_eq!(reason(&raw.alter_config(of_broker).await.expect_err("at brokers")), "ottla/ALTERED_AT_BROKERS");
    let unknown = DescribeConfigRequest { resource: resource("planets", "earth") };
    assert_eq!(reason(&raw.describe_config(unknown).await.expect_err("no kind")), "ottla/INVALID_RESOURCE");

    let elected = admin.elect_leaders(ElectLeadersRequest { all: true, ..ElectLeadersRequest::default() }, PATIENCE);
    assert!(elected.await.expect("elected").outcomes.is_empty());
    let neither = raw.elect_leaders(ElectLeadersRequest::default()).await.expect_err("neither some nor all");
    assert_eq!(reason(&neither), "ottla/INVALID_PARTITIONS");
    let to = |brokers: &[i32]| ReassignPartitionsRequest {
        reassignments: vec![Reassignment {
            topic: "first".to_owned(),
            partition: 0,
            replicas: Some(Replicas { brokers: brokers.to_vec() }),
        }],
        allow_replication_factor_change: false,
    };
    let outcomes = admin.reassign_partitions(to(&[9]), PATIENCE).await.expect("an answer").outcomes;
    assert_eq!(outcomes[0].error, "INVALID_REPLICA_ASSIGNMENT");

    let listed = admin.list_brokers(ListBrokersRequest {}, PATIENCE).await.expect("listed").brokers;
    assert_eq!((listed.len(), listed[0].replicas, listed[0].leaders), (1, 6, 6));
    let live = UnregisterBrokerRequest { id: 7, ..UnregisterBrokerRequest::default() };
    let unknown = raw.unregister_broker(live).await.expect_err("no broker 7");
    assert_eq!(reason(&unknown), "ottla/BROKER_ID_NOT_REGISTERED");

    let healthy = admin.cluster_health(ClusterHealthRequest {}, PATIENCE).await.expect("judged");
    assert_eq!((healthy.health(), healthy.problems.as_slice()), (Health::Ok, &[] as &[String]));
    assert_eq!((healthy.partitions, healthy.live_brokers, healthy.quorum.len()), (6, 1, 3));
    drop(broker);
    let mut health = healthy;
    while health.fenced_brokers.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        health = admin.cluster_health(ClusterHealthRequest {}, PATIENCE).await.expect("judged");
    }
    assert_eq!(health.health(), Health::Critical);
    assert!(health.problems.iter().any(|problem| problem == "1 broker is down: 1"), "{:?}", health.problems);
    // What only brokers know is not made up.
    let status = raw.list_groups(ListGroupsRequest::default()).await.expect_err("no broker lives");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "ottla/NO_LIVE_BROKER"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_leadership() {
    let mut quorum = Quorum::new(3);
    quorum.start(1).await;
    let mut client = HealthClient::new(channel(&quorum, 1).await);
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let admin = "ottla.admin.v1.Admin";
    let process = client.check(of("")).await.expect("answered").into_inner();
    assert_eq!(process.status(), ServingStatus::Serving);
    let mut watch = client.watch(of(admin)).await.expect("watched").into_inner();
    let first = watch.next().await.expect("a status").expect("a status");
    assert_eq!(first.status(), ServingStatus::NotServing);
    quorum.start(2).await;
    quorum.start(3).await;
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("a status");
    assert_eq!(next.expect("a status").status(), ServingStatus::Serving);
    let unknown = client.check(of("ottla.admin.v9.Admin")).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_names_each_service() {
    let mut quorum = Quorum::new(1);
    quorum.start(1).await;
    let channel = channel(&quorum, 1).await;
    let ours = ["ottla.admin.v1.Admin", "ottla.cluster.v1.Cluster", "ottla.quorum.v1.Quorum", "grpc.health.v1.Health"];
    let mut newer = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut answers = newer.server_reflection_info(tokio_stream::iter([request])).await.expect("answered").into_inner();
    let answer = answers.next().await.expect("an answer").expect("an answer").message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}");
    };
    assert!(ours.iter().all(|name| list.service.iter().any(|listed| listed.name == *name)), "{list:?}");

    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut answers = older.server_reflection_info(tokio_stream::iter([request])).await.expect("answered").into_inner();
    let answer = answers.next().await.expect("an answer").expect("an answer").message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}");
    };
    assert!(ours.iter().all(|name| list.service.iter().any(|listed| listed.name == *name)), "{list:?}");
}
