//! `.kafka_cleanshutdown`: there if, and only if, the last process closed every log of the directory. It holds the
//! broker epoch of that process (KIP-966): `{"version":0,"brokerEpoch":42}`; older Kafkas leave it empty.

use ottla_model::BrokerEpoch;

pub const FILE_NAME: &str = ".kafka_cleanshutdown";

pub fn encode(broker_epoch: BrokerEpoch) -> Vec<u8> {
    format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}").into_bytes()
}

/// The epoch, or [`BrokerEpoch::NONE`] if the content has none. The shutdown was clean in both cases: the presence of
/// the file proves it.
pub fn decode(bytes: &[u8]) -> BrokerEpoch {
    let Ok(content) = serde_json::from_slice::<serde_json::Value>(bytes) else { return BrokerEpoch::NONE };
    content.get("brokerEpoch").and_then(serde_json::Value::as_i64).map_or(BrokerEpoch::NONE, BrokerEpoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_kafkas() {
        assert_eq!(encode(BrokerEpoch(42)), br#"{"version":0,"brokerEpoch":42}"#);
        assert_eq!(decode(br#"{"version":0,"brokerEpoch":42}"#), BrokerEpoch(42));
        assert_eq!(decode(br#"{"version":0,"brokerEpoch":7,"more":[]}"#), BrokerEpoch(7));
    }

    #[test]
    fn an_unknown_content_is_a_clean_shutdown_of_an_unknown_epoch() {
        for text in [&b""[..], b"{}", b"\0\0", br#"{"brokerEpoch":"x"}"#] {
            assert_eq!(decode(text), BrokerEpoch::NONE);
        }
    }
}
