//! Why a coordinator does not start, or stops: one line each, for people.

use ottla_consensus::membership::MembershipError;
use ottla_consensus::{MemberError, StoreError};
use ottla_model::CoordinatorId;
use ottla_quorum_node::NodeError;
use ottla_quorum_node::identity::Conflict;
use ottla_rpc::CallError;

use crate::rocksdb_store::{DiskError, OpenError};

#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    #[error("{0}")]
    Config(#[from] ottla_config::ConfigError),
    #[error("data.dir={0}")]
    DataDir(#[from] OpenError),
    #[error("TLS: {0}")]
    Tls(#[from] ottla_tls::TlsError),
    #[error("{key}={value}: {problem}")]
    Setting { key: &'static str, value: String, problem: String },
    #[error(
        "id={configured}: the data directory belongs to coordinator {stored}; accepted: {stored}, or an empty data directory"
    )]
    OtherId { configured: CoordinatorId, stored: CoordinatorId },
    #[error(
        "coordinator {id} was removed from the quorum: to bring it back, empty its data directory, start it, and add it (ottla quorum add)"
    )]
    Removed { id: CoordinatorId },
    #[error("{0}")]
    Conflict(#[from] Conflict),
    #[error("servers: {0}")]
    Membership(#[from] MembershipError),
    #[error("servers: {0}")]
    Address(#[from] CallError),
    #[error("the disk failed: {0}")]
    Disk(#[from] DiskError),
    #[error("the disk failed: {0}")]
    Store(#[source] StoreError),
    #[error("raft: {0}")]
    Member(#[from] MemberError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    #[error("the driver ended unexpectedly: see the lines before")]
    DriverEnded,
    #[error("stopped before the quorum was formed")]
    Stopped,
}
