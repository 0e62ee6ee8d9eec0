//! Records of `__consumer_offsets` and `__transaction_state` as Kafka's formatters print them: JSON, and nothing
//! between two records.

use super::dump_log::group_records::{self, Protocols};
use super::dump_log::transaction_records;
use super::dump_log::{Decoded, number};
use super::json::Json;
use crate::consumer::Incoming;

const TRANSACTIONS_TOPIC: &str = "__transaction_state";
/// Types of records in `__consumer_offsets`: committed offsets in two versions of the key, and classic groups.
const OFFSET_TYPES: [i16; 2] = [0, 1];
const CLASSIC_GROUP_TYPE: i16 = 2;

/// Which records are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoordinatorFormatter {
    Offsets,
    ClassicGroups,
    Transactions,
    /// All of whichever topic.
    All,
}

/// A record that has another form than those of its topic.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Could not read record at offset {offset} due to: {reason}")]
pub struct Unreadable {
    offset: i64,
    reason: String,
}

impl CoordinatorFormatter {
    /// The formatter of a class name without its package.
    pub fn of_class(name: &str) -> Option<Self> {
        match name {
            "OffsetsMessageFormatter" => Some(Self::Offsets),
            "GroupMetadataMessageFormatter" => Some(Self::ClassicGroups),
            "TransactionLogMessageFormatter" => Some(Self::Transactions),
            "CoordinatorRecordMessageFormatter" => Some(Self::All),
            _ => None,
        }
    }

    /// Appends the record, if it is one of those that are printed.
    pub fn write(self, incoming: &Incoming, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        let record = &incoming.record;
        let Some(key) = record.key.as_deref() else { return Ok(()) };
        let value = record.value.as_deref();
        let is_of_transactions = match self {
            Self::Transactions => true,
            Self::Offsets | Self::ClassicGroups => false,
            Self::All => incoming.topic.as_str() == TRANSACTIONS_TOPIC,
        };
        let is_printed = match self {
            Self::Offsets => OFFSET_TYPES.contains(&number(key)),
            Self::ClassicGroups => number(key) == CLASSIC_GROUP_TYPE,
            Self::Transactions | Self::All => true,
        };
        if !is_printed {
            return Ok(());
        }
        let decoded = match is_of_transactions {
            true => transaction_records::decode(key, value),
            false => group_records::decode(key, value, Protocols::Bytes),
        };
        match decoded {
            Ok(Decoded::Known { key, value }) => {
                let tagged = |name, (number, data): (i16, Json)| {
                    Json::Object(vec![(name, i32::from(number).into()), ("data", data)])
                };
                let value = value.map(|value| tagged("version", value));
                let json = Json::Object(vec![("key", tagged("type", key)), ("value", value.unwrap_or(Json::Null))]);
                out.extend_from_slice(json.to_string().as_bytes());
                Ok(())
            }
            Ok(Decoded::Unknown(_)) => Ok(()),
            Err(reason) => Err(Unreadable { offset: record.offset.0, reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};
    use ottla_protocol::record_batch::{Record, TimestampType};

    use super::*;

    fn printed(class: &str, topic: &str, key: &[u8], value: Option<&[u8]>) -> String {
        let record = Record {
            offset: Offset(3),
            timestamp: TimestampMs(0),
            key: Some(Bytes::copy_from_slice(key)),
            value: value.map(Bytes::copy_from_slice),
            headers: Vec::new(),
        };
        let topic = TopicName::new(topic).expect("a name");
        let partition = PartitionId(0);
        let (timestamp_type, leader_epoch) = (TimestampType::CreateTime, LeaderEpoch(0));
        let incoming = Incoming { topic, partition, record, timestamp_type, leader_epoch };
        let mut out = Vec::new();
        let formatter = CoordinatorFormatter::of_class(class).expect("a class");
        match formatter.write(&incoming, &mut out) {
            Ok(()) => String::from_utf8(out).expect("text"),
            Err(error) => error.to_string(),
        }
    }

    /// Group `g`, topic `t`, partition 2.
    const OFFSET_KEY: &[u8] = b"\x00\x01\x00\x01g\x00\x01t\x00\x00\x00\x02";
    /// Offset 7, leader epoch 1, no metadata, committed at 9.
    const OFFSET: &[u8] =
        b"\x00\x03\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09";

    #[test]
    fn records_are_json_without_an_end() {
        let offsets = |key: &[u8], value| printed("OffsetsMessageFormatter", "__consumer_offsets", key, value);
        let key = r#"{"key":{"type":1,"data":{"group":"g","topic":"t","partition":2}},"value":"#;
        let value = r#"{"version":3,"data":{"offset":7,"leaderEpoch":1,"metadata":"","commitTimestamp":9}}}"#;
        assert_eq!(offsets(OFFSET_KEY, Some(OFFSET)), format!("{key}{value}"));
        assert_eq!(offsets(OFFSET_KEY, None), format!("{key}null}}"));
        // A group's own record, one of an unknown type, and one that is cut off.
        let group_key = b"\x00\x02\x00\x01g";
        assert_eq!(offsets(group_key, None), "");
        assert_eq!(offsets(b"\x00\x63\x00\x01g", None), "");
        assert!(offsets(OFFSET_KEY, Some(&OFFSET[..9])).starts_with("Could not read record at offset 3 due to: "));
        let group = printed("GroupMetadataMessageFormatter", "__consumer_offsets", group_key, None);
        assert_eq!(group, r#"{"key":{"type":2,"data":{"group":"g"}},"value":null}"#);
        let all = |topic: &str, key: &[u8]| printed("CoordinatorRecordMessageFormatter", topic, key, None);
        assert_eq!(all("__consumer_offsets", group_key), group);
        let transaction = r#"{"key":{"type":0,"data":{"transactionalId":"x"}},"value":null}"#;
        assert_eq!(all("__transaction_state", b"\x00\x00\x00\x01x"), transaction);
    }
}
