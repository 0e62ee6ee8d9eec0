//! A leader is dead and its successor not elected yet: what clients that ask for it are answered, and when.

use ottla_model::BrokerId;
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::kafka_protocol::messages::{
    DescribeTopicPartitionsRequest, FindCoordinatorRequest, MetadataRequest,
};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{decode_response, encode_request};

use super::harness::*;
use crate::groups::OFFSETS_TOPIC;

const METADATA_VERSION: i16 = 13;
const FIND_COORDINATOR_VERSION: i16 = 6;

fn topic_name(topic: &'static str) -> messages::TopicName {
    messages::TopicName(StrBytes::from_static_str(topic))
}

fn ask<'b, R: Request>(broker: &'b TestBroker, version: i16, request: &R) -> Asked<'b> {
    broker.dispatch(CLIENT, &encode_request(version, 1, None, request).expect("a small frame"))
}

fn answer<R: Request>(version: i16, asked: Asked<'_>) -> R::Response {
    decode_response::<R>(version, asked.frame()).expect("decodes").1
}

fn metadata_of(topics: Option<&[&'static str]>) -> MetadataRequest {
    let topic = |topic: &&'static str| MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
    MetadataRequest::default().with_topics(topics.map(|topics| topics.iter().map(topic).collect()))
}

/// The leader of the only partition of the only topic.
fn leader(asked: Asked<'_>) -> i32 {
    answer::<MetadataRequest>(METADATA_VERSION, asked).topics[0].partitions[0].leader_id.0
}

fn is_suspected(broker: &TestBroker, suspect: i32) -> bool {
    let metadata = &broker.broker.metadata;
    metadata.suspects().held(&metadata.peek()).is_some_and(|held| held.contains(BrokerId(suspect)))
}

/// Broker 1, which leads `t` and the groups' topic, is killed, and broker 2 has noticed. Broker 2 leads `other`.
fn after_a_kill() -> (Cluster, TestBroker) {
    // No hold ends before the test has said what it waits for.
    let mut cluster = Cluster::new(&[]);
    cluster.hold_max = 10 * PATIENCE;
    let mut brokers = cluster.start_all(&[1, 2]);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1, 2], &[]);
    cluster.quorum.create_topic("other", topic_id(2), 1, &[2, 1], &[]);
    cluster.quorum.create_topic(OFFSETS_TOPIC, topic_id(3), 1, &[1, 2], &[]);
    let produced = brokers[0].produce(TopicRef::Id(topic_id(1)), 0, &batch(&["both"]), -1, 60_000);
    assert!(produced.error.is_ok(), "{:?}", produced.error);
    brokers.remove(0).kill();
    let survivor = brokers.remove(0);
    eventually("its fetcher has lost the leader", || is_suspected(&survivor, 1));
    (cluster, survivor)
}

#[test]
fn metadata_that_would_name_a_dead_leader_waits_for_the_next() {
    let (cluster, broker) = after_a_kill();
    let mut held = ask(&broker, METADATA_VERSION, &metadata_of(Some(&["t"])));
    let mut all = ask(&broker, METADATA_VERSION, &metadata_of(None));
    assert!(!held.is_ready() && !all.is_ready());
    assert!(broker.broker.resources.held.used() > 0);
    assert!(ask(&broker, METADATA_VERSION, &metadata_of(Some(&["other"]))).is_immediate(), "its leader lives");
    assert!(ask(&broker, METADATA_VERSION, &metadata_of(Some(&[]))).is_immediate(), "brokers only");

    // Another image that changes nothing for it.
    cluster.quorum.create_topic("more", topic_id(4), 1, &[2], &[]);
    assert!(!held.is_ready());
    cluster.quorum.elect("t", 0, 2, &[2]);
    assert_eq!(leader(held), 2);
    assert!(!all.is_ready(), "the groups' topic has no other leader yet");
    cluster.quorum.elect(OFFSETS_TOPIC, 0, 2, &[2]);
    let topics = answer::<MetadataRequest>(METADATA_VERSION, all).topics;
    assert!(topics.iter().all(|topic| topic.partitions[0].leader_id.0 == 2));
    assert_eq!(broker.broker.resources.held.used(), 0);
    assert!(ask(&broker, METADATA_VERSION, &metadata_of(Some(&["t"]))).is_immediate());
}

#[test]
fn pages_of_partitions_wait_likewise() {
    let (cluster, broker) = after_a_kill();
    let request = |topic| {
        let topics = vec![TopicRequest::default().with_name(topic_name(topic))];
        DescribeTopicPartitionsRequest::default().with_topics(topics).with_response_partition_limit(10)
    };
    let mut held = ask(&broker, 0, &request("t"));
    assert!(!held.is_ready());
    assert!(ask(&broker, 0, &request("other")).is_immediate());
    cluster.quorum.elect("t", 0, 2, &[2]);
    let described = answer::<DescribeTopicPartitionsRequest>(0, held);
    assert_eq!(described.topics[0].partitions[0].leader_id.0, 2);
}

#[test]
fn the_search_for_a_coordinator_waits_for_the_next_one() {
    let (cluster, broker) = after_a_kill();
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str("g")]);
    let mut held = ask(&broker, FIND_COORDINATOR_VERSION, &request);
    assert!(!held.is_ready());
    cluster.quorum.elect(OFFSETS_TOPIC, 0, 2, &[2]);
    let found = answer::<FindCoordinatorRequest>(FIND_COORDINATOR_VERSION, held);
    assert_eq!((found.coordinators[0].error_code, found.coordinators[0].node_id.0), (0, 2));
}

/// A thousand keys of 32 KiB waited for half a second, a thousand times on each connection, and nothing counted them.
#[test]
fn a_search_that_finds_no_room_to_wait_is_answered_at_once() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str("g")]);
    let held = &broker.broker.resources.held;
    let all = held.take(held.ceiling()).expect("nothing waits");
    assert!(ask(&broker, FIND_COORDINATOR_VERSION, &request).is_immediate());
    drop(all);
}

/// A broker that this one alone lost for a moment is told of again, and at once.
#[test]
fn a_suspect_that_is_reached_again_is_named() {
    let mut cluster = Cluster::new(&[]);
    cluster.hold_max = 10 * PATIENCE;
    let brokers = cluster.start_all(&[1, 2]);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    let suspects = brokers[1].broker.metadata.suspects();
    suspects.suspect(BrokerId(1), cluster.quorum.epoch_of(1));
    let mut held = ask(&brokers[1], METADATA_VERSION, &metadata_of(Some(&["t"])));
    assert!(!held.is_ready());
    suspects.reached(BrokerId(1));
    assert_eq!(leader(held), 1);
}

/// The quorum elects nobody: the answer names the leader that it knows, when the hold is over.
#[test]
fn an_answer_is_not_held_for_ever() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    let (metadata, epoch) = (&brokers[1].broker.metadata, cluster.quorum.epoch_of(1));
    let mut asked = None;
    eventually("an answer was held", || {
        // A busy machine may take longer than the hold from the suspicion to the request.
        metadata.suspects().reached(BrokerId(1));
        metadata.suspects().suspect(BrokerId(1), epoch);
        let answer = ask(&brokers[1], METADATA_VERSION, &metadata_of(Some(&["t"])));
        asked = (!answer.is_immediate()).then_some(answer);
        asked.is_some()
    });
    assert_eq!(asked.map(leader), Some(1));
    assert!(ask(&brokers[1], METADATA_VERSION, &metadata_of(Some(&["t"]))).is_immediate(), "once for each outage");
}

#[test]
fn what_held_requests_take_is_bounded() {
    let mut cluster = Cluster::new(&[("max.memory.bytes", "268435456")]);
    cluster.hold_max = 10 * PATIENCE;
    let brokers = cluster.start_all(&[1, 2]);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    brokers[1].broker.metadata.suspects().suspect(BrokerId(1), cluster.quorum.epoch_of(1));
    let request = metadata_of(Some(&["t"]));
    let mut held = Vec::new();
    let refused = loop {
        let asked = ask(&brokers[1], METADATA_VERSION, &request);
        if asked.is_immediate() {
            break asked;
        }
        held.push(asked);
    };
    assert!(held.len() > 100, "{}", held.len());
    assert_eq!(leader(refused), 1, "as Kafka would");
    drop(held);
    assert!(!ask(&brokers[1], METADATA_VERSION, &request).is_immediate(), "there is room again");
}
