//! Errors after which a broker must stop.

use ottla_metadata::controller::Refusal;
use ottla_model::{BrokerId, ClusterId};

/// Why a broker cannot be part of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GiveUp {
    /// The coordinators say so.
    #[error("{}", .0.message)]
    ClusterRefused(Refusal),
    /// The broker finds it in what they answered.
    #[error("the coordinators belong to cluster {found}, this broker to {expected}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// A living broker keeps the id.
    #[error("broker.id={id} is in use: {}", refusal.message)]
    DuplicateId { id: BrokerId, refusal: Refusal },
    #[error("the quorum refuses this broker: {:?}: {}", .0.error, .0.message)]
    Refused(Refusal),
}
