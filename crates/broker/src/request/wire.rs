//! Converts between our types and the wire types of the `kafka_protocol` crate.

use ottla_model::{BrokerId, TopicId, TopicName};
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::protocol::StrBytes;

/// The wire's UUID type.
pub type WireUuid = uuid::Uuid;

/// What the wire says where authorized operations were not asked for.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Every operation on a topic, as bits by Kafka's `AclOperation` codes: read 3, write 4, create 5, delete 6, alter 7,
/// describe 8, describe configs 10, alter configs 11. Without an authorizer every operation is allowed.
pub const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// As above for the cluster: create 5, alter 7, describe 8, cluster action 9, describe configs 10, alter configs 11,
/// idempotent write 12.
pub const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// As above for a group: read 3, delete 6, describe 8, describe configs 10, alter configs 11.
pub const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn topic_name(name: &TopicName) -> messages::TopicName {
    messages::TopicName(text(name.as_str()))
}

pub fn broker_id(id: BrokerId) -> messages::BrokerId {
    messages::BrokerId(id.0)
}

pub fn broker_ids(ids: impl IntoIterator<Item = BrokerId>) -> Vec<messages::BrokerId> {
    ids.into_iter().map(broker_id).collect()
}

pub fn uuid(id: TopicId) -> WireUuid {
    WireUuid::from_bytes(id.0)
}

pub fn topic_id(uuid: WireUuid) -> TopicId {
    TopicId(*uuid.as_bytes())
}

/// Topics that the brokers keep for themselves.
pub fn is_internal(topic: &str) -> bool {
    matches!(topic, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_that_kafka_answers() {
        assert_eq!(TOPIC_OPERATIONS, 3576);
        assert_eq!(CLUSTER_OPERATIONS, 8096);
        assert_eq!(GROUP_OPERATIONS, 3400);
    }
}
