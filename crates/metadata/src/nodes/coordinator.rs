//! `/ottla/coordinators/ID`: the disk that a coordinator votes with. The same id with another disk has forgotten its
//! votes, and is refused by name (KIP-853).

use bytes::Bytes;
use ottla_model::{CoordinatorId, IncarnationId};
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::tree::Path;

/// A coordinator as the tree remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoordinatorNode {
    pub disk: IncarnationId,
    /// Where its peers reach it, for people to read.
    pub address: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CoordinatorPayload {
    #[prost(bytes = "bytes", tag = "1")]
    disk: Bytes,
    #[prost(string, tag = "2")]
    address: String,
}

pub fn path(id: CoordinatorId) -> Path {
    Path::built(format!("/ottla/coordinators/{id}"))
}

pub fn encode(coordinator: &CoordinatorNode) -> Bytes {
    CoordinatorPayload {
        disk: Bytes::copy_from_slice(coordinator.disk.as_bytes()),
        address: coordinator.address.clone(),
    }
    .encode_to_vec()
    .into()
}

pub fn decode(payload: &Bytes) -> Result<CoordinatorNode, NodeError> {
    let payload = CoordinatorPayload::decode(payload.clone())?;
    let disk = IncarnationId::from_slice(&payload.disk).ok_or_else(|| NodeError::field("disk", &payload.disk))?;
    Ok(CoordinatorNode { disk, address: payload.address })
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    disk: String,
    address: String,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let coordinator = decode(payload)?;
    to_json(&Shown { version: 1, disk: coordinator.disk.to_string(), address: coordinator.address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_stored_form() {
        let node = CoordinatorNode { disk: IncarnationId([9; 16]), address: "coordinator-1:2888".to_owned() };
        assert_eq!(decode(&encode(&node)), Ok(node));
        assert!(decode(&Bytes::new()).is_err());
    }
}
