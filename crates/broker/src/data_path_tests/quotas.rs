//! Quotas: a client that is above its limit is told how long to wait, and its records and responses are whole.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ottla_metadata::{ConfigEntity, ConfigKind, nodes};
use ottla_model::{ErrorCode, PartitionId, TopicId};
use ottla_protocol::kafka_protocol::messages::create_topics_request::CreatableTopic;
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::{
    CreateTopicsRequest, DescribeClientQuotasRequest, DescribeConfigsRequest, MetadataRequest, TopicName,
};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::{decode_response, encode_request};

use super::harness::*;

fn set(cluster: &Cluster, entity: &ConfigEntity, quotas: &[(&str, &str)]) {
    let entries: BTreeMap<String, String> =
        quotas.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    cluster.quorum.commit(vec![(entity.path(), Some(nodes::config::encode(&entries)))]);
}

fn users() -> ConfigEntity {
    ConfigEntity { kind: ConfigKind::Users, name: "<default>".to_owned() }
}

fn answer<R: Request>(broker: &TestBroker, version: i16, request: &R) -> R::Response {
    let frame = encode_request(version, 1, None, request).expect("a small frame");
    decode_response::<R>(version, broker.dispatch(CLIENT, &frame).frame()).expect("decodes").1
}

/// The throttle time of a produce request with a record of this size.
fn produce(broker: &TestBroker, topic: u8, bytes: usize) -> i32 {
    let call = ProduceCall {
        transactional_id: None,
        acks: 1,
        timeout_ms: 1_000,
        topics: vec![(TopicRef::Id(topic_id(topic)), vec![(PartitionId(0), batch(&[&"v".repeat(bytes)]).freeze())])],
    };
    let frame = produce::encode_request(13, 7, None, &call).expect("a small frame");
    let response = broker.dispatch(CLIENT, &frame).frame();
    let (_, response) = produce::decode_response(13, &response).expect("a produce response");
    assert_eq!(response.topics[0].partitions[0].error, ErrorCode::None, "the records are appended");
    response.throttle_time_ms
}

#[test]
fn producers_and_consumers_above_their_limits_are_told_to_wait() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 1, &[1], &[]);
    assert_eq!(produce(&broker, 1, 100_000), 0, "no limit");
    set(&cluster, &users(), &[("producer_byte_rate", "1000"), ("consumer_byte_rate", "1000")]);
    // 10 s of the limit are there at once; five times as much waits for forty seconds and some for its other bytes.
    let told = produce(&broker, 1, 50_000);
    assert!((40_000..42_000).contains(&told), "{told}");
    // A fetch is not larger than what may be used within all windows, but for its first batch.
    let fetched = broker.fetch(&fetch_of(topic_id(1), vec![wanted(0, 0)]));
    let records = only(&fetched).records.as_ref().map_or(0, bytes::Bytes::len);
    assert!((100_000..120_000).contains(&records), "{records}");
    assert!(fetched.throttle_time_ms >= 89_000, "{}", fetched.throttle_time_ms);
    set(&cluster, &users(), &[]);
    assert_eq!(produce(&broker, 1, 50_000), 0, "the limit is gone");
}

#[test]
fn changes_above_their_limit_are_refused_to_new_clients() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    set(&cluster, &users(), &[("controller_mutation_rate", "1")]);
    let create = |name: &'static str| {
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(name)))
            .with_num_partitions(40)
            .with_replication_factor(1);
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000)
    };
    let first = answer(&broker, 7, &create("a"));
    assert_ne!(first.topics[0].error_code, ErrorCode::ThrottlingQuotaExceeded.code());
    let second = answer(&broker, 7, &create("b"));
    assert_eq!(second.topics[0].error_code, ErrorCode::ThrottlingQuotaExceeded.code());
    // 11 − 40 tokens, of which one comes back each second.
    assert!((1..=29_000).contains(&second.throttle_time_ms), "{}", second.throttle_time_ms);
    let old = answer(&broker, 5, &create("c"));
    assert_ne!(old.topics[0].error_code, ErrorCode::ThrottlingQuotaExceeded.code());
    assert!(old.throttle_time_ms > 29_000, "{}", old.throttle_time_ms);
}

/// What takes long is handled beside the workers, which nobody was charged for.
#[test]
fn time_beside_the_workers_is_charged_too() {
    const TOPIC: i8 = 2;
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let names: Vec<String> = (0..300).map(|number| format!("t{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let id = TopicId((1 + number as u128).to_be_bytes());
        cluster.quorum.create_topic(name, id, 1, &[2], &[]);
    }
    let of_topic = |name: &String| {
        let name = StrBytes::from_string(name.clone());
        DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(name)
    };
    let request = DescribeConfigsRequest::default().with_resources(names.iter().map(of_topic).collect());
    assert_eq!(answer(&broker, 4, &request).throttle_time_ms, 0, "no limit");
    // Some milliseconds are there at once: more than the worker takes to read the request.
    set(&cluster, &users(), &[("request_percentage", "0.05")]);
    let told = answer(&broker, 4, &request);
    assert!(told.throttle_time_ms > 0 && told.results.iter().all(|result| result.error_code == 0), "{told:?}");
}

/// The largest responses are made there, of Metadata.
#[test]
fn responses_that_are_made_beside_the_workers_are_charged_too() {
    const PARTITIONS: i32 = 10_000;
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), PARTITIONS, &[2], &[]);
    // A millisecond is there at once: more than the worker takes to read the request.
    set(&cluster, &users(), &[("request_percentage", "0.01")]);
    let told = answer(&broker, 12, &MetadataRequest::default().with_topics(None));
    assert!(told.throttle_time_ms > 0, "{}", told.throttle_time_ms);
    assert_eq!(told.topics[0].partitions.len(), PARTITIONS as usize);
}

/// Whoever had a network of IPv6 filled the accounts of addresses, and used up what all others had together.
#[test]
fn strangers_with_many_addresses_use_up_nobody_elses_connections() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let addresses = ConfigEntity { kind: ConfigKind::Ips, name: "<default>".to_owned() };
    set(&cluster, &addresses, &[("connection_creation_rate", "1")]);
    let quotas = &broker.broker.quotas;
    let address = |network: u128, at: u32| Ipv6Addr::from_bits(network << 80 | u128::from(at)).into();
    let refused = (0..11_000).filter(|at| !quotas.admits(address(0x2001_0db8_0001, *at))).count();
    assert!(refused > 500, "they share an account: {refused}");
    assert!(quotas.admits(address(0x2001_0db8_0002, 1)));
    assert!(quotas.admits([192, 0, 2, 1].into()));
}

#[test]
fn quotas_are_described_from_the_image() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    set(&cluster, &ConfigEntity::user_client("alice", "app"), &[("consumer_byte_rate", "5000"), ("other", "x")]);
    set(&cluster, &users(), &[]);
    let described = answer(&broker, 1, &DescribeClientQuotasRequest::default());
    let entries = described.entries.expect("entries");
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    let parts: Vec<_> = entry
        .entity
        .iter()
        .map(|part| (part.entity_type.as_str(), part.entity_name.as_ref().map(|name| name.as_str())))
        .collect();
    assert_eq!(parts, [("client-id", Some("app")), ("user", Some("alice"))]);
    let values: Vec<_> = entry.values.iter().map(|value| (value.key.as_str(), value.value)).collect();
    assert_eq!(values, [("consumer_byte_rate", 5_000.0)]);
}
