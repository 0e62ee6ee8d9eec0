//! Checks which disk may act for which coordinator. A coordinator id that comes with another disk than the one with
//! which it voted has lost its votes.

use ottla_model::{CoordinatorId, IncarnationId};

use crate::members::Members;

/// A member of the first quorum, as this node's disk remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    pub address: String,
    /// None if this node has never seen the voter's disk.
    pub disk: Option<IncarnationId>,
}

/// Why a message is not listened to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SenderError {
    #[error("coordinator {0} is not a member of this quorum")]
    Stranger(CoordinatorId),
    #[error("coordinator {0} was removed from this quorum")]
    Removed(CoordinatorId),
    #[error(
        "coordinator {id} voted with disk {known} before and comes with disk {shown} now: a member that lost its disk must not vote"
    )]
    OtherDisk { id: CoordinatorId, known: IncarnationId, shown: IncarnationId },
}

/// A sender must be another member, with the disk that it always voted with. Of a member that was never seen nothing is
/// known yet. `vouched` is the disk of a coordinator that this node does not know, but another member does: it may have
/// become a member by entries that this node does not have yet, and this node's vote may be needed.
pub fn check_sender(
    members: &Members,
    me: CoordinatorId,
    id: CoordinatorId,
    shown: IncarnationId,
    vouched: Option<IncarnationId>,
) -> Result<(), SenderError> {
    if members.was_removed(id, shown) {
        return Err(SenderError::Removed(id));
    }
    match members.get(id) {
        _ if id == me => Err(SenderError::Stranger(id)),
        None if vouched == Some(shown) => Ok(()),
        None => Err(SenderError::Stranger(id)),
        Some(member) => match member.disk {
            Some(known) if known != shown => Err(SenderError::OtherDisk { id, known, shown }),
            _ => Ok(()),
        },
    }
}
