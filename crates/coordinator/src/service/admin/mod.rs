//! `ottla.admin.v1`: the requests of tools. Any coordinator answers reads; it passes changes to the quorum leader, so
//! that a user need not know the leader.
//!
//! - `topics`, `partitions`, `configs`, `brokers`, `quorum`, `tree`: the calls, by subject. `kafka`: those that brokers
//!   answer.
//! - `decisions`: changes, each decided once. `errors`: statuses with details. `paging`: pages and field masks.
//!   `broker_calls`, `partition_counts`: what the service holds for them.

mod broker_calls;
mod brokers;
mod configs;
mod decisions;
mod errors;
mod health;
mod kafka;
mod paging;
mod partition_counts;
mod partitions;
mod quorum;
mod topics;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use ottla_model::Revision;
use ottla_quorum_node::View;
use ottla_rpc::admin::admin_server::Admin;
use ottla_rpc::admin::{
    AddQuorumMemberRequest, AlterConfigRequest, AlterConfigResponse, ChangeQuorumResponse, ClusterHealthRequest,
    ClusterHealthResponse, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeConfigRequest, DescribeConfigResponse, DescribeGroupRequest,
    DescribeGroupResponse, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeTopicRequest,
    DescribeTopicResponse, ElectLeadersRequest, ElectLeadersResponse, GetNodeRequest, GetNodeResponse,
    ListBrokersRequest, ListBrokersResponse, ListGroupsRequest, ListGroupsResponse, ListNodesRequest,
    ListNodesResponse, ListPartitionsRequest, ListPartitionsResponse, ListTopicsRequest, ListTopicsResponse,
    QuorumStatusRequest, QuorumStatusResponse, ReassignPartitionsRequest, ReassignPartitionsResponse,
    RemoveQuorumMemberRequest, TransferQuorumLeadershipRequest, UnregisterBrokerRequest, UnregisterBrokerResponse,
    WatchNodesRequest,
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::caller;
use super::requests::stopping;
use crate::shared::Shared;
use broker_calls::BrokerCalls;
use partition_counts::PartitionCounts;

/// Timeout of a linearizable read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

pub struct AdminService {
    shared: Arc<Shared>,
    broker_calls: BrokerCalls,
    /// Of the last revision whose partitions were counted.
    counted: Mutex<Option<(Revision, PartitionCounts)>>,
}

impl AdminService {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, broker_calls: BrokerCalls::default(), counted: Mutex::default() }
    }

    fn view(&self) -> Result<Arc<View>, Status> {
        Ok(self.shared.require_formed()?.view.get())
    }

    async fn view_for(&self, linearizable: bool) -> Result<Arc<View>, Status> {
        if !linearizable {
            return self.view();
        }
        let driver = &self.shared.require_formed()?.driver;
        match tokio::time::timeout(READ_TIMEOUT, driver.linearizable_view()).await {
            Ok(view) => view.map_err(|_| stopping()),
            Err(_) => Err(Status::unavailable("no quorum confirmed the read")),
        }
    }

    /// A state at least as new as a change that was decided at the quorum leader; 0: whichever is committed now.
    async fn view_of(&self, revision: Revision) -> Result<Arc<View>, Status> {
        let view = self.view()?;
        let is_there = revision.0 > 0 && view.revision >= revision;
        if is_there { Ok(view) } else { self.view_for(true).await }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

type Served<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(&self, request: Request<CreateTopicRequest>) -> Served<CreateTopicResponse> {
        self.create(request.into_inner()).await.map(Response::new)
    }

    async fn delete_topic(&self, request: Request<DeleteTopicRequest>) -> Served<DeleteTopicResponse> {
        self.delete(request.into_inner()).await.map(Response::new)
    }

    async fn list_topics(&self, request: Request<ListTopicsRequest>) -> Served<ListTopicsResponse> {
        self.list(request.into_inner()).map(Response::new)
    }

    async fn describe_topic(&self, request: Request<DescribeTopicRequest>) -> Served<DescribeTopicResponse> {
        self.describe(&request.into_inner()).map(Response::new)
    }

    async fn create_partitions(&self, request: Request<CreatePartitionsRequest>) -> Served<CreatePartitionsResponse> {
        self.add_partitions(request.into_inner()).await.map(Response::new)
    }

    async fn list_partitions(&self, request: Request<ListPartitionsRequest>) -> Served<ListPartitionsResponse> {
        self.list_partitions_of(request.into_inner()).map(Response::new)
    }

    async fn reassign_partitions(
        &self,
        request: Request<ReassignPartitionsRequest>,
    ) -> Served<ReassignPartitionsResponse> {
        self.reassign(request.into_inner()).await.map(Response::new)
    }

    async fn elect_leaders(&self, request: Request<ElectLeadersRequest>) -> Served<ElectLeadersResponse> {
        self.elect(request.into_inner()).await.map(Response::new)
    }

    async fn describe_config(&self, request: Request<DescribeConfigRequest>) -> Served<DescribeConfigResponse> {
        self.config(request.into_inner()).map(Response::new)
    }

    async fn alter_config(&self, request: Request<AlterConfigRequest>) -> Served<AlterConfigResponse> {
        let caller = caller(&request)?;
        self.alter(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_brokers(&self, _: Request<ListBrokersRequest>) -> Served<ListBrokersResponse> {
        self.brokers().map(Response::new)
    }

    async fn unregister_broker(&self, request: Request<UnregisterBrokerRequest>) -> Served<UnregisterBrokerResponse> {
        self.unregister(request.into_inner()).await.map(Response::new)
    }

    async fn describe_log_dirs(&self, request: Request<DescribeLogDirsRequest>) -> Served<DescribeLogDirsResponse> {
        self.log_dirs(request.into_inner().broker).await.map(Response::new)
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Served<ListGroupsResponse> {
        self.groups(request.into_inner()).await.map(Response::new)
    }

    async fn describe_group(&self, request: Request<DescribeGroupRequest>) -> Served<DescribeGroupResponse> {
        self.group(&request.into_inner().group).await.map(Response::new)
    }

    async fn quorum_status(&self, _: Request<QuorumStatusRequest>) -> Served<QuorumStatusResponse> {
        self.quorum().await.map(Response::new)
    }

    async fn add_quorum_member(&self, request: Request<AddQuorumMemberRequest>) -> Served<ChangeQuorumResponse> {
        self.add_member(request.into_inner()).await.map(Response::new)
    }

    async fn remove_quorum_member(&self, request: Request<RemoveQuorumMemberRequest>) -> Served<ChangeQuorumResponse> {
        self.remove_member(request.into_inner()).await.map(Response::new)
    }

    async fn transfer_quorum_leadership(
        &self,
        request: Request<TransferQuorumLeadershipRequest>,
    ) -> Served<ChangeQuorumResponse> {
        self.transfer_leadership(request.into_inner()).await.map(Response::new)
    }

    async fn cluster_health(&self, _: Request<ClusterHealthRequest>) -> Served<ClusterHealthResponse> {
        self.health().await.map(Response::new)
    }

    async fn get_node(&self, request: Request<GetNodeRequest>) -> Served<GetNodeResponse> {
        self.node(request.into_inner()).await.map(Response::new)
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Served<ListNodesResponse> {
        self.nodes(request.into_inner()).await.map(Response::new)
    }

    type WatchNodesStream = tree::NodeEventStream;

    async fn watch_nodes(&self, request: Request<WatchNodesRequest>) -> Served<Self::WatchNodesStream> {
        let caller = caller(&request)?;
        self.watch(&caller, request.into_inner()).await.map(Response::new)
    }
}
