//! Metadata of many partitions: made beside the workers, once for each image.

use bytes::Bytes;
use ottla_protocol::encode_request;
use ottla_protocol::kafka_protocol::messages::MetadataRequest;

use super::harness::*;

const MANY: i32 = 501;

fn request(correlation_id: i32) -> Bytes {
    let all = MetadataRequest::default().with_topics(None);
    encode_request(13, correlation_id, None, &all).expect("a small frame")
}

/// G8: forty clients that ask for all partitions again and again kept the writers' acknowledgements waiting for
/// seconds.
#[test]
fn a_large_answer_is_made_beside_the_workers_and_then_shared() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1]);
    let small = brokers[0].dispatch(CLIENT, &request(1));
    assert!(small.is_immediate());
    cluster.quorum.create_topic("many", topic_id(1), MANY, &[1], &[]);
    let first = brokers[0].dispatch(CLIENT, &request(2));
    assert!(!first.is_immediate(), "a worker would make it");
    let first = first.frame();
    let again = brokers[0].dispatch(CLIENT, &request(3));
    assert!(again.is_immediate(), "it is there");
    let again = again.frame();
    assert_eq!((&first[..4], &again[..4]), (&2_i32.to_be_bytes()[..], &3_i32.to_be_bytes()[..]));
    assert_eq!(first[4..], again[4..]);
    assert!(first.len() > 501 * 20, "{}", first.len());
    cluster.quorum.create_topic("more", topic_id(2), 1, &[1], &[]);
    assert!(!brokers[0].dispatch(CLIENT, &request(4)).is_immediate(), "of a former image");
}
