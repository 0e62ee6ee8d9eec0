//! Requests another coordinator's identity. [`ottla_quorum_node::identity`] decides what follows.

use std::time::Duration;

use bytes::Bytes;
use ottla_model::{CoordinatorId, FeatureLevel, IncarnationId};
use ottla_quorum_node::identity::{Identified, Recognition};
use ottla_rpc::MESSAGE_BYTES_MAX;
use ottla_rpc::cluster_metadata::ClusterChannel;
use ottla_rpc::convert::levels_from_proto;
use ottla_rpc::quorum::quorum_client::QuorumClient;
use ottla_rpc::quorum::{IdentifyRequest, IdentifyResponse, Recognition as WireRecognition};
use tonic::Status;
use tonic::transport::Channel;

use crate::shared::{Shared, wire_voters};

/// A coordinator answers this from memory.
const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(500);

pub fn client(shared: &Shared, channel: Channel) -> QuorumClient<ClusterChannel> {
    QuorumClient::new(shared.cluster_channel(channel))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub async fn identify(shared: &Shared, channel: Channel) -> Result<Identified, Status> {
    identified(ask(shared, channel, Bytes::new()).await?)
}

/// Asks the coordinator at an address who it is, and whether it has opened the Raft stream with this token.
pub async fn ask_of_stream(shared: &Shared, address: &str, token: Bytes) -> Result<(Identified, bool), Status> {
    let channel = shared.channel(address).map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = ask(shared, channel, token).await?;
    let is_confirmed = answer.stream_confirmed;
    Ok((identified(answer)?, is_confirmed))
}

async fn ask(shared: &Shared, channel: Channel, stream_token: Bytes) -> Result<IdentifyResponse, Status> {
    let request = IdentifyRequest {
        stream_token,
        coordinator_id: shared.id.0,
        disk_id: shared.disk.0.to_vec().into(),
        voters: wire_voters(&shared.voters()),
        empty: !shared.has_quorum(),
    };
    let answered = tokio::time::timeout(IDENTIFY_TIMEOUT, client(shared, channel).identify(request)).await;
    Ok(answered.map_err(|_| Status::deadline_exceeded("silent"))??.into_inner())
}

fn identified(answer: IdentifyResponse) -> Result<Identified, Status> {
    let disk = IncarnationId::from_slice(&answer.disk_id)
        .ok_or_else(|| Status::internal("the response has no disk id: is that a coordinator?"))?;
    let recognition = match answer.asker() {
        WireRecognition::Unspecified => Recognition::Unknown,
        WireRecognition::SameDisk => Recognition::SameDisk,
        WireRecognition::OtherDisk => Recognition::OtherDisk,
        WireRecognition::Removed => Recognition::Removed,
    };
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
        levels: levels_from_proto(answer.min_level, answer.max_level)
            .map_err(|bad| Status::internal(bad.to_string()))?,
        finalized: i16::try_from(answer.finalized_level).ok().filter(|level| *level > 0).map(FeatureLevel),
    })
}

/// The response to a coordinator that asks.
pub fn response(own: Identified, stream_confirmed: bool) -> IdentifyResponse {
    let asker = match own.recognition {
        Recognition::Unknown => WireRecognition::Unspecified,
        Recognition::SameDisk => WireRecognition::SameDisk,
        Recognition::OtherDisk => WireRecognition::OtherDisk,
        Recognition::Removed => WireRecognition::Removed,
    };
    let (min_level, max_level) = own.levels.to_wire();
    let mut voters = wire_voters(&own.voters);
    for voter in &mut voters {
        let disk = own.disks.get(&CoordinatorId(voter.coordinator_id));
        voter.disk_id = disk.map(|disk| Bytes::copy_from_slice(disk.as_bytes())).unwrap_or_default();
    }
    IdentifyResponse {
        coordinator_id: own.id.0,
        disk_id: own.disk.0.to_vec().into(),
        empty: own.is_empty,
        cluster_id: own.cluster_id.unwrap_or_default(),
        voters,
        asker: asker.into(),
        members_revision: own.members_revision,
        known_disk_id: own.known_disk.map(|disk| disk.0.to_vec().into()).unwrap_or_default(),
        stream_confirmed,
        min_level,
        max_level,
        finalized_level: own.finalized.map_or(0, |level| level.0.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_identity_survives_the_wire() {
        let id = |byte: u8| IncarnationId([byte; 16]);
        for recognition in [Recognition::Unknown, Recognition::SameDisk, Recognition::OtherDisk, Recognition::Removed] {
            let own = Identified {
                id: CoordinatorId(1),
                disk: id(1),
                is_empty: false,
                voters: (1..=3).map(|id| (CoordinatorId(id), format!("c{id}:2181"))).collect(),
                disks: BTreeMap::from([(CoordinatorId(1), id(1)), (CoordinatorId(3), id(3))]),
                members_revision: 40,
                cluster_id: Some("test".to_owned()),
                recognition,
                known_disk: (recognition == Recognition::OtherDisk).then(|| id(2)),
                levels: ottla_model::FeatureLevels::told(1, 2),
                finalized: (recognition == Recognition::SameDisk).then_some(FeatureLevel(2)),
            };
            let answer = response(own.clone(), true);
            assert!(answer.stream_confirmed);
            assert_eq!(identified(answer).expect("a coordinator"), own);
        }
        assert!(identified(IdentifyResponse::default()).is_err(), "no disk id");
    }
}
