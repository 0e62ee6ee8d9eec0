//! [`QuorumHandle`] over the rpc client: all calls run on the control runtime.

use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::controller::{Answer, Request};
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_model::{BrokerEpoch, BrokerId};
use ottla_rpc::{CallError, ClusterClient};
use tokio::runtime::Handle;

use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::quorum_handle::{QuorumError, QuorumFuture, QuorumHandle};

pub struct QuorumClient {
    client: ClusterClient,
    control: Handle,
    identity: Arc<Identity>,
}

impl QuorumClient {
    pub fn new(client: ClusterClient, control: Handle, identity: Arc<Identity>) -> Self {
        Self { client, control, identity }
    }
}

impl QuorumHandle for QuorumClient {
    fn registration(&self) -> Result<(BrokerId, BrokerEpoch), QuorumError> {
        let (id, epoch) = (self.identity.id(), self.identity.epoch());
        if id == BrokerId::NONE || epoch == BrokerEpoch::NONE {
            return Err(QuorumError::NotRegistered);
        }
        Ok((id, epoch))
    }

    /// Runs on the control runtime to its end, also when nobody waits for it any more.
    fn decide(&self, request: Request, timeout: Duration) -> QuorumFuture<Answer> {
        let client = self.client.clone();
        let task = self.control.spawn(async move { client.decide(request, timeout).await.map_err(quorum_error) });
        Box::pin(async move { task.await.unwrap_or(Err(QuorumError::NotRegistered)) })
    }

    fn progress(&self, timeout: Duration) -> QuorumFuture<QuorumProgress> {
        let client = self.client.clone();
        let task = self.control.spawn(async move { client.quorum_progress(timeout).await.map_err(quorum_error) });
        Box::pin(async move { task.await.unwrap_or(Err(QuorumError::NotRegistered)) })
    }
}

fn quorum_error(error: CallError) -> QuorumError {
    match error {
        CallError::Deadline { maybe_done: true, .. } | CallError::StreamEnded { .. } | CallError::Malformed { .. } => {
            QuorumError::Unknown(error.to_string())
        }
        CallError::Deadline { .. }
        | CallError::Address { .. }
        | CallError::NoCoordinator
        | CallError::Refused { .. } => QuorumError::Unavailable(error.to_string()),
    }
}
