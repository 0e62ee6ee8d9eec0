//! `/controller`: the live broker that clients see as the controller.

use bytes::Bytes;
use ottla_model::{BrokerId, TimestampMs};
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::tree::Path;

/// The broker, and the time of its election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerNode {
    pub broker: BrokerId,
    pub since: TimestampMs,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ControllerPayload {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(int64, tag = "2")]
    since_ms: i64,
}

pub fn path() -> Path {
    Path::built("/controller".to_owned())
}

pub fn encode(controller: ControllerNode) -> Bytes {
    ControllerPayload { broker: controller.broker.0, since_ms: controller.since.0 }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<ControllerNode, NodeError> {
    let payload = ControllerPayload::decode(payload.clone())?;
    Ok(ControllerNode { broker: BrokerId(payload.broker), since: TimestampMs(payload.since_ms) })
}

/// Kafka's version 2 of it; no KRaft controller ever held it.
#[derive(Serialize)]
struct Shown {
    version: u8,
    brokerid: i32,
    timestamp: String,
    #[serde(rename = "kraftControllerEpoch")]
    kraft_controller_epoch: i32,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let controller = decode(payload)?;
    to_json(&Shown {
        version: 2,
        brokerid: controller.broker.0,
        timestamp: controller.since.to_string(),
        kraft_controller_epoch: -1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let node = ControllerNode { broker: BrokerId(2), since: TimestampMs(1795250318461) };
        assert_eq!(decode(&encode(node)), Ok(node));
        // goldens: zookeeper-shell get /controller
        let golden = r#"{"version":2,"brokerid":2,"timestamp":"1795250318461","kraftControllerEpoch":-1}"#;
        assert_eq!(json(&encode(node)).as_deref(), Ok(golden));
    }
}
