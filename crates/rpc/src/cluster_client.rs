//! What a broker asks of the quorum.

use std::time::Duration;

use ottla_model::{BrokerId, Revision};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::MESSAGE_BYTES_MAX;
use crate::cluster::cluster_client::ClusterClient as Generated;
use crate::cluster::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterConfigsRequest, AlterConfigsResponse,
    AlterPartitionsRequest, AlterPartitionsResponse, ControlledShutdownRequest, ControlledShutdownResponse,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, HeartbeatRequest, RegisterRequest, RegisterResponse, ResignLeadershipRequest,
    ResignLeadershipResponse,
};
use crate::coordinators::{CallError, Coordinators, Repeat};
use crate::heartbeat::{self, HeartbeatStream};
use crate::watch::{self, WatchStream};

/// Cheap to clone; all clones share connections and what they know of the leader. Must be made within a tokio runtime.
#[derive(Clone, Debug)]
pub struct ClusterClient {
    coordinators: Coordinators,
}

pub(crate) fn generated(channel: Channel) -> Generated<Channel> {
    Generated::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

macro_rules! leader_call {
    ($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty, $repeat:expr) => {
        $(#[$doc])*
        ///
        /// Asks until a leader answered or `timeout` has passed. Kafka's errors are inside the response.
        pub async fn $name(&self, request: $request, timeout: Duration) -> Result<$response, CallError> {
            let attempt = |channel: Channel| {
                let request = request.clone();
                async move { generated(channel).$name(request).await }
            };
            self.call(stringify!($name), timeout, $repeat, attempt).await
        }
    };
}

impl ClusterClient {
    /// `coordinators` are host:port. Dials nobody yet: coordinators that are absent delay calls, and nothing else.
    pub fn new<A: AsRef<str>>(coordinators: &[A]) -> Result<Self, CallError> {
        Ok(Self { coordinators: Coordinators::new(coordinators)? })
    }

    pub fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    async fn call<R, F, Fut>(
        &self,
        operation: &'static str,
        timeout: Duration,
        repeat: Repeat,
        attempt: F,
    ) -> Result<R, CallError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        self.coordinators.call(operation, timeout, repeat, attempt).await.map(|(response, _)| response)
    }

    /// Registers this incarnation of a broker. Hands the list of coordinators over with it, so that an ensemble that was never
    /// told its members can form.
    ///
    /// A refusal (a living broker has the id, another cluster) is `error_code` and `error_message` of the response.
    pub async fn register(
        &self,
        mut request: RegisterRequest,
        timeout: Duration,
    ) -> Result<RegisterResponse, CallError> {
        request.coordinator_connect = self.coordinators.addresses();
        let attempt = |channel: Channel| {
            let request = request.clone();
            async move { generated(channel).register(request).await }
        };
        self.call("register", timeout, Repeat::Freely, attempt).await
    }

    leader_call! {
        /// Changes ISRs. A change that is already the state succeeds again.
        alter_partitions(AlterPartitionsRequest) -> AlterPartitionsResponse, Repeat::Freely
    }
    leader_call! {
        /// Gives up the leadership of some partitions.
        resign_leadership(ResignLeadershipRequest) -> ResignLeadershipResponse, Repeat::Freely
    }
    leader_call! {
        /// Moves this broker's leaderships away; asked again until the response says `done`.
        controlled_shutdown(ControlledShutdownRequest) -> ControlledShutdownResponse, Repeat::Freely
    }
    leader_call! {
        /// A block of producer ids. A repeated call wastes a block, and nothing else.
        allocate_producer_ids(AllocateProducerIdsRequest) -> AllocateProducerIdsResponse, Repeat::Freely
    }
    leader_call! {
        /// Creates topics. After a broken connection the call is repeated: a topic may then be reported as existing that this very
        /// call created.
        create_topics(CreateTopicsRequest) -> CreateTopicsResponse, Repeat::WhenAnswered
    }
    leader_call! {
        /// Deletes topics.
        delete_topics(DeleteTopicsRequest) -> DeleteTopicsResponse, Repeat::WhenAnswered
    }
    leader_call! {
        /// Adds partitions to topics.
        create_partitions(CreatePartitionsRequest) -> CreatePartitionsResponse, Repeat::WhenAnswered
    }
    leader_call! {
        /// Changes configurations of topics, brokers, clients and users.
        alter_configs(AlterConfigsRequest) -> AlterConfigsResponse, Repeat::WhenAnswered
    }

    /// Opens the heartbeat stream with the quorum leader and sends `first` on it. Following hints and waiting for a leader count
    /// against `timeout`; opening again after the stream ended is the caller's loop.
    pub async fn heartbeat(&self, first: HeartbeatRequest, timeout: Duration) -> Result<HeartbeatStream, CallError> {
        heartbeat::open(&self.coordinators, first, timeout).await
    }

    /// Follows the tree from `from` (the revision that the caller has; 0: none) at any coordinator, but at `not_at` only if there is
    /// no other. `broker` is for the coordinator's log and spreads the watchers; [`BrokerId::NONE`] where no broker watches.
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
