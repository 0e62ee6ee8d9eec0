//! A response tells its client how long to wait, and its connection is muted for so long (KIP-219).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ottla_network::response::{Part, Reply, Response};
use ottla_protocol::Api;

/// The answer, with a wait that its client is told. Nothing is changed without one.
pub fn throttled(answer: Reply, api: Api, version: i16, wait: Duration) -> Reply {
    if wait.is_zero() {
        return answer;
    }
    match answer {
        Reply::Ready(response) => Reply::Ready(tell(response, api, version, wait)),
        Reply::Later(future) => Reply::later(async move { tell(future.await, api, version, wait) }),
        Reply::Held(future) => Reply::Held(Box::pin(async move { throttled(future.await, api, version, wait) })),
        // Nothing to tell it in.
        Reply::None => Reply::Ready(Response::default().muting(wait)),
        Reply::Close(reason) => Reply::Close(reason),
    }
}

/// Milliseconds, as responses have them.
pub fn millis(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

/// As [`throttled`], of a response that is there.
pub fn tell(mut response: Response, api: Api, version: i16, wait: Duration) -> Response {
    if let (Some(at), Some(Part::Bytes(frame))) = (throttle_at(api, version), response.parts.first()) {
        let told = frame.get(at..at + 4).and_then(|told| told.try_into().ok()).map_or(0, i32::from_be_bytes);
        let end = at + 4;
        if frame.len() >= end && told < millis(wait) {
            let mut head = BytesMut::from(frame.get(..at).unwrap_or_default());
            head.extend_from_slice(&millis(wait).to_be_bytes());
            let rest: Bytes = frame.slice(end..);
            response.parts.splice(..1, [Part::Bytes(head.freeze()), Part::Bytes(rest)]);
        }
    }
    response.muting(wait)
}

/// Where a response frame, with its length, holds the throttle time; none where it holds none, or not at its beginning.
fn throttle_at(api: Api, version: i16) -> Option<usize> {
    let (since, fields_before) = match api {
        // Theirs lies behind fields of any length: producers are told with their bytes.
        Api::Produce | Api::ApiVersions | Api::CreateDelegationToken | Api::DescribeDelegationToken => return None,
        Api::SaslHandshake | Api::SaslAuthenticate | Api::WriteTxnMarkers | Api::DescribeQuorum => return None,
        Api::OffsetDelete => (0, 2),
        Api::RenewDelegationToken | Api::ExpireDelegationToken => (0, 10),
        Api::ListOffsets | Api::JoinGroup | Api::CreateTopics | Api::OffsetForLeaderEpoch => (2, 0),
        Api::Metadata | Api::OffsetCommit | Api::OffsetFetch => (3, 0),
        Api::Fetch
        | Api::FindCoordinator
        | Api::Heartbeat
        | Api::LeaveGroup
        | Api::SyncGroup
        | Api::DescribeGroups
        | Api::ListGroups
        | Api::DeleteTopics => (1, 0),
        _ => (0, 0),
    };
    const LENGTH_AND_CORRELATION_ID: usize = 8;
    let tags = usize::from(api.is_flexible(version));
    (version >= since).then_some(LENGTH_AND_CORRELATION_ID + tags + fields_before)
}

#[cfg(test)]
mod tests {
    use ottla_protocol::encode_response;
    use ottla_protocol::kafka_protocol::messages::*;

    use super::*;

    const TOLD: i32 = 0x0102_0304;

    /// The place of the throttle time in each served version is where the codec writes it.
    #[test]
    fn throttle_times_are_where_the_codec_has_them() {
        let mut checked = Vec::new();
        macro_rules! check {
            ($($api:ident: $request:ident => $response:ident,)+) => {$(
                let versions = Api::$api.served();
                for version in versions.min..=versions.max {
                    let response = $response::default().with_throttle_time_ms(TOLD);
                    // Some default responses cannot be encoded in every version.
                    let Ok(frame) = encode_response::<$request>(version, 7, &response) else { continue };
                    let there = throttle_at(Api::$api, version).map(|at| frame[at..at + 4] == TOLD.to_be_bytes());
                    let is_anywhere = frame.windows(4).any(|bytes| bytes == TOLD.to_be_bytes());
                    assert_eq!(there.unwrap_or(false), is_anywhere, "{:?} {version}", Api::$api);
                }
                checked.push(Api::$api);
            )+};
        }
        check! {
            ListOffsets: ListOffsetsRequest => ListOffsetsResponse,
            Metadata: MetadataRequest => MetadataResponse,
            OffsetCommit: OffsetCommitRequest => OffsetCommitResponse,
            OffsetFetch: OffsetFetchRequest => OffsetFetchResponse,
            FindCoordinator: FindCoordinatorRequest => FindCoordinatorResponse,
            JoinGroup: JoinGroupRequest => JoinGroupResponse,
            Heartbeat: HeartbeatRequest => HeartbeatResponse,
            LeaveGroup: LeaveGroupRequest => LeaveGroupResponse,
            SyncGroup: SyncGroupRequest => SyncGroupResponse,
            DescribeGroups: DescribeGroupsRequest => DescribeGroupsResponse,
            ListGroups: ListGroupsRequest => ListGroupsResponse,
            CreateTopics: CreateTopicsRequest => CreateTopicsResponse,
            DeleteTopics: DeleteTopicsRequest => DeleteTopicsResponse,
            DeleteRecords: DeleteRecordsRequest => DeleteRecordsResponse,
            InitProducerId: InitProducerIdRequest => InitProducerIdResponse,
            OffsetForLeaderEpoch: OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse,
            AddPartitionsToTxn: AddPartitionsToTxnRequest => AddPartitionsToTxnResponse,
            AddOffsetsToTxn: AddOffsetsToTxnRequest => AddOffsetsToTxnResponse,
            EndTxn: EndTxnRequest => EndTxnResponse,
            TxnOffsetCommit: TxnOffsetCommitRequest => TxnOffsetCommitResponse,
            DescribeAcls: DescribeAclsRequest => DescribeAclsResponse,
            CreateAcls: CreateAclsRequest => CreateAclsResponse,
            DeleteAcls: DeleteAclsRequest => DeleteAclsResponse,
            DescribeConfigs: DescribeConfigsRequest => DescribeConfigsResponse,
            AlterConfigs: AlterConfigsRequest => AlterConfigsResponse,
            AlterReplicaLogDirs: AlterReplicaLogDirsRequest => AlterReplicaLogDirsResponse,
            DescribeLogDirs: DescribeLogDirsRequest => DescribeLogDirsResponse,
            CreatePartitions: CreatePartitionsRequest => CreatePartitionsResponse,
            RenewDelegationToken: RenewDelegationTokenRequest => RenewDelegationTokenResponse,
            ExpireDelegationToken: ExpireDelegationTokenRequest => ExpireDelegationTokenResponse,
            DeleteGroups: DeleteGroupsRequest => DeleteGroupsResponse,
            ElectLeaders: ElectLeadersRequest => ElectLeadersResponse,
            AlterPartitionReassignments: AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse,
            IncrementalAlterConfigs: IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse,
            ListPartitionReassignments: ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse,
            OffsetDelete: OffsetDeleteRequest => OffsetDeleteResponse,
            DescribeClientQuotas: DescribeClientQuotasRequest => DescribeClientQuotasResponse,
            AlterClientQuotas: AlterClientQuotasRequest => AlterClientQuotasResponse,
            DescribeUserScramCredentials: DescribeUserScramCredentialsRequest => DescribeUserScramCredentialsResponse,
            AlterUserScramCredentials: AlterUserScramCredentialsRequest => AlterUserScramCredentialsResponse,
            UpdateFeatures: UpdateFeaturesRequest => UpdateFeaturesResponse,
            DescribeCluster: DescribeClusterRequest => DescribeClusterResponse,
            DescribeProducers: DescribeProducersRequest => DescribeProducersResponse,
            UnregisterBroker: UnregisterBrokerRequest => UnregisterBrokerResponse,
            AddRaftVoter: AddRaftVoterRequest => AddRaftVoterResponse,
            RemoveRaftVoter: RemoveRaftVoterRequest => RemoveRaftVoterResponse,
            DescribeTransactions: DescribeTransactionsRequest => DescribeTransactionsResponse,
            ListTransactions: ListTransactionsRequest => ListTransactionsResponse,
            ConsumerGroupHeartbeat: ConsumerGroupHeartbeatRequest => ConsumerGroupHeartbeatResponse,
            ConsumerGroupDescribe: ConsumerGroupDescribeRequest => ConsumerGroupDescribeResponse,
            GetTelemetrySubscriptions: GetTelemetrySubscriptionsRequest => GetTelemetrySubscriptionsResponse,
            PushTelemetry: PushTelemetryRequest => PushTelemetryResponse,
            ListConfigResources: ListConfigResourcesRequest => ListConfigResourcesResponse,
            DescribeTopicPartitions: DescribeTopicPartitionsRequest => DescribeTopicPartitionsResponse,
            Fetch: FetchRequest => FetchResponse,
        }
        let unchecked: Vec<Api> = Api::ALL.iter().copied().filter(|api| !checked.contains(api)).collect();
        assert!(unchecked.iter().all(|api| throttle_at(*api, api.served().max).is_none()), "{unchecked:?}");
    }

    #[test]
    fn the_longer_wait_is_told() {
        let response = HeartbeatResponse::default().with_throttle_time_ms(500);
        let told = |wait| {
            let frame = encode_response::<HeartbeatRequest>(4, 7, &response).expect("encodes");
            let told = tell(Response::bytes(frame), Api::Heartbeat, 4, Duration::from_millis(wait));
            let mut frame = BytesMut::new();
            for part in &told.parts {
                let Part::Bytes(bytes) = part else { panic!("no bytes") };
                frame.extend_from_slice(bytes);
            }
            let decoded = ottla_protocol::decode_response::<HeartbeatRequest>(4, frame.freeze().slice(4..));
            (decoded.expect("decodes").1.throttle_time_ms, told.mute.as_millis())
        };
        assert_eq!((told(200), told(900)), ((500, 200), (900, 900)));
    }
}
