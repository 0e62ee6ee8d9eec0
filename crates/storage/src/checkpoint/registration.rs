//! `.ottla_registration`: in which boot of the machine, and as which broker epoch, the broker that owns the directory
//! registered last: `{"version":0,"bootId":"…","brokerEpoch":42}`.
//!
//! While the machine runs, a killed process loses none of its writes: the page cache belongs to the kernel. With this
//! file the next process can prove that to the quorum, which otherwise cannot distinguish a kill from a power loss.

use ottla_model::BrokerEpoch;

use crate::error::Malformed;

pub const FILE_NAME: &str = ".ottla_registration";

/// A registration and the boot that it happened in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// The kernel's id of this boot: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    pub broker_epoch: BrokerEpoch,
}

pub fn encode(registration: &Registration) -> Vec<u8> {
    let Registration { boot_id, broker_epoch } = registration;
    serde_json::json!({ "version": 0, "bootId": boot_id, "brokerEpoch": broker_epoch.0 }).to_string().into_bytes()
}

/// # Errors
/// Anything but a whole file of version 0: then nothing is known of the last registration.
pub fn decode(bytes: &[u8]) -> Result<Registration, Malformed> {
    let malformed = |reason: &str| Malformed::new(FILE_NAME, reason);
    let content: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| malformed("not JSON"))?;
    if content.get("version").and_then(serde_json::Value::as_i64) != Some(0) {
        return Err(malformed("only version 0 is known"));
    }
    let boot_id = content.get("bootId").and_then(serde_json::Value::as_str).filter(|id| !id.is_empty());
    let broker_epoch = content.get("brokerEpoch").and_then(serde_json::Value::as_i64);
    match (boot_id, broker_epoch) {
        (Some(boot_id), Some(epoch)) => {
            Ok(Registration { boot_id: boot_id.to_owned(), broker_epoch: BrokerEpoch(epoch) })
        }
        _ => Err(malformed("bootId or brokerEpoch is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let registration = Registration { boot_id: "6f1c-\"x".to_owned(), broker_epoch: BrokerEpoch(42) };
        assert_eq!(decode(&encode(&registration)), Ok(registration));
    }

    #[test]
    fn anything_else_tells_nothing() {
        for text in [
            &b""[..],
            b"\0\0",
            b"{}",
            br#"{"version":1,"bootId":"a","brokerEpoch":1}"#,
            br#"{"version":0,"bootId":"","brokerEpoch":1}"#,
            br#"{"version":0,"bootId":"a"}"#,
        ] {
            assert!(decode(text).is_err());
        }
    }
}
