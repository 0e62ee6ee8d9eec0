//! `/latest_producer_id_block`: the last block of producer ids that a broker was given.

use bytes::Bytes;
use ottla_model::BrokerId;
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::image::ProducerIdBlock;
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct BlockPayload {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(int64, tag = "2")]
    first: i64,
    #[prost(int64, tag = "3")]
    last: i64,
}

pub fn path() -> Path {
    Path::built("/latest_producer_id_block".to_owned())
}

pub fn encode(block: ProducerIdBlock) -> Bytes {
    BlockPayload { broker: block.broker.0, first: block.first, last: block.last }.encode_to_vec().into()
}

/// None before the first block was given out: the node is empty then.
pub fn decode(payload: &Bytes) -> Result<Option<ProducerIdBlock>, NodeError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let payload = BlockPayload::decode(payload.clone())?;
    Ok(Some(ProducerIdBlock { broker: BrokerId(payload.broker), first: payload.first, last: payload.last }))
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    broker: i32,
    block_start: String,
    block_end: String,
}

/// Empty if no block was assigned.
pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let Some(block) = decode(payload)? else { return Ok(String::new()) };
    to_json(&Shown {
        version: 1,
        broker: block.broker.0,
        block_start: block.first.to_string(),
        block_end: block.last.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let block = ProducerIdBlock { broker: BrokerId(3), first: 1000, last: 1999 };
        assert_eq!(decode(&encode(block)), Ok(Some(block)));
        // goldens: zookeeper-shell get /latest_producer_id_block
        let golden = r#"{"version":1,"broker":3,"block_start":"1000","block_end":"1999"}"#;
        assert_eq!(json(&encode(block)).as_deref(), Ok(golden));
        assert_eq!(decode(&Bytes::new()), Ok(None));
        // The very first block, of broker 0, has only default values: its encoding must not look like an empty node.
        let first = ProducerIdBlock { broker: BrokerId(0), first: 0, last: 999 };
        assert_eq!(decode(&encode(first)), Ok(Some(first)));
    }
}
