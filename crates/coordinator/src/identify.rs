//! Requests another coordinator's identity.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::{CoordinatorId, IncarnationId};
use ottla_rpc::MESSAGE_BYTES_MAX;
use ottla_rpc::cluster_metadata::ClusterChannel;
use ottla_rpc::quorum::quorum_client::QuorumClient;
use ottla_rpc::quorum::{IdentifyRequest, Recognition};
use tonic::Status;
use tonic::transport::Channel;

use crate::opinions::Opinion;
use crate::shared::{Shared, wire_voters};

/// A coordinator answers this from memory.
const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(500);

/// The identity of the coordinator that answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identified {
    pub id: CoordinatorId,
    pub disk: IncarnationId,
    /// Its disk has never voted.
    pub is_empty: bool,
    pub voters: BTreeMap<CoordinatorId, String>,
    /// The disks of its members that it has seen.
    pub disks: BTreeMap<CoordinatorId, IncarnationId>,
    /// Of the last change of its members while the quorum ran; 0: none.
    pub members_revision: u64,
    /// None while its cluster has no id yet.
    pub cluster_id: Option<String>,
    /// Whether it knows this coordinator's disk.
    pub recognition: Recognition,
    pub known_disk: Option<IncarnationId>,
    /// It opened the Raft stream with the token of the request.
    pub stream_confirmed: bool,
}

pub fn client(shared: &Shared, channel: Channel) -> QuorumClient<ClusterChannel> {
    QuorumClient::new(shared.cluster_channel(channel))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub async fn identify(shared: &Shared, channel: Channel) -> Result<Identified, Status> {
    ask(shared, channel, Bytes::new()).await
}

/// Asks the coordinator at a member's configured address whether it opened the Raft stream that names it as the sender.
/// Ids of coordinators and disks are public, but a stranger cannot answer from that address.
pub async fn confirm_stream(
    shared: &Shared,
    address: &str,
    (id, disk): (CoordinatorId, IncarnationId),
    token: Bytes,
) -> Result<(), Status> {
    let channel = shared.channel(address).map_err(|error| Status::unavailable(error.to_string()))?;
    let found = ask(shared, channel, token).await?;
    if found.stream_confirmed && (found.id, found.disk) == (id, disk) {
        return Ok(());
    }
    Err(Status::permission_denied(format!("coordinator {id} at {address} says that this stream is not its own")))
}

async fn ask(shared: &Shared, channel: Channel, stream_token: Bytes) -> Result<Identified, Status> {
    let request = IdentifyRequest {
        stream_token,
        coordinator_id: shared.id.0,
        disk_id: shared.disk.0.to_vec().into(),
        voters: wire_voters(&shared.voters()),
    };
    let answered = tokio::time::timeout(IDENTIFY_TIMEOUT, client(shared, channel).identify(request)).await;
    let answer = answered.map_err(|_| Status::deadline_exceeded("silent"))??.into_inner();
    let disk = IncarnationId::from_slice(&answer.disk_id)
        .ok_or_else(|| Status::internal("the response has no disk id: is that a coordinator?"))?;
    let recognition = answer.asker();
    let disks = answer
        .voters
        .iter()
        .filter_map(|voter| Some((CoordinatorId(voter.coordinator_id), IncarnationId::from_slice(&voter.disk_id)?)));
    Ok(Identified {
        disks: disks.collect(),
        members_revision: answer.members_revision,
        id: CoordinatorId(answer.coordinator_id),
        disk,
        is_empty: answer.empty,
        voters: answer.voters.into_iter().map(|v| (CoordinatorId(v.coordinator_id), v.address)).collect(),
        cluster_id: Some(answer.cluster_id).filter(|id| !id.is_empty()),
        recognition,
        known_disk: IncarnationId::from_slice(&answer.known_disk_id),
        stream_confirmed: answer.stream_confirmed,
    })
}

/// Why another coordinator and this one cannot be in one quorum; for people, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Conflict {
    #[error("coordinator {id} is at {address} too, with another disk: every coordinator needs its own id")]
    DuplicateId { id: CoordinatorId, address: String },
    #[error("the list of servers says that {address} is coordinator {expected}, but coordinator {found} answers there")]
    OtherId { address: String, expected: CoordinatorId, found: CoordinatorId },
    #[error("the list of servers is {ours} here and {theirs} on coordinator {id} at {address}: all must have the same")]
    OtherVoters { id: CoordinatorId, address: String, ours: String, theirs: String },
    #[error("the coordinator at {address} belongs to cluster {theirs}, this one to cluster {ours}")]
    OtherCluster { address: String, ours: String, theirs: String },
    #[error(
        "coordinator {me} voted with disk {known} before, says coordinator {id} at {address}, and this data directory is disk {disk}: a member that lost its disk must not vote (ottla quorum remove {me}, then add it)"
    )]
    LostDisk { me: CoordinatorId, disk: IncarnationId, known: IncarnationId, id: CoordinatorId, address: String },
    /// One that lags says so too: the others are asked.
    #[error(
        "coordinator {id} at {address} knows coordinator {me} with another disk: it lags, or the disk was lost; the other members decide"
    )]
    DisputedDisk { me: CoordinatorId, id: CoordinatorId, address: String },
    /// Of the other one. Its word counts for nothing until its disk is admitted: a member that was restored alone says
    /// of all others that they were removed.
    #[error(
        "refused: coordinator {id} voted with disk {known} before and shows disk {shown} now: it lost its disk, and must not vote"
    )]
    PeerLostDisk { id: CoordinatorId, known: IncarnationId, shown: IncarnationId },
    #[error(
        "coordinator {me} was removed from the quorum, says coordinator {id} at {address}: to bring it back, empty its data directory, start it, and add it (ottla quorum add)"
    )]
    Removed { me: CoordinatorId, id: CoordinatorId, address: String },
}

pub fn names(voters: &BTreeMap<CoordinatorId, String>) -> String {
    voters.iter().map(|(id, address)| format!("{id}@{address}")).collect::<Vec<_>>().join(",")
}

/// Checks the answer of the coordinator that is listed as `expected`. Lists are compared by ids: one quorum may have
/// several addresses per member. They are not compared where the members have changed since the first start: one of the
/// two may not know yet.
pub fn check(shared: &Shared, address: &str, expected: CoordinatorId, found: &Identified) -> Result<(), Conflict> {
    let address = address.to_owned();
    // First: the disks and lists of another cluster are irrelevant for this one.
    if let Some((ours, theirs)) = shared.other_cluster(found) {
        return Err(Conflict::OtherCluster { address, ours, theirs });
    }
    if found.id == shared.id && found.disk != shared.disk {
        return Err(Conflict::DuplicateId { id: shared.id, address });
    }
    if found.id != expected {
        return Err(Conflict::OtherId { address, expected, found: found.id });
    }
    // Before anything that it says of this one.
    if let Some(known) = shared.expected_disk(found.id).filter(|known| *known != found.disk) {
        return Err(Conflict::PeerLostDisk { id: found.id, known, shown: found.disk });
    }
    // Whatever its age: a removed disk is not added again.
    if found.recognition == Recognition::Removed {
        return Err(Conflict::Removed { me: shared.id, id: found.id, address });
    }
    let ours = shared.voters();
    let has_changed = found.members_revision > 0 || shared.members_revision() > 0;
    // A quorum that runs without this coordinator may add it.
    let may_join = !found.is_empty && shared.formed().is_none() && !found.voters.contains_key(&shared.id);
    if !has_changed && !may_join && !found.voters.is_empty() && !found.voters.keys().eq(ours.keys()) {
        let (id, ours, theirs) = (found.id, names(&ours), names(&found.voters));
        return Err(Conflict::OtherVoters { id, address, ours, theirs });
    }
    if found.is_empty {
        return Ok(());
    }
    let is_other_disk = found.recognition == Recognition::OtherDisk;
    let members = found.voters.keys().copied().collect();
    let opinion = Opinion { members_revision: found.members_revision, members, is_other_disk };
    let is_disk_lost = shared.record_opinion(found.id, opinion);
    let (me, id) = (shared.id, found.id);
    match is_other_disk {
        false => Ok(()),
        true if !is_disk_lost => Err(Conflict::DisputedDisk { me, id, address }),
        true => {
            let known = found.known_disk.unwrap_or_default();
            Err(Conflict::LostDisk { me, disk: shared.disk, known, id, address })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::formed;

    /// A member that was restored alone, while the others live, ended all of them: it says that they were removed.
    #[test]
    fn another_disk_than_the_known_one_says_nothing_of_this_one() {
        let shared = formed(1);
        let restored = Identified {
            id: CoordinatorId(2),
            disk: IncarnationId([9; 16]),
            is_empty: false,
            voters: BTreeMap::from([(CoordinatorId(2), "c2:2181".to_owned())]),
            disks: BTreeMap::new(),
            members_revision: 1 << 40,
            cluster_id: Some("test".to_owned()),
            recognition: Recognition::Removed,
            known_disk: None,
            stream_confirmed: false,
        };
        let check = |found: &Identified| check(&shared, "c2:2181", CoordinatorId(2), found);
        let (known, shown) = (IncarnationId([2; 16]), IncarnationId([9; 16]));
        assert_eq!(check(&restored), Err(Conflict::PeerLostDisk { id: CoordinatorId(2), known, shown }));
        let lost = Identified { recognition: Recognition::OtherDisk, ..restored.clone() };
        assert_eq!(check(&lost), Err(Conflict::PeerLostDisk { id: CoordinatorId(2), known, shown }));
        // The known disk is believed.
        let removed = check(&Identified { disk: known, ..restored });
        assert!(matches!(removed, Err(Conflict::Removed { .. })), "{removed:?}");
    }
}
