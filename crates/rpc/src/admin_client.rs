//! The requests of tools to any coordinator.

use std::time::Duration;

use ottla_model::ClusterSecret;
use tonic::Streaming;

use crate::MESSAGE_BYTES_MAX;
use crate::admin::admin_client::AdminClient as Generated;
use crate::admin::{
    CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest,
    DescribeTopicResponse, GetNodeRequest, GetNodeResponse, ListBrokersRequest, ListBrokersResponse, ListNodesRequest,
    ListNodesResponse, ListTopicsRequest, ListTopicsResponse, QuorumStatusRequest, QuorumStatusResponse,
    WatchNodesRequest, WatchNodesResponse,
};
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
    ($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty, $repeat:expr) => {
        $(#[$doc])*
        pub async fn $name(&self, request: $request, timeout: Duration) -> Result<$response, CallError> {
            let attempt = |channel: ClusterChannel| {
                let request = request.clone();
                async move { generated(channel).$name(request).await }
            };
            self.coordinators.call(stringify!($name), timeout, $repeat, attempt).await.map(|(response, _)| response)
        }
    };
}

impl AdminClient {
    /// `coordinators` as [`Coordinators::new`] takes them.
    pub fn new<A: AsRef<str>>(coordinators: &[A]) -> Result<Self, CallError> {
        Self::with_secret(coordinators, None)
    }

    /// As [`AdminClient::new`], with the secret that the coordinators require of whoever alters the cluster.
    pub fn with_secret<A: AsRef<str>>(coordinators: &[A], secret: Option<&ClusterSecret>) -> Result<Self, CallError> {
        Ok(Self { coordinators: Coordinators::with_secret(coordinators, secret)? })
    }

    pub fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    admin_call! {
        /// Creates one topic.
        create_topic(CreateTopicRequest) -> CreateTopicResponse, Repeat::WhenAnswered
    }
    admin_call! {
        /// Deletes one topic.
        delete_topic(DeleteTopicRequest) -> DeleteTopicResponse, Repeat::WhenAnswered
    }
    admin_call! {
        /// Names, ids and sizes of all topics.
        list_topics(ListTopicsRequest) -> ListTopicsResponse, Repeat::Freely
    }
    admin_call! {
        /// One topic with its partitions and configs.
        describe_topic(DescribeTopicRequest) -> DescribeTopicResponse, Repeat::Freely
    }
    admin_call! {
        /// The live brokers and the controller.
        list_brokers(ListBrokersRequest) -> ListBrokersResponse, Repeat::Freely
    }
    admin_call! {
        /// The quorum, as the answering coordinator sees it.
        quorum_status(QuorumStatusRequest) -> QuorumStatusResponse, Repeat::Freely
    }
    admin_call! {
        /// One node of the tree.
        get_node(GetNodeRequest) -> GetNodeResponse, Repeat::Freely
    }
    admin_call! {
        /// The children of one node.
        list_nodes(ListNodesRequest) -> ListNodesResponse, Repeat::Freely
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
