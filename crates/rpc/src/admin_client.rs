//! The requests of tools to any coordinator.

use std::time::Duration;

use tonic::Streaming;

use crate::MESSAGE_BYTES_MAX;
use crate::admin::admin_client::AdminClient as Generated;
use crate::admin::{
    AddQuorumMemberRequest, AlterConfigRequest, AlterConfigResponse, ChangeQuorumResponse, ClusterHealthRequest,
    ClusterHealthResponse, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeConfigRequest, DescribeConfigResponse, DescribeGroupRequest,
    DescribeGroupResponse, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeTopicRequest,
    DescribeTopicResponse, ElectLeadersRequest, ElectLeadersResponse, GetNodeRequest, GetNodeResponse,
    ListBrokersRequest, ListBrokersResponse, ListGroupsRequest, ListGroupsResponse, ListNodesRequest,
    ListNodesResponse, ListPartitionsRequest, ListPartitionsResponse, ListTopicsRequest, ListTopicsResponse,
    QuorumStatusRequest, QuorumStatusResponse, ReassignPartitionsRequest, ReassignPartitionsResponse,
    RemoveQuorumMemberRequest, TransferQuorumLeadershipRequest, UnregisterBrokerRequest, UnregisterBrokerResponse,
    WatchNodesRequest, WatchNodesResponse,
};
use crate::channel::ChannelSecurity;
use crate::cluster_metadata::ClusterChannel;
use crate::coordinators::{CallError, Coordinators, Repeat};

/// Cheap to clone. Must be made within a tokio runtime.
#[derive(Clone, Debug)]
pub struct AdminClient {
    coordinators: Coordinators,
}

fn generated(channel: ClusterChannel) -> Generated<ClusterChannel> {
    Generated::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

macro_rules! admin_call {
    ($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty, $kind:ident) => {
        $(#[$doc])*
        pub async fn $name(&self, request: $request, timeout: Duration) -> Result<$response, CallError> {
            let (request, repeat) = admin_call!(@$kind request);
            let attempt = |channel: ClusterChannel| {
                let request = request.clone();
                async move { generated(channel).$name(request).await }
            };
            self.coordinators.call(stringify!($name), timeout, repeat, attempt).await.map(|(response, _)| response)
        }
    };
    (@read $request:ident) => { ($request, Repeat::Freely) };
    // A late second try could undo what another client has set meanwhile.
    (@change $request:ident) => { ($request, Repeat::WhenAnswered) };
    // Every try has the same id: the request is decided once.
    (@once $request:ident) => {{
        let mut request = $request;
        if request.request_id.is_empty() {
            request.request_id = uuid::Uuid::new_v4().to_string();
        }
        (request, Repeat::Freely)
    }};
}

impl AdminClient {
    /// `coordinators` as [`Coordinators::new`] takes them.
    pub fn new<A: AsRef<str>>(coordinators: &[A]) -> Result<Self, CallError> {
        Self::secured(coordinators, &ChannelSecurity::default())
    }

    /// As [`AdminClient::new`], by TLS and with a secret where the coordinators require them.
    pub fn secured<A: AsRef<str>>(coordinators: &[A], security: &ChannelSecurity) -> Result<Self, CallError> {
        Ok(Self { coordinators: Coordinators::secured(coordinators, security)? })
    }

    pub fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    admin_call! {
        /// Creates one topic.
        create_topic(CreateTopicRequest) -> CreateTopicResponse, once
    }
    admin_call! {
        /// Deletes one topic.
        delete_topic(DeleteTopicRequest) -> DeleteTopicResponse, once
    }
    admin_call! {
        /// A page of the names, ids and sizes of the topics.
        list_topics(ListTopicsRequest) -> ListTopicsResponse, read
    }
    admin_call! {
        /// One topic with its configs and a page of its partitions.
        describe_topic(DescribeTopicRequest) -> DescribeTopicResponse, read
    }
    admin_call! {
        /// Gives a topic more partitions.
        create_partitions(CreatePartitionsRequest) -> CreatePartitionsResponse, once
    }
    admin_call! {
        /// A page of partitions in one condition.
        list_partitions(ListPartitionsRequest) -> ListPartitionsResponse, read
    }
    admin_call! {
        /// Moves partitions to other replicas.
        reassign_partitions(ReassignPartitionsRequest) -> ReassignPartitionsResponse, change
    }
    admin_call! {
        /// Elects leaders on demand.
        elect_leaders(ElectLeadersRequest) -> ElectLeadersResponse, change
    }
    admin_call! {
        /// The entries that are set on one resource.
        describe_config(DescribeConfigRequest) -> DescribeConfigResponse, read
    }
    admin_call! {
        /// Changes entries of one resource.
        alter_config(AlterConfigRequest) -> AlterConfigResponse, change
    }
    admin_call! {
        /// The registered brokers and the controller.
        list_brokers(ListBrokersRequest) -> ListBrokersResponse, read
    }
    admin_call! {
        /// Removes a broker for good.
        unregister_broker(UnregisterBrokerRequest) -> UnregisterBrokerResponse, once
    }
    admin_call! {
        /// The log directories of one broker.
        describe_log_dirs(DescribeLogDirsRequest) -> DescribeLogDirsResponse, read
    }
    admin_call! {
        /// A page of the groups.
        list_groups(ListGroupsRequest) -> ListGroupsResponse, read
    }
    admin_call! {
        /// One group with its members and its lag.
        describe_group(DescribeGroupRequest) -> DescribeGroupResponse, read
    }
    admin_call! {
        /// The quorum, as the answering coordinator sees it.
        quorum_status(QuorumStatusRequest) -> QuorumStatusResponse, read
    }
    admin_call! {
        /// Brokers, partitions and coordinators, and what is wrong.
        cluster_health(ClusterHealthRequest) -> ClusterHealthResponse, read
    }
    admin_call! {
        /// A coordinator becomes a member. A request that is repeated goes on where the change stands.
        add_quorum_member(AddQuorumMemberRequest) -> ChangeQuorumResponse, change
    }
    admin_call! {
        /// A member goes.
        remove_quorum_member(RemoveQuorumMemberRequest) -> ChangeQuorumResponse, change
    }
    admin_call! {
        /// Another voter leads.
        transfer_quorum_leadership(TransferQuorumLeadershipRequest) -> ChangeQuorumResponse, change
    }
    admin_call! {
        /// One node of the tree.
        get_node(GetNodeRequest) -> GetNodeResponse, read
    }
    admin_call! {
        /// The children of one node.
        list_nodes(ListNodesRequest) -> ListNodesResponse, read
    }

    /// Follows changes below a path. The stream ends with the connection; the caller starts again.
    pub async fn watch_nodes(
        &self,
        request: WatchNodesRequest,
        timeout: Duration,
    ) -> Result<Streaming<WatchNodesResponse>, CallError> {
        let attempt = |channel: ClusterChannel| {
            let request = request.clone();
            async move { generated(channel).watch_nodes(request).await }
        };
        self.coordinators.call("watch_nodes", timeout, Repeat::Freely, attempt).await.map(|(response, _)| response)
    }
}
