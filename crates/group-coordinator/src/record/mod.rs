//! What a partition of `__consumer_offsets` holds, in Kafka's formats: one file per kind of record.
//!
//! A key starts with the record type (an int16), a value with its version; a missing value is a tombstone. Kafka 4.3's
//! versions are written; every version that Kafka ever wrote is read. Bytes from a log are not trusted: nothing is
//! allocated beyond what they can fill, and what is malformed is an error. Types of later releases, and of group kinds
//! that are not served here (share and streams groups), decode to [`None`]: the log keeps them, the caller counts them.

mod classic_group;
mod consumer_group;
mod consumer_member;
mod current_assignment;
mod offset_commit;
mod partition;
mod partition_metadata;
mod regular_expression;
mod target_assignment;
mod target_member;
mod topic_partitions;

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{GroupId, InstanceId, MemberId};
use ottla_protocol::wire::{self, Reader, WireError};
use std::borrow::Cow;

pub use classic_group::{ClassicGroupMember, ClassicGroupMetadata};
pub use consumer_group::ConsumerGroupMetadata;
pub use consumer_member::{ClassicMemberMetadata, ConsumerMemberMetadata};
pub use current_assignment::{CurrentAssignment, MemberState};
pub use offset_commit::{OffsetKey, OffsetValue};
pub use partition::partition_for;
pub use partition_metadata::{PartitionRacks, TopicMetadata};
pub use regular_expression::ResolvedExpression;
pub use target_assignment::TargetAssignment;
pub use topic_partitions::TopicPartitions;

use crate::effects::RawRecord;

/// A record's bytes are not what the schema of its type and version says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record of type {record_type}: {source}")]
pub struct RecordError {
    /// −1: the key ends before its type.
    pub record_type: i16,
    pub source: WireError,
}

/// Record types: the first two bytes of a key.
mod record_type {
    /// Of Kafka 0.8.2; read as [`OFFSET_COMMIT`].
    pub const LEGACY_OFFSET_COMMIT: i16 = 0;
    pub const OFFSET_COMMIT: i16 = 1;
    pub const CLASSIC_GROUP: i16 = 2;
    pub const CONSUMER_GROUP: i16 = 3;
    pub const PARTITION_METADATA: i16 = 4;
    pub const CONSUMER_MEMBER: i16 = 5;
    pub const TARGET_ASSIGNMENT: i16 = 6;
    pub const TARGET_MEMBER: i16 = 7;
    pub const CURRENT_ASSIGNMENT: i16 = 8;
    pub const REGULAR_EXPRESSION: i16 = 16;
}

/// One record of `__consumer_offsets`. A value of none is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// The offset that a group has committed for one partition.
    Offset { key: OffsetKey, value: Option<OffsetValue> },
    /// A classic group as a whole.
    ClassicGroup { group: GroupId, value: Option<ClassicGroupMetadata> },
    /// A consumer group's epoch.
    ConsumerGroup { group: GroupId, value: Option<ConsumerGroupMetadata> },
    /// The topics that a consumer group had seen. Written by Kafka 4.0 and before; later releases only write its
    /// tombstone.
    PartitionMetadata { group: GroupId, value: Option<Vec<TopicMetadata>> },
    /// What a member of a consumer group has told of itself.
    ConsumerMember { group: GroupId, member: MemberId, value: Option<ConsumerMemberMetadata> },
    /// The epoch of a consumer group's target assignment.
    TargetAssignment { group: GroupId, value: Option<TargetAssignment> },
    /// What one member shall own.
    TargetMember { group: GroupId, member: MemberId, value: Option<Vec<TopicPartitions>> },
    /// What one member owns, and its epoch.
    CurrentAssignment { group: GroupId, member: MemberId, value: Option<CurrentAssignment> },
    /// The topics that a regular expression of a consumer group matched.
    RegularExpression { group: GroupId, expression: String, value: Option<ResolvedExpression> },
}

impl Record {
    /// The group that the record belongs to.
    pub fn group(&self) -> &GroupId {
        match self {
            Self::Offset { key, .. } => &key.group,
            Self::ClassicGroup { group, .. }
            | Self::ConsumerGroup { group, .. }
            | Self::PartitionMetadata { group, .. }
            | Self::ConsumerMember { group, .. }
            | Self::TargetAssignment { group, .. }
            | Self::TargetMember { group, .. }
            | Self::CurrentAssignment { group, .. }
            | Self::RegularExpression { group, .. } => group,
        }
    }

    /// Whether it is about a committed offset: such records change no group.
    pub fn is_offset(&self) -> bool {
        matches!(self, Self::Offset { .. })
    }

    /// The record as the log holds it.
    pub fn encode(&self) -> RawRecord {
        let mut key = BytesMut::with_capacity(64);
        let value = match self {
            Self::Offset { key: offset, value } => {
                key.put_i16(record_type::OFFSET_COMMIT);
                offset.write(&mut key);
                value.as_ref().map(OffsetValue::encode)
            }
            Self::ClassicGroup { group, value } => {
                put_group_key(&mut key, record_type::CLASSIC_GROUP, group);
                value.as_ref().map(ClassicGroupMetadata::encode)
            }
            Self::ConsumerGroup { group, value } => {
                put_group_key(&mut key, record_type::CONSUMER_GROUP, group);
                value.as_ref().map(ConsumerGroupMetadata::encode)
            }
            Self::PartitionMetadata { group, value } => {
                put_group_key(&mut key, record_type::PARTITION_METADATA, group);
                value.as_deref().map(partition_metadata::encode)
            }
            Self::ConsumerMember { group, member, value } => {
                put_member_key(&mut key, record_type::CONSUMER_MEMBER, group, member);
                value.as_ref().map(ConsumerMemberMetadata::encode)
            }
            Self::TargetAssignment { group, value } => {
                put_group_key(&mut key, record_type::TARGET_ASSIGNMENT, group);
                value.as_ref().map(TargetAssignment::encode)
            }
            Self::TargetMember { group, member, value } => {
                put_member_key(&mut key, record_type::TARGET_MEMBER, group, member);
                value.as_deref().map(target_member::encode)
            }
            Self::CurrentAssignment { group, member, value } => {
                put_member_key(&mut key, record_type::CURRENT_ASSIGNMENT, group, member);
                value.as_ref().map(CurrentAssignment::encode)
            }
            Self::RegularExpression { group, expression, value } => {
                put_group_key(&mut key, record_type::REGULAR_EXPRESSION, group);
                wire::put_string(&mut key, false, expression);
                value.as_ref().map(ResolvedExpression::encode)
            }
        };
        RawRecord { key: key.freeze(), value }
    }

    /// Reads a record; none for a type that is not known here.
    ///
    /// # Errors
    /// The bytes are not of the type and version that they name, or the value's version is not known.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let mut key = Reader::new(key, 0);
        let record_type = key.i16().map_err(|source| RecordError { record_type: -1, source })?;
        decode_type(record_type, &mut key, value).map_err(|source| RecordError { record_type, source })
    }
}

fn decode_type(record_type: i16, key: &mut Reader<'_>, value: Option<&[u8]>) -> Result<Option<Record>, WireError> {
    Ok(Some(match record_type {
        record_type::LEGACY_OFFSET_COMMIT | record_type::OFFSET_COMMIT => {
            Record::Offset { key: OffsetKey::read(key)?, value: read_value(value, OffsetValue::read)? }
        }
        record_type::CLASSIC_GROUP => {
            Record::ClassicGroup { group: read_group(key)?, value: read_value(value, ClassicGroupMetadata::read)? }
        }
        record_type::CONSUMER_GROUP => {
            Record::ConsumerGroup { group: read_group(key)?, value: read_value(value, ConsumerGroupMetadata::read)? }
        }
        record_type::PARTITION_METADATA => {
            Record::PartitionMetadata { group: read_group(key)?, value: read_value(value, partition_metadata::read)? }
        }
        record_type::CONSUMER_MEMBER => Record::ConsumerMember {
            group: read_group(key)?,
            member: read_member(key)?,
            value: read_value(value, ConsumerMemberMetadata::read)?,
        },
        record_type::TARGET_ASSIGNMENT => {
            Record::TargetAssignment { group: read_group(key)?, value: read_value(value, TargetAssignment::read)? }
        }
        record_type::TARGET_MEMBER => Record::TargetMember {
            group: read_group(key)?,
            member: read_member(key)?,
            value: read_value(value, target_member::read)?,
        },
        record_type::CURRENT_ASSIGNMENT => Record::CurrentAssignment {
            group: read_group(key)?,
            member: read_member(key)?,
            value: read_value(value, CurrentAssignment::read)?,
        },
        record_type::REGULAR_EXPRESSION => Record::RegularExpression {
            group: read_group(key)?,
            expression: key.string(false)?.into_owned(),
            value: read_value(value, ResolvedExpression::read)?,
        },
        _ => return Ok(None),
    }))
}

fn put_group_key(key: &mut BytesMut, record_type: i16, group: &GroupId) {
    key.put_i16(record_type);
    wire::put_string(key, false, group.as_str());
}

fn put_member_key(key: &mut BytesMut, record_type: i16, group: &GroupId, member: &MemberId) {
    put_group_key(key, record_type, group);
    wire::put_string(key, false, member.as_str());
}

fn read_group(reader: &mut Reader<'_>) -> Result<GroupId, WireError> {
    reader.string(false).map(GroupId::new)
}

fn read_member(reader: &mut Reader<'_>) -> Result<MemberId, WireError> {
    reader.string(false).map(MemberId::new)
}

/// Reads a value's version and what follows.
fn read_value<T>(
    value: Option<&[u8]>,
    read: impl FnOnce(&mut Reader<'_>, i16) -> Result<T, WireError>,
) -> Result<Option<T>, WireError> {
    let Some(bytes) = value else { return Ok(None) };
    let mut reader = Reader::new(bytes, 0);
    let version = reader.i16()?;
    read(&mut reader, version).map(Some)
}

/// Refuses every version but 0, the only one of most values.
fn only_version_0(version: i16) -> Result<(), WireError> {
    if version == 0 { Ok(()) } else { Err(WireError::UnknownVersion(version)) }
}

fn read_instance(reader: &mut Reader<'_>, flexible: bool) -> Result<Option<InstanceId>, WireError> {
    Ok(reader.nullable_string(flexible)?.map(InstanceId::new))
}

/// A byte string, copied out of the record so that a member does not keep a whole batch in memory.
fn read_bytes(reader: &mut Reader<'_>, flexible: bool) -> Result<Bytes, WireError> {
    let mut from = reader.clone();
    let length = reader.nullable_bytes(flexible)?.ok_or(WireError::InvalidLength(-1))?.len();
    // The bytes are the last of what was read.
    let read = reader.position() - from.position();
    from.take(read - length)?;
    Ok(Bytes::copy_from_slice(from.take(length)?))
}

fn put_byte_string(out: &mut BytesMut, flexible: bool, bytes: &[u8]) {
    wire::put_bytes_length(out, flexible, bytes.len());
    out.put_slice(bytes);
}

/// An array of compact strings.
fn read_strings(reader: &mut Reader<'_>) -> Result<Vec<String>, WireError> {
    let count = reader.array_length(true, 1, usize::MAX)?;
    (0..count).map(|_| reader.string(true).map(Cow::into_owned)).collect()
}

fn put_strings(out: &mut BytesMut, strings: &[String]) {
    wire::put_array(out, true, strings.len());
    for text in strings {
        wire::put_string(out, true, text);
    }
}

/// Writes the tagged fields of one place, ascending by tag; the elements are a tag and its bytes.
fn put_tagged_fields(out: &mut BytesMut, fields: &[(u32, &[u8])]) {
    wire::put_unsigned_varint(out, fields.len() as u32);
    for (tag, bytes) in fields {
        wire::put_unsigned_varint(out, *tag);
        wire::put_unsigned_varint(out, bytes.len() as u32);
        out.put_slice(bytes);
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;
