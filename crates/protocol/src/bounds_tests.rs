//! Bodies that request too much. `tests/fuzz` mutates the messages of `kafka_protocol` and thereby tests that both
//! schemas agree.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::api::Api;
use crate::bounds::{self, BoundsError, ELEMENTS_MAX};
use crate::wire::WireError;

fn codec_apis() -> impl Iterator<Item = (Api, i16)> {
    let own = |api: &Api| {
        matches!(api, Api::Produce | Api::Fetch | Api::OffsetCommit | Api::OffsetFetch | Api::WriteTxnMarkers)
    };
    let apis = Api::ALL.iter().copied().filter(move |api| !own(api));
    apis.flat_map(|api| (api.served().min..=api.served().max).map(move |version| (api, version)))
}

#[test]
fn huge_and_negative_counts_are_refused_before_a_decoder_runs() {
    for (api, version) in codec_apis() {
        let flexible = api.is_flexible(version);
        for count in [i32::MAX, -2, 1_000_000_000] {
            let mut body = BytesMut::new();
            match api {
                Api::ListOffsets => {
                    body.put_i32(-1);
                    if version >= 2 {
                        body.put_i8(0);
                    }
                }
                Api::OffsetForLeaderEpoch if version >= 3 => body.put_i32(-1),
                Api::OffsetForLeaderEpoch
                | Api::Metadata
                | Api::CreateTopics
                | Api::DeleteTopics
                | Api::DeleteRecords
                | Api::DescribeConfigs
                | Api::AlterConfigs
                | Api::IncrementalAlterConfigs
                | Api::DescribeLogDirs
                | Api::AlterReplicaLogDirs
                | Api::CreatePartitions
                | Api::DescribeTransactions
                | Api::ListTransactions
                | Api::DescribeTopicPartitions => {}
                Api::AddPartitionsToTxn if version >= 4 => {}
                _ => continue,
            }
            if flexible {
                crate::wire::put_unsigned_varint(&mut body, count as u32);
            } else {
                body.put_i32(count);
            }
            body.put_slice(&[0; 16]);
            assert!(
                matches!(bounds::check(api.key(), version, &body), Err(BoundsError::Malformed { .. })),
                "{api} {version} {count}"
            );
        }
    }
}

#[test]
fn a_body_of_the_smallest_elements_is_bounded() {
    let mut body = BytesMut::new();
    body.put_u32(ELEMENTS_MAX + 1);
    body.put_slice(&vec![0; (ELEMENTS_MAX as usize + 1) * 2]);
    body.put_slice(&[0; 8]);
    assert!(matches!(
        bounds::check(Api::Metadata.key(), 1, &body),
        Err(BoundsError::Malformed { error: WireError::TooManyElements { .. }, .. })
    ));
    let too_large = vec![0; Api::Metadata.body_max_bytes() + 1];
    assert!(matches!(bounds::check(Api::Metadata.key(), 1, &too_large), Err(BoundsError::TooLarge { .. })));
}

#[test]
fn many_tagged_fields_spread_over_elements_are_bounded() {
    // 5,001 topics with two tagged fields each.
    let mut body = BytesMut::new();
    crate::wire::put_unsigned_varint(&mut body, 5_002);
    for _ in 0..5_001 {
        body.put_slice(&[2, b't', 2, 100, 0, 101, 0]);
    }
    body.put_slice(&[0; 8]);
    assert!(matches!(
        bounds::check(Api::Metadata.key(), 9, &body),
        Err(BoundsError::Malformed { error: WireError::TooManyTaggedFields { .. }, .. })
    ));
}

#[test]
fn names_that_are_not_utf8_are_repaired() {
    let body = bytes::Bytes::from_static(&[0, 0, 0, 1, 0, 2, 0xc3, 0x28, 1]);
    assert_eq!(bounds::check(Api::Metadata.key(), 4, &body), Ok(()));
    let repaired = bounds::check_and_repair(Api::Metadata.key(), 4, body).unwrap();
    assert_eq!(&repaired[..], [0, 0, 0, 1, 0, 2, b'?', 0x28, 1]);
}

/// Kafka's tools name no cluster, unless somebody gives them its id.
#[test]
fn changes_of_the_quorum_may_name_no_cluster() {
    let add = AddRaftVoterRequest::default().with_cluster_id(None);
    let remove = RemoveRaftVoterRequest::default().with_cluster_id(None);
    let body = |frame: bytes::Bytes, api: Api| {
        let frame = frame.slice(4..);
        let (_, start) = crate::parse_header(&frame).unwrap();
        bounds::check(api.key(), 0, &frame.slice(start..))
    };
    assert_eq!(body(crate::encode_request(0, 4, None, &add).unwrap(), Api::AddRaftVoter), Ok(()));
    assert_eq!(body(crate::encode_request(0, 4, None, &remove).unwrap(), Api::RemoveRaftVoter), Ok(()));
}

#[test]
fn unknown_apis_and_versions_are_refused() {
    assert_eq!(bounds::check(4, 0, &[]), Err(BoundsError::UnknownApi(4)));
    assert_eq!(bounds::check(3, 99, &[]), Err(BoundsError::UnsupportedVersion { api: Api::Metadata, version: 99 }));
}

#[test]
fn the_codec_round_trips_with_headers() {
    let request = MetadataRequest::default().with_topics(None);
    for version in [1, 8, 9, 13] {
        let frame = crate::encode_request(version, 4, Some("me"), &request).unwrap().slice(4..);
        let (header, start) = crate::parse_header(&frame).unwrap();
        assert_eq!((header.correlation_id, header.client_id.as_deref()), (4, Some("me")));
        let back: MetadataRequest = crate::decode_request(version, frame.slice(start..)).unwrap();
        assert_eq!(back.topics, None);
        let response = MetadataResponse::default().with_controller_id(BrokerId(3));
        let frame = crate::encode_response::<MetadataRequest>(version, 4, &response).unwrap().slice(4..);
        let (correlation_id, back) = crate::decode_response::<MetadataRequest>(version, frame).unwrap();
        assert_eq!((correlation_id, back.controller_id), (4, BrokerId(3)));
    }
    let mut list = BytesMut::new();
    let topics = vec![list_offsets_request::ListOffsetsTopic::default(); 2];
    ListOffsetsRequest::default().with_topics(topics).encode(&mut list, 10).unwrap();
    assert_eq!(crate::decode_request::<ListOffsetsRequest>(11, list.freeze()).unwrap().topics.len(), 2);
    assert!(MetadataRequest::decode(&mut Bytes::from_static(&[0]), 12).is_err());
}
