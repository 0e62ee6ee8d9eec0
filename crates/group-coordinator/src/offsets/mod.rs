//! What groups have committed: group → topic and partition → offset.
//!
//! Invariants: what is stored is replicated, so what OffsetFetch answers cannot be taken back; a write that is in
//! flight is known by its key, so that nothing is expired or left behind over a commit that the log already holds.
//! Size: one entry a partition of 56 bytes (and what the client's metadata takes); names of topics are kept once a
//! shard.

mod commit;
mod delete;
mod expiry;
mod fetch;
mod names;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::BTreeMap;

use ottla_model::{GroupId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicId};

use crate::record::{OffsetKey, OffsetValue, Record};
use crate::request::{CommitOffsets, CommitPartition};
use names::{TopicNames, TopicNumber};
use transactions::OpenTransactions;

/// A partition, within a group.
pub(crate) type Key = (TopicNumber, PartitionId);

/// The committed offsets of every group of a shard.
#[derive(Debug, Default)]
pub(crate) struct OffsetStore {
    names: TopicNames,
    /// No group here is without entries.
    groups: BTreeMap<GroupId, GroupOffsets>,
    /// What the committed offsets take, about.
    bytes: usize,
    transactions: OpenTransactions,
}

/// What a committed offset takes besides its metadata: the entry, and its place in the map.
const ENTRY_BYTES: usize = 128;

#[derive(Debug, Default)]
struct GroupOffsets {
    committed: BTreeMap<Key, Committed>,
    /// Writes that the log does not hold for certain. Bounded by the shard's batches in flight.
    in_flight: BTreeMap<Key, InFlightWrites>,
}

#[derive(Debug)]
struct InFlightWrites {
    count: u32,
    /// Of the last of them; zero for a tombstone.
    topic_id: TopicId,
}

#[derive(Debug)]
struct Committed {
    offset: Offset,
    commit_timestamp: TimestampMs,
    leader_epoch: LeaderEpoch,
    topic_id: TopicId,
    /// What few commits have.
    rare: Option<Box<Rare>>,
}

#[derive(Debug)]
struct Rare {
    metadata: Box<str>,
    expire_timestamp: Option<TimestampMs>,
}

impl Committed {
    fn new(value: &OffsetValue) -> Self {
        let rare = (!value.metadata.is_empty() || value.expire_timestamp.is_some()).then(|| {
            Box::new(Rare { metadata: value.metadata.as_str().into(), expire_timestamp: value.expire_timestamp })
        });
        Self {
            offset: value.offset,
            commit_timestamp: value.commit_timestamp,
            leader_epoch: value.leader_epoch,
            topic_id: value.topic_id,
            rare,
        }
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.rare.as_deref().map_or(0, |rare| rare.metadata.len())
    }

    fn metadata(&self) -> &str {
        self.rare.as_deref().map_or("", |rare| &rare.metadata)
    }

    fn expire_timestamp(&self) -> Option<TimestampMs> {
        self.rare.as_deref().and_then(|rare| rare.expire_timestamp)
    }
}

/// The ids are known on both sides and differ: the offset was committed for another topic of the same name.
fn is_another_topic(stored: TopicId, asked: TopicId) -> bool {
    !stored.is_zero() && !asked.is_zero() && stored != asked
}

impl OffsetStore {
    /// Takes in an offset record that is replicated: one that is replayed, or one that was proposed before.
    pub(crate) fn apply(&mut self, record: &Record) {
        let Record::Offset { key, value } = record else { return };
        self.withdraw(record);
        self.supersede(key);
        match value {
            Some(value) => self.set(key, Committed::new(value)),
            None => self.remove(key),
        }
    }

    /// An offset record is on its way to the log.
    pub(crate) fn propose(&mut self, record: &Record) {
        let Record::Offset { key, value } = record else { return };
        let topic = self.names.hold(&key.topic);
        let offsets = self.groups.entry(key.group.clone()).or_default();
        let topic_id = value.as_ref().map_or(TopicId::ZERO, |value| value.topic_id);
        let writes = offsets.in_flight.entry((topic, key.partition)).or_insert(InFlightWrites { count: 0, topic_id });
        writes.count = writes.count.saturating_add(1);
        writes.topic_id = topic_id;
    }

    /// A proposed record is in flight no longer.
    pub(crate) fn withdraw(&mut self, record: &Record) {
        let Record::Offset { key, .. } = record else { return };
        let Some(topic) = self.names.number(&key.topic) else { return };
        let Some(offsets) = self.groups.get_mut(&key.group) else { return };
        let at = (topic, key.partition);
        let Some(writes) = offsets.in_flight.get_mut(&at) else { return };
        writes.count = writes.count.saturating_sub(1);
        if writes.count == 0 {
            offsets.in_flight.remove(&at);
        }
        self.names.release(topic);
        self.forget_if_empty(&key.group);
    }

    /// The groups that have committed anything, transactions that run included.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().cloned().collect()
    }

    /// Every committed offset, in the order of groups.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GroupId, &str, PartitionId, Offset)> {
        self.groups.iter().flat_map(move |(group, offsets)| {
            let entry = move |(&(topic, partition), committed): (&Key, &Committed)| {
                (group, self.names.name(topic), partition, committed.offset)
            };
            offsets.committed.iter().map(entry)
        })
    }

    fn set(&mut self, key: &OffsetKey, committed: Committed) {
        let topic = self.names.hold(&key.topic);
        let at = (topic, key.partition);
        self.bytes += committed.bytes();
        let replaced = match self.groups.get_mut(&key.group) {
            Some(offsets) => offsets.committed.insert(at, committed),
            None => {
                let offsets = GroupOffsets { committed: BTreeMap::from([(at, committed)]), ..GroupOffsets::default() };
                self.groups.insert(key.group.clone(), offsets);
                None
            }
        };
        if let Some(replaced) = replaced {
            self.bytes -= replaced.bytes();
            self.names.release(topic);
        }
    }

    /// What the offsets of all groups take, about, those of transactions that run included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.transactions.bytes()
    }

    /// What a commit adds: partitions that have no offset yet, and metadata that is longer than before.
    pub(crate) fn bytes_added_by(&self, commit: &CommitOffsets) -> usize {
        let offsets = self.groups.get(&commit.group);
        let added = |topic: &str, partition: &CommitPartition| {
            let key = self.names.number(topic).map(|number| (number, partition.partition));
            let former = key.zip(offsets).and_then(|(key, offsets)| offsets.committed.get(&key));
            let metadata = partition.metadata.as_ref().map_or(0, String::len);
            (ENTRY_BYTES + metadata).saturating_sub(former.map_or(0, Committed::bytes))
        };
        let partitions = commit.topics.iter().flat_map(|(topic, of)| of.iter().map(move |of| added(&topic.name, of)));
        partitions.sum()
    }

    fn remove(&mut self, key: &OffsetKey) {
        let Some(topic) = self.names.number(&key.topic) else { return };
        let Some(offsets) = self.groups.get_mut(&key.group) else { return };
        if let Some(removed) = offsets.committed.remove(&(topic, key.partition)) {
            self.bytes -= removed.bytes();
            self.names.release(topic);
            self.forget_if_empty(&key.group);
        }
    }

    fn forget_if_empty(&mut self, group: &GroupId) {
        if let Some(offsets) = self.groups.get(group)
            && offsets.committed.is_empty()
            && offsets.in_flight.is_empty()
        {
            self.groups.remove(group);
        }
    }

    fn tombstone(&self, group: &GroupId, (topic, partition): Key) -> Record {
        let topic = self.names.name(topic).to_owned();
        Record::Offset { key: OffsetKey { group: group.clone(), topic, partition }, value: None }
    }
}
