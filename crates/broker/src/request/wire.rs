//! Converts between our types and the wire types of the `kafka_protocol` crate.

use ottla_authorizer::ResourceType;
use ottla_model::{BrokerId, TopicId, TopicName};
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::protocol::StrBytes;

/// The wire's UUID type.
pub type WireUuid = uuid::Uuid;

/// What the wire says where authorized operations were not asked for.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// Every operation on a resource of the type, as bits by Kafka's `AclOperation` codes: without an authorizer all are
/// allowed.
pub fn all_operations(resource_type: ResourceType) -> i32 {
    resource_type.operations().iter().fold(0, |bits, operation| bits | 1 << operation.code())
}

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
        assert_eq!(all_operations(ResourceType::Topic), 3576);
        assert_eq!(all_operations(ResourceType::Cluster), 8096);
        assert_eq!(all_operations(ResourceType::Group), 3400);
    }
}
