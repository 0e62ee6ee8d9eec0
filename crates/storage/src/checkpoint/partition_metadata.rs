//! `partition.metadata`: the topic id of the directory, which the name alone does not identify (scenario 11).
//!
//! ```text
//! version: 0
//! topic_id: od_-eKm-R_uinTKrbP9GCw
//! ```

use ottla_model::TopicId;

use super::utf8;
use crate::error::Malformed;

const WHAT: &str = crate::file_name::PARTITION_METADATA;

pub fn encode(topic_id: TopicId) -> Vec<u8> {
    format!("version: 0\ntopic_id: {topic_id}").into_bytes()
}

pub fn decode(bytes: &[u8]) -> Result<TopicId, Malformed> {
    let mut topic_id = None;
    let mut version = None;
    for line in utf8(WHAT, bytes)?.lines() {
        match line.split_once(':') {
            Some(("version", value)) => version = Some(value.trim()),
            Some(("topic_id", value)) => topic_id = Some(value.trim()),
            _ => return Err(Malformed::new(WHAT, format!("line {line:?}"))),
        }
    }
    if version != Some("0") {
        return Err(Malformed::new(WHAT, "the version is not 0"));
    }
    topic_id
        .and_then(|text| text.parse::<TopicId>().ok())
        .filter(|id| !id.is_zero())
        .ok_or_else(|| Malformed::new(WHAT, "no topic id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_kafkas() {
        let text = b"version: 0\ntopic_id: od_-eKm-R_uinTKrbP9GCw";
        let id = decode(text).expect("valid");
        assert_eq!(encode(id), text);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b""[..],
            b"version: 1\ntopic_id: od_-eKm-R_uinTKrbP9GCw",
            b"version: 0",
            b"version: 0\ntopic_id: short",
            b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA",
            b"version: 0\nother: 1\ntopic_id: od_-eKm-R_uinTKrbP9GCw",
        ] {
            assert!(decode(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
