//! `ConsumerGroupCurrentMemberAssignment`: what one member of a consumer group owns, and its epoch.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_protocol::wire::{self, Reader, WireError};

use super::topic_partitions::{self, TopicPartitions};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CurrentAssignment {
    pub member_epoch: i32,
    /// What a member whose last answer was lost may still send.
    pub previous_member_epoch: i32,
    pub state: MemberState,
    pub assigned: Vec<TopicPartitions>,
    /// Told to the member and not yet confirmed: nobody else may have these.
    pub pending_revocation: Vec<TopicPartitions>,
}

/// Where a member is on its way to the target assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// It owns what the target of its epoch says.
    Stable,
    /// It must give partitions up before it may move to the next epoch.
    UnrevokedPartitions,
    /// It is in the next epoch and waits for partitions that others have not given up.
    UnreleasedPartitions,
    /// Of a later release.
    Unknown,
}

impl MemberState {
    fn value(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }

    fn from_value(value: i8) -> Self {
        match value {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

impl CurrentAssignment {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_i16(0);
        out.put_i32(self.member_epoch);
        out.put_i32(self.previous_member_epoch);
        out.put_i8(self.state.value());
        topic_partitions::put_all(&mut out, &self.assigned);
        topic_partitions::put_all(&mut out, &self.pending_revocation);
        wire::put_no_tagged_fields(&mut out, true);
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        super::only_version_0(version)?;
        let read = Self {
            member_epoch: reader.i32()?,
            previous_member_epoch: reader.i32()?,
            state: MemberState::from_value(reader.i8()?),
            assigned: topic_partitions::read_all(reader)?,
            pending_revocation: topic_partitions::read_all(reader)?,
        };
        reader.skip_tagged_fields()?;
        Ok(read)
    }
}
