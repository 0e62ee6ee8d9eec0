//! `/feature`: the finalized level of `ottla.version`. Kafka's own features have one level in a release, and are not
//! kept here.

use bytes::Bytes;
use ottla_model::{FeatureLevel, OTTLA_VERSION};
use prost::Message;
use serde::Serialize;

use super::{NodeError, Ordered, to_json};
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct FeaturePayload {
    #[prost(int32, tag = "1")]
    status: i32,
    /// 0 in the nodes of releases that know no levels.
    #[prost(int32, tag = "2")]
    ottla_version: i32,
}

/// Feature versioning is on.
const STATUS_ENABLED: i32 = 1;

pub fn path() -> Path {
    Path::built("/feature".to_owned())
}

pub fn encode(level: FeatureLevel) -> Bytes {
    FeaturePayload { status: STATUS_ENABLED, ottla_version: level.0.into() }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<FeatureLevel, NodeError> {
    let FeaturePayload { ottla_version, .. } = FeaturePayload::decode(payload.clone())?;
    match i16::try_from(ottla_version) {
        Ok(0) => Ok(FeatureLevel::FIRST),
        Ok(level) if level > 0 => Ok(FeatureLevel(level)),
        _ => Err(NodeError::field("ottla_version", ottla_version)),
    }
}

/// Kafka's version 2 of it.
#[derive(Serialize)]
struct Shown<'a> {
    features: Ordered<'a, i16>,
    version: u8,
    status: i32,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let status = FeaturePayload::decode(payload.clone())?.status;
    // As in a tree of a release that knows no levels, and in Kafka's before anything was finalized.
    let raised = Some(decode(payload)?).filter(|level| *level > FeatureLevel::FIRST);
    let features: Vec<_> = raised.map(|level| (OTTLA_VERSION.to_owned(), level.0)).into_iter().collect();
    to_json(&Shown { features: Ordered(&features), version: 2, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let shown = json(&encode(FeatureLevel::FIRST));
        assert_eq!(shown.as_deref(), Ok(r#"{"features":{},"version":2,"status":1}"#));
        let shown = json(&encode(FeatureLevel(2)));
        assert_eq!(shown.as_deref(), Ok(r#"{"features":{"ottla.version":2},"version":2,"status":1}"#));
    }

    #[test]
    fn a_level_comes_back_and_none_is_the_first() {
        assert_eq!(decode(&encode(FeatureLevel(7))), Ok(FeatureLevel(7)));
        // As the previous release writes it.
        assert_eq!(decode(&Bytes::from_static(&[8, 1])), Ok(FeatureLevel::FIRST));
        for bad in [-1, 40_000] {
            let payload = FeaturePayload { status: STATUS_ENABLED, ottla_version: bad }.encode_to_vec();
            assert!(decode(&payload.into()).is_err(), "{bad}");
        }
    }
}
