//! What consumers embed in the classic protocol: subscriptions and assignments, version 1.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use ottla_protocol::wire::{self, Reader, WireError};

use super::topics::Tp;

const VERSION: i16 = 1;

/// The topics of a member, and the partitions that it owns.
pub fn subscription(topics: &BTreeSet<String>, owned: &BTreeSet<Tp>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(VERSION);
    wire::put_array(&mut out, false, topics.len());
    topics.iter().for_each(|topic| wire::put_string(&mut out, false, topic));
    out.put_i32(-1);
    put_partitions(&mut out, owned);
    out.freeze()
}

pub fn read_subscription(bytes: &[u8]) -> Result<(BTreeSet<String>, BTreeSet<Tp>), WireError> {
    let mut reader = Reader::new(bytes, 2);
    let count = reader.array_length(false, 2, 1_000)?;
    let topics = (0..count).map(|_| reader.string(false).map(Cow::into_owned)).collect::<Result<_, _>>()?;
    reader.nullable_bytes(false)?;
    Ok((topics, read_partitions(&mut reader)?))
}

pub fn assignment(partitions: &BTreeSet<Tp>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(VERSION);
    put_partitions(&mut out, partitions);
    out.put_i32(-1);
    out.freeze()
}

fn put_partitions(out: &mut BytesMut, partitions: &BTreeSet<Tp>) {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    wire::put_array(out, false, topics.len());
    for (topic, partitions) in topics {
        wire::put_string(out, false, topic);
        wire::put_array(out, false, partitions.len());
        partitions.iter().for_each(|partition| out.put_i32(*partition));
    }
}

/// No bytes are no partitions.
pub fn read_assignment(bytes: &[u8]) -> Result<BTreeSet<Tp>, WireError> {
    if bytes.is_empty() {
        return Ok(BTreeSet::new());
    }
    read_partitions(&mut Reader::new(bytes, 2))
}

fn read_partitions(reader: &mut Reader<'_>) -> Result<BTreeSet<Tp>, WireError> {
    let mut owned = BTreeSet::new();
    for _ in 0..reader.array_length(false, 6, 1_000)? {
        let topic = reader.string(false)?.into_owned();
        for _ in 0..reader.array_length(false, 4, 1_000)? {
            owned.insert((topic.clone(), reader.i32()?));
        }
    }
    Ok(owned)
}
