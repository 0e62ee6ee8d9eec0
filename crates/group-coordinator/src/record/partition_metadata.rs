//! `ConsumerGroupPartitionMetadata`: the topics that a consumer group had seen, as Kafka 4.0 kept them.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{PartitionId, TopicId};
use ottla_protocol::wire::{self, Reader, WireError};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicMetadata {
    pub id: TopicId,
    pub name: String,
    pub partitions: i32,
    /// Empty where no partition had racks.
    pub racks: Vec<PartitionRacks>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionRacks {
    pub partition: PartitionId,
    pub racks: Vec<String>,
}

/// An id, a name's length, a number, an array's length, tagged fields.
const TOPIC_MIN_BYTES: usize = 23;
/// A number, an array's length, tagged fields.
const PARTITION_MIN_BYTES: usize = 6;

pub(super) fn encode(topics: &[TopicMetadata]) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_i16(0);
    wire::put_array(&mut out, true, topics.len());
    for topic in topics {
        out.put_slice(topic.id.as_bytes());
        wire::put_string(&mut out, true, &topic.name);
        out.put_i32(topic.partitions);
        wire::put_array(&mut out, true, topic.racks.len());
        for partition in &topic.racks {
            out.put_i32(partition.partition.0);
            super::put_strings(&mut out, &partition.racks);
            wire::put_no_tagged_fields(&mut out, true);
        }
        wire::put_no_tagged_fields(&mut out, true);
    }
    wire::put_no_tagged_fields(&mut out, true);
    out.freeze()
}

pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Vec<TopicMetadata>, WireError> {
    super::only_version_0(version)?;
    let count = reader.array_length(true, TOPIC_MIN_BYTES, usize::MAX)?;
    let topics = (0..count).map(|_| read_topic(reader)).collect::<Result<_, _>>()?;
    reader.skip_tagged_fields()?;
    Ok(topics)
}

fn read_topic(reader: &mut Reader<'_>) -> Result<TopicMetadata, WireError> {
    let (id, name, partitions) = (TopicId(reader.uuid()?), reader.string(true)?.into_owned(), reader.i32()?);
    let count = reader.array_length(true, PARTITION_MIN_BYTES, usize::MAX)?;
    let racks = (0..count)
        .map(|_| {
            let read = PartitionRacks { partition: PartitionId(reader.i32()?), racks: super::read_strings(reader)? };
            reader.skip_tagged_fields()?;
            Ok(read)
        })
        .collect::<Result<_, WireError>>()?;
    reader.skip_tagged_fields()?;
    Ok(TopicMetadata { id, name, partitions, racks })
}
