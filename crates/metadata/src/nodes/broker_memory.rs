//! `/ottla/brokers/N`: what must outlive a broker's session: the epoch and incarnation of the last one that ended, by
//! which its next registration shows whether its log is whole.

use bytes::Bytes;
use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, TimestampMs};
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::image::BrokerMemory;
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct MemoryPayload {
    #[prost(int64, tag = "1")]
    epoch: i64,
    #[prost(bytes = "bytes", tag = "2")]
    incarnation: Bytes,
    #[prost(int32, tag = "3")]
    min_insync_replicas: i32,
    #[prost(int64, tag = "4")]
    fenced_at_ms: i64,
}

pub fn path(id: BrokerId) -> Path {
    Path::built(format!("/ottla/brokers/{id}"))
}

pub fn encode(memory: &BrokerMemory) -> Bytes {
    MemoryPayload {
        epoch: memory.epoch.0,
        incarnation: Bytes::copy_from_slice(memory.incarnation.as_bytes()),
        min_insync_replicas: memory.min_insync_replicas,
        fenced_at_ms: memory.fenced_at.0,
    }
    .encode_to_vec()
    .into()
}

pub fn decode(id: BrokerId, payload: &Bytes) -> Result<BrokerMemory, NodeError> {
    let payload = MemoryPayload::decode(payload.clone())?;
    Ok(BrokerMemory {
        id,
        epoch: BrokerEpoch(payload.epoch),
        incarnation: IncarnationId::from_slice(&payload.incarnation)
            .ok_or_else(|| NodeError::field("incarnation", &payload.incarnation))?,
        min_insync_replicas: payload.min_insync_replicas.max(1),
        fenced_at: TimestampMs(payload.fenced_at_ms),
    })
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    epoch: i64,
    incarnation: String,
    min_insync_replicas: i32,
    fenced_at: String,
}

pub fn json(id: BrokerId, payload: &Bytes) -> Result<String, NodeError> {
    let memory = decode(id, payload)?;
    to_json(&Shown {
        version: 1,
        epoch: memory.epoch.0,
        incarnation: memory.incarnation.to_string(),
        min_insync_replicas: memory.min_insync_replicas,
        fenced_at: memory.fenced_at.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_stored_form() {
        let memory = BrokerMemory {
            id: BrokerId(3),
            epoch: BrokerEpoch(90),
            incarnation: IncarnationId([1; 16]),
            min_insync_replicas: 2,
            fenced_at: TimestampMs(5),
        };
        assert_eq!(decode(BrokerId(3), &encode(&memory)), Ok(memory.clone()));
        let shown = json(BrokerId(3), &encode(&memory)).expect("shows");
        assert!(shown.starts_with(r#"{"version":1,"epoch":90,"#), "{shown}");
    }
}
