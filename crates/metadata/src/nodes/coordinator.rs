//! `/ottla/coordinators/ID`: the disk that a coordinator votes with, and its part in the quorum. The same id with
//! another disk has forgotten its votes, and is refused by name (KIP-853).
//!
//! A member that was removed keeps its node: its disk must not come back, and is told why.

use bytes::Bytes;
use ottla_model::{CoordinatorId, IncarnationId};
use prost::Message;
use serde::Serialize;

use super::{NodeError, NodePath, classify, to_json};
use crate::transaction::{Change, Transaction};
use crate::tree::Path;

/// The part of a coordinator in the quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Voter,
    /// It receives the log and does not count for majorities yet.
    Learner,
    /// It belonged to the quorum, and must not come back with this disk.
    Removed,
}

/// A coordinator as the tree remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoordinatorNode {
    pub disk: IncarnationId,
    /// Where its peers reach it. A member of the first quorum may have another one in the configured list, which counts
    /// then.
    pub address: String,
    pub standing: Standing,
    /// Written by a change of the running quorum, not at its first start: the entry that writes it is also Raft's
    /// change of the membership, and the address in it counts.
    pub is_live_change: bool,
}

impl CoordinatorNode {
    /// A member of the first quorum.
    pub fn first(disk: IncarnationId, address: String) -> Self {
        Self { disk, address, standing: Standing::Voter, is_live_change: false }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct CoordinatorPayload {
    #[prost(bytes = "bytes", tag = "1")]
    disk: Bytes,
    #[prost(string, tag = "2")]
    address: String,
    /// 0: voter, 1: learner, 2: removed.
    #[prost(uint32, tag = "3")]
    standing: u32,
    #[prost(bool, tag = "4")]
    live_change: bool,
}

/// The coordinator whose part in the quorum the transaction changes while the quorum runs; none for every other
/// transaction. One transaction changes one member.
pub fn live_change(transaction: &Transaction) -> Option<(CoordinatorId, Standing)> {
    transaction.changes.iter().find_map(|change| {
        let (Change::Create { path, payload } | Change::Set { path, payload, .. }) = change else { return None };
        let NodePath::Coordinator(id) = classify(path) else { return None };
        let node = decode(payload).ok().filter(|node| node.is_live_change)?;
        Some((id, node.standing))
    })
}

pub fn path(id: CoordinatorId) -> Path {
    Path::built(format!("/ottla/coordinators/{id}"))
}

pub fn encode(coordinator: &CoordinatorNode) -> Bytes {
    CoordinatorPayload {
        disk: Bytes::copy_from_slice(coordinator.disk.as_bytes()),
        address: coordinator.address.clone(),
        standing: match coordinator.standing {
            Standing::Voter => 0,
            Standing::Learner => 1,
            Standing::Removed => 2,
        },
        live_change: coordinator.is_live_change,
    }
    .encode_to_vec()
    .into()
}

pub fn decode(payload: &Bytes) -> Result<CoordinatorNode, NodeError> {
    let payload = CoordinatorPayload::decode(payload.clone())?;
    let disk = IncarnationId::from_slice(&payload.disk).ok_or_else(|| NodeError::field("disk", &payload.disk))?;
    let standing = match payload.standing {
        0 => Standing::Voter,
        1 => Standing::Learner,
        2 => Standing::Removed,
        _ => return Err(NodeError::field("standing", payload.standing.to_be_bytes())),
    };
    Ok(CoordinatorNode { disk, address: payload.address, standing, is_live_change: payload.live_change })
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    disk: String,
    address: String,
    standing: Standing,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let coordinator = decode(payload)?;
    let CoordinatorNode { disk, address, standing, .. } = coordinator;
    to_json(&Shown { version: 1, disk: disk.to_string(), address, standing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_stored_form() {
        let first = CoordinatorNode::first(IncarnationId([9; 16]), "coordinator-1:2888".to_owned());
        for standing in [Standing::Voter, Standing::Learner, Standing::Removed] {
            let node = CoordinatorNode { standing, is_live_change: true, ..first.clone() };
            assert_eq!(decode(&encode(&node)), Ok(node));
        }
        assert_eq!(decode(&encode(&first)), Ok(first));
        assert!(decode(&Bytes::new()).is_err());
    }

    #[test]
    fn only_a_change_of_the_running_quorum_is_one_of_raft() {
        let id = CoordinatorId(4);
        let mut node = CoordinatorNode::first(IncarnationId([9; 16]), "c4:2181".to_owned());
        let create = |node: &CoordinatorNode| Change::Create { path: path(id), payload: encode(node) };
        assert_eq!(live_change(&Transaction { changes: vec![create(&node)] }), None);
        (node.standing, node.is_live_change) = (Standing::Learner, true);
        assert_eq!(live_change(&Transaction { changes: vec![create(&node)] }), Some((id, Standing::Learner)));
    }
}
