//! The gRPC services of a coordinator, one file per service; each port serves all of them.

mod admin;
mod admission;
mod cluster;
mod health;
mod quorum;
mod requests;
mod watching;

use std::sync::Arc;

use ottla_rpc::admin::admin_server::AdminServer;
use ottla_rpc::cluster::cluster_server::ClusterServer;
use ottla_rpc::quorum::quorum_server::QuorumServer;
use ottla_rpc::{FILE_DESCRIPTOR_SET, MESSAGE_BYTES_MAX};
use tonic::Status;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;

pub use admission::Admission;

use crate::access::Caller;
use crate::shared::Shared;

/// Approximate size of one event with the changes of a revision: far below [`MESSAGE_BYTES_MAX`], with room for a node
/// of any size.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// A request of the admin API: a topic with its configurations, or a path, which anybody may send.
const ADMIN_REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Who makes the call, as [`Admission`] has found.
fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::internal("a call that was not admitted"))
}

/// The routes of every port: brokers' and coordinators' services, people's, reflection and health. [`Admission`]
/// has checked each call.
pub fn routes(shared: &Arc<Shared>, takes_raft: bool) -> Routes {
    let mut routes = RoutesBuilder::default();
    let cluster = ClusterServer::new(cluster::ClusterService::new(shared.clone()));
    routes
        .add_service(cluster.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX));
    let quorum = QuorumServer::new(quorum::QuorumService::new(shared.clone(), takes_raft));
    routes
        .add_service(quorum.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX));
    let admin = AdminServer::new(admin::AdminService::new(shared.clone()));
    routes.add_service(
        admin.max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
    );
    // Both fail only on a descriptor set that cannot be read, and ours was written by the build.
    if let Ok(reflection) = reflection().build_v1() {
        routes.add_service(reflection);
    }
    if let Ok(reflection) = reflection().build_v1alpha() {
        routes.add_service(reflection);
    }
    routes.add_service(HealthServer::new(health::HealthService::new(shared.clone())));
    routes.routes()
}

/// Of every service that a coordinator has. Clients of some languages ask with the older version of reflection alone.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
