//! `ConsumerGroupTargetAssignmentMetadata`: the epoch of a consumer group's target assignment.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::TimestampMs;
use ottla_protocol::wire::{self, Reader, WireError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetAssignment {
    pub epoch: i32,
    /// When it was calculated (KIP-1263); 0 where it is not known.
    pub timestamp: TimestampMs,
}

const TIMESTAMP_TAG: u32 = 0;

impl TargetAssignment {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(20);
        out.put_i16(0);
        out.put_i32(self.epoch);
        match self.timestamp.0 {
            0 => wire::put_no_tagged_fields(&mut out, true),
            timestamp => super::put_tagged_fields(&mut out, &[(TIMESTAMP_TAG, &timestamp.to_be_bytes())]),
        }
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        super::only_version_0(version)?;
        let mut read = Self { epoch: reader.i32()?, timestamp: TimestampMs(0) };
        reader.tagged_fields(|tag, field| {
            if tag == TIMESTAMP_TAG {
                read.timestamp = TimestampMs(field.i64()?);
            }
            Ok(())
        })?;
        Ok(read)
    }
}
