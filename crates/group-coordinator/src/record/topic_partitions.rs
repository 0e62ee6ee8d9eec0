//! Partitions of one topic, as assignments hold them.

use bytes::{BufMut, BytesMut};
use ottla_model::{PartitionId, TopicId};
use ottla_protocol::wire::{self, Reader, WireError};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPartitions {
    pub topic: TopicId,
    pub partitions: Vec<PartitionId>,
    /// In current assignments only: the member epoch at which each of the partitions was assigned, in their order
    /// (KIP-1251). Empty where it is not known.
    pub assignment_epochs: Vec<i32>,
}

const ASSIGNMENT_EPOCHS_TAG: u32 = 0;
/// An id, a count, tagged fields.
const MIN_BYTES: usize = 18;

pub(super) fn put_all(out: &mut BytesMut, topics: &[TopicPartitions]) {
    wire::put_array(out, true, topics.len());
    for topic in topics {
        out.put_slice(topic.topic.as_bytes());
        wire::put_array(out, true, topic.partitions.len());
        for partition in &topic.partitions {
            out.put_i32(partition.0);
        }
        if topic.assignment_epochs.is_empty() {
            wire::put_no_tagged_fields(out, true);
        } else {
            let mut epochs = BytesMut::with_capacity(5 + 4 * topic.assignment_epochs.len());
            wire::put_array(&mut epochs, true, topic.assignment_epochs.len());
            for epoch in &topic.assignment_epochs {
                epochs.put_i32(*epoch);
            }
            super::put_tagged_fields(out, &[(ASSIGNMENT_EPOCHS_TAG, &epochs)]);
        }
    }
}

pub(super) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<TopicPartitions>, WireError> {
    let count = reader.array_length(true, MIN_BYTES, usize::MAX)?;
    (0..count).map(|_| read(reader)).collect()
}

fn read(reader: &mut Reader<'_>) -> Result<TopicPartitions, WireError> {
    let topic = TopicId(reader.uuid()?);
    let partitions = read_numbers(reader)?.into_iter().map(PartitionId).collect();
    let mut assignment_epochs = Vec::new();
    reader.tagged_fields(|tag, field| {
        if tag == ASSIGNMENT_EPOCHS_TAG {
            assignment_epochs = read_numbers(field)?;
        }
        Ok(())
    })?;
    Ok(TopicPartitions { topic, partitions, assignment_epochs })
}

/// An array of numbers; null reads as none.
fn read_numbers(reader: &mut Reader<'_>) -> Result<Vec<i32>, WireError> {
    let count = reader.nullable_array(true, 4, usize::MAX)?.unwrap_or(0);
    (0..count).map(|_| reader.i32()).collect()
}
