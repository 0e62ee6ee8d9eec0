//! The APIs that clients look for, and admin requests for what this release does not have: the response is that of a
//! Kafka cluster that does not use it.

use ottla_model::ErrorCode;
use ottla_protocol::kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use ottla_protocol::kafka_protocol::messages::{
    DescribeAclsRequest, DescribeClientQuotasRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ListPartitionReassignmentsRequest, SaslHandshakeRequest, TopicName, TransactionalId,
};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::{Api, VersionRange, decode_response, encode_request};

use super::amplification::repeating;
use super::harness::*;
use crate::transactions::STATE_TOPIC;

fn answer<R: Request>(broker: &TestBroker, version: i16, request: &R) -> R::Response {
    let frame = encode_request(version, 1, None, request).expect("a small frame");
    decode_response::<R>(version, broker.dispatch(CLIENT, &frame).frame()).expect("decodes").1
}

/// B16: topicctl runs only where this is answered.
#[test]
fn no_reassignment_is_listed_with_or_without_topics() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", topic_id(1), 2, &[1], &[]);
    let topic = ListPartitionReassignmentsTopics::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partition_indexes(vec![0, 1]);
    for topics in [None, Some(vec![topic])] {
        let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(1_000).with_topics(topics);
        let response = answer(&broker, 0, &request);
        assert_eq!((response.error_code, response.error_message), (0, None));
        assert!(response.topics.is_empty());
    }
}

#[test]
fn there_are_no_quotas_and_no_authorizer() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    for version in 0..=1 {
        let response = answer(&broker, version, &DescribeClientQuotasRequest::default());
        assert_eq!((response.error_code, response.error_message), (0, None));
        assert_eq!(response.entries, Some(Vec::new()));
    }
    // A login is known, and not possible here.
    let login = SaslHandshakeRequest::default().with_mechanism("PLAIN".into());
    for version in 0..=1 {
        let refused = answer(&broker, version, &login);
        assert_eq!((refused.error_code, refused.mechanisms.len()), (ErrorCode::IllegalSaslState.code(), 0));
    }
    let acls = answer(&broker, 3, &DescribeAclsRequest::default());
    assert_eq!(acls.error_code, ErrorCode::SecurityDisabled.code());
    assert_eq!(acls.error_message.as_deref(), Some("No Authorizer is configured."));
    assert!(acls.resources.is_empty());
}

/// B17: clients guess a broker's version from the APIs that it names (without SaslHandshake franz-go took this one for
/// 0.9), and Kafka's tools refuse to run where the API they need is not named.
#[test]
fn apis_by_which_clients_guess_the_version_are_named_and_every_named_one_is_answered() {
    let (_cluster, brokers) = super::amplification::cluster();
    // As Kafka 4.3 names them.
    let wanted = [
        (Api::SaslHandshake, 17, 1),
        (Api::DescribeClientQuotas, 48, 1),
        (Api::AlterClientQuotas, 49, 1),
        (Api::DescribeQuorum, 55, 2),
        (Api::UpdateFeatures, 57, 2),
        (Api::DescribeProducers, 61, 0),
        (Api::UnregisterBroker, 64, 0),
    ];
    for version in 0..=4 {
        let frame = ApiVersionsResponse::encode_request(version, 7, Some("me"));
        let answer = brokers[0].dispatch(CLIENT, &frame).frame();
        let (_, named) = ApiVersionsResponse::decode(version, &answer).expect("decodes");
        for (api, key, max) in wanted {
            let range = named.apis.iter().find(|(named, _)| *named == key).map(|(_, range)| *range);
            assert_eq!(range, Some(VersionRange { min: 0, max }), "{api} in version {version}");
        }
        for (key, _) in named.apis {
            let api = Api::from_key(key).expect("what is named is served");
            assert!(!brokers[0].dispatch(CLIENT, &repeating(api, 1)).closes(), "{api}: no answer");
        }
    }
}

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE_GROUP: i8 = 2;

/// The error and the broker of one key.
fn coordinator(broker: &TestBroker, version: i16, key_type: i8, key: &'static str) -> (ErrorCode, i32) {
    let key = StrBytes::from_static_str(key);
    let request = FindCoordinatorRequest::default().with_key_type(key_type);
    let (code, id) = if version < 4 {
        let found = answer(broker, version, &request.with_key(key));
        (found.error_code, found.node_id)
    } else {
        let found = answer(broker, version, &request.with_coordinator_keys(vec![key])).coordinators.remove(0);
        (found.error_code, found.node_id)
    };
    (ErrorCode::from_code(code).expect("a known code"), id.0)
}

/// B14: `initTransactions()` asks for the coordinator of a transactional id, and then this one for a producer id: it
/// waited for ever. Where there is no coordinator of a kind of group at all, an error that clients do not retry.
#[test]
fn transactional_ids_have_a_coordinator_that_gives_them_producers_and_share_groups_a_definite_error() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    cluster.quorum.create_topic(STATE_TOPIC, topic_id(1), 1, &[2, 1], &[("cleanup.policy", "compact")]);
    for version in 1..=6 {
        assert_eq!(coordinator(&brokers[0], version, TRANSACTION, "payments"), (ErrorCode::None, 2), "{version}");
    }
    let id = TransactionalId(StrBytes::from_static_str("payments"));
    let init = InitProducerIdRequest::default().with_transactional_id(Some(id)).with_transaction_timeout_ms(60_000);
    let mut epoch = -1;
    for version in 0..=5 {
        eventually("the coordinator has loaded", || {
            let producer = answer(&brokers[1], version, &init);
            let is_loading = producer.error_code == ErrorCode::CoordinatorLoadInProgress.code();
            if !is_loading {
                assert_eq!((producer.error_code, producer.producer_epoch), (0, epoch + 1), "version {version}");
                epoch = producer.producer_epoch;
            }
            !is_loading
        });
    }
    for version in 1..=6 {
        let (error, id) = coordinator(&brokers[0], version, SHARE_GROUP, "shared");
        assert_eq!((error, id), (ErrorCode::InvalidRequest, -1), "version {version}");
    }
    // What may come is told so: with the topic, this group has a coordinator.
    assert_eq!(coordinator(&brokers[0], 6, GROUP, "readers"), (ErrorCode::CoordinatorNotAvailable, -1));
}

/// Each change of the metadata looked at all keys again, on a worker: with a quarter of a million a tenth of a second.
#[test]
fn who_asks_for_very_many_coordinators_is_told_at_once_that_there_are_none() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let is_ready = |count: usize| {
        let keys = (0..count).map(|number| StrBytes::from_string(number.to_string())).collect();
        let request = FindCoordinatorRequest::default().with_key_type(GROUP).with_coordinator_keys(keys);
        let frame = encode_request(6, 1, None, &request).expect("a small frame");
        broker.dispatch(CLIENT, &frame).is_ready()
    };
    assert!(is_ready(2_000) && !is_ready(2));
}
