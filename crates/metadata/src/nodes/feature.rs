//! `/feature`: the finalized features. None are yet; the status says that feature versioning is on.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;

use super::{NodeError, Ordered, to_json};
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct FeaturePayload {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Feature versioning is on.
const STATUS_ENABLED: i32 = 1;

pub fn path() -> Path {
    Path::built("/feature".to_owned())
}

/// The node as the first leader writes it.
pub fn encode_empty() -> Bytes {
    FeaturePayload { status: STATUS_ENABLED }.encode_to_vec().into()
}

/// Kafka's version 2 of it.
#[derive(Serialize)]
struct Shown<'a> {
    features: Ordered<'a, String>,
    version: u8,
    status: i32,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let payload = FeaturePayload::decode(payload.clone())?;
    to_json(&Shown { features: Ordered(&[]), version: 2, status: payload.status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        assert_eq!(json(&encode_empty()).as_deref(), Ok(r#"{"features":{},"version":2,"status":1}"#));
    }
}
