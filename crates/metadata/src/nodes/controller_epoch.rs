//! `/controller_epoch`: how many brokers have held `/controller`. Decimal text in ZooKeeper.

use bytes::Bytes;
use ottla_model::ControllerEpoch;
use prost::Message;

use super::NodeError;
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct EpochPayload {
    #[prost(int32, tag = "1")]
    epoch: i32,
}

pub fn path() -> Path {
    Path::built("/controller_epoch".to_owned())
}

pub fn encode(epoch: ControllerEpoch) -> Bytes {
    EpochPayload { epoch: epoch.0 }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<ControllerEpoch, NodeError> {
    Ok(ControllerEpoch(EpochPayload::decode(payload.clone())?.epoch))
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    Ok(decode(payload)?.to_string())
}
