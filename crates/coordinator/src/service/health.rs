//! `grpc.health.v1`: the standard health service, for load balancers and `grpcurl`.
//!
//! The process serves while it answers; the services of the cluster serve while the quorum has a leader.

use std::sync::Arc;
use std::time::Duration;

use ottla_resources::Share;
use ottla_rpc::admin::admin_server;
use ottla_rpc::cluster::cluster_server;
use ottla_rpc::quorum::quorum_server;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::caller;
use super::watching::deliver;
use crate::shared::Shared;

/// How often a watch looks at the leadership.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Those that answer without a quorum leader too.
const OF_PROCESS: [&str; 3] = ["", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
const OF_CLUSTER: [&str; 3] = [admin_server::SERVICE_NAME, cluster_server::SERVICE_NAME, quorum_server::SERVICE_NAME];

pub struct HealthService {
    shared: Arc<Shared>,
}

fn status_of(shared: &Shared, service: &str) -> Option<ServingStatus> {
    if OF_PROCESS.contains(&service) {
        return Some(ServingStatus::Serving);
    }
    let knows_leader = || shared.formed().is_some_and(|formed| formed.role.borrow().leader.is_some());
    let status = |serves| if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    OF_CLUSTER.contains(&service).then(|| status(knows_leader()))
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl HealthService {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

type Answers = mpsc::Sender<Result<HealthCheckResponse, Status>>;

/// Tells the status, and each other one; the standard wants a watch of an unknown service to wait for it.
async fn tell(shared: Arc<Shared>, service: String, answers: Answers, permit: Share) {
    let mut told = None;
    loop {
        let status = status_of(&shared, &service).unwrap_or(ServingStatus::ServiceUnknown);
        if told != Some(status) {
            told = Some(status);
            if !deliver(&answers, Ok(answer(status))).await {
                break;
            }
        }
        tokio::select! {
            () = answers.closed() => break,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
    drop(permit);
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = status_of(&self.shared, &service).ok_or_else(|| Status::not_found("unknown service"))?;
        Ok(Response::new(answer(status)))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let permit = self.shared.watch_permit(&caller(&request)?)?;
        let (answers, receiver) = mpsc::channel(1);
        tokio::spawn(tell(self.shared.clone(), request.into_inner().service, answers, permit));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
