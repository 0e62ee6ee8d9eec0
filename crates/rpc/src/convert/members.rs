//! Changes of the quorum.

use bytes::Bytes;
use ottla_metadata::controller::{ChangeQuorum, QuorumChanged, Refusal};
use ottla_model::{CoordinatorId, IncarnationId, Revision};

use super::{InvalidField, Wire, id_16, refusal_from_proto, refusal_to_proto};
use crate::cluster::{self, change_quorum_request::Change};

impl Wire for ChangeQuorum {
    type Message = cluster::ChangeQuorumRequest;

    fn into_proto(self) -> Self::Message {
        let bytes = |disk: IncarnationId| Bytes::copy_from_slice(disk.as_bytes());
        let change = match self {
            Self::Add { coordinator, disk, address } => {
                // Zero: of whichever coordinator answers at the address.
                let disk_id = if disk == IncarnationId::ZERO { Bytes::new() } else { bytes(disk) };
                Change::Add(cluster::AddCoordinator { coordinator_id: coordinator.0, disk_id, address })
            }
            Self::Remove { coordinator, disk, force } => {
                let disk_id = disk.map(bytes).unwrap_or_default();
                Change::Remove(cluster::RemoveCoordinator { coordinator_id: coordinator.0, disk_id, force })
            }
            Self::TransferLeadership { to } => {
                Change::Transfer(cluster::TransferLeadership { coordinator_id: to.map_or(0, |to| to.0) })
            }
        };
        cluster::ChangeQuorumRequest { change: Some(change) }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let disk = |bytes: &Bytes| match bytes.is_empty() {
            true => Ok(None),
            false => id_16("disk_id", bytes).map(|bytes| Some(IncarnationId(bytes))),
        };
        match message.change {
            Some(Change::Add(add)) => Ok(Self::Add {
                coordinator: CoordinatorId(add.coordinator_id),
                disk: disk(&add.disk_id)?.unwrap_or(IncarnationId::ZERO),
                address: add.address,
            }),
            Some(Change::Remove(remove)) => Ok(Self::Remove {
                coordinator: CoordinatorId(remove.coordinator_id),
                disk: disk(&remove.disk_id)?,
                force: remove.force,
            }),
            Some(Change::Transfer(transfer)) => {
                let to = Some(transfer.coordinator_id).filter(|id| *id != 0).map(CoordinatorId);
                Ok(Self::TransferLeadership { to })
            }
            None => Err(InvalidField::new("change", "none that this release knows")),
        }
    }
}

impl Wire for Result<QuorumChanged, Refusal> {
    type Message = cluster::ChangeQuorumResponse;

    fn into_proto(self) -> Self::Message {
        let revision = self.as_ref().map_or(0, |changed| changed.revision.0);
        let (error_code, error_message) = refusal_to_proto(self.err());
        cluster::ChangeQuorumResponse { error_code, error_message, revision }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(match refusal_from_proto(message.error_code, message.error_message) {
            Some(refusal) => Err(refusal),
            None => Ok(QuorumChanged { revision: Revision(message.revision) }),
        })
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;

    use super::*;

    #[test]
    fn changes_of_the_quorum_travel() {
        let coordinator = CoordinatorId(4);
        let disk = IncarnationId([7; 16]);
        for change in [
            ChangeQuorum::Add { coordinator, disk, address: "c4:2181".to_owned() },
            ChangeQuorum::Add { coordinator, disk: IncarnationId::ZERO, address: String::new() },
            ChangeQuorum::Remove { coordinator, disk: Some(disk), force: true },
            ChangeQuorum::Remove { coordinator, disk: None, force: false },
            ChangeQuorum::TransferLeadership { to: Some(coordinator) },
            ChangeQuorum::TransferLeadership { to: None },
        ] {
            assert_eq!(ChangeQuorum::from_proto(change.clone().into_proto()), Ok(change));
        }
        assert!(ChangeQuorum::from_proto(cluster::ChangeQuorumRequest::default()).is_err());
        let refusal = Refusal::new(ErrorCode::DuplicateVoter, "it votes");
        for answer in [Err(refusal), Ok(QuorumChanged { revision: Revision(9) })] {
            assert_eq!(Wire::from_proto(answer.clone().into_proto()), Ok(answer));
        }
    }
}
