//! Spoilt requests for every API and version, through header, bounds and decoder, as a broker runs them.
#![allow(clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestKind};
use ottla_fuzz::allocation::{Counting, GROWTH_MAX_BYTES, measure};
use ottla_fuzz::corpus;
use ottla_fuzz::mutation::{Random, mutate};
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::messages::fetch::{self, FetchResponse};
use ottla_protocol::messages::produce::{self, ProduceResponse};
use ottla_protocol::messages::{offset_commit, offset_fetch, write_txn_markers};
use ottla_protocol::{Api, bounds, parse_header};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Processes a frame as a broker does before the handler; true if it would reach a handler.
fn take_in(frame: &Bytes) -> bool {
    let Ok((header, body_start)) = parse_header(frame) else { return false };
    let Some(api) = header.api() else { return false };
    match api {
        Api::Produce => produce::parse(header.api_version, frame, body_start).is_ok(),
        Api::Fetch => fetch::parse(header.api_version, frame, body_start).is_ok(),
        Api::WriteTxnMarkers => write_txn_markers::parse_request(header.api_version, frame, body_start).is_ok(),
        api => decode(api, header.api_version, frame.slice(body_start..)),
    }
}

/// The parser that a broker uses for a body.
fn decode(api: Api, version: i16, mut body: Bytes) -> bool {
    if bounds::check(api.key(), version, &body).is_err() {
        return false;
    }
    match api {
        Api::OffsetCommit => return offset_commit::parse(version, &body, 0).is_ok(),
        Api::OffsetFetch => return offset_fetch::parse(version, &body, 0).is_ok(),
        Api::WriteTxnMarkers => return write_txn_markers::parse_request(version, &body, 0).is_ok(),
        _ => {}
    }
    let key = ApiKey::try_from(api.key()).unwrap();
    RequestKind::decode(key, &mut body, api.schema_version(version)).is_ok()
}

fn has_no_fields(api: Api, version: i16) -> bool {
    (matches!(api, Api::ApiVersions | Api::ListGroups) && version < 3)
        || (api == Api::ListConfigResources && version == 0)
}

#[test]
fn valid_requests_are_taken_in_and_cut_ones_are_not() {
    for (api, version) in corpus::served() {
        let frame = corpus::request(api, version);
        assert!(take_in(&frame), "{api} {version}");
        for end in 0..frame.len() {
            // Bodies without fields, and ones whose last fields are all tags, have nothing to cut.
            if take_in(&frame.slice(..end)) {
                assert!(has_no_fields(api, version), "{api} {version} cut at {end} of {}", frame.len());
            }
        }
    }
}

#[test]
fn bounds_walk_exactly_as_far_as_the_decoders() {
    for (api, version) in corpus::served_by_codec() {
        let body = corpus::body(api, version);
        assert_eq!(bounds::check(api.key(), version, &body), Ok(()), "{api} {version}");
        assert!(!body.is_empty() || has_no_fields(api, version), "{api} {version}: no sample");
        let key = ApiKey::try_from(api.key()).unwrap();
        let schema = api.schema_version(version);
        for end in 0..body.len() {
            let ours = bounds::check(api.key(), version, &body[..end]).is_ok();
            // Walked exactly as far as the decoder goes: every cut that one refuses, the other does.
            let theirs = RequestKind::decode(key, &mut body.slice(..end), schema).is_ok();
            assert_eq!(ours, theirs, "{api} {version} cut at {end} of {}", body.len());
        }
    }
}

#[test]
fn spoilt_requests_neither_panic_nor_grow() {
    let frames: Vec<_> = corpus::served().map(|(api, version)| (api, version, corpus::request(api, version))).collect();
    let mut refused = vec![0; frames.len()];
    ottla_test_support::each_seed(0..600, |seed| {
        for ((api, version, frame), refused) in frames.iter().zip(&mut refused) {
            let random = &mut Random::new(seed);
            // The first ones may also become another API or version.
            let keep = if seed % 10 == 0 { 0 } else { 8 };
            let spoilt = Bytes::from(mutate(random, frame, keep));
            let (ok, growth) = measure(|| take_in(&spoilt));
            *refused += u32::from(!ok);
            assert!(growth < GROWTH_MAX_BYTES / 16, "{api} {version} seed {seed}: {growth} bytes");
        }
    });
    for ((api, version, _), refused) in frames.iter().zip(refused) {
        assert!(!ottla_test_support::runs_at_least(600) || refused > 0, "{api} {version}: nothing was refused");
    }
}

#[test]
fn random_bytes_neither_panic_nor_grow() {
    ottla_test_support::each_seed(0..20_000, |seed| {
        let random = &mut Random::new(seed);
        let mut frame: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        let api = Api::ALL[random.below(Api::ALL.len())];
        if let Some(key) = frame.first_chunk_mut::<2>() {
            *key = api.key().to_be_bytes();
        }
        if let Some(version) = frame.get_mut(2..4) {
            version.copy_from_slice(&[0, random.below(20) as u8]);
        }
        let (_, growth) = measure(|| take_in(&Bytes::from(frame)));
        assert!(growth < GROWTH_MAX_BYTES / 16, "seed {seed}: {growth} bytes");
    });
}

/// A body whose first array has as many of the smallest elements as are accepted, or a few more.
fn swollen(api: Api, version: i16, count: usize) -> Option<Bytes> {
    let mut out = BytesMut::new();
    let flexible = api.is_flexible(version);
    let element: &[u8] = match api {
        Api::Produce => {
            if flexible {
                out.put_u8(0);
            } else {
                out.put_i16(-1);
            }
            out.put_slice(&[0, 1, 0, 0, 0, 0]);
            if version >= 13 {
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
            } else if flexible {
                &[1, 1, 0]
            } else {
                &[0; 6]
            }
        }
        Api::Fetch => {
            if version < 15 {
                out.put_i32(-1);
            }
            out.put_slice(&[0; 13]);
            if version >= 7 {
                out.put_slice(&[0; 8]);
            }
            if version >= 13 {
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
            } else if flexible {
                &[1, 1, 0]
            } else {
                &[0; 6]
            }
        }
        Api::ListOffsets => {
            out.put_i32(-1);
            if version >= 2 {
                out.put_i8(0);
            }
            if flexible { &[1, 1, 0] } else { &[0; 6] }
        }
        Api::Metadata => match version {
            10.. => &[0; 18],
            9 => &[1, 0],
            _ => &[0; 2],
        },
        Api::CreateTopics if flexible => &[1, 0, 0, 0, 1, 0, 1, 1, 1, 0],
        Api::CreateTopics => &[0; 16],
        Api::DeleteTopics => match version {
            6.. => &[0; 18],
            4 | 5 => &[1],
            _ => &[0; 2],
        },
        Api::DescribeConfigs if flexible => &[2, 1, 1, 0],
        Api::DescribeConfigs => &[2, 0, 0, 0, 0, 0, 0],
        Api::AlterConfigs | Api::IncrementalAlterConfigs if flexible => &[2, 1, 1, 0],
        Api::AlterConfigs | Api::IncrementalAlterConfigs => &[2, 0, 0, 0, 0, 0, 0],
        Api::DescribeLogDirs | Api::AlterReplicaLogDirs | Api::DeleteRecords if flexible => &[1, 1, 0],
        Api::DescribeLogDirs | Api::AlterReplicaLogDirs | Api::DeleteRecords => &[0; 6],
        Api::ListConfigResources if version >= 1 => &[0],
        Api::ElectLeaders => {
            if version >= 1 {
                out.put_i8(0);
            }
            if flexible { &[1, 1, 0] } else { &[0; 6] }
        }
        Api::CreatePartitions if flexible => &[1, 0, 0, 0, 1, 1, 0],
        Api::CreatePartitions => &[0; 10],
        Api::DescribeTopicPartitions => &[1, 0],
        Api::CreateAcls if flexible => &[0, 1, 0, 1, 1, 0, 0, 0],
        Api::DeleteAcls if flexible => &[0; 8],
        Api::CreateAcls | Api::DeleteAcls => &[0; 10],
        Api::AlterPartitionReassignments => {
            out.put_i32(1_000);
            if version >= 1 {
                out.put_i8(1);
            }
            &[1, 1, 0]
        }
        Api::ListPartitionReassignments => {
            out.put_i32(1_000);
            &[1, 1, 0]
        }
        Api::DescribeClientQuotas if flexible => &[1, 0, 0, 0],
        Api::DescribeClientQuotas => &[0; 5],
        Api::AlterClientQuotas if flexible => &[1, 1, 0],
        Api::AlterClientQuotas => &[0; 8],
        Api::DescribeUserScramCredentials => &[1, 0],
        Api::AlterUserScramCredentials => &[1, 0, 0],
        Api::CreateDelegationToken | Api::DescribeDelegationToken => {
            if api == Api::CreateDelegationToken && version >= 3 {
                // No owner.
                out.put_slice(&[0, 0]);
            }
            if flexible { &[1, 1, 0] } else { &[0; 4] }
        }
        Api::UpdateFeatures => {
            out.put_i32(1_000);
            &[1, 0, 0, 0, 0]
        }
        Api::DescribeProducers | Api::DescribeQuorum => &[1, 1, 0],
        Api::OffsetForLeaderEpoch => {
            if version >= 3 {
                out.put_i32(-1);
            }
            if flexible { &[1, 1, 0] } else { &[0; 6] }
        }
        Api::FindCoordinator if version >= 4 => {
            out.put_i8(0);
            &[1]
        }
        Api::OffsetCommit => {
            // An empty group and member, no generation.
            let nobody: &[u8] = if flexible { &[1, 0, 0, 0, 0, 1] } else { &[0; 8] };
            out.put_slice(nobody);
            match version {
                8.. => out.put_u8(0),
                7 => out.put_i16(-1),
                ..=4 => out.put_i64(-1),
                _ => {}
            }
            match version {
                10.. => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
                8.. => &[1, 1, 0],
                _ => &[0; 6],
            }
        }
        Api::OffsetFetch => match version {
            9.. => &[1, 0, 0, 0, 0, 0, 1, 0],
            8 => &[1, 1, 0],
            6.. => {
                out.put_u8(1);
                &[1, 1, 0]
            }
            _ => {
                out.put_i16(0);
                &[0; 6]
            }
        },
        Api::JoinGroup | Api::SyncGroup => {
            // Texts and numbers before the array, none of them null.
            let head: &[u8] = match (api, version) {
                (Api::JoinGroup, 6..) => &[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
                (Api::JoinGroup, 5) => &[0; 16],
                (Api::JoinGroup, 1..) => &[0; 14],
                (Api::JoinGroup, _) => &[0; 10],
                (_, 5..) => &[1, 0, 0, 0, 0, 1, 1, 1, 1],
                (_, 4) => &[1, 0, 0, 0, 0, 1, 1],
                (_, 3) => &[0; 10],
                _ => &[0; 8],
            };
            out.put_slice(head);
            if flexible { &[1, 1, 0] } else { &[0; 6] }
        }
        Api::LeaveGroup => match version {
            5.. => {
                out.put_u8(1);
                &[1, 1, 1, 0]
            }
            4 => {
                out.put_u8(1);
                &[1, 1, 0]
            }
            3 => {
                out.put_i16(0);
                &[0; 4]
            }
            _ => return None,
        },
        Api::DescribeGroups | Api::DeleteGroups => {
            if flexible {
                &[1]
            } else {
                &[0; 2]
            }
        }
        // No topics.
        Api::WriteTxnMarkers if version >= 2 => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        Api::WriteTxnMarkers => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        Api::ConsumerGroupDescribe => &[1],
        Api::ListGroups if version >= 4 => &[1],
        Api::OffsetDelete => {
            out.put_i16(0);
            &[0; 6]
        }
        Api::ConsumerGroupHeartbeat => {
            // Empty texts, no instance and rack, the timeout; then the topics' names.
            out.put_slice(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            &[1]
        }
        Api::Heartbeat | Api::ListGroups | Api::ListConfigResources => return None,
        Api::GetTelemetrySubscriptions | Api::PushTelemetry => return None,
        Api::SaslHandshake
        | Api::SaslAuthenticate
        | Api::DescribeAcls
        | Api::UnregisterBroker
        | Api::AddRaftVoter
        | Api::RemoveRaftVoter => return None,
        // Their texts and numbers in order, then the list.
        Api::AddPartitionsToTxn if version >= 4 => &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        Api::AddPartitionsToTxn => {
            out.put_slice(if flexible { &[1] } else { &[0, 0][..] });
            out.put_slice(&[0; 10]);
            if flexible { &[1, 1, 0] } else { &[0; 6] }
        }
        Api::TxnOffsetCommit => {
            // Two texts, the producer, from version 3 on the member.
            out.put_slice(if flexible { &[1, 1] } else { &[0; 4][..] });
            out.put_slice(&[0; 10]);
            if flexible {
                out.put_slice(&[0, 0, 0, 0, 1, 0]);
                &[1, 1, 0]
            } else {
                &[0; 6]
            }
        }
        Api::DescribeTransactions | Api::ListTransactions => &[1],
        Api::AddOffsetsToTxn | Api::EndTxn => return None,
        Api::FindCoordinator | Api::ApiVersions | Api::InitProducerId | Api::DescribeCluster => return None,
        Api::RenewDelegationToken | Api::ExpireDelegationToken => return None,
    };
    if flexible {
        ottla_protocol::wire::put_unsigned_varint(&mut out, count as u32 + 1);
    } else {
        out.put_u32(count as u32);
    }
    for _ in 0..count {
        out.put_slice(element);
    }
    if api == Api::Fetch && flexible {
        // Nothing forgotten, no rack: neither may be null.
        out.put_slice(&[1, 1]);
    }
    if matches!(api, Api::ListGroups | Api::ListTransactions | Api::AlterUserScramCredentials) {
        // No types, no producers, no upsertions: not null either.
        out.put_u8(1);
    }
    out.put_slice(&[0; 64]);
    Some(out.freeze())
}

#[test]
fn the_most_of_the_smallest_elements_stay_within_what_is_promised() {
    for (api, version) in corpus::served() {
        let limit = match api {
            Api::Produce => produce::PARTITIONS_MAX,
            Api::Fetch => fetch::PARTITIONS_MAX,
            _ => bounds::ELEMENTS_MAX as usize,
        };
        let mut largest = 0;
        let mut accepted_any = false;
        for count in [limit / 4, limit / 2, limit, limit + 1, limit * 4] {
            let Some(body) = swollen(api, version, count) else { continue };
            let (ok, growth) = measure(|| match api {
                Api::Produce => produce::parse(version, &body, 0).is_ok(),
                Api::Fetch => fetch::parse(version, &body, 0).is_ok(),
                api => decode(api, version, body.clone()),
            });
            assert!(growth < GROWTH_MAX_BYTES, "{api} {version}: {growth} bytes for {count} elements");
            assert!(!(ok && count > limit), "{api} {version}: {count} elements were accepted");
            largest = largest.max(growth);
            accepted_any |= ok;
        }
        assert!(accepted_any || largest == 0, "{api} {version}: the elements are not what the schema has");
    }
}

#[test]
fn spoilt_answers_neither_panic_nor_grow() {
    let fetched: FetchResponse<Bytes> = FetchResponse {
        topics: vec![fetch::FetchTopicResponse {
            topic: ottla_protocol::messages::TopicRef::Name("logs".to_owned()),
            partitions: vec![fetch::FetchPartitionResponse {
                records: Some(corpus::batch(ottla_protocol::record_batch::Compression::None)),
                ..fetch::FetchPartitionResponse::failed(ottla_model::PartitionId(0), ottla_model::ErrorCode::None)
            }],
        }],
        ..FetchResponse::default()
    };
    let produced = ProduceResponse {
        topics: vec![produce::TopicProduceResponse {
            topic: ottla_protocol::messages::TopicRef::Name("logs".to_owned()),
            partitions: vec![produce::PartitionProduceResponse::failed(
                ottla_model::PartitionId(0),
                ottla_model::ErrorCode::NotLeaderOrFollower,
            )],
        }],
        ..ProduceResponse::default()
    };
    let versions = ApiVersionsResponse::of_this_broker(None);
    ottla_test_support::each_seed(0..3_000, |seed| {
        let random = &mut Random::new(seed);
        let version = 4 + random.below(15) as i16;
        let mut frame = Vec::new();
        for part in fetch::encode(version, 1, &fetched).expect("a small frame") {
            let (fetch::Part::Bytes(bytes) | fetch::Part::Records(bytes)) = part;
            frame.extend_from_slice(&bytes);
        }
        let spoilt = Bytes::from(mutate(random, &frame[4..], 0));
        let (_, growth) = measure(|| fetch::decode_response(version, &spoilt).is_ok());
        assert!(growth < GROWTH_MAX_BYTES / 16, "Fetch {version} seed {seed}: {growth} bytes");
        let version = 3 + random.below(11) as i16;
        let produced = produce::encode_response(version, 1, &produced).expect("a small frame");
        let spoilt = mutate(random, &produced[4..], 0);
        let (_, growth) = measure(|| produce::decode_response(version, &spoilt).is_ok());
        assert!(growth < GROWTH_MAX_BYTES / 16, "Produce {version} seed {seed}: {growth} bytes");
        let version = random.below(5) as i16;
        let spoilt = mutate(random, &versions.encode(version, 1)[4..], 0);
        let (_, growth) = measure(|| ApiVersionsResponse::decode(version, &spoilt).is_ok());
        assert!(growth < GROWTH_MAX_BYTES / 16, "ApiVersions {version} seed {seed}: {growth} bytes");
    });
}
