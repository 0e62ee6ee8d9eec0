//! The requests of brokers to the quorum.

use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::controller::{Answer, Beat, Decision, IdempotencyKey, Request};
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_model::{BrokerId, IncarnationKey, Revision};

use crate::channel::ChannelSecurity;
use crate::cluster::DescribeQuorumRequest;
use crate::cluster::cluster_client::ClusterClient as Generated;
use crate::cluster_metadata::ClusterChannel;
use crate::coordinators::{CallError, Coordinators, Repeat};
use crate::heartbeat::{self, HeartbeatStream};
use crate::watch::{self, WatchStream};
use crate::{MESSAGE_BYTES_MAX, convert};

/// Cheap to clone; all clones share connections and what they know of the leader. Must be made within a tokio runtime.
#[derive(Clone, Debug)]
pub struct ClusterClient {
    coordinators: Coordinators,
    /// Of the broker that asks.
    key: Option<Arc<IncarnationKey>>,
}

pub(crate) fn generated(channel: ClusterChannel) -> Generated<ClusterChannel> {
    Generated::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Gives the request a key if the quorum remembers requests of its kind: then it may be repeated freely.
fn prepare(request: Request) -> (Request, Repeat) {
    if request.is_remembered() {
        let key = IdempotencyKey(*uuid::Uuid::new_v4().as_bytes());
        return (Request::Once(key, Box::new(request)), Repeat::Freely);
    }
    let repeat = request.repeat();
    (request, repeat)
}

impl ClusterClient {
    /// `coordinators` as [`Coordinators::new`] takes them. Connects with the first call.
    pub fn new<A: AsRef<str>>(coordinators: &[A]) -> Result<Self, CallError> {
        Self::secured(coordinators, &ChannelSecurity::default())
    }

    /// As [`ClusterClient::new`], by TLS and with a secret where the coordinators require them of brokers.
    pub fn secured<A: AsRef<str>>(coordinators: &[A], security: &ChannelSecurity) -> Result<Self, CallError> {
        Ok(Self { coordinators: Coordinators::secured(coordinators, security)?, key: None })
    }

    /// From now on the requests that a broker sends in its own name show the key of its incarnation.
    pub fn showing(self, key: IncarnationKey) -> Self {
        Self { key: Some(Arc::new(key)), ..self }
    }

    pub fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    /// Sends the request until the quorum leader has decided it or `timeout` has passed. Kafka's errors are in the
    /// answer.
    ///
    /// A registration contains the list of coordinators, so that an ensemble without a configured list can form.
    pub async fn decide(&self, request: Request, timeout: Duration) -> Result<Answer, CallError> {
        let operation = request.name();
        let is_registration = matches!(request, Request::Register(_));
        let (request, repeat) = prepare(request);
        let request = match &self.key {
            Some(key) if request.is_in_own_name() => Request::Proved((**key).clone(), Box::new(request)),
            _ => request,
        };
        let mut message = convert::request_to_proto(request);
        if is_registration {
            message.coordinator_connect = self.coordinators.addresses();
        }
        let attempt = |channel: ClusterChannel| {
            let message = message.clone();
            async move { generated(channel).decide(message).await }
        };
        let (response, target) = self.coordinators.call(operation, timeout, repeat, attempt).await?;
        let malformed = |reason| CallError::Malformed { operation, address: target.address, reason };
        convert::answer_from_proto(response).map_err(|error| malformed(error.to_string()))
    }

    /// As [`ClusterClient::decide`], for one kind of request.
    pub async fn submit<D: Decision>(&self, decision: D, timeout: Duration) -> Result<D::Answer, CallError> {
        let request = decision.into_request();
        let operation = request.name();
        let answer = self.decide(request, timeout).await?;
        D::take_answer(answer).ok_or_else(|| CallError::Malformed {
            operation,
            address: self.coordinators.leader_guess().address,
            reason: "an answer of another kind".to_owned(),
        })
    }

    /// How far every replica of the quorum's log has got, as the quorum leader sees it.
    pub async fn quorum_progress(&self, timeout: Duration) -> Result<QuorumProgress, CallError> {
        let attempt =
            |channel: ClusterChannel| async move { generated(channel).describe_quorum(DescribeQuorumRequest {}).await };
        let (response, _) = self.coordinators.call("describe_quorum", timeout, Repeat::Freely, attempt).await?;
        Ok(convert::progress_from_proto(response))
    }

    /// Opens the heartbeat stream with the quorum leader and sends `first` on it. `timeout` includes following hints
    /// and waiting for a leader. The caller opens a new stream when this one ends.
    pub async fn heartbeat(&self, first: Beat, timeout: Duration) -> Result<HeartbeatStream, CallError> {
        heartbeat::open(&self.coordinators, first, self.key.as_deref(), timeout).await
    }

    /// Follows the tree from `from` (the revision that the caller has; 0: none) at any coordinator, at `not_at` only if
    /// no other is reached. `broker` spreads the watchers and appears in the coordinator's log; [`BrokerId::NONE`] for
    /// a watcher that is no broker.
    pub async fn watch(
        &self,
        from: Revision,
        broker: BrokerId,
        not_at: Option<&str>,
        timeout: Duration,
    ) -> Result<WatchStream, CallError> {
        watch::open(&self.coordinators, from, broker, not_at, timeout).await
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::controller::ChangeQuorum;
    use ottla_model::{CoordinatorId, IncarnationId};

    use super::*;

    #[test]
    fn only_the_removal_of_a_certain_disk_is_repeated_freely() {
        let repeated = |disk| {
            let remove = ChangeQuorum::Remove { coordinator: CoordinatorId(3), disk, force: false };
            prepare(Request::ChangeQuorum(remove)).1
        };
        assert!(matches!(repeated(None), Repeat::WhenAnswered));
        assert!(matches!(repeated(Some(IncarnationId([1; 16]))), Repeat::Freely));
    }
}
