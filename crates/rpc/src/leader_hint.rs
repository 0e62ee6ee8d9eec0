//! The refusal of a coordinator that does not lead the quorum: `FAILED_PRECONDITION`, with the leader, if it is known,
//! in the metadata of the status.

use ottla_model::CoordinatorId;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const ANSWERED_BY: &str = "ottla-coordinator-id";
const LEADER_ID: &str = "ottla-leader-id";
const LEADER_ADDRESS: &str = "ottla-leader-address";

/// The quorum leader, as another coordinator knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderHint {
    pub id: CoordinatorId,
    /// host:port of its gRPC, as the voter list has it. A client may know a better one.
    pub address: String,
}

/// The answer of a coordinator that does not lead: nothing was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotLeader {
    /// The coordinator that answered.
    pub answered_by: CoordinatorId,
    /// None while there is no leader, or the ensemble is not formed.
    pub leader: Option<LeaderHint>,
}

impl NotLeader {
    pub fn into_status(self) -> Status {
        let mut status = match &self.leader {
            Some(leader) => Status::failed_precondition(format!(
                "coordinator {} does not lead the quorum; coordinator {} at {} does",
                self.answered_by, leader.id, leader.address
            )),
            None => Status::failed_precondition(format!("coordinator {} knows no quorum leader", self.answered_by)),
        };
        let metadata = status.metadata_mut();
        metadata.insert(ANSWERED_BY, MetadataValue::from(self.answered_by.0));
        if let Some(leader) = self.leader {
            metadata.insert(LEADER_ID, MetadataValue::from(leader.id.0));
            // An address that no header can carry could not be dialled either.
            if let Ok(address) = MetadataValue::try_from(leader.address) {
                metadata.insert(LEADER_ADDRESS, address);
            }
        }
        status
    }

    /// None if the status means something else.
    pub fn from_status(status: &Status) -> Option<Self> {
        if status.code() != Code::FailedPrecondition {
            return None;
        }
        let number = |key| -> Option<CoordinatorId> { status.metadata().get(key)?.to_str().ok()?.parse().ok() };
        let answered_by = number(ANSWERED_BY)?;
        let leader = number(LEADER_ID).and_then(|id| {
            let address = status.metadata().get(LEADER_ADDRESS)?.to_str().ok()?.to_owned();
            Some(LeaderHint { id, address })
        });
        Some(Self { answered_by, leader })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travels_in_the_metadata() {
        let leader = LeaderHint { id: CoordinatorId(2), address: "coordinator-2:2181".into() };
        let said = NotLeader { answered_by: CoordinatorId(3), leader: Some(leader) };
        assert_eq!(NotLeader::from_status(&said.clone().into_status()), Some(said));
        let nobody = NotLeader { answered_by: CoordinatorId(1), leader: None };
        assert_eq!(NotLeader::from_status(&nobody.clone().into_status()), Some(nobody));
        assert_eq!(NotLeader::from_status(&Status::failed_precondition("something else")), None);
        assert_eq!(NotLeader::from_status(&Status::unavailable("no")), None);
    }
}
