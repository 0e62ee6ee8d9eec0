//! From a frame to the handler of its API: the broker as the [`Service`] of its connections.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use ottla_network::{Reply, RequestContext, Service};
use ottla_protocol::{Api, FrameError, RequestHeader, bounds, frame};
use ottla_replica_manager::identity::Identity;

use crate::broker::Broker;
use crate::handlers::{self, api_versions};
use crate::request::heavy::LARGE_REQUEST_BYTES;
use crate::request::meter::Meter;

impl Service for Broker {
    type Identity = Identity;

    fn handle(self: &Arc<Self>, context: &RequestContext, frame: BytesMut) -> Reply {
        dispatch(self, context, frame)
    }

    /// Before the broker has registered, ApiVersions is answered, by which a coordinator that dials recognises the
    /// incarnation, and what must be refused anyway.
    fn handle_early(identity: &Identity, context: &RequestContext, frame: &BytesMut) -> Option<Reply> {
        match frame::parse_header(frame) {
            Ok((header, body_start)) if header.api() == Some(Api::ApiVersions) => {
                Some(api_versions::answer(identity, context, &header, frame.get(body_start..).unwrap_or_default()))
            }
            Ok(_) => None,
            Err(error) => Some(refuse(identity, &error)),
        }
    }
}

fn dispatch(broker: &Arc<Broker>, context: &RequestContext, mut frame: BytesMut) -> Reply {
    let (header, body_start) = match frame::parse_header(&frame) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&broker.identity, &error),
    };
    let Some(api) = header.api() else {
        return Reply::close("an API that is not served");
    };
    frame.advance(body_start);
    if let Err(error) = bounds::check_size(api, header.api_version, frame.len()) {
        return Reply::close(error);
    }
    broker.telemetry.network.received(api);
    let handle: Handle = match api {
        Api::Produce => handlers::produce::handle,
        Api::Fetch => handlers::fetch::handle,
        Api::ListOffsets => handlers::list_offsets::handle,
        Api::OffsetForLeaderEpoch => handlers::offset_for_leader_epoch::handle,
        Api::InitProducerId => handlers::init_producer_id::handle,
        Api::ApiVersions => handlers::api_versions::handle,
        Api::Metadata => handlers::metadata::handle,
        Api::FindCoordinator => handlers::find_coordinator::handle,
        Api::CreateTopics => handlers::create_topics::handle,
        Api::DeleteRecords => handlers::delete_records::handle,
        Api::DeleteTopics => handlers::delete_topics::handle,
        Api::CreatePartitions => handlers::create_partitions::handle,
        Api::ElectLeaders => handlers::elect_leaders::handle,
        Api::DescribeConfigs => handlers::describe_configs::handle,
        Api::AlterConfigs => handlers::alter_configs::handle,
        Api::IncrementalAlterConfigs => handlers::alter_configs::handle_incremental,
        Api::GetTelemetrySubscriptions => handlers::get_telemetry_subscriptions::handle,
        Api::PushTelemetry => handlers::push_telemetry::handle,
        Api::ListConfigResources => handlers::list_config_resources::handle,
        Api::DescribeLogDirs => handlers::describe_log_dirs::handle,
        Api::AlterReplicaLogDirs => handlers::alter_replica_log_dirs::handle,
        Api::DescribeCluster => handlers::describe_cluster::handle,
        Api::DescribeTopicPartitions => handlers::describe_topic_partitions::handle,
        Api::ConsumerGroupDescribe => handlers::consumer_group_describe::handle,
        Api::ConsumerGroupHeartbeat => handlers::consumer_group_heartbeat::handle,
        Api::DeleteGroups => handlers::delete_groups::handle,
        Api::DescribeGroups => handlers::describe_groups::handle,
        Api::Heartbeat => handlers::heartbeat::handle,
        Api::JoinGroup => handlers::join_group::handle,
        Api::LeaveGroup => handlers::leave_group::handle,
        Api::ListGroups => handlers::list_groups::handle,
        Api::OffsetCommit => handlers::offset_commit::handle,
        Api::OffsetDelete => handlers::offset_delete::handle,
        Api::OffsetFetch => handlers::offset_fetch::handle,
        Api::SyncGroup => handlers::sync_group::handle,
        Api::DescribeAcls => handlers::describe_acls::handle,
        Api::CreateAcls => handlers::create_acls::handle,
        Api::DeleteAcls => handlers::delete_acls::handle,
        Api::AlterPartitionReassignments => handlers::alter_partition_reassignments::handle,
        Api::ListPartitionReassignments => handlers::list_partition_reassignments::handle,
        Api::SaslHandshake => handlers::sasl_handshake::handle,
        Api::SaslAuthenticate => handlers::sasl_authenticate::handle,
        Api::CreateDelegationToken => handlers::create_delegation_token::handle,
        Api::RenewDelegationToken => handlers::renew_delegation_token::handle,
        Api::ExpireDelegationToken => handlers::expire_delegation_token::handle,
        Api::DescribeDelegationToken => handlers::describe_delegation_token::handle,
        Api::DescribeUserScramCredentials => handlers::describe_user_scram_credentials::handle,
        Api::AlterUserScramCredentials => handlers::alter_user_scram_credentials::handle,
        Api::DescribeClientQuotas => handlers::describe_client_quotas::handle,
        Api::AlterClientQuotas => handlers::alter_client_quotas::handle,
        Api::UpdateFeatures => handlers::update_features::handle,
        Api::DescribeProducers => handlers::describe_producers::handle,
        Api::DescribeQuorum => handlers::describe_quorum::handle,
        Api::WriteTxnMarkers => handlers::write_txn_markers::handle,
        Api::UnregisterBroker => handlers::unregister_broker::handle,
        Api::AddRaftVoter => handlers::raft_voters::add,
        Api::RemoveRaftVoter => handlers::raft_voters::remove,
        Api::AddPartitionsToTxn => handlers::add_partitions_to_txn::handle,
        Api::AddOffsetsToTxn => handlers::add_offsets_to_txn::handle,
        Api::EndTxn => handlers::end_txn::handle,
        Api::TxnOffsetCommit => handlers::txn_offset_commit::handle,
        Api::DescribeTransactions => handlers::describe_transactions::handle,
        Api::ListTransactions => handlers::list_transactions::handle,
    };
    let meter = Meter::of(broker, context, &header);
    if !is_large(context, api, frame.len()) {
        return meter.measure(broker, || handle(broker, context, header, frame));
    }
    let (owned, context) = (Arc::clone(broker), context.clone());
    broker.heavy_work.carry_out(move || meter.measure(&owned, || handle(&owned, &context, header, frame)))
}

type Handle = fn(&Arc<Broker>, &RequestContext, RequestHeader, BytesMut) -> Reply;

/// Whether a request is handled beside the workers. Requests of brokers do not queue behind those of clients.
fn is_large(context: &RequestContext, api: Api, bytes: usize) -> bool {
    let is_brokers = matches!(api, Api::OffsetForLeaderEpoch | Api::WriteTxnMarkers | Api::AddPartitionsToTxn);
    bytes >= LARGE_REQUEST_BYTES
        && !matches!(api, Api::Produce | Api::Fetch)
        && !(context.is_inter_broker_listener && is_brokers)
}

/// Only ApiVersions of an unknown version has an answer: its sender cannot know yet what this broker speaks.
fn refuse(identity: &Identity, error: &FrameError) -> Reply {
    match error.answerable() {
        Some(header) => api_versions::unsupported_version(identity, header),
        None => Reply::close(error),
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{BrokerId, ErrorCode, IncarnationKey};
    use ottla_network::Part;
    use ottla_protocol::messages::api_versions::ApiVersionsResponse;

    use super::*;
    use crate::request::test_context;

    fn context(is_inter_broker_listener: bool) -> RequestContext {
        RequestContext { is_inter_broker_listener, ..test_context::context("CLIENT") }
    }

    fn early(frame: &[u8]) -> Option<Reply> {
        let identity = Identity::new(IncarnationKey::new([7; 32]), BrokerId(1));
        Broker::handle_early(&identity, &context(false), &BytesMut::from(frame))
    }

    #[test]
    fn g8_large_requests_leave_the_workers_but_records_and_brokers_requests_do_not() {
        let (client, broker) = (context(false), context(true));
        let large = LARGE_REQUEST_BYTES;
        for api in [Api::DescribeGroups, Api::Metadata, Api::OffsetFetch, Api::OffsetForLeaderEpoch] {
            assert!(is_large(&client, api, large) && !is_large(&client, api, large - 1), "{api:?}");
        }
        for api in [Api::Produce, Api::Fetch] {
            assert!(!is_large(&client, api, 100 << 20));
        }
        assert!(!is_large(&broker, Api::OffsetForLeaderEpoch, large) && is_large(&broker, Api::Metadata, large));
    }

    #[test]
    fn headers_that_cannot_be_served_end_the_connection() {
        let frame = |key: i16, version: i16, rest: &[u8]| {
            let mut frame = key.to_be_bytes().to_vec();
            frame.extend(version.to_be_bytes());
            frame.extend(1i32.to_be_bytes());
            frame.extend(rest);
            frame
        };
        let no_client = (-1i16).to_be_bytes();
        for bytes in [
            frame(9_999, 0, &no_client),
            frame(-1, 0, &no_client),
            frame(0, 100, &no_client),
            frame(0, 2, &no_client),
            frame(3, -1, &no_client),
            frame(18, 0, &(-7530i16).to_be_bytes()),
            frame(18, 0, &100i16.to_be_bytes()),
            frame(18, 0, &[]),
        ] {
            assert!(matches!(early(&bytes), Some(Reply::Close(_))), "{bytes:?}");
        }
    }

    #[test]
    fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
        let mut unknown = ApiVersionsResponse::encode_request(4, 5, Some("future")).to_vec();
        unknown[6..8].copy_from_slice(&77i16.to_be_bytes());
        let Some(Reply::Ready(response)) = early(&unknown[4..]) else { panic!("no answer") };
        let [Part::Bytes(bytes)] = response.parts.as_slice() else { panic!("{} parts", response.parts.len()) };
        let (id, said) = ApiVersionsResponse::decode(0, &bytes[4..]).expect("version 0");
        assert_eq!((id, said.error), (5, ErrorCode::UnsupportedVersion));
        assert_eq!(said.apis.len(), 1);
    }

    #[test]
    fn other_requests_wait_for_the_registration() {
        let metadata = [0, 3, 0, 1, 0, 0, 0, 9, 255, 255, 0, 0, 0, 0];
        assert!(early(&metadata).is_none());
    }
}
