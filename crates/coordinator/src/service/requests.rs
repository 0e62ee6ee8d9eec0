//! Requests to the controller, for every service that has some.

use std::time::Duration;

use ottla_metadata::controller::{Answer, ChangeQuorum, Refusal, Request};
use ottla_model::{CoordinatorId, ErrorCode, IncarnationId};
use ottla_rpc::cluster::cluster_client::ClusterClient;
use ottla_rpc::convert;
use ottla_rpc::coordinators::describe;
use tonic::Status;

use crate::driver::RequestError;
use crate::identify::{self, Identified};
use crate::shared::{Formed, Shared};

/// Number of attempts: the controller decided nothing (another entry interfered), and a retry may succeed at once.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(10);
/// Timeout of a forwarded request.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

pub fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
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

    /// Sends a request to the controller.
    pub async fn decide(&self, request: Request) -> Result<Answer, Status> {
        let formed = self.require_leader()?;
        let request = match request {
            Request::ChangeQuorum(change) => match self.check_change(formed, change).await {
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
    async fn check_change(&self, formed: &Formed, change: ChangeQuorum) -> Result<ChangeQuorum, Refusal> {
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
        self.check_found(formed, (id, disk, address), &found)
    }

    /// `found` answers at the address of the coordinator that is to be added.
    fn check_found(
        &self,
        formed: &Formed,
        (id, disk, address): (CoordinatorId, IncarnationId, String),
        found: &Identified,
    ) -> Result<ChangeQuorum, Refusal> {
        let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        // It would not listen to this quorum, and no other one could be added meanwhile.
        if let Some((ours, theirs)) = self.other_cluster(found) {
            return refuse(format!(
                "coordinator {id} at {address} belongs to cluster {theirs}, this quorum to cluster {ours}"
            ));
        }
        if found.id != id {
            return refuse(format!("coordinator {}, not {id}, answers at {address}", found.id));
        }
        if disk != IncarnationId::ZERO && disk != found.disk {
            return refuse(format!("coordinator {id} at {address} has disk {}, not {disk}", found.disk));
        }
        let is_member = formed.members().get(id).is_some_and(|member| member.disk == Some(found.disk));
        if !found.is_empty && !is_member {
            let text =
                format!("coordinator {id} at {address} belongs to a quorum already: its data directory is not empty");
            return Err(Refusal::new(ErrorCode::InvalidVoterKey, text));
        }
        Ok(ChangeQuorum::Add { coordinator: id, disk: found.disk, address })
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
    use std::collections::BTreeMap;

    use ottla_rpc::quorum::Recognition;

    use super::*;
    use crate::shared::testing::formed;

    /// It never caught up, and blocked every other addition.
    #[test]
    fn a_coordinator_of_another_cluster_is_not_added() {
        let shared = formed(1);
        let (id, disk, address) = (CoordinatorId(4), IncarnationId([4; 16]), "c4:2181".to_owned());
        let found = |cluster_id: Option<&str>| Identified {
            id,
            disk,
            is_empty: true,
            voters: BTreeMap::new(),
            disks: BTreeMap::new(),
            members_revision: 0,
            cluster_id: cluster_id.map(str::to_owned),
            recognition: Recognition::Unspecified,
            known_disk: None,
            stream_confirmed: false,
        };
        let check = |cluster_id| {
            let formed = shared.require_formed().expect("formed");
            shared.check_found(formed, (id, IncarnationId::ZERO, address.clone()), &found(cluster_id))
        };
        let change = ChangeQuorum::Add { coordinator: id, disk, address: address.clone() };
        assert_eq!(check(Some("test")).expect("of this cluster"), change);
        assert_eq!(check(None).expect("of none yet"), change);
        let refused = check(Some("other")).expect_err("of another one");
        assert!(refused.message.contains("belongs to cluster other"), "{refused}");
    }
}
