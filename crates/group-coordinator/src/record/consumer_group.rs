//! `ConsumerGroupMetadata`: a consumer group's epoch.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_protocol::wire::{self, Reader, WireError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerGroupMetadata {
    pub epoch: i32,
    /// Of the topics that the group reads (KIP-1101); 0 where it is not known.
    pub metadata_hash: i64,
}

const METADATA_HASH_TAG: u32 = 0;

impl ConsumerGroupMetadata {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(20);
        out.put_i16(0);
        out.put_i32(self.epoch);
        match self.metadata_hash {
            0 => wire::put_no_tagged_fields(&mut out, true),
            hash => super::put_tagged_fields(&mut out, &[(METADATA_HASH_TAG, &hash.to_be_bytes())]),
        }
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        super::only_version_0(version)?;
        let mut read = Self { epoch: reader.i32()?, metadata_hash: 0 };
        reader.tagged_fields(|tag, field| {
            if tag == METADATA_HASH_TAG {
                read.metadata_hash = field.i64()?;
            }
            Ok(())
        })?;
        Ok(read)
    }
}
