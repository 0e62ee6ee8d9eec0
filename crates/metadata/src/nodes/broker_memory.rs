//! `/ottla/brokers/N`: the record that outlives a broker's session: its registration, its address, and the epoch and
//! incarnation of the last session that ended, against which the next registration proves that its log is complete.

use bytes::Bytes;
use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, TimestampMs};
use prost::Message;
use serde::Serialize;

use super::broker::{EndpointPayload, decode_endpoints, decode_levels, encode_endpoints};
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
    #[prost(message, repeated, tag = "5")]
    endpoints: Vec<EndpointPayload>,
    #[prost(string, optional, tag = "6")]
    rack: Option<String>,
    #[prost(bool, tag = "7")]
    unregistered: bool,
    #[prost(int32, tag = "8")]
    min_level: i32,
    #[prost(int32, tag = "9")]
    max_level: i32,
    #[prost(bool, tag = "10")]
    ended_abruptly: bool,
}

pub fn path(id: BrokerId) -> Path {
    Path::built(format!("/ottla/brokers/{id}"))
}

pub fn encode(memory: &BrokerMemory) -> Bytes {
    let (min_level, max_level) = memory.levels.to_wire();
    MemoryPayload {
        epoch: memory.epoch.0,
        incarnation: Bytes::copy_from_slice(memory.incarnation.as_bytes()),
        min_insync_replicas: memory.min_insync_replicas,
        fenced_at_ms: memory.fenced_at.0,
        endpoints: encode_endpoints(&memory.endpoints),
        rack: memory.rack.clone(),
        unregistered: memory.unregistered,
        min_level,
        max_level,
        ended_abruptly: memory.ended_abruptly,
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
        endpoints: decode_endpoints(payload.endpoints)?,
        rack: payload.rack,
        levels: decode_levels(payload.min_level, payload.max_level)?,
        unregistered: payload.unregistered,
        ended_abruptly: payload.ended_abruptly,
    })
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    epoch: i64,
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rack: Option<String>,
    min_insync_replicas: i32,
    fenced_at: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unregistered: bool,
}

pub fn json(id: BrokerId, payload: &Bytes) -> Result<String, NodeError> {
    let memory = decode(id, payload)?;
    to_json(&Shown {
        version: 1,
        epoch: memory.epoch.0,
        endpoints: memory.endpoints.iter().map(|e| format!("{}://{}:{}", e.listener, e.host, e.port)).collect(),
        rack: memory.rack.clone(),
        min_insync_replicas: memory.min_insync_replicas,
        fenced_at: memory.fenced_at.to_string(),
        unregistered: memory.unregistered,
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
            endpoints: vec![crate::image::Endpoint {
                listener: ottla_model::ListenerName::new("INTERNAL"),
                host: "10.0.0.1".to_owned(),
                port: 9092,
                security_protocol: "PLAINTEXT".to_owned(),
            }],
            rack: Some("a".to_owned()),
            levels: ottla_model::FeatureLevels::told(2, 3),
            unregistered: true,
            ended_abruptly: true,
        };
        assert_eq!(decode(BrokerId(3), &encode(&memory)), Ok(memory.clone()));
        let shown = json(BrokerId(3), &encode(&memory)).expect("shows");
        assert!(shown.starts_with(r#"{"version":1,"epoch":90,"#), "{shown}");
    }
}
