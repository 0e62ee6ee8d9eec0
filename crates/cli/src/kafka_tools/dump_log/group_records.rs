//! Records of `__consumer_offsets` as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use ottla_group_coordinator::record::{
    ClassicGroupMetadata, ConsumerMemberMetadata, CurrentAssignment, MemberState, OffsetKey, OffsetValue, Record,
    TopicMetadata, TopicPartitions,
};
use ottla_model::TimestampMs;
use ottla_protocol::kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use ottla_protocol::kafka_protocol::protocol::Decodable;

use super::decoder::{Decoded, number};
use crate::kafka_tools::json::Json;

/// The protocol type of the groups whose members exchange the two messages of Kafka's consumers.
const CONSUMERS: &str = "consumer";
/// The newest version of these messages that Kafka 4.3 knows.
const CONSUMER_PROTOCOL_MAX: i16 = 3;

/// How the messages of the members of a classic group are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocols {
    /// Those of Kafka's consumers with their fields.
    Read,
    /// As bytes.
    Bytes,
}

pub fn decode(key: &[u8], value: Option<&[u8]>, protocols: Protocols) -> Result<Decoded, String> {
    let Some(record) = Record::decode(key, value).map_err(|error| error.source.to_string())? else {
        return Ok(Decoded::Unknown(number(key)));
    };
    let (key_data, data) = fields(&record, value.map_or(-1, number), protocols);
    let value = value.zip(data).map(|(bytes, data)| (number(bytes), data));
    Ok(Decoded::Known { key: (number(key), key_data), value })
}

/// Key and value of a record; `version` is the value's.
fn fields(record: &Record, version: i16, protocols: Protocols) -> (Json, Option<Json>) {
    let group = |group: &ottla_model::GroupId| Json::from(group.as_str());
    let by_group = |name: &ottla_model::GroupId| Json::Object(vec![("groupId", group(name))]);
    let by_member = |name: &ottla_model::GroupId, member: &ottla_model::MemberId| {
        Json::Object(vec![("groupId", group(name)), ("memberId", member.as_str().into())])
    };
    match record {
        Record::Offset { key, value } => (offset_key(key), value.as_ref().map(|value| offset(value, version))),
        Record::ClassicGroup { group: name, value } => {
            let value = value.as_ref().map(|value| classic_group(value, version, protocols));
            (Json::Object(vec![("group", group(name))]), value)
        }
        Record::ConsumerGroup { group, value } => {
            let data = value.as_ref().map(|value| {
                let mut fields = vec![("epoch", value.epoch.into())];
                if value.metadata_hash != 0 {
                    fields.push(("metadataHash", value.metadata_hash.into()));
                }
                Json::Object(fields)
            });
            (by_group(group), data)
        }
        Record::PartitionMetadata { group, value } => {
            let topics = |value: &Vec<TopicMetadata>| value.iter().map(topic_metadata).collect::<Json>();
            (by_group(group), value.as_ref().map(|value| Json::Object(vec![("topics", topics(value))])))
        }
        Record::ConsumerMember { group, member, value } => {
            (by_member(group, member), value.as_ref().map(consumer_member))
        }
        Record::TargetAssignment { group, value } => {
            let data = value.as_ref().map(|value| {
                let mut fields = vec![("assignmentEpoch", value.epoch.into())];
                if value.timestamp.0 != 0 {
                    fields.push(("assignmentTimestamp", value.timestamp.0.into()));
                }
                Json::Object(fields)
            });
            (by_group(group), data)
        }
        Record::TargetMember { group, member, value } => {
            let data = value.as_ref().map(|value| Json::Object(vec![("topicPartitions", topic_partitions(value))]));
            (by_member(group, member), data)
        }
        Record::CurrentAssignment { group, member, value } => {
            (by_member(group, member), value.as_ref().map(current_assignment))
        }
        Record::RegularExpression { group: name, expression, value } => {
            let key = vec![("groupId", group(name)), ("regularExpression", expression.as_str().into())];
            let data = value.as_ref().map(|value| {
                Json::Object(vec![
                    ("topics", value.topics.iter().map(String::as_str).collect()),
                    ("version", value.version.into()),
                    ("timestamp", value.timestamp.0.into()),
                ])
            });
            (Json::Object(key), data)
        }
    }
}

fn offset_key(key: &OffsetKey) -> Json {
    Json::Object(vec![
        ("group", key.group.as_str().into()),
        ("topic", key.topic.as_str().into()),
        ("partition", key.partition.0.into()),
    ])
}

fn offset(value: &OffsetValue, version: i16) -> Json {
    let mut fields = vec![("offset", Json::from(value.offset.0))];
    if version >= 3 {
        fields.push(("leaderEpoch", value.leader_epoch.0.into()));
    }
    fields.push(("metadata", value.metadata.as_str().into()));
    fields.push(("commitTimestamp", value.commit_timestamp.0.into()));
    if version == 1 {
        fields.push(("expireTimestamp", value.expire_timestamp.unwrap_or(TimestampMs::NONE).0.into()));
    }
    if !value.topic_id.is_zero() {
        fields.push(("topicId", value.topic_id.to_string().into()));
    }
    Json::Object(fields)
}

fn classic_group(group: &ClassicGroupMetadata, version: i16, protocols: Protocols) -> Json {
    let mut fields = vec![
        ("protocolType", Json::from(group.protocol_type.as_str())),
        ("generation", group.generation.into()),
        ("protocol", group.protocol.as_deref().into()),
        ("leader", group.leader.as_ref().map(|leader| leader.as_str()).into()),
    ];
    if version >= 2 {
        let timestamp = group.current_state_timestamp.unwrap_or(TimestampMs::NONE);
        fields.push(("currentStateTimestamp", timestamp.0.into()));
    }
    let are_consumers = group.protocol_type == CONSUMERS && protocols == Protocols::Read;
    let members = group.members.iter().map(|member| {
        let mut fields = vec![("memberId", Json::from(member.member.as_str()))];
        if version >= 3 {
            fields.push(("groupInstanceId", member.instance.as_ref().map(|id| id.as_str()).into()));
        }
        fields.push(("clientId", member.client_id.as_str().into()));
        fields.push(("clientHost", member.client_host.as_str().into()));
        if version >= 1 {
            fields.push(("rebalanceTimeout", member.rebalance_timeout_ms.into()));
        }
        fields.push(("sessionTimeout", member.session_timeout_ms.into()));
        let shown = |bytes: &Bytes, read: fn(Bytes, i16) -> Option<Json>| {
            are_consumers.then(|| message(bytes, read)).flatten().unwrap_or_else(|| binary(bytes))
        };
        fields.push(("subscription", shown(&member.subscription, subscription)));
        fields.push(("assignment", shown(&member.assignment, assignment)));
        Json::Object(fields)
    });
    fields.push(("members", members.collect()));
    Json::Object(fields)
}

fn binary(bytes: &[u8]) -> Json {
    Json::Text(STANDARD.encode(bytes))
}

/// A message after its version; none where it is not one.
fn message(bytes: &Bytes, read: fn(Bytes, i16) -> Option<Json>) -> Option<Json> {
    let mut rest = bytes.clone();
    let version = rest.try_get_i16().ok().filter(|version| (0..=CONSUMER_PROTOCOL_MAX).contains(version))?;
    read(rest, version)
}

fn subscription(mut bytes: Bytes, version: i16) -> Option<Json> {
    let message = ConsumerProtocolSubscription::decode(&mut bytes, version).ok()?;
    let mut fields = vec![
        ("topics", message.topics.iter().map(ToString::to_string).collect::<Json>()),
        ("userData", message.user_data.as_deref().map(binary).unwrap_or(Json::Null)),
    ];
    if version >= 1 {
        let owned = message.owned_partitions.iter().map(|owned| assigned(&owned.topic.0, &owned.partitions));
        fields.push(("ownedPartitions", owned.collect()));
    }
    if version >= 2 {
        fields.push(("generationId", message.generation_id.into()));
    }
    if version >= 3 {
        fields.push(("rackId", message.rack_id.as_ref().map(ToString::to_string).into()));
    }
    Some(Json::Object(fields))
}

fn assignment(mut bytes: Bytes, version: i16) -> Option<Json> {
    let message = ConsumerProtocolAssignment::decode(&mut bytes, version).ok()?;
    let partitions = message.assigned_partitions.iter().map(|one| assigned(&one.topic.0, &one.partitions));
    Some(Json::Object(vec![
        ("assignedPartitions", partitions.collect()),
        ("userData", message.user_data.as_deref().map(binary).unwrap_or(Json::Null)),
    ]))
}

fn assigned(topic: &str, partitions: &[i32]) -> Json {
    Json::Object(vec![("topic", topic.into()), ("partitions", partitions.iter().copied().collect())])
}

fn topic_metadata(topic: &TopicMetadata) -> Json {
    let racks = topic.racks.iter().map(|one| {
        Json::Object(vec![
            ("partition", one.partition.0.into()),
            ("racks", one.racks.iter().map(String::as_str).collect()),
        ])
    });
    Json::Object(vec![
        ("topicId", topic.id.to_string().into()),
        ("topicName", topic.name.as_str().into()),
        ("numPartitions", topic.partitions.into()),
        ("partitionMetadata", racks.collect()),
    ])
}

fn consumer_member(member: &ConsumerMemberMetadata) -> Json {
    let mut fields = vec![
        ("instanceId", member.instance.as_ref().map(|id| id.as_str()).into()),
        ("rackId", member.rack.as_deref().into()),
        ("clientId", Json::from(member.client_id.as_str())),
        ("clientHost", member.client_host.as_str().into()),
        ("subscribedTopicNames", member.subscribed_topics.iter().map(String::as_str).collect()),
        ("subscribedTopicRegex", member.subscribed_regex.as_deref().into()),
        ("rebalanceTimeoutMs", member.rebalance_timeout_ms.into()),
        ("serverAssignor", member.server_assignor.as_deref().into()),
    ];
    match &member.classic {
        // The default of Kafka's generated code is an empty classic member, and none has to be written out.
        None => fields.push(("classicMemberMetadata", Json::Null)),
        Some(classic) if *classic == Default::default() => {}
        Some(classic) => {
            let protocols = classic.protocols.iter().map(|(name, metadata)| {
                Json::Object(vec![("name", name.as_str().into()), ("metadata", binary(metadata))])
            });
            let fields_of = vec![
                ("sessionTimeoutMs", classic.session_timeout_ms.into()),
                ("supportedProtocols", protocols.collect()),
            ];
            fields.push(("classicMemberMetadata", Json::Object(fields_of)));
        }
    }
    Json::Object(fields)
}

fn topic_partitions(topics: &[TopicPartitions]) -> Json {
    topics
        .iter()
        .map(|topic| {
            let mut fields = vec![
                ("topicId", topic.topic.to_string().into()),
                ("partitions", topic.partitions.iter().map(|id| id.0).collect::<Json>()),
            ];
            if !topic.assignment_epochs.is_empty() {
                fields.push(("assignmentEpochs", topic.assignment_epochs.iter().copied().collect()));
            }
            Json::Object(fields)
        })
        .collect()
}

fn current_assignment(held: &CurrentAssignment) -> Json {
    let state = match held.state {
        MemberState::Stable => 0,
        MemberState::UnrevokedPartitions => 1,
        MemberState::UnreleasedPartitions => 2,
        MemberState::Unknown => 127,
    };
    Json::Object(vec![
        ("memberEpoch", held.member_epoch.into()),
        ("previousMemberEpoch", held.previous_member_epoch.into()),
        ("state", state.into()),
        ("assignedPartitions", topic_partitions(&held.assigned)),
        ("partitionsPendingRevocation", topic_partitions(&held.pending_revocation)),
    ])
}
