//! `ConsumerGroupTargetAssignmentMember`: what one member of a consumer group shall own.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_protocol::wire::{self, Reader, WireError};

use super::topic_partitions::{self, TopicPartitions};

pub(super) fn encode(target: &[TopicPartitions]) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_i16(0);
    topic_partitions::put_all(&mut out, target);
    wire::put_no_tagged_fields(&mut out, true);
    out.freeze()
}

pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Vec<TopicPartitions>, WireError> {
    super::only_version_0(version)?;
    let target = topic_partitions::read_all(reader)?;
    reader.skip_tagged_fields()?;
    Ok(target)
}
