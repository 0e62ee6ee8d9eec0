//! Admin requests for what this release does not have: the response is that of a Kafka cluster that does not use it.

use ottla_model::ErrorCode;
use ottla_protocol::kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use ottla_protocol::kafka_protocol::messages::{
    DescribeAclsRequest, DescribeClientQuotasRequest, ListPartitionReassignmentsRequest, SaslHandshakeRequest,
    TopicName,
};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::{decode_response, encode_request};

use super::harness::*;

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
    // B17: versions are guessed from the list of APIs, so that it is there; a login it is not.
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
