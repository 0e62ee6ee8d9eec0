//! The protocol that consumers embed in classic groups: what a member subscribes to, and what its leader assigned.
//!
//! A version (an int16), then the schema of that version; versions above 3 are read as 3, as Kafka does. The bytes come
//! from clients: nothing is allocated beyond what they can fill.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::PartitionId;
use ottla_protocol::wire::{self, Reader, WireError};
use std::borrow::Cow;

/// The protocol type of classic groups that embed this protocol.
pub(crate) const PROTOCOL_TYPE: &str = "consumer";

/// Topics by name, with their partitions.
pub(crate) type NamedPartitions = Vec<(String, Vec<PartitionId>)>;

/// `ConsumerProtocolSubscription`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Subscription {
    pub(crate) version: i16,
    pub(crate) topics: Vec<String>,
    /// What the member says it owns; empty below version 1.
    pub(crate) owned: NamedPartitions,
    pub(crate) rack: Option<String>,
}

/// `ConsumerProtocolAssignment`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Assignment {
    pub(crate) partitions: NamedPartitions,
    /// Of an assignor that tells its members more than partitions.
    pub(crate) has_user_data: bool,
}

/// A string's length takes two bytes, an array's four.
const STRING_MIN_BYTES: usize = 2;
const TOPIC_MIN_BYTES: usize = STRING_MIN_BYTES + 4;
const HIGHEST_VERSION: i16 = 3;

fn version(reader: &mut Reader<'_>) -> Result<i16, WireError> {
    match reader.i16()? {
        negative if negative < 0 => Err(WireError::UnknownVersion(negative)),
        version => Ok(version.min(HIGHEST_VERSION)),
    }
}

impl Subscription {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, 0);
        let version = version(&mut reader)?;
        let count = reader.array_length(false, STRING_MIN_BYTES, usize::MAX)?;
        let topics = (0..count).map(|_| reader.string(false).map(Cow::into_owned)).collect::<Result<_, _>>()?;
        reader.nullable_bytes(false)?;
        let owned = if version >= 1 { read_partitions(&mut reader)? } else { Vec::new() };
        if version >= 2 {
            let _generation = reader.i32()?;
        }
        let rack = if version >= 3 { reader.nullable_string(false)?.map(Cow::into_owned) } else { None };
        Ok(Self { version, topics, owned, rack })
    }
}

impl Assignment {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, 0);
        version(&mut reader)?;
        let partitions = read_partitions(&mut reader)?;
        let has_user_data = reader.nullable_bytes(false)?.is_some_and(|range| !range.is_empty());
        Ok(Self { partitions, has_user_data })
    }
}

/// An assignment without user data, in the version that the member's subscription has.
pub(crate) fn write_assignment(version: i16, partitions: &NamedPartitions) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_i16(version);
    wire::put_array(&mut out, false, partitions.len());
    for (topic, partitions) in partitions {
        wire::put_string(&mut out, false, topic);
        wire::put_array(&mut out, false, partitions.len());
        partitions.iter().for_each(|partition| out.put_i32(partition.0));
    }
    out.put_i32(-1);
    out.freeze()
}

fn read_partitions(reader: &mut Reader<'_>) -> Result<NamedPartitions, WireError> {
    let count = reader.array_length(false, TOPIC_MIN_BYTES, usize::MAX)?;
    (0..count)
        .map(|_| {
            let topic = reader.string(false)?.into_owned();
            let count = reader.array_length(false, 4, usize::MAX)?;
            let partitions = (0..count).map(|_| reader.i32().map(PartitionId)).collect::<Result<_, _>>()?;
            Ok((topic, partitions))
        })
        .collect()
}

#[cfg(test)]
pub(crate) fn write_subscription(subscription: &Subscription) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(subscription.version);
    wire::put_array(&mut out, false, subscription.topics.len());
    subscription.topics.iter().for_each(|topic| wire::put_string(&mut out, false, topic));
    out.put_i32(-1);
    if subscription.version >= 1 {
        wire::put_array(&mut out, false, subscription.owned.len());
        for (topic, partitions) in &subscription.owned {
            wire::put_string(&mut out, false, topic);
            wire::put_array(&mut out, false, partitions.len());
            partitions.iter().for_each(|partition| out.put_i32(partition.0));
        }
    }
    if subscription.version >= 2 {
        out.put_i32(7);
    }
    if subscription.version >= 3 {
        wire::put_nullable_string(&mut out, false, subscription.rack.as_deref());
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_of_every_version_are_read() {
        for version in 0..=3 {
            let written = Subscription {
                version,
                topics: vec!["a".into(), "b".into()],
                owned: if version >= 1 { vec![("a".into(), vec![PartitionId(3)])] } else { vec![] },
                rack: (version >= 3).then(|| "r1".into()),
            };
            let bytes = write_subscription(&written);
            assert_eq!(Subscription::read(&bytes), Ok(written));
            for end in 0..bytes.len() {
                assert!(Subscription::read(&bytes[..end]).is_err(), "cut at {end} of version {version}");
            }
        }
        let mut later =
            BytesMut::from(&write_subscription(&Subscription { version: 3, ..Subscription::default() })[..]);
        later[1] = 9;
        assert_eq!(Subscription::read(&later).map(|read| read.version), Ok(3));
        later[0] = 0xff;
        assert!(Subscription::read(&later).is_err());
    }

    #[test]
    fn assignments_come_back() {
        let partitions = vec![("a".to_owned(), vec![PartitionId(0), PartitionId(2)]), ("b".to_owned(), vec![])];
        let bytes = write_assignment(1, &partitions);
        assert_eq!(Assignment::read(&bytes), Ok(Assignment { partitions, has_user_data: false }));
        assert!(Assignment::read(b"\0\0\x7f\xff\xff\xff").is_err(), "a count that the bytes cannot fill");
    }
}
