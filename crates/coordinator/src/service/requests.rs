//! Requests to the controller, for every service that has some.

use std::future::Future;
use std::time::Duration;

use ottla_metadata::controller::{Answer, ChangeQuorum, Refusal, Request};
use ottla_model::{BrokerId, ErrorCode};
use ottla_quorum_node::Event;
use ottla_rpc::cluster::cluster_client::ClusterClient;
use ottla_rpc::convert;
use ottla_rpc::coordinators::describe;
use tonic::Status;

use crate::driver::{RequestError, Stopped};
use crate::identify;
use crate::shared::{Formed, Shared};

/// Number of attempts: the controller decided nothing (another entry interfered), and a retry may succeed at once.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(10);
/// Timeout of a forwarded request.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the driver's word. A driver whose disk answers needs milliseconds.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(5);

pub fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// What the driver says to a question that it answers without a quorum. It does not while its disk does not answer:
/// whoever asked must not wait for that.
pub async fn said_by_driver<T>(asking: impl Future<Output = Result<T, Stopped>>) -> Result<T, Status> {
    match tokio::time::timeout(DRIVER_TIMEOUT, asking).await {
        Ok(said) => said.map_err(|_| stopping()),
        Err(_) => Err(Status::unavailable("the coordinator's disk does not answer")),
    }
}

impl Shared {
    /// The quorum, or the error for requests before it is formed.
    pub fn require_formed(&self) -> Result<&Formed, Status> {
        self.formed().ok_or_else(|| self.not_leader().into_status())
    }

    /// As [`Shared::require_formed`], on the quorum leader only.
    pub fn require_leader(&self) -> Result<&Formed, Status> {
        let formed = self.require_formed()?;
        if self.leads() { Ok(formed) } else { Err(self.not_leader().into_status()) }
    }

    /// A broker asks for what only the leader of the quorum does.
    pub fn asked_by(&self, broker: BrokerId) {
        if let Some(formed) = self.formed().filter(|_| !self.leads()) {
            // Where there is no room it is lost: the broker asks again.
            let _ = formed.driver.try_send(Event::BrokerAsked(broker));
        }
    }

    /// Sends a request to the controller.
    pub async fn decide(&self, request: Request) -> Result<Answer, Status> {
        let formed = self.require_leader()?;
        let request = match request {
            Request::ChangeQuorum(change) => match self.check_change(change).await {
                Ok(change) => Request::ChangeQuorum(change),
                Err(refusal) => return Ok(Answer::ChangeQuorum(Err(refusal))),
            },
            request => request,
        };
        for _ in 0..ATTEMPTS_MAX {
            match formed.driver.submit(request.clone()).await {
                Ok(Ok(Answer::Unavailable)) => tokio::time::sleep(ATTEMPT_PAUSE).await,
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(RequestError::NotLeader(not_leader))) => return Err(not_leader.into_status()),
                Ok(Err(RequestError::Refused(why))) => return Err(Status::invalid_argument(why)),
                Err(_) => return Err(stopping()),
            }
        }
        Err(Status::unavailable("the quorum leader is too busy to decide"))
    }

    /// A coordinator that is to be added must answer at its address, with that id and an empty disk: the quorum must
    /// not wait for an address where nobody is.
    async fn check_change(&self, change: ChangeQuorum) -> Result<ChangeQuorum, Refusal> {
        let ChangeQuorum::Add { coordinator: id, disk, address } = change else { return Ok(change) };
        let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        let found = match self.channel(&address) {
            Ok(channel) => identify::identify(self, channel).await,
            Err(error) => return refuse(error.to_string()),
        };
        let found = match found {
            Ok(found) => found,
            Err(status) => return refuse(format!("no coordinator answers at {address}: {}", describe(&status))),
        };
        self.own_identity().check_addition((id, disk, address), &found)
    }

    /// As [`Shared::decide`], by the coordinator that leads: for clients that cannot be told to ask another one.
    pub async fn decide_at_leader(&self, request: Request) -> Result<Answer, Status> {
        if self.leads() {
            return self.decide(request).await;
        }
        let not_leader = self.not_leader();
        let Some(leader) = &not_leader.leader else { return Err(not_leader.into_status()) };
        let channel = self.channel(&leader.address).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut message = tonic::Request::new(convert::request_to_proto(request));
        message.set_timeout(FORWARD_TIMEOUT);
        let answer = ClusterClient::new(self.cluster_channel(channel)).decide(message).await?.into_inner();
        convert::answer_from_proto(answer).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of a quorum member whose disk had stalled never came.
    #[tokio::test(start_paused = true)]
    async fn a_driver_that_waits_for_its_disk_keeps_nobody_waiting() {
        let silent = said_by_driver(std::future::pending::<Result<(), Stopped>>());
        let told = tokio::time::timeout(2 * DRIVER_TIMEOUT, silent).await.expect("an answer").expect_err("none");
        assert_eq!(told.code(), tonic::Code::Unavailable);
        assert!(told.message().contains("disk does not answer"), "{told}");
        said_by_driver(async { Ok(()) }).await.expect("a driver that answers");
    }
}
