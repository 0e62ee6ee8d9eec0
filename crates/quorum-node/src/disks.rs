//! Checks which disk may act for which coordinator. A coordinator id that comes with another disk than the one with
//! which it voted has lost its votes.

use std::collections::BTreeMap;

use ottla_metadata::image::Image;
use ottla_model::{CoordinatorId, IncarnationId};

/// A member of the quorum, as this node's disk remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    pub address: String,
    /// None if this node has never seen the voter's disk.
    pub disk: Option<IncarnationId>,
}

/// The disk with which `id` has voted: from the tree, else from the first start.
pub fn known_disk(image: &Image, voters: &BTreeMap<CoordinatorId, Voter>, id: CoordinatorId) -> Option<IncarnationId> {
    image.coordinator_disk(id).or_else(|| voters.get(&id)?.disk)
}

/// Why a message is not listened to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SenderError {
    #[error("coordinator {0} is not a member of this quorum")]
    Stranger(CoordinatorId),
    #[error(
        "coordinator {id} voted with disk {known} before and comes with disk {shown} now: a member that lost its disk must not vote"
    )]
    OtherDisk { id: CoordinatorId, known: IncarnationId, shown: IncarnationId },
}

/// A sender must be another voter, with the disk that it always voted with. Of a voter that was never seen nothing is
/// known yet.
pub fn check_sender(
    image: &Image,
    voters: &BTreeMap<CoordinatorId, Voter>,
    me: CoordinatorId,
    id: CoordinatorId,
    shown: IncarnationId,
) -> Result<(), SenderError> {
    if id == me || !voters.contains_key(&id) {
        return Err(SenderError::Stranger(id));
    }
    match known_disk(image, voters, id) {
        Some(known) if known != shown => Err(SenderError::OtherDisk { id, known, shown }),
        _ => Ok(()),
    }
}
