//! The hash over what a group's topics are: it changes when a topic appears, goes, is another one, or has other
//! partitions or racks.
//!
//! Kafka's function (KIP-1101), so that a group that Kafka wrote is not taken for one whose topics changed.

use std::collections::BTreeMap;

use ottla_model::{PartitionId, TopicId, TopicName};
use twox_hash::XxHash3_64;

use crate::topics::{TopicView, Topics};

/// The first byte of what is hashed of a topic: the version of the function.
const MAGIC: u8 = 0;

/// Topics' hashes from the last look, for groups that read many topics of which few change.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicHashes(BTreeMap<TopicName, Known>);

#[derive(Clone, Copy, Debug)]
struct Known {
    id: TopicId,
    partitions: i32,
    hash: u64,
}

impl TopicHashes {
    /// The hash over those of the topics that exist.
    pub(super) fn group_hash<'a>(&mut self, names: impl Iterator<Item = &'a str>, topics: &dyn Topics) -> i64 {
        let mut group = Vec::new();
        let mut known = BTreeMap::new();
        for topic in names.filter_map(|name| topics.by_name(name)) {
            let hash = match self.0.get(&topic.name) {
                Some(known) if known.id == topic.id && known.partitions == topic.partitions => known.hash,
                _ => topic_hash(&topic, topics),
            };
            known.insert(topic.name.clone(), Known { id: topic.id, partitions: topic.partitions, hash });
            group.extend_from_slice(&hash.to_le_bytes());
        }
        self.0 = known;
        if group.is_empty() { 0 } else { XxHash3_64::oneshot(&group).cast_signed() }
    }

    /// How many topics there were at the last look.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn topic_hash(topic: &TopicView, topics: &dyn Topics) -> u64 {
    let mut bytes = vec![MAGIC];
    let (most, least) = topic.id.as_bytes().split_at(8);
    // Kafka's ids are two numbers, and its hash takes numbers from their low ends.
    bytes.extend(most.iter().rev());
    bytes.extend(least.iter().rev());
    put_text(&mut bytes, topic.name.as_str());
    bytes.extend(topic.partitions.to_le_bytes());
    for partition in 0..topic.partitions {
        bytes.extend(partition.to_le_bytes());
        let mut racks = topics.racks(topic.id, PartitionId(partition));
        racks.sort();
        for rack in racks {
            bytes.extend(utf16_length(&rack).to_le_bytes());
            put_text(&mut bytes, &rack);
        }
    }
    XxHash3_64::oneshot(&bytes)
}

/// The text's UTF-16 units, then how many they are.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.extend(utf16_length(text).to_le_bytes());
}

fn utf16_length(text: &str) -> i32 {
    i32::try_from(text.encode_utf16().count()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use ottla_model::BrokerId;

    use super::*;

    struct Two;

    impl Topics for Two {
        fn by_name(&self, name: &str) -> Option<TopicView> {
            let (id, partitions) = match name {
                "foo" => (0x0102_0304_0506_0708_1112_1314_1516_1718_u128, 2),
                "zoo" => (0x0000_0000_0000_0001_0000_0000_0000_0002, 1),
                _ => return None,
            };
            Some(TopicView { id: TopicId(id.to_be_bytes()), name: TopicName::new(name).unwrap(), partitions })
        }
        fn by_id(&self, _: TopicId) -> Option<TopicView> {
            None
        }
        fn names(&self, _: &mut dyn FnMut(&TopicName)) {}
        fn version(&self) -> u64 {
            0
        }
        fn racks(&self, id: TopicId, partition: PartitionId) -> Vec<String> {
            if id.0[0] == 1 && partition.0 == 0 { vec!["b".into(), "a".into()] } else { vec![] }
        }
        fn here(&self) -> BrokerId {
            BrokerId(1)
        }
    }

    /// The numbers come from the hash library that Kafka 4.3 uses, fed as Kafka feeds it.
    #[test]
    fn it_is_kafkas_hash() {
        let hash = |names: &[&str]| TopicHashes::default().group_hash(names.iter().copied(), &Two);
        assert_eq!(topic_hash(&Two.by_name("foo").unwrap(), &Two), 1_950_788_303_161_797_516);
        assert_eq!(topic_hash(&Two.by_name("zoo").unwrap(), &Two), 3_093_713_410_109_240_707);
        assert_eq!(hash(&["foo", "missing", "zoo"]), -451_614_467_175_997_140);
        assert_eq!(hash(&["foo"]), -1_091_711_671_177_235_300);
        assert_eq!(hash(&["missing"]), 0);
    }
}
