//! Offsets that were committed inside transactions: they count when their transaction is committed (KIP-447).
//!
//! Until then they are writes in flight: with `require_stable` nothing is told of their partitions. A later write of
//! the same offset takes their place, one outside of transactions at once, one of another transaction when that
//! commits: the log holds it after them, and compaction leaves it alone.

use std::collections::BTreeMap;

use ottla_model::ProducerId;

use super::{Committed, OffsetStore};
use crate::record::{OffsetKey, OffsetValue, Record};
use crate::request::{CommitOffsets, CommitPartition};

/// What an offset of a transaction that runs takes besides its texts: key, value, and their places in the maps.
const OPEN_ENTRY_BYTES: usize = 384;

/// The offsets of the transactions that run. Anybody may name any producer id: what they take is counted.
#[derive(Debug, Default)]
pub(super) struct OpenTransactions {
    by_producer: BTreeMap<ProducerId, BTreeMap<OffsetKey, OpenOffset>>,
    bytes: usize,
    /// How many were written: their order is that of the log.
    written: u64,
    /// How often all of them were gone through.
    #[cfg(test)]
    searches: usize,
}

#[derive(Debug)]
struct OpenOffset {
    value: OffsetValue,
    /// Its place in the order of the log.
    number: u64,
}

impl OpenTransactions {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn bytes(key: &OffsetKey, value: &OffsetValue) -> usize {
    OPEN_ENTRY_BYTES + key.group.as_str().len() + key.topic.len() + value.metadata.len()
}

impl OffsetStore {
    /// An offset record of a transaction is replicated; it was proposed before.
    pub(crate) fn apply_in_transaction(&mut self, producer: ProducerId, record: Record) {
        let Record::Offset { key, value: Some(value) } = record else { return };
        self.transactions.bytes += bytes(&key, &value);
        self.transactions.written += 1;
        let open = OpenOffset { value, number: self.transactions.written };
        let of_producer = self.transactions.by_producer.entry(producer).or_default();
        if let Some(OpenOffset { value, .. }) = of_producer.insert(key.clone(), open) {
            self.transactions.bytes -= bytes(&key, &value);
            // Both were proposed, and one write is left.
            self.withdraw(&Record::Offset { key, value: Some(value) });
        }
    }

    /// What a commit inside a transaction adds at most.
    pub(crate) fn bytes_added_in_transaction(&self, commit: &CommitOffsets) -> usize {
        let added = |topic: &str, partition: &CommitPartition| {
            let metadata = partition.metadata.as_ref().map_or(0, String::len);
            OPEN_ENTRY_BYTES + commit.group.as_str().len() + topic.len() + metadata
        };
        commit.topics.iter().flat_map(|(topic, of)| of.iter().map(move |of| added(&topic.name, of))).sum()
    }

    /// As [`Self::apply_in_transaction`], for a record that is replayed.
    pub(crate) fn replay_in_transaction(&mut self, producer: ProducerId, record: Record) {
        if matches!(record, Record::Offset { value: Some(_), .. }) {
            self.propose(&record);
            self.apply_in_transaction(producer, record);
        }
    }

    /// The marker that ends a producer's transaction is replicated.
    pub(crate) fn end_transaction(&mut self, producer: ProducerId, is_commit: bool) {
        for (key, OpenOffset { value, number }) in self.transactions.by_producer.remove(&producer).unwrap_or_default() {
            self.transactions.bytes -= bytes(&key, &value);
            let committed = is_commit.then(|| Committed::new(&value));
            self.withdraw(&Record::Offset { key: key.clone(), value: Some(value) });
            if let Some(committed) = committed {
                self.supersede_before(&key, number);
                self.set(&key, committed);
            }
        }
    }

    /// A write outside of transactions is in the log after those that transactions made.
    pub(super) fn supersede(&mut self, key: &OffsetKey) {
        self.supersede_before(key, u64::MAX);
    }

    fn supersede_before(&mut self, key: &OffsetKey, number: u64) {
        // What they have written is in flight. Thousands of transactions may run, and mostly none has this offset.
        let of_topic = self.names.number(&key.topic).zip(self.groups.get(&key.group));
        if !of_topic.is_some_and(|(topic, offsets)| offsets.in_flight.contains_key(&(topic, key.partition))) {
            return;
        }
        #[cfg(test)]
        {
            self.transactions.searches += 1;
        }
        let mut superseded = Vec::new();
        self.transactions.by_producer.retain(|_, offsets| {
            if offsets.get(key).is_some_and(|open| open.number < number) {
                superseded.extend(offsets.remove_entry(key));
            }
            !offsets.is_empty()
        });
        for (key, OpenOffset { value, .. }) in superseded {
            self.transactions.bytes -= bytes(&key, &value);
            self.withdraw(&Record::Offset { key, value: Some(value) });
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{GroupId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicId};

    use super::*;
    use crate::request::{FetchOffsets, GroupTopic};

    fn record(partition: i32, offset: i64) -> Record {
        Record::Offset {
            key: OffsetKey { group: GroupId::new("g"), topic: "t".to_owned(), partition: PartitionId(partition) },
            value: Some(OffsetValue {
                offset: Offset(offset),
                leader_epoch: LeaderEpoch::NONE,
                metadata: String::new(),
                commit_timestamp: TimestampMs(0),
                expire_timestamp: None,
                topic_id: TopicId::ZERO,
            }),
        }
    }

    /// The offset that is told, −1 for none; none while it is not stable.
    fn fetched(store: &OffsetStore, partition: i32) -> Option<i64> {
        let topic = GroupTopic { name: "t".to_owned(), id: TopicId::ZERO };
        let fetch = |require_stable| {
            let answer = store.fetch(
                &crate::shard::testing::NoTopics,
                &FetchOffsets {
                    group: GroupId::new("g"),
                    member: None,
                    member_epoch: -1,
                    require_stable,
                    topics: Some(vec![(topic.clone(), vec![PartitionId(partition)])]),
                },
            );
            answer.topics[0].1[0].clone()
        };
        fetch(true).error.is_ok().then(|| fetch(false).offset.0)
    }

    fn in_transaction(store: &mut OffsetStore, producer: i64, record: Record) {
        store.propose(&record);
        store.apply_in_transaction(ProducerId(producer), record);
    }

    #[test]
    fn offsets_count_when_their_transaction_is_committed() {
        let mut store = OffsetStore::default();
        in_transaction(&mut store, 1, record(0, 5));
        in_transaction(&mut store, 1, record(0, 6));
        in_transaction(&mut store, 2, record(1, 7));
        assert_eq!((fetched(&store, 0), fetched(&store, 1), fetched(&store, 2)), (None, None, Some(-1)));
        store.end_transaction(ProducerId(2), false);
        assert_eq!((fetched(&store, 0), fetched(&store, 1)), (None, Some(-1)));
        store.end_transaction(ProducerId(1), true);
        assert_eq!(fetched(&store, 0), Some(6));
        store.end_transaction(ProducerId(1), true);
        assert_eq!(store.groups(), [GroupId::new("g")]);
    }

    #[test]
    fn a_later_commit_outside_of_the_transaction_stays() {
        let mut store = OffsetStore::default();
        in_transaction(&mut store, 1, record(0, 5));
        let later = record(0, 9);
        store.propose(&later);
        store.apply(&later);
        assert_eq!(fetched(&store, 0), Some(9));
        store.end_transaction(ProducerId(1), true);
        assert_eq!(fetched(&store, 0), Some(9));
    }

    /// The log is compacted by the order of the records, not of the markers: after it the next coordinator would have
    /// told another offset than this one.
    #[test]
    fn of_two_transactions_that_commit_the_later_write_stays() {
        for (first, second) in [(1, 2), (2, 1)] {
            let mut store = OffsetStore::default();
            in_transaction(&mut store, 1, record(0, 5));
            in_transaction(&mut store, 2, record(0, 9));
            store.end_transaction(ProducerId(first), true);
            store.end_transaction(ProducerId(second), true);
            assert_eq!(fetched(&store, 0), Some(9), "{first} before {second}");
        }
        // One that is aborted takes no place.
        let mut store = OffsetStore::default();
        in_transaction(&mut store, 1, record(0, 5));
        in_transaction(&mut store, 2, record(0, 9));
        store.end_transaction(ProducerId(2), false);
        assert_eq!(fetched(&store, 0), None);
        store.end_transaction(ProducerId(1), true);
        assert_eq!((fetched(&store, 0), store.transactions.bytes()), (Some(5), 0));
    }

    /// Each commit went through all transactions that ran, for each of its offsets, and so did each end of one.
    #[test]
    fn transactions_with_other_offsets_are_not_gone_through() {
        let mut store = OffsetStore::default();
        for partition in 0..10 {
            in_transaction(&mut store, partition.into(), record(partition, 5));
        }
        let outside = record(10, 5);
        store.propose(&outside);
        store.apply(&outside);
        store.end_transaction(ProducerId(0), true);
        assert_eq!((fetched(&store, 0), fetched(&store, 1), fetched(&store, 10)), (Some(5), None, Some(5)));
        assert_eq!(store.transactions.searches, 0);
        store.propose(&record(1, 6));
        store.apply(&record(1, 6));
        assert_eq!((fetched(&store, 1), store.transactions.searches), (Some(6), 1));
    }

    #[test]
    fn replay_leaves_open_transactions_open() {
        let mut store = OffsetStore::default();
        store.replay_in_transaction(ProducerId(1), record(0, 5));
        assert_eq!((fetched(&store, 0), store.groups()), (None, vec![GroupId::new("g")]));
        store.end_transaction(ProducerId(1), false);
        assert_eq!((fetched(&store, 0), store.groups()), (Some(-1), Vec::new()));
    }
}
