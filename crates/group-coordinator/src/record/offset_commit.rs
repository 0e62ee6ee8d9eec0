//! `OffsetCommit`: the offset that a group has committed for one partition.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{GroupId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicId};
use ottla_protocol::wire::{self, Reader, WireError};

/// Whose offset it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OffsetKey {
    pub group: GroupId,
    pub topic: String,
    pub partition: PartitionId,
}

/// What was committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetValue {
    /// The next offset that the group shall read.
    pub offset: Offset,
    /// The epoch of the record before; none where the client did not tell.
    pub leader_epoch: LeaderEpoch,
    pub metadata: String,
    pub commit_timestamp: TimestampMs,
    /// When the offset goes, where the commit itself said so (versions 2 to 4 of the request).
    pub expire_timestamp: Option<TimestampMs>,
    /// Zero where it is not known. Not kept beside an expiry: the version with that field has no ids.
    pub topic_id: TopicId,
}

/// The first version with tagged fields; the one that is written, as Kafka 4.x does.
const VERSION: i16 = 4;
/// The only version with an expiry.
const EXPIRING_VERSION: i16 = 1;
/// The first version with a leader epoch.
const LEADER_EPOCH_VERSION: i16 = 3;
const TOPIC_ID_TAG: u32 = 0;

impl OffsetKey {
    pub(super) fn write(&self, out: &mut BytesMut) {
        wire::put_string(out, false, self.group.as_str());
        wire::put_string(out, false, &self.topic);
        out.put_i32(self.partition.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            group: super::read_group(reader)?,
            topic: reader.string(false)?.into_owned(),
            partition: PartitionId(reader.i32()?),
        })
    }
}

impl OffsetValue {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(48 + self.metadata.len());
        if let Some(expire_timestamp) = self.expire_timestamp {
            out.put_i16(EXPIRING_VERSION);
            out.put_i64(self.offset.0);
            wire::put_string(&mut out, false, &self.metadata);
            out.put_i64(self.commit_timestamp.0);
            out.put_i64(expire_timestamp.0);
            return out.freeze();
        }
        out.put_i16(VERSION);
        out.put_i64(self.offset.0);
        out.put_i32(self.leader_epoch.0);
        wire::put_string(&mut out, true, &self.metadata);
        out.put_i64(self.commit_timestamp.0);
        if self.topic_id.is_zero() {
            wire::put_no_tagged_fields(&mut out, true);
        } else {
            super::put_tagged_fields(&mut out, &[(TOPIC_ID_TAG, self.topic_id.as_bytes())]);
        }
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        if !(0..=VERSION).contains(&version) {
            return Err(WireError::UnknownVersion(version));
        }
        let flexible = version >= VERSION;
        let offset = Offset(reader.i64()?);
        let leader_epoch = if version >= LEADER_EPOCH_VERSION { LeaderEpoch(reader.i32()?) } else { LeaderEpoch::NONE };
        let metadata = reader.string(flexible)?.into_owned();
        let commit_timestamp = TimestampMs(reader.i64()?);
        let expire_timestamp = match version {
            EXPIRING_VERSION => Some(TimestampMs(reader.i64()?)).filter(|at| *at != TimestampMs::NONE),
            _ => None,
        };
        let mut topic_id = TopicId::ZERO;
        if flexible {
            reader.tagged_fields(|tag, field| {
                if tag == TOPIC_ID_TAG {
                    topic_id = TopicId(field.uuid()?);
                }
                Ok(())
            })?;
        }
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp, expire_timestamp, topic_id })
    }
}
