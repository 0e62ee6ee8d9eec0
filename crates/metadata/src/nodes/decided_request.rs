//! `/ottla/requests/KEY`: an admin request that was decided, with its outcome, until so many others were decided that
//! no client sends it again.

use bytes::Bytes;
use ottla_model::{ErrorCode, TimestampMs, TopicId};
use prost::Message;

use super::NodeError;
use crate::controller::IdempotencyKey;
use crate::tree::Path;

/// The outcome of each item of the request, in its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecidedItem {
    pub error: ErrorCode,
    pub id: TopicId,
    /// Set if the request used the topic's id; empty otherwise.
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i32,
    /// What the outcome has besides, as the node of its kind would hold it.
    pub detail: Bytes,
}

impl DecidedItem {
    pub fn new(error: ErrorCode, detail: Bytes) -> Self {
        let (id, name) = (TopicId::ZERO, String::new());
        Self { error, id, name, partitions: 0, replication_factor: 0, detail }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecidedRequest {
    /// The kind of the request: a key belongs to one request.
    pub kind: u32,
    /// For a reader of the tree, and for releases before this one, which forget by it.
    pub decided_at: TimestampMs,
    pub items: Vec<DecidedItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ItemPayload {
    #[prost(int32, tag = "1")]
    error: i32,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(sint32, tag = "4")]
    partitions: i32,
    #[prost(sint32, tag = "5")]
    replication_factor: i32,
    #[prost(bytes = "bytes", tag = "6")]
    detail: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestPayload {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(int64, tag = "2")]
    decided_at_ms: i64,
    #[prost(message, repeated, tag = "3")]
    items: Vec<ItemPayload>,
}

/// The parent of all of them.
pub fn parent_path() -> Path {
    Path::built("/ottla/requests".to_owned())
}

pub fn path(key: IdempotencyKey) -> Path {
    Path::built(format!("/ottla/requests/{:032x}", u128::from_be_bytes(key.0)))
}

pub fn encode(request: &DecidedRequest) -> Bytes {
    let item = |item: &DecidedItem| ItemPayload {
        error: item.error.code().into(),
        id: if item.id.is_zero() { Bytes::new() } else { Bytes::copy_from_slice(item.id.as_bytes()) },
        name: item.name.clone(),
        partitions: item.partitions,
        replication_factor: item.replication_factor,
        detail: item.detail.clone(),
    };
    let items = request.items.iter().map(item).collect();
    RequestPayload { kind: request.kind, decided_at_ms: request.decided_at.0, items }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<DecidedRequest, NodeError> {
    let payload = RequestPayload::decode(payload.clone())?;
    let item = |item: ItemPayload| {
        let error = i16::try_from(item.error).ok().and_then(ErrorCode::from_code);
        Ok(DecidedItem {
            error: error.ok_or_else(|| NodeError::field("error", item.error))?,
            id: TopicId::from_slice(&item.id).unwrap_or(TopicId::ZERO),
            name: item.name,
            partitions: item.partitions,
            replication_factor: item.replication_factor,
            detail: item.detail,
        })
    };
    Ok(DecidedRequest {
        kind: payload.kind,
        decided_at: TimestampMs(payload.decided_at_ms),
        items: payload.items.into_iter().map(item).collect::<Result<_, NodeError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_stored_form() {
        let item = |error, id, name: &str| DecidedItem {
            detail: Bytes::from_static(b"d"),
            error,
            id,
            name: name.to_owned(),
            partitions: -1,
            replication_factor: 3,
        };
        let request = DecidedRequest {
            kind: 2,
            decided_at: TimestampMs(7),
            items: vec![
                item(ErrorCode::None, TopicId([5; 16]), "t"),
                item(ErrorCode::TopicAlreadyExists, TopicId::ZERO, ""),
            ],
        };
        assert_eq!(decode(&encode(&request)), Ok(request));
        assert_eq!(path(IdempotencyKey([0xab; 16])).name(), "ab".repeat(16));
    }
}
