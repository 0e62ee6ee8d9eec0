//! `/cluster/id`: the permanent id of the cluster.

use bytes::Bytes;
use ottla_model::ClusterId;
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct ClusterIdPayload {
    #[prost(string, tag = "1")]
    id: String,
}

pub fn path() -> Path {
    Path::built("/cluster/id".to_owned())
}

pub fn encode(id: &ClusterId) -> Bytes {
    ClusterIdPayload { id: id.as_str().to_owned() }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<ClusterId, NodeError> {
    Ok(ClusterId::new(ClusterIdPayload::decode(payload.clone())?.id))
}

/// The version is text there, and nowhere else.
#[derive(Serialize)]
struct Shown {
    version: &'static str,
    id: String,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    to_json(&Shown { version: "1", id: decode(payload)?.as_str().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let payload = encode(&ClusterId::new("G6jBNhY5TiO_EKLtMUA1qA"));
        assert_eq!(json(&payload).as_deref(), Ok(r#"{"version":"1","id":"G6jBNhY5TiO_EKLtMUA1qA"}"#));
    }
}
