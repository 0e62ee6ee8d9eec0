//! From a frame to the handler of its API.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use ottla_protocol::{Api, FrameError, bounds, frame};

use crate::broker::Broker;
use crate::handlers;
use crate::request::RequestContext;
use crate::response::Answer;

/// Handles one frame (without its length prefix). Synchronous: what can be done at once (an append) is done when this returns,
/// in the order of the frames of a connection; what has to wait is the answer's future.
pub fn dispatch(broker: &Arc<Broker>, context: &RequestContext, mut frame: BytesMut) -> Answer {
    let (header, body_start) = match frame::parse_header(&frame) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(broker, &error),
    };
    let Some(api) = header.api() else {
        return Answer::close("an API that is not served");
    };
    frame.advance(body_start);
    if let Err(error) = bounds::check_size(api, header.api_version, frame.len()) {
        return Answer::close(error);
    }
    broker.telemetry.received(api);
    let handle = match api {
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
        Api::DescribeConfigs => handlers::describe_configs::handle,
        Api::AlterConfigs => handlers::alter_configs::handle,
        Api::IncrementalAlterConfigs => handlers::alter_configs::handle_incremental,
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
        Api::ListPartitionReassignments => handlers::list_partition_reassignments::handle,
        Api::SaslHandshake => handlers::sasl_handshake::handle,
        Api::DescribeClientQuotas => handlers::describe_client_quotas::handle,
        Api::AlterClientQuotas => handlers::alter_client_quotas::handle,
        Api::UpdateFeatures => handlers::update_features::handle,
        Api::DescribeProducers => handlers::describe_producers::handle,
        Api::UnregisterBroker => handlers::unregister_broker::handle,
    };
    handle(broker, context, header, frame)
}

/// Only ApiVersions of an unknown version has an answer: its sender cannot know yet what this broker speaks.
fn refuse(broker: &Arc<Broker>, error: &FrameError) -> Answer {
    match error.answerable() {
        Some(header) => handlers::api_versions::unsupported_version(&broker.identity, header),
        None => Answer::close(error),
    }
}
